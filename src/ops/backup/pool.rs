//! The pages that a step has changed, as they were: a small pool in which content is looked for closely.
//!
//! Content that moves leaves a page that changes. The features that are kept of a whole stream are few for each page and find a page that moved,
//! not a row of a few hundred bytes. Of the pages that changed every anchor is looked up, so that what left one of them is found in another. What
//! that takes follows the change and not the size of the database.

use crate::store::codec::similarity::matching::Matcher;
use crate::store::codec::similarity::{Features, PIECE_LEN, Sampler};

/// Bytes of changed pages that are taken; past that the features that are kept have to do, as after a VACUUM.
const POOL_LEN_MAX: usize = 32 << 20;

/// The anchors of old pieces.
#[derive(Default)]
pub(super) struct Pool {
    /// The number of the piece in the old stream, its features, and the end of its other anchors.
    pieces: Vec<(u32, Features, usize)>,
    anchors: Vec<u32>,
}

impl Pool {
    /// Whether there is nothing in it.
    pub(super) fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }

    /// Takes the pieces of an old chunk, which lies at this place of its stream, that are not the same in the new one in its place, as long as there is
    /// room.
    pub(super) fn add(&mut self, sampler: &Sampler, offset: u64, old: &[u8], new: &[u8]) {
        if !offset.is_multiple_of(PIECE_LEN as u64) || self.pieces.len() * PIECE_LEN >= POOL_LEN_MAX {
            return;
        }
        let mut new = new.chunks(PIECE_LEN);
        for (number, piece) in (offset / PIECE_LEN as u64..).zip(old.chunks(PIECE_LEN)) {
            let (Ok(number), true) = (u32::try_from(number), new.next() != Some(piece)) else { continue };
            let kept = sampler.features(piece);
            self.anchors
                .extend(sampler.anchors(piece).map(|(_, anchor)| anchor).filter(|anchor| kept.anchors().all(|kept| kept != *anchor)));
            self.pieces.push((number, kept, self.anchors.len()));
        }
    }

    /// Looks all of them up, but for features that were read with the others of the stream.
    pub(super) fn pass(&self, matcher: &mut Matcher, read_features: bool) {
        let mut start = 0;
        for (piece, features, end) in &self.pieces {
            if !read_features {
                matcher.pass_more(*piece, &features.anchors().collect::<Vec<_>>());
            }
            matcher.pass_more(*piece, self.anchors.get(start..*end).unwrap_or_default());
            start = *end;
        }
    }
}
