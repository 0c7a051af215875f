//! Runs operations and writes a journal entry when each has ended, well or not. Callers need not do it.
//!
//!
//! Operations that only look write no entry, and neither do calls with invalid arguments. If the entry cannot be
//! written, that is a warning and changes nothing else. Passwords are hidden in all texts.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use super::journal::{Event, Operation, Outcome, record};
use super::mark::Author;
use super::secrets::hidden;
use crate::error::{Error, Result};
use crate::id::{SnapshotId, SourceId};
use crate::progress::Monitor;
use crate::store::format::snapshot::SnapshotRecord;
use crate::store::repo::{Refreshed, Repository};

/// Who is at work, on which machine, and by which clock. The library finds out none of these by itself.
#[derive(Debug, Clone)]
pub struct Worker {
    /// The machine's name.
    pub host: String,
    /// The user's name.
    pub user: String,
    /// The clock.
    pub clock: fn() -> SystemTime,
}

impl Worker {
    /// The clock's time, nanoseconds since 1970 UTC; negative before 1970.
    pub fn now_ns(&self) -> i64 {
        let nanos = |span: std::time::Duration| i64::try_from(span.as_nanos()).unwrap_or(i64::MAX);
        match (self.clock)().duration_since(UNIX_EPOCH) {
            Ok(since) => nanos(since),
            Err(before) => nanos(before.duration()).saturating_neg(),
        }
    }

    /// The author of a mark or an entry made now.
    pub fn author(&self) -> Author {
        Author { now_ns: self.now_ns(), host: self.host.clone(), user: self.user.clone() }
    }
}

/// The arguments of every operation with a journal entry.
#[derive(Clone, Copy)]
pub struct Work<'w> {
    /// The repository.
    pub repo: &'w Repository,
    /// Who is at work.
    pub worker: &'w Worker,
    /// Receives progress and warnings, and says when to stop.
    pub monitor: &'w dyn Monitor,
}

/// The report of an operation.
pub trait Report {
    /// How it ended.
    fn outcome(&self) -> Outcome;
}

/// What the journal entry will say. The operation fills it in as it goes, so that a failure has it, too.
#[derive(Debug, Default)]
pub(super) struct Story {
    /// The source that the operation is about, if there is one.
    pub source: Option<SourceId>,
    /// The snapshots that it made, read or dropped.
    pub snapshots: Vec<SnapshotId>,
    /// Text for people. If the operation fails, the cause is added.
    pub detail: String,
    /// Further facts, by name.
    pub facts: Vec<(String, String)>,
    /// Whether no entry is written, because the operation only shows what it would do.
    pub untold: bool,
}

impl Story {
    /// Says that the operation is about this snapshot.
    pub fn about(&mut self, id: SnapshotId, record: &SnapshotRecord) {
        self.snapshots.push(id);
        self.source = Some(record.source.id);
    }
}

impl Work<'_> {
    /// Runs an operation and writes its journal entry.
    pub(super) fn journaled<R: Report>(&self, operation: Operation, work: impl FnOnce(&mut Story) -> Result<R>) -> Result<R> {
        let started = Instant::now();
        let mut story = Story::default();
        let ended = work(&mut story);
        // A call with wrong arguments did nothing to the repository.
        if story.untold || matches!(ended, Err(Error::InvalidArgument(_))) {
            return ended;
        }
        let (outcome, exit_code, detail) = match &ended {
            Ok(report) => (report.outcome(), report.outcome().exit_code(), story.detail),
            Err(error) => (Outcome::of(error), error.exit_code(), told(story.detail, error)),
        };
        let event = Event {
            operation,
            outcome,
            exit_code,
            duration: started.elapsed(),
            source: story.source,
            snapshots: story.snapshots,
            detail: hidden(&detail),
            facts: story.facts.into_iter().map(|(name, value)| (name, hidden(&value))).collect(),
        };
        // The operation has ended. A failure here must not change its result.
        if let Err(error) = record(self.repo, &event, &self.worker.author()) {
            self.monitor.warn(&format!("the journal could not be written: {error}"));
        }
        ended
    }

    /// Refreshes the catalog, and warns of objects that cannot be read.
    pub(super) fn look(&self) -> Result<Refreshed> {
        let refreshed = self.repo.refresh()?;
        refreshed.damage.iter().for_each(|damage| self.monitor.warn(&damage.to_string()));
        Ok(refreshed)
    }

    /// Warns of the flags of a snapshot that is going to be used.
    pub(super) fn warn_of_flags(&self, id: &SnapshotId, record: &SnapshotRecord) {
        for flag in &record.flags {
            self.monitor.warn(&format!("snapshot {} is flagged {}: {}", id.short(), flag.code, flag.detail));
        }
    }
}

/// The text of a failed operation's entry.
fn told(detail: String, error: &Error) -> String {
    let cause = format!("{error}{}", error.advice());
    if detail.is_empty() { cause } else { format!("{detail}: {cause}") }
}
