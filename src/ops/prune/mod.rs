//! Prune: frees the space that no snapshot needs any more.
//!
//! The protocol is "announce, then look" (see [`crate::store::repo::session`] for the writer's half). Packs that can go
//! get tombstones; "marked" in this folder means "has a tombstone". After the grace time pending records, snapshots
//! and tombstones are listed afresh, and what is needed is computed again. Only packs that are marked and still not
//! needed are deleted. A chunk in a marked pack counts as absent, for writers and for other prunes; so what is needed
//! of a marked pack is copied into a new pack first.
//!
//! Guarantees: nothing that a listed snapshot, or a pending record that counts, needs is deleted. No clock and no
//! lock decides this; the grace time only spares running backups from copying. Anything that cannot be read or
//! explained stops the deletion.
//!
//! Every step can be interrupted: new packs to which nothing refers are garbage for the next prune, and a tombstone
//! stays until its pack is gone.

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
    /// New packs with the needed chunks of others, and their bytes.
    #[serde(rename = "written_packs")]
    pub written: u64,
    /// See `written`.
    pub written_bytes: u64,
    /// Records of dead writers that were removed: pending records, and records that appeared among the snapshots
    /// after they had expired.
    #[serde(rename = "expired_pending")]
    pub expired: u64,
    /// Marked packs whose grace time has not passed.
    #[serde(rename = "waiting_packs")]
    pub waiting: u64,
    /// Old entries of the journal that [`perform`] removed.
    pub log_entries_removed: u64,
    /// Unfinished files of killed processes that were removed.
    #[serde(flatten, serialize_with = "json::unfinished")]
    pub unfinished: Unfinished,
}

impl PruneReport {
    /// The report in one line.
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

/// Prunes, removes the oldest entries of the journal, and writes an entry. The clock's time and the machine's name
/// come from `work`.
///
/// # Errors
/// The errors of [`prune()`].
pub fn perform(work: &Work<'_>, options: &PruneOptions) -> Result<PruneReport> {
    let options = PruneOptions { now_ns: work.worker.now_ns(), host: work.worker.host.clone(), ..options.clone() };
    work.journaled(Operation::Prune, |story| {
        let report = prune(work.repo, &options, work.monitor)?;
        let report = PruneReport { log_entries_removed: trim(work.repo)?, ..report };
        story.detail = report.summary();
        Ok(report)
    })
}

/// What a prune would do now. Changes nothing in the repository.
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

/// Prunes: plans, writes packs anew, marks, and deletes the packs whose grace time has passed.
///
/// # Errors
/// The errors of [`plan()`]; [`crate::Error::Stale`] if others keep changing what is needed. Nothing that is needed
/// is lost then: new packs are garbage for the next prune, and marked packs stay marked.
pub fn prune(repo: &Repository, options: &PruneOptions, monitor: &dyn Monitor) -> Result<PruneReport> {
    let mut run = Run { repo, options, monitor, trust: Trust::default(), report: PruneReport::default(), seen: HashSet::new() };
    // First mark, then look again and delete. With a grace time of zero one prune does both for the same packs.
    run.attempt(Run::mark)?;
    run.attempt(Run::sweep)?;
    let grace = Duration::from_nanos(u64::try_from(options.grace_ns).unwrap_or(0));
    match repo.backend().remove_unfinished(grace) {
        Ok(removed) => run.report.unfinished = removed,
        // The prune itself is done; unfinished files are only garbage, so this is a warning.
        Err(error) => monitor.warn(&format!("unfinished files of killed processes could not be removed: {error}")),
    }
    Ok(run.report)
}

/// Counts the needed bytes of each pack that is not marked, and plans by them.
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
                // Tables and padding have no owner among the chunks; they are shared out in proportion. A pack with a
                // needed chunk uses at least one byte: zero means that it can be deleted. The product of two sizes
                // may exceed 64 bits.
                let used = (u128::from(of_use) * u128::from(size) / u128::from(all.max(1))).max(1);
                u64::try_from(used).unwrap_or(u64::MAX)
            }
        };
        packs.push(PackUse { id, size, used: used.min(size) });
    }
    Ok(PrunePlan { marked, marked_bytes, ..PrunePlan::new(&packs, options) })
}
