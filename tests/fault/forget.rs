//! The power goes at every step of forget and mark, every call of the backend fails in turn, and both run into each other.

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use icecore::id::SnapshotId;
use icecore::store::backend::{Backend, ObjectKind};
use icecore::store::format::mark::MarkKind;
use icecore::store::repo::Repository;

use crate::crash::{after_the_cut, count_steps, simulated};
use crate::faults::{assert_clear, fates};
use crate::hook::{Call, Fate, Hooked};
use crate::memory::{Memory, Objects};
use crate::proof::{self, FAULTS, ORDERS};
use crate::support::{forget, protect, try_forget, try_mark};
use crate::world::{Known, World, check_clean, copy_tree, in_parallel, seed, states, verify};

/// Four snapshots: the first has a tag, the second is protected. The first and the third are to go.
struct Template {
    world: World,
    ids: Vec<SnapshotId>,
}

impl Template {
    fn new(encrypted: bool) -> Self {
        let mut world = World::new(encrypted);
        let ids: Vec<SnapshotId> =
            states().iter().take(4).zip(0..).map(|(state, time)| world.back_up(&world.open("cache"), state, time)).collect();
        let repo = world.open("cache");
        try_mark(&repo, &ids[0], MarkKind::Tag, "x").unwrap();
        protect(&repo, &ids[1]);
        Template { world, ids }
    }

    fn going(&self) -> [SnapshotId; 2] {
        [self.ids[0], self.ids[2]]
    }

    /// Everything is there, or went as it should; the same again finishes; then everything else works.
    fn check(&self, here: &World, repo: &Repository, finished: bool) {
        let staying: Known =
            here.known.iter().filter(|(id, _)| !self.going().contains(*id)).map(|(id, state)| (*id, state.clone())).collect();
        let may_be: Vec<&[u8]> = self.going().iter().map(|id| here.known[id].as_slice()).collect();
        let listed = verify(repo, &staying, &may_be);
        for id in self.going() {
            assert!(here.known.get(&id) == listed.get(&id) || !listed.contains_key(&id));
            assert!(!(finished && listed.contains_key(&id)), "{id} is listed");
            assert!(
                listed.contains_key(&id) || repo.read_forgotten(&id).unwrap().is_some_and(|record| record.decided),
                "{id} is neither listed nor forgotten"
            );
        }
        check_clean(repo);
        forget(repo, &self.going(), false);
        let mut known = verify(repo, &staying, &[]);
        assert_eq!(repo.list_marks().unwrap().keys().copied().collect::<Vec<_>>(), [self.ids[1]], "marks go with their snapshots");
        let refreshed = repo.refresh().unwrap();
        assert!(refreshed.marks[&self.ids[1]].protection().is_some());
        assert_eq!(repo.list_forgotten().unwrap().records.len(), 2);
        known.insert(here.try_back_up(repo, "db", &states()[4], 20).unwrap(), states()[4].clone());
        verify(repo, &known, &[]);
        check_clean(repo);
    }
}

/// Runs an operation with the power going at every step; `check` gets a repository, opened anew, and whether the operation was done.
fn crash_in(
    template: &Template,
    name: &str,
    operation: impl Fn(&Repository) -> icecore::Result<()> + Sync,
    check: impl Fn(&World, &Repository, bool) + Sync,
) {
    let run = |step: u64| {
        let world = template.world.copy();
        let (disk, backend) = simulated(&world);
        let repo = world.open_on(backend, "cache").unwrap();
        disk.power_off_at(step);
        let result = operation(&repo);
        drop(repo);
        (world, disk, result)
    };
    let (_, disk, result) = run(u64::MAX);
    result.unwrap();
    let steps = proof::some_of((0..=disk.ops() + 1).collect(), 3, seed());
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
                check(&here, &here.open(cache), result.is_ok());
            }
        });
    });
    count_steps(name, steps.len());
}

#[test]
fn the_power_goes_in_forget() {
    for encrypted in [true, false] {
        let template = Template::new(encrypted);
        let operation = |repo: &Repository| try_forget(repo, &template.going(), false).map(drop);
        crash_in(&template, "forget", operation, |here, repo, done| template.check(here, repo, done));
    }
}

#[test]
fn the_power_goes_in_mark() {
    let template = Template::new(true);
    let id = template.ids[2];
    let operation = |repo: &Repository| try_mark(repo, &id, MarkKind::Protect, "").map(drop);
    crash_in(&template, "mark", operation, |here, repo, done| {
        let refreshed = repo.refresh().unwrap();
        assert!(refreshed.damage.is_empty(), "{:?}", refreshed.damage);
        let is_protected = refreshed.marks.get(&id).is_some_and(|marks| marks.protection().is_some());
        assert!(is_protected || !done, "a protection that was promised is gone");
        verify(repo, &here.known, &[]);
        check_clean(repo);
        protect(repo, &id);
        assert!(forget(repo, &[id], true).forgotten.is_empty());
    });
}

/// What can happen at a call of forget or mark. A listing that misses a mark breaks the contract on which a protection stands.
fn every_fate(call: Call) -> Vec<Fate> {
    let mut fates = fates(call);
    fates.retain(|fate| *fate != Fate::Missing || call != Call::List(ObjectKind::Mark));
    fates
}

fn every_call_fails_once(
    name: &str,
    template: &Template,
    operation: impl Fn(&Repository) -> icecore::Result<()> + Sync,
    check: impl Fn(&World, &Repository, bool) + Sync,
) {
    let objects: Objects = Memory::load(&*template.world.local());
    let open = |world: &World, backend: Arc<dyn Backend>, cache: &str| crate::support::open_backend(backend, world.path(cache), 1);
    let mut cases = Vec::new();
    for cache in ["cache", "new cache"] {
        let calls = Arc::new(Mutex::new(Vec::new()));
        let noted = calls.clone();
        let hooked = Hooked::new(Memory::new(objects.clone()), move |_, call| {
            noted.lock().unwrap().push(call);
            Fate::Proceed
        });
        let here = template.world.copy();
        operation(&open(&here, Arc::new(hooked), cache).unwrap()).unwrap();
        let calls = calls.lock().unwrap();
        let fates = calls.iter().enumerate().flat_map(|(number, call)| every_fate(*call).into_iter().map(move |fate| (number, fate)));
        cases.extend(fates.map(|(number, fate)| (number, fate, cache)));
    }
    let cases = proof::some_of(cases, 5, seed());
    let failed = AtomicUsize::new(0);
    in_parallel(&cases, |(call, fate, cache)| {
        let (here, memory, call, fate) = (template.world.copy(), Memory::new(objects.clone()), *call, *fate);
        let hooked = Hooked::new(memory.clone(), move |number, _| if number == call { fate } else { Fate::Proceed });
        let result = open(&here, Arc::new(hooked), cache).and_then(|repo| operation(&repo));
        if let Err(error) = &result {
            failed.fetch_add(1, Ordering::Relaxed);
            assert_clear(error);
        }
        // A listing or a read that lies may hide a snapshot from the operation: it is left as it was, then.
        let told =
            result.is_ok() && !matches!(fate, Fate::Missing | Fate::Short | Fate::Fail(ErrorKind::NotFound | ErrorKind::UnexpectedEof));
        check(&here, &here.open_on(memory, cache).unwrap(), told);
    });
    println!("{name}: {} failing or lying calls, {} of them told", cases.len(), failed.load(Ordering::Relaxed));
    proof::count(name, &[(FAULTS, cases.len())]);
}

#[test]
fn every_call_of_forget_fails() {
    let template = Template::new(true);
    let operation = |repo: &Repository| try_forget(repo, &template.going(), false).map(drop);
    every_call_fails_once("forget", &template, operation, |here, repo, done| template.check(here, repo, done));
}

#[test]
fn every_call_of_mark_fails() {
    let template = Template::new(true);
    let id = template.ids[2];
    let operation = |repo: &Repository| try_mark(repo, &id, MarkKind::Protect, "").map(drop);
    every_call_fails_once("mark", &template, operation, |here, repo, done| {
        let refreshed = repo.refresh().unwrap();
        assert!(refreshed.damage.is_empty(), "{:?}", refreshed.damage);
        assert!(!done || refreshed.marks[&id].protection().is_some());
        verify(repo, &here.known, &[]);
    });
}

/// Somebody protects a snapshot before each call of a forget: it is spared, or who protects it is told that it goes.
#[test]
fn forget_and_protect_meet() {
    let template = Template::new(false);
    let objects = Memory::load(&*template.world.local());
    let id = template.ids[2];
    let outcomes = Mutex::new(BTreeSet::new());
    let run = |at: usize| {
        let (here, memory) = (template.world.copy(), Memory::new(objects.clone()));
        let other = Arc::new(crate::support::open_backend(memory.clone(), here.path("other cache"), 1).unwrap());
        let told = Arc::new(Mutex::new(None));
        let (in_hook, calls) = (told.clone(), Arc::new(AtomicUsize::new(0)));
        let counted = calls.clone();
        let hooked = Hooked::new(memory.clone(), move |number, _| {
            counted.fetch_add(1, Ordering::Relaxed);
            if number == at {
                *in_hook.lock().unwrap() = Some(try_mark(&other, &id, MarkKind::Protect, ""));
            }
            Fate::Proceed
        });
        let repo = crate::support::open_backend(Arc::new(hooked), here.path("cache"), 1).unwrap();
        try_forget(&repo, &[id], false).unwrap();
        let stays = crate::support::record_key(&*memory, &id).is_some();
        let told = told.lock().unwrap().take();
        match told {
            Some(Ok(marked)) => {
                assert!(stays || marked.is_being_forgotten, "call {at}: protected, and gone without a word");
                outcomes.lock().unwrap().insert((stays, marked.is_being_forgotten));
            }
            Some(Err(error)) => assert!(!stays && matches!(error, icecore::Error::NotFound { .. }), "call {at}: {error}"),
            None => assert!(!stays),
        }
        calls.load(Ordering::Relaxed)
    };
    let calls = run(usize::MAX);
    for at in 0..calls {
        run(at);
    }
    proof::count("forget and protect meet", &[(ORDERS, calls)]);
    let expected = [(false, true), (true, false), (true, true)];
    assert_eq!(outcomes.into_inner().unwrap().into_iter().collect::<Vec<_>>(), expected, "every way of meeting was tried");
}

/// Somebody else forgets the same snapshot before each call of a forget. Who has seen it finds it forgotten afterwards, and not vanished.
#[test]
fn two_forgets_of_one_snapshot_meet() {
    let template = Template::new(false);
    let objects = Memory::load(&*template.world.local());
    let id = template.ids[2];
    let run = |at: usize| {
        let (here, memory) = (template.world.copy(), Memory::new(objects.clone()));
        let on = |cache: &str| crate::support::open_backend(memory.clone(), here.path(cache), 1).unwrap();
        let (witness, other) = (on("third cache"), on("other cache"));
        assert!(witness.refresh().unwrap().snapshots.iter().any(|(seen, _)| *seen == id));
        let calls = Arc::new(AtomicUsize::new(0));
        let counted = calls.clone();
        let hooked = Hooked::new(memory.clone(), move |number, _| {
            counted.fetch_add(1, Ordering::Relaxed);
            if number == at {
                try_forget(&other, &[id], false).unwrap();
            }
            Fate::Proceed
        });
        let repo = crate::support::open_backend(Arc::new(hooked), here.path("cache"), 1).unwrap();
        try_forget(&repo, &[id], false).unwrap();
        assert!(crate::support::record_key(&*memory, &id).is_none(), "call {at}");
        let seen = witness.refresh().unwrap();
        assert!(seen.damage.is_empty() && seen.vanished.is_empty(), "call {at}: {:?}", seen.damage);
        calls.load(Ordering::Relaxed)
    };
    let calls = run(usize::MAX);
    for at in 0..calls {
        run(at);
    }
    proof::count("two forgets meet", &[(ORDERS, calls)]);
}
