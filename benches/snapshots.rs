//! Listing many snapshots: `cargo bench --bench snapshots [-- --count 10000] [--marks 1000]`.
//!
//! An unencrypted repository gets so many small snapshots and marks, then `icecore snapshots` lists them: with no catalog, and again with it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, missing_docs)]

mod common;

use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use common::Result;
use common::args::Args;
use common::process::measure;
use common::report::{median, ms};
use icecore::fs::disk::RealDisk;
use icecore::id::SourceId;
use icecore::ops::mark::{Author, Statement, mark};
use icecore::recorded::SourceKind;
use icecore::store::backend::LocalBackend;
use icecore::store::format::key::KdfCost;
use icecore::store::format::mark::MarkKind;
use icecore::store::format::snapshot::{SnapshotRecord, SnapshotStats, SourceRef, StreamRoot};
use icecore::store::repo::{InitOptions, OpenOptions, Repository, SessionOptions, WriteSession};
use zeroize::Zeroizing;

/// Runs with a catalog. The median counts.
const RUNS: usize = 9;
const HOUR_NS: i64 = 3_600_000_000_000;

fn main() -> Result<()> {
    let Some(args) = Args::read(&["--count", "--marks"])? else { return Ok(()) };
    let (count, marks) = (args.number("--count", 10_000)?, args.number("--marks", 1000)?);
    // In memory where there is a place for that: making it is not what is measured, and its files are in the page cache either way.
    let dir = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir())?;
    make(&dir.path().join("repository"), &dir.path().join("cache of the maker"), count, marks)?;
    let list = |cache: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_icecore"));
        command.arg("-R").arg(dir.path().join("repository")).arg("snapshots").env("ICECORE_CACHE_DIR", dir.path().join(cache));
        let (cost, output) = measure(&mut command, &dir.path().join("stderr"))?;
        let lines = output.iter().filter(|byte| **byte == b'\n').count();
        if lines < count as usize { Err(format!("only {lines} lines").into()) } else { Result::Ok(cost) }
    };
    let first = list("cache")?;
    let again: Vec<_> = (0..RUNS).map(|_| list("cache")).collect::<Result<_>>()?;
    let wall = median(&mut again.iter().map(|cost| ms(cost.wall)).collect::<Vec<_>>());
    let cpu = median(&mut again.iter().map(|cost| ms(cost.cpu)).collect::<Vec<_>>());
    println!("{count} snapshots, {marks} marks | wall ms | CPU ms | peak MiB");
    println!("without a catalog | {:.0} | {:.0} | {}", ms(first.wall), ms(first.cpu), first.peak_bytes >> 20);
    println!("with it, median of {RUNS} | {wall:.0} | {cpu:.0} | {}", again[0].peak_bytes >> 20);
    Ok(())
}

fn make(repository: &Path, cache: &Path, count: u32, marks: u32) -> Result<()> {
    let backend = Arc::new(LocalBackend::create(repository, Arc::new(RealDisk))?);
    Repository::init(
        &*backend,
        &InitOptions { passphrase: None, cost: KdfCost { memory_kib: 8, passes: 1, lanes: 1 }, parity_percent: 0 },
    )?;
    let passphrase = || Ok(Zeroizing::new(String::new()));
    let repo = Repository::open(
        backend,
        &OpenOptions { passphrase: &passphrase, cache_dir: cache.to_path_buf(), threads: 1, trust: Default::default() },
    )?;
    for number in 0..count {
        WriteSession::begin(&repo, &SessionOptions::default())?.commit(record(number))?;
    }
    let refreshed = repo.refresh()?;
    for number in 0..marks.min(count) {
        let (id, _) = &refreshed.snapshots[(number * (count / marks)) as usize];
        let author = Author { now_ns: HOUR_NS, host: "bench".into(), user: "bench".into() };
        mark(&repo, &refreshed, id, &Statement { kind: MarkKind::Protect, code: String::new(), detail: String::new() }, &author)?;
    }
    Ok(())
}

fn record(number: u32) -> SnapshotRecord {
    SnapshotRecord {
        time_ns: i64::from(number) * HOUR_NS,
        duration_us: 1000,
        host: "a host with a name".into(),
        user: "somebody".into(),
        tool: "icecore".into(),
        source: SourceRef { id: SourceId([1; 32]), kind: SourceKind::SQLITE, label: "/var/lib/app/memory.db".into() },
        parent: None,
        tags: vec!["nightly".into()],
        flags: Vec::new(),
        accepted: Vec::new(),
        listing: StreamRoot { len: 0, levels: 0, top: None },
        entries: 0,
        logical_bytes: 0,
        packs: Vec::new(),
        stats: SnapshotStats::default(),
        written_ns: 1,
        facts: Vec::new(),
    }
}
