//! Making the local catalog anew from what is stored.

use std::sync::PoisonError;

use super::Repository;
use super::catalog::{KnownPack, NewPack};
use super::locate::PackTable;
use crate::error::{Error, Result};
use crate::id::ChunkId;

/// The table of a pack whose own can not be read any more.
struct Salvaged {
    known: KnownPack,
    bytes: Vec<u8>,
    ids: Vec<ChunkId>,
}

/// What making the catalog anew gave.
#[derive(Debug, Default)]
pub struct Rebuilt {
    /// Packs in it now.
    pub packs: u64,
    /// Packs whose stored tables are damaged, but were known here: their chunks can still be found. Each is verified when it is read.
    pub salvaged: u64,
    /// What cannot be read of the packs that are listed.
    pub damage: Vec<Error>,
}

impl Repository {
    /// Makes the catalog anew from the tables in the packs. Only what nothing else knows is kept of the old one: which snapshots there were (a prune stops
    /// if one is gone without a trace), what checks have read, and the tables of packs whose stored ones are damaged.
    ///
    /// # Errors
    /// [`Error::Backend`] if packs cannot be listed or read; [`Error::Catalog`].
    pub fn rebuild_catalog(&self) -> Result<Rebuilt> {
        self.on_catalog(|local| {
            // Of a catalog that is damaged nothing is kept; it has been replaced when this is done again.
            let (snapshots, readings, salvaged) = (local.snapshots()?, local.readings()?, self.salvage(local)?);
            local.clear()?;
            let fresh: Vec<NewPack<'_>> =
                salvaged.iter().map(|one| NewPack { pack: one.known.pack, ids: &one.ids, trailer: &one.bytes }).collect();
            local.add_packs(&fresh)?;
            local.put_snapshots(&snapshots)?;
            local.put_readings(&readings)?;
            let damage = self.list_packs_into(local)?;
            *local.listed_all.lock().unwrap_or_else(PoisonError::into_inner) = None;
            Ok(Rebuilt { packs: local.packs()?.len() as u64, salvaged: salvaged.len() as u64, damage })
        })
    }

    /// The tables that the catalog knows of packs that are there and whose stored tables cannot be read.
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
