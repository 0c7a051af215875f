//! Reports the drill of one snapshot. The report is also its JSON.
//!
//! Guarantee: `passed` is false as soon as one failed check was added. Skipped checks do not fail a drill. The names
//! of the fields are part of the JSON output, so they must stay the same.

use std::time::Duration;

use serde::Serialize;

use crate::engine::drill::{CheckReport, Outcome, millis};
use crate::engine::stored::StreamInfo;
use crate::engine::{Evidence, TableInspection};
use crate::id::SnapshotId;
use crate::ops::export::{NameInfo, TableInfo};
use crate::ops::json;
use crate::store::format::snapshot::SnapshotRecord;

/// A stream of the snapshot, with what was recorded of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct StreamReport {
    /// Its name.
    #[serde(flatten)]
    pub name: NameInfo,
    /// `sqlite`, `pgdump`, or `file` for anything else.
    pub kind: &'static str,
    /// Its size.
    pub bytes: u64,
    /// The recorded content of its tables.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tables: Vec<TableInfo>,
}

impl StreamReport {
    pub(super) fn of(stream: &StreamInfo, kind: &'static str, evidence: Option<&Evidence>) -> Self {
        let tables = match evidence {
            Some(evidence) => evidence.tables.iter().map(TableInfo::of).collect(),
            None => stream.tables.iter().map(|table| TableInfo::of(&TableInspection::of(table))).collect(),
        };
        StreamReport { name: NameInfo::of(&stream.name), kind, bytes: stream.len, tables }
    }
}

/// The drill of one snapshot.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// The snapshot's id.
    pub snapshot: String,
    /// Nanoseconds since 1970-01-01 UTC of its capture.
    #[serde(rename = "time", serialize_with = "json::utc")]
    pub time_ns: i64,
    /// Whether no check failed.
    pub passed: bool,
    /// The directory that it was restored to, or that of the throw-away server (bytes that are not UTF-8 are
    /// replaced); or the database and server that it was restored to.
    pub staging: String,
    /// For a PostgreSQL database: the server with its version, if it could be restored to one.
    pub server: Option<String>,
    /// The user that ran the throw-away server, if there was one.
    pub server_user: Option<String>,
    /// Its size.
    pub bytes: u64,
    /// How long the restore took until everything was durable, milliseconds.
    pub restore_ms: f64,
    /// How long the checks took, milliseconds.
    pub verify_ms: f64,
    /// From the start to the end of the checks, milliseconds. Includes opening the repository and the key derivation.
    pub recovery_ms: f64,
    /// How long that may take, milliseconds, if the user set a limit.
    pub rto_ms: Option<f64>,
    /// The snapshot's streams.
    pub streams: Vec<StreamReport>,
    /// All checks.
    pub checks: Vec<CheckReport>,
}

impl Report {
    pub(super) fn of(id: &SnapshotId, record: &SnapshotRecord, staging: String) -> Self {
        Report {
            snapshot: id.to_string(),
            time_ns: record.time_ns,
            passed: true,
            staging,
            server: None,
            server_user: None,
            bytes: record.logical_bytes,
            restore_ms: 0.0,
            verify_ms: 0.0,
            recovery_ms: 0.0,
            rto_ms: None,
            streams: Vec::new(),
            checks: Vec::new(),
        }
    }

    pub(super) fn add(&mut self, stream: Option<&str>, check: &'static str, outcome: Result<String, String>) {
        self.push(CheckReport::of(stream, check, outcome));
    }

    /// Adds a check. One that failed fails the drill.
    pub(super) fn push(&mut self, check: CheckReport) {
        self.passed &= check.outcome != Outcome::Failed;
        self.checks.push(check);
    }

    /// Ends the report: records the time, and checks it against the objective, if there is one.
    pub(super) fn finish(&mut self, took: Duration, rto: Option<Duration>) {
        self.recovery_ms = millis(took);
        let Some(rto) = rto else { return };
        self.rto_ms = Some(millis(rto));
        let text = format!("{:.1} s of {:.0} s", took.as_secs_f64(), rto.as_secs_f64());
        self.add(None, "rto", if took <= rto { Ok(text) } else { Err(text) });
    }

    /// The failed checks.
    pub fn failures(&self) -> impl Iterator<Item = &CheckReport> {
        self.checks.iter().filter(|check| check.outcome == Outcome::Failed)
    }
}
