//! Runs a repair as an operation: finds damage, repairs it, gives a report, and writes a journal entry.
//!
//! The local catalog is built anew first, because a wrong one would hide damage. It can also be built anew alone; then
//! nothing else in the repository changes, except for the journal entry.

use serde::Serialize;

use super::{RepairOptions, RepairPlan, RepairReport, carry_out, catalog, plan};
use crate::error::Result;
use crate::ops::journal::{Operation, Outcome};
use crate::ops::journaled::{Report, Work};
use crate::ops::number::wide;
use crate::ops::text::count;

/// What was damaged, and what was done about it.
#[derive(Debug, Serialize)]
pub struct Repaired {
    /// The plan.
    pub plan: RepairPlan,
    /// What was done.
    #[serde(flatten)]
    pub report: RepairReport,
}

impl Report for RepairPlan {
    fn outcome(&self) -> Outcome {
        if self.report.is_damaged() { Outcome::Damaged } else { Outcome::Done }
    }
}

impl Report for Repaired {
    fn outcome(&self) -> Outcome {
        if self.report.is_damaged() { Outcome::Damaged } else { Outcome::Done }
    }
}

impl RepairReport {
    /// What was done, with numbers; steps that did nothing are left out.
    pub fn deeds(&self) -> Vec<String> {
        let deeds = [
            (wide(self.healed.len()), "object", "healed by parity or a second copy, or put under the right name"),
            (wide(self.copies.len()), "replica", "of config or keys written again from the other one"),
            (self.from_copies, "chunk", "mended from another copy"),
            (self.from_files, "chunk", "mended from files"),
            (self.moved_chunks, "whole chunk", "of damaged packs written anew"),
        ];
        deeds.iter().filter(|(number, ..)| *number > 0).map(|(number, what, deed)| format!("{} {deed}", count(*number, what))).collect()
    }

    /// The text of the journal entry.
    fn summary(&self) -> String {
        let mut parts = self.deeds();
        parts.extend(self.set_aside.iter().map(|name| format!("set aside: {name}")));
        parts.extend(self.left.iter().cloned());
        let lost = format!("{} lost", count(wide(self.lost.len()), "stream"));
        parts.extend((!self.lost.is_empty()).then_some(lost));
        if parts.is_empty() { "nothing to mend".to_owned() } else { parts.join("; ") }
    }
}

/// Looks for damage, repairs it, and writes a journal entry. `work` says who repairs.
///
/// # Errors
/// The errors of [`plan`] and [`super::execute`].
pub fn perform(work: &Work<'_>, options: &RepairOptions) -> Result<Repaired> {
    let options = &RepairOptions { author: work.worker.author(), ..options.clone() };
    work.journaled(Operation::Repair, |story| {
        // A catalog that is wrong would hide damage, so build it anew first.
        catalog(work.repo, work.monitor)?;
        let mut plan = RepairPlan { dry_run: false, ..plan(work.repo, options, work.monitor)? };
        let report = carry_out(work.repo, std::mem::take(&mut plan.sick), options, work.monitor)?;
        story.detail = report.summary();
        story.snapshots.extend(report.reissued.iter().flat_map(|(old, new)| [*old, *new]));
        story.snapshots.extend(report.lost.iter().map(|lost| lost.snapshot));
        story.snapshots.extend(report.verified.iter());
        story.snapshots.dedup();
        Ok(Repaired { plan, report })
    })
}

/// The result of building the local catalog anew.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct CatalogReport {
    /// Packs in it now.
    pub packs: u64,
    /// Tables that were kept from the old catalog because the stored ones are damaged.
    pub salvaged_tables: u64,
    /// What could not be read.
    pub unreadable: Vec<String>,
}

impl Report for CatalogReport {
    fn outcome(&self) -> Outcome {
        if self.unreadable.is_empty() { Outcome::Done } else { Outcome::Damaged }
    }
}

/// Builds the local catalog anew, and writes a journal entry. Nothing else in the repository changes.
///
/// # Errors
/// The errors of [`catalog`].
pub fn perform_catalog(work: &Work<'_>) -> Result<CatalogReport> {
    work.journaled(Operation::Repair, |story| {
        story.detail = "the local catalog".to_owned();
        let rebuilt = catalog(work.repo, work.monitor)?;
        let unreadable: Vec<String> = rebuilt.damage.iter().map(ToString::to_string).collect();
        let report = CatalogReport { packs: rebuilt.packs, salvaged_tables: rebuilt.salvaged, unreadable };
        story.detail.push_str(&format!(": {}, {} unreadable", count(report.packs, "pack"), report.unreadable.len()));
        Ok(report)
    })
}
