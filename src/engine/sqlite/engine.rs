//! A connection for capture, and what lies below SQLite's SQL interface: its open files and its shared memory.
//!
//! The unsafe code for reading pages is here. It is sound because the pointers that SQLite hands out for the main file
//! and the write-ahead log stay valid until the connection closes, and they never leave [`Engine`], which owns the
//! connection. (How files are opened is in `held.rs`, and what happens if shared memory is cut short in `cut.rs`.)
//!
//! The connection never checkpoints and never writes, except that opening rolls back or recovers what a dead process
//! has left. Closing it leaves the side files as they were.

use std::ffi::{c_int, c_void};
use std::path::Path;
use std::ptr::NonNull;
use std::sync::atomic::AtomicU32;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, FileControl, OpenFlags, ffi};

use super::bounds::bound_work;
use super::cut;
use super::errors::{Meaning, meaning};
use super::explain::beside;
use super::held;
use super::structure::{Root, TreeKind};

/// Bytes in a region of the wal-index (<https://sqlite.org/walformat.html>, section 2.2).
pub(super) const SHM_REGION_BYTES: usize = 32 * 1024;

/// The most bytes that one call asks of SQLite's file layer, which is made for pages of at most this size.
const READ_BYTES_MAX: usize = 65_536;

/// The longest time to wait for a lock. Milliseconds of it fit the `int` that SQLite takes.
const BUSY_TIMEOUT_MAX: Duration = Duration::from_secs(24 * 3600);

/// A result with SQLite's error, as rusqlite wraps it.
pub(super) type EngineResult<T> = std::result::Result<T, rusqlite::Error>;

/// How to open a database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum OpenAs {
    /// With locks, for reading. Also for writing if a transaction of a dead process must be rolled back. Never creates
    /// a file. Falls back to reading only if the file may not be written.
    Shared,
    /// As a file that nobody changes: no locks, no log, no shared memory.
    Immutable,
}

/// One connection, with its open files.
pub(super) struct Engine {
    conn: Mutex<Connection>,
    main: RawFile,
    /// The handle that SQLite gives as its journal as long as no write-ahead log is open.
    journal: RawFile,
    /// Set once the log is open.
    wal: OnceLock<RawFile>,
    /// Whether closing may remove an empty -wal and the -shm, because opening has made them.
    tidy: bool,
    /// The number of lost wal-index pages in this process before this connection was opened.
    cuts: u64,
}

impl Engine {
    /// Opens an existing database at an absolute path and begins nothing yet.
    pub(super) fn open(path: &Path, open_as: OpenAs, tidy: bool) -> EngineResult<Self> {
        let cuts = cut::cuts();
        let mut conn = match open_as {
            OpenAs::Shared => {
                // An absolute path is never taken for a URI, whatever SQLite was built with.
                let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
                held::open(path, flags)?
            }
            OpenAs::Immutable => {
                let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX | OpenFlags::SQLITE_OPEN_URI;
                held::open(Path::new(&immutable_uri(path)), flags)?
            }
        };
        // Asked before the first access to the file, so no log is open yet and this is the handle of the rollback
        // journal. `in_wal_mode` compares with it.
        let journal = RawFile::of(&conn, ffi::SQLITE_FCNTL_JOURNAL_POINTER)?;
        // Closing must neither checkpoint nor remove the log, even if we are the last connection: that would write into
        // the user's database.
        conn.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
        conn.file_control(None::<&str>, FileControl::PersistWal(&mut 1))?;
        // Lets SQLite open a file that is shorter than its header says: a damaged database is captured, too. Nothing is
        // ever written through this connection.
        conn.set_db_config(DbConfig::SQLITE_DBCONFIG_WRITABLE_SCHEMA, true)?;
        // Without memory mapping, xRead is one pread and may be called from several threads (see `RawFile`). Neither
        // statement needs the schema, so neither reads the file.
        conn.execute_batch("PRAGMA mmap_size=0; PRAGMA wal_autocheckpoint=0;")?;
        let main = RawFile::of(&conn, ffi::SQLITE_FCNTL_FILE_POINTER)?;
        // The schema and the tables are read through this connection, so its work is bounded by the bytes there are.
        // The log counts, too; what others add to it from now on is little.
        let log_len = std::fs::metadata(beside(path, "-wal")).map_or(0, |metadata| metadata.len());
        bound_work(&mut conn, main.len()?.saturating_add(log_len))?;
        Ok(Self { conn: Mutex::new(conn), main, journal, wal: OnceLock::new(), tidy, cuts })
    }

    fn conn(&self) -> MutexGuard<'_, Connection> {
        self.conn.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sets how long the following calls wait for a lock.
    pub(super) fn busy_timeout(&self, timeout: Duration) -> EngineResult<()> {
        self.conn().busy_timeout(timeout.min(BUSY_TIMEOUT_MAX))
    }

    /// Reads one value of the header through SQLite. This rolls back or recovers what dead processes have left, and
    /// opens the log. Inside a transaction it fixes the state that the transaction sees. It does not read the schema,
    /// so a damaged schema does not stop it.
    pub(super) fn touch(&self) -> EngineResult<()> {
        self.conn().prepare_cached("PRAGMA user_version")?.query_row([], |_| Ok(()))
    }

    /// Begins a read transaction and fixes the state that it sees.
    pub(super) fn begin(&self) -> EngineResult<()> {
        // BEGIN alone takes no lock and reads nothing; the first access does.
        self.conn().prepare_cached("BEGIN")?.execute([])?;
        self.touch().inspect_err(|_| self.end())
    }

    /// Begins a transaction that keeps others from committing. It writes nothing.
    pub(super) fn begin_immediate(&self) -> EngineResult<()> {
        self.conn().prepare_cached("BEGIN IMMEDIATE")?.execute([]).map(|_| ())
    }

    /// Ends the transaction, if there is one.
    pub(super) fn end(&self) {
        let conn = self.conn();
        if !conn.is_autocommit() {
            // A rollback of a transaction that wrote nothing cannot fail in a way that matters; closing the connection
            // ends it too.
            let _ = conn.execute_batch("ROLLBACK");
        }
    }

    /// Whether any wal-index of this process was cut short since this connection was opened. If so, what was read from
    /// this one may be wrong.
    pub(super) fn is_cut(&self) -> bool {
        cut::cuts() != self.cuts
    }

    /// Whether the file could only be opened for reading.
    pub(super) fn is_readonly(&self) -> bool {
        self.conn().is_readonly("main").unwrap_or(true)
    }

    /// Reads the whole schema. Gives the root pages that it names, or SQLite's words if it is damaged. Gives `None` if
    /// it cannot be read for a reason that says nothing about damage. `written_by` is the version of SQLite that wrote
    /// last.
    pub(super) fn roots(&self, written_by: u32) -> Option<Result<Vec<Root>, String>> {
        let conn = self.conn();
        // With it, SQLite would ignore damage in the schema instead of reporting it.
        conn.set_db_config(DbConfig::SQLITE_DBCONFIG_WRITABLE_SCHEMA, false).ok()?;
        let read = || -> rusqlite::Result<Vec<Root>> {
            let mut statement = conn.prepare("SELECT rootpage, type FROM sqlite_master WHERE rootpage > 0")?;
            let rows = statement.query_map([], |row| {
                let kind = if row.get::<_, String>(1)? == "index" { TreeKind::Index } else { TreeKind::Any };
                Ok(Root { page: row.get(0)?, kind })
            })?;
            // A root page for each page, and one more, is enough: two entries for one page are damage that the
            // structure check finds. Without a bound, pages that name each other would give entries without end.
            let pages: u32 = conn.query_row("PRAGMA page_count", [], |row| row.get(0))?;
            rows.take(pages.saturating_add(1) as usize).collect()
        };
        let read = read().or_else(|error| match meaning(&error, written_by) {
            // With this setting SQLite skips the entries that only the application understands, and loads the rest
            // (sqlite3.c, SQLITE_NoSchemaError). Their root pages are in the table `sqlite_master` and can be read like
            // any other value.
            Meaning::NotJudged => {
                conn.execute_batch("PRAGMA writable_schema=ON")?;
                read()
            }
            _ => Err(error),
        });
        match read {
            Ok(roots) => Some(Ok(roots)),
            Err(error) => match meaning(&error, written_by) {
                Meaning::Damage => Some(Err(error.to_string())),
                // Only the bound on the work interrupts this connection.
                Meaning::Stopped => Some(Err("it has more entries than the file has room for".to_owned())),
                Meaning::NotJudged => None,
            },
        }
    }

    /// The content of the tables, in the transaction that is open. Other threads may read pages through this engine
    /// meanwhile.
    pub(super) fn content(&self, stop: &dyn Fn() -> bool) -> super::job::Outcome {
        super::content::content_of(&self.conn(), stop)
    }

    /// Whether a write-ahead log is open. A log stays open until this connection closes: a connection with a log keeps
    /// a shared lock, which stops others from changing the journal mode.
    pub(super) fn in_wal_mode(&self) -> EngineResult<bool> {
        if self.wal.get().is_some() {
            return Ok(true);
        }
        // SQLite gives the log in place of the journal once it has opened one.
        let now = RawFile::of(&self.conn(), ffi::SQLITE_FCNTL_JOURNAL_POINTER)?;
        if now.0 == self.journal.0 {
            return Ok(false);
        }
        let _ = self.wal.set(now);
        Ok(true)
    }

    /// Bytes in the main file.
    pub(super) fn main_len(&self) -> EngineResult<u64> {
        self.main.len()
    }

    /// Bytes in the log; 0 without one.
    pub(super) fn wal_len(&self) -> EngineResult<u64> {
        self.wal.get().map_or(Ok(0), RawFile::len)
    }

    /// Fills the buffer from the main file. May be called from several threads.
    pub(super) fn read_main(&self, offset: u64, buffer: &mut [u8]) -> EngineResult<()> {
        self.main.read(offset, buffer)
    }

    /// Fills the buffer from the log. May be called from several threads.
    pub(super) fn read_wal(&self, offset: u64, buffer: &mut [u8]) -> EngineResult<()> {
        self.wal.get().map_or(Err(failure(ffi::SQLITE_MISUSE)), |wal| wal.read(offset, buffer))
    }

    /// A region of the wal-index as it is now. `None` if the index is shorter. Other processes write to it at any time.
    pub(super) fn shm_region(&self, region: u32) -> EngineResult<Option<&[AtomicU32]>> {
        self.main.shm_region(region)
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.end();
        if self.tidy && self.wal.get().is_some_and(|wal| wal.len().is_ok_and(|bytes| bytes == 0)) {
            // We have made the log, and it is still empty. So let an ordinary close remove it. SQLite does that only if
            // nobody else has the database open, and there is nothing to checkpoint.
            let conn = self.conn();
            let _ = conn.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, false);
            let _ = conn.file_control(None::<&str>, FileControl::PersistWal(&mut 0));
        }
    }
}

/// A `file:` URI which tells SQLite that nobody changes this file (<https://sqlite.org/uri.html>, `immutable`). SQLite
/// then takes no locks and makes no side files, as it would for a WAL database.
pub(super) fn immutable_uri(path: &Path) -> String {
    use std::os::unix::ffi::OsStrExt;
    // After `//` a URI has a host, up to the next `/`. So `//` may only come before an absolute path, where the host is
    // empty.
    let mut uri = String::from(if path.is_absolute() { "file://" } else { "file:" });
    for &byte in path.as_os_str().as_bytes() {
        match byte {
            b'/' | b'-' | b'.' | b'_' | b'0'..=b'9' | b'a'..=b'z' | b'A'..=b'Z' => uri.push(char::from(byte)),
            _ => {
                uri.push('%');
                uri.push_str(&crate::id::to_hex(&[byte]));
            }
        }
    }
    uri.push_str("?immutable=1");
    uri
}

fn failure(code: c_int) -> rusqlite::Error {
    rusqlite::Error::SqliteFailure(ffi::Error::new(code), None)
}

/// One of SQLite's open files. Valid as long as the connection that it came from; see [`Engine`].
struct RawFile(NonNull<ffi::sqlite3_file>);

// SAFETY: the file belongs to a connection whose VFS opens files as "unix" does (see held.rs). Only its methods xRead,
// xFileSize and xShmMap are called here. xRead is one pread(2) (sqlite3.c: seekAndRead, USE_PREAD on Linux and macOS)
// on a descriptor that stays the same; memory mapping is switched off. xFileSize is one fstat(2). xShmMap takes
// SQLite's own mutex. On an error they store errno in a field that nobody here reads. A query that runs on the
// connection at the same time stores it there, too, and SQLite reads that field only to choose among I/O errors.
unsafe impl Send for RawFile {}
// SAFETY: as above.
unsafe impl Sync for RawFile {}

impl RawFile {
    /// Asks the connection for one of its files.
    fn of(conn: &Connection, op: c_int) -> EngineResult<Self> {
        let mut file: *mut ffi::sqlite3_file = std::ptr::null_mut();
        // SAFETY: the handle is open for the time of the borrow; both opcodes used store one pointer where the argument
        // points.
        let code = unsafe { ffi::sqlite3_file_control(conn.handle(), c"main".as_ptr(), op, (&raw mut file).cast::<c_void>()) };
        match (code, NonNull::new(file)) {
            (ffi::SQLITE_OK, Some(file)) => Ok(Self(file)),
            (ffi::SQLITE_OK, None) => Err(failure(ffi::SQLITE_CANTOPEN)),
            (code, _) => Err(failure(code)),
        }
    }

    fn methods(&self) -> EngineResult<&ffi::sqlite3_io_methods> {
        // SAFETY: the file lives as long as the connection, which outlives `self`; pMethods is null or points to a
        // constant table.
        unsafe { self.0.as_ref().pMethods.as_ref() }.ok_or_else(|| failure(ffi::SQLITE_CANTOPEN))
    }

    fn len(&self) -> EngineResult<u64> {
        let call = self.methods()?.xFileSize.ok_or_else(|| failure(ffi::SQLITE_MISUSE))?;
        let mut bytes: ffi::sqlite3_int64 = 0;
        // SAFETY: an open file and a place for the answer.
        match unsafe { call(self.0.as_ptr(), &raw mut bytes) } {
            ffi::SQLITE_OK => Ok(u64::try_from(bytes).unwrap_or(0)),
            code => Err(failure(code)),
        }
    }

    fn read(&self, offset: u64, buffer: &mut [u8]) -> EngineResult<()> {
        let call = self.methods()?.xRead.ok_or_else(|| failure(ffi::SQLITE_MISUSE))?;
        let mut at = ffi::sqlite3_int64::try_from(offset).map_err(|_| failure(ffi::SQLITE_TOOBIG))?;
        for piece in buffer.chunks_mut(READ_BYTES_MAX) {
            // At most READ_BYTES_MAX, so the cast keeps the value.
            let bytes = piece.len() as c_int;
            // SAFETY: an open file and a buffer of exactly `bytes` bytes.
            let code = unsafe { call(self.0.as_ptr(), piece.as_mut_ptr().cast::<c_void>(), bytes, at) };
            if code != ffi::SQLITE_OK {
                return Err(failure(code));
            }
            at = at.saturating_add(ffi::sqlite3_int64::from(bytes));
        }
        Ok(())
    }

    fn shm_region(&self, region: u32) -> EngineResult<Option<&[AtomicU32]>> {
        let Some(call) = self.methods()?.xShmMap else { return Ok(None) };
        let region = c_int::try_from(region).map_err(|_| failure(ffi::SQLITE_TOOBIG))?;
        let mut memory: *mut c_void = std::ptr::null_mut();
        // SAFETY: an open main database file; extend = 0, so nothing is allocated in the file.
        let code = unsafe { call(self.0.as_ptr(), region, SHM_REGION_BYTES as c_int, 0, &raw mut memory) };
        // READONLY: the map is there, but may not be written. We only read it.
        if code != ffi::SQLITE_OK && code != ffi::SQLITE_READONLY {
            return Err(failure(code));
        }
        let Some(memory) = NonNull::new(memory.cast::<AtomicU32>()) else { return Ok(None) };
        // SAFETY: SQLite maps regions of this size, page-aligned, and unmaps them when the last connection of this
        // process to the database closes, which ours does not before `self` is gone. Other processes store to the same
        // memory: hence atomics, as SQLite's own code.
        Ok(Some(unsafe { std::slice::from_raw_parts(memory.as_ptr(), SHM_REGION_BYTES / size_of::<AtomicU32>()) }))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    /// In a URI `//host/` is not a part of the path, and `?` and `%` have a meaning.
    #[test]
    fn an_immutable_file_is_opened_whatever_its_path() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a b?c=%41#d.db");
        Connection::open(&path).unwrap().execute_batch("CREATE TABLE t(a)").unwrap();
        for given in [path.clone(), PathBuf::from(format!("/{}", path.display()))] {
            let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_URI;
            let conn = Connection::open_with_flags(immutable_uri(&given), flags).unwrap();
            conn.execute_batch("SELECT a FROM t").unwrap();
        }
        assert_eq!(immutable_uri(Path::new("a/b")), "file:a/b?immutable=1");
    }
}
