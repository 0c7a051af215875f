//! Counts and sums the rows in the text of a COPY. The text may come in pieces of any length.
//!
//! Guarantee: the result does not depend on how the text is cut, and a text without its end is never complete.
//! Relies on COPY's text format: each row is one line, and the line `\.` ends them. Relies on pg_dump, too: it writes
//! exactly two newlines after that line.

pub use crate::engine::row_sum::RowSum;

/// Splits the text of a COPY into rows and sums them. A newline in a value is written as `\n`, so each line is a row.
/// The line `\.` ends them (PostgreSQL documentation, COPY, "Text Format").
#[derive(Default)]
pub(super) struct Rows {
    pub(super) rows: u64,
    pub(super) sum: RowSum,
    /// The hash of a line whose end has not come yet.
    part: blake3::Hasher,
    /// Its length so far.
    part_len: u64,
    /// Its first two bytes, to recognize `\.`.
    part_start: [u8; 2],
    /// Bytes after the line `\.`; `None` before that line.
    after_end: Option<u64>,
    /// Whether a byte other than a newline came after that line.
    is_wrong: bool,
}

/// Newlines that pg_dump writes after the line `\.`.
const NEWLINES_AFTER_END: u64 = 2;

impl Rows {
    /// Takes the next bytes.
    pub(super) fn take(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            if let Some(after) = &mut self.after_end {
                // usize fits u64 on every platform, here and below.
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

    /// Takes a part of a line.
    fn take_part(&mut self, bytes: &[u8]) {
        // Longer than 2: the start is known. `usize::MAX` skips both places too.
        for (place, byte) in self.part_start.iter_mut().skip(usize::try_from(self.part_len).unwrap_or(usize::MAX)).zip(bytes) {
            *place = *byte;
        }
        self.part.update(bytes);
        self.part_len += bytes.len() as u64;
    }

    /// Takes a line, or the rest of one, without its newline.
    fn take_line(&mut self, line: &[u8]) {
        // The usual case: the whole line is in one piece.
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

    /// Whether the next byte begins a row: no line is incomplete, and the line `\.` has not come.
    pub(super) fn is_between_rows(&self) -> bool {
        self.part_len == 0 && self.after_end.is_none()
    }

    /// Whether the line `\.` has come, and after it exactly the newlines that pg_dump writes.
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
}
