//! `backup files`: a directory with databases and other things in it.

use std::os::unix::fs::{PermissionsExt, symlink};

use super::support::{Place, rows};

#[test]
fn a_tree_comes_back_as_it_was() {
    let place = Place::new();
    std::fs::create_dir_all(place.path("data/sub")).unwrap();
    place.database("data/sub/a.db", 20);
    std::fs::write(place.path("data/notes.txt"), "some notes").unwrap();
    std::fs::set_permissions(place.path("data/notes.txt"), PermissionsExt::from_mode(0o640)).unwrap();
    symlink("notes.txt", place.path("data/link")).unwrap();
    place.ok(["-R", "data/.icecore", "init", "--no-encryption"]);
    let run = |args: &[&str]| place.json(["-R", "data/.icecore"].iter().chain(args));
    let done = run(&["backup", "files", "data"]);
    assert_eq!(done["skipped"], serde_json::json!([]));
    let streams = run(&["ls", "latest"])["streams"].as_array().unwrap().clone();
    let of = |name: &str| streams.iter().find(|s| s["name"] == name).unwrap_or_else(|| panic!("{name} is not in {streams:?}")).clone();
    assert_eq!((&of("notes.txt")["kind"], &of("notes.txt")["mode"]), (&"file".into(), &"0640".into()));
    assert_eq!((&of("link")["kind"], &of("link")["target"]), (&"symlink".into(), &"notes.txt".into()));
    assert_eq!(of("sub/a.db")["kind"], "sqlite");
    let own = streams.iter().filter(|s| s["name"].as_str().unwrap().starts_with(".icecore/"));
    assert_eq!(own.count(), 0, "the repository is no part of its own snapshots");
    run(&["restore", "latest", "--to", "out"]);
    assert_eq!(std::fs::read_to_string(place.path("out/link")).unwrap(), "some notes");
    assert_eq!(rows(&place.path("out/sub/a.db")), 20);
    place.run(["-R", "data/.icecore", "backup", "files", "data/.icecore"]).failed(2, &["belongs to icecore itself"]);
}

/// Databases in a tree are drilled as those that are named.
#[test]
fn what_databases_in_a_tree_hold_is_recorded() {
    let place = Place::with_repository();
    std::fs::create_dir(place.path("data")).unwrap();
    place.database("data/a.db", 20);
    std::fs::write(place.path("data/notes.txt"), "some notes").unwrap();
    let content = || -> Vec<serde_json::Value> {
        let report = place.json(["drill", "latest", "--no-mark"]);
        let checks = report["drills"][0]["checks"].as_array().unwrap().clone();
        checks.into_iter().filter(|check| check["check"] == "content").map(|check| check["outcome"].clone()).collect()
    };
    place.ok(["backup", "files", "data", "--content", "never"]);
    assert_eq!(content(), ["skipped"]);
    // Nothing has changed, and the files may be old enough for that to be known without reading them.
    place.ok(["backup", "files", "data", "--content", "always"]);
    assert_eq!(content(), ["passed"]);
    place.ok(["backup", "files", "data"]);
    assert_eq!(content(), ["passed"]);
}

#[test]
fn what_cannot_be_read_makes_it_incomplete() {
    let place = Place::with_repository();
    std::fs::create_dir(place.path("data")).unwrap();
    std::fs::write(place.path("data/good"), "x").unwrap();
    let conn = rusqlite::Connection::open(place.database("data/locked.db", 3)).unwrap();
    conn.execute_batch("BEGIN EXCLUSIVE").unwrap();
    let run = place.run(["--json", "backup", "files", "data"]);
    drop(conn);
    assert_eq!(run.code, Some(3), "{}", run.stderr);
    assert!(run.json()["skipped"][0].as_str().unwrap().contains("locked.db"), "{}", run.stdout);
    assert!(place.json(["ls", &place.newest()])["streams"].as_array().unwrap().iter().any(|s| s["name"] == "good"));
}
