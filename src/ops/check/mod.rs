//! Check: verifies a repository, and reports what is damaged and which snapshots and streams that touches.
//!
//! The order is records, packs, then the trees of all snapshots. Without `read_data` only the structure is checked:
//! that everything is there and fits together. With it every stored byte is read and every chunk decoded. The local
//! catalog is not trusted: tables are read from the packs. A check changes nothing in the repository; [`mark_found`]
//! puts marks on snapshots if the user wants that.

mod data;
mod marks;
mod order;
mod packs;
mod perform;
mod records;
mod streams;
mod subset;

use std::collections::HashSet;

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
    /// Which packs are read, with `read_data`.
    pub subset: Subset,
    /// The seed by which packs are drawn, if the subset is random.
    pub seed: u32,
    /// Says whether the time is over; then no more packs are read. With it, packs are read in this order: those that
    /// were found damaged, those that were never read, and those that were read longest ago. So a check goes on where
    /// the one before it stopped. Some packs are read in any case.
    pub over: Option<&'a (dyn Fn() -> bool + Sync)>,
    /// The clock's time, nanoseconds since 1970 UTC. With it the results are recorded by pack in the local catalog;
    /// without it nothing is recorded.
    pub now_ns: Option<i64>,
}

impl CheckOptions<'_> {
    /// Options for reading everything.
    pub fn read_all() -> Self {
        CheckOptions { read_data: true, ..CheckOptions::default() }
    }
}

/// The codes of findings, each with its meaning. A code never changes its meaning; new ones may be added.
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

/// Something that is wrong in the repository.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize)]
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
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Nothing is lost, but a replica is bad.
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

/// A stream that cannot be restored whole.
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
    /// The streams that damage makes unreadable.
    pub touched: Vec<Touched>,
    /// How many snapshots, packs and chunks (every copy counts) were looked at, and how many bytes of packs were
    /// read.
    pub snapshots: u64,
    /// See `snapshots`.
    pub packs: u64,
    /// See `snapshots`.
    pub chunks: u64,
    /// See `snapshots`.
    pub read_bytes: u64,
    /// What was read, if `read_data` was set.
    pub data: Option<DataReport>,
}

/// What a check with `read_data` has read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DataReport {
    /// How many packs were chosen, and how many of them were read: fewer if the time was over or a table could not be
    /// used.
    pub chosen_packs: u64,
    /// See `chosen_packs`.
    pub read_packs: u64,
    /// Their stored bytes.
    pub read_bytes: u64,
    /// The frames in them. A frame holds one chunk or some neighbours and is decoded as a whole.
    pub frames: u64,
    /// The seed by which packs were drawn, if they were.
    pub seed: Option<u32>,
    /// How many frames were decoded: more than `frames` if bases were in other packs or were needed again.
    pub decoded_frames: u64,
    /// How many packs of the repository were read on this machine within the last 7 days and were whole; `None`
    /// without a clock.
    pub recent_packs: Option<u64>,
    /// The time of the oldest of these readings over all packs, nanoseconds since 1970 UTC; `None` if a pack was
    /// never read and found whole.
    pub oldest_ns: Option<i64>,
}

impl CheckReport {
    pub(crate) fn found(&mut self, severity: Severity, code: &'static str, object: impl Into<String>, detail: impl Into<String>) {
        self.findings.push(Finding { severity, code, object: object.into(), detail: detail.into() });
    }

    /// Adds damage that came as an error. Any other error is returned.
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

/// Checks the repository: small records and their replicas; every snapshot record, mark, `forgotten` record and
/// journal entry; the table of every pack; and that every chunk of every snapshot exists with the bases of its delta.
/// With `read_data` also the stored bytes of every chosen pack against its name, and every copy of every chunk in it
/// by decoding. The local catalog is not trusted.
///
/// # Errors
/// Only errors that prevent the check; damage is in the report.
pub fn check(repo: &Repository, options: &CheckOptions<'_>, monitor: &dyn Monitor) -> Result<CheckReport> {
    Ok(survey(repo, options, monitor)?.report)
}

/// A check's results for a repair.
pub(crate) struct Survey {
    pub(crate) report: CheckReport,
    /// The snapshots that can be read.
    pub(crate) snapshots: Vec<(SnapshotId, SnapshotRecord)>,
    pub(crate) bad: BadCopies,
}

/// Like [`check`], with everything that it found.
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
    // Two steps may come upon the same damage.
    let mut seen = HashSet::new();
    report.findings.retain(|finding| seen.insert(finding.clone()));
    Ok(Survey { report, snapshots, bad })
}
