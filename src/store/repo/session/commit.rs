//! The commit: mark, then look.

use std::collections::HashSet;
use std::time::Instant;

use super::super::expired::{expiry_of, suspicion_of};
use super::{WriteSession, list_tombstones};
use crate::error::{Error, Result};
use crate::id::{PackId, SnapshotId};
use crate::store::backend::{ObjectKey, WriteMode};
use crate::store::format::snapshot::{SnapshotRecord, SnapshotStats};

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
            let _ = self.repo.backend().delete(&[self.repo.pending_key(&id, &record.source.id)]);
        }
        let id = result?;
        // So is a catalog that cannot be written: the next refresh reads the record again.
        if let Ok(bytes) = crate::store::format::record::encode(&record) {
            let _ = self.repo.catalog().put_snapshots(&[(id, bytes)]);
        }
        Ok(Committed { id, record })
    }

    /// Marks, looks and commits, again and again while a prune takes something away. `pending` is the mark that is there.
    fn mark_and_look(&mut self, record: &mut SnapshotRecord, pending: &mut Option<SnapshotId>) -> Result<SnapshotId> {
        let backend = self.repo.inner.backend.clone();
        let (began, began_ns) = (Instant::now(), record.written_ns);
        for _ in 0..ATTEMPTS {
            record.written_ns = later(began_ns, began);
            let used: Vec<ObjectKey> = lock(&self.used).iter().map(|id| ObjectKey::Pack(*id)).collect();
            backend.settle(&used)?;
            let (id, stored) = self.repo.seal_snapshot(record)?;
            let old = pending.replace(id);
            backend.write(&self.repo.pending_key(&id, &record.source.id), &[&stored], WriteMode::CreateNew)?;
            if let Some(old) = old {
                backend.delete(&[self.repo.pending_key(&old, &record.source.id)])?;
            }
            if self.look(&id, record)? && self.publish(&id, &stored, record)? {
                return Ok(id);
            }
            let rescued = self.rescue(record)?;
            record.stats.pack_bytes += rescued.iter().map(|pack| pack.size).sum::<u64>();
            // From here on every pack that the snapshot needs is known by name; no other snapshot answers for any.
            self.inherits.clear();
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
        if tombstoned.contains(&suspicion_of(id)) || tombstoned.contains(&expiry_of(id)) {
            return Ok(false);
        }
        let used: Vec<PackId> = lock(&self.used).iter().copied().collect();
        for id in used.iter().chain(record.packs.iter().map(|pack| &pack.id)) {
            if tombstoned.contains(id) || backend.stat(&ObjectKey::Pack(*id))?.is_none() {
                return Ok(false);
            }
        }
        for (id, source) in &self.inherits {
            if tombstoned.contains(&expiry_of(id)) || backend.stat(&ObjectKey::Snapshot { source: *source, id: *id })?.is_none() {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// The one commit point; whether it stands. It does not if a prune took this writer for dead meanwhile, did not count its mark, and
    /// may have deleted what it needs: then, and after a failure, the record is taken back.
    fn publish(&self, id: &SnapshotId, stored: &[u8], record: &SnapshotRecord) -> Result<bool> {
        let backend = self.repo.backend();
        let key = self.repo.snapshot_key(id, &record.source.id);
        let written = backend.write(&key, &[stored], WriteMode::CreateNew);
        let pending = self.repo.pending_key(id, &record.source.id);
        let stands = written.and_then(|()| Ok(!self.repo.is_taken_for_dead(id, &pending)?));
        match stands {
            Ok(true) => return Ok(true),
            Ok(false) => self.take_back(id, record)?,
            // The first failure is the one to report. A record that stays for all that is whole: only its durability is not known.
            Err(_) => drop(self.take_back(id, record)),
        }
        stands
    }

    /// Removes what was committed. Others may have seen it, so it is said first, for ever, that it is no snapshot: prune must know that nobody lost it.
    fn take_back(&self, id: &SnapshotId, record: &SnapshotRecord) -> Result<()> {
        let backend = self.repo.backend();
        let key = self.repo.snapshot_key(id, &record.source.id);
        if matches!(backend.stat(&key), Ok(None)) {
            return Ok(());
        }
        let said = self.repo.write_expiry(id, record.written_ns, &record.host);
        backend.delete(&[key])?;
        said
    }
}

/// The clock's time now, which was `then_ns` at that instant; nanoseconds since 1970 UTC.
pub(crate) fn later(then_ns: i64, then: Instant) -> i64 {
    then_ns.saturating_add(i64::try_from(then.elapsed().as_nanos()).unwrap_or(i64::MAX))
}

fn lock<T>(mutex: &std::sync::Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
