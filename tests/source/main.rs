//! Sources: what is captured is what was there, and nothing is disturbed.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, missing_docs)]

mod sqlite_big;
mod sqlite_damage;
mod sqlite_image;
mod sqlite_instant;
mod sqlite_place;
mod sqlite_unchanged;
mod sqlite_writers;
mod support;
#[path = "../support/wait.rs"]
mod wait;
