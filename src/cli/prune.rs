//! `prune`.

use icecore::ops::journal::{Operation, trim};
use icecore::ops::prune::{PackUse, PruneOptions, PrunePlan, PruneReport, plan, prune};
use icecore::store::repo::Repository;
use serde::Serialize;

use super::context::Context;
use super::environment;
use super::exit::{Exit, Failure};
use super::journaled::journaled;
use super::output::{bytes, count};
use super::time;

/// How long marked packs wait.
pub(crate) const GRACE: &str = "24h";
/// How much of the packs that stay may be of no use, percent.
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

/// What would be done.
#[derive(Serialize)]
struct PlanView {
    delete: Vec<PackView>,
    repack: Vec<PackView>,
    kept_packs: u64,
    kept_bytes: u64,
    marked_packs: u64,
    marked_bytes: u64,
    shortened_chunks: u64,
    shortened_bytes: u64,
}

#[derive(Serialize)]
struct PackView {
    pack: String,
    stored_bytes: u64,
    used_bytes: u64,
}

/// What was done.
#[derive(Debug, Serialize)]
pub(crate) struct Done {
    marked_packs: u64,
    deleted_packs: u64,
    deleted_bytes: u64,
    written_packs: u64,
    written_bytes: u64,
    expired_pending: u64,
    waiting_packs: u64,
    log_entries_removed: u64,
    /// Of killed processes.
    unfinished_files: u64,
    unfinished_bytes: u64,
}

/// What a prune goes by now that waits so long before it deletes.
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
        context.output.result(&PlanView::of(&plan), PlanView::text)?;
        return Ok(Exit::Done);
    }
    carry_out(context, &repo, &options, |done| context.output.report(&done, Done::text))
}

/// Prunes, and tells the journal; what was done goes to `tell`.
pub(crate) fn carry_out(
    context: &Context<'_>,
    repo: &Repository,
    options: &PruneOptions,
    tell: impl FnOnce(Done) -> Result<(), Failure>,
) -> Result<Exit, Failure> {
    journaled(context, repo, Operation::Prune, |story| {
        let progress = context.progress();
        let report = prune(repo, options, &progress)?;
        let log_entries_removed = trim(repo)?;
        drop(progress);
        let done = Done::of(&report, log_entries_removed);
        story.detail = done.summary();
        tell(done)?;
        Ok(Exit::Done)
    })
}

impl PlanView {
    fn of(plan: &PrunePlan) -> Self {
        let view = |pack: &PackUse| PackView { pack: pack.id.to_string(), stored_bytes: pack.size, used_bytes: pack.used };
        PlanView {
            delete: plan.delete.iter().map(view).collect(),
            repack: plan.repack.iter().map(view).collect(),
            kept_packs: plan.keep.len() as u64,
            kept_bytes: plan.keep.iter().map(|pack| pack.size).sum(),
            marked_packs: plan.marked,
            marked_bytes: plan.marked_bytes,
            shortened_chunks: plan.shorten,
            shortened_bytes: plan.shorten_bytes,
        }
    }

    fn text(&self) -> String {
        let line = |what: &str, packs: &[PackView]| {
            let stored = bytes(packs.iter().map(|pack| pack.stored_bytes).sum());
            let used = bytes(packs.iter().map(|pack| pack.used_bytes).sum());
            format!("{what:<16}{} of {stored}, {used} of them used\n", count(packs.len() as u64, "pack"))
        };
        let kept = format!("{:<16}{} of {}\n", "to be kept", count(self.kept_packs, "pack"), bytes(self.kept_bytes));
        let marked = format!("{:<16}{} of {}\n", "marked before", count(self.marked_packs, "pack"), bytes(self.marked_bytes));
        let shortened = match self.shortened_chunks {
            0 => String::new(),
            chunks => format!(
                "{:<16}chains of {}, {} with their links; more packs may go then\n",
                "to be shortened",
                count(chunks, "chunk"),
                bytes(self.shortened_bytes)
            ),
        };
        [line("to be deleted", &self.delete), line("to be rewritten", &self.repack), kept, marked, shortened].concat()
    }
}

impl Done {
    fn of(report: &PruneReport, log_entries_removed: u64) -> Self {
        Done {
            log_entries_removed,
            marked_packs: report.marked,
            deleted_packs: report.deleted,
            deleted_bytes: report.deleted_bytes,
            written_packs: report.written,
            written_bytes: report.written_bytes,
            expired_pending: report.expired,
            waiting_packs: report.waiting,
            unfinished_files: report.unfinished.files,
            unfinished_bytes: report.unfinished.bytes,
        }
    }

    fn summary(&self) -> String {
        format!(
            "{} marked; {} written anew ({}); {} deleted ({})",
            count(self.marked_packs, "pack"),
            count(self.written_packs, "pack"),
            bytes(self.written_bytes),
            count(self.deleted_packs, "pack"),
            bytes(self.deleted_bytes)
        )
    }

    pub(crate) fn text(&self) -> String {
        let mut text = self.summary() + "\n";
        if self.unfinished_files > 0 {
            let files = count(self.unfinished_files, "file");
            text.push_str(&format!("{files} ({}) that killed processes had begun to write removed\n", bytes(self.unfinished_bytes)));
        }
        if self.waiting_packs > 0 {
            text.push_str(&format!("{} wait for the grace time; prune again after it\n", count(self.waiting_packs, "marked pack")));
        }
        text
    }
}
