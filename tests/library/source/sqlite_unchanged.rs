//! A database is taken as unchanged only when the file system proves it.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Once;
use std::time::{Duration, SystemTime};

use icecore::engine::sqlite::SqliteSource;
use icecore::engine::{Body, Source, Stamp};
use icecore::progress::Monitor;
use rusqlite::Connection;

use super::support::*;

type Known = HashMap<Vec<u8>, Stamp>;

fn at(clock: fn() -> SystemTime, databases: &[(&str, &Path)]) -> SqliteSource {
    let mut options = options();
    options.clock = clock;
    source_with(databases, options)
}

fn soon() -> SystemTime {
    SystemTime::now() + Duration::from_secs(10)
}

/// The stamps of a capture that read everything.
fn stamps(path: &Path) -> Known {
    let captured = capture_from(&at(soon, &[("db", path)]), &Known::new()).unwrap();
    assert!(captured.streams["db"].bytes.is_some());
    assert_eq!(captured.report.stamps.len(), 1);
    captured.report.stamps
}

fn is_unchanged(path: &Path, known: &Known) -> bool {
    capture_from(&at(soon, &[("db", path)]), known).unwrap().streams["db"].bytes.is_none()
}

fn make_closed(path: &Path, mode: &str) {
    drop(make(path, 4096, mode));
    // Closes as an application does.
    let conn = Connection::open(path).unwrap();
    conn.query_row("SELECT count(*) FROM t", [], |_| Ok(())).unwrap();
}

#[test]
fn unchanged_until_something_is_written() {
    for mode in ["delete", "wal"] {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.db");
        make_closed(&path, mode);
        let known = stamps(&path);
        let captured = capture_from(&at(soon, &[("db", &path)]), &known).unwrap();
        assert!(captured.streams["db"].bytes.is_none());
        assert_eq!(captured.streams["db"].facts.user_version, 42);
        assert_eq!(captured.report.stamps, known, "the time of reading must not move");
        assert_eq!(captured.fact("instant"), Some("proven"));
        // Other streams' stamps do not help.
        let renamed = known.values().map(|stamp| (b"other".to_vec(), stamp.clone())).collect();
        assert!(!is_unchanged(&path, &renamed));
        let conn = Connection::open(&path).unwrap();
        conn.execute("UPDATE t SET v=randomblob(300) WHERE id<200", []).unwrap();
        assert!(!is_unchanged(&path, &known), "{mode}, open");
        drop(conn);
        assert!(!is_unchanged(&path, &known), "{mode}, closed");
    }
}

#[test]
fn an_update_that_leaves_size_and_page_1_as_they_were() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.db");
    make_closed(&path, "wal");
    // An entry of an index would move to another page, which now and then has to be split, and page 1 counts pages.
    Connection::open(&path).unwrap().execute_batch("DROP INDEX ti; VACUUM").unwrap();
    let before = std::fs::read(&path).unwrap();
    let known = stamps(&path);
    let conn = Connection::open(&path).unwrap();
    conn.execute("UPDATE t SET v=randomblob(300) WHERE id=7", []).unwrap();
    drop(conn);
    let after = std::fs::read(&path).unwrap();
    assert!(!beside(&path, "-wal").exists());
    assert_eq!((before.len(), &before[..4096]), (after.len(), &after[..4096]));
    assert_ne!(before, after);
    assert!(!is_unchanged(&path, &known));
}

#[test]
fn a_file_of_the_same_size_and_time_copied_over() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.db");
    make_closed(&path, "delete");
    let known = stamps(&path);
    let mut bytes = std::fs::read(&path).unwrap();
    let mtime = std::fs::metadata(&path).unwrap().modified().unwrap();
    let at = bytes.len() - 100;
    bytes[at] ^= 1;
    std::fs::write(&path, &bytes).unwrap();
    std::fs::File::options().write(true).open(&path).unwrap().set_modified(mtime).unwrap();
    assert_eq!(std::fs::metadata(&path).unwrap().modified().unwrap(), mtime);
    assert!(!is_unchanged(&path, &known));
}

#[test]
fn a_fresh_change_gets_no_stamp() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.db");
    make_closed(&path, "delete");
    let now = capture(&[("db", &path)]).unwrap();
    assert!(now.report.stamps.is_empty(), "the last change is less than 2 s old");
    let past = capture_from(&at(|| SystemTime::UNIX_EPOCH, &[("db", &path)]), &Known::new()).unwrap();
    assert!(past.report.stamps.is_empty());
}

#[test]
fn a_journal_means_no_stamp() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.db");
    drop(make(&path, 4096, "persist"));
    assert!(beside(&path, "-journal").exists());
    let captured = capture_from(&at(soon, &[("db", &path)]), &Known::new()).unwrap();
    assert!(captured.report.stamps.is_empty());
    // A journal that has come since: not unchanged.
    let path = dir.path().join("b.db");
    make_closed(&path, "delete");
    let known = stamps(&path);
    std::fs::write(beside(&path, "-journal"), b"").unwrap();
    assert!(!is_unchanged(&path, &known));
}

#[test]
fn a_log_that_comes_or_goes_is_a_change() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.db");
    drop(make(&path, 4096, "wal"));
    let known = stamps(&path);
    assert!(is_unchanged(&path, &known));
    let (wal, aside) = (beside(&path, "-wal"), dir.path().join("aside"));
    std::fs::rename(&wal, &aside).unwrap();
    assert!(!is_unchanged(&path, &known));
    std::fs::copy(&aside, &wal).unwrap();
    assert!(!is_unchanged(&path, &known), "another inode");
}

#[test]
fn once_a_day_it_is_read_all_the_same() {
    const HOUR: Duration = Duration::from_secs(3600);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.db");
    make_closed(&path, "delete");
    let read_at = |clock, known: &Known| {
        let captured = capture_from(&at(clock, &[("db", &path)]), known).unwrap();
        (captured.streams["db"].bytes.is_some(), captured.report.stamps)
    };
    let known = stamps(&path);
    let (read, later) = read_at(|| SystemTime::now() + 23 * HOUR, &known);
    assert!(!read);
    assert!(read_at(|| SystemTime::now() + 25 * HOUR, &later).0);
    // A clock that went back proves nothing.
    assert!(read_at(SystemTime::now, &known).0);
}

#[test]
fn damaged_stamps_are_no_stamps() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.db");
    make_closed(&path, "delete");
    let good = stamps(&path).remove(b"db".as_slice()).unwrap().0;
    let with = |bytes: &[u8]| Known::from([(b"db".to_vec(), Stamp(bytes.to_vec()))]);
    for cut in 0..good.len() {
        assert!(!is_unchanged(&path, &with(&good[..cut])), "cut at {cut}");
    }
    assert!(!is_unchanged(&path, &with(&[good.as_slice(), &[0]].concat())));
    assert!(!is_unchanged(&path, &with(&[0xFD; 100])));
    for at in 0..good.len() {
        let mut bad = good.clone();
        bad[at] ^= 0x80;
        // The facts at the end are not compared; what counts is that nothing panics.
        let _ = is_unchanged(&path, &with(&bad));
    }
    assert!(is_unchanged(&path, &with(&good)));
}

#[test]
fn one_of_two_is_unchanged() {
    let dir = tempfile::tempdir().unwrap();
    let (a, b) = (dir.path().join("a.db"), dir.path().join("b.db"));
    for path in [&a, &b] {
        make_closed(path, "wal");
    }
    let databases = [("a", a.as_path()), ("b", b.as_path())];
    let known = capture_from(&at(soon, &databases), &Known::new()).unwrap().report.stamps;
    assert_eq!(known.len(), 2);
    Connection::open(&b).unwrap().execute("DELETE FROM t WHERE id=5", []).unwrap();
    let captured = capture_from(&at(soon, &databases), &known).unwrap();
    assert!(captured.streams["a"].bytes.is_none());
    assert_same(captured.bytes("b"), &std::fs::read(&b).unwrap(), "b");
    assert_eq!(captured.report.stamps.len(), 2);
}

/// Writes to a database at the moment when transactions are about to be opened.
struct WriteBeforeBegin(PathBuf, Once);

impl Monitor for WriteBeforeBegin {
    fn phase(&self, _name: &'static str, _total_bytes: Option<u64>) {}
    fn advance(&self, _bytes: u64) {}
    fn warn(&self, _message: &str) {}
    fn cancelled(&self) -> bool {
        self.1.call_once(|| assert_eq!(Connection::open(&self.0).unwrap().execute("DELETE FROM t WHERE id=9", []).unwrap(), 1));
        false
    }
}

#[test]
fn a_change_after_the_first_look_is_not_missed() {
    for other_changed in [true, false] {
        let dir = tempfile::tempdir().unwrap();
        let (a, b) = (dir.path().join("a.db"), dir.path().join("b.db"));
        for path in [&a, &b] {
            make_closed(path, "wal");
        }
        let source = at(soon, &[("a", a.as_path()), ("b", b.as_path())]);
        let known = capture_from(&source, &Known::new()).unwrap().report.stamps;
        if other_changed {
            Connection::open(&b).unwrap().execute("DELETE FROM t WHERE id=5", []).unwrap();
        }
        let writer = WriteBeforeBegin(a.clone(), Once::new());
        let mut capture = source.capture(&known, &writer).unwrap();
        let stream = capture.next_stream().unwrap().unwrap();
        assert_eq!(stream.name, b"a");
        let Body::Pages(pages) = stream.body else { panic!("taken as unchanged") };
        let image = read_all(&*pages).unwrap();
        capture.finish().unwrap();
        let rows: i64 = open_image(dir.path(), &image).query_row("SELECT count(*) FROM t WHERE id=9", [], |row| row.get(0)).unwrap();
        assert_eq!(rows, 0);
    }
}
