//! The commit: mark, then look.

use std::collections::HashSet;

use super::super::Repository;
use super::{WriteSession, list_tombstones};
use crate::backend::{ObjectKey, WriteMode};
use crate::error::{Error, Result};
use crate::format::snapshot::{SnapshotRecord, SnapshotStats};
use crate::id::{PackId, SnapshotId};

/// How often a commit starts again because a prune marks packs meanwhile, before it gives up.
const ATTEMPTS: usize = 8;

/// A snapshot before its commit: what the session adds (packs, costs) is not in it yet.
pub type SnapshotDraft = SnapshotRecord;

/// A committed snapshot.
#[derive(Debug, Clone)]
pub struct Committed {
    /// Its id.
    pub id: SnapshotId,
    /// Its record.
    pub record: SnapshotRecord,
}

impl WriteSession {
    /// Makes everything durable and commits. Only when this returns `Ok` is there a snapshot.
    ///
    /// # Errors
    /// [`Error::Stale`] when the catalog promised what is not there: a new session after a refresh may succeed.
    pub fn commit(mut self, draft: SnapshotDraft) -> Result<Committed> {
        let mut record = draft;
        self.guarded(|| {
            record.packs = self.packer().finish()?;
            record.stats = SnapshotStats { pack_bytes: record.packs.iter().map(|pack| pack.size).sum(), ..*lock(&self.stats) };
            Ok(())
        })?;
        let mut pending = None;
        let result = self.mark_and_look(&mut record, &mut pending);
        if let Some(id) = pending {
            // The mark has served, or failed. What cannot be removed is garbage, and of a snapshot that is there no failure.
            let _ = self.repo.backend().delete(&[ObjectKey::Pending(id)]);
        }
        let id = result?;
        // So is a catalog that cannot be written: the next refresh reads the record again.
        if let Ok(bytes) = crate::format::record::encode(&record) {
            let _ = self.repo.catalog().put_snapshots(&[(id, bytes)]);
        }
        Ok(Committed { id, record })
    }

    /// Marks, looks and commits, again and again while a prune takes something away. `pending` is the mark that is there.
    fn mark_and_look(&mut self, record: &mut SnapshotRecord, pending: &mut Option<SnapshotId>) -> Result<SnapshotId> {
        let backend = self.repo.inner.backend.clone();
        for _ in 0..ATTEMPTS {
            let used: Vec<ObjectKey> = lock(&self.used).iter().map(|id| ObjectKey::Pack(*id)).collect();
            backend.settle(&used)?;
            let (id, stored) = self.repo.seal_snapshot(record)?;
            let old = pending.replace(id);
            backend.write(&ObjectKey::Pending(id), &[&stored], WriteMode::CreateNew)?;
            if let Some(old) = old {
                backend.delete(&[ObjectKey::Pending(old)])?;
            }
            if self.look(&id, record)? && self.publish(&id, &stored)? {
                return Ok(id);
            }
            let rescued = self.rescue(record)?;
            record.stats.pack_bytes += rescued.iter().map(|pack| pack.size).sum::<u64>();
            // From here on every pack that the snapshot needs is known by name; the parent no longer answers for any.
            self.parent = None;
            let used: HashSet<PackId> = lock(&self.used).clone();
            record.packs.retain(|pack| used.contains(&pack.id));
            record.packs.extend(rescued);
        }
        Err(Error::Stale { detail: "a prune keeps marking packs that this backup needs".into() })
    }

    /// Whether what this snapshot was built upon is there, and not marked by a prune; nor its own mark.
    fn look(&self, id: &SnapshotId, record: &SnapshotRecord) -> Result<bool> {
        let backend = self.repo.backend();
        let tombstoned = list_tombstones(&self.repo)?;
        if tombstoned.contains(&as_marked(id)) {
            return Ok(false);
        }
        let used: Vec<PackId> = lock(&self.used).iter().copied().collect();
        for id in used.iter().chain(record.packs.iter().map(|pack| &pack.id)) {
            if tombstoned.contains(id) || backend.stat(&ObjectKey::Pack(*id))?.is_none() {
                return Ok(false);
            }
        }
        match self.parent {
            Some(parent) => Ok(backend.stat(&ObjectKey::Snapshot(parent))?.is_some()),
            None => Ok(true),
        }
    }

    /// The one commit point; whether it stands. It does not if a prune took this writer for dead meanwhile, did not count its mark, and
    /// may have deleted what it needs: then, and after a failure, the record is taken back.
    fn publish(&self, id: &SnapshotId, stored: &[u8]) -> Result<bool> {
        let backend = self.repo.backend();
        let key = ObjectKey::Snapshot(*id);
        let stands = backend.write(&key, &[stored], WriteMode::CreateNew).and_then(|()| Ok(!expired(&self.repo, id)?));
        match stands {
            Ok(true) => return Ok(true),
            Ok(false) => backend.delete(&[key])?,
            // The first failure is the one to report. A record that stays for all that is whole: only its durability is not known.
            Err(_) => drop(backend.delete(&[key])),
        }
        stands
    }
}

/// Whether a prune has marked this writer's pending record as that of a dead one, or has come as far as removing it.
fn expired(repo: &Repository, id: &SnapshotId) -> Result<bool> {
    Ok(list_tombstones(repo)?.contains(&as_marked(id)) || repo.backend().stat(&ObjectKey::Pending(*id))?.is_none())
}

/// The name of the tombstone of a pending record.
fn as_marked(id: &SnapshotId) -> PackId {
    PackId(*id.as_bytes())
}

fn lock<T>(mutex: &std::sync::Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
