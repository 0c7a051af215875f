//! Destinations that somebody uses.

use std::fs;

use icecore::Error;
use rusqlite::Connection;

use super::child::Other;
use super::support::*;

#[test]
fn a_database_that_another_process_uses_is_refused_and_unchanged() {
    let new = bytes(NEW);
    for old in [OLD, OLD_WAL] {
        for word in ["idle", "opened", "reading", "writing"] {
            let (_outer, dir) = scratch();
            let dest = dir.join("a.db");
            make(&dest, old);
            let other = Other::start(word, &dest);
            let before = fs::read(&dest).unwrap();
            let listed = names(&dir);
            let error = place(&dest, &new).unwrap_err();
            assert!(matches!(error, Error::Busy { .. }), "{word} {old:?}: {error}");
            let text = error.to_string();
            assert!(text.contains(&format!("process {}", other.0.id())) && text.contains("--live"), "{text}");
            assert_eq!(fs::read(&dest).unwrap(), before, "{word} {old:?}");
            assert_eq!(names(&dir), listed, "{word} {old:?}");
            drop(other);
            assert_eq!(place(&dest, &new).unwrap().kept, [kept(&dest)], "{word} {old:?}");
            assert_eq!(read(&kept(&dest)), rows("old", 50), "{word} {old:?}");
        }
    }
}

/// Connections of this very process are not looked for in /proc: here only locks can tell.
#[test]
fn locks_alone_refuse() {
    let new = bytes(NEW);
    for (old, begin) in [(OLD_WAL, ""), (OLD_WAL, "BEGIN IMMEDIATE"), (OLD, "BEGIN"), (OLD, "BEGIN IMMEDIATE"), (OLD, "BEGIN EXCLUSIVE")] {
        let (_outer, dir) = scratch();
        let dest = dir.join("a.db");
        make(&dest, old);
        let conn = Connection::open(&dest).unwrap();
        conn.execute_batch(begin).unwrap();
        conn.query_row("SELECT count(*) FROM t", [], |row| row.get::<_, i64>(0)).unwrap();
        let error = place(&dest, &new).unwrap_err();
        assert!(matches!(error, Error::Busy { .. }), "{begin:?} {old:?}: {error}");
        assert!(!names(&dir).iter().any(|name| name.contains("restore")), "{:?}", names(&dir));
        drop(conn);
        assert_eq!(read(&dest), rows("old", 50), "{begin:?} {old:?}");
    }
}

/// What SQLite cannot open can still be open elsewhere.
#[test]
fn a_file_that_is_no_database_is_refused_while_open() {
    let (_outer, dir) = scratch();
    let dest = dir.join("a.db");
    make(&dest, OLD);
    let other = Other::start("idle", &dest);
    fs::write(&dest, b"overwritten").unwrap();
    assert!(matches!(place(&dest, &bytes(NEW)), Err(Error::Busy { .. })));
    drop(other);
    assert_eq!(fs::read(&dest).unwrap(), b"overwritten");
}
