//! Conversions of numbers between 32 bits, 64 bits and `usize`, whose size differs between machines, so that `From` does not offer them.

// The casts below lose nothing on any machine for which this holds.
const _: () = assert!(usize::BITS >= u32::BITS && usize::BITS <= u64::BITS);

/// A stored number of 32 bits as a place or length in memory.
pub(crate) const fn usize_from(number: u32) -> usize {
    number as usize
}

/// A length in memory as a number of 64 bits.
pub(crate) const fn u64_from(len: usize) -> u64 {
    len as u64
}

/// A length or count as a stored number of 32 bits. One that is too large becomes `u32::MAX`, which every limit of the format refuses.
pub(crate) fn u32_from(len: usize) -> u32 {
    u32::try_from(len).unwrap_or(u32::MAX)
}
