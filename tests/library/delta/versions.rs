//! Thousands of versions of one page; in a plain test run a part of them.

use icecore::id::ChunkId;
use icecore::recorded::EntryKind;
use icecore::store::format::pack::Trailer;
use icecore::store::format::record;
use icecore::store::format::snapshot::{SnapshotRecord, StreamEntry, StreamRoot};
use icecore::store::repo::{NewChunk, Reference, Repository, SessionOptions, TreeCursor, TreeWriter, WriteSession};

use super::common::rng::Rng;
use super::proof;
use super::scene::{Scene, check_clean, deltas_within_bounds, read, tables};
use crate::chunks::draft;

const PAGE: usize = 4096;
/// Pages of the file; each is a chunk here.
const PAGES: usize = 6;
/// The page that changes.
const CHANGING: usize = 3;

/// Rewrites a few fields of the page, as an update of a row or two does.
fn edit(page: &mut [u8], rng: &mut Rng) {
    for _ in 0..rng.between(1, 4) {
        let place = rng.below((PAGE - 16) as u64) as usize;
        page[place..place + 16].copy_from_slice(&[rng.next().to_le_bytes(), rng.next().to_le_bytes()].concat());
    }
}

/// A session for one version: the chunks with what stood in their places, a tree beside the last one. Gives the root and the ids.
fn commit(
    repo: &Repository,
    image: &[u8],
    before: Option<(SnapshotRecord, StreamRoot, Vec<ChunkId>)>,
) -> (SnapshotRecord, StreamRoot, Vec<ChunkId>) {
    let session = WriteSession::begin(repo, &SessionOptions::default()).unwrap();
    let mut writer = session.writer().unwrap();
    let mut cursor = TreeCursor::new(session.reader(), before.as_ref().map(|(_, root, _)| *root));
    let (mut tree, mut ids) = (TreeWriter::new(), Vec::new());
    for (number, plain) in image.chunks(PAGE).enumerate() {
        let id = repo.keys().chunk_id(plain);
        let references = vec![Reference::to(before.as_ref().map(|(_, _, ids)| ids[number]))];
        writer.put(&[NewChunk { id, plain, references }]).unwrap();
        tree.push(id, plain.len() as u32, &mut writer, &mut cursor).unwrap();
        ids.push(id);
    }
    let root = tree.finish(&mut writer, &mut cursor).unwrap();
    let entry = record::encode(&StreamEntry { name: b"db".to_vec(), kind: EntryKind::File, root, meta: None, tables: Vec::new() }).unwrap();
    let id = repo.keys().chunk_id(&entry);
    let listed_before = before.as_ref().and_then(|(record, ..)| record.listing.top);
    writer.put(&[NewChunk { id, plain: &entry, references: vec![Reference::to(listed_before)] }]).unwrap();
    writer.flush().unwrap();
    drop(writer);
    drop(cursor);
    let listing = StreamRoot { len: entry.len() as u64, levels: 0, top: Some(id) };
    let committed = session.commit(draft(listing, root.len)).unwrap();
    (committed.record, root, ids)
}

#[test]
fn thousands_of_versions_of_a_page() {
    let versions = proof::all_or(5000, 1500);
    let scene = Scene::with_lengths(false, PAGE as u32, PAGE as u32);
    let mut rng = Rng::new(1, "versions");
    let mut image: Vec<u8> = (0..PAGES * PAGE).map(|_| rng.next() as u8).collect();
    let repo = scene.open("cache");
    let mut kept = Vec::new();
    let mut before = None;
    for number in 0..versions {
        edit(&mut image[CHANGING * PAGE..][..PAGE], &mut rng);
        let now = commit(&repo, &image, before.take());
        if number % 100 == 0 || number + 1 == versions {
            kept.push((number, now.0.clone(), image.clone()));
        }
        before = Some(now);
    }
    for cache in ["cache", "another"] {
        let repo = scene.open(cache);
        repo.refresh().unwrap();
        for (number, record, image) in &kept {
            assert!(read(&repo, record, "db").unwrap() == *image, "version {number}");
        }
    }
    let tables = tables(&scene, "tables");
    let deltas = deltas_within_bounds(&tables);
    // All pages are whole in the first version, one seldom later.
    let whole_pages_max = PAGES + 24 * versions as usize / 5000;
    for (node, mean_max, whole_max) in [(false, 24.0, whole_pages_max), (true, 16.0, 2)] {
        // The listing is too short for a delta.
        let of = |table: &Trailer| -> Vec<u8> {
            let chunks = table.chunks.iter().filter(|chunk| chunk.node == node && chunk.plain_len >= 200);
            chunks.map(|chunk| table.frames[chunk.frame as usize].level).collect()
        };
        let levels: Vec<u8> = tables.iter().flat_map(of).collect();
        let mean = levels.iter().map(|level| f64::from(*level)).sum::<f64>() / levels.len() as f64;
        let whole = levels.iter().filter(|level| **level == 0).count();
        println!("nodes {node}: {} copies, {whole} whole, mean level {mean:.1}, deepest {:?}", levels.len(), levels.iter().max());
        assert!(levels.len() >= versions as usize && mean < mean_max && whole <= whole_max, "{whole} whole, mean level {mean:.1}");
    }
    let bytes: u64 = deltas.iter().map(|frame| u64::from(frame.encoded_len)).sum();
    let mean = bytes as f64 / deltas.len() as f64;
    println!("{} deltas of {mean:.0} bytes", deltas.len());
    assert!(mean < 100.0, "a page of which a few fields change takes {mean:.0} bytes");
    check_clean(&scene.open("tables"), true);
}
