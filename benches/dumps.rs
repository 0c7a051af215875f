//! Streams without pages: dumps of a PostgreSQL database and a long text, each through icecore, restic and zstd, as processes on the same files.
//!
//! `cargo bench --bench dumps -- [--large] [--scale 5] [--steps 8] [--lanes custom,plain,text] [--only-icecore] [--program FILE] [--keep DIR | --from DIR]
//! [--rounds 3] [--pg-bin DIR] [--dir DIR]`
//!
//! A throw-away server holds pgbench at `--scale` and a table of text. Between two dumps there are pgbench traffic, edits of the text, now and then a
//! VACUUM; two steps before the end both tables are clustered. The lanes: `pg_dump -Fc -Z0`, plain `pg_dump`, and a text file with insertions.
//! `--large` is scale 20 and 20 steps. The bound is `zstd -3 --long=31 --patch-from` of the dump before. `--keep` keeps every version of every lane,
//! `--from` takes them from there in place of a server: with `--program`, another build of icecore, changes are compared on the same bytes.
//! Every restored file is compared with what was backed up.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, missing_docs)]

// `benches/postgres.rs` uses the rest of these.
#[allow(dead_code)]
#[path = "dumps/bank.rs"]
mod bank;
mod common;
#[path = "dumps/lane.rs"]
mod lane;
#[path = "dumps/programs.rs"]
mod programs;
#[allow(dead_code)]
#[path = "dumps/server.rs"]
mod server;
#[path = "dumps/table.rs"]
mod table;
#[path = "dumps/text.rs"]
mod text;
#[path = "dumps/versions.rs"]
mod versions;

use std::path::PathBuf;

use common::Result;
use common::args::Args;
use lane::Lane;
use programs::Programs;
use versions::{Kept, Made, Versions};

const KNOWN: [&str; 11] =
    ["--large", "--scale", "--steps", "--lanes", "--only-icecore", "--program", "--keep", "--from", "--rounds", "--pg-bin", "--dir"];

fn main() -> Result<()> {
    let Some(args) = Args::read(&KNOWN)? else { return Ok(()) };
    let large = args.flag("--large");
    let scale = args.number("--scale", if large { 20 } else { 5 })?;
    let steps = args.number("--steps", if large { 20 } else { 8 })?;
    let lanes: Vec<&str> = args.value("--lanes").unwrap_or("custom,plain,text").split(',').collect();
    if let Some(wrong) = lanes.iter().find(|lane| !versions::LANES.contains(lane)) {
        return Err(format!("--lanes {wrong}: there are {}", versions::LANES.join(" ")).into());
    }
    let dir = tempfile::tempdir_in(args.value("--dir").unwrap_or(env!("CARGO_TARGET_TMPDIR")))?;
    let keep = args.value("--keep").map(PathBuf::from);
    let mut versions: Box<dyn Versions> = match args.value("--from") {
        Some(from) => Box::new(Kept::new(from.into())),
        None => Box::new(Made::start(&lanes, scale, steps, args.value("--pg-bin").map(PathBuf::from), keep)?),
    };
    let program = args.value("--program").unwrap_or(env!("CARGO_BIN_EXE_icecore"));
    let programs = Programs::new(program.into(), !args.flag("--only-icecore"));
    let mut lanes = lanes.iter().map(|name| Lane::new(name, &dir.path().join(name), &programs)).collect::<Result<Vec<_>>>()?;
    for n in 0..=steps {
        eprintln!("version {n} of {steps}");
        let event = versions.advance(n)?;
        for lane in &mut lanes {
            lane.take(n, event, &mut *versions)?;
        }
    }
    drop(versions);
    let rounds = args.number("--rounds", 3)?.max(1);
    for lane in &mut lanes {
        eprintln!("restores of {}", lane.name());
        lane.restore(rounds)?;
        table::print(lane);
    }
    Ok(())
}
