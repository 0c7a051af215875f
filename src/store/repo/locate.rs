//! Finding the copies of a chunk: the catalog gives candidates, and the tables of packs say which of them are right.
//!
//! A pack's table is its trailer in decoded form. The catalog keeps the bytes of all trailers, so no pack is read here. A table that does not
//! decode means that the catalog is wrong, which is given up then. Decoded tables are shared, and bounded in memory.

use std::sync::{Arc, Mutex, PoisonError};

use super::cache::Cache;
use super::catalog::{ChunkAt, PackNum};
use super::{LocalCatalog, Repository};
use crate::error::{Error, Result};
use crate::id::{ChunkId, PackId};
use crate::store::backend::ObjectKey;
use crate::store::crypto::Sealer;
use crate::store::format::pack::{ChunkEntry, Encoding, Frame, IdPrefix, Trailer};
use crate::store::format::snapshot::PackRef;
use crate::store::format::{HEADER_LEN, Kind, Malformed, ObjectHeader, SALT_LEN};
use crate::store::repo::{u32_from, u64_from, usize_from};

/// Bytes of decoded tables kept in memory.
const TABLES_BUDGET: usize = 12 << 20;

/// The table of one pack, ready for use.
pub(crate) struct PackTable {
    pub(crate) pack: PackRef,
    pub(crate) trailer: Trailer,
    pub(crate) sealer: Sealer,
    /// Where each segment starts in the pack, bytes. The last entry is the end of the last segment.
    starts: Vec<u64>,
}

impl PackTable {
    /// The bytes that the catalog keeps of a pack: its salt, then the plain trailer.
    pub(crate) fn catalog_bytes(salt: &[u8; SALT_LEN], trailer: &[u8]) -> Vec<u8> {
        [&salt[..], trailer].concat()
    }

    /// Decodes the bytes that the catalog keeps.
    pub(crate) fn decode(repo: &Repository, pack: PackRef, bytes: &[u8]) -> Result<Self, Malformed> {
        let (salt, trailer) = bytes.split_first_chunk::<SALT_LEN>().ok_or_else(|| Malformed::new("it ends too early"))?;
        let cipher = repo.keys().cipher();
        let header = ObjectHeader { kind: Kind::Pack, cipher, salt: *salt };
        let trailer = Trailer::decode(trailer, cipher.overhead())?;
        let mut starts = vec![u64_from(HEADER_LEN)];
        let mut start = u64_from(HEADER_LEN);
        for &len in &trailer.segments {
            start = start.saturating_add(u64::from(len));
            starts.push(start);
        }
        // The lengths come from a stored trailer. Reading must never go past the part of the pack that holds segments.
        match start <= pack.trailer_offset {
            true => Ok(PackTable { pack, trailer, sealer: repo.keys().sealer(&header)?, starts }),
            false => Err(Malformed::new("its segments reach past its trailer")),
        }
    }

    /// Where a segment lies in the pack.
    pub(crate) fn segment_range(&self, segment: u32) -> Result<std::ops::Range<u64>> {
        let ends = (self.starts.get(usize_from(segment)), self.starts.get(usize_from(segment) + 1));
        match ends {
            (Some(&start), Some(&end)) => Ok(start..end),
            _ => Err(Error::corrupt(ObjectKey::Pack(self.pack.id).to_string(), "a chunk lies outside all segments")),
        }
    }

    /// Rough bytes in memory.
    pub(crate) fn weight(&self) -> usize {
        let frames: usize = self.trailer.frames.iter().map(|frame| size_of::<Frame>() + frame.slices.len() * 16).sum();
        // 256 and 12 are guesses at the memory that allocations and the shared pointer take.
        256 + self.trailer.chunks.len() * size_of::<ChunkEntry>() + frames + self.starts.len() * 12
    }
}

/// Decoded tables, shared and bounded.
pub(crate) struct Tables {
    cache: Mutex<Cache<PackNum, Arc<PackTable>>>,
}

impl Tables {
    pub(crate) fn new() -> Self {
        Tables { cache: Mutex::new(Cache::new(TABLES_BUDGET)) }
    }
}

/// Stands for the frame of a row that names no frame. It is never used, because decoding refuses such a table.
static NO_FRAME: Frame =
    Frame { segment: u32::MAX, offset: 0, encoded_len: 0, plain_len: 0, encoding: Encoding::Raw, level: 0, work: 1, slices: Vec::new() };

/// Names a stored copy: the pack, and the row in its table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct CopyPlace {
    pack: PackId,
    index: u32,
}

impl CopyPlace {
    /// The pack.
    pub(crate) fn pack(&self) -> PackId {
        self.pack
    }
}

/// Names a frame: the pack, and the frame's number in its table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct FramePlace {
    pub(crate) pack: PackId,
    pub(crate) number: u32,
}

/// One stored copy of a chunk.
#[derive(Clone)]
pub struct StoredCopy {
    index: u32,
    pub(crate) table: Arc<PackTable>,
    /// The copied row, so that it need not be looked for in the table again.
    pub(crate) entry: ChunkEntry,
}

impl std::fmt::Debug for StoredCopy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StoredCopy").field("pack", &self.table.pack.id).field("entry", &self.entry).finish()
    }
}

impl StoredCopy {
    /// The copy in this row of a table; `None` past its end.
    pub(super) fn at(table: &Arc<PackTable>, index: u32) -> Option<Self> {
        let entry = *table.trailer.chunks.get(usize_from(index))?;
        Some(StoredCopy { index, table: Arc::clone(table), entry })
    }

    /// The copies in one frame of a pack.
    pub(crate) fn in_frame(table: &Arc<PackTable>, frame: u32) -> impl Iterator<Item = Self> {
        // Decoding the table has verified that its rows are sorted by frame.
        let start = table.trailer.chunks.partition_point(|entry| entry.frame < frame);
        (u32_from(start)..).map_while(|index| Self::at(table, index)).take_while(move |copy| copy.entry.frame == frame)
    }

    pub(crate) fn place(&self) -> CopyPlace {
        CopyPlace { pack: self.table.pack.id, index: self.index }
    }

    /// The pack that holds it.
    pub(crate) fn pack(&self) -> PackId {
        self.table.pack.id
    }

    /// Its row in the pack's table.
    pub(crate) fn row(&self) -> u32 {
        self.index
    }

    pub(crate) fn frame_place(&self) -> FramePlace {
        FramePlace { pack: self.table.pack.id, number: self.entry.frame }
    }

    /// The frame that holds it.
    pub(crate) fn frame(&self) -> &Frame {
        self.table.trailer.frames.get(usize_from(self.entry.frame)).unwrap_or(&NO_FRAME)
    }
}

impl Repository {
    /// What the catalog keeps of a pack's table, see [`PackTable::catalog_bytes`]; `None` if it does not know the pack.
    pub(crate) fn known_table(&self, id: &PackId) -> Result<Option<Vec<u8>>> {
        self.on_catalog(|local| local.pack_num(id)?.map_or(Ok(None), |num| local.trailer(num)))
    }

    /// The table of a pack; `None` if the catalog does not know it.
    pub(crate) fn table_of(&self, id: &PackId) -> Result<Option<Arc<PackTable>>> {
        self.on_catalog(|local| local.pack_num(id)?.map_or(Ok(None), |num| self.table(local, num)))
    }

    /// Level and work of the copy that would be read, for each of these chunks; `None` for a chunk in no known pack. The answers are collected pack
    /// by pack, so that each table is decoded once, however many chunks there are.
    pub(crate) fn depths_of(&self, ids: &[ChunkId]) -> Result<Vec<Option<(u8, u32)>>> {
        let prefixes: Vec<u64> = ids.iter().map(|id| id.prefix().0).collect();
        self.on_catalog(|local| {
            let found = local.find_many(&prefixes)?;
            let mut places: Vec<(ChunkAt, usize)> = Vec::new();
            found.iter().zip(0..).for_each(|(of_one, which)| places.extend(of_one.iter().map(|at| (*at, which))));
            // Sorted by pack. In the order of the ids, nearly every look-up would decode another table.
            places.sort_unstable();
            let mut depths: Vec<Option<(u8, u32)>> = vec![None; ids.len()];
            for (ChunkAt { pack, index }, which) in places {
                let Some(table) = self.table(local, pack)? else { continue };
                let (entry, id, depth) = (table.trailer.chunks.get(usize_from(index)), ids.get(which), depths.get_mut(which));
                let (Some(entry), Some(id), Some(depth)) = (entry, id, depth) else { continue };
                let Some(frame) = table.trailer.frames.get(usize_from(entry.frame)).filter(|_| entry.id == *id) else { continue };
                let own = (frame.level, frame.work);
                *depth = Some(depth.map_or(own, |other| own.min(other)));
            }
            Ok(depths)
        })
    }

    /// All copies in a pack, in the order of its table; none if the catalog does not know it.
    pub(crate) fn copies_in(&self, id: &PackId) -> Result<Vec<StoredCopy>> {
        let Some(table) = self.table_of(id)? else { return Ok(Vec::new()) };
        let rows = table.trailer.chunks.iter().copied().zip(0u32..);
        Ok(rows.map(|(entry, index)| StoredCopy { index, table: Arc::clone(&table), entry }).collect())
    }

    /// The table of a pack that the catalog knows; `None` if the pack has just left the catalog.
    pub(super) fn table(&self, local: &LocalCatalog, num: PackNum) -> Result<Option<Arc<PackTable>>> {
        // The lock is not held while a table is decoded. Two threads may decode the same one, which costs time only.
        let cache = || local.tables.cache.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(table) = cache().get(&num) {
            return Ok(Some(table));
        }
        let (Some(known), Some(bytes)) = (local.pack(num)?, local.trailer(num)?) else { return Ok(None) };
        let table = PackTable::decode(self, known.pack, &bytes)
            .map_err(|m| local.distrust(&format!("its table of pack {} does not decode: {m}", known.pack.id)))?;
        let table = Arc::new(table);
        cache().put(num, Arc::clone(&table), table.weight());
        Ok(Some(table))
    }

    /// All copies of a chunk that the catalog knows, the lowest level first.
    pub(crate) fn copies(&self, id: &ChunkId) -> Result<Vec<StoredCopy>> {
        let mut copies = self.candidates(id.prefix())?;
        copies.retain(|copy| copy.entry.id == *id);
        Ok(copies)
    }

    /// All copies of chunks whose id starts with `prefix`, the lowest level first.
    pub(crate) fn candidates(&self, prefix: IdPrefix) -> Result<Vec<StoredCopy>> {
        self.candidates_of_many(&[prefix])?.pop().ok_or_else(|| Error::bug("the catalog was asked and gave no answer"))
    }

    /// The candidates for many prefixes, in the order of `prefixes`.
    pub(crate) fn candidates_of_many(&self, prefixes: &[IdPrefix]) -> Result<Vec<Vec<StoredCopy>>> {
        let numbers: Vec<u64> = prefixes.iter().map(|prefix| prefix.0).collect();
        self.on_catalog(|local| {
            let found = match numbers.as_slice() {
                [only] => vec![local.find(*only)?],
                many => local.find_many(many)?,
            };
            prefixes.iter().zip(found).map(|(prefix, places)| self.copies_at(local, *prefix, &places)).collect()
        })
    }

    fn copies_at(&self, local: &LocalCatalog, prefix: IdPrefix, places: &[ChunkAt]) -> Result<Vec<StoredCopy>> {
        let mut copies = Vec::with_capacity(places.len());
        for ChunkAt { pack, index } in places {
            let Some(table) = self.table(local, *pack)? else { continue };
            let Some(entry) = table.trailer.chunks.get(usize_from(*index)).copied() else { continue };
            // A damaged or outdated entry may lead to another chunk's row.
            if entry.id.prefix() == prefix {
                copies.push(StoredCopy { index: *index, table, entry });
            }
        }
        // The copy with the shortest chain comes first: it is the cheapest to read.
        copies.sort_by_key(|copy| (copy.frame().level, copy.frame().work));
        Ok(copies)
    }
}
