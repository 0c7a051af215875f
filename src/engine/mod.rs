//! What can be captured: SQLite databases, directory trees, PostgreSQL databases, what a command writes. A source gives streams; it never sees a
//! repository.

pub(crate) mod attributes;
pub(crate) mod child;
pub mod command;
mod environment;
pub mod files;
mod name;
pub mod postgres;
pub(crate) mod program;
pub mod sqlite;
pub(crate) mod stamp;

pub use environment::Environment;

use std::collections::HashMap;
use std::io::Read;
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::fs::holes::Holes;
use crate::progress::Monitor;
use crate::recorded::{EntryKind, FileMeta, Flag, SourceKind, TableContent};

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
    /// `known` holds, per stream name, what was recorded about its files when this host captured the parent snapshot; a stream whose files
    /// still look the same may come back as [`Body::Unchanged`] (only by the rule documented in [`sqlite`]).
    ///
    /// # Errors
    /// [`crate::Error::Source`] when a database cannot be read as one, [`crate::Error::Busy`] when it stays locked.
    fn capture<'a>(&'a self, known: &'a HashMap<Vec<u8>, Stamp>, monitor: &'a dyn Monitor) -> Result<Box<dyn Capture + 'a>>;
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

    /// Lets go of everything and says what was found. All bodies must have been dropped or fully read.
    fn finish(self: Box<Self>) -> Result<CaptureReport>;
}

/// One named byte sequence of a capture.
pub struct CapturedStream {
    /// Its name in the snapshot: unique, relative, `/` between parts, no `.` or `..` part.
    pub name: Vec<u8>,
    /// What it is, with what is known about it.
    pub kind: EntryKind,
    /// Mode, times, owner, where it is a file.
    pub meta: Option<FileMeta>,
    /// Its bytes.
    pub body: Body,
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
    /// The files and directories that were named, of a source that is made of trees.
    pub roots: Vec<NamedRoot>,
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
