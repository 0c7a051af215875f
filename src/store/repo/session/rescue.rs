//! When something that a new snapshot builds upon is gone or marked: walk the whole snapshot and bring every chunk into packs that stay.

use std::collections::HashSet;

use super::super::merkle;
use super::super::repack::Repacker;
use super::{Closure, WriteSession, list_tombstones};
use crate::error::{Error, Result};
use crate::id::{ChunkId, PackId};
use crate::store::backend::{ObjectKey, ObjectKind};
use crate::store::format::snapshot::{PackRef, SnapshotRecord};

impl WriteSession {
    /// Stores anew, whole, every chunk of the snapshot that could not be read from packs that are there and unmarked. Afterwards the packs
    /// used are those that the snapshot needs, beside those returned: what is gone or marked is needed no more.
    ///
    /// # Errors
    /// [`Error::Stale`] when a chunk, also one of a tree or of the listing, is gone for good.
    pub(super) fn rescue(&self, snapshot: &SnapshotRecord) -> Result<Vec<PackRef>> {
        self.walk_and_copy(snapshot).map_err(|error| match error.is_damage() {
            true => Error::Stale { detail: format!("what this backup builds upon cannot be read any more: {error}") },
            false => error,
        })
    }

    fn walk_and_copy(&self, snapshot: &SnapshotRecord) -> Result<Vec<PackRef>> {
        let tombstoned = list_tombstones(&self.repo)?;
        self.repo.list_all_packs()?;
        self.reader.places().forget();
        let mut listed = HashSet::new();
        for key in self.repo.backend().names(ObjectKind::Pack)? {
            if let ObjectKey::Pack(id) = key? {
                listed.insert(id);
            }
        }
        self.used.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clear();
        let counts = |pack: &PackId| listed.contains(pack) && !tombstoned.contains(pack);
        let mut lifeboat = Repacker::new(&self.repo)?;
        let mut seen = HashSet::new();
        let mut visit = |id: &ChunkId, level: u8| {
            if seen.insert(*id) && !self.stands(id, &counts)? {
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

    /// Whether a copy of this chunk can be read from packs that count; then these are among those used.
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
