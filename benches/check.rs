//! What reading everything costs: `cargo bench --bench check [-- --steps N]`.
//!
//! A history of the 14 MB store is taken, then `check --read-data` runs against `zstd -d` and BLAKE3 of the plain bytes of its distinct chunks, one after
//! the other, and against the structure check.
#![allow(clippy::expect_used, clippy::indexing_slicing, missing_docs)]

mod common;

use std::collections::HashSet;
use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex};

use common::process::{Cost, again, measure};
use common::store::{Store, StoreSpec};
use icecore::engine::sqlite::{SqliteOptions, SqliteSource};
use icecore::fs::disk::RealDisk;
use icecore::ops::backup::{BackupOptions, backup};
use icecore::progress::Silent;
use icecore::store::backend::local::LocalBackend;
use icecore::store::format::key::KdfCost;
use icecore::store::repo::{InitOptions, OpenOptions, Reader, Repository, Spans};
use zeroize::Zeroizing;

/// Snapshots taken unless the caller says otherwise.
const STEPS: u32 = 160;
/// Runs. The fastest counts.
const RUNS: usize = 5;
/// Chunks that are read at once when their plain bytes are written out.
const CHUNKS_AT_ONCE: usize = 4096;
const PASSPHRASE: &str = "bench";

fn main() -> common::Result<()> {
    let args: Vec<String> = std::env::args().skip(1).filter(|arg| arg != "--bench").collect();
    match args.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["take", dir, steps] => take(Path::new(dir), steps.parse()?),
        ["hash", file] => {
            let mut hasher = blake3::Hasher::new();
            hasher.update_reader(File::open(file)?)?;
            println!("{}", hasher.finalize());
            Ok(())
        }
        ["--steps", steps] => compare(steps.parse()?),
        _ => compare(STEPS),
    }
}

fn compare(steps: u32) -> common::Result<()> {
    let dir = tempfile::tempdir()?;
    let (log, plain, packed) = (dir.path().join("log"), dir.path().join("plain"), dir.path().join("plain.zst"));
    let path = |path: &Path| path.to_str().map(str::to_owned).ok_or("a path in UTF-8");
    measure(&mut again(&["take", &path(dir.path())?, &steps.to_string()])?, &log)?;
    measure(Command::new("zstd").args(["-q", "-3"]).arg(&plain).arg("-o").arg(&packed), &log)?;
    let icecore = |args: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_icecore"));
        command.arg("-R").arg(dir.path().join("repo")).args(args).env("ICECORE_PASSWORD", PASSPHRASE);
        command.env("ICECORE_CACHE_DIR", dir.path().join("cache"));
        command
    };
    let (mut read, mut structure, mut unpacked, mut hashed) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let mut document = Vec::new();
    for _ in 0..RUNS {
        let (cost, output) = measure(&mut icecore(&["--json", "check", "--read-data"]), &log)?;
        read.push(cost);
        document = output;
        structure.push(measure(&mut icecore(&["check"]), &log)?.0);
        unpacked.push(measure(Command::new("zstd").args(["-q", "-d", "-f"]).arg(&packed).args(["-o", "/dev/null"]), &log)?.0);
        hashed.push(measure(&mut again(&["hash", &path(&plain)?])?, &log)?.0);
    }
    let document: serde_json::Value = serde_json::from_slice(&document)?;
    let bytes = std::fs::metadata(&plain)?.len();
    let data = &document["data"];
    println!(
        "{steps} snapshots, {bytes} plain bytes of distinct chunks, {} packs, {} stored bytes",
        document["packs"], document["read_bytes"]
    );
    println!("{} frames, {} decoded", data["frames"], data["decoded_frames"]);
    println!("| | wall ms | CPU ms | peak MiB | wall ns a KiB |\n|---|--:|--:|--:|--:|");
    let (unpacked, hashed) = (fastest(&unpacked), fastest(&hashed));
    let rows = [
        ("check --read-data", fastest(&read)),
        ("check", fastest(&structure)),
        ("zstd -d", unpacked),
        ("BLAKE3", hashed),
        ("both", unpacked.then(hashed)),
    ];
    for (name, cost) in rows {
        let (wall, cpu) = (cost.wall.as_millis(), cost.cpu.as_millis());
        println!("| {name} | {wall} | {cpu} | {} | {} |", cost.peak_bytes >> 20, cost.wall.as_nanos() * 1024 / u128::from(bytes.max(1)));
    }
    Ok(())
}

fn fastest(costs: &[Cost]) -> Cost {
    costs.iter().copied().min_by_key(|cost| cost.wall).unwrap_or_default()
}

/// Takes the history and writes the plain bytes of its distinct chunks.
fn take(dir: &Path, steps: u32) -> common::Result<()> {
    let backend = Arc::new(LocalBackend::create(&dir.join("repo"), Arc::new(RealDisk))?);
    let passphrase = || Ok(Zeroizing::new(PASSPHRASE.to_string()));
    let cost = KdfCost { memory_kib: 8, passes: 1, lanes: 1 };
    Repository::init(&*backend, &InitOptions { passphrase: Some(passphrase()?), cost, parity_percent: 0 })?;
    let repo = Repository::open(
        backend,
        &OpenOptions { passphrase: &passphrase, cache_dir: dir.join("cache"), threads: 4, trust: Default::default() },
    )?;
    let file = dir.join("store.db");
    let mut store = Store::create(&file, StoreSpec::quick())?;
    for step in 0..steps {
        if step > 0 {
            store.step(step)?;
        }
        let sqlite = SqliteOptions {
            busy_timeout: std::time::Duration::from_secs(5),
            temp_dir: None,
            clock: || std::time::SystemTime::UNIX_EPOCH,
            content: Default::default(),
        };
        let source = SqliteSource::new(vec![("db".into(), file.clone())], sqlite)?;
        let time_ns = i64::from(step + 1) * 3_600_000_000_000;
        backup(&repo, &source, &BackupOptions { time_ns, now_ns: time_ns, host: "bench".into(), ..BackupOptions::default() }, &Silent)?;
    }
    let reader = Reader::new(&repo);
    let mut seen = HashSet::new();
    let mut ids = Vec::new();
    for (_, snapshot) in repo.refresh()?.snapshots {
        for entry in reader.listing(&snapshot.listing, &Silent)? {
            for span in Spans::new(&reader, &entry.root)? {
                let id = span?.id;
                ids.extend(seen.insert(id).then_some(id));
            }
        }
    }
    let out = Mutex::new(File::create(dir.join("plain"))?);
    for group in ids.chunks(CHUNKS_AT_ONCE) {
        reader.each_chunk(group, None, &|_, bytes| {
            let mut out = out.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            out.write_all(bytes).map_err(|error| icecore::Error::backend("write", "the plain bytes", error))
        })?;
    }
    Ok(())
}
