//! The snapshot record and the listing of its streams, as they are stored.

use serde::{Deserialize, Serialize};

use super::Malformed;
use crate::id::{ChunkId, PackId, SnapshotId, SourceId};

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

/// What sort of source a snapshot came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum SourceKind {
    /// SQLite databases, named one by one.
    Sqlite,
    /// Directory trees.
    Files,
    /// A PostgreSQL database, dumped by its own programs, or what is global in a cluster.
    Postgres,
    /// The output of a command.
    Command,
}

impl SourceKind {
    /// All kinds.
    pub const ALL: [SourceKind; 4] = [SourceKind::Sqlite, SourceKind::Files, SourceKind::Postgres, SourceKind::Command];

    /// The word that goes into source ids; it never changes.
    pub fn word(self) -> &'static str {
        match self {
            SourceKind::Sqlite => "Sqlite",
            SourceKind::Files => "Files",
            SourceKind::Postgres => "Postgres",
            SourceKind::Command => "Command",
        }
    }
}

/// Why a snapshot, or a stream of it, does not count as good.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Flag {
    /// A stable word; README has the table.
    pub code: String,
    /// The stream that it is about, with all whose names begin with this one and `/`. None: the whole snapshot.
    pub stream: Option<Vec<u8>>,
    /// What was seen, for people.
    pub detail: String,
}

impl Flag {
    /// About the whole snapshot.
    pub fn new(code: &str, detail: impl Into<String>) -> Self {
        Flag { code: code.to_owned(), stream: None, detail: detail.into() }
    }

    /// The same about one stream, or one directory; an empty name stands for everything.
    pub fn about(self, stream: &[u8]) -> Self {
        Flag { stream: (!stream.is_empty()).then(|| stream.to_vec()), ..self }
    }
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

/// The most entries of [`StreamEntry::tables`]; of a database with more tables nothing is recorded, so that a listing stays small.
pub const CONTENT_TABLES_MAX: usize = 1000;

/// What a table held.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableContent {
    /// Its name.
    pub name: Vec<u8>,
    /// How many rows.
    pub rows: u64,
    /// The sum of the hashes of its rows, modulo 2^256, little-endian; see [`crate::source::sqlite::content`].
    pub sum: [u8; 32],
}

/// What an entry is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum EntryKind {
    /// A SQLite database, read through the engine.
    Sqlite(SqliteFacts),
    /// A file stored as it is.
    File,
    /// A directory.
    Directory,
    /// A symbolic link with its target.
    Symlink(Vec<u8>),
    /// A further name of a file that is in the listing under this other name.
    HardLink(Vec<u8>),
}

/// The file's attributes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileMeta {
    /// Permission bits (`st_mode & 0o7777`).
    pub mode: u32,
    /// Modification time, nanoseconds since 1970-01-01 UTC.
    pub mtime_ns: i64,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// How many bytes of the file took no space; 0 if it had no holes.
    pub holes: u64,
    /// Extended attributes, access control lists among them, sorted by name: only those that [`Attribute::is_kept`] names.
    pub attributes: Vec<Attribute>,
}

impl FileMeta {
    /// The value of an extended attribute.
    pub fn attribute(&self, name: &[u8]) -> Option<&[u8]> {
        self.attributes.iter().find(|attribute| attribute.name == name).map(|attribute| attribute.value.as_slice())
    }

    /// The permission bits for a file that gets no access control list: they give nobody more than the list and the mode gave together.
    pub fn mode_without_acl(&self) -> u32 {
        self.attribute(ACL_ACCESS).map_or(self.mode, |acl| super::acl::narrowed(self.mode, acl))
    }

    /// The same without extended attributes and lists.
    pub fn without_attributes(self) -> Self {
        FileMeta { mode: self.mode_without_acl(), attributes: Vec::new(), ..self }
    }
}

/// An extended attribute of a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attribute {
    /// Its name with its namespace: `user.comment`.
    pub name: Vec<u8>,
    /// Its value; of an access control list as Linux stores it.
    pub value: Vec<u8>,
}

impl Attribute {
    /// Whether attributes of this name are stored and restored. Those of other namespaces belong to one machine (`security.selinux`, `trusted.*`)
    /// or to one file system.
    pub fn is_kept(name: &[u8]) -> bool {
        name.starts_with(b"user.") || [ACL_ACCESS, ACL_DEFAULT, CAPABILITY].contains(&name)
    }
}

/// The extended attribute that holds the access control list of a file or directory.
pub(crate) const ACL_ACCESS: &[u8] = b"system.posix_acl_access";
/// The one that holds the list which new files in a directory get.
pub(crate) const ACL_DEFAULT: &[u8] = b"system.posix_acl_default";
/// The one that gives a program capabilities.
pub(crate) const CAPABILITY: &[u8] = b"security.capability";
/// The most extended attributes of one file.
pub const ATTRIBUTES_MAX: usize = 1000;
/// The longest value of an extended attribute (Linux: XATTR_SIZE_MAX).
pub const ATTRIBUTE_LEN_MAX: usize = 64 << 10;
/// The most bytes of all names and values of one file's extended attributes.
pub const ATTRIBUTES_LEN_MAX: usize = 1 << 20;

/// What the header of a database said at the captured instant (<https://sqlite.org/fileformat2.html#the_database_header>).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SqliteFacts {
    /// Bytes in a page; 0 for a database of zero bytes.
    pub page_size: u32,
    /// Pages in the image.
    pub page_count: u64,
    /// `PRAGMA user_version`.
    pub user_version: i32,
    /// `PRAGMA application_id`.
    pub application_id: i32,
    /// 1 UTF-8, 2 UTF-16le, 3 UTF-16be, 0 not set yet.
    pub encoding: u32,
    /// Whether the file is in WAL mode (header bytes 18 and 19).
    pub wal: bool,
    /// The change counter at offset 24.
    pub change_counter: u32,
    /// The schema cookie at offset 40.
    pub schema_cookie: u32,
    /// Pages on the freelist.
    pub freelist_pages: u32,
}
