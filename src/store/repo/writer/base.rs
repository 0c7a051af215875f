//! Choosing what a new chunk is made a delta of.

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

/// The skip rule for chunks: the base of version k is version k - p, where p is the largest of 32, 128, 512, ... that divides k, or 1. So most versions
/// stand on the one before, and a hop back now and then bounds the depth at 31, and 3 for each further factor of 4 (SVN skip-deltas; hop encoding of
/// dbDedup, SIGMOD 2017; compared in `benches/chains.rs`).
const CHUNK_SKIP: Skip = Skip { first: 32, factor: 4 };
/// The same for tree nodes, which every operation reads: a hop from one of 16 versions back costs all the ids that have changed since.
const NODE_SKIP: Skip = Skip { first: 16, factor: 4 };

/// Bytes of prefixes that wait while bases are read: a backup has much else in memory.
const WAITING_LEN: usize = 12 << 20;

/// What a delta is made against.
pub(super) struct Base {
    /// The new chunk's place in its lineage.
    pub(super) version: u32,
    /// What reading the delta takes, beside itself.
    pub(super) closure: Closure,
    slices: Vec<(StoredCopy, Slice)>,
}

impl Base {
    /// The base that the skip rule gives; `None` where the chunk must be stored whole, because nothing is known that it is like, or because the
    /// chain would become too long.
    pub(super) fn choose(session: &WriteSession, reference: &Reference, node: bool) -> Result<Option<Base>> {
        if reference.predecessor.is_some() && !reference.slices.is_empty() {
            return Base::of_window(session, reference);
        }
        let predecessor = match &reference.predecessor {
            Some(id) => session.trusted(session.reader().places().copies(id)?)?,
            None => None,
        };
        let mut base = Base { version: 0, closure: Closure::default(), slices: Vec::new() };
        let mut hop = None;
        if let Some((copy, _)) = &predecessor {
            base.version = copy.entry.version.saturating_add(1);
            let skip = if node { NODE_SKIP } else { CHUNK_SKIP };
            hop = older(session, copy, base.version - skip.distance(base.version))?;
        }
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
        let Some((copy, closure)) = lower(session, reference.predecessor.filter(|_| reference.slices.is_empty()))? else { return Ok(None) };
        let mut base = Base { closure: Closure::default(), slices: Vec::new(), ..base };
        let slice = Slice { base: copy.entry.id.prefix(), offset: 0, len: copy.entry.plain_len };
        base.add(session, slice, copy, &closure)?;
        base.add_beside(session, &reference.beside)?;
        Ok(base.fits().then_some(base))
    }

    /// Puts parts of other chunks before the one that the base is, as many as leave room for later versions.
    fn add_beside(&mut self, session: &WriteSession, beside: &[BaseSlice]) -> Result<()> {
        if beside.is_empty() || self.slices.len() != 1 || !self.fits() {
            return Ok(());
        }
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
            // A window with a gap is worth less than a new lineage.
            if copy.frame().level >= lineage::LEVEL_MAX || base.closure.len_with(&closure) >= WORK_WRITE_MAX as usize {
                return Ok(None);
            }
            base.add(session, slice, copy, &closure)?;
        }
        Ok(base.fits().then_some(base))
    }

    /// The base that slices from elsewhere in a stream without pages give.
    pub(super) fn of_rows(session: &WriteSession, reference: &Reference) -> Result<Option<Base>> {
        let mut base = Base { version: 0, closure: Closure::default(), slices: Vec::new() };
        // The best stand last, nearest to the chunk: they come first where not all can be had.
        reference.slices.iter().rev().try_for_each(|slice| base.add_known(session, slice))?;
        base.slices.reverse();
        base.version = lineage::first_version(base.level());
        Ok((base.level() <= lineage::LEVEL_MAX && base.fits()).then_some(base))
    }

    /// Whether a writer keeps to the bounds with it.
    fn fits(&self) -> bool {
        self.level() <= LEVEL_WRITE_MAX
            && self.work() <= WORK_WRITE_MAX
            && prefix_fits(&self.frame(Encoding::Delta).slices, &mut Vec::new())
    }

    /// Adds a slice of a chunk that is known by its id; one that is not stored any more is left out, and one that would make the chain too long.
    fn add_known(&mut self, session: &WriteSession, slice: &BaseSlice) -> Result<()> {
        let Some((copy, closure)) = session.trusted(session.reader().places().copies(&slice.id)?)? else { return Ok(()) };
        if copy.frame().level >= LEVEL_WRITE_MAX || self.closure.len_with(&closure) >= WORK_WRITE_MAX as usize {
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

    /// Adds a slice, unless what names its base would name another chunk too.
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

    /// How many frames are decoded to read a delta of it.
    fn work(&self) -> u32 {
        self.closure.len() as u32 + 1
    }

    /// What the work of a delta counts beside its bytes where there is a choice between two. Both fit, so that is little.
    pub(super) fn price(&self) -> usize {
        self.work() as usize * thrift::FRAME_PRICE_COMPARED
    }

    /// Bytes of the prefix.
    pub(super) fn prefix_len(&self) -> usize {
        self.slices.iter().map(|(_, slice)| slice.len as usize).sum()
    }

    /// What the table says of the delta.
    pub(super) fn frame(&self, encoding: Encoding) -> Frame {
        let slices = self.slices.iter().map(|(_, slice)| *slice).collect();
        Frame { level: self.level(), work: self.work(), slices, ..Frame::whole(encoding) }
    }

    /// Whether the prefix is one chunk, so that what stood in a place of the chunk stands in this place of the prefix.
    pub(super) fn is_one_chunk(&self) -> bool {
        matches!(self.slices.as_slice(), [(copy, slice)] if slice.offset == 0 && slice.len == copy.entry.plain_len)
    }

    /// The stored parts that stand in the prefix, in order.
    pub(super) fn slices(&self) -> &[(StoredCopy, Slice)] {
        &self.slices
    }

    /// The prefix, of verified bytes; `None` if a base cannot be read: damage to what is stored, or a catalog that is wrong about it, must not stop a
    /// backup that can store the chunk whole.
    pub(super) fn read(&self, session: &WriteSession) -> Result<Option<Vec<u8>>> {
        let mut prefix = Vec::with_capacity(self.prefix_len());
        for (copy, slice) in &self.slices {
            match session.reader().copy(copy) {
                Ok(plain) => {
                    let start = slice.offset as usize;
                    let Some(part) = plain.get(start..start + slice.len as usize) else { return Ok(None) };
                    prefix.extend_from_slice(part);
                }
                Err(error) if error.is_damage() => return Ok(None),
                Err(error) => return Err(error),
            }
        }
        Ok(Some(prefix))
    }
}

/// The prefixes of these bases, as [`Base::read`] gives them; every frame that they take is decoded once.
pub(super) fn read_all(session: &WriteSession, bases: &[Option<Base>], threads: usize) -> Result<Vec<Option<Vec<u8>>>> {
    let empty = |base: &Option<Base>| Mutex::new(base.as_ref().map(|base| vec![0; base.prefix_len()]));
    let prefixes: Vec<Mutex<Option<Vec<u8>>>> = bases.iter().map(empty).collect();
    // By chunk: where its bytes go.
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
            place += slice.len as usize;
        }
    }
    let failed = session.reader().each_copy(&wanted, threads, WAITING_LEN, &|number, bytes| {
        for (of, place, slice) in parts.get(number).into_iter().flatten() {
            let (start, len) = (slice.offset as usize, slice.len as usize);
            let Some(prefix) = prefixes.get(*of) else { continue };
            let mut prefix = prefix.lock().unwrap_or_else(PoisonError::into_inner);
            let to = prefix.as_mut().and_then(|prefix| prefix.get_mut(*place..*place + len));
            if let (Some(to), Some(from)) = (to, bytes.get(start..start + len)) {
                to.copy_from_slice(from);
            }
        }
        Ok(())
    })?;
    // Whatever is wrong with a base, reading it by itself finds another way or finds it damaged.
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

/// The slices against which the lineage's version `target` or, in a broken lineage, the first older version on its chain stands; `None` if that is
/// the predecessor itself. The target lies on the predecessor's own chain in an unbroken lineage.
fn older(session: &WriteSession, predecessor: &StoredCopy, target: u32) -> Result<Option<Vec<Slice>>> {
    let mut copy = predecessor.clone();
    let mut slices = None;
    while copy.entry.version > target {
        // Of several parts the longest is the one that the lineage goes through.
        let Some(through) = copy.frame().slices.iter().max_by_key(|slice| slice.len).copied() else { break };
        let bases = session.reader().places().bases(through.base, copy.frame().level)?;
        let Some((next, _)) = session.trusted(bases)? else { break };
        if next.entry.version >= copy.entry.version {
            break;
        }
        slices = Some(copy.frame().slices.clone());
        copy = next;
    }
    Ok(slices)
}

/// An older version of a chunk whose chain is as long as it may be: one that leaves room for half as many versions again as the lineage can have.
/// So a chunk is not stored whole, and the changes since then are stored once more only now and then.
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
    let work_max = (WORK_WRITE_MAX as usize + read.len()) / 2;
    let level_max = LEVEL_WRITE_MAX / 2 + first.frame().level / 2;
    Ok(chain.into_iter().find(|(copy, closure)| closure.len() <= work_max && copy.frame().level <= level_max))
}

/// Which older version a version of a lineage stands on.
struct Skip {
    first: u32,
    factor: u32,
}

impl Skip {
    /// How many versions before this one, which is not 0, its base is.
    fn distance(&self, version: u32) -> u32 {
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
                depth.push(depth.get(base as usize).copied().unwrap_or_default() + 1);
            }
            let deepest = depth.iter().max().copied().unwrap_or_default();
            assert!(deepest <= depth_max && deepest <= u32::from(LEVEL_WRITE_MAX), "{deepest} > {depth_max}");
        }
    }
}
