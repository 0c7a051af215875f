//! "Mark, then look", the writer's half: a prune runs, or stops half-way, between any two calls of a backup.
//!
//! Always: every listed snapshot restores, or the backup failed without leaving one, and the next one works.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use icecore::id::SnapshotId;
use icecore::store::backend::{Backend, ObjectKey, ObjectKind};

use crate::hook::{Call, Fate, Hooked};
use crate::memory::{Memory, Objects};
use crate::proof::{self, ORDERS};
use crate::pruning::{Prune, prune_now};
use crate::support::{forget, try_back_up_as, try_forget};
use crate::world::{Known, Random, World, check_clean, in_parallel, seed, states, verify};

/// A step that is not taken.
const NEVER: usize = usize::MAX;

pub struct Template {
    pub world: World,
    pub objects: Objects,
    /// The parent of the next backup of `db`.
    pub parent: SnapshotId,
}

/// Two hosts stored the first states of the database at once, so that there are several copies of their chunks; then all but two
/// snapshots were forgotten, one of them with chunks (`states()[5]`) that nothing else needs. Host "cache" knows all packs, "other" most,
/// "new" none.
pub fn template() -> Template {
    let mut world = World::new(false);
    let copy = World { dir: crate::simulated::scratch(), known: Known::new() };
    let mut forgotten = Vec::new();
    let memory = Memory::new(Memory::load(&*world.local()));
    for (time, state) in states().iter().take(3).enumerate() {
        let (other, backend) = (copy.path("other"), memory.clone());
        let (path, name) = (copy.path("db"), if time == 1 { "db" } else { "db2" });
        std::fs::write(&path, state).unwrap();
        let outcome = Arc::new(Mutex::new(None));
        let told = outcome.clone();
        // The other host begins and ends while this one stands before its commit.
        let hook = move |_: usize, call: Call| {
            if matches!(call, Call::Write(ObjectKey::Pending { .. })) {
                let repo = crate::support::open_backend(Arc::new(Hooked::quiet(backend.clone())), other.clone(), 1).unwrap();
                *told.lock().unwrap() = Some(try_back_up_as(Some(name), &repo, &path, 10 + time as i64).unwrap().id);
            }
            Fate::Proceed
        };
        let repo = world.open_on(Arc::new(Hooked::new(memory.clone(), hook)), "cache").unwrap();
        world.back_up(&repo, state, time as i64);
        forgotten.push(outcome.lock().unwrap().unwrap());
    }
    crate::world::copy_tree(&copy.path("other"), &world.path("other"));
    let repo = world.open_on(memory.clone(), "cache").unwrap();
    forgotten.push(world.try_back_up(&repo, "db3", &states()[5], 3).unwrap());
    let first = *world.known.iter().find(|(_, state)| **state == states()[0]).unwrap().0;
    world.known.remove(&first);
    forgotten.push(first);
    assert_eq!(try_forget(&repo, &forgotten, true).unwrap().forgotten.len(), forgotten.len());
    let parent = *world.known.iter().find(|(_, state)| **state == states()[2]).unwrap().0;
    Template { world, objects: memory.copy(), parent }
}

/// What happens beside a backup.
#[derive(Debug, Clone)]
struct Case {
    /// At which call each step of the prune happens; [`NEVER`]: the prune died before it. Past the last call: after the backup.
    steps: [usize; 4],
    expire: bool,
    /// The parent is forgotten just before the prune marks.
    forget_parent: bool,
    state: usize,
    cache: &'static str,
}

#[derive(Default)]
struct Counts {
    failed: AtomicUsize,
    deleted: AtomicUsize,
}

impl Case {
    fn run(&self, template: &Template, counts: &Counts) {
        let here = template.world.copy();
        let memory = Memory::new(template.objects.clone());
        let prune = Arc::new(Mutex::new((Prune::new(memory.clone(), here.path("prune cache"), self.expire), 0)));
        let (case, backend, parent, pruning) = (self.clone(), memory.clone(), template.parent, prune.clone());
        let cache = here.path("forget cache");
        let until = move |call: usize| {
            let mut guard = pruning.lock().unwrap();
            let (prune, next) = &mut *guard;
            while *next < 4 && case.steps[*next] <= call && case.steps[*next] != NEVER {
                if *next == 0 && case.forget_parent {
                    forget(&crate::support::open_backend(backend.clone(), cache.clone(), 1).unwrap(), &[parent], true);
                }
                prune.step(*next);
                *next += 1;
            }
        };
        let after = until.clone();
        let hooked = Hooked::new(memory.clone(), move |call, _| {
            until(call);
            Fate::Proceed
        });
        let state = states()[self.state].as_slice();
        let result = here.open_on_hook(Arc::new(hooked), self.cache).and_then(|repo| here.try_back_up(&repo, "db", state, 30));
        after(NEVER - 1);
        prune.lock().unwrap().0.kill();
        let mut known = here.known.clone();
        if self.forget_parent {
            known.remove(&template.parent);
        }
        match result {
            Ok(id) => drop(known.insert(id, state.to_vec())),
            Err(icecore::Error::Stale { .. }) => drop(counts.failed.fetch_add(1, Ordering::Relaxed)),
            Err(error) => panic!("{error}"),
        }
        counts.deleted.fetch_add(prune.lock().unwrap().0.deleted as usize, Ordering::Relaxed);
        for cache in [self.cache, "fresh"] {
            let repo = here.open_on(memory.clone(), cache).unwrap();
            assert_eq!(verify(&repo, &known, &[]).len(), known.len());
            check_clean(&repo);
        }
        let repo = here.open_on(memory.clone(), self.cache).unwrap();
        known.insert(here.try_back_up(&repo, "db", state, 40).unwrap(), state.to_vec());
        // What a later, undisturbed prune leaves is still enough.
        prune_now(memory.clone(), here.path("later prune cache")).unwrap();
        assert_eq!(left_behind(&memory.copy()), [], "it leaves nothing behind");
        let repo = here.open_on(memory, "fresh").unwrap();
        verify(&repo, &known, &[]);
        check_clean(&repo);
    }
}

/// What a prune should have removed: all pending records, and all tombstones but those of expired records, which say so at their end, as the repository is
/// not encrypted.
pub fn left_behind(objects: &Objects) -> Vec<ObjectKey> {
    let is_left = |key: &ObjectKey, bytes: &[u8]| match key {
        ObjectKey::Pending { .. } => true,
        ObjectKey::Tombstone(id) => !bytes.ends_with(id.as_bytes()),
        _ => false,
    };
    objects.iter().filter(|(key, bytes)| is_left(key, bytes)).map(|(key, _)| *key).collect()
}

impl World {
    pub fn open_on_hook(&self, hooked: Arc<Hooked>, cache: &str) -> icecore::Result<icecore::store::repo::Repository> {
        crate::support::open_backend(hooked, self.path(cache), 1)
    }
}

/// The calls of the backup of this state when nothing is pruned.
fn calls(template: &Template, state: usize, cache: &'static str) -> BTreeMap<usize, Call> {
    let seen = Arc::new(Mutex::new(BTreeMap::new()));
    let noted = seen.clone();
    let hooked = Hooked::new(Memory::new(template.objects.clone()), move |number, call| {
        noted.lock().unwrap().insert(number, call);
        Fate::Proceed
    });
    let here = template.world.copy();
    let repo = here.open_on_hook(Arc::new(hooked), cache).unwrap();
    here.try_back_up(&repo, "db", &states()[state], 30).unwrap();
    std::mem::take(&mut *seen.lock().unwrap())
}

fn run_all(name: &str, template: &Template, cases: &[Case]) {
    let counts = Counts::default();
    in_parallel(cases, |case| case.run(template, &counts));
    let (failed, deleted) = (counts.failed.into_inner(), counts.deleted.into_inner());
    println!("{name}: {deleted} packs deleted, {failed} backups failed cleanly");
    proof::count(name, &[(ORDERS, cases.len())]);
    assert!(deleted > 0);
}

/// What is backed up: chunks that only forgotten packs hold; changes to what two hosts have stored; nothing but what the parent has.
const VARIANTS: [(usize, &str); 6] = [(5, "cache"), (5, "other"), (3, "cache"), (3, "new"), (2, "cache"), (2, "new")];

#[test]
fn a_prune_at_every_call() {
    let template = template();
    let mut cases = Vec::new();
    for (state, cache) in VARIANTS {
        let total = calls(&template, state, cache).len();
        for call in 0..=total {
            for expire in [false, true] {
                for done in 1..=4 {
                    let steps = [0, 1, 2, 3].map(|step| if step < done { call } else { NEVER });
                    cases.push(Case { steps, expire, forget_parent: false, state, cache });
                }
            }
        }
    }
    let cases = proof::some_of(cases, 14, seed());
    run_all("a prune between any two calls, whole or stopped half-way", &template, &cases);
}

#[test]
fn a_prune_spread_over_a_backup() {
    let mut random = Random(seed());
    let mut cases = Vec::new();
    let template = template();
    for (state, cache) in VARIANTS {
        let total = calls(&template, state, cache).len();
        for _ in 0..80 {
            let mut steps = [0; 4].map(|_| random.below(total + 4));
            steps.sort_unstable();
            cases.push(Case { steps, expire: random.below(2) == 0, forget_parent: random.below(4) == 0, state, cache });
        }
    }
    let cases = proof::some_of(cases, 8, seed());
    run_all("a prune with its steps anywhere", &template, &cases);
}

#[test]
fn the_parent_is_forgotten_and_pruned() {
    let template = template();
    let mut cases = Vec::new();
    for (state, cache) in VARIANTS {
        let total = calls(&template, state, cache).len();
        cases.extend((0..=total).map(|call| Case { steps: [call; 4], expire: false, forget_parent: true, state, cache }));
    }
    let cases = proof::some_of(cases, 3, seed());
    run_all("the parent forgotten and pruned", &template, &cases);
}

/// A mark on what a backup builds upon costs it the chunks in question, not another reading of the source.
#[test]
fn what_is_marked_is_copied() {
    let template = template();
    let calls = calls(&template, 5, "cache");
    let pending = calls.iter().find(|(_, call)| matches!(call, Call::Write(ObjectKey::Pending { .. }))).map(|(at, _)| *at).unwrap();
    for at in [0, pending - 1, pending, pending + 1] {
        let here = template.world.copy();
        let memory = Memory::new(template.objects.clone());
        let prune = Mutex::new(Prune::new(memory.clone(), here.path("prune cache"), false));
        let [begun, marks] = [(); 2].map(|()| Arc::new(AtomicUsize::new(0)));
        let (counted, counted_marks) = (begun.clone(), marks.clone());
        let hooked = Hooked::new(memory.clone(), move |number, call| {
            if number == at {
                prune.lock().unwrap().step(0);
            }
            counted.fetch_add(usize::from(call == Call::List(ObjectKind::Snapshot)), Ordering::Relaxed);
            counted_marks.fetch_add(usize::from(matches!(call, Call::Write(ObjectKey::Pending { .. }))), Ordering::Relaxed);
            Fate::Proceed
        });
        let repo = here.open_on_hook(Arc::new(hooked), "cache").unwrap();
        let id = here.try_back_up(&repo, "db", &states()[5], 30).unwrap();
        assert_eq!(begun.load(Ordering::Relaxed), 1, "it was begun once");
        assert_eq!(marks.load(Ordering::Relaxed), if at == 0 { 1 } else { 2 }, "marks seen at the start count from the start");
        let mut known = here.known.clone();
        known.insert(id, states()[5].clone());
        let tombstones: Vec<ObjectKey> = memory.list(ObjectKind::Tombstone).unwrap().map(|info| info.unwrap().key).collect();
        assert!(!tombstones.is_empty());
        for tombstone in tombstones {
            let ObjectKey::Tombstone(id) = tombstone else { continue };
            memory.delete(&[ObjectKey::Pack(id)]).unwrap();
        }
        verify(&here.open_on(memory, "fresh").unwrap(), &known, &[]);
    }
}

/// The writer stands still between its mark and its commit until a prune has taken it for dead, deleted what it needs and removed every trace.
#[test]
fn a_writer_that_was_taken_for_dead() {
    let template = template();
    let mut cases = Vec::new();
    for (state, cache) in VARIANTS {
        let calls = calls(&template, state, cache);
        let place = |wanted: &dyn Fn(&Call) -> bool| *calls.iter().find(|(_, call)| wanted(call)).unwrap().0;
        let marked = place(&|call| matches!(call, Call::Write(ObjectKey::Pending { .. })));
        let commit = place(&|call| matches!(call, Call::Write(ObjectKey::Snapshot { .. })));
        for first in (marked + 1..=commit).rev().step_by(2) {
            for last in (first..=commit + 3).step_by(2) {
                for forget_parent in [false, true] {
                    cases.push(Case { steps: [first, first, first, last], expire: true, forget_parent, state, cache });
                    cases.push(Case { steps: [first, first, last, last], expire: true, forget_parent, state, cache });
                }
            }
        }
    }
    let cases = proof::some_of(cases, 4, seed());
    run_all("a writer taken for dead", &template, &cases);
}
