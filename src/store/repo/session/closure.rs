//! Closures: all frames that must be there to read a copy. These are its own frame, the frames of its bases, and theirs in turn. A closure names
//! every pack that reading the copy needs, and its size is the copy's work.

use std::collections::HashMap;

use super::super::locate::{FramePlace, StoredCopy};
use super::super::places::Places;
use super::super::reader::Reader;
use crate::error::Result;
use crate::id::{ChunkId, PackId};
use crate::store::format::pack::{Encoding, Frame, Slice};

/// The frames that are decoded to read a copy.
#[derive(Debug, Clone, Default)]
pub(crate) struct Closure {
    /// Each frame with about the bytes that decoding it takes.
    frames: HashMap<FramePlace, u32>,
}

impl Closure {
    /// The closure of a copy, using only packs that count; `None` if the copy cannot be read from these. For each base one copy is chosen: of the
    /// copies that can be read in this way, the one of lowest level. Prune keeps the same one.
    pub(crate) fn of(places: &Places, copy: &StoredCopy, counts: &dyn Fn(&PackId) -> bool) -> Result<Option<Closure>> {
        let mut search = Search { places, counts, known: HashMap::new(), closure: Closure::default() };
        Ok(search.gather(copy)?.then_some(search.closure))
    }

    /// Adds the frames of another closure.
    pub(crate) fn add(&mut self, other: &Closure) {
        self.frames.extend(other.frames.iter().map(|(frame, len)| (*frame, *len)));
    }

    /// How many frames there would be with those of another closure.
    pub(crate) fn len_with(&self, other: &Closure) -> usize {
        self.len() + other.frames.keys().filter(|frame| !self.frames.contains_key(frame)).count()
    }

    /// How many frames there are.
    pub(crate) fn len(&self) -> usize {
        self.frames.len()
    }

    /// Each frame with about the bytes that decoding it takes.
    pub(crate) fn frames(&self) -> impl Iterator<Item = (FramePlace, u32)> {
        self.frames.iter().map(|(frame, len)| (*frame, *len))
    }

    /// The packs that hold the frames. A pack may come several times.
    pub(crate) fn packs(&self) -> impl Iterator<Item = PackId> {
        self.frames.keys().map(|frame| frame.pack)
    }
}

/// About the bytes that decoding a frame takes, once its bases are there. For a patch these are the bytes of the pages that it holds, which
/// compress well against their old versions.
fn decoded_bytes(frame: &Frame) -> u32 {
    match frame.encoding {
        Encoding::Patch => frame.encoded_len.saturating_mul(16).min(frame.plain_len),
        _ => frame.plain_len,
    }
}

struct Search<'a> {
    places: &'a Places,
    counts: &'a dyn Fn(&PackId) -> bool,
    /// The frames that were searched, and whether each can be read.
    known: HashMap<FramePlace, bool>,
    closure: Closure,
}

impl Search<'_> {
    /// Says whether a copy can be read, and adds its frames. The recursion ends, because a base has a lower level than its delta.
    fn gather(&mut self, copy: &StoredCopy) -> Result<bool> {
        let place = copy.frame_place();
        // Bases are shared, so many ways lead to one frame. Without `known` a hostile pack could make the search exponential.
        if let Some(found) = self.known.get(&place) {
            return Ok(*found);
        }
        let mut found = (self.counts)(&place.pack);
        // One missing base is enough. The frames of the others may stay: the caller drops an incomplete closure.
        for slice in &copy.frame().slices {
            found = found && self.gather_base(copy, slice)?;
        }
        if found {
            self.closure.frames.insert(place, decoded_bytes(copy.frame()));
        }
        self.known.insert(place, found);
        Ok(found)
    }

    fn gather_base(&mut self, of: &StoredCopy, slice: &Slice) -> Result<bool> {
        for base in self.places.bases(slice.base, of.frame().level)? {
            if self.gather(&base)? {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

impl Reader {
    /// The frames that must be decoded to read a chunk; `None` if no known copy is complete.
    pub(crate) fn closure(&self, id: &ChunkId) -> Result<Option<Closure>> {
        for copy in self.places().copies(id)? {
            if let Some(closure) = Closure::of(self.places(), &copy, &|_| true)? {
                return Ok(Some(closure));
            }
        }
        Ok(None)
    }

    /// Whether the catalog knows everything that is needed to read this copy.
    pub(crate) fn is_complete(&self, copy: &StoredCopy) -> Result<bool> {
        Ok(Closure::of(self.places(), copy, &|_| true)?.is_some())
    }
}
