//! Similarity: what features survive, what is found, what slices never exceed.

mod features;
mod kept;
mod matching;
mod slices;

use icecore::store::codec::similarity::matching::{Batch, Candidate, Matcher};
use icecore::store::codec::similarity::{Features, PIECE_LEN, Sampler};

/// SplitMix64.
pub struct Random(u64);

impl Random {
    /// The seed of this run: `SEED` from the environment, else the given one; printed, so that a failure can be repeated.
    pub fn new(default: u64) -> Self {
        let seed = std::env::var("SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(default);
        println!("SEED={seed}");
        Random(seed)
    }

    pub fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let x = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    }

    pub fn below(&mut self, bound: u64) -> u64 {
        self.draw() % bound
    }

    pub fn bytes(&mut self, len: usize) -> Vec<u8> {
        let mut bytes: Vec<u8> = std::iter::repeat_with(|| self.draw().to_le_bytes()).take(len.div_ceil(8)).flatten().collect();
        bytes.truncate(len);
        bytes
    }

    pub fn pieces(&mut self, count: usize) -> Vec<Vec<u8>> {
        (0..count).map(|_| self.bytes(PIECE_LEN)).collect()
    }
}

pub fn features_of(sampler: &Sampler, pieces: &[Vec<u8>]) -> Vec<Features> {
    pieces.iter().map(|piece| sampler.features(piece)).collect()
}

/// The candidates of each new chunk among the old pieces.
pub fn found(old: &[Vec<u8>], new: &[Vec<u8>]) -> Vec<Vec<Candidate>> {
    let sampler = Sampler::new(7);
    let mut batch = Batch::new();
    let numbers: Vec<u32> = new.iter().map(|chunk| batch.add(&sampler, chunk).unwrap()).collect();
    let mut matcher = Matcher::new(batch);
    matcher.pass(features_of(&sampler, old));
    let matches = matcher.finish();
    numbers.into_iter().map(|number| matches.of(number)).collect()
}
