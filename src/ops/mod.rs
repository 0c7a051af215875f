//! What a user can do with a repository.

pub mod backup;
pub mod place;
