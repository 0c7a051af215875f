//! The catalog against a plain map, under damage, and shared by threads and processes.

mod basics;
mod damage;
mod model;
mod sharing;

use std::path::Path;

use icecore::id::{ChunkId, PackId, RepositoryId};
use icecore::store::format::snapshot::PackRef;
use icecore::store::repo::catalog::{Catalog, NewPack};

pub const REPOSITORY: RepositoryId = RepositoryId([0xAB; 32]);

/// SplitMix64 (<https://prng.di.unimi.it/splitmix64.c>).
pub struct Random(pub u64);

impl Random {
    /// The seed of this run: `SEED` from the environment, else the given one; printed, so that a failure can be repeated.
    pub fn seeded(default: u64) -> Random {
        let seed = std::env::var("SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(default);
        println!("SEED={seed}");
        Random(seed)
    }

    pub fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, bound: u64) -> u64 {
        self.number() % bound
    }
}

pub fn open(dir: &Path) -> Catalog {
    Catalog::open(dir, REPOSITORY, "/somewhere", &[7; 32]).unwrap()
}

/// Nothing but one database with its log lies in the directory.
pub fn assert_one_generation(dir: &Path, what: &str) {
    let names: Vec<String> = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    let database = names.iter().min().unwrap();
    assert!(database.ends_with(".db"), "{what}: {names:?}");
    assert!(names.iter().all(|name| name.starts_with(database)), "{what}: {names:?}");
}

pub fn chunk(prefix: u64, rest: u64) -> ChunkId {
    let mut id = [0; 32];
    id[..8].copy_from_slice(&prefix.to_be_bytes());
    id[24..].copy_from_slice(&rest.to_be_bytes());
    ChunkId(id)
}

/// A pack with everything in it made from one number, which is its trailer offset too: so a reader can tell whether it is whole.
pub struct Made {
    pub pack: PackRef,
    pub ids: Vec<ChunkId>,
    pub trailer: Vec<u8>,
}

impl Made {
    pub fn from(seed: u64, chunks: usize) -> Made {
        let mut random = Random(seed.wrapping_mul(0x1234_5678_9abc_def1));
        let mut id = [0; 32];
        id.chunks_mut(8).for_each(|part| part.copy_from_slice(&random.number().to_be_bytes()));
        let ids = (0..chunks).map(|_| chunk(random.number(), random.number())).collect();
        let trailer = (0..chunks * 40 / 8).flat_map(|_| random.number().to_be_bytes()).collect();
        Made { pack: PackRef { id: PackId(id), size: random.number(), trailer_offset: seed }, ids, trailer }
    }

    pub fn listed(&self) -> NewPack<'_> {
        NewPack { pack: self.pack, ids: &self.ids, trailer: &self.trailer }
    }
}
