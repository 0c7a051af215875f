//! Backups as users have them done: told to the journal.

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
use crate::ops::text::{bytes, count};
use crate::recorded::{Flag, SourceKind};

/// What is recorded with a snapshot.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Recorded {
    /// The time in place of now, nanoseconds since 1970 UTC: for imports of history.
    pub time_ns: Option<i64>,
    /// The machine in place of this one.
    pub host: Option<String>,
    /// Words of the user's choice.
    pub tags: Vec<String>,
    /// Names the source in place of what it derives from host and paths.
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
    /// Of these taken over without reading.
    pub unchanged_streams: u64,
    /// Bytes of its streams.
    pub logical_bytes: u64,
    /// Bytes that were read and hashed.
    pub read_bytes: u64,
    /// Chunks that were not there before.
    pub new_chunks: u64,
    /// Their plain bytes.
    pub new_bytes: u64,
    /// Bytes of the packs that were written.
    pub stored_bytes: u64,
    /// Why it, or a stream of it, does not count as good.
    #[serde(serialize_with = "json::flags")]
    pub flags: Vec<Flag>,
    /// What would be a flag, but was so in the last good snapshot, where a user accepted it.
    #[serde(serialize_with = "json::flags")]
    pub accepted: Vec<Flag>,
    /// What could not be read; the snapshot has the rest.
    pub skipped: Vec<String>,
    /// What was left out because it was wanted so.
    #[serde(serialize_with = "left_out")]
    pub left_out: LeftOut,
    /// Chunks that were stored anew, as their stored copies were damaged or gone.
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
            unchanged_streams: report.unchanged_streams as u64,
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

    /// What is not as it should be, for people. What is flagged is not said again as skipped.
    pub fn wrong(&self) -> impl Iterator<Item = String> {
        let flagged = self.flags.iter().map(|flag| format!("flagged {}: {}", flag.code, flag.detail));
        let skipped = self.skipped.iter().filter(|line| self.flags.iter().all(|flag| flag.detail != **line));
        let mut seen = HashSet::new();
        let all = flagged.chain(skipped.map(|line| format!("skipped {}", line.replacen(": skipped: ", ": ", 1))));
        all.filter(move |line| seen.insert(line.clone()))
    }

    /// What follows the label in the journal.
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

/// Makes a source, captures it, and tells the journal; a source that cannot be had is told, too, as `kind` and `given` name it.
///
/// # Errors
/// What `make` gives; as of [`backup`].
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

/// The same with a source that is there already.
///
/// # Errors
/// As of [`backup`].
pub fn perform_on(work: &Work<'_>, source: &dyn Source, recorded: &Recorded) -> Result<Taken> {
    let identity = source.identity();
    work.journaled(Operation::Backup, |story| {
        name_source(story, &identity.kind, recorded, &identity.label);
        take(work, source, recorded, story)
    })
}

/// What the journal calls the source, before it is known whether there is one.
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
    story.source = Some(source_of(source, &options).id);
    let report = backup(work.repo, source, &options, work.monitor)?;
    work.repo.warn_of_healed(work.monitor);
    story.snapshots.push(report.id);
    let taken = Taken::of(report, work.repo.key_derivation().as_micros() as u64);
    story.detail.push_str(&taken.summary());
    Ok(taken)
}

/// The snapshots of all databases of a server.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct AllTaken {
    /// What all of them have.
    pub tag: String,
    /// One of each database.
    pub snapshots: Vec<Taken>,
    /// Databases without one.
    pub failed: Vec<FailedDatabase>,
    /// Databases that cannot be captured, or make no sense to capture.
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

/// The databases of a server. In the journal only if it does not say.
impl Report for Databases {
    fn outcome(&self) -> Outcome {
        Outcome::Done
    }
}

/// Captures one database of a server after the other, each with an entry in the journal and all with one tag; one that fails does not stop those after it. The
/// name of a source in `recorded` does not count.
///
/// # Errors
/// What `server` gives if it cannot be asked; what would stop the others, too: all but failures with exit code 1.
pub fn perform_all(work: &Work<'_>, server: &dyn Server, recorded: &Recorded) -> Result<AllTaken> {
    let Databases { names, passed_over } = work.journaled(Operation::Backup, |story| {
        story.detail = format!("all databases, from {}", server.label());
        let databases = server.databases()?;
        story.untold = true;
        Ok(databases)
    })?;
    let passed_over: Vec<PassedOver> = passed_over.into_iter().map(|(database, reason)| PassedOver { database, reason }).collect();
    for PassedOver { database, reason } in &passed_over {
        work.monitor.warn(&format!("database {database} is passed over: {reason}"));
    }
    let tag = format!("all-databases-{}", json::utc_text(work.worker.now_ns()));
    let tags = recorded.tags.iter().cloned().chain([tag.clone()]).collect();
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
