//! Checking a repository: structure, then every byte; what is damaged, and which snapshots and streams that touches.

mod packs;
mod records;
mod streams;

use crate::error::{Error, Result};
use crate::id::SnapshotId;
use crate::progress::Monitor;
use crate::repo::Repository;

/// How thoroughly to check.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CheckOptions {
    /// Read and decode everything, not only the structure.
    pub read_data: bool,
}

/// Something that is not as it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// A stable word: `config-copy`, `key-copy`, `snapshot`, `mark`, `forgotten`, `pack`, `chunk`, `stream`.
    pub code: &'static str,
    /// The object, by kind and id.
    pub object: String,
    /// What is wrong.
    pub detail: String,
}

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// Nothing is lost, but a spare is.
    Warning,
    /// Stored data is damaged.
    Damage,
}

/// A stream that cannot be given back whole.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Touched {
    /// The snapshot.
    pub snapshot: SnapshotId,
    /// The stream; `None` when the whole snapshot is touched.
    pub stream: Option<Vec<u8>>,
}

/// The result of a check.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
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
}

impl CheckReport {
    fn found(&mut self, severity: Severity, code: &'static str, object: impl Into<String>, detail: impl Into<String>) {
        self.findings.push(Finding { severity, code, object: object.into(), detail: detail.into() });
    }

    /// Adds damage that came as an error; an error that is no damage is given back.
    fn damage(&mut self, code: &'static str, error: Error) -> Result<()> {
        match error {
            Error::Corrupt { object, detail } => self.found(Severity::Damage, code, object, detail),
            Error::UnsupportedFormat { object, detail } => {
                self.found(Severity::Damage, code, object, format!("a newer icecore is needed: {detail}"))
            }
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

/// Checks the repository: both copies of small records, every snapshot record, every mark and record of a forgotten snapshot, the table of every pack, and that every
/// chunk of every snapshot is there with the bases of its delta; with `read_data` also the stored bytes of every pack against its name, and every copy of every
/// chunk by decoding it. The local catalog is not believed.
///
/// # Errors
/// Only what keeps it from checking at all; damage is in the report.
pub fn check(repo: &Repository, options: &CheckOptions, monitor: &dyn Monitor) -> Result<CheckReport> {
    let mut report = CheckReport::default();
    monitor.phase("checking records", None);
    records::check_replicas(repo, &mut report)?;
    let snapshots = records::check_snapshots(repo, &mut report)?;
    records::check_marks(repo, &mut report)?;
    let bad = packs::check_packs(repo, options, monitor, &mut report)?;
    streams::check_streams(repo, &snapshots, &bad, monitor, &mut report)?;
    report.touched.sort();
    report.touched.dedup();
    Ok(report)
}
