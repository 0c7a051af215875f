//! Similarity.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, missing_docs)]

mod common;

use std::collections::HashSet;
use std::path::Path;
use std::time::Instant;

use common::Result;
use common::args::Args;
use common::store::{Store, StoreSpec};
use icecore::codec::Encoder;
use icecore::codec::similarity::matching::{Batch, Matcher};
use icecore::codec::similarity::slices::{OldChunk, Tuning, choose};
use icecore::codec::similarity::{Features, PIECE_LEN, Sampler};
use zstd::zstd_safe::{CCtx, CParameter};

fn main() -> Result<()> {
    let Some(args) = Args::read(&["--old", "--new", "--make", "--size", "--chunk", "--var", "--window"])? else { return Ok(()) };
    if let Some(dir) = args.value("--make") {
        let spec = StoreSpec { bytes: args.bytes("--size", 100_000_000)?, vacuum_steps: vec![], ..StoreSpec::default() };
        let path = Path::new(dir).join("store.db");
        let mut store = Store::create(&path, spec)?;
        for n in 1..=20 {
            store.step(n)?;
        }
        std::fs::copy(&path, Path::new(dir).join("old"))?;
        store.vacuum()?;
        std::fs::copy(&path, Path::new(dir).join("new"))?;
        return Ok(());
    }
    let old = std::fs::read(args.value("--old").unwrap())?;
    let new = std::fs::read(args.value("--new").unwrap())?;
    if args.flag("--window") {
        println!("window {}", window(&old, &new)?);
    }
    let chunk_len = args.number("--chunk", 65536)? as usize;
    let new_chunks: Vec<&[u8]> = new.chunks(chunk_len).collect();
    let sampler = Sampler::new(1);
    let start = Instant::now();
    let features: Vec<Features> = old.chunks(PIECE_LEN).map(|piece| sampler.features(piece)).collect();
    let s = start.elapsed().as_secs_f64();
    println!("features {:.0} MB/s; empty {}", old.len() as f64 / 1e6 / s, features.iter().filter(|f| f.is_empty()).count());
    let old_set: HashSet<blake3::Hash> = old.chunks(chunk_len).map(blake3::hash).collect();
    let fresh: Vec<usize> = (0..new_chunks.len()).filter(|&i| !old_set.contains(&blake3::hash(new_chunks[i]))).collect();
    let start = Instant::now();
    let mut batch = Batch::new();
    for &i in &fresh {
        batch.add(&sampler, new_chunks[i]).expect("full");
    }
    let added = start.elapsed().as_secs_f64();
    let start = Instant::now();
    let mut matcher = Matcher::new(batch);
    let sorted = start.elapsed().as_secs_f64();
    let start = Instant::now();
    matcher.pass(&features);
    let passed = start.elapsed().as_secs_f64();
    let start = Instant::now();
    let matches = matcher.finish();
    println!("add {added:.3} sort {sorted:.3} pass {passed:.3} finish {:.3}", start.elapsed().as_secs_f64());
    let mut encoder = Encoder::new()?;
    let mut out = Vec::new();
    if args.flag("--window") {
        let mut whole = 0;
        let mut pos = 0;
        for &i in &fresh {
            encoder.encode(new_chunks[i], &[], &mut out)?;
            whole += out.len();
            let base = old.chunks(chunk_len).nth(i).unwrap_or(&[]);
            encoder.encode(new_chunks[i], base, &mut out)?;
            pos += out.len();
        }
        println!("chunks {} fresh {} whole {whole} positional {pos}", new_chunks.len(), fresh.len());
    }
    let base = Tuning::default();
    let variants: Vec<(&str, Tuning)> = vec![
        ("default", base.clone()),
        ("order1", Tuning { order: 1, ..base.clone() }),
        ("order2", Tuning { order: 2, ..base.clone() }),
        ("order3", Tuning { order: 3, ..base.clone() }),
        ("gap4k", Tuning { gap: 4096, ..base.clone() }),
        ("gap8k", Tuning { gap: 8192, ..base.clone() }),
        ("gap16k", Tuning { gap: 16384, ..base.clone() }),
        ("ext1k", Tuning { extend: 1024, ..base.clone() }),
        ("ext4k", Tuning { extend: 4096, ..base.clone() }),
        ("pre256", Tuning { prefix: 256 << 10, ..base.clone() }),
        ("pre384", Tuning { prefix: 384 << 10, ..base.clone() }),
        ("bases16", Tuning { bases: 16, ..base.clone() }),
        ("bases64", Tuning { bases: 64, ..base.clone() }),
        ("work64", Tuning { work: 64, ..base.clone() }),
        ("minbase16", Tuning { min_base: 16, ..base.clone() }),
        ("minpiece16", Tuning { min_piece: 16, ..base.clone() }),
        ("unlimited", Tuning { bases: 10000, prefix: 8 << 20, work: 1 << 30, ..base.clone() }),
    ];
    let only = args.value("--var");
    for (name, tuning) in variants {
        if only.is_some_and(|o| !o.split(',').any(|o| o == name)) {
            continue;
        }
        let (mut total, mut meta, mut prefixes) = (0usize, 0usize, 0usize);
        let mut slices_n = vec![];
        let mut bases_n = vec![];
        let start = Instant::now();
        for (n, &i) in fresh.iter().enumerate() {
            let candidates = matches.of(n as u32);
            let len = old.len() as u64;
            let chunk_at = |at: u64| {
                let start = at / chunk_len as u64 * chunk_len as u64;
                (at < len).then(|| OldChunk { range: start..(start + chunk_len as u64).min(len), work: 4 })
            };
            let slices = choose(&candidates, chunk_at, &tuning);
            let prefix: Vec<u8> = slices.iter().flat_map(|r| old[r.start as usize..r.end as usize].iter().copied()).collect();
            encoder.encode(new_chunks[i], &prefix, &mut out)?;
            total += out.len();
            prefixes += prefix.len();
            meta += slices.len() * 14;
            slices_n.push(slices.len());
            bases_n.push(slices.iter().map(|r| r.start / chunk_len as u64).collect::<HashSet<_>>().len());
        }
        let s = start.elapsed().as_secs_f64();
        let p = |v: &mut Vec<usize>| {
            v.sort();
            (v.iter().sum::<usize>() as f64 / v.len() as f64, v[v.len() * 99 / 100])
        };
        println!(
            "{name:12} total {total:>8} meta {meta:>7} sum {:>8} prefix mean {:>7} slices {:?} bases {:?} {:.1} MB/s",
            total + meta,
            prefixes / fresh.len(),
            p(&mut slices_n),
            p(&mut bases_n),
            fresh.len() as f64 * chunk_len as f64 / 1e6 / s
        );
    }
    Ok(())
}

fn window(old: &[u8], new: &[u8]) -> Result<usize> {
    let mut c = CCtx::create();
    let log = (old.len() + new.len()).next_power_of_two().trailing_zeros();
    for p in [CParameter::CompressionLevel(3), CParameter::WindowLog(log), CParameter::EnableLongDistanceMatching(true)] {
        c.set_parameter(p).map_err(|e| zstd::zstd_safe::get_error_name(e).to_string())?;
    }
    c.ref_prefix(old).map_err(|e| zstd::zstd_safe::get_error_name(e).to_string())?;
    let mut out = Vec::with_capacity(zstd::zstd_safe::compress_bound(new.len()));
    c.compress2(&mut out, new).map_err(|e| zstd::zstd_safe::get_error_name(e).to_string())?;
    Ok(out.len())
}
