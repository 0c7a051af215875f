//! Reading chunks back, verified. One reader serves restore, check, deltas and everything that looks inside.

use std::sync::{Arc, Mutex, PoisonError};

use super::Repository;
use super::cache::Cache;
use super::locate::StoredCopy;
use super::segments::Segments;
use crate::backend::ObjectKey;
use crate::codec::Decoder;
use crate::error::{Error, Result};
use crate::format::pack::{ChunkEntry, Encoding};
use crate::format::{PREFIX_LEN_MAX, WORK_READ_MAX};
use crate::id::ChunkId;

/// Bytes of opened segments kept.
const SEGMENTS_BUDGET: usize = 16 << 20;
/// Bytes of decoded bases kept.
const BASES_BUDGET: usize = 8 << 20;

/// Gives chunks back. Every chunk, bases included, is verified against its id before a byte of it is used. Safe to share among threads.
pub struct Reader {
    repo: Repository,
    segments: Segments,
    bases: Mutex<Cache<ChunkId, Arc<Vec<u8>>>>,
    decoders: Mutex<Vec<Decoder>>,
}

impl Reader {
    /// A reader with caches of its own.
    pub fn new(repo: &Repository) -> Self {
        Reader {
            repo: repo.clone(),
            segments: Segments::new(SEGMENTS_BUDGET),
            bases: Mutex::new(Cache::new(BASES_BUDGET)),
            decoders: Mutex::new(Vec::new()),
        }
    }

    /// The repository that it reads.
    pub fn repository(&self) -> &Repository {
        &self.repo
    }

    /// The plain bytes of a chunk, from the first of its copies that is whole.
    ///
    /// # Errors
    /// [`Error::Corrupt`] naming the bad pack, when no copy is whole; [`Error::Backend`] when reading itself fails.
    pub fn chunk(&self, id: &ChunkId) -> Result<Vec<u8>> {
        let mut copies = self.repo.copies(id)?;
        let mut failure = None;
        // Packs that no listed snapshot names (its own was forgotten, a prune has rewritten them) are found by listing them all, once.
        for attempt in 0..2 {
            for copy in &copies {
                match self.copy(copy) {
                    Ok(plain) => return Ok(plain),
                    Err(error) if error.is_damage() => failure = failure.or(Some(error)),
                    Err(error) => return Err(error),
                }
            }
            if attempt == 0 {
                self.repo.list_all_packs_once()?;
                copies = self.repo.copies(id)?;
            }
        }
        Err(failure.unwrap_or_else(|| self.repo.lost(format!("chunk {id}"), "it is in no pack")))
    }

    /// The plain bytes of one copy of a chunk.
    pub(crate) fn copy(&self, copy: &StoredCopy) -> Result<Vec<u8>> {
        let mut work = WORK_READ_MAX;
        self.decode(copy, &mut work)
    }

    /// The plain bytes of a copy that serves as a base, kept for others that want it.
    pub(crate) fn base_bytes(&self, copy: &StoredCopy) -> Result<Arc<Vec<u8>>> {
        let mut work = WORK_READ_MAX;
        self.cached(copy, &mut work)
    }

    fn cached(&self, copy: &StoredCopy, work: &mut u32) -> Result<Arc<Vec<u8>>> {
        let id = copy.entry.id;
        if let Some(plain) = self.bases.lock().unwrap_or_else(PoisonError::into_inner).get(&id) {
            return Ok(plain);
        }
        let plain = Arc::new(self.decode(copy, work)?);
        self.bases.lock().unwrap_or_else(PoisonError::into_inner).put(id, Arc::clone(&plain), plain.len());
        Ok(plain)
    }

    fn decode(&self, copy: &StoredCopy, work: &mut u32) -> Result<Vec<u8>> {
        let entry = &copy.entry;
        let damaged = |detail: String| {
            let object = ObjectKey::Pack(copy.table.pack.id).to_string();
            Error::corrupt(object, format!("chunk {} in segment {}: {detail}", entry.id, entry.segment))
        };
        *work = work.checked_sub(1).ok_or_else(|| damaged("its chain of deltas takes more work than the format allows".into()))?;
        let segment = self.segments.of(self.repo.backend(), copy)?;
        let start = entry.offset as usize;
        let encoded =
            segment.get(start..start + entry.encoded_len as usize).ok_or_else(|| damaged("it reaches past its segment".into()))?;
        if entry.encoding == Encoding::Raw {
            return self.verified(entry, encoded.to_vec()).ok_or_else(|| damaged("its bytes do not match its id".into()));
        }
        // More than one round only if two chunks share the 8 bytes of id by which a base is named.
        let mut round = 0;
        loop {
            let (prefix, rounds) = self.prefix(entry, round, work)?;
            let mut plain = Vec::new();
            let decoded = self.with_decoder(|decoder| decoder.decode(encoded, &prefix, entry.plain_len, &mut plain));
            round += 1;
            match decoded.map(|()| self.verified(entry, plain)) {
                Ok(Some(plain)) => return Ok(plain),
                _ if round < rounds => {}
                Ok(None) => return Err(damaged("its decoded bytes do not match its id".into())),
                Err(m) => return Err(damaged(m.to_string())),
            }
        }
    }

    fn verified(&self, entry: &ChunkEntry, plain: Vec<u8>) -> Option<Vec<u8>> {
        (self.repo.keys().chunk_id(&plain) == entry.id).then_some(plain)
    }

    /// The prefix of a delta, and how many rounds of candidates there are for its bases.
    fn prefix(&self, entry: &ChunkEntry, round: usize, work: &mut u32) -> Result<(Vec<u8>, usize)> {
        let mut prefix = Vec::with_capacity(entry.prefix_len().min(PREFIX_LEN_MAX));
        let mut rounds = 1;
        for slice in &entry.slices {
            let (base, candidates) = self.base(entry, slice.base, round, work)?;
            rounds = rounds.max(candidates);
            let start = slice.offset as usize;
            let part = base.get(start..start + slice.len as usize);
            prefix.extend_from_slice(
                part.ok_or_else(|| Error::corrupt(format!("chunk {}", entry.id), "it wants more of a base than there is"))?,
            );
        }
        Ok((prefix, rounds))
    }

    /// The plain bytes of a base, and how many different chunks could be meant.
    fn base(&self, of: &ChunkEntry, prefix: crate::format::pack::IdPrefix, round: usize, work: &mut u32) -> Result<(Arc<Vec<u8>>, usize)> {
        let mut copies = self.repo.base_copies(prefix, of.level)?;
        if copies.is_empty() {
            self.repo.list_all_packs_once()?;
            copies = self.repo.base_copies(prefix, of.level)?;
        }
        let mut ids: Vec<ChunkId> = copies.iter().map(|copy| copy.entry.id).collect();
        ids.sort_unstable();
        ids.dedup();
        let Some(&id) = ids.iter().cycle().nth(round) else {
            return Err(self.repo.lost(format!("chunk {}", of.id), "the chunk that it is a delta of is in no pack"));
        };
        let mut failure = None;
        for copy in copies.iter().filter(|copy| copy.entry.id == id) {
            match self.cached(copy, work) {
                Ok(plain) => return Ok((plain, ids.len())),
                Err(error) => failure = failure.or(Some(error)),
            }
        }
        Err(failure.unwrap_or_else(|| Error::corrupt(format!("chunk {id}"), "no pack holds it")))
    }

    fn with_decoder<T>(
        &self,
        work: impl FnOnce(&mut Decoder) -> Result<T, crate::format::Malformed>,
    ) -> Result<T, crate::format::Malformed> {
        let pooled = self.decoders.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let mut decoder = match pooled {
            Some(decoder) => decoder,
            None => Decoder::new()?,
        };
        let result = work(&mut decoder);
        self.decoders.lock().unwrap_or_else(PoisonError::into_inner).push(decoder);
        result
    }
}
