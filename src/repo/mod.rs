//! Repositories: the only layer that knows both keys and bytes.

pub mod catalog;
