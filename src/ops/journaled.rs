//! Operations that tell the journal: when they have ended, well or not, they write their entry themselves. It does not matter who calls them.
//!
//! What only looks writes none, nor does what was asked for in a wrong way. That the journal cannot be written is a warning and changes nothing else.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use super::journal::{Event, Operation, Outcome, record};
use super::mark::Author;
use super::secrets::hidden;
use crate::error::{Error, Result};
use crate::id::{SnapshotId, SourceId};
use crate::progress::Monitor;
use crate::store::format::snapshot::SnapshotRecord;
use crate::store::repo::{Refreshed, Repository};

/// Who is at work, on which machine, by which clock: the library looks at none of these by itself.
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
    /// What the clock says, nanoseconds since 1970 UTC.
    pub fn now_ns(&self) -> i64 {
        let nanos = |span: std::time::Duration| i64::try_from(span.as_nanos()).unwrap_or(i64::MAX);
        match (self.clock)().duration_since(UNIX_EPOCH) {
            Ok(since) => nanos(since),
            Err(before) => nanos(before.duration()).saturating_neg(),
        }
    }

    /// Who states something now.
    pub fn author(&self) -> Author {
        Author { now_ns: self.now_ns(), host: self.host.clone(), user: self.user.clone() }
    }
}

/// What every operation takes that tells the journal.
#[derive(Clone, Copy)]
pub struct Work<'w> {
    /// The repository.
    pub repo: &'w Repository,
    /// Who is at work.
    pub worker: &'w Worker,
    /// Hears of progress, and says when to stop.
    pub monitor: &'w dyn Monitor,
}

/// What an operation gives back.
pub trait Report {
    /// How it ended.
    fn outcome(&self) -> Outcome;
}

/// What an operation has to tell, filled in as it goes.
#[derive(Debug, Default)]
pub(super) struct Story {
    /// The source that it is about, if it is one.
    pub source: Option<SourceId>,
    /// The snapshots that it made, read or dropped.
    pub snapshots: Vec<SnapshotId>,
    /// For people. If the operation fails, the cause follows.
    pub detail: String,
    /// More, by name.
    pub facts: Vec<(String, String)>,
    /// Nothing is to be told: it only shows what it would do.
    pub untold: bool,
}

impl Story {
    /// It is about this snapshot.
    pub fn about(&mut self, id: SnapshotId, record: &SnapshotRecord) {
        self.snapshots.push(id);
        self.source = Some(record.source.id);
    }
}

impl Work<'_> {
    /// Does the work of an operation, and tells the journal how it ended.
    pub(super) fn journaled<R: Report>(&self, operation: Operation, work: impl FnOnce(&mut Story) -> Result<R>) -> Result<R> {
        let started = Instant::now();
        let mut story = Story::default();
        let ended = work(&mut story);
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
        if let Err(error) = record(self.repo, &event, &self.worker.author()) {
            self.monitor.warn(&format!("the journal could not be written: {error}"));
        }
        ended
    }

    /// Looks at the repository, and says what cannot be read.
    pub(super) fn look(&self) -> Result<Refreshed> {
        let refreshed = self.repo.refresh()?;
        refreshed.damage.iter().for_each(|damage| self.monitor.warn(&damage.to_string()));
        Ok(refreshed)
    }

    /// Says what is not good of a snapshot that is about to be used.
    pub(super) fn warn_of_flags(&self, id: &SnapshotId, record: &SnapshotRecord) {
        for flag in &record.flags {
            self.monitor.warn(&format!("snapshot {} is flagged {}: {}", id.short(), flag.code, flag.detail));
        }
    }
}

fn told(detail: String, error: &Error) -> String {
    let cause = format!("{error}{}", error.advice());
    if detail.is_empty() { cause } else { format!("{detail}: {cause}") }
}
