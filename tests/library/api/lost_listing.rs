//! A snapshot of whose listing a part is lost: what lies behind that part is as much of the snapshot as what lies before it.

use icecore::id::SnapshotId;
use icecore::ops::mark::Author;
use icecore::ops::prune::{PruneOptions, prune};
use icecore::ops::repair::{RepairOptions, RepairReport, execute, plan};
use icecore::progress::Silent;
use icecore::store::repo::Repository;

use super::salvage::{Scene, chunk, encoded, entry, lose};

fn repair(repo: &Repository, from: &[std::path::PathBuf]) -> RepairReport {
    let author = Author { now_ns: 1 << 60, host: "test".into(), user: "tester".into() };
    let options = RepairOptions { from: from.to_vec(), author, ..RepairOptions::default() };
    repo.rebuild_catalog().unwrap();
    execute(repo, plan(repo, &options, &Silent).unwrap(), &options, &Silent).unwrap()
}

/// Three streams, each with an own part of the listing. The second part is lost. The last stream is two chunks, the first of them in an own pack.
fn scene() -> (Scene, SnapshotId, Vec<std::path::PathBuf>) {
    let mut scene = Scene::new();
    let streams: Vec<Vec<Vec<u8>>> = (0..3).map(|number| vec![chunk(number, 65_536), chunk(10 + number, 65_536)]).collect();
    let apart = scene.store_chunks(&streams[2][..1]);
    let all: Vec<&[Vec<u8>]> = streams.iter().map(Vec::as_slice).collect();
    let (roots, _, _) = scene.store(&all, &|_| Vec::new());
    let parts: Vec<Vec<u8>> = ["a", "b", "c"].iter().zip(&roots).map(|(name, root)| encoded(&[entry(name, *root)])).collect();
    let middle = scene.store_chunks(&parts[1..2]);
    let (_, id, _) = scene.store(&[], &|_| parts.clone());
    // Only the last snapshot needs the chunks of the streams.
    let others: Vec<SnapshotId> =
        scene.bed.open().refresh().unwrap().snapshots.iter().map(|(id, _)| *id).filter(|other| *other != id).collect();
    super::support::forget(&scene.bed.open(), &others, true);
    lose(&middle);
    (scene, id, apart)
}

fn whole(scene: &Scene, id: &SnapshotId, dir: &str) -> Vec<String> {
    let outcome = scene.salvage(id, dir, &[]).unwrap();
    let whole = outcome.streams.iter().filter(|stream| stream.bytes_lost == 0);
    whole.map(|stream| String::from_utf8(stream.name.clone()).unwrap()).collect()
}

#[test]
fn prune_keeps_what_lies_behind_it() {
    let (scene, id, _) = scene();
    assert_eq!(whole(&scene, &id, "out-before"), ["a", "c"]);
    let repo = scene.bed.open();
    assert!(!repair(&repo, &[]).lost.is_empty());
    let options = PruneOptions { grace_ns: 0, now_ns: 1 << 61, host: "test".into(), unused_max_permille: 0, repack_bytes_max: None };
    let report = prune(&repo, &options, &Silent).unwrap();
    assert!(report.deleted > 0 && report.written > 0, "what only the lost part named goes: {report:?}");
    assert_eq!(whole(&scene, &id, "out-after"), ["a", "c"]);
}

#[test]
fn repair_finds_what_lies_behind_it_in_files() {
    let (scene, id, apart) = scene();
    lose(&apart);
    assert_eq!(whole(&scene, &id, "out-before"), ["a"]);
    let file = scene.bed.path("c");
    std::fs::write(&file, [chunk(2, 65_536), chunk(12, 65_536)].concat()).unwrap();
    let report = repair(&scene.bed.open(), &[file]);
    assert_eq!(report.from_files, 1, "{report:?}");
    assert_eq!(whole(&scene, &id, "out-after"), ["a", "c"]);
}
