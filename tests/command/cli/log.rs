//! `log`: what is told, how it is listed, and what happens if it cannot be written or read.

use std::os::unix::fs::FileExt;

use serde_json::Value;

use super::support::Place;

fn entries(place: &Place, args: &[&str]) -> Vec<Value> {
    place.json([&["log"], args].concat())["entries"].as_array().unwrap().clone()
}

/// What was done, how it ended, and the exit code.
fn told(place: &Place) -> Vec<(String, String, u64)> {
    let word = |entry: &Value, name: &str| entry[name].as_str().unwrap().to_owned();
    entries(place, &[])
        .iter()
        .map(|entry| (word(entry, "operation"), word(entry, "outcome"), entry["exit_code"].as_u64().unwrap()))
        .collect()
}

#[test]
fn every_operation_tells_how_it_ended() {
    let place = Place::with_repository();
    place.database("b.db", 10);
    let first = place.json(["backup", "sqlite", "a.db"]);
    let id = first["snapshot"].as_str().unwrap();
    place.run(["backup", "sqlite", "nothing.db"]).failed(1, &["nothing.db"]);
    place.ok(["restore", "latest", "--to", "out"]);
    place.run(["restore", "latest", "x=y"]).failed(1, &["x"]);
    place.ok(["mark", "latest", "tag", "good"]);
    place.ok(["protect", "latest"]);
    place.ok(["backup", "sqlite", "a.db"]);
    place.ok(["forget", "--keep-last", "1", "--dry-run"]);
    place.ok(["forget", "--keep-last", "1", "--group-by", ""]);
    place.run(["forget", id]).failed(1, &["protected"]);
    place.ok(["prune", "--dry-run"]);
    place.ok(["prune", "--grace", "0"]);
    place.ok(["check", "--read-data"]);
    place.ok(["log", "note", "all is well", "--snapshot", "latest"]);
    // What only looks, and what was asked for in a wrong way, is not told.
    place.ok(["snapshots"]);
    place.run(["restore", "latest", "nothing"]).failed(2, &[]);
    let expected = [
        ("backup", "done", 0),
        ("backup", "failed", 1),
        ("restore", "done", 0),
        ("restore", "failed", 1),
        ("mark", "done", 0),
        ("mark", "done", 0),
        ("backup", "done", 0),
        ("forget", "done", 0),
        ("forget", "failed", 1),
        ("prune", "done", 0),
        ("check", "done", 0),
        ("note", "done", 0),
    ];
    assert_eq!(told(&place), expected.map(|(operation, outcome, code)| (operation.to_owned(), outcome.to_owned(), code)));
    let all = entries(&place, &[]);
    let detail = |n: usize| all[n]["detail"].as_str().unwrap();
    assert_eq!(all[0]["snapshots"], serde_json::json!([id]));
    assert!(
        detail(0).starts_with("a.db: ") && detail(1).starts_with("nothing.db: ") && detail(1).contains("no such file"),
        "{}",
        detail(1)
    );
    let into = format!("into {}", std::fs::canonicalize(place.path("out")).unwrap().display());
    assert_eq!((detail(2), detail(4), detail(5), detail(11)), (into.as_str(), "tag good", "protect", "all is well"));
    assert_eq!(all[10]["facts"]["read_data"], "all");
    assert!(all.iter().all(|entry| entry["host"] == all[0]["host"] && entry["tool"].as_str().unwrap().starts_with("icecore ")));
}

/// An export is no proof of a restore, a drill that passes is; what needs no repository is in none.
#[test]
fn exports_and_drills_are_told() {
    let place = Place::with_repository();
    let id = place.json(["backup", "sqlite", "a.db"])["snapshot"].clone();
    let verified = || place.json(["status"])["sources"][0]["last_verified"].clone();
    place.ok(["export", "latest", "out"]);
    place.run(["export", "latest~1", "out"]).failed(1, &["only 1 good snapshot"]);
    place.run(["-q", "drill", "latest", "--rto", "0"]).failed(4, &["the drill failed: rto"]);
    assert_eq!(verified(), Value::Null);
    place.ok(["restore", "--from-dir", "out", "a.db=b.db"]);
    place.ok(["drill"]);
    place.ok(["drill", "latest", "--no-mark"]);
    assert_eq!((&verified()["by"], &verified()["snapshot"]), (&"drill".into(), &id));
    place.run(["-q", "drill", "latest", "--check-sql", "c.db:SELECT 1"]).failed(4, &["sql"]);
    let expected = [
        ("backup", "done", 0),
        ("export", "done", 0),
        ("export", "failed", 1),
        ("drill", "damaged", 4),
        ("drill", "done", 0),
        ("drill", "damaged", 4),
    ];
    assert_eq!(told(&place), expected.map(|(operation, outcome, code)| (operation.to_owned(), outcome.to_owned(), code)));
    let all = entries(&place, &[]);
    assert!(all.iter().all(|entry| entry["snapshots"] == serde_json::json!([id]) || entry["outcome"] == "failed"), "{all:?}");
    let detail = |n: usize| all[n]["detail"].as_str().unwrap();
    assert!(detail(1).starts_with("to /") && detail(1).ends_with("/out") && detail(2).starts_with("latest~1: "), "{all:?}");
    assert!(detail(3).contains(": the drill failed: rto: ") && detail(4).contains(" restored in "), "{all:?}");
    std::fs::rename(place.path(".icecore"), place.path("elsewhere")).unwrap();
    place.ok(["restore", "--from-dir", "out", "a.db=c.db"]);
}

#[test]
fn a_flagged_backup_and_damage_are_told() {
    let place = Place::with_repository();
    std::fs::File::options().write(true).open(place.path("a.db")).unwrap().write_all_at(&[0xee; 64], 2 * 4096).unwrap();
    assert_eq!(place.run(["backup", "sqlite", "a.db"]).code, Some(3));
    place.run(["restore", &place.newest(), "a.db=b.db"]).failed(4, &["flagged damaged"]);
    let pack = place.stored("packs").pop().unwrap();
    std::fs::write(&pack, "nothing").unwrap();
    assert_eq!(place.run(["check"]).code, Some(4));
    let told = told(&place);
    let expected = [("backup", "incomplete", 3), ("restore", "damaged", 4), ("check", "damaged", 4)];
    assert_eq!(told, expected.map(|(operation, outcome, code)| (operation.to_owned(), outcome.to_owned(), code)));
    let all = entries(&place, &[]);
    assert!(all[0]["detail"].as_str().unwrap().contains("flagged damaged: "), "{}", all[0]);
    assert_eq!(all[2]["snapshots"], all[0]["snapshots"], "the check names what the damage touches");
}

#[test]
fn the_list_is_narrowed() {
    let place = Place::with_repository();
    let first = place.json(["backup", "sqlite", "a.db"])["snapshot"].as_str().unwrap().to_owned();
    place.database("b.db", 10);
    place.ok(["backup", "sqlite", "b.db"]);
    place.ok(["log", "note", "one\ntwo \u{1b}[2J"]);
    place.ok(["forget", &first, "--force"]);
    // Also what is forgotten by now, by the start of its id.
    let about: Vec<Value> = entries(&place, &["--snapshot", &first[..8]]);
    assert_eq!(about.iter().map(|entry| entry["operation"].as_str().unwrap()).collect::<Vec<_>>(), ["backup", "forget"]);
    assert_eq!(entries(&place, &["--snapshot", "latest"]).len(), 1);
    assert_eq!(entries(&place, &["--snapshot", "00000000"]).len(), 0);
    place.run(["log", "--snapshot", "latest~7"]).failed(1, &["only 1 good snapshot"]);
    let newest = entries(&place, &["-n", "2"]);
    assert_eq!(newest.iter().map(|entry| entry["operation"].as_str().unwrap()).collect::<Vec<_>>(), ["note", "forget"]);
    let time = newest[0]["time"].as_str().unwrap();
    assert_eq!((entries(&place, &["--since", time]).len(), entries(&place, &["--since", "1h"]).len()), (2, 4));
    assert_eq!(entries(&place, &["--since", "2200-01-01"]).len(), 0);
    for wrong in [&["log", "--since", "noon"][..], &["log", "note"], &["log", "note", ""], &["log", "-n", "1", "note", "x"]] {
        place.run(wrong).failed(2, &[]);
    }
    place.run(["log", "note", &"x".repeat(20_000)]).failed(2, &["20000 bytes"]);
    let text = place.ok(["log"]).stdout;
    assert!(text.contains("one; two \\u{1b}[2J") && text.ends_with("4 entries\n"), "{text}");
    assert_eq!(text.lines().count(), 6, "one line each: {text}");
}

/// The journal never stands in the way: where it cannot be written, everything else is done, and says so.
#[test]
fn a_journal_that_cannot_be_written_is_a_warning() {
    let place = Place::with_repository();
    std::fs::remove_dir_all(place.path(".icecore/log")).unwrap();
    std::fs::write(place.path(".icecore/log"), "no directory").unwrap();
    for args in [&["backup", "sqlite", "a.db"][..], &["restore", "latest", "--to", "out"], &["mark", "latest", "tag", "x"]] {
        let run = place.ok(args);
        assert!(run.stderr.contains("warning: the journal could not be written"), "{}", run.stderr);
    }
    let run = place.run(["--json", "backup", "sqlite", "nothing.db"]);
    assert_eq!(run.code, Some(1));
    let lines: Vec<Value> = run.stderr.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(lines[0]["warning"]["message"].as_str().unwrap().contains("journal"), "{}", run.stderr);
    assert_eq!((lines.len(), &lines[1]["error"]["exit_code"]), (2, &1.into()));
    assert_eq!(place.snapshots().len(), 1);
    // A note is nothing but its entry.
    place.run(["log", "note", "x"]).failed(1, &["log"]);
}

#[test]
fn a_damaged_entry_is_named_and_the_others_are_listed() {
    let place = Place::with_repository();
    place.ok(["backup", "sqlite", "a.db"]);
    place.ok(["log", "note", "x"]);
    let mut stored = place.stored("log");
    stored.sort();
    std::fs::write(&stored[0], "damaged").unwrap();
    let run = place.run(["--json", "log"]);
    assert_eq!(run.code, Some(4));
    assert_eq!((run.json()["entries"].as_array().unwrap().len(), run.json()["unreadable"].as_array().unwrap().len()), (1, 1));
    assert!(run.stderr.contains("journal entry"), "{}", run.stderr);
    for command in ["check", "scrub"] {
        let run = place.run(["--json", command]);
        assert_eq!((run.code, &run.json()["findings"][0]["code"]), (Some(4), &"log".into()), "{command}");
    }
    // Nothing else depends on it.
    place.ok(["restore", "latest", "--to", "out"]);
    place.ok(["backup", "sqlite", "a.db"]);
    place.ok(["prune"]);
    // A repair sets it aside.
    assert_eq!(place.run(["repair", "--dry-run"]).code, Some(4));
    let repaired = place.json(["repair"]);
    let [name] = repaired["quarantined"].as_array().unwrap().as_slice() else { panic!("{repaired}") };
    assert!(name.as_str().unwrap().starts_with("quarantined log "), "{name}");
    assert_eq!(std::fs::read(place.stored("quarantine").pop().unwrap()).unwrap(), b"damaged");
    place.ok(["check"]);
    assert_eq!(told(&place).last(), Some(&("check".to_owned(), "done".to_owned(), 0)));
}

/// A process that dies before its entry is written leaves none, and no damage.
#[test]
fn who_is_killed_tells_nothing() {
    let place = Place::with_repository();
    place.ok(["backup", "sqlite", "a.db"]);
    place.database("a.db", 200_000);
    let mut child = place.command().args(["-q", "backup", "sqlite", "a.db"]).spawn().unwrap();
    child.kill().unwrap();
    assert!(!child.wait().unwrap().success());
    assert!(told(&place).iter().all(|(_, outcome, _)| outcome == "done"));
    place.ok(["check", "--read-data"]);
    place.ok(["scrub"]);
}
