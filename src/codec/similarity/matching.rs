//! Matching: which pieces of an old stream share content with new chunks.
//!
//! A hash join. The anchors of a batch of new chunks are sorted; the features of the old stream, kept in the order of its pieces, pass by once
//! and are looked up. Three steps with a type each: [`Batch`], [`Matcher`], [`Matches`]. Together they stay within 32 MiB.

use super::{Features, PIECE_LEN, Sampler};

/// The most anchors in a batch. 16 MiB of entries, 4 MiB of directory, 2 MiB of counts and 8 MiB of hits make 30 MiB.
pub const BATCH_ANCHORS_MAX: usize = 2 << 20;
/// The most chunks in a batch: what 2^32 bytes make, or many small ones.
pub const BATCH_CHUNKS_MAX: usize = 1 << 16;
/// The most hits that are kept. Old pieces have at most four features, so this is as much as an old stream of 1 GiB can give.
const HITS_MAX: usize = 1 << 20;
/// An anchor in more old pieces, or in more new chunks, than this says nothing: boilerplate.
pub const SHARED_MAX: u8 = 16;
/// Bits of the directory over the sorted anchors.
const DIRECTORY_BITS: u32 = 20;

/// The anchors of new chunks, to be looked for in one pass over an old stream.
#[derive(Default)]
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

    /// Adds a chunk, and gives its number in the batch, counted from 0; or `None` if the batch is full: then it goes into the next one. An
    /// empty batch takes any chunk that the format allows.
    pub fn add(&mut self, sampler: &Sampler, chunk: &[u8]) -> Option<u32> {
        let before = self.entries.len();
        let number = self.chunks;
        let mut last = 0;
        for (_, anchor) in sampler.anchors(chunk) {
            // Bytes that repeat with a short period would fill the batch.
            if anchor != last {
                self.entries.push(u64::from(anchor) << 32 | u64::from(number));
            }
            last = anchor;
            if self.entries.len() > BATCH_ANCHORS_MAX {
                self.entries.truncate(before);
                return None;
            }
        }
        self.chunks += 1;
        Some(number)
    }
}

/// The sorted batch, past which the features of the old stream go.
pub struct Matcher {
    entries: Vec<u64>,
    /// Where the entries start whose anchors have these top bits; one more at the end.
    directory: Vec<u32>,
    /// How many old pieces had the anchor of the entry, if it is the first one with this anchor.
    counts: Vec<u8>,
    /// Index of an entry in the upper half, old piece in the lower.
    hits: Vec<u64>,
    shared_max: u8,
    next_piece: u64,
}

fn high(value: u64) -> u32 {
    (value >> 32) as u32
}

fn low(value: u64) -> u32 {
    (value & u64::from(u32::MAX)) as u32
}

impl Matcher {
    /// Sorts the batch.
    pub fn new(batch: Batch) -> Self {
        let mut entries = batch.entries;
        entries.sort_unstable();
        entries.dedup();
        let mut directory = Vec::with_capacity((1 << DIRECTORY_BITS) + 1);
        let mut place = 0;
        for bucket in 0..=1u64 << DIRECTORY_BITS {
            while entries.get(place).is_some_and(|entry| entry >> (64 - DIRECTORY_BITS) < bucket) {
                place += 1;
            }
            directory.push(place as u32);
        }
        Matcher { counts: vec![0; entries.len()], entries, directory, hits: Vec::new(), shared_max: SHARED_MAX, next_piece: 0 }
    }

    /// The features of the next pieces of the old stream. The first piece is number 0. Pieces past number 2^32 - 1 (16 TiB) are not looked at.
    pub fn pass(&mut self, features: &[Features]) {
        for piece in features {
            if let Ok(number) = u32::try_from(self.next_piece) {
                for anchor in piece.anchors() {
                    self.look_up(anchor, number);
                }
            }
            self.next_piece += 1;
        }
    }

    fn look_up(&mut self, anchor: u32, piece: u32) {
        let bucket = (anchor >> (32 - DIRECTORY_BITS)) as usize;
        let Some(&[start, end]) = self.directory.get(bucket..bucket + 2) else { return };
        let Some(entries) = self.entries.get(start as usize..end as usize) else { return };
        let Some(first) = entries.iter().position(|&entry| high(entry) == anchor) else { return };
        let same = entries.iter().skip(first).take_while(|&&entry| high(entry) == anchor).count();
        let first = start as usize + first;
        let Some(count) = self.counts.get_mut(first) else { return };
        if *count > self.shared_max || same > usize::from(SHARED_MAX) {
            return;
        }
        *count += 1;
        if *count <= self.shared_max {
            self.hits.extend((first..first + same).map(|index| (index as u64) << 32 | u64::from(piece)));
        }
        if self.hits.len() + usize::from(SHARED_MAX) > HITS_MAX {
            self.make_room();
        }
    }

    fn count_of(counts: &[u8], entries: &[u64], index: u32) -> u8 {
        let _ = entries;
        counts.get(index as usize).copied().unwrap_or(u8::MAX)
    }

    fn make_room(&mut self) {
        while self.hits.len() > HITS_MAX / 2 && self.shared_max > 0 {
            let (counts, entries, max) = (&self.counts, &self.entries, self.shared_max);
            self.hits.retain(|&hit| Self::count_of(counts, entries, high(hit)) <= max);
            self.shared_max /= 2;
        }
    }

    /// What was found.
    pub fn finish(mut self) -> Matches {
        // Every entry takes the count of the first one with its anchor.
        for index in 1..self.entries.len() {
            let same = matches!(self.entries.get(index - 1..=index), Some([a, b]) if high(*a) == high(*b));
            if let (true, Some(&before)) = (same, self.counts.get(index - 1)) {
                if let Some(count) = self.counts.get_mut(index) {
                    *count = before;
                }
            }
        }
        let mut hits = self.hits;
        hits.retain_mut(|hit| {
            let index = high(*hit) as usize;
            let (Some(entry), Some(count)) = (self.entries.get(index), self.counts.get(index)) else { return false };
            let weight = u64::from(count.saturating_sub(1).min(15));
            let keep = *count <= self.shared_max;
            // Chunk (16+ bits), old piece (32), rarity (4)
            *hit = (u64::from(low(*entry)) << 36) | u64::from(low(*hit)) << 4 | weight;
            keep
        });
        hits.sort_unstable();
        Matches { hits }
    }
}

/// Which old pieces share anchors with which chunk of the batch.
pub struct Matches {
    /// Chunk, old piece, count.
    hits: Vec<u64>,
}

/// An old piece that shares content with a chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Candidate {
    /// The number of the old piece: it starts at this number times [`PIECE_LEN`].
    pub piece: u32,
    /// How many of its features were found, in 16ths, each divided by the number of old pieces that have it.
    pub votes: u32,
}

impl Candidate {
    /// Where it starts in the old stream, in bytes.
    pub fn offset(&self) -> u64 {
        u64::from(self.piece) * PIECE_LEN as u64
    }
}

impl Matches {
    /// The old pieces that share content with this chunk, in their order.
    pub fn of(&self, chunk: u32) -> Vec<Candidate> {
        let place = |chunk: u64| self.hits.partition_point(|&hit| hit >> 36 < chunk);
        let hits = self.hits.get(place(chunk.into())..place(u64::from(chunk) + 1)).unwrap_or_default();
        hits.chunk_by(|a, b| a >> 4 == b >> 4)
            .map(|same| {
                let piece = same.first().map_or(0, |hit| low(hit >> 4));
                let votes = same.iter().map(|hit| 16 / (1 + (hit & 15) as u32)).sum();
                Candidate { piece, votes }
            })
            .collect()
    }
}
