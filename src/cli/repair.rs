//! `repair`.

use std::path::PathBuf;

use icecore::ops::check::{Subset, Touched};
use icecore::ops::journal::Operation;
use icecore::ops::repair::{BadPack, RepairOptions, RepairPlan, RepairReport, catalog, execute, plan};
use icecore::store::backend::ObjectKey;
use icecore::store::repo::Repository;
use serde::Serialize;

use super::check::{FindingView, draw, findings_table};
use super::context::Context;
use super::exit::{Exit, Failure};
use super::journaled::{Story, author, journaled};
use super::output::{bytes, count, printable};
use super::views::text_and_hex;

/// Mend what is damaged: heal what can be healed, set aside what cannot, mark the snapshots that lost something
#[derive(Debug, clap::Args)]
#[command(after_help = HELP)]
pub(crate) struct RepairArgs {
    /// Show what would be done
    #[arg(long)]
    dry_run: bool,
    /// Only make the local catalog anew; the repository is not changed
    #[arg(long, conflicts_with_all = ["dry_run", "structure_only", "read_data_subset", "from"])]
    catalog: bool,
    /// Take what is missing from this file or directory, whatever its name; may be given several times
    #[arg(long, value_name = "PATH")]
    from: Vec<PathBuf>,
    /// Read only a part of the packs: n/t, x% or a SIZE, as `check` does
    #[arg(long, value_name = "PART", conflicts_with = "structure_only")]
    read_data_subset: Option<String>,
    /// Read no data: only what is missing, too short or has a damaged table is found
    #[arg(long)]
    structure_only: bool,
}

/// What `icecore repair --help` ends with.
const HELP: &str = "\
Every stored byte is read first, as by `check --read-data`: what is not known to be damaged cannot be mended. Then, what is damaged is healed from
second copies, from parity, from other copies of the same chunks, and from the files given with --from, of which the content decides; what is whole in
damaged packs is written anew; damaged packs and records go to `quarantine` in the repository, and nothing is deleted that does not lie there. Snapshots that
have lost something are marked as damaged and keep the streams that are whole; all others are as before. Backups and prunes may run meanwhile.

--from reads databases as the files that they are: give a closed one or a copy, as what is only in a write-ahead log is not seen.

Exit codes: 0 all is whole (with --dry-run: there is nothing to mend); 4 something is lost, or had to be left (with --dry-run: there is damage).

Examples:
  icecore repair --dry-run
  icecore repair --from /var/lib/app/memory.db
  icecore repair --catalog";

#[derive(Serialize)]
struct PlanView {
    dry_run: bool,
    findings: Vec<FindingView>,
    touched: Vec<TouchedView>,
    packs: Vec<PackView>,
    healable: Vec<String>,
    records: Vec<String>,
    copies: Vec<String>,
    missing_chunks: u64,
}

#[derive(Serialize)]
struct PackView {
    pack: String,
    whole_chunks: u64,
    bad_chunks: u64,
}

/// A stream that cannot be given back whole.
#[derive(Serialize)]
struct TouchedView {
    snapshot: String,
    /// None: all of it.
    stream: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    stream_hex: Option<String>,
    #[serde(skip)]
    short_id: String,
}

#[derive(Serialize)]
struct Done {
    plan: PlanView,
    healed: Vec<String>,
    rewritten_copies: Vec<String>,
    relisted_snapshots: Vec<RelistedView>,
    chunks_from_copies: u64,
    chunks_from_files: u64,
    moved_chunks: u64,
    written_packs: u64,
    written_bytes: u64,
    quarantined: Vec<String>,
    left: Vec<String>,
    lost: Vec<TouchedView>,
    marked_damaged: Vec<String>,
    marked_verified: Vec<String>,
}

#[derive(Serialize)]
struct RelistedView {
    damaged: String,
    listed_as: String,
}

#[derive(Serialize)]
struct CatalogView {
    packs: u64,
    salvaged_tables: u64,
    unreadable: Vec<String>,
}

pub(crate) fn run(context: &Context<'_>, args: &RepairArgs) -> Result<Exit, Failure> {
    let subset = args.read_data_subset.as_deref().map_or(Ok(Subset::All), str::parse)?;
    let seed = if matches!(subset, Subset::Share(_) | Subset::Bytes(_)) { draw()? } else { 0 };
    // Found out before hours of reading.
    for path in &args.from {
        std::fs::metadata(path).map_err(|error| Failure::usage(format!("{}: {error}", path.display())))?;
    }
    let repo = context.open()?;
    let options = RepairOptions { structure_only: args.structure_only, subset, seed, from: args.from.clone(), author: author() };
    journaled(context, &repo, Operation::Repair, |story| match args.catalog {
        true => make_catalog(context, &repo, story),
        false => mend(context, &repo, args.dry_run, &options, story),
    })
}

fn make_catalog(context: &Context<'_>, repo: &Repository, story: &mut Story) -> Result<Exit, Failure> {
    story.detail = "the local catalog".to_owned();
    let progress = context.progress();
    let rebuilt = catalog(repo, &progress)?;
    drop(progress);
    let unreadable: Vec<String> = rebuilt.damage.iter().map(ToString::to_string).collect();
    let exit = if unreadable.is_empty() { Exit::Done } else { Exit::Damaged };
    let view = CatalogView { packs: rebuilt.packs, salvaged_tables: rebuilt.salvaged, unreadable };
    story.detail.push_str(&format!(": {}, {} unreadable", count(view.packs, "pack"), view.unreadable.len()));
    // What cannot be read is said even with -q.
    match exit {
        Exit::Done => context.output.report(&view, CatalogView::text)?,
        _ => context.output.result(&view, CatalogView::text)?,
    }
    Ok(exit)
}

fn mend(context: &Context<'_>, repo: &Repository, dry_run: bool, options: &RepairOptions, story: &mut Story) -> Result<Exit, Failure> {
    story.untold = dry_run;
    let progress = context.progress();
    if !dry_run {
        catalog(repo, &progress)?;
    }
    let plan = plan(repo, options, &progress)?;
    let view = PlanView::of(&plan, dry_run);
    if dry_run {
        drop(progress);
        context.output.result(&view, PlanView::text)?;
        return Ok(if plan.report.is_damaged() { Exit::Damaged } else { Exit::Done });
    }
    let report = execute(repo, plan, options, &progress)?;
    drop(progress);
    let done = Done::of(view, &report);
    story.detail = done.summary();
    story.snapshots.extend(report.reissued.iter().flat_map(|(old, new)| [*old, *new]));
    story.snapshots.extend(report.lost.iter().map(|lost| lost.snapshot));
    story.snapshots.extend(report.verified.iter());
    story.snapshots.dedup();
    // What is lost is said even with -q.
    match report.is_damaged() {
        true => context.output.insist_as(Exit::Damaged, &done, Done::text),
        false => context.output.report_as(Exit::Done, &done, Done::text),
    }
}

fn names(keys: &[ObjectKey]) -> Vec<String> {
    keys.iter().map(ToString::to_string).collect()
}

impl TouchedView {
    fn of(touched: &Touched) -> Self {
        let (stream, stream_hex) = touched.stream.as_deref().map(text_and_hex).unzip();
        TouchedView { snapshot: touched.snapshot.to_string(), stream, stream_hex: stream_hex.flatten(), short_id: touched.snapshot.short() }
    }

    fn text(&self) -> String {
        format!("  snapshot {}, {}\n", self.short_id, printable(self.stream.as_deref().unwrap_or("all of it")))
    }
}

impl PlanView {
    fn of(plan: &RepairPlan, dry_run: bool) -> Self {
        let pack = |pack: &BadPack| PackView { pack: pack.id.to_string(), whole_chunks: pack.whole_chunks, bad_chunks: pack.bad_chunks };
        PlanView {
            dry_run,
            findings: plan.report.findings.iter().map(FindingView::of).collect(),
            touched: plan.report.touched.iter().map(TouchedView::of).collect(),
            packs: plan.packs.iter().map(pack).collect(),
            healable: names(&plan.healable),
            records: names(&plan.records),
            copies: names(&plan.copies),
            missing_chunks: plan.missing_chunks,
        }
    }

    fn text(&self) -> String {
        let mut text = findings_table(&self.findings);
        self.copies.iter().for_each(|copy| text.push_str(&format!("to be written again  {copy}\n")));
        self.healable.iter().for_each(|object| text.push_str(&format!("to be healed         {object}\n")));
        for pack in &self.packs {
            let (whole, bad) = (count(pack.whole_chunks, "whole chunk"), count(pack.bad_chunks, "bad one"));
            text.push_str(&format!("to be replaced       pack {}: {whole}, {bad}\n", pack.pack));
        }
        self.records.iter().for_each(|record| text.push_str(&format!("to be set aside      {record}\n")));
        if self.missing_chunks > 0 {
            text.push_str(&format!("to be looked for     {}\n", count(self.missing_chunks, "missing chunk")));
        }
        if !self.touched.is_empty() {
            text.push_str("cannot be given back whole as it is:\n");
            self.touched.iter().for_each(|touched| text.push_str(&touched.text()));
        }
        if text.is_empty() {
            text.push_str("nothing to mend\n");
        }
        text
    }
}

impl Done {
    fn of(plan: PlanView, report: &RepairReport) -> Self {
        let ids = |ids: &[icecore::id::SnapshotId]| ids.iter().map(ToString::to_string).collect();
        let relisted = |(old, new): &(icecore::id::SnapshotId, icecore::id::SnapshotId)| RelistedView {
            damaged: old.to_string(),
            listed_as: new.to_string(),
        };
        Done {
            plan,
            healed: names(&report.healed),
            rewritten_copies: names(&report.copies),
            relisted_snapshots: report.reissued.iter().map(relisted).collect(),
            chunks_from_copies: report.from_copies,
            chunks_from_files: report.from_files,
            moved_chunks: report.moved_chunks,
            written_packs: report.written,
            written_bytes: report.written_bytes,
            quarantined: names(&report.set_aside),
            left: report.left.clone(),
            lost: report.lost.iter().map(TouchedView::of).collect(),
            marked_damaged: ids(&report.damaged),
            marked_verified: ids(&report.verified),
        }
    }

    /// How much of what was done, but for nothing.
    fn deeds(&self) -> Vec<String> {
        let deeds = [
            (self.healed.len() as u64, "object healed by its own parity or second copy, or put under its own name"),
            (self.rewritten_copies.len() as u64, "second copy written again"),
            (self.chunks_from_copies, "chunk healed from another copy"),
            (self.chunks_from_files, "chunk healed from files"),
            (self.moved_chunks, "whole chunk of damaged packs written anew"),
        ];
        deeds.iter().filter(|(number, _)| *number > 0).map(|(number, what)| format!("{number} x {what}")).collect()
    }

    /// For the journal.
    fn summary(&self) -> String {
        let mut parts = self.deeds();
        parts.extend(self.quarantined.iter().map(|name| format!("set aside: {name}")));
        parts.extend(self.left.iter().cloned());
        let lost = format!("{} lost", count(self.lost.len() as u64, "stream"));
        parts.extend((!self.lost.is_empty()).then_some(lost));
        if parts.is_empty() { "nothing to mend".to_owned() } else { parts.join("; ") }
    }

    fn text(&self) -> String {
        let mut text = self.plan.text();
        self.deeds().iter().for_each(|deed| text.push_str(&format!("{deed}\n")));
        for one in &self.relisted_snapshots {
            text.push_str(&format!("snapshot {} had a damaged record and is listed as {} now\n", one.damaged, one.listed_as));
        }
        if self.written_packs > 0 {
            text.push_str(&format!("{} written, {}\n", count(self.written_packs, "new pack"), bytes(self.written_bytes)));
        }
        self.quarantined.iter().for_each(|name| text.push_str(&format!("set aside: {name}\n")));
        self.left.iter().for_each(|left| text.push_str(&format!("{}\n", printable(left))));
        for (ids, what) in [(&self.marked_damaged, "damaged"), (&self.marked_verified, "whole again")] {
            if !ids.is_empty() {
                text.push_str(&format!("{} marked as {what}\n", count(ids.len() as u64, "snapshot")));
            }
        }
        if self.lost.is_empty() && self.left.is_empty() {
            text.push_str("every snapshot can be given back whole\n");
        }
        if !self.lost.is_empty() {
            text.push_str("lost, at least in part (`restore` says which bytes; all else can be given back):\n");
            self.lost.iter().for_each(|lost| text.push_str(&lost.text()));
        }
        text
    }
}

impl CatalogView {
    fn text(&self) -> String {
        let mut text = format!("the catalog was made anew from {}\n", count(self.packs, "pack"));
        if self.salvaged_tables > 0 {
            text.push_str(&format!("{} kept, as the stored ones are damaged\n", count(self.salvaged_tables, "table")));
        }
        self.unreadable.iter().for_each(|one| text.push_str(&format!("{}\n", printable(one))));
        text
    }
}
