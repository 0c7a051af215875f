//! The second backup of a tree: only what changed is stored, and what is proved to be unchanged is not read.

use std::fs;
use std::time::{Duration, SystemTime};

use icecore::recorded::EntryKind;

use super::harness::{kind_of, listing, look, names, noise, restore, run, source, source_at, touch};
use super::support::{Bed, add_rows, make_database, stream};

/// So late that all files are settled.
fn later() -> SystemTime {
    SystemTime::now() + Duration::from_secs(3600)
}

fn next_day() -> SystemTime {
    later() + Duration::from_secs(24 * 3600)
}

/// Fifty files of 10,000 bytes and a database.
fn make_tree(bed: &Bed) -> std::path::PathBuf {
    let tree = bed.path("tree");
    fs::create_dir(&tree).unwrap();
    for n in 0..50 {
        fs::write(tree.join(format!("f{n:02}")), noise(n, 10_000)).unwrap();
    }
    drop(make_database(&tree.join("db"), 100));
    tree
}

#[test]
fn one_changed_file_is_all_that_is_stored() {
    let bed = Bed::new(true);
    let tree = make_tree(&bed);
    let repo = bed.open();
    run(&repo, &source(&[&tree], &[]), 1);
    fs::write(tree.join("f20"), noise(1000, 10_000)).unwrap();
    let report = run(&repo, &source(&[&tree], &[]), 2);
    assert!((10_000..20_000).contains(&report.record.stats.new_plain_bytes), "{:?}", report.record.stats);
    assert!(stream(&repo, &report.id, "f20").unwrap() == noise(1000, 10_000));
    assert!(stream(&repo, &report.id, "f21").unwrap() == noise(21, 10_000));
}

#[test]
fn what_is_proved_unchanged_is_not_read() {
    let bed = Bed::new(true);
    let tree = make_tree(&bed);
    let source = source_at(&[&tree], &[], later);
    let repo = bed.open();
    let first = run(&repo, &source, 1);
    assert_eq!(first.unchanged_streams, 0);
    let second = run(&repo, &source, 2);
    assert_eq!(second.unchanged_streams, 51);
    // Nothing but the listing of 51 entries.
    assert!(second.record.stats.read_bytes < 51 * 150, "{:?}", second.record.stats);
    assert_eq!(listing(&repo, &second), listing(&repo, &first));

    fs::write(tree.join("f20"), noise(1000, 9_000)).unwrap();
    // Same size and modification time, other content: only the change time tells.
    let metadata = fs::metadata(tree.join("f30")).unwrap();
    fs::write(tree.join("f30"), noise(1001, 10_000)).unwrap();
    use std::os::unix::fs::MetadataExt;
    touch(&tree.join("f30"), metadata.mtime(), metadata.mtime_nsec());
    add_rows(&rusqlite::Connection::open(tree.join("db")).unwrap(), 100, 1);
    let third = run(&repo, &source, 3);
    assert_eq!(third.unchanged_streams, 48);
    assert!(stream(&repo, &third.id, "f20").unwrap() == noise(1000, 9_000));
    assert!(stream(&repo, &third.id, "f30").unwrap() == noise(1001, 10_000));
    restore(&repo, &third, &bed.path("back"));
    assert_eq!(look(&bed.path("back")), look(&tree));

    let daily = run(&repo, &source_at(&[&tree], &[], next_day), 4);
    assert_eq!(daily.unchanged_streams, 0, "once a day everything is read");
}

#[test]
fn a_young_file_has_no_stamp() {
    let bed = Bed::new(false);
    let tree = bed.path("tree");
    fs::create_dir(&tree).unwrap();
    fs::write(tree.join("file"), "x").unwrap();
    // Its change time is now, or a moment ago.
    let source = source_at(&[&tree], &[], SystemTime::now);
    let repo = bed.open();
    let reports = [1, 2].map(|time| run(&repo, &source, time));
    assert_eq!(reports.map(|report| report.unchanged_streams), [0, 0]);
}

#[test]
fn names_of_one_file_come_and_go() {
    let bed = Bed::new(false);
    let tree = bed.path("tree");
    fs::create_dir(&tree).unwrap();
    fs::write(tree.join("m"), noise(1, 5000)).unwrap();
    fs::hard_link(tree.join("m"), tree.join("n")).unwrap();
    let source = source_at(&[&tree], &[], later);
    let repo = bed.open();
    run(&repo, &source, 1);
    fs::hard_link(tree.join("m"), tree.join("a")).unwrap();
    fs::remove_file(tree.join("m")).unwrap();
    let report = run(&repo, &source, 2);
    assert_eq!(kind_of(&repo, &report, "a"), EntryKind::File);
    assert_eq!(kind_of(&repo, &report, "n"), EntryKind::HardLink(b"a".to_vec()));
    fs::remove_file(tree.join("a")).unwrap();
    let report = run(&repo, &source, 3);
    assert_eq!(kind_of(&repo, &report, "n"), EntryKind::File);
    assert!(stream(&repo, &report.id, "n").unwrap() == noise(1, 5000));
    let report = run(&repo, &source, 4);
    assert_eq!(report.unchanged_streams, 1);
    restore(&repo, &report, &bed.path("back"));
    assert_eq!(look(&bed.path("back")), look(&tree));
}

#[test]
fn an_unchanged_file_becomes_a_further_name() {
    let bed = Bed::new(false);
    let tree = bed.path("tree");
    fs::create_dir_all(tree.join("a")).unwrap();
    fs::write(tree.join("n"), noise(1, 5000)).unwrap();
    fs::hard_link(tree.join("n"), tree.join("a/m")).unwrap();
    let repo = bed.open();
    let report = run(&repo, &source_at(&[&tree], &[&tree.join("a")], later), 1);
    assert_eq!(names(&repo, &report), ["n"]);
    let report = run(&repo, &source_at(&[&tree], &[], later), 2);
    assert_eq!(kind_of(&repo, &report, "a/m"), EntryKind::File);
    assert_eq!(kind_of(&repo, &report, "n"), EntryKind::HardLink(b"a/m".to_vec()));
}

#[test]
fn a_file_becomes_a_directory_and_a_database() {
    let bed = Bed::new(true);
    let tree = bed.path("tree");
    fs::create_dir(&tree).unwrap();
    fs::write(tree.join("x"), noise(1, 5000)).unwrap();
    fs::write(tree.join("y"), noise(2, 5000)).unwrap();
    let source = source_at(&[&tree], &[], later);
    let repo = bed.open();
    let mut reports = vec![(run(&repo, &source, 1), look(&tree))];
    fs::remove_file(tree.join("x")).unwrap();
    fs::create_dir(tree.join("x")).unwrap();
    fs::write(tree.join("x/file"), noise(1, 5000)).unwrap();
    fs::remove_file(tree.join("y")).unwrap();
    drop(make_database(&tree.join("y"), 10));
    reports.push((run(&repo, &source, 2), look(&tree)));
    fs::remove_file(tree.join("y")).unwrap();
    fs::write(tree.join("y"), "a file again").unwrap();
    fs::remove_dir_all(tree.join("x")).unwrap();
    std::os::unix::fs::symlink("y", tree.join("x")).unwrap();
    reports.push((run(&repo, &source, 3), look(&tree)));
    for (n, (report, expected)) in reports.iter().enumerate() {
        let back = bed.path(&format!("back{n}"));
        restore(&repo, report, &back);
        assert_eq!(look(&back), *expected, "snapshot {n}");
    }
}

#[test]
fn twenty_thousand_small_files() {
    const FILES: usize = 20_000;
    let bed = Bed::new(true);
    let tree = bed.path("tree");
    for n in 0..FILES {
        let dir = tree.join(format!("{}", n % 100));
        if n < 100 {
            fs::create_dir_all(&dir).unwrap();
        }
        fs::write(dir.join(format!("{n}")), format!("file number {n}")).unwrap();
    }
    let source = source_at(&[&tree], &[], later);
    let repo = bed.open();
    let first = run(&repo, &source, 1);
    assert_eq!(first.record.entries as usize, FILES + 100);
    // One for each file, and what the listing is cut into.
    assert!((FILES..FILES + 100).contains(&(first.record.stats.new_chunks as usize)), "{:?}", first.record.stats);
    assert!(first.record.packs.len() <= 2, "{}", first.record.packs.len());
    let second = run(&repo, &source, 2);
    assert_eq!((second.unchanged_streams, second.record.stats.new_chunks), (FILES, 0));
    assert_eq!(names(&repo, &second).len(), FILES + 100);
    for n in [0, 9_999, FILES - 1] {
        assert_eq!(stream(&repo, &second.id, &format!("{}/{n}", n % 100)).unwrap(), format!("file number {n}").into_bytes());
    }
}
