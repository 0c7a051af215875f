//! Prune: free the space that no snapshot needs any more.
//!
//! "Mark, then look" (see [`crate::store::repo::session`] for the writer's half). What is to go is marked with a tombstone; then, after the grace time, pending
//! records, snapshots and tombstones are listed afresh and what is needed is computed again; only what is marked and still not needed is
//! deleted. A chunk in a marked pack counts as absent, for writers and for other prunes, so whatever is needed of a marked pack is copied into a new one
//! first. Nothing depends on a clock or a lock: the grace time only keeps backups that are running from having to copy too.
//!
//! Every step can be stopped: new packs to which nothing refers are garbage for the next prune, a tombstone stays until its pack is gone.

mod flatten;
mod needed;
mod plan;
mod roots;
mod run;

use std::collections::HashSet;
use std::time::Duration;

use serde::Serialize;

use self::flatten::Chains;
use self::needed::{Marked, Needed, Trust};
pub use self::plan::{PackUse, PruneOptions, PrunePlan};
use self::roots::{Dead, Roots};
use self::run::Run;
use super::journal::{Operation, Outcome, trim};
use super::journaled::{Report, Work};
use super::json;
use super::text::{bytes, count};
use crate::error::Result;
use crate::progress::Monitor;
use crate::store::backend::Unfinished;
use crate::store::repo::{Reader, Repository, StoredCopy};

/// What a prune did.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct PruneReport {
    /// Packs that were marked now.
    #[serde(rename = "marked_packs")]
    pub marked: u64,
    /// Packs that were deleted, and their bytes.
    #[serde(rename = "deleted_packs")]
    pub deleted: u64,
    /// See `deleted`.
    pub deleted_bytes: u64,
    /// New packs with what was needed of others, and their bytes.
    #[serde(rename = "written_packs")]
    pub written: u64,
    /// See `written`.
    pub written_bytes: u64,
    /// Records of dead writers that were removed: pending ones, and those that appeared in the place of snapshots later.
    #[serde(rename = "expired_pending")]
    pub expired: u64,
    /// Marked packs that wait for the grace time to pass.
    #[serde(rename = "waiting_packs")]
    pub waiting: u64,
    /// The oldest entries of the journal, which [`perform`] removes.
    pub log_entries_removed: u64,
    /// What killed processes had begun to write, which was removed.
    #[serde(flatten, serialize_with = "json::unfinished")]
    pub unfinished: Unfinished,
}

impl PruneReport {
    /// In a line.
    pub fn summary(&self) -> String {
        let [marked, written, deleted] = [self.marked, self.written, self.deleted].map(|number| count(number, "pack"));
        let (written_bytes, deleted_bytes) = (bytes(self.written_bytes), bytes(self.deleted_bytes));
        format!("{marked} marked; {written} written anew ({written_bytes}); {deleted} deleted ({deleted_bytes})")
    }
}

impl Report for PruneReport {
    fn outcome(&self) -> Outcome {
        Outcome::Done
    }
}

/// Prunes, drops the oldest entries of the journal, and tells it. Clock and machine are `work`'s to say.
///
/// # Errors
/// As of [`prune()`].
pub fn perform(work: &Work<'_>, options: &PruneOptions) -> Result<PruneReport> {
    let options = PruneOptions { now_ns: work.worker.now_ns(), host: work.worker.host.clone(), ..options.clone() };
    work.journaled(Operation::Prune, |story| {
        let report = prune(work.repo, &options, work.monitor)?;
        let report = PruneReport { log_entries_removed: trim(work.repo)?, ..report };
        story.detail = report.summary();
        Ok(report)
    })
}

/// What pruning would do now. Changes nothing.
///
/// # Errors
/// [`crate::Error::Corrupt`] if something that a snapshot needs cannot be read: then nothing may be deleted. [`crate::Error::Cancelled`].
pub fn plan(repo: &Repository, options: &PruneOptions, monitor: &dyn Monitor) -> Result<PrunePlan> {
    let mut roots = Roots::list(repo, options, Dead::WouldExpire)?;
    roots.warn(monitor);
    let marked = roots.marked(options);
    let reader = Reader::new(repo);
    let needed = roots.needed(&reader, &marked, &mut Trust::default(), monitor)?;
    let chains = Chains::to_shorten(repo, &reader, &needed, options)?;
    Ok(PrunePlan { shorten: chains.count(), shorten_bytes: chains.bytes(), ..plan_of(repo, &marked, &needed, options)? })
}

/// Prunes: plans, writes anew, marks, and deletes what has been marked for the grace time.
///
/// # Errors
/// As [`plan()`]; what was marked or written until then is garbage or stays marked, and nothing that is needed is lost. [`crate::Error::Stale`] if others
/// keep changing what is needed.
pub fn prune(repo: &Repository, options: &PruneOptions, monitor: &dyn Monitor) -> Result<PruneReport> {
    let mut run = Run { repo, options, monitor, trust: Trust::default(), report: PruneReport::default(), seen: HashSet::new() };
    run.attempt(Run::mark)?;
    run.attempt(Run::sweep)?;
    let grace = Duration::from_nanos(u64::try_from(options.grace_ns).unwrap_or(0));
    match repo.backend().remove_unfinished(grace) {
        Ok(removed) => run.report.unfinished = removed,
        // Everything else is done, and this is garbage.
        Err(error) => monitor.warn(&format!("what killed processes have left could not be removed: {error}")),
    }
    Ok(run.report)
}

fn plan_of(repo: &Repository, to_go: &Marked, needed: &Needed, options: &PruneOptions) -> Result<PrunePlan> {
    let mut packs = Vec::new();
    let (mut marked, mut marked_bytes) = (0, 0);
    for known in repo.on_catalog(|local| local.packs())? {
        let (id, size) = (known.pack.id, known.pack.size);
        if to_go.going.contains(&id) {
            marked += 1;
            marked_bytes += size;
            continue;
        }
        let used = match needed.rows(&id) {
            None => 0,
            Some(rows) => {
                let copies = repo.copies_in(&id)?;
                let bytes_of = |copy: &StoredCopy| {
                    let frame = copy.frame();
                    u64::from(frame.encoded_len) * u64::from(copy.entry.plain_len) / u64::from(frame.plain_len.max(1))
                };
                let all: u64 = copies.iter().map(bytes_of).sum();
                let of_use: u64 = copies.iter().filter(|copy| rows.contains(copy.row())).map(bytes_of).sum();
                // Tables and padding go with what they are for.
                (u128::from(of_use) * u128::from(size) / u128::from(all.max(1))).max(1) as u64
            }
        };
        packs.push(PackUse { id, size, used: used.min(size) });
    }
    Ok(PrunePlan { marked, marked_bytes, ..PrunePlan::new(&packs, options) })
}
