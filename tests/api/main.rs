//! The library on real files: backup, restore, check, commit protocol.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, missing_docs)]

#[path = "../support/repo.rs"]
mod support;

#[path = "../support/chunks.rs"]
mod chunks;

mod ages;
mod check;
mod cost;
mod damage;
mod faults;
mod forget;
mod history;
mod journal;
mod marks;
mod nowhere;
mod parity;
mod prune;
mod retention;
mod scrub;
mod stats;
