//! Opens a database in the way that its place allows.
//!
//! - In place, with SQLite's locks: the usual way.
//! - As a file that nobody changes, on read-only media where SQLite cannot make the side files that it needs. There are
//!   no locks then, so the state of the files is compared at the end.
//! - As a private copy, on read-only media with a log or journal that must be replayed.
//!
//! Nothing is opened if opening could destroy something (a log beside an empty file) or fill the disk.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::fs::StatVfsMountFlags;
use tempfile::TempDir;

use super::SqliteOptions;
use super::bounds::refuse_boundless_journal;
use super::engine::{Engine, EngineResult, OpenAs};
use super::explain::{beside, explain, is_busy};
use super::unchanged::{FilesState, observe};
use crate::error::{Error, Result};
use crate::fs::beneath::open_here;
use crate::progress::{Monitor, Silent};

/// How often a database on read-only media is copied because it changed during the copying.
const COPY_TRIES: u32 = 3;

/// How long to wait for a lock before the monitor is asked whether to go on.
const WAIT_AT_ONCE: Duration = Duration::from_millis(200);

/// An open database without a transaction.
pub(super) struct Opened {
    pub(super) engine: Engine,
    pub(super) hold: Hold,
}

/// Why the image does not change while it is read.
pub(super) enum Hold {
    /// SQLite's locks protect it.
    Locks,
    /// Nobody can write it. That is only assumed, so the files are compared with this state at the end.
    Immutable(FilesState),
    /// It is a private copy.
    Copy(#[expect(dead_code, reason = "removes the copy when dropped")] TempDir),
}

/// Opens a database for capture. `state` is the state of its files before opening.
pub(super) fn open(path: &Path, state: &FilesState, options: &SqliteOptions, monitor: &dyn Monitor) -> Result<Opened> {
    if state.main_len() == 0 && !state.is_main_only() {
        let detail = "the file is empty, but there is a -wal or -journal with content, which SQLite would delete on opening; \
                      if the file was cut off by accident, save those first, else remove them";
        return Err(Error::source(path, detail));
    }
    refuse_boundless_journal(path, path)?;
    let error = match open_shared(path, state, options.busy_timeout, monitor) {
        Ok(engine) => {
            // SQLite does not say which file it has opened, and another file may have taken the name since we looked.
            // So look whether this process has the expected file open.
            return match open_here(state.file_id()) {
                Some(0) => Err(Error::source(path, "another file took its place while it was opened; try again")),
                _ => Ok(Opened { engine, hold: Hold::Locks }),
            };
        }
        Err(error) if is_busy(&error) && monitor.cancelled() => return Err(Error::Cancelled),
        Err(error) => error,
    };
    // Only read-only media are worth another way: elsewhere the files can change, so reading without locks could give a
    // mixture.
    if is_busy(&error) || !is_read_only_media(path) {
        return Err(explain(path, &error));
    }
    if state.is_main_only() {
        let engine = open_and_touch(path, OpenAs::Immutable, false, options.busy_timeout, monitor).map_err(|e| explain(path, &e))?;
        return Ok(Opened { engine, hold: Hold::Immutable(*state) });
    }
    let Some(temp_dir) = &options.temp_dir else {
        let detail = "on read-only media, with a -wal or -journal that must be replayed; name a directory for a temporary copy";
        return Err(Error::source(path, detail));
    };
    open_copy(path, temp_dir, options.busy_timeout, monitor)
}

/// Opens it in place, with locks.
fn open_shared(path: &Path, state: &FilesState, busy_timeout: Duration, monitor: &dyn Monitor) -> EngineResult<Engine> {
    // Without a log now, a log that appears is ours and may be removed on closing.
    let engine = open_and_touch(path, OpenAs::Shared, state.wal_len().is_none(), busy_timeout, monitor)?;
    // If the shared memory may not be written and nobody else has it open, SQLite makes a private one, which we cannot
    // read. The call fails then, and another way is tried.
    if engine.in_wal_mode()? {
        engine.shm_region(0)?;
    }
    Ok(engine)
}

fn open_and_touch(path: &Path, open_as: OpenAs, tidy: bool, busy_timeout: Duration, monitor: &dyn Monitor) -> EngineResult<Engine> {
    let engine = Engine::open(path, open_as, tidy)?;
    in_pieces(&engine, busy_timeout, monitor, || engine.touch())?;
    engine.busy_timeout(busy_timeout)?;
    engine.in_wal_mode()?;
    Ok(engine)
}

/// Tries something for at most `wait`, as long as a lock of somebody else is in the way. SQLite cannot be interrupted
/// while it waits for a lock, so the waiting is done in pieces, and ends early if the user asks to stop.
pub(super) fn in_pieces<T>(
    engine: &Engine,
    wait: Duration,
    monitor: &dyn Monitor,
    attempt: impl Fn() -> EngineResult<T>,
) -> EngineResult<T> {
    let began = Instant::now();
    loop {
        let left = wait.saturating_sub(began.elapsed());
        engine.busy_timeout(left.min(WAIT_AT_ONCE))?;
        match attempt() {
            Err(e) if is_busy(&e) && left > WAIT_AT_ONCE && !monitor.cancelled() => {}
            other => return other,
        }
    }
}

/// A second connection, for locking out writers.
pub(super) fn open_locker(path: &Path) -> EngineResult<Engine> {
    open_and_touch(path, OpenAs::Shared, false, Duration::ZERO, &Silent)
}

fn is_read_only_media(path: &Path) -> bool {
    rustix::fs::statvfs(path).is_ok_and(|fs| fs.f_flag.contains(StatVfsMountFlags::RDONLY))
}

/// Copies the database with its log and journal into a private directory, and opens the copy. None of our connections
/// may be open on the original, because closing a file drops all POSIX locks that the process has on it.
fn open_copy(path: &Path, temp_dir: &Path, busy_timeout: Duration, monitor: &dyn Monitor) -> Result<Opened> {
    // The directory is for this user only: the copy may be more readable than its database.
    let made = tempfile::Builder::new().prefix("icecore-").rand_bytes(16).permissions(Permissions::from_mode(0o700)).tempdir_in(temp_dir);
    let dir = made.map_err(|e| Error::destination(temp_dir, e))?;
    let copy = dir.path().join("copy.db");
    for _ in 0..COPY_TRIES {
        let (before, ..) = observe(path)?;
        for suffix in ["-journal", "-wal", ""] {
            copy_if_there(&beside(path, suffix), &beside(&copy, suffix))?;
        }
        // Unchanged states of all files prove that the parts of the copy belong together.
        let (after, ..) = observe(path)?;
        if before == after {
            let engine = open_and_touch(&copy, OpenAs::Shared, false, busy_timeout, monitor).map_err(|e| explain(path, &e))?;
            return Ok(Opened { engine, hold: Hold::Copy(dir) });
        }
    }
    Err(changed_on_read_only_media(path))
}

/// Copies a file. If it is not there, removes a copy of it from an earlier try.
fn copy_if_there(from: &Path, to: &Path) -> Result<()> {
    match std::fs::copy(from, to) {
        Ok(_) => Ok(()),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => match std::fs::remove_file(to) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(Error::destination(to, e)),
            _ => Ok(()),
        },
        Err(e) => Err(Error::source(from, format_args!("cannot be copied to {}: {e}", to.display()))),
    }
}

/// The error for media that are read-only here, but are written from elsewhere.
pub(super) fn changed_on_read_only_media(path: &Path) -> Error {
    let detail = "it is mounted read-only here, but somebody changed it while it was read; mount it writable, so that SQLite's locks work";
    Error::Busy { path: path.to_path_buf(), detail: detail.to_owned() }
}
