//! Finds how deep chunks lie. As many as memory allows are remembered from the tables of packs; the others are looked
//! up in batches.

use std::collections::HashMap;

use super::chains::Depth;
use crate::error::Result;
use crate::id::ChunkId;
use crate::store::format::pack::{IdPrefix, Trailer};
use crate::store::repo::Repository;

/// Most chunks that are remembered: what fits into a hash table of 2^19 places, 9 MiB. A repository with more chunks
/// costs look-ups.
const KNOWN_MAX: usize = 7 << 16;

/// The depths of chunks by the start of their ids. If two chunks share it, the lower depth is kept.
#[derive(Default)]
pub(super) struct Depths {
    known: HashMap<IdPrefix, Depth>,
}

impl Depths {
    /// Remembers the chunks of a pack. When all packs were added, a remembered depth is right for all copies: nothing
    /// is ever removed, so a chunk that found no room once finds none later.
    pub(super) fn add_table(&mut self, trailer: &Trailer) {
        for chunk in trailer.chunks.iter().filter(|chunk| !chunk.node) {
            if let Some(frame) = trailer.frames.get(chunk.frame as usize) {
                self.note(chunk.id.prefix(), Depth { level: frame.level, work: frame.work });
            }
        }
    }

    fn note(&mut self, prefix: IdPrefix, depth: Depth) {
        if let Some(known) = self.known.get_mut(&prefix) {
            *known = depth.min(*known);
        } else if self.known.len() < KNOWN_MAX {
            self.known.insert(prefix, depth);
        }
    }

    /// The depths of these chunks, in their order.
    ///
    /// # Errors
    /// Damage, if one of them is in no pack.
    pub(super) fn of_all(&mut self, repo: &Repository, ids: &[ChunkId]) -> Result<Vec<Depth>> {
        let mut unknown: Vec<ChunkId> = ids.iter().filter(|id| !self.known.contains_key(&id.prefix())).copied().collect();
        unknown.sort_unstable();
        unknown.dedup();
        let mut looked_up = HashMap::new();
        if !unknown.is_empty() {
            let mut found = repo.depths_of(&unknown)?;
            if found.contains(&None) {
                // The chunk may be in a pack that no listed snapshot names. Listing all packs finds it.
                repo.list_all_packs_once()?;
                found = repo.depths_of(&unknown)?;
            }
            for (id, found) in unknown.iter().zip(found) {
                let (level, work) = found.ok_or_else(|| repo.lost(format!("chunk {id}"), "it is in no pack"))?;
                looked_up.insert(*id, Depth { level, work });
                self.note(id.prefix(), Depth { level, work });
            }
        }
        let depth = |id: &ChunkId| looked_up.get(id).or_else(|| self.known.get(&id.prefix())).copied();
        ids.iter().map(|id| depth(id).ok_or_else(|| repo.lost(format!("chunk {id}"), "it is in no pack"))).collect()
    }
}
