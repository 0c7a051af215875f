//! The playbook's commands, word for word, and what becomes of each when something is wrong: a clear message, a code that is not zero,
//! nothing lost, no half-written directory.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, missing_docs)]

mod drill;
mod postgres;
#[path = "../support/run.rs"]
mod run;
#[path = "../support/script.rs"]
mod script;
#[path = "../postgres/server.rs"]
#[allow(dead_code)]
mod server;
mod signals;
mod site;
mod sqlite;
#[path = "../support/repo.rs"]
mod support;
mod swap;
#[path = "../support/wait.rs"]
mod wait;
