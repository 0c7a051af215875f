//! A wal-index that is cut short while it is mapped ends no process, and no other source fails of it.

use std::fs::{self, File};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};

use rusqlite::Connection;

/// Enough that each of the two programs is met while it has the index mapped.
const ROUNDS: usize = 25;

/// A database whose log is as a process that died has left it: with many pages, so that its index is read for a while.
fn with_log(dir: &Path, name: &str) {
    let made = dir.join("made");
    let db = Connection::open(&made).unwrap();
    db.execute_batch("PRAGMA journal_mode=WAL; PRAGMA wal_autocheckpoint=0; CREATE TABLE t(x)").unwrap();
    db.execute_batch(
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 9000) INSERT INTO t SELECT randomblob(3000) FROM n",
    )
    .unwrap();
    for ending in ["", "-wal"] {
        fs::copy(dir.join(format!("made{ending}")), dir.join(format!("{name}{ending}"))).unwrap();
    }
    drop(db);
    fs::remove_file(made).unwrap();
}

#[test]
fn a_wal_index_that_is_cut_short_ends_no_backup() {
    let dir = tempfile::tempdir().unwrap();
    with_log(dir.path(), "theirs");
    let ours = Connection::open(dir.path().join("ours")).unwrap();
    ours.execute_batch("CREATE TABLE t(x); INSERT INTO t VALUES (1)").unwrap();
    drop(ours);
    let icecore = |args: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_icecore"));
        command.current_dir(dir.path()).env_clear().env("ICECORE_REPOSITORY", "repo").env("ICECORE_CACHE_DIR", "cache");
        command.args(args).output().unwrap()
    };
    assert!(icecore(&["init", "--no-encryption"]).status.success());
    let (stop, index) = (AtomicBool::new(false), dir.path().join("theirs-shm"));
    let failed = std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                if let Ok(file) = File::options().write(true).open(&index) {
                    let _ = file.set_len(0);
                }
            }
        });
        let mut failed = 0;
        for round in 0..ROUNDS {
            // Half of the time with another one, which always gets a snapshot.
            let args: &[&str] = match round % 2 {
                0 => &["backup", "sqlite", "theirs"],
                _ => &["backup", "files", "mixed=."],
            };
            let output = icecore(&[args, &["--busy-timeout", "1s", "--quiet"]].concat());
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            assert_eq!(output.status.signal(), None, "round {round}: {said}");
            assert!(matches!(output.status.code(), Some(0 | 1 | 3)), "round {round}: {:?} {said}", output.status);
            failed += usize::from(!output.status.success());
        }
        stop.store(true, Ordering::Relaxed);
        failed
    });
    println!("{failed} of {ROUNDS} backups said that they could not read it");
    // Undisturbed it is read as before, and what was stored meanwhile is whole.
    let _ = fs::remove_file(index);
    assert!(icecore(&["backup", "sqlite", "theirs", "--quiet"]).status.success());
    assert!(icecore(&["check", "--read-data", "--quiet"]).status.success());
    assert!(icecore(&["drill", "latest", "--source", "theirs", "--quiet"]).status.success());
}
