//! Types that engines and store share: kinds of sources, entries, attributes, flags. Neither layer names the other, so
//! these are below both.
//!
//! They are parts of stored records (see `store/format/snapshot.rs`); store-format.md describes their fields. A change
//! here changes the format.

mod acl;

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

/// The kind of a snapshot's source: the name of its engine. A record may name an engine that this program does not
/// have; then the streams are plain bytes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SourceKind(Cow<'static, str>);

impl SourceKind {
    /// SQLite databases, named one by one.
    pub const SQLITE: SourceKind = SourceKind(Cow::Borrowed("sqlite"));
    /// Directory trees.
    pub const FILES: SourceKind = SourceKind(Cow::Borrowed("files"));
    /// Dumps of a PostgreSQL database, or of a cluster's globals.
    pub const POSTGRES: SourceKind = SourceKind(Cow::Borrowed("postgres"));
    /// The output of a command.
    pub const COMMAND: SourceKind = SourceKind(Cow::Borrowed("command"));

    /// The kind of the engine for unknown kinds.
    pub(crate) const UNKNOWN: SourceKind = SourceKind(Cow::Borrowed("unknown"));

    /// The longest name, in bytes.
    pub const LEN_MAX: usize = 32;

    /// The kind with this name. `None` unless the name has 1 to 32 lower-case ASCII letters, digits and hyphens, so
    /// that any output can show it.
    pub fn named(name: &str) -> Option<Self> {
        // The name comes from a record, and goes unescaped into terminals and JSON.
        let fits = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-';
        let is_name = (1..=Self::LEN_MAX).contains(&name.len()) && name.bytes().all(fits);
        is_name.then(|| SourceKind(Cow::Owned(name.to_owned())))
    }

    /// Its name in records, source ids, output and JSON. It never changes.
    pub fn name(&self) -> &str {
        &self.0
    }
}

/// Why a snapshot, or a stream of it, does not count as good.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Flag {
    /// A stable word; docs/check-and-repair.md has the table.
    pub code: String,
    /// The stream that it is about, together with all streams below it (whose names begin with this one and `/`). None:
    /// the whole snapshot.
    pub stream: Option<Vec<u8>>,
    /// What was found, as text.
    pub detail: String,
}

impl Flag {
    /// About the whole snapshot.
    pub fn new(code: &str, detail: impl Into<String>) -> Self {
        Flag { code: code.to_owned(), stream: None, detail: detail.into() }
    }

    /// The same flag about one stream or directory. An empty name stands for the whole snapshot.
    pub fn about(self, stream: &[u8]) -> Self {
        Flag { stream: (!stream.is_empty()).then(|| stream.to_vec()), ..self }
    }
}

/// Most tables of a database that a listing records. A database with more has no record of its tables, so that listings
/// stay small.
pub const CONTENT_TABLES_MAX: usize = 1000;

/// Rows and content of a table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableContent {
    /// Its name.
    pub name: Vec<u8>,
    /// The number of its rows.
    pub rows: u64,
    /// The sum of the hashes of its rows, modulo 2^256, little-endian; see `engine/sqlite/content.rs`.
    pub sum: [u8; 32],
}

/// The kind of an entry in a listing.
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
    /// Another name of a file; the listing has the file under the name given here.
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
    /// How many bytes of the file were holes.
    pub holes: u64,
    /// Extended attributes with access control lists, sorted by name. Only those that [`Attribute::is_kept`] allows.
    pub attributes: Vec<Attribute>,
}

impl FileMeta {
    /// The value of an extended attribute.
    pub fn attribute(&self, name: &[u8]) -> Option<&[u8]> {
        self.attributes.iter().find(|attribute| attribute.name == name).map(|attribute| attribute.value.as_slice())
    }

    /// The permission bits for a file that gets no access control list. Nobody has more rights by them than by mode and
    /// list together.
    pub fn mode_without_acl(&self) -> u32 {
        self.attribute(ACL_ACCESS).map_or(self.mode, |acl| acl::narrowed(self.mode, acl))
    }

    /// The attributes without extended ones and lists.
    pub fn without_attributes(self) -> Self {
        FileMeta { mode: self.mode_without_acl(), attributes: Vec::new(), ..self }
    }
}

/// An extended attribute of a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attribute {
    /// Its name with its namespace: `user.comment`.
    pub name: Vec<u8>,
    /// Its value. Access control lists are as Linux stores them.
    pub value: Vec<u8>,
}

impl Attribute {
    /// Whether attributes of this name are stored and restored. Other namespaces are about one machine
    /// (`security.selinux`, `trusted.*`) or one file system.
    pub fn is_kept(name: &[u8]) -> bool {
        name.starts_with(b"user.") || [ACL_ACCESS, ACL_DEFAULT, CAPABILITY].contains(&name)
    }
}

/// The extended attribute with the access control list of a file or directory.
pub(crate) const ACL_ACCESS: &[u8] = b"system.posix_acl_access";
/// The extended attribute with the list for new files in a directory.
pub(crate) const ACL_DEFAULT: &[u8] = b"system.posix_acl_default";
/// The extended attribute with the capabilities of a program.
pub(crate) const CAPABILITY: &[u8] = b"security.capability";
/// Most extended attributes of one file.
pub const ATTRIBUTES_MAX: usize = 1000;
/// Longest value of an extended attribute, in bytes (Linux: XATTR_SIZE_MAX).
pub const ATTRIBUTE_LEN_MAX: usize = 64 << 10;
/// Most bytes of all names and values of one file's extended attributes.
pub const ATTRIBUTES_LEN_MAX: usize = 1 << 20;

/// The header of a database at the captured instant (<https://sqlite.org/fileformat2.html#the_database_header>).
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
