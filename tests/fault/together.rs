//! Prunes, backups, a forget and a restore at once, their calls in a random order: one call at a time, so that every order can come.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use icecore::id::SnapshotId;
use icecore::store::backend::Backend;

use crate::hook::{Fate, Hooked};
use crate::memory::{Memory, Objects};
use crate::proof::{self, ORDERS};
use crate::pruning::{is_expected, prune_now};
use crate::schedule::{Baton, Turn};
use crate::support::try_forget;
use crate::world::{Known, Random, World, check_clean, database_of, in_parallel, seed, states, verify};

/// Four snapshots of one source and one of another, the first ones forgotten already.
struct Template {
    world: World,
    objects: Objects,
    forgettable: SnapshotId,
}

fn template() -> Template {
    let mut world = World::new(true);
    let ids: Vec<SnapshotId> = (0..4).map(|n| world.back_up(&world.open("cache"), &states()[n as usize], n)).collect();
    let repo = world.open("cache");
    let other = world.try_back_up(&repo, "other", &states()[5], 5).unwrap();
    assert_eq!(try_forget(&repo, &[ids[0], ids[1], other], true).unwrap().forgotten.len(), 3);
    [ids[0], ids[1]].iter().for_each(|id| drop(world.known.remove(id)));
    let objects = Memory::load(&*world.local());
    Template { world, objects, forgettable: ids[2] }
}

#[derive(Default)]
struct Counts {
    stale: AtomicUsize,
    committed: AtomicUsize,
    deleted: AtomicUsize,
    unread: AtomicUsize,
    stopped: AtomicUsize,
}

/// Six at once: two prunes, two backups, a forget of the parent or its ancestor, a restore.
fn run(template: &Template, number: u64, counts: &Counts) {
    let mut random = Random(number);
    let (here, memory) = (template.world.copy(), Memory::new(template.objects.clone()));
    let baton = Arc::new(Baton::new(6, random.clone()));
    let open = |me: usize, cache: &str| {
        let turn = baton.clone();
        let hooked = Hooked::new(memory.clone(), move |_, _| {
            turn.call(me);
            Fate::Proceed
        });
        crate::support::open_backend(Arc::new(hooked), here.path(cache), 1)
    };
    let prune = |me: usize| {
        let _turn = Turn(&baton, me);
        let turn = baton.clone();
        let hooked: Arc<dyn Backend> = Arc::new(Hooked::new(memory.clone(), move |_, _| {
            turn.call(me);
            Fate::Proceed
        }));
        prune_now(hooked, here.path(&format!("prune {me}")))
    };
    let back_up = |me: usize, name: &str, state: usize, cache: &str| {
        let _turn = Turn(&baton, me);
        open(me, cache).and_then(|repo| here.try_back_up(&repo, name, &states()[state], 30 + me as i64)).map(|id| (id, state))
    };
    let forget = |me: usize| {
        let _turn = Turn(&baton, me);
        open(me, "forgets").and_then(|repo| try_forget(&repo, &[template.forgettable], true)).unwrap().forgotten
    };
    let restore = |me: usize| {
        let _turn = Turn(&baton, me);
        let repo = open(me, "restores").unwrap();
        for (id, record) in repo.refresh().unwrap().snapshots {
            match database_of(&repo, &record) {
                Ok(bytes) => assert!(template.world.known.get(&id).is_none_or(|known| *known == bytes)),
                Err(error) if id == template.forgettable => assert!(error.is_damage(), "{error}"),
                // Two prunes without any grace may take what it reads away twice; it says so.
                Err(error) => assert!(error.is_damage() && counts.unread.fetch_add(1, Ordering::Relaxed) < usize::MAX, "{error}"),
            }
        }
    };
    let (first, second) = (4 + random.below(2), 4 + random.below(3));
    let cache = ["cache", "new"][random.below(2)];
    let mut known: Known = here.known.clone();
    known.remove(&template.forgettable);
    std::thread::scope(|scope| {
        let prunes = [scope.spawn(|| prune(0)), scope.spawn(|| prune(1))];
        let backups = [scope.spawn(|| back_up(2, "db", first, cache)), scope.spawn(|| back_up(3, "other", second, "third"))];
        let (forgotten, restored) = (scope.spawn(|| forget(4)), scope.spawn(|| restore(5)));
        for result in prunes.map(|thread| thread.join().unwrap()) {
            match result {
                Ok(report) => drop(counts.deleted.fetch_add(report.deleted as usize, Ordering::Relaxed)),
                // A commit that is being taken back, as the other prune took its writer for dead, names what is gone: that stops a prune.
                Err(error) if error.is_damage() => drop(counts.stopped.fetch_add(1, Ordering::Relaxed)),
                Err(error) => assert!(is_expected(&error), "{error}"),
            }
        }
        for result in backups.map(|thread| thread.join().unwrap()) {
            match result {
                Ok((id, state)) => {
                    counts.committed.fetch_add(1, Ordering::Relaxed);
                    known.insert(id, states()[state].clone());
                }
                Err(icecore::Error::Stale { .. }) => drop(counts.stale.fetch_add(1, Ordering::Relaxed)),
                Err(error) => panic!("{error}"),
            }
        }
        assert_eq!(forgotten.join().unwrap(), [template.forgettable]);
        restored.join().unwrap();
    });
    for cache in [cache, "fresh"] {
        let repo = here.open_on(memory.clone(), cache).unwrap();
        assert_eq!(verify(&repo, &known, &[]).len(), known.len());
        check_clean(&repo);
    }
    prune_now(memory.clone(), here.path("prune 0")).or_else(|_| prune_now(memory.clone(), here.path("prune 0"))).unwrap();
    let repo = here.open_on(memory, "fresh").unwrap();
    verify(&repo, &known, &[]);
    check_clean(&repo);
}

#[test]
fn six_at_once() {
    let template = template();
    let (first, counts) = (seed(), Counts::default());
    let seeds: Vec<u64> = (0..if proof::is_long() { 10_000 } else { 300 }).map(|n| first.wrapping_add(n)).collect();
    let seeds = proof::some_of(seeds, 6, first);
    in_parallel(&seeds, |seed| run(&template, *seed, &counts));
    let Counts { stale, committed, deleted, unread, stopped } = counts;
    let [stale, committed, deleted, unread, stopped] = [stale, committed, deleted, unread, stopped].map(AtomicUsize::into_inner);
    println!("{committed} backups, {stale} failed cleanly, {deleted} packs deleted, {unread} reads cut short, {stopped} prunes stopped");
    proof::count("six at once", &[(ORDERS, seeds.len())]);
    assert!(deleted > 0 && committed > stale && unread * 10 < seeds.len() && stopped * 10 < seeds.len());
}
