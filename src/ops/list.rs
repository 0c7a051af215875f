//! Lists the snapshots of a repository, and the streams of one snapshot.
//!
//! Guarantee: damage is never hidden. It is in the report or gives a warning or an error, and a list that lacks
//! something has the outcome `damaged`. Nothing in the repository is changed.
//! Relies on the caller's refresh for records and marks. The names of the fields are part of the JSON output.

use serde::Serialize;
use serde::ser::{SerializeMap, Serializer};

use super::export::TableInfo;
use super::journal::Outcome;
use super::journaled::Report;
use super::json;
use super::select::{SnapshotFilter, Wanted};
use super::sources::Passing;
use super::stats::{Chains, Cost, SnapshotCost, cost_of};
use super::stored::StoredSnapshot;
use crate::engine::stored::Stored;
use crate::engine::{self, TableInspection};
use crate::error::{Error, Result};
use crate::id::{PackId, SnapshotId};
use crate::progress::Monitor;
use crate::recorded::{EntryKind, FileMeta, Flag, SqliteFacts};
use crate::store::format::mark::MarkKind;
use crate::store::format::snapshot::{PackRef, SnapshotRecord, SourceRef, StreamEntry};
use crate::store::repo::{Reader, Refreshed, Repository};

/// A snapshot in a list.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SnapshotInfo {
    /// Its id.
    pub id: SnapshotId,
    /// When reading its source began, nanoseconds since 1970 UTC.
    #[serde(rename = "time", serialize_with = "json::utc")]
    pub time_ns: i64,
    /// How long the backup took up to the commit, microseconds.
    #[serde(rename = "duration_ms", serialize_with = "json::ms")]
    pub duration_us: u64,
    /// The machine.
    pub host: String,
    /// The user.
    pub user: String,
    /// Name and version of the program that wrote it.
    pub tool: String,
    /// Its source.
    pub source: SourceRef,
    /// Its parent.
    pub parent: Option<SnapshotId>,
    /// Words of the user's choice.
    pub tags: Vec<String>,
    /// Why it does not count as good.
    #[serde(serialize_with = "json::flags")]
    pub flags: Vec<Flag>,
    /// Flags that were cleared, here or in an earlier snapshot.
    #[serde(serialize_with = "json::flags")]
    pub accepted: Vec<Flag>,
    /// Whether it is protected: then no rule forgets it.
    pub protected: bool,
    /// The result of the last check that put a mark on it.
    pub checked: Option<Checked>,
    /// How many streams it has.
    pub streams: u64,
    /// Their bytes.
    pub logical_bytes: u64,
    /// Bytes that were read and hashed.
    pub read_bytes: u64,
    /// Chunks that the repository did not have before.
    pub new_chunks: u64,
    /// Their plain bytes.
    pub new_bytes: u64,
    /// Bytes of the packs that were written.
    pub stored_bytes: u64,
}

/// The result of a check for a snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Checked {
    /// When, nanoseconds since 1970 UTC.
    #[serde(rename = "time", serialize_with = "json::utc")]
    pub time_ns: i64,
    /// Whether everything was whole.
    pub whole: bool,
}

impl SnapshotInfo {
    /// Makes it from a record and what a refresh has found.
    pub fn of(id: &SnapshotId, record: &SnapshotRecord, refreshed: &Refreshed) -> Self {
        let marks = refreshed.marks.get(id);
        let health = marks.and_then(|marks| marks.health());
        SnapshotInfo {
            id: *id,
            time_ns: record.time_ns,
            duration_us: record.duration_us,
            host: record.host.clone(),
            user: record.user.clone(),
            tool: record.tool.clone(),
            source: record.source.clone(),
            parent: record.parent,
            tags: record.tags.clone(),
            flags: record.flags.clone(),
            accepted: record.accepted.iter().chain(marks.into_iter().flat_map(|marks| &marks.accepted)).cloned().collect(),
            protected: marks.is_some_and(|marks| marks.protection().is_some()),
            checked: health.map(|mark| Checked { time_ns: mark.time_ns, whole: mark.kind == MarkKind::Verified }),
            streams: record.entries,
            logical_bytes: record.logical_bytes,
            read_bytes: record.stats.read_bytes,
            new_chunks: record.stats.new_chunks,
            new_bytes: record.stats.new_plain_bytes,
            stored_bytes: record.stats.pack_bytes,
        }
    }
}

/// The snapshots of a repository.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Snapshots {
    /// Oldest first.
    pub snapshots: Vec<SnapshotInfo>,
    /// Objects that are listed and cannot be read, and snapshots that have vanished.
    pub unreadable: Vec<String>,
}

impl Report for Snapshots {
    fn outcome(&self) -> Outcome {
        if self.unreadable.is_empty() { Outcome::Done } else { Outcome::Damaged }
    }
}

/// The snapshots that pass the filter.
pub fn snapshots(refreshed: &Refreshed, filter: &SnapshotFilter) -> Snapshots {
    let meant = Passing::of(filter, &refreshed.snapshots);
    let passing = refreshed.snapshots.iter().filter(|(_, record)| meant.has(record));
    Snapshots {
        snapshots: passing.map(|(id, record)| SnapshotInfo::of(id, record, refreshed)).collect(),
        unreadable: refreshed.damage.iter().map(ToString::to_string).collect(),
    }
}

/// A stream, directory or link in a snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ListedStream {
    /// Its name.
    #[serde(flatten, serialize_with = "json::name")]
    pub name: Vec<u8>,
    /// `sqlite`, `file`, `directory`, `symlink` or `hardlink`.
    pub kind: &'static str,
    /// Its length.
    pub bytes: u64,
    /// For a link: its target.
    #[serde(flatten, serialize_with = "target")]
    pub target: Option<Vec<u8>>,
    /// For a database: the facts from its header.
    #[serde(flatten, serialize_with = "header")]
    pub sqlite: Option<SqliteFacts>,
    /// Mode, times and owner, if it was a file.
    #[serde(flatten, serialize_with = "attributes")]
    pub meta: Option<FileMeta>,
    /// What the tables of a database or a dump held at the capture, where that was recorded and is asked for.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tables: Vec<TableInfo>,
}

impl ListedStream {
    fn of(entry: StreamEntry, tables: Vec<TableInfo>) -> Self {
        let (kind, target, sqlite) = match entry.kind {
            EntryKind::Sqlite(facts) => ("sqlite", None, Some(facts)),
            EntryKind::File => ("file", None, None),
            EntryKind::Directory => ("directory", None, None),
            EntryKind::Symlink(target) => ("symlink", Some(target), None),
            EntryKind::HardLink(other) => ("hardlink", Some(other), None),
        };
        ListedStream { name: entry.name, kind, bytes: entry.root.len, target, sqlite, meta: entry.meta, tables }
    }
}

fn target<S: Serializer>(target: &Option<Vec<u8>>, serializer: S) -> Result<S::Ok, S::Error> {
    json::optional(("target", "target_hex"), target.as_deref(), serializer)
}

fn header<S: Serializer>(facts: &Option<SqliteFacts>, serializer: S) -> Result<S::Ok, S::Error> {
    let mut map = serializer.serialize_map(None)?;
    if let Some(facts) = facts {
        map.serialize_entry("page_size", &facts.page_size)?;
        map.serialize_entry("page_count", &facts.page_count)?;
        map.serialize_entry("freelist_pages", &facts.freelist_pages)?;
        map.serialize_entry("user_version", &facts.user_version)?;
        map.serialize_entry("application_id", &facts.application_id)?;
        map.serialize_entry("encoding", facts.encoding_name())?;
        map.serialize_entry("journal_mode", facts.journal_mode())?;
        map.serialize_entry("change_counter", &facts.change_counter)?;
        map.serialize_entry("schema_cookie", &facts.schema_cookie)?;
    }
    map.end()
}

fn attributes<S: Serializer>(meta: &Option<FileMeta>, serializer: S) -> Result<S::Ok, S::Error> {
    let meta = meta.as_ref();
    let lossy = |name: &[u8]| String::from_utf8_lossy(name).into_owned();
    let names = |meta: &FileMeta| meta.attributes.iter().map(|attribute| lossy(&attribute.name)).collect::<Vec<_>>();
    let mut map = serializer.serialize_map(None)?;
    map.serialize_entry("mode", &meta.map(|meta| format!("{:04o}", meta.mode)))?;
    map.serialize_entry("mtime", &meta.map(|meta| json::utc_text(meta.mtime_ns)))?;
    map.serialize_entry("uid", &meta.map(|meta| meta.uid))?;
    map.serialize_entry("gid", &meta.map(|meta| meta.gid))?;
    map.serialize_entry("hole_bytes", &meta.map(|meta| meta.holes))?;
    map.serialize_entry("xattrs", &meta.map(names))?;
    map.end()
}

/// The content of a snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Contents {
    /// The snapshot.
    pub snapshot: SnapshotId,
    /// Its streams, directories and links.
    pub streams: Vec<ListedStream>,
}

/// Which part of a snapshot is listed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Part {
    /// These streams, and what lies in these directories; without names everything.
    pub names: Vec<Vec<u8>>,
    /// Whether the recorded tables are listed, too.
    pub tables: bool,
}

impl Part {
    fn has(&self, name: &[u8]) -> bool {
        let is_below = |above: &Vec<u8>| name.strip_prefix(above.as_slice()).is_some_and(|rest| rest.is_empty() || rest.starts_with(b"/"));
        self.names.is_empty() || self.names.iter().any(is_below)
    }
}

/// Lists what is in a snapshot, or a part of it.
///
/// # Errors
/// As of [`Wanted::find`]; [`Error::NoSuch`] for a name that the snapshot does not have; when its listing cannot be read.
pub fn contents(repo: &Repository, refreshed: &Refreshed, wanted: &Wanted, part: &Part, monitor: &dyn Monitor) -> Result<Contents> {
    let (id, record) = wanted.find(refreshed, monitor)?;
    let (mut streams, damage) = streams(repo, record, part.tables, monitor)?;
    if let Some(damage) = damage {
        return Err(damage);
    }
    for name in &part.names {
        let one = Part { names: vec![name.clone()], tables: false };
        if !streams.iter().any(|stream| one.has(&stream.name)) {
            let detail = format!("snapshot {} has no stream {}", id.short(), String::from_utf8_lossy(name));
            return Err(Error::NoSuch { detail });
        }
    }
    streams.retain(|stream| part.has(&stream.name));
    Ok(Contents { snapshot: *id, streams })
}

/// The streams of a snapshot, with their tables if these are wanted; and why those of a dump cannot be read, if its evidence is damaged.
fn streams(
    repo: &Repository,
    record: &SnapshotRecord,
    with_tables: bool,
    monitor: &dyn Monitor,
) -> Result<(Vec<ListedStream>, Option<Error>)> {
    let reader = Reader::new(repo);
    let listing = reader.listing(&record.listing, monitor)?;
    if !with_tables {
        return Ok((listing.into_iter().map(|entry| ListedStream::of(entry, Vec::new())).collect(), None));
    }
    let stored = StoredSnapshot::new(repo, reader, record, listing);
    let engine = engine::of(stored.kind());
    let (evidence, damage) = match engine.evidence(&stored) {
        Ok(evidence) => (evidence, None),
        Err(error) if error.is_damage() => (None, Some(error)),
        Err(error) => return Err(error),
    };
    let listed = |entry: StreamEntry| {
        let tables = match evidence.as_ref().filter(|_| engine.is_database(&entry.name, &entry.kind)) {
            Some(evidence) => evidence.tables.iter().map(TableInfo::of).collect(),
            None => entry.tables.iter().map(|table| TableInfo::of(&TableInspection::of(table))).collect(),
        };
        ListedStream::of(entry, tables)
    };
    Ok((stored.into_listing().into_iter().map(listed).collect(), damage))
}

/// Everything that is known about a snapshot.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Details {
    /// The snapshot.
    pub snapshot: SnapshotInfo,
    /// Facts that the source recorded, by name.
    #[serde(serialize_with = "json::facts")]
    pub facts: Vec<(String, String)>,
    /// The bytes that it added.
    #[serde(flatten)]
    pub cost: Cost,
    /// Logical bytes per stored byte.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ratio: Option<f64>,
    /// How deep its chunks lie; `None` if its trees cannot be walked.
    #[serde(flatten, serialize_with = "Chains::or_null")]
    pub chains: Option<Chains>,
    /// The packs that it wrote.
    pub packs: Vec<PackSize>,
    /// Its content.
    pub streams: Vec<ListedStream>,
    /// Whether a part of it could not be read. The monitor got a warning for that.
    #[serde(skip)]
    pub is_damaged: bool,
}

impl Report for Details {
    fn outcome(&self) -> Outcome {
        if self.is_damaged { Outcome::Damaged } else { Outcome::Done }
    }
}

/// A pack.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct PackSize {
    /// Its id.
    pub id: PackId,
    /// Its size.
    pub bytes: u64,
}

/// Collects everything that is known about a snapshot. `monitor` gets a warning for damage.
///
/// # Errors
/// The errors of [`contents`] and [`cost_of`].
pub fn details(repo: &Repository, refreshed: &Refreshed, wanted: &Wanted, monitor: &dyn Monitor) -> Result<Details> {
    let (id, record) = wanted.find(refreshed, monitor)?;
    let (streams, no_tables) = streams(repo, record, true, monitor)?;
    let (SnapshotCost { cost, ratio, chains, .. }, mut damage) = cost_of(repo, id, record, monitor)?;
    damage.extend(no_tables);
    damage.iter().for_each(|damage| monitor.warn(&damage.to_string()));
    let pack = |pack: &PackRef| PackSize { id: pack.id, bytes: pack.size };
    Ok(Details {
        snapshot: SnapshotInfo::of(id, record, refreshed),
        facts: record.facts.clone(),
        cost,
        ratio,
        chains,
        packs: record.packs.iter().map(pack).collect(),
        streams,
        is_damaged: !damage.is_empty(),
    })
}
