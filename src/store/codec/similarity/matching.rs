//! Finds which pieces of an old stream share content with new chunks.
//!
//! This is a hash join. The anchors of a batch of new chunks are sorted. The features of the old stream are read once,
//! in the order of its pieces, and each is looked up in the batch. The three steps have a type each: [`Batch`]
//! collects, [`Matcher`] looks up, [`Matches`] answers.
//!
//! Memory is bounded whatever the content is: at most 32 MiB together (16 MiB of entries, 8 MiB of hits, 4 MiB of
//! directory, 2 MiB of counts). Where a bound is met, the least useful finds are dropped. That costs stored bytes,
//! never correctness.

use super::{Features, PIECE_LEN, Sampler};

/// The most anchors in a batch. A piece has 32 on average, so this is about 65,536 pieces, or 256 MiB of new chunks.
pub const BATCH_ANCHORS_MAX: usize = 2 << 20;
/// The most chunks in a batch.
pub const BATCH_CHUNKS_MAX: u32 = 1 << 20;
/// An anchor that more old pieces or more new chunks share than this is boilerplate. It says nothing about where
/// content came from.
pub const SHARED_MAX: u8 = 16;
/// The votes of a feature that only one old piece has.
pub const VOTES_UNIQUE: u32 = 16;
/// The most hits that are kept: four times as many as the old pieces of a full batch have features.
const HITS_MAX: usize = 1 << 20;
/// In an old stream of more pieces than this (4 GiB), one found feature proves little. Its 2^22 features have 32 bits
/// each, and a chunk of 64 KiB has 512 anchors, so every second chunk meets one by chance.
const LONG_PIECES: u64 = 1 << 20;
/// The top bits of an anchor that lead to its place among the sorted ones. A full batch has two entries for each value.
const DIRECTORY_BITS: u32 = 20;
/// The bits in a hit of [`Matches`] that count how many more old pieces share the anchor.
const SHARED_BITS: u32 = 4;

// A count of `1..=SHARED_MAX` minus one must fit its bits, and chunk, piece and count together 64.
const _: () = assert!(SHARED_MAX as u32 <= 1 << SHARED_BITS && BATCH_CHUNKS_MAX.trailing_zeros() + 32 + SHARED_BITS <= 64);

/// The anchors of new chunks, which are looked for in one pass over an old stream.
#[derive(Debug, Default)]
pub struct Batch {
    /// The anchor in the upper 32 bits, the number of its chunk in the lower.
    entries: Vec<u64>,
    /// Chunks that were added.
    chunks: u32,
}

impl Batch {
    /// An empty batch.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a chunk and gives its number in the batch, counted from 0. Gives `None` if the batch is full; the chunk
    /// then belongs into the next batch. An empty batch takes any chunk that the format allows.
    pub fn add(&mut self, sampler: &Sampler, chunk: &[u8]) -> Option<u32> {
        let (before, number) = (self.entries.len(), self.chunks);
        if number == BATCH_CHUNKS_MAX {
            return None;
        }
        let mut last = 0;
        for (_, anchor) in sampler.anchors(chunk) {
            // Bytes that repeat with a short period give the same anchor again and again, and would fill the batch.
            if anchor == last {
                continue;
            }
            if self.entries.len() == BATCH_ANCHORS_MAX {
                // The chunk goes into the next batch whole, so its anchors must not stay in this one.
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

// Both casts cut 64 bits into halves on purpose.
fn high(value: u64) -> u32 {
    (value >> 32) as u32
}

fn low(value: u64) -> u32 {
    (value & u64::from(u32::MAX)) as u32
}

/// The sorted batch. It looks up the features of the old stream.
#[derive(Debug)]
pub struct Matcher {
    /// As in [`Batch`], sorted.
    entries: Vec<u64>,
    /// For each value of an anchor's top bits the place of its first entry; one more at the end.
    directory: Vec<u32>,
    /// For each entry the number of old pieces that have its anchor. Stops counting at [`SHARED_MAX`] + 1.
    counts: Vec<u8>,
    /// The place of an entry in the upper 32 bits, the number of an old piece in the lower.
    hits: Vec<u64>,
    /// Anchors that more old pieces share than this are ignored. Becomes smaller when there are too many hits.
    shared_max: u8,
    /// The number of the next piece of the old stream.
    next_piece: u64,
}

impl Matcher {
    /// Sorts the batch.
    pub fn new(batch: Batch) -> Self {
        let entries = without_boilerplate(batch.entries);
        // A binary search over all entries would miss the cache at each step. With the directory a lookup reads two
        // neighbours in it and about two entries.
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

    /// Looks up the features of the next pieces of the old stream. Its first piece has number 0. Pieces from number
    /// 2^32 on (16 TiB) are ignored.
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

    /// Looks up further anchors of an old piece, which are not among its features.
    pub fn pass_more(&mut self, piece: u32, anchors: &[u32]) {
        anchors.iter().for_each(|anchor| self.look_up(*anchor, piece));
    }

    fn look_up(&mut self, anchor: u32, piece: u32) {
        let Some((first, same)) = self.find(anchor) else { return };
        let Some(counts) = self.counts.get_mut(first..first + same) else { return };
        for count in counts.iter_mut() {
            *count = count.saturating_add(1).min(SHARED_MAX + 1);
        }
        // Shared too often. Hits that were taken before that was known are dropped in `finish`, or when room is made.
        if counts.first().is_none_or(|&count| count > self.shared_max) {
            return;
        }
        // If only hits of unshared anchors are left, no room can be made. Trying it again at each hit would cost a pass
        // over all hits each time.
        if self.hits.len() + same > HITS_MAX && self.shared_max > 1 {
            self.make_room();
        }
        if self.hits.len() + same <= HITS_MAX {
            // There are at most BATCH_ANCHORS_MAX entries, so the cast keeps the value.
            self.hits.extend((first..first + same).map(|place| join(place as u32, piece)));
        }
    }

    /// The place of the first entry with this anchor, and the number of such entries. `None` if there are none.
    fn find(&self, anchor: u32) -> Option<(usize, usize)> {
        let bucket = (anchor >> (32 - DIRECTORY_BITS)) as usize;
        let (start, end) = (*self.directory.get(bucket)? as usize, *self.directory.get(bucket + 1)? as usize);
        let entries = self.entries.get(start..end)?;
        let first = entries.partition_point(|&entry| high(entry) < anchor);
        let same = entries.get(first..)?.iter().take_while(|&&entry| high(entry) == anchor).count();
        (same > 0).then_some((start + first, same))
    }

    /// Drops the hits of the anchors that are shared most, until half of the room is free or only hits of unshared
    /// anchors are left.
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

    /// Ends the pass over the old stream.
    pub fn finish(self) -> Matches {
        let Matcher { entries, counts, mut hits, shared_max, next_piece, .. } = self;
        // Only now are the counts complete: a hit may have been taken before its anchor turned out to be boilerplate.
        // The place of the entry is replaced by the number of its chunk, so that sorting brings the hits of a chunk
        // together.
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

/// Sorts the entries. Drops duplicates, and anchors that too many chunks share.
fn without_boilerplate(mut entries: Vec<u64>) -> Vec<u64> {
    entries.sort_unstable();
    entries.dedup();
    // Kept entries are moved to the front in place: a second vector would be another 16 MiB.
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

/// The result: which old pieces share content with which chunks of the batch.
#[derive(Debug)]
pub struct Matches {
    /// Sorted. From the top: number of the chunk, number of the old piece, and how many more old pieces share the
    /// anchor.
    hits: Vec<u64>,
    /// Pieces of the old stream.
    pieces: u64,
}

/// An old piece that shares content with a chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Candidate {
    /// The number of the old piece, counted from the start of the old stream.
    pub piece: u32,
    /// How much of it was found. Each of its features that the chunk has counts [`VOTES_UNIQUE`], divided by the number
    /// of old pieces that have it. At least 1; at most 4 times [`VOTES_UNIQUE`], and more only with anchors from
    /// [`Matcher::pass_more`].
    pub votes: u32,
}

impl Candidate {
    /// The start of the piece in the old stream, in bytes.
    pub fn offset(&self) -> u64 {
        u64::from(self.piece) * PIECE_LEN as u64
    }
}

impl Matches {
    /// The fewest votes that make an old chunk worth being a base. One feature of its own is enough; in a long old
    /// stream it takes more, since one is often found by chance there.
    pub fn votes_min(&self) -> u32 {
        VOTES_UNIQUE + u32::from(self.pieces > LONG_PIECES)
    }

    /// The old pieces that share content with the chunk of this number, in the order of the old stream.
    pub fn of(&self, chunk: u32) -> Vec<Candidate> {
        let start_of = |chunk: u64| self.hits.partition_point(|&hit| hit >> (32 + SHARED_BITS) < chunk);
        let hits = self.hits.get(start_of(chunk.into())..start_of(u64::from(chunk) + 1)).unwrap_or_default();
        let candidate = |same: &[u64]| {
            // Four bits, so the cast keeps the value.
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

    /// More hits of unshared anchors than there is room for. Only content that was made with knowledge of the seed can
    /// do this.
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

    /// All anchors have the same bits in the directory. Someone who knows the seed can make such content.
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
