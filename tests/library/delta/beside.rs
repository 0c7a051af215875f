//! What has come to some pages of a chunk from others is stored against these, and the rest of the chunk against what stood in its place, in one
//! delta; also in a step so small that the features that are kept of the whole stream are not read.

use super::common::rng::Rng;
use super::common::store::PAGE_BYTES;
use super::scene::{Scene, Stream, check_clean, deltas_within_bounds, expect, tables, take};

/// Bytes of a chunk.
const CHUNK: usize = 64 << 10;
/// So many chunks have more bytes of features than one chunk has itself.
const CHUNKS: usize = 300;

#[test]
fn what_moves_to_a_few_pages_stands_beside_what_stayed() {
    let mut rng = Rng::new(9, "beside");
    let mut before = vec![0; CHUNKS * CHUNK];
    for place in (0..4 * CHUNK).step_by(8) {
        before[place..place + 8].copy_from_slice(&rng.next().to_le_bytes());
    }
    // Three pages leave the first chunk, and lie in other bounds of pages in the third.
    let (from, to, len) = (5 * PAGE_BYTES, 2 * CHUNK + 9 * PAGE_BYTES + 1_000, 3 * PAGE_BYTES);
    let mut after = before.clone();
    after[to..to + len].copy_from_slice(&before[from..from + len]);
    after[from..from + len].fill(0);

    let scene = Scene::new(true);
    let image = |bytes: &[u8]| [Stream::pages("store.db", bytes, PAGE_BYTES as u32)];
    let taken = [take(&scene.open("cache"), &image(&before), 0), take(&scene.open("cache"), &image(&after), 1)];
    let stored = taken[1].record.stats.pack_bytes;
    assert!(stored < len as u64 / 2, "{stored} bytes for {len} that moved");
    let repo = scene.open("new");
    expect(&repo, &taken, "moved");
    check_clean(&repo, true);
    assert!(deltas_within_bounds(&tables(&scene, "tables")).iter().any(|frame| frame.slices.len() > 1));
}
