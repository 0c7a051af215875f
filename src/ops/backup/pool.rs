//! The old pages that this snapshot changes: a small pool in which moved content is searched for closely.
//!
//!
//! Content that moves leaves a page, and that page changes. The features kept of a whole stream are few for each
//! page: they find a page that moved, but not a row of a few hundred bytes. So every anchor of the changed pages is
//! looked up. What that costs follows the size of the change, not of the database.

use crate::ops::number::wide;
use crate::store::codec::similarity::matching::Matcher;
use crate::store::codec::similarity::{Features, PIECE_LEN, Sampler};

/// Most bytes of changed pages in the pool. Larger changes, as after a VACUUM, are left to the kept features.
const POOL_LEN_MAX: usize = 32 << 20;

/// The anchors of old pieces.
#[derive(Default)]
pub(super) struct Pool {
    /// For each piece its number in the old stream, its features, and the end of its other anchors in `anchors`.
    pieces: Vec<(u32, Features, usize)>,
    anchors: Vec<u32>,
}

impl Pool {
    /// Whether it is empty.
    pub(super) fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }

    /// Adds the pieces of an old chunk that differ from the new chunk in its place, as long as there is room.
    /// `offset` is the place of both in the stream.
    pub(super) fn add(&mut self, sampler: &Sampler, offset: u64, old: &[u8], new: &[u8]) {
        // Pieces are numbered from the start of the stream, so a chunk between their borders has none.
        if !offset.is_multiple_of(wide(PIECE_LEN)) || self.pieces.len() * PIECE_LEN >= POOL_LEN_MAX {
            return;
        }
        let mut new = new.chunks(PIECE_LEN);
        for (number, piece) in (offset / wide(PIECE_LEN)..).zip(old.chunks(PIECE_LEN)) {
            let (Ok(number), true) = (u32::try_from(number), new.next() != Some(piece)) else { continue };
            // The kept features have some of the anchors already; store only the others beside them.
            let kept = sampler.features(piece);
            self.anchors
                .extend(sampler.anchors(piece).map(|(_, anchor)| anchor).filter(|anchor| kept.anchors().all(|kept| kept != *anchor)));
            self.pieces.push((number, kept, self.anchors.len()));
        }
    }

    /// Compares all pieces with the matcher's batch. With `read_features` the kept features have been compared
    /// already, and only the other anchors are.
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
