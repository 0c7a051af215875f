//! Status: how the sources of a repository stand. For each: its last good snapshot, what came after it, and when
//! somebody last verified that it can be restored.
//!
//! A named source that is captured on several hosts has one entry for each host: one of them may have stopped long
//! ago. A source without any snapshot is known only from the journal.

mod report;

use std::collections::{BTreeMap, HashMap, HashSet};

pub use self::report::{Flagged, LastCheck, LastFailure, LastGood, NeverTaken, SourceStatus, State, Status, Verified};
use self::report::{SECOND_NS, age_s};
use super::backup::named_source;
use super::journal::{HOST_FACT, KIND_FACT, LABEL_FACT, Operation, Outcome, visit, word};
use super::select::SnapshotFilter;
use super::sources::Passing;
use crate::error::Result;
use crate::id::{SnapshotId, SourceId};
use crate::progress::Monitor;
use crate::recorded::SourceKind;
use crate::store::format::log::LogRecord;
use crate::store::format::mark::MarkKind;
use crate::store::format::snapshot::SnapshotRecord;
use crate::store::repo::{Refreshed, Repository};

/// How far the clocks of other hosts may be ahead of this one, nanoseconds. Later times are not believed. Otherwise a
/// clock that jumped once would make a source look fresh for years.
pub const AHEAD_MAX_NS: i64 = 600 * SECOND_NS;

/// How far back the journal is searched for sources without snapshots, nanoseconds.
const LOOK_BACK_NS: i64 = 31 * DAY_NS;
const DAY_NS: i64 = 86_400 * SECOND_NS;

/// The options of a status.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StatusOptions {
    /// Only sources with a snapshot that passes.
    pub filter: SnapshotFilter,
    /// The clock's time, nanoseconds since 1970 UTC.
    pub now_ns: i64,
    /// How old the last good snapshot of a source may be, seconds.
    pub max_age_s: Option<i64>,
}

/// Finds how the sources stand now, from the snapshots and the journal.
///
/// # Errors
/// [`Error::Backend`](crate::Error::Backend), [`Error::Cancelled`](crate::Error::Cancelled). Damage is in the result;
/// `monitor` gets a warning for entries of the journal that cannot be read.
pub fn status(repo: &Repository, refreshed: &Refreshed, options: &StatusOptions, monitor: &dyn Monitor) -> Result<Status> {
    let mut look = Look::at(refreshed, options);
    // From the newest entry back, until nothing is missing any more.
    let damage = visit(repo, None, monitor, &mut |_, entry| {
        look.take(entry);
        !look.has_all()
    })?;
    damage.iter().for_each(|damage| monitor.warn(&damage.to_string()));
    let never_taken = look.never_taken();
    let Look { sources, last_check, .. } = look;
    let sources: Vec<SourceStatus> = sources.into_iter().map(|one| one.ended(options.max_age_s)).collect();
    let unreadable: Vec<String> = refreshed.damage.iter().chain(&damage).map(ToString::to_string).collect();
    let is_damaged = !unreadable.is_empty() || last_check.as_ref().is_some_and(|check| !check.is_whole());
    let status = match () {
        () if is_damaged => State::Damaged,
        () if !never_taken.is_empty() => State::NoGood,
        () => sources.iter().map(|one| one.status).max().unwrap_or(State::NoGood),
    };
    let (repository, location) = (repo.config().repository, repo.backend().location());
    let &StatusOptions { now_ns, max_age_s, .. } = options;
    Ok(Status { status, repository, location, now_ns, max_age_s, sources, never_taken, last_check, unreadable })
}

/// A source, and what is still looked for in the journal, which is read from the newest entry back.
struct Open {
    status: SourceStatus,
    /// The last restore, drill or check that went well.
    wants_proof: bool,
    /// The last backup, if it failed.
    wants_failure: bool,
}

struct Look<'r> {
    refreshed: &'r Refreshed,
    filter: &'r SnapshotFilter,
    now_ns: i64,
    latest_ns: i64,
    /// Older entries are read only for what is still missing.
    since_ns: i64,
    is_past: bool,
    sources: Vec<Open>,
    by_snapshot: HashMap<SnapshotId, (&'r SnapshotRecord, bool)>,
    /// All sources with snapshots, whatever the filter says: by identity, and by label and host.
    known: HashSet<SourceId>,
    known_labels: HashSet<(String, String)>,
    /// Backups of sources without snapshots, by label, host and kind.
    failed: BTreeMap<[String; 3], Failed>,
    last_check: Option<LastCheck>,
}

/// The failed backups of a source without snapshots.
#[derive(Default)]
struct Failed {
    last: Option<LogRecord>,
    count: u64,
    days: HashSet<i64>,
    has_ended: bool,
}

impl<'r> Look<'r> {
    fn at(refreshed: &'r Refreshed, options: &'r StatusOptions) -> Self {
        let StatusOptions { filter, now_ns, .. } = options;
        let mut look = Look {
            refreshed,
            filter,
            now_ns: *now_ns,
            latest_ns: now_ns.saturating_add(AHEAD_MAX_NS),
            since_ns: now_ns.saturating_sub(LOOK_BACK_NS),
            is_past: false,
            sources: Vec::new(),
            by_snapshot: HashMap::new(),
            known: HashSet::new(),
            known_labels: HashSet::new(),
            failed: BTreeMap::new(),
            last_check: None,
        };
        let passing = Passing::of(filter, &refreshed.snapshots);
        for (id, record) in &refreshed.snapshots {
            look.by_snapshot.insert(*id, (record, look.is_good(id, record)));
            look.known.insert(record.source.id);
            look.known_labels.insert((word(&record.source.label), record.host.clone()));
            if passing.has(record) {
                look.add(*id, record);
            }
        }
        look
    }

    fn is_good(&self, id: &SnapshotId, record: &SnapshotRecord) -> bool {
        record.flags.is_empty() && self.refreshed.marks.get(id).is_none_or(|marks| marks.unreadable == 0)
    }

    /// Takes the next snapshot of the list. The list is sorted, oldest first.
    fn add(&mut self, id: SnapshotId, record: &SnapshotRecord) {
        // A source with a name has an entry for each host, so that a host that stopped is not hidden by another one. The host is a part of
        // the identity of the others, except of PostgreSQL databases: they are the same from every host, and have one entry.
        let is_named = named_source(&record.source.kind, &record.source.label) == record.source.id;
        let is_same = |one: &Open| one.status.source.id == record.source.id && (!is_named || one.status.host == record.host);
        let place = self.sources.iter().position(is_same);
        let mut one = place.map_or_else(|| Open::new(record), |place| self.sources.remove(place));
        let status = &mut one.status;
        status.source.clone_from(&record.source);
        status.host.clone_from(&record.host);
        status.snapshots += 1;
        let is_ahead = record.time_ns > self.latest_ns;
        status.ahead += u64::from(is_ahead);
        if !self.is_whole(&id, record) {
            let codes = record.flags.iter().map(|flag| flag.code.clone()).collect();
            let age_s = age_s(self.now_ns, record.time_ns);
            status.flagged_after.push(Flagged { id, time_ns: record.time_ns, age_s, codes });
        } else if !is_ahead {
            let (logical_bytes, stored_bytes) = (record.logical_bytes, record.stats.pack_bytes);
            let age_s = age_s(self.now_ns, record.time_ns);
            status.last_good = Some(LastGood { id, time_ns: record.time_ns, age_s, logical_bytes, stored_bytes });
            status.flagged_after.clear();
        }
        let health = self.refreshed.marks.get(&id).and_then(|marks| marks.health());
        let read_whole = health.filter(|mark| mark.kind == MarkKind::Verified && mark.time_ns <= self.latest_ns);
        let now_ns = self.now_ns;
        status.prove(read_whole.map(|mark| Verified::at(mark.time_ns, now_ns, id, Operation::Check)));
        self.sources.push(one);
    }

    /// Takes the next entry of the journal, which is older than those before.
    fn take(&mut self, entry: LogRecord) {
        self.is_past |= entry.time_ns < self.since_ns;
        if entry.time_ns > self.latest_ns {
            return;
        }
        // A failure before the last good snapshot does not matter any more.
        let succeeded = |one: &Open| one.status.last_good.is_some_and(|good| good.time_ns >= entry.time_ns);
        self.sources.iter_mut().filter(|one| succeeded(one)).for_each(|one| one.wants_failure = false);
        let is = |operation: Operation| entry.operation == operation.word();
        let ended = [Outcome::Done, Outcome::Incomplete, Outcome::Damaged].iter().any(|outcome| entry.outcome == outcome.word());
        if is(Operation::Check) && ended && self.last_check.is_none() {
            self.last_check = Some(LastCheck::of(entry, self.now_ns));
        } else if is(Operation::Backup) {
            self.backup(entry);
        } else if entry.outcome == Outcome::Done.word() {
            [Operation::Drill, Operation::Restore].into_iter().filter(|by| is(*by)).for_each(|by| self.proof(&entry, by));
        }
    }

    /// Takes a backup's entry: it may be the last failure of a source with snapshots, or of a source without any.
    fn backup(&mut self, entry: LogRecord) {
        let about = About::of(&entry);
        let id = entry.source.or_else(|| about.named().filter(|id| self.known.contains(id)));
        let is_known = match id {
            Some(id) => self.known.contains(&id),
            None => self.known_labels.contains(&(about.label.clone(), about.host.clone())),
        };
        if !is_known {
            self.failed_source(entry, about);
        } else if entry.snapshots.is_empty() {
            let by_label = |one: &Open| word(&one.status.source.label) == about.label && one.status.host == about.host;
            let now_ns = self.now_ns;
            let place = match id {
                Some(id) => self.place_of(id, &about.host),
                None => self.sources.iter().position(by_label),
            };
            let of = place.and_then(|place| self.sources.get_mut(place));
            if let Some(one) = of.filter(|one| one.wants_failure) {
                one.wants_failure = false;
                one.status.last_failure = Some(LastFailure::of(entry, now_ns));
            }
        }
    }

    /// Takes a backup of a source without snapshots.
    fn failed_source(&mut self, entry: LogRecord, about: About) {
        if self.is_past || about.label.is_empty() {
            return;
        }
        let failed = self.failed.entry([about.label, about.host, about.kind]).or_default();
        // It made snapshots once, which somebody has forgotten. Older failures do not count.
        failed.has_ended |= !entry.snapshots.is_empty();
        if !failed.has_ended {
            failed.count += 1;
            failed.days.insert(entry.time_ns / DAY_NS);
            failed.last.get_or_insert(entry);
        }
    }

    /// The sources without snapshots that are reported.
    fn never_taken(&mut self) -> Vec<NeverTaken> {
        let (filter, now_ns) = (self.filter, self.now_ns);
        let mut all: Vec<NeverTaken> = Vec::new();
        for ([label, host, kind], failed) in std::mem::take(&mut self.failed) {
            let Some(last_failure) = failed.last else { continue };
            // A single failure some days ago may be a path that was misspelled once.
            let is_recent = failed.days.len() > 1 || last_failure.time_ns >= now_ns.saturating_sub(DAY_NS);
            let by_id = |wanted: &String| last_failure.source.is_some_and(|id| id.to_string().starts_with(wanted.as_str()));
            let of_source = filter.source.as_ref().is_none_or(|wanted| *wanted == label || by_id(wanted));
            let passes = of_source && filter.tag.is_none() && filter.host.as_ref().is_none_or(|wanted| *wanted == host);
            if is_recent && passes {
                let kind = SourceKind::named(&kind);
                let last_failure = LastFailure::of(last_failure, now_ns);
                all.push(NeverTaken { label, host, kind, status: State::NoGood, failures: failed.count, last_failure });
            }
        }
        all
    }

    /// The place of a source on a host. If it was never captured there, the place of its newest entry.
    fn place_of(&self, id: SourceId, host: &str) -> Option<usize> {
        let on_host = self.sources.iter().position(|one| one.status.source.id == id && one.status.host == host);
        on_host.or_else(|| self.sources.iter().rposition(|one| one.status.source.id == id))
    }

    /// Takes a restore or drill that went well. One of a flagged snapshot proves nothing for the source. If the
    /// snapshot was forgotten since, the entry names the source.
    fn proof(&mut self, entry: &LogRecord, by: Operation) {
        let Some(snapshot) = entry.snapshots.last() else { return };
        let (place, is_whole) = match self.by_snapshot.get(snapshot) {
            Some((record, is_whole)) => (self.place_of(record.source.id, &record.host), *is_whole),
            // No host has the empty name: this gives the newest entry of the source.
            None => (entry.source.and_then(|id| self.place_of(id, "")), true),
        };
        let now_ns = self.now_ns;
        let of = place.and_then(|place| self.sources.get_mut(place));
        if let Some(one) = of.filter(|one| one.wants_proof && is_whole) {
            one.wants_proof = false;
            one.status.prove(Some(Verified::at(entry.time_ns, now_ns, *snapshot, by)));
        }
    }

    fn has_all(&self) -> bool {
        self.is_past && self.last_check.is_some() && self.sources.iter().all(|one| !one.wants_proof && !one.wants_failure)
    }
}

impl Open {
    fn new(record: &SnapshotRecord) -> Self {
        let status = SourceStatus {
            source: record.source.clone(),
            host: record.host.clone(),
            status: State::NoGood,
            snapshots: 0,
            last_good: None,
            flagged_after: Vec::new(),
            ahead: 0,
            last_verified: None,
            last_failure: None,
        };
        Open { status, wants_proof: true, wants_failure: true }
    }

    fn ended(mut self, max_age_s: Option<i64>) -> SourceStatus {
        self.status.status = match (&self.status.last_good, max_age_s) {
            (None, _) => State::NoGood,
            (Some(good), Some(max)) if good.age_s > max => State::TooOld,
            _ => State::Ok,
        };
        self.status
    }
}

impl SourceStatus {
    /// Keeps the newest proof.
    fn prove(&mut self, proof: Option<Verified>) {
        let newer = proof.filter(|proof| self.last_verified.is_none_or(|known| known.time_ns < proof.time_ns));
        self.last_verified = newer.or(self.last_verified);
    }
}

/// The facts of a backup's entry about its source. If the files were not found, the entry has no identity.
struct About {
    label: String,
    /// The machine that its snapshots name.
    host: String,
    kind: String,
}

impl About {
    fn of(entry: &LogRecord) -> Self {
        let fact = |wanted: &str| entry.facts.iter().find(|(name, _)| name == wanted).map(|(_, value)| value.clone());
        About {
            label: fact(LABEL_FACT).unwrap_or_default(),
            host: fact(HOST_FACT).unwrap_or_else(|| entry.host.clone()),
            kind: fact(KIND_FACT).unwrap_or_default(),
        }
    }

    /// The identity of the source, if its label is a name of the user's choice.
    fn named(&self) -> Option<SourceId> {
        Some(named_source(&SourceKind::named(&self.kind)?, &self.label))
    }
}
