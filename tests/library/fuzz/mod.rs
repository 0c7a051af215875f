//! A short run of what `fuzz/` does at length: good inputs, changed at random by a seed, go into every decoder. `SEED=n` repeats a run,
//! `ICECORE_PROOF=long` makes it fifty times as long.

mod decoders;

use crate::common::rng;
use crate::proof;

use decoders::{ALL, Decoder};
use rng::Rng;

/// Inputs for a decoder.
const RUNS: usize = 40_000;
/// For one that works on files.
const SLOW_RUNS: usize = 500;

fn seed() -> u64 {
    let seed = std::env::var("SEED").map_or(1, |text| text.parse().expect("SEED is a number"));
    println!("SEED={seed}");
    seed
}

/// One to eight changes: bits, bytes that are often limits, parts left out, doubled, or taken from elsewhere, an end cut off.
fn mutate(bytes: &[u8], other: &[u8], rng: &mut Rng) -> Vec<u8> {
    let mut out = bytes.to_vec();
    for _ in 0..rng.between(1, 8) {
        if out.is_empty() {
            break;
        }
        let at = rng.below(out.len() as u64) as usize;
        let len = rng.below(17).min((out.len() - at) as u64) as usize;
        match rng.below(8) {
            0 | 1 => out[at] ^= 1 << rng.below(8),
            2 => out[at] = [0, 1, 0x7f, 0x80, 250, 251, 252, 253, 255][rng.below(9) as usize],
            3 => drop(out.drain(at..at + len)),
            4 => drop(out.splice(at..at, out[at..at + len].to_vec())),
            5 if !other.is_empty() => {
                let from = rng.below(other.len() as u64) as usize;
                drop(out.splice(at..at + len, other[from..(from + 16).min(other.len())].to_vec()));
            }
            6 if rng.percent(20) => out.truncate(at),
            _ => out[at..at + len].fill(rng.next() as u8),
        }
    }
    out
}

fn run(decoder: &Decoder, seed: u64) -> usize {
    let mut rng = Rng::new(seed, decoder.name);
    let mut pool = (decoder.seeds)();
    pool.iter().for_each(|bytes| (decoder.run)(bytes));
    let runs = if decoder.is_slow { SLOW_RUNS } else { RUNS } * if proof::is_long() { 50 } else { 1 };
    for number in 0..runs {
        let (one, other) = (rng.below(pool.len() as u64) as usize, rng.below(pool.len() as u64) as usize);
        let input = mutate(&pool[one], &pool[other], &mut rng);
        let tried = std::panic::catch_unwind(|| (decoder.run)(&input));
        assert!(tried.is_ok(), "{}, input {number}: {input:02x?}", decoder.name);
        // So that changes pile up.
        if number % 50 == 0 && pool.len() < 60 {
            pool.push(input);
        }
    }
    runs
}

#[test]
fn every_decoder() {
    let seed = seed();
    let inputs = std::thread::scope(|scope| {
        let running: Vec<_> = [false, true]
            .map(|slow| scope.spawn(move || ALL.iter().filter(|d| d.is_slow == slow).map(|d| run(d, seed)).sum::<usize>()))
            .into();
        running.into_iter().map(|thread| thread.join().unwrap()).sum()
    });
    proof::count("decoders", &[(proof::INPUTS, inputs)]);
}

/// Each has its fuzz target, and none is left over.
#[test]
fn every_decoder_has_a_fuzz_target() {
    let dir = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz");
    let manifest = std::fs::read_to_string(dir.join("Cargo.toml")).unwrap();
    let mut targets: Vec<String> = std::fs::read_dir(dir.join("fuzz_targets"))
        .unwrap()
        .map(|entry| entry.unwrap().path().file_stem().unwrap().to_str().unwrap().to_string())
        .collect();
    targets.sort();
    let mut names: Vec<&str> = ALL.iter().map(|decoder| decoder.name).collect();
    names.sort_unstable();
    assert_eq!(targets, names);
    for name in names {
        let target = std::fs::read_to_string(dir.join(format!("fuzz_targets/{name}.rs"))).unwrap();
        assert!(
            target.contains(&format!("icecore_fuzz::run(\"{name}\", bytes)")) && manifest.contains(&format!("name = \"{name}\"")),
            "{name}"
        );
    }
}

/// `cargo test --test library fuzz::write_corpus -- --ignored`: what the fuzz targets start from.
#[test]
#[ignore = "writes files for the fuzz targets"]
fn write_corpus() {
    for decoder in ALL {
        let dir = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(decoder.name);
        std::fs::create_dir_all(&dir).unwrap();
        for (number, bytes) in (decoder.seeds)().iter().enumerate() {
            std::fs::write(dir.join(format!("seed-{number}")), bytes).unwrap();
        }
    }
}
