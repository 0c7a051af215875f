//! Choosing the base of a new chunk's delta.
//!
//! The base is an older version of the chunk by the skip rule, or slices of several chunks, or a window. Guarantees: a base that is returned
//! keeps the writer's bounds on level, work and prefix, and every chunk in it can be read from packs that this session trusts.
//! Reading a base that turns out damaged is not an error here: the chunk is then stored whole.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use super::super::locate::{CopyPlace, StoredCopy};
use super::super::new_chunk::{BaseSlice, Reference};
use super::super::session::{Closure, WriteSession};
use super::lineage::{self, Part};
use super::thrift;
use crate::error::{Error, Result};
use crate::id::ChunkId;
use crate::store::format::pack::{Encoding, Frame, Slice, prefix_fits};
use crate::store::format::{LEVEL_WRITE_MAX, WORK_WRITE_MAX};
use crate::store::repo::usize_from;

/// The skip rule for chunks: the base of version k is version k - p, where p is the largest of 32, 128, 512, ... that divides k, or 1. So most
/// versions stand on the one before. Hops back bound the depth to 31, plus 3 for each further factor of 4 (SVN skip-deltas; hop encoding of
/// dbDedup, SIGMOD 2017; compared in `benches/chains.rs`).
const CHUNK_SKIP: Skip = Skip { first: 32, factor: 4 };
/// The skip rule for tree nodes, which every operation reads, so their chains are shorter. A hop from one of 16 versions back costs all the ids
/// that have changed since.
const NODE_SKIP: Skip = Skip { first: 16, factor: 4 };

/// Bytes of bases that wait to be copied while others are read. It is small, because a backup has much else in memory.
const WAITING_LEN: usize = 12 << 20;

/// The chunks, or parts of chunks, that a delta is made against.
pub(super) struct Base {
    /// The new chunk's place in its lineage.
    pub(super) version: u32,
    /// The frames that are decoded to read the delta, without its own.
    pub(super) closure: Closure,
    slices: Vec<(StoredCopy, Slice)>,
}

impl Base {
    /// The base that the skip rule gives. `None` if the chunk must be stored whole: nothing is known that is like it, or every chain would become
    /// too long.
    pub(super) fn choose(session: &WriteSession, reference: &Reference, node: bool) -> Result<Option<Base>> {
        if reference.predecessor.is_some() && !reference.slices.is_empty() {
            return Base::of_window(session, reference);
        }
        let predecessor = match &reference.predecessor {
            Some(id) => session.trusted(session.reader().places().copies(id)?)?,
            None => None,
        };
        let mut base = Base { version: 0, closure: Closure::default(), slices: Vec::new() };
        // The skip rule is applied to the chain that is stored. `hop` stays empty where the rule gives the predecessor itself.
        let mut hop = None;
        if let Some((copy, _)) = &predecessor {
            base.version = copy.entry.version.saturating_add(1);
            let skip = if node { NODE_SKIP } else { CHUNK_SKIP };
            hop = older(session, copy, base.version - skip.distance(base.version))?;
        }
        // First choice: the older version of the skip rule. Then the predecessor itself. Slices are taken when the chunk holds moved content.
        match (hop, reference.slices.as_slice(), predecessor) {
            (Some(slices), _, _) => slices.into_iter().try_for_each(|slice| base.add_stored(session, &slice))?,
            (None, [], Some((copy, closure))) => {
                let slice = Slice { base: copy.entry.id.prefix(), offset: 0, len: copy.entry.plain_len };
                base.add(session, slice, copy, &closure)?;
            }
            (None, slices, _) => {
                for (copy, closure, slice) in thrift::parts(session, slices)? {
                    base.add(session, slice, copy, &closure)?;
                }
            }
        }
        if base.fits() {
            base.add_beside(session, &reference.beside)?;
            return Ok(Some(base));
        }
        // The chain would be too long. An older version of the predecessor, nearer to the chain's start, may still do.
        let Some((copy, closure)) = lower(session, reference.predecessor.filter(|_| reference.slices.is_empty()))? else { return Ok(None) };
        let mut base = Base { closure: Closure::default(), slices: Vec::new(), ..base };
        let slice = Slice { base: copy.entry.id.prefix(), offset: 0, len: copy.entry.plain_len };
        base.add(session, slice, copy, &closure)?;
        base.add_beside(session, &reference.beside)?;
        Ok(base.fits().then_some(base))
    }

    /// Puts parts of other chunks before the chunk that is the base, as long as room is left for later versions.
    fn add_beside(&mut self, session: &WriteSession, beside: &[BaseSlice]) -> Result<()> {
        if beside.is_empty() || self.slices.len() != 1 || !self.fits() {
            return Ok(());
        }
        // The best parts come last, so they are added first, and the reversal puts them next to the base itself.
        let own = std::mem::take(&mut self.slices);
        for (copy, closure, slice) in thrift::parts(session, beside)?.into_iter().rev() {
            if self.closure.len_with(&closure) < thrift::WORK_MOVED_MAX {
                self.add(session, slice, copy, &closure)?;
            }
        }
        self.slices.reverse();
        self.slices.extend(own);
        Ok(())
    }

    /// The base that a window of a stream without pages gives.
    fn of_window(session: &WriteSession, reference: &Reference) -> Result<Option<Base>> {
        let window = lineage::window(session, &reference.slices)?;
        let mut base = Base { version: window.version, closure: Closure::default(), slices: Vec::new() };
        for Part { copy, closure, slice } in window.parts {
            // With a part left out, the window would have a gap. A chunk that is stored whole and begins a new lineage is better.
            if copy.frame().level >= lineage::LEVEL_MAX || base.closure.len_with(&closure) >= usize_from(WORK_WRITE_MAX) {
                return Ok(None);
            }
            base.add(session, slice, copy, &closure)?;
        }
        Ok(base.fits().then_some(base))
    }

    /// The base made of slices from other places in a stream without pages.
    pub(super) fn of_rows(session: &WriteSession, reference: &Reference) -> Result<Option<Base>> {
        let mut base = Base { version: 0, closure: Closure::default(), slices: Vec::new() };
        // The best slices stand last, nearest to the chunk. They are added first, so that they have a place if not all fit.
        reference.slices.iter().rev().try_for_each(|slice| base.add_known(session, slice))?;
        base.slices.reverse();
        // Its version is as if the chain below were an unbroken lineage, so that later versions hop back as often as they must.
        base.version = lineage::first_version(base.level());
        Ok((base.level() <= lineage::LEVEL_MAX && base.fits()).then_some(base))
    }

    /// Whether a delta on this base keeps the bounds for writers.
    fn fits(&self) -> bool {
        self.level() <= LEVEL_WRITE_MAX
            && self.work() <= WORK_WRITE_MAX
            && prefix_fits(&self.frame(Encoding::Delta).slices, &mut Vec::new())
    }

    /// Adds a slice of the chunk with this id. The slice is left out if the chunk is not stored any more, or if its chain is too long.
    fn add_known(&mut self, session: &WriteSession, slice: &BaseSlice) -> Result<()> {
        let Some((copy, closure)) = session.trusted(session.reader().places().copies(&slice.id)?)? else { return Ok(()) };
        if copy.frame().level >= LEVEL_WRITE_MAX || self.closure.len_with(&closure) >= usize_from(WORK_WRITE_MAX) {
            return Ok(());
        }
        self.add(session, Slice { base: slice.id.prefix(), offset: slice.offset, len: slice.len }, copy, &closure)
    }

    /// Adds a slice that another delta has.
    fn add_stored(&mut self, session: &WriteSession, slice: &Slice) -> Result<()> {
        let candidates = session.reader().places().candidates(slice.base)?.to_vec();
        let Some((copy, closure)) = session.trusted(candidates)? else { return Ok(()) };
        self.add(session, *slice, copy, &closure)
    }

    /// Adds a slice. It is left out if it reaches past its chunk, or if the id prefix that will name its base also starts another chunk's id.
    fn add(&mut self, session: &WriteSession, slice: Slice, copy: StoredCopy, closure: &Closure) -> Result<()> {
        let candidates = session.reader().places().candidates(slice.base)?;
        let ambiguous = candidates.iter().any(|other| other.entry.id != copy.entry.id);
        let inside = slice.offset.checked_add(slice.len).is_some_and(|end| end <= copy.entry.plain_len);
        if !ambiguous && inside {
            self.closure.add(closure);
            self.slices.push((copy, slice));
        }
        Ok(())
    }

    fn level(&self) -> u8 {
        self.slices.iter().map(|(copy, _)| copy.frame().level).max().map_or(0, |level| level + 1)
    }

    /// How many frames are decoded to read a delta on this base, its own included.
    fn work(&self) -> u32 {
        u32::try_from(self.closure.len()).unwrap_or(u32::MAX).saturating_add(1)
    }

    /// The price of the work, in bytes, for comparing two deltas. It is low, because both are within the bounds.
    pub(super) fn price(&self) -> usize {
        usize_from(self.work()) * thrift::FRAME_PRICE_COMPARED
    }

    /// Bytes of the prefix.
    pub(super) fn prefix_len(&self) -> usize {
        self.slices.iter().map(|(_, slice)| usize_from(slice.len)).sum()
    }

    /// The row of the pack's table for a delta on this base.
    pub(super) fn frame(&self, encoding: Encoding) -> Frame {
        let slices = self.slices.iter().map(|(_, slice)| *slice).collect();
        Frame { level: self.level(), work: self.work(), slices, ..Frame::whole(encoding) }
    }

    /// Whether the prefix is one whole chunk. Then each place in the prefix is the same place in that chunk.
    pub(super) fn is_one_chunk(&self) -> bool {
        matches!(self.slices.as_slice(), [(copy, slice)] if slice.offset == 0 && slice.len == copy.entry.plain_len)
    }

    /// The stored parts that make up the prefix, in order.
    pub(super) fn slices(&self) -> &[(StoredCopy, Slice)] {
        &self.slices
    }

    /// The prefix, in verified bytes. `None` if a base cannot be read: damage to stored chunks, or a catalog that is wrong about them, must not stop
    /// a backup, because the chunk can be stored whole.
    pub(super) fn read(&self, session: &WriteSession) -> Result<Option<Vec<u8>>> {
        let mut prefix = Vec::with_capacity(self.prefix_len());
        for (copy, slice) in &self.slices {
            match session.reader().copy(copy) {
                Ok(plain) => {
                    let start = usize_from(slice.offset);
                    let Some(part) = plain.get(start..start + usize_from(slice.len)) else { return Ok(None) };
                    prefix.extend_from_slice(part);
                }
                Err(error) if error.is_damage() => return Ok(None),
                Err(error) => return Err(error),
            }
        }
        Ok(Some(prefix))
    }
}

/// Reads the prefixes of many bases, as [`Base::read`] does for one. A frame that several of them need is decoded once.
pub(super) fn read_all(session: &WriteSession, bases: &[Option<Base>], threads: usize) -> Result<Vec<Option<Vec<u8>>>> {
    let empty = |base: &Option<Base>| Mutex::new(base.as_ref().map(|base| vec![0; base.prefix_len()]));
    let prefixes: Vec<Mutex<Option<Vec<u8>>>> = bases.iter().map(empty).collect();
    // Each stored copy gets a number. `parts` says for each number which bytes of it go where in which prefix.
    let mut numbers: HashMap<CopyPlace, usize> = HashMap::new();
    let mut wanted: Vec<(usize, StoredCopy)> = Vec::new();
    let mut parts: Vec<Vec<(usize, usize, Slice)>> = Vec::new();
    for (of, base) in bases.iter().enumerate() {
        let mut place = 0;
        for (copy, slice) in base.iter().flat_map(Base::slices) {
            let number = *numbers.entry(copy.place()).or_insert_with(|| {
                wanted.push((parts.len(), copy.clone()));
                parts.push(Vec::new());
                parts.len() - 1
            });
            parts.get_mut(number).ok_or_else(|| Error::bug("a base has no number"))?.push((of, place, *slice));
            place += usize_from(slice.len);
        }
    }
    // Several threads copy into the prefixes. Each prefix has a lock of its own, so they hardly meet.
    let failed = session.reader().each_copy(&wanted, threads, WAITING_LEN, &|number, bytes| {
        for (of, place, slice) in parts.get(number).into_iter().flatten() {
            let (start, len) = (usize_from(slice.offset), usize_from(slice.len));
            let Some(prefix) = prefixes.get(*of) else { continue };
            let mut prefix = prefix.lock().unwrap_or_else(PoisonError::into_inner);
            let to = prefix.as_mut().and_then(|prefix| prefix.get_mut(*place..*place + len));
            if let (Some(to), Some(from)) = (to, bytes.get(start..start + len)) {
                to.copy_from_slice(from);
            }
        }
        Ok(())
    })?;
    // A copy failed: reading these prefixes one by one tries other copies, and finds out which bases are damaged.
    let mut prefixes: Vec<Option<Vec<u8>>> =
        prefixes.into_iter().map(|prefix| prefix.into_inner().unwrap_or_else(PoisonError::into_inner)).collect();
    let mut again: Vec<usize> = failed.iter().filter_map(|number| parts.get(*number)).flatten().map(|(of, ..)| *of).collect();
    again.sort_unstable();
    again.dedup();
    for of in again {
        if let (Some(Some(base)), Some(prefix)) = (bases.get(of), prefixes.get_mut(of)) {
            *prefix = base.read(session)?;
        }
    }
    Ok(prefixes)
}

/// Follows the predecessor's chain down to version `target`, and returns the slices with which the delta above stands on that version. In a
/// broken lineage the first older version is taken. `None` if the predecessor itself is the one.
fn older(session: &WriteSession, predecessor: &StoredCopy, target: u32) -> Result<Option<Vec<Slice>>> {
    let mut copy = predecessor.clone();
    let mut slices = None;
    while copy.entry.version > target {
        // Of several slices the longest one continues the lineage; the others hold content that came from elsewhere.
        let Some(through) = copy.frame().slices.iter().max_by_key(|slice| slice.len).copied() else { break };
        let bases = session.reader().places().bases(through.base, copy.frame().level)?;
        let Some((next, _)) = session.trusted(bases)? else { break };
        // Not a lineage any more: without this, versions could rise and the loop would follow an unrelated chain.
        if next.entry.version >= copy.entry.version {
            break;
        }
        slices = Some(copy.frame().slices.clone());
        copy = next;
    }
    Ok(slices)
}

/// An older version of a chunk whose chain has reached its bounds. It is the newest one on the chain that leaves at least half of the remaining
/// levels and work to later versions. So the chunk need not be stored whole, and the changes since that version are stored again only now and then.
fn lower(session: &WriteSession, predecessor: Option<ChunkId>) -> Result<Option<(StoredCopy, Closure)>> {
    let Some(id) = predecessor else { return Ok(None) };
    let Some(newest) = session.trusted(session.reader().places().copies(&id)?)? else { return Ok(None) };
    let mut chain = vec![newest];
    while let Some((copy, _)) = chain.last() {
        let [slice] = copy.frame().slices.as_slice() else { break };
        let bases = session.reader().places().bases(slice.base, copy.frame().level)?;
        let Some((next, closure)) = session.trusted(bases)?.filter(|(next, _)| slice.offset == 0 && slice.len == next.entry.plain_len)
        else {
            break;
        };
        chain.push((next, closure));
    }
    let Some((first, read)) = chain.last() else { return Ok(None) };
    let work_max = (usize_from(WORK_WRITE_MAX) + read.len()) / 2;
    let level_max = LEVEL_WRITE_MAX / 2 + first.frame().level / 2;
    Ok(chain.into_iter().find(|(copy, closure)| closure.len() <= work_max && copy.frame().level <= level_max))
}

/// A skip rule: it says which older version a version of a lineage stands on.
struct Skip {
    first: u32,
    factor: u32,
}

impl Skip {
    /// How many versions before this one, which is not 0, its base is.
    fn distance(&self, version: u32) -> u32 {
        debug_assert!(version > 0, "version 0 has no base");
        let mut distance = 1;
        let mut next = Some(self.first);
        while let Some(hop) = next.filter(|hop| version.is_multiple_of(*hop)) {
            distance = hop;
            next = hop.checked_mul(self.factor);
        }
        distance
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn skip_rule_bounds_the_depth() {
        for (skip, versions, depth_max) in [(CHUNK_SKIP, 10_000, 46), (NODE_SKIP, 10_000, 30)] {
            let mut depth = vec![0u32];
            for version in 1..=versions {
                let base = version - skip.distance(version);
                depth.push(depth.get(usize_from(base)).copied().unwrap_or_default() + 1);
            }
            let deepest = depth.iter().max().copied().unwrap_or_default();
            assert!(deepest <= depth_max && deepest <= u32::from(LEVEL_WRITE_MAX), "{deepest} > {depth_max}");
        }
    }
}
