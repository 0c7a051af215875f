//! Decides constants of the engine: how chunks share frames, what a delta is made against, how large chunks are.
//!
//! `cargo bench --bench chains -- [--quick] [--only A,B,C,D,E] [--steps 300] [--dir DIR]`
//!
//! A simulation in memory on the store corpus, without a repository: bytes and reads are counted, not packed.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, missing_docs)]

mod common;
#[path = "chains/frames.rs"]
mod frames;
#[path = "chains/history.rs"]
mod history;
#[path = "chains/plan.rs"]
mod plan;
#[path = "chains/squeeze.rs"]
mod squeeze;
#[path = "chains/tables.rs"]
mod tables;

use common::Result;
use common::args::Args;
use common::store::StoreSpec;
use history::History;

fn main() -> Result<()> {
    let Some(args) = Args::read(&["--quick", "--only", "--steps", "--dir"])? else { return Ok(()) };
    let quick = args.flag("--quick");
    let wanted = |table: &str| args.value("--only").is_none_or(|only| only.contains(table));
    let dir = args.value("--dir").unwrap_or(env!("CARGO_TARGET_TMPDIR"));
    if wanted("A") {
        let spec = if quick { StoreSpec::quick() } else { StoreSpec::default() };
        let history = History::make(dir.as_ref(), spec, 0)?;
        frames::tables(&history);
        frames::dictionaries(&history);
    }
    if !["B", "C", "D", "E"].into_iter().any(wanted) {
        return Ok(());
    }
    let steps = args.number("--steps", if quick { 40 } else { 300 })?;
    let history = History::make(dir.as_ref(), StoreSpec::quick(), steps)?;
    println!("\n{} steps of a store of {} pages", history.steps(), history.version(0).len());
    let bound = tables::Bound::of(&history, dir.as_ref())?;
    for (table, title, plans) in [
        ("B", "B. chunk sizes and rules", tables::rules()),
        ("C", "C. frames shared by neighbours", tables::groups()),
        ("D", "D. other ideas", tables::ideas()),
        ("E", "E. rules for long histories", tables::long_rules()),
    ] {
        if wanted(table) {
            tables::print(title, &history, &bound, &plans);
        }
    }
    Ok(())
}
