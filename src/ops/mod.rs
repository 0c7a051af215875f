//! What a user can do with a repository.

pub mod place;
