//! The file system as the other layers use it.

pub(crate) mod beneath;
pub(crate) mod dirlock;
pub mod disk;
pub mod sha256sums;
pub mod sparse_read;
