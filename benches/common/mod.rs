//! What the benches share: corpora by fixed seed, processes that are measured, tables.
// Each bench uses its own part of this.
#![allow(dead_code)]

pub mod args;
pub mod pages;
pub mod process;
pub mod prose;
pub mod report;
pub mod rng;
pub mod store;
pub mod tool;

/// Errors of benches end the bench.
pub type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;
