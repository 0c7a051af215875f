//! What commands tell the journal: that they have ended, and how.

use std::time::Instant;

use icecore::id::{SnapshotId, SourceId};
use icecore::ops::journal::{Event, Operation, Outcome, record};
use icecore::ops::mark::Author;
use icecore::store::repo::Repository;

use super::context::Context;
use super::exit::{Exit, Failure};
use super::secrets::hidden;
use super::{environment, time};

/// What a command has to tell, filled in as it goes.
#[derive(Debug, Default)]
pub(crate) struct Story {
    /// The source that it is about, if it is one.
    pub(crate) source: Option<SourceId>,
    /// The snapshots that it made, read or dropped.
    pub(crate) snapshots: Vec<SnapshotId>,
    /// For people; no secrets. If the command fails, the cause follows.
    pub(crate) detail: String,
    /// More, by name.
    pub(crate) facts: Vec<(String, String)>,
    /// Nothing is to be told: it only shows what it would do.
    pub(crate) untold: bool,
}

/// Does the work of a command, and tells the journal how it ended. That the journal cannot be written is a warning, and changes nothing else; wrong
/// arguments are not told.
pub(crate) fn journaled(
    context: &Context<'_>,
    repo: &Repository,
    operation: Operation,
    work: impl FnOnce(&mut Story) -> Result<Exit, Failure>,
) -> Result<Exit, Failure> {
    let started = Instant::now();
    let mut story = Story::default();
    let ended = work(&mut story);
    let exit = ended.as_ref().map_or_else(|failure| failure.exit, |exit| *exit);
    if story.untold || exit == Exit::Usage {
        return ended;
    }
    let detail = match &ended {
        Ok(_) => story.detail,
        Err(failure) if story.detail.is_empty() => failure.message.clone(),
        Err(failure) => format!("{}: {}", story.detail, failure.message),
    };
    let event = Event {
        operation,
        outcome: outcome(exit),
        exit_code: exit as u8,
        duration: started.elapsed(),
        source: story.source,
        snapshots: story.snapshots,
        detail: hidden(&detail),
        facts: story.facts.into_iter().map(|(name, value)| (name, hidden(&value))).collect(),
    };
    if let Err(error) = record(repo, &event, &author()) {
        context.output.warn(&format!("the journal could not be written: {error}"));
    }
    ended
}

/// Who is at work here and now.
pub(crate) fn author() -> Author {
    Author { now_ns: time::now_ns(), host: environment::host(), user: environment::user() }
}

fn outcome(exit: Exit) -> Outcome {
    match exit {
        Exit::Done => Outcome::Done,
        Exit::Incomplete => Outcome::Incomplete,
        Exit::Damaged => Outcome::Damaged,
        Exit::Interrupted => Outcome::Interrupted,
        _ => Outcome::Failed,
    }
}
