//! PostgreSQL, against real servers that the tests start themselves.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, missing_docs)]

mod abandoned;
mod archive;
mod capture;
mod conninfo;
mod drill;
mod failures;
mod harness;
mod parallel;
mod parallel_failures;
mod restore;
mod restore_failures;
#[path = "../support/run.rs"]
mod run;
#[path = "../support/script.rs"]
mod script;
mod server;
mod stopping;
#[path = "../cli/support.rs"]
#[allow(dead_code)]
mod support;
#[path = "../support/wait.rs"]
mod wait;
