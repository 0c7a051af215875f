//! Puts marks on snapshots after their commit: flags, protection, tags, and what checks found.
//!
//! A mark is a small immutable object; of the same kind the newest counts. Marks are ordered by time, and a new one
//! always gets a later time than all that were seen, even if a clock is wrong.

use serde::Serialize;

use super::journal::{Operation, Outcome};
use super::journaled::{Report, Work};
use super::list::SnapshotInfo;
use super::select::{SnapshotSpec, Wanted};
use crate::error::{Error, Result};
use crate::id::{MarkId, SnapshotId};
use crate::store::format::mark::{MarkKind, MarkRecord};
use crate::store::format::snapshot::SnapshotRecord;
use crate::store::repo::{Refreshed, Repository};

/// Who puts the mark, where and when.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Author {
    /// The clock's time, nanoseconds since 1970 UTC.
    pub now_ns: i64,
    /// The machine's name.
    pub host: String,
    /// The user's name.
    pub user: String,
}

/// The content of a mark.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Statement {
    /// The kind of mark.
    pub kind: MarkKind,
    /// For a flag or damage: a stable word. For a tag or untag: the tag. Otherwise empty.
    pub code: String,
    /// Text for people; may be empty.
    pub detail: String,
}

/// The result of [`mark`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Marked {
    /// The new mark.
    pub id: MarkId,
    /// Whether a forget has announced that this snapshot goes. If it is at work, the snapshot may go in spite of a
    /// protection; if it was interrupted, the snapshot stays.
    pub is_being_forgotten: bool,
}

/// Puts a mark on a snapshot, durably. It counts after all marks in `refreshed`, whatever the clocks of their writers
/// said.
///
/// # Errors
/// [`Error::NotFound`] if the snapshot does not exist or was forgotten meanwhile; [`Error::InvalidArgument`] for
/// texts that are too long or do not fit the kind; [`Error::Backend`].
pub fn mark(repo: &Repository, refreshed: &Refreshed, snapshot: &SnapshotId, statement: &Statement, author: &Author) -> Result<Marked> {
    let named = matches!(statement.kind, MarkKind::Flag | MarkKind::Tag | MarkKind::Untag);
    let may_have_code = named || statement.kind == MarkKind::Damaged;
    if (named && statement.code.is_empty()) || (!may_have_code && !statement.code.is_empty()) {
        return Err(Error::InvalidArgument(format!("a mark of kind {:?} cannot have the code {:?}", statement.kind, statement.code)));
    }
    let gone = || Error::NotFound { what: format!("snapshot {snapshot}") };
    let (_, record) = refreshed.snapshots.iter().find(|(id, _)| id == snapshot).ok_or_else(gone)?;
    // Later than all known marks: the newest of a kind counts, and this one is the newest.
    let newest = refreshed.marks.get(snapshot).and_then(|marks| marks.newest_ns());
    let mark = MarkRecord {
        snapshot: *snapshot,
        kind: statement.kind,
        time_ns: newest.map_or(author.now_ns, |newest| author.now_ns.max(newest.saturating_add(1))),
        host: author.host.clone(),
        user: author.user.clone(),
        code: statement.code.clone(),
        detail: statement.detail.clone(),
    };
    let id = repo.write_mark(&mark)?;
    // Mark, then look, like a forget: if both run at once, at least one sees the other.
    let is_being_forgotten = repo.has_forgotten(snapshot)?;
    match repo.backend().stat(&repo.snapshot_key(snapshot, &record.source.id))? {
        Some(_) => Ok(Marked { id, is_being_forgotten }),
        None => Err(gone()),
    }
}

/// The snapshot with its marks as they count now.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct MarkReport {
    /// The snapshot.
    pub snapshot: SnapshotInfo,
    /// Whether a forget is going to remove it, or was interrupted.
    pub being_forgotten: bool,
}

impl Report for MarkReport {
    fn outcome(&self) -> Outcome {
        if self.being_forgotten { Outcome::Incomplete } else { Outcome::Done }
    }
}

/// Puts these marks on a snapshot, one after the other, and writes a journal entry.
///
/// # Errors
/// The errors of [`Wanted::find`] and [`mark`]; [`Error::NotDone`] if the snapshot has just been forgotten.
pub fn perform(work: &Work<'_>, wanted: &Wanted, statements: &[Statement]) -> Result<MarkReport> {
    work.journaled(Operation::Mark, |story| {
        story.detail = statements.iter().map(told).collect::<Vec<_>>().join(", ");
        let mut refreshed = work.look()?;
        let (id, record) = wanted.find(&refreshed, work.monitor)?;
        let id = *id;
        refuse_needless_accept(statements, wanted, (&id, record))?;
        story.about(id, record);
        let author = work.worker.author();
        let mut being_forgotten = false;
        for statement in statements {
            being_forgotten |= mark(work.repo, &refreshed, &id, statement, &author)?.is_being_forgotten;
            refreshed = work.repo.refresh()?;
        }
        let gone = || Error::NotDone { detail: format!("snapshot {} has just been forgotten", id.short()) };
        let (id, record) = refreshed.snapshots.iter().find(|(listed, _)| *listed == id).ok_or_else(gone)?;
        if being_forgotten {
            let short = id.short();
            work.monitor.warn(&format!(
                "a forget of snapshot {short} is running or was interrupted; check with `icecore snapshots` whether the snapshot stays"
            ));
        }
        Ok(MarkReport { snapshot: SnapshotInfo::of(id, record, &refreshed), being_forgotten })
    })
}

/// `latest` never means a flagged snapshot, so a user who accepts it means another snapshot.
fn refuse_needless_accept(statements: &[Statement], wanted: &Wanted, (id, record): (&SnapshotId, &SnapshotRecord)) -> Result<()> {
    let accepts = statements.iter().any(|statement| statement.kind == MarkKind::Accept);
    if !accepts || !record.flags.is_empty() || matches!(wanted.spec, SnapshotSpec::Prefix(_)) {
        return Ok(());
    }
    let text = format!(
        "`{}` means good snapshots only, here {}, which has no flags; give the id of the flagged one (see `icecore snapshots`)",
        wanted.text,
        id.short()
    );
    Err(Error::InvalidArgument(text))
}

/// The text of a mark in the journal.
fn told(statement: &Statement) -> String {
    let kind = format!("{:?}", statement.kind).to_lowercase();
    [&kind, &statement.code, &statement.detail].into_iter().filter(|part| !part.is_empty()).cloned().collect::<Vec<_>>().join(" ")
}
