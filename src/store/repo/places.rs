//! Remembers where chunks lie.
//! Whole chains are looked up in batches before they are read, because one look-up for each link would be slow. The
//! places may be out of date: packs may be deleted meanwhile. It relies on callers to look again after NotFound. A base
//! always has a lower level than its frame, so chains cannot have cycles.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};

use super::Repository;
use super::cache::Cache;
use super::locate::StoredCopy;
use crate::error::Result;
use crate::id::ChunkId;
use crate::store::format::LEVEL_READ_MAX;
use crate::store::format::pack::IdPrefix;

/// About the bytes of looked-up places that are kept.
const PLACES_BUDGET: usize = 8 << 20;
/// About the bytes of one list of copies, without the copies.
const LIST_BYTES: usize = 96;

/// The copies of chunks by the start of their ids. What it knows may be out of date. Packs may be added meanwhile; a copy that was found stays
/// valid. Packs may also be deleted; reading then fails with NotFound and the caller looks again.
pub(crate) struct Places {
    repo: Repository,
    known: Mutex<Cache<IdPrefix, Arc<[StoredCopy]>>>,
}

impl Places {
    pub(crate) fn new(repo: &Repository) -> Self {
        Places { repo: repo.clone(), known: Mutex::new(Cache::new(PLACES_BUDGET)) }
    }

    /// All copies of chunks whose id starts with `prefix`, the lowest level first.
    pub(crate) fn candidates(&self, prefix: IdPrefix) -> Result<Arc<[StoredCopy]>> {
        if let Some(copies) = self.kept(prefix) {
            return Ok(copies);
        }
        let copies: Arc<[StoredCopy]> = self.repo.candidates(prefix)?.into();
        if !copies.is_empty() {
            self.keep(prefix, &copies);
        }
        Ok(copies)
    }

    /// All copies of a chunk, the lowest level first.
    pub(crate) fn copies(&self, id: &ChunkId) -> Result<Vec<StoredCopy>> {
        Ok(self.candidates(id.prefix())?.iter().filter(|copy| copy.entry.id == *id).cloned().collect())
    }

    /// All copies that may be the base of a frame of level `below`, the lowest level first. They have a lower level, so that no cycle can exist.
    pub(crate) fn bases(&self, prefix: IdPrefix, below: u8) -> Result<Vec<StoredCopy>> {
        Ok(self.candidates(prefix)?.iter().filter(|copy| copy.frame().level < below).cloned().collect())
    }

    /// Looks up these chunks and all their bases, with one batch for each level of their chains. A chunk that is not found is left to the read that
    /// needs it.
    pub(crate) fn prefetch(&self, prefixes: impl Iterator<Item = IdPrefix>) -> Result<()> {
        let mut wanted: Vec<IdPrefix> = prefixes.collect();
        let mut seen: HashSet<IdPrefix> = wanted.iter().copied().collect();
        // A chain has no more links than levels, so this many rounds reach its end.
        for _ in 0..=LEVEL_READ_MAX {
            wanted.sort_unstable();
            wanted.dedup();
            let (known, unknown): (Vec<_>, Vec<_>) =
                wanted.iter().map(|prefix| (*prefix, self.kept(*prefix))).partition(|(_, kept)| kept.is_some());
            let unknown: Vec<IdPrefix> = unknown.into_iter().map(|(prefix, _)| prefix).collect();
            let mut found: Vec<Arc<[StoredCopy]>> = known.into_iter().filter_map(|(_, kept)| kept).collect();
            if !unknown.is_empty() {
                for (prefix, copies) in unknown.iter().zip(self.repo.candidates_of_many(&unknown)?) {
                    let copies: Arc<[StoredCopy]> = copies.into();
                    if !copies.is_empty() {
                        self.keep(*prefix, &copies);
                    }
                    found.push(copies);
                }
            }
            // The first copy will be read, unless it turns out bad. So only its bases are looked up.
            let bases = found.iter().filter_map(|copies| copies.first()).flat_map(|copy| &copy.frame().slices).map(|slice| slice.base);
            wanted = bases.filter(|base| seen.insert(*base)).collect();
            if wanted.is_empty() {
                break;
            }
        }
        Ok(())
    }

    /// Forgets everything, because something that it knew has turned out wrong.
    pub(crate) fn forget(&self) {
        *self.known.lock().unwrap_or_else(PoisonError::into_inner) = Cache::new(PLACES_BUDGET);
    }

    fn kept(&self, prefix: IdPrefix) -> Option<Arc<[StoredCopy]>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).get(&prefix)
    }

    fn keep(&self, prefix: IdPrefix, copies: &Arc<[StoredCopy]>) {
        let bytes = LIST_BYTES + copies.len() * size_of::<StoredCopy>();
        self.known.lock().unwrap_or_else(PoisonError::into_inner).put(prefix, Arc::clone(copies), bytes);
    }
}
