//! The contract of every backend, and what the local one keeps over crashes and failures.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, missing_docs)]

mod contract;
mod crash;
mod crashdisk;
mod local;

#[path = "../support/crashdisk.rs"]
mod simulated;
