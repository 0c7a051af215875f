//! SQLite databases.

pub mod structure;
