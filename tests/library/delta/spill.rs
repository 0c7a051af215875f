//! Deltas whose prefixes come from all over the parent do not fit in memory at once: with a file to wait in, every frame is decoded once all the same.

use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicUsize, Ordering};

use icecore::id::ChunkId;
use icecore::progress::Silent;
use icecore::store::repo::{ChunkSpan, Reader, Repository, Spans, Spill};

use super::common::rng::Rng;
use super::scene::{Scene, Stream, Taken, deltas_within_bounds, tables, take};

const PAGE: usize = 4096;
/// Pages that move together.
const RUN: usize = 4;
const RUNS: usize = 4800;

/// The runs in another order.
fn shuffled(old: &[u8], rng: &mut Rng) -> Vec<u8> {
    let mut runs: Vec<&[u8]> = old.chunks(PAGE * RUN).collect();
    for last in (1..runs.len()).rev() {
        runs.swap(last, rng.below(last as u64 + 1) as usize);
    }
    runs.concat()
}

/// Reads a stream into a file, all at once; gives how many frames were decoded.
fn read_into(repo: &Repository, taken: &Taken, file: &std::fs::File, spills: bool) -> u64 {
    let reader = Reader::new(repo);
    let root = reader.listing(&taken.record.listing, &Silent).unwrap()[0].root;
    let spans: Vec<ChunkSpan> = Spans::new(&reader, &root).unwrap().map(Result::unwrap).collect();
    let ids: Vec<ChunkId> = spans.iter().map(|span| span.id).collect();
    let (before, visits) = (reader.decoded_frames(), AtomicUsize::new(0));
    let spill = spills.then(|| Spill::past(file, root.len));
    reader
        .each_chunk(&ids, spill, &|number, bytes| {
            visits.fetch_add(1, Ordering::Relaxed);
            file.write_all_at(bytes, spans[number].offset).unwrap();
            Ok(())
        })
        .unwrap();
    assert_eq!(visits.into_inner(), ids.len());
    reader.decoded_frames() - before
}

#[test]
fn scattered_bases_are_decoded_once() {
    let mut rng = Rng::new(1, "spill");
    let old: Vec<u8> = (0..RUNS * RUN * PAGE / 8).flat_map(|_| rng.next().to_le_bytes()).collect();
    let new = shuffled(&old, &mut rng);
    let scene = Scene::new(true);
    let repo = scene.open("cache");
    let first = take(&repo, &[Stream::pages("a.db", &old, PAGE as u32)], 0);
    let second = take(&repo, &[Stream::pages("a.db", &new, PAGE as u32)], 1);
    assert!(second.record.stats.pack_bytes < old.len() as u64 / 10, "{:?}", second.record.stats);
    deltas_within_bounds(&tables(&scene, "cache"));
    let file = tempfile::tempfile_in(scene.dir.path()).unwrap();
    let frames = |taken: &Taken, spills| read_into(&repo, taken, &file, spills);
    let whole = frames(&first, true);
    let (spilled, split) = (frames(&second, true), frames(&second, false));
    println!("{whole} whole frames; {spilled} decoded with a file, {split} without");
    assert_eq!(file.metadata().unwrap().len(), new.len() as u64, "the room is given back");
    let mut found = vec![0; new.len()];
    file.read_exact_at(&mut found, 0).unwrap();
    assert!(found == new);
    assert!(split > spilled + whole / 2, "the work was never too much");
    assert_eq!(spilled, whole + (new.len() / (64 << 10)) as u64, "each frame once");
}
