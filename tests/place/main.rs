//! Putting restored bytes in place: promise 6, rule by rule.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, missing_docs)]

#[path = "../support/crashdisk.rs"]
mod crashdisk;

#[path = "../support/xattrs.rs"]
mod xattrs;

mod attributes;
mod busy;
mod child;
mod closed;
mod crash;
mod live;
mod plain;
mod support;
mod tree;
