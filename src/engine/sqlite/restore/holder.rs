//! Who else uses a database, and how to be the only one.
//!
//! | other user | seen by |
//! |---|---|
//! | a transaction, reading or writing | SQLite's locks |
//! | an idle connection to a WAL database that has read or written once | the shared lock it keeps on the file: `locking_mode=EXCLUSIVE` before the first access asks for an exclusive one |
//! | an idle connection to a rollback-journal database, or one that has not read yet | it holds no lock: on Linux its open file is found in `/proc/PID/fd`, for processes that the present user may look into (all for root, else the user's own); elsewhere not at all |
//!
//! The exclusive lock is kept until the new database has the name, so that nobody starts to write into the old one in between.

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

/// What is at the destination, with everybody else kept away from it as far as that goes.
pub(in crate::engine) enum Grip {
    /// A database of which the file itself holds everything: its WAL is checkpointed, its journal rolled back, side files are void.
    Whole {
        /// Holds the exclusive lock. Before `file` in the order of dropping: closing `file` first would drop the lock early.
        _lock: HeldConnection,
        file: File,
    },
    /// Not a database, or one that SQLite does not open: it can only be kept as it is, side files and all.
    Opaque { file: Option<File> },
}

impl Grip {
    /// The file, where it could be opened.
    pub fn file(&self) -> Option<&File> {
        match self {
            Grip::Whole { file, .. } => Some(file),
            Grip::Opaque { file } => file.as_ref(),
        }
    }
}

/// Opens the destination for as long as it is worked on; `None` where the present user may not read it, or it is no regular file.
pub(in crate::engine) fn open_file(place: &Named) -> Option<File> {
    beneath::open_file_to_write(place.held()).or_else(|_| beneath::open_file(place.held())).ok()
}

/// A first look, before the new bytes are written: refuses what is in use as far as that can be seen without touching it.
pub(in crate::engine) fn refuse_if_used(path: &Path, meta: &Metadata, file: Option<&File>) -> Result<()> {
    refuse_if_open(path, meta)?;
    file.map_or(Ok(()), |file| refuse_if_locked(path, file))
}

/// The part of this look that asks for locks.
pub(in crate::engine) fn refuse_if_locked(path: &Path, file: &File) -> Result<()> {
    lock_whole(path, file)?;
    // Only a look: SQLite takes its own locks later.
    let _ = rustix::fs::fcntl_lock(file, FlockOperation::NonBlockingUnlock);
    Ok(())
}

/// How often to look again for processes that have the destination open, and the pause before each look.
const LOOKS: u32 = 5;
/// See [`LOOKS`].
const LOOK_PAUSE: std::time::Duration = std::time::Duration::from_millis(20);

/// Becomes the only user of the destination, or refuses.
pub(in crate::engine) fn take(target: &Target, meta: &Metadata, file: Option<File>) -> Result<Grip> {
    refuse_if_open(&target.path, meta)?;
    let Some(file) = file else { return Ok(Grip::Opaque { file: None }) };
    // SQLite deletes the WAL and the journal of an empty database without reading them; here they may be all that is left of one.
    // One whose journal asks for terabytes is moved away as it is.
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

/// A connection that nobody can use the database beside, after its journal was rolled back and its WAL checkpointed.
fn sole_connection(place: &Named, file: &File) -> rusqlite::Result<HeldConnection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let conn = open_same(place.dir(), place.held(), file, flags)?;
    // When this connection is closed NAME is another database, perhaps in use already: its WAL must not be deleted by name.
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

/// Takes a lock over the whole file, which any lock of another SQLite process on it prevents; held until the file is closed.
fn lock_whole(path: &Path, file: &File) -> Result<()> {
    let outcome = match rustix::fs::fcntl_lock(file, FlockOperation::NonBlockingLockExclusive) {
        // Opened for reading only: that much can be locked.
        Err(Errno::BADF) => rustix::fs::fcntl_lock(file, FlockOperation::NonBlockingLockShared),
        other => other,
    };
    match outcome {
        Err(Errno::AGAIN | Errno::ACCESS) => Err(in_use(path, "another process")),
        // A file system without locks has no lock that could be seen.
        _ => Ok(()),
    }
}

/// Whether SQLite says that someone else has what is needed.
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

/// The refusal.
pub(in crate::engine) fn in_use(path: &Path, by: &str) -> Error {
    Error::Busy { path: path.to_path_buf(), detail: format!("in use by {by}; stop it, or use --live to write into the open database") }
}

/// Looks more than once: a process that is just starting another shows up twice until the new program runs.
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

/// Other processes that have this file open, as `process 123 (name)`. What may not be looked into is left out.
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

/// Every file that other processes have open, by device and inode, as far as they may be looked into: one look for many files.
#[cfg(target_os = "linux")]
pub(in crate::engine) fn open_anywhere() -> HashSet<(u64, u64)> {
    use std::os::unix::fs::MetadataExt;
    let own = std::process::id().to_string();
    let processes = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let others = processes.filter(|process| process.file_name().to_str().is_some_and(|name| name != own && name.parse::<u32>().is_ok()));
    let files = others.filter_map(|process| std::fs::read_dir(process.path().join("fd")).ok()).flatten().flatten();
    files.filter_map(|file| std::fs::metadata(file.path()).ok()).map(|open| (open.dev(), open.ino())).collect()
}

/// Every file that other processes have open: unknown here.
#[cfg(not(target_os = "linux"))]
pub(in crate::engine) fn open_anywhere() -> HashSet<(u64, u64)> {
    HashSet::new()
}

/// Other processes that have this file open: unknown here.
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
