//! Deltas of deltas that share their bases in many ways: what is damaged far below is found without trying every way.

use std::sync::Arc;

use icecore::id::{ChunkId, PackId};
use icecore::ops::restore::dump;
use icecore::progress::Silent;
use icecore::store::backend::ObjectKey;
use icecore::store::format::{BASES_MAX, HEADER_LEN, PREFIX_LEN_MAX, SLICES_MAX};
use icecore::store::repo::{BaseSlice, Committed, Reference, Repository};

use crate::chunks::commit;
use crate::memory::Memory;
use crate::support::{Bed, open_backend};
use crate::world::{Random, seed};

/// Every chunk is a delta of the two before it: so many that there are tens of thousands of ways down from the last.
const CHUNKS: usize = 24;
/// Bytes that a chunk takes from each base.
const PART: usize = 4000;

fn id(plain: &[u8]) -> ChunkId {
    ChunkId(*blake3::hash(plain).as_bytes())
}

fn part(plain: &[u8]) -> BaseSlice {
    BaseSlice { id: id(plain), offset: 0, len: PART as u32 }
}

/// A snapshot and a pack for each chunk. The last chunk is a delta of the woven ones, and of one beside them, which is the first.
fn weave(repo: &Repository) -> Vec<(Committed, Vec<u8>)> {
    let mut random = Random(seed());
    let mut noise = |len: usize| (0..len).map(|_| random.next() as u8).collect::<Vec<u8>>();
    let mut chunks: Vec<(Vec<u8>, Reference)> = (0..3).map(|_| (noise(2 * PART), Reference::default())).collect();
    while chunks.len() < CHUNKS {
        let bases = [&chunks[chunks.len() - 1].0, &chunks[chunks.len() - 2].0];
        let plain = [&noise(20)[..], &bases[0][..PART], &bases[1][..PART]].concat();
        let slices = bases.map(|base| part(base)).to_vec();
        chunks.push((plain, Reference { slices, ..Reference::default() }));
    }
    let (woven, beside) = (&chunks[CHUNKS - 1].0, &chunks[0].0);
    let last = [&woven[..PART], &beside[..PART]].concat();
    let slices = vec![part(woven), part(beside)];
    chunks.push((last, Reference { slices, ..Reference::default() }));
    chunks.into_iter().map(|chunk| (commit(repo, std::slice::from_ref(&chunk)), chunk.0)).collect()
}

fn read(repo: &Repository, snapshot: &Committed) -> icecore::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    dump(repo, &snapshot.record, b"db", &mut bytes, &Silent).map(|_| bytes)
}

/// The repository with a changed byte in the data of a pack, read with a new catalog.
fn damage(bed: &Bed, pack: PackId) -> Repository {
    let mut objects = Memory::load(bed.open().backend());
    Arc::make_mut(objects.get_mut(&ObjectKey::Pack(pack)).unwrap())[HEADER_LEN + 10] ^= 1;
    let damaged = open_backend(Memory::new(objects), bed.path(&format!("cache of {pack}")), 2).unwrap();
    damaged.refresh().unwrap();
    damaged
}

#[test]
fn a_bad_base_is_found_among_many_ways() {
    let bed = Bed::new(false);
    let repo = bed.open();
    let history = weave(&repo);
    let (newest, expected) = history.last().unwrap();
    assert!(read(&repo, newest).unwrap() == *expected);
    let bad = history[0].0.record.packs[0].id;
    let error = read(&damage(&bed, bad), newest).unwrap_err();
    assert!(error.is_damage() && error.to_string().contains(&bad.to_string()), "{error}");
    // Another host, which does not know of it, stores the base again; then each of the two serves for the other one.
    let again = commit(&bed.open_as("repo", "another cache", 2), &[(history[0].1.clone(), Reference::default())]);
    assert_eq!(again.record.stats.new_chunks, 2, "the base and the listing");
    for bad in [bad, again.record.packs[0].id] {
        let damaged = damage(&bed, bad);
        for (snapshot, expected) in &history {
            assert!(read(&damaged, snapshot).unwrap() == *expected, "snapshot {}", snapshot.id);
        }
    }
}

/// What no reader would take is never written: then the chunk is stored whole.
#[test]
fn prefixes_are_within_bounds() {
    let bed = Bed::new(false);
    let repo = bed.open();
    let mut random = Random(seed());
    let mut noise = |len: usize| (0..len).map(|_| random.next() as u8).collect::<Vec<u8>>();
    let bases: Vec<Vec<u8>> = (0..=BASES_MAX).map(|_| noise(20_000)).collect();
    commit(&repo, &bases.iter().map(|plain| (plain.clone(), Reference::default())).collect::<Vec<_>>());
    let slice = |base: usize, offset: usize, len: usize| BaseSlice { id: id(&bases[base]), offset: offset as u32, len: len as u32 };
    let all = PREFIX_LEN_MAX / 20_000;
    let longest: Vec<BaseSlice> = (0..all).map(|base| slice(base, 0, 20_000)).collect();
    let left = PREFIX_LEN_MAX - all * 20_000;
    for (slices, taken) in [
        (vec![slice(0, 0, 20_000)], true),
        ((0..BASES_MAX).map(|base| slice(base, 0, 600)).collect(), true),
        ((0..=BASES_MAX).map(|base| slice(base, 0, 600)).collect(), false),
        ((0..SLICES_MAX).map(|n| slice(0, n * 300, 300)).collect(), true),
        ((0..=SLICES_MAX).map(|n| slice(0, n * 300, 300)).collect(), false),
        ([&longest[..], &[slice(all, 0, left)]].concat(), true),
        ([&longest[..], &[slice(all, 0, left + 1)]].concat(), false),
        (vec![slice(0, 0, 10_000), slice(1, 5, 0)], false),
        (Vec::new(), false),
    ] {
        let parts = slices.iter().map(|part| {
            let base = bases.iter().find(|base| id(base) == part.id).unwrap();
            &base[part.offset as usize..(part.offset + part.len) as usize]
        });
        let plain = [noise(20), parts.collect::<Vec<_>>().concat()].concat();
        let snapshot = commit(&repo, &[(plain.clone(), Reference { slices: slices.clone(), ..Reference::default() })]);
        assert_eq!(snapshot.record.stats.delta_bytes > 0, taken, "{} slices", slices.len());
        // By a catalog that has read the stored table.
        let elsewhere = bed.open_as("repo", &format!("cache {}", snapshot.id), 1);
        assert!(read(&elsewhere, &snapshot).unwrap() == plain);
    }
}
