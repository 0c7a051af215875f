//! Finds out who else uses a database, and becomes its only user.
//!
//! | other user | seen by |
//! |---|---|
//! | a transaction, reading or writing | SQLite's locks |
//! | an idle connection to a WAL database that has read or written once | the shared lock it keeps on the file: `locking_mode=EXCLUSIVE` before the first access asks for an exclusive one |
//! | an idle connection to a rollback-journal database, or one that has not read yet | it holds no lock. On Linux its open file is found in `/proc/PID/fd`, for processes that this user may look into (root: all, others: their own); on other systems not at all |
//!
//! The exclusive lock is kept until the new database has the name, so that nobody can begin to write into the old one
//! in between.

use std::collections::HashSet;
use std::fs::{File, Metadata};
use std::io;
use std::path::Path;

use rusqlite::config::DbConfig;
use rusqlite::{ErrorCode, OpenFlags};
use rustix::fs::FlockOperation;
use rustix::io::Errno;

use crate::engine::place::target::{Named, Target};
use crate::engine::sqlite::bounds::refuse_boundless_journal;
use crate::engine::sqlite::held::{HeldConnection, open_same};
use crate::error::{Error, Result};
use crate::fs::beneath;

/// The file at the destination, with others kept away from it as far as that is possible.
pub(in crate::engine) enum Grip {
    /// A database that is whole in its file: its WAL is checkpointed, its journal rolled back, its side files are void.
    Whole {
        /// Holds the exclusive lock. Fields are dropped in this order: closing `file` first would drop the lock early.
        _lock: HeldConnection,
        file: File,
    },
    /// Not a database, or one that SQLite does not open. It can only be kept as it is, with its side files.
    Opaque { file: Option<File> },
}

impl Grip {
    /// The file, if it could be opened.
    pub fn file(&self) -> Option<&File> {
        match self {
            Grip::Whole { file, .. } => Some(file),
            Grip::Opaque { file } => file.as_ref(),
        }
    }
}

/// Opens the destination for as long as it is worked on. `None` if this user may not read it, or if it is not a regular
/// file.
pub(in crate::engine) fn open_file(place: &Named) -> Option<File> {
    beneath::open_file_to_write(place.held()).or_else(|_| beneath::open_file(place.held())).ok()
}

/// The first look, before the new bytes are written. Refuses a file that is in use, as far as that can be seen without
/// changing anything.
pub(in crate::engine) fn refuse_if_used(path: &Path, meta: &Metadata, file: Option<&File>) -> Result<()> {
    refuse_if_open(path, meta)?;
    file.map_or(Ok(()), |file| refuse_if_locked(path, file))
}

/// The part of the first look that tries locks.
pub(in crate::engine) fn refuse_if_locked(path: &Path, file: &File) -> Result<()> {
    lock_whole(path, file)?;
    // This is only a look. SQLite takes its own locks later.
    let _ = rustix::fs::fcntl_lock(file, FlockOperation::NonBlockingUnlock);
    Ok(())
}

/// How often to look again for processes that have the destination open.
const LOOKS: u32 = 5;
/// The pause before each of these looks.
const LOOK_PAUSE: std::time::Duration = std::time::Duration::from_millis(20);

/// Becomes the only user of the destination, or refuses.
pub(in crate::engine) fn take(target: &Target, meta: &Metadata, file: Option<File>) -> Result<Grip> {
    refuse_if_open(&target.path, meta)?;
    let Some(file) = file else { return Ok(Grip::Opaque { file: None }) };
    // An empty file is not opened: SQLite deletes the WAL and the journal of an empty database without reading them,
    // and they may be all that is left of it. A database whose journal asks for terabytes is not opened either. Both
    // are kept as they are.
    let place = target.named()?;
    if meta.len() > 0 && refuse_boundless_journal(place.held(), &target.path).is_ok() {
        match sole_connection(&place, &file) {
            Ok(lock) if target.full_sides()?.iter().all(|&side| side != "-wal") => return Ok(Grip::Whole { _lock: lock, file }),
            Ok(_) => {}
            Err(e) if is_busy(&e) => return Err(in_use(&target.path, "another connection")),
            Err(_) => {}
        }
    }
    lock_whole(&target.path, &file)?;
    Ok(Grip::Opaque { file: Some(file) })
}

/// Opens a connection that locks out all others. The journal is rolled back and the WAL checkpointed before it returns.
fn sole_connection(place: &Named, file: &File) -> rusqlite::Result<HeldConnection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let conn = open_same(place.dir(), place.held(), file, flags)?;
    // When this connection is closed, NAME is the new database, which may be in use already. SQLite must not delete its
    // WAL by name.
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
    conn.busy_timeout(std::time::Duration::ZERO)?;
    // In this mode the end of a transaction keeps its lock.
    conn.execute_batch("PRAGMA locking_mode=EXCLUSIVE; BEGIN EXCLUSIVE; COMMIT")?;
    let busy: i64 = conn.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get(0))?;
    if busy != 0 {
        return Err(rusqlite::Error::SqliteFailure(rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_BUSY), None));
    }
    Ok(conn)
}

/// Locks the whole file until it is closed. Fails if another process has any SQLite lock on it.
fn lock_whole(path: &Path, file: &File) -> Result<()> {
    let outcome = match rustix::fs::fcntl_lock(file, FlockOperation::NonBlockingLockExclusive) {
        // The file is open for reading only, so only a shared lock is possible. That still conflicts with writers.
        Err(Errno::BADF) => rustix::fs::fcntl_lock(file, FlockOperation::NonBlockingLockShared),
        other => other,
    };
    match outcome {
        Err(Errno::AGAIN | Errno::ACCESS) => Err(in_use(path, "another process")),
        // On a file system without locks nobody has a lock that could be seen.
        _ => Ok(()),
    }
}

/// Whether an error of SQLite means that somebody else holds a lock.
pub(in crate::engine) fn is_busy(error: &rusqlite::Error) -> bool {
    matches!(error.sqlite_error_code(), Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked))
}

/// The refusal of a live restore.
pub(in crate::engine) fn in_use_live(path: &Path) -> Error {
    let detail =
        "another connection holds a transaction on it and does not end it; nothing was changed, try again, or with a longer --busy-timeout"
            .to_string();
    Error::Busy { path: path.to_path_buf(), detail }
}

/// The refusal of a restore over a closed database.
pub(in crate::engine) fn in_use(path: &Path, by: &str) -> Error {
    Error::Busy { path: path.to_path_buf(), detail: format!("in use by {by}; stop it, or use --live to write into the open database") }
}

/// Refuses a file that another process has open. Looks several times: a process that is just starting another program
/// shows up twice until the new program runs.
fn refuse_if_open(path: &Path, meta: &Metadata) -> Result<()> {
    let mut holders = open_elsewhere(meta);
    for _ in 0..LOOKS {
        if holders.is_empty() {
            return Ok(());
        }
        std::thread::sleep(LOOK_PAUSE);
        holders = open_elsewhere(meta);
    }
    if holders.is_empty() { Ok(()) } else { Err(in_use(path, &holders.join(", "))) }
}

/// Other processes that have this file open, as `process 123 (name)`. Processes that this user may not look into are
/// left out.
#[cfg(target_os = "linux")]
fn open_elsewhere(meta: &Metadata) -> Vec<String> {
    let Ok(processes) = std::fs::read_dir("/proc") else { return Vec::new() };
    let own = std::process::id();
    let mut holders = Vec::new();
    for process in processes.flatten() {
        let Some(pid) = process.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        if pid != own && has_open(&process.path(), meta) {
            let name = std::fs::read_to_string(process.path().join("comm")).unwrap_or_default();
            holders.push(format!("process {pid} ({})", name.trim_end().escape_debug()));
        }
    }
    holders
}

/// All files that other processes have open, by device and inode, as far as this user may look into them. One look
/// serves many files.
#[cfg(target_os = "linux")]
pub(in crate::engine) fn open_anywhere() -> HashSet<(u64, u64)> {
    use std::os::unix::fs::MetadataExt;
    let own = std::process::id().to_string();
    let processes = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let others = processes.filter(|process| process.file_name().to_str().is_some_and(|name| name != own && name.parse::<u32>().is_ok()));
    let files = others.filter_map(|process| std::fs::read_dir(process.path().join("fd")).ok()).flatten().flatten();
    files.filter_map(|file| std::fs::metadata(file.path()).ok()).map(|open| (open.dev(), open.ino())).collect()
}

/// All files that other processes have open. Not known on this system.
#[cfg(not(target_os = "linux"))]
pub(in crate::engine) fn open_anywhere() -> HashSet<(u64, u64)> {
    HashSet::new()
}

/// Other processes that have this file open. Not known on this system.
#[cfg(not(target_os = "linux"))]
fn open_elsewhere(_meta: &Metadata) -> Vec<String> {
    Vec::new()
}

#[cfg(target_os = "linux")]
fn has_open(process: &Path, meta: &Metadata) -> bool {
    use std::os::unix::fs::MetadataExt;
    let Ok(files) = std::fs::read_dir(process.join("fd")) else { return false };
    let same = |open: io::Result<Metadata>| open.is_ok_and(|open| open.dev() == meta.dev() && open.ino() == meta.ino());
    files.flatten().any(|file| same(std::fs::metadata(file.path())))
}
