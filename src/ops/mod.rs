//! What a user can do with a repository.

pub mod backup;
pub mod check;
pub mod place;
pub mod prune;
pub mod restore;
pub mod select;
pub mod stats;
