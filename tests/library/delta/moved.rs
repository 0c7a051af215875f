//! Content that has moved costs a part of what it would cost anew: VACUUM, a reordered dump, a copy under another name. What is kept to find it is a
//! cache: without it the same is stored, in more bytes.

use std::fs;
use std::path::Path;

use icecore::engine::files::{FilesOptions, FilesSource};
use icecore::ops::backup::BackupReport;
use icecore::store::repo::Repository;

use super::common::prose::Prose;
use super::common::rng::Rng;
use super::common::store::{PAGE_BYTES, Shape, Store, StoreSpec};
use super::decode::decode_all;
use super::memory::Memory;
use super::scene::{Scene, Stream, Taken, back_up, check_clean, deltas_within_bounds, expect, read, tables, take};
use super::support::sqlite_options;

/// Bytes that are compressed together where content is stored whole.
const TOGETHER: usize = 512 << 10;

/// What these bytes take without anything to compare them with.
fn whole(bytes: &[u8]) -> u64 {
    bytes.chunks(TOGETHER).map(|part| zstd::bulk::compress(part, 2).unwrap().len() as u64).sum()
}

/// The pages that are not what they were, one after the other.
fn changed_pages(new: &[u8], old: &[u8]) -> Vec<u8> {
    let mut old = old.chunks(PAGE_BYTES);
    new.chunks(PAGE_BYTES).filter(|page| old.next() != Some(page)).collect::<Vec<_>>().concat()
}

/// The same repository and cache, but for the features.
fn without_features(scene: &Scene, cache: &str) -> Scene {
    let copy = Scene { dir: super::simulated::scratch(), memory: Memory::new(scene.memory.copy()) };
    for entry in walkdir::WalkDir::new(scene.path(cache)) {
        let entry = entry.unwrap();
        let to = copy.dir.path().join(entry.path().strip_prefix(scene.dir.path()).unwrap());
        match entry.file_type().is_dir() {
            true => fs::create_dir_all(to).unwrap(),
            false => drop(fs::copy(entry.path(), to).unwrap()),
        }
    }
    assert!(!copy.features(cache).is_empty(), "there are no features to lose");
    fs::remove_dir_all(copy.path(cache).join("features")).unwrap();
    copy
}

/// Backs up twice: with what is kept to find moved content, and without it, where it must come back too. Gives the bytes that both stored.
fn with_and_without(scene: &Scene, streams: &[Stream], time: i64) -> (Taken, u64) {
    let bare = without_features(scene, "cache");
    let lost = take(&bare.open("cache"), streams, time);
    let bytes = lost.record.stats.pack_bytes;
    expect(&bare.open("new"), &[lost], "without features");
    (take(&scene.open("cache"), streams, time), bytes)
}

fn spec(bytes: u64) -> StoreSpec {
    StoreSpec { bytes, seed: 5, vacuum_steps: Vec::new(), shape: Shape::Memory }
}

#[test]
fn three_vacuums_each_store_less_than_a_quarter() {
    let dir = super::simulated::scratch();
    let path = dir.path().join("store.db");
    let mut store = Store::create(&path, spec(6_000_000)).unwrap();
    let scene = Scene::new(true);
    let image = || vec![Stream::pages("store.db", &fs::read(&path).unwrap(), PAGE_BYTES as u32)];
    let mut taken = vec![take(&scene.open("cache"), &image(), 0)];
    for (round, n) in (1..=3u32).enumerate() {
        for step in 0..4 {
            store.step(n * 4 + step).unwrap();
        }
        let hole = format!("DELETE FROM memories WHERE id BETWEEN {0} AND {0} + 60", 100 + round * 300);
        store.connection().execute_batch(&hole).unwrap();
        taken.push(take(&scene.open("cache"), &image(), i64::from(n) * 2));
        let before = taken.last().unwrap().streams[0].bytes.clone();
        store.vacuum().unwrap();
        let after = image();
        let changed = changed_pages(&after[0].bytes, &before);
        assert!(changed.len() * 2 > before.len(), "the VACUUM changed only {} of {} bytes", changed.len(), before.len());
        let (vacuumed, bare) = with_and_without(&scene, &after, i64::from(n) * 2 + 1);
        let (stored, whole) = (vacuumed.record.stats.pack_bytes, whole(&changed));
        println!("VACUUM {n}: {stored} bytes, {bare} without features, {whole} whole");
        assert!(stored * 4 < whole, "VACUUM {n} stored {stored} bytes, whole it is {whole}");
        assert!(stored * 2 < bare, "VACUUM {n} stored {stored} bytes, {bare} without features");
        taken.push(vacuumed);
    }
    for cache in ["cache", "new"] {
        expect(&scene.open(cache), &taken, cache);
    }
    check_clean(&scene.open("new"), true);
    assert!(deltas_within_bounds(&tables(&scene, "tables")).iter().any(|frame| frame.slices.len() > 8));
    let decoded = decode_all(&scene, &taken.iter().flat_map(|snapshot| &snapshot.streams).collect::<Vec<_>>());
    assert!(decoded.deltas > 200 && decoded.compared > 200, "{decoded:?}");
}

/// Rows in blocks as a table has them in its pages; the order of the blocks is that of the heap.
fn dump(blocks: &[String]) -> Stream {
    let text = format!("--\n-- dump\n--\nCOPY memories FROM stdin;\n{}\\.\n", blocks.concat());
    Stream::content("dump.sql", text.as_bytes())
}

#[test]
fn a_reordered_dump_stores_less_than_a_quarter() {
    let mut rng = Rng::new(6, "dump");
    let prose = Prose::new(6);
    let mut row = |id: u64| {
        let (key, text) = (rng.next(), prose.text(&mut rng, id << 32, 250).replace('\n', " "));
        format!("{id}\t{key:016x}\t{text}\n")
    };
    let mut blocks: Vec<String> = (0..500).map(|block| (0..24).map(|n| row(block * 24 + n)).collect()).collect();
    let scene = Scene::new(false);
    let mut taken = vec![take(&scene.open("cache"), &[dump(&blocks)], 0)];
    let mut rng = Rng::new(7, "order");
    for time in 1..3 {
        for place in 0..blocks.len() {
            blocks.swap(place, rng.below(500) as usize);
        }
        let reordered = dump(&blocks);
        let (found, bare) = with_and_without(&scene, std::slice::from_ref(&reordered), time);
        let (stored, whole) = (found.record.stats.pack_bytes, whole(&reordered.bytes));
        println!("dump {time}: {stored} bytes, {bare} without features, {whole} whole");
        assert!(stored * 4 < whole, "order {time} stored {stored} bytes, whole it is {whole}");
        assert!(stored * 2 < bare, "order {time} stored {stored} bytes, {bare} without features");
        taken.push(found);
    }
    expect(&scene.open("new"), &taken, "new");
    let decoded = decode_all(&scene, &[]);
    assert!(decoded.deltas > 20, "{decoded:?}");
}

fn back_up_tree(repo: &Repository, dir: &Path, time: i64) -> BackupReport {
    let source = FilesSource::new(vec![dir.to_path_buf()], FilesOptions { sqlite: sqlite_options(), exclude: Vec::new() }).unwrap();
    let report = back_up(repo, &source, time);
    assert!(report.skipped.is_empty() && report.record.flags.is_empty(), "{report:?}");
    report
}

#[test]
fn a_copied_database_stores_less_than_a_quarter() {
    let dir = super::simulated::scratch();
    let tree = dir.path().join("tree");
    fs::create_dir(&tree).unwrap();
    let mut store = Store::create(&tree.join("one.db"), spec(4_000_000)).unwrap();
    (1..6).for_each(|n| store.step(n).unwrap());
    store.connection().execute_batch("DELETE FROM memories WHERE id BETWEEN 50 AND 150").unwrap();
    fs::write(tree.join("notes.txt"), "notes").unwrap();
    let scene = Scene::new(false);
    back_up_tree(&scene.open("cache"), &tree, 1);
    let two = tree.join("two.db");
    store.connection().execute_batch(&format!("VACUUM INTO '{}'", two.display())).unwrap();
    let image = fs::read(&two).unwrap();
    let bare_scene = without_features(&scene, "cache");
    let bare = back_up_tree(&bare_scene.open("cache"), &tree, 2);
    let found = back_up_tree(&scene.open("cache"), &tree, 2);
    let (stored, bare_stored) = (found.record.stats.pack_bytes, bare.record.stats.pack_bytes);
    let whole = whole(&changed_pages(&image, &fs::read(tree.join("one.db")).unwrap()));
    println!("copy: {stored} bytes, {bare_stored} without features, {whole} whole");
    assert!(stored * 4 < whole, "the copy stored {stored} bytes, whole it is {whole}");
    assert!(stored * 2 < bare_stored, "the copy stored {stored} bytes, {bare_stored} without features");
    for (scene, report) in [(&scene, &found), (&bare_scene, &bare)] {
        let repo = scene.open("new");
        repo.refresh().unwrap();
        assert!(read(&repo, &report.record, "two.db").unwrap() == image);
        assert!(read(&repo, &report.record, "notes.txt").unwrap() == b"notes");
    }
    // Once more: now the second is where it was.
    let again = back_up_tree(&scene.open("cache"), &tree, 3);
    assert!(again.record.packs.is_empty(), "{:?}", again.record.stats);
}
