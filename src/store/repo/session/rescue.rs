//! The rescue: when something that a new snapshot relies on is gone or has a tombstone, the whole snapshot is walked, and every chunk that is
//! not safe is brought into new packs. Afterwards the snapshot relies only on packs that are listed and have no tombstone, each known by name.

use std::collections::HashSet;

use super::super::merkle;
use super::super::repack::Repacker;
use super::{Closure, WriteSession, list_tombstones};
use crate::error::{Error, Result};
use crate::id::{ChunkId, PackId};
use crate::store::backend::{ObjectKey, ObjectKind};
use crate::store::format::snapshot::{PackRef, SnapshotRecord};

impl WriteSession {
    /// Stores anew, whole, every chunk of the snapshot without a copy whose whole chain lies in listed packs without a tombstone. Afterwards `used` has exactly the
    /// old packs that the snapshot needs; the new ones are returned. Packs that are gone or have a tombstone are not needed any more.
    ///
    /// # Errors
    /// [`Error::Stale`] if a chunk is lost for good; chunks of trees and of the listing count too.
    pub(super) fn rescue(&self, snapshot: &SnapshotRecord) -> Result<Vec<PackRef>> {
        self.walk_and_copy(snapshot).map_err(|error| match error.is_damage() {
            true => Error::Stale { detail: format!("stored chunks that this backup relies on cannot be read any more: {error}") },
            false => error,
        })
    }

    fn walk_and_copy(&self, snapshot: &SnapshotRecord) -> Result<Vec<PackRef>> {
        // First the tombstones, then the packs. A pack that gets a tombstone later is found by the next look of the commit.
        let tombstoned = list_tombstones(&self.repo)?;
        self.repo.list_all_packs()?;
        // The reader may remember places in packs that are gone.
        self.reader.places().forget();
        let mut listed = HashSet::new();
        for key in self.repo.backend().names(ObjectKind::Pack)? {
            if let ObjectKey::Pack(id) = key? {
                listed.insert(id);
            }
        }
        // Collected afresh by `stands`.
        self.used.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clear();
        let counts = |pack: &PackId| listed.contains(pack) && !tombstoned.contains(pack);
        let mut lifeboat = Repacker::new(&self.repo)?;
        let mut seen = HashSet::new();
        let mut visit = |id: &ChunkId, level: u8| {
            if seen.insert(*id) && !self.stands(id, &counts)? {
                // The source may be gone by now, so the bytes come from the repository. Packs with a tombstone can still be read until they are deleted.
                lifeboat.store_whole(*id, &self.reader.chunk(id)?, level > 0, 0)?;
            }
            Ok(true)
        };
        merkle::walk(&self.reader, &snapshot.listing, &mut visit)?;
        for entry in self.reader.entries(&snapshot.listing)? {
            merkle::walk(&self.reader, &entry?.root, &mut visit)?;
        }
        lifeboat.finish()
    }

    /// Whether this chunk has a copy whose whole chain lies in packs that count. If so, these packs are noted as used.
    fn stands(&self, id: &ChunkId, counts: &dyn Fn(&PackId) -> bool) -> Result<bool> {
        for copy in self.repo.copies(id)? {
            if let Some(closure) = Closure::of(self.reader.places(), &copy, counts)? {
                self.build_upon(&closure);
                return Ok(true);
            }
        }
        Ok(false)
    }
}
