//! Which version of a stored chunk a moved chunk stands on: the cheapest to read that holds what is wanted of it.
//!
//! Content is found in the newest version of an old chunk, at the end of a chain of patches. But most pages of that version are as they were in
//! older ones, and a page that is not differs by little. So the chain is walked down, and each version weighed: what it takes to read against
//! what stale pages cost. Without this a VACUUM, whose chunks draw on twenty old ones each, would use up the bound on work, and no delta would fit
//! on top of it.

use super::super::locate::StoredCopy;
use super::super::new_chunk::BaseSlice;
use super::super::session::{Closure, WriteSession};
use crate::error::Result;
use crate::id::ChunkId;
use crate::store::format::pack::{Encoding, PATCH_PIECE_LEN, Slice};
use crate::store::format::{LEVEL_WRITE_MAX, WORK_WRITE_MAX};

/// The most work of a moved chunk. The rest of [`WORK_WRITE_MAX`] is for its later versions.
pub(super) const WORK_MOVED_MAX: usize = WORK_WRITE_MAX as usize - 16;
/// What reading one more frame is worth, bytes. Work is handed on: a chunk that moves again stands on two or three chunks that have moved, and has the
/// frames of all of them to read. So stale pages are cheaper than frames. With 12 bytes, and as much again for each 12 frames, the third VACUUM of the
/// store of `benches/growth` stored twice as much as with this price, since its chunks came to the bound; with 250 pages that were found are given up.
const FRAME_PRICE: usize = 150;
/// The same where two deltas of a chunk are at hand and their bytes are known.
pub(super) const FRAME_PRICE_COMPARED: usize = 4;
/// What a page saves that is found, bytes.
const FOUND_WORTH: usize = 1500;

/// A part of a prefix.
pub(super) type Part = (StoredCopy, Closure, Slice);

/// Chooses the versions for these slices, of which the last ones matter most. Slices that are not worth what they take are left out, as are those
/// of chunks that are not stored any more.
pub(super) fn parts(session: &WriteSession, slices: &[BaseSlice]) -> Result<Vec<Part>> {
    let mut closure = Closure::default();
    let mut chosen: Vec<(ChunkId, Option<(StoredCopy, Closure)>)> = Vec::new();
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

/// The version of a chunk that serves best for the slices of it, if one does, when all of `closure` is read anyway.
fn version(session: &WriteSession, id: ChunkId, slices: &[BaseSlice], closure: &Closure) -> Result<Option<(StoredCopy, Closure)>> {
    let mut wanted = Pieces::default();
    slices.iter().filter(|slice| slice.id == id).for_each(|slice| wanted.add(slice.offset as usize, slice.len as usize));
    let worth = wanted.count() * FOUND_WORTH;
    let mut next = session.trusted(session.reader().places().copies(&id)?)?;
    let mut stale = 0;
    let mut best: Option<(usize, (StoredCopy, Closure))> = None;
    while let Some((copy, own)) = next {
        let with = closure.len_with(&own);
        let price = (with - closure.len()) * FRAME_PRICE + stale;
        let fits = with < WORK_MOVED_MAX && copy.frame().level < LEVEL_WRITE_MAX;
        next = None;
        if let Some((older, changed)) = older(session, &copy)? {
            // What the patch holds of wanted pages is stored once more, about.
            stale += copy.frame().encoded_len as usize * changed.common(&wanted) / changed.count().max(1);
            next = Some(older);
        }
        if fits && price < worth && best.as_ref().is_none_or(|(least, _)| price < *least) {
            best = Some((price, (copy, own)));
        }
    }
    Ok(best.map(|(_, version)| version))
}

/// The version that a patch was made of, with the pieces that the patch changes; `None` for what is no patch.
fn older(session: &WriteSession, copy: &StoredCopy) -> Result<Option<((StoredCopy, Closure), Pieces)>> {
    let frame = copy.frame();
    let ([slice], Encoding::Patch, 0) = (frame.slices.as_slice(), frame.encoding, copy.entry.offset) else { return Ok(None) };
    let encoded = match session.reader().encoded(copy) {
        Ok(encoded) => encoded,
        Err(error) if error.is_damage() => return Ok(None),
        Err(error) => return Err(error),
    };
    let pieces = (copy.entry.plain_len as usize).div_ceil(PATCH_PIECE_LEN);
    let bit = |piece: usize| encoded.get(piece / 8).is_none_or(|byte| byte >> (piece % 8) & 1 == 1);
    let mut changed = Pieces::default();
    (0..pieces).filter(|piece| bit(*piece)).for_each(|piece| changed.set(piece));
    let older = session.trusted(session.reader().places().bases(slice.base, frame.level)?)?;
    Ok(older.map(|older| (older, changed)))
}

/// Pieces of a chunk by their numbers.
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
        self.0.iter().map(|word| word.count_ones() as usize).sum()
    }

    /// How many of them are among others.
    fn common(&self, others: &Pieces) -> usize {
        self.0.iter().zip(&others.0).map(|(one, other)| (one & other).count_ones() as usize).sum()
    }
}
