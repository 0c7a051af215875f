//! The engines: one folder or file for each kind of source, with everything that is special about that kind.
//!
//! An engine never sees the store. It gives streams through [`Capture`] when a source is captured, and gets stored
//! streams through [`stored::Stored`] when a snapshot is restored or drilled.
//!
//! A new kind of source needs a file or folder with its [`Source`], [`Capture`] and [`Engine`], and a line in `ENGINES`. Its name stands in
//! `recorded`, and its command in `cli`.

pub(crate) mod attributes;
pub(crate) mod child;
pub mod command;
pub mod drill;
mod environment;
pub mod files;
mod name;
pub mod place;
pub mod postgres;
pub(crate) mod program;
pub(crate) mod pump;
mod row_sum;
pub mod sqlite;
pub(crate) mod stamp;
mod stoppable;
pub mod stored;
mod unknown;

pub use environment::Environment;

use std::collections::HashMap;
use std::io::Read;
use std::path::Path;
use std::sync::Arc;

use self::drill::{CheckReport, NamedAssertion};
use self::stored::{Stored, StreamInfo};
use crate::error::{Error, Result};
use crate::fs::sparse_read::Holes;
use crate::progress::Monitor;
use crate::recorded::{EntryKind, FileMeta, Flag, SourceKind, TableContent};

/// All kinds of sources.
static ENGINES: [&dyn Engine; 4] = [&sqlite::SqliteEngine, &files::FilesEngine, &postgres::PostgresEngine, &command::CommandEngine];

/// The engine of a kind of source. For an unknown kind, which a later version of icecore may have stored, it is one
/// that takes every stream as bytes.
pub fn of(kind: &SourceKind) -> &'static dyn Engine {
    ENGINES.into_iter().find(|engine| engine.kind() == *kind).unwrap_or(&unknown::UnknownEngine)
}

/// What is special about a kind of source once it is stored.
pub trait Engine: Sync {
    /// The kind, as records have it.
    fn kind(&self) -> SourceKind;

    /// Whether its sources belong to one machine. A server's databases do not: they are the same whichever machine
    /// dumps them.
    fn is_of_host(&self) -> bool {
        true
    }

    /// How a capture is compared with the last good state of its source.
    fn comparison(&self) -> Comparison;

    /// Whether a snapshot is drilled on a server of its kind instead of in a directory.
    fn needs_server(&self) -> bool {
        false
    }

    /// Whether its streams were files: with attributes, and with SQLite databases among them.
    fn has_files(&self) -> bool {
        true
    }

    /// Whether a stream is a database.
    fn is_database(&self, _name: &[u8], kind: &EntryKind) -> bool {
        matches!(kind, EntryKind::Sqlite(_))
    }

    /// The word for a stream: `sqlite`, `pgdump`, `pgdir`, or `file` for anything else.
    fn stream_word(&self, _name: &[u8], kind: &EntryKind) -> &'static str {
        if matches!(kind, EntryKind::Sqlite(_)) { "sqlite" } else { "file" }
    }

    /// The evidence in a snapshot: tables and rows of its database, from a stream that was stored for this. `None` for
    /// SQLite, as the records of its databases have this themselves.
    ///
    /// # Errors
    /// As reading the repository.
    fn evidence(&self, _stored: &dyn Stored) -> Result<Option<Evidence>> {
        Ok(None)
    }

    /// Checks the databases that were restored into a directory, in `threads` threads, and asks the assertions.
    /// Findings are in the reports.
    ///
    /// # Errors
    /// [`Error::Cancelled`]
    fn verify(
        &self,
        dir: &Path,
        streams: &[StreamInfo],
        assertions: &[NamedAssertion],
        threads: usize,
        monitor: &dyn Monitor,
    ) -> Result<Vec<CheckReport>> {
        sqlite::drill::Work::of(dir, streams, assertions).run(threads, monitor)
    }
}

/// A server with several databases. Each database is a source of its own.
pub trait Server {
    /// The kind of its sources.
    fn kind(&self) -> SourceKind;

    /// The server, as messages name it.
    fn label(&self) -> String;

    /// Its databases.
    ///
    /// # Errors
    /// [`Error::Source`] if they cannot be listed.
    fn databases(&self) -> Result<Databases>;

    /// One of its databases, as messages name it. This needs no connection.
    fn label_of(&self, database: &str) -> String;

    /// One of its databases as a source.
    ///
    /// # Errors
    /// [`Error::Source`] if it cannot be connected to.
    fn source(&self, database: &str) -> Result<Box<dyn Source>>;
}

/// The databases of a server, sorted by name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Databases {
    /// Databases that can be captured, the users' templates too.
    pub names: Vec<String>,
    /// Databases that cannot or should not be captured, and why.
    pub passed_over: Vec<(String, String)>,
}

/// How a capture is compared with the last good state of its source, to find out whether it lacks something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Comparison {
    /// Databases that the user has named: each that is gone counts as missing.
    Named,
    /// Trees: a database that is gone counts as missing, a file only if its whole directory is gone.
    Trees,
    /// Output of programs: all streams of a snapshot belong together.
    Programs,
}

/// The evidence of a database in a snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Evidence {
    /// The stream that has it.
    pub stream: Vec<u8>,
    /// The database's tables.
    pub tables: Vec<TableInspection>,
}

/// Name, rows and content of a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TableInspection {
    /// Its name; for PostgreSQL with its schema.
    pub name: Vec<u8>,
    /// The number of its rows.
    pub rows: u64,
    /// The sum of the rows' hashes, as hex digits.
    pub content: String,
}

impl TableInspection {
    /// From a record.
    pub fn of(table: &TableContent) -> Self {
        TableInspection { name: table.name.clone(), rows: table.rows, content: crate::id::to_hex(&table.sum) }
    }
}

/// A source. It can be captured any number of times.
pub trait Source: Send + Sync {
    /// The identity of this source. Snapshots with equal identities form one history.
    fn identity(&self) -> SourceDescription;

    /// Whether the tables of every database are to be recorded. Then a stream without such a record in the parent is
    /// not `known`, so that it is read even if its files look unchanged.
    fn wants_content(&self) -> bool {
        false
    }

    /// Whether a capture may be made only once for a snapshot, since it has effects outside.
    fn runs_once(&self) -> bool {
        false
    }

    /// Begins a capture. Each stream is consistent in itself. The facts say whether all streams are of one instant.
    ///
    /// `known` has the stamps of the streams' files from the time when this host captured the parent. A stream whose
    /// files look the same may come back as [`Body::Unchanged`], but only by the rule in [`sqlite`].
    ///
    /// # Errors
    /// [`crate::Error::Source`] if a database cannot be read as one, [`crate::Error::Busy`] if it stays locked.
    fn capture<'a>(&'a self, known: &'a dyn Known, monitor: &'a dyn Monitor) -> Result<Box<dyn Capture + 'a>>;
}

/// The stamps of the parent's streams.
pub trait Known: Sync {
    /// The stamp of the stream of this name, if it has one.
    fn stamp(&self, name: &[u8]) -> Option<Stamp>;
}

impl Known for HashMap<Vec<u8>, Stamp> {
    fn stamp(&self, name: &[u8]) -> Option<Stamp> {
        self.get(name).cloned()
    }
}

/// Names a source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceDescription {
    /// The kind of source.
    pub kind: SourceKind,
    /// The canonical parts of its identity (paths with names), sorted.
    pub parts: Vec<Vec<u8>>,
    /// The text for messages: the paths as the user has given them.
    pub label: String,
}

/// A capture in progress. Streams come one after the other. The caller reads and drops the body of a stream before it
/// asks for the next one, so a source can release what it holds for a single stream.
pub trait Capture: Send {
    /// How many bytes will be read in all, for progress; `None` if this is not known before.
    fn total_bytes(&self) -> Option<u64>;

    /// The files and directories that the user has named. Empty for sources that are not trees.
    fn roots(&self) -> Vec<NamedRoot> {
        Vec::new()
    }

    /// The next stream, or `None` after the last.
    fn next_stream(&mut self) -> Result<Option<CapturedStream>>;

    /// Is called with the error if the body of the last stream could not be read to its end. On `Ok` the backup goes on
    /// without that stream; the source has recorded it as skipped, or will return it again in another way.
    ///
    /// # Errors
    /// The same error, if the backup cannot do without the stream.
    fn unreadable(&mut self, error: Error) -> Result<()>;

    /// Whether the capture makes writers of a database wait at this point, after the latest call of
    /// [`Capture::next_stream`]. If so, the caller first only reads, and does the slow work after the database was
    /// released.
    fn blocks_writers(&self) -> bool;

    /// Whether reading the body of the last stream may block for long, as for a program that writes nothing. Then it is
    /// read by a thread of its own.
    fn may_wait(&self) -> bool {
        true
    }

    /// Takes the stamps that there are so far; the report then has only the later ones. A capture of few streams keeps
    /// them all for its report.
    fn take_stamps(&mut self) -> HashMap<Vec<u8>, Stamp> {
        HashMap::new()
    }

    /// Releases everything and returns the report. All bodies must have been dropped or read to their end.
    fn finish(self: Box<Self>) -> Result<CaptureReport>;
}

/// One named byte sequence of a capture.
pub struct CapturedStream {
    /// Its name in the snapshot: unique, relative, `/` between parts, no `.` or `..` part.
    pub name: Vec<u8>,
    /// Its kind, with details of that kind.
    pub kind: EntryKind,
    /// Mode, times and owner, if it is a file. `None` with [`Body::Unchanged`] means that these have not changed
    /// either.
    pub meta: Option<FileMeta>,
    /// Its bytes.
    pub body: Body,
}

impl CapturedStream {
    /// A file without metadata: only its bytes are known.
    pub(crate) fn of_file(name: &str, body: Body) -> Self {
        CapturedStream { name: name.as_bytes().to_vec(), kind: EntryKind::File, meta: None, body }
    }
}

/// The bytes of a stream.
pub enum Body {
    /// No bytes: a directory or a link.
    None,
    /// A file of fixed-size pages. Several threads can read it at any place.
    Pages(Arc<dyn PageRead>),
    /// Anything else, read from front to back. A read error means that the source cannot be read, not that it has
    /// ended.
    Bytes(Box<dyn Read + Send>),
    /// Like `Bytes`, for a file with holes.
    Sparse {
        /// The bytes and holes.
        input: Box<dyn Holes + Send>,
        /// The length in bytes, with the holes.
        len: u64,
    },
    /// The same bytes as in the parent snapshot, without reading them.
    Unchanged,
}

/// A consistent image of a page file.
pub trait PageRead: Send + Sync {
    /// Bytes in the image.
    fn len_bytes(&self) -> u64;

    /// Bytes in a page; a power of two from 512 to 65,536.
    fn page_size(&self) -> u32;

    /// Fills `buffer` with the bytes at `offset`. Both are multiples of the page size, except that the last read may end at the end
    /// of the image. Each page must be read exactly once for the findings of [`Capture::finish`] to be complete.
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<()>;
}

/// The results of a capture at its end.
#[derive(Debug, Clone, Default)]
pub struct CaptureReport {
    /// Reasons why this capture, or a stream of it, should not count as good.
    pub flags: Vec<Flag>,
    /// What could not be read. The rest was captured, and the backup is incomplete. Each line is also the detail of a
    /// flag, unless nothing is lost that a user may want back.
    pub skipped: Vec<String>,
    /// What was left out on purpose, by the user's rules or icecore's own.
    pub left_out: files::LeftOut,
    /// Facts for the record: `instant` = `proven`, `locked` or `each` (every database has its own), `sqlite` = library
    /// version.
    pub facts: Vec<(String, String)>,
    /// Stamps by stream, taken before its files were read, for the next capture's `known`.
    pub stamps: HashMap<Vec<u8>, Stamp>,
    /// The tables of a database by stream, if they were summed.
    pub contents: HashMap<Vec<u8>, Vec<TableContent>>,
}

/// A file or directory that was named.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamedRoot {
    /// Its path.
    pub path: std::path::PathBuf,
    /// The start of the names of its streams; empty for a directory that is the only root.
    pub prefix: Vec<u8>,
}

/// The state of a stream's files (see `stamp`). It never leaves the host that took it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stamp(pub Vec<u8>);
