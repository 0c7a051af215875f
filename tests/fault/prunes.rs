//! The power goes at every step of a prune, every call of it fails or lies in turn, listings lie, it dies at every call.

use std::io::ErrorKind;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use icecore::ops::prune::{PruneReport, prune};
use icecore::progress::Silent;
use icecore::store::backend::{Backend, ObjectKey, ObjectKind};
use icecore::store::repo::Repository;

use crate::crash::{after_the_cut, count_steps, simulated};
use crate::faults::{assert_clear, fates};
use crate::hook::{Call, Fate, Hooked};
use crate::memory::{Memory, Objects};
use crate::proof::{self, FAULTS};
use crate::pruning::{is_expected, options, prune_now};
use crate::support::{pending_key, record_key, try_forget};
use crate::world::{World, check_clean, copy_tree, in_parallel, seed, states, verify};

/// Seven snapshots; the middle ones were forgotten. Some packs go whole, some in part. There are the record of a dead writer, and the tombstone of a
/// prune that died, on a pack that is needed.
pub fn template(encrypted: bool) -> World {
    let mut world = World::new(encrypted);
    let ids: Vec<_> = (0..7).map(|n| world.back_up(&world.open("cache"), &states()[n as usize], n)).collect();
    let repo = world.open("cache");
    let gone = [ids[0], ids[1], ids[3], ids[4]];
    assert_eq!(try_forget(&repo, &gone, true).unwrap().forgotten.len(), 4);
    let needed = repo.refresh().unwrap().snapshots[0].1.packs[0].id;
    gone.iter().for_each(|id| drop(world.known.remove(id)));
    let local = world.local();
    let dead = local.read(&record_key(&*local, &ids[2]).unwrap(), None).unwrap();
    local.write(&pending_key(&*local, &ids[2]), &[&dead], icecore::store::backend::WriteMode::CreateNew).unwrap();
    local.write(&ObjectKey::Tombstone(needed), &[b"torn"], icecore::store::backend::WriteMode::CreateNew).unwrap();
    world
}

pub fn run(repo: &Repository) -> icecore::Result<PruneReport> {
    prune(repo, &options(0, 1 << 60), &Silent)
}

/// Everything listed is whole, another prune finishes, and after it nothing is left to be done, and everything works.
fn check(here: &World, backend: Arc<dyn Backend>, cache: &str) {
    let repo = here.open_on(backend.clone(), cache).unwrap();
    verify(&repo, &here.known, &[]);
    check_clean(&repo);
    run(&repo).unwrap();
    let left: Vec<ObjectKind> = Memory::load(&*backend).keys().map(ObjectKey::kind).collect();
    assert!(!left.contains(&ObjectKind::Tombstone) && !left.contains(&ObjectKind::Pending));
    let again = run(&repo).unwrap();
    assert_eq!(again, PruneReport::default(), "there was nothing left to do");
    let repo = here.open_on(backend, "one more cache").unwrap();
    let mut known = here.known.clone();
    known.insert(here.try_back_up(&repo, "db", &states()[7], 50).unwrap(), states()[7].clone());
    assert_eq!(verify(&repo, &known, &[]).len(), known.len());
    check_clean(&repo);
}

#[test]
fn the_power_goes() {
    for encrypted in [true, false] {
        let template = template(encrypted);
        let run = |step: u64| {
            let world = template.copy();
            let (disk, backend) = simulated(&world);
            let repo = world.open_on(backend, "cache").unwrap();
            disk.power_off_at(step);
            let result = run(&repo);
            drop(repo);
            (world, disk, result)
        };
        let (_, disk, result) = run(u64::MAX);
        let report = result.unwrap();
        assert!(report.deleted > 2 && report.written > 0 && report.expired == 1, "{report:?}");
        let steps = proof::some_of((0..=disk.ops() + 1).collect(), 10, seed() ^ u64::from(encrypted));
        in_parallel(&steps, |&step| {
            let (world, disk, result) = run(step);
            assert!(result.is_ok() || disk.is_off());
            after_the_cut(&world, &disk, step, |repo| {
                for cache in ["cache", "new cache"] {
                    let here = World { dir: crate::simulated::scratch(), known: world.known.clone() };
                    copy_tree(repo, &here.repo_dir());
                    if cache == "cache" {
                        copy_tree(&world.path(cache), &here.path(cache));
                    }
                    check(&here, here.local(), cache);
                }
            });
        });
        count_steps(&format!("prune, encrypted {encrypted}"), steps.len());
    }
}

fn calls_of(world: &World, objects: &Objects, cache: &str) -> Vec<Call> {
    let calls = Arc::new(Mutex::new(Vec::new()));
    let noted = calls.clone();
    let hooked = Hooked::new(Memory::new(objects.clone()), move |_, call| {
        noted.lock().unwrap().push(call);
        Fate::Proceed
    });
    prune_now(Arc::new(hooked), world.copy().path(cache)).unwrap();
    let calls = calls.lock().unwrap();
    calls.clone()
}

#[test]
fn every_call_fails_or_lies() {
    let template = template(true);
    let objects = Memory::load(&*template.local());
    let mut cases = Vec::new();
    for cache in ["cache", "new cache"] {
        for (number, call) in calls_of(&template, &objects, cache).into_iter().enumerate() {
            let dies = [None];
            let fates = fates(call).into_iter().map(Some).chain(dies);
            cases.extend(fates.map(|fate| (number, call, fate, cache)));
        }
    }
    let cases = proof::some_of(cases, 12, seed());
    let failed = AtomicUsize::new(0);
    in_parallel(&cases, |(at, _, fate, cache)| {
        let (here, memory, at, fate) = (template.copy(), Memory::new(objects.clone()), *at, *fate);
        let hooked = Hooked::new(memory.clone(), move |number, _| match fate {
            Some(fate) if number == at => fate,
            None if number >= at => Fate::Fail(ErrorKind::BrokenPipe),
            _ => Fate::Proceed,
        });
        if let Err(error) = prune_now(Arc::new(hooked), here.path(cache)) {
            failed.fetch_add(1, Ordering::Relaxed);
            assert_clear(&error);
        }
        check(&here, memory, cache);
    });
    println!("prune: {} of {} failing or lying calls and deaths were told", failed.into_inner(), cases.len());
    proof::count("prune", &[(FAULTS, cases.len())]);
}

/// Listings of one kind that miss an entry, each of them: one listing, or several that follow each other; through a catalog that knows better, and one
/// that does not.
#[test]
fn listings_lie() {
    let template = template(false);
    let objects = Memory::load(&*template.local());
    let (tried, refused) = (AtomicUsize::new(0), AtomicUsize::new(0));
    for (kind, entries) in [(ObjectKind::Snapshot, 3), (ObjectKind::Pack, 2)] {
        for cache in ["cache", "new cache"] {
            let lists = calls_of(&template, &objects, cache).iter().filter(|call| **call == Call::List(kind)).count();
            // One look before marking (the dead writer has committed its record), one before deleting, and one more for the snapshots.
            assert_eq!(lists, if kind == ObjectKind::Snapshot { 3 } else { lists });
            let spans = (0..lists).flat_map(|from| (from + 1..=lists).map(move |to| (from, to)));
            // All of them: there is no way to see that.
            let spans = spans.filter(|span| kind == ObjectKind::Pack || cache == "cache" || *span != (0, lists));
            let cases: Vec<_> = spans.flat_map(|(from, to)| (0..entries).map(move |entry| (from, to, entry))).collect();
            in_parallel(&cases, |&(from, to, entry)| {
                let (here, memory) = (template.copy(), Memory::new(objects.clone()));
                let seen = AtomicUsize::new(0);
                let hooked = Hooked::new(memory.clone(), move |_, call| {
                    let lies = call == Call::List(kind) && (from..to).contains(&seen.fetch_add(1, Ordering::Relaxed));
                    if lies { Fate::Without(entry) } else { Fate::Proceed }
                });
                tried.fetch_add(1, Ordering::Relaxed);
                if let Err(error) = prune_now(Arc::new(hooked), here.path(cache)) {
                    assert!(error.is_damage() || is_expected(&error), "{error}");
                    refused.fetch_add(1, Ordering::Relaxed);
                }
                check(&here, memory, cache);
            });
        }
    }
    println!("{} lies were refused", refused.load(Ordering::Relaxed));
    proof::count("listings lie to prune", &[(FAULTS, tried.into_inner())]);
    assert!(refused.into_inner() > 0);
}
