//! How the sources of a repository stand: the last good snapshot of each, what came after it, and when anybody last looked whether it can be restored.

use std::collections::HashMap;

use super::journal::{LABEL_FACT, Operation, Outcome, visit, word};
use super::select::SnapshotFilter;
use crate::error::{Error, Result};
use crate::format::log::LogRecord;
use crate::format::mark::MarkKind;
use crate::format::snapshot::{SnapshotRecord, SourceRef};
use crate::id::{SnapshotId, SourceId};
use crate::progress::Monitor;
use crate::repo::{Refreshed, Repository};

/// How far clocks of hosts may be ahead of this one, nanoseconds: what is dated later is not believed, so that a clock that once jumped does not make a
/// source look fresh for years.
pub const AHEAD_MAX_NS: i64 = 600 * 1_000_000_000;

/// How a repository stands.
#[derive(Debug, Default)]
pub struct Status {
    /// One for each source, those with the newest snapshots last.
    pub sources: Vec<SourceStatus>,
    /// The last check that the journal tells of and that came to its end.
    pub last_check: Option<LogRecord>,
    /// What cannot be read of the journal.
    pub unreadable: Vec<Error>,
}

/// How a source stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceStatus {
    /// The source, as its newest snapshot names it.
    pub source: SourceRef,
    /// The machine of its newest snapshot.
    pub host: String,
    /// How many of its snapshots are listed.
    pub snapshots: u64,
    /// The last good one: without flags, with readable marks, and not dated more than [`AHEAD_MAX_NS`] after now.
    pub last_good: Option<LastGood>,
    /// Those after it in the list that are flagged, or have marks that cannot be read, oldest first.
    pub flagged_after: Vec<Flagged>,
    /// How many are dated more than [`AHEAD_MAX_NS`] after now.
    pub ahead: u64,
    /// When a snapshot of it was last restored, or read whole by a check, and was right.
    pub last_verified: Option<Verified>,
    /// The last backup that made no snapshot, if it came after the last good one.
    pub last_failure: Option<LogRecord>,
}

/// The last good snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LastGood {
    /// Its id.
    pub id: SnapshotId,
    /// Its time, nanoseconds since 1970 UTC.
    pub time_ns: i64,
    /// Bytes of its streams.
    pub logical_bytes: u64,
    /// Bytes of the packs that it added.
    pub stored_bytes: u64,
}

/// A snapshot that does not count as good.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Flagged {
    /// Its id.
    pub id: SnapshotId,
    /// Its time, nanoseconds since 1970 UTC.
    pub time_ns: i64,
    /// The words of its flags; none if its marks cannot be read.
    pub codes: Vec<String>,
}

/// A proof that a snapshot can be had back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Verified {
    /// The snapshot.
    pub snapshot: SnapshotId,
    /// When, nanoseconds since 1970 UTC.
    pub time_ns: i64,
    /// By what: a drill, a restore, or a check.
    pub by: Operation,
}

/// How the sources stand now, by the snapshots that there are and the journal.
///
/// # Errors
/// [`Error::Backend`], [`Error::Cancelled`]; what is damaged in the journal is in the result.
pub fn status(repo: &Repository, refreshed: &Refreshed, filter: &SnapshotFilter, now_ns: i64, monitor: &dyn Monitor) -> Result<Status> {
    let mut look = Look::at(refreshed, filter, now_ns);
    let unreadable = visit(repo, None, monitor, &mut |_, entry| {
        look.take(entry);
        !look.has_all()
    })?;
    let Look { sources, last_check, .. } = look;
    Ok(Status { sources: sources.into_iter().map(|one| one.status).collect(), last_check, unreadable })
}

/// What the journal, read from the newest entry back, still has to tell of a source.
struct Open {
    status: SourceStatus,
    wants_proof: bool,
    wants_failure: bool,
}

struct Look<'r> {
    refreshed: &'r Refreshed,
    latest_ns: i64,
    sources: Vec<Open>,
    by_snapshot: HashMap<SnapshotId, (SourceId, bool)>,
    last_check: Option<LogRecord>,
}

impl<'r> Look<'r> {
    fn at(refreshed: &'r Refreshed, filter: &SnapshotFilter, now_ns: i64) -> Self {
        let latest_ns = now_ns.saturating_add(AHEAD_MAX_NS);
        let mut look = Look { refreshed, latest_ns, sources: Vec::new(), by_snapshot: HashMap::new(), last_check: None };
        for (id, record) in &refreshed.snapshots {
            look.by_snapshot.insert(*id, (record.source.id, look.is_whole(id, record)));
            if filter.matches(record) {
                look.add(*id, record);
            }
        }
        look
    }

    fn is_whole(&self, id: &SnapshotId, record: &SnapshotRecord) -> bool {
        record.flags.is_empty() && self.refreshed.marks.get(id).is_none_or(|marks| marks.unreadable == 0)
    }

    /// Takes the next snapshot of the list.
    fn add(&mut self, id: SnapshotId, record: &SnapshotRecord) {
        let place = self.sources.iter().position(|one| one.status.source.id == record.source.id);
        let mut one = place.map_or_else(|| Open::new(record), |place| self.sources.remove(place));
        let status = &mut one.status;
        status.source.clone_from(&record.source);
        status.host.clone_from(&record.host);
        status.snapshots += 1;
        let is_ahead = record.time_ns > self.latest_ns;
        status.ahead += u64::from(is_ahead);
        if !self.is_whole(&id, record) {
            let codes = record.flags.iter().map(|flag| flag.code.clone()).collect();
            status.flagged_after.push(Flagged { id, time_ns: record.time_ns, codes });
        } else if !is_ahead {
            let (logical_bytes, stored_bytes) = (record.logical_bytes, record.stats.pack_bytes);
            status.last_good = Some(LastGood { id, time_ns: record.time_ns, logical_bytes, stored_bytes });
            status.flagged_after.clear();
        }
        let health = self.refreshed.marks.get(&id).and_then(|marks| marks.health());
        let read_whole = health.filter(|mark| mark.kind == MarkKind::Verified && mark.time_ns <= self.latest_ns);
        status.prove(read_whole.map(|mark| Verified { snapshot: id, time_ns: mark.time_ns, by: Operation::Check }));
        self.sources.push(one);
    }

    /// Takes the next entry of the journal, older than those before.
    fn take(&mut self, entry: LogRecord) {
        if entry.time_ns > self.latest_ns {
            return;
        }
        // What failed before the last good snapshot is of no interest.
        let succeeded = |one: &Open| one.status.last_good.is_some_and(|good| good.time_ns >= entry.time_ns);
        self.sources.iter_mut().filter(|one| succeeded(one)).for_each(|one| one.wants_failure = false);
        let is = |operation: Operation| entry.operation == operation.word();
        let ended = [Outcome::Done, Outcome::Incomplete, Outcome::Damaged].iter().any(|outcome| entry.outcome == outcome.word());
        if is(Operation::Check) && ended && self.last_check.is_none() {
            self.last_check = Some(entry);
        } else if is(Operation::Backup) && entry.snapshots.is_empty() {
            let of = self.sources.iter_mut().find(|one| one.status.is_of(&entry));
            if let Some(one) = of.filter(|one| one.wants_failure) {
                one.wants_failure = false;
                one.status.last_failure = Some(entry);
            }
        } else if entry.outcome == Outcome::Done.word() {
            [Operation::Drill, Operation::Restore].into_iter().filter(|by| is(*by)).for_each(|by| self.proof(&entry, by));
        }
    }

    /// A restore or a drill that went well. Of a flagged snapshot it says nothing for the source; of one that was forgotten since, the entry names the source.
    fn proof(&mut self, entry: &LogRecord, by: Operation) {
        let Some(snapshot) = entry.snapshots.last() else { return };
        let (source, is_whole) = match self.by_snapshot.get(snapshot) {
            Some((source, is_whole)) => (Some(*source), *is_whole),
            None => (entry.source, true),
        };
        let of = self.sources.iter_mut().find(|one| source == Some(one.status.source.id));
        if let Some(one) = of.filter(|one| one.wants_proof && is_whole) {
            one.wants_proof = false;
            one.status.prove(Some(Verified { snapshot: *snapshot, time_ns: entry.time_ns, by }));
        }
    }

    fn has_all(&self) -> bool {
        self.last_check.is_some() && self.sources.iter().all(|one| !one.wants_proof && !one.wants_failure)
    }
}

impl Open {
    fn new(record: &SnapshotRecord) -> Self {
        let status = SourceStatus {
            source: record.source.clone(),
            host: record.host.clone(),
            snapshots: 0,
            last_good: None,
            flagged_after: Vec::new(),
            ahead: 0,
            last_verified: None,
            last_failure: None,
        };
        Open { status, wants_proof: true, wants_failure: true }
    }
}

impl SourceStatus {
    /// Whether an entry is about this source. One of a backup that did not find its files has no identity, but the label.
    fn is_of(&self, entry: &LogRecord) -> bool {
        let label = || entry.facts.iter().find(|(name, _)| name == LABEL_FACT).map(|(_, label)| label.as_str());
        match entry.source {
            Some(source) => source == self.source.id,
            None => entry.host == self.host && label() == Some(word(&self.source.label).as_str()),
        }
    }

    /// The newest proof counts.
    fn prove(&mut self, proof: Option<Verified>) {
        let newer = proof.filter(|proof| self.last_verified.is_none_or(|known| known.time_ns < proof.time_ns));
        self.last_verified = newer.or(self.last_verified);
    }
}
