//! The journal: what was done to a repository, by whom, and how it ended. Each operation writes one entry when it has
//! ended, well or not.
//!
//! The journal decides nothing: no operation depends on an entry, and a damaged or missing entry harms no
//! snapshots. Entries are sorted by the clocks of their writers.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use serde::{Serialize, Serializer};

use super::mark::Author;
use crate::error::{Error, Result};
use crate::id::{SnapshotId, SourceId};
use crate::ops::number::{micros, wide};
use crate::progress::Monitor;
use crate::store::format::log::{LOG_DETAIL_LEN_MAX, LOG_ENTRIES_KEPT, LOG_SNAPSHOTS_MAX, LogRecord};
use crate::store::repo::{LogName, Repository, each_in_threads};

/// Number of entries that are read at once by all threads. When few are wanted, at most this many are read in vain.
const BATCH: usize = 256;
/// The longest of the other texts of an entry, bytes; a longer one is cut. There are at most 4 of them, and two in
/// each fact.
const WORD_LEN_MAX: usize = 400;
/// The most facts of an entry.
const FACTS_MAX: usize = 16;

/// The fact that names the source of a backup as its snapshots do, even if the source could not be found.
pub const LABEL_FACT: &str = "label";
/// The fact that names the kind of the source of a backup: [`crate::recorded::SourceKind::name`].
pub const KIND_FACT: &str = "kind";
/// The fact that names the machine to record, if it is not the one that the backup ran on.
pub const HOST_FACT: &str = "host";
/// The fact that says how much a check read: `none`, `part` or `all`.
pub const READ_DATA_FACT: &str = "read_data";

/// What was done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Operation {
    /// A capture.
    Backup,
    /// Streams were restored as files or into a server.
    Restore,
    /// A snapshot was written out as flat files.
    Export,
    /// Snapshots were dropped from the list.
    Forget,
    /// Space was freed.
    Prune,
    /// Damage was healed or mended.
    Repair,
    /// The repository was looked at for damage.
    Check,
    /// A mark was put on a snapshot.
    Mark,
    /// A snapshot was restored for a test, and the result was verified.
    Drill,
    /// A user wrote a note.
    Note,
}

impl Serialize for Operation {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.word())
    }
}

impl Serialize for Outcome {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.word())
    }
}

impl Operation {
    /// All operations.
    pub const ALL: [Operation; 10] = [
        Operation::Backup,
        Operation::Restore,
        Operation::Export,
        Operation::Forget,
        Operation::Prune,
        Operation::Repair,
        Operation::Check,
        Operation::Mark,
        Operation::Drill,
        Operation::Note,
    ];

    /// The stable word in entries.
    pub fn word(self) -> &'static str {
        match self {
            Operation::Backup => "backup",
            Operation::Restore => "restore",
            Operation::Export => "export",
            Operation::Forget => "forget",
            Operation::Prune => "prune",
            Operation::Repair => "repair",
            Operation::Check => "check",
            Operation::Mark => "mark",
            Operation::Drill => "drill",
            Operation::Note => "note",
        }
    }
}

/// How it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// Everything was done.
    Done,
    /// It was done, but something is missing or flagged.
    Incomplete,
    /// Stored data is damaged, or a restored database is not what it should be.
    Damaged,
    /// It was not done.
    Failed,
    /// The user stopped it.
    Interrupted,
}

impl Outcome {
    /// The stable word in entries.
    pub fn word(self) -> &'static str {
        match self {
            Outcome::Done => "done",
            Outcome::Incomplete => "incomplete",
            Outcome::Damaged => "damaged",
            Outcome::Failed => "failed",
            Outcome::Interrupted => "interrupted",
        }
    }

    /// The exit code of `icecore`.
    pub fn exit_code(self) -> u8 {
        match self {
            Outcome::Done => 0,
            Outcome::Failed => 1,
            Outcome::Incomplete => 3,
            Outcome::Damaged => 4,
            Outcome::Interrupted => 130,
        }
    }

    /// The outcome of an operation that failed with this error.
    pub(super) fn of(error: &Error) -> Self {
        let others = [Outcome::Incomplete, Outcome::Damaged, Outcome::Interrupted];
        others.into_iter().find(|outcome| outcome.exit_code() == error.exit_code()).unwrap_or(Outcome::Failed)
    }
}

/// The content of an entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// What was done.
    pub operation: Operation,
    /// How it ended.
    pub outcome: Outcome,
    /// The exit code of the program.
    pub exit_code: u8,
    /// How long it took.
    pub duration: Duration,
    /// The source that it was about, if there was one.
    pub source: Option<SourceId>,
    /// The snapshots that it made, read or dropped. An entry has the first [`LOG_SNAPSHOTS_MAX`].
    pub snapshots: Vec<SnapshotId>,
    /// Text for people, without secrets. An entry has the first [`LOG_DETAIL_LEN_MAX`] bytes.
    pub detail: String,
    /// Further facts, by name.
    pub facts: Vec<(String, String)>,
}

/// Writes an entry, durably, with the time of `author`. That is the clock's time even if it is wrong, so that a clock
/// that jumped is visible. Times before 1970 count as 1970.
///
/// # Errors
/// [`Error::Backend`]; then there is no entry, or one that may not survive a power cut.
pub fn record(repo: &Repository, event: &Event, author: &Author) -> Result<LogName> {
    let facts = event.facts.iter().take(FACTS_MAX).map(|(name, value)| (word(name), word(value)));
    repo.write_log(&LogRecord {
        time_ns: author.now_ns.max(0),
        duration_us: micros(event.duration),
        host: word(&author.host),
        user: word(&author.user),
        tool: concat!("icecore ", env!("CARGO_PKG_VERSION")).to_owned(),
        operation: event.operation.word().to_owned(),
        outcome: event.outcome.word().to_owned(),
        exit_code: event.exit_code,
        source: event.source,
        snapshots: event.snapshots.iter().take(LOG_SNAPSHOTS_MAX).copied().collect(),
        snapshots_total: wide(event.snapshots.len()),
        detail: start_of(&event.detail, LOG_DETAIL_LEN_MAX),
        facts: facts.collect(),
    })
}

/// A name or value, cut to the length that an entry keeps.
pub(super) fn word(text: &str) -> String {
    start_of(text, WORD_LEN_MAX)
}

/// The start of a text, cut between characters.
fn start_of(text: &str, len_max: usize) -> String {
    let end = (0..=len_max.min(text.len())).rev().find(|end| text.is_char_boundary(*end));
    text.get(..end.unwrap_or(0)).unwrap_or_default().to_owned()
}

/// Which entries are wanted.
#[derive(Debug, Clone, Default)]
pub struct Query {
    /// Only entries written at this time or later, nanoseconds since 1970 UTC by the clocks of their writers.
    pub since_ns: Option<i64>,
    /// Only entries about snapshots whose id begins with these hex digits.
    pub snapshot: Option<String>,
    /// At most this many, the newest.
    pub limit: Option<usize>,
}

/// Entries of the journal.
#[derive(Debug, Default)]
pub struct Journal {
    /// The readable entries, oldest first by the clocks of their writers.
    pub entries: Vec<(LogName, LogRecord)>,
    /// The errors of entries that were looked at and cannot be read.
    pub unreadable: Vec<Error>,
}

/// Reads entries from the newest back, not many more than needed.
///
/// # Errors
/// [`Error::Backend`], [`Error::Cancelled`]; damage is in the result.
pub fn read(repo: &Repository, query: &Query, monitor: &dyn Monitor) -> Result<Journal> {
    let mut journal = Journal::default();
    let wanted = query.limit.unwrap_or(usize::MAX);
    let about = |entry: &LogRecord| match &query.snapshot {
        Some(start) => entry.snapshots.iter().any(|id| id.to_string().starts_with(start.as_str())),
        None => true,
    };
    if wanted > 0 {
        journal.unreadable = visit(repo, query.since_ns, monitor, &mut |name, entry| {
            if about(&entry) {
                journal.entries.push((name, entry));
            }
            journal.entries.len() < wanted
        })?;
    }
    journal.entries.reverse();
    Ok(journal)
}

/// Gives `take` the entries, newest first, until it returns `false`. Returns the errors of entries that were looked
/// at and cannot be read.
///
/// # Errors
/// [`Error::Backend`], [`Error::Cancelled`].
pub fn visit(
    repo: &Repository,
    since_ns: Option<i64>,
    monitor: &dyn Monitor,
    take: &mut dyn FnMut(LogName, LogRecord) -> bool,
) -> Result<Vec<Error>> {
    let names = repo.list_log()?;
    // Names are sorted by time, so the time alone says where to begin.
    let start = names.partition_point(|name| since_ns.is_some_and(|since| name.time_ns < since));
    let mut unreadable = Vec::new();
    for batch in names.get(start..).unwrap_or_default().rchunks(BATCH) {
        let read = Mutex::new(Vec::with_capacity(batch.len()));
        each_in_threads(repo.threads(), batch, monitor, |name| {
            let entry = match repo.read_log(name) {
                // Trimmed since it was listed.
                Ok(None) => return Ok(()),
                Ok(Some(entry)) => Ok(entry),
                Err(error @ (Error::Corrupt { .. } | Error::UnsupportedFormat { .. })) => Err(error),
                Err(error) => return Err(error),
            };
            read.lock().unwrap_or_else(PoisonError::into_inner).push((*name, entry));
            Ok(())
        })?;
        let mut read = read.into_inner().unwrap_or_else(PoisonError::into_inner);
        // The threads finish in any order.
        read.sort_by(|(name, _), (other, _)| other.cmp(name));
        for (name, entry) in read {
            match entry {
                Ok(entry) => {
                    if !take(name, entry) {
                        return Ok(unreadable);
                    }
                }
                Err(error) => unreadable.push(error),
            }
        }
    }
    Ok(unreadable)
}

/// Removes all but the newest [`LOG_ENTRIES_KEPT`] entries. Returns how many were removed.
///
/// # Errors
/// [`Error::Backend`].
pub fn trim(repo: &Repository) -> Result<u64> {
    repo.trim_log(LOG_ENTRIES_KEPT)
}

#[cfg(test)]
mod tests {
    use super::start_of;

    #[test]
    fn texts_are_cut_between_characters() {
        let cut = ["", "ab", "abcd", "ab\u{fc}"].map(|text| start_of(text, 3));
        assert_eq!(cut, ["", "ab", "abc", "ab"]);
    }
}
