//! Finding the entries of a listing by name, with only a few of its parts in memory. If names are asked for in about their order, each part is read
//! once.

use std::sync::{Arc, Mutex, PoisonError};

use super::listing::whole_entries;
use super::reader::Reader;
use crate::error::{Error, Result};
use crate::id::ChunkId;
use crate::progress::Monitor;
use crate::store::format::snapshot::{StreamEntry, StreamRoot};

/// Parts that are kept in memory. Going through a tree returns to the parts of the directories above.
const KEPT: usize = 16;

/// Knows for each part of a listing its first name and its chunks.
pub struct ListingLookup {
    /// In the order of their first names.
    parts: Vec<Place>,
    /// Parts that were read. The one that was used last is at the end.
    kept: Mutex<Vec<(usize, Arc<Vec<StreamEntry>>)>>,
}

struct Place {
    first: Vec<u8>,
    chunks: Vec<ChunkId>,
}

impl ListingLookup {
    /// Reads the whole listing once, part by part, and calls `look` with each entry.
    ///
    /// # Errors
    /// As [`Reader::parts`]; [`Error::Cancelled`].
    pub fn open(reader: &Reader, root: &StreamRoot, monitor: &dyn Monitor, look: &mut dyn FnMut(&StreamEntry)) -> Result<Self> {
        let mut parts = Vec::new();
        for part in reader.parts(root)? {
            let part = part?;
            if monitor.cancelled() {
                return Err(Error::Cancelled);
            }
            part.entries.iter().for_each(&mut *look);
            let Some(first) = part.entries.into_iter().next() else { continue };
            parts.push(Place { first: first.name, chunks: part.chunks });
        }
        Ok(ListingLookup { parts, kept: Mutex::new(Vec::new()) })
    }

    /// The entry of this name.
    ///
    /// # Errors
    /// When its part cannot be read any more.
    pub fn get(&self, reader: &Reader, name: &[u8]) -> Result<Option<StreamEntry>> {
        // The last part whose first name is not above this name. No other part can have it.
        let Some(number) = self.parts.partition_point(|place| place.first.as_slice() <= name).checked_sub(1) else { return Ok(None) };
        let entries = self.part(reader, number)?;
        let found = entries.binary_search_by(|entry| entry.name.as_slice().cmp(name)).ok();
        Ok(found.and_then(|at| entries.get(at)).cloned())
    }

    fn part(&self, reader: &Reader, number: usize) -> Result<Arc<Vec<StreamEntry>>> {
        // The lock is held while the part is read, so that two threads do not read the same part.
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let part = match kept.iter().rposition(|(other, _)| *other == number) {
            Some(at) => kept.remove(at),
            None => (number, Arc::new(self.read(reader, number)?)),
        };
        if kept.len() >= KEPT {
            kept.remove(0);
        }
        let entries = Arc::clone(&part.1);
        kept.push(part);
        Ok(entries)
    }

    fn read(&self, reader: &Reader, number: usize) -> Result<Vec<StreamEntry>> {
        let mut bytes = Vec::new();
        for id in self.parts.get(number).map(|place| place.chunks.as_slice()).unwrap_or_default() {
            bytes.extend_from_slice(&reader.chunk(id)?);
        }
        whole_entries(&bytes).ok_or_else(|| Error::bug("a part of a listing that could be read before does not consist of entries now"))
    }
}
