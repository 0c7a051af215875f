//! Rescue systems: no home, nowhere to keep a catalog, a repository on a medium that can only be read; and what killed processes leave.

use std::fs::File;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, SystemTime};

use super::support::{Place, Run, rows};

type Surround = Box<dyn Fn(&mut Command) -> &mut Command>;

/// Surroundings in which no directory of catalogs can be used, also by root.
fn without_cache(place: &Place) -> Vec<(&'static str, Surround)> {
    std::fs::write(place.path("file"), "no directory").unwrap();
    let file = place.path("file");
    let below_file = file.join("home");
    vec![
        ("no variable", Box::new(|command| command.env_remove("ICECORE_CACHE_DIR").env_remove("HOME"))),
        ("the home is a file", Box::new(move |command| command.env_remove("ICECORE_CACHE_DIR").env("HOME", &file))),
        ("the home is below a file", Box::new(move |command| command.env_remove("ICECORE_CACHE_DIR").env("HOME", &below_file))),
        ("the cache cannot be made", Box::new(|command| command.env("ICECORE_CACHE_DIR", "/proc/icecore/cache"))),
        ("XDG_CACHE_HOME leads nowhere", Box::new(|command| command.env_remove("ICECORE_CACHE_DIR").env("XDG_CACHE_HOME", "/dev/null/x"))),
    ]
}

#[test]
fn everything_works_without_a_place_for_the_catalog() {
    let place = Place::with_repository();
    place.ok(["backup", "sqlite", "a.db"]);
    std::fs::create_dir(place.path("tmp")).unwrap();
    for (number, (what, surround)) in without_cache(&place).into_iter().enumerate() {
        let out = format!("out-{number}");
        let commands: [&[&str]; 9] = [
            &["snapshots"],
            &["ls", "latest"],
            &["stats"],
            &["status"],
            &["check", "--read-data"],
            &["restore", "latest", "--to", &out],
            &["dump", "latest", "a.db"],
            &["drill", "latest"],
            &["backup", "sqlite", "a.db"],
        ];
        for args in commands {
            let mut command = place.command();
            surround(&mut command);
            let output = command.args(args).env("TMPDIR", place.path("tmp")).output().unwrap();
            let stderr = String::from_utf8(output.stderr).unwrap();
            assert_eq!(output.status.code(), Some(0), "{what}: {args:?}: {stderr}");
            let warnings = stderr.lines().filter(|line| line.starts_with("warning: ")).count();
            assert_eq!(warnings, 1, "{what}: {args:?}: {stderr}");
        }
        assert_eq!(rows(&place.path(&out).join("a.db")), 100);
    }
    assert_eq!(std::fs::read_dir(place.path("tmp")).unwrap().count(), 0, "nothing is left of it");
}

#[test]
fn a_report_does_not_go_through_a_link() {
    let place = Place::with_repository();
    place.ok(["backup", "sqlite", "a.db"]);
    let victim = place.path("victim");
    for number in 0..3 {
        std::fs::write(&victim, "not to be touched").unwrap();
        // A shell that becomes the program keeps its number, so that a name made of it could be guessed.
        let script =
            format!("ln -s ../victim reports/.drill.json.$$ && exec \"$0\" drill latest --report reports/drill.json --rto {}h", number + 1);
        std::fs::create_dir_all(place.path("reports")).unwrap();
        let run: Run = place.program("/bin/sh").args(["-c", &script, env!("CARGO_BIN_EXE_icecore")]).output().unwrap().into();
        assert_eq!(run.code, Some(0), "{}", run.stderr);
        assert_eq!(std::fs::read(&victim).unwrap(), b"not to be touched");
        assert!(std::fs::symlink_metadata(place.path("reports/drill.json")).unwrap().is_file());
    }
    // A link of the report's own name is replaced.
    symlink(&victim, place.path("link.json")).unwrap();
    place.ok(["drill", "latest", "--report", "link.json"]);
    // What is no file stays what it is.
    assert!(std::process::Command::new("mkfifo").arg(place.path("pipe")).status().unwrap().success());
    std::os::unix::fs::symlink("/dev/null", place.path("null")).unwrap();
    for name in ["pipe", "null"] {
        place.run(["drill", "latest", "--report", name]).failed(1, &["not a regular file"]);
        place.run(["status", "--prometheus", name]).failed(1, &["not a regular file"]);
    }
    assert!(std::fs::symlink_metadata(place.path("null")).unwrap().is_symlink());
    assert_eq!(std::fs::read(&victim).unwrap(), b"not to be touched");
}

fn leave(path: &Path, bytes: usize, age: Duration) -> File {
    std::fs::write(path, vec![7; bytes]).unwrap();
    let file = File::options().write(true).open(path).unwrap();
    file.set_modified(SystemTime::now() - age).unwrap();
    file
}

#[test]
fn what_killed_processes_leave_is_counted_and_removed() {
    const DAYS: Duration = Duration::from_secs(3 * 86_400);
    let place = Place::with_repository();
    place.ok(["backup", "sqlite", "a.db"]);
    let repo = place.path(".icecore");
    let shard = std::fs::read_dir(repo.join("packs")).unwrap().next().unwrap().unwrap().path();
    let marks = repo.join("marks").join("ab".repeat(32));
    std::fs::create_dir_all(&marks).unwrap();
    let old = [repo.join(".tmp-1-aa"), shard.join(".tmp-1-bb"), repo.join("snapshots/.tmp-1-cc"), repo.join("log/.tmp-1-dd")];
    old.iter().for_each(|path| drop(leave(path, 1000, DAYS)));
    let young = repo.join("pending/.tmp-2-ee");
    leave(&young, 10, Duration::ZERO);
    // A writer that has stood still for days holds its lock.
    let (held_path, foreign) = (shard.join(".tmp-3-ff"), repo.join("packs/.tmp-directory"));
    let held = leave(&held_path, 100, DAYS);
    held.lock().unwrap();
    std::fs::create_dir(&foreign).unwrap();
    let stats = place.json(["stats"]);
    assert_eq!((&stats["unfinished_files"], &stats["unfinished_bytes"]), (&6.into(), &4110.into()));
    assert!(place.ok(["stats"]).stdout.contains("6 files"));
    let pruned = place.json(["prune"]);
    assert_eq!((&pruned["unfinished_files"], &pruned["unfinished_bytes"]), (&4.into(), &4000.into()));
    assert!(old.iter().all(|path| !path.exists()) && young.exists() && held_path.exists() && foreign.exists());
    assert!(!marks.exists(), "a directory of marks with nothing in it");
    drop(held);
    let pruned = place.json(["prune", "--grace", "0"]);
    assert_eq!((&pruned["unfinished_files"], &pruned["unfinished_bytes"]), (&2.into(), &110.into()));
    assert_eq!(place.json(["stats"])["unfinished_files"], 0);
    place.ok(["check", "--read-data"]);
}
