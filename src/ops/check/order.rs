//! Orders frames so that they are decoded as few times as possible: each frame is followed by its deltas, and each of
//! these by theirs. So the base of a delta was decoded shortly before.

use crate::error::Result;
use crate::id::PackId;
use crate::store::format::pack::IdPrefix;
use crate::store::repo::Repository;

/// A frame: the number of its pack among those asked for, and its number in that pack's table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Item {
    pub(super) pack: u32,
    pub(super) frame: u32,
}

/// The value for "no frame".
const NONE: u32 = u32::MAX;

/// The frames of some packs with what their order needs: 25 bytes a frame and 16 a chunk.
#[derive(Default)]
struct Frames {
    items: Vec<Item>,
    levels: Vec<u8>,
    /// For each delta the chunk from which most of its prefix is taken.
    bases: Vec<Option<IdPrefix>>,
    /// The chunks by the start of their ids, each with its frame.
    chunks: Vec<(IdPrefix, u32)>,
}

/// All frames of these packs, ordered by lineage. Frames without bases keep the order of storage. Packs that the
/// catalog does not know are left out.
pub(super) fn by_lineage(repo: &Repository, packs: &[PackId]) -> Result<Vec<Item>> {
    let mut frames = Frames::default();
    for (id, pack) in packs.iter().zip(0u32..) {
        let Some(table) = repo.table_of(id)? else { continue };
        let first = frames.items.len() as u32;
        for (frame, number) in table.trailer.frames.iter().zip(0u32..) {
            frames.items.push(Item { pack, frame: number });
            frames.levels.push(frame.level);
            frames.bases.push(main_base(&frame.slices));
        }
        frames.chunks.extend(table.trailer.chunks.iter().map(|entry| (entry.id.prefix(), first.saturating_add(entry.frame))));
    }
    frames.chunks.sort_unstable();
    let parents: Vec<u32> = (0..frames.items.len()).map(|number| frames.parent(number)).collect();
    let items = frames.items;
    Ok(parents_first(&parents).into_iter().filter_map(|number| items.get(number as usize).copied()).collect())
}

fn main_base(slices: &[crate::store::format::pack::Slice]) -> Option<IdPrefix> {
    // Slices of one base need not be neighbours. The base of the longest slice is a good enough guess.
    slices.iter().max_by_key(|slice| slice.len).map(|slice| slice.base)
}

impl Frames {
    /// The frame that a delta follows: the one with the lowest level that holds its main base, as readers choose it.
    /// `NONE` if it is in another pack.
    fn parent(&self, number: usize) -> u32 {
        let (Some(&level), Some(&Some(base))) = (self.levels.get(number), self.bases.get(number)) else { return NONE };
        let start = self.chunks.partition_point(|(prefix, _)| *prefix < base);
        let same = self.chunks.iter().skip(start).take_while(|(prefix, _)| *prefix == base);
        let levels = same.filter_map(|(_, frame)| Some((*self.levels.get(*frame as usize)?, *frame)));
        // Levels fall from a frame to its parent, so no frame is its own ancestor.
        levels.filter(|(of, _)| *of < level).min().map_or(NONE, |(_, frame)| frame)
    }
}

/// All numbers, each followed by those that have it as their parent.
fn parents_first(parents: &[u32]) -> Vec<u32> {
    let mut by_parent: Vec<u32> = (0..parents.len() as u32).collect();
    let parent_of = |number: &u32| parents.get(*number as usize).copied().unwrap_or(NONE);
    by_parent.sort_by_key(parent_of);
    let children = |parent: u32| {
        let start = by_parent.partition_point(|number| parent_of(number) < parent);
        let rest = by_parent.get(start..).unwrap_or_default();
        rest.get(..rest.partition_point(|number| parent_of(number) == parent)).unwrap_or_default()
    };
    let mut order = Vec::with_capacity(parents.len());
    let mut open: Vec<u32> = Vec::new();
    for root in children(NONE) {
        open.push(*root);
        while let Some(number) = open.pop() {
            order.push(number);
            open.extend(children(number).iter().rev());
        }
    }
    order
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing)]
mod tests {
    use super::*;

    #[test]
    fn each_lineage_is_gone_through_to_its_end() {
        // 0 <- 2 <- 5, 0 <- 3, 1 <- 4
        assert_eq!(parents_first(&[NONE, NONE, 0, 0, 1, 2]), [0, 2, 5, 3, 1, 4]);
        assert!(parents_first(&[]).is_empty());
    }

    #[test]
    fn a_delta_follows_the_copy_that_readers_take() {
        let frames = Frames {
            items: Vec::new(),
            levels: vec![2, 1, 3, 1],
            bases: vec![Some(IdPrefix(9)), Some(IdPrefix(7)), Some(IdPrefix(7)), None],
            chunks: vec![(IdPrefix(7), 0), (IdPrefix(7), 1), (IdPrefix(7), 3)],
        };
        let parents: Vec<u32> = (0..4).map(|number| frames.parent(number)).collect();
        assert_eq!(parents, [NONE, NONE, 1, NONE], "of lower levels only, the lowest first, and what is elsewhere has none");
    }
}
