//! The catalog is not fooled: repositories that are copied, exchanged or rolled back under it, and catalogs that are lost or wrong.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use icecore::fs::disk::RealDisk;
use icecore::id::SnapshotId;
use icecore::store::backend::{LocalBackend, ObjectKind};
use icecore::store::repo::{OpenOptions, Repository, Trust};

use crate::hook::{Call, Fate, Hooked};
use crate::memory::Memory;
use crate::proof;
use crate::prunes;
use crate::support::{open_backend, record_key};
use crate::world::{Known, Random, World, check_clean, copy_tree, local, seed, states, verify};

/// A repository at a place of its own, with what it must give back.
struct Place {
    dir: PathBuf,
    known: Known,
    /// What the catalog has seen at this place and is not here: nobody has forgotten it, and that is to be told until it is dropped.
    lost: BTreeSet<SnapshotId>,
}

impl Place {
    fn new(dir: PathBuf) -> Self {
        Place { dir, known: Known::new(), lost: BTreeSet::new() }
    }

    /// The catalog has seen this other one in its place.
    fn comes_after(&mut self, other: &Place, dropped: &BTreeSet<SnapshotId>) {
        let is_lost = |id: &&SnapshotId| !self.known.contains_key(id) && !dropped.contains(id);
        self.lost = other.known.keys().filter(is_lost).copied().collect();
    }

    fn open(&self, world: &World) -> Repository {
        // By its real path, as users do it: the catalog goes by that.
        let backend = LocalBackend::open(&self.dir, Arc::new(RealDisk)).unwrap();
        open_backend(Arc::new(backend), world.path("cache"), 2).unwrap()
    }

    fn back_up(&mut self, world: &World, name: &str, state: usize, time: i64) {
        let repo = self.open(world);
        let id = world.try_back_up(&repo, name, &states()[state], time).unwrap();
        self.known.insert(id, states()[state].clone());
        self.verify(world);
    }

    fn verify(&mut self, world: &World) {
        let repo = self.open(world);
        drop_lost(&repo, &std::mem::take(&mut self.lost));
        assert_eq!(verify(&repo, &self.known, &[]).len(), self.known.len());
        check_clean(&repo);
        // On another machine, too: nothing in the repository may need what only the catalog knew.
        let elsewhere = crate::simulated::scratch();
        let repo = open_backend(local(&self.dir), elsewhere.path().to_path_buf(), 1).unwrap();
        verify(&repo, &self.known, &[]);
        check_clean(&repo);
    }
}

/// Just these have vanished; nothing is deleted until they are dropped, and then they are gone for good.
fn drop_lost(repo: &Repository, lost: &BTreeSet<SnapshotId>) {
    let vanished = repo.refresh().unwrap().vanished;
    assert_eq!(vanished.iter().map(|one| one.id).collect::<BTreeSet<_>>(), *lost);
    if !lost.is_empty() {
        assert!(prunes::run(repo).unwrap_err().is_damage());
        repo.drop_vanished(&vanished, 1).unwrap();
    }
}

fn start(encrypted: bool) -> (World, Place) {
    let world = World::new(encrypted);
    let mut place = Place::new(world.repo_dir());
    place.back_up(&world, "db", 0, 1);
    place.back_up(&world, "db", 1, 2);
    (world, place)
}

#[test]
fn copied_and_diverged() {
    for encrypted in [false, true] {
        let (world, mut first) = start(encrypted);
        let mut second = Place { known: first.known.clone(), ..Place::new(world.path("copy")) };
        copy_tree(&first.dir, &second.dir);
        for time in 3..6 {
            first.back_up(&world, "db", time, 10 * time as i64);
            // Some of the same chunks, and others.
            second.back_up(&world, "db", time + (time & 1), 10 * time as i64);
        }
        first.verify(&world);
        second.verify(&world);
    }
}

/// Two copies that have diverged are swapped by name, again and again: the path, and so the catalog, stays the same.
#[test]
fn exchanged_by_rename() {
    let (world, mut here) = start(true);
    let mut there = Place { known: here.known.clone(), ..Place::new(world.path("copy")) };
    copy_tree(&here.dir, &there.dir);
    // What was dropped in the one that is here, and in the other one.
    let mut dropped = [BTreeSet::new(), BTreeSet::new()];
    for time in 2..7 {
        here.back_up(&world, "db", time, 10 * time as i64);
        let aside = world.path("aside");
        fs::rename(&here.dir, &aside).unwrap();
        fs::rename(&there.dir, &here.dir).unwrap();
        fs::rename(&aside, &there.dir).unwrap();
        std::mem::swap(&mut here.known, &mut there.known);
        dropped.swap(0, 1);
        here.comes_after(&there, &dropped[0]);
        dropped[0].extend(&here.lost);
        // The same state, which the catalog may believe to be stored: it is in the other one.
        here.back_up(&world, "db", time, 10 * time as i64 + 1);
    }
    there.verify(&world);
}

/// Another repository altogether comes to lie at the path.
#[test]
fn another_repository_at_the_same_path() {
    let (world, mut first) = start(true);
    fs::rename(&first.dir, world.path("aside")).unwrap();
    crate::world::init(&first.dir, true, None, Arc::new(RealDisk)).unwrap();
    let mut second = Place::new(first.dir.clone());
    let open = |accepted: Option<&str>| {
        let trust = Trust { accepted, ..Trust::default() };
        let passphrase = || Ok(zeroize::Zeroizing::new("correct horse".to_owned()));
        let options = OpenOptions { passphrase: &passphrase, cache_dir: world.path("cache"), threads: 2, trust };
        Repository::open(Arc::new(LocalBackend::open(&second.dir, Arc::new(RealDisk)).unwrap()), &options)
    };
    let refused = open(None).unwrap_err();
    assert!(matches!(refused, icecore::Error::Refused { .. }), "{refused}");
    let config = fs::read_to_string(second.dir.join("config")).unwrap();
    let id = config.split("\"repository\"").nth(1).unwrap().split('"').nth(1).unwrap();
    open(Some(&id[..12])).unwrap();
    second.back_up(&world, "db", 1, 5);
    fs::rename(&second.dir, world.path("second")).unwrap();
    fs::rename(world.path("aside"), &first.dir).unwrap();
    first.back_up(&world, "db", 2, 6);
}

/// The repository is put back as it was, with a catalog that knows the lost future; then chunks come that only that future had.
#[test]
fn rolled_back() {
    for encrypted in [false, true] {
        for future_is_listed in [true, false] {
            let (world, mut place) = start(encrypted);
            let old = world.path("old");
            copy_tree(&place.dir, &old);
            let known = place.known.clone();
            let mut before = Place { known: known.clone(), ..Place::new(place.dir.clone()) };
            place.back_up(&world, "db", 2, 3);
            place.back_up(&world, "other", 5, 4);
            if !future_is_listed {
                // What is lost was never committed: no snapshot that is gone tells that the repository is another one.
                let repo = place.open(&world);
                repo.refresh().unwrap();
                for id in place.known.keys().filter(|id| !known.contains_key(id)) {
                    remove_record(&place.dir, id);
                }
                assert_eq!(place.open(&world).refresh().unwrap().snapshots.len(), known.len());
            }
            fs::remove_dir_all(&place.dir).unwrap();
            fs::rename(&old, &place.dir).unwrap();
            before.comes_after(&place, &BTreeSet::new());
            place = before;
            place.back_up(&world, "db", 2, 5);
            place.back_up(&world, "third", 5, 6);
            place.back_up(&world, "db", 3, 7);
        }
    }
}

/// Takes the record of a snapshot away, as a rollback does.
fn remove_record(repo: &std::path::Path, id: &SnapshotId) {
    let backend = local(repo);
    backend.delete(&[record_key(&*backend, id).unwrap()]).unwrap();
}

/// A snapshot that is gone shows that the catalog is wrong, so nothing is begun twice.
#[test]
fn a_rollback_is_seen_at_once() {
    let mut world = World::new(true);
    let repo = world.open("cache");
    world.back_up(&repo, &states()[0], 1);
    let old = Memory::load(&*world.local());
    let lost = world.try_back_up(&repo, "db", &states()[1], 2).unwrap();
    drop(repo);
    let begun = Arc::new(AtomicUsize::new(0));
    let counted = begun.clone();
    let hooked = Hooked::new(Memory::new(old), move |_, call| {
        counted.fetch_add(usize::from(call == Call::List(ObjectKind::Snapshot)), Ordering::Relaxed);
        Fate::Proceed
    });
    let repo = open_backend(Arc::new(hooked), world.path("cache"), 1).unwrap();
    world.back_up(&repo, &states()[1], 3);
    assert_eq!(begun.load(Ordering::Relaxed), 1);
    drop_lost(&repo, &BTreeSet::from([lost]));
    verify(&repo, &world.known, &[]);
}

/// Packs of the parent exist twice, in the repository and, as the catalog believes, in one that was rolled back: bases are chosen, or
/// not, and no backup fails.
#[test]
fn rolled_back_with_copies_that_are_gone() {
    let mut random = Random(seed());
    for _ in 0..6 {
        let (world, mut place) = start(false);
        let old = world.path("old");
        copy_tree(&place.dir, &old);
        // Another host, without the catalog, stores the next state whole while this one makes deltas of it.
        let other_cache = world.path("other cache");
        let other = open_backend(local(&place.dir), other_cache.clone(), 1).unwrap();
        other.refresh().unwrap();
        let state = 2 + random.below(3);
        let lost = world.try_back_up(&other, "whole", &states()[state], 3).unwrap();
        place.open(&world).refresh().unwrap();
        remove_record(&place.dir, &lost);
        place.open(&world).refresh().unwrap();
        fs::remove_dir_all(&place.dir).unwrap();
        copy_tree(&old, &place.dir);
        place.lost.insert(lost);
        // The catalog still has the packs of what was lost; a third host stores the same state in the real repository.
        let third = open_backend(local(&place.dir), world.path("third cache"), 1).unwrap();
        let id = world.try_back_up(&third, "db", &states()[state], 4).unwrap();
        place.known.insert(id, states()[state].clone());
        place.back_up(&world, "db", state + 1, 5);
        place.back_up(&world, "db", state + 2, 6);
        fs::remove_dir_all(other_cache).unwrap();
    }
}

/// A snapshot that another process on this machine makes while this one looks has not vanished.
#[test]
fn what_is_made_during_a_look_has_not_vanished() {
    let world = Arc::new(World::new(true));
    let made = Arc::new(AtomicUsize::new(0));
    let (there, counted) = (world.clone(), made.clone());
    let hooked = Hooked::new(world.local(), move |_, call| {
        // The snapshots are listed, and not yet looked at.
        if call == Call::List(ObjectKind::Tombstone) {
            let number = counted.fetch_add(1, Ordering::Relaxed);
            there.try_back_up(&there.open("cache"), "db", &states()[number % 7], number as i64 + 2).unwrap();
            there.open("cache").refresh().unwrap();
        }
        Fate::Proceed
    });
    world.try_back_up(&world.open("cache"), "db", &states()[7], 1).unwrap();
    let repo = world.open_on(Arc::new(hooked), "cache").unwrap();
    for look in 1..=2 {
        let refreshed = repo.refresh().unwrap();
        assert!(refreshed.damage.is_empty(), "{:?}", refreshed.damage);
        check_clean(&repo);
        assert!(made.load(Ordering::Relaxed) >= 2 * look);
    }
}

/// The catalog is deleted, cut off, overwritten, or exchanged for that of another repository or an older one, before every operation.
#[test]
fn catalogs_that_are_lost_or_wrong() {
    let mut random = Random(seed());
    let (world, mut place) = start(true);
    let foreign = World::new(true);
    let mut foreign_place = Place::new(foreign.repo_dir());
    foreign_place.back_up(&foreign, "db", 4, 1);
    let catalogs = |dir: PathBuf| -> Vec<PathBuf> {
        let entries = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
        entries.filter(|path| path.extension().is_some_and(|extension| extension == "db")).collect()
    };
    let foreign_catalog = fs::read(&catalogs(foreign.path("cache"))[0]).unwrap();
    let old = fs::read(&catalogs(world.path("cache"))[0]).unwrap();
    let mut kinds = [0; 7];
    for round in 0..70 {
        let open = place.open(&world);
        for path in catalogs(world.path("cache")) {
            let bytes = fs::read(&path).unwrap();
            let kind = random.below(7);
            kinds[kind] += 1;
            match kind {
                0 => fs::remove_file(&path).unwrap(),
                1 => fs::write(&path, &bytes[..random.below(bytes.len() + 1)]).unwrap(),
                2 => fs::write(&path, b"no database at all").unwrap(),
                3 => fs::write(&path, &foreign_catalog).unwrap(),
                4 => fs::write(&path, &old).unwrap(),
                5 => fs::remove_dir_all(world.path("cache")).unwrap(),
                _ => {
                    let mut bytes = bytes;
                    for _ in 0..20 {
                        let at = random.below(bytes.len());
                        bytes[at] ^= 1 << random.below(8);
                    }
                    fs::write(&path, bytes).unwrap();
                }
            }
            if kind == 5 {
                break;
            }
        }
        // Also in the hands of a process that had it open.
        let state = round % 7;
        if round % 3 == 0 {
            let id = world.try_back_up(&open, "db", &states()[state], 100 + round as i64).unwrap();
            place.known.insert(id, states()[state].clone());
        }
        drop(open);
        match round % 3 {
            1 => place.back_up(&world, "db", state, 100 + round as i64),
            _ => place.verify(&world),
        }
    }
    proof::count("catalogs lost or wrong", &[(proof::DAMAGES, kinds.iter().sum())]);
}
