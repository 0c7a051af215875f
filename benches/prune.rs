//! What forgetting and pruning a long history costs and leaves: `cargo bench --bench prune [-- --steps 300] [--keep 5] [--dir DIR] [--no-peers]`.
//!
//! A history of the 14 MB store is backed up by icecore, restic and borg, each step by all of them. Then each reads all it has stored (`check`), forgets
//! all but the newest five snapshots and frees their space; and icecore backs the five files up into a fresh repository, to compare the bytes.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, missing_docs)]

mod common;

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use common::Result;
use common::args::Args;
use common::process::{Cost, again, measure};
use common::report::ms;
use common::store::{Store, StoreSpec};
use common::tool::{Icecore, tree_bytes};

const PASSPHRASE: &str = "a passphrase for benches";
const KNOWN: [&str; 7] = ["--steps", "--keep", "--dir", "--no-peers", "--create", "--step", "--nth"];

/// A program that others use, with a repository of its own.
struct Peer {
    name: &'static str,
    dir: PathBuf,
}

/// What one program measured.
struct Row {
    name: &'static str,
    check: Cost,
    prune: Cost,
    before_bytes: u64,
    after_bytes: u64,
}

fn main() -> Result<()> {
    let Some(args) = Args::read(&KNOWN)? else { return Ok(()) };
    if let Some(path) = args.value("--create") {
        return Store::create(Path::new(path), StoreSpec::quick()).map(drop);
    }
    if let Some(path) = args.value("--step") {
        return Store::open(Path::new(path), StoreSpec::quick())?.step(args.number("--nth", 1)?);
    }
    let (steps, keep) = (args.number("--steps", 300)?, args.number("--keep", 5)?);
    let dir = tempfile::tempdir_in(args.value("--dir").unwrap_or(env!("CARGO_TARGET_TMPDIR")))?;
    let (dir, mut rows) = (dir.path(), Vec::new());
    let icecore = Icecore::init(&dir.join("icecore"))?;
    let peers = if args.flag("--no-peers") { Vec::new() } else { Peer::all(dir)? };
    for number in 0..steps {
        let file = next(dir, number)?;
        icecore.backup(&file)?;
        for peer in &peers {
            peer.backup(&file)?;
        }
        if number + keep >= steps {
            std::fs::copy(&file, dir.join(format!("kept-{}", number + keep - steps)))?;
        }
        if number % 25 == 0 {
            eprintln!("step {number} of {steps}");
        }
    }
    rows.push(measure_icecore(&icecore, &dir.join("icecore/repository"), keep)?);
    for peer in &peers {
        rows.push(peer.measure(keep)?);
    }
    let fresh = Icecore::init(&dir.join("fresh"))?;
    for number in 0..keep.min(steps) {
        let file = dir.join("data").join("memory.db");
        std::fs::copy(dir.join(format!("kept-{number}")), &file)?;
        fresh.backup(&file)?;
    }
    print(steps, keep, &rows, tree_bytes(&dir.join("fresh/repository"))?);
    Ok(())
}

/// Takes the store a step on, in a child, and shows it under one path and inode.
fn next(dir: &Path, number: u32) -> Result<PathBuf> {
    let (store, file) = (dir.join("store.db"), dir.join("data").join("memory.db"));
    std::fs::create_dir_all(dir.join("data"))?;
    let path = store.to_str().ok_or("a path in UTF-8")?;
    let mut child = match number {
        0 => again(&["--create", path])?,
        _ => again(&["--step", path, "--nth", &number.to_string()])?,
    };
    measure(&mut child, &dir.join("stderr"))?;
    std::fs::copy(store, &file)?;
    Ok(file)
}

fn measure_icecore(icecore: &Icecore, repository: &Path, keep: u32) -> Result<Row> {
    let before_bytes = tree_bytes(repository)?;
    let check = icecore.check()?;
    let prune = icecore.run(["forget", "--keep-last", &keep.to_string(), "--prune", "--grace", "0"])?;
    Ok(Row { name: "icecore", check: check.cost, prune: prune.cost, before_bytes, after_bytes: tree_bytes(repository)? })
}

impl Peer {
    /// Those that are installed, with empty repositories.
    fn all(dir: &Path) -> Result<Vec<Self>> {
        let mut peers = Vec::new();
        for (name, version, init) in
            [("restic", &["version"][..], &["init"][..]), ("borg", &["--version"], &["init", "--encryption", "repokey"])]
        {
            let found = Command::new(name).args(version).stdout(Stdio::null()).stderr(Stdio::null()).status();
            if !found.is_ok_and(|status| status.success()) {
                println!("{name}: left out, it is not installed");
                continue;
            }
            let peer = Peer { name, dir: dir.join(name) };
            std::fs::create_dir(&peer.dir)?;
            std::fs::write(peer.dir.join("password"), PASSPHRASE)?;
            peer.run(init)?;
            peers.push(peer);
        }
        Ok(peers)
    }

    fn run<A: AsRef<OsStr>>(&self, args: &[A]) -> Result<Cost> {
        let mut command = Command::new(self.name);
        command.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default()).env("HOME", &self.dir).env("LANG", "C.UTF-8");
        command.env("RESTIC_REPOSITORY", self.dir.join("repository")).env("RESTIC_PASSWORD_FILE", self.dir.join("password"));
        command.env("RESTIC_CACHE_DIR", self.dir.join("cache"));
        command.env("BORG_REPO", self.dir.join("repository")).env("BORG_PASSPHRASE", PASSPHRASE).env("BORG_BASE_DIR", &self.dir);
        Ok(measure(command.args(args), &self.dir.join("stderr"))?.0)
    }

    fn backup(&self, file: &Path) -> Result<Cost> {
        let file = file.as_os_str();
        match self.name {
            "borg" => self.run(&[OsStr::new("create"), OsStr::new("::{now:%Y-%m-%dT%H:%M:%S.%f}"), file]),
            _ => self.run(&[OsStr::new("--quiet"), OsStr::new("backup"), file]),
        }
    }

    fn measure(&self, keep: u32) -> Result<Row> {
        let (repository, keep) = (self.dir.join("repository"), keep.to_string());
        let before_bytes = tree_bytes(&repository)?;
        let (check, prune) = match self.name {
            "borg" => {
                let check = self.run(&["check", "--verify-data"])?;
                (check, self.run(&["prune", "--keep-last", &keep])?.then(self.run(&["compact"])?))
            }
            _ => (self.run(&["check", "--read-data"])?, self.run(&["forget", "--keep-last", &keep, "--prune"])?),
        };
        Ok(Row { name: self.name, check, prune, before_bytes, after_bytes: tree_bytes(&repository)? })
    }
}

fn print(steps: u32, keep: u32, rows: &[Row], fresh_bytes: u64) {
    println!(
        "{steps} snapshots of a 14 MB store, all but {keep} forgotten; a fresh repository with these {keep} takes {fresh_bytes} bytes"
    );
    println!(
        "| | stored bytes | after the prune | forget and prune, wall / CPU ms | peak MiB | check of all data, wall / CPU ms | peak MiB |"
    );
    println!("|---|--:|--:|--:|--:|--:|--:|");
    for row in rows {
        let cost = |cost: &Cost| format!("{:.0} / {:.0} | {}", ms(cost.wall), ms(cost.cpu), cost.peak_bytes >> 20);
        println!("| {} | {} | {} | {} | {} |", row.name, row.before_bytes, row.after_bytes, cost(&row.prune), cost(&row.check));
    }
    if let Some(icecore) = rows.first() {
        println!("left {:.2} times the fresh repository", icecore.after_bytes as f64 / fresh_bytes as f64);
    }
}
