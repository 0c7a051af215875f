//! What a backup does not rely upon: packs that are missing, have another size than they were written with, or in which damage was found.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, PoisonError};

use super::super::Repository;
use super::super::new_chunk::NewChunk;
use super::WriteSession;
use crate::error::Result;
use crate::id::{ChunkId, PackId};
use crate::store::backend::{ObjectKey, ObjectKind};

/// Chunks of packs that are gone of which a backup knows that it heals them; of more it does so all the same.
const GONE_MAX: usize = 1 << 18;

/// What a backup does not rely upon.
#[derive(Debug, Clone, Default)]
pub struct Suspects {
    /// Packs that are gone, have another size, or were found damaged.
    pub packs: HashSet<PackId>,
    /// Chunks that were in packs that are gone: the catalog forgets them.
    pub(crate) gone: Arc<HashSet<ChunkId>>,
}

impl Repository {
    /// Packs that the catalog knows and that are not listed as it knows them, and those that were found damaged when they were read lately. `None` if there
    /// is nothing to doubt; an empty set says that the catalog is too new to tell what is missing.
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
    /// From now on nothing counts as stored that is in one of these packs or needs them, and whatever the parent has is looked for.
    pub fn distrust(&mut self, suspects: Suspects) {
        self.suspects = Some(suspects);
    }

    /// How many chunks were stored anew because their stored copies could not be relied upon.
    pub fn healed_chunks(&self) -> u64 {
        self.healed.lock().unwrap_or_else(PoisonError::into_inner).len() as u64
    }

    /// Whether copies in this pack may be built upon.
    pub(super) fn counts(&self, pack: &PackId) -> bool {
        !self.tombstoned.contains(pack) && self.suspects.as_ref().is_none_or(|suspects| !suspects.packs.contains(pack))
    }

    /// Whether a chunk is the one that the parent has in its place, and so needs no storing.
    pub(crate) fn inherits(&self, predecessor: Option<ChunkId>, id: &ChunkId) -> Result<bool> {
        if predecessor != Some(*id) || self.suspects.is_none() {
            return Ok(predecessor == Some(*id));
        }
        Ok(self.trusted(self.repo.copies(id)?)?.is_some())
    }

    /// Notes that a chunk is stored again, if it was there and is not to be relied upon.
    pub(in crate::store::repo) fn heal(&self, chunk: &NewChunk<'_>) -> Result<()> {
        let Some(suspects) = &self.suspects else { return Ok(()) };
        let was_inherited = chunk.references.iter().any(|reference| reference.predecessor == Some(chunk.id));
        let is_marked = |pack: &PackId| self.tombstoned.contains(pack);
        // What only a prune has marked is no damage.
        if was_inherited || suspects.gone.contains(&chunk.id) || self.repo.copies(&chunk.id)?.iter().any(|copy| !is_marked(&copy.pack())) {
            self.healed.lock().unwrap_or_else(PoisonError::into_inner).insert(chunk.id);
        }
        Ok(())
    }

    pub(in crate::store::repo) fn is_healed(&self, id: &ChunkId) -> bool {
        self.suspects.is_some() && self.healed.lock().unwrap_or_else(PoisonError::into_inner).contains(id)
    }
}
