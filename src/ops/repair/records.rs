//! Sets damaged records aside. Each is replaced by a whole record that keeps what the damaged one may have said.
//!
//! A snapshot that the catalog knows is listed again; others count as forgotten. A damaged mark is replaced by a
//! protection, because it may have been one. The replacement is durable before the damaged record is deleted, and the
//! damaged bytes are in `quarantine` before that.

use crate::error::{Error, Result};
use crate::id::{MarkId, SnapshotId, SourceId, SourceTag};
use crate::ops::mark::{Statement, mark};
use crate::store::backend::{ObjectKey, ObjectKind, SetAside, WriteMode};
use crate::store::format::mark::{ForgottenRecord, MarkKind};
use crate::store::format::record;
use crate::store::format::snapshot::SnapshotRecord;
use crate::store::repo::{Health, LogName, Misplaced, Repository};

use super::aside::{Copied, copy};
use super::run::Run;

/// All damaged records.
pub(super) fn damaged(repo: &Repository) -> Result<Vec<ObjectKey>> {
    let mut keys = Vec::new();
    for key in unreadable(repo)? {
        // A whole record under a wrong name is moved, not set aside.
        keys.extend(repo.misplaced(&key)?.is_none().then_some(key));
    }
    for (snapshot, ids) in repo.list_marks()? {
        for id in ids {
            keys.extend(is_damaged(repo.read_mark(&snapshot, &id))?.then_some(ObjectKey::Mark { snapshot, id }));
        }
    }
    let forgotten = repo.list_forgotten()?.unreadable.into_iter();
    keys.extend(forgotten.filter(|(_, error)| matches!(error, Error::Corrupt { .. })).map(|(id, _)| ObjectKey::Forgotten(id)));
    for LogName { time_ns, id } in repo.list_log()? {
        keys.extend(is_damaged(repo.read_log(&LogName { time_ns, id }))?.then_some(ObjectKey::Log { time_ns, id }));
    }
    Ok(keys)
}

/// Whether a read found damage. A record that needs a newer icecore is not damaged.
pub(super) fn is_damaged<T>(read: Result<T>) -> Result<bool> {
    match read {
        Ok(_) | Err(Error::UnsupportedFormat { .. } | Error::NotFound { .. }) => Ok(false),
        Err(Error::Corrupt { .. }) => Ok(true),
        Err(error) => Err(error),
    }
}

/// The snapshot records that cannot be read under their names: damaged ones, and those under the name of another
/// source.
fn unreadable(repo: &Repository) -> Result<Vec<ObjectKey>> {
    let mut keys = Vec::new();
    for (id, sources) in repo.record_names(ObjectKind::Snapshot)? {
        for key in sources.into_iter().map(|source| ObjectKey::Snapshot { source, id }) {
            keys.extend(is_damaged(repo.read_snapshot(&key))?.then_some(key));
        }
    }
    Ok(keys)
}

/// The snapshot records that are whole and lie under the name of another source.
pub(super) fn misplaced(repo: &Repository) -> Result<Vec<(ObjectKey, Misplaced)>> {
    let mut found = Vec::new();
    for key in unreadable(repo)? {
        found.extend(repo.misplaced(&key)?.map(|misplaced| (key, misplaced)));
    }
    Ok(found)
}

impl Run<'_> {
    /// Moves records from the name of another source to their own, unless they have been forgotten.
    pub(super) fn put_in_place(&mut self) -> Result<()> {
        for (key, Misplaced { own, stored }) in misplaced(self.repo)? {
            let ObjectKey::Snapshot { id, .. } = key else { continue };
            if !matches!(self.repo.health(&own)?, Health::Whole) && !self.repo.is_explained(&id)? {
                // The id is the hash of these bytes, so only a damaged record can be overwritten.
                self.repo.backend().write(&own, &[&stored], WriteMode::Replace)?;
            }
            self.repo.backend().delete(&[key])?;
            if !self.report.healed.contains(&own) {
                self.report.healed.push(own);
            }
        }
        Ok(())
    }

    /// Sets damaged records aside and puts something whole in their places.
    pub(super) fn set_aside_records(&mut self) -> Result<()> {
        for key in damaged(self.repo)? {
            match key {
                ObjectKey::Snapshot { source, id } => self.set_aside_snapshot(source, &id)?,
                ObjectKey::Mark { snapshot, id } => self.set_aside_mark(&snapshot, &id)?,
                ObjectKey::Forgotten(id) => self.set_aside_forgotten(&id)?,
                // A journal entry needs no replacement: nothing depends on it.
                ObjectKey::Log { id, .. } if self.copied(SetAside::Log, &key, *id.as_bytes())? => self.repo.backend().delete(&[key])?,
                _ => {}
            }
        }
        Ok(())
    }

    /// Copies a record to quarantine. Returns whether it lies there now.
    fn copied(&mut self, kind: SetAside, key: &ObjectKey, id: [u8; 32]) -> Result<bool> {
        match copy(self.repo, kind, key, id)? {
            Copied::There(to, _) => {
                self.report.set_aside.push(to);
                Ok(true)
            }
            Copied::Gone => Ok(false),
            Copied::Not(why) => {
                self.report.left.push(why);
                Ok(false)
            }
        }
    }

    /// Lists the snapshot again under a new id, with its marks, if the local catalog knows its record. Otherwise it
    /// counts as forgotten: nobody knows any more what it needs.
    fn set_aside_snapshot(&mut self, source: SourceTag, id: &SnapshotId) -> Result<()> {
        let key = ObjectKey::Snapshot { source, id: *id };
        let names = self.repo.record_names(ObjectKind::Snapshot)?.remove(id).unwrap_or_default();
        let counts = self.repo.read_same_id(&names, |source| ObjectKey::Snapshot { source, id: *id })?;
        if counts.is_some_and(|counts| counts.source != source) {
            // A whole record under another source's name stands for the snapshot, so nothing is lost.
            let is_there = self.copied(SetAside::Snapshot, &key, *id.as_bytes())?;
            return if is_there { self.repo.backend().delete(&[key]) } else { Ok(()) };
        }
        let known = self.known(id)?;
        if !self.copied(SetAside::Snapshot, &key, *id.as_bytes())? {
            return Ok(());
        }
        match &known {
            Some(snapshot) => {
                let new = self.list_again(id, snapshot)?;
                self.report.reissued.push((*id, new));
                self.repo.decide_forgotten(std::iter::once(&(*id, snapshot.clone())), self.options.author.now_ns)?;
            }
            None => self.write_forgotten(id)?,
        }
        self.repo.backend().delete(&[key])?;
        // A failure is ignored: the next refresh finds out by itself.
        let _ = self.repo.catalog().remove_snapshots(&[*id]);
        Ok(())
    }

    /// The record of a snapshot, if the local catalog knows it.
    fn known(&self, id: &SnapshotId) -> Result<Option<SnapshotRecord>> {
        let known = self.repo.on_catalog(|local| local.snapshots())?.into_iter().find(|(known, _)| known == id);
        Ok(known.and_then(|(_, bytes)| record::decode(&bytes).ok()))
    }

    /// Writes the record of a snapshot and its marks under a new id, and returns that.
    fn list_again(&self, old: &SnapshotId, snapshot: &SnapshotRecord) -> Result<SnapshotId> {
        let (new, stored) = self.repo.seal_snapshot(snapshot)?;
        // Marks before the record: a protected snapshot must never be listed without its protection.
        for id in self.repo.list_marks()?.remove(old).unwrap_or_default() {
            if let Ok(Some(mark)) = self.repo.read_mark(old, &id) {
                self.repo.write_mark(&crate::store::format::mark::MarkRecord { snapshot: new, ..mark })?;
            }
        }
        self.repo.backend().write(&self.repo.snapshot_key(&new, &snapshot.source.id), &[&stored], WriteMode::CreateNew)?;
        Ok(new)
    }

    /// Writes a `forgotten` record for a snapshot. Only its id is known.
    fn write_forgotten(&self, id: &SnapshotId) -> Result<()> {
        let now_ns = self.options.author.now_ns;
        let label = "its record was damaged".to_owned();
        let (time_ns, forgotten_ns, source) = (now_ns, now_ns, SourceId([0; 32]));
        let forgotten = ForgottenRecord { snapshot: *id, parent: None, source, time_ns, forgotten_ns, label, decided: true };
        self.repo.write_forgotten_records(std::iter::once(forgotten), WriteMode::Replace)
    }

    /// Sets a mark aside. It may have protected its snapshot, so the snapshot gets a new protection, unless it has
    /// one.
    fn set_aside_mark(&mut self, snapshot: &SnapshotId, id: &MarkId) -> Result<()> {
        let key = ObjectKey::Mark { snapshot: *snapshot, id: *id };
        if !self.copied(SetAside::Mark, &key, *id.as_bytes())? {
            return Ok(());
        }
        let refreshed = self.repo.refresh()?;
        let is_protected = refreshed.marks.get(snapshot).is_some_and(|marks| marks.protection().is_some());
        if !is_protected && refreshed.snapshots.iter().any(|(id, _)| id == snapshot) {
            let detail = format!("mark {id} was damaged and may have protected it");
            let statement = Statement { kind: MarkKind::Protect, code: String::new(), detail };
            match mark(self.repo, &refreshed, snapshot, &statement, &self.options.author) {
                Ok(_) | Err(Error::NotFound { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        self.repo.backend().delete(&[key])
    }

    /// Sets a `forgotten` record aside. Its name alone says that the snapshot was forgotten, so an empty record
    /// replaces it. If the snapshot is still listed, forgetting it was interrupted, and the record just goes.
    fn set_aside_forgotten(&mut self, id: &SnapshotId) -> Result<()> {
        let key = ObjectKey::Forgotten(*id);
        if !self.copied(SetAside::Forgotten, &key, *id.as_bytes())? {
            return Ok(());
        }
        let is_listed = self.repo.record_names(ObjectKind::Snapshot)?.contains_key(id);
        // Ask for the record itself, too: an incomplete listing must not cost a snapshot.
        let own = self.known(id)?.map(|record| self.repo.snapshot_key(id, &record.source.id));
        let is_there = is_listed || own.map_or(Ok(None), |own| self.repo.backend().stat(&own))?.is_some();
        if is_there { self.repo.backend().delete(&[key]) } else { self.write_forgotten(id) }
    }
}
