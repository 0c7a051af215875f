//! The file system as the other layers use it: held directories, durable operations, locks, checksum lists and files
//! with holes.

pub(crate) mod beneath;
pub(crate) mod dirlock;
pub mod disk;
pub mod sha256sums;
pub mod sparse_read;
