//! Says what the store corpus is like: seconds to make, how it compresses, how many pages a step changes.
//!
//! `cargo bench --bench corpus -- [--size 100MB] [--steps 40] [--vacuum 20] [--bulk] [--dir DIR]`
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, missing_docs)]

mod common;

use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::time::Instant;

use common::Result;
use common::args::Args;
use common::pages::Pages;
use common::report::median;
use common::store::{Shape, Store, StoreSpec};

fn main() -> Result<()> {
    let Some(args) = Args::read(&["--size", "--steps", "--vacuum", "--bulk", "--dir"])? else { return Ok(()) };
    let default = StoreSpec::default();
    let spec = StoreSpec {
        bytes: args.bytes("--size", default.bytes)?,
        vacuum_steps: vec![args.number("--vacuum", 20)?],
        shape: if args.flag("--bulk") { Shape::Bulk } else { Shape::Memory },
        ..default
    };
    let dir = tempfile::tempdir_in(args.value("--dir").unwrap_or(env!("CARGO_TARGET_TMPDIR")))?;
    let path = dir.path().join("store.db");
    let start = Instant::now();
    let mut store = Store::create(&path, spec.clone())?;
    println!("made {} bytes in {:.1} s", store.bytes()?, start.elapsed().as_secs_f64());
    ratios(&path)?;
    contents(&store)?;
    steps(&mut store, &spec, &path, args.number("--steps", 40)?)
}

/// Compression of the file by independent blocks, as in the dependencies' table: 1.84, 2.11, 2.25, 2.29 at level 3 on a real store.
fn ratios(path: &Path) -> Result<()> {
    for (level, block) in [(3, 4 << 10), (3, 64 << 10), (3, 1 << 20), (3, 128 << 20), (19, 64 << 10)] {
        let mut file = File::open(path)?.take(128 << 20);
        let (mut plain, mut packed) = (0, 0);
        loop {
            let mut bytes = Vec::new();
            if file.by_ref().take(block).read_to_end(&mut bytes)? == 0 {
                break;
            }
            plain += bytes.len();
            packed += zstd::bulk::compress(&bytes, level)?.len();
        }
        println!("zstd -{level} in blocks of {block} bytes: ratio {:.2}", plain as f64 / packed as f64);
    }
    Ok(())
}

/// Pages by table and index.
fn contents(store: &Store) -> Result<()> {
    let mut statement = store.connection().prepare("SELECT name, count(*) FROM dbstat GROUP BY name ORDER BY 2 DESC LIMIT 9")?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        println!("{:>9} pages in {}", row.get::<_, i64>(1)?, row.get::<_, String>(0)?);
    }
    Ok(())
}

fn steps(store: &mut Store, spec: &StoreSpec, path: &Path, count: u32) -> Result<()> {
    let mut pages = Pages::of(path)?;
    let mut shares = Vec::new();
    for n in 1..=count {
        let start = Instant::now();
        store.step(n)?;
        let seconds = start.elapsed().as_secs_f64();
        let next = Pages::of(path)?;
        let changed = next.changed_since(&pages);
        let percent = 100.0 * changed as f64 / next.count() as f64;
        let vacuum = spec.vacuum_steps.contains(&n);
        println!("step {n}: {changed} of {} pages, {percent:.2} %, {seconds:.2} s{}", next.count(), if vacuum { ", VACUUM" } else { "" });
        if !vacuum {
            shares.push(percent);
        }
        pages = next;
    }
    let mean = shares.iter().sum::<f64>() / shares.len().max(1) as f64;
    println!("changed pages per step without VACUUM: median {:.2} %, mean {mean:.2} %", median(&mut shares));
    Ok(())
}
