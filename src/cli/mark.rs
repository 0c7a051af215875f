//! `mark` and `protect`.

use clap::Subcommand;
use icecore::format::mark::MarkKind;
use icecore::ops::mark::{Author, Statement, mark as put_mark};
use icecore::progress::Monitor;
use serde::Serialize;

use super::args::SnapArgs;
use super::context::{Context, find_in};
use super::exit::{Exit, Failure};
use super::output::printable;
use super::views::SnapshotView;
use super::{environment, time};

/// The code of a flag that a user sets.
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
#[command(after_help = "A flagged snapshot is no parent of the next backup, and does not count for `forget`.\n\n\
                        Examples:\n  icecore mark latest accept\n  icecore mark 1a2b3c flag 'taken during the migration'\n  icecore mark latest~3 tag release-7")]
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
    Accept {
        /// Why
        #[arg(value_name = "WHY", default_value = "")]
        why: String,
    },
    /// It does not count as good
    Flag {
        /// Why
        #[arg(value_name = "WHY")]
        why: String,
    },
    /// Add tags
    Tag {
        /// The tags
        #[arg(value_name = "T", required = true)]
        tags: Vec<String>,
    },
    /// Take tags away
    Untag {
        /// The tags
        #[arg(value_name = "T", required = true)]
        tags: Vec<String>,
    },
}

#[derive(Serialize)]
struct Done {
    snapshot: SnapshotView,
    /// A forget is about to remove it, or was interrupted on the way.
    being_forgotten: bool,
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
    let mut refreshed = context.refresh(&repo, &progress)?;
    let id = find_in(&refreshed, &snap.snap, &snap.filter)?.0;
    let author = Author { now_ns: time::now_ns(), host: environment::host(), user: environment::user() };
    let mut being_forgotten = false;
    for statement in statements {
        being_forgotten |= put_mark(&repo, &refreshed, &id, statement, &author)?.is_being_forgotten;
        refreshed = repo.refresh()?;
    }
    let found = refreshed.snapshots.iter().find(|(listed, _)| *listed == id);
    let (id, record) = found.ok_or_else(|| Failure::failed(format!("snapshot {} has just been forgotten", id.short())))?;
    if being_forgotten {
        progress.warn(&format!("a forget of snapshot {} is at work, or was interrupted: see whether it stays in the list", id.short()));
    }
    drop(progress);
    let done = Done { snapshot: SnapshotView::of(id, record, &refreshed), being_forgotten };
    context.output.report(&done, Done::text)?;
    if being_forgotten { Ok(Exit::Incomplete) } else { Ok(Exit::Done) }
}

impl Done {
    fn text(&self) -> String {
        let or_none = |text: String| if text.is_empty() { "none".to_owned() } else { text };
        let flags = or_none(self.snapshot.flag_codes());
        let line = format!("snapshot {}: flags {flags}; tags {}", self.snapshot.short_id, or_none(self.snapshot.tags.join(",")));
        printable(&line) + "\n"
    }
}
