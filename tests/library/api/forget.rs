//! Forgetting: what stays restores, what goes leaves a record.

use std::fs;

use icecore::ops::forget::{execute, plan_by_rules};
use icecore::ops::prune::{self, PruneOptions};
use icecore::ops::retention::{Calendar, GroupBy, Keep, Reason, Rules};
use icecore::ops::select::SnapshotFilter;
use icecore::progress::Silent;
use icecore::store::backend::WriteMode;
use icecore::store::format::mark::MarkKind;
use jiff::tz::TimeZone;

use super::support::{Bed, back_up, forget, make_database, protect, record_key, step, stream, try_mark};

fn last(count: u32) -> Rules {
    let mut rules = Rules::default();
    rules.count[0] = Keep::Newest(count);
    rules
}

#[test]
fn the_rest_restores_and_the_catalog_forgets_too() {
    for encrypted in [true, false] {
        let bed = Bed::new(encrypted);
        let path = bed.path("db.sqlite");
        let db = make_database(&path, 1000);
        let repo = bed.open();
        let mut history = Vec::new();
        for n in 0..10 {
            step(&db, n);
            history.push((back_up(&repo, &path, i64::from(n)).id, fs::read(&path).unwrap()));
        }
        protect(&repo, &history[2].0);
        try_mark(&repo, &history[3].0, MarkKind::Tag, "x").unwrap();
        try_mark(&repo, &history[9].0, MarkKind::Flag, "by-user").unwrap();
        let refreshed = repo.refresh().unwrap();
        let calendar = Calendar { now_ns: 1 << 60, zone: TimeZone::UTC };
        let plan = |rules: &Rules| plan_by_rules(&refreshed, &SnapshotFilter::default(), rules, GroupBy::default(), &calendar);
        assert!(plan(&Rules::default()).is_err(), "nothing given never means everything");
        let plan = plan(&last(2)).unwrap();
        let report = execute(&repo, &plan, 77, &Silent).unwrap();
        assert!(report.spared.is_empty());
        let gone = [0, 1, 3, 4, 5, 6].map(|n| history[n].0);
        assert_eq!(report.forgotten, gone);
        let known = repo.catalog().snapshot_ids().unwrap();
        assert!(gone.iter().all(|id| !known.contains(id)) && known.len() == 4);
        for cache in ["cache", "another cache"] {
            let repo = bed.open_as("repo", cache, 2);
            let listed: Vec<_> = repo.refresh().unwrap().snapshots.into_iter().map(|(id, _)| id).collect();
            assert_eq!(listed, [2, 7, 8, 9].map(|n| history[n].0));
            for (id, bytes) in history.iter().filter(|(id, _)| listed.contains(id)) {
                assert!(stream(&repo, id, "db").unwrap() == *bytes);
            }
        }
        let left = repo.list_forgotten().unwrap();
        assert!(left.unreadable.is_empty());
        assert_eq!(left.records.len(), 6);
        let second = left.records.iter().find(|record| record.snapshot == gone[1]).unwrap();
        assert_eq!((second.parent, second.time_ns, second.forgotten_ns), (Some(gone[0]), 1_000_000_000, 77));
        assert_eq!(
            (second.source, second.label.clone()),
            (refreshed.snapshots[0].1.source.id, refreshed.snapshots[0].1.source.label.clone())
        );
        assert_eq!(repo.list_marks().unwrap().len(), 2, "the marks go with their snapshots");
        let next = back_up(&repo, &path, 50);
        assert_eq!(next.record.parent, Some(history[9].0));
    }
}

#[test]
fn by_name() {
    let bed = Bed::new(false);
    let path = bed.path("db.sqlite");
    let db = make_database(&path, 100);
    let repo = bed.open();
    let ids: Vec<_> = (0..4)
        .map(|n| {
            step(&db, n);
            back_up(&repo, &path, i64::from(n)).id
        })
        .collect();
    protect(&repo, &ids[0]);
    try_mark(&repo, &ids[3], MarkKind::Flag, "by-user").unwrap();
    let plan = icecore::ops::forget::plan_named(&repo.refresh().unwrap(), &ids, false);
    let reasons: Vec<Vec<Reason>> = plan.decisions().map(|decision| decision.reasons.clone()).collect();
    assert_eq!(reasons, [vec![Reason::Protected], vec![], vec![Reason::NewestGood], vec![]]);
    assert_eq!(forget(&repo, &ids[..1], true).forgotten, [], "no force breaks a protection");
    assert_eq!(forget(&repo, &ids[1..2], false).forgotten, ids[1..2]);
    assert_eq!(forget(&repo, &ids[1..2], false).forgotten, [], "it is gone");
    assert_eq!(forget(&repo, &ids[2..3], false).forgotten, []);
    assert_eq!(forget(&repo, &ids[2..], true).forgotten, ids[2..]);
    try_mark(&repo, &ids[0], MarkKind::Unprotect, "").unwrap();
    assert_eq!(forget(&repo, &ids[..1], true).forgotten, ids[..1]);
    assert!(repo.refresh().unwrap().snapshots.is_empty());
}

/// Things change between the plan and its execution.
#[test]
fn what_has_become_the_last_good_one_is_spared() {
    let bed = Bed::new(false);
    let path = bed.path("db.sqlite");
    drop(make_database(&path, 100));
    let repo = bed.open();
    let ids = [1, 2, 3].map(|time| back_up(&repo, &path, time).id);
    let calendar = Calendar { now_ns: 1 << 60, zone: TimeZone::UTC };
    let plan = plan_by_rules(&repo.refresh().unwrap(), &SnapshotFilter::default(), &last(1), GroupBy::default(), &calendar).unwrap();
    assert_eq!(plan.forgotten(), ids[..2]);
    try_mark(&repo, &ids[2], MarkKind::Flag, "by-user").unwrap();
    let report = execute(&repo, &plan, 0, &Silent).unwrap();
    assert_eq!(report.forgotten, ids[..1]);
    assert_eq!(
        report.spared.iter().map(|spared| (spared.id, spared.reasons.clone())).collect::<Vec<_>>(),
        [(ids[1], vec![Reason::NewestGood])]
    );
    // The record of the spared one says nothing: it counts as listed, and is forgotten another time.
    assert_eq!(repo.list_forgotten().unwrap().records.len(), 2);
    assert!(protect(&repo, &ids[1]).is_being_forgotten, "who protects it is told");
}

#[test]
fn what_stays_of_a_forgotten_snapshot_is_checked() {
    let bed = Bed::new(false);
    let path = bed.path("db.sqlite");
    drop(make_database(&path, 100));
    let repo = bed.open();
    let (first, _) = (back_up(&repo, &path, 1).id, back_up(&repo, &path, 2));
    forget(&repo, &[first], false);
    let file = bed.path("repo/forgotten").join(first.to_string());
    let whole = fs::read(&file).unwrap();
    for (at, len) in (0..whole.len()).map(|at| (at, whole.len())).chain((0..whole.len()).map(|len| (0, len))) {
        let mut bytes = whole[..len].to_vec();
        if len == whole.len() {
            bytes[at] ^= 0x10;
        }
        fs::write(&file, bytes).unwrap();
        assert!(repo.read_forgotten(&first).is_err(), "byte {at}, length {len}");
    }
    let list = repo.list_forgotten().unwrap();
    assert_eq!((list.records.len(), list.unreadable.len(), list.unreadable[0].0), (0, 1, first));
    let other = bed.path("repo/forgotten").join("ab".repeat(32));
    fs::write(&other, &whole).unwrap();
    assert!(repo.read_forgotten(&"ab".repeat(32).parse().unwrap()).is_err(), "it is that of another snapshot");
    assert!(repo.refresh().unwrap().damage.is_empty(), "who looks at snapshots does not read it");
    let check = icecore::ops::check::check(&repo, &Default::default(), &Silent).unwrap();
    assert_eq!(check.findings.iter().map(|finding| finding.code).collect::<Vec<_>>(), ["forgotten"; 2]);
}

/// A forget writes down that it has begun, then looks again, and spares a snapshot. Nobody can take its first word for the whole: the storage may hide the snapshot.
#[test]
fn what_was_begun_and_not_decided_proves_nothing() {
    let bed = Bed::new(true);
    let path = bed.path("db.sqlite");
    drop(make_database(&path, 100));
    let repo = bed.open();
    let (first, _) = (back_up(&repo, &path, 1).id, back_up(&repo, &path, 2));
    let snapshots = repo.refresh().unwrap().snapshots;
    repo.write_forgotten(&snapshots[..1], 77).unwrap();
    assert!(!repo.read_forgotten(&first).unwrap().unwrap().decided);
    let key = record_key(repo.backend(), &first).unwrap();
    let hidden = repo.backend().read(&key, None).unwrap();
    repo.backend().delete(&[key]).unwrap();
    let vanished: Vec<_> = repo.refresh().unwrap().vanished.into_iter().map(|one| one.id).collect();
    assert_eq!(vanished, [first]);
    let prune = PruneOptions { grace_ns: 0, now_ns: 1 << 60, ..PruneOptions::default() };
    assert!(prune::prune(&repo, &prune, &Silent).is_err_and(|error| error.is_damage()), "prune deletes nothing");
    repo.backend().write(&key, &[&hidden], WriteMode::CreateNew).unwrap();
    assert!(repo.refresh().unwrap().vanished.is_empty());
    forget(&repo, &[first], false);
    let decided = repo.read_forgotten(&first).unwrap().unwrap();
    assert!(decided.decided && repo.refresh().unwrap().vanished.is_empty());
    // Another forget that has begun before this one ended does not take that back.
    repo.write_forgotten(&snapshots[..1], 78).unwrap();
    assert_eq!(repo.read_forgotten(&first).unwrap(), Some(decided));
    prune::prune(&repo, &prune, &Silent).unwrap();
}
