//! A whole prune, or a whole backup, between any two calls of a repair; and a repair at every step of a prune.

use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use icecore::store::backend::ObjectKey;

use crate::hook::{Call, Fate, Hooked};
use crate::memory::Memory;
use crate::proof;
use crate::pruning::{Prune, is_expected, prune_now};
use crate::repair::{calls_of, packs, path, settled, sick, template, try_repair, whole};
use crate::support::open_backend;
use crate::world::{Known, World, in_parallel, seed, states};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Other {
    Prune,
    BackUp,
}

/// Calls before which something may have changed that matters: those that change something, and those that look at what others do.
fn matters(call: &Call) -> bool {
    matches!(call, Call::Write(_) | Call::Delete(_) | Call::List(_) | Call::Stat(ObjectKey::Pack(_)))
}

/// Every pack has a damaged header, which nobody needs to read it: all are replaced, and nothing stops a prune.
fn scratched(encrypted: bool) -> World {
    let world = template(encrypted);
    for pack in packs(&world) {
        let file = path(&world, &ObjectKey::Pack(pack));
        let mut bytes = std::fs::read(&file).unwrap();
        bytes[20] ^= 1;
        std::fs::write(file, bytes).unwrap();
    }
    world
}

/// Runs a repair to its end, again if others were in its way, and looks at the result.
fn finish(here: &World, memory: Arc<Memory>, before: &Known) {
    let repo = here.open_on(memory.clone(), "cache").unwrap();
    let now = whole(&repo, &here.known);
    assert!(before.keys().all(|id| now.contains_key(id)), "a snapshot was lost");
    try_repair(here, &repo, true).unwrap();
    drop(repo);
    settled(here, memory, before, "cache");
}

#[test]
fn others_between_any_two_calls() {
    others_in(&sick(false));
    others_in(&scratched(false));
}

fn others_in(template: &World) {
    let objects = Memory::load(&*template.local());
    let before = whole(&template.copy().open("cache"), &template.known);
    let calls = calls_of(template, &objects);
    let places = calls.iter().enumerate().filter(|(_, call)| matters(call)).map(|(number, _)| number);
    let cases: Vec<(usize, Other)> = places.flat_map(|number| [(number, Other::Prune), (number, Other::BackUp)]).collect();
    let came = AtomicUsize::new(0);
    let cases = proof::some_of(cases, 4, seed());
    in_parallel(&cases, |(at, other)| {
        let (here, memory, at, other) = (template.copy(), Memory::new(objects.clone()), *at, *other);
        let (inner, cache, new) = (memory.clone(), here.path("other cache"), Arc::new(Mutex::new(None)));
        let (made, source): (_, PathBuf) = (new.clone(), here.path("beside"));
        std::fs::write(&source, &states()[5]).unwrap();
        let hooked = Hooked::new(memory.clone(), move |number, _| {
            if number == at {
                match other {
                    // It may find what is needed missing, and then deletes nothing.
                    Other::Prune => match prune_now(inner.clone(), cache.clone()) {
                        Ok(_) => {}
                        Err(error) => assert!(error.is_damage() || is_expected(&error), "{error}"),
                    },
                    Other::BackUp => {
                        let repo = open_backend(Arc::new(Hooked::quiet(inner.clone())), cache.clone(), 1).unwrap();
                        *made.lock().unwrap() = Some(crate::support::try_back_up_as(Some("db"), &repo, &source, 40).unwrap().id);
                    }
                }
            }
            Fate::Proceed
        });
        match here.open_on(Arc::new(hooked), "cache").and_then(|repo| try_repair(&here, &repo, true)) {
            Ok(report) => {
                came.fetch_add(1, Ordering::Relaxed);
                let is_new = |id| *new.lock().unwrap() == Some(id);
                let marked = report.damaged.iter().copied().chain(report.lost.iter().map(|lost| lost.snapshot)).any(is_new);
                assert!(!marked, "a backup beside it is taken for damaged, {at}: {report:?}");
            }
            Err(error) => assert!(error.is_damage() || is_expected(&error), "{error}"),
        }
        let (mut here, mut before) = (here, before.clone());
        if let Some(id) = new.lock().unwrap().take() {
            here.known.insert(id, states()[5].clone());
            before.insert(id, states()[5].clone());
        }
        finish(&here, memory, &before);
    });
    println!("repair: {} prunes and backups between its calls, {} times it came to its end at once", cases.len(), came.into_inner());
}

#[test]
fn at_every_step_of_a_prune() {
    let template = scratched(true);
    let objects = Memory::load(&*template.local());
    let before = whole(&template.copy().open("cache"), &template.known);
    for expire in [true, false] {
        for step in 0..4 {
            let (here, memory) = (template.copy(), Memory::new(objects.clone()));
            // The prune finds something to move: two snapshots go.
            let gone: Vec<_> = before.keys().take(1).copied().collect();
            let repo = here.open_on(memory.clone(), "cache").unwrap();
            crate::support::try_forget(&repo, &gone, true).unwrap();
            let left: Known = before.iter().filter(|(id, _)| !gone.contains(id)).map(|(id, state)| (*id, state.clone())).collect();
            let mut prune = Prune::new(memory.clone(), here.path("other cache"), expire);
            (0..=step).for_each(|step| prune.step(step));
            let repaired = try_repair(&here, &repo, true);
            (step + 1..4).for_each(|step| prune.step(step));
            drop(prune);
            if let Err(error) = repaired {
                assert!(error.is_damage() || is_expected(&error), "{error}");
            }
            drop(repo);
            finish(&here, memory, &left);
        }
    }
}
