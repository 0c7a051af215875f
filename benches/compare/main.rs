//! One history of a SQLite store through icecore, other backup programs and two lower bounds, each as a process on the same files.
//!
//! `cargo bench --bench compare -- [--quick | --long-history | --vacuums] [--steps 40] [--size 100MB] [--vacuum-at 20,30]
//! [--tools a,b] [--dense] [--peers DIR] [--rounds 3] [--dir DIR]`
//!
//! The default is 100 MB, 40 steps, a VACUUM at step 20. `--quick`: 14 MB, 12 steps. `--long-history`: 14 MB, 300 steps, icecore and the
//! patch-from bound only. `--vacuums`: 14 MB (`--size 100MB` for more), 60 steps, VACUUM at 15, 30 and 45, the same two. `--tools` names the
//! rows (`--tools list` prints them), `--dense` adds a patch-from row whose first file is packed with `-19 --long`. Programs are looked for
//! in `--peers` and in PATH and left out with a line when they are not there; `benches/install_peers.sh` installs them. `--rounds` is
//! how often the first backup and each restore are measured; the median counts.
//!
//! All tools see each step before the next step is made, in an order that moves on by one each time, so that the ratios hold on a busy machine
//! too. All files are in the page cache. Every restored file is compared with what was backed up.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, missing_docs)]

mod bars;
mod changed;
#[path = "../common/mod.rs"]
mod common;
mod history;
mod run;
mod table;
mod tools;

use std::path::{Path, PathBuf};

use common::Result;
use common::args::Args;
use common::store::{Store, StoreSpec};
use common::tool::quick_check;
use tools::{KINDS, Kind};

const KNOWN: [&str; 17] = [
    "--quick",
    "--long-history",
    "--vacuums",
    "--steps",
    "--size",
    "--vacuum-at",
    "--tools",
    "--dense",
    "--peers",
    "--rounds",
    "--dir",
    // What this program asks its own children to do.
    "--quick-check",
    "--create",
    "--step",
    "--nth",
    "--changed-pages",
    "--since",
];

/// What a run measures.
pub struct Plan {
    /// The store.
    pub spec: StoreSpec,
    /// Steps after the first backup.
    pub steps: u32,
    /// How often first backups and restores are measured.
    pub rounds: u32,
    /// Where programs are looked for before PATH.
    pub peers: Option<PathBuf>,
    /// The rows.
    pub kinds: Vec<&'static Kind>,
}

fn main() -> Result<()> {
    let Some(args) = Args::read(&KNOWN)? else { return Ok(()) };
    if child(&args)? {
        return Ok(());
    }
    if args.value("--tools") == Some("list") {
        KINDS.iter().for_each(|kind| println!("{}", kind.name));
        return Ok(());
    }
    let steps = match () {
        () if args.flag("--long-history") => 300,
        () if args.flag("--vacuums") => 60,
        () if args.flag("--quick") => 12,
        () => 40,
    };
    let plan = Plan {
        spec: spec(&args)?,
        steps: args.number("--steps", steps)?,
        rounds: args.number("--rounds", 3)?.max(1),
        peers: args.value("--peers").map(PathBuf::from),
        kinds: kinds(&args)?,
    };
    let dir = tempfile::tempdir_in(args.value("--dir").unwrap_or(env!("CARGO_TARGET_TMPDIR")))?;
    let title = format!("compare, {} bytes, {} steps, VACUUM at {:?}", plan.spec.bytes, plan.steps, plan.spec.vacuum_steps);
    let outcomes = run::run(&plan, dir.path())?;
    table::print(&title, &outcomes);
    bars::print(&outcomes);
    table::print_json(&title, &outcomes);
    Ok(())
}

/// Does what this process was started for by another one of this bench, which has to stay small (see [`common::process`]).
fn child(args: &Args) -> Result<bool> {
    if let Some(path) = args.value("--quick-check") {
        quick_check(Path::new(path))?;
    } else if let Some(path) = args.value("--create") {
        Store::create(Path::new(path), spec(args)?)?;
    } else if let Some(path) = args.value("--step") {
        Store::open(Path::new(path), spec(args)?)?.step(args.number("--nth", 1)?)?;
    } else if let Some(path) = args.value("--changed-pages") {
        println!("{}", changed::packed_bytes(Path::new(path), args.value("--since").map(Path::new))?);
    } else {
        return Ok(false);
    }
    Ok(true)
}

fn spec(args: &Args) -> Result<StoreSpec> {
    let small = ["--quick", "--long-history", "--vacuums"].iter().any(|name| args.flag(name));
    let default = if small { StoreSpec::quick() } else { StoreSpec::default() };
    let vacuum_steps = match args.value("--vacuum-at") {
        Some(list) => list.split(',').filter(|part| !part.is_empty()).map(str::parse).collect::<std::result::Result<_, _>>()?,
        None if args.flag("--vacuums") => vec![15, 30, 45],
        None => default.vacuum_steps.clone(),
    };
    Ok(StoreSpec { bytes: args.bytes("--size", default.bytes)?, vacuum_steps, ..default })
}

fn kinds(args: &Args) -> Result<Vec<&'static Kind>> {
    let default = if args.flag("--long-history") || args.flag("--vacuums") { Some("icecore,patch-from") } else { None };
    let named: Vec<&str> = match args.value("--tools").or(default) {
        Some(list) => list.split(',').collect(),
        None => KINDS.iter().map(|kind| kind.name).filter(|name| *name != tools::DENSE).collect(),
    };
    if let Some(wrong) = named.iter().find(|name| KINDS.iter().all(|kind| kind.name != **name)) {
        return Err(format!("--tools {wrong}: there is no such row; `--tools list` prints them").into());
    }
    let wanted = |kind: &&Kind| named.contains(&kind.name) || args.flag("--dense") && kind.name == tools::DENSE;
    Ok(KINDS.iter().filter(wanted).collect())
}
