//! SQLite databases, read page by page under a read transaction, without a copy and in parallel.
//!
//! The stream of a database is, byte for byte, the file that a checkpoint at the captured instant would leave. It is
//! read through SQLite's own file handles, inside a read transaction of an ordinary connection. (Never through handles
//! of our own: closing any other descriptor of a database drops the POSIX locks of the whole process.) The connection
//! never checkpoints and never writes, except that opening rolls back or recovers what a dead process has left, as with
//! any connection. It leaves -wal and -shm where they were.
//!
//! # Why the image is right
//!
//! *Rollback journal.* The transaction holds the shared lock. Writers change the file only under the exclusive lock, so
//! it does not change while several threads read it with pread(2).
//!
//! *WAL.* Let H be the wal-index header that our transaction works with. It has the last frame, the size in pages, and
//! the salts. SQLite does not show H. It takes H from shared memory, and only if H was still current after the read
//! lock was taken. So we read the header, begin, and read the header again. If both are the same, that is H, because
//! every commit, reset and recovery changes the header.
//!
//! Between `begin` and the second look we read B, the number of backfilled frames. The header was still H *after* that.
//! So no checkpointer that knew later frames can have set B, and each page whose last frame (up to H) is at most B is
//! complete in the main file. This is the argument of walTryBeginRead in sqlite3.c. From then on there are two cases:
//!
//! - B is the last frame of H. Then the main file has everything, and the image is the main file. We hold read lock 0,
//!   which checkpointers need exclusively, or a read lock k > 0 with a mark of at most H's last frame. A checkpointer
//!   never goes past the mark of a held lock, so there is nothing that it could write.
//! - B is smaller. Then we hold a read lock k > 0. The log cannot be reset, because that needs all of those locks
//!   exclusively. So the frames up to H and their page numbers in the wal-index stay. A checkpointer may run. It writes
//!   to the main file only pages whose last frame, by its header and so by ours, lies after B and not after our mark:
//!   exactly pages that we read from the log. The image has the size that H gives. Pages with a frame between B and H
//!   come from the log; page number and salts of each frame are checked. All other pages come from the main file. After
//!   its end the image has zeros, as the truncation after a checkpoint would leave them.
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

// Casts between `u32`, `usize` and `u64` in this folder only widen, where nothing else is said beside them. This proves
// that widening keeps every value.
const _: () = assert!(usize::BITS >= u32::BITS && usize::BITS <= u64::BITS);

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
    /// The directory for copies of databases on read-only media that have a log or journal with content. With `None`
    /// such databases are refused.
    pub temp_dir: Option<PathBuf>,
    /// The wall clock. It is asked once, at the start of each capture. `|| SystemTime::UNIX_EPOCH` switches off the
    /// rule for unchanged files.
    pub clock: fn() -> SystemTime,
    /// Whether the content of the databases is summed up (rows and a sum for each table).
    pub content: ContentWhen,
}

/// Default of [`SqliteOptions::busy_timeout`].
pub const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// Whether a file begins like a SQLite database. Links are followed. Anything but a regular file gives `false`.
///
/// Only call this while this process has no connection open on the file, under any name: closing a file drops all POSIX
/// locks that the process holds on it, and with them SQLite's (<https://sqlite.org/howtocorrupt.html>, section 2.2). So
/// look at all files first, then open databases.
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
/// If it cannot be read.
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
/// A database comes back as [`Body::Unchanged`] under two conditions. Device, inode, size, modification and change time
/// of its file and of its -wal (or its absence) must equal those of the known stamp, also when looked at again after
/// the transactions of the other databases are open. And its content must have been read less than a day ago. A stamp
/// is given out only on local file systems, and only if the last change was more than 2 s old at that time.
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
    /// Names the databases. Each pair is the name of the stream and the path of the file. Links are resolved now;
    /// nothing is opened.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] if there is no database, or a name is invalid or used twice; [`Error::Source`] if a
    /// file does not exist.
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
    /// Fields are dropped in this order: the job uses the connections of `files`, so it must end before them.
    content: ContentJob,
    files: Vec<(Vec<u8>, CapturedFile)>,
    /// The places in `files` of those that were not given out yet.
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
        // First end all transactions, then look at their results: an error of one must not leave another open.
        let finished: Vec<_> = self.files.into_iter().map(|(name, file)| (name, file.finish())).collect();
        for (name, outcome) in finished {
            let (flags, stamp) = outcome?;
            report.flags.extend(flags.into_iter().map(|flag| flag.about(&name)));
            report.stamps.extend(stamp.map(|stamp| (name, stamp)));
        }
        Ok(report)
    }
}
