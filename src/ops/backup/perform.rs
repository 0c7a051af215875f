//! Backup as an operation: makes the source, takes the snapshot, gives a report, and writes an entry into the
//! journal, also when it fails.
//!
//! [`perform_all`] captures all databases of a server one after the other. One that fails does not stop the next
//! ones.

use std::collections::HashSet;

use serde::Serialize;
use serde::ser::{SerializeMap, Serializer};

use super::{BackupOptions, BackupReport, backup, source_of};
use crate::engine::files::LeftOut;
use crate::engine::{Databases, Server, Source};
use crate::error::Result;
use crate::id::SnapshotId;
use crate::ops::journal::{HOST_FACT, KIND_FACT, LABEL_FACT, Operation, Outcome};
use crate::ops::journaled::{Report, Story, Work};
use crate::ops::json;
use crate::ops::number::{micros, wide};
use crate::ops::text::{bytes, count};
use crate::recorded::{Flag, SourceKind};

/// What the user wants to be recorded with a snapshot.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Recorded {
    /// The time to record instead of now, nanoseconds since 1970 UTC: for imports of history.
    pub time_ns: Option<i64>,
    /// The machine to record instead of this one.
    pub host: Option<String>,
    /// Words of the user's choice.
    pub tags: Vec<String>,
    /// The name of the source, instead of the identity derived from host and paths.
    pub source: Option<String>,
    /// Read all files, also those that look unchanged.
    pub read_all: bool,
}

/// The snapshot that a backup took.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Taken {
    /// Its id.
    pub snapshot: SnapshotId,
    /// The snapshot that it was compared with.
    pub parent: Option<SnapshotId>,
    /// The label of its source.
    pub source: String,
    /// Its time, nanoseconds since 1970 UTC.
    #[serde(rename = "time", serialize_with = "json::utc")]
    pub time_ns: i64,
    /// How long it took up to the commit, microseconds.
    #[serde(rename = "duration_ms", serialize_with = "json::ms")]
    pub duration_us: u64,
    /// How long the source was held open, microseconds.
    #[serde(rename = "capture_ms", serialize_with = "json::ms")]
    pub capture_us: u64,
    /// How long the passphrase took when the repository was opened, microseconds; not in `duration_us`.
    #[serde(rename = "key_derivation_ms", serialize_with = "json::ms")]
    pub key_derivation_us: u64,
    /// How many streams it has.
    pub streams: u64,
    /// How many of these were taken over without being read.
    pub unchanged_streams: u64,
    /// Bytes of all its streams.
    pub logical_bytes: u64,
    /// Bytes that were read and hashed.
    pub read_bytes: u64,
    /// Chunks that the repository did not have before.
    pub new_chunks: u64,
    /// Their plain bytes.
    pub new_bytes: u64,
    /// Bytes of the packs that were written.
    pub stored_bytes: u64,
    /// Why the snapshot, or a stream of it, does not count as good.
    #[serde(serialize_with = "json::flags")]
    pub flags: Vec<Flag>,
    /// What would be flags, but was the same in the last good snapshot, where a user accepted it.
    #[serde(serialize_with = "json::flags")]
    pub accepted: Vec<Flag>,
    /// Streams that could not be read, as messages. The snapshot has all others.
    pub skipped: Vec<String>,
    /// What was left out on purpose.
    #[serde(serialize_with = "left_out")]
    pub left_out: LeftOut,
    /// Chunks that were stored anew because their stored copies were damaged or gone.
    pub healed_chunks: u64,
}

fn left_out<S: Serializer>(left_out: &LeftOut, serializer: S) -> Result<S::Ok, S::Error> {
    let mut map = serializer.serialize_map(None)?;
    map.serialize_entry("excluded", &left_out.excluded)?;
    map.serialize_entry("kept_by_restores", &left_out.of_restores)?;
    map.serialize_entry("other_file_systems", &left_out.other_file_systems)?;
    map.serialize_entry("caches", &left_out.caches)?;
    map.serialize_entry("special_files", &left_out.special)?;
    map.end()
}

impl Taken {
    fn of(report: BackupReport, key_derivation_us: u64) -> Self {
        let record = report.record;
        Taken {
            snapshot: report.id,
            parent: record.parent,
            source: record.source.label,
            time_ns: record.time_ns,
            duration_us: record.duration_us,
            capture_us: report.capture_us,
            key_derivation_us,
            streams: record.entries,
            unchanged_streams: wide(report.unchanged_streams),
            logical_bytes: record.logical_bytes,
            read_bytes: record.stats.read_bytes,
            new_chunks: record.stats.new_chunks,
            new_bytes: record.stats.new_plain_bytes,
            stored_bytes: record.stats.pack_bytes,
            flags: record.flags,
            accepted: record.accepted,
            skipped: report.skipped,
            left_out: report.left_out,
            healed_chunks: report.healed_chunks,
        }
    }

    /// The flags and skipped streams as messages. A stream that is flagged is not repeated as skipped.
    pub fn wrong(&self) -> impl Iterator<Item = String> {
        let flagged = self.flags.iter().map(|flag| format!("flagged {}: {}", flag.code, flag.detail));
        let skipped = self.skipped.iter().filter(|line| self.flags.iter().all(|flag| flag.detail != **line));
        let mut seen = HashSet::new();
        let all = flagged.chain(skipped.map(|line| format!("skipped {}", line.replacen(": skipped: ", ": ", 1))));
        all.filter(move |line| seen.insert(line.clone()))
    }

    /// The text that follows the label in the journal.
    fn summary(&self) -> String {
        let (logical, stored) = (bytes(self.logical_bytes), bytes(self.stored_bytes));
        let mut text = format!(": {logical} in {}, stored {stored}", count(self.streams, "stream"));
        self.wrong().for_each(|wrong| text.push_str(&format!("; {wrong}")));
        text
    }
}

impl Report for Taken {
    fn outcome(&self) -> Outcome {
        if self.skipped.is_empty() && self.flags.is_empty() { Outcome::Done } else { Outcome::Incomplete }
    }
}

/// Makes a source, captures it, and writes a journal entry. `kind` and `given` name the source in the entry if `make`
/// fails.
///
/// # Errors
/// The errors of `make` and of [`backup`].
pub fn perform(
    work: &Work<'_>,
    (kind, given): (&SourceKind, &str),
    recorded: &Recorded,
    make: impl FnOnce() -> Result<Box<dyn Source>>,
) -> Result<Taken> {
    work.journaled(Operation::Backup, |story| {
        name_source(story, kind, recorded, given);
        take(work, &*make()?, recorded, story)
    })
}

/// Like [`perform`], with a source that exists already.
///
/// # Errors
/// The errors of [`backup`].
pub fn perform_on(work: &Work<'_>, source: &dyn Source, recorded: &Recorded) -> Result<Taken> {
    let identity = source.identity();
    work.journaled(Operation::Backup, |story| {
        name_source(story, &identity.kind, recorded, &identity.label);
        take(work, source, recorded, story)
    })
}

/// Names the source in the journal entry, before it is known whether it exists.
fn name_source(story: &mut Story, kind: &SourceKind, recorded: &Recorded, given: &str) {
    story.detail = recorded.source.as_deref().unwrap_or(given).to_owned();
    let host = recorded.host.as_deref().unwrap_or_default();
    let facts = [(LABEL_FACT, story.detail.as_str()), (KIND_FACT, kind.name()), (HOST_FACT, host)];
    let known = facts.into_iter().filter(|(_, value)| !value.is_empty());
    story.facts.extend(known.map(|(name, value)| (name.to_owned(), value.to_owned())));
}

fn take(work: &Work<'_>, source: &dyn Source, recorded: &Recorded, story: &mut Story) -> Result<Taken> {
    let now_ns = work.worker.now_ns();
    let options = BackupOptions {
        time_ns: recorded.time_ns.unwrap_or(now_ns),
        now_ns,
        host: recorded.host.clone().unwrap_or_else(|| work.worker.host.clone()),
        user: work.worker.user.clone(),
        tags: recorded.tags.clone(),
        source: recorded.source.clone(),
        read_all: recorded.read_all,
    };
    // Before the backup, so that the entry of a failed one names its source.
    story.source = Some(source_of(source, &options).id);
    let report = backup(work.repo, source, &options, work.monitor)?;
    work.repo.warn_of_healed(work.monitor);
    story.snapshots.push(report.id);
    let taken = Taken::of(report, micros(work.repo.key_derivation()));
    story.detail.push_str(&taken.summary());
    Ok(taken)
}

/// The snapshots of all databases of a server.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct AllTaken {
    /// The tag that all of them have.
    pub tag: String,
    /// The snapshots, one of each database.
    pub snapshots: Vec<Taken>,
    /// Databases whose capture failed.
    pub failed: Vec<FailedDatabase>,
    /// Databases that were not tried, because they cannot be captured or should not.
    pub passed_over: Vec<PassedOver>,
}

/// A database that was not captured.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FailedDatabase {
    /// Its name.
    pub database: String,
    /// Why.
    pub error: String,
}

/// A database that was not tried.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PassedOver {
    /// Its name.
    pub database: String,
    /// Why.
    pub reason: String,
}

impl Report for AllTaken {
    fn outcome(&self) -> Outcome {
        match (self.snapshots.is_empty(), self.failed.is_empty()) {
            (true, _) => Outcome::Failed,
            (false, true) if self.snapshots.iter().all(|taken| taken.outcome() == Outcome::Done) => Outcome::Done,
            (false, _) => Outcome::Incomplete,
        }
    }
}

/// The list of databases is not an operation of its own: it gets a journal entry only if it fails.
impl Report for Databases {
    fn outcome(&self) -> Outcome {
        Outcome::Done
    }
}

/// Captures all databases of a server, one after the other, each with its own journal entry and all with one tag. A
/// database that fails does not stop the others. The name of a source in `recorded` is ignored.
///
/// # Errors
/// The error of `server` if it cannot list its databases. An error of a single database only if it would stop the
/// others, too: any with an exit code other than 1.
pub fn perform_all(work: &Work<'_>, server: &dyn Server, recorded: &Recorded) -> Result<AllTaken> {
    let Databases { names, passed_over } = work.journaled(Operation::Backup, |story| {
        story.detail = format!("all databases, from {}", server.label());
        let databases = server.databases()?;
        // The list succeeded; each database gets its own entry.
        story.untold = true;
        Ok(databases)
    })?;
    let passed_over: Vec<PassedOver> = passed_over.into_iter().map(|(database, reason)| PassedOver { database, reason }).collect();
    for PassedOver { database, reason } in &passed_over {
        work.monitor.warn(&format!("database {database} is passed over: {reason}"));
    }
    let tag = format!("all-databases-{}", json::utc_text(work.worker.now_ns()));
    let tags = recorded.tags.iter().cloned().chain([tag.clone()]).collect();
    // One name for several databases would make them one source.
    let recorded = Recorded { tags, source: None, ..recorded.clone() };
    let mut all = AllTaken { tag, snapshots: Vec::new(), failed: Vec::new(), passed_over };
    for database in names {
        let make = || server.source(&database);
        match perform(work, (&server.kind(), &server.label_of(&database)), &recorded, make) {
            Ok(taken) => all.snapshots.push(taken),
            Err(error) if error.exit_code() == Outcome::Failed.exit_code() => {
                all.failed.push(FailedDatabase { database, error: format!("{error}{}", error.advice()) });
            }
            Err(error) => return Err(error),
        }
    }
    Ok(all)
}
