//! How deep a chunk lies: remembered for as many as memory allows, looked up in batches for others.

use std::collections::HashMap;

use super::chains::Depth;
use crate::error::Result;
use crate::id::ChunkId;
use crate::store::format::pack::{IdPrefix, Trailer};
use crate::store::repo::Repository;

/// Chunks that are remembered: what fits into a hash table of 2^19 places, 9 MiB. A repository with more costs look-ups.
const KNOWN_MAX: usize = 7 << 16;

/// How deep chunks lie, by the start of their ids: what is remembered of two chunks that share it is the lesser of both.
#[derive(Default)]
pub(super) struct Depths {
    known: HashMap<IdPrefix, Depth>,
}

impl Depths {
    /// Remembers the chunks of a pack. When every pack was added, what is remembered is right for every copy: a chunk that found no room once
    /// finds none later, as nothing is ever taken out.
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

    /// How deep these chunks lie, in their order.
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
                // A pack that no listed snapshot names is found by listing them all.
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
