//! The commands `mark` and `protect`.

use clap::Subcommand;
use icecore::ops::journaled::{Report, Work};
use icecore::ops::mark::{MarkReport, Statement, perform};
use icecore::store::format::mark::MarkKind;

use super::args::SnapArgs;
use super::context::{Context, wanted};
use super::exit::{Exit, Failure};
use super::look::flag_codes;
use super::output::printable;

/// The code of flags that users set.
const BY_USER: &str = "by-user";

/// Keep a snapshot whatever is forgotten, until this is taken back
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  icecore protect latest\n  icecore protect 1a2b3c --off")]
pub(crate) struct ProtectArgs {
    #[command(flatten)]
    snap: SnapArgs,
    /// Take the protection back
    #[arg(long)]
    off: bool,
}

/// State something about a snapshot: that it is good, or not; tags
#[derive(Debug, clap::Args)]
#[command(
    after_help = "A flagged snapshot does not count as good for `forget` and `status`. What is accepted is not flagged again as long as it stays as it is.\n\n\
                        Examples:\n  icecore mark 1a2b3c accept\n  icecore mark 1a2b3c flag 'taken during the migration'\n  icecore mark latest~3 tag release-7"
)]
pub(crate) struct MarkArgs {
    #[command(flatten)]
    snap: SnapArgs,
    #[command(subcommand)]
    what: What,
}

/// What to state.
#[derive(Debug, Subcommand)]
enum What {
    /// It counts as good: clears all its flags
    #[command(after_help = "Example:\n  icecore mark 1a2b3c accept 'the missing table was dropped on purpose'")]
    Accept {
        /// Why
        #[arg(value_name = "WHY", default_value = "")]
        why: String,
    },
    /// It does not count as good
    #[command(after_help = "Example:\n  icecore mark 1a2b3c flag 'taken during the migration'")]
    Flag {
        /// Why
        #[arg(value_name = "WHY")]
        why: String,
    },
    /// Add tags
    #[command(after_help = "Example:\n  icecore mark latest tag release-7")]
    Tag {
        /// The tags
        #[arg(value_name = "T", required = true)]
        tags: Vec<String>,
    },
    /// Take tags away
    #[command(after_help = "Example:\n  icecore mark latest untag release-7")]
    Untag {
        /// The tags
        #[arg(value_name = "T", required = true)]
        tags: Vec<String>,
    },
}

/// `protect`.
pub(crate) fn protect(context: &Context<'_>, args: &ProtectArgs) -> Result<Exit, Failure> {
    let kind = if args.off { MarkKind::Unprotect } else { MarkKind::Protect };
    state(context, &args.snap, &[Statement { kind, code: String::new(), detail: String::new() }])
}

/// `mark`.
pub(crate) fn mark(context: &Context<'_>, args: &MarkArgs) -> Result<Exit, Failure> {
    let one = |kind, code: &str, detail: &str| Statement { kind, code: code.to_owned(), detail: detail.to_owned() };
    let statements = match &args.what {
        What::Accept { why } => vec![one(MarkKind::Accept, "", why)],
        What::Flag { why } => vec![one(MarkKind::Flag, BY_USER, why)],
        What::Tag { tags } => tags.iter().map(|tag| one(MarkKind::Tag, tag, "")).collect(),
        What::Untag { tags } => tags.iter().map(|tag| one(MarkKind::Untag, tag, "")).collect(),
    };
    state(context, &args.snap, &statements)
}

fn state(context: &Context<'_>, snap: &SnapArgs, statements: &[Statement]) -> Result<Exit, Failure> {
    let repo = context.open()?;
    let progress = context.progress();
    let work = Work { repo: &repo, worker: &context.worker(), monitor: &progress };
    let report = perform(&work, &wanted(&snap.snap, &snap.filter)?, statements)?;
    drop(progress);
    context.output.report(&report, text)?;
    Ok(report.outcome().into())
}

fn text(report: &MarkReport) -> String {
    let or_none = |text: String| if text.is_empty() { "none".to_owned() } else { text };
    let snapshot = &report.snapshot;
    let (flags, tags) = (or_none(flag_codes(snapshot)), or_none(snapshot.tags.join(",")));
    printable(&format!("snapshot {}: flags {flags}; tags {tags}", snapshot.id.short())) + "\n"
}
