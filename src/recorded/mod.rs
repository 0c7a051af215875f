//! What engines say of sources and streams, and the store records: the words that both share, as neither names the other.
//!
//! These types are parts of stored records (see `store/format/snapshot.rs`): store-format.md has their fields.

mod acl;

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

/// What sort of source a snapshot came from: the name of its engine. A record may name an engine that this program does not have; then its streams are bytes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SourceKind(Cow<'static, str>);

impl SourceKind {
    /// SQLite databases, named one by one.
    pub const SQLITE: SourceKind = SourceKind(Cow::Borrowed("sqlite"));
    /// Directory trees.
    pub const FILES: SourceKind = SourceKind(Cow::Borrowed("files"));
    /// A PostgreSQL database, dumped by its own programs, or what is global in a cluster.
    pub const POSTGRES: SourceKind = SourceKind(Cow::Borrowed("postgres"));
    /// The output of a command.
    pub const COMMAND: SourceKind = SourceKind(Cow::Borrowed("command"));

    /// Of no engine at all.
    pub(crate) const UNKNOWN: SourceKind = SourceKind(Cow::Borrowed("unknown"));

    /// The longest name, in bytes.
    pub const LEN_MAX: usize = 32;

    /// The kind of this name; `None` unless it is 1 to 32 lower-case letters, digits and hyphens (ASCII), so that it can stand in any output.
    pub fn named(name: &str) -> Option<Self> {
        let fits = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-';
        let is_name = (1..=Self::LEN_MAX).contains(&name.len()) && name.bytes().all(fits);
        is_name.then(|| SourceKind(Cow::Owned(name.to_owned())))
    }

    /// Its name, which goes into records, source ids, output and JSON. It never changes.
    pub fn name(&self) -> &str {
        &self.0
    }
}

/// Why a snapshot, or a stream of it, does not count as good.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Flag {
    /// A stable word; docs/check-and-repair.md has the table.
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

/// The most entries of a listing entry's tables; of a database with more tables nothing is recorded, so that a listing stays small.
pub const CONTENT_TABLES_MAX: usize = 1000;

/// What a table held.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableContent {
    /// Its name.
    pub name: Vec<u8>,
    /// How many rows.
    pub rows: u64,
    /// The sum of the hashes of its rows, modulo 2^256, little-endian; see `engine/sqlite/content.rs`.
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
        self.attribute(ACL_ACCESS).map_or(self.mode, |acl| acl::narrowed(self.mode, acl))
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

impl SqliteFacts {
    /// `UTF-8`, `UTF-16le`, `UTF-16be`, or `none` if it is not set yet.
    pub fn encoding_name(&self) -> &'static str {
        match self.encoding {
            1 => "UTF-8",
            2 => "UTF-16le",
            3 => "UTF-16be",
            _ => "none",
        }
    }

    /// `wal` or `rollback`.
    pub fn journal_mode(&self) -> &'static str {
        if self.wal { "wal" } else { "rollback" }
    }
}
