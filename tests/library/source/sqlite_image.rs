//! The image is, byte for byte, the file that a checkpoint at that instant would leave; and the database stays as it was.

use std::path::Path;

use icecore::engine::sqlite::{SqliteSource, is_sqlite};
use icecore::engine::{Source, SourceDescription};
use rusqlite::Connection;

use super::support::*;

const PAGE_SIZES: [u32; 8] = [512, 1024, 2048, 4096, 8192, 16_384, 32_768, 65_536];

#[test]
fn every_page_size_in_wal_mode() {
    for page_size in PAGE_SIZES {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.db");
        let conn = make(&path, page_size, "wal");
        conn.execute("UPDATE t SET v=randomblob(200) WHERE id%3=0", []).unwrap();
        // With the writer's connection open, then without.
        let captured = capture(&[("db", &path)]).unwrap();
        drop(conn);
        let wanted = checkpointed(&path);
        assert_same(captured.bytes("db"), &wanted, &format!("page size {page_size}"));
        assert_same(&image_of(&path), &wanted, &format!("page size {page_size}, alone"));
        let facts = captured.streams["db"].facts;
        assert_eq!((facts.page_size, facts.page_count), (page_size, wanted.len() as u64 / u64::from(page_size)));
        assert_eq!((facts.user_version, facts.application_id, facts.encoding, facts.wal), (42, 77, 1, true));
        assert!(!captured.blocks_writers);
        open_image(dir.path(), &wanted);
    }
}

#[test]
fn every_page_size_in_rollback_mode() {
    for page_size in PAGE_SIZES {
        for mode in ["delete", "truncate", "persist"] {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("a.db");
            let conn = make(&path, page_size, mode);
            let captured = capture(&[("db", &path)]).unwrap();
            drop(conn);
            assert_same(captured.bytes("db"), &std::fs::read(&path).unwrap(), &format!("page size {page_size}, {mode}"));
            assert!(captured.blocks_writers && !captured.streams["db"].facts.wal);
            assert_eq!(captured.fact("instant"), Some("proven"));
            assert_eq!(captured.fact("sqlite"), Some(rusqlite::version()));
        }
    }
}

#[test]
fn main_wal_and_shm_stay_as_they_were() {
    for writer_stays_open in [true, false] {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.db");
        let mut conn = Some(make(&path, 4096, "wal"));
        if !writer_stays_open {
            conn = None;
        }
        let read = |suffix| std::fs::read(beside(&path, suffix)).unwrap();
        // Of the -main and -wal file alone: reading them does not touch the locks, which are on the -shm.
        let (main, wal) = (read(""), read("-wal"));
        assert!(wal.len() > 100_000);
        for _ in 0..3 {
            capture(&[("db", &path)]).unwrap();
            assert_same(&read(""), &main, "main");
            assert_same(&read("-wal"), &wal, "-wal");
            assert!(beside(&path, "-shm").exists());
        }
        drop(conn);
        let frames: i64 = Connection::open(&path).unwrap().query_row("PRAGMA wal_checkpoint", [], |row| row.get(1)).unwrap();
        assert!(frames > 10, "a checkpoint had taken {frames} frames away before");
    }
}

#[test]
fn a_cleanly_closed_wal_database_stays_alone() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.db");
    drop(make(&path, 4096, "wal"));
    let conn = Connection::open(&path).unwrap();
    conn.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).unwrap();
    drop(conn);
    assert!(!beside(&path, "-wal").exists());
    let before = std::fs::read(&path).unwrap();
    assert_same(&image_of(&path), &before, "image");
    let names: Vec<_> = std::fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names, ["a.db"]);
    assert_same(&std::fs::read(&path).unwrap(), &before, "file");
}

#[test]
fn a_partly_backfilled_log() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.db");
    let conn = make(&path, 1024, "wal");
    // A reader's mark stops the checkpoint half way.
    let reader = Connection::open(&path).unwrap();
    reader.execute_batch("BEGIN; SELECT count(*) FROM t").unwrap();
    conn.execute("UPDATE t SET v=randomblob(250)", []).unwrap();
    insert(&conn, 500);
    let row = conn.query_row("PRAGMA wal_checkpoint", [], |row| Ok((row.get::<_, i64>(1)?, row.get::<_, i64>(2)?))).unwrap();
    assert!(0 < row.1 && row.1 < row.0, "log and checkpointed frames: {row:?}");
    let with_reader = image_of(&path);
    drop(reader);
    let without_reader = image_of(&path);
    // Now everything is backfilled, but the log is still there.
    conn.query_row("PRAGMA wal_checkpoint", [], |_| Ok(())).unwrap();
    let backfilled = image_of(&path);
    drop(conn);
    let wanted = checkpointed(&path);
    assert_same(&with_reader, &wanted, "with the reader");
    assert_same(&without_reader, &wanted, "without the reader");
    assert_same(&backfilled, &wanted, "all backfilled");
}

#[test]
fn a_log_that_started_again() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.db");
    let conn = make(&path, 4096, "wal");
    insert(&conn, 1000);
    conn.query_row("PRAGMA wal_checkpoint(RESTART)", [], |_| Ok(())).unwrap();
    // The log is long, but only its first frames count; the salts of the others are old.
    conn.execute("UPDATE t SET v=randomblob(10) WHERE id=1", []).unwrap();
    let few_frames = image_of(&path);
    drop(conn);
    assert_same(&few_frames, &checkpointed(&path), "restarted");
    let conn = open_leaving_wal(&path);
    conn.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).unwrap();
    let truncated = image_of(&path);
    drop(conn);
    assert_same(&truncated, &std::fs::read(&path).unwrap(), "truncated");
}

#[test]
fn a_database_that_shrinks_and_grows_inside_the_log() {
    for auto_vacuum in ["none", "full", "incremental"] {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.db");
        let conn = open_leaving_wal(&path);
        conn.execute_batch(&format!("PRAGMA page_size=1024; PRAGMA auto_vacuum={auto_vacuum}; PRAGMA journal_mode=wal")).unwrap();
        conn.execute_batch("CREATE TABLE t(id INTEGER PRIMARY KEY, v BLOB)").unwrap();
        insert(&conn, 3000);
        let steps = [
            "DELETE FROM t WHERE id%4<>0",
            "VACUUM",
            "PRAGMA wal_checkpoint",
            "INSERT INTO t(v) SELECT randomblob(900) FROM t",
            "PRAGMA incremental_vacuum",
            "DELETE FROM t WHERE id>100",
            "VACUUM",
        ];
        for step in steps {
            conn.execute_batch(step).unwrap();
            let image = image_of(&path);
            open_image(dir.path(), &image);
        }
        let last = image_of(&path);
        drop(conn);
        assert_same(&last, &checkpointed(&path), auto_vacuum);
    }
}

#[test]
fn a_log_with_more_frames_than_one_index_region() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.db");
    let conn = make(&path, 512, "wal");
    for _ in 0..6 {
        insert(&conn, 1500);
        conn.execute("UPDATE t SET v=randomblob(300) WHERE id%50=0", []).unwrap();
    }
    let frames = std::fs::metadata(beside(&path, "-wal")).unwrap().len() / 536;
    assert!(frames > 4062 + 4096, "only {frames} frames");
    let image = image_of(&path);
    drop(conn);
    assert_same(&image, &checkpointed(&path), "many frames");
}

#[test]
fn a_file_with_a_part_page_at_its_end() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.db");
    drop(make(&path, 4096, "delete"));
    let mut bytes = std::fs::read(&path).unwrap();
    bytes.extend_from_slice(&[7; 1234]);
    std::fs::write(&path, &bytes).unwrap();
    assert_same(&image_of(&path), &bytes, "tail");
}

#[test]
fn empty_and_zero_byte_databases() {
    let dir = tempfile::tempdir().unwrap();
    let zero = dir.path().join("zero.db");
    std::fs::write(&zero, b"").unwrap();
    let captured = capture(&[("db", &zero)]).unwrap();
    assert_eq!(captured.bytes("db"), b"");
    assert_eq!((captured.streams["db"].facts.page_size, captured.streams["db"].facts.page_count), (0, 0));
    for mode in ["delete", "wal"] {
        let path = dir.path().join(format!("{mode}.db"));
        let conn = open_leaving_wal(&path);
        conn.execute_batch(&format!("PRAGMA journal_mode={mode}; CREATE TABLE x(y); DROP TABLE x")).unwrap();
        let image = image_of(&path);
        drop(conn);
        assert_same(&image, &checkpointed(&path), mode);
    }
    assert_eq!(std::fs::metadata(&zero).unwrap().len(), 0);
    // SQLite would delete this log when it opens the database.
    std::fs::write(beside(&zero, "-wal"), [1; 5000]).unwrap();
    let error = capture(&[("db", &zero)]).err().unwrap().to_string();
    assert!(error.contains("the file is empty"), "{error}");
    assert_eq!(std::fs::metadata(beside(&zero, "-wal")).unwrap().len(), 5000);
}

#[test]
fn a_hot_journal_is_rolled_back() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.db");
    let conn = make(&path, 4096, "delete");
    let wanted = std::fs::read(&path).unwrap();
    // A tiny cache makes the transaction write into the file before it commits; a copy of both files is what a crash then leaves.
    conn.execute_batch("PRAGMA cache_size=5; PRAGMA cache_spill=5; BEGIN; UPDATE t SET v=randomblob(300)").unwrap();
    let crashed = dir.path().join("crashed.db");
    std::fs::copy(&path, &crashed).unwrap();
    std::fs::copy(beside(&path, "-journal"), beside(&crashed, "-journal")).unwrap();
    assert_ne!(std::fs::read(&crashed).unwrap(), wanted);
    let mut head = std::fs::read(beside(&crashed, "-journal")).unwrap();
    assert!(head.len() > 512);
    // The number of records in the journal's header is written with the sync that synchronous=OFF leaves out: -1 means all.
    head[8..12].copy_from_slice(&[0xFF; 4]);
    std::fs::write(beside(&crashed, "-journal"), head).unwrap();
    assert_same(&image_of(&crashed), &wanted, "rolled back");
    assert!(!beside(&crashed, "-journal").exists());
    drop(conn);
}

#[test]
fn a_source_is_known_by_names_and_canonical_paths() {
    let dir = tempfile::tempdir().unwrap();
    let (b, a) = (dir.path().join("b.db"), dir.path().join("a.db"));
    for path in [&a, &b] {
        drop(make(path, 4096, "delete"));
    }
    std::os::unix::fs::symlink(&a, dir.path().join("link.db")).unwrap();
    let link = dir.path().join("link.db");
    let plain: SourceDescription = source(&[("two", &b), ("one", &a)]).identity();
    let linked = source(&[("one", &link), ("two", &b)]).identity();
    assert_eq!(plain.parts, linked.parts);
    let part = |name: &str, path: &Path| format!("{name}={}", path.canonicalize().unwrap().display()).into_bytes();
    assert_eq!(plain.parts, [part("one", &a), part("two", &b)]);
    for bad in ["", "/x", "x/", "a/../b", ".", "a\0"] {
        assert!(SqliteSource::new(vec![(bad.to_owned(), a.clone())], options()).is_err(), "{bad:?}");
    }
    let twice = SqliteSource::new(vec![("n".to_owned(), a.clone()), ("n".to_owned(), b)], options()).err().unwrap().to_string();
    assert!(twice.contains("two databases are named n"), "{twice}");
    assert!(is_sqlite(&link).unwrap());
    assert!(!is_sqlite(dir.path()).unwrap());
    std::fs::write(&a, b"SQLite format 4").unwrap();
    assert!(!is_sqlite(&a).unwrap());
}

#[test]
fn the_same_file_twice_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.db");
    drop(make(&path, 4096, "wal"));
    let (soft, hard) = (dir.path().join("soft.db"), dir.path().join("hard.db"));
    std::os::unix::fs::symlink(&path, &soft).unwrap();
    std::fs::hard_link(&path, &hard).unwrap();
    for other in [&path, &soft, &hard] {
        let error = capture(&[("one", &path), ("two", other)]).err().unwrap().to_string();
        assert!(error.contains("are the same file"), "{error}");
    }
}
