//! What a backup does to an application that writes meanwhile.
//!
//! `cargo bench --bench writers -- [--size 100MB] [--backups 20] [--seconds 5] [--pause 2] [--dir DIR]`
//!
//! A writer in WAL mode commits at full speed: how many commits a second without and during repeated backups. A writer with a rollback
//! journal has to wait while a backup reads: its longest wait, against the time that the backup says it read and hashed. It rests
//! `--pause` milliseconds between commits, because one that never lets go of the lock starves every reader.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, missing_docs)]

mod common;

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use common::Result;
use common::args::Args;
use common::process::{again, measure};
use common::report::{median, ms};
use common::rng::Rng;
use common::store::{Store, StoreSpec};
use common::tool::{Icecore, Sample};
use rusqlite::Connection;

fn main() -> Result<()> {
    let known = ["--size", "--backups", "--seconds", "--pause", "--dir", "--create", "--write", "--journal"];
    let Some(args) = Args::read(&known)? else { return Ok(()) };
    let default = StoreSpec::default();
    let size = args.bytes("--size", default.bytes)?;
    let pause_ms = args.number("--pause", 2)?;
    if let Some(path) = args.value("--create") {
        return Store::create(Path::new(path), StoreSpec { bytes: size, ..default }).map(drop);
    }
    if let Some(path) = args.value("--write") {
        return write(Path::new(path), args.value("--journal").unwrap_or("WAL"), Duration::from_millis(pause_ms.into()));
    }
    let dir = tempfile::tempdir_in(args.value("--dir").unwrap_or(env!("CARGO_TARGET_TMPDIR")))?;
    let origin = dir.path().join("origin.db");
    let name = origin.to_str().ok_or("a path in UTF-8")?;
    measure(&mut again(&["--create", name, "--size", &size.to_string()])?, &dir.path().join("stderr"))?;
    let backups = args.number("--backups", 20)?;
    let quiet = Duration::from_secs(args.number("--seconds", 5)?.into());
    for (journal, pause_ms) in [("WAL", 0), ("DELETE", pause_ms)] {
        let store = dir.path().join(format!("{journal}.db"));
        std::fs::copy(&origin, &store)?;
        let icecore = Icecore::init(&dir.path().join(journal))?;
        scenario(&icecore, &store, journal, pause_ms, quiet, backups)?;
    }
    Ok(())
}

/// Backups beside a writer, between two quiet times.
fn scenario(icecore: &Icecore, store: &Path, journal: &str, pause_ms: u32, quiet: Duration, backups: u32) -> Result<()> {
    let mut writer = Writer::start(store, journal, pause_ms)?;
    // The first backup stores everything and is another thing; it also warms the writer up.
    let first = icecore.backup(store)?;
    writer.mark()?;
    std::thread::sleep(quiet);
    let before = writer.mark()?;
    let mut wal_bytes = 0;
    let mut samples = Vec::new();
    for _ in 0..backups {
        samples.push(icecore.backup(store)?);
        wal_bytes = wal_bytes.max(std::fs::metadata(store.with_extension("db-wal")).map_or(0, |meta| meta.len()));
    }
    let during = writer.mark()?;
    std::thread::sleep(quiet);
    let after = writer.mark()?;
    writer.stop()?;

    let (free, busy) = ((before.rate() + after.rate()) / 2.0, during.rate());
    let capture_ms = median_of(&samples, |sample| sample.capture_ms);
    let capture_most_ms = samples.iter().filter_map(|sample| sample.capture_ms).fold(0.0, f64::max);
    println!("\n{journal}: {backups} backups beside a writer that rests {pause_ms} ms between commits");
    println!("commits a second: {free:.0} alone, {busy:.0} during backups: {:.1} % slower", 100.0 * (1.0 - busy / free));
    println!("longest commit: {:.1} ms alone, {:.1} ms during backups", before.longest_ms.max(after.longest_ms), during.longest_ms);
    println!("reading and hashing: median {capture_ms:.1} ms, most {capture_most_ms:.1} ms");
    if journal != "WAL" && capture_most_ms > 0.0 {
        println!("longest commit / longest reading and hashing: {:.2}", during.longest_ms / capture_most_ms);
    }
    println!(
        "{}",
        serde_json::json!({
            "bench": "writers",
            "journal": journal,
            "backups": backups,
            "commits_per_s_alone": free,
            "commits_per_s_during": busy,
            "slowdown": 1.0 - busy / free,
            "longest_commit_ms_alone": before.longest_ms.max(after.longest_ms),
            "longest_commit_ms_during": during.longest_ms,
            "capture_ms_median": capture_ms,
            "capture_ms_most": capture_most_ms,
            "backup_wall_ms_first": ms(first.cost.wall),
            "backup_wall_ms_median": median_of(&samples, |sample| Some(ms(sample.cost.wall))),
            "key_derivation_ms_median": median_of(&samples, |sample| sample.key_derivation_ms),
            "wal_bytes_most": wal_bytes,
        })
    );
    Ok(())
}

fn median_of(samples: &[Sample], value: impl Fn(&Sample) -> Option<f64>) -> f64 {
    median(&mut samples.iter().filter_map(value).collect::<Vec<_>>())
}

/// A writer process and its two pipes.
struct Writer {
    child: Child,
    orders: ChildStdin,
    answers: BufReader<ChildStdout>,
}

/// What a writer did since the mark before.
#[derive(Debug, Clone, Copy)]
struct Work {
    commits: u32,
    elapsed_ms: f64,
    longest_ms: f64,
}

impl Work {
    fn rate(&self) -> f64 {
        f64::from(self.commits) / self.elapsed_ms * 1e3
    }
}

impl Writer {
    fn start(store: &Path, journal: &str, pause_ms: u32) -> Result<Self> {
        let path = store.to_str().ok_or("a path in UTF-8")?;
        let mut command = again(&["--write", path, "--journal", journal, "--pause", &pause_ms.to_string()])?;
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let orders = child.stdin.take().ok_or("stdin is piped")?;
        let answers = BufReader::new(child.stdout.take().ok_or("stdout is piped")?);
        Ok(Writer { child, orders, answers })
    }

    /// Asks what was done since the last mark.
    fn mark(&mut self) -> Result<Work> {
        self.orders.write_all(b"mark\n")?;
        let mut line = String::new();
        self.answers.read_line(&mut line)?;
        let answer: serde_json::Value = serde_json::from_str(&line).map_err(|error| format!("the writer says {line:?}: {error}"))?;
        let number = |key: &str| answer.get(key).and_then(serde_json::Value::as_f64).ok_or("the writer's answer lacks a number");
        Ok(Work { commits: number("commits")? as u32, elapsed_ms: number("elapsed_ms")?, longest_ms: number("longest_ms")? })
    }

    /// Ends it: it stops when nobody can give it orders any more.
    fn stop(self) -> Result<()> {
        let Writer { mut child, orders, .. } = self;
        drop(orders);
        if child.wait()?.success() { Ok(()) } else { Err("the writer failed".into()) }
    }
}

/// What the writer counts, shared with the thread that answers.
struct Counts {
    since: Instant,
    commits: u32,
    longest: Duration,
    /// When the commit now under way began.
    began: Option<Instant>,
}

impl Counts {
    fn new() -> Self {
        Counts { since: Instant::now(), commits: 0, longest: Duration::ZERO, began: None }
    }

    /// Tells what was done and starts anew. A commit under way counts with the time it has taken so far.
    fn take(&mut self) -> serde_json::Value {
        let began = self.began;
        let old = std::mem::replace(self, Counts { began, ..Counts::new() });
        let under_way = began.map_or(Duration::ZERO, |began| began.elapsed());
        serde_json::json!({
            "commits": old.commits,
            "elapsed_ms": ms(old.since.elapsed()),
            "longest_ms": ms(old.longest.max(under_way)),
        })
    }
}

/// The writer process: commits until its standard input ends, answers each line of it with what it did since the line before.
fn write(path: &Path, journal: &str, pause: Duration) -> Result<()> {
    let mut conn = Connection::open(path)?;
    conn.pragma_update(None, "journal_mode", journal)?;
    conn.pragma_update(None, "synchronous", "NORMAL")?;
    // SQLite's own waiting sleeps up to 100 ms at a time, which would hide how long a lock was held.
    conn.busy_handler(Some(|_| {
        std::thread::sleep(Duration::from_micros(500));
        true
    }))?;
    let newest: i64 = conn.query_row("SELECT max(id) FROM memories", [], |row| row.get(0))?;
    let counts = Mutex::new(Counts::new());
    let stopped = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut out = std::io::stdout();
            for _ in std::io::stdin().lock().lines() {
                let answer = counts.lock().unwrap().take();
                writeln!(out, "{answer}").and_then(|()| out.flush()).unwrap();
            }
            stopped.store(true, std::sync::atomic::Ordering::Relaxed);
        });
        let mut rng = Rng::new(1, "writer");
        let mut update = conn.prepare("UPDATE memories SET access_count = access_count + 1, importance = ?2 WHERE id = ?1")?;
        while !stopped.load(std::sync::atomic::Ordering::Relaxed) {
            let id = newest - rng.below(newest as u64 / 10) as i64;
            let start = Instant::now();
            counts.lock().unwrap().began = Some(start);
            update.execute(rusqlite::params![id, rng.unit()])?;
            let took = start.elapsed();
            let mut counts = counts.lock().unwrap();
            counts.began = None;
            counts.commits += 1;
            counts.longest = counts.longest.max(took);
            drop(counts);
            std::thread::sleep(pause);
        }
        Ok(())
    })
}
