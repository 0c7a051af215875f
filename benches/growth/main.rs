//! How a history of a database grows, beside the bound of deltas: `zstd -3` of the first state, and `zstd -3 --patch-from` of each next one.
//!
//! `cargo bench --bench growth -- [--corpus mixed | fossil] [--size 100MB] [--steps 40] [--vacuum-at 10,20,30] [--repository GIT] [--states DIR]
//! [--dir DIR]`
//!
//! Two corpora that move content among pages. `mixed`: a store with many kinds of content, keys that spread over their indexes, rows that go and
//! leave room for others, and several VACUUMs. `fossil`: a repository of Fossil that takes over the history of a git repository (this one, unless
//! `--repository` says another) in `--steps` parts, beside patched sources of others, tables and assets; it packs old versions anew as deltas, frees
//! pages and uses them again. Without the programs `fossil` and `git` that corpus is left out with a line. `--size` is that of the first state (57MB).
//!
//! Says for each length of the history what both store in all, and the worst of their ratios from 5 steps on; the peak memory of the backups; and
//! at the end what it costs to restore the newest, the middle and the oldest state. Every restored file is compared with what was backed up.
//! `--states` keeps the states and the links of the chain in a directory and uses what is there already: for one try after the other.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, missing_docs)]

#[path = "../common/mod.rs"]
mod common;
mod fossil;
mod mixed;
mod run;
mod work;

use std::path::{Path, PathBuf};

use common::Result;
use common::args::Args;

const KNOWN: [&str; 10] =
    ["--corpus", "--size", "--steps", "--vacuum-at", "--repository", "--states", "--dir", "--seed", "--make", "--nth"];
/// Steps of a history at whose length the ratio begins to count.
const LENGTH_MIN: usize = 5;

/// What makes the states of a history.
pub enum Corpus {
    /// See [`mixed`].
    Mixed(mixed::Spec),
    /// See [`fossil`].
    Fossil(fossil::Spec),
}

impl Corpus {
    /// Makes the next state of the database at this path, the first one where it is not there.
    fn advance(&self, file: &Path, nth: u32) -> Result<()> {
        match self {
            Corpus::Mixed(spec) => mixed::advance(file, spec, nth),
            Corpus::Fossil(spec) => fossil::advance(file, spec, nth),
        }
    }
}

fn main() -> Result<()> {
    let Some(args) = Args::read(&KNOWN)? else { return Ok(()) };
    let steps = args.number("--steps", 40)?;
    let name = args.value("--corpus").unwrap_or("mixed");
    let corpus = match name {
        "mixed" => Corpus::Mixed(mixed::Spec {
            bytes: args.bytes("--size", 100_000_000)?,
            seed: u64::from(args.number("--seed", 1)?),
            vacuum_steps: list(args.value("--vacuum-at").unwrap_or("10,20,30"))?,
        }),
        "fossil" => {
            let default = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
            let repository = args.value("--repository").map_or(default, PathBuf::from);
            let bytes = args.bytes("--size", 57_000_000)?;
            let Some(spec) = fossil::Spec::of(repository, steps + 1, bytes, u64::from(args.number("--seed", 1)?))? else { return Ok(()) };
            Corpus::Fossil(spec)
        }
        other => return Err(format!("--corpus {other}: there are mixed and fossil").into()),
    };
    if let Some(file) = args.value("--make") {
        // What this program asks its own child to do: the process that measures has to stay small.
        return corpus.advance(Path::new(file), args.number("--nth", 0)?);
    }
    let dir = tempfile::tempdir_in(args.value("--dir").unwrap_or(env!("CARGO_TARGET_TMPDIR")))?;
    let job = run::Job { steps, length_min: LENGTH_MIN, states: args.value("--states").map(PathBuf::from), make: child_args(&args) };
    run::run(&job, dir.path())
}

fn list(text: &str) -> Result<Vec<u32>> {
    Ok(text.split(',').filter(|part| !part.is_empty()).map(str::parse).collect::<std::result::Result<_, _>>()?)
}

/// The arguments that name the corpus.
fn child_args(args: &Args) -> Vec<String> {
    let names = ["--corpus", "--size", "--steps", "--vacuum-at", "--repository", "--seed"];
    names.iter().filter_map(|name| Some([(*name).to_string(), args.value(name)?.to_string()])).flatten().collect()
}
