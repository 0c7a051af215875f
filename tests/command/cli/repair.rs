//! `repair`: what it shows, what it does, how it ends.

use std::fs;
use std::path::PathBuf;

use super::support::Place;

/// The packs, the largest first.
fn packs(place: &Place) -> Vec<PathBuf> {
    let files = walkdir::WalkDir::new(place.path(".icecore/packs")).into_iter().map(Result::unwrap).filter(|at| at.file_type().is_file());
    let mut packs: Vec<PathBuf> = files.map(walkdir::DirEntry::into_path).collect();
    packs.sort_by_key(|path| std::cmp::Reverse(fs::metadata(path).unwrap().len()));
    packs
}

fn flip(path: &PathBuf, at: usize) {
    let mut bytes = fs::read(path).unwrap();
    bytes[at] ^= 1;
    fs::write(path, bytes).unwrap();
}

#[test]
fn nothing_to_mend() {
    let place = Place::without_parity();
    place.ok(["backup", "sqlite", "a.db"]);
    assert_eq!(place.ok(["repair", "--dry-run"]).stdout, "nothing to mend\n");
    let run = place.ok(["repair"]);
    assert!(run.stdout.ends_with("every snapshot can be given back whole\n"), "{}", run.stdout);
    assert!(place.ok(["repair", "--catalog"]).stdout.starts_with("the catalog was made anew from 1 pack\n"));
    assert_eq!(place.stored("quarantine").len(), 0);
}

#[test]
fn plan_then_losses_then_healed_from_the_file() {
    let place = Place::without_parity();
    place.ok(["backup", "sqlite", "a.db"]);
    flip(&packs(&place)[0], 1000);
    let before = fs::read(&packs(&place)[0]).unwrap();

    let plan = place.run(["--json", "repair", "--dry-run"]);
    assert_eq!(plan.code, Some(4), "{}", plan.stderr);
    let view: serde_json::Value = serde_json::from_str(&plan.stdout).unwrap();
    assert_eq!((view["schema"].as_u64(), view["dry_run"].as_bool()), (Some(1), Some(true)));
    assert_eq!(view["packs"].as_array().unwrap().len(), 1);
    assert!(view["missing_chunks"].as_u64().unwrap() > 0 && view["touched"].as_array().unwrap().len() == 1);
    assert!(fs::read(&packs(&place)[0]).unwrap() == before, "a dry run changes nothing");

    let lost = place.run(["repair"]);
    assert_eq!(lost.code, Some(4));
    assert!(lost.stdout.contains("1 snapshot marked as damaged") && lost.stdout.contains("lost, at least in part"), "{}", lost.stdout);
    assert_eq!(fs::read_dir(place.path(".icecore/quarantine")).unwrap().count(), 1);
    let restored = place.run(["restore", &place.newest(), "--to", "out"]);
    assert_eq!(restored.code, Some(4));
    assert!(restored.stderr.contains("stream a.db") && restored.stderr.contains("bytes are lost: 0-"), "{}", restored.stderr);
    assert!(place.ok(["snapshots"]).stdout.contains("lost"));

    fs::create_dir(place.path("copies")).unwrap();
    fs::copy(place.path("a.db"), place.path("copies/of another name")).unwrap();
    let healed = place.ok(["--json", "repair", "--from", "copies"]);
    let view: serde_json::Value = serde_json::from_str(&healed.stdout).unwrap();
    assert!(view["chunks_from_files"].as_u64().unwrap() > 0);
    assert_eq!((view["lost"].as_array().unwrap().len(), view["marked_verified"].as_array().unwrap().len()), (0, 1));
    place.ok(["restore", "latest", "--to", "out"]);
    assert!(fs::read(place.path("out/a.db")).unwrap() == fs::read(place.path("a.db")).unwrap());
    place.ok(["check", "--read-data"]);
}

#[test]
fn a_backup_says_what_it_heals() {
    let place = Place::without_parity();
    place.ok(["backup", "sqlite", "a.db"]);
    fs::remove_file(&packs(&place)[0]).unwrap();
    let run = place.ok(["--json", "backup", "sqlite", "a.db"]);
    let view: serde_json::Value = serde_json::from_str(&run.stdout).unwrap();
    assert!(view["healed_chunks"].as_u64().unwrap() > 0);
    assert!(run.stderr.contains("the repository is damaged; this backup is whole"), "{}", run.stderr);
    place.ok(["restore", "latest", "--to", "out"]);
}

#[test]
fn wrong_usage() {
    let place = Place::without_parity();
    for wrong in [&["repair", "--catalog", "--dry-run"][..], &["repair", "--from", "not-there"], &["repair", "--read-data-subset", "x"]] {
        assert_eq!(place.run(wrong).code, Some(2), "{wrong:?}");
    }
}
