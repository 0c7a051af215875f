//! Trees of files back in their places.

pub(crate) mod ahead;
pub(crate) mod batch;
pub mod tree;
