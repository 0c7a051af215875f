//! icecore keeps the history of databases: it takes a consistent snapshot of SQLite files and PostgreSQL databases, stores it at about the
//! price of what changed, and gives any snapshot back, verified.
//!
//! The library is in layers; a module uses only what stands below it (`tests/tidy.rs` checks this):
//!
//! | layer | modules | job |
//! |---|---|---|
//! | 7 | `cli`, `main` | arguments, output, progress bars, exit codes |
//! | 6 | [`ops`] | backup, restore, export, drill, check, repair, prune, forget, mark, stats, journal, status |
//! | 5 | [`source`] | streams out of SQLite files, directory trees, PostgreSQL and commands; never sees a repository |
//! | 4 | [`repo`] | the only layer that knows both keys and bytes: catalog, writer, reader, trees |
//! | 3 | [`backend`] | keys and bytes: a local directory |
//! | 2 | [`crypto`], [`chunker`], [`codec`] | pure: no I/O, no clock, no randomness but what is passed in |
//! | 1 | [`mod@format`] | encode and decode every stored byte; all limits and magics |
//! | 0 | [`error`], [`id`], [`progress`], `beneath` | directories held open, so that nobody can exchange them |
//!
//! The library never prints, reads the environment or looks at the clock: `cli` passes those in.

pub mod backend;
mod beneath;
pub mod chunker;
pub mod codec;
pub mod crypto;
mod dirlock;
pub mod error;
pub mod format;
pub mod id;
pub mod ops;
pub mod progress;
pub mod repo;
pub mod source;

pub use error::{Error, Result};
