//! `PRAGMA quick_check` on a file that nobody else knows yet.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;

use rusqlite::{Connection, ErrorCode, OpenFlags};

use crate::ops::stoppable::stoppable;
use crate::progress::Monitor;

/// Findings that are reported; more say nothing new.
const FINDINGS_MAX: usize = 10;

/// What the check said.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::ops) enum Verdict {
    Sound,
    Damaged(Vec<String>),
    /// The schema needs a function or a collation that only the application has.
    Unknown(String),
}

/// Checks a database that nothing else has open, and leaves nothing beside it. What it says when the user has asked to stop means nothing.
pub(in crate::ops) fn quick_check(path: &Path, monitor: &dyn Monitor) -> Verdict {
    match findings(path, monitor) {
        Ok(lines) if lines.iter().map(String::as_str).eq(["ok"]) => Verdict::Sound,
        Ok(lines) => Verdict::Damaged(lines),
        Err(e) if is_unknown_name(&e) => Verdict::Unknown(e.to_string()),
        Err(e) => Verdict::Damaged(vec![e.to_string()]),
    }
}

/// SQLITE_ERROR, which is what a missing function, collation or module gives; damage gives SQLITE_CORRUPT or SQLITE_NOTADB.
fn is_unknown_name(error: &rusqlite::Error) -> bool {
    match error {
        rusqlite::Error::SqliteFailure(code, _) | rusqlite::Error::SqlInputError { error: code, .. } => code.code == ErrorCode::Unknown,
        _ => false,
    }
}

fn findings(path: &Path, monitor: &dyn Monitor) -> rusqlite::Result<Vec<String>> {
    let conn = open_immutable(path)?;
    drop_modules(&conn)?;
    // CHECK constraints may call functions of the application, and rows that break them are the user's: both say nothing about damage.
    conn.execute_batch(
        "PRAGMA trusted_schema=OFF; PRAGMA cell_size_check=ON; PRAGMA ignore_check_constraints=ON; PRAGMA temp_store=MEMORY",
    )?;
    let handle = conn.get_interrupt_handle();
    stoppable(
        monitor,
        || handle.interrupt(),
        || {
            let mut statement = conn.prepare(&format!("PRAGMA quick_check({FINDINGS_MAX})"))?;
            statement.query_map([], |row| row.get(0))?.collect()
        },
    )
}

/// Takes the virtual table modules away from a connection. Since SQLite 3.44 `quick_check` asks each virtual table to check itself, and a
/// full-text index then compares all of its content, which takes longer than the whole restore; the tables in which it keeps its data are checked all the same.
fn drop_modules(conn: &Connection) -> rusqlite::Result<()> {
    // SAFETY: the connection is open and used by this thread only, and has no statement yet; a null list keeps no module.
    let code = unsafe { rusqlite::ffi::sqlite3_drop_modules(conn.handle(), std::ptr::null_mut()) };
    match code {
        rusqlite::ffi::SQLITE_OK => Ok(()),
        code => Err(rusqlite::Error::SqliteFailure(rusqlite::ffi::Error::new(code), None)),
    }
}

/// Opens a database that does not change, without locks and without touching or making side files: a WAL database would otherwise get a
/// `-wal` and a `-shm` (<https://sqlite.org/uri.html>, `immutable`).
pub(in crate::ops) fn open_immutable(path: &Path) -> rusqlite::Result<Connection> {
    let mut uri = OsString::from("file:").into_vec();
    for &byte in path.as_os_str().as_bytes() {
        match byte {
            b'/' | b'.' | b'-' | b'_' | b'0'..=b'9' | b'a'..=b'z' | b'A'..=b'Z' => uri.push(byte),
            _ => uri.extend_from_slice(format!("%{byte:02x}").as_bytes()),
        }
    }
    uri.extend_from_slice(b"?immutable=1");
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_URI | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    Connection::open_with_flags(Path::new(&OsString::from_vec(uri)), flags)
}
