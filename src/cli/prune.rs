//! `prune`.

use icecore::ops::journal::{Operation, trim};
use icecore::ops::prune::{PackUse, PruneOptions, PrunePlan, PruneReport, plan, prune};
use icecore::store::repo::Repository;
use serde::Serialize;

use super::args::PruneArgs;
use super::context::Context;
use super::environment;
use super::exit::{Exit, Failure};
use super::journaled::journaled;
use super::output::{bytes, count};
use super::time;

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
        grace_ns: seconds(grace)?.saturating_mul(SECOND_NS),
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

/// A time span as `0`, `90s`, `30m`, `24h` or `7d`, in seconds.
pub(crate) fn seconds(text: &str) -> Result<i64, Failure> {
    let usage = || Failure::usage(format!("{text}: no time span; give 0, or a number with s, m, h or d"));
    let (number, unit) = match text.strip_suffix(['s', 'm', 'h', 'd']) {
        Some(number) => (number, text.chars().last()),
        None if text == "0" => ("0", None),
        None => return Err(usage()),
    };
    let factor = match unit {
        Some('m') => 60,
        Some('h') => 3600,
        Some('d') => 86_400,
        _ => 1,
    };
    let number: u32 = number.parse().map_err(|_| usage())?;
    Ok(i64::from(number) * factor)
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

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::seconds;

    #[test]
    fn time_spans() {
        let all: Vec<i64> = ["0", "0s", "90s", "30m", "24h", "7d"].iter().map(|text| seconds(text).unwrap()).collect();
        assert_eq!(all, [0, 0, 90, 1800, 86_400, 604_800]);
        assert!(["", "5", "h", "-1h", "1.5h", "24 h", "9999999999d"].iter().all(|text| seconds(text).is_err()));
    }
}
