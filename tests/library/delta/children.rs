//! Two children of one parent, by two hosts that do not know of each other; the parent forgotten and pruned between.

use std::sync::atomic::{AtomicBool, Ordering};

use icecore::engine::{Capture, CaptureReport, CapturedStream, Known, Source, SourceDescription};
use icecore::progress::Monitor;
use icecore::store::backend::{Backend, ObjectKind};
use icecore::store::repo::Repository;

use super::common::rng::Rng;
use super::prune::Prune;
use super::scene::{Scene, Stream, Streams, Taken, back_up, check_clean, deltas_within_bounds, expect, tables, take};

const PAGE: usize = 4096;
const PAGES: usize = 300;

/// Does something else when its session has begun and has read nothing yet.
struct Meanwhile<'s, F> {
    streams: Streams<'s>,
    act: F,
}

impl<F: Fn() + Send + Sync> Source for Meanwhile<'_, F> {
    fn identity(&self) -> SourceDescription {
        self.streams.identity()
    }

    fn capture<'a>(&'a self, known: &'a dyn Known, monitor: &'a dyn Monitor) -> icecore::Result<Box<dyn Capture + 'a>> {
        (self.act)();
        self.streams.capture(known, monitor)
    }
}

/// Does something else when everything has been read, the first time.
struct AtTheEnd<'s, F> {
    streams: Streams<'s>,
    act: F,
    done: AtomicBool,
}

impl<F: Fn() + Send + Sync> Source for AtTheEnd<'_, F> {
    fn identity(&self) -> SourceDescription {
        self.streams.identity()
    }

    fn capture<'a>(&'a self, known: &'a dyn Known, monitor: &'a dyn Monitor) -> icecore::Result<Box<dyn Capture + 'a>> {
        let act = || {
            if !self.done.swap(true, Ordering::Relaxed) {
                (self.act)();
            }
        };
        Ok(Box::new(Ending(self.streams.capture(known, monitor)?, act)))
    }
}

struct Ending<'a, F>(Box<dyn Capture + 'a>, F);

impl<F: Fn() + Send> Capture for Ending<'_, F> {
    fn total_bytes(&self) -> Option<u64> {
        self.0.total_bytes()
    }

    fn next_stream(&mut self) -> icecore::Result<Option<CapturedStream>> {
        self.0.next_stream()
    }

    fn unreadable(&mut self, error: icecore::Error) -> icecore::Result<()> {
        self.0.unreadable(error)
    }

    fn blocks_writers(&self) -> bool {
        self.0.blocks_writers()
    }

    fn finish(self: Box<Self>) -> icecore::Result<CaptureReport> {
        (self.1)();
        self.0.finish()
    }
}

/// Backs up after something else was done in the middle.
fn take_after(repo: &Repository, image: &[u8], time: i64, act: impl Fn() + Send + Sync) -> Taken {
    let streams = [Stream::pages("db", image, PAGE as u32)];
    let report = back_up(repo, &Meanwhile { streams: Streams(&streams), act }, time);
    Taken { id: report.id, record: report.record, streams: streams.to_vec() }
}

fn take_image(repo: &Repository, image: &[u8], time: i64) -> Taken {
    take(repo, &[Stream::pages("db", image, PAGE as u32)], time)
}

/// Changes a few bytes of a page.
fn touch(image: &mut [u8], page: usize, text: &str) {
    image[page * PAGE + 100..][..text.len()].copy_from_slice(text.as_bytes());
}

fn forget(scene: &Scene, snapshot: &Taken) {
    super::support::forget(&scene.open("forgets"), &[snapshot.id], true);
}

/// Deletes the packs that nobody needs any more; gives how many.
fn prune(scene: &Scene) -> usize {
    let mut prune = Prune::new(scene.memory.clone(), false);
    (0..4).for_each(|step| prune.step(step));
    prune.deleted
}

/// When the parent and all before it go.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Gone {
    /// While the second child is being taken.
    Between,
    /// After both.
    After,
}

/// `ancestors` snapshots. The last one gets two children at once.
fn two_children(encrypted: bool, ancestors: usize, gone: Gone) {
    let scene = Scene::with_lengths(encrypted, PAGE as u32, PAGE as u32);
    let mut rng = Rng::new(1, "children");
    let mut image: Vec<u8> = (0..PAGES * PAGE).map(|_| rng.next() as u8).collect();
    let repo = scene.open("one");
    let mut history: Vec<Taken> = Vec::new();
    for time in 0..ancestors {
        touch(&mut image, 7, &format!("ancestor {time}"));
        history.push(take_image(&repo, &image, time as i64));
    }
    let other = scene.open("other");
    other.refresh().unwrap();
    touch(&mut image, 7, "in both children");
    touch(&mut image, 200, "in both children");
    let (mut first, mut second) = (image.clone(), image.clone());
    touch(&mut first, 9, "the first child");
    touch(&mut second, 9, "the second child");
    touch(&mut second, 7, "IN BOTH");
    let taken_first = std::sync::Mutex::new(None);
    let taken_second = take_after(&repo, &second, 101, || {
        *taken_first.lock().unwrap() = Some(take_image(&other, &first, 100));
        if gone == Gone::Between {
            history.iter().for_each(|ancestor| forget(&scene, ancestor));
            prune(&scene);
        }
    });
    let taken_first = taken_first.into_inner().unwrap().unwrap();
    let parent = history.last().map(|parent| parent.id);
    assert_eq!((taken_first.record.parent, taken_second.record.parent), (parent, parent));
    let twice = scene.open("tables").keys().chunk_id(&first[200 * PAGE..201 * PAGE]);
    let copies = tables(&scene, "tables").iter().flat_map(|table| &table.chunks).filter(|chunk| chunk.id == twice).count();
    // The second one looks for what is gone and then finds what the first has.
    assert!(copies == 2 || (gone == Gone::Between && ancestors == 32), "both children stored what both have: {copies}");

    let mut taken = vec![taken_first, taken_second];
    let deleted = match gone {
        Gone::Between => 0,
        Gone::After => {
            history.iter().for_each(|ancestor| forget(&scene, ancestor));
            prune(&scene)
        }
    };
    if gone == Gone::After && ancestors == 32 {
        assert!(deleted > 5, "the children stand on the first of 32 versions: {deleted} packs were deleted");
    }
    // The history goes on, on either host.
    for (repo, time) in [(&repo, 102), (&other, 103)] {
        touch(&mut second, 7, &format!("after {time}"));
        taken.push(take_image(repo, &second, time));
    }
    forget(&scene, &taken.remove(1));
    prune(&scene);
    for cache in ["one", "other", "new"] {
        expect(&scene.open(cache), &taken, cache);
    }
    check_clean(&scene.open("new"), true);
    assert!(!deltas_within_bounds(&tables(&scene, "tables")).is_empty());
    assert_eq!(scene.memory.list(ObjectKind::Pending).unwrap().count(), 0);
}

#[test]
fn two_children_of_a_parent_that_is_pruned_later() {
    for (encrypted, ancestors) in [(false, 1), (true, 3), (false, 32)] {
        two_children(encrypted, ancestors, Gone::After);
    }
}

#[test]
fn two_children_of_a_parent_that_is_pruned_between() {
    for (encrypted, ancestors) in [(true, 1), (false, 3), (false, 32)] {
        two_children(encrypted, ancestors, Gone::Between);
    }
}

/// When a child has made its deltas, everything that they stand on goes.
#[test]
fn a_parent_that_is_pruned_before_the_commit() {
    for encrypted in [false, true] {
        let scene = Scene::with_lengths(encrypted, PAGE as u32, PAGE as u32);
        let mut rng = Rng::new(2, "children");
        let mut image: Vec<u8> = (0..PAGES * PAGE).map(|_| rng.next() as u8).collect();
        let repo = scene.open("one");
        let mut history = Vec::new();
        for time in 0..3 {
            touch(&mut image, 7, &format!("ancestor {time}"));
            history.push(take_image(&repo, &image, time));
        }
        touch(&mut image, 7, "the child");
        let streams = [Stream::pages("db", &image, PAGE as u32)];
        let act = || {
            history.iter().for_each(|ancestor| forget(&scene, ancestor));
            assert!(prune(&scene) >= 3, "what the child stands on is still there");
        };
        let report = back_up(&repo, &AtTheEnd { streams: Streams(&streams), act, done: AtomicBool::new(false) }, 10);
        let taken = [Taken { id: report.id, record: report.record, streams: streams.to_vec() }];
        for cache in ["one", "new"] {
            expect(&scene.open(cache), &taken, cache);
        }
        check_clean(&scene.open("new"), true);
    }
}
