//! A writer that stands still for any time between its mark and the end of its commit, beside a prune that takes it for dead, and that is killed when it
//! goes on: what it leaves in the list restores, or is no snapshot.

use std::collections::VecDeque;
use std::io::ErrorKind;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};

use icecore::id::PackId;
use icecore::ops::backup::{BackupOptions, backup};
use icecore::ops::prune::prune;
use icecore::progress::Silent;
use icecore::store::backend::{Backend, ObjectKey, ObjectKind, WriteMode};

use crate::hook::{Call, Fate, Hooked};
use crate::memory::Memory;
use crate::proof::{self, ORDERS};
use crate::protocol::{Template, left_behind, template};
use crate::pruning::{is_expected, options, prune_now};
use crate::support::{open_backend, sqlite_source};
use crate::world::{World, check_clean, in_parallel, seed, states, verify};

/// A call that is not made.
const NEVER: usize = usize::MAX;
/// A state that needs chunks which only forgotten snapshots have besides: a prune deletes them if the pending record does not count.
const STATE: usize = 5;

/// Lets two make so many calls each, in turn, and then the rest.
struct Relay {
    turns: Mutex<VecDeque<(usize, usize)>>,
    changed: Condvar,
}

impl Relay {
    fn new(turns: impl IntoIterator<Item = (usize, usize)>) -> Arc<Self> {
        Arc::new(Relay { turns: Mutex::new(turns.into_iter().filter(|(_, calls)| *calls > 0).collect()), changed: Condvar::new() })
    }

    fn call(&self, me: usize) {
        let mut turns = self.turns.lock().unwrap();
        while turns.front().is_some_and(|(whose, _)| *whose != me) {
            turns = self.changed.wait(turns).unwrap();
        }
        if let Some((_, calls)) = turns.front_mut() {
            *calls -= 1;
            if *calls == 0 {
                turns.pop_front();
                self.changed.notify_all();
            }
        }
    }

    /// This one has ended, well or not.
    fn leave(&self, me: usize) {
        self.turns.lock().unwrap().retain(|(whose, _)| *whose != me);
        self.changed.notify_all();
    }
}

/// Leaves also when its thread panics.
struct Turn<'r>(&'r Relay, usize);

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.0.leave(self.1);
    }
}

const WRITER: usize = 0;
const PRUNE: usize = 1;

/// The writer makes so many calls, then the prune, then the writer until it dies or ends, then the prune its rest.
#[derive(Debug, Clone, Copy)]
struct Case {
    writer: usize,
    prune: usize,
    dies: usize,
}

impl Case {
    fn run(self, template: &Template, hidden: &AtomicUsize) {
        let here = template.world.copy();
        let memory = Memory::new(template.objects.clone());
        let relay = Relay::new([(WRITER, self.writer), (PRUNE, self.prune), (WRITER, NEVER), (PRUNE, NEVER)]);
        let state = states()[STATE].as_slice();
        let written = std::thread::scope(|scope| {
            let writer = scope.spawn(|| {
                let _turn = Turn(&relay, WRITER);
                let (baton, dies) = (relay.clone(), self.dies);
                let hooked = Hooked::new(memory.clone(), move |number, _| {
                    if number >= dies {
                        return Fate::Fail(ErrorKind::BrokenPipe);
                    }
                    baton.call(WRITER);
                    Fate::Proceed
                });
                here.open_on_hook(Arc::new(hooked), "cache").and_then(|repo| here.try_back_up(&repo, "db", state, 30))
            });
            let turn = Turn(&relay, PRUNE);
            let baton = relay.clone();
            let hooked = Hooked::new(memory.clone(), move |_, _| {
                baton.call(PRUNE);
                Fate::Proceed
            });
            if let Err(error) = prune_now(Arc::new(hooked), here.path("prune cache")) {
                // A commit that is being taken back names what is gone.
                assert!(is_expected(&error) || error.is_damage(), "{error}");
            }
            drop(turn);
            writer.join().unwrap()
        });
        let mut known = here.known.clone();
        match written {
            Ok(id) => drop(known.insert(id, state.to_vec())),
            Err(icecore::Error::Stale { .. }) => {}
            Err(error) => assert!(self.dies != NEVER, "{error}"),
        }
        for cache in ["cache", "fresh"] {
            let repo = here.open_on(memory.clone(), cache).unwrap();
            verify(&repo, &known, &[state]);
            check_clean(&repo);
            hidden.fetch_add(repo.refresh().unwrap().expired.len(), Ordering::Relaxed);
        }
        prune_now(memory.clone(), here.path("later prune cache")).unwrap();
        assert_eq!(left_behind(&memory.copy()), []);
        let repo = here.open_on(memory.clone(), "fresh").unwrap();
        let listed = verify(&repo, &known, &[state]);
        let records = memory.copy().keys().filter(|key| key.kind() == ObjectKind::Snapshot).count();
        assert_eq!(records, listed.len(), "what is no snapshot was removed");
        check_clean(&repo);
    }
}

/// The calls of a backup or a prune that nothing disturbs.
fn calls(template: &Template, run: impl FnOnce(Arc<dyn Backend>, &World)) -> Vec<Call> {
    let noted = Arc::new(Mutex::new(Vec::new()));
    let into = noted.clone();
    let hooked = Hooked::new(Memory::new(template.objects.clone()), move |_, call| {
        into.lock().unwrap().push(call);
        Fate::Proceed
    });
    run(Arc::new(hooked), &template.world.copy());
    std::mem::take(&mut *noted.lock().unwrap())
}

fn calls_of_backup(template: &Template) -> Vec<Call> {
    calls(template, |backend, here| {
        let repo = open_backend(backend, here.path("cache"), 1).unwrap();
        here.try_back_up(&repo, "db", &states()[STATE], 30).unwrap();
    })
}

fn place(calls: &[Call], wanted: impl Fn(&Call) -> bool) -> usize {
    calls.iter().position(wanted).unwrap()
}

#[test]
fn killed_anywhere_beside_a_prune_that_stands_anywhere() {
    let template = template();
    let backup = calls_of_backup(&template);
    let pending = place(&backup, |call| matches!(call, Call::Write(ObjectKey::Pending { .. })));
    // With a pending record in its way a prune makes some more calls.
    let undisturbed = calls(&template, |backend, here| assert!(prune_now(backend, here.path("prune cache")).unwrap().deleted > 0));
    let prune = undisturbed.len() + 60;
    let stride = if proof::is_long() { 1 } else { 5 };
    let mut cases = Vec::new();
    for writer in pending + 1..=backup.len() {
        for prune in (0..prune).step_by(stride).chain([NEVER]) {
            let deaths = (writer..=backup.len()).chain([NEVER]).skip(prune % stride).step_by(if proof::is_long() { 1 } else { 2 });
            cases.extend(deaths.map(|dies| Case { writer, prune, dies }));
        }
    }
    let cases = proof::some_of(cases, 6, seed());
    let hidden = AtomicUsize::new(0);
    in_parallel(&cases, |case| case.run(&template, &hidden));
    println!("{} orders, {} looks at a record that is no snapshot", cases.len(), hidden.load(Ordering::Relaxed));
    proof::count("suspended writers", &[(ORDERS, cases.len())]);
    assert!(hidden.into_inner() > 0, "the case that this is about came");
}

/// Stops the writer before its commit, runs a whole prune, lets it commit, and kills it.
fn leave_a_broken_one(template: &Template) -> (Arc<Memory>, ObjectKey) {
    let here = template.world.copy();
    let memory = Memory::new(template.objects.clone());
    let (for_prune, cache) = (memory.clone(), here.path("prune cache"));
    let committed = Arc::new(Mutex::new(None));
    let found = committed.clone();
    let hooked = Hooked::new(memory.clone(), move |_, call| {
        let mut found = found.lock().unwrap();
        if found.is_some() {
            return Fate::Fail(ErrorKind::BrokenPipe);
        }
        if let Call::Write(key @ ObjectKey::Snapshot { .. }) = call {
            assert!(prune_now(for_prune.clone(), cache.clone()).unwrap().deleted > 0);
            *found = Some(key);
        }
        Fate::Proceed
    });
    let repo = open_backend(Arc::new(hooked), here.path("cache"), 1).unwrap();
    here.try_back_up(&repo, "db", &states()[STATE], 30).unwrap_err();
    let key = committed.lock().unwrap().unwrap();
    assert!(memory.copy().contains_key(&key));
    (memory, key)
}

#[test]
fn what_has_expired_is_no_snapshot() {
    let template = template();
    let (memory, key) = leave_a_broken_one(&template);
    let ObjectKey::Snapshot { id, .. } = key else { unreachable!() };
    let here = template.world.copy();
    for cache in ["cache", "fresh"] {
        let repo = here.open_on(memory.clone(), cache).unwrap();
        assert_eq!(verify(&repo, &here.known, &[]).len(), here.known.len());
        assert_eq!(repo.refresh().unwrap().expired, [key]);
        check_clean(&repo);
    }
    // It is no parent, and what is backed up beside it is whole.
    let repo = here.open_on(memory.clone(), "fresh").unwrap();
    let mut known = here.known.clone();
    let new = here.try_back_up(&repo, "db", &states()[STATE], 40).unwrap();
    known.insert(new, states()[STATE].clone());
    let refreshed = repo.refresh().unwrap();
    assert_eq!(refreshed.snapshots.iter().find(|(id, _)| *id == new).unwrap().1.parent, Some(template.parent));
    // Prune removes it, and keeps what says that it is none: its writer may come back once more.
    for _ in 0..2 {
        prune_now(memory.clone(), here.path("later prune cache")).unwrap();
        assert!(!memory.copy().contains_key(&key));
        assert!(memory.copy().contains_key(&ObjectKey::Tombstone(PackId(*id.as_bytes()))));
    }
    let repo = here.open_on(memory, "fresh").unwrap();
    verify(&repo, &known, &[]);
}

/// Anybody can copy a tombstone onto a snapshot. Then the snapshot is hidden, commands say so, and no prune deletes it.
#[test]
fn a_forged_tombstone_deletes_nothing() {
    for encrypted in [false, true] {
        let mut world = World::new(encrypted);
        let repo = world.open("cache");
        let id = world.back_up(&repo, &states()[0], 1);
        let gone = world.try_back_up(&repo, "other", &states()[5], 2).unwrap();
        crate::support::forget(&repo, &[gone], true);
        // Marks packs, and leaves their tombstones.
        prune(&repo, &options(1_000_000_000_000, 10_000_000_000), &Silent).unwrap();
        let objects = Memory::load(&*world.local());
        let (_, genuine) = objects.iter().find(|(key, _)| key.kind() == ObjectKind::Tombstone).unwrap();
        let forged = ObjectKey::Tombstone(PackId(*id.as_bytes()));
        for bytes in [genuine.as_slice(), b"torn"] {
            let memory = Memory::new(objects.clone());
            memory.write(&forged, &[bytes], WriteMode::CreateNew).unwrap();
            for cache in ["cache", "fresh"] {
                let here = world.copy();
                let repo = here.open_on(memory.clone(), cache).unwrap();
                let refreshed = repo.refresh().unwrap();
                assert!(refreshed.snapshots.is_empty());
                assert!(refreshed.damage.iter().any(|error| error.to_string().contains("hides snapshot")), "{:?}", refreshed.damage);
                assert!(!crate::world::read_data(&repo).findings.is_empty());
                let refused = prune_now(memory.clone(), here.path(cache)).unwrap_err();
                assert!(refused.is_damage(), "{refused}");
            }
            memory.delete(&[forged]).unwrap();
            verify(&world.copy().open_on(memory, "fresh").unwrap(), &world.known, &[]);
        }
    }
}

/// The parent turns out to be no snapshot between the start of a backup and its commit: nothing is inherited from it unseen.
#[test]
fn the_parent_expires_beside_a_backup() {
    let template = template();
    let here = template.world.copy();
    let memory = Memory::new(template.objects.clone());
    let (objects, parent) = (memory.clone(), template.parent);
    let marks = Arc::new(AtomicUsize::new(0));
    let counted = marks.clone();
    let hooked = Hooked::new(memory.clone(), move |_, call| {
        if matches!(call, Call::Write(ObjectKey::Pending { .. })) && counted.fetch_add(1, Ordering::Relaxed) == 0 {
            objects.write(&ObjectKey::Tombstone(PackId(*parent.as_bytes())), &[b"torn"], WriteMode::CreateNew).unwrap();
        }
        Fate::Proceed
    });
    let repo = open_backend(Arc::new(hooked), here.path("cache"), 1).unwrap();
    here.try_back_up(&repo, "db", &states()[3], 30).unwrap();
    assert_eq!(marks.load(Ordering::Relaxed), 2, "the whole tree was walked, and another record made");
}

/// How old a writer is says its own clock, not the time that its snapshot was given.
#[test]
fn the_time_of_a_snapshot_says_nothing_of_its_writer() {
    const HOUR: i64 = 3_600_000_000_000;
    const NOW: i64 = 400_000 * HOUR;
    let template = template();
    for time_ns in [0, NOW - 2 * HOUR, NOW + 100 * HOUR] {
        let here = template.world.copy();
        let memory = Memory::new(template.objects.clone());
        let marks = Arc::new(AtomicUsize::new(0));
        let (for_prune, cache, counted) = (memory.clone(), here.path("prune cache"), marks.clone());
        let hooked = Hooked::new(memory.clone(), move |_, call| {
            counted.fetch_add(usize::from(matches!(call, Call::Write(ObjectKey::Pending { .. }))), Ordering::Relaxed);
            if matches!(call, Call::Write(ObjectKey::Snapshot { .. })) {
                let repo = open_backend(for_prune.clone(), cache.clone(), 1).unwrap();
                prune(&repo, &options(HOUR, NOW + HOUR / 2), &Silent).unwrap();
            }
            Fate::Proceed
        });
        let repo = open_backend(Arc::new(hooked), here.path("cache"), 1).unwrap();
        let path = here.path("db");
        std::fs::write(&path, &states()[STATE]).unwrap();
        let options = BackupOptions { time_ns, now_ns: NOW, host: "test".into(), ..BackupOptions::default() };
        let report = backup(&repo, &sqlite_source(&[("db", &path)]), &options, &Silent).unwrap();
        assert_eq!(report.record.time_ns, time_ns);
        assert_eq!(marks.load(Ordering::Relaxed), 1, "a prune took the writer for dead: {time_ns}");
        // An hour later it is taken for dead if it has not ended.
        assert!((NOW..NOW + HOUR / 4).contains(&report.record.written_ns), "{}", report.record.written_ns);
    }
}
