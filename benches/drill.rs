//! What a recovery costs: `cargo bench --bench drill [-- --mb 1000] [--scale 20] [--only sqlite|postgres]`.
//!
//! A pair of stores, 1 GB together unless said otherwise, is backed up and exported. Then take turns: `drill latest` (restore, integrity_check, content),
//! `restore --from-dir` followed by integrity_check, and `cp` with `sync` followed by integrity_check. Before that: what recording the content of the
//! tables adds to a backup that reads everything again.
//!
//! Then the PostgreSQL database of `benches/postgres.rs` at `--scale`: `drill latest` on a server of its own, with one job and with four, and on a server that is
//! there, against making a server, `pg_restore` with four jobs and counting the rows. All but the third count the servers' CPU time.
#![allow(clippy::expect_used, clippy::indexing_slicing, missing_docs)]

// `benches/postgres.rs` uses the rest of these.
#[allow(dead_code)]
#[path = "dumps/bank.rs"]
mod bank;
mod common;
#[path = "drill/postgres.rs"]
mod postgres;
#[allow(dead_code)]
#[path = "dumps/server.rs"]
mod server;

use std::ffi::OsString;
use std::path::Path;
use std::process::Command;

use common::args::Args;
use common::process::{Cost, again, measure};
use common::store::{Shape, Store, StoreSpec};
use rusqlite::Connection;

/// Megabytes of both stores together unless the caller says otherwise.
const MB: u32 = 1000;
/// pgbench's scale, unless the caller says otherwise: 300 MB of dump.
const SCALE: u32 = 20;
/// Runs. The median counts.
const RUNS: usize = 3;
const NAMES: [&str; 2] = ["memory.db", "model_registry.db"];

fn main() -> common::Result<()> {
    let args: Vec<String> = std::env::args().skip(1).filter(|arg| arg != "--bench").collect();
    match args.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["make", path, bytes, seed] => {
            let spec = StoreSpec { bytes: bytes.parse()?, seed: seed.parse()?, vacuum_steps: Vec::new(), shape: Shape::Bulk };
            Store::create(Path::new(path), spec)?;
            Ok(())
        }
        ["integrity", paths @ ..] => paths.iter().try_for_each(|path| integrity(path)),
        _ => all(),
    }
}

fn all() -> common::Result<()> {
    let Some(args) = Args::read(&["--mb", "--scale", "--only"])? else { return Ok(()) };
    let only = args.value("--only");
    if only.is_none_or(|only| only == "sqlite") {
        compare(args.number("--mb", MB)?.into())?;
    }
    if only.is_none_or(|only| only == "postgres") {
        postgres::compare(args.number("--scale", SCALE)?, RUNS)?;
    }
    Ok(())
}

fn integrity(path: &str) -> common::Result<()> {
    let verdict: String = Connection::open(path)?.query_row("PRAGMA integrity_check", [], |row| row.get(0))?;
    if verdict == "ok" { Ok(()) } else { Err(verdict.into()) }
}

fn compare(mb: u64) -> common::Result<()> {
    let dir = tempfile::tempdir()?;
    let (at, log) = (|name: &str| dir.path().join(name), dir.path().join("log"));
    let text = |name: &str| at(name).to_str().map(str::to_owned).ok_or("a path in UTF-8");
    for (name, bytes, seed) in [(NAMES[0], mb * 700_000, "1"), (NAMES[1], mb * 300_000, "2")] {
        measure(&mut again(&["make", &text(name)?, &bytes.to_string(), seed])?, &log)?;
        Connection::open(at(name))?.pragma_update_and_check(None, "journal_mode", "WAL", |_| Ok(()))?;
    }
    let icecore = |args: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_icecore"));
        command.current_dir(dir.path()).arg("-R").arg(at("repo")).args(args).env("ICECORE_PASSWORD", "bench");
        command.env("ICECORE_CACHE_DIR", at("cache"));
        command
    };
    measure(&mut icecore(&["init"]), &log)?;
    measure(&mut icecore(&["backup", "sqlite", "--content", "never", NAMES[0], NAMES[1]]), &log)?;
    let backup = |when: &str| -> common::Result<Cost> {
        for name in NAMES {
            std::fs::File::open(at(name))?.set_modified(std::time::SystemTime::now())?;
        }
        Ok(measure(&mut icecore(&["backup", "sqlite", "--content", when, NAMES[0], NAMES[1]]), &log)?.0)
    };
    let (mut rows, mut content) = (Vec::new(), [Vec::new(), Vec::new()]);
    for _ in 0..RUNS {
        content[0].push(backup("never")?);
        content[1].push(backup("always")?);
    }
    rows.push(("backup, all read, nothing new, without content", median(&content[0])));
    rows.push(("the same with content", median(&content[1])));
    measure(&mut icecore(&["export", "latest", "export"]), &log)?;
    // The disk holds four times the stores else.
    NAMES.iter().try_for_each(|name| std::fs::remove_file(at(name)))?;
    let [drill, from_dir, copy] = recover(&at("plain"), &icecore, &log)?;
    rows.extend([("drill latest", drill), ("restore --from-dir, integrity_check", from_dir), ("cp, sync, integrity_check", copy)]);
    println!("{mb} MB of databases, median of {RUNS} runs");
    println!("| | wall ms | CPU ms | peak MiB | of cp |\n|---|--:|--:|--:|--:|");
    for (name, cost) in rows {
        let ratio = cost.wall.as_secs_f64() / copy.wall.as_secs_f64();
        println!("| {name} | {} | {} | {} | {ratio:.2} |", cost.wall.as_millis(), cost.cpu.as_millis(), cost.peak_bytes >> 20);
    }
    Ok(())
}

/// The three ways, in turns.
fn recover(plain: &Path, icecore: &dyn Fn(&[&str]) -> Command, log: &Path) -> common::Result<[Cost; 3]> {
    let mut costs = [Vec::new(), Vec::new(), Vec::new()];
    let dir = plain.parent().ok_or("a directory")?;
    for _ in 0..RUNS {
        costs[0].push(measure(&mut icecore(&["drill", "latest", "--no-mark"]), log)?.0);
        let target = |name: &str| -> common::Result<String> { Ok(plain.join(name).to_str().ok_or("a path in UTF-8")?.to_owned()) };
        let targets = [target(NAMES[0])?, target(NAMES[1])?];
        let check = || again(&["integrity", &targets[0], &targets[1]]);
        std::fs::create_dir(plain)?;
        let given = [0, 1].map(|number| format!("{}={}", NAMES[number], targets[number]));
        let restored = measure(&mut icecore(&["restore", "--from-dir", "export", &given[0], &given[1]]), log)?.0;
        costs[1].push(restored.then(measure(&mut check()?, log)?.0));
        std::fs::remove_dir_all(plain)?;
        std::fs::create_dir(plain)?;
        let mut copy = Command::new("cp");
        copy.args(NAMES.map(|name| OsString::from(dir.join("export").join(name)))).arg(plain);
        let copied = measure(&mut copy, log)?.0.then(measure(Command::new("sync").args(&targets), log)?.0);
        costs[2].push(copied.then(measure(&mut check()?, log)?.0));
        std::fs::remove_dir_all(plain)?;
    }
    Ok(costs.map(|costs| median(&costs)))
}

fn median(costs: &[Cost]) -> Cost {
    let mut sorted = costs.to_vec();
    sorted.sort_by_key(|cost| cost.wall);
    sorted.get(sorted.len() / 2).copied().unwrap_or_default()
}
