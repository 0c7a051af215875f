//! The delta engine on long and random histories, moved content and hostile packs; what it costs, counted in bytes, requests and levels, never in time.
//!
//! Every random choice comes from a seed that is printed; `SEED=n` repeats a run, `SEEDS=n` takes as many seeds from there on.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, missing_docs)]

#[path = "../support/chunks.rs"]
mod chunks;
#[path = "../../benches/common/mod.rs"]
mod common;
// The fault tests use more of it.
#[allow(dead_code)]
#[path = "../fault/memory.rs"]
mod memory;
mod prune;
#[path = "../support/crashdisk.rs"]
mod simulated;
#[path = "../support/repo.rs"]
mod support;

mod beside;
mod bounds;
mod children;
mod cost;
mod count;
mod craft;
mod decode;
mod growth;
mod hostile;
mod model;
mod moved;
mod random;
mod room;
mod scene;
mod spill;
mod versions;
