//! `mark` and `protect`.

use clap::Subcommand;
use icecore::ops::journal::Operation;
use icecore::ops::mark::{Statement, mark as put_mark};
use icecore::progress::Monitor;
use icecore::store::format::mark::MarkKind;
use icecore::store::repo::Repository;
use serde::Serialize;

use super::args::SnapArgs;
use super::context::{Context, find_in};
use super::exit::{Exit, Failure};
use super::journaled::{Story, author, journaled};
use super::output::printable;
use super::views::SnapshotView;

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
#[command(
    after_help = "A flagged snapshot does not count as good for `forget` and `status`. What is accepted is not flagged again as long as it stays as it is.\n\n\
                        Examples:\n  icecore mark latest accept\n  icecore mark 1a2b3c flag 'taken during the migration'\n  icecore mark latest~3 tag release-7"
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
    #[command(after_help = "Example:\n  icecore mark latest accept 'the missing table was dropped on purpose'")]
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
    journaled(context, &repo, Operation::Mark, |story| put(context, &repo, snap, statements, story))
}

fn put(context: &Context<'_>, repo: &Repository, snap: &SnapArgs, statements: &[Statement], story: &mut Story) -> Result<Exit, Failure> {
    story.detail = statements.iter().map(told).collect::<Vec<_>>().join(", ");
    let progress = context.progress();
    let mut refreshed = context.refresh(repo, &progress)?;
    let (id, record) = find_in(&refreshed, &snap.snap, &snap.filter)?;
    let id = *id;
    story.snapshots.push(id);
    story.source = Some(record.source.id);
    let author = author();
    let mut being_forgotten = false;
    for statement in statements {
        being_forgotten |= put_mark(repo, &refreshed, &id, statement, &author)?.is_being_forgotten;
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

/// What the journal is told of a mark.
fn told(statement: &Statement) -> String {
    let kind = format!("{:?}", statement.kind).to_lowercase();
    [&kind, &statement.code, &statement.detail].into_iter().filter(|part| !part.is_empty()).cloned().collect::<Vec<_>>().join(" ")
}

impl Done {
    fn text(&self) -> String {
        let or_none = |text: String| if text.is_empty() { "none".to_owned() } else { text };
        let flags = or_none(self.snapshot.flag_codes());
        let line = format!("snapshot {}: flags {flags}; tags {}", self.snapshot.short_id, or_none(self.snapshot.tags.join(",")));
        printable(&line) + "\n"
    }
}
