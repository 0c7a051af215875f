//! Others who may write where icecore works: nothing of anybody else is touched, and nothing of anybody else is taken.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, missing_docs)]

mod attacker;
mod cut;
mod exports;
mod files;
mod restore;
#[path = "../support/repo.rs"]
mod support;
