//! PostgreSQL, against real servers that the tests start themselves.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, missing_docs)]

mod harness;
mod server;
mod archive;
mod conninfo;
