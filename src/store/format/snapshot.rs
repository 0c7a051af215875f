//! The snapshot record and the listing of its streams, as they are stored.

use serde::{Deserialize, Serialize};

use super::Malformed;
use crate::id::{ChunkId, PackId, SnapshotId, SourceId};
use crate::recorded::{EntryKind, FileMeta, Flag, SourceKind, TableContent};

/// The longest label of a source, name of a host, of a user or of the writer's version, in bytes.
pub const LABEL_LEN_MAX: usize = 4096;
/// The longest tag, in bytes.
pub const TAG_LEN_MAX: usize = 1024;
/// The most tags of one record.
pub const TAGS_MAX: usize = 1000;

/// The immutable record of one capture.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotRecord {
    /// When the capture's reading began, nanoseconds since 1970-01-01 UTC.
    pub time_ns: i64,
    /// How long the backup took up to the commit, microseconds.
    pub duration_us: u64,
    /// The machine.
    pub host: String,
    /// The user.
    pub user: String,
    /// The icecore version that wrote it.
    pub tool: String,
    /// What was captured.
    pub source: SourceRef,
    /// The snapshot whose trees this one was compared with.
    pub parent: Option<SnapshotId>,
    /// Words of the user's choice.
    pub tags: Vec<String>,
    /// Reasons why this snapshot does not count as good; empty for a good one.
    pub flags: Vec<Flag>,
    /// What would be among the flags if it had not been so in the last good snapshot, where a user accepted it.
    pub accepted: Vec<Flag>,
    /// The streams: a stream itself, of [`StreamEntry`] records.
    pub listing: StreamRoot,
    /// How many entries the listing has.
    pub entries: u64,
    /// Bytes of all streams together.
    pub logical_bytes: u64,
    /// The packs that this backup wrote.
    pub packs: Vec<PackRef>,
    /// What it cost.
    pub stats: SnapshotStats,
    /// When this record was written, nanoseconds since 1970-01-01 UTC by the writer's own clock: how old a pending record is.
    pub written_ns: i64,
    /// Further facts by name: `instant`, `sqlite`, and what was found out about a server.
    pub facts: Vec<(String, String)>,
}

impl SnapshotRecord {
    /// Refuses texts that are too long to be shown in lists.
    ///
    /// # Errors
    /// [`Malformed`], with what is too long.
    pub fn verify_texts(&self) -> Result<(), Malformed> {
        if SourceKind::named(self.source.kind.name()).is_none() {
            return Err(Malformed::new("the name of its kind of source is none"));
        }
        for (what, text) in [("label", &self.source.label), ("host", &self.host), ("user", &self.user), ("version", &self.tool)] {
            verify_text(what, text, LABEL_LEN_MAX)?;
        }
        self.tags.iter().try_for_each(|tag| verify_text("tag", tag, TAG_LEN_MAX))?;
        match self.tags.len() > TAGS_MAX {
            true => Err(Malformed::new(format!("it has {} tags, and at most {TAGS_MAX} are possible", self.tags.len()))),
            false => Ok(()),
        }
    }
}

/// Refuses a text that is longer than this, in bytes.
pub(crate) fn verify_text(what: &str, text: &str, max: usize) -> Result<(), Malformed> {
    match text.len() > max {
        true => Err(Malformed::new(format!("its {what} has {} bytes, and at most {max} are possible", text.len()))),
        false => Ok(()),
    }
}

/// Names the source in a record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceRef {
    /// The identity that makes a history.
    pub id: SourceId,
    /// What sort.
    pub kind: SourceKind,
    /// For people.
    pub label: String,
}

/// The root of a stream's tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct StreamRoot {
    /// Bytes in the stream.
    pub len: u64,
    /// Levels of nodes above the chunks; 0: `top` is the only chunk of the stream.
    pub levels: u8,
    /// The topmost node or the only chunk; `None` exactly for an empty stream.
    pub top: Option<ChunkId>,
}

/// Where to find a pack and its trailer without listing all packs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct PackRef {
    /// Its name.
    pub id: PackId,
    /// Its size in bytes.
    pub size: u64,
    /// Where its sealed trailer starts; it ends where the footer starts.
    pub trailer_offset: u64,
}

/// What a backup read and stored.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotStats {
    /// Bytes that were read from the source and hashed.
    pub read_bytes: u64,
    /// Chunks that were not in the repository.
    pub new_chunks: u64,
    /// Their plain bytes.
    pub new_plain_bytes: u64,
    /// Of them, bytes stored raw, as zstd, and as deltas, after encoding.
    pub raw_bytes: u64,
    /// See `raw_bytes`.
    pub zstd_bytes: u64,
    /// See `raw_bytes`.
    pub delta_bytes: u64,
    /// Tree nodes that were new, after encoding.
    pub node_bytes: u64,
    /// All bytes of the packs written.
    pub pack_bytes: u64,
}

/// One entry of a listing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StreamEntry {
    /// Unique in the snapshot; for trees of files a relative path with `/`.
    pub name: Vec<u8>,
    /// What it is.
    pub kind: EntryKind,
    /// Its bytes; the empty stream for what has none.
    pub root: StreamRoot,
    /// Mode, times, owner, where it was a file.
    pub meta: Option<FileMeta>,
    /// Of a database what its tables held, sorted by name; empty if that was not recorded.
    pub tables: Vec<TableContent>,
}
