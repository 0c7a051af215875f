//! The program: as its users meet it, and among others who may write where it works.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, missing_docs)]

mod cli;
mod documents;
mod hostile;
mod hostile_bytes;

#[path = "../support/locked.rs"]
mod locked;
#[path = "../support/page.rs"]
mod page;
#[path = "../support/place.rs"]
mod place;
#[path = "../support/proof.rs"]
mod proof;
#[path = "../support/repo.rs"]
mod repo;
#[path = "../../benches/common/rng.rs"]
#[allow(dead_code)]
mod rng;
#[path = "../support/run.rs"]
mod run;
#[path = "../support/script.rs"]
mod script;
#[path = "../support/wait.rs"]
mod wait;
#[path = "../support/xattrs.rs"]
#[allow(dead_code)]
mod xattrs;
