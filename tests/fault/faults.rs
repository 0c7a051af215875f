//! One call of the backend fails, or lies, at every place in backup, refresh, restore and check.

use std::io::ErrorKind;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use icecore::Error;
use icecore::id::SnapshotId;
use icecore::ops::check::{CheckOptions, check};
use icecore::progress::Silent;
use icecore::store::backend::{ObjectKind, Replica};
use icecore::store::repo::Repository;

use crate::hook::{Call, Fate, Hooked};
use crate::memory::{Memory, Objects};
use crate::proof::{self, FAULTS};
use crate::world::{Known, World, check_clean, database_of, in_parallel, seed, states, verify};

const KINDS: [ErrorKind; 5] =
    [ErrorKind::NotFound, ErrorKind::StorageFull, ErrorKind::PermissionDenied, ErrorKind::Interrupted, ErrorKind::UnexpectedEof];

/// A repository with snapshots, and a cache that knows it. One snapshot has several copies of chunks.
fn template() -> (World, Objects) {
    let mut world = World::new(true);
    for (time, state) in states().iter().take(3).enumerate() {
        world.back_up(&world.open("cache"), state, time as i64);
    }
    let objects = Memory::load(&*world.local());
    (world, objects)
}

/// What one operation does, with an error that is its own.
type Operation = dyn Fn(&World, &Repository) -> icecore::Result<Done> + Sync;

#[derive(Debug, Clone, Copy)]
struct Case {
    call: usize,
    what: Call,
    fate: Fate,
    cache: &'static str,
    undisturbed: Done,
}

/// The calls of an operation that nothing disturbs, from opening the repository on, and what it comes to.
fn calls_of(world: &World, objects: &Objects, cache: &str, operation: &Operation) -> (Vec<Call>, Done) {
    let calls = Arc::new(Mutex::new(Vec::new()));
    let noted = calls.clone();
    let hooked = Hooked::new(Memory::new(objects.clone()), move |_, call| {
        noted.lock().unwrap().push(call);
        Fate::Proceed
    });
    let here = world.copy();
    let repo = crate::support::open_backend(Arc::new(hooked), here.path(cache), 1).unwrap();
    let done = operation(&here, &repo).unwrap();
    let calls = calls.lock().unwrap();
    (calls.clone(), done)
}

/// What can happen at a call. A listing of tombstones that misses one breaks the contract on which commits stand, so that is not tried.
pub fn fates(call: Call) -> Vec<Fate> {
    let mut fates: Vec<Fate> = KINDS.iter().map(|kind| Fate::Fail(*kind)).collect();
    match call {
        Call::Read(_) => fates.push(Fate::Short),
        Call::Write(_) | Call::Delete(_) => fates.extend(KINDS.iter().map(|kind| Fate::FailAfter(*kind))),
        Call::List(kind) => {
            fates.extend([Fate::Repeated, Fate::BrokenOff(ErrorKind::Interrupted)]);
            fates.extend((kind != ObjectKind::Tombstone).then_some(Fate::Missing));
        }
        Call::Stat(_) | Call::Settle => {}
    }
    fates
}

/// The error is one that a person can act upon: it says what happened to which object.
pub fn assert_clear(error: &Error) {
    let text = error.to_string();
    assert!(!matches!(error, Error::Poisoned | Error::Cancelled | Error::InvalidArgument(_)), "{text}");
    let object = match error {
        Error::Backend { object, .. } | Error::Corrupt { object, .. } | Error::UnsupportedFormat { object, .. } => object.clone(),
        Error::NotFound { what } => what.clone(),
        Error::NoRepository { location } | Error::WrongPassphrase { location } => location.clone(),
        Error::Stale { detail } | Error::HalfDone { detail, .. } => detail.clone(),
        other => panic!("a failing call is no reason for this: {other:?}"),
    };
    assert!(!object.trim().is_empty() && text.contains(&object), "{text}");
}

/// The same after an operation in which only this call failed or lied: the error names the object of that call, or the damaged part of it.
pub fn assert_names(error: &Error, call: Call, fate: Fate) {
    assert_clear(error);
    let object = match call {
        Call::List(kind) => format!("{kind:?}"),
        Call::Settle => "the repository".to_owned(),
        Call::Stat(key) | Call::Read(key) | Call::Write(key) | Call::Delete(key) => key.to_string(),
    };
    let text = error.to_string();
    let is_told = match fate {
        // Errors of the backend are passed on as they are. A missing object is reported by the reader that needs it.
        Fate::Fail(kind) | Fate::FailAfter(kind) | Fate::BrokenOff(kind) => {
            text.contains(&object) || kind == ErrorKind::NotFound && (error.is_damage() || matches!(error, Error::NoRepository { .. }))
        }
        // A lie shows in what is missed, or does not decode.
        _ => text.contains(&object) || error.is_damage() || matches!(error, Error::Stale { .. }),
    };
    assert!(is_told, "{call:?} {fate:?}: {text}");
}

/// What an operation came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Done {
    Committed(SnapshotId),
    Read,
    /// A check: whether it says of anything that it is not as it should be, and how many snapshots, packs, chunks and bytes it has looked at.
    Checked {
        found: bool,
        seen: [u64; 4],
    },
}

fn every_call_fails_once(name: &str, operation: &Operation) {
    let (world, objects) = template();
    let mut cases = Vec::new();
    for cache in ["cache", "new cache"] {
        let (calls, undisturbed) = calls_of(&world, &objects, cache, operation);
        let fates = calls.into_iter().enumerate().flat_map(|(call, what)| fates(what).into_iter().map(move |fate| (call, what, fate)));
        cases.extend(fates.map(|(call, what, fate)| Case { call, what, fate, cache, undisturbed }));
    }
    let cases = proof::some_of(cases, 3, seed());
    let succeeded = AtomicUsize::new(0);
    let unnoticed = Mutex::new(Vec::new());
    in_parallel(&cases, |case| {
        let here = world.copy();
        let memory = Memory::new(objects.clone());
        let Case { call, what, fate, cache, undisturbed } = *case;
        // The same call, which may be about other objects: names of new ones are random.
        let met = Arc::new(Mutex::new(what));
        let note = Arc::clone(&met);
        let hooked = Hooked::new(memory.clone(), move |number, now| {
            if number != call {
                return Fate::Proceed;
            }
            *note.lock().unwrap() = now;
            fate
        });
        let result = crate::support::open_backend(Arc::new(hooked), here.path(cache), 1).and_then(|repo| operation(&here, &repo));
        let mut known: Known = here.known.clone();
        match result {
            Ok(done) => {
                succeeded.fetch_add(1, Ordering::Relaxed);
                if let Done::Committed(id) = done {
                    known.insert(id, states()[3].clone());
                }
                // A check that says nothing has looked at everything. Only a listing may hide something: of what nothing refers to nobody can know.
                let is_hidden = fate == Fate::Missing && what != Call::List(ObjectKind::Pack);
                if let Done::Checked { found: false, .. } = done
                    && done != undisturbed
                    && !is_hidden
                {
                    unnoticed.lock().unwrap().push((*case, done));
                }
            }
            Err(error) => assert_names(&error, *met.lock().unwrap(), fate),
        }
        // The next run: nothing but what was committed is listed, and everything works.
        let repo = here.open_on(memory.clone(), cache).unwrap();
        let mut listed = verify(&repo, &known, &[]);
        assert_eq!(listed.len(), known.len());
        listed.insert(here.try_back_up(&repo, "db", &states()[4], 20).unwrap(), states()[4].clone());
        let repo = here.open_on(memory, cache).unwrap();
        verify(&repo, &listed, &[]);
        check_clean(&repo);
    });
    let unnoticed = unnoticed.into_inner().unwrap();
    assert!(unnoticed.is_empty(), "taken for a sound repository: {unnoticed:#?}");
    println!("{name}: {} failing or lying calls, {} of them without consequence", cases.len(), succeeded.load(Ordering::Relaxed));
    proof::count(name, &[(FAULTS, cases.len())]);
}

#[test]
fn in_backup() {
    let back_up = |world: &World, repo: &Repository| world.try_back_up(repo, "db", &states()[3], 10).map(Done::Committed);
    every_call_fails_once("backup", &back_up);
}

#[test]
fn in_restore() {
    let restore = |world: &World, repo: &Repository| {
        for (id, record) in repo.refresh()?.snapshots {
            assert!(database_of(repo, &record)? == world.known[&id]);
        }
        Ok(Done::Read)
    };
    every_call_fails_once("refresh and restore", &restore);
}

/// A call that lies may well look like damage; it must not stop the check with something unclear, or be silently taken for a sound repository.
#[test]
fn in_check() {
    let check_all = |_: &World, repo: &Repository| {
        let report = check(repo, &CheckOptions::read_all(), &Silent)?;
        for finding in &report.findings {
            assert!(!finding.object.is_empty() && !finding.detail.is_empty());
        }
        let seen = [report.snapshots, report.packs, report.chunks, report.read_bytes];
        Ok(Done::Checked { found: !report.findings.is_empty(), seen })
    };
    every_call_fails_once("check", &check_all);
}

/// A snapshot's own record is written, but the answer gets lost and it cannot be removed again. If it can be said that it is none, it is not listed; if not, it
/// is there, so it must be whole.
#[test]
fn a_commit_that_is_not_known_to_have_failed() {
    for (can_be_told, listed) in [(false, 4), (true, 3)] {
        let (world, objects) = template();
        let memory = Memory::new(objects);
        let hooked = Hooked::new(memory.clone(), move |_, call| match call {
            Call::Write(icecore::store::backend::ObjectKey::Snapshot { .. }) => Fate::FailAfter(ErrorKind::TimedOut),
            Call::Write(icecore::store::backend::ObjectKey::Tombstone(_)) if !can_be_told => Fate::Fail(ErrorKind::TimedOut),
            Call::Delete(_) => Fate::Fail(ErrorKind::TimedOut),
            _ => Fate::Proceed,
        });
        let repo = crate::support::open_backend(Arc::new(hooked), world.path("cache"), 1).unwrap();
        assert_clear(&world.try_back_up(&repo, "db", &states()[3], 10).unwrap_err());
        for cache in ["cache", "new cache"] {
            let repo = world.open_on(memory.clone(), cache).unwrap();
            assert_eq!(verify(&repo, &world.known, &[&states()[3]]).len(), listed);
            assert_eq!(repo.refresh().unwrap().expired.len(), 4 - listed);
            check_clean(&repo);
        }
    }
}

/// One copy of the small records cannot be read at all: the other serves, whatever the reason.
#[test]
fn the_second_copies_serve() {
    let (world, objects) = template();
    for kind in KINDS {
        let hooked = Hooked::new(Memory::new(objects.clone()), move |_, call| match call {
            Call::Read(
                icecore::store::backend::ObjectKey::Config(Replica::First) | icecore::store::backend::ObjectKey::Key(_, Replica::First),
            ) => Fate::Fail(kind),
            _ => Fate::Proceed,
        });
        let repo = crate::support::open_backend(Arc::new(hooked), world.path("cache"), 1).unwrap();
        verify(&repo, &world.known, &[]);
    }
}
