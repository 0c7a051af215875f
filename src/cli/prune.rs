//! The command `prune`.

use icecore::ops::journaled::{Report, Work};
use icecore::ops::prune::{PackUse, PruneOptions, PrunePlan, PruneReport, perform, plan};

use super::context::Context;
use super::environment;
use super::exit::{Exit, Failure};
use super::output::{bytes, count};
use super::time;

/// The default grace time of marked packs.
pub(crate) const GRACE: &str = "24h";
/// The default limit for unused bytes in packs that stay, percent of the used ones.
pub(crate) const MAX_UNUSED: u16 = 5;

/// Free the space that no snapshot needs any more
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Packs that are not needed are marked first, and deleted by a later prune once the grace time is over, so that backups that run \
                  meanwhile are not disturbed. Where nothing else uses the repository at this moment, --grace 0 does both at once.\n\n\
                  Examples:\n  icecore prune --dry-run\n  icecore prune --grace 0"
)]
pub(crate) struct PruneArgs {
    /// Show what would be done
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// How long marked packs wait before they are deleted: 0, or a number with s, m, h or d
    #[arg(long, value_name = "SPAN", default_value = GRACE)]
    pub(crate) grace: String,
    /// How much of the packs that stay may be of no use, percent of what is of use
    #[arg(long, value_name = "PERCENT", default_value_t = MAX_UNUSED)]
    pub(crate) max_unused: u16,
    /// The most to be written anew, MiB; the rest is left for the next time
    #[arg(long, value_name = "MIB")]
    pub(crate) max_repack: Option<u64>,
}

/// Nanoseconds in a second.
const SECOND_NS: i64 = 1_000_000_000;

/// The options of a prune that starts now and has this grace time.
pub(crate) fn options(grace: &str, max_unused: u16, max_repack: Option<u64>) -> Result<PruneOptions, Failure> {
    Ok(PruneOptions {
        grace_ns: time::seconds(grace)?.saturating_mul(SECOND_NS),
        now_ns: time::now_ns(),
        host: environment::host(),
        unused_max_permille: u64::from(max_unused) * 10,
        repack_bytes_max: max_repack.map(|mib| mib << 20),
    })
}

pub(crate) fn run(context: &Context<'_>, args: &PruneArgs) -> Result<Exit, Failure> {
    let repo = context.open()?;
    let options = options(&args.grace, args.max_unused, args.max_repack)?;
    if args.dry_run {
        let progress = context.progress();
        let plan = plan(&repo, &options, &progress)?;
        drop(progress);
        context.output.result(&plan, plan_text)?;
        return Ok(Exit::Done);
    }
    let progress = context.progress();
    let report = perform(&Work { repo: &repo, worker: &context.worker(), monitor: &progress }, &options)?;
    drop(progress);
    context.output.report(&report, text)?;
    Ok(report.outcome().into())
}

fn plan_text(plan: &PrunePlan) -> String {
    let size = |packs: &[PackUse]| bytes(packs.iter().map(|pack| pack.size).sum());
    let line = |what: &str, packs: &[PackUse]| {
        let used = bytes(packs.iter().map(|pack| pack.used).sum());
        format!("{what:<16}{} of {}, {used} of them used\n", count(packs.len() as u64, "pack"), size(packs))
    };
    let kept = format!("{:<16}{} of {}\n", "to be kept", count(plan.keep.len() as u64, "pack"), size(&plan.keep));
    let marked = format!("{:<16}{} of {}\n", "marked before", count(plan.marked, "pack"), bytes(plan.marked_bytes));
    let shortened = match plan.shorten {
        0 => String::new(),
        chunks => format!(
            "{:<16}chains of {}, {} with their links; more packs may go then\n",
            "to be shortened",
            count(chunks, "chunk"),
            bytes(plan.shorten_bytes)
        ),
    };
    [line("to be deleted", &plan.delete), line("to be rewritten", &plan.repack), kept, marked, shortened].concat()
}

pub(crate) fn text(report: &PruneReport) -> String {
    let mut text = report.summary() + "\n";
    if report.unfinished.files > 0 {
        let files = count(report.unfinished.files, "file");
        text.push_str(&format!("{files} ({}) that killed processes had begun to write removed\n", bytes(report.unfinished.bytes)));
    }
    if report.waiting > 0 {
        text.push_str(&format!("{} wait for the grace time; prune again after it\n", count(report.waiting, "marked pack")));
    }
    text
}
