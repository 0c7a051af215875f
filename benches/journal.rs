//! What the journal costs: `cargo bench --bench journal [-- ENTRIES]`. Entries are made in an encrypted repository, then `log`, `log -n 50` and `status` run; wall
//! time without the key derivation, which every command pays once, is that of a repository with one entry taken away.
#![allow(clippy::expect_used, clippy::indexing_slicing, missing_docs)]

mod common;

use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use common::report::{median, ms};
use icecore::fs::disk::RealDisk;
use icecore::ops::journal::{Event, Operation, Outcome, record};
use icecore::ops::mark::Author;
use icecore::store::backend::local::LocalBackend;
use icecore::store::format::key::KdfCost;
use icecore::store::repo::{InitOptions, OpenOptions, Repository};
use zeroize::Zeroizing;

/// Entries, unless the caller says otherwise.
const ENTRIES: i64 = 10_000;
/// Runs. The median counts.
const RUNS: usize = 7;
const PASSPHRASE: &str = "bench";

fn main() -> common::Result<()> {
    let entries = std::env::args().skip(1).find_map(|arg| arg.parse().ok()).unwrap_or(ENTRIES);
    let (small, large) = (tempfile::tempdir()?, tempfile::tempdir()?);
    make(small.path(), 1)?;
    let started = Instant::now();
    make(large.path(), entries)?;
    println!("{entries} entries written in {:.1} s", started.elapsed().as_secs_f64());
    for args in [&["log"][..], &["log", "-n", "50"], &["log", "--since", "2000-01-01"], &["status"]] {
        let [without, with] = [small.path(), large.path()].map(|dir| run(dir, args));
        println!("{:24} {:7.1} ms", args.join(" "), with? - without?);
    }
    Ok(())
}

fn make(dir: &Path, entries: i64) -> common::Result<()> {
    let backend = LocalBackend::create(&dir.join("repo"), Arc::new(RealDisk))?;
    let cost = KdfCost { memory_kib: 8, passes: 1, lanes: 1 };
    Repository::init(&backend, &InitOptions { passphrase: Some(Zeroizing::new(PASSPHRASE.into())), cost, parity_percent: 0 })?;
    let passphrase = || Ok(Zeroizing::new(PASSPHRASE.to_string()));
    let options = OpenOptions { passphrase: &passphrase, cache_dir: dir.join("cache"), threads: 4, trust: Default::default() };
    let repo = Repository::open(Arc::new(backend), &options)?;
    for n in 0..entries {
        let event = Event {
            operation: Operation::Backup,
            outcome: Outcome::Done,
            exit_code: 0,
            duration: Duration::from_millis(700),
            source: Some(icecore::id::SourceId([7; 32])),
            snapshots: vec![icecore::id::SnapshotId([n as u8; 32])],
            detail: "/srv/app/memory.db /srv/app/registry.db: 98.1 MiB in 2 streams, stored 91.2 KiB".into(),
            facts: vec![("label".into(), "/srv/app/memory.db /srv/app/registry.db".into())],
        };
        record(&repo, &event, &Author { now_ns: n * 3_600_000_000_000, host: "db-1".into(), user: "backup".into() })?;
    }
    Ok(())
}

/// Milliseconds, the median of several runs.
fn run(dir: &Path, args: &[&str]) -> common::Result<f64> {
    let mut times = Vec::new();
    for _ in 0..RUNS {
        let mut command = Command::new(env!("CARGO_BIN_EXE_icecore"));
        command.arg("-R").arg(dir.join("repo")).args(args).env("ICECORE_PASSWORD", PASSPHRASE).env("ICECORE_CACHE_DIR", dir.join("cache"));
        let started = Instant::now();
        command.output()?;
        times.push(ms(started.elapsed()));
    }
    Ok(median(&mut times))
}
