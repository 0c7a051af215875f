//! Errors say what is wrong and what to do about it.

use rusqlite::Connection;

use super::support::{Place, Run, rows};

#[test]
fn a_misspelled_name_is_no_damage() {
    let place = Place::with_repository();
    place.database("b.db", 1);
    place.ok(["backup", "sqlite", "memory.db=a.db", "registry.db=b.db", "--source", "brain"]);
    for command in [&["dump", "latest", "memroy.db"][..], &["restore", "latest", "memroy.db=out.db"]] {
        place.run(command).failed(1, &["no stream `memroy.db`", "did you mean `memory.db`?", "this is snapshot ", " of source `brain`"]);
    }
    place.run(["dump", "latest", "x", "--source", "brain"]).failed(1, &["it has `memory.db`, `registry.db`"]);
    place.run(["dump", "latest", "x", "--source", "brian"]).failed(1, &["of source `brian`", "did you mean `brain`?"]);
    place.run(["dump", "latest", "x", "--source", "else"]).failed(1, &["the sources are `brain`"]);
    let run = place.run(["--json", "dump", "latest", "memroy.db"]);
    assert!(run.stderr.contains("\"not-found\""), "{}", run.stderr);
}

#[test]
fn addresses_are_no_directories() {
    let place = Place::new();
    for address in ["sftp:host:/backups", "s3:https://example.org/bucket", "root@host:/backups", "rest:http://host"] {
        place
            .run(["-R", address, "init"])
            .failed(2, &[address, "kept in directories", "object storage is not supported yet", &format!("./{address}")]);
    }
    for name in ["./sftp:host", "dir/a:b", "a:b"] {
        place.ok(["-R", name, "init", "--no-encryption"]);
    }
}

#[test]
fn patterns_that_match_nothing() {
    let place = Place::with_repository();
    std::fs::create_dir_all(place.path("tree/d")).unwrap();
    std::fs::write(place.path("excluded"), "*.log\n# a comment\n../e\n").unwrap();
    place.run(["backup", "files", "tree", "--exclude", "./d"]).failed(2, &["\"./d\" matches nothing", "write /NAME"]);
    place.run(["backup", "files", "tree", "--exclude-file", "excluded"]).failed(2, &["\"../e\" matches nothing"]);
}

#[test]
fn a_time_zone_that_is_not_known_is_said_where_it_matters() {
    let place = Place::with_repository();
    place.ok(["backup", "sqlite", "a.db", "--time", "2026-11-23T03:15:00Z"]);
    let run = |zone: &str, args: &[&str]| -> Run { place.command().env("TZ", zone).args(args).output().unwrap().into() };
    for zone in ["Europe/Nowhere", "Berlin", "/no/such/file"] {
        run(zone, &["dump", "@2026-11-24", "a.db"]).failed(2, &[&format!("TZ={zone}"), "tzdata"]);
        run(zone, &["backup", "sqlite", "a.db", "--time", "2026-11-24 03:15"]).failed(2, &[&format!("TZ={zone}")]);
        run(zone, &["forget", "--keep-daily", "3", "--dry-run"]).failed(2, &[&format!("TZ={zone}")]);
        // Here it does not matter.
        for args in [
            &["ls", "@2026-11-24T00:00:00Z"][..],
            &["snapshots"],
            &["forget", "--keep-last", "3", "--dry-run"],
            &["forget", "--keep-daily", "3", "--dry-run", "--time-zone", "UTC"],
        ] {
            let run = run(zone, args);
            assert_eq!(run.code, Some(0), "{args:?}: {}", run.stderr);
        }
    }
    for zone in ["", "UTC", "CET-1", "Europe/Berlin"] {
        assert_eq!(run(zone, &["ls", "@2026-11-24"]).code, Some(0), "{zone}");
    }
}

#[test]
fn a_lock_is_waited_for_as_long_as_asked() {
    let place = Place::with_repository();
    place.ok(["backup", "sqlite", "a.db"]);
    let holder = Connection::open(place.path("a.db")).unwrap();
    holder.execute_batch("BEGIN EXCLUSIVE").unwrap();
    place.run(["backup", "sqlite", "a.db", "--busy-timeout", "0"]).failed(11, &["--busy-timeout"]);
    place.run(["restore", "latest", "a.db=a.db", "--live", "--busy-timeout", "0"]).failed(11, &["--busy-timeout"]);
    place.run(["restore", "latest", "a.db=b.db", "--busy-timeout", "0"]).failed(2, &["--live"]);
    place.run(["backup", "sqlite", "a.db", "--busy-timeout", "soon"]).failed(2, &["not a time span"]);
    // With a longer one than the lock is held, it goes well.
    let waiting = place.command().args(["backup", "sqlite", "a.db", "--busy-timeout", "10m"]).spawn().unwrap();
    holder.execute_batch("COMMIT").unwrap();
    assert!(waiting.wait_with_output().unwrap().status.success());
    place.ok(["backup", "files", "a.db", "--busy-timeout", "1m"]);
}

#[test]
fn the_user_is_named_as_the_system_names_it() {
    let place = Place::with_repository();
    let run: Run = place.command().env_remove("USER").env_remove("LOGNAME").args(["backup", "sqlite", "a.db"]).output().unwrap().into();
    assert_eq!(run.code, Some(0), "{}", run.stderr);
    let named = String::from_utf8(std::process::Command::new("id").arg("-un").output().unwrap().stdout).unwrap();
    let shown = place.json(["show", "latest"]);
    assert_eq!(shown["snapshot"]["user"].as_str(), Some(named.trim()));
    assert!(place.ok(["log"]).stdout.contains(&format!("{}@", named.trim())));
}

/// As single files are mounted into containers.
#[test]
fn a_file_that_is_a_mount_point_takes_live() {
    let place = Place::with_repository();
    place.ok(["backup", "sqlite", "a.db"]);
    std::fs::write(place.path("plain.txt"), "old").unwrap();
    place.ok(["backup", "files", "plain.txt", "--source", "plain"]);
    place.database("volume.db", 7);
    place.database("mounted.db", 1);
    let in_namespace = |script: &str| -> std::process::Output {
        let mount = format!("mount --bind volume.db mounted.db && mount --bind plain.txt plain.txt && {script}");
        place.program("unshare").args(["-m", "sh", "-c", &mount]).output().unwrap()
    };
    if !place
        .program("unshare")
        .args(["-m", "sh", "-c", "mount --bind volume.db mounted.db"])
        .output()
        .is_ok_and(|done| done.status.success())
    {
        eprintln!("skipped: no mount namespace can be made here");
        return;
    }
    let icecore = env!("CARGO_BIN_EXE_icecore");
    let run: Run = in_namespace(&format!("{icecore} restore latest --source a.db a.db=mounted.db")).into();
    run.failed(1, &["is a mount point of its own", "nothing was changed", "--live"]);
    let run: Run = in_namespace(&format!("{icecore} restore latest --source plain plain.txt=plain.txt")).into();
    run.failed(1, &["is a mount point of its own", "nothing was changed"]);
    assert_eq!(rows(&place.path("volume.db")), 7);
    let run: Run = in_namespace(&format!("{icecore} restore latest --source a.db a.db=mounted.db --live")).into();
    assert_eq!(run.code, Some(0), "{}", run.stderr);
    assert_eq!(rows(&place.path("volume.db")), 100);
}
