//! Which version of a stored chunk a moved chunk should stand on: the cheapest to read that still has the wanted pages.
//!
//! Content is found in the newest version of an old chunk, at the end of a chain of patches. But most pages of that version are the same in
//! older versions, and a changed page differs by little. So the chain is walked down and each version is weighed: the frames to read
//! against the bytes that stale pages cost. Without this a VACUUM, whose chunks draw on twenty old chunks each, would use up the bound on
//! work, and no delta would fit on top of it.

use super::super::locate::StoredCopy;
use super::super::new_chunk::BaseSlice;
use super::super::session::{Closure, WriteSession};
use crate::error::Result;
use crate::id::ChunkId;
use crate::store::format::pack::{Encoding, PATCH_PIECE_LEN, Slice};
use crate::store::format::{LEVEL_WRITE_MAX, WORK_WRITE_MAX};
use crate::store::repo::usize_from;

/// The most work of a moved chunk. The rest of [`WORK_WRITE_MAX`] is left to its later versions.
pub(super) const WORK_MOVED_MAX: usize = usize_from(WORK_WRITE_MAX) - 16;
/// The price of reading one more frame, bytes. Work is handed on: a chunk that moves again stands on two or three chunks that have moved, and all
/// their frames must be read. So stale pages are cheaper than frames. With a price of 12 bytes that rises by as much for each 12 frames, the third
/// VACUUM of the store of `benches/growth` stored twice as much, because its chunks reached the bound. With 250, pages that were found are not used.
const FRAME_PRICE: usize = 150;
/// The price of one more frame when two finished deltas of a chunk are compared.
pub(super) const FRAME_PRICE_COMPARED: usize = 4;
/// The bytes that one found page saves.
const FOUND_WORTH: usize = 1500;

/// A part of a prefix.
pub(super) type Part = (StoredCopy, Closure, Slice);

/// Chooses a version for each of these slices. The last ones matter most. A slice is left out if it costs more than it saves, or if its chunk
/// is not stored any more.
pub(super) fn parts(session: &WriteSession, slices: &[BaseSlice]) -> Result<Vec<Part>> {
    let mut closure = Closure::default();
    let mut chosen: Vec<(ChunkId, Option<(StoredCopy, Closure)>)> = Vec::new();
    // From the last slice to the first: the best ones choose while the bound on work is far. Slices of one chunk share a version.
    for slice in slices.iter().rev() {
        if chosen.iter().all(|(id, _)| *id != slice.id) {
            let version = version(session, slice.id, slices, &closure)?;
            version.iter().for_each(|(_, of)| closure.add(of));
            chosen.push((slice.id, version));
        }
    }
    let part = |slice: &BaseSlice| {
        let (copy, closure) = chosen.iter().find(|(id, _)| *id == slice.id)?.1.clone()?;
        let end = slice.offset.checked_add(slice.len)?;
        let slice = Slice { base: copy.entry.id.prefix(), offset: slice.offset, len: slice.len };
        (end <= copy.entry.plain_len).then_some((copy, closure, slice))
    };
    Ok(slices.iter().filter_map(part).collect())
}

/// The version of a chunk that suits its slices best, if one is worth it. The frames in `closure` are read anyway, and cost nothing more.
fn version(session: &WriteSession, id: ChunkId, slices: &[BaseSlice], closure: &Closure) -> Result<Option<(StoredCopy, Closure)>> {
    let mut wanted = Pieces::default();
    slices.iter().filter(|slice| slice.id == id).for_each(|slice| wanted.add(usize_from(slice.offset), usize_from(slice.len)));
    let worth = wanted.count() * FOUND_WORTH;
    // From the newest version down. Each step saves a frame, and costs the wanted pages that the patch in between changed.
    let mut next = session.trusted(session.reader().places().copies(&id)?)?;
    let mut stale = 0;
    let mut best: Option<(usize, (StoredCopy, Closure))> = None;
    while let Some((copy, own)) = next {
        let with = closure.len_with(&own);
        let price = (with - closure.len()) * FRAME_PRICE + stale;
        let fits = with < WORK_MOVED_MAX && copy.frame().level < LEVEL_WRITE_MAX;
        next = None;
        if let Some((older, changed)) = older(session, &copy)? {
            // The bytes of a patch are shared out evenly among its pages. The share of the wanted ones is stored again, about.
            stale += usize_from(copy.frame().encoded_len) * changed.common(&wanted) / changed.count().max(1);
            next = Some(older);
        }
        if fits && price < worth && best.as_ref().is_none_or(|(least, _)| price < *least) {
            best = Some((price, (copy, own)));
        }
    }
    Ok(best.map(|(_, version)| version))
}

/// The version that a patch was made of, with the pieces that the patch changes; `None` if the frame is not a patch.
fn older(session: &WriteSession, copy: &StoredCopy) -> Result<Option<((StoredCopy, Closure), Pieces)>> {
    let frame = copy.frame();
    let ([slice], Encoding::Patch, 0) = (frame.slices.as_slice(), frame.encoding, copy.entry.offset) else { return Ok(None) };
    // Damage ends the search for older versions, but is not an error: the chunk can stand on the version at hand, or be stored whole.
    let encoded = match session.reader().encoded(copy) {
        Ok(encoded) => encoded,
        Err(error) if error.is_damage() => return Ok(None),
        Err(error) => return Err(error),
    };
    let pieces = usize_from(copy.entry.plain_len).div_ceil(PATCH_PIECE_LEN);
    // A patch starts with a bitmap of the pieces that it holds. A byte that is missing counts as changed, which is the dearer guess.
    let bit = |piece: usize| encoded.get(piece / 8).is_none_or(|byte| byte >> (piece % 8) & 1 == 1);
    let mut changed = Pieces::default();
    (0..pieces).filter(|piece| bit(*piece)).for_each(|piece| changed.set(piece));
    let older = session.trusted(session.reader().places().bases(slice.base, frame.level)?)?;
    Ok(older.map(|older| (older, changed)))
}

/// A set of pieces of a chunk, by their numbers.
#[derive(Debug, Default)]
struct Pieces(Vec<u64>);

impl Pieces {
    fn set(&mut self, piece: usize) {
        let place = piece / 64;
        self.0.resize(self.0.len().max(place + 1), 0);
        self.0.get_mut(place).into_iter().for_each(|word| *word |= 1 << (piece % 64));
    }

    /// Adds all pieces that have some of these bytes.
    fn add(&mut self, offset: usize, len: usize) {
        (offset / PATCH_PIECE_LEN..offset.saturating_add(len).div_ceil(PATCH_PIECE_LEN)).for_each(|piece| self.set(piece));
    }

    fn count(&self) -> usize {
        self.0.iter().map(|word| usize_from(word.count_ones())).sum()
    }

    /// How many pieces are in both sets.
    fn common(&self, others: &Pieces) -> usize {
        self.0.iter().zip(&others.0).map(|(one, other)| usize_from((one & other).count_ones())).sum()
    }
}
