//! What moves leaves room for what comes later: it stands on few frames where that costs few bytes, and on all that it needs where they can be read.

use icecore::id::ChunkId;
use icecore::store::repo::{BaseSlice, Reference, Repository};

use super::chunks::commit;
use super::common::rng::Rng;
use super::common::store::PAGE_BYTES;
use super::scene::{Scene, Stream, check_clean, expect, tables, take};

/// Bytes of a chunk.
const CHUNK: usize = 64 << 10;
/// Bytes of chunks that share a frame when they are stored whole.
const FRAME: usize = 512 << 10;

fn random(rng: &mut Rng, len: usize) -> Vec<u8> {
    (0..len / 8).flat_map(|_| rng.next().to_le_bytes()).collect()
}

fn id(repo: &Repository, chunk: &[u8]) -> ChunkId {
    repo.keys().chunk_id(chunk)
}

/// Pages that each step has changed a little: their newest versions would take a frame for each step, and the first ones cost what has changed.
#[test]
fn moved_pages_stand_on_first_versions_though_they_have_changed_a_little() {
    let scene = Scene::new(false);
    let repo = scene.open("cache");
    let mut rng = Rng::new(31, "room");
    let mut old: Vec<Vec<u8>> = (0..16).map(|_| random(&mut rng, CHUNK)).collect();
    commit(&repo, &old.iter().map(|chunk| (chunk.clone(), Reference::default())).collect::<Vec<_>>());
    for step in 0..4 {
        let mut next = old.clone();
        for chunk in &mut next {
            let change = random(&mut rng, 24);
            chunk[step * 900..step * 900 + change.len()].copy_from_slice(&change);
        }
        let versions = old.iter().zip(&next).map(|(before, now)| (now.clone(), Reference::to(Some(id(&repo, before)))));
        commit(&repo, &versions.collect::<Vec<_>>());
        old = next;
    }
    let moved: Vec<u8> = old.iter().flat_map(|chunk| chunk[..PAGE_BYTES].to_vec()).collect();
    let slices = old.iter().map(|chunk| BaseSlice { id: id(&repo, chunk), offset: 0, len: PAGE_BYTES as u32 }).collect();
    let stats = commit(&repo, &[(moved, Reference { slices, ..Reference::default() })]).record.stats;
    assert!(stats.delta_bytes > 0 && stats.delta_bytes < 8 << 10, "{stats:?}");
    let tables = tables(&scene, "tables");
    let moved = tables.iter().flat_map(|table| &table.frames).find(|frame| frame.slices.len() == 16).unwrap();
    assert!(moved.work < 8, "the first versions lie in two frames: {moved:?}");
    check_clean(&scene.open("new"), true);
}

/// What is left for the last window of much that has moved is little, and comes from all over the stream.
#[test]
fn the_end_of_a_bulk_of_changes_may_come_from_several_frames() {
    let scene = Scene::new(false);
    let mut rng = Rng::new(32, "room");
    let old = random(&mut rng, 6 * FRAME);
    // A window full of what was nowhere, then parts of four frames in one chunk.
    let fresh = random(&mut rng, 16 << 20);
    let parts: Vec<u8> = (0..4).flat_map(|n| old[n * FRAME + n * CHUNK..][..CHUNK / 4].to_vec()).collect();
    let image = |bytes: &[u8]| [Stream::pages("store.db", bytes, PAGE_BYTES as u32)];
    let first = take(&scene.open("cache"), &image(&old), 0);
    let second = take(&scene.open("cache"), &image(&[old, fresh.clone(), parts].concat()), 1);
    let stats = &second.record.stats;
    // And the record's listing.
    let whole = stats.raw_bytes + stats.zstd_bytes - fresh.len() as u64;
    assert!(whole < 1024 && stats.delta_bytes < 1024, "only what is new is stored whole: {stats:?}");
    expect(&scene.open("new"), &[first, second], "from several frames");
}
