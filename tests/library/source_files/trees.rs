//! A tree comes back as it was.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use icecore::ops::check::{CheckOptions, check};
use icecore::progress::Silent;
use icecore::recorded::EntryKind;

use super::harness::{kind_of, listing, look, names, noise, restore, run, source, touch};
use super::support::{Bed, add_rows, make_database};

fn mode(path: &Path, bits: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(bits)).unwrap();
}

/// All sorts of names, links, modes and times, without databases.
fn odd_tree(root: &Path) {
    for dir in ["", "empty", "a", "a/b", "a/b/c", "links", "closed", "odd-wal"] {
        fs::create_dir_all(root.join(dir)).unwrap();
    }
    for (n, name) in
        ["plain", "a.txt", "a/x", "a/b/c/deep", "new\nline", " space ", "-rf", "\u{1F9CA}", "a-b", "odd-wal/x"].iter().enumerate()
    {
        fs::write(root.join(name), noise(n as u32, n * 1000)).unwrap();
    }
    fs::write(root.join(OsStr::from_bytes(b"not \xff\xfe utf-8")), "bytes").unwrap();
    fs::write(root.join("n".repeat(255)), "long").unwrap();
    fs::write(root.join("large"), noise(99, 3 << 20)).unwrap();
    fs::write(root.join("orphan-wal"), "beside no database").unwrap();
    fs::hard_link(root.join("large"), root.join("a/also large")).unwrap();
    fs::hard_link(root.join("large"), root.join("z")).unwrap();
    fs::hard_link(root.join("plain"), root.join("links/empty one")).unwrap();
    symlink("nowhere", root.join("links/dangling")).unwrap();
    symlink("/etc/passwd", root.join("links/absolute")).unwrap();
    symlink("loop2", root.join("links/loop1")).unwrap();
    symlink("loop1", root.join("links/loop2")).unwrap();
    symlink("..", root.join("links/up")).unwrap();
    symlink(OsStr::from_bytes(b"\xff\n"), root.join("links/odd target")).unwrap();
    mode(&root.join("a.txt"), 0o400);
    mode(&root.join("a-b"), 0o4755);
    mode(&root.join("closed"), 0o000);
    mode(&root.join("a/b"), 0o2750);
    touch(&root.join("a.txt"), 1_000_000_000, 123_456_789);
    touch(&root.join("a/x"), -1, 999_999_999);
    touch(&root.join("a/b/c"), 4_000_000_000, 1);
    touch(&root.join("empty"), 0, 0);
    touch(&root.join("links/dangling"), 7, 7);
}

#[test]
fn a_tree_comes_back_as_it_was() {
    let bed = Bed::new(true);
    let (tree, back) = (bed.path("tree"), bed.path("back"));
    odd_tree(&tree);
    let repo = bed.open();
    let report = run(&repo, &source(&[&tree], &[]), 1);
    assert_eq!(report.skipped, Vec::<String>::new());
    assert_eq!(report.record.flags, []);
    assert_eq!(kind_of(&repo, &report, "z"), EntryKind::HardLink(b"a/also large".to_vec()));
    assert_eq!(kind_of(&repo, &report, "links/up"), EntryKind::Symlink(b"..".to_vec()));
    restore(&repo, &report, &back);
    assert_eq!(look(&back), look(&tree));
    assert!(check(&repo, &CheckOptions::read_all(), &Silent).unwrap().findings.is_empty());
}

#[test]
fn the_same_tree_gives_the_same_listing() {
    let bed = Bed::new(false);
    let tree = bed.path("tree");
    odd_tree(&tree);
    let repo = bed.open();
    let reports = [1, 2].map(|time| run(&repo, &source(&[&tree], &[]), time));
    assert_eq!(listing(&repo, &reports[0]), listing(&repo, &reports[1]));
    assert_eq!(reports[0].record.listing, reports[1].record.listing);
    assert_eq!(reports[1].record.stats.new_chunks, 0);
    assert_eq!(reports[1].record.parent, Some(reports[0].id));
}

#[test]
fn the_repository_in_the_tree_is_left_out() {
    let bed = Bed::new(true);
    fs::create_dir(bed.path("data")).unwrap();
    fs::write(bed.path("data/file"), "x").unwrap();
    fs::write(bed.path("repository"), "not the repository").unwrap();
    // With the cache left in, its catalog would be probed while this process has it open, and lose its locks. It is not there yet.
    let source = source(&[bed.dir.path()], &[&bed.path("repo"), &bed.path("cache")]);
    assert!(!bed.path("cache").exists());
    let repo = bed.open();
    let reports = [1, 2].map(|time| run(&repo, &source, time));
    for report in &reports {
        assert_eq!(names(&repo, report), ["data", "data/file", "repository"]);
        assert_eq!(report.skipped, Vec::<String>::new());
    }
}

#[test]
fn a_data_directory_with_databases_comes_back() {
    let bed = Bed::new(true);
    let (tree, back) = (bed.path("tree"), bed.path("back"));
    odd_tree(&tree);
    let logged = make_database(&tree.join("a/logged.db"), 200);
    logged.pragma_update(None, "journal_mode", "wal").unwrap();
    logged.pragma_update(None, "wal_autocheckpoint", 0).unwrap();
    add_rows(&logged, 5000, 300);
    let rolled = make_database(&tree.join("db"), 300);
    let repo = bed.open();
    let report = run(&repo, &source(&[&tree], &[]), 1);
    assert_eq!(report.skipped, Vec::<String>::new());
    assert_eq!(report.record.flags, []);
    assert!(tree.join("a/logged.db-wal").metadata().unwrap().len() > 0, "the log still has content");
    let found = names(&repo, &report);
    assert!(!found.iter().any(|name| name.starts_with("a/logged.db-")), "{found:?}");
    assert!(found.contains(&"odd-wal/x".to_string()) && found.contains(&"orphan-wal".to_string()));
    restore(&repo, &report, &back);
    let (mut before, mut after) = (look(&tree), look(&back));
    for name in ["a/logged.db", "a/logged.db-wal", "a/logged.db-shm"] {
        before.remove(name.as_bytes());
        after.remove(name.as_bytes());
    }
    assert_eq!(after, before);
    for (name, db) in [("a/logged.db", &logged), ("db", &rolled)] {
        let restored = rusqlite::Connection::open(back.join(name)).unwrap();
        assert!(content(&restored) == content(db), "{name}");
    }
}

/// All rows.
pub fn content(db: &rusqlite::Connection) -> Vec<(i64, String, String)> {
    let mut rows = db.prepare("SELECT id, key, body FROM memory ORDER BY id").unwrap();
    let rows = rows.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?))).unwrap();
    rows.map(Result::unwrap).collect()
}
