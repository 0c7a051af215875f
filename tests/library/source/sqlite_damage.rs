//! Damaged, foreign and hostile files: an error, a flag, or the bytes as they are; never a panic.

use std::os::unix::fs::FileExt;
use std::path::Path;

use icecore::Error;
use rusqlite::Connection;

use super::support::*;

fn error_of(path: &Path) -> String {
    let error = capture(&[("db", path)]).err().unwrap();
    assert!(matches!(error, Error::Source { .. }), "{error}");
    error.to_string()
}

fn make_closed(path: &Path, mode: &str) -> Vec<u8> {
    drop(make(path, 1024, mode));
    std::fs::read(path).unwrap()
}

#[test]
fn what_is_no_database_is_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.db");
    std::fs::write(&path, [0x5A; 8192]).unwrap();
    let text = error_of(&path);
    assert!(text.contains("a.db") && text.contains("not a SQLite database, or an encrypted one"), "{text}");
    let mut bytes = make_closed(&dir.path().join("b.db"), "delete");
    bytes[16] = 3;
    std::fs::write(&path, &bytes).unwrap();
    assert!(error_of(&path).contains("damaged"));
    assert!(error_of(dir.path()).contains("a directory"));
    let fifo = dir.path().join("fifo");
    assert!(std::process::Command::new("mkfifo").arg(&fifo).status().unwrap().success());
    assert!(error_of(&fifo).contains("not a regular file"));
    let gone = dir.path().join("gone.db");
    std::fs::copy(dir.path().join("b.db"), &gone).unwrap();
    let source = source(&[("db", &gone)]);
    std::fs::remove_file(&gone).unwrap();
    let error = capture_from(&source, &Default::default()).err().unwrap().to_string();
    assert!(error.contains("gone.db: no such file"), "{error}");
    assert!(!gone.exists(), "it was created");
}

#[test]
fn a_short_file_is_captured_as_it_is_and_flagged() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.db");
    let bytes = make_closed(&path, "delete");
    std::fs::write(&path, &bytes[..bytes.len() / 2 + 100]).unwrap();
    let captured = capture(&[("db", &path)]).unwrap();
    assert_same(captured.bytes("db"), &bytes[..bytes.len() / 2 + 100], "half");
    assert_eq!(captured.flags(), ["damaged"]);
    assert!(captured.report.flags[0].detail.contains("the header counts"), "{:?}", captured.report.flags);
    assert!(captured.report.stamps.is_empty());
}

#[test]
fn a_damaged_schema_is_captured_and_flagged() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.db");
    let mut bytes = make_closed(&path, "delete");
    let at = bytes.windows(12).position(|window| window == b"CREATE TABLE").unwrap();
    bytes[at..at + 12].copy_from_slice(b"CREATE TIBLE");
    std::fs::write(&path, &bytes).unwrap();
    let captured = capture(&[("db", &path)]).unwrap();
    assert_same(captured.bytes("db"), &bytes, "schema");
    assert_eq!(captured.flags(), ["damaged"]);
    assert!(captured.report.flags[0].detail.contains("schema"), "{:?}", captured.report.flags);
}

#[test]
fn every_cut_and_many_flips_of_the_main_file() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.db");
    let good = make_closed(&path, "delete");
    let run = |bytes: &[u8]| {
        std::fs::write(&path, bytes).unwrap();
        if let Ok(captured) = capture(&[("db", &path)]) {
            assert_same(captured.bytes("db"), bytes, "a damaged file that can be read");
        }
        for suffix in ["-wal", "-shm", "-journal"] {
            let _ = std::fs::remove_file(beside(&path, suffix));
        }
    };
    (0..120).chain((120..good.len()).step_by(997)).filter(|&cut| cut != 1).for_each(|cut| run(&good[..cut]));
    for at in (0..100).chain((100..4096).step_by(61)) {
        for mask in [0x01, 0xFF] {
            let mut bad = good.clone();
            bad[at] ^= mask;
            run(&bad);
        }
    }
}

#[test]
fn flips_and_cuts_of_the_log() {
    let dir = tempfile::tempdir().unwrap();
    let (path, bad) = (dir.path().join("a.db"), dir.path().join("bad.db"));
    let main = make_closed(&path, "wal");
    let wal = std::fs::read(beside(&path, "-wal")).unwrap();
    let run = |wal: &[u8]| {
        std::fs::write(&bad, &main).unwrap();
        std::fs::write(beside(&bad, "-wal"), wal).unwrap();
        let _ = std::fs::remove_file(beside(&bad, "-shm"));
        let wanted = checkpointed(&bad);
        // SQLite takes the log up to the last good commit; so do we.
        match capture(&[("db", &bad)]) {
            Ok(captured) => assert_same(captured.bytes("db"), &wanted, "damaged log"),
            Err(error) => assert!(matches!(error, Error::Source { .. }), "{error}"),
        }
    };
    (0..64).chain((64..wal.len()).step_by(7001)).for_each(|cut| run(&wal[..cut]));
    for at in (0..80).chain((80..wal.len()).step_by(7919)) {
        let mut flipped = wal.clone();
        flipped[at] ^= 0x10;
        run(&flipped);
    }
}

#[test]
fn a_lying_wal_index_is_found_out() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.db");
    let conn = make(&path, 4096, "wal");
    let shm = std::fs::File::options().read(true).write(true).open(beside(&path, "-shm")).unwrap();
    let mut word = [0; 4];
    shm.read_exact_at(&mut word, 136 + 4 * 20).unwrap();
    let page = u32::from_ne_bytes(word);
    for lie in [page + 1, 0, u32::MAX] {
        shm.write_all_at(&lie.to_ne_bytes(), 136 + 4 * 20).unwrap();
        match capture(&[("db", &path)]) {
            // Frame 21 was not its page's last one, or its page is not in the database.
            Ok(captured) => assert_ne!(lie, 0, "{:?}", captured.flags()),
            Err(error) => assert!(matches!(error, Error::Source { .. }), "{error}"),
        }
    }
    // Every frame on the page before its own: no capture can be right.
    for frame in 0..60 {
        shm.read_exact_at(&mut word, 136 + 4 * frame).unwrap();
        shm.write_all_at(&(u32::from_ne_bytes(word).wrapping_sub(1)).max(1).to_ne_bytes(), 136 + 4 * frame).unwrap();
    }
    let error = error_of(&path);
    assert!(error.contains("write-ahead log"), "{error}");
    drop(conn);
}

#[test]
fn a_log_replaced_behind_the_engine_is_found_out() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.db");
    let conn = make(&path, 4096, "wal");
    // Same length, other salts in each frame.
    let wal = std::fs::File::options().read(true).write(true).open(beside(&path, "-wal")).unwrap();
    let frames = (wal.metadata().unwrap().len() - 32) / 4120;
    for frame in 0..frames {
        wal.write_all_at(&[9; 8], 32 + frame * 4120 + 8).unwrap();
    }
    let error = error_of(&path);
    assert!(error.contains("write-ahead log"), "{error}");
    wal.set_len(32 + 4120).unwrap();
    let error = error_of(&path);
    assert!(error.contains("shorter"), "{error}");
    drop(conn);
}

#[test]
fn a_log_that_is_a_directory() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.db");
    drop(make(&path, 4096, "wal"));
    Connection::open(&path).unwrap().query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).unwrap();
    assert!(!beside(&path, "-wal").exists());
    std::fs::create_dir(beside(&path, "-wal")).unwrap();
    let error = error_of(&path);
    assert!(error.contains("-wal is a directory"), "{error}");
}
