//! Drill as an operation: drills a snapshot, marks it as verified if it passes, gives a report, and writes a journal
//! entry.

use std::time::{Duration, Instant};

use serde::Serialize;

use super::demo::{DemoOptions, demo};
use super::{DrillOptions, Report, Staging, drill};
use crate::engine::drill::NamedAssertion;
use crate::engine::place::Placement;
use crate::error::Result;
use crate::fs::disk::RealDisk;
use crate::ops::journal::{Operation, Outcome};
use crate::ops::journaled::{self, Work, Worker};
use crate::ops::json;
use crate::ops::mark::{Statement, mark};
use crate::ops::number::micros;
use crate::ops::select::Wanted;
use crate::ops::text::{bytes, compact, duration};
use crate::progress::Monitor;
use crate::recorded::SourceKind;
use crate::store::format::mark::MarkKind;
use crate::store::repo::Reader;

/// Makes the assertions, given the names of all streams.
pub type Assertions<'a> = dyn Fn(&[&[u8]]) -> Result<Vec<NamedAssertion>> + 'a;

/// What the user wants of a drill.
pub struct DrillWish<'d> {
    /// Gives the staging place for a snapshot of this kind.
    pub staging: &'d dyn Fn(&SourceKind) -> Result<Staging>,
    /// Gives the assertions about the restored databases.
    pub assertions: &'d Assertions<'d>,
    /// When the recovery began.
    pub start: Start,
    /// Whether a snapshot that passes is marked as verified.
    pub mark: bool,
}

/// When a recovery began, before the repository was opened.
#[derive(Debug, Clone, Copy)]
pub struct Start {
    /// The instant, for measuring.
    pub instant: Instant,
    /// By the clock, nanoseconds since 1970 UTC.
    pub now_ns: i64,
    /// The recovery time objective: how long it may take.
    pub rto: Option<Duration>,
}

/// The report of a drill.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct DrillReport {
    /// `snapshot` or `demo`.
    pub kind: &'static str,
    /// Whether all checks passed.
    pub passed: bool,
    /// When it began, nanoseconds since 1970 UTC.
    #[serde(rename = "started", serialize_with = "json::utc")]
    pub started_ns: i64,
    /// When it ended, nanoseconds since 1970 UTC.
    #[serde(rename = "ended", serialize_with = "json::utc")]
    pub ended_ns: i64,
    /// Name and version of the program.
    pub tool: &'static str,
    /// The machine.
    pub host: String,
    /// The user.
    pub user: String,
    /// Whether the snapshot was marked as verified.
    pub marked: bool,
    /// How long it took, microseconds.
    #[serde(rename = "duration_ms", serialize_with = "json::ms")]
    pub duration_us: u64,
    /// The drill of each snapshot.
    pub drills: Vec<Report>,
}

impl journaled::Report for DrillReport {
    fn outcome(&self) -> Outcome {
        if self.passed { Outcome::Done } else { Outcome::Damaged }
    }
}

impl DrillReport {
    fn of(kind: &'static str, drills: Vec<Report>, start: &Start, worker: &Worker) -> Self {
        // The report of a snapshot has a check of its own for the time; a demo has none.
        let late = kind == DEMO && start.rto.is_some_and(|rto| start.instant.elapsed() > rto);
        DrillReport {
            kind,
            passed: !late && drills.iter().all(|report| report.passed),
            started_ns: start.now_ns,
            ended_ns: worker.now_ns(),
            tool: concat!("icecore ", env!("CARGO_PKG_VERSION")),
            host: worker.host.clone(),
            user: worker.user.clone(),
            marked: false,
            duration_us: micros(start.instant.elapsed()),
            drills,
        }
    }

    /// The failed checks as one message; `None` if the drill passed.
    pub fn failure(&self) -> Option<String> {
        let failures = self.drills.iter().flat_map(Report::failures);
        let mut lines: Vec<String> = failures
            .map(|check| {
                let stream = check.stream.as_ref().map_or_else(String::new, |name| format!("{name}: "));
                format!("{stream}{}: {}", check.check, check.detail)
            })
            .collect();
        if lines.is_empty() {
            lines.push("it took too long".to_owned());
        }
        (!self.passed).then(|| format!("the drill failed: {}", lines.join("; ")))
    }
}

const SNAPSHOT: &str = "snapshot";
const DEMO: &str = "demo";

/// Drills a snapshot, marks it as verified if it passed, and writes a journal entry.
///
/// # Errors
/// The errors of [`Wanted::find`] and [`drill()`], and of the functions in `wish`.
pub fn perform(work: &Work<'_>, wanted: &Wanted, wish: &DrillWish<'_>) -> Result<DrillReport> {
    work.journaled(Operation::Drill, |story| {
        story.detail.clone_from(&wanted.text);
        let refreshed = work.look()?;
        let (id, record) = wanted.find(&refreshed, work.monitor)?;
        story.about(*id, record);
        // Assertions may name streams, so the listing is read before they are made.
        let listing = Reader::new(work.repo).listing(&record.listing, work.monitor)?;
        let names: Vec<&[u8]> = listing.iter().map(|entry| entry.name.as_slice()).collect();
        let options = DrillOptions {
            staging: (wish.staging)(&record.source.kind)?,
            assertions: (wish.assertions)(&names)?,
            started: wish.start.instant,
            rto: wish.start.rto,
            threads: work.repo.threads(),
        };
        let placement = Placement { disk: &RealDisk, timestamp: compact(work.worker.now_ns()), monitor: work.monitor };
        let report = drill(work.repo, (id, record), &options, &placement)?;
        work.repo.warn_of_healed(work.monitor);
        let mut marked = false;
        if report.passed && wish.mark {
            let detail = "drill: restored and checked".to_owned();
            let statement = Statement { kind: MarkKind::Verified, code: String::new(), detail };
            match mark(work.repo, &refreshed, id, &statement, &work.worker.author()) {
                Ok(_) => marked = true,
                // Only a warning: the proof holds without the mark, for example where the repository is read-only.
                Err(error) => work.monitor.warn(&format!("the snapshot could not be marked as verified: {error}")),
            }
        }
        story.detail = format!("{} restored in {}", bytes(report.bytes), duration(report.restore_ms));
        story.detail.push_str(&format!(", checked in {}", duration(report.verify_ms)));
        let report = DrillReport { marked, ..DrillReport::of(SNAPSHOT, vec![report], &wish.start, work.worker) };
        story.detail.extend(report.failure().map(|failure| format!(": {failure}")));
        Ok(report)
    })
}

/// Runs the demo, which has its own repository and writes no journal. `options` say who runs it and where.
///
/// # Errors
/// The errors of [`demo()`].
pub fn perform_demo(options: &DemoOptions, worker: &Worker, start: &Start, monitor: &dyn Monitor) -> Result<DrillReport> {
    let placement = Placement { disk: &RealDisk, timestamp: compact(start.now_ns), monitor };
    Ok(DrillReport::of(DEMO, demo(options, &placement)?, start, worker))
}
