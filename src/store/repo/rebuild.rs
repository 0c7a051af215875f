//! Makes the local catalog anew from the packs.
//! It keeps what only the catalog knows: the known snapshots, the readings, and the tables of packs whose stored tables
//! are damaged. So it never loses chunks that it could still find. It relies on readers to verify each chunk of a kept
//! table.

use std::sync::PoisonError;

use super::Repository;
use super::catalog::{KnownPack, NewPack};
use super::locate::PackTable;
use crate::error::{Error, Result};
use crate::id::ChunkId;
use crate::store::repo::u64_from;

/// The catalog's table of a pack whose stored table cannot be read any more.
struct Salvaged {
    known: KnownPack,
    bytes: Vec<u8>,
    ids: Vec<ChunkId>,
}

/// The result of making the catalog anew.
#[derive(Debug, Default)]
pub struct Rebuilt {
    /// Packs in it now.
    pub packs: u64,
    /// Packs whose stored tables are damaged, but whose tables the catalog had. Their chunks can still be found; each is verified when it is read.
    pub salvaged: u64,
    /// Errors for listed packs that cannot be read.
    pub damage: Vec<Error>,
}

impl Repository {
    /// Makes the catalog anew from the tables in the packs. From the old one it keeps only what nothing else knows: which snapshots there
    /// were (a prune stops if one is gone without a trace), the results of checks, and the tables of packs whose stored tables are damaged.
    pub fn rebuild_catalog(&self) -> Result<Rebuilt> {
        self.on_catalog(|local| {
            // If the catalog itself is damaged, this fails, and all is done again with the empty catalog that has replaced it.
            let (snapshots, readings, salvaged) = (local.snapshots()?, local.readings()?, self.salvage(local)?);
            local.clear()?;
            let fresh: Vec<NewPack<'_>> =
                salvaged.iter().map(|one| NewPack { pack: one.known.pack, ids: &one.ids, trailer: &one.bytes }).collect();
            local.add_packs(&fresh)?;
            local.put_snapshots(&snapshots)?;
            local.put_readings(&readings)?;
            // The salvaged tables are in already, so their packs count as known and are not read again.
            let damage = self.list_packs_into(local)?;
            *local.listed_all.lock().unwrap_or_else(PoisonError::into_inner) = None;
            Ok(Rebuilt { packs: u64_from(local.packs()?.len()), salvaged: u64_from(salvaged.len()), damage })
        })
    }

    /// The catalog's tables of packs that are there but whose stored tables cannot be read.
    fn salvage(&self, local: &super::LocalCatalog) -> Result<Vec<Salvaged>> {
        let mut salvaged = Vec::new();
        for known in local.packs()? {
            let stored = self.backend().stat(&crate::store::backend::ObjectKey::Pack(known.pack.id))?;
            let Some(size) = stored else { continue };
            match self.find_trailer(known.pack.id, size).and_then(|pack| self.read_table(&pack)) {
                Err(error) if error.is_damage() => {}
                Ok(_) | Err(Error::UnsupportedFormat { .. }) => continue,
                Err(error) => return Err(error),
            }
            let Some(bytes) = local.trailer(known.num)? else { continue };
            let Ok(table) = PackTable::decode(self, known.pack, &bytes) else { continue };
            let ids = table.trailer.chunks.iter().map(|chunk| chunk.id).collect();
            salvaged.push(Salvaged { known, bytes, ids });
        }
        Ok(salvaged)
    }
}
