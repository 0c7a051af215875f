//! What moves leaves room: steps after a VACUUM cost what steps before it cost, however often that comes, and chunks whose chains are as long as
//! they may be are not stored whole.

use std::fs;

use icecore::id::ChunkId;
use icecore::store::format::pack::Encoding;
use icecore::store::format::{LEVEL_WRITE_MAX, WORK_WRITE_MAX};
use icecore::store::repo::{BaseSlice, Reference, Repository};
use zstd::zstd_safe::{CCtx, CParameter, compress_bound};

use super::chunks::commit;
use super::common::rng::Rng;
use super::common::store::{PAGE_BYTES, Shape, Store, StoreSpec};
use super::scene::{Scene, Stream, Taken, check_clean, deltas_within_bounds, expect, read, tables, take};

/// Bytes of the new file with the whole old one as the window, as `zstd -3 --patch-from` packs it.
fn patch_from(old: &[u8], new: &[u8]) -> u64 {
    let mut context = CCtx::create();
    let window = (old.len() + new.len()).next_power_of_two().trailing_zeros();
    for parameter in [CParameter::CompressionLevel(3), CParameter::WindowLog(window), CParameter::EnableLongDistanceMatching(true)] {
        context.set_parameter(parameter).unwrap();
    }
    let mut packed = Vec::with_capacity(compress_bound(new.len()));
    context.ref_prefix(old).unwrap();
    context.compress2(&mut packed, new).unwrap() as u64
}

/// Steps after each VACUUM.
const STEPS: u32 = 6;

#[test]
fn steps_after_three_vacuums_cost_as_before() {
    let dir = super::simulated::scratch();
    let path = dir.path().join("store.db");
    let spec = StoreSpec { bytes: 8_000_000, seed: 11, vacuum_steps: vec![STEPS, 2 * STEPS, 3 * STEPS], shape: Shape::Memory };
    let mut store = Store::create(&path, spec).unwrap();
    let scene = Scene::new(true);
    let mut before = fs::read(&path).unwrap();
    let image = |bytes: &[u8]| [Stream::pages("store.db", bytes, PAGE_BYTES as u32)];
    let mut taken = vec![take(&scene.open("cache"), &image(&before), 0)];
    // Of the steps since the last VACUUM: stored, and the bound.
    let mut since = (0, 0);
    for n in 1..=4 * STEPS {
        store.step(n).unwrap();
        let now = fs::read(&path).unwrap();
        let step = take(&scene.open("cache"), &image(&now), i64::from(n));
        let (stored, bound) = (step.record.stats.pack_bytes, patch_from(&before, &now));
        if n % STEPS == 0 {
            println!("step {n}: {stored} bytes, the bound is {bound}; the steps before it: {since:?}");
            assert!(since.0 * 10 <= since.1 * 22, "the steps before {n} stored {} bytes, the bound is {}", since.0, since.1);
            since = (0, 0);
        } else {
            since = (since.0 + stored, since.1 + bound);
        }
        taken.push(step);
        before = now;
    }
    // Each by itself, through chains that three times moved content has made.
    let compared: Vec<Taken> = taken.into_iter().rev().step_by(5).collect();
    expect(&scene.open("new"), &compared, "after three VACUUMs");
    check_clean(&scene.open("new"), true);
    deltas_within_bounds(&tables(&scene, "tables"));
}

/// Bytes of a chunk.
const CHUNK: usize = 64 << 10;

fn random(rng: &mut Rng, len: usize) -> Vec<u8> {
    (0..len / 8).flat_map(|_| rng.next().to_le_bytes()).collect()
}

/// Changes a few bytes of one page.
fn touch(chunk: &mut [u8], rng: &mut Rng, page: usize) {
    let place = page * PAGE_BYTES + rng.below(PAGE_BYTES as u64 - 8) as usize;
    chunk[place..place + 8].copy_from_slice(&rng.next().to_le_bytes());
}

fn id(repo: &Repository, chunk: &[u8]) -> ChunkId {
    repo.keys().chunk_id(chunk)
}

/// A version in the place of another.
fn version(repo: &Repository, before: &[u8], now: &[u8]) -> (Vec<u8>, Reference) {
    (now.to_vec(), Reference::to(Some(id(repo, before))))
}

/// A page from each of many chunks with chains of their own: most of these pages are as they were in the first versions.
#[test]
fn what_moves_takes_little_work_and_its_later_versions_are_deltas() {
    let scene = Scene::new(false);
    let repo = scene.open("cache");
    let mut rng = Rng::new(12, "moves");
    let mut old: Vec<Vec<u8>> = (0..20).map(|_| random(&mut rng, CHUNK)).collect();
    commit(&repo, &old.iter().map(|chunk| (chunk.clone(), Reference::default())).collect::<Vec<_>>());
    for _ in 0..8 {
        let mut next = old.clone();
        next.iter_mut().for_each(|chunk| touch(chunk, &mut rng, 15));
        commit(&repo, &old.iter().zip(&next).map(|(before, now)| version(&repo, before, now)).collect::<Vec<_>>());
        old = next;
    }
    let moved: Vec<u8> = (0..16).flat_map(|n| old[n][n * PAGE_BYTES / 2..][..PAGE_BYTES].to_vec()).collect();
    let slice = |n: usize| BaseSlice { id: id(&repo, &old[n]), offset: (n * PAGE_BYTES / 2) as u32, len: PAGE_BYTES as u32 };
    commit(&repo, &[(moved.clone(), Reference { slices: (0..16).map(slice).collect(), ..Reference::default() })]);
    let mut history = vec![moved];
    for n in 0..100 {
        let mut next = history.last().unwrap().clone();
        touch(&mut next, &mut rng, n % 16);
        let committed = commit(&repo, &[version(&repo, history.last().unwrap(), &next)]);
        assert!(committed.record.stats.zstd_bytes + committed.record.stats.raw_bytes < 2048, "version {n} is stored whole");
        history.push(next);
        if n % 20 == 0 {
            assert!(read(&repo, &committed.record, "db").unwrap() == *history.last().unwrap());
        }
    }
    let tables = tables(&scene, "tables");
    let moved = tables.iter().flat_map(|table| &table.frames).find(|frame| frame.slices.len() == 16).unwrap();
    assert!(moved.work < 16, "pages that have not changed are taken from their first versions: {moved:?}");
    check_clean(&scene.open("new"), true);
}

/// A line of versions that the skip rule does not shorten, since its work comes from what it began with.
#[test]
fn a_chain_that_is_full_goes_on_with_an_older_version() {
    let scene = Scene::new(false);
    let repo = scene.open("cache");
    let mut rng = Rng::new(13, "full");
    let mut old: Vec<Vec<u8>> = (0..12).map(|_| random(&mut rng, CHUNK)).collect();
    commit(&repo, &old.iter().map(|chunk| (chunk.clone(), Reference::default())).collect::<Vec<_>>());
    for _ in 0..8 {
        // All pages change, so that nothing of an older version serves.
        let mut next = old.clone();
        next.iter_mut().for_each(|chunk| chunk.rotate_left(100));
        commit(&repo, &old.iter().zip(&next).map(|(before, now)| version(&repo, before, now)).collect::<Vec<_>>());
        old = next;
    }
    let part = CHUNK / old.len() / 16 * 16;
    let slice = |n: usize| BaseSlice { id: id(&repo, &old[n]), offset: 0, len: part as u32 };
    let moved: Vec<u8> = old.iter().flat_map(|chunk| chunk[..part].to_vec()).collect();
    commit(&repo, &[(moved.clone(), Reference { slices: (0..old.len()).map(slice).collect(), ..Reference::default() })]);
    let mut last = moved;
    let mut whole = 0;
    for n in 0..200 {
        let mut next = last.clone();
        touch(&mut next, &mut rng, n % 15);
        let stats = commit(&repo, &[version(&repo, &last, &next)]).record.stats;
        whole += usize::from(stats.zstd_bytes + stats.raw_bytes > 16 << 10);
        last = next;
    }
    assert_eq!(whole, 0, "versions were stored whole");
    let tables = tables(&scene, "tables");
    let patches = tables.iter().flat_map(|table| &table.frames).filter(|frame| frame.encoding == Encoding::Patch);
    let (level, work) = patches.fold((0, 0), |(level, work), frame| (frame.level.max(level), frame.work.max(work)));
    assert!(level <= LEVEL_WRITE_MAX && work <= WORK_WRITE_MAX && work > WORK_WRITE_MAX / 2, "level {level}, work {work}");
    check_clean(&scene.open("new"), true);
}
