//! The stored record of a snapshot, and the entries of its listing.

use serde::{Deserialize, Serialize};

use super::Malformed;
use crate::id::{ChunkId, PackId, SnapshotId, SourceId};
use crate::recorded::{EntryKind, FileMeta, Flag, SourceKind, TableContent};

/// The longest label of a source, and the longest name of a host, a user or a version, in bytes.
pub const LABEL_LEN_MAX: usize = 4096;
/// The longest tag, in bytes.
pub const TAG_LEN_MAX: usize = 1024;
/// The most tags of one record.
pub const TAGS_MAX: usize = 1000;

/// The immutable record of one capture.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotRecord {
    /// When the capture began to read, in nanoseconds since 1970-01-01 UTC.
    pub time_ns: i64,
    /// How long the backup took up to the commit, in microseconds.
    pub duration_us: u64,
    /// The machine on which it ran.
    pub host: String,
    /// The user who ran it.
    pub user: String,
    /// The icecore version that wrote it.
    pub tool: String,
    /// The source that was captured.
    pub source: SourceRef,
    /// The parent: the snapshot whose trees this one was compared with.
    pub parent: Option<SnapshotId>,
    /// Words of the user's choice.
    pub tags: Vec<String>,
    /// The flags: reasons why this snapshot is not good. Empty for a good one.
    pub flags: Vec<Flag>,
    /// Reasons that are not flags only because a user has accepted them in the last good snapshot.
    pub accepted: Vec<Flag>,
    /// The listing of streams. It is a stream of [`StreamEntry`] records itself.
    pub listing: StreamRoot,
    /// How many entries the listing has.
    pub entries: u64,
    /// Bytes of all streams together.
    pub logical_bytes: u64,
    /// The packs that this backup wrote.
    pub packs: Vec<PackRef>,
    /// What was read and stored.
    pub stats: SnapshotStats,
    /// When this record was written, in nanoseconds since 1970-01-01 UTC by the writer's own clock. It gives the age of
    /// a pending record.
    pub written_ns: i64,
    /// Further facts by name, for example `instant`, `sqlite`, and facts about a server.
    pub facts: Vec<(String, String)>,
}

impl SnapshotRecord {
    /// Refuses texts that are too long to be shown in lists.
    ///
    /// # Errors
    /// [`Malformed`], with the text that is too long.
    pub fn verify_texts(&self) -> Result<(), Malformed> {
        if SourceKind::named(self.source.kind.name()).is_none() {
            return Err(Malformed::new("the name of its kind of source is invalid"));
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

/// The source in a record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceRef {
    /// Its identity. Snapshots with the same one form a history.
    pub id: SourceId,
    /// Its kind.
    pub kind: SourceKind,
    /// Its name for users.
    pub label: String,
}

/// The root of a stream's tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct StreamRoot {
    /// Bytes in the stream.
    pub len: u64,
    /// Levels of nodes above the chunks. With 0, `top` is the only chunk of the stream.
    pub levels: u8,
    /// The topmost node or the only chunk. `None` for an empty stream, and only for that.
    pub top: Option<ChunkId>,
}

/// The place of a pack and its trailer. With it a reader need not list all packs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct PackRef {
    /// Its name.
    pub id: PackId,
    /// Its size in bytes.
    pub size: u64,
    /// The start of its sealed trailer. The trailer ends where the footer starts.
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
    /// Encoded bytes of new chunks that are stored raw.
    pub raw_bytes: u64,
    /// Encoded bytes of new chunks that are stored as zstd.
    pub zstd_bytes: u64,
    /// Encoded bytes of new chunks that are stored as deltas.
    pub delta_bytes: u64,
    /// Encoded bytes of new tree nodes.
    pub node_bytes: u64,
    /// All bytes of the packs that were written.
    pub pack_bytes: u64,
}

/// One entry of a listing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StreamEntry {
    /// The name, unique in the snapshot. For trees of files it is a relative path with `/`.
    pub name: Vec<u8>,
    /// The kind of entry.
    pub kind: EntryKind,
    /// Its bytes. The empty stream for an entry without bytes.
    pub root: StreamRoot,
    /// Mode, times and owner of a file.
    pub meta: Option<FileMeta>,
    /// The content of the tables of a database, sorted by name. Empty if it was not recorded.
    pub tables: Vec<TableContent>,
}
