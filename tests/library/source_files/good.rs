//! What a capture lacks, of what the newest good state of each stream has, is flagged; what a user did to files is not.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};

use icecore::engine::files::Selection;
use icecore::id::SnapshotId;
use icecore::ops::backup::BackupReport;
use icecore::ops::check::{CheckOptions, check};
use icecore::ops::mark::{Author, Statement, mark};
use icecore::ops::prune::{PruneOptions, prune};
use icecore::progress::{Monitor, Silent};
use icecore::store::format::mark::MarkKind;
use icecore::store::repo::Repository;
use rusqlite::Connection;

use super::harness::{names, noise, run, selected, source, source_at, try_run};
use super::locked::Locked;
use super::support::{Bed, forget, stream};

/// A database with about so many bytes that do not compress.
fn fill(path: &Path, bytes: usize) -> Connection {
    let db = Connection::open(path).unwrap();
    db.execute_batch("PRAGMA page_size=4096; CREATE TABLE IF NOT EXISTS t(id INTEGER PRIMARY KEY, x BLOB)").unwrap();
    let tx = db.unchecked_transaction().unwrap();
    for n in 0..bytes / 1000 {
        tx.execute("INSERT INTO t(x) VALUES (?1)", [noise(n as u32, 1000)]).unwrap();
    }
    tx.commit().unwrap();
    db
}

fn flags(report: &BackupReport) -> Vec<(&str, &str)> {
    let flags = report.record.flags.iter();
    flags.map(|flag| (flag.code.as_str(), flag.stream.as_deref().map_or("", |name| std::str::from_utf8(name).unwrap()))).collect()
}

fn accept(repo: &Repository, report: &BackupReport) {
    let statement = Statement { kind: MarkKind::Accept, code: String::new(), detail: String::new() };
    mark(repo, &repo.refresh().unwrap(), &report.id, &statement, &Author::default()).unwrap();
}

fn tree(bed: &Bed) -> std::path::PathBuf {
    let tree = bed.path("tree");
    fs::create_dir(&tree).unwrap();
    tree
}

#[test]
fn a_locked_database_is_flagged_until_it_is_there_again_and_is_then_a_delta() {
    let bed = Bed::new(false);
    let tree = tree(&bed);
    fs::write(tree.join("file"), "x").unwrap();
    let db = fill(&tree.join("db"), 2 << 20);
    let repo = bed.open();
    assert_eq!(flags(&run(&repo, &source(&[&tree], &[]), 1)), []);
    db.execute("UPDATE t SET x = x || 'more' WHERE id = 700", []).unwrap();
    let locked = Locked::new(Command::new("python3"), &tree.join("db"));
    for time in 2..=3 {
        let report = run(&repo, &source(&[&tree], &[]), time);
        assert_eq!(flags(&report), [("incomplete", "db")], "{:?}", report.record.flags);
        assert_eq!(report.record.flags[0].detail, report.skipped[0]);
    }
    drop(locked);
    let back = run(&repo, &source(&[&tree], &[]), 4);
    assert_eq!(flags(&back), []);
    let stats = back.record.stats;
    assert!(
        stats.new_chunks <= 4 && stats.delta_bytes + stats.zstd_bytes + stats.raw_bytes < 10_000,
        "a delta against the last good: {stats:?}"
    );
}

/// What was accepted is no flag again; what is accepted stays known although other streams fail.
#[test]
fn what_is_accepted_is_how_it_is_now() {
    let bed = Bed::new(false);
    let tree = tree(&bed);
    fs::write(tree.join("file"), "x").unwrap();
    drop(fill(&tree.join("a"), 100 << 10));
    drop(fill(&tree.join("b"), 100 << 10));
    let repo = bed.open();
    let take = |time| run(&repo, &source(&[&tree], &[]), time);
    take(1);
    let locked = Locked::new(Command::new("python3"), &tree.join("a"));
    let report = take(2);
    assert_eq!(flags(&report), [("incomplete", "a")]);
    accept(&repo, &report);
    for time in 3..=4 {
        let report = take(time);
        assert_eq!((flags(&report), report.skipped.len()), (vec![], 0), "{:?}", report.record);
        assert_eq!((&report.record.accepted[0].code[..], report.record.accepted[0].stream.as_deref()), ("incomplete", Some(&b"a"[..])));
    }
    let other = Locked::new(Command::new("python3"), &tree.join("b"));
    assert_eq!(flags(&take(5)), [("incomplete", "b")]);
    assert_eq!(flags(&take(6)), [("incomplete", "b")]);
    drop(other);
    assert_eq!(flags(&take(7)), []);
    drop(locked);
    assert_eq!((flags(&take(8)), take(8).record.accepted), (vec![], vec![]));
    let _locked = Locked::new(Command::new("python3"), &tree.join("a"));
    assert_eq!(flags(&take(9)), [("incomplete", "a")], "it was readable in between");
}

#[test]
fn a_tree_with_nothing_in_it_is_flagged() {
    let bed = Bed::new(false);
    let (tree, other) = (tree(&bed), bed.path("other"));
    fs::create_dir(&other).unwrap();
    let repo = bed.open();
    let first = run(&repo, &source(&[&tree], &[]), 1);
    assert_eq!(flags(&first), [("empty", "")], "also the first one");
    assert_eq!(flags(&run(&repo, &source(&[&tree], &[]), 2)), [("empty", "")]);
    accept(&repo, &first);
    assert_eq!(flags(&run(&repo, &source(&[&tree], &[]), 3)), []);
    fs::write(tree.join("small"), "x").unwrap();
    assert_eq!(flags(&run(&repo, &source(&[&tree], &[]), 4)), []);
    fs::remove_file(tree.join("small")).unwrap();
    for time in 5..=6 {
        assert_eq!(flags(&run(&repo, &source(&[&tree], &[]), time)), [("empty", "")], "the volume is not mounted");
    }
    fs::create_dir(tree.join("lost+found")).unwrap();
    assert_eq!(flags(&run(&repo, &source(&[&tree], &[]), 7)), [("empty", "")], "nor is this one");
    // Of several trees only the one is.
    fs::write(tree.join("small"), "x").unwrap();
    fs::write(other.join("file"), "x").unwrap();
    let both = source(&[&tree, &other], &[]);
    assert_eq!(flags(&run(&repo, &both, 1)), []);
    fs::remove_file(other.join("file")).unwrap();
    assert_eq!(flags(&run(&repo, &both, 2)), [("empty", "other")]);
}

#[test]
fn a_database_that_began_anew_is_flagged_until_that_is_accepted() {
    let bed = Bed::new(false);
    let tree = tree(&bed);
    fs::write(tree.join("ballast"), noise(9, 8 << 20)).unwrap();
    let path = tree.join("db");
    drop(fill(&path, 1 << 20));
    let good = fs::read(&path).unwrap();
    let repo = bed.open();
    let take = |time| run(&repo, &source(&[&tree], &[]), time);
    assert_eq!(flags(&take(1)), []);
    fs::write(&path, "").unwrap();
    assert_eq!([flags(&take(2)), flags(&take(3))], [[("empty", "db")], [("empty", "db")]]);
    drop(fill(&path, 8 << 10));
    let small = take(4);
    assert_eq!(flags(&small), [("shrunk", "db")], "the newest good state counts, not the parent");
    fs::write(&path, noise(3, 1 << 20)).unwrap();
    assert_eq!(flags(&take(5)), [("not-a-database", "db")]);
    fs::write(&path, &good).unwrap();
    let back = take(6);
    assert!(flags(&back).is_empty() && back.record.stats.new_chunks <= 1, "nothing but the listing is new: {:?}", back.record.stats);
    assert!(stream(&repo, &back.id, "db").unwrap() == good);
    fs::write(&path, "").unwrap();
    accept(&repo, &take(7));
    assert_eq!(flags(&take(8)), []);
}

/// Pages that are free hold nothing: neither is a VACUUM a loss, nor is a database full that was emptied in place.
#[test]
fn free_pages_do_not_count() {
    let bed = Bed::new(false);
    let tree = tree(&bed);
    let db = fill(&tree.join("db"), 1 << 20);
    let repo = bed.open();
    let take = |time| run(&repo, &source(&[&tree], &[]), time);
    assert_eq!(flags(&take(1)), []);
    let len = fs::metadata(tree.join("db")).unwrap().len();
    db.execute("DELETE FROM t WHERE id % 3 = 0", []).unwrap();
    assert_eq!(flags(&take(2)), []);
    db.execute("DELETE FROM t", []).unwrap();
    assert_eq!(fs::metadata(tree.join("db")).unwrap().len(), len);
    let emptied = take(3);
    assert_eq!(flags(&emptied), [("shrunk", "db")]);
    accept(&repo, &emptied);
    db.execute_batch("VACUUM").unwrap();
    assert_eq!(flags(&take(4)), []);
}

#[test]
fn databases_that_are_gone_are_flagged_unless_a_user_deleted_them() {
    let bed = Bed::new(false);
    let tree = tree(&bed);
    for dir in ["gone", "volume/app", "mixed"] {
        fs::create_dir_all(tree.join(dir)).unwrap();
    }
    for db in ["deleted", "left", "moved", "gone/db", "volume/app/db", "mixed/db"] {
        drop(fill(&tree.join(db), 10_000));
    }
    fs::write(tree.join("ballast"), noise(1, 500_000)).unwrap();
    for file in ["plain", "mixed/plain"] {
        fs::write(tree.join(file), "x").unwrap();
    }
    let repo = bed.open();
    assert_eq!(flags(&run(&repo, &source(&[&tree], &[]), 1)), []);
    for file in ["deleted", "mixed/db", "plain"] {
        fs::remove_file(tree.join(file)).unwrap();
    }
    fs::remove_dir_all(tree.join("gone")).unwrap();
    assert_eq!(flags(&run(&repo, &source(&[&tree], &[]), 2)), [], "a user deleted these");
    fs::remove_file(tree.join("left")).unwrap();
    fs::write(tree.join("left-wal"), "").unwrap();
    fs::rename(tree.join("moved"), bed.path("moved")).unwrap();
    std::os::unix::fs::symlink(bed.path("moved"), tree.join("moved")).unwrap();
    fs::remove_dir_all(tree.join("volume/app")).unwrap();
    for time in 3..=4 {
        let report = run(&repo, &source(&[&tree], &[]), time);
        let mut found = flags(&report);
        found.sort();
        assert_eq!(found, [("missing", "left"), ("missing", "moved"), ("missing", "volume")], "{:?}", report.record.flags);
    }
}

/// Files may be deleted and logs rotated, but not most of everything.
#[test]
fn a_tree_that_lost_most_of_its_bytes_is_flagged_as_a_whole() {
    let bed = Bed::new(false);
    let tree = tree(&bed);
    (0..10).for_each(|n| fs::write(tree.join(format!("f{n}")), noise(n, 30_000)).unwrap());
    let repo = bed.open();
    run(&repo, &source(&[&tree], &[]), 1);
    (0..4).for_each(|n| fs::remove_file(tree.join(format!("f{n}"))).unwrap());
    fs::write(tree.join("f4"), "").unwrap();
    assert_eq!(flags(&run(&repo, &source(&[&tree], &[]), 2)), []);
    (5..8).for_each(|n| fs::remove_file(tree.join(format!("f{n}"))).unwrap());
    assert_eq!(flags(&run(&repo, &source(&[&tree], &[]), 3)), [("shrunk", "")]);
    assert_eq!(flags(&run(&repo, &source(&[&tree], &[]), 4)), [("shrunk", "")]);
}

/// A file that was there once, beside a database that was locked at that moment: what is there now is as much as the last whole snapshot had.
#[test]
fn what_only_a_flagged_snapshot_had_is_not_missed_for_ever() {
    let bed = Bed::new(false);
    let tree = tree(&bed);
    drop(fill(&tree.join("db"), 100 << 10));
    let repo = bed.open();
    run(&repo, &source(&[&tree], &[]), 1);
    let locked = Locked::new(Command::new("python3"), &tree.join("db"));
    fs::write(tree.join("temporary"), noise(1, 1 << 20)).unwrap();
    assert_eq!(flags(&run(&repo, &source(&[&tree], &[]), 2)), [("incomplete", "db")]);
    drop(locked);
    fs::remove_file(tree.join("temporary")).unwrap();
    assert_eq!(flags(&run(&repo, &source(&[&tree], &[]), 3)), []);
}

/// A database that is left out from now on, as somebody has said that its directory is a cache.
#[test]
fn a_database_in_what_has_become_a_cache_is_missed() {
    let bed = Bed::new(false);
    let tree = tree(&bed);
    fs::create_dir(tree.join("sub")).unwrap();
    drop(fill(&tree.join("sub/db"), 10 << 10));
    fs::write(tree.join("file"), "x").unwrap();
    let source = || selected(&[(None, &tree)], Selection { exclude_caches: true, ..Selection::default() }).unwrap();
    let repo = bed.open();
    assert_eq!(flags(&run(&repo, &source(), 1)), []);
    fs::write(tree.join("sub/CACHEDIR.TAG"), "Signature: 8a477f597d28d172789f06886806bc55").unwrap();
    for time in 2..=3 {
        let report = run(&repo, &source(), time);
        assert_eq!(flags(&report), [("missing", "sub")]);
        assert!(report.record.flags[0].detail.contains("says that it is a cache"), "{:?}", report.record.flags);
    }
}

/// Forgets a snapshot and prunes what it had, when a backup is about to commit.
struct Meanwhile<'b> {
    bed: &'b Bed,
    doomed: SnapshotId,
    done: AtomicBool,
}

impl Monitor for Meanwhile<'_> {
    fn phase(&self, name: &'static str, _total_bytes: Option<u64>) {
        if name == "committing" && !self.done.swap(true, Ordering::SeqCst) {
            let repo = self.bed.open_as("repo", "another cache", 1);
            assert_eq!(forget(&repo, &[self.doomed], true).forgotten, [self.doomed]);
            let now_ns = 1_000_000_000_000_000;
            let options = PruneOptions { grace_ns: 0, now_ns, host: "test".into(), unused_max_permille: 0, repack_bytes_max: None };
            assert!(prune(&repo, &options, &Silent).unwrap().deleted > 0);
        }
    }

    fn advance(&self, _bytes: u64) {}

    fn warn(&self, _message: &str) {}

    fn cancelled(&self) -> bool {
        false
    }
}

/// The trees of a stream come from an older snapshot than the parent; a prune takes that away before the commit. Nothing has changed, so that the new
/// snapshot uses no pack by name.
#[test]
fn a_good_state_that_is_pruned_while_it_is_inherited_is_noticed() {
    let bed = Bed::new(false);
    let tree = tree(&bed);
    fs::write(tree.join("file"), "x").unwrap();
    drop(fill(&tree.join("db"), 2 << 20));
    let repo = bed.open();
    let good = run(&repo, &source(&[&tree], &[]), 1);
    let locked = Locked::new(Command::new("python3"), &tree.join("db"));
    assert_eq!(flags(&run(&repo, &source(&[&tree], &[]), 2)), [("incomplete", "db")]);
    drop(locked);
    let meanwhile = Meanwhile { bed: &bed, doomed: good.id, done: AtomicBool::new(false) };
    let report = try_run(&repo, &source(&[&tree], &[]), 3, &meanwhile).unwrap();
    assert!(meanwhile.done.load(Ordering::SeqCst));
    assert!(stream(&repo, &report.id, "db").unwrap() == fs::read(tree.join("db")).unwrap());
    let found = check(&repo, &CheckOptions::read_all(), &Silent).unwrap().findings;
    assert!(found.is_empty(), "{found:?}");
}

/// So late that all files are settled.
fn later() -> std::time::SystemTime {
    std::time::SystemTime::now() + std::time::Duration::from_secs(3600)
}

/// One damaged database in a tree: each step of the others is still a small delta, and it is read again each time.
#[test]
fn a_damaged_database_does_not_make_the_others_dear() {
    let bed = Bed::new(false);
    let tree = tree(&bed);
    let db = fill(&tree.join("good"), 3 << 20);
    drop(fill(&tree.join("bad"), 100_000));
    fs::write(tree.join("file"), "x").unwrap();
    let repo = bed.open();
    let take = |time| run(&repo, &source_at(&[&tree], &[], later), time);
    assert_eq!(flags(&take(1)), []);
    let mut file = fs::File::options().write(true).open(tree.join("bad")).unwrap();
    std::io::Seek::seek(&mut file, std::io::SeekFrom::Start(5 * 4096)).unwrap();
    file.write_all(&[0x55; 4096]).unwrap();
    drop(file);
    let first = take(2);
    let detail = first.record.flags[0].detail.clone();
    for time in 3..=8 {
        db.execute("UPDATE t SET x = x || 'more' WHERE id = ?1", [time * 100]).unwrap();
        let report = take(time);
        assert_eq!(flags(&report), [("damaged", "bad")], "though its file looks as it did");
        assert_eq!(report.record.parent, repo.refresh().unwrap().snapshots.iter().rev().nth(1).map(|(id, _)| *id));
        assert!(report.record.stats.pack_bytes < 40_000, "step {time}: {:?}", report.record.stats);
        assert!(report.unchanged_streams >= 1, "what is good is not read again");
    }
    // The same damage is accepted once; more of it is not.
    accept(&repo, &take(9));
    let report = take(10);
    assert_eq!((flags(&report), &report.record.accepted[0].detail), (vec![], &detail));
    fs::write(tree.join("bad"), [&fs::read(tree.join("bad")).unwrap()[..8 * 4096], &[0x55; 8 * 4096]].concat()).unwrap();
    assert_eq!(flags(&take(11)).first().map(|(_, stream)| *stream), Some("bad"));
    assert!(names(&repo, &take(12)).contains(&"bad".to_owned()));
}
