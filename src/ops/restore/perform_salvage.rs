//! Runs a salvage as an operation: finds the snapshot, salvages it, gives a report, and writes a journal entry.
//!
//! Guarantee: a salvage with lost bytes, a damaged listing or failed streams is never reported as done. If nothing was
//! written because of failures, that is an error.
//! Relies on `salvage` for the verification of bytes and for the names of incomplete files.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::Instant;

use serde::Serialize;
use serde::ser::Serializer;

use super::perform::{FAILED_TOLD_MAX, refuse_idle, say_which};
use super::salvage::{Salvage, Salvaged, salvage};
use super::{Failed, Outcome, RestoreOptions};
use crate::engine::place::Placement;
use crate::error::{Error, Result};
use crate::fs::disk::RealDisk;
use crate::id::SnapshotId;
use crate::ops::journal::{self, Operation};
use crate::ops::journaled::{Report, Work};
use crate::ops::json;
use crate::ops::number::micros;
use crate::ops::select::Wanted;
use crate::ops::text::{absolute, compact, count};

/// The report of a salvage.
#[derive(Debug, Serialize)]
pub struct SalvageReport {
    /// The snapshot.
    pub snapshot: SnapshotId,
    /// The directory.
    #[serde(flatten, serialize_with = "json::path")]
    pub path: PathBuf,
    /// How it ended: done, incomplete, damaged or interrupted.
    pub status: journal::Outcome,
    /// Bytes of all files that were written, including lost ranges.
    pub bytes: u64,
    /// How many of them are lost.
    pub bytes_lost: u64,
    /// The streams that have a file now.
    pub streams: Vec<Salvaged>,
    /// The streams that have none.
    pub failed: Vec<Failed>,
    /// How many streams were not tried because the salvage stopped.
    pub untried: u64,
    /// Links that were left out.
    pub links_left_out: u64,
    /// The damage to the snapshot's listing, if any: streams may be missing here.
    pub listing: Option<String>,
    /// How long it took, microseconds.
    #[serde(rename = "duration_ms", serialize_with = "json::ms")]
    pub duration_us: u64,
    /// How long the passphrase took when the repository was opened, microseconds; not in `duration_us`.
    #[serde(rename = "key_derivation_ms", serialize_with = "json::ms")]
    pub key_derivation_us: u64,
}

impl Report for SalvageReport {
    fn outcome(&self) -> journal::Outcome {
        self.status
    }
}

/// Writes the ranges of a stream in JSON.
pub(super) fn ranges<S: Serializer>(ranges: &[Range<u64>], serializer: S) -> Result<S::Ok, S::Error> {
    #[derive(Serialize)]
    struct Lost {
        offset: u64,
        len: u64,
    }
    serializer.collect_seq(ranges.iter().map(|range| Lost { offset: range.start, len: range.end - range.start }))
}

/// Salvages all streams of a snapshot, or those with these names and below them, into a new directory, and writes a
/// journal entry.
///
/// # Errors
/// The errors of [`Wanted::find`] and [`salvage()`]; if nothing was written, the reason.
pub fn perform_salvage(work: &Work<'_>, wanted: &Wanted, dir: &Path, names: &[Vec<u8>], options: &RestoreOptions) -> Result<SalvageReport> {
    work.journaled(Operation::Restore, |story| {
        story.detail.clone_from(&wanted.text);
        let started = Instant::now();
        let refreshed = work.look()?;
        let (id, record) = wanted.find(&refreshed, work.monitor)?;
        story.about(*id, record);
        refuse_idle(id, record, options)?;
        story.detail = format!("salvaged into {}", absolute(dir).display());
        work.warn_of_flags(id, record);
        let placement = Placement { disk: &RealDisk, timestamp: compact(work.worker.now_ns()), monitor: work.monitor };
        let outcome = salvage(work.repo, record, dir, names, options, &placement).map_err(|error| say_which(error, id, record))?;
        work.repo.warn_of_healed(work.monitor);
        let took = [started.elapsed(), work.repo.key_derivation()].map(micros);
        end(work, (*id, dir), outcome, took)
    })
}

/// Warns of everything that is missing, and makes the report. If nothing was written, that is an error.
fn end(
    work: &Work<'_>,
    (snapshot, dir): (SnapshotId, &Path),
    outcome: Salvage,
    [duration_us, key_derivation_us]: [u64; 2],
) -> Result<SalvageReport> {
    if !outcome.is_changed() && (outcome.stopped.is_some() || !outcome.failed.is_empty()) {
        let Salvage { failed, untried, stopped, .. } = outcome;
        let error = Outcome { failed, untried, stopped, ..Outcome::default() }.whole().err();
        return Err(error.unwrap_or_else(|| Error::bug("a salvage wrote nothing and names no reason")));
    }
    let places = count(outcome.listing.places, "place");
    let missing = |why: &String| {
        format!("the snapshot's listing is damaged in {places}: streams may be missing, and their names are lost; the first damage: {why}")
    };
    let listing = outcome.listing.first.as_ref().map(missing);
    listing.iter().for_each(|missing| work.monitor.warn(missing));
    for failed in outcome.failed.iter().take(FAILED_TOLD_MAX) {
        work.monitor.warn(&format!("{} was not salvaged: {}", String::from_utf8_lossy(&failed.name), failed.error));
    }
    if outcome.failed.len() > FAILED_TOLD_MAX {
        work.monitor.warn(&format!("{} more were not salvaged; --json lists all", outcome.failed.len() - FAILED_TOLD_MAX));
    }
    if let Some(error) = &outcome.stopped {
        work.monitor.warn(&format!("the salvage stopped: {error}; {} not tried", count(outcome.untried, "stream")));
    }
    let status = match &outcome.stopped {
        Some(Error::Cancelled) => journal::Outcome::Interrupted,
        _ if outcome.has_losses() => journal::Outcome::Damaged,
        None if outcome.failed.is_empty() => journal::Outcome::Done,
        _ => journal::Outcome::Incomplete,
    };
    let sum = |of: fn(&Salvaged) -> u64| outcome.streams.iter().map(of).fold(0, u64::saturating_add);
    Ok(SalvageReport {
        snapshot,
        path: dir.to_path_buf(),
        status,
        bytes: sum(|stream| stream.bytes),
        bytes_lost: sum(|stream| stream.bytes_lost),
        streams: outcome.streams,
        failed: outcome.failed,
        untried: outcome.untried,
        links_left_out: outcome.links,
        listing,
        duration_us,
        key_derivation_us,
    })
}
