//! A fingerprint of rows that does not depend on their order.

use std::fmt;

/// The sum of the BLAKE3 hashes of rows, each taken as a number of 256 bits with its lowest byte first, modulo 2^256. Tables with equal rows have
/// equal sums in whatever order the rows lie, and no rows that differ are known to have equal ones: a row that comes twice counts twice,
/// unlike with XOR.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RowSum([u64; 4]);

impl RowSum {
    /// Adds one row's hash.
    pub fn add(&mut self, hash: &blake3::Hash) {
        self.add_words(
            hash.as_bytes().chunks_exact(8).map(|word| word.iter().rev().fold(0_u64, |value, byte| value << 8 | u64::from(*byte))),
        );
    }

    /// Adds the sum of other rows.
    pub fn merge(&mut self, other: &RowSum) {
        self.add_words(other.0.into_iter());
    }

    fn add_words(&mut self, words: impl Iterator<Item = u64>) {
        let mut carry = false;
        for (mine, other) in self.0.iter_mut().zip(words) {
            let (sum, first) = mine.overflowing_add(other);
            let (sum, second) = sum.overflowing_add(u64::from(carry));
            *mine = sum;
            carry = first || second;
        }
    }

    /// Reads what [`fmt::Display`] writes.
    pub fn parse(text: &str) -> Option<Self> {
        if text.len() != 64 || !text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')) {
            return None;
        }
        let mut words = [0; 4];
        for (index, word) in words.iter_mut().rev().enumerate() {
            *word = u64::from_str_radix(text.get(16 * index..16 * index + 16)?, 16).ok()?;
        }
        Some(RowSum(words))
    }
}

/// 64 hexadecimal digits, the highest first.
impl fmt::Display for RowSum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().rev().try_for_each(|word| write!(f, "{word:016x}"))
    }
}

/// Cuts the text of a COPY into rows and sums them. Within a value a newline is written as `\n`, so each line is a row; `\.` ends them
/// (PostgreSQL documentation, COPY, "Text Format").
#[derive(Default)]
pub(super) struct Rows {
    pub(super) rows: u64,
    pub(super) sum: RowSum,
    /// What has come of a line that is not complete.
    part: blake3::Hasher,
    part_len: u64,
    /// The first two bytes of it.
    part_start: [u8; 2],
    /// Bytes after the line `\.`, once that was there.
    after_end: Option<u64>,
    /// Something other than newlines came after it.
    is_wrong: bool,
}

/// What pg_dump writes after the line `\.`.
const NEWLINES_AFTER_END: u64 = 2;

impl Rows {
    pub(super) fn take(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            if let Some(after) = &mut self.after_end {
                *after += bytes.len() as u64;
                self.is_wrong |= bytes.iter().any(|byte| *byte != b'\n');
                return;
            }
            let Some(end) = memchr::memchr(b'\n', bytes) else {
                self.take_part(bytes);
                return;
            };
            let (line, rest) = bytes.split_at_checked(end).unwrap_or((bytes, &[]));
            self.take_line(line);
            bytes = rest.get(1..).unwrap_or_default();
        }
    }

    fn take_part(&mut self, bytes: &[u8]) {
        for (place, byte) in self.part_start.iter_mut().skip(self.part_len.min(2) as usize).zip(bytes) {
            *place = *byte;
        }
        self.part.update(bytes);
        self.part_len += bytes.len() as u64;
    }

    fn take_line(&mut self, line: &[u8]) {
        if self.part_len == 0 {
            match line {
                br"\." => self.after_end = Some(0),
                _ => self.count(&blake3::hash(line)),
            }
            return;
        }
        self.take_part(line);
        let hash = self.part.finalize();
        match self.part_len == 2 && self.part_start == *br"\." {
            true => self.after_end = Some(0),
            false => self.count(&hash),
        }
        self.part.reset();
        self.part_len = 0;
    }

    fn count(&mut self, hash: &blake3::Hash) {
        self.rows += 1;
        self.sum.add(hash);
    }

    /// Whether what comes next begins a row: no part of one waits for its end, and the end of all has not come.
    pub(super) fn is_between_rows(&self) -> bool {
        self.part_len == 0 && self.after_end.is_none()
    }

    /// Whether the end has come, and nothing but what pg_dump writes after it.
    pub(super) fn is_complete(&self) -> bool {
        self.after_end == Some(NEWLINES_AFTER_END) && !self.is_wrong
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
    fn however_the_text_is_cut_the_rows_are_the_same() {
        let text = b"a\tb\n\n\\N\t\\.\nx\\.\n\\.x\n\\.\n\n\n";
        let expected = of(&["a\tb", "", "\\N\t\\.", "x\\.", "\\.x"]);
        for step in 1..=text.len() {
            let mut rows = Rows::default();
            text.chunks(step).for_each(|piece| rows.take(piece));
            assert_eq!((rows.rows, rows.sum, rows.is_complete()), (5, expected, true), "{step}");
        }
        for cut in 1..text.len() {
            let mut rows = Rows::default();
            rows.take(text.get(..cut).unwrap());
            assert!(!rows.is_complete(), "{cut}");
        }
        let mut more = Rows::default();
        more.take(b"\\.\n\nx");
        assert!(!more.is_complete());
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
}
