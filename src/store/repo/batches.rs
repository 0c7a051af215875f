//! Look-ups of many chunks at once. The catalog is asked once for all, and the tables of packs are gone through one by one. So each table is decoded
//! once, and only a few are in memory.

use super::Repository;
use super::catalog::ChunkAt;
use super::locate::{CopyPlace, StoredCopy};
use crate::error::{Error, Result};
use crate::id::ChunkId;
use crate::store::format::pack::IdPrefix;

/// Where one copy of a chunk lies, without the table of its pack.
#[derive(Debug, Clone, Copy)]
pub(crate) struct KnownCopy {
    /// The copy.
    pub(crate) place: CopyPlace,
    /// Its chunk.
    pub(crate) id: ChunkId,
    /// The level of its frame.
    pub(crate) level: u8,
    /// Its plain bytes.
    pub(crate) plain_len: u32,
}

impl Repository {
    /// For each of these prefixes, in their order: all known copies of chunks whose ids start with it.
    pub(crate) fn known_copies(&self, prefixes: &[IdPrefix]) -> Result<Vec<Vec<KnownCopy>>> {
        let numbers: Vec<u64> = prefixes.iter().map(|prefix| prefix.0).collect();
        self.on_catalog(|local| {
            let mut places: Vec<(ChunkAt, usize)> = Vec::new();
            let found = local.find_many(&numbers)?;
            found.iter().zip(0..).for_each(|(of_one, which)| places.extend(of_one.iter().map(|at| (*at, which))));
            // Sorted by pack. Without this nearly every look-up would decode another table.
            places.sort_unstable();
            let mut known: Vec<Vec<KnownCopy>> = vec![Vec::new(); prefixes.len()];
            for of_pack in places.chunk_by(|(one, _), (other, _)| one.pack == other.pack) {
                let Some((first, _)) = of_pack.first() else { continue };
                let Some(table) = self.table(local, first.pack)? else { continue };
                for (at, which) in of_pack {
                    let (Some(copy), Some(prefix)) = (StoredCopy::at(&table, at.index), prefixes.get(*which)) else { continue };
                    if copy.entry.id.prefix() == *prefix {
                        let (id, plain_len) = (copy.entry.id, copy.entry.plain_len);
                        let one = KnownCopy { place: copy.place(), id, level: copy.frame().level, plain_len };
                        known.get_mut(*which).ok_or_else(|| Error::bug("an answer of the catalog has no question"))?.push(one);
                    }
                }
            }
            Ok(known)
        })
    }
}
