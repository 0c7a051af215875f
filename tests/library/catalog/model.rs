//! Random operations against plain maps.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use icecore::id::{ChunkId, PackId};
use icecore::store::format::snapshot::PackRef;
use icecore::store::repo::catalog::{Catalog, NewPack, prefix};

use super::{Random, chunk, open};

#[derive(Default)]
struct Model {
    packs: BTreeMap<PackId, (Vec<ChunkId>, Vec<u8>)>,
    removed: Vec<PackId>,
}

struct Run<'d> {
    random: Random,
    dir: &'d Path,
    catalog: Catalog,
    model: Model,
}

impl Run<'_> {
    /// Prefixes of three sorts: alike in all but the lowest bits, alike in pairs, and like a hash.
    fn prefix(&mut self) -> u64 {
        match self.random.below(3) {
            0 => self.random.below(50),
            1 => self.random.below(2000) << 40,
            _ => self.random.number(),
        }
    }

    fn id(&mut self) -> PackId {
        PackId([self.random.below(120) as u8; 32])
    }

    fn known(&mut self) -> Vec<PackId> {
        let count = self.random.below(4);
        (0..count).map(|_| self.id()).collect()
    }

    fn add(&mut self) {
        let new: Vec<(PackId, Vec<ChunkId>, Vec<u8>)> = (0..1 + self.random.below(3))
            .map(|_| {
                let count = [0, 1, 40, 1500][self.random.below(4) as usize];
                let ids = (0..count).map(|_| chunk(self.prefix(), self.random.number())).collect();
                let trailer = vec![self.random.number() as u8; self.random.below(20_000) as usize];
                (self.id(), ids, trailer)
            })
            .collect();
        let packs: Vec<NewPack> = new
            .iter()
            .map(|(id, ids, trailer)| NewPack { pack: PackRef { id: *id, size: trailer.len() as u64, trailer_offset: 7 }, ids, trailer })
            .collect();
        self.catalog.add_packs(&packs).unwrap();
        for (id, ids, trailer) in new {
            self.model.packs.entry(id).or_insert((ids, trailer));
        }
    }

    fn step(&mut self) {
        match self.random.below(20) {
            0..=10 => self.add(),
            11..=13 => {
                let ids = self.known();
                self.catalog.remove_packs(&ids).unwrap();
                ids.iter().for_each(|id| {
                    self.model.packs.remove(id);
                });
                self.model.removed.extend(ids);
            }
            14..=17 => self.catalog = open(self.dir),
            18 if self.random.below(10) == 0 => {
                self.catalog.clear().unwrap();
                self.model.packs.clear();
            }
            _ => self.verify(),
        }
    }

    fn verify(&mut self) {
        let packs = self.catalog.packs().unwrap();
        let listed: BTreeSet<&PackId> = packs.iter().map(|known| &known.pack.id).collect();
        assert_eq!(listed, self.model.packs.keys().collect());
        for known in &packs {
            let (ids, trailer) = &self.model.packs[&known.pack.id];
            assert_eq!(self.catalog.trailer(known.num).unwrap().as_ref(), Some(trailer));
            assert_eq!((known.chunks as usize, known.pack.size), (ids.len(), trailer.len() as u64));
        }
        let mut expected: BTreeMap<u64, BTreeSet<(PackId, u32)>> = BTreeMap::new();
        for (id, (ids, _)) in &self.model.packs {
            for (index, chunk) in ids.iter().enumerate() {
                expected.entry(prefix(chunk)).or_default().insert((*id, index as u32));
            }
        }
        for _ in 0..200 {
            expected.entry(self.prefix()).or_default();
        }
        let mut asked: Vec<u64> = expected.keys().copied().collect();
        let turn = self.random.below(asked.len() as u64) as usize;
        asked.rotate_left(turn);
        let answers = self.catalog.find_many(&asked).unwrap();
        assert_eq!(answers.len(), asked.len());
        let names: BTreeMap<_, _> = packs.iter().map(|known| (known.num, known.pack.id)).collect();
        for (asked, answer) in asked.iter().zip(&answers) {
            let found: BTreeSet<(PackId, u32)> = answer.iter().map(|at| (names[&at.pack], at.index)).collect();
            assert_eq!(found.len(), answer.len(), "a copy is named twice");
            assert_eq!(found, expected[asked], "prefix {asked:x}");
        }
        let one = asked[0];
        let found: BTreeSet<_> = self.catalog.find(one).unwrap().iter().map(|at| (names[&at.pack], at.index)).collect();
        assert_eq!(found, expected[&one]);
    }
}

#[test]
fn random_operations_agree_with_maps() {
    for seed in 1..=4 {
        let dir = tempfile::tempdir().unwrap();
        let mut run = Run { random: Random::seeded(seed), dir: dir.path(), catalog: open(dir.path()), model: Model::default() };
        for _ in 0..200 {
            run.step();
        }
        run.verify();
    }
}
