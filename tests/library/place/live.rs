//! Restores into open databases.

use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};

use icecore::Error;
use icecore::engine::sqlite::restore::DatabaseOptions;
use icecore::fs::disk::RealDisk;
use rusqlite::Connection;

use super::child::{self, Other};
use super::support::*;

#[test]
fn open_connections_see_the_new_content() {
    for old in [OLD, OLD_WAL] {
        for spec in [NEW, NEW_WAL, Spec { rows: 3, ..NEW }] {
            let (_outer, dir) = scratch();
            let dest = dir.join("a.db");
            make(&dest, Spec { rows: 900, ..old });
            let conn = Connection::open(&dest).unwrap();
            assert_eq!(read_open(&conn), rows("old", 900));
            let other = Other::start("idle", &dest);
            let placed = live(&dest, &bytes(spec)).unwrap();
            assert_eq!(placed.kept, [kept(&dest)]);
            assert_eq!(read_open(&conn), rows("new", spec.rows), "{old:?} {spec:?}");
            add_rows(&conn, "later", 1);
            drop((conn, other));
            assert_eq!(read(&dest), [("later".to_string(), 1), ("new".to_string(), spec.rows)]);
            assert_eq!(read(&kept(&dest)), rows("old", 900));
            assert!(!names(&dir).iter().any(|name| name.contains("icecore-restore")), "{:?}", names(&dir));
        }
    }
}

#[test]
fn a_reader_of_a_wal_database_keeps_its_state() {
    let (_outer, dir) = scratch();
    let dest = dir.join("a.db");
    make(&dest, OLD_WAL);
    let conn = Connection::open(&dest).unwrap();
    conn.execute_batch("BEGIN").unwrap();
    assert_eq!(read_open(&conn), rows("old", 50));
    let other = Other::start("reading", &dest);
    live(&dest, &bytes(NEW)).unwrap();
    assert_eq!(read_open(&conn), rows("old", 50), "its transaction goes on");
    conn.execute_batch("COMMIT").unwrap();
    assert_eq!(read_open(&conn), rows("new", 300));
    drop(other);
}

/// Every commit is either in the kept copy or after the new content; none is lost, none is in both.
struct SetOnDrop<'a>(&'a AtomicBool);

impl Drop for SetOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn a_writer_loses_nothing() {
    for old in [OLD, OLD_WAL] {
        let (_outer, dir) = scratch();
        let dest = dir.join("a.db");
        make(&dest, Spec { rows: 0, ..old });
        let stop = AtomicBool::new(false);
        let total = std::thread::scope(|scope| {
            let writer = scope.spawn(|| {
                let conn = Connection::open(&dest).unwrap();
                conn.execute_batch("PRAGMA busy_timeout=60000; PRAGMA synchronous=OFF").unwrap();
                let mut commits = 0;
                while !stop.load(Ordering::Relaxed) {
                    conn.execute("INSERT INTO t(word) VALUES('w')", []).unwrap();
                    commits += 1;
                    // SQLite's locks are not fair: a writer that never rests can keep everyone else out for ever.
                    std::thread::sleep(std::time::Duration::from_micros(500));
                }
                commits
            });
            // Also when a restore fails: the scope waits for the writer.
            let _stop = SetOnDrop(&stop);
            let mut placed = Vec::new();
            for _ in 0..5 {
                let before = fs::metadata(&dest).unwrap().len();
                placed.extend(live(&dest, &bytes(Spec { rows: 30, ..NEW })).unwrap().kept);
                assert!(before > 0);
            }
            stop.store(true, Ordering::Relaxed);
            let commits: i64 = writer.join().unwrap();
            let count = |path: &std::path::Path| read(path).into_iter().find(|(word, _)| word == "w").map_or(0, |(_, count)| count);
            assert_eq!(placed.len(), 5);
            let found: i64 = placed.iter().map(|path| count(path)).sum::<i64>() + count(&dest);
            (commits, found)
        });
        assert_eq!(total.0, total.1, "{old:?}");
        assert!(total.0 > 5, "the writer wrote");
    }
}

#[test]
fn a_transaction_that_does_not_end_is_busy() {
    for old in [OLD, OLD_WAL] {
        let (_outer, dir) = scratch();
        let dest = dir.join("a.db");
        make(&dest, old);
        let other = Other::start("writing", &dest);
        let error = live(&dest, &bytes(NEW)).unwrap_err();
        assert!(matches!(error, Error::Busy { .. }), "{error}");
        drop(other);
        assert_eq!(read(&dest), rows("old", 50));
        assert!(!names(&dir).iter().any(|name| name.contains("restore")), "{:?}", names(&dir));
    }
}

#[test]
fn page_sizes() {
    let other_size = bytes(Spec { page_size: 1024, ..NEW });
    let (_outer, dir) = scratch();
    let (plain, wal) = (dir.join("plain.db"), dir.join("wal.db"));
    make(&plain, OLD);
    live(&plain, &other_size).unwrap();
    assert_eq!(read(&plain), rows("new", 300));
    make(&wal, OLD_WAL);
    let error = live(&wal, &other_size).unwrap_err().to_string();
    assert!(error.contains("4096") && error.contains("1024"), "{error}");
    assert_eq!(read(&wal), rows("old", 50));
    assert!(!kept(&wal).exists());
}

#[test]
fn an_empty_new_database_empties_and_keeps() {
    for old in [OLD, OLD_WAL, Spec { page_size: 512, ..OLD_WAL }] {
        let (_outer, dir) = scratch();
        let dest = dir.join("a.db");
        make(&dest, old);
        live(&dest, b"").unwrap();
        let conn = Connection::open(&dest).unwrap();
        assert_eq!(conn.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get::<_, i64>(0)).unwrap(), 0);
        assert_eq!(read(&kept(&dest)), rows("old", 50));
    }
}

#[test]
fn a_stop_rolls_back() {
    for old in [OLD, OLD_WAL] {
        let (_outer, dir) = scratch();
        let dest = dir.join("a.db");
        make(&dest, old);
        let new = bytes(Spec { rows: 40_000, ..NEW });
        let listener =
            Listener { questions_left: Some(1).into(), counted_from: "writing", is_counted: false.into(), ..Listener::default() };
        let outcome = placement(&RealDisk, &listener).place_live(&dest, new.len() as u64, &filler(&new), DatabaseOptions::default());
        assert!(matches!(outcome, Err(Error::Cancelled)));
        assert_eq!(read(&dest), rows("old", 50));
        assert!(!names(&dir).iter().any(|name| name.contains("restore")), "{:?}", names(&dir));
    }
}

#[test]
fn a_kill_midway_leaves_the_old_content() {
    for (old, word) in [(OLD, "abort-live"), (OLD_WAL, "abort-live-wal")] {
        let (_outer, dir) = scratch();
        let dest = dir.join("a.db");
        make(&dest, Spec { rows: 30_000, ..old });
        assert!(!child::run(word, &dest));
        let journal = fs::metadata(side(&dest, if old.wal { "-wal" } else { "-journal" })).unwrap();
        assert!(journal.len() > 100_000, "it died in the middle");
        assert_eq!(read(&dest), rows("old", 30_000));
        assert_eq!(read(&kept(&dest)), rows("old", 30_000));
        live(&dest, &bytes(NEW)).unwrap();
        assert_eq!(read(&dest), rows("new", 300));
    }
}

#[test]
fn no_database_no_live_restore() {
    let (_outer, dir) = scratch();
    let dest = dir.join("a.db");
    assert!(live(&dest, &bytes(NEW)).unwrap_err().to_string().contains("without --live"));
    fs::write(&dest, b"this is not a database, and it is long enough to be seen as none").unwrap();
    assert!(live(&dest, &bytes(NEW)).unwrap_err().to_string().contains("without --live"));
    assert_eq!(names(&dir), ["a.db".to_string()].into());
}
