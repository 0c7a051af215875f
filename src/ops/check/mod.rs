//! Checking a repository: structure, then every byte; what is damaged, and which snapshots and streams that touches.

mod data;
mod marks;
mod order;
mod packs;
mod perform;
mod records;
mod streams;
mod subset;

use serde::Serialize;

use super::json;
use crate::error::{Error, Result};
use crate::id::SnapshotId;
use crate::progress::Monitor;
use crate::store::format::snapshot::SnapshotRecord;
use crate::store::repo::Repository;

pub(crate) use data::hash_pack;
pub use marks::{CheckMarks, mark_found};
pub(crate) use packs::BadCopies;
pub use perform::{Checked, Verdict, Wish, perform};
pub(crate) use records::{check_replicas, check_snapshots, healable};
pub(crate) use streams::check_streams;
pub use subset::Subset;

/// How thoroughly to check.
#[derive(Clone, Copy, Default)]
pub struct CheckOptions<'a> {
    /// Read and decode packs, not only the structure.
    pub read_data: bool,
    /// Which packs, with `read_data`.
    pub subset: Subset,
    /// What packs are drawn by, if the subset is drawn at random.
    pub seed: u32,
    /// Says whether the time is over: then no further packs are read. With it, packs are read in this order: those that were found damaged, those that were never
    /// read, those that were read longest ago; so that a check goes on where the one before it stopped. Some packs are read in any case.
    pub over: Option<&'a (dyn Fn() -> bool + Sync)>,
    /// The clock's time, nanoseconds since 1970 UTC. With it, what comes out is remembered in the local catalog, by pack; else nothing is remembered.
    pub now_ns: Option<i64>,
}

impl CheckOptions<'_> {
    /// Everything is read.
    pub fn read_all() -> Self {
        CheckOptions { read_data: true, ..CheckOptions::default() }
    }
}

/// The codes of findings, each with what it says. They never change their meaning; there may be more.
pub const CODES: [(&str, &str); 13] = [
    ("config-copy", "a copy of the configuration is missing, damaged or differs from the other one"),
    ("key-copy", "a copy of a key record is missing, damaged or differs from the other one"),
    ("snapshot", "a snapshot record is damaged: the snapshot is lost"),
    ("pending", "the record of a backup that has not ended is damaged (scrub only)"),
    ("mark", "a mark on a snapshot is damaged"),
    ("forgotten", "the record that a snapshot was forgotten is damaged"),
    ("tombstone", "a tombstone is damaged, or forged: it hides a snapshot and does not say that it has expired. Its name still counts"),
    ("log", "an entry of the journal is damaged"),
    ("pack", "a pack is not what was written: its bytes, its table or its length"),
    ("pack-healable", "a pack is damaged and its parity heals it: nothing is lost"),
    ("record-healable", "a snapshot record, mark, forgotten record or tombstone is damaged, and its replica serves: nothing is lost"),
    ("chunk", "a stored copy of a chunk cannot be read; the object is its pack"),
    ("stream", "a stream of a snapshot cannot be given back whole"),
];

/// Something that is not as it should be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// A stable word, one of [`CODES`].
    pub code: &'static str,
    /// The object, by kind and id.
    pub object: String,
    /// What is wrong.
    pub detail: String,
}

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Nothing is lost, but a spare is.
    Warning,
    /// Stored data is damaged.
    Damage,
}

impl Severity {
    /// The stable word.
    pub fn word(self) -> &'static str {
        match self {
            Severity::Warning => "warning",
            Severity::Damage => "damage",
        }
    }
}

/// A stream that cannot be given back whole.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Touched {
    /// The snapshot.
    pub snapshot: SnapshotId,
    /// The stream; `None` when the whole snapshot is touched.
    #[serde(flatten, serialize_with = "json::stream_or_null")]
    pub stream: Option<Vec<u8>>,
}

/// The result of a check.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct CheckReport {
    /// What was found.
    pub findings: Vec<Finding>,
    /// What damage makes unreadable.
    pub touched: Vec<Touched>,
    /// How many snapshots, packs and chunks (every copy) were looked at, and the bytes read of packs.
    pub snapshots: u64,
    /// See `snapshots`.
    pub packs: u64,
    /// See `snapshots`.
    pub chunks: u64,
    /// See `snapshots`.
    pub read_bytes: u64,
    /// What was read, with `read_data`.
    pub data: Option<DataReport>,
}

/// What a check with `read_data` has read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DataReport {
    /// Packs that were to be read, and that were; fewer if the time was over, or if a table could not be used.
    pub chosen_packs: u64,
    /// See `chosen_packs`.
    pub read_packs: u64,
    /// Their stored bytes.
    pub read_bytes: u64,
    /// The frames in them: what is decoded at once, one chunk or some neighbours.
    pub frames: u64,
    /// What packs were drawn by, if they were.
    pub seed: Option<u32>,
    /// How many frames were decoded for that: more if bases lay in other packs, or were needed again after others.
    pub decoded_frames: u64,
    /// Of all packs of the repository, those that were read within the last 7 days, on this machine, and were whole; `None` without a clock.
    pub recent_packs: Option<u64>,
    /// When the pack was read that was read longest ago, nanoseconds since 1970 UTC; `None` if there is one that was never read and whole.
    pub oldest_ns: Option<i64>,
}

impl CheckReport {
    pub(crate) fn found(&mut self, severity: Severity, code: &'static str, object: impl Into<String>, detail: impl Into<String>) {
        self.findings.push(Finding { severity, code, object: object.into(), detail: detail.into() });
    }

    /// Adds damage that came as an error; an error that is no damage is given back.
    pub(crate) fn damage(&mut self, code: &'static str, error: Error) -> Result<()> {
        match error {
            Error::Corrupt { object, detail } => self.found(Severity::Damage, code, object, detail),
            Error::UnsupportedFormat { object, detail } => self.found(Severity::Damage, code, object, format!("it needs {detail}")),
            Error::NotFound { what } => self.found(Severity::Damage, code, what, "it is missing"),
            other => return Err(other),
        }
        Ok(())
    }

    /// Whether stored data is damaged.
    pub fn is_damaged(&self) -> bool {
        self.findings.iter().any(|finding| finding.severity == Severity::Damage)
    }
}

/// Checks the repository: both copies of small records, every snapshot record, every mark, record of a forgotten snapshot and entry of the journal, the table of every pack, and that
/// every chunk of every snapshot is there with the bases of its delta; with `read_data` also the stored bytes of every chosen pack against its name, and every copy of
/// every chunk in it by decoding it. The local catalog is not believed.
///
/// # Errors
/// Only what keeps it from checking at all; damage is in the report.
pub fn check(repo: &Repository, options: &CheckOptions<'_>, monitor: &dyn Monitor) -> Result<CheckReport> {
    Ok(survey(repo, options, monitor)?.report)
}

/// What a repair wants to know of a check.
pub(crate) struct Survey {
    pub(crate) report: CheckReport,
    /// The snapshots that can be read.
    pub(crate) snapshots: Vec<(SnapshotId, SnapshotRecord)>,
    pub(crate) bad: BadCopies,
}

/// [`check`], with what it found besides its report.
pub(crate) fn survey(repo: &Repository, options: &CheckOptions<'_>, monitor: &dyn Monitor) -> Result<Survey> {
    let mut report = CheckReport::default();
    monitor.phase("checking records", None);
    records::check_replicas(repo.backend(), &mut report)?;
    let snapshots = records::check_snapshots(repo, &mut report)?;
    records::check_marks(repo, &mut report)?;
    let bad = packs::check_packs(repo, options, monitor, &mut report)?;
    streams::check_streams(repo, &snapshots, &bad, monitor, &mut report)?;
    records::check_healed(repo, &mut report)?;
    report.touched.sort();
    report.touched.dedup();
    Ok(Survey { report, snapshots, bad })
}
