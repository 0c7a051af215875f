//! The core against crashes, failing calls, damaged bytes, concurrent prunes, wrong catalogs and killed processes.
//!
//! Every random choice comes from a seed that is printed; `SEED=n` repeats a run.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, missing_docs)]

#[path = "../support/chunks.rs"]
mod chunks;
#[path = "../support/proof.rs"]
mod proof;
#[path = "../support/crashdisk.rs"]
mod simulated;
#[path = "../support/repo.rs"]
mod support;

mod actor;
mod bases;
mod beside;
mod check;
mod crash;
mod damage;
mod faults;
mod forget;
mod full;
mod healing;
mod hook;
mod inits;
mod kills;
mod matrix;
mod memory;
mod model;
mod processes;
mod protocol;
mod prunes;
mod pruning;
mod repair;
mod schedule;
mod stale;
mod streams;
mod suspended;
mod sweep;
mod together;
mod world;
