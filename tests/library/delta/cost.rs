//! What steps and restores cost, in bytes and in requests.

use std::fs;

use icecore::store::format::LEVEL_WRITE_MAX;

use super::common::rng::Rng;
use super::common::store::{PAGE_BYTES, Store, StoreSpec};
use super::count::{Calls, Counted};
use super::scene::{Scene, Stream, Taken, deltas_within_bounds, expect, stored_bytes, tables, take};
use super::support::open_backend;

/// What a step stored: encoded chunks, and everything, in bytes. The rest is nodes, tables, seals, padding and the record.
struct Step {
    data: f64,
    stored: f64,
}

impl Step {
    fn metadata(&self) -> f64 {
        1.0 - self.data / self.stored
    }
}

/// Ordinary steps of the store of 14 MB, then some in which nothing changes.
fn steps() -> Vec<Step> {
    let dir = super::simulated::scratch();
    let path = dir.path().join("store.db");
    let mut store = Store::create(&path, StoreSpec::quick()).unwrap();
    let scene = Scene::new(true);
    let backend = Counted::new(scene.memory.clone());
    let back_up = |time: i64| {
        let repo = open_backend(backend.clone(), scene.path("cache"), 2).unwrap();
        let streams = [Stream::pages("store.db", &fs::read(&path).unwrap(), PAGE_BYTES as u32), Stream::content("notes", b"notes")];
        let before = stored_bytes(&*scene.memory);
        let taken = take(&repo, &streams, time);
        (taken, (stored_bytes(&*scene.memory) - before) as f64, backend.take())
    };
    back_up(0);
    let mut steps = Vec::new();
    for n in 1..=12 {
        store.step(n).unwrap();
        let (taken, stored, _) = back_up(i64::from(n));
        let stats = taken.record.stats;
        steps.push(Step { data: (stats.raw_bytes + stats.zstd_bytes + stats.delta_bytes) as f64, stored });
    }
    for time in 20..23 {
        let (taken, _, calls) = back_up(time);
        assert!(taken.record.packs.is_empty() && calls.bytes_written < 2048, "an unchanged step: {calls:?}");
    }
    steps
}

/// In a small store each changed chunk brings few bytes of data, and its id twice: in the table and in its node.
#[test]
fn most_of_what_steps_store_is_data() {
    let steps = steps();
    let sum = Step { data: steps.iter().map(|step| step.data).sum(), stored: steps.iter().map(|step| step.stored).sum() };
    println!("{} bytes, metadata {:.3}", sum.stored, sum.metadata());
    assert!(sum.metadata() < 0.27, "metadata is {:.3} of {} bytes", sum.metadata(), sum.stored);
}

/// Steps of the history; the last ones are compared with the early ones.
const STEPS: usize = 272;
/// Steps that are compared: whole turns of the skip rule.
const TURN: usize = 32;

fn change(image: &mut [u8], rng: &mut Rng) {
    for _ in 0..4 {
        let place = rng.below((image.len() - 8) as u64 / 16) as usize;
        image[place..place + 8].copy_from_slice(&rng.next().to_le_bytes());
    }
}

fn most(calls: &[Calls]) -> Calls {
    let most = |of: fn(&Calls) -> usize| calls.iter().map(of).max().unwrap();
    Calls {
        lists: most(|calls| calls.lists),
        stats: most(|calls| calls.stats),
        reads: most(|calls| calls.reads),
        writes: most(|calls| calls.writes),
        deletes: most(|calls| calls.deletes),
        settled: most(|calls| calls.settled),
        bytes_read: calls.iter().map(|calls| calls.bytes_read).max().unwrap(),
        bytes_written: calls.iter().map(|calls| calls.bytes_written).max().unwrap(),
    }
}

#[test]
fn requests_do_not_grow_with_the_history() {
    let scene = Scene::new(false);
    let backend = Counted::new(scene.memory.clone());
    let open = || open_backend(backend.clone(), scene.path("cache"), 2).unwrap();
    let mut rng = Rng::new(8, "requests");
    let mut image: Vec<u8> = (0..2 << 20).map(|_| rng.next() as u8).collect();
    let (mut taken, mut backups): (Vec<Taken>, Vec<Calls>) = (Vec::new(), Vec::new());
    for time in 0..STEPS {
        change(&mut image, &mut rng);
        taken.push(take(&open(), &[Stream::pages("db", &image, 4096)], time as i64));
        backups.push(backend.take());
        if time % 8 != 0 {
            // Not all of them need be kept in memory for the comparison.
            taken.last_mut().unwrap().streams.clear();
        }
    }
    let (early, late) = (most(&backups[TURN..2 * TURN]), most(&backups[STEPS - TURN..]));
    println!("backups early: {early:?}\nbackups late: {late:?}");
    let mut restores = Vec::new();
    for number in (0..STEPS).step_by(8) {
        let repo = open();
        repo.refresh().unwrap();
        backend.take();
        expect(&repo, &taken[number..=number], "restore");
        restores.push(backend.take());
    }
    let restore = most(&restores);
    println!("restores: {restore:?}");
    // Two chunks change, with them a node and the listing; each is read through at most as many packs as a chain is deep.
    assert!(deltas_within_bounds(&tables(&scene, "tables")).iter().any(|frame| frame.level > 16), "the chains are not long yet");
    let deepest = usize::from(LEVEL_WRITE_MAX);
    for calls in [early, late] {
        assert!(calls.lists <= 8 && calls.writes <= 3 && calls.deletes <= 1, "{calls:?}");
        assert!(calls.stats.max(calls.reads).max(calls.settled) <= 2 * deepest, "{calls:?}");
        assert!(calls.bytes_read < 2 << 20 && calls.bytes_written < 4096, "{calls:?}");
    }
    assert!(late.requests() < 3 * early.requests(), "{late:?}");
    assert!(restore.requests() <= 2 * deepest && restore.bytes_read < 3 << 20, "{restore:?}");
}
