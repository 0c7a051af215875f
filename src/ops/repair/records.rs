//! Damaged records: set aside, each with something whole in its place that keeps what it may have said.

use crate::error::{Error, Result};
use crate::id::{MarkId, SnapshotId, SourceId};
use crate::ops::mark::{Statement, mark};
use crate::store::backend::{ObjectKey, ObjectKind, SetAside, WriteMode};
use crate::store::format::mark::{ForgottenRecord, MarkKind};
use crate::store::format::record;
use crate::store::format::snapshot::SnapshotRecord;
use crate::store::repo::{LogName, Repository};

use super::aside::{Copied, copy};
use super::run::Run;

/// The records that are damaged.
pub(super) fn damaged(repo: &Repository) -> Result<Vec<ObjectKey>> {
    let mut keys = Vec::new();
    for id in listed(repo)? {
        keys.extend(is_damaged(repo.read_snapshot(&id))?.then_some(ObjectKey::Snapshot(id)));
    }
    for (snapshot, ids) in repo.list_marks()? {
        for id in ids {
            keys.extend(is_damaged(repo.read_mark(&snapshot, &id))?.then_some(ObjectKey::Mark { snapshot, id }));
        }
    }
    let unreadable = repo.list_forgotten()?.unreadable.into_iter();
    keys.extend(unreadable.filter(|(_, error)| matches!(error, Error::Corrupt { .. })).map(|(id, _)| ObjectKey::Forgotten(id)));
    for LogName { time_ns, id } in repo.list_log()? {
        keys.extend(is_damaged(repo.read_log(&LogName { time_ns, id }))?.then_some(ObjectKey::Log { time_ns, id }));
    }
    Ok(keys)
}

/// Whether it is not what was written. What needs a newer icecore is whole.
fn is_damaged<T>(read: Result<T>) -> Result<bool> {
    match read {
        Ok(_) | Err(Error::UnsupportedFormat { .. } | Error::NotFound { .. }) => Ok(false),
        Err(Error::Corrupt { .. }) => Ok(true),
        Err(error) => Err(error),
    }
}

fn listed(repo: &Repository) -> Result<Vec<SnapshotId>> {
    let mut ids = Vec::new();
    for key in repo.backend().names(ObjectKind::Snapshot)? {
        if let ObjectKey::Snapshot(id) = key? {
            ids.push(id);
        }
    }
    ids.sort_unstable();
    Ok(ids)
}

impl Run<'_> {
    /// Sets aside what is damaged of the small records.
    pub(super) fn set_aside_records(&mut self) -> Result<()> {
        for key in damaged(self.repo)? {
            match key {
                ObjectKey::Snapshot(id) => self.set_aside_snapshot(&id)?,
                ObjectKey::Mark { snapshot, id } => self.set_aside_mark(&snapshot, &id)?,
                ObjectKey::Forgotten(id) => self.set_aside_forgotten(&id)?,
                // Nothing depends on it, so nothing stands in its place.
                ObjectKey::Log { id, .. } if self.copied(SetAside::Log, &key, *id.as_bytes())? => self.repo.backend().delete(&[key])?,
                _ => {}
            }
        }
        Ok(())
    }

    /// Copies a record to quarantine; whether it lies there.
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

    /// A snapshot that the local catalog knows is listed again under a new id, with its marks; any other counts as forgotten from now on, as nobody
    /// can tell any more what it needs.
    fn set_aside_snapshot(&mut self, id: &SnapshotId) -> Result<()> {
        let known = self.repo.on_catalog(|local| local.snapshots())?.into_iter().find(|(known, _)| known == id);
        let known: Option<SnapshotRecord> = known.and_then(|(_, bytes)| record::decode(&bytes).ok());
        let key = ObjectKey::Snapshot(*id);
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
        self.repo.delete_snapshots(&[*id])?;
        // Only saves work: the next refresh finds out by itself.
        let _ = self.repo.catalog().remove_snapshots(&[*id]);
        Ok(())
    }

    fn list_again(&self, old: &SnapshotId, snapshot: &SnapshotRecord) -> Result<SnapshotId> {
        let (new, stored) = self.repo.seal_snapshot(snapshot)?;
        // Its marks first: a protected one is never listed without its protection.
        for id in self.repo.list_marks()?.remove(old).unwrap_or_default() {
            if let Ok(Some(mark)) = self.repo.read_mark(old, &id) {
                self.repo.write_mark(&crate::store::format::mark::MarkRecord { snapshot: new, ..mark })?;
            }
        }
        self.repo.backend().write(&ObjectKey::Snapshot(new), &[&stored], WriteMode::CreateNew)?;
        Ok(new)
    }

    /// Nothing is known of the snapshot but its id.
    fn write_forgotten(&self, id: &SnapshotId) -> Result<()> {
        let now_ns = self.options.author.now_ns;
        let label = "its record was damaged".to_owned();
        let (time_ns, forgotten_ns, source) = (now_ns, now_ns, SourceId([0; 32]));
        let forgotten = ForgottenRecord { snapshot: *id, parent: None, source, time_ns, forgotten_ns, label, decided: true };
        self.repo.write_forgotten_records(std::iter::once(forgotten), WriteMode::Replace)
    }

    /// Nobody knows what the mark said; it may have protected its snapshot, so another one does that now.
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

    /// The name alone says that the snapshot was forgotten. One that is still listed was not: forgetting it was interrupted.
    fn set_aside_forgotten(&mut self, id: &SnapshotId) -> Result<()> {
        let key = ObjectKey::Forgotten(*id);
        if !self.copied(SetAside::Forgotten, &key, *id.as_bytes())? {
            return Ok(());
        }
        match self.repo.backend().stat(&ObjectKey::Snapshot(*id))? {
            Some(_) => self.repo.backend().delete(&[key]),
            None => self.write_forgotten(id),
        }
    }
}
