//! The journal: what was done to a repository, by whom, and how it ended. An operation tells it when it has ended, well or not; it decides nothing.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use serde::{Serialize, Serializer};

use super::mark::Author;
use crate::error::{Error, Result};
use crate::id::{SnapshotId, SourceId};
use crate::progress::Monitor;
use crate::store::format::log::{LOG_DETAIL_LEN_MAX, LOG_ENTRIES_KEPT, LOG_SNAPSHOTS_MAX, LogRecord};
use crate::store::repo::{LogName, Repository, each_in_threads};

/// Entries that are read at once by all threads: what is read too many when few are wanted.
const BATCH: usize = 256;
/// The longest of the other texts of an entry, in bytes, of which there are at most 4 and two in each fact; of a longer one its start is kept.
const WORD_LEN_MAX: usize = 400;
/// The most facts of an entry.
const FACTS_MAX: usize = 16;

/// The fact that names the source of a backup as its snapshots do, also where the source could not be found.
pub const LABEL_FACT: &str = "label";
/// The fact that names the kind of the source of a backup: [`crate::recorded::SourceKind::name`].
pub const KIND_FACT: &str = "kind";
/// The fact that names the machine that a backup was to record, if that was not the one it ran on.
pub const HOST_FACT: &str = "host";
/// The fact that says how much a check read: `none`, `part` or `all`.
pub const READ_DATA_FACT: &str = "read_data";

/// What was done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Operation {
    /// A capture.
    Backup,
    /// Streams were given back as files or into a server.
    Restore,
    /// A snapshot was written out as flat files.
    Export,
    /// Snapshots were dropped from the list.
    Forget,
    /// Space was freed.
    Prune,
    /// Damage was mended.
    Repair,
    /// The repository was looked at for damage.
    Check,
    /// Something was stated about a snapshot.
    Mark,
    /// A restore was rehearsed and what came out was verified.
    Drill,
    /// Somebody wrote something down.
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
    /// All of it was done.
    Done,
    /// It was done, but something is missing, or what came of it is flagged.
    Incomplete,
    /// Stored data is damaged, or what was restored is not what it should be.
    Damaged,
    /// It was not done.
    Failed,
    /// Somebody stopped it.
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

    /// What `icecore` exits with.
    pub fn exit_code(self) -> u8 {
        match self {
            Outcome::Done => 0,
            Outcome::Failed => 1,
            Outcome::Incomplete => 3,
            Outcome::Damaged => 4,
            Outcome::Interrupted => 130,
        }
    }

    /// How an operation ended that failed with this.
    pub(super) fn of(error: &Error) -> Self {
        let others = [Outcome::Incomplete, Outcome::Damaged, Outcome::Interrupted];
        others.into_iter().find(|outcome| outcome.exit_code() == error.exit_code()).unwrap_or(Outcome::Failed)
    }
}

/// What an operation tells the journal when it has ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// What was done.
    pub operation: Operation,
    /// How it ended.
    pub outcome: Outcome,
    /// What the program exits with.
    pub exit_code: u8,
    /// How long it took.
    pub duration: Duration,
    /// The source that it was about, if it was one.
    pub source: Option<SourceId>,
    /// The snapshots that it made, read or dropped. Of more than [`LOG_SNAPSHOTS_MAX`] the first are named.
    pub snapshots: Vec<SnapshotId>,
    /// For people; no secrets. Of more than [`LOG_DETAIL_LEN_MAX`] bytes the first are kept.
    pub detail: String,
    /// More, by name.
    pub facts: Vec<(String, String)>,
}

/// Writes an entry, durably, at the time of `author`: that of the clock, right or wrong, so that a clock that jumped shows; times before 1970 count
/// as 1970.
///
/// # Errors
/// [`Error::Backend`]; then there is no entry, or one that may not survive a power cut.
pub fn record(repo: &Repository, event: &Event, author: &Author) -> Result<LogName> {
    let facts = event.facts.iter().take(FACTS_MAX).map(|(name, value)| (word(name), word(value)));
    repo.write_log(&LogRecord {
        time_ns: author.now_ns.max(0),
        duration_us: event.duration.as_micros() as u64,
        host: word(&author.host),
        user: word(&author.user),
        tool: concat!("icecore ", env!("CARGO_PKG_VERSION")).to_owned(),
        operation: event.operation.word().to_owned(),
        outcome: event.outcome.word().to_owned(),
        exit_code: event.exit_code,
        source: event.source,
        snapshots: event.snapshots.iter().take(LOG_SNAPSHOTS_MAX).copied().collect(),
        snapshots_total: event.snapshots.len() as u64,
        detail: start_of(&event.detail, LOG_DETAIL_LEN_MAX),
        facts: facts.collect(),
    })
}

/// A name or a value as an entry keeps it.
pub(super) fn word(text: &str) -> String {
    start_of(text, WORD_LEN_MAX)
}

/// The start of a text, whole characters.
fn start_of(text: &str, len_max: usize) -> String {
    let end = (0..=len_max.min(text.len())).rev().find(|end| text.is_char_boundary(*end));
    text.get(..end.unwrap_or(0)).unwrap_or_default().to_owned()
}

/// Which entries are wanted.
#[derive(Debug, Clone, Default)]
pub struct Query {
    /// Only those written at this time or later, nanoseconds since 1970 UTC by the clocks of their writers.
    pub since_ns: Option<i64>,
    /// Only those about snapshots whose id, in hex digits, starts so.
    pub snapshot: Option<String>,
    /// Only the newest so many.
    pub limit: Option<usize>,
}

/// Entries of the journal.
#[derive(Debug, Default)]
pub struct Journal {
    /// Those that can be read, oldest first by the clocks of their writers.
    pub entries: Vec<(LogName, LogRecord)>,
    /// What cannot be read of those that were looked at.
    pub unreadable: Vec<Error>,
}

/// Reads entries, from the newest back, no more than are needed.
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

/// Gives the entries, newest first, until `take` wants no more. What cannot be read of those that were looked at is given back.
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
    let start = names.partition_point(|name| since_ns.is_some_and(|since| name.time_ns < since));
    let mut unreadable = Vec::new();
    for batch in names.get(start..).unwrap_or_default().rchunks(BATCH) {
        let read = Mutex::new(Vec::with_capacity(batch.len()));
        each_in_threads(repo.threads(), batch, monitor, |name| {
            let entry = match repo.read_log(name) {
                // Removed since it was listed.
                Ok(None) => return Ok(()),
                Ok(Some(entry)) => Ok(entry),
                Err(error @ (Error::Corrupt { .. } | Error::UnsupportedFormat { .. })) => Err(error),
                Err(error) => return Err(error),
            };
            read.lock().unwrap_or_else(PoisonError::into_inner).push((*name, entry));
            Ok(())
        })?;
        let mut read = read.into_inner().unwrap_or_else(PoisonError::into_inner);
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

/// Removes the oldest entries beyond the newest [`LOG_ENTRIES_KEPT`]. Gives how many went.
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
