//! Databases in a tree: read through the engine one at a time, never silently as something else.

use std::fs;
use std::path::Path;
use std::process::Command;

use icecore::recorded::EntryKind;
use rusqlite::Connection;

use super::harness::{Meddler, kind_of, line_about, names, restore, run, source, source_at, try_run};
use super::support::{Bed, add_rows, make_database, stream};
use super::trees::content;

fn is_database(kind: &EntryKind) -> bool {
    matches!(kind, EntryKind::Sqlite(_))
}

#[test]
fn what_sqlite_refuses_is_stored_as_it_is_and_said() {
    let bed = Bed::new(false);
    let tree = bed.path("tree");
    fs::create_dir(&tree).unwrap();
    drop(make_database(&tree.join("good"), 10));
    let mut bytes = fs::read(tree.join("good")).unwrap();
    bytes[16..18].copy_from_slice(&[0, 3]);
    fs::write(tree.join("bad"), &bytes).unwrap();
    fs::write(tree.join("bad-wal"), "some log").unwrap();
    fs::write(tree.join("bad.txt"), "sorts between the database and nothing").unwrap();
    let repo = bed.open();
    for time in 1..=2 {
        let report = run(&repo, &source_at(&[&tree], &[], later), time);
        assert_eq!(kind_of(&repo, &report, "bad"), EntryKind::File);
        assert_eq!(kind_of(&repo, &report, "bad-wal"), EntryKind::File);
        assert!(is_database(&kind_of(&repo, &report, "good")));
        assert_eq!(report.skipped.len(), 1, "also when it was so the last time: {:?}", report.skipped);
        assert!(line_about(&report, "/bad: ").contains("stored as a plain file"));
        assert!(stream(&repo, &report.id, "bad").unwrap() == bytes);
        assert!(stream(&repo, &report.id, "bad-wal").unwrap() == b"some log");
    }
}

/// So late that all files are settled.
fn later() -> std::time::SystemTime {
    std::time::SystemTime::now() + std::time::Duration::from_secs(3600)
}

#[test]
fn a_locked_database_is_skipped_and_said() {
    let bed = Bed::new(false);
    let tree = bed.path("tree");
    fs::create_dir(&tree).unwrap();
    fs::write(tree.join("file"), "x").unwrap();
    drop(make_database(&tree.join("db"), 10));
    // Another process: the locks of this one do not stop itself.
    let script = format!(
        "import sqlite3,sys\nc=sqlite3.connect({:?},isolation_level=None)\nc.execute('BEGIN EXCLUSIVE')\nprint('held',flush=True)\nsys.stdin.read()",
        tree.join("db").to_str().unwrap()
    );
    let mut holder = Command::new("python3")
        .args(["-c", &script])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    std::io::BufRead::read_line(&mut std::io::BufReader::new(holder.stdout.take().unwrap()), &mut String::new()).unwrap();
    let repo = bed.open();
    let report = run(&repo, &source(&[&tree], &[]), 1);
    drop(holder.stdin.take());
    holder.wait().unwrap();
    assert_eq!(names(&repo, &report), ["file"]);
    assert!(line_about(&report, "/db: ").contains("skipped: locked"));
    let report = run(&repo, &source(&[&tree], &[]), 2);
    assert_eq!(names(&repo, &report), ["db", "file"]);
}

#[test]
fn a_database_with_two_names_is_read_through_the_one_with_the_log() {
    let bed = Bed::new(false);
    let (tree, back) = (bed.path("tree"), bed.path("back"));
    fs::create_dir_all(tree.join("sub")).unwrap();
    let db = make_database(&tree.join("sub/real"), 50);
    fs::hard_link(tree.join("sub/real"), tree.join("alias")).unwrap();
    db.pragma_update(None, "journal_mode", "wal").unwrap();
    db.pragma_update(None, "wal_autocheckpoint", 0).unwrap();
    add_rows(&db, 1000, 100);
    let repo = bed.open();
    let monitor = Meddler::default();
    let report = try_run(&repo, &source(&[&tree], &[]), 1, &monitor).unwrap();
    assert_eq!(report.skipped, Vec::<String>::new());
    assert_eq!(names(&repo, &report), ["alias", "sub", "sub/real"]);
    assert!(monitor.warnings.lock().unwrap().iter().any(|line| line.contains("several names")));
    assert!(!tree.join("alias-wal").exists() && !tree.join("alias-shm").exists(), "it was not opened under this name");
    restore(&repo, &report, &back);
    for name in ["alias", "sub/real"] {
        assert!(is_database(&kind_of(&repo, &report, name)));
        assert!(content(&Connection::open(back.join(name)).unwrap()) == content(&db), "{name}");
    }
}

#[test]
fn a_database_that_cannot_be_opened_under_two_names_is_stored_once() {
    let bed = Bed::new(false);
    let tree = bed.path("tree");
    fs::create_dir(&tree).unwrap();
    fs::write(tree.join("a"), b"SQLite format 3\0 and then nothing that makes sense").unwrap();
    fs::hard_link(tree.join("a"), tree.join("b")).unwrap();
    fs::write(tree.join("b-wal"), "not a log").unwrap();
    let repo = bed.open();
    let report = run(&repo, &source(&[&tree], &[]), 1);
    assert_eq!(kind_of(&repo, &report, "a"), EntryKind::File);
    assert_eq!(kind_of(&repo, &report, "b"), EntryKind::HardLink(b"a".to_vec()));
    assert_eq!(kind_of(&repo, &report, "b-wal"), EntryKind::File);
    assert_eq!(report.skipped.len(), 2, "{:?}", report.skipped);
}

/// Whether another process can write to the database now.
fn can_write(path: &Path) -> bool {
    let script = format!(
        "import sqlite3\nc=sqlite3.connect({:?},timeout=0)\nc.execute(\"INSERT INTO memory(key, body) VALUES ('k', 'from outside')\")\nc.commit()",
        path.to_str().unwrap()
    );
    Command::new("python3").args(["-c", &script]).stderr(std::process::Stdio::null()).status().unwrap().success()
}

#[test]
fn a_database_is_let_go_as_soon_as_it_has_been_read() {
    for (name, free) in [("a", false), ("b", true)] {
        // Afresh: in a second backup the probe of this process would drop the locks that a first one had forgotten to give up.
        let bed = Bed::new(true);
        let tree = bed.path("tree");
        fs::create_dir(&tree).unwrap();
        drop(make_database(&tree.join("a"), 20));
        fs::write(tree.join("b"), vec![1; 100]).unwrap();
        let (database, written) = (tree.join("a"), std::sync::Mutex::new(Vec::new()));
        let seen = std::sync::atomic::AtomicU64::new(0);
        let watch = WriteWhen { at: name, database: &database, written: &written, bytes: &seen };
        try_run(&bed.open(), &source(&[&tree], &[]), 1, &watch).unwrap();
        assert_eq!(written.lock().unwrap().pop(), Some(free), "writing while {name} is being read");
    }
}

/// Tries to write to the database when the bytes of one file are reported.
struct WriteWhen<'a> {
    at: &'a str,
    database: &'a Path,
    written: &'a std::sync::Mutex<Vec<bool>>,
    bytes: &'a std::sync::atomic::AtomicU64,
}

impl icecore::progress::Monitor for WriteWhen<'_> {
    fn phase(&self, _name: &'static str, _total_bytes: Option<u64>) {}
    fn warn(&self, _message: &str) {}
    fn cancelled(&self) -> bool {
        false
    }
    fn advance(&self, bytes: u64) {
        let first = self.bytes.fetch_add(bytes, std::sync::atomic::Ordering::SeqCst) == 0;
        if (self.at == "a" && first) || (self.at == "b" && bytes == 100) {
            self.written.lock().unwrap().push(can_write(self.database));
        }
    }
}

#[test]
fn many_databases_do_not_use_up_descriptors() {
    let bed = Bed::new(false);
    let tree = bed.path("tree");
    fs::create_dir(&tree).unwrap();
    drop(make_database(&tree.join("0000"), 3));
    for n in 1..40 {
        fs::copy(tree.join("0000"), tree.join(format!("{n:04}"))).unwrap();
    }
    let open = || {
        fs::read_dir("/proc/self/fd")
            .unwrap()
            .filter_map(|fd| fs::read_link(fd.ok()?.path()).ok())
            .filter(|to| to.starts_with(&tree))
            .count()
    };
    let worst = std::sync::Mutex::new(0);
    let repo = bed.open();
    struct Count<'a>(&'a (dyn Fn() -> usize + Sync), &'a std::sync::Mutex<usize>);
    impl icecore::progress::Monitor for Count<'_> {
        fn phase(&self, _name: &'static str, _total_bytes: Option<u64>) {}
        fn warn(&self, _message: &str) {}
        fn cancelled(&self) -> bool {
            let mut worst = self.1.lock().unwrap();
            *worst = self.0().max(*worst);
            false
        }
        fn advance(&self, _bytes: u64) {}
    }
    let report = try_run(&repo, &source(&[&tree], &[]), 1, &Count(&open, &worst)).unwrap();
    assert_eq!((report.record.entries, report.skipped.len()), (40, 0));
    let worst = *worst.lock().unwrap();
    assert!((1..=4).contains(&worst), "the directory, and one database: {worst}");
}
