//! `manifest.json`: describes an export, for people and programs that do not have icecore.
//!
//! The fields are documented in docs/json.md ("manifest.json"). `schema` grows when a field is removed or changes its
//! meaning. Readers ignore fields that they do not know.

use std::collections::BTreeMap;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::engine::{Engine, Evidence, TableInspection};
use crate::id::{SnapshotId, to_hex};
use crate::recorded::{EntryKind, FileMeta, SqliteFacts};
use crate::store::format::snapshot::{SnapshotRecord, StreamEntry};

use crate::fs::sha256sums::FileHash;
use crate::ops::json::utc_text as utc;
use crate::ops::text::ms;

/// The file that describes an export, in its directory.
pub const MANIFEST_NAME: &str = "manifest.json";

/// The longest manifest that is read, bytes.
pub const MANIFEST_LEN_MAX: u64 = 64 << 20;

/// The version of the document.
pub const MANIFEST_SCHEMA: u32 = 1;

/// The value of `format` in a manifest that icecore wrote.
pub const MANIFEST_FORMAT: &str = "icecore-export";

/// The document.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Manifest {
    /// [`MANIFEST_FORMAT`].
    pub format: &'static str,
    /// [`MANIFEST_SCHEMA`].
    pub schema: u32,
    /// The snapshot's id.
    pub snapshot: String,
    /// `good`, or `flagged` if the snapshot has flags that nobody has cleared.
    pub status: &'static str,
    /// The flags.
    pub flags: Vec<FlagInfo>,
    /// When the capture began: RFC 3339, UTC.
    pub time: String,
    /// How long the backup took, milliseconds.
    pub duration_ms: f64,
    /// When the export was made: RFC 3339, UTC.
    pub exported: String,
    /// The machine that was backed up.
    pub host: String,
    /// The user who made the backup.
    pub user: String,
    /// The program that wrote the snapshot.
    pub tool: String,
    /// The program that wrote the export.
    pub exported_by: String,
    /// What was captured.
    pub source: SourceInfo,
    /// The id of its parent.
    pub parent: Option<String>,
    /// Words of the user's choice.
    pub tags: Vec<String>,
    /// Further facts by name: `sqlite` is the version of the SQLite that read, `instant` says whether all databases
    /// are of one instant.
    pub facts: BTreeMap<String, String>,
    /// Bytes of all files together.
    pub bytes: u64,
    /// All files except `checksums.txt` and `manifest.json`.
    pub files: Vec<FileInfo>,
    /// The names of directories and symbolic links, in exports of trees.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub others: Vec<NameInfo>,
}

/// Why a snapshot does not count as good.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FlagInfo {
    /// A stable word.
    pub code: String,
    /// For people.
    pub detail: String,
}

/// What was captured.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SourceInfo {
    /// The identity of the source. Snapshots with the same one form a history.
    pub id: String,
    /// `sqlite`, `files`, `postgres` or `command`.
    pub kind: String,
    /// For people.
    pub label: String,
}

/// A name. If it is not UTF-8, `name` has replacement characters and `name_hex` has its bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NameInfo {
    /// Relative to the export's directory.
    pub name: String,
    /// Its bytes as hex digits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name_hex: Option<String>,
}

/// One file.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct FileInfo {
    /// Its name.
    #[serde(flatten)]
    pub name: NameInfo,
    /// `sqlite`, `pgdump`, `pgdir` or `file`.
    pub kind: &'static str,
    /// Its size.
    pub bytes: u64,
    /// SHA-256, hex digits.
    pub sha256: String,
    /// BLAKE3, hex digits.
    pub blake3: String,
    /// When the original was changed last: RFC 3339, UTC.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mtime: Option<String>,
    /// For a database: the facts from its header.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sqlite: Option<SqliteInfo>,
    /// For a database or a dump: what its tables held at the capture, where that was recorded.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tables: Vec<TableInfo>,
}

/// The content of a table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TableInfo {
    /// Its name.
    #[serde(flatten)]
    pub name: NameInfo,
    /// How many rows.
    pub rows: u64,
    /// The sum of the hashes of its rows, hex digits. `store-format.md` ("TableContent", for dumps "Streams of
    /// PostgreSQL snapshots") says how to compute it.
    pub content: String,
}

/// Facts from the header of a database.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SqliteInfo {
    /// Bytes in a page.
    pub page_size: u32,
    /// Pages in the file.
    pub page_count: u64,
    /// `PRAGMA user_version`.
    pub user_version: i32,
    /// `PRAGMA application_id`.
    pub application_id: i32,
    /// `wal` or `rollback`.
    pub journal_mode: &'static str,
}

impl From<&SqliteFacts> for SqliteInfo {
    fn from(facts: &SqliteFacts) -> Self {
        SqliteInfo {
            page_size: facts.page_size,
            page_count: facts.page_count,
            user_version: facts.user_version,
            application_id: facts.application_id,
            journal_mode: facts.journal_mode(),
        }
    }
}

impl NameInfo {
    /// Makes it from the bytes of a name.
    pub fn of(name: &[u8]) -> Self {
        let name_hex = std::str::from_utf8(name).is_err().then(|| to_hex(name));
        NameInfo { name: String::from_utf8_lossy(name).into_owned(), name_hex }
    }

    /// Whether it is the name of this path, which is relative.
    pub(super) fn is(&self, path: &Path) -> bool {
        *self == NameInfo::of(path.as_os_str().as_bytes())
    }
}

impl TableInfo {
    /// Makes it from the inspection of an engine.
    pub fn of(table: &TableInspection) -> Self {
        TableInfo { name: NameInfo::of(&table.name), rows: table.rows, content: table.content.clone() }
    }
}

impl FileInfo {
    pub(super) fn of(entry: &StreamEntry, (engine, evidence): (&dyn Engine, Option<&Evidence>), hash: &FileHash) -> Self {
        let facts = if let EntryKind::Sqlite(facts) = &entry.kind { Some(facts) } else { None };
        let tables = match evidence.filter(|_| engine.is_database(&entry.name, &entry.kind)) {
            Some(evidence) => evidence.tables.iter().map(TableInfo::of).collect(),
            None => entry.tables.iter().map(|table| TableInfo::of(&TableInspection::of(table))).collect(),
        };
        FileInfo {
            name: NameInfo::of(&entry.name),
            kind: engine.stream_word(&entry.name, &entry.kind),
            bytes: hash.len,
            sha256: to_hex(&hash.sha256),
            blake3: to_hex(&hash.blake3),
            mtime: entry.meta.as_ref().map(|meta: &FileMeta| utc(meta.mtime_ns)),
            sqlite: facts.map(SqliteInfo::from),
            tables,
        }
    }
}

impl Manifest {
    /// Describes a snapshot, without its files. `now_ns` is the clock's time, nanoseconds since 1970-01-01 UTC.
    pub(super) fn of(id: &SnapshotId, record: &SnapshotRecord, now_ns: i64) -> Self {
        let kind = record.source.kind.name().to_owned();
        let flag = |flag: &crate::recorded::Flag| FlagInfo { code: flag.code.clone(), detail: flag.detail.clone() };
        Manifest {
            format: MANIFEST_FORMAT,
            schema: MANIFEST_SCHEMA,
            snapshot: id.to_string(),
            status: if record.flags.is_empty() { "good" } else { "flagged" },
            flags: record.flags.iter().map(flag).collect(),
            time: utc(record.time_ns),
            duration_ms: ms(record.duration_us),
            exported: utc(now_ns),
            host: record.host.clone(),
            user: record.user.clone(),
            tool: record.tool.clone(),
            exported_by: concat!("icecore ", env!("CARGO_PKG_VERSION")).to_owned(),
            source: SourceInfo { id: record.source.id.to_string(), kind: kind.to_owned(), label: record.source.label.clone() },
            parent: record.parent.map(|parent| parent.to_string()),
            tags: record.tags.clone(),
            facts: record.facts.iter().cloned().collect(),
            bytes: 0,
            files: Vec::new(),
            others: Vec::new(),
        }
    }
}

/// The parts of an existing manifest by which an unchanged export is recognized.
#[derive(Debug, Deserialize)]
pub(super) struct Found {
    pub(super) format: String,
    #[serde(default)]
    pub(super) files: Vec<FoundFile>,
    #[serde(default)]
    pub(super) others: Vec<NameInfo>,
}

/// A file of an existing manifest.
#[derive(Debug, Deserialize)]
pub(super) struct FoundFile {
    #[serde(flatten)]
    pub(super) name: NameInfo,
    pub(super) bytes: u64,
    #[serde(default)]
    pub(super) mtime: Option<String>,
}

impl FoundFile {
    /// Whether a file still has the size and the modification time that the export gave it.
    pub(super) fn is_as_written(&self, found: &std::fs::Metadata) -> bool {
        use std::os::unix::fs::MetadataExt;
        let mtime_ns = found.mtime().saturating_mul(1_000_000_000).saturating_add(found.mtime_nsec());
        found.is_file() && found.len() == self.bytes && self.mtime.as_ref().is_none_or(|mtime| *mtime == utc(mtime_ns))
    }
}
