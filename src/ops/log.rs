//! Lists the entries of the journal for users, and writes notes into it.
//!
//! Guarantee: an entry that cannot be read does not hide the others. It is in the report, and the user is warned. A
//! note that cannot be written is an error, because the entry is all that its command does. The order relies on the
//! clocks of the machines that wrote the entries.

use std::time::Duration;

use serde::Serialize;

use super::journal::{Event, Operation, Outcome, Query, read, record};
use super::journaled::{Report, Work};
use super::json;
use super::select::Wanted;
use crate::error::{Error, Result};
use crate::id::{LogId, SnapshotId, SourceId};
use crate::progress::Monitor;
use crate::store::format::log::{LOG_DETAIL_LEN_MAX, LogRecord};
use crate::store::repo::{LogName, Repository};

/// Entries of the journal.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Log {
    /// The readable entries, oldest first by the clocks of their writers.
    pub entries: Vec<Entry>,
    /// The errors of entries that were looked at and cannot be read.
    pub unreadable: Vec<String>,
}

/// The entry of an operation.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Entry {
    /// Its id.
    pub id: LogId,
    /// When it ended, nanoseconds since 1970 UTC.
    #[serde(rename = "time", serialize_with = "json::utc")]
    pub time_ns: i64,
    /// How long the operation took, microseconds.
    #[serde(rename = "duration_ms", serialize_with = "json::ms")]
    pub duration_us: u64,
    /// The word of an [`Operation`]; a later version may have others.
    pub operation: String,
    /// The word of an [`Outcome`]; a later version may have others.
    pub outcome: String,
    /// The exit code of the program.
    pub exit_code: u8,
    /// The machine.
    pub host: String,
    /// The user.
    pub user: String,
    /// Name and version of the program.
    pub tool: String,
    /// The source that it was about, if there was one.
    pub source: Option<SourceId>,
    /// The snapshots that it made, read or dropped, or the first of them.
    pub snapshots: Vec<SnapshotId>,
    /// How many there were.
    pub snapshots_total: u64,
    /// For people.
    pub detail: String,
    /// Further facts, by name.
    #[serde(serialize_with = "json::facts")]
    pub facts: Vec<(String, String)>,
}

impl Entry {
    fn of(name: &LogName, record: LogRecord) -> Self {
        Entry {
            id: name.id,
            time_ns: record.time_ns,
            duration_us: record.duration_us,
            operation: record.operation,
            outcome: record.outcome,
            exit_code: record.exit_code,
            host: record.host,
            user: record.user,
            tool: record.tool,
            source: record.source,
            snapshots: record.snapshots,
            snapshots_total: record.snapshots_total,
            detail: record.detail,
            facts: record.facts,
        }
    }
}

impl Report for Log {
    fn outcome(&self) -> Outcome {
        if self.unreadable.is_empty() { Outcome::Done } else { Outcome::Damaged }
    }
}

/// Lists entries. `monitor` gets a warning for each that cannot be read.
///
/// # Errors
/// The errors of [`read`].
pub fn list(repo: &Repository, query: &Query, monitor: &dyn Monitor) -> Result<Log> {
    let journal = read(repo, query, monitor)?;
    let unreadable: Vec<String> = journal.unreadable.iter().map(ToString::to_string).collect();
    unreadable.iter().for_each(|damage| monitor.warn(damage));
    Ok(Log { entries: journal.entries.into_iter().map(|(name, record)| Entry::of(&name, record)).collect(), unreadable })
}

/// Writes a note into the journal. The entry is all that it does, so a failure to write it is an error.
///
/// # Errors
/// [`Error::InvalidArgument`] for a text that is too long; the errors of [`Wanted::find`] and [`record`].
pub fn note(work: &Work<'_>, text: &str, about: Option<&Wanted>) -> Result<Log> {
    if text.len() > LOG_DETAIL_LEN_MAX {
        return Err(Error::InvalidArgument(format!("the note has {} bytes, and at most {LOG_DETAIL_LEN_MAX} are possible", text.len())));
    }
    let mut event = Event {
        operation: Operation::Note,
        outcome: Outcome::Done,
        exit_code: Outcome::Done.exit_code(),
        duration: Duration::ZERO,
        source: None,
        snapshots: Vec::new(),
        detail: text.to_owned(),
        facts: Vec::new(),
    };
    if let Some(wanted) = about {
        let refreshed = work.look()?;
        let (id, record) = wanted.find(&refreshed, work.monitor)?;
        event.snapshots.push(*id);
        event.source = Some(record.source.id);
    }
    let name = record(work.repo, &event, &work.worker.author())?;
    let gone = || Error::NotDone { detail: "the note has just been removed".to_owned() };
    let written = work.repo.read_log(&name)?.ok_or_else(gone)?;
    Ok(Log { entries: vec![Entry::of(&name, written)], unreadable: Vec::new() })
}
