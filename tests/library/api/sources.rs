//! The name of a snapshot record says its source to a host that has only the names. Nobody can make a snapshot vanish, or appear twice, by giving its
//! record the name of another source.

use std::collections::BTreeSet;
use std::fs;

use icecore::id::{SnapshotId, SourceId, SourceTag};
use icecore::ops::check::{CheckOptions, CheckReport, check};
use icecore::ops::prune::{PruneOptions, plan as plan_prune, prune};
use icecore::ops::repair::{RepairOptions, RepairReport, execute, plan};
use icecore::ops::stats::stats;
use icecore::progress::Silent;
use icecore::store::backend::{ObjectKey, ObjectKind, WriteMode};
use icecore::store::repo::Repository;

use super::support::{Bed, back_up, forget, make_database, sources_of, step, stream};

/// What is said of a record that does not lie where it belongs.
const TOLD: &str = "under the name of another source";
const CACHES: [&str; 2] = ["cache", "new cache"];

/// A repository with two snapshots of each of two sources.
struct Scene {
    bed: Bed,
    first: [SnapshotId; 2],
    second: [SnapshotId; 2],
    state: Vec<u8>,
}

impl Scene {
    fn new(encrypted: bool, parity_percent: u8) -> Self {
        let bed = Bed::with_parity(encrypted, parity_percent);
        let repo = bed.open();
        let back_up_twice = |name: &str, time: i64| {
            let path = bed.path(name);
            let db = make_database(&path, 50);
            let older = back_up(&repo, &path, time).id;
            step(&db, 1);
            [older, back_up(&repo, &path, time + 1).id]
        };
        let (first, second) = (back_up_twice("first", 1), back_up_twice("second", 3));
        let state = fs::read(bed.path("first")).unwrap();
        Scene { bed, first, second, state }
    }

    /// With everything that may be set: keys, parity.
    fn all() -> impl Iterator<Item = Scene> {
        [(false, 0), (true, 0), (true, 10)].into_iter().map(|(encrypted, parity)| Scene::new(encrypted, parity))
    }

    /// As the machine that made the snapshots sees it, or another one that never saw them.
    fn open(&self, cache: &str) -> Repository {
        if cache != "cache" {
            let _ = fs::remove_dir_all(self.bed.path(cache));
        }
        self.bed.open_as("repo", cache, 2)
    }

    fn source_of(&self, id: &SnapshotId) -> SourceTag {
        sources_of(self.open("cache").backend(), id)[0]
    }

    /// The newest snapshot of the first source under the name of the second one, or of this one.
    fn key(&self, source: Option<SourceTag>) -> ObjectKey {
        ObjectKey::Snapshot { source: source.unwrap_or_else(|| self.source_of(&self.second[0])), id: self.first[1] }
    }

    fn own_key(&self) -> ObjectKey {
        self.key(Some(self.source_of(&self.first[0])))
    }

    /// All four snapshots are listed, each once, and can be read; this much damage is told.
    fn is_whole(&self, repo: &Repository, damage: usize) {
        let refreshed = repo.refresh().unwrap();
        let listed: Vec<SnapshotId> = refreshed.snapshots.iter().map(|(id, _)| *id).collect();
        assert_eq!(listed, [self.first, self.second].concat());
        assert!(refreshed.vanished.is_empty());
        assert_eq!(refreshed.damage.len(), damage, "{:?}", refreshed.damage);
        assert!(stream(repo, &self.first[1], "db").unwrap() == self.state);
    }
}

fn check_all(repo: &Repository) -> CheckReport {
    check(repo, &CheckOptions::read_all(), &Silent).unwrap()
}

fn is_clean(repo: &Repository) {
    let report = check_all(repo);
    assert!(report.findings.is_empty(), "{:#?}", report.findings);
}

fn repair(repo: &Repository) -> RepairReport {
    let options = RepairOptions::default();
    let plan = plan(repo, &options, &Silent).unwrap();
    assert!(!plan.is_empty());
    let report = execute(repo, plan, &options, &Silent).unwrap();
    assert!(report.left.is_empty() && report.lost.is_empty(), "{report:?}");
    report
}

fn now() -> PruneOptions {
    PruneOptions { grace_ns: 0, now_ns: 1 << 60, host: "test".into(), unused_max_permille: 50, repack_bytes_max: None }
}

fn copy(repo: &Repository, from: &ObjectKey, to: &ObjectKey) {
    repo.backend().write(to, &[&repo.backend().read(from, None).unwrap()], WriteMode::CreateNew).unwrap();
}

#[test]
fn tags_are_read_strictly() {
    let tag = SourceTag([0, 1, 0x23, 0x45, 0x67, 0x89, 0xab, 0xff]);
    assert_eq!((tag.to_string().as_str(), "000123456789abff".parse()), ("000123456789abff", Ok(tag)));
    for text in [
        "",
        "0001234567 9abff",
        "00012345678 abff",
        "0001234567ABCDEF",
        "00012345",
        "00012345678abf",
        "00012345678abfff0",
        "+0012345678abfff",
    ] {
        assert!(text.parse::<SourceTag>().is_err(), "{text}");
    }
}

/// Who lists by prefix gets the snapshots of one source, all of them, and reads no record for it.
#[test]
fn a_prefix_gives_one_source() {
    for scene in Scene::all() {
        let names = |prefix: &str| {
            let all =
                fs::read_dir(scene.bed.path("repo/snapshots")).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
            let chosen = all.filter_map(|name| Some(name.strip_prefix(prefix)?.strip_prefix('-')?.parse().unwrap()));
            chosen.collect::<BTreeSet<SnapshotId>>()
        };
        let [first, second] = [scene.first, scene.second].map(|of| scene.source_of(&of[0]));
        assert_ne!(first, second);
        assert_eq!(names(&first.to_string()), scene.first.into());
        assert_eq!(names(&second.to_string()), scene.second.into());
    }
}

/// In an encrypted repository nobody can tell from a tag which source it stands for: another repository has another one for it.
#[test]
fn tags_are_keyed() {
    let id = SourceId([7; 32]);
    let tags = |encrypted| [0, 1].map(|_| Bed::new(encrypted).open().keys().source_tag(&id));
    let [one, other] = tags(true);
    let [plain, also_plain] = tags(false);
    assert!(one != other && one != plain && other != plain && plain == also_plain);
    assert_eq!(plain.0, blake3::hash(&id.0).as_bytes()[..8]);
    let bed = Bed::new(true);
    assert_eq!(bed.open().keys().source_tag(&id), bed.open_as("repo", "new cache", 1).keys().source_tag(&id));
}

#[test]
fn a_copy_under_another_name_is_told_and_changes_nothing() {
    for scene in Scene::all() {
        // It comes before the real one, and after it.
        for source in [None, Some(SourceTag([0; 8])), Some(SourceTag([0xff; 8]))] {
            let (own, stray) = (scene.own_key(), scene.key(source));
            let before = stats(&scene.open("cache"), &Silent).unwrap();
            copy(&scene.open("cache"), &own, &stray);
            for cache in CACHES {
                let repo = scene.open(cache);
                scene.is_whole(&repo, 1);
                assert!(repo.refresh().unwrap().damage[0].to_string().contains(TOLD));
                let report = check_all(&repo);
                assert_eq!((report.snapshots, report.findings.len(), report.touched.len()), (4, 1, 0), "{:#?}", report.findings);
                assert!(report.is_damaged() && report.findings[0].detail.contains(TOLD));
                let after = stats(&repo, &Silent).unwrap();
                assert_eq!((after.per_snapshot, after.damage.len()), (before.per_snapshot.clone(), 1));
                // Prune knows all that is needed.
                assert_eq!(prune(&repo, &now(), &Silent).unwrap().deleted, 0);
            }
            let repo = scene.open("cache");
            let report = repair(&repo);
            assert_eq!((report.healed, report.set_aside.len(), report.reissued.len()), (vec![own], 0, 0));
            assert!(repo.backend().stat(&stray).unwrap().is_none() && repo.backend().stat(&own).unwrap().is_some());
            scene.is_whole(&repo, 0);
            is_clean(&repo);
        }
    }
}

/// The record lies where no listing finds it. Commands say so and nothing is deleted, until a repair brings it back.
#[test]
fn a_record_that_was_moved_comes_back() {
    for scene in Scene::all() {
        for cache in CACHES {
            let (own, stray) = (scene.own_key(), scene.key(None));
            let repo = scene.open("cache");
            copy(&repo, &own, &stray);
            repo.backend().delete(&[own]).unwrap();
            let repo = scene.open(cache);
            let refreshed = repo.refresh().unwrap();
            assert_eq!((refreshed.snapshots.len(), refreshed.damage.len()), (3, 1), "{:?}", refreshed.damage);
            assert!(refreshed.damage[0].to_string().contains(TOLD), "{:?}", refreshed.damage);
            let report = check_all(&repo);
            assert_eq!(report.touched.iter().map(|touched| touched.snapshot).collect::<Vec<_>>(), [scene.first[1]]);
            assert!(prune(&repo, &now(), &Silent).unwrap_err().is_damage() && plan_prune(&repo, &now(), &Silent).unwrap_err().is_damage());
            assert_eq!(repair(&repo).healed, [own]);
            scene.is_whole(&repo, 0);
            is_clean(&repo);
        }
    }
}

/// A listing that has the record under another name, and denies that it is there when it is read, hides nothing from who has seen it.
#[test]
fn a_name_without_a_record_hides_nothing() {
    let scene = Scene::new(true, 0);
    let (own, stray) = (scene.own_key(), scene.key(None));
    let repo = scene.open("cache");
    scene.is_whole(&repo, 0);
    repo.backend().write(&stray, &[b"no record"], WriteMode::CreateNew).unwrap();
    repo.backend().delete(&[own]).unwrap();
    let refreshed = repo.refresh().unwrap();
    assert_eq!((refreshed.snapshots.len(), refreshed.damage.len()), (3, 1), "{:?}", refreshed.damage);
    assert!(prune(&repo, &now(), &Silent).unwrap_err().is_damage());
    // This machine knows what it said.
    let report = repair(&repo);
    assert_eq!((report.set_aside.len(), report.reissued.len(), report.reissued[0].0), (1, 1, scene.first[1]));
    let refreshed = repo.refresh().unwrap();
    assert_eq!((refreshed.snapshots.len(), refreshed.damage.len()), (4, 0), "{:?}", refreshed.damage);
    assert!(stream(&repo, &report.reissued[0].1, "db").unwrap() == scene.state);
    assert_eq!(scene.source_of(&report.reissued[0].1), scene.source_of(&scene.first[0]));
    is_clean(&repo);
}

/// Garbage under another name does not cost the snapshot its own, whole record.
#[test]
fn garbage_under_another_name_is_set_aside_alone() {
    for scene in Scene::all() {
        for (number, source) in [None, Some(SourceTag([0; 8])), Some(SourceTag([0xff; 8]))].into_iter().enumerate() {
            let stray = scene.key(source);
            let garbage = format!("no record {number}");
            scene.open("cache").backend().write(&stray, &[garbage.as_bytes()], WriteMode::CreateNew).unwrap();
            for cache in CACHES {
                scene.is_whole(&scene.open(cache), 1);
            }
            let repo = scene.open(CACHES[number % 2]);
            let report = repair(&repo);
            assert_eq!((report.healed.len(), report.set_aside.len(), report.reissued.len()), (0, 1, 0), "{report:?}");
            scene.is_whole(&repo, 0);
            is_clean(&repo);
        }
    }
}

/// The copy is whole, and what lies in the right place is not: the snapshot is made good with it, on a machine that knows nothing of it too.
#[test]
fn a_copy_heals_the_record() {
    for scene in [Scene::new(false, 0), Scene::new(true, 0)] {
        for cache in CACHES {
            let (own, stray) = (scene.own_key(), scene.key(None));
            let repo = scene.open("cache");
            copy(&repo, &own, &stray);
            repo.backend().write(&own, &[b"torn"], WriteMode::Replace).unwrap();
            let repo = scene.open(cache);
            assert_eq!(repair(&repo).healed, [own]);
            scene.is_whole(&repo, 0);
            is_clean(&repo);
        }
    }
}

/// What was forgotten does not come back by a copy: it is told, and a repair removes it.
#[test]
fn a_copy_of_what_was_forgotten_stays_forgotten() {
    let scene = Scene::new(true, 0);
    let (id, source) = (scene.first[0], scene.source_of(&scene.second[0]));
    let repo = scene.open("cache");
    let stray = ObjectKey::Snapshot { source, id };
    copy(&repo, &ObjectKey::Snapshot { source: scene.source_of(&id), id }, &stray);
    assert_eq!(forget(&repo, &[id], false).forgotten, [id]);
    for cache in CACHES {
        let refreshed = scene.open(cache).refresh().unwrap();
        assert_eq!((refreshed.snapshots.len(), refreshed.damage.len()), (3, 1), "{:?}", refreshed.damage);
    }
    repair(&repo);
    let refreshed = repo.refresh().unwrap();
    assert_eq!((refreshed.snapshots.len(), refreshed.damage.len()), (3, 0), "{:?}", refreshed.damage);
    assert_eq!(sources_of(repo.backend(), &id), []);
    is_clean(&repo);
}

/// Pending records of one writer under several names are one root, and go together.
#[test]
fn a_pending_record_under_another_name_stops_no_prune() {
    let scene = Scene::new(true, 0);
    let repo = scene.open("cache");
    let [own, other] = [scene.source_of(&scene.first[0]), scene.source_of(&scene.second[0])];
    let pending = |source| ObjectKey::Pending { source, id: scene.first[1] };
    let names = || repo.backend().names(ObjectKind::Pending).unwrap().map(Result::unwrap).collect::<BTreeSet<_>>();
    // While a writer is at work.
    let young = PruneOptions { grace_ns: i64::MAX, ..now() };
    copy(&repo, &scene.own_key(), &pending(own));
    copy(&repo, &scene.own_key(), &pending(other));
    prune(&repo, &young, &Silent).unwrap();
    assert_eq!(names(), [pending(own), pending(other)].into());
    prune(&repo, &now(), &Silent).unwrap();
    assert_eq!(names(), BTreeSet::new());
    // It has removed its own.
    copy(&repo, &scene.own_key(), &pending(other));
    prune(&repo, &now(), &Silent).unwrap();
    assert_eq!(names(), BTreeSet::new());
    scene.is_whole(&repo, 0);
    is_clean(&repo);
}
