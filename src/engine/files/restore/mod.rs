//! Trees of files back in their places.

pub(crate) mod ahead;
pub(crate) mod batch;
pub(crate) mod salvaged;
pub mod tree;
