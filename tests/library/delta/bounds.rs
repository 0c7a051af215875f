//! Lineages without an end: what a writer keeps to, where the skip rule does not help because content comes from elsewhere every time.

use icecore::store::format::pack::Frame;
use icecore::store::format::{LEVEL_WRITE_MAX, WORK_WRITE_MAX};
use icecore::store::repo::{BaseSlice, Committed, Reference, Repository};

use super::chunks::commit;
use super::common::rng::Rng;
use super::scene::{Scene, check_clean, deltas_within_bounds, read, tables};

/// Bytes of a part that moves as a whole: so many that it is worth a long chain.
const PART: usize = 16 << 10;
/// The most work of what moves: later versions of it need room.
const WORK_MOVED_MAX: u32 = WORK_WRITE_MAX - 16;

/// A snapshot of chunks that are made of parts of earlier ones, with the bytes of each part changed a little.
fn generation(repo: &Repository, rng: &mut Rng, before: &[Vec<u8>], parts: usize) -> (Committed, Vec<Vec<u8>>) {
    let mut chunks = Vec::new();
    for _ in 0..before.len() {
        let (mut plain, mut slices) = (Vec::new(), Vec::new());
        for _ in 0..parts {
            let base = &before[rng.below(before.len() as u64) as usize];
            let offset = rng.below((base.len() / PART) as u64) as usize * PART;
            let mut part = base[offset..offset + PART].to_vec();
            part[..8].copy_from_slice(&rng.next().to_le_bytes());
            plain.extend(part);
            slices.push(BaseSlice { id: repo.keys().chunk_id(base), offset: offset as u32, len: PART as u32 });
        }
        chunks.push((plain, Reference { slices, ..Reference::default() }));
    }
    (commit(repo, &chunks), chunks.into_iter().map(|(plain, _)| plain).collect())
}

/// Gives the deltas of so many generations of so many chunks, each of so many parts.
fn deltas(generations: usize, chunks: usize, parts: usize) -> Vec<Frame> {
    let scene = Scene::new(false);
    let repo = scene.open("cache");
    let mut rng = Rng::new(9, "bounds");
    let mut plains: Vec<Vec<u8>> = (0..chunks).map(|_| (0..parts * PART).map(|_| rng.next() as u8).collect()).collect();
    let whole = plains.iter().map(|plain| (plain.clone(), Reference::default())).collect::<Vec<_>>();
    let mut history = vec![(commit(&repo, &whole), plains.concat())];
    for _ in 0..generations {
        let (committed, made) = generation(&repo, &mut rng, &plains, parts);
        plains = made;
        history.push((committed, plains.concat()));
    }
    for cache in ["cache", "new"] {
        let repo = scene.open(cache);
        repo.refresh().unwrap();
        for (number, (committed, expected)) in history.iter().enumerate() {
            assert!(read(&repo, &committed.record, "db").unwrap() == *expected, "generation {number}");
        }
    }
    check_clean(&scene.open("new"), true);
    let tables = tables(&scene, "tables");
    deltas_within_bounds(&tables).into_iter().cloned().collect()
}

#[test]
fn levels_stop_where_a_writer_keeps_to() {
    // One line of 80 versions, each a delta of parts of the one before it.
    let deltas = deltas(80, 1, 4);
    assert_eq!(deltas.iter().map(|frame| frame.level).max(), Some(LEVEL_WRITE_MAX));
    assert!(deltas.len() > 75, "only one in {LEVEL_WRITE_MAX} is stored whole: {} deltas", deltas.len());
}

#[test]
fn work_stops_where_a_writer_keeps_to() {
    // Every chunk draws on several of the generation before it, these on nearly all of the one before that.
    let deltas = deltas(24, 12, 12);
    let most = deltas.iter().map(|frame| frame.work).max().unwrap();
    assert!(most <= WORK_MOVED_MAX, "no room is left for later versions: {most}");
    assert!(most > WORK_MOVED_MAX - 8, "work did not come near its bound: {most}");
    assert!(deltas.len() > 12 * 24 / 2, "{} deltas", deltas.len());
}
