//! Windows of older versions: what a chunk of a stream without pages is made a delta of, so that chains stay short.
//!
//! Such a chunk has no one predecessor, since cuts move: it stands on a window of its parent's stream. Where the skip rule wants an older version, the
//! window is followed downwards. The window of a delta lies around the place of the delta, so a part of the delta stood in the same part of the
//! middle of its window, but for a few rows; and that part again stood in a part of a window.

use super::super::locate::StoredCopy;
use super::super::new_chunk::BaseSlice;
use super::super::session::{Closure, WriteSession};
use crate::error::Result;
use crate::store::format::SLICES_MAX;
use crate::store::format::pack::Slice;

/// The base of the skip rule for windows: version k stands on a version that is not newer than k - p, where p is the largest power of it that divides k.
/// Everything that is read of a stream is read through such chains, so they must be shorter than those of pages, of which few change in a step.
const SKIP: u32 = 4;

/// The highest level of a delta of a window: what an unbroken lineage of 255 versions comes to. Lineages that are broken again and again on top of each
/// other end there.
pub(super) const LEVEL_MAX: u8 = 12;

/// A part of a stored chunk.
pub(super) struct Part {
    pub(super) copy: StoredCopy,
    pub(super) closure: Closure,
    pub(super) slice: Slice,
}

/// What a window becomes.
pub(super) struct Window {
    /// The new chunk's place in its lineage.
    pub(super) version: u32,
    /// In the order of the older stream.
    pub(super) parts: Vec<Part>,
}

/// Follows a window down to the version that the skip rule gives. What is not stored any more is left out.
pub(super) fn window(session: &WriteSession, slices: &[BaseSlice]) -> Result<Window> {
    let mut newest = Vec::with_capacity(slices.len());
    for BaseSlice { id, offset, len } in slices {
        if let Some((copy, closure)) = session.trusted(session.reader().places().copies(id)?)? {
            newest.push(Part { copy, closure, slice: Slice { base: id.prefix(), offset: *offset, len: *len } });
        }
    }
    let Some(version) = newest.iter().map(|part| part.copy.entry.version.saturating_add(1)).max() else {
        return Ok(Window { version: 0, parts: newest });
    };
    let target = version - distance(version);
    let descent = Descent { session, version: target, level: depth(target) };
    let mut parts = Vec::new();
    for part in newest {
        let before = parts.len();
        if !descent.follow(&part, &mut parts)? {
            parts.truncate(before);
            parts.push(part);
        }
    }
    Ok(Window { version, parts: join(parts) })
}

/// How many versions before this one the skip rule gives its base; 1 for version 0, which has none.
fn distance(version: u32) -> u32 {
    let mut power = 1u32;
    while let Some(next) = power.checked_mul(SKIP).filter(|next| version != 0 && version.is_multiple_of(*next)) {
        power = next;
    }
    power
}

/// The level of a version in a lineage that is not broken.
fn depth(mut version: u32) -> u8 {
    let mut depth = 0;
    while version > 0 {
        version -= distance(version);
        depth += 1;
    }
    depth
}

/// The version of a chunk with which a lineage begins anew on top of others, as a delta of this level: the first one that may be of it. So what is
/// made a delta of it keeps to the same bounds as in a lineage that is not broken.
pub(super) fn first_version(level: u8) -> u32 {
    let mut version = 0;
    while depth(version) < level {
        version += 1;
    }
    version
}

struct Descent<'s> {
    session: &'s WriteSession,
    /// What is wanted: nothing newer than this,
    version: u32,
    /// and nothing of a higher level.
    level: u8,
}

impl Descent<'_> {
    /// Adds the parts of older chunks in which a part stood; `false` if they cannot be had. Recursion ends: levels fall.
    fn follow(&self, part: &Part, parts: &mut Vec<Part>) -> Result<bool> {
        let (frame, entry) = (part.copy.frame(), &part.copy.entry);
        if frame.slices.is_empty() || entry.version <= self.version && frame.level <= self.level {
            parts.push(part.again(part.slice));
            return Ok(parts.len() <= SLICES_MAX);
        }
        let slack = (frame.prefix_len() as u32).saturating_sub(entry.plain_len) / 2;
        let (start, end) =
            (part.slice.offset.saturating_add(slack), part.slice.offset.saturating_add(part.slice.len).saturating_add(slack));
        let mut place = 0u32;
        for slice in &frame.slices {
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

/// Makes one of neighbours in the same chunk. They may overlap or lie a little apart, since each was followed by itself.
fn join(parts: Vec<Part>) -> Vec<Part> {
    let mut joined: Vec<Part> = Vec::with_capacity(parts.len());
    for part in parts {
        match joined.last_mut() {
            Some(last) if last.copy.place() == part.copy.place() => {
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
