//! SQLite databases, read page by page under a read transaction, without a copy and in parallel.
//!
//! The stream of a database is, byte for byte, the file that a checkpoint at the captured instant would leave. It comes straight out of
//! SQLite's own file handles (never our own: closing any other descriptor of a database drops the POSIX locks of the whole process),
//! inside a read transaction of an ordinary connection. That connection never checkpoints, never writes, except that opening rolls back
//! or recovers what a dead process has left, as any connection does, and leaves -wal and -shm where they were.
//!
//! # Why the image is right
//!
//! *Rollback journal.* The transaction holds the shared lock. Writers change the file only under the exclusive lock, so it stays as it is;
//! it is read with pread(2) from several threads.
//!
//! *WAL.* Let H be the wal-index header that our transaction works with: its last frame, its size in pages, the salts. SQLite does not
//! show H, but takes it from shared memory, and only if it was the current one after the read lock was taken. So: read the header, begin,
//! read it again; if it is the same, H is that one, because every commit, reset and recovery changes it.
//! Between `begin` and the second look the number of backfilled frames, B, is read; because the header was still H *after* that, no
//! checkpointer that knew later frames can have set B, and each page whose last frame (up to H) is at most B is complete in the main file
//! (the argument of walTryBeginRead in sqlite3.c). From then on:
//! - B = last frame of H: the main file has everything. We hold read lock 0, which checkpointers need exclusively, or a read lock k > 0
//!   whose mark is at most H's last frame; a checkpointer never goes past the mark of a held lock, so there is nothing it could write.
//!   The image is the main file.
//! - B smaller: we hold a read lock k > 0. So the log cannot be reset (that needs all of those locks exclusively), and frames up to H and
//!   their page numbers in the wal-index stay. A checkpointer may run, but it writes to the main file only pages whose last frame, by its
//!   own and therefore by our header, lies after B and not after our mark: exactly pages that we read from the log. The image has H's
//!   size; pages with a frame between B and H come from the log, each frame checked for its page number and salts; all
//!   others come from the main file, and beyond its end are zeros, as the truncation after a checkpoint would leave them.
//!
//! The lock-byte page at 1 GiB holds no data and is always zeros.
//!
//! # When a database is not read
//!
//! Only if the file system proves that nothing was written: see [`SqliteSource`] and the rule in `engine/stamp.rs`.

pub mod bounds;
mod capture;
pub(crate) mod check;
pub mod content;
mod cut;
pub(crate) mod drill;
mod engine;
pub(crate) mod errors;
mod explain;
mod header;
pub(crate) mod held;
mod image;
mod instant;
mod job;
mod open;
pub mod restore;
pub mod salvage;
pub mod structure;
mod unchanged;
mod wal;

use std::collections::VecDeque;
use std::fs::File;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

pub use capture::{CapturedFile, capture_file};
pub use cut::outlive_cut_indexes;
pub(super) use header::MAGIC;
pub use job::ContentWhen;
pub(super) use job::{ContentBudget, ContentJob, report_content};

pub(crate) use capture::capture_held;

use self::capture::{Given, canonical, capture_together};
use self::instant::Instant;
use super::{Body, Capture, CaptureReport, CapturedStream, Comparison, Known, Source, SourceDescription, Stamp};
use crate::error::{Error, Result};
use crate::progress::Monitor;
use crate::recorded::{EntryKind, Flag, SourceKind};

/// SQLite databases, named one by one.
pub struct SqliteEngine;

impl super::Engine for SqliteEngine {
    fn kind(&self) -> SourceKind {
        SourceKind::SQLITE
    }

    fn comparison(&self) -> Comparison {
        Comparison::Named
    }
}

/// How to read databases.
#[derive(Debug, Clone)]
pub struct SqliteOptions {
    /// How long to wait for a lock that somebody else holds.
    pub busy_timeout: Duration,
    /// Where to copy a database on read-only media that has a log or journal with content; `None`: such a database is refused.
    pub temp_dir: Option<PathBuf>,
    /// The wall clock, asked once at the start of each capture. `|| SystemTime::UNIX_EPOCH` switches off the rule for unchanged files.
    pub clock: fn() -> SystemTime,
    /// Whether the content of the databases is summed up.
    pub content: ContentWhen,
}

/// Default of [`SqliteOptions::busy_timeout`].
pub const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// Whether a file begins like a SQLite database. Links are followed; what is not a regular file is none.
///
/// Only call this while no connection of this process is open on the file, under whatever name: closing a file drops all POSIX
/// locks that the process holds on it, and with them SQLite's (<https://sqlite.org/howtocorrupt.html>, section 2.2). So look at all files
/// first, then open databases.
///
/// # Errors
/// [`Error::Source`] if the file cannot be read.
pub fn is_sqlite(path: &Path) -> Result<bool> {
    let failed = |e: std::io::Error| Error::source(path, e);
    // Opening a FIFO would wait for a writer.
    if !std::fs::metadata(path).map_err(failed)?.is_file() {
        return Ok(false);
    }
    let mut start = Vec::with_capacity(header::MAGIC.len());
    File::open(path).and_then(|file| file.take(header::MAGIC.len() as u64).read_to_end(&mut start)).map_err(failed)?;
    Ok(start == header::MAGIC)
}

/// Whether an open file begins like a SQLite database.
///
/// # Errors
/// When it cannot be read.
pub(crate) fn begins_like_sqlite(file: &File) -> std::io::Result<bool> {
    let mut start = [0; MAGIC.len()];
    match file.read_exact_at(&mut start, 0) {
        Ok(()) => Ok(start == *MAGIC),
        Err(e) if e.kind() == std::io::ErrorKind::UnexpectedEof => Ok(false),
        Err(e) => Err(e),
    }
}

/// Databases that are captured together, at one instant.
///
/// A database comes back as [`Body::Unchanged`] if device, inode, size, modification and change time of its file and of its -wal (or its
/// absence) equal those of the known stamp, looked at again after the transactions of the others were open, and its content was read less than
/// a day ago. A stamp is given out only on local file systems, and if the last change was then more than 2 s old.
#[derive(Debug)]
pub struct SqliteSource {
    databases: Vec<Database>,
    options: SqliteOptions,
}

#[derive(Debug)]
struct Database {
    name: String,
    path: PathBuf,
    given: PathBuf,
}

impl SqliteSource {
    /// Names the databases: each stream's name, and the file. Links are resolved now; nothing is opened.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] for no database, a bad or double name; [`Error::Source`] for a file that is not there.
    pub fn new(databases: Vec<(String, PathBuf)>, options: SqliteOptions) -> Result<Self> {
        if databases.is_empty() {
            return Err(Error::InvalidArgument("name at least one database".to_owned()));
        }
        let mut checked: Vec<Database> = Vec::with_capacity(databases.len());
        for (name, given) in databases {
            super::name::check(&name, "NAME=FILE")?;
            if checked.iter().any(|other| other.name == name) {
                return Err(Error::InvalidArgument(format!("two databases are named {name}; give one another name: NAME=FILE")));
            }
            checked.push(Database { name, path: canonical(&given)?, given });
        }
        Ok(Self { databases: checked, options })
    }
}

impl Source for SqliteSource {
    fn identity(&self) -> SourceDescription {
        let part = |database: &Database| [database.name.as_bytes(), b"=", database.path.as_os_str().as_bytes()].concat();
        let mut parts: Vec<Vec<u8>> = self.databases.iter().map(part).collect();
        parts.sort();
        let given: Vec<String> = self.databases.iter().map(|database| database.given.display().to_string()).collect();
        SourceDescription { kind: SourceKind::SQLITE, parts, label: given.join(" ") }
    }

    fn wants_content(&self) -> bool {
        self.options.content == ContentWhen::Always
    }

    fn capture<'a>(&'a self, known: &'a dyn Known, monitor: &'a dyn Monitor) -> Result<Box<dyn Capture + 'a>> {
        let stamps: Vec<Option<Stamp>> = self.databases.iter().map(|database| known.stamp(database.name.as_bytes())).collect();
        let given = self.databases.iter().zip(&stamps).map(|(database, stamp)| Given::find(&database.path, stamp.as_ref()));
        let given = given.collect::<Result<Vec<_>>>()?;
        let (files, instant) = capture_together(&given, &self.options, monitor)?;
        let files: Vec<_> = self.databases.iter().map(|database| database.name.clone().into_bytes()).zip(files).collect();
        let content = ContentJob::start(files.iter().map(|(_, file)| file), &mut ContentBudget::new(self.options.content));
        Ok(Box::new(SqliteCapture { monitor, content, waiting: (0..files.len()).collect(), files, instant }))
    }
}

/// The streams of all databases.
struct SqliteCapture<'a> {
    monitor: &'a dyn Monitor,
    /// Before `files` in the order of dropping: it uses their connections.
    content: ContentJob,
    files: Vec<(Vec<u8>, CapturedFile)>,
    /// Those that have not been given out.
    waiting: VecDeque<usize>,
    instant: Instant,
}

impl Capture for SqliteCapture<'_> {
    fn total_bytes(&self) -> Option<u64> {
        Some(self.files.iter().map(|(_, file)| file.bytes_to_read()).sum())
    }

    fn next_stream(&mut self) -> Result<Option<CapturedStream>> {
        let Some((name, file)) = self.waiting.pop_front().and_then(|index| self.files.get(index)) else { return Ok(None) };
        let body = file.pages().map_or(Body::Unchanged, Body::Pages);
        Ok(Some(CapturedStream { name: name.clone(), kind: EntryKind::Sqlite(file.facts()), meta: Some(file.meta().clone()), body }))
    }

    fn unreadable(&mut self, error: Error) -> Result<()> {
        Err(error)
    }

    fn blocks_writers(&self) -> bool {
        self.files.iter().any(|(_, file)| file.blocks_writers())
    }

    fn finish(self: Box<Self>) -> Result<CaptureReport> {
        let mut report = CaptureReport::default();
        report.facts.push(("sqlite".to_owned(), rusqlite::version().to_owned()));
        match self.instant {
            Instant::Proven => report.facts.push(("instant".to_owned(), "proven".to_owned())),
            Instant::Locked => report.facts.push(("instant".to_owned(), "locked".to_owned())),
            Instant::None => {
                let detail = "each database is consistent, but they were written to without pause and may be of different instants";
                report.flags.push(Flag::new("no-instant", detail));
            }
        }
        // Of files whose writers wait the chunks are stored after this, which is still a part of the reading.
        if self.content.is_working() && !self.blocks_writers() {
            self.monitor.phase("summing up tables", None);
        }
        for (number, outcome) in self.content.finish(self.monitor)? {
            if let Some((name, file)) = self.files.get(number) {
                report_content(&mut report, name, file, outcome);
            }
        }
        // All transactions end, whatever one of them says.
        let finished: Vec<_> = self.files.into_iter().map(|(name, file)| (name, file.finish())).collect();
        for (name, outcome) in finished {
            let (flags, stamp) = outcome?;
            report.flags.extend(flags.into_iter().map(|flag| flag.about(&name)));
            report.stamps.extend(stamp.map(|stamp| (name, stamp)));
        }
        Ok(report)
    }
}
