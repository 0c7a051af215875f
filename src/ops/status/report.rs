//! What is told of the sources.

use serde::Serialize;

use crate::id::{RepositoryId, SnapshotId};
use crate::ops::journal::{Operation, Outcome, READ_DATA_FACT};
use crate::ops::json;
use crate::recorded::SourceKind;
use crate::store::format::log::LogRecord;
use crate::store::format::snapshot::SourceRef;

/// Nanoseconds in a second.
pub(super) const SECOND_NS: i64 = 1_000_000_000;

/// How a source, or the repository, stands; the worst one last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// As it should be.
    Ok,
    /// The last good snapshot is older than it may be.
    TooOld,
    /// There is no good snapshot.
    #[serde(rename = "no-good-snapshot")]
    NoGood,
    /// Of a repository: something cannot be read, or the last check found damage.
    Damaged,
}

impl State {
    /// The stable word.
    pub fn word(self) -> &'static str {
        match self {
            State::Ok => "ok",
            State::TooOld => "too-old",
            State::NoGood => "no-good-snapshot",
            State::Damaged => "damaged",
        }
    }
}

/// How a repository stands.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Status {
    /// The worst state.
    pub status: State,
    /// Which repository.
    pub repository: RepositoryId,
    /// Where it is.
    pub location: String,
    /// When this was found out, nanoseconds since 1970 UTC.
    #[serde(rename = "time", serialize_with = "json::utc")]
    pub now_ns: i64,
    /// How old the last good snapshot of a source may be, seconds.
    pub max_age_s: Option<i64>,
    /// One for each source, and for each host of one with a name of its own; those with the newest snapshots last.
    pub sources: Vec<SourceStatus>,
    /// Sources without a snapshot whose backups of the last month all failed: those that failed on several days, or within the last one. So a
    /// misspelled path is soon no source any more.
    pub never_taken: Vec<NeverTaken>,
    /// The last check that the journal tells of and that came to its end.
    pub last_check: Option<LastCheck>,
    /// What is listed but cannot be read, and what has vanished.
    pub unreadable: Vec<String>,
}

/// How a source stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SourceStatus {
    /// The source, as its newest snapshot names it.
    pub source: SourceRef,
    /// The machine of its newest snapshot.
    pub host: String,
    /// How it stands.
    pub status: State,
    /// How many of its snapshots are listed.
    pub snapshots: u64,
    /// How many are dated more than [`super::AHEAD_MAX_NS`] after now.
    pub ahead: u64,
    /// The last good one: without flags, with readable marks, and not dated more than [`super::AHEAD_MAX_NS`] after now.
    pub last_good: Option<LastGood>,
    /// Those after it in the list that are flagged, or have marks that cannot be read, oldest first.
    pub flagged_after: Vec<Flagged>,
    /// When a snapshot of it was last restored, or read whole by a check, and was right.
    pub last_verified: Option<Verified>,
    /// The last backup that made no snapshot, if it came after the last good one.
    pub last_failure: Option<LastFailure>,
}

/// A source without a snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct NeverTaken {
    /// What its backups called it.
    pub label: String,
    /// The machine.
    pub host: String,
    /// Its kind, if its backups said it.
    pub kind: Option<SourceKind>,
    /// [`State::NoGood`].
    pub status: State,
    /// How many backups failed within a month.
    pub failures: u64,
    /// The last one.
    pub last_failure: LastFailure,
}

/// The last good snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct LastGood {
    /// Its id.
    #[serde(rename = "snapshot")]
    pub id: SnapshotId,
    /// Its time, nanoseconds since 1970 UTC.
    #[serde(rename = "time", serialize_with = "json::utc")]
    pub time_ns: i64,
    /// How long ago that is, seconds.
    pub age_s: i64,
    /// Bytes of its streams.
    pub logical_bytes: u64,
    /// Bytes of the packs that it added.
    pub stored_bytes: u64,
}

/// A snapshot that does not count as good.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Flagged {
    /// Its id.
    #[serde(rename = "snapshot")]
    pub id: SnapshotId,
    /// Its time, nanoseconds since 1970 UTC.
    #[serde(rename = "time", serialize_with = "json::utc")]
    pub time_ns: i64,
    /// How long ago that is, seconds.
    pub age_s: i64,
    /// The words of its flags; none if its marks cannot be read.
    #[serde(rename = "flags")]
    pub codes: Vec<String>,
}

/// A proof that a snapshot can be had back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Verified {
    /// The snapshot.
    pub snapshot: SnapshotId,
    /// When, nanoseconds since 1970 UTC.
    #[serde(rename = "time", serialize_with = "json::utc")]
    pub time_ns: i64,
    /// How long ago that is, seconds.
    pub age_s: i64,
    /// By what: a drill, a restore, or a check.
    pub by: Operation,
}

/// A backup that made no snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LastFailure {
    /// When it ended, nanoseconds since 1970 UTC.
    #[serde(rename = "time", serialize_with = "json::utc")]
    pub time_ns: i64,
    /// How long ago that is, seconds.
    pub age_s: i64,
    /// The machine.
    pub host: String,
    /// The word of its [`Outcome`].
    pub outcome: String,
    /// For people.
    pub detail: String,
}

/// A check that the journal tells of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LastCheck {
    /// When it ended, nanoseconds since 1970 UTC.
    #[serde(rename = "time", serialize_with = "json::utc")]
    pub time_ns: i64,
    /// How long ago that is, seconds.
    pub age_s: i64,
    /// The machine.
    pub host: String,
    /// The word of its [`Outcome`].
    pub outcome: String,
    /// `none`, `part` or `all`: which data it read.
    pub read_data: String,
    /// For people.
    pub detail: String,
}

impl LastCheck {
    /// Whether it found no damage.
    pub fn is_whole(&self) -> bool {
        self.outcome == Outcome::Done.word()
    }
}

/// Whole seconds; what is dated a little after now is of now.
pub(super) fn age_s(now_ns: i64, time_ns: i64) -> i64 {
    now_ns.saturating_sub(time_ns).max(0) / SECOND_NS
}

impl LastFailure {
    pub(super) fn of(entry: LogRecord, now_ns: i64) -> Self {
        let LogRecord { time_ns, host, outcome, detail, .. } = entry;
        LastFailure { time_ns, age_s: age_s(now_ns, time_ns), host, outcome, detail }
    }
}

impl LastCheck {
    pub(super) fn of(entry: LogRecord, now_ns: i64) -> Self {
        let read_data = entry.facts.iter().find(|(name, _)| name == READ_DATA_FACT).map_or("none", |(_, value)| value).to_owned();
        let LogRecord { time_ns, host, outcome, detail, .. } = entry;
        LastCheck { time_ns, age_s: age_s(now_ns, time_ns), host, outcome, read_data, detail }
    }
}

impl Verified {
    pub(super) fn at(time_ns: i64, now_ns: i64, snapshot: SnapshotId, by: Operation) -> Self {
        Verified { snapshot, time_ns, age_s: age_s(now_ns, time_ns), by }
    }
}
