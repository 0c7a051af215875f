//! Stating facts about a snapshot after its commit: flags, protection, tags, and what checks found.

use crate::error::{Error, Result};
use crate::id::{MarkId, SnapshotId};
use crate::store::format::mark::{MarkKind, MarkRecord};
use crate::store::repo::{Refreshed, Repository};

/// Who says it, where and when.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Author {
    /// The clock's time, nanoseconds since 1970 UTC.
    pub now_ns: i64,
    /// The machine's name.
    pub host: String,
    /// The user's name.
    pub user: String,
}

/// What is said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Statement {
    /// What sort.
    pub kind: MarkKind,
    /// A flag or a damage: a stable word. A tag or an untag: the tag. Else empty.
    pub code: String,
    /// For people; may be empty.
    pub detail: String,
}

/// What [`mark`] has done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Marked {
    /// The new mark.
    pub id: MarkId,
    /// A forget has written down that this snapshot goes: it may go in spite of a protection, if that forget is at work, and stays, if it
    /// was interrupted.
    pub is_being_forgotten: bool,
}

/// Puts a mark on a snapshot, durably. It counts after all marks that `refreshed` has, whatever the clocks of their writers said.
///
/// # Errors
/// [`Error::NotFound`] if the snapshot is not there, or has gone meanwhile; [`Error::InvalidArgument`] for texts that are too long or
/// do not belong to the kind; [`Error::Backend`].
pub fn mark(repo: &Repository, refreshed: &Refreshed, snapshot: &SnapshotId, statement: &Statement, author: &Author) -> Result<Marked> {
    let named = matches!(statement.kind, MarkKind::Flag | MarkKind::Tag | MarkKind::Untag);
    let may_have_code = named || statement.kind == MarkKind::Damaged;
    if (named && statement.code.is_empty()) || (!may_have_code && !statement.code.is_empty()) {
        return Err(Error::InvalidArgument(format!("{:?} and {:?} make no mark", statement.kind, statement.code)));
    }
    let gone = || Error::NotFound { what: format!("snapshot {snapshot}") };
    let (_, record) = refreshed.snapshots.iter().find(|(id, _)| id == snapshot).ok_or_else(gone)?;
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
    // Mark, then look, as a forget does: of two at once at least one sees the other.
    let is_being_forgotten = repo.has_forgotten(snapshot)?;
    match repo.backend().stat(&repo.snapshot_key(snapshot, &record.source.id))? {
        Some(_) => Ok(Marked { id, is_being_forgotten }),
        None => Err(gone()),
    }
}
