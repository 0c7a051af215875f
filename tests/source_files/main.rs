//! Directory trees through the whole library: backup, restore, and what must not go wrong on the way.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, missing_docs)]

mod attributes;
#[path = "../support/crashdisk.rs"]
mod crashdisk;

mod changes;
mod databases;
mod good;
mod harness;
#[path = "../support/locked.rs"]
mod locked;
mod many;
mod names;
mod selection;
mod sparse;
mod stopping;
#[path = "../support/repo.rs"]
mod support;
mod trees;
mod unreadable;
#[path = "../support/xattrs.rs"]
mod xattrs;
