//! Records of snapshots that the storage hides for a while, and tombstones that it copies.

use std::fs;
use std::path::PathBuf;

use icecore::id::SnapshotId;
use icecore::ops::prune::{PruneOptions, prune};
use icecore::progress::Silent;

use super::bed::{Bed, back_up, forget, make_database, step};
use super::support::Place;

/// A repository with two snapshots of unlike databases; the second one's record, where it lies and where it is hidden.
fn hidden() -> (Place, String, [PathBuf; 2]) {
    let place = Place::without_parity();
    place.database("b.db", 300);
    place.ok(["backup", "sqlite", "a.db"]);
    place.ok(["backup", "sqlite", "b.db"]);
    let id = place.snapshots()[1]["id"].as_str().unwrap().to_owned();
    let record = place.record(&id);
    let away = place.path("away");
    fs::rename(&record, &away).unwrap();
    (place, id, [record, away])
}

#[test]
fn what_vanished_is_told_until_it_is_back() {
    let (place, id, [record, away]) = hidden();
    let packs = place.stored("packs").len();
    let commands: [&[&str]; 6] =
        [&["snapshots"], &["snapshots"], &["restore", "latest", "--to", "out"], &["backup", "sqlite", "a.db"], &["check"], &["status"]];
    for args in commands {
        let run = place.run(args);
        assert!((run.stderr + &run.stdout).contains("vanished"), "{args:?} says nothing of it");
        place.run(["prune", "--grace", "0s"]).failed(4, &[&id[..12], "vanished", "icecore forget"]);
    }
    assert_eq!(place.run(["snapshots"]).code, Some(4));
    assert!(place.stored("packs").len() >= packs, "nothing of it was deleted");
    fs::rename(&away, &record).unwrap();
    place.ok(["prune", "--grace", "0s"]);
    assert_eq!(place.ok(["snapshots"]).stderr, "");
    place.ok(["restore", &id, "--to", "back"]);
}

#[test]
fn what_vanished_is_dropped_by_name() {
    let (place, id, _) = hidden();
    place.run(["snapshots"]);
    place.run(["forget", &id[..4]]).failed(1, &["not found"]);
    let forgotten = place.run(["forget", &id[..12], "--dry-run"]);
    assert!(forgotten.stdout.contains("1 snapshot would be forgotten"), "{}", forgotten.stdout);
    assert_eq!(place.run(["snapshots"]).code, Some(4), "that was only a look");
    place.ok(["forget", &id[..12]]);
    assert_eq!(place.ok(["snapshots"]).stderr, "");
    place.ok(["prune", "--grace", "0s"]);
}

#[test]
fn a_machine_that_never_saw_it_learns_of_it_from_its_child() {
    let place = Place::without_parity();
    place.ok(["backup", "sqlite", "a.db"]);
    place.database("a.db", 10);
    place.ok(["backup", "sqlite", "a.db"]);
    let parent = place.snapshots()[0]["id"].as_str().unwrap().to_owned();
    fs::rename(place.record(&parent), place.path("away")).unwrap();
    let run: super::run::Run = place.command().arg("snapshots").env("ICECORE_CACHE_DIR", place.path("new")).output().unwrap().into();
    assert_eq!(run.code, Some(4));
    assert!(run.stderr.contains("vanished") && run.stderr.contains("parent") && run.stderr.contains(&parent[..12]), "{}", run.stderr);
}

const HOUR_NS: i64 = 3_600_000_000_000;

fn options(hours: i64) -> PruneOptions {
    PruneOptions { grace_ns: 10 * HOUR_NS, now_ns: hours * HOUR_NS, host: "test".into(), unused_max_permille: 50, repack_bytes_max: None }
}

/// A tombstone of one pack under the name of another one, which was not marked: that one waits for its whole grace time all the same.
fn a_copied_tombstone(encrypted: bool) {
    let bed = Bed::new(encrypted);
    let path = bed.path("db.sqlite");
    let db = make_database(&path, 500);
    let repo = bed.open();
    let mut ids: Vec<SnapshotId> = Vec::new();
    let mut packs: Vec<Vec<PathBuf>> = Vec::new();
    let all = || -> Vec<PathBuf> {
        let files = walkdir::WalkDir::new(bed.path("repo/packs")).into_iter().map(Result::unwrap);
        files.filter(|entry| entry.file_type().is_file()).map(|entry| entry.into_path()).collect()
    };
    for n in 0..3 {
        step(&db, n);
        let before = all();
        ids.push(back_up(&repo, &path, i64::from(n)).id);
        packs.push(all().into_iter().filter(|pack| !before.contains(pack)).collect());
    }
    // The last one needs bases in the others; without it nothing does.
    forget(&repo, &ids, true);
    let name = |pack: &PathBuf| bed.path("repo/tombstones").join(pack.file_name().unwrap());
    prune(&repo, &options(1), &Silent).unwrap();
    let [marked, victim] = [&packs[0][0], &packs[1][0]];
    assert!(name(marked).exists() && name(victim).exists());
    // As if the victim had been marked eleven hours later.
    fs::copy(name(victim), bed.path("late")).unwrap();
    fs::remove_file(name(victim)).unwrap();
    prune(&repo, &options(9), &Silent).unwrap();
    assert!(name(victim).exists(), "marked anew");
    fs::copy(name(marked), name(victim)).unwrap();
    prune(&repo, &options(12), &Silent).unwrap();
    assert!(!marked.exists(), "eleven hours after it was marked");
    assert!(victim.exists(), "only three hours after it was marked");
}

#[test]
fn a_copied_tombstone_says_nothing() {
    a_copied_tombstone(false);
    a_copied_tombstone(true);
}
