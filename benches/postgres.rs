//! `icecore backup postgres` of a live server, against what pg_dump alone takes, and against restic and borg fed by its pipe.
//!
//! `cargo bench --bench postgres -- [--scale 20] [--steps 20] [--rounds 3] [--peers DIR] [--only-icecore] [--program FILE] [--pg-bin DIR] [--dir DIR]
//! [--server-options OPTIONS]`
//!
//! A throw-away server holds pgbench at `--scale` and a table of text, as in `benches/dumps.rs`; between two dumps there are pgbench traffic, edits of
//! the text, now and then a VACUUM. At each step, in turns that move on by one: `pg_dump -Fc -Z0 > /dev/null`, which is as fast as a dump can be had;
//! `icecore backup postgres`; `pg_dump -Fc -Z0 | restic backup --stdin`; the same into `borg create ... -`. The first dump goes into `--rounds` new
//! repositories; the last one goes on. Programs are looked for in `--peers` and in PATH. The bound of bytes is
//! `zstd -3 --long=31 --patch-from` of the dump before.
//!
//! CPU is that of the clients: the programs and the pg_dump that feeds them, not the server.
//!
//! After them pgBackRest, on another server that archives its WAL: `stanza-create`, one full backup, an incremental one after each step of the same
//! traffic, a restore. It keeps something else: the whole cluster, and every position of its WAL in between. `--server-options` go to that server, as
//! `-c full_page_writes=off`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, missing_docs)]

// `benches/dumps.rs` uses the rest of these.
#[allow(dead_code)]
#[path = "dumps/bank.rs"]
mod bank;
#[path = "postgres/cluster.rs"]
mod cluster;
mod common;
#[path = "postgres/piped.rs"]
mod piped;
#[allow(dead_code)]
#[path = "dumps/programs.rs"]
mod programs;
#[allow(dead_code)]
#[path = "dumps/server.rs"]
mod server;
#[path = "postgres/table.rs"]
mod table;

use std::path::{Path, PathBuf};
use std::process::Command;

use bank::Bank;
use common::Result;
use common::args::Args;
use common::process::measure;
use piped::{Peer, piped};
use programs::{Programs, Run};

const KNOWN: [&str; 9] =
    ["--scale", "--steps", "--rounds", "--peers", "--only-icecore", "--program", "--pg-bin", "--dir", "--server-options"];

/// What all programs took for one version of the database.
pub struct Version {
    /// Bytes of the dump.
    pub bytes: u64,
    /// Against the dump before.
    pub patch: Option<Run>,
    /// In the order of [`names`]; of a program that is not there `None`. Each as often as it was measured.
    pub runs: Vec<Vec<Run>>,
}

fn main() -> Result<()> {
    let Some(args) = Args::read(&KNOWN)? else { return Ok(()) };
    let (scale, steps) = (args.number("--scale", 20)?, args.number("--steps", 20)?);
    let rounds = args.number("--rounds", 3)?.max(1);
    let (pg_bin, peers) = (args.value("--pg-bin").map(PathBuf::from), args.value("--peers").map(Path::new));
    let dir = tempfile::tempdir_in(args.value("--dir").unwrap_or(env!("CARGO_TARGET_TMPDIR")))?;
    let others = !args.flag("--only-icecore");
    let program = args.value("--program").unwrap_or(env!("CARGO_BIN_EXE_icecore"));
    let mut lanes = vec![Lane::PgDump, Lane::Icecore(Programs::new(program.into(), false), pg_bin.clone())];
    lanes.extend(piped(peers).into_iter().filter(|_| others).map(Lane::Peer));
    let mut bank = Bank::start(scale, pg_bin.clone())?;
    let mut versions = Vec::new();
    for n in 0..=steps {
        eprintln!("version {n} of {steps}");
        if n > 0 {
            bank.step(n)?;
        }
        let mut runs = vec![Vec::new(); lanes.len()];
        for round in 0..if n == 0 { rounds } else { 1 } {
            for turn in 0..lanes.len() {
                let which = (turn + n as usize + round as usize) % lanes.len();
                let lane = &lanes[which];
                let own = dir.path().join(lane.name());
                if n == 0 {
                    if own.exists() {
                        std::fs::remove_dir_all(&own)?;
                    }
                    std::fs::create_dir_all(&own)?;
                    lane.init(&own)?;
                }
                runs[which].push(lane.run(&bank, &own, n)?);
            }
        }
        let (patch, bytes) = patch(&bank, dir.path(), others)?;
        versions.push(Version { bytes, patch, runs });
    }
    table::print(&lanes.iter().map(Lane::name).collect::<Vec<_>>(), &versions);
    drop(bank);
    let settings = args.value("--server-options").unwrap_or_default();
    if others { cluster::lane(peers, pg_bin, settings, (scale, steps)) } else { Ok(()) }
}

/// The dump against the one before, if there is one and others than icecore are wanted; and its length.
fn patch(bank: &Bank, dir: &Path, wanted: bool) -> Result<(Option<Run>, u64)> {
    let (now, before) = (dir.join("now"), dir.join("before"));
    bank.dump(true, &now)?;
    let patch = match wanted && before.exists() {
        true => Some(Programs::new(PathBuf::new(), false).zstd(&now, Some(&before), dir)?),
        false => None,
    };
    std::fs::rename(&now, &before)?;
    Ok((patch, before.metadata()?.len()))
}

/// One of those that dump.
enum Lane {
    PgDump,
    /// With the directory of PostgreSQL's programs, if it was given.
    Icecore(Programs, Option<PathBuf>),
    Peer(Peer),
}

impl Lane {
    fn name(&self) -> &'static str {
        match self {
            Lane::PgDump => "pg_dump",
            Lane::Icecore(..) => "icecore",
            Lane::Peer(peer) => peer.name,
        }
    }

    fn init(&self, own: &Path) -> Result<()> {
        match self {
            Lane::PgDump => Ok(()),
            Lane::Icecore(programs, _) => programs.icecore(own, &["init"]).map(drop),
            Lane::Peer(peer) => peer.init(own),
        }
    }

    fn run(&self, bank: &Bank, own: &Path, n: u32) -> Result<Run> {
        match self {
            Lane::PgDump => {
                let mut command = Command::new("sh");
                let pg_dump = bank.server().client("pg_dump");
                piped::surround(&mut command, &pg_dump);
                command.args(["-c", "exec \"$0\" -Fc -Z0 >/dev/null"]).arg(pg_dump.get_program());
                Ok(Run { cost: measure(&mut command, &own.join("stderr"))?.0, ..Run::default() })
            }
            Lane::Icecore(programs, bin) => {
                let dsn = bank.server().dsn();
                let bin = bin.as_ref().and_then(|bin| bin.to_str()).map(|bin| ["--pg-bin", bin]);
                let args = ["backup", "postgres", "--dsn", &dsn].into_iter().chain(bin.into_iter().flatten());
                programs.icecore(own, &args.collect::<Vec<_>>())
            }
            Lane::Peer(peer) => peer.backup(own, &bank.server().client("pg_dump"), n),
        }
    }
}
