//! Finds what is damaged: copies that cannot be read, packs that are at fault, and chunks that are missing because of
//! them.
//!
//! A copy can be dead without a fault of its own pack, because a base of it is. Only packs at fault are replaced.
//! Relies on a survey of the repository, whose dead copies are read again here.

use std::collections::{BTreeSet, HashMap, HashSet};

use crate::error::{Error, Result};
use crate::id::{ChunkId, PackId, SnapshotId};
use crate::progress::Monitor;
use crate::store::format::pack::IdPrefix;
use crate::store::format::snapshot::{SnapshotRecord, StreamRoot};
use crate::store::repo::{CopyPlace, Reader, Repository, StoredCopy, read_node};

/// Number of chunks or deltas that are looked up at once.
const AT_ONCE: usize = 8 << 10;
/// After this many nodes the places of chunks are forgotten: each keeps the table of a pack in memory.
const PLACES_KEPT: usize = 1024;

/// The damage that is known.
#[derive(Debug, Default)]
pub(super) struct Sick {
    /// Copies that cannot be read, whatever the reason.
    pub(super) dead: HashSet<CopyPlace>,
    /// Packs whose content is not what their writers meant to write.
    pub(super) at_fault: BTreeSet<PackId>,
}

impl Sick {
    /// Reads every dead copy again. It may have been dead only because of a base that is whole now.
    pub(super) fn look_again(&mut self, repo: &Repository) -> Result<()> {
        let reader = Reader::new(repo);
        let mut dead = HashSet::new();
        for copy in self.dead_copies(repo)? {
            match reader.copy(&copy) {
                Ok(_) => {}
                Err(error) if error.is_damage() => drop(dead.insert(copy.place())),
                Err(error) => return Err(error),
            }
        }
        self.dead = dead;
        Ok(())
    }

    /// Adds packs that were written wrong: their bytes are right, but a chunk does not decode although its bases are
    /// whole.
    pub(super) fn find_forged(&mut self, repo: &Repository) -> Result<()> {
        let reader = Reader::new(repo);
        for copy in self.dead_copies(repo)? {
            let mut bases_are_whole = true;
            for slice in &copy.frame().slices {
                let bases = reader.bases_of(slice.base, copy.frame().level)?;
                bases_are_whole = bases_are_whole && bases.iter().any(|base| reader.copy(base).is_ok());
            }
            if bases_are_whole && !self.at_fault.contains(&copy.pack()) && !is_unreadable(&reader, &copy)? {
                self.at_fault.insert(copy.pack());
            }
        }
        Ok(())
    }

    fn dead_copies(&self, repo: &Repository) -> Result<Vec<StoredCopy>> {
        let packs: BTreeSet<PackId> = self.dead.iter().map(CopyPlace::pack).collect();
        let mut copies = Vec::new();
        for pack in packs {
            copies.extend(repo.copies_in(&pack)?.into_iter().filter(|copy| self.dead.contains(&copy.place())));
        }
        Ok(copies)
    }

    /// What is needed and has no readable copy: chunks and nodes of snapshots, and bases of deltas that cannot be
    /// read for lack of them. Given as the starts of ids, because deltas know no more of their bases.
    pub(super) fn wanted(
        &self,
        repo: &Repository,
        snapshots: &[(SnapshotId, SnapshotRecord)],
        monitor: &dyn Monitor,
    ) -> Result<HashSet<IdPrefix>> {
        let reader = Reader::for_trees(repo);
        let mut search = Search { sick: self, reader: &reader, monitor, seen: HashSet::new(), chunks: Vec::new(), wanted: HashSet::new() };
        let mut parts = HashSet::new();
        for (_, snapshot) in snapshots {
            search.walk(&snapshot.listing)?;
            match search.walk_listing(&snapshot.listing, &mut parts) {
                // A lost part of the listing does not end it: the parts after it are walked, too.
                Err(error) if error.is_damage() => {
                    drop(reader.salvage_listing(&snapshot.listing, monitor, &mut |entry| search.walk(&entry.root))?);
                }
                walked => walked?,
            }
        }
        search.look_up()?;
        let mut wanted = search.wanted;
        for group in self.dead_copies(repo)?.chunks(AT_ONCE) {
            let mut bases: Vec<IdPrefix> = group.iter().flat_map(|copy| copy.frame().slices.iter().map(|slice| slice.base)).collect();
            bases.sort_unstable();
            bases.dedup();
            // For each base the lowest level of its readable copies. A delta can use only a base with a lower level
            // than its own.
            let lowest = repo.known_copies(&bases)?.into_iter().map(|known| {
                let whole = known.iter().filter(|copy| !self.dead.contains(&copy.place));
                whole.map(|copy| copy.level).min()
            });
            let lowest: HashMap<IdPrefix, Option<u8>> = bases.iter().copied().zip(lowest).collect();
            for copy in group {
                let lacks = |base: &IdPrefix| lowest.get(base).copied().flatten().is_none_or(|level| level >= copy.frame().level);
                wanted.extend(copy.frame().slices.iter().map(|slice| slice.base).filter(lacks));
            }
        }
        Ok(wanted)
    }
}

/// Whether the encoded bytes of a copy cannot be read at all. Then the disk is at fault, or the pack is gone, but the
/// writer is not.
fn is_unreadable(reader: &Reader, copy: &StoredCopy) -> Result<bool> {
    match reader.encoded(copy) {
        Ok(_) => Ok(false),
        Err(error) if error.is_damage() => Ok(true),
        Err(error) => Err(error),
    }
}

/// Walks trees and collects chunks without a readable copy.
struct Search<'a> {
    sick: &'a Sick,
    reader: &'a Reader,
    monitor: &'a dyn Monitor,
    seen: HashSet<ChunkId>,
    chunks: Vec<ChunkId>,
    wanted: HashSet<IdPrefix>,
}

impl Search<'_> {
    /// Walks the streams of a listing. Parts in `known` are passed over; those that were walked are added to it.
    fn walk_listing(&mut self, listing: &StreamRoot, known: &mut HashSet<ChunkId>) -> Result<()> {
        let mut parts = self.reader.parts(listing)?;
        while let Some(part) = parts.next_besides(&mut |chunk| known.contains(chunk)) {
            let part = part?;
            let (chunk, entries) = (part.chunk(), part.entries);
            entries.iter().try_for_each(|entry| self.walk(&entry.root))?;
            known.extend(chunk);
        }
        Ok(())
    }

    /// Walks one tree. Nodes are read once, also when several trees share them.
    fn walk(&mut self, root: &StreamRoot) -> Result<()> {
        let mut open: Vec<(ChunkId, u8)> = root.top.map(|top| (top, root.levels)).into_iter().collect();
        while let Some((id, level)) = open.pop() {
            if self.monitor.cancelled() {
                return Err(Error::Cancelled);
            }
            if level == 0 {
                self.chunks.push(id);
                if self.chunks.len() >= AT_ONCE {
                    self.look_up()?;
                }
                continue;
            }
            if !self.seen.insert(id) {
                continue;
            }
            if self.seen.len().is_multiple_of(PLACES_KEPT) {
                self.reader.forget_places();
            }
            match read_node(self.reader, &id, level) {
                Ok(node) => open.extend(node.children.iter().map(|child| (child.id, level - 1))),
                Err(error) if error.is_damage() => drop(self.wanted.insert(id.prefix())),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Looks up the collected chunks in the catalog, in one sorted batch.
    fn look_up(&mut self) -> Result<()> {
        let mut ids = std::mem::take(&mut self.chunks);
        ids.sort_unstable();
        ids.dedup();
        let prefixes: Vec<IdPrefix> = ids.iter().map(ChunkId::prefix).collect();
        for (id, known) in ids.iter().zip(self.reader.repository().known_copies(&prefixes)?) {
            if !known.iter().any(|copy| copy.id == *id && !self.sick.dead.contains(&copy.place)) {
                self.wanted.insert(id.prefix());
            }
        }
        Ok(())
    }
}
