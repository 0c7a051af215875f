//! PostgreSQL, against real servers that the tests start themselves; and the playbook, which needs them too.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, missing_docs)]

mod abandoned;
mod archive;
mod capture;
mod conninfo;
mod documents;
mod drill;
mod failures;
mod harness;
mod hostile;
mod keep_going;
mod lacking;
#[path = "../support/page.rs"]
#[allow(dead_code)]
mod page;
mod parallel;
mod parallel_failures;
mod passwords;
mod playbook;
#[path = "../support/repo.rs"]
mod repo;
mod restore;
mod restore_failures;
#[path = "../support/run.rs"]
mod run;
#[path = "../support/script.rs"]
mod script;
mod server;
mod settings;
mod silent;
mod stopping;
#[path = "../support/place.rs"]
#[allow(dead_code)]
mod support;
mod table_names;
mod trust;
#[path = "../support/wait.rs"]
mod wait;
