//! The program as its users meet it: exit codes, JSON, what is printed where, signals, pipes.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, missing_docs)]

mod check;
mod codes;
mod examples;
mod files;
mod forget;
mod good;
mod healthy;
mod json;
#[path = "../support/locked.rs"]
mod locked;
mod log;
mod manual;
mod mislead;
mod once;
mod page;
mod parity;
mod partial;
mod passphrase;
mod pipes;
mod places;
mod races;
mod recipes;
mod repair;
mod rescue;
#[path = "../support/run.rs"]
mod run;
mod select;
mod signals;
mod stats;
mod status;
mod stopping;
mod support;
mod trees;
#[path = "../support/wait.rs"]
mod wait;
#[allow(dead_code)]
#[path = "../support/xattrs.rs"]
mod xattrs;
