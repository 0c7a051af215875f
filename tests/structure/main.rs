//! The structure inspector against SQLite's own checks: no valid database is reported, damage is.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, missing_docs)]

mod checks;
mod damage;
mod hostile;
mod speed;
mod support;
mod valid;
