//! Lists the snapshots of a repository, and the streams of one snapshot.

use serde::Serialize;
use serde::ser::{SerializeMap, Serializer};

use super::journal::Outcome;
use super::journaled::Report;
use super::json;
use super::select::{SnapshotFilter, Wanted};
use super::sources::Passing;
use super::stats::{Chains, Cost, SnapshotCost, cost_of};
use crate::error::Result;
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
}

impl ListedStream {
    fn of(entry: StreamEntry) -> Self {
        let (kind, target, sqlite) = match entry.kind {
            EntryKind::Sqlite(facts) => ("sqlite", None, Some(facts)),
            EntryKind::File => ("file", None, None),
            EntryKind::Directory => ("directory", None, None),
            EntryKind::Symlink(target) => ("symlink", Some(target), None),
            EntryKind::HardLink(other) => ("hardlink", Some(other), None),
        };
        ListedStream { name: entry.name, kind, bytes: entry.root.len, target, sqlite, meta: entry.meta }
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

/// Lists the content of a snapshot.
///
/// # Errors
/// The errors of [`Wanted::find`], and if its listing cannot be read.
pub fn contents(repo: &Repository, refreshed: &Refreshed, wanted: &Wanted, monitor: &dyn Monitor) -> Result<Contents> {
    let (id, record) = wanted.find(refreshed, monitor)?;
    Ok(Contents { snapshot: *id, streams: streams(repo, record, monitor)? })
}

fn streams(repo: &Repository, record: &SnapshotRecord, monitor: &dyn Monitor) -> Result<Vec<ListedStream>> {
    Ok(Reader::new(repo).listing(&record.listing, monitor)?.into_iter().map(ListedStream::of).collect())
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
    let streams = streams(repo, record, monitor)?;
    let (SnapshotCost { cost, ratio, chains, .. }, damage) = cost_of(repo, id, record, monitor)?;
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
