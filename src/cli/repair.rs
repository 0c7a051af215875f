//! The command `repair`, with `--dry-run` (the plan only) and `--catalog` (only the local catalog).

use std::path::PathBuf;

use icecore::ops::check::{Subset, Verdict};
use icecore::ops::journal::Outcome;
use icecore::ops::journaled::{Report, Work};
use icecore::ops::repair::{CatalogReport, RepairOptions, RepairPlan, Repaired, perform, perform_catalog, plan};

use super::check::{draw, marks_text};
use super::context::Context;
use super::exit::{Exit, Failure};
use super::findings::{self, lost_text, short_ids};
use super::output::{bytes, count, printable};
use super::screen::{Screen, Tone};

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

pub(crate) fn run(context: &Context<'_>, args: &RepairArgs) -> Result<Exit, Failure> {
    let subset = args.read_data_subset.as_deref().map_or(Ok(Subset::All), str::parse)?;
    let seed = if matches!(subset, Subset::Share(_) | Subset::Bytes(_)) { draw()? } else { 0 };
    // A wrong path must fail now, not after hours of reading.
    for path in &args.from {
        std::fs::metadata(path).map_err(|error| Failure::usage(format!("{}: {error}", path.display())))?;
    }
    let repo = context.open()?;
    let worker = context.worker();
    let options = RepairOptions { structure_only: args.structure_only, subset, seed, from: args.from.clone(), author: worker.author() };
    let screen = &context.output.screen;
    let progress = context.progress();
    if args.dry_run {
        let plan = plan(&repo, &options, &progress)?;
        drop(progress);
        context.output.result(&plan, |plan| dry_text(plan, screen))?;
        return Ok(plan.outcome().into());
    }
    let work = Work { repo: &repo, worker: &worker, monitor: &progress };
    if args.catalog {
        let report = perform_catalog(&work)?;
        drop(progress);
        return tell(context, &report);
    }
    let repaired = perform(&work, &options)?;
    drop(progress);
    let exit = repaired.outcome().into();
    // Losses are printed even with -q.
    match exit {
        Exit::Done => context.output.report_as(exit, &repaired, |repaired| text(repaired, screen)),
        _ => context.output.insist_as(exit, &repaired, |repaired| text(repaired, screen)),
    }
}

/// Prints the report. Unreadable objects are named even with -q.
fn tell(context: &Context<'_>, report: &CatalogReport) -> Result<Exit, Failure> {
    match report.outcome() {
        Outcome::Done => context.output.report(report, catalog_text)?,
        _ => context.output.result(report, catalog_text)?,
    }
    Ok(report.outcome().into())
}

fn plan_text(plan: &RepairPlan, screen: &Screen) -> String {
    let mut text = findings::table(&plan.report.findings, &plan.report.touched, screen);
    let mut line = |what: &str, object: &str| text.push_str(&format!("{what:<19}  {}\n", printable(&short_ids(object))));
    plan.copies.iter().for_each(|copy| line("to be written again", &copy.to_string()));
    plan.healable.iter().for_each(|object| line("to be healed", &object.to_string()));
    for pack in &plan.packs {
        let (whole, bad) = (count(pack.whole_chunks, "whole chunk"), count(pack.bad_chunks, "bad one"));
        line("to be replaced", &format!("pack {}: {whole}, {bad}", pack.id));
    }
    plan.records.iter().for_each(|record| line("to be set aside", &record.to_string()));
    if plan.missing_chunks > 0 {
        line("to be looked for", &count(plan.missing_chunks, "missing chunk"));
    }
    text
}

/// `repair --dry-run`.
fn dry_text(plan: &RepairPlan, screen: &Screen) -> String {
    let text = plan_text(plan, screen);
    if text.is_empty() {
        return "nothing to mend\n".to_owned();
    }
    text + &findings::advice(Verdict::of(&plan.report.findings), "`icecore repair` mends what can be mended", screen)
}

fn text(repaired: &Repaired, screen: &Screen) -> String {
    let Repaired { plan, report } = repaired;
    let mut text = plan_text(plan, screen);
    if text.is_empty() {
        text.push_str("nothing to mend\n");
    }
    report.deeds().iter().for_each(|deed| text.push_str(&format!("{deed}\n")));
    for (damaged, now) in &report.reissued {
        text.push_str(&format!("snapshot {} had a damaged record and is listed as {} now\n", damaged.short(), now.short()));
    }
    if report.written > 0 {
        text.push_str(&format!("{} written, {}\n", count(report.written, "new pack"), bytes(report.written_bytes)));
    }
    report.set_aside.iter().for_each(|name| text.push_str(&format!("set aside: {name}\n")));
    report.left.iter().for_each(|left| text.push_str(&format!("{}\n", printable(left))));
    text.push_str(&marks_text(&report.damaged, &report.verified));
    if !report.lost.is_empty() {
        text.push_str("lost, at least in part (`restore --salvage` gives back all but the lost bytes):\n");
        text.push_str(&lost_text(&report.lost));
    }
    let last = match report.lost.is_empty() && report.left.is_empty() {
        true => screen.paint(Tone::Good, "every snapshot can be given back whole"),
        false => format!("{}: not everything could be mended", screen.paint(Tone::Bad, Verdict::Damaged.word())),
    };
    text + &last + "\n"
}

fn catalog_text(report: &CatalogReport) -> String {
    let mut text = format!("the catalog was made anew from {}\n", count(report.packs, "pack"));
    if report.salvaged_tables > 0 {
        text.push_str(&format!("{} kept, as the stored ones are damaged\n", count(report.salvaged_tables, "table")));
    }
    report.unreadable.iter().for_each(|one| text.push_str(&format!("{}\n", printable(one))));
    text
}
