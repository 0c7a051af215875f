//! What is not well is said, stays said until it is accepted, and no rule drops the last good copy of anything.

use std::fs;

use serde_json::Value;

use super::locked::Locked;
use super::support::{Place, Run, rows};

fn ago(hours: i64) -> String {
    jiff::Timestamp::from_second(jiff::Timestamp::now().as_second() - hours * 3600).unwrap().to_string()
}

/// What a backup says of itself that is not well: exit code 3, and with `-q` these words on standard error and nothing else anywhere.
#[track_caller]
fn unwell(run: &Run, words: &[&str]) {
    run.failed(3, words);
    assert!(run.stderr.lines().all(|line| line.starts_with("warning: ")), "{}", run.stderr);
}

fn codes(snapshot: &Value) -> Vec<(&str, Option<&str>)> {
    let flags = snapshot["flags"].as_array().unwrap();
    flags.iter().map(|flag| (flag["code"].as_str().unwrap(), flag["stream"].as_str())).collect()
}

/// The story of restic#2364: locked once, and the rules took the last copy.
#[test]
fn rules_keep_the_last_good_copy_of_a_database_that_is_locked() {
    let place = Place::with_repository();
    fs::create_dir(place.path("data")).unwrap();
    place.database("data/a.db", 50);
    place.database("data/b.db", 50);
    let take = |args: &[&str]| place.run([&["backup", "files", "data"], args].concat());
    assert_eq!(take(&["--time", &ago(9)]).code, Some(0));
    let locked = Locked::new(place.program("python3"), "data/a.db".as_ref());
    for hours in [8, 7, 6] {
        assert_eq!(take(&["--time", &ago(hours)]).code, Some(3));
    }
    let run = place.run(["-q", "backup", "files", "data"]);
    unwell(&run, &["flagged incomplete: ", "data/a.db: skipped: locked", "if that is right: icecore mark ", " accept\n"]);
    let snapshots = place.snapshots();
    assert_eq!(codes(&snapshots[4]), [("incomplete", Some("a.db"))]);
    assert!(run.stderr.contains(&format!("icecore mark {} accept", &snapshots[4]["id"].as_str().unwrap()[..12])), "{}", run.stderr);
    assert_eq!(place.run(["status", "--max-age", "5h"]).code, Some(5), "flagged ones do not make it younger");
    place.run(["forget", &place.newest()]).failed(1, &["newest good state of the streams without a flag"]);
    place.run(["forget", "latest"]).failed(1, &["newest good one of its source"]);
    place.ok(["forget", "--keep-last", "1", "--prune", "--grace", "0"]);
    let left = place.snapshots();
    assert_eq!(left.iter().map(|one| &one["id"]).collect::<Vec<_>>(), [&snapshots[0]["id"], &snapshots[4]["id"]]);
    place.ok(["restore", left[0]["id"].as_str().unwrap(), "a.db=back.db"]);
    assert_eq!(rows(&place.path("back.db")), 50);
    // That is how it is now: then the rules take it.
    place.ok(["mark", &place.newest(), "accept"]);
    let run = place.run(["-q", "backup", "files", "data"]);
    assert_eq!((run.code, &run.stdout[..], &run.stderr[..]), (Some(0), "", ""), "what was accepted is not said again");
    drop(locked);
    place.ok(["forget", "--keep-last", "1", "--prune", "--grace", "0"]);
    assert_eq!(place.snapshots().len(), 1);
    assert_eq!(place.ok(["-q", "check", "--read-data"]).stdout, "");
}

#[test]
fn a_database_left_out_of_the_line_is_flagged_and_kept() {
    let place = Place::with_repository();
    place.database("b.db", 30);
    place.ok(["backup", "sqlite", "a.db", "b.db", "--source", "app"]);
    let run = place.run(["-q", "backup", "sqlite", "a.db", "--source", "app"]);
    unwell(&run, &["flagged missing: b.db is in the last good snapshot, and was not named this time"]);
    for _ in 0..3 {
        assert_eq!(place.run(["backup", "sqlite", "a.db", "--source", "app"]).code, Some(3));
    }
    place.ok(["forget", "--keep-last", "1", "--prune", "--grace", "0"]);
    assert_eq!(place.snapshots().len(), 2);
    place.ok(["restore", "latest", "b.db=back.db"]);
    // A tree that is not named any more is the same.
    for dir in ["x", "y"] {
        fs::create_dir(place.path(dir)).unwrap();
        place.database(format!("{dir}/db"), 5);
    }
    place.ok(["backup", "files", "x", "y", "--source", "trees"]);
    let run = place.run(["--json", "backup", "files", "x", "--source", "trees"]);
    assert_eq!((run.code, codes(&run.json())), (Some(3), vec![("missing", Some("y"))]));
    // And a command's stream under another name.
    place.ok(["backup", "command", "--name", "one", "--source", "words", "--", "echo", "words"]);
    let run = place.run(["--json", "backup", "command", "--name", "two", "--source", "words", "--", "echo", "words"]);
    assert_eq!((run.code, codes(&run.json())), (Some(3), vec![("missing", Some("one"))]));
}

/// Silent if well, loud if not.
#[test]
fn quiet_hides_only_what_is_well() {
    let place = Place::with_repository();
    let run = |args: &[&str]| place.run([&["-q"], args].concat());
    let silent = |args: &[&str]| {
        let run = run(args);
        assert_eq!((run.code, &run.stdout[..], &run.stderr[..]), (Some(0), "", ""), "{args:?}");
    };
    silent(&["backup", "sqlite", "a.db"]);
    silent(&["backup", "command", "--name", "words", "--", "echo", "words"]);
    unwell(&run(&["backup", "command", "--name", "words", "--", "true"]), &["words: flagged empty: "]);
    let talking = run(&["backup", "command", "--name", "loud", "--", "sh", "-c", "echo words; echo careful >&2"]);
    assert_eq!((talking.code, &talking.stdout[..], &talking.stderr[..]), (Some(0), "", "warning: the command: careful\n"));
    std::os::unix::fs::FileExt::write_all_at(&fs::File::options().write(true).open(place.path("a.db")).unwrap(), &[0xee; 64], 2 * 4096)
        .unwrap();
    let damaged = run(&["backup", "sqlite", "a.db"]);
    unwell(&damaged, &["a.db: flagged damaged: "]);
    assert_eq!(damaged.stderr.matches("flagged").count(), 1, "once: {}", damaged.stderr);
    fs::create_dir(place.path("empty")).unwrap();
    unwell(&run(&["backup", "files", "empty"]), &["flagged empty: ", "is its volume not mounted?"]);
    for args in
        [&["check"][..], &["prune"], &["forget", "--keep-last", "3"], &["mark", "latest", "--source", "loud", "tag", "x"], &["repair"]]
    {
        silent(args);
    }
    let record = place.stored("snapshots").pop().unwrap();
    let whole = fs::read(&record).unwrap();
    fs::write(&record, "damaged").unwrap();
    for args in [&["check"][..], &["scrub"], &["status"], &["repair", "--dry-run"]] {
        let run = run(args);
        assert!(run.code == Some(4) && !(run.stdout.is_empty() && run.stderr.is_empty()), "{args:?}: {:?} {}", run.code, run.stderr);
    }
    fs::write(&record, whole).unwrap();
}

/// Kind and name make a source: the rules of one do not take the snapshots of the other.
#[test]
fn one_name_for_two_kinds_is_two_sources() {
    let place = Place::with_repository();
    fs::create_dir(place.path("tree")).unwrap();
    fs::write(place.path("tree/file"), "x").unwrap();
    for hours in [5, 4, 3] {
        place.ok(["backup", "sqlite", "a.db", "--source", "v", "--time", &ago(hours)]);
        place.ok(["backup", "files", "tree", "--source", "v", "--time", &ago(hours)]);
        place.ok(["backup", "command", "--name", "c", "--source", "v", "--time", &ago(hours), "--", "echo", "words"]);
    }
    let status = place.json(["status"]);
    let mut kinds: Vec<&str> = status["sources"].as_array().unwrap().iter().map(|one| one["source"]["kind"].as_str().unwrap()).collect();
    kinds.sort();
    assert_eq!(kinds, ["command", "files", "sqlite"]);
    let plan = place.json(["forget", "--keep-last", "2"]);
    assert_eq!((&plan["kept"], &plan["forgotten"]), (&6.into(), &3.into()));
}

#[test]
fn a_named_source_is_one_history_on_all_hosts_and_a_row_for_each() {
    let place = Place::with_repository();
    for (hours, host) in [(240, "old"), (3, "new"), (2, "new"), (1, "new")] {
        place.ok(["backup", "sqlite", "a.db", "--source", "app", "--host", host, "--time", &ago(hours)]);
    }
    let run = place.run(["--json", "status", "--max-age", "26h"]);
    let document = run.json();
    let rows: Vec<(&str, &str)> = document["sources"]
        .as_array()
        .unwrap()
        .iter()
        .map(|row| (row["host"].as_str().unwrap(), row["status"].as_str().unwrap()))
        .collect();
    assert_eq!((run.code, rows, &document["status"]), (Some(5), vec![("old", "too-old"), ("new", "ok")], &"too-old".into()));
    assert_eq!(place.run(["status", "--max-age", "26h", "--host", "new"]).code, Some(0));
    let plan = place.json(["forget", "--keep-last", "1"]);
    assert_eq!((&plan["kept"], &plan["forgotten"]), (&1.into(), &3.into()));
    // Without a name the host is a part of what it is.
    place.ok(["backup", "sqlite", "a.db", "--host", "one"]);
    let other = place.json(["backup", "sqlite", "a.db", "--host", "two"]);
    assert_eq!(other["parent"], Value::Null);
}

/// If every backup of a source failed, it has no snapshot to be listed by.
#[test]
fn a_source_that_never_came_to_a_snapshot_is_listed() {
    let place = Place::with_repository();
    place.ok(["backup", "sqlite", "a.db"]);
    place.run(["backup", "sqlite", "nothing.db", "--source", "lost", "--host", "far"]).failed(1, &["nothing.db"]);
    let run = place.run(["--json", "status"]);
    let document = run.json();
    let never = &document["never_taken"][0];
    assert_eq!((run.code, &document["status"], &document["sources"][0]["status"]), (Some(5), &"no-good-snapshot".into(), &"ok".into()));
    assert_eq!(
        (&never["label"], &never["host"], &never["kind"], &never["failures"]),
        (&"lost".into(), &"far".into(), &"sqlite".into(), &1.into())
    );
    let text = place.run(["status"]).stdout;
    assert!(text.contains("lost") && text.contains("last backup failed") && text.ends_with("no-good-snapshot\n"), "{text}");
    assert_eq!(place.run(["status", "--source", "a.db"]).code, Some(0));
    assert_eq!(place.run(["status", "--source", "lost"]).code, Some(5));
    place.database("nothing.db", 1);
    place.ok(["backup", "sqlite", "nothing.db", "--source", "lost", "--host", "far"]);
    assert_eq!(place.json(["status"])["never_taken"], serde_json::json!([]));
    // One that somebody has forgotten is missed by nobody.
    place.ok(["forget", "--force", "latest", "--source", "lost"]);
    assert_eq!(place.json(["status"])["never_taken"], serde_json::json!([]));
}
