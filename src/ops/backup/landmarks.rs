//! Finds where the content of a chunk stood in the parent's stream, by the features that were kept of that stream.
//!
//!
//! Usually cuts tell the place. They do not after a block of rows has been inserted or removed and everything after
//! it has changed a little: then no chunk is equal any more, and the shift between the streams is unknown. The
//! features are hints; a wrong place only makes the delta larger.

use std::collections::HashMap;
use std::ops::Range;

use crate::ops::number::{in_memory, wide};
use crate::store::codec::similarity::{PIECE_LEN, Sampler};
use crate::store::repo::KeptFeatures;

/// Number of the parent's pieces on each side of the expected place that are searched: 16 MiB.
const REACH_PIECES: u64 = 4096;
/// Bytes of a chunk that are searched for. They have 256 anchors; of an old stream one anchor in eight is kept.
const SAMPLE_LEN: usize = 32 << 10;
/// Number of anchors that must agree on a place. A single one may match by chance.
const AGREEING_MIN: usize = 3;
/// Anchors agree if their places are within this many bytes. The place of an old anchor is known only to its piece,
/// and rows come and go between two of them.
const AGREEING_WITHIN: u64 = wide(PIECE_LEN) + wide(PIECE_LEN) / 2;

/// Looks for content near a place of the parent's stream.
pub(super) struct Landmarks {
    features: KeptFeatures,
    sampler: Sampler,
    /// The pieces whose anchors are in `places`.
    near: Range<u64>,
    /// For each anchor the middle of its piece, bytes; `None` for an anchor that several pieces have.
    places: HashMap<u32, Option<u64>>,
}

impl Landmarks {
    /// Searches in these features.
    pub(super) fn new(features: KeptFeatures, sampler: Sampler) -> Self {
        Landmarks { features, sampler, near: 0..0, places: HashMap::new() }
    }

    /// Where in the parent's stream the content of this chunk starts, if that is near the expected place. Right to
    /// about a piece.
    pub(super) fn place(&mut self, chunk: &[u8], expected: u64) -> Option<u64> {
        self.go_near(expected / wide(PIECE_LEN));
        let sample = chunk.get(..SAMPLE_LEN).unwrap_or(chunk);
        // Each known anchor votes for a start: its old place minus its offset in the chunk.
        let known = |(end, anchor): (usize, u32)| Some(self.places.get(&anchor).copied().flatten()?.saturating_sub(wide(end)));
        let mut starts: Vec<u64> = self.sampler.anchors(sample).filter_map(known).collect();
        starts.sort_unstable();
        // For each start, the run of starts that agree with it. The longest run wins, and its median is the place.
        let agreeing = (0..starts.len()).filter_map(|first| {
            let rest = starts.get(first..)?;
            rest.get(..rest.partition_point(|start| start - rest.first().unwrap_or(start) <= AGREEING_WITHIN))
        });
        let most = agreeing.max_by_key(|places| places.len()).filter(|places| places.len() >= AGREEING_MIN)?;
        most.get(most.len() / 2).copied()
    }

    /// Loads the anchors of the pieces around this one, unless they are loaded.
    fn go_near(&mut self, piece: u64) {
        // Reload only when the place leaves the middle half, so that a stream that moves on slowly reloads rarely.
        let inner = self.near.start + REACH_PIECES / 2..self.near.end.saturating_sub(REACH_PIECES / 2);
        let at_the_start = self.near.start == 0 && self.near.end > 0 && piece < inner.end;
        if inner.contains(&piece) || at_the_start {
            return;
        }
        self.near = piece.saturating_sub(REACH_PIECES)..piece.saturating_add(REACH_PIECES);
        self.places.clear();
        let features = self.features.at(self.near.start, in_memory(self.near.end - self.near.start));
        for (number, features) in (self.near.start..).zip(features) {
            let middle = number * wide(PIECE_LEN) + wide(PIECE_LEN) / 2;
            for anchor in features.anchors() {
                // An anchor of several pieces names no place.
                self.places.entry(anchor).and_modify(|place| *place = None).or_insert(Some(middle));
            }
        }
    }
}
