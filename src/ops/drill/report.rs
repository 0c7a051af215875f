//! What a drill says.

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
    /// What its tables held at the capture.
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
    /// Whether no check has failed.
    pub passed: bool,
    /// The directory that it was restored to, or that of the throw-away server, bytes of its path that are not UTF-8 replaced; or the database and the server
    /// that it was restored to.
    pub staging: String,
    /// Of a PostgreSQL database the server, with its version, if there was one that it could be restored to.
    pub server: Option<String>,
    /// The user who ran the throw-away server, if there was one.
    pub server_user: Option<String>,
    /// Its size.
    pub bytes: u64,
    /// How long the restore took, until all was durable.
    pub restore_ms: f64,
    /// How long the checks took.
    pub verify_ms: f64,
    /// From the start, with opening the repository and the key derivation, to the end of the checks.
    pub recovery_ms: f64,
    /// How long that may take, if it was asked for.
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

    pub(super) fn push(&mut self, check: CheckReport) {
        self.passed &= check.outcome != Outcome::Failed;
        self.checks.push(check);
    }

    pub(super) fn finish(&mut self, took: Duration, rto: Option<Duration>) {
        self.recovery_ms = millis(took);
        let Some(rto) = rto else { return };
        self.rto_ms = Some(millis(rto));
        let text = format!("{:.1} s of {:.0} s", took.as_secs_f64(), rto.as_secs_f64());
        self.add(None, "rto", if took <= rto { Ok(text) } else { Err(text) });
    }

    /// The checks that have failed.
    pub fn failures(&self) -> impl Iterator<Item = &CheckReport> {
        self.checks.iter().filter(|check| check.outcome == Outcome::Failed)
    }
}
