//! Files with holes: holes are not read, not stored, and there again after a restore.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;

use icecore::ops::check::{CheckOptions, check};
use icecore::progress::Silent;

use super::harness::{listing, noise, restore, run, source};
use super::support::Bed;

const TIB: u64 = 1 << 40;

/// Some bytes at these places of a file of this length; whether the file system leaves holes between them.
fn sparse(path: &Path, len: u64, places: &[u64]) -> bool {
    let file = File::create(path).unwrap();
    file.set_len(len).unwrap();
    for &place in places {
        file.write_all_at(&noise(place as u32, 10_000), place).unwrap();
    }
    file.sync_all().unwrap();
    let taken = file.metadata().unwrap().blocks() * 512;
    if taken > 4 << 20 {
        eprintln!("{} has no holes: left out", path.display());
    }
    taken < 4 << 20
}

/// A tebibyte: reading its holes would not end.
#[test]
fn the_length_of_a_hole_costs_nothing() {
    let bed = Bed::new(true);
    let tree = bed.path("tree");
    fs::create_dir(&tree).unwrap();
    let places = [0, 5_000_000_000, TIB / 2 + 77, TIB - 10_000];
    if !sparse(&tree.join("image"), TIB, &places) || !sparse(&tree.join("empty"), TIB + 1, &[]) {
        return;
    }
    let repo = bed.open();
    let report = run(&repo, &source(&[&tree], &[]), 1);
    assert_eq!(report.skipped, Vec::<String>::new());
    let stats = report.record.stats;
    assert!(stats.read_bytes < 8 << 20 && stats.pack_bytes < 1 << 20, "{stats:?}");
    assert_eq!(report.record.logical_bytes, 2 * TIB + 1);
    // A little is changed, and only that is new.
    File::options().write(true).open(tree.join("image")).unwrap().write_all_at(b"new", TIB / 4).unwrap();
    let second = run(&repo, &source(&[&tree], &[]), 2);
    assert!(second.record.stats.pack_bytes < 200_000, "{:?}", second.record.stats);
    assert!(check(&repo, &CheckOptions::read_all(), &Silent).unwrap().findings.is_empty());
    restore(&repo, &second, &bed.path("back"));
    for name in ["image", "empty"] {
        let [before, after] = [tree.join(name), bed.path("back").join(name)].map(|path| fs::metadata(path).unwrap());
        assert_eq!(after.len(), before.len());
        assert!(after.blocks() <= before.blocks() + 64, "{name}: {} after {}", after.blocks(), before.blocks());
    }
    let read = |root: &Path, place: u64| {
        let mut bytes = vec![0; 20_000];
        File::open(root.join("image")).unwrap().read_at(&mut bytes, place).unwrap();
        bytes
    };
    for place in places.into_iter().chain([TIB / 4]) {
        let from = place.saturating_sub(5_000);
        assert!(read(&tree, from) == read(&bed.path("back"), from), "{place}");
    }
}

/// Holes of all lengths and places, some shorter than a chunk: every byte is there, and the cuts are those of a file without holes.
#[test]
fn a_file_with_holes_is_stored_as_one_without() {
    let bed = Bed::new(false);
    let (tree, full) = (bed.path("tree"), bed.path("full"));
    fs::create_dir(&tree).unwrap();
    fs::create_dir(&full).unwrap();
    let places: Vec<u64> = (0..20u64).map(|n| n * n * 150_001 + (n % 3) * 4096).collect();
    if !sparse(&tree.join("file"), 60_000_000, &places) {
        return;
    }
    let bytes = fs::read(tree.join("file")).unwrap();
    fs::write(full.join("file"), &bytes).unwrap();
    let repo = bed.open();
    let reports = [&tree, &full].map(|root| run(&repo, &source(&[root], &[]), 1));
    let entries = reports.each_ref().map(|report| listing(&repo, report).remove(0));
    assert_eq!(entries[0].root, entries[1].root);
    let holes = entries[0].meta.as_ref().unwrap().holes;
    assert!(holes > 55_000_000, "{holes}");
    assert_eq!(entries[1].meta.as_ref().unwrap().holes, 0);
    let read = reports.each_ref().map(|report| report.record.stats.read_bytes);
    assert!(read[0] < read[1] / 2, "{read:?}");
    for (n, report) in reports.iter().enumerate() {
        let back = bed.path(&format!("back{n}"));
        restore(&repo, report, &back);
        assert!(fs::read(back.join("file")).unwrap() == bytes);
        let taken = fs::metadata(back.join("file")).unwrap().blocks() * 512;
        assert_eq!(taken < 4 << 20, n == 0, "{taken}");
    }
}
