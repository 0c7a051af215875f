//! Pruning: what it frees, what it says, what it leaves alone.

use std::fs;

use icecore::id::{PackId, SnapshotId};
use icecore::ops::check::{CheckOptions, check};
use icecore::ops::prune::{PruneOptions, PruneReport, plan, prune};
use icecore::progress::{Monitor, Silent};
use icecore::store::backend::{ObjectKey, ObjectKind, WriteMode};
use icecore::store::repo::Repository;

use super::support::{Bed, back_up, forget, make_database, pending_key, record_key, step, stream};

fn options(grace_ns: i64, now_ns: i64) -> PruneOptions {
    PruneOptions { grace_ns, now_ns, host: "test".into(), unused_max_permille: 50, repack_bytes_max: None }
}

fn now() -> PruneOptions {
    options(0, 1 << 60)
}

fn packs(repo: &Repository) -> Vec<(ObjectKey, u64)> {
    let mut packs: Vec<_> = repo.backend().list(ObjectKind::Pack).unwrap().map(Result::unwrap).map(|info| (info.key, info.size)).collect();
    packs.sort_unstable();
    packs
}

fn bytes(repo: &Repository) -> u64 {
    packs(repo).iter().map(|(_, size)| size).sum()
}

fn is_whole(bed: &Bed, history: &[(SnapshotId, Vec<u8>)]) {
    for cache in ["cache", "a cache of its own"] {
        let repo = bed.open_as("repo", cache, 2);
        for (id, state) in history {
            assert!(stream(&repo, id, "db").unwrap() == *state);
        }
        let report = check(&repo, &CheckOptions::read_all(), &Silent).unwrap();
        assert!(report.findings.is_empty(), "{:#?}", report.findings);
    }
}

/// A history, all but the last five forgotten.
fn forgotten(bed: &Bed, len: u32) -> Vec<(SnapshotId, Vec<u8>)> {
    let path = bed.path("db.sqlite");
    let db = make_database(&path, 3000);
    let repo = bed.open();
    let mut history = Vec::new();
    for n in 0..len {
        step(&db, n);
        history.push((back_up(&repo, &path, i64::from(n)).id, fs::read(&path).unwrap()));
    }
    let stays = history.split_off(history.len() - 5);
    let gone: Vec<SnapshotId> = history.iter().map(|(id, _)| *id).collect();
    assert_eq!(forget(&repo, &gone, true).forgotten.len(), gone.len());
    stays
}

#[test]
fn it_does_what_it_planned_and_then_nothing() {
    for encrypted in [true, false] {
        let (bed, fresh) = (Bed::new(encrypted), Bed::new(encrypted));
        let history = forgotten(&bed, 40);
        let repo = bed.open();
        let before = packs(&repo);
        let planned = plan(&repo, &now(), &Silent).unwrap();
        assert_eq!(packs(&repo), before);
        assert!(repo.backend().list(ObjectKind::Tombstone).unwrap().next().is_none(), "a plan changes nothing");
        assert!(planned.repack.len() >= 16, "small packs are merged");
        let report = prune(&repo, &now(), &Silent).unwrap();
        let left: Vec<ObjectKey> = packs(&repo).into_iter().map(|(key, _)| key).collect();
        let going: Vec<ObjectKey> = planned.delete.iter().chain(&planned.repack).map(|pack| ObjectKey::Pack(pack.id)).collect();
        assert!(going.iter().all(|pack| !left.contains(pack)), "what was to go has gone");
        let gone = before.iter().filter(|(key, _)| !left.contains(key));
        assert!(planned.shorten > 0 || gone.clone().count() == going.len(), "what was to stay has gone");
        assert!(report.marked == report.deleted && report.deleted as usize >= gone.clone().count());
        assert_eq!(bytes(&repo), before.iter().map(|(_, size)| size).sum::<u64>() - report.deleted_bytes + report.written_bytes);
        assert_eq!(packs(&repo).len() as u64 + report.deleted, report.written + before.len() as u64);
        is_whole(&bed, &history);
        let after = packs(&repo);
        assert_eq!(prune(&repo, &now(), &Silent).unwrap(), PruneReport::default());
        assert_eq!(packs(&repo), after);
        let path = fresh.path("db.sqlite");
        let other = fresh.open();
        for ((_, state), time) in history.iter().zip(0..) {
            fs::write(&path, state).unwrap();
            back_up(&other, &path, time);
        }
        let (left, least) = (bytes(&repo), bytes(&other));
        println!("encrypted {encrypted}: {left} bytes are left, a fresh repository takes {least}");
        assert!(left * 10 <= least * 14, "{left} bytes are left, a fresh repository takes {least}");
    }
}

#[test]
fn a_grace_time_passes_twice() {
    let bed = Bed::new(false);
    let history = forgotten(&bed, 30);
    let repo = bed.open();
    let dead = repo.backend().read(&record_key(repo.backend(), &history[0].0).unwrap(), None).unwrap();
    let pending = pending_key(repo.backend(), &history[0].0);
    let ObjectKey::Pending { source, .. } = pending else { unreachable!() };
    repo.backend().write(&pending, &[&dead], WriteMode::CreateNew).unwrap();
    // The same record with another salt, by a writer that has not committed it.
    let mut never = dead.clone();
    never[20] ^= 1;
    let expires = SnapshotId(*blake3::hash(&never).as_bytes());
    repo.backend().write(&ObjectKey::Pending { source, id: expires }, &[&never], WriteMode::CreateNew).unwrap();
    let (grace, at) = (1_000_000_000_000, 5_000_000_000_000);
    let first = prune(&repo, &options(grace, at), &Silent).unwrap();
    assert!(first.marked > 0 && first.deleted == 0 && first.waiting == first.marked, "{first:?}");
    assert_eq!(first.expired, 1, "the one that was committed goes at once");
    is_whole(&bed, &history);
    let second = prune(&repo, &options(grace, at + grace - 1), &Silent).unwrap();
    assert_eq!(second, PruneReport { waiting: first.marked, ..PruneReport::default() });
    let third = prune(&repo, &options(grace, at + grace), &Silent).unwrap();
    assert_eq!((third.deleted, third.expired, third.written, third.waiting), (first.marked, 1, 0, 0));
    assert!(repo.backend().list(ObjectKind::Tombstone).unwrap().next().is_some());
    assert_eq!(prune(&repo, &options(grace, at + 2 * grace), &Silent).unwrap(), PruneReport::default());
    let left: Vec<ObjectKey> = repo.backend().names(ObjectKind::Tombstone).unwrap().map(Result::unwrap).collect();
    assert_eq!(left, [ObjectKey::Tombstone(PackId(*expires.as_bytes()))], "its writer may commit it at any time");
    is_whole(&bed, &history);
}

/// Everything is stored twice; of one copy a byte is wrong, and nobody knows which is the better one by its table.
#[test]
fn the_copy_that_is_whole_stays() {
    let bed = Bed::new(false);
    let path = bed.path("db.sqlite");
    drop(make_database(&path, 1000));
    let repo = bed.open();
    let id = back_up(&repo, &path, 1).id;
    // A prune that died after it had marked a pack that is needed: the next one stores what is in it once more, and dies too.
    let only = packs(&repo);
    let ObjectKey::Pack(pack) = only[0].0 else { panic!("{only:?}") };
    let whole = repo.backend().read(&only[0].0, None).unwrap();
    repo.backend().write(&ObjectKey::Tombstone(pack), &[b"torn"], WriteMode::CreateNew).unwrap();
    assert_eq!(prune(&repo, &now(), &Silent).unwrap().deleted, 1);
    repo.backend().write(&only[0].0, &[&whole], WriteMode::CreateNew).unwrap();
    let both = packs(&repo);
    assert_eq!(both.len(), 2);
    for (damaged, _) in &both {
        let here = Bed::new(false);
        fs::remove_dir_all(here.path("repo")).unwrap();
        let copied = std::process::Command::new("cp").arg("-r").arg(bed.path("repo")).arg(here.path("repo")).status().unwrap();
        assert!(copied.success());
        let repo = here.open();
        let mut bytes = repo.backend().read(damaged, None).unwrap();
        bytes[5000] ^= 1;
        repo.backend().delete(&[*damaged]).unwrap();
        repo.backend().write(damaged, &[&bytes], WriteMode::CreateNew).unwrap();
        assert!(prune(&repo, &now(), &Silent).unwrap().deleted > 0);
        is_whole(&here, &[(id, fs::read(&path).unwrap())]);
    }
}

struct Impatient;

impl Monitor for Impatient {
    fn phase(&self, _: &'static str, _: Option<u64>) {}
    fn advance(&self, _: u64) {}
    fn warn(&self, _: &str) {}
    fn cancelled(&self) -> bool {
        true
    }
}

#[test]
fn it_can_be_stopped() {
    let bed = Bed::new(false);
    let history = forgotten(&bed, 8);
    let repo = bed.open();
    let before = packs(&repo);
    assert!(matches!(prune(&repo, &now(), &Impatient), Err(icecore::Error::Cancelled)));
    assert_eq!(packs(&repo), before);
    is_whole(&bed, &history);
}

/// Prunes through another catalog move everything, again and again, while no snapshot comes or goes.
#[test]
fn a_repository_that_stays_open_finds_what_was_moved() {
    let bed = Bed::new(true);
    let path = bed.path("db.sqlite");
    drop(make_database(&path, 500));
    let (open, other) = (bed.open(), bed.open_as("repo", "another cache", 2));
    let id = back_up(&open, &path, 1).id;
    for _ in 0..4 {
        for (key, _) in packs(&other) {
            let ObjectKey::Pack(pack) = key else { continue };
            other.backend().write(&ObjectKey::Tombstone(pack), &[b"torn"], WriteMode::CreateNew).unwrap();
        }
        assert!(prune(&other, &now(), &Silent).unwrap().written > 0);
        assert!(stream(&open, &id, "db").unwrap() == fs::read(&path).unwrap());
    }
}
