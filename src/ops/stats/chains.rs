//! Counts how deep chunks lie: how many frames must be decoded to read them.
//!
//! Guarantee: counts saturate, so a hostile tree cannot make them overflow.
//! Relies on the tables of packs for the depths; no chunk is read.

use std::collections::BTreeMap;

use serde::Serialize;
use serde::ser::{SerializeMap, Serializer};

/// The cost of reading a copy. Of several copies the one with the least is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Depth {
    /// The level of its frame.
    pub(super) level: u8,
    /// How many frames must be decoded, including its own.
    pub(super) work: u32,
}

/// The distribution of a number over many chunks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Spread {
    /// The mean; 0 without chunks.
    pub mean: f64,
    /// The value that 99 of 100 chunks do not exceed.
    pub p99: u32,
    /// The highest.
    pub max: u32,
}

/// The cost of reading each chunk by itself: the level and the work of the copy that would be read, from the tables
/// of packs. A chunk counts as often as it occurs in a stream.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Chains {
    /// The number of chunks.
    #[serde(rename = "stream_chunks")]
    pub chunks: u64,
    /// The lengths of their delta chains; 0 for a chunk that is stored whole.
    #[serde(rename = "depth")]
    pub level: Spread,
    /// The number of frames that must be decoded for one chunk.
    pub work: Spread,
}

impl Chains {
    /// Writes the fields in JSON; null if the trees could not be walked.
    pub(in crate::ops) fn or_null<S: Serializer>(chains: &Option<Chains>, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("stream_chunks", &chains.map(|chains| chains.chunks))?;
        map.serialize_entry("depth", &chains.map(|chains| chains.level))?;
        map.serialize_entry("work", &chains.map(|chains| chains.work))?;
        map.end()
    }
}

/// The number of chunks at each depth. Counts saturate: a hostile tree can say that it has one chunk 2^60 times.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Profile {
    /// Sorted by depth; each depth occurs once.
    counts: Vec<(Depth, u64)>,
}

impl Profile {
    /// The profile of single chunks.
    pub(super) fn of(depths: &[Depth]) -> Self {
        let mut sorted = depths.to_vec();
        sorted.sort_unstable();
        let counts = sorted.chunk_by(|one, next| one == next).filter_map(|equal| Some((*equal.first()?, equal.len() as u64)));
        Profile { counts: counts.collect() }
    }

    /// The sum of profiles.
    pub(super) fn sum<'p>(profiles: impl Iterator<Item = &'p Profile>) -> Self {
        let mut counts: BTreeMap<Depth, u64> = BTreeMap::new();
        for (depth, count) in profiles.flat_map(|profile| &profile.counts) {
            let sum = counts.entry(*depth).or_default();
            *sum = sum.saturating_add(*count);
        }
        Profile { counts: counts.into_iter().collect() }
    }

    /// Adds another one.
    pub(super) fn add(&mut self, other: &Profile) {
        *self = Profile::sum([&*self, other].into_iter());
    }

    /// Bytes in memory, about.
    pub(super) fn weight(&self) -> usize {
        self.counts.len() * size_of::<(Depth, u64)>()
    }

    /// The mean, the 99th percentile and the maximum.
    pub(super) fn chains(&self) -> Chains {
        Chains {
            chunks: self.counts.iter().fold(0, |sum, (_, count)| sum.saturating_add(*count)),
            level: spread(self.counts.iter().map(|(depth, count)| (u32::from(depth.level), *count))),
            work: spread(self.counts.iter().map(|(depth, count)| (depth.work, *count))),
        }
    }
}

fn spread(values: impl Iterator<Item = (u32, u64)>) -> Spread {
    let mut counts: BTreeMap<u32, u128> = BTreeMap::new();
    values.for_each(|(value, count)| *counts.entry(value).or_default() += u128::from(count));
    let all: u128 = counts.values().sum();
    let weighted: u128 = counts.iter().map(|(value, count)| u128::from(*value) * count).sum();
    let rank = (all * 99).div_ceil(100);
    let mut below = 0;
    let p99 = counts.iter().find(|(_, count)| {
        below += **count;
        below >= rank
    });
    Spread {
        mean: if all == 0 { 0.0 } else { weighted as f64 / all as f64 },
        p99: p99.map_or(0, |(value, _)| *value),
        max: counts.last_key_value().map_or(0, |(value, _)| *value),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(level: u8, work: u32) -> Depth {
        Depth { level, work }
    }

    #[test]
    fn numbers_over_many_chunks() {
        assert_eq!(Profile::default().chains(), Chains::default());
        let mostly_whole: Vec<Depth> = (0..99).map(|_| at(0, 1)).chain([at(5, 40)]).collect();
        let one = Profile::of(&mostly_whole);
        let level = Spread { mean: 0.05, p99: 0, max: 5 };
        assert_eq!(one.chains(), Chains { chunks: 100, level, work: Spread { mean: 1.39, p99: 1, max: 40 } });
        // One more deep chunk, and 99 of 100 are not enough.
        let two = Profile::sum([&one, &Profile::of(&[at(5, 7)])].into_iter());
        assert_eq!((two.chains().chunks, two.chains().level.p99, two.chains().work.p99), (101, 5, 7));
        let mut sum = one.clone();
        sum.add(&Profile::of(&[at(5, 7)]));
        assert_eq!(sum, two);
    }

    #[test]
    fn counts_saturate() {
        let mut many = Profile { counts: vec![(at(1, 2), u64::MAX)] };
        many.add(&many.clone());
        assert_eq!(many.chains().chunks, u64::MAX);
        assert_eq!(many.chains().level, Spread { mean: 1.0, p99: 1, max: 1 });
    }
}
