//! Packs that a backup does not rely on: missing ones, ones with another size than they were written with, and ones in which damage was found.
//! Their chunks are stored anew from the source. So a backup of a damaged repository is whole itself, and mends what it shares with older
//! snapshots.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, PoisonError};

use super::super::Repository;
use super::super::new_chunk::NewChunk;
use super::WriteSession;
use crate::error::Result;
use crate::id::{ChunkId, PackId};
use crate::store::backend::{ObjectKey, ObjectKind};
use crate::store::repo::u64_from;

/// The most chunks of missing packs that are counted as mended. Further ones are stored anew, too.
const GONE_MAX: usize = 1 << 18;

/// The packs that a backup does not rely on.
#[derive(Debug, Clone, Default)]
pub struct Suspects {
    /// Packs that are gone, have another size, or were found damaged.
    pub packs: HashSet<PackId>,
    /// Chunks of missing packs. The catalog forgets those packs, so these ids are kept here.
    pub(crate) gone: Arc<HashSet<ChunkId>>,
}

impl Repository {
    /// The packs that are not listed as the catalog knows them, and those that were found damaged when they were last read. `None` if nothing is in
    /// doubt. An empty set means that the catalog was rebuilt, so it cannot tell what is missing.
    pub fn suspect_packs(&self) -> Result<Option<Suspects>> {
        let mut listed = HashMap::new();
        for info in self.backend().list(ObjectKind::Pack)? {
            let info = info?;
            if let ObjectKey::Pack(id) = info.key {
                listed.insert(id, info.size);
            }
        }
        self.on_catalog(|local| {
            let mut suspects = Suspects::default();
            let mut gone = HashSet::new();
            for known in local.packs()? {
                let size = listed.get(&known.pack.id).copied();
                if size != Some(known.pack.size) {
                    suspects.packs.insert(known.pack.id);
                }
                if size.is_none() && gone.len() < GONE_MAX {
                    gone.extend(self.table(local, known.num)?.iter().flat_map(|table| table.trailer.chunks.iter().map(|chunk| chunk.id)));
                }
            }
            suspects.gone = Arc::new(gone);
            // A damaged pack that is gone meanwhile is handled above.
            let unsound = local.readings()?.into_iter().filter(|(id, reading)| !reading.is_sound && listed.contains_key(id));
            suspects.packs.extend(unsound.map(|(id, _)| id));
            Ok((local.was_rebuilt() || !suspects.packs.is_empty()).then_some(suspects))
        })
    }

    /// Whether the catalog has all of these packs.
    pub(crate) fn knows_all(&self, packs: impl Iterator<Item = PackId> + Clone) -> Result<bool> {
        self.on_catalog(|local| {
            for id in packs.clone() {
                if local.pack_num(&id)?.is_none() {
                    return Ok(false);
                }
            }
            Ok(true)
        })
    }
}

impl WriteSession {
    /// From now on, nothing in these packs counts as stored, nor anything that needs them. Chunks that the parent has are looked for, too.
    pub fn distrust(&mut self, suspects: Suspects) {
        self.suspects = Some(suspects);
    }

    /// How many chunks were stored anew because their stored copies are damaged or gone.
    pub fn healed_chunks(&self) -> u64 {
        u64_from(self.mended.lock().unwrap_or_else(PoisonError::into_inner).len())
    }

    /// Whether copies in this pack may be relied on.
    pub(super) fn counts(&self, pack: &PackId) -> bool {
        !self.tombstoned.contains(pack) && self.suspects.as_ref().is_none_or(|suspects| !suspects.packs.contains(pack))
    }

    /// Whether a chunk is the same as the parent's in its place, and so need not be stored.
    pub(crate) fn inherits(&self, predecessor: Option<ChunkId>, id: &ChunkId) -> Result<bool> {
        if predecessor != Some(*id) || self.suspects.is_none() {
            return Ok(predecessor == Some(*id));
        }
        // The parent's chunk may lie in a suspect pack, or stand on one.
        Ok(self.trusted(self.repo.copies(id)?)?.is_some())
    }

    /// Notes that a chunk is stored again, if a stored copy of it is damaged or gone.
    pub(in crate::store::repo) fn note_mended(&self, chunk: &NewChunk<'_>) -> Result<()> {
        let Some(suspects) = &self.suspects else { return Ok(()) };
        let was_inherited = chunk.references.iter().any(|reference| reference.predecessor == Some(chunk.id));
        let is_marked = |pack: &PackId| self.tombstoned.contains(pack);
        // A chunk that lies only in packs with a tombstone is not damaged.
        if was_inherited || suspects.gone.contains(&chunk.id) || self.repo.copies(&chunk.id)?.iter().any(|copy| !is_marked(&copy.pack())) {
            self.mended.lock().unwrap_or_else(PoisonError::into_inner).insert(chunk.id);
        }
        Ok(())
    }

    pub(in crate::store::repo) fn is_mended(&self, id: &ChunkId) -> bool {
        self.suspects.is_some() && self.mended.lock().unwrap_or_else(PoisonError::into_inner).contains(id)
    }
}
