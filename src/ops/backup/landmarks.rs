//! Where the content of a chunk stood in the parent's stream, by the features that were kept of that.
//!
//! Cuts tell that most of the time, but not after a block of rows has come or gone and everything behind it has changed a little: no chunk is equal
//! any more, and the streams lie to each other as nobody knows.

use std::collections::HashMap;
use std::ops::Range;

use crate::store::codec::similarity::{PIECE_LEN, Sampler};
use crate::store::repo::KeptFeatures;

/// Pieces of the parent on either side of the expected place in which content is looked for: 16 MiB.
const REACH_PIECES: u64 = 4096;
/// Bytes of a chunk that are looked at. They have 256 anchors, and an old stream keeps one of eight of its own.
const SAMPLE_LEN: usize = 32 << 10;
/// Anchors that must agree on a place: one may be found by chance.
const AGREEING_MIN: usize = 3;
/// How far apart the places may lie on which anchors agree, bytes: an old one is known as that of its piece, and rows come and go between two.
const AGREEING_WITHIN: u64 = PIECE_LEN as u64 + PIECE_LEN as u64 / 2;

/// Looks for content near a place of the parent's stream.
pub(super) struct Landmarks {
    features: KeptFeatures,
    sampler: Sampler,
    /// The pieces whose anchors are in `places`.
    near: Range<u64>,
    /// The middle of the piece that an anchor lies in, bytes; `None` for one that several pieces have.
    places: HashMap<u32, Option<u64>>,
}

impl Landmarks {
    /// By these features.
    pub(super) fn new(features: KeptFeatures, sampler: Sampler) -> Self {
        Landmarks { features, sampler, near: 0..0, places: HashMap::new() }
    }

    /// Where in the parent's stream the content of this chunk starts, as far as it is near the expected place; right to about a piece.
    pub(super) fn place(&mut self, chunk: &[u8], expected: u64) -> Option<u64> {
        self.go_near(expected / PIECE_LEN as u64);
        let sample = chunk.get(..SAMPLE_LEN).unwrap_or(chunk);
        let known = |(end, anchor): (usize, u32)| Some(self.places.get(&anchor).copied().flatten()?.saturating_sub(end as u64));
        let mut starts: Vec<u64> = self.sampler.anchors(sample).filter_map(known).collect();
        starts.sort_unstable();
        // The places that agree with the first of them.
        let agreeing = (0..starts.len()).filter_map(|first| {
            let rest = starts.get(first..)?;
            rest.get(..rest.partition_point(|start| start - rest.first().unwrap_or(start) <= AGREEING_WITHIN))
        });
        let most = agreeing.max_by_key(|places| places.len()).filter(|places| places.len() >= AGREEING_MIN)?;
        most.get(most.len() / 2).copied()
    }

    /// Has the anchors of the pieces around this one at hand.
    fn go_near(&mut self, piece: u64) {
        let inner = self.near.start + REACH_PIECES / 2..self.near.end.saturating_sub(REACH_PIECES / 2);
        let at_the_start = self.near.start == 0 && self.near.end > 0 && piece < inner.end;
        if inner.contains(&piece) || at_the_start {
            return;
        }
        self.near = piece.saturating_sub(REACH_PIECES)..piece.saturating_add(REACH_PIECES);
        self.places.clear();
        let features = self.features.at(self.near.start, (self.near.end - self.near.start) as usize);
        for (number, features) in (self.near.start..).zip(features) {
            let middle = number * PIECE_LEN as u64 + PIECE_LEN as u64 / 2;
            for anchor in features.anchors() {
                self.places.entry(anchor).and_modify(|place| *place = None).or_insert(Some(middle));
            }
        }
    }
}
