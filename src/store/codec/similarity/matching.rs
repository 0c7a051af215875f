//! Matching: which pieces of an old stream share content with new chunks.
//!
//! A hash join. The anchors of a batch of new chunks are sorted; the features of the old stream, kept in the order of its pieces, pass by once
//! and are looked up. Three steps with a type each: [`Batch`], [`Matcher`], [`Matches`]. All together stay within 32 MiB: 16 MiB of entries,
//! 8 MiB of hits, 4 MiB of directory, 2 MiB of counts.

use super::{Features, PIECE_LEN, Sampler};

/// The most anchors in a batch. A piece has 32 on average, so this is about 65,536 pieces, or 256 MiB of new chunks.
pub const BATCH_ANCHORS_MAX: usize = 2 << 20;
/// The most chunks in a batch.
pub const BATCH_CHUNKS_MAX: u32 = 1 << 20;
/// An anchor in more old pieces, or in more new chunks, than this says nothing: boilerplate.
pub const SHARED_MAX: u8 = 16;
/// The votes of a feature that only one old piece has.
pub const VOTES_UNIQUE: u32 = 16;
/// The most hits that are kept: four times as many as the old pieces of a full batch have features.
const HITS_MAX: usize = 1 << 20;
/// Pieces of an old stream (4 GiB) past which a feature found proves little: the 512 anchors of a chunk of 64 KiB then meet one of its 2^22
/// features of 32 bits by chance in every second chunk.
const LONG_PIECES: u64 = 1 << 20;
/// Bits of an anchor that lead to its place among the sorted ones: two entries for each value.
const DIRECTORY_BITS: u32 = 20;
/// In a hit of [`Matches`], bits for how many more old pieces share the anchor.
const SHARED_BITS: u32 = 4;

/// The anchors of new chunks, to be looked for in one pass over an old stream.
#[derive(Debug, Default)]
pub struct Batch {
    /// The anchor in the upper half, the number of its chunk in the lower.
    entries: Vec<u64>,
    chunks: u32,
}

impl Batch {
    /// An empty one.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a chunk and gives its number in the batch, counted from 0. `None` if the batch is full: then the chunk goes into the next one. An
    /// empty batch takes any chunk that the format allows.
    pub fn add(&mut self, sampler: &Sampler, chunk: &[u8]) -> Option<u32> {
        let (before, number) = (self.entries.len(), self.chunks);
        if number == BATCH_CHUNKS_MAX {
            return None;
        }
        let mut last = 0;
        for (_, anchor) in sampler.anchors(chunk) {
            // Bytes that repeat with a short period would fill the batch.
            if anchor == last {
                continue;
            }
            if self.entries.len() == BATCH_ANCHORS_MAX {
                self.entries.truncate(before);
                return None;
            }
            self.entries.push(join(anchor, number));
            last = anchor;
        }
        self.chunks += 1;
        Some(number)
    }

    /// Whether no chunk was added.
    pub fn is_empty(&self) -> bool {
        self.chunks == 0
    }
}

fn join(high: u32, low: u32) -> u64 {
    u64::from(high) << 32 | u64::from(low)
}

fn high(value: u64) -> u32 {
    (value >> 32) as u32
}

fn low(value: u64) -> u32 {
    (value & u64::from(u32::MAX)) as u32
}

/// The sorted batch, past which the features of the old stream go.
#[derive(Debug)]
pub struct Matcher {
    entries: Vec<u64>,
    /// Where the entries start whose anchors have these top bits; one more at the end.
    directory: Vec<u32>,
    /// Of each entry, how many old pieces had its anchor; does not grow past [`SHARED_MAX`] and one.
    counts: Vec<u8>,
    /// The place of an entry in the upper half, the number of an old piece in the lower.
    hits: Vec<u64>,
    /// Falls when there are too many hits.
    shared_max: u8,
    next_piece: u64,
}

impl Matcher {
    /// Sorts the batch.
    pub fn new(batch: Batch) -> Self {
        let entries = without_boilerplate(batch.entries);
        let mut directory = Vec::with_capacity((1 << DIRECTORY_BITS) + 1);
        let mut place = 0;
        for bucket in 0..=1u64 << DIRECTORY_BITS {
            while entries.get(place as usize).is_some_and(|entry| entry >> (64 - DIRECTORY_BITS) < bucket) {
                place += 1;
            }
            directory.push(place);
        }
        let hits = Vec::with_capacity(HITS_MAX);
        Matcher { counts: vec![0; entries.len()], entries, directory, hits, shared_max: SHARED_MAX, next_piece: 0 }
    }

    /// Takes the features of the next pieces of the old stream; its first piece is number 0. Pieces from number 2^32 on (16 TiB) are passed over.
    pub fn pass(&mut self, features: impl IntoIterator<Item = Features>) {
        for piece in features {
            if let Ok(number) = u32::try_from(self.next_piece) {
                for anchor in piece.anchors() {
                    self.look_up(anchor, number);
                }
            }
            self.next_piece += 1;
        }
    }

    /// Takes more anchors of an old piece than its features have.
    pub fn pass_more(&mut self, piece: u32, anchors: &[u32]) {
        anchors.iter().for_each(|anchor| self.look_up(*anchor, piece));
    }

    fn look_up(&mut self, anchor: u32, piece: u32) {
        let Some((first, same)) = self.find(anchor) else { return };
        let Some(counts) = self.counts.get_mut(first..first + same) else { return };
        for count in counts.iter_mut() {
            *count = count.saturating_add(1).min(SHARED_MAX + 1);
        }
        if counts.first().is_none_or(|&count| count > self.shared_max) {
            return;
        }
        // With only unshared anchors left there is no more room to make, and looking for it at each hit would take for ever.
        if self.hits.len() + same > HITS_MAX && self.shared_max > 1 {
            self.make_room();
        }
        if self.hits.len() + same <= HITS_MAX {
            self.hits.extend((first..first + same).map(|place| join(place as u32, piece)));
        }
    }

    /// The place of the first entry with this anchor and the number of such entries, not 0.
    fn find(&self, anchor: u32) -> Option<(usize, usize)> {
        let bucket = (anchor >> (32 - DIRECTORY_BITS)) as usize;
        let (start, end) = (*self.directory.get(bucket)? as usize, *self.directory.get(bucket + 1)? as usize);
        let entries = self.entries.get(start..end)?;
        let first = entries.partition_point(|&entry| high(entry) < anchor);
        let same = entries.get(first..)?.iter().take_while(|&&entry| high(entry) == anchor).count();
        (same > 0).then_some((start + first, same))
    }

    /// Forgets the hits of anchors that are shared most, until half of the room is free or only hits of unshared anchors are left.
    fn make_room(&mut self) {
        loop {
            let (counts, most) = (&self.counts, self.shared_max);
            self.hits.retain(|&hit| counts.get(high(hit) as usize).is_some_and(|&count| count <= most));
            if self.hits.len() <= HITS_MAX / 2 || most <= 1 {
                return;
            }
            self.shared_max = most / 2;
        }
    }

    /// What was found.
    pub fn finish(self) -> Matches {
        let Matcher { entries, counts, mut hits, shared_max, next_piece, .. } = self;
        hits.retain_mut(|hit| {
            let place = high(*hit) as usize;
            let (Some(&entry), Some(&count)) = (entries.get(place), counts.get(place)) else { return false };
            *hit = (u64::from(low(entry)) << 32 | u64::from(low(*hit))) << SHARED_BITS | u64::from(count.saturating_sub(1));
            count <= shared_max
        });
        hits.sort_unstable();
        Matches { hits, pieces: next_piece }
    }
}

/// Sorts the entries and drops doubles, and anchors that too many chunks share.
fn without_boilerplate(mut entries: Vec<u64>) -> Vec<u64> {
    entries.sort_unstable();
    entries.dedup();
    let (mut kept, mut place) = (0, 0);
    while let Some(&first) = entries.get(place) {
        let same = entries.iter().skip(place).take_while(|&&entry| high(entry) == high(first)).count();
        if same <= usize::from(SHARED_MAX) {
            entries.copy_within(place..place + same, kept);
            kept += same;
        }
        place += same;
    }
    entries.truncate(kept);
    entries
}

/// Which old pieces share content with which chunks of the batch.
#[derive(Debug)]
pub struct Matches {
    /// Sorted: number of the chunk, number of the old piece, and in the lowest bits how many more old pieces share the anchor.
    hits: Vec<u64>,
    /// Pieces of the old stream.
    pieces: u64,
}

/// An old piece that shares content with a chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Candidate {
    /// The number of the old piece, counted from the start of the old stream.
    pub piece: u32,
    /// How much of it was found: the sum over its features that the chunk has, of [`VOTES_UNIQUE`] divided by the number of old pieces
    /// that have this feature too. At least 1, at most 4 times [`VOTES_UNIQUE`] but for [`Matcher::pass_more`].
    pub votes: u32,
}

impl Candidate {
    /// Where the piece starts in the old stream, in bytes.
    pub fn offset(&self) -> u64 {
        u64::from(self.piece) * PIECE_LEN as u64
    }
}

impl Matches {
    /// The fewest votes with which an old chunk is worth being a base: one feature of its own; in a long old stream more than one, since there
    /// one is often found by chance.
    pub fn votes_min(&self) -> u32 {
        VOTES_UNIQUE + u32::from(self.pieces > LONG_PIECES)
    }

    /// The old pieces that share content with the chunk of this number, in their order.
    pub fn of(&self, chunk: u32) -> Vec<Candidate> {
        let start_of = |chunk: u64| self.hits.partition_point(|&hit| hit >> (32 + SHARED_BITS) < chunk);
        let hits = self.hits.get(start_of(chunk.into())..start_of(u64::from(chunk) + 1)).unwrap_or_default();
        let candidate = |same: &[u64]| {
            let share = |hit: &u64| VOTES_UNIQUE / (1 + (hit & ((1 << SHARED_BITS) - 1)) as u32);
            let piece = same.first().map(|hit| low(hit >> SHARED_BITS))?;
            Some(Candidate { piece, votes: same.iter().map(share).sum() })
        };
        hits.chunk_by(|a, b| a >> SHARED_BITS == b >> SHARED_BITS).filter_map(candidate).collect()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]
mod tests {
    use super::*;

    /// More hits of unshared anchors than there is room for: an old stream that only chosen content and a known seed can give.
    #[test]
    fn too_many_unshared_hits_are_passed_over() {
        let anchors: Vec<u32> = (1..=BATCH_ANCHORS_MAX as u32).map(|number| number * 2039).collect();
        let batch = Batch { entries: anchors.iter().map(|&anchor| join(anchor, 0)).collect(), chunks: 1 };
        let mut matcher = Matcher::new(batch);
        matcher.pass(anchors.as_chunks().0.iter().map(|&anchors| Features(anchors)));
        let candidates = matcher.finish().of(0);
        assert_eq!(candidates.len(), HITS_MAX / 4);
        assert!(candidates.iter().all(|candidate| candidate.votes == 4 * VOTES_UNIQUE));
    }

    /// Anchors alike in the bits of the directory, which a known seed allows to choose.
    #[test]
    fn one_bucket_holds_all() {
        let entries = (0..4096).map(|anchor| join(anchor + (7 << 12), anchor % 5)).collect();
        let mut matcher = Matcher::new(Batch { entries, chunks: 5 });
        matcher.pass((0..4096).map(|number| Features([0, 0, number + (7 << 12), 0])));
        let matches = matcher.finish();
        for chunk in 0..5 {
            let found: Vec<u32> = matches.of(chunk).iter().map(|candidate| candidate.piece).collect();
            assert_eq!(found, (0..4096).filter(|number| number % 5 == chunk).collect::<Vec<_>>());
        }
    }
}
