//! The library, part by part: each module is about one part of it. All are one program, so that what they share is compiled and linked once. The tests
//! are threads of one process: one that changes what belongs to the process (directory, environment, limits) starts another for it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, missing_docs)]

mod api;
mod backend;
mod catalog;
mod corpus;
mod delta;
mod format;
mod fuzz;
mod parity;
mod place;
mod similarity;
mod source;
mod source_files;
mod structure;

#[path = "../support/chunks.rs"]
mod chunks;
#[path = "../../benches/common/mod.rs"]
mod common;
#[path = "../support/crashdisk.rs"]
mod crashdisk;
#[path = "../support/locked.rs"]
mod locked;
// The fault tests use more of it.
#[allow(dead_code)]
#[path = "../fault/memory.rs"]
mod memory;
#[path = "../support/proof.rs"]
mod proof;
#[path = "../support/repo.rs"]
mod repo;
#[path = "../support/wait.rs"]
mod wait;
#[path = "../support/xattrs.rs"]
mod xattrs;
