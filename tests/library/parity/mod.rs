//! Parity sections: what is healed, and that nothing wrong ever comes out.

mod formula;
mod geometry;
mod heal;

use crate::proof;

use icecore::store::codec::reed_solomon::section;
use icecore::store::format::parity::Geometry;

/// Numbers by a seed: `SEED` from the environment, else the given one; printed, so that a failure can be repeated.
pub struct Random(u64);

impl Random {
    pub fn new(default: u64) -> Self {
        let seed = std::env::var("SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(default);
        println!("SEED={seed}");
        Random(seed)
    }

    /// The next number (splitmix64, <https://prng.di.unimi.it/splitmix64.c>).
    pub fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// One from 0 to before `end`.
    pub fn below(&mut self, end: usize) -> usize {
        (self.number() % end as u64) as usize
    }

    pub fn bytes(&mut self, len: usize) -> Vec<u8> {
        (0..len.div_ceil(8)).flat_map(|_| self.number().to_le_bytes()).take(len).collect()
    }
}

/// An object with its section, and what its name would be.
pub struct Object {
    pub geometry: Geometry,
    pub bytes: Vec<u8>,
    pub name: blake3::Hash,
}

impl Object {
    pub fn new(geometry: Geometry, head: &[u8], tail: &[u8]) -> Self {
        let bytes = [head, &section(&geometry, head, tail).unwrap(), tail].concat();
        assert_eq!(bytes.len() as u64, geometry.object_len());
        Object { geometry, name: blake3::hash(&bytes), bytes }
    }

    pub fn pack(random: &mut Random, head_len: usize, tail_len: usize, percent: u8) -> Self {
        let (head, tail) = (random.bytes(head_len), random.bytes(tail_len));
        Self::new(Geometry::of_pack(head_len as u64, tail_len as u32, percent), &head, &tail)
    }

    pub fn record(random: &mut Random, len: usize) -> Self {
        Self::new(Geometry::of_record(len as u64), &random.bytes(len), &[])
    }

    pub fn heal(&self, damaged: &[u8]) -> Option<Vec<u8>> {
        let healed = icecore::store::codec::reed_solomon::heal(damaged, &|bytes| blake3::hash(bytes) == self.name);
        assert!(healed.as_ref().is_none_or(|healed| *healed == self.bytes), "something else came out");
        healed
    }
}
