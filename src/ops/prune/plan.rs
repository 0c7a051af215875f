//! Decides which packs are deleted, which are written anew, and which stay. A pure function of how much of each pack
//! is needed.
//!
//! Packs without use are deleted. Many small packs are merged. Of the others, the emptiest are written anew until the
//! unused share of the rest is small enough, or the limit of bytes to write is reached.

use std::collections::HashSet;

use serde::Serialize;
use serde::ser::{SerializeMap, Serializer};

use crate::id::PackId;
use crate::ops::number::wide;
use crate::store::format::PACK_TARGET;

/// Packs with fewer bytes than this are small.
const SMALL_BYTES: u64 = wide(PACK_TARGET) / 4;
/// Small packs are merged if there are at least this many. With fewer the same ones would be written again and again.
const SMALL_COUNT_MIN: usize = 16;

/// Default time that a marked pack waits, nanoseconds: a day, longer than most backups run.
const GRACE_NS: i64 = 24 * 3600 * 1_000_000_000;
/// Default share of the packs that stay that may be unused, in thousandths of the used bytes.
const UNUSED_MAX_PERMILLE: u64 = 50;

/// How to prune.
#[derive(Debug, Clone)]
pub struct PruneOptions {
    /// How long a marked pack waits before it is deleted, nanoseconds. Zero only if nobody else uses the repository
    /// at this moment.
    pub grace_ns: i64,
    /// The clock's time, nanoseconds since 1970 UTC.
    pub now_ns: i64,
    /// The machine's name.
    pub host: String,
    /// How much of the packs that stay may be unused, in thousandths of the used bytes.
    pub unused_max_permille: u64,
    /// Most bytes of packs that are written anew. The rest is left for the next prune.
    pub repack_bytes_max: Option<u64>,
}

/// A day of grace, and up to 5 % unused. The caller sets the clock's time and the machine's name.
impl Default for PruneOptions {
    fn default() -> Self {
        PruneOptions {
            grace_ns: GRACE_NS,
            now_ns: 0,
            host: String::new(),
            unused_max_permille: UNUSED_MAX_PERMILLE,
            repack_bytes_max: None,
        }
    }
}

/// A pack and how much of it is needed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct PackUse {
    /// The pack.
    #[serde(rename = "pack")]
    pub id: PackId,
    /// Its stored bytes.
    #[serde(rename = "stored_bytes")]
    pub size: u64,
    /// The bytes that are needed, about.
    #[serde(rename = "used_bytes")]
    pub used: u64,
}

/// What a prune would do.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct PrunePlan {
    /// Packs without anything that is needed.
    pub delete: Vec<PackUse>,
    /// Packs whose needed chunks are written anew.
    pub repack: Vec<PackUse>,
    /// Packs that stay as they are.
    #[serde(flatten, serialize_with = "kept")]
    pub keep: Vec<PackUse>,
    /// Packs that an earlier prune has marked.
    #[serde(rename = "marked_packs")]
    pub marked: u64,
    /// Their bytes.
    pub marked_bytes: u64,
    /// Chunks whose chains are shortened first. After that more packs than these lists name may be written anew and
    /// deleted.
    #[serde(rename = "shortened_chunks")]
    pub shorten: u64,
    /// Bytes of the links that can go then, about.
    #[serde(rename = "shortened_bytes")]
    pub shorten_bytes: u64,
}

/// JSON has only their number and bytes.
fn kept<S: Serializer>(packs: &[PackUse], serializer: S) -> Result<S::Ok, S::Error> {
    let mut map = serializer.serialize_map(None)?;
    map.serialize_entry("kept_packs", &packs.len())?;
    map.serialize_entry("kept_bytes", &packs.iter().map(|pack| pack.size).sum::<u64>())?;
    map.end()
}

impl PrunePlan {
    /// Decides about all packs that are not marked.
    pub fn new(packs: &[PackUse], options: &PruneOptions) -> Self {
        let mut plan = PrunePlan::default();
        let mut rest = Vec::new();
        for pack in packs {
            if pack.used == 0 { plan.delete.push(*pack) } else { rest.push(*pack) }
        }
        let (mut small, mut large): (Vec<PackUse>, Vec<PackUse>) = rest.into_iter().partition(|pack| pack.size < SMALL_BYTES);
        let mut budget = options.repack_bytes_max.unwrap_or(u64::MAX);
        // The smallest first: that merges the most packs for the bytes written.
        small.sort_unstable_by_key(|pack| (pack.size, pack.id));
        let mut total = 0u64;
        let affordable = small.iter().take_while(|pack| {
            total = total.saturating_add(pack.size);
            total <= budget
        });
        let affordable = affordable.count();
        // One small pack alone, or few of them, gain nothing by being merged: treat them like large ones.
        if small.len() < SMALL_COUNT_MIN || affordable < 2 {
            large.append(&mut small);
        }
        let mut repack = |pack: PackUse, plan: &mut PrunePlan| match budget.checked_sub(pack.size) {
            Some(rest) => {
                budget = rest;
                plan.repack.push(pack);
                true
            }
            None => {
                plan.keep.push(pack);
                false
            }
        };
        for pack in small {
            repack(pack, &mut plan);
        }
        // The emptiest first: they free the most for the bytes written.
        large.sort_unstable_by_key(|pack| (std::cmp::Reverse(pack.unused() * 1000 / pack.size.max(1)), pack.id));
        let used: u64 = large.iter().map(|pack| pack.used).sum();
        let mut unused: u64 = large.iter().map(PackUse::unused).sum();
        for pack in large {
            // Check again for each pack: stop as soon as the rest has little enough unused.
            let too_much = unused.saturating_mul(1000) > used.saturating_mul(options.unused_max_permille);
            if too_much && pack.unused() > 0 && repack(pack, &mut plan) {
                unused -= pack.unused();
            // `repack` has put it into `keep` already if the budget did not suffice.
            } else if !too_much || pack.unused() == 0 {
                plan.keep.push(pack);
            }
        }
        debug_assert_eq!(plan.delete.len() + plan.repack.len() + plan.keep.len(), packs.len(), "each pack is in one list");
        plan
    }
}

impl PrunePlan {
    /// This plan, made after chains were shortened, with the packs that were to be written anew before that.
    /// Otherwise the small packs might be too few now to be merged.
    pub(super) fn with(mut self, before: &PrunePlan) -> PrunePlan {
        let going: HashSet<PackId> = before.repack.iter().map(|pack| pack.id).collect();
        self.repack.extend(self.keep.extract_if(.., |pack| going.contains(&pack.id)));
        self
    }
}

impl PackUse {
    fn unused(&self) -> u64 {
        self.size.saturating_sub(self.used)
    }
}

#[cfg(test)]
mod tests {
    use super::{PackUse, PruneOptions, PrunePlan, SMALL_BYTES, SMALL_COUNT_MIN};
    use crate::id::PackId;

    fn pack(number: u8, size: u64, used: u64) -> PackUse {
        PackUse { id: PackId([number; 32]), size, used }
    }

    fn plan(packs: &[PackUse], unused_max_permille: u64, repack_bytes_max: Option<u64>) -> PrunePlan {
        PrunePlan::new(packs, &PruneOptions { grace_ns: 0, now_ns: 0, host: String::new(), unused_max_permille, repack_bytes_max })
    }

    fn numbers(packs: &[PackUse]) -> Vec<u8> {
        let mut numbers: Vec<u8> = packs.iter().filter_map(|pack| pack.id.0.first().copied()).collect();
        numbers.sort_unstable();
        numbers
    }

    const LARGE: u64 = SMALL_BYTES * 2;

    #[test]
    fn packs_of_no_use_go_and_full_ones_stay() {
        let packs = [pack(1, LARGE, 0), pack(2, LARGE, LARGE), pack(3, 10, 0), pack(4, 10, 10)];
        let plan = plan(&packs, 0, Some(0));
        assert_eq!((numbers(&plan.delete), numbers(&plan.repack), numbers(&plan.keep)), (vec![1, 3], vec![], vec![2, 4]));
    }

    #[test]
    fn the_emptiest_are_written_anew_until_little_enough_is_of_no_use() {
        let packs = [pack(1, LARGE, LARGE / 2), pack(2, LARGE, LARGE / 10), pack(3, LARGE, LARGE * 9 / 10), pack(4, LARGE, LARGE)];
        assert_eq!(numbers(&plan(&packs, 0, None).repack), [1, 2, 3]);
        assert_eq!(numbers(&plan(&packs, 50, None).repack), [1, 2]);
        assert_eq!(numbers(&plan(&packs, 300, None).repack), [2]);
        assert_eq!(plan(&packs, 1000, None).repack, []);
        for permille in [0, 50, 300, 1000] {
            let plan = plan(&packs, permille, None);
            assert_eq!(plan.repack.len() + plan.keep.len(), packs.len(), "each pack is in one list");
        }
    }

    #[test]
    fn no_more_is_written_than_allowed() {
        let packs = [pack(1, LARGE, LARGE / 2), pack(2, LARGE, LARGE / 10), pack(3, LARGE, LARGE / 3)];
        let plan = plan(&packs, 0, Some(2 * LARGE));
        assert_eq!((numbers(&plan.repack), numbers(&plan.keep)), (vec![2, 3], vec![1]));
    }

    #[test]
    fn small_packs_are_merged_when_they_are_many() {
        let small = |count: usize| (0..).map(|number| pack(number, 1000, 1000)).take(count).collect::<Vec<_>>();
        assert_eq!(plan(&small(SMALL_COUNT_MIN - 1), 50, None).repack, []);
        assert_eq!(plan(&small(SMALL_COUNT_MIN), 50, None).repack.len(), SMALL_COUNT_MIN);
        assert_eq!(plan(&small(SMALL_COUNT_MIN), 50, Some(5000)).repack.len(), 5);
        assert_eq!(plan(&small(SMALL_COUNT_MIN), 50, Some(1999)).repack, [], "one alone is not merged");
    }
}
