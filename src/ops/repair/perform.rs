//! Repairs as users have them done: told to the journal.

use serde::Serialize;

use super::{RepairOptions, RepairPlan, RepairReport, carry_out, catalog, plan};
use crate::error::Result;
use crate::ops::journal::{Operation, Outcome};
use crate::ops::journaled::{Report, Work};
use crate::ops::text::count;

/// What there was to be mended, and what was done.
#[derive(Debug, Serialize)]
pub struct Repaired {
    /// What there was to be done.
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
    /// How much of what was done, but for nothing.
    pub fn deeds(&self) -> Vec<String> {
        let deeds = [
            (self.healed.len() as u64, "object healed by its own parity or second copy, or put under its own name"),
            (self.copies.len() as u64, "second copy written again"),
            (self.from_copies, "chunk healed from another copy"),
            (self.from_files, "chunk healed from files"),
            (self.moved_chunks, "whole chunk of damaged packs written anew"),
        ];
        deeds.iter().filter(|(number, _)| *number > 0).map(|(number, what)| format!("{number} x {what}")).collect()
    }

    /// For the journal.
    fn summary(&self) -> String {
        let mut parts = self.deeds();
        parts.extend(self.set_aside.iter().map(|name| format!("set aside: {name}")));
        parts.extend(self.left.iter().cloned());
        let lost = format!("{} lost", count(self.lost.len() as u64, "stream"));
        parts.extend((!self.lost.is_empty()).then_some(lost));
        if parts.is_empty() { "nothing to mend".to_owned() } else { parts.join("; ") }
    }
}

/// Looks for damage, mends it, and tells the journal. Who repairs is `work`'s to say.
///
/// # Errors
/// As of [`plan`] and [`super::execute`].
pub fn perform(work: &Work<'_>, options: &RepairOptions) -> Result<Repaired> {
    let options = &RepairOptions { author: work.worker.author(), ..options.clone() };
    work.journaled(Operation::Repair, |story| {
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

/// What making the local catalog anew gave.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct CatalogReport {
    /// Packs in it now.
    pub packs: u64,
    /// Tables that were kept of the old one, as the stored ones are damaged.
    pub salvaged_tables: u64,
    /// What could not be read.
    pub unreadable: Vec<String>,
}

impl Report for CatalogReport {
    fn outcome(&self) -> Outcome {
        if self.unreadable.is_empty() { Outcome::Done } else { Outcome::Damaged }
    }
}

/// Makes the local catalog anew, and tells the journal; the repository is not changed otherwise.
///
/// # Errors
/// As of [`catalog`].
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
