//! Tests of parts that callers cannot reach: blocks as bytes, and merges in small steps.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

use std::collections::{BTreeSet, HashMap};

use super::block::{self, Block, Cutter, Entry};
use super::*;

/// SplitMix64 (<https://prng.di.unimi.it/splitmix64.c>).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }
}

fn sums() -> Sums {
    Sums::new([7; 32])
}

fn cut(entries: &[Entry]) -> Vec<Vec<Entry>> {
    let mut blocks = Vec::new();
    let mut out = |entries: &[Entry]| {
        blocks.push(entries.to_vec());
        Ok(())
    };
    let mut cutter = Cutter::new();
    entries.iter().for_each(|&entry| cutter.push(entry, &mut out).unwrap());
    cutter.finish(&mut out).unwrap();
    blocks
}

/// Entries with prefixes of `bits` random high bits, sorted.
fn entries(seed: u64, count: usize, bits: u32) -> Vec<Entry> {
    let mut random = Random(seed);
    let mut entries: Vec<Entry> = (0..count)
        .map(|_| Entry {
            prefix: random.next() & !(u64::MAX >> bits),
            pack: 1000 + random.below(5000) as u32,
            index: random.below(9000) as u32,
        })
        .collect();
    entries.sort_unstable();
    entries
}

#[test]
fn blocks_hold_what_was_put_in() {
    for bits in [1, 4, 12, 30, 41, 63] {
        let all = entries(u64::from(bits), 20_000, bits);
        let blocks = cut(&all);
        assert_eq!(blocks.concat(), all, "bits {bits}");
        for pair in blocks.windows(2) {
            let (last, first) = (pair[0].last().unwrap(), pair[1].first().unwrap());
            assert!(block::slot(last.prefix) < block::slot(first.prefix), "a slot is split, bits {bits}");
        }
        for entries in &blocks {
            let key = block::key(3, entries[0].prefix);
            let block = Block::decode(&sums(), key, &block::encode(&sums(), key, entries)).unwrap();
            assert_eq!((0..block.len()).map(|at| block.entry(at)).collect::<Vec<_>>(), *entries);
            for entry in entries.iter().step_by(17) {
                let expected: Vec<Entry> = entries.iter().filter(|other| other.prefix == entry.prefix).copied().collect();
                assert_eq!(block.find(entry.prefix).collect::<Vec<_>>(), expected);
                assert!(block.spans(entry.prefix));
                assert_eq!(block.find(entry.prefix ^ 1).count(), entries.iter().filter(|other| other.prefix == entry.prefix ^ 1).count());
            }
        }
    }
}

#[test]
fn random_entries_fill_pages() {
    let all = entries(1, 100_000, 63);
    let blocks = cut(&all);
    let sizes: Vec<usize> = blocks.iter().map(|entries| block::encode(&sums(), 0, entries).len()).collect();
    assert!(sizes.iter().all(|&size| size <= block::PAGE_BYTES - 64));
    let bytes = sizes.len() * block::PAGE_BYTES;
    assert!(bytes < all.len() * 12, "{bytes} bytes for {} entries", all.len());
}

#[test]
fn extreme_entries_fit() {
    let all = [
        Entry { prefix: 0, pack: 0, index: 0 },
        Entry { prefix: 0, pack: u32::MAX, index: u32::MAX },
        Entry { prefix: u64::MAX, pack: 0, index: u32::MAX },
        Entry { prefix: u64::MAX, pack: u32::MAX, index: 0 },
    ];
    let bytes = block::encode(&sums(), 9, &all);
    let block = Block::decode(&sums(), 9, &bytes).unwrap();
    assert_eq!((0..block.len()).map(|at| block.entry(at)).collect::<Vec<_>>(), all);
    assert_eq!(block.find(u64::MAX).count(), 2);
    assert_eq!(block.find(5).count(), 0);
}

#[test]
fn every_changed_byte_of_a_block_is_noticed() {
    let all = entries(2, 40, 63);
    let bytes = block::encode(&sums(), 9, &all);
    for at in 0..bytes.len() {
        let mut bad = bytes.clone();
        bad[at] ^= 0x40;
        assert!(matches!(Block::decode(&sums(), 9, &bad), Err(Fault::Damaged(_))), "byte {at}");
        assert!(matches!(Block::decode(&sums(), 9, &bytes[..at]), Err(Fault::Damaged(_))), "cut at {at}");
    }
    assert!(matches!(Block::decode(&sums(), 10, &bytes), Err(Fault::Damaged(_))), "another key");
    assert!(matches!(Block::decode(&Sums::new([8; 32]), 9, &bytes), Err(Fault::Damaged(_))), "another file");
}

/// A block with a right sum whose header does not fit its length. Only a bug could write it, and it must be refused.
#[test]
fn a_block_that_lies_is_refused() {
    for (count, widths) in [(3_u32, [8_u8, 4, 4]), (u32::MAX, [1, 0, 0]), (0, [0, 0, 0]), (2, [9, 0, 0]), (2, [0, 9, 9])] {
        let mut body = [1_u64.to_be_bytes().as_slice(), &5_u32.to_be_bytes(), &count.to_be_bytes(), &widths, &[1, 2]].concat();
        let sum = sums().of(sum::Kind::Block, &[&9_i64.to_be_bytes(), &body]);
        body.extend(sum.to_be_bytes());
        assert!(matches!(Block::decode(&sums(), 9, &body), Err(Fault::Damaged(_))), "{count} {widths:?}");
    }
}

#[test]
fn keys_keep_runs_apart_and_in_order() {
    for run in [1, 2, 77, block::RUN_MAX - 1] {
        let (low, high) = block::key_range(run);
        assert!(low > 0 && low < high && high < block::key_range(run + 1).0);
        assert!(block::key(run, 5 << 24) < block::key(run, 6 << 24));
    }
}

fn pack(num: u64) -> PackRef {
    let mut id = [0; 32];
    id[..8].copy_from_slice(&num.to_be_bytes());
    PackRef { id: PackId(id), size: num, trailer_offset: 0 }
}

fn chunk(prefix: u64) -> ChunkId {
    let mut id = [0; 32];
    id[..8].copy_from_slice(&prefix.to_be_bytes());
    ChunkId(id)
}

fn count(catalog: &Catalog, table: &str) -> u64 {
    let sql = format!("SELECT count(*) FROM {table}");
    catalog.read(|conn| Ok(conn.query_row(&sql, [], |row| row.get::<_, i64>(0))? as u64)).unwrap()
}

/// After each step of a merge in steps of three entries, look-ups are right, also if runs and removals come in between.
#[test]
fn a_merge_cut_into_steps_is_right_at_every_step() {
    let dir = tempfile::tempdir().unwrap();
    let catalog = Catalog::open(dir.path(), RepositoryId([1; 32]), "here", &[7; 32]).unwrap();
    let mut random = Random(5);
    // (prefix, pack, index). There are few high bits, so slots have several entries and prefixes have several copies.
    let mut model: BTreeSet<(u64, u64, u32)> = BTreeSet::new();
    let add = |num: u64, random: &mut Random, model: &mut BTreeSet<(u64, u64, u32)>| {
        let ids: Vec<ChunkId> = (0..30).map(|_| chunk(random.below(24) << 58 | random.below(2))).collect();
        model.extend(ids.iter().enumerate().map(|(index, id)| (prefix(id), num, index as u32)));
        let new = [NewPack { pack: pack(num), ids: &ids, trailer: b"t" }];
        catalog.write(|tx| packs::add(tx, &catalog.sums, &new)).unwrap();
    };
    let verify = |model: &BTreeSet<(u64, u64, u32)>, when: &str| {
        let nums: HashMap<PackNum, u64> = catalog.packs().unwrap().iter().map(|known| (known.num, known.pack.size)).collect();
        let mut found = BTreeSet::new();
        for high in 0..24_u64 {
            for low in 0..3 {
                let prefix = high << 58 | low;
                let copies = catalog.find(prefix).unwrap();
                let size = found.len() + copies.len();
                found.extend(copies.iter().map(|at| (prefix, nums[&at.pack], at.index)));
                assert_eq!(found.len(), size, "a copy twice, {when}");
            }
        }
        assert_eq!(found, *model, "{when}");
    };
    for num in 0..8 {
        add(num, &mut random, &mut model);
    }
    let mut steps = 0;
    while catalog.write(|tx| sorted_runs::merge_step(tx, &catalog.sums, 3)).unwrap() {
        steps += 1;
        if steps == 5 {
            add(100, &mut random, &mut model);
        }
        if steps == 8 {
            catalog.write(|tx| packs::remove(tx, &catalog.sums, &[pack(3).id])).unwrap();
            model.retain(|(_, num, _)| *num != 3);
        }
        verify(&model, &format!("after step {steps}"));
        assert!(steps < 1000, "the merge does not end");
    }
    assert!(steps > 10, "only {steps} steps");
    assert_eq!(count(&catalog, "run"), 2, "the merged one and the one that came in between");
}

#[test]
fn runs_stay_few() {
    let dir = tempfile::tempdir().unwrap();
    let catalog = Catalog::open(dir.path(), RepositoryId([1; 32]), "here", &[7; 32]).unwrap();
    let mut random = Random(6);
    for num in 0..600 {
        let ids: Vec<ChunkId> = (0..40).map(|_| chunk(random.next())).collect();
        catalog.add_packs(&[NewPack { pack: pack(num), ids: &ids, trailer: b"" }]).unwrap();
        assert!(count(&catalog, "run") <= 2 * 7, "{} runs", count(&catalog, "run"));
    }
    // 24,000 entries of 11 bytes are 65 pages; runs that are not merged yet end in half-full ones.
    assert!(count(&catalog, "block") < 90, "{} blocks", count(&catalog, "block"));
}

#[test]
fn entries_of_removed_packs_go_away() {
    let dir = tempfile::tempdir().unwrap();
    let catalog = Catalog::open(dir.path(), RepositoryId([1; 32]), "here", &[7; 32]).unwrap();
    let mut random = Random(7);
    let ids: Vec<Vec<ChunkId>> = (0..4).map(|_| (0..60_000).map(|_| chunk(random.next())).collect()).collect();
    let new = |num: usize| NewPack { pack: pack(num as u64), ids: &ids[num], trailer: b"" };
    catalog.add_packs(&[new(0), new(1), new(2), new(3)]).unwrap();
    let before = count(&catalog, "block");
    catalog.remove_packs(&[pack(0).id]).unwrap();
    assert_eq!(count(&catalog, "block"), before, "a quarter is not worth it");
    catalog.remove_packs(&[pack(1).id, pack(2).id]).unwrap();
    assert!(count(&catalog, "block") * 3 < before, "three quarters are");
    assert_eq!(catalog.find(prefix(&ids[3][5])).unwrap().len(), 1);
    catalog.remove_packs(&[pack(3).id]).unwrap();
    assert!(catalog.find(prefix(&ids[3][5])).unwrap().is_empty());
}

/// A lost block is noticed when its run is merged, because the run's row has another number of chunks.
#[test]
fn a_run_that_lost_a_block_is_noticed_when_merged() {
    for sql in ["DELETE FROM block WHERE key = (SELECT max(key) FROM block)", "DELETE FROM block WHERE key = (SELECT min(key) FROM block)"]
    {
        let dir = tempfile::tempdir().unwrap();
        let catalog = Catalog::open(dir.path(), RepositoryId([1; 32]), "here", &[7; 32]).unwrap();
        let mut random = Random(8);
        for num in 0..7 {
            let ids: Vec<ChunkId> = (0..900).map(|_| chunk(random.next())).collect();
            catalog.add_packs(&[NewPack { pack: pack(num), ids: &ids, trailer: b"" }]).unwrap();
        }
        catalog.write(|tx| Ok(tx.execute_batch(sql)?)).unwrap();
        let new = [NewPack { pack: pack(9), ids: &[chunk(1)], trailer: b"" }];
        assert!(matches!(catalog.add_packs(&new), Err(Error::Catalog { .. })));
        assert!(catalog.is_damaged());
        let fresh = Catalog::open(dir.path(), RepositoryId([1; 32]), "here", &[7; 32]).unwrap();
        assert!(fresh.was_rebuilt() && fresh.packs().unwrap().is_empty());
    }
}
