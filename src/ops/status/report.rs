//! Reports the status of a repository and its sources. The report is also its JSON.
//!
//! The names of fields and states are part of the JSON output, so they must stay the same. States are ordered by
//! gravity: the worst comes last. Times after now have the age 0.

use serde::Serialize;

use crate::id::{RepositoryId, SnapshotId};
use crate::ops::journal::{Operation, Outcome, READ_DATA_FACT};
use crate::ops::json;
use crate::recorded::SourceKind;
use crate::store::format::log::LogRecord;
use crate::store::format::snapshot::SourceRef;

/// Nanoseconds in a second.
pub(super) const SECOND_NS: i64 = 1_000_000_000;

/// The state of a source or of the repository. The worst comes last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// Everything is right.
    Ok,
    /// The last good snapshot is older than it may be.
    TooOld,
    /// There is no good snapshot.
    #[serde(rename = "no-good-snapshot")]
    NoGood,
    /// For a repository: something cannot be read, or the last check found damage.
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

/// The status of a repository.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Status {
    /// The worst state.
    pub status: State,
    /// Which repository.
    pub repository: RepositoryId,
    /// Where it is.
    pub location: String,
    /// The time of this status, nanoseconds since 1970 UTC.
    #[serde(rename = "time", serialize_with = "json::utc")]
    pub now_ns: i64,
    /// How old the last good snapshot of a source may be, seconds.
    pub max_age_s: Option<i64>,
    /// One entry for each source, and for each host of a named one. Those with the newest snapshots come last.
    pub sources: Vec<SourceStatus>,
    /// Sources without snapshots whose backups all failed within the last month: on several days, or within the last
    /// day. So a path that was misspelled once is soon left out.
    pub never_taken: Vec<NeverTaken>,
    /// The last check in the journal that ran to its end.
    pub last_check: Option<LastCheck>,
    /// Objects that are listed and cannot be read, and snapshots that have vanished.
    pub unreadable: Vec<String>,
}

/// The status of a source.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SourceStatus {
    /// The source, as its newest snapshot names it.
    pub source: SourceRef,
    /// The machine of its newest snapshot.
    pub host: String,
    /// Its state.
    pub status: State,
    /// How many of its snapshots are listed.
    pub snapshots: u64,
    /// How many have a time more than [`super::AHEAD_MAX_NS`] after now.
    pub ahead: u64,
    /// The last good snapshot: without flags, with readable marks, and with a time at most [`super::AHEAD_MAX_NS`]
    /// after now.
    pub last_good: Option<LastGood>,
    /// The snapshots after it that are flagged or have unreadable marks, oldest first.
    pub flagged_after: Vec<Flagged>,
    /// The last time that a snapshot of it was restored or read whole by a check, and was right.
    pub last_verified: Option<Verified>,
    /// The last backup that made no snapshot, if it came after the last good one.
    pub last_failure: Option<LastFailure>,
}

/// A source without a snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct NeverTaken {
    /// Its label in the entries of its backups.
    pub label: String,
    /// The machine.
    pub host: String,
    /// Its kind, if the entries have it.
    pub kind: Option<SourceKind>,
    /// [`State::NoGood`].
    pub status: State,
    /// How many of its backups failed within a month.
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
    /// Its age, seconds.
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
    /// Its age, seconds.
    pub age_s: i64,
    /// The codes of its flags. Empty if only its marks cannot be read.
    #[serde(rename = "flags")]
    pub codes: Vec<String>,
}

/// A proof that a snapshot can be restored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Verified {
    /// The snapshot.
    pub snapshot: SnapshotId,
    /// When, nanoseconds since 1970 UTC.
    #[serde(rename = "time", serialize_with = "json::utc")]
    pub time_ns: i64,
    /// How long ago that is, seconds.
    pub age_s: i64,
    /// How it was proved: by a drill, a restore, or a check.
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

/// A check in the journal.
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
    /// How much data it read: `none`, `part` or `all`.
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

/// An age in whole seconds. Times after now have the age 0.
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
