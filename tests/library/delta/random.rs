//! Random histories against plain copies: whatever changes, whatever becomes of the caches, every snapshot comes back.

use std::fs;
use std::path::Path;

use icecore::id::ChunkId;
use icecore::progress::Silent;
use icecore::store::repo::{ChunkSpan, Reader, Repository, Spans};

use super::common::rng::Rng;
use super::decode::decode_all;
use super::model::Model;
use super::scene::{Scene, Stream, Taken, check_clean, deltas_within_bounds, expect, tables, take};

const STEPS: i64 = 12;

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// Stored features are not trusted: here they are gone, short, wrong, or those of another stream.
fn spoil_features(rng: &mut Rng, scene: &Scene, cache: &str) -> &'static str {
    let files = scene.features(cache);
    if files.is_empty() {
        return "no features";
    }
    let pick = |rng: &mut Rng| files[rng.below(files.len() as u64) as usize].clone();
    let (one, other) = (pick(rng), pick(rng));
    /// Bytes of a file of features before the features.
    const HEADER: usize = 64;
    let fill = |rng: &mut Rng, path: &Path, from: usize| {
        let mut bytes = fs::read(path).unwrap();
        bytes[from..].iter_mut().for_each(|byte| *byte = rng.next() as u8);
        fs::write(path, bytes).unwrap();
    };
    match rng.below(6) {
        0 => {
            files.iter().for_each(|path| fs::remove_file(path).unwrap());
            "features deleted"
        }
        1 => {
            let len = fs::metadata(&one).unwrap().len();
            fs::File::options().write(true).open(&one).unwrap().set_len(rng.below(len + 1)).unwrap();
            "features cut off"
        }
        2 => {
            fill(rng, &one, HEADER);
            "features random"
        }
        3 => {
            fill(rng, &one, 0);
            "features random with their header"
        }
        4 => {
            let (of_one, of_other) = (fs::read(&one).unwrap(), fs::read(&other).unwrap());
            fs::write(&one, of_other).unwrap();
            fs::write(&other, of_one).unwrap();
            "features exchanged"
        }
        _ => {
            let (of_one, of_other) = (fs::read(&one).unwrap(), fs::read(&other).unwrap());
            fs::write(&one, [&of_one[..HEADER], &of_other[HEADER..]].concat()).unwrap();
            fs::write(&other, [&of_other[..HEADER], &of_one[HEADER..]].concat()).unwrap();
            "features exchanged below their headers"
        }
    }
}

/// The chunks of a stream read as a restore reads them, all at once.
fn read_together(repo: &Repository, snapshot: &Taken, stream: &Stream) -> Vec<u8> {
    let reader = Reader::new(repo);
    let listing = reader.listing(&snapshot.record.listing, &Silent).unwrap();
    let root = listing.iter().find(|entry| entry.name == stream.name.as_bytes()).unwrap().root;
    let spans: Vec<ChunkSpan> = Spans::new(&reader, &root).unwrap().map(Result::unwrap).collect();
    let ids: Vec<ChunkId> = spans.iter().map(|span| span.id).collect();
    let found = std::sync::Mutex::new(vec![0; root.len as usize]);
    let place = |number: usize, bytes: &[u8]| {
        found.lock().unwrap()[spans[number].offset as usize..][..bytes.len()].copy_from_slice(bytes);
        Ok(())
    };
    reader.each_chunk(&ids, None, &place).unwrap();
    found.into_inner().unwrap()
}

fn history(seed: u64) {
    println!("SEED={seed}");
    let mut rng = Rng::new(seed, "history");
    let lengths = [4 << 10, 16 << 10, 64 << 10];
    let mut length = || lengths[rng.below(3) as usize];
    let scene = Scene::with_lengths(seed.is_multiple_of(2), length(), length());
    let databases = super::simulated::scratch();
    let mut model = Model::new(seed, databases.path());
    let mut taken: Vec<Taken> = Vec::new();
    for time in 0..STEPS {
        // Mostly one host; another one at times, which has taken features of its own or none.
        let cache = if rng.percent(75) { "cache" } else { "other" };
        let spoilt = if rng.percent(50) { spoil_features(&mut rng, &scene, cache) } else { "" };
        let changed = if time == 0 { String::new() } else { model.step() };
        println!("{time} ({cache}): {spoilt}; {changed}");
        taken.push(take(&scene.open(cache), &model.streams(), time));
    }
    for cache in ["cache", "new"] {
        expect(&scene.open(cache), &taken, cache);
    }
    let repo = scene.open("other");
    repo.refresh().unwrap();
    for (snapshot, stream) in taken.iter().flat_map(|snapshot| snapshot.streams.iter().map(move |stream| (snapshot, stream))) {
        assert!(read_together(&repo, snapshot, stream) == *stream.bytes, "{} of snapshot {}", stream.name, snapshot.id);
    }
    check_clean(&repo, false);
    assert!(!deltas_within_bounds(&tables(&scene, "tables")).is_empty());
    let streams: Vec<&Stream> = taken.iter().flat_map(|snapshot| &snapshot.streams).collect();
    let decoded = decode_all(&scene, &streams);
    println!("{decoded:?}");
    assert!(decoded.deltas > 0 && decoded.compared > 0, "{decoded:?}");
}

#[test]
fn random_histories_come_back() {
    let first = number("SEED", 1);
    let seeds = number("SEEDS", if std::env::var("SEED").is_ok() { 1 } else { 5 });
    (first..first + seeds).for_each(history);
}
