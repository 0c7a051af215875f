//! The stored bytes: the page that specifies them, golden bytes, hostile bytes, and readers that are not icecore.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, missing_docs)]

#[path = "../support/chunks.rs"]
mod chunks;
#[path = "../../benches/common/rng.rs"]
#[allow(dead_code)]
mod rng;
#[path = "../support/repo.rs"]
mod support;

mod canonical;
mod compat;
mod derive;
mod golden;
mod limits;
mod mutate;
mod page;
mod parity;
mod script;
mod second;
mod spec;
mod values;
