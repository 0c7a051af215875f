//! A restore does all that it can, and says what it did; no deed ends as if nothing had been changed.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::process::Stdio;

use serde_json::Value;

use super::support::{Place, Run, insert, rows};

/// A tree with a bit of everything, backed up.
fn tree() -> Place {
    let place = Place::with_repository();
    for dir in ["tree/a", "tree/m", "tree/z"] {
        fs::create_dir_all(place.path(dir)).unwrap();
    }
    fs::rename(place.path("a.db"), place.path("tree/m/used.db")).unwrap();
    place.database("tree/z/free.db", 50);
    for name in ["a/first", "a/file", "m/x", "z/last"] {
        fs::write(place.path("tree").join(name), format!("{name} as backed up")).unwrap();
    }
    fs::write(place.path("tree/z").join("n".repeat(243)), "long as backed up").unwrap();
    place.ok(["backup", "files", "tree"]);
    place
}

fn by_name<'v>(list: &'v Value, name: &str) -> &'v Value {
    list.as_array().unwrap().iter().find(|one| one["name"].as_str().unwrap().ends_with(name)).unwrap_or_else(|| panic!("{name}: {list}"))
}

#[test]
fn a_tree_in_place_is_restored_as_far_as_it_can_be() {
    let place = tree();
    // A directory where a file should be, a file where a directory should be, a database in use.
    fs::remove_file(place.path("tree/a/file")).unwrap();
    fs::create_dir(place.path("tree/a/file")).unwrap();
    let used = rusqlite::Connection::open(place.path("tree/m/used.db")).unwrap();
    used.pragma_update(None, "journal_mode", "wal").unwrap();
    insert(&used, 5);
    let long = "n".repeat(243);
    fs::write(place.path("tree/z/last"), "changed").unwrap();
    fs::write(place.path("tree/z").join(&long), "long, changed").unwrap();
    insert(&rusqlite::Connection::open(place.path("tree/z/free.db")).unwrap(), 7);

    let run = place.run(["--json", "restore", "latest", "--to", "tree"]);
    assert_eq!(run.code, Some(3), "{}", run.stderr);
    let done = run.json();
    assert_eq!((done["status"].as_str(), done["untried"].as_u64()), (Some("incomplete"), Some(0)));
    let failed = &done["failed"];
    assert_eq!(failed.as_array().unwrap().len(), 2, "{failed}");
    let busy = by_name(failed, "m/used.db");
    assert!(busy["code"] == "busy" && busy["message"].as_str().unwrap().contains("in use"), "{busy}");
    let in_the_way = by_name(failed, "a/file");
    assert!(in_the_way["code"] == "destination" && in_the_way["message"].as_str().unwrap().contains("is a directory"), "{in_the_way}");
    for line in run.stderr.lines() {
        let line: Value = serde_json::from_str(line).unwrap();
        assert!(line["warning"]["message"].as_str().unwrap().contains("was not restored"), "{line}");
    }
    let kept = |name: &str| by_name(&done["restored"], name)["kept"][0]["path"].as_str().unwrap().to_owned();
    assert_eq!(fs::read(kept("z/last")).unwrap(), b"changed");
    assert_eq!(rows(kept("z/free.db").as_ref()), 57);
    assert_eq!(fs::read(kept(&long)).unwrap(), b"long, changed");
    assert_eq!(fs::read(place.path("tree/z/last")).unwrap(), b"z/last as backed up");
    assert_eq!(fs::read(place.path("tree/z").join(&long)).unwrap(), b"long as backed up");
    assert_eq!(rows(&place.path("tree/z/free.db")), 50);
    assert_eq!(used.query_row("SELECT count(*) FROM t", [], |row| row.get::<_, i64>(0)).unwrap(), 105);
    let told = place.json(["log", "-n", "1"]);
    assert_eq!((told["entries"][0]["outcome"].as_str(), told["entries"][0]["exit_code"].as_u64()), (Some("incomplete"), Some(3)));

    // -q hides none of it.
    let quiet = place.run(["-q", "restore", "latest", "--to", "tree"]);
    assert_eq!((quiet.code, quiet.stdout.as_str()), (Some(3), ""));
    assert!(quiet.stderr.contains("m/used.db was not restored") && quiet.stderr.contains("a/file was not restored"), "{}", quiet.stderr);
    let text = place.run(["restore", "latest", "--to", "tree"]);
    assert!(
        text.stdout.ends_with("; incomplete: 2 not restored\n") && text.stdout.contains("what was there is kept as"),
        "{}",
        text.stdout
    );
}

#[test]
fn a_file_in_the_way_of_a_directory_stops_only_what_is_below_it() {
    let place = tree();
    fs::remove_dir_all(place.path("tree/m")).unwrap();
    fs::write(place.path("tree/m"), "a file").unwrap();
    let run = place.run(["--json", "restore", "latest", "--to", "tree"]);
    assert_eq!(run.code, Some(3), "{}", run.stderr);
    let done = run.json();
    let names: Vec<&str> = done["failed"].as_array().unwrap().iter().map(|one| one["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["m", "m/used.db", "m/x"]);
    assert_eq!(fs::read(place.path("tree/m")).unwrap(), b"a file");
    assert_eq!(done["restored"].as_array().unwrap().len(), 7, "{done}");
}

#[test]
fn of_several_databases_those_that_can_be_are_restored() {
    let place = Place::with_repository();
    place.database("b.db", 20);
    place.ok(["backup", "sqlite", "a.db", "b.db"]);
    insert(&rusqlite::Connection::open(place.path("b.db")).unwrap(), 3);
    let used = rusqlite::Connection::open(place.path("a.db")).unwrap();
    used.pragma_update(None, "journal_mode", "wal").unwrap();
    insert(&used, 5);
    let run = place.run(["restore", "latest", "a.db=a.db", "b.db=b.db"]);
    assert_eq!(run.code, Some(3), "{}", run.stderr);
    assert!(run.stderr.contains("a.db was not restored") && run.stderr.contains("in use"), "{}", run.stderr);
    assert!(run.stdout.contains("b.db.pre_restore."), "{}", run.stdout);
    assert_eq!(rows(&place.path("b.db")), 20);
    // None of them: nothing was changed.
    let before = fs::read(place.path("a.db")).unwrap();
    place.run(["restore", "latest", "a.db=a.db", "b.db=missing/b.db"]).failed(1, &["in use", "does not exist"]);
    assert_eq!(fs::read(place.path("a.db")).unwrap(), before);
    // A file and a directory given up for another reason.
    fs::create_dir(place.path("dir")).unwrap();
    let run = place.run(["restore", "latest", "a.db=dir", "b.db=c.db"]);
    assert_eq!((run.code, rows(&place.path("c.db"))), (Some(3), 20), "{}", run.stderr);
}

#[test]
fn a_database_that_was_damaged_is_left_out_and_the_last_good_snapshot_named() {
    let place = Place::with_repository();
    fs::create_dir(place.path("tree")).unwrap();
    fs::rename(place.path("a.db"), place.path("tree/a.db")).unwrap();
    place.database("tree/b.db", 20);
    let good = place.json(["backup", "files", "tree"])["snapshot"].as_str().unwrap().to_owned();
    File::options().write(true).open(place.path("tree/a.db")).unwrap().write_all_at(&[0xee; 64], 2 * 4096).unwrap();
    let damaged = fs::read(place.path("tree/a.db")).unwrap();
    assert_eq!(place.run(["backup", "files", "tree"]).code, Some(3));
    insert(&rusqlite::Connection::open(place.path("tree/b.db")).unwrap(), 3);
    let run = place.run(["restore", &place.newest(), "--to", "tree"]);
    assert_eq!(run.code, Some(4), "{}", run.stderr);
    for said in ["a.db was not restored", "quick_check", "--accept-damaged", "last good snapshot", &good[..8]] {
        assert!(run.stderr.contains(said), "{said}: {}", run.stderr);
    }
    assert!(!run.stderr.contains("icecore-restore-"), "{}", run.stderr);
    assert!(run.stdout.contains("b.db.pre_restore."), "{}", run.stdout);
    assert_eq!((rows(&place.path("tree/b.db")), fs::read(place.path("tree/a.db")).unwrap()), (20, damaged));
}

/// Runs it with a standard output that takes nothing.
fn full(place: &Place, args: &[&str]) -> Run {
    let full = File::options().write(true).open("/dev/full").unwrap();
    place.command().args(args).stdout(full).stderr(Stdio::piped()).output().unwrap().into()
}

#[cfg(target_os = "linux")]
#[test]
fn a_report_that_cannot_be_written_undoes_nothing() {
    let place = Place::new();
    let deed = |args: &[&str], said: &str| {
        let run = full(&place, args);
        assert_eq!(run.code, Some(3), "{args:?}: {}", run.stderr);
        assert!(run.stderr.contains("is done") && run.stderr.contains("standard output"), "{args:?}: {}", run.stderr);
        assert!(run.stderr.contains(said), "{args:?}: {said} is not in {}", run.stderr);
    };
    deed(&["init", "--no-encryption"], "repository");
    place.database("a.db", 10);
    deed(&["backup", "sqlite", "a.db"], "snapshot ");
    deed(&["--json", "backup", "sqlite", "a.db"], "\"new_chunks\"");
    assert_eq!(place.snapshots().len(), 2);
    deed(&["restore", "latest", "a.db=a.db"], "a.db.pre_restore.");
    deed(&["restore", "latest", "--to", "out"], "out/a.db");
    assert_eq!(rows(&place.path("out/a.db")), 10);
    deed(&["export", "latest", "exported"], "exported");
    deed(&["restore", "--from-dir", "exported", "a.db=b.db"], "b.db");
    assert!(place.path("exported/manifest.json").exists() && rows(&place.path("b.db")) == 10);
    deed(&["mark", "latest", "tag", "x"], "");
    deed(&["protect", "latest"], "");
    deed(&["log", "note", "text"], "noted");
    deed(&["drill", "latest"], "");
    deed(&["forget", "latest~1", "--force"], "");
    assert_eq!(place.snapshots().len(), 1);
    deed(&["prune", "--grace", "0"], "");
    deed(&["repair"], "");
    deed(&["check"], "no damage found");
    // What only looks has failed, and nothing was changed.
    assert_eq!(full(&place, &["snapshots"]).code, Some(1));
    // With -q there is nothing to write.
    assert_eq!(full(&place, &["-q", "backup", "sqlite", "a.db"]).code, Some(0));
}

#[test]
fn a_closed_standard_output_changes_no_deed() {
    let place = Place::with_repository();
    let bin = env!("CARGO_BIN_EXE_icecore");
    let closed = |args: &str| -> Run { place.program("sh").args(["-c", &format!("exec '{bin}' {args} >&-")]).output().unwrap().into() };
    for args in ["backup sqlite a.db", "restore latest a.db=b.db", "restore latest --to out", "export latest exported", "check"] {
        let run = closed(args);
        assert_eq!((run.code, run.stderr.as_str()), (Some(0), ""), "{args}");
    }
    assert_eq!((rows(&place.path("b.db")), rows(&place.path("out/a.db")), place.snapshots().len()), (100, 100, 1));
    place.ok(["check", "--read-data"]);
}

/// What was forgotten stays forgotten though the prune after it fails, and the exit code says that something was changed.
#[test]
fn a_prune_that_fails_after_a_forget() {
    let place = Place::with_repository();
    place.ok(["backup", "sqlite", "a.db"]);
    place.database("a.db", 5);
    place.ok(["backup", "sqlite", "a.db"]);
    // Only prune looks there.
    let pending = place.path(".icecore/pending");
    let _ = fs::remove_dir_all(&pending);
    fs::write(&pending, "no directory").unwrap();
    let run = place.run(["forget", "latest~1", "--force", "--prune", "--grace", "0"]);
    assert_eq!(run.code, Some(3), "{}{}", run.stdout, run.stderr);
    assert!(run.stderr.contains("error: "), "{}", run.stderr);
    fs::remove_file(&pending).unwrap();
    fs::create_dir(&pending).unwrap();
    assert_eq!(place.snapshots().len(), 1);
}
