//! What is special about each kind of source, and nothing else: one folder for each. An engine never sees the store: it gives streams through [`Capture`], and
//! gets stored ones through [`stored::Stored`].
//!
//! A kind of source is a folder, its [`Source`] and its [`Engine`], and a line in `ENGINES`.

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

/// The engine of a kind of source. Of a kind that is none of them, one that takes every stream as bytes: a later version of icecore may have stored it.
pub fn of(kind: &SourceKind) -> &'static dyn Engine {
    ENGINES.into_iter().find(|engine| engine.kind() == *kind).unwrap_or(&unknown::UnknownEngine)
}

/// What is special about a kind of source once it is stored.
pub trait Engine: Sync {
    /// The kind, as records have it.
    fn kind(&self) -> SourceKind;

    /// Whether what it captures belongs to one machine. A server's databases are the same from whatever machine they are dumped.
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

    /// Whether a stream is a database that can be asked for its content.
    fn is_database(&self, _name: &[u8], kind: &EntryKind) -> bool {
        matches!(kind, EntryKind::Sqlite(_))
    }

    /// What a stream is: `sqlite`, `pgdump`, `pgdir`, or `file` for anything else.
    fn stream_word(&self, _name: &[u8], kind: &EntryKind) -> &'static str {
        if matches!(kind, EntryKind::Sqlite(_)) { "sqlite" } else { "file" }
    }

    /// What a stream says that is there to tell what the database in the others held. Records of SQLite databases have that themselves.
    ///
    /// # Errors
    /// As reading the repository.
    fn evidence(&self, _stored: &dyn Stored) -> Result<Option<Evidence>> {
        Ok(None)
    }

    /// Checks the databases that were restored to a directory, as many at once as there are `threads`, and asks what must be true of them.
    ///
    /// # Errors
    /// [`Error::Cancelled`]. What a check finds is in its report.
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

    /// For people: where it is asked.
    fn label(&self) -> String;

    /// Its databases.
    ///
    /// # Errors
    /// [`Error::Source`] if it does not say.
    fn databases(&self) -> Result<Databases>;

    /// For people: what a database of it is called, whether or not it can be had.
    fn label_of(&self, database: &str) -> String;

    /// A database of it, to be captured.
    ///
    /// # Errors
    /// [`Error::Source`] if it cannot be had.
    fn source(&self, database: &str) -> Result<Box<dyn Source>>;
}

/// The databases of a server, sorted by name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Databases {
    /// Those that can be captured; templates too.
    pub names: Vec<String>,
    /// Those that cannot, or make no sense to capture, and why.
    pub passed_over: Vec<(String, String)>,
}

/// How a capture is compared with the last good state of its source, to see whether it lacks something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Comparison {
    /// Databases that were named one by one: each that was there is missed.
    Named,
    /// Trees: databases are missed, files only if their whole directory is gone.
    Trees,
    /// What programs write: the streams of one snapshot belong together.
    Programs,
}

/// What a stream says of the database in the others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Evidence {
    /// The stream that says it.
    pub stream: Vec<u8>,
    /// What its tables held.
    pub tables: Vec<TableInspection>,
}

/// What a table held.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TableInspection {
    /// Its name, of PostgreSQL with its schema.
    pub name: Vec<u8>,
    /// Its rows.
    pub rows: u64,
    /// The sum of the rows' hashes, as hex digits.
    pub content: String,
}

impl TableInspection {
    /// Of what a record says.
    pub fn of(table: &TableContent) -> Self {
        TableInspection { name: table.name.clone(), rows: table.rows, content: crate::id::to_hex(&table.sum) }
    }
}

/// Something that can be captured again and again.
pub trait Source: Send + Sync {
    /// What this source is. Two backups with equal identities form one history.
    fn identity(&self) -> SourceDescription;

    /// Whether the content of every stream is to be recorded: then one without a record in the parent is not among the known ones, though its files
    /// look the same.
    fn wants_content(&self) -> bool {
        false
    }

    /// Whether a capture has effects, so that there must not be a second one for the same snapshot.
    fn runs_once(&self) -> bool {
        false
    }

    /// Begins one reading. What is in one stream is consistent; whether all streams are of one instant, the source says in its facts.
    ///
    /// `known` knows what was recorded about the files of a stream when this host captured the parent snapshot; a stream whose files
    /// still look the same may come back as [`Body::Unchanged`] (only by the rule documented in [`sqlite`]).
    ///
    /// # Errors
    /// [`crate::Error::Source`] when a database cannot be read as one, [`crate::Error::Busy`] when it stays locked.
    fn capture<'a>(&'a self, known: &'a dyn Known, monitor: &'a dyn Monitor) -> Result<Box<dyn Capture + 'a>>;
}

/// What the files of the parent snapshot's streams looked like.
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
    /// What sort of source.
    pub kind: SourceKind,
    /// The canonical parts that make its identity (paths with names), sorted.
    pub parts: Vec<Vec<u8>>,
    /// For people: the paths as given.
    pub label: String,
}

/// One reading in progress. Streams come one after the other. The body of a stream is read and dropped before the next stream is asked for,
/// so that a source can let go of what it holds for one stream alone.
pub trait Capture: Send {
    /// Bytes that will be read in all, for progress; `None` if only reading will show.
    fn total_bytes(&self) -> Option<u64>;

    /// The files and directories that were named, of a source that is made of trees.
    fn roots(&self) -> Vec<NamedRoot> {
        Vec::new()
    }

    /// The next stream, or `None` after the last.
    fn next_stream(&mut self) -> Result<Option<CapturedStream>>;

    /// Hears that the body of the stream given out last could not be read to its end, with the error that reading it
    /// gave. On `Ok` the backup goes on without that stream, which the source has noted as skipped or gives out again in another way.
    ///
    /// # Errors
    /// The same error, when the backup cannot do without the stream.
    fn unreadable(&mut self, error: Error) -> Result<()>;

    /// Whether what is held open now, after the last call of [`Capture::next_stream`], makes writers of a database wait; then what is read is
    /// set aside first and worked on after it was let go.
    fn blocks_writers(&self) -> bool;

    /// Whether reading the body of the stream given out last may wait for long, as for a program that has nothing to say. It costs a thread.
    fn may_wait(&self) -> bool {
        true
    }

    /// Hands over the stamps that there are so far; the report has only the others. A capture of few streams keeps all of them for its report.
    fn take_stamps(&mut self) -> HashMap<Vec<u8>, Stamp> {
        HashMap::new()
    }

    /// Lets go of everything and says what was found. All bodies must have been dropped or fully read.
    fn finish(self: Box<Self>) -> Result<CaptureReport>;
}

/// One named byte sequence of a capture.
pub struct CapturedStream {
    /// Its name in the snapshot: unique, relative, `/` between parts, no `.` or `..` part.
    pub name: Vec<u8>,
    /// What it is, with what is known about it.
    pub kind: EntryKind,
    /// Mode, times, owner, where it is a file. If its body is [`Body::Unchanged`] and there is nothing here, these have not changed either.
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
    /// Has none: a directory, a link.
    None,
    /// A file of fixed-size pages, readable at any place by several threads.
    Pages(Arc<dyn PageRead>),
    /// Anything else, from front to back. A read error means that the source cannot be read, not that it has ended.
    Bytes(Box<dyn Read + Send>),
    /// As `Bytes`, of a file with holes.
    Sparse {
        /// The bytes and holes.
        input: Box<dyn Holes + Send>,
        /// How long all of it is.
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

/// What a capture found out by its end.
#[derive(Debug, Clone, Default)]
pub struct CaptureReport {
    /// Reasons why this capture, or a stream of it, should not count as good.
    pub flags: Vec<Flag>,
    /// What could not be read; the rest was captured, and the backup is incomplete. Each line is the detail of a flag, too, unless nothing is lost
    /// that a user may want back.
    pub skipped: Vec<String>,
    /// What was left out because the user, or icecore, wants it so.
    pub left_out: files::LeftOut,
    /// Facts for the record: `instant` = `proven`, `locked` or `each` (every database has its own), `sqlite` = library version.
    pub facts: Vec<(String, String)>,
    /// Per stream what its files looked like before reading, for the next capture's `known`.
    pub stamps: HashMap<Vec<u8>, Stamp>,
    /// Per stream what the tables of a database held, where that was summed up.
    pub contents: HashMap<Vec<u8>, Vec<TableContent>>,
}

/// A file or directory that was named.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamedRoot {
    /// Its path.
    pub path: std::path::PathBuf,
    /// What the names of its streams begin with; empty for a directory that was named alone.
    pub prefix: Vec<u8>,
}

/// What the files of one stream looked like. Only ever compared for equality; stays on the host that took it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stamp(pub Vec<u8>);
