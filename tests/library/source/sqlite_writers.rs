//! Captures while others write and checkpoint at full speed.

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use icecore::Error;
use rusqlite::Connection;

use super::support::*;

const ACCOUNTS: i64 = 1000;

/// Money is only moved, and each transaction leaves its number in two places.
fn make_bank(path: &Path, mode: &str) {
    let conn = open_leaving_wal(path);
    conn.execute_batch(&format!("PRAGMA page_size=1024; PRAGMA journal_mode={mode};")).unwrap();
    conn.execute_batch(&format!(
        "CREATE TABLE account(id INTEGER PRIMARY KEY, money INTEGER, pad BLOB); CREATE TABLE log(n INTEGER PRIMARY KEY, pad BLOB);
         CREATE TABLE last(n INTEGER); INSERT INTO last VALUES(0); CREATE INDEX by_money ON account(money);
         WITH RECURSIVE c(i) AS (SELECT 0 UNION ALL SELECT i+1 FROM c WHERE i<{ACCOUNTS}-1) INSERT INTO account SELECT i, 100, randomblob(200) FROM c;"
    ))
    .unwrap();
}

fn transfer(conn: &mut Connection, n: u64) {
    let from = (n * 7919) as i64 % ACCOUNTS;
    let to = (n * 104_729 + 1) as i64 % ACCOUNTS;
    let tx = conn.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate).unwrap();
    tx.prepare_cached("UPDATE account SET money=money-1, pad=randomblob(200) WHERE id=?1").unwrap().execute([from]).unwrap();
    tx.prepare_cached("UPDATE account SET money=money+1 WHERE id=?1").unwrap().execute([to]).unwrap();
    tx.prepare_cached("INSERT INTO log(n, pad) VALUES(?1, randomblob(100))").unwrap().execute([n as i64]).unwrap();
    tx.prepare_cached("UPDATE last SET n=?1").unwrap().execute([n as i64]).unwrap();
    tx.commit().unwrap();
}

/// The number of the last transaction in a consistent image.
fn check_bank(dir: &Path, image: &[u8]) -> u64 {
    let conn = open_image(dir, image);
    let (money, accounts): (i64, i64) =
        conn.query_row("SELECT sum(money), count(*) FROM account", [], |r| Ok((r.get(0)?, r.get(1)?))).unwrap();
    assert_eq!((money, accounts), (100 * ACCOUNTS, ACCOUNTS));
    let (count, max): (i64, i64) =
        conn.query_row("SELECT count(*), coalesce(max(n), 0) FROM log", [], |r| Ok((r.get(0)?, r.get(1)?))).unwrap();
    let last: i64 = conn.query_row("SELECT n FROM last", [], |r| r.get(0)).unwrap();
    assert_eq!((count, max), (last, last));
    last as u64
}

fn under_writers(mode: &str, captures: usize, checkpoints: &[&str]) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("bank.db");
    make_bank(&path, mode);
    let (stop, done) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut conn = open_leaving_wal(&path);
            for n in 1.. {
                if stop.load(Ordering::Relaxed) {
                    break;
                }
                transfer(&mut conn, n);
                done.store(n, Ordering::SeqCst);
            }
        });
        for checkpoint in checkpoints {
            let (path, stop) = (&path, &stop);
            scope.spawn(move || {
                let conn = open_leaving_wal(path);
                while !stop.load(Ordering::Relaxed) {
                    // May be busy; that is not ours to test.
                    let _ = conn.query_row(&format!("PRAGMA wal_checkpoint({checkpoint})"), [], |_| Ok(()));
                    std::thread::sleep(Duration::from_micros(300));
                }
            });
        }
        let outcome = std::panic::catch_unwind(|| {
            let mut last_seen = 0;
            for _ in 0..captures {
                let committed = done.load(Ordering::SeqCst);
                let image = image_of(&path);
                // The writer counts after its commit, so one more may be in the image.
                let upper = done.load(Ordering::SeqCst) + 1;
                let seen = check_bank(dir.path(), &image);
                assert!(committed <= seen && seen <= upper && last_seen <= seen, "{committed} <= {seen} <= {upper}");
                last_seen = seen;
            }
        });
        stop.store(true, Ordering::Relaxed);
        outcome.unwrap();
    });
    assert!(done.load(Ordering::SeqCst) > captures as u64 / 4, "the writer starved: {done:?}");
}

#[test]
fn a_writer_in_wal_mode() {
    under_writers("wal", 40, &[]);
}

#[test]
fn a_writer_and_passive_checkpoints() {
    under_writers("wal", 60, &["PASSIVE"]);
}

#[test]
fn a_writer_and_checkpoints_that_restart_the_log() {
    under_writers("wal", 60, &["RESTART", "TRUNCATE", "PASSIVE"]);
}

#[test]
fn a_writer_in_rollback_mode() {
    under_writers("delete", 30, &[]);
}

#[test]
fn an_open_capture_keeps_its_image_whatever_happens() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("bank.db");
    make_bank(&path, "wal");
    let mut conn = open_leaving_wal(&path);
    (1..200).for_each(|n| transfer(&mut conn, n));
    conn.query_row("PRAGMA wal_checkpoint", [], |_| Ok(())).unwrap();
    (200..400).for_each(|n| transfer(&mut conn, n));
    let file = icecore::engine::sqlite::capture_file(&path, None, &options(), &icecore::progress::Silent).unwrap();
    let pages = file.pages().unwrap();
    let first = read_all(&*pages).unwrap();
    assert_eq!(check_bank(dir.path(), &first), 399);
    for round in 0..20 {
        (400 + round * 50..450 + round * 50).for_each(|n| transfer(&mut conn, n));
        conn.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(())).unwrap();
        assert_same(&read_all(&*pages).unwrap(), &first, "later");
    }
    conn.execute_batch("DELETE FROM log").unwrap();
    assert_same(&read_all(&*pages).unwrap(), &first, "after deletes");
    assert!(!file.blocks_writers());
    file.finish().unwrap();
    let error = pages.read_at(0, &mut [0; 1024]).err().unwrap();
    assert!(matches!(error, Error::Source { .. }), "{error}");
    // Let go: a checkpoint gets through to the end again.
    let busy: i64 = conn.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get(0)).unwrap();
    assert_eq!(busy, 0);
}

#[test]
fn a_rollback_writer_waits_only_until_finish() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("bank.db");
    make_bank(&path, "delete");
    let mut conn = open_leaving_wal(&path);
    let file = icecore::engine::sqlite::capture_file(&path, None, &options(), &icecore::progress::Silent).unwrap();
    assert!(file.blocks_writers());
    conn.busy_timeout(Duration::ZERO).unwrap();
    assert!(conn.execute("UPDATE last SET n=5", []).is_err());
    file.finish().unwrap();
    conn.execute("UPDATE last SET n=0", []).unwrap();
    transfer(&mut conn, 1);
}

#[test]
fn somebody_elses_exclusive_lock_is_busy() {
    for mode in ["delete", "wal"] {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.db");
        let conn = make(&path, 4096, mode);
        drop(conn);
        let conn = open_leaving_wal(&path);
        conn.execute_batch("PRAGMA locking_mode=exclusive; BEGIN IMMEDIATE; DELETE FROM t WHERE id=3; COMMIT").unwrap();
        let mut options = options();
        options.busy_timeout = Duration::from_millis(50);
        let error = capture_from(&source_with(&[("db", &path)], options), &Default::default()).err().unwrap();
        assert!(matches!(error, Error::Busy { .. }), "{mode}: {error}");
        assert!(error.to_string().contains("locked by another process"), "{error}");
    }
}
