//! Sums the rows of a table, independently of their order.
//!
//! Guarantee: tables with the same rows have the same sum, and a row that occurs twice counts twice.
//! Relies on BLAKE3. Snapshots record these sums, so the calculation must stay the same.

use std::fmt;

use crate::id::from_hex;

/// The sum of the BLAKE3 hashes of rows, each taken as a little-endian number of 256 bits, modulo 2^256. Tables with
/// the same rows have the same sum, whatever the order of the rows. No different rows with the same sum are known.
/// Unlike with XOR, a row that occurs twice counts twice.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RowSum([u64; 4]);

impl RowSum {
    /// Adds one row's hash.
    pub fn add(&mut self, hash: &blake3::Hash) {
        self.add_words(hash.as_bytes().as_chunks::<8>().0.iter().map(|word| u64::from_le_bytes(*word)));
    }

    /// Adds the sum of other rows.
    pub fn merge(&mut self, other: &RowSum) {
        self.add_words(other.0.into_iter());
    }

    /// Adds word by word, the least significant first. The carry out of the last word is dropped: that is the modulus.
    fn add_words(&mut self, words: impl Iterator<Item = u64>) {
        let mut carry = false;
        for (mine, other) in self.0.iter_mut().zip(words) {
            let (sum, first) = mine.overflowing_add(other);
            // At most one of the two additions overflows.
            let (sum, second) = sum.overflowing_add(u64::from(carry));
            debug_assert!(!(first && second), "the carry is one bit");
            *mine = sum;
            carry = first || second;
        }
    }

    /// The number in little-endian order.
    pub(super) fn to_bytes(self) -> [u8; 32] {
        let mut bytes = [0; 32];
        bytes.as_chunks_mut::<8>().0.iter_mut().zip(self.0).for_each(|(to, word)| *to = word.to_le_bytes());
        bytes
    }

    /// Reads what [`fmt::Display`] writes.
    pub fn parse(text: &str) -> Option<Self> {
        let bytes: [u8; 32] = from_hex(text)?.try_into().ok()?;
        let mut sum = RowSum::default();
        sum.0.iter_mut().rev().zip(bytes.as_chunks::<8>().0).for_each(|(word, bytes)| *word = u64::from_be_bytes(*bytes));
        Some(sum)
    }
}

/// Writes 64 hexadecimal digits, the most significant first.
impl fmt::Display for RowSum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().rev().try_for_each(|word| write!(f, "{word:016x}"))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn of(lines: &[&str]) -> RowSum {
        let mut sum = RowSum::default();
        lines.iter().for_each(|line| sum.add(&blake3::hash(line.as_bytes())));
        sum
    }

    #[test]
    fn the_order_does_not_count_but_the_number_does() {
        assert_eq!(of(&["a", "b", "c"]), of(&["c", "a", "b"]));
        assert_ne!(of(&["a", "b", "b", "a"]), of(&[]));
        assert_ne!(of(&["a", "a"]), of(&["b", "b"]));
    }

    #[test]
    fn sums_carry_and_are_read_back() {
        let mut sum = RowSum([u64::MAX, u64::MAX, u64::MAX, 7]);
        let mut one = [0; 32];
        *one.first_mut().unwrap() = 1;
        sum.add(&blake3::Hash::from_bytes(one));
        assert_eq!(sum, RowSum([0, 0, 0, 8]));
        assert_eq!(sum.to_string(), format!("{:016x}{}", 8, "0".repeat(48)));
        assert_eq!(RowSum::parse(&sum.to_string()), Some(sum));
        for wrong in ["", "g", &"0".repeat(63), &"+".repeat(64), &"A".repeat(64)] {
            assert_eq!(RowSum::parse(wrong), None);
        }
    }
    #[test]
    fn sums_carry_past_words_that_stay() {
        let mut sum = RowSum([u64::MAX, u64::MAX, 0, u64::MAX]);
        sum.add(&blake3::Hash::from_bytes(
            [[1u8, 0, 0, 0, 0, 0, 0, 0], [0; 8], [0; 8], [1, 0, 0, 0, 0, 0, 0, 0]].concat().try_into().unwrap(),
        ));
        assert_eq!(sum, RowSum([0, 0, 1, 0]));
        assert_eq!(sum.to_bytes(), [[0; 8], [0; 8], [1, 0, 0, 0, 0, 0, 0, 0], [0; 8]].concat().as_slice());
    }
}
