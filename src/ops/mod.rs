//! The operations: what a user can do with a repository, one folder or file for each.
//!
//! Operations bring engines and the repository together. In most folders `perform` is the operation as users call it:
//! it returns a report and writes a journal entry ([`journaled`]). The files below it have the steps.

pub mod backup;
pub mod check;
pub mod drill;
pub mod export;
pub mod forget;
pub mod gaps;
pub mod init;
pub mod journal;
pub mod journaled;
pub mod json;
pub mod list;
pub mod log;
pub mod lost;
pub mod mark;
mod near;
mod number;
pub mod prune;
pub mod repair;
pub mod restore;
pub mod retention;
pub mod scrub;
pub mod secrets;
pub mod select;
pub mod sources;
pub mod stats;
pub mod status;
pub mod stored;
pub mod subtree;
pub mod text;
