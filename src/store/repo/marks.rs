//! Marks on snapshots, and their effect. A mark is a small stored fact: flag, accept, protect, verified, damaged, tag. Marks are only
//! added; the newest of a kind counts.
//!
//! A mark that cannot be read counts as one that may protect or flag its snapshot, and is reported.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::Repository;
use super::segments::missing_is_damage;
use crate::error::{Error, Result};
use crate::id::{MarkId, SnapshotId};
use crate::recorded::Flag;
use crate::store::backend::{BackendExt, ObjectKey, ObjectKind, WriteMode};
use crate::store::format::Kind;
use crate::store::format::mark::{MARK_LEN_MAX, MarkKind, MarkRecord};
use crate::store::format::snapshot::SnapshotRecord;
use crate::store::repo::u64_from;

/// The code of a Damaged mark with which a repair says that the snapshot cannot be healed or mended: what it lacks is lost, and prune ignores it.
pub(crate) const LOST: &str = "lost";
/// The flag of a snapshot that a check found damaged, if the mark has no code of its own.
const STORED_DAMAGE: &str = "stored-damage";

/// The marks on one snapshot.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SnapshotMarks {
    /// The readable marks, oldest first: by time, then id.
    pub marks: Vec<(MarkId, MarkRecord)>,
    /// The number of marks that cannot be read. Any of them may protect or flag the snapshot.
    pub unreadable: usize,
    /// Flags of the record, or of marks, that an accept has cleared.
    pub accepted: Vec<Flag>,
}

impl SnapshotMarks {
    /// The newest mark among these kinds.
    pub fn newest(&self, kinds: &[MarkKind]) -> Option<&MarkRecord> {
        self.marks.iter().rev().map(|(_, mark)| mark).find(|mark| kinds.contains(&mark.kind))
    }

    /// The mark that protects the snapshot now, if it is protected.
    pub fn protection(&self) -> Option<&MarkRecord> {
        self.newest(&[MarkKind::Protect, MarkKind::Unprotect]).filter(|mark| mark.kind == MarkKind::Protect)
    }

    /// The result of the last check that judged the snapshot: a mark of kind Verified or Damaged.
    pub fn health(&self) -> Option<&MarkRecord> {
        self.newest(&[MarkKind::Verified, MarkKind::Damaged])
    }

    /// The time of the newest mark, nanoseconds since 1970 UTC.
    pub fn newest_ns(&self) -> Option<i64> {
        self.marks.iter().map(|(_, mark)| mark.time_ns).max()
    }

    /// Gives the record the flags and tags that count now. Flags of the record and of marks count if no later accept cleared them; marks give one
    /// flag for each code. Damage counts if the last check found it. Tags are those of the record, with those that marks add or take away.
    fn apply(&mut self, record: &mut SnapshotRecord) {
        let accept = self.marks.iter().rposition(|(_, mark)| mark.kind == MarkKind::Accept);
        // An accept clears every flag that was set before it, and none that comes later.
        let (before, after) = self.marks.split_at(accept.map_or(0, |at| at + 1));
        let mut flags = std::mem::take(&mut record.flags);
        add_flags(&mut flags, before);
        // The record's own flags are older than any mark, whatever its clock said.
        self.accepted = if accept.is_some() { std::mem::take(&mut flags) } else { Vec::new() };
        add_flags(&mut flags, after);
        // A check after the accept may find damage again. A later one that finds the snapshot whole takes that back.
        let looked = after.iter().rev().map(|(_, mark)| mark).find(|mark| matches!(mark.kind, MarkKind::Verified | MarkKind::Damaged));
        if let Some(found) = looked.filter(|mark| mark.kind == MarkKind::Damaged) {
            let code = if found.code.is_empty() { STORED_DAMAGE } else { &found.code };
            put_flag(&mut flags, code, &found.detail);
        }
        record.flags = flags;
        for (_, mark) in &self.marks {
            match mark.kind {
                MarkKind::Untag => record.tags.retain(|tag| *tag != mark.code),
                MarkKind::Tag if !record.tags.contains(&mark.code) => record.tags.push(mark.code.clone()),
                _ => {}
            }
        }
    }
}

fn add_flags(flags: &mut Vec<Flag>, marks: &[(MarkId, MarkRecord)]) {
    let set = marks.iter().map(|(_, mark)| mark).filter(|mark| mark.kind == MarkKind::Flag);
    set.for_each(|mark| put_flag(flags, &mark.code, &mark.detail));
}

/// Puts a flag in the place of an older one of the same code. Marks speak of whole snapshots, so flags of single streams stay.
fn put_flag(flags: &mut Vec<Flag>, code: &str, detail: &str) {
    flags.retain(|flag| flag.code != code || flag.stream.is_some());
    flags.push(Flag::new(code, detail));
}

impl Repository {
    /// Stores a mark, durably. Whether its snapshot exists is not checked here: see `ops/mark.rs`.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] if its texts are too long, [`Error::Backend`].
    pub fn write_mark(&self, mark: &MarkRecord) -> Result<MarkId> {
        mark.verify_texts().map_err(|m| Error::InvalidArgument(format!("the mark cannot be stored: {}", m.detail())))?;
        let stored = self.seal_record(Kind::Mark, mark)?;
        if stored.len() > MARK_LEN_MAX {
            return Err(Error::InvalidArgument(format!("a mark has at most {MARK_LEN_MAX} bytes; this one has {}", stored.len())));
        }
        let stored = self.with_replica(stored)?;
        // The hash over a sealed record with a fresh salt: two marks never share a name, so no writer replaces another's mark.
        let id = MarkId(*blake3::hash(&stored).as_bytes());
        self.backend().write(&ObjectKey::Mark { snapshot: mark.snapshot, id }, &[&stored], WriteMode::CreateNew)?;
        Ok(id)
    }

    /// Reads a mark; `None` if it is not there any more.
    ///
    /// # Errors
    /// [`Error::Corrupt`], [`Error::UnsupportedFormat`], [`Error::Backend`].
    pub fn read_mark(&self, snapshot: &SnapshotId, id: &MarkId) -> Result<Option<MarkRecord>> {
        let object = ObjectKey::Mark { snapshot: *snapshot, id: *id };
        let read = self
            .backend()
            .read_if_there(&object, self.with_replica_len(u64_from(MARK_LEN_MAX)))
            .map_err(|error| missing_is_damage(error, &object))?;
        let Some(stored) = read else { return Ok(None) };
        let stored = self.without_replica(&object, stored)?;
        let mark: MarkRecord = self.open_record(Kind::Mark, &object, &stored)?;
        mark.verify_texts().map_err(|m| m.of(object))?;
        match mark.snapshot == *snapshot {
            true => Ok(Some(mark)),
            false => Err(Error::corrupt(object.to_string(), format!("it is a mark on another snapshot, {}", mark.snapshot))),
        }
    }

    /// The names of all marks, by snapshot, also for snapshots that are not there any more.
    ///
    /// # Errors
    /// [`Error::Backend`].
    pub fn list_marks(&self) -> Result<BTreeMap<SnapshotId, Vec<MarkId>>> {
        let mut marks: BTreeMap<SnapshotId, Vec<MarkId>> = BTreeMap::new();
        for key in self.backend().names(ObjectKind::Mark)? {
            if let ObjectKey::Mark { snapshot, id } = key? {
                marks.entry(snapshot).or_default().push(id);
            }
        }
        marks.values_mut().for_each(|ids| {
            ids.sort_unstable();
            ids.dedup();
        });
        Ok(marks)
    }

    /// Reads the marks on these snapshots and applies them to the records. Returns the marks, and errors for those that cannot be read.
    pub(super) fn apply_marks(
        &self,
        snapshots: &mut [(SnapshotId, SnapshotRecord)],
    ) -> Result<(HashMap<SnapshotId, SnapshotMarks>, Vec<Error>)> {
        let mut damage = Vec::new();
        let mut listed = self.list_marks()?;
        let mut all = HashMap::new();
        for (id, record) in snapshots {
            let Some(ids) = listed.remove(id) else { continue };
            let mut of = self.read_marks(id, ids, &mut damage)?;
            of.apply(record);
            all.insert(*id, of);
        }
        Ok((all, damage))
    }

    fn read_marks(&self, snapshot: &SnapshotId, ids: Vec<MarkId>, damage: &mut Vec<Error>) -> Result<SnapshotMarks> {
        let mut of = SnapshotMarks::default();
        for id in ids {
            match self.read_mark(snapshot, &id) {
                Ok(mark) => of.marks.extend(mark.map(|mark| (id, mark))),
                Err(error @ (Error::Corrupt { .. } | Error::UnsupportedFormat { .. })) => {
                    of.unreadable += 1;
                    damage.push(error);
                }
                Err(error) => return Err(error),
            }
        }
        of.marks.sort_by_key(|(id, mark)| (mark.time_ns, *id));
        Ok(of)
    }

    /// Removes the marks on snapshots that are forgotten and not listed any more.
    pub(super) fn remove_marks_of(&self, gone: &HashSet<SnapshotId>) -> Result<()> {
        let of_gone = self.list_marks()?.into_iter().filter(|(snapshot, _)| gone.contains(snapshot));
        let keys = of_gone.flat_map(|(snapshot, ids)| ids.into_iter().map(move |id| ObjectKey::Mark { snapshot, id }));
        self.backend().delete(&keys.collect::<Vec<_>>())
    }
}
