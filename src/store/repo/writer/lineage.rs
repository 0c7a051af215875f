//! The lineage of a window: how a window of the parent's stream is followed down to older versions of its bytes. A window is the base of a
//! chunk of a stream without pages.
//!
//! Cuts move between two dumps, so such a chunk has no single predecessor. It stands on a window of the parent's stream. Where the skip
//! rule wants an older version, the window is followed down the chains.
//!
//! Assumption: a window is wider than its delta by the same slack on both sides, so bytes at offset x of a delta come from about offset
//! x + slack of its prefix. Applying this along the chain maps a part of a chunk to parts of older chunks. The result may be off by a few
//! rows, and by more at the ends of a stream. That costs some bytes in the new delta and is never wrong, because every delta is decoded and compared.

use super::super::locate::StoredCopy;
use super::super::new_chunk::BaseSlice;
use super::super::session::{Closure, WriteSession};
use crate::error::Result;
use crate::store::format::SLICES_MAX;
use crate::store::format::pack::Slice;
use crate::store::repo::u32_from;

/// The factor of the skip rule for windows: version k stands on a version not newer than k - p, where p is the largest power of it that divides
/// k. A dump is read through all of these chains at once, so they must be shorter than the chains of pages: in a step
/// only few pages change.
const SKIP: u32 = 4;

/// The highest level of a delta on a window: the depth of an unbroken lineage of 255 versions. A longer lineage, or one that begins on top of
/// others again and again, ends there: its next version is stored whole.
pub(super) const LEVEL_MAX: u8 = 12;

/// A part of a stored chunk.
pub(super) struct Part {
    pub(super) copy: StoredCopy,
    pub(super) closure: Closure,
    pub(super) slice: Slice,
}

/// The older parts that a window becomes.
pub(super) struct Window {
    /// The new chunk's place in its lineage.
    pub(super) version: u32,
    /// In the order of the older stream.
    pub(super) parts: Vec<Part>,
}

/// Follows a window down to the version that the skip rule gives. Slices of chunks that are not stored any more are left out.
pub(super) fn window(session: &WriteSession, slices: &[BaseSlice]) -> Result<Window> {
    let mut newest = Vec::with_capacity(slices.len());
    for BaseSlice { id, offset, len } in slices {
        if let Some((copy, closure)) = session.trusted(session.reader().places().copies(id)?)? {
            newest.push(Part { copy, closure, slice: Slice { base: id.prefix(), offset: *offset, len: *len } });
        }
    }
    // The parts of a window may have different versions. The new chunk comes after all of them.
    let Some(version) = newest.iter().map(|part| part.copy.entry.version.saturating_add(1)).max() else {
        return Ok(Window { version: 0, parts: newest });
    };
    debug_assert!(version > 0, "it comes after its base");
    let target = version - distance(version);
    let descent = Descent { session, version: target, level: depth(target) };
    let mut parts = Vec::new();
    for part in newest {
        let before = parts.len();
        // A part that cannot be followed stays as it is: a newer version, with a longer chain, is better than a gap in the window.
        if !descent.follow(&part, &mut parts)? {
            parts.truncate(before);
            parts.push(part);
        }
    }
    Ok(Window { version, parts: join(parts) })
}

/// How many versions before this one the skip rule goes; 1 for version 0, which has no base.
fn distance(version: u32) -> u32 {
    let mut power = 1u32;
    while let Some(next) = power.checked_mul(SKIP).filter(|next| version != 0 && version.is_multiple_of(*next)) {
        power = next;
    }
    power
}

/// The level of a version in an unbroken lineage.
fn depth(mut version: u32) -> u8 {
    let mut depth = 0;
    while version > 0 {
        version -= distance(version);
        depth += 1;
    }
    depth
}

/// The version number for a chunk that begins a new lineage as a delta of this level: the first version that has this level in an unbroken
/// lineage. So the chunks that stand on it keep the same bounds as in an unbroken lineage.
pub(super) fn first_version(level: u8) -> u32 {
    let mut version = 0;
    while depth(version) < level {
        version += 1;
    }
    version
}

struct Descent<'s> {
    session: &'s WriteSession,
    /// The newest version that a part may come to.
    version: u32,
    /// The highest level that a part may come to.
    level: u8,
}

impl Descent<'_> {
    /// Adds the parts of older chunks from which a part came; `false` if they cannot be read. The recursion ends, because levels fall.
    fn follow(&self, part: &Part, parts: &mut Vec<Part>) -> Result<bool> {
        let (frame, entry) = (part.copy.frame(), &part.copy.entry);
        // Nothing below, or old enough. With more than SLICES_MAX parts no delta could name them all.
        if frame.slices.is_empty() || entry.version <= self.version && frame.level <= self.level {
            parts.push(part.again(part.slice));
            return Ok(parts.len() <= SLICES_MAX);
        }
        // The invariant above: the delta stands in the middle of its prefix. A prefix is at most PREFIX_LEN_MAX long, so it fits.
        let slack = u32_from(frame.prefix_len()).saturating_sub(entry.plain_len) / 2;
        let (start, end) =
            (part.slice.offset.saturating_add(slack), part.slice.offset.saturating_add(part.slice.len).saturating_add(slack));
        let mut place = 0u32;
        for slice in &frame.slices {
            // The slices of a prefix follow each other. From each one its share of the searched range is taken.
            let (from, to) = (start.max(place), end.min(place.saturating_add(slice.len)));
            if from < to {
                let within = Slice { base: slice.base, offset: slice.offset.saturating_add(from - place), len: to - from };
                let bases = self.session.reader().places().bases(slice.base, frame.level)?;
                let Some((copy, closure)) = self.session.trusted(bases)? else { return Ok(false) };
                if !self.follow(&Part { copy, closure, slice: within }, parts)? {
                    return Ok(false);
                }
            }
            place = place.saturating_add(slice.len);
        }
        Ok(true)
    }
}

impl Part {
    fn again(&self, slice: Slice) -> Part {
        Part { copy: self.copy.clone(), closure: self.closure.clone(), slice }
    }
}

/// Joins neighbouring parts of the same chunk. Each part was followed by itself, so two may overlap or lie a little apart.
fn join(parts: Vec<Part>) -> Vec<Part> {
    let mut joined: Vec<Part> = Vec::with_capacity(parts.len());
    for part in parts {
        match joined.last_mut() {
            Some(last) if last.copy.place() == part.copy.place() => {
                // Bytes between two parts are taken along: they are most likely part of the window too.
                let end = last.slice.offset.saturating_add(last.slice.len).max(part.slice.offset.saturating_add(part.slice.len));
                last.slice.offset = last.slice.offset.min(part.slice.offset);
                last.slice.len = end - last.slice.offset;
            }
            _ => joined.push(part),
        }
    }
    joined
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chains_are_short() {
        let levels: Vec<u8> = (0..=16).map(depth).collect();
        assert_eq!(levels, [0, 1, 2, 3, 1, 2, 3, 4, 2, 3, 4, 5, 3, 4, 5, 6, 1]);
        assert!((0..10_000).all(|version| depth(version) <= 21));
        assert_eq!([0, 1, 4, LEVEL_MAX].map(first_version), [0, 1, 7, 255]);
    }
}
