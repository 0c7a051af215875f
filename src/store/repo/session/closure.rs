//! What has to be there so that a copy can be read: its frame, those of its bases, and of theirs.

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
    /// With the bytes that decoding them takes, about.
    frames: HashMap<FramePlace, u32>,
}

impl Closure {
    /// The closure of a copy, using only packs that count; `None` if it cannot be read from these. For every base one copy is chosen: of those that
    /// can be read in this way the one of the lowest level, as prune does when it keeps one.
    pub(crate) fn of(places: &Places, copy: &StoredCopy, counts: &dyn Fn(&PackId) -> bool) -> Result<Option<Closure>> {
        let mut search = Search { places, counts, known: HashMap::new(), closure: Closure::default() };
        Ok(search.gather(copy)?.then_some(search.closure))
    }

    /// Adds what another one has.
    pub(crate) fn add(&mut self, other: &Closure) {
        self.frames.extend(other.frames.iter().map(|(frame, len)| (*frame, *len)));
    }

    /// How many frames there would be with another one's.
    pub(crate) fn len_with(&self, other: &Closure) -> usize {
        self.len() + other.frames.keys().filter(|frame| !self.frames.contains_key(frame)).count()
    }

    /// How many frames there are.
    pub(crate) fn len(&self) -> usize {
        self.frames.len()
    }

    /// The frames with the bytes that decoding them takes, about.
    pub(crate) fn frames(&self) -> impl Iterator<Item = (FramePlace, u32)> {
        self.frames.iter().map(|(frame, len)| (*frame, *len))
    }

    /// The packs that hold them; one may come several times.
    pub(crate) fn packs(&self) -> impl Iterator<Item = PackId> {
        self.frames.keys().map(|frame| frame.pack)
    }
}

/// What decoding a frame takes, once its bases are there: its bytes, or of a patch those of the pages that it holds, which compress well against their old
/// versions.
fn decoded_bytes(frame: &Frame) -> u32 {
    match frame.encoding {
        Encoding::Patch => frame.encoded_len.saturating_mul(16).min(frame.plain_len),
        _ => frame.plain_len,
    }
}

struct Search<'a> {
    places: &'a Places,
    counts: &'a dyn Fn(&PackId) -> bool,
    known: HashMap<FramePlace, bool>,
    closure: Closure,
}

impl Search<'_> {
    /// Whether a copy can be read; adds its frames. A base is of a lower level than its delta, so this goes at most as deep as levels go.
    fn gather(&mut self, copy: &StoredCopy) -> Result<bool> {
        let place = copy.frame_place();
        if let Some(found) = self.known.get(&place) {
            return Ok(*found);
        }
        let mut found = (self.counts)(&place.pack);
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
    /// What it takes to read a chunk; `None` if it is not known.
    pub(crate) fn closure(&self, id: &ChunkId) -> Result<Option<Closure>> {
        for copy in self.places().copies(id)? {
            if let Some(closure) = Closure::of(self.places(), &copy, &|_| true)? {
                return Ok(Some(closure));
            }
        }
        Ok(None)
    }

    /// Whether everything is known that reading this copy takes.
    pub(crate) fn is_complete(&self, copy: &StoredCopy) -> Result<bool> {
        Ok(Closure::of(self.places(), copy, &|_| true)?.is_some())
    }
}
