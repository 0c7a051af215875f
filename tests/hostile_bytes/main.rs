//! Bytes that others wrote: the host that keeps the repository, somebody who may write the cache, owners of databases. `docs/security.md` says what is
//! promised against whom, and names these tests.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, missing_docs)]

#[path = "../support/repo.rs"]
mod bed;
mod cached;
mod counts;
mod databases;
mod exchanged;
mod hidden;
mod mutated;
mod names;
#[path = "../support/proof.rs"]
mod proof;
#[path = "../../benches/common/rng.rs"]
#[allow(dead_code)]
mod rng;
#[allow(dead_code)]
#[path = "../support/run.rs"]
mod run;
#[allow(dead_code)]
#[path = "../cli/support.rs"]
mod support;
mod unseen;
