//! The commit: announce, then look.
//!
//! It guarantees that a snapshot which this module reports as committed restores, whatever prunes run at the same time. It relies on
//! list-after-write consistency of the storage, and on the order of the writes here and in prune: the backup writes its pending record, and
//! prune its tombstones, before each looks for what the other one wrote. So at least one of them sees the other one.

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
    /// Makes everything durable and commits. After `Ok` there is a snapshot. After an error there is none, unless its record could not be taken
    /// back: then the snapshot is whole.
    ///
    /// # Errors
    /// [`Error::Stale`] when something is gone that the catalog knew, or when prunes kept announcing deletions of what the snapshot needs
    /// ([`ATTEMPTS`] times). A new session after a refresh may succeed.
    pub fn commit(mut self, draft: SnapshotDraft) -> Result<Committed> {
        let mut record = draft;
        self.guarded(|| {
            // From here on all packs of this session are durable.
            record.packs = self.packer().finish()?;
            record.stats = SnapshotStats { pack_bytes: record.packs.iter().map(|pack| pack.size).sum(), ..*lock(&self.stats) };
            Ok(())
        })?;
        let mut pending = None;
        let result = self.mark_and_look(&mut record, &mut pending);
        if let Some(id) = pending {
            // The pending record is not needed any more. If it cannot be removed, it is garbage, and the snapshot is committed nevertheless.
            let _ = self.repo.backend().delete(&[self.repo.pending_key(&id, &record.source.id)]);
        }
        let id = result?;
        // Likewise if the catalog cannot be written: the next refresh reads the record again.
        if let Ok(bytes) = crate::store::format::record::encode(&record) {
            let _ = self.repo.catalog().put_snapshots(&[(id, bytes)]);
        }
        Ok(Committed { id, record })
    }

    /// Marks, looks and commits. Starts again while a prune takes something away. `pending` is the mark that is in the repository.
    fn mark_and_look(&mut self, record: &mut SnapshotRecord, pending: &mut Option<SnapshotId>) -> Result<SnapshotId> {
        let backend = self.repo.inner.backend.clone();
        let (began, began_ns) = (Instant::now(), record.written_ns);
        for _ in 0..ATTEMPTS {
            // A prune judges by this time how old the mark is. A commit that starts again must not look like that of a dead writer.
            record.written_ns = later(began_ns, began);
            let used: Vec<ObjectKey> = lock(&self.used).iter().map(|id| ObjectKey::Pack(*id)).collect();
            // Another process wrote these packs. Their directories may not be durable yet.
            backend.settle(&used)?;
            let (id, stored) = self.repo.seal_snapshot(record)?;
            // The new mark is there before the old one goes: at every moment one of them keeps prune from deleting the packs.
            let old = pending.replace(id);
            backend.write(&self.repo.pending_key(&id, &record.source.id), &[&stored], WriteMode::CreateNew)?;
            if let Some(old) = old {
                backend.delete(&[self.repo.pending_key(&old, &record.source.id)])?;
            }
            if self.look(&id, record)? && self.publish(&id, &stored, record)? {
                return Ok(id);
            }
            // Something has a tombstone or is gone. The rescue makes the snapshot independent of it; then announcing and looking start again.
            let rescued = self.rescue(record)?;
            record.stats.pack_bytes += rescued.iter().map(|pack| pack.size).sum::<u64>();
            // From here on the snapshot needs no other snapshot to keep its inherited subtrees: the rescue named all packs.
            self.inherits.clear();
            let used: HashSet<PackId> = lock(&self.used).clone();
            record.packs.retain(|pack| used.contains(&pack.id));
            record.packs.extend(rescued);
        }
        Err(Error::Stale { detail: "a prune keeps marking packs that this backup needs".into() })
    }

    /// Whether all packs and snapshots that the snapshot relies on are there without a tombstone, and its pending record is neither suspected
    /// nor expired.
    fn look(&self, id: &SnapshotId, record: &SnapshotRecord) -> Result<bool> {
        let backend = self.repo.backend();
        // Tombstones are listed before packs are looked for. A prune that writes tombstones later sees our pending record.
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
        // While a snapshot is listed, prune keeps everything below it, so packs of inherited subtrees need not be looked for one by one.
        for (id, source) in &self.inherits {
            if tombstoned.contains(&expiry_of(id)) || backend.stat(&ObjectKey::Snapshot { source: *source, id: *id })?.is_none() {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Writes the record in `snapshots`, the one commit point, and says whether the commit stands. It does not stand if a prune has taken this
    /// writer for dead in the meantime: then the prune ignored the pending record and may have deleted packs. In that case, and after a failure, the
    /// record is taken back.
    fn publish(&self, id: &SnapshotId, stored: &[u8], record: &SnapshotRecord) -> Result<bool> {
        let backend = self.repo.backend();
        let key = self.repo.snapshot_key(id, &record.source.id);
        let written = backend.write(&key, &[stored], WriteMode::CreateNew);
        let pending = self.repo.pending_key(id, &record.source.id);
        let stands = written.and_then(|()| Ok(!self.repo.is_taken_for_dead(id, &pending)?));
        match stands {
            Ok(true) => return Ok(true),
            Ok(false) => self.take_back(id, record)?,
            // The first failure is the one to report. If the record stays after all, it is whole; only its durability is not known.
            Err(_) => drop(self.take_back(id, record)),
        }
        stands
    }

    /// Removes a record that was committed. Other processes may have seen it, so an expiry is written first. It says for ever that this is not a
    /// snapshot; otherwise prune would take the record for lost and stop.
    fn take_back(&self, id: &SnapshotId, record: &SnapshotRecord) -> Result<()> {
        let backend = self.repo.backend();
        let key = self.repo.snapshot_key(id, &record.source.id);
        if matches!(backend.stat(&key), Ok(None)) {
            return Ok(());
        }
        // Even without the expiry the record must go: a snapshot that may lack packs is worse than a prune that stops.
        let said = self.repo.write_expiry(id, record.written_ns, &record.host);
        backend.delete(&[key])?;
        said
    }
}

/// The present time, nanoseconds since 1970 UTC, if the clock said `then_ns` at the instant `then`. It never goes back as the clock may.
pub(crate) fn later(then_ns: i64, then: Instant) -> i64 {
    then_ns.saturating_add(i64::try_from(then.elapsed().as_nanos()).unwrap_or(i64::MAX))
}

fn lock<T>(mutex: &std::sync::Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
