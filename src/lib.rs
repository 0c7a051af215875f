//! icecore keeps the history of databases: it takes a consistent snapshot of SQLite files and PostgreSQL databases, stores it at about the
//! price of what changed, and gives any snapshot back, verified.
//!
//! The library is in layers; a module uses only what stands below it (`tests/tidy.rs` checks this):
//!
//! | layer | modules | job |
//! |---|---|---|
//! | 5 | `cli`, `main` | arguments, output, progress bars, exit codes |
//! | 4 | [`ops`] | what a user can do: backup, restore, export, drill, check, repair, prune, forget, mark, stats, journal, status |
//! | 3 | [`engine`] | what is special about each kind of source: SQLite, PostgreSQL, files, commands; never sees the store |
//! | 3 | [`store`] | what keeps bytes: format, encryption, deltas, chunking, backends, the repository; never sees a database |
//! | 2 | [`recorded`] | what engines say of sources and streams, and the store records |
//! | 1 | [`error`], [`id`], [`progress`], [`mod@fs`] | errors, names, progress and cancelling, directories that are held open |
//!
//! The library never prints, reads the environment or looks at the clock: `cli` passes those in.

pub mod engine;
pub mod error;
pub mod fs;
pub mod id;
pub mod ops;
pub mod progress;
pub mod recorded;
pub mod store;

pub use error::{Error, Result};
