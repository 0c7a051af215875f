//! Converts between integer types in one place.
//!
//! Guarantee: no function cuts a number off. Each loses nothing, or gives the greatest value if it does not fit.

use std::time::Duration;

/// A length or number in memory as `u64`.
pub(super) const fn wide(len: usize) -> u64 {
    // A usize has at most 64 bits on every platform that Rust supports.
    len as u64
}

/// An index from the format as `usize`.
pub(super) const fn index(number: u32) -> usize {
    // A usize has at least 32 bits on every platform with a file system that icecore supports.
    number as usize
}

/// A length that has to fit into memory. One that does not is as long as can be, so that taking memory for it fails.
pub(super) fn in_memory(len: u64) -> usize {
    usize::try_from(len).unwrap_or(usize::MAX)
}

/// A length or place within one chunk. Chunks are far shorter than 4 GiB; a longer one would be a bug that its verification finds.
pub(super) fn within_chunk(len: u64) -> u32 {
    debug_assert!(u32::try_from(len).is_ok(), "{len} is not within a chunk");
    u32::try_from(len).unwrap_or(u32::MAX)
}

/// A duration in microseconds. Half a million years and more count as the longest.
pub(super) fn micros(span: Duration) -> u64 {
    u64::try_from(span.as_micros()).unwrap_or(u64::MAX)
}
