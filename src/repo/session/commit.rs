//! The commit: mark, then look.

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

/// Whether what a snapshot needs is there.
enum Look {
    AllThere,
    SomethingGone,
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
        let mut last_pending: Option<SnapshotId> = None;
        for _ in 0..ATTEMPTS {
            let used: Vec<ObjectKey> = lock(&self.used).values().map(|id| ObjectKey::Pack(*id)).collect();
            self.repo.backend().settle(&used)?;
            let (id, stored) = self.repo.seal_snapshot(&record)?;
            self.repo.backend().write(&ObjectKey::Pending(id), &[&stored], WriteMode::CreateNew)?;
            if let Some(old) = last_pending.replace(id) {
                self.repo.backend().delete(&ObjectKey::Pending(old))?;
            }
            match self.look(&record)? {
                Look::AllThere => return self.publish(id, record, &stored),
                Look::SomethingGone => {
                    let rescued = self.rescue(&record)?;
                    record.stats.pack_bytes += rescued.iter().map(|pack| pack.size).sum::<u64>();
                    record.packs.extend(rescued);
                    // From here on every pack that the snapshot needs is known by name; the parent no longer answers for any.
                    self.parent = None;
                }
            }
        }
        Err(Error::Stale { detail: "a prune keeps marking packs that this backup needs".into() })
    }

    /// Looks whether what this snapshot was built upon is there, and not marked by a prune.
    fn look(&self, record: &SnapshotRecord) -> Result<Look> {
        let backend = self.repo.backend();
        let tombstoned = list_tombstones(&self.repo)?;
        let used: Vec<PackId> = lock(&self.used).values().copied().collect();
        for id in used.iter().chain(record.packs.iter().map(|pack| &pack.id)) {
            if tombstoned.contains(id) || backend.stat(&ObjectKey::Pack(*id))?.is_none() {
                return Ok(Look::SomethingGone);
            }
        }
        match self.parent {
            Some(parent) if backend.stat(&ObjectKey::Snapshot(parent))?.is_none() => Ok(Look::SomethingGone),
            _ => Ok(Look::AllThere),
        }
    }

    /// The one commit point, and what follows it.
    fn publish(&self, id: SnapshotId, record: SnapshotRecord, stored: &[u8]) -> Result<Committed> {
        let backend = self.repo.backend();
        backend.write(&ObjectKey::Snapshot(id), &[stored], WriteMode::CreateNew)?;
        if expired(&self.repo, &id)? && self.rescue(&record).is_err() {
            // A prune took this writer for dead, did not count its mark, and has deleted what it needs.
            backend.delete(&ObjectKey::Snapshot(id))?;
            return Err(Error::Stale { detail: "this backup was stopped for so long that a prune took it for dead".into() });
        }
        backend.delete(&ObjectKey::Pending(id))?;
        let bytes = crate::format::record::encode(&record).map_err(|m| m.of(ObjectKey::Snapshot(id)))?;
        self.repo.catalog().put_snapshots(&[(id, bytes)])?;
        Ok(Committed { id, record })
    }
}

/// Whether a prune has marked this writer's pending record as that of a dead one. Such a tombstone bears the record's id.
fn expired(repo: &Repository, id: &SnapshotId) -> Result<bool> {
    Ok(list_tombstones(repo)?.contains(&PackId(*id.as_bytes())))
}

fn lock<T>(mutex: &std::sync::Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
