//! Restore as an operation: finds the snapshot, restores streams into files or a server, gives a report, and writes a
//! journal entry.

use std::path::{Path, PathBuf};
use std::time::Instant;

use serde::Serialize;

use super::{Failed, Outcome, RestoreOptions, Restored, restore_streams, restore_tree};
use crate::engine;
use crate::engine::place::Placement;
use crate::engine::stored::Stored;
use crate::error::{Error, Result};
use crate::fs::disk::RealDisk;
use crate::id::SnapshotId;
use crate::ops::journal::{self, Operation};
use crate::ops::journaled::{Report, Work};
use crate::ops::json;
use crate::ops::number::micros;
use crate::ops::select::Wanted;
use crate::ops::stored::stored;
use crate::ops::subtree;
use crate::ops::text::{absolute, count};
use crate::progress::Monitor;
use crate::store::format::snapshot::SnapshotRecord;
use crate::store::repo::{Reader, Refreshed};

/// Number of failures that are shown one by one. Beyond that the reasons usually repeat.
pub(super) const FAILED_TOLD_MAX: usize = 50;

/// Streams and their destinations.
pub type Targets = Vec<(Vec<u8>, PathBuf)>;

/// Chooses streams and destinations, given a function that says whether a name is a stream or directory.
pub type Chooser<'c> = dyn Fn(&dyn Fn(&[u8]) -> bool) -> Result<Targets> + 'c;

/// Where streams go.
pub enum Destination<'d> {
    /// All streams into this directory.
    Tree(&'d Path),
    /// Some streams onto files, or some directories into directories.
    Streams {
        /// The text for the journal.
        told: String,
        /// Chooses the streams and destinations.
        targets: &'d Chooser<'d>,
    },
}

/// What the user wants of a restore.
pub struct RestoreWish<'w> {
    /// The destination.
    pub to: Destination<'w>,
    /// The options.
    pub options: RestoreOptions,
    /// The timestamp in the names of what is kept.
    pub timestamp: String,
    /// How many restored streams the report lists, besides those that replaced something.
    pub listed_max: usize,
}

/// The report of a restore.
#[derive(Debug, Serialize)]
pub struct RestoreReport {
    /// The id of the snapshot, if it is known.
    pub snapshot: Option<String>,
    /// Bytes of all streams that were restored.
    pub bytes: u64,
    /// How long it took, microseconds.
    #[serde(rename = "duration_ms", serialize_with = "json::ms")]
    pub duration_us: u64,
    /// How long the passphrase took when the repository was opened, microseconds; not in `duration_us`.
    #[serde(rename = "key_derivation_ms", serialize_with = "json::ms")]
    pub key_derivation_us: u64,
    /// Whether the data could be verified. From a repository it always can.
    pub verified: bool,
    /// How it ended: done, incomplete, damaged or interrupted.
    pub status: journal::Outcome,
    /// The restored streams, or some of them: see [`RestoreWish::listed_max`].
    pub restored: Vec<Restored>,
    /// The streams that failed.
    pub failed: Vec<Failed>,
    /// How many streams were not tried because the restore stopped.
    pub untried: u64,
    /// How many streams were restored.
    #[serde(skip)]
    pub streams: u64,
}

impl Report for RestoreReport {
    fn outcome(&self) -> journal::Outcome {
        self.status
    }
}

impl RestoreReport {
    /// Whether everything was restored.
    pub fn is_whole(&self) -> bool {
        self.status == journal::Outcome::Done
    }

    /// Makes the report of an outcome. `listed` are the streams to list, and `hint` is advice for the user. `monitor`
    /// gets a warning for everything that was not restored.
    ///
    /// # Errors
    /// If nothing was changed, the reason.
    pub fn of(outcome: Outcome, listed: Vec<Restored>, hint: Option<String>, monitor: &dyn Monitor) -> Result<Self> {
        if !outcome.is_changed() && !outcome.is_whole() {
            let error = outcome.whole().err().unwrap_or(Error::Poisoned);
            return Err(error.advised(&hint.map_or_else(String::new, |hint| format!("; {hint}"))));
        }
        for failed in outcome.failed.iter().take(FAILED_TOLD_MAX) {
            monitor.warn(&format!("{} was not restored: {}", String::from_utf8_lossy(&failed.name), failed.error));
        }
        if outcome.failed.len() > FAILED_TOLD_MAX {
            monitor.warn(&format!("{} more were not restored; --json lists all", outcome.failed.len() - FAILED_TOLD_MAX));
        }
        if let Some(error) = &outcome.stopped {
            monitor.warn(&format!("the restore stopped: {error}; {} not tried", count(outcome.untried, "stream")));
        }
        hint.iter().for_each(|hint| monitor.warn(hint));
        let status = match () {
            () if matches!(outcome.stopped, Some(Error::Cancelled)) => journal::Outcome::Interrupted,
            () if outcome.is_damaged() => journal::Outcome::Damaged,
            () if !outcome.is_whole() => journal::Outcome::Incomplete,
            () => journal::Outcome::Done,
        };
        Ok(RestoreReport {
            snapshot: None,
            bytes: outcome.bytes,
            duration_us: 0,
            key_derivation_us: 0,
            verified: true,
            status,
            restored: listed,
            failed: outcome.failed,
            untried: outcome.untried,
            streams: outcome.restored,
        })
    }
}

/// The restored streams that a report lists: the first ones, and those that replaced something.
#[derive(Debug, Default)]
pub struct Listed {
    /// How many of the first ones.
    pub max: usize,
    /// The streams.
    pub restored: Vec<Restored>,
}

impl Listed {
    /// Adds a stream if it is to be listed.
    pub fn add(&mut self, restored: Restored) {
        if self.restored.len() < self.max || !restored.placed.kept.is_empty() {
            self.restored.push(restored);
        }
    }
}

/// Restores streams of a snapshot, as many as possible, and writes a journal entry.
///
/// # Errors
/// The errors of [`Wanted::find`], [`restore_tree`] and [`restore_streams`]; if nothing was changed, the reason.
pub fn perform(work: &Work<'_>, wanted: &Wanted, wish: &RestoreWish<'_>) -> Result<RestoreReport> {
    work.journaled(Operation::Restore, |story| {
        story.detail.clone_from(&wanted.text);
        let started = Instant::now();
        let refreshed = work.look()?;
        let (id, record) = wanted.find(&refreshed, work.monitor)?;
        story.about(*id, record);
        // From here on the entry says what was restored, and no longer what the user asked for.
        story.detail = match &wish.to {
            Destination::Tree(dir) => format!("into {}", absolute(dir).display()),
            Destination::Streams { told, .. } => told.clone(),
        };
        refuse_idle(id, record, &wish.options)?;
        work.warn_of_flags(id, record);
        let mut listed = Listed { max: wish.listed_max, restored: Vec::new() };
        let outcome = place(work, record, wish, &mut listed).map_err(|error| say_which(error, id, record))?;
        work.repo.warn_of_healed(work.monitor);
        // Only damage makes another snapshot the better choice.
        let good = if outcome.is_damaged() { last_good(&refreshed, id, record) } else { None };
        let hint = good.map(|good| format!("the last good snapshot of this source is {}", good.short()));
        let report = RestoreReport::of(outcome, listed.restored, hint, work.monitor)?;
        Ok(RestoreReport {
            snapshot: Some(id.to_string()),
            duration_us: micros(started.elapsed()),
            key_derivation_us: micros(work.repo.key_derivation()),
            ..report
        })
    })
}

/// Restores to the destination that the user wants.
fn place(work: &Work<'_>, record: &SnapshotRecord, wish: &RestoreWish<'_>, listed: &mut Listed) -> Result<Outcome> {
    let placement = Placement { disk: &RealDisk, timestamp: wish.timestamp.clone(), monitor: work.monitor };
    let mut tell = |restored: Restored| listed.add(restored);
    match &wish.to {
        Destination::Tree(dir) => restore_tree(work.repo, record, dir, &wish.options, &placement, &mut tell),
        Destination::Streams { targets, .. } => {
            let listing = Reader::new(work.repo).listing(&record.listing, work.monitor)?;
            let streams: std::collections::HashSet<&[u8]> = listing.iter().map(|entry| entry.name.as_slice()).collect();
            let targets = targets(&|name| streams.contains(name) || subtree::is_directory(&listing, name))?;
            restore_streams(work.repo, record, &targets, &wish.options, &placement, &mut tell)
        }
    }
}

/// The newest good snapshot of the same source, other than this one.
fn last_good(refreshed: &Refreshed, id: &SnapshotId, record: &SnapshotRecord) -> Option<SnapshotId> {
    let of_source =
        |(other, found): &&(SnapshotId, SnapshotRecord)| other != id && found.source.id == record.source.id && found.flags.is_empty();
    refreshed.snapshots.iter().rev().find(of_source).map(|(id, _)| *id)
}

/// An option that can do nothing for a snapshot of this kind is refused.
pub(super) fn refuse_idle(id: &SnapshotId, record: &SnapshotRecord, options: &RestoreOptions) -> Result<()> {
    let given = [
        ("--live", "SQLite databases", options.live),
        ("--accept-damaged", "SQLite databases", options.database.accept_damaged),
        ("--no-xattrs", "files", options.no_xattrs),
    ];
    match given.into_iter().find(|(_, _, is_given)| *is_given && !engine::of(&record.source.kind).has_files()) {
        Some((option, what, _)) => Err(Error::InvalidArgument(is_for(option, what, id, record))),
        None => Ok(()),
    }
}

/// For a message: what an option is for, and that the snapshot is of another kind.
pub fn is_for(option: &str, what: &str, id: &SnapshotId, record: &SnapshotRecord) -> String {
    format!("{option} is for {what}, and snapshot {} is of another kind: {}", id.short(), record.source.kind.name())
}

/// Says which snapshot does not have a stream: the user may have meant another one.
pub fn say_which(error: Error, id: &SnapshotId, record: &SnapshotRecord) -> Error {
    match error {
        Error::NoSuch { .. } => error.advised(&format!("; this is snapshot {} of source `{}`", id.short(), record.source.label)),
        other => other,
    }
}

/// The report of a restore into a server. The engine defines `T`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct IntoServer<T> {
    /// The snapshot; `None` if the dump came from a file.
    pub snapshot: Option<SnapshotId>,
    /// What was restored.
    #[serde(flatten)]
    pub restored: T,
    /// How long it took, microseconds.
    #[serde(rename = "duration_ms", serialize_with = "json::ms")]
    pub duration_us: u64,
    /// Whether nothing is missing.
    #[serde(skip)]
    pub is_whole: bool,
}

impl<T> IntoServer<T> {
    /// Runs `load`, which restores and says whether nothing is missing.
    ///
    /// # Errors
    /// The errors of `load`.
    pub fn by(snapshot: Option<SnapshotId>, load: impl FnOnce() -> Result<(T, bool)>) -> Result<Self> {
        let started = Instant::now();
        let (restored, is_whole) = load()?;
        Ok(IntoServer { snapshot, restored, duration_us: micros(started.elapsed()), is_whole })
    }
}

impl<T> Report for IntoServer<T> {
    fn outcome(&self) -> journal::Outcome {
        if self.is_whole { journal::Outcome::Done } else { journal::Outcome::Incomplete }
    }
}

/// Restores a snapshot into a server, in the way of its engine, and writes a journal entry. `server` is the server's
/// name there.
///
/// # Errors
/// The errors of [`Wanted::find`] and of `load`.
pub fn perform_into<T>(
    work: &Work<'_>,
    wanted: &Wanted,
    server: &str,
    load: impl FnOnce(Box<dyn Stored>) -> Result<(T, bool)>,
) -> Result<IntoServer<T>> {
    work.journaled(Operation::Restore, |story| {
        story.detail = format!("{} to {server}", wanted.text);
        let refreshed = work.look()?;
        let (id, record) = wanted.find(&refreshed, work.monitor)?;
        story.about(*id, record);
        work.warn_of_flags(id, record);
        let stored = stored(work.repo, record, work.monitor)?;
        IntoServer::by(Some(*id), || load(stored))
    })
}
