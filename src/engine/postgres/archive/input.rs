//! Reads the numbers and strings of an archive.
//!
//! The bytes are not trusted: memory grows with the bytes that have arrived, never by a length that was only read.

use std::io::BufRead;

use super::Unreadable;

/// Longest string that is kept, in bytes.
pub(super) const KEPT_STRING_MAX: u64 = 64 << 10;
/// Longest statement that is kept, in bytes.
const KEPT_SQL_MAX: u64 = 1 << 20;

/// Reads an archive from front to back and counts its bytes.
pub(super) struct Input<R> {
    inner: R,
    /// Bytes read so far.
    pub(super) offset: u64,
    /// How many bytes a number has without its sign: 4 on every machine so far.
    pub(super) int_len: u8,
    /// How many bytes an offset has.
    pub(super) offset_len: u8,
}

impl<R: BufRead> Input<R> {
    pub(super) fn new(inner: R) -> Self {
        Input { inner, offset: 0, int_len: 4, offset_len: 8 }
    }

    pub(super) fn malformed<T>(&self, detail: impl Into<String>) -> Result<T, Unreadable> {
        Err(Unreadable { offset: self.offset, detail: detail.into() })
    }

    /// The bytes in the buffer, at most `len`. Waits only if the buffer is empty. The result is empty only at the end.
    fn peek(&mut self, len: u64) -> Result<&[u8], Unreadable> {
        let offset = self.offset;
        loop {
            match self.inner.fill_buf() {
                Ok(_) => break,
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
                Err(e) => return Err(Unreadable { offset, detail: e.to_string() }),
            }
        }
        let ready = self.inner.fill_buf().map_err(|e| Unreadable { offset, detail: e.to_string() })?;
        let len = usize::try_from(len).map_or(ready.len(), |len| len.min(ready.len()));
        Ok(ready.get(..len).unwrap_or_default())
    }

    fn consume(&mut self, len: usize) {
        self.inner.consume(len);
        // usize fits u64 on every platform.
        self.offset += len as u64;
    }

    /// The next byte, or `None` at the end.
    pub(super) fn byte_or_end(&mut self) -> Result<Option<u8>, Unreadable> {
        let byte = self.peek(1)?.first().copied();
        self.consume(usize::from(byte.is_some()));
        Ok(byte)
    }

    pub(super) fn byte(&mut self) -> Result<u8, Unreadable> {
        match self.byte_or_end()? {
            Some(byte) => Ok(byte),
            None => self.malformed("the archive ends too early"),
        }
    }

    /// Gives the next `len` bytes to `take`, in pieces.
    pub(super) fn pass(&mut self, len: u64, mut take: impl FnMut(&[u8])) -> Result<(), Unreadable> {
        let mut left = len;
        while left > 0 {
            let piece = self.peek(left)?;
            let got = piece.len();
            if got == 0 {
                return self.malformed("the archive ends too early");
            }
            take(piece);
            self.consume(got);
            // `peek` returns at most `left` bytes.
            left -= got as u64;
        }
        Ok(())
    }

    /// Gives the frames that are complete in the buffer to `take`, up to one that is empty or malformed. pg_dump writes
    /// a frame for each row, so going through `int` and `pass` for each would be slow.
    pub(super) fn pass_frames(&mut self, mut take: impl FnMut(&[u8])) -> Result<(), Unreadable> {
        let head_len = 1 + usize::from(self.int_len);
        let mut rest = self.peek(u64::MAX)?;
        let mut used = 0;
        while let Some((head, after)) = rest.split_at_checked(head_len)
            && let Some((0, digits)) = head.split_first()
            && let Some((frame, after)) = usize::try_from(unsigned(digits)).ok().and_then(|len| after.split_at_checked(len))
            && !frame.is_empty()
        {
            take(frame);
            used += head_len + frame.len();
            rest = after;
        }
        self.consume(used);
        Ok(())
    }

    /// Gives everything up to the end to `take`, in pieces, until that returns `false`.
    pub(super) fn pass_rest(&mut self, mut take: impl FnMut(&[u8]) -> bool) -> Result<(), Unreadable> {
        loop {
            let piece = self.peek(u64::MAX)?;
            let got = piece.len();
            if got == 0 || !take(piece) {
                return Ok(());
            }
            self.consume(got);
        }
    }

    /// A number: its sign, then its bytes in little-endian order.
    pub(super) fn int(&mut self) -> Result<i64, Unreadable> {
        debug_assert!((1..=8).contains(&self.int_len), "checked when the header was read");
        let mut bytes = [0; 9];
        let bytes = bytes.get_mut(..=usize::from(self.int_len)).unwrap_or_default();
        // There is a number before each row, so it is read in one piece if the buffer has all of it.
        let ready = self.peek(1 + u64::from(self.int_len))?;
        if ready.len() == bytes.len() {
            bytes.copy_from_slice(ready);
            self.consume(bytes.len());
        } else {
            for byte in &mut *bytes {
                *byte = self.byte()?;
            }
        }
        let Some((sign @ (0 | 1), digits)) = bytes.split_first() else { return self.malformed("a number has no sign") };
        match i64::try_from(unsigned(digits)) {
            Ok(value) if *sign == 1 => Ok(-value),
            Ok(value) => Ok(value),
            Err(_) => self.malformed("a number is too large"),
        }
    }

    /// The length of a string; `None` if it is null.
    fn string_len(&mut self) -> Result<Option<u64>, Unreadable> {
        Ok(u64::try_from(self.int()?).ok())
    }

    /// A string that is kept.
    pub(super) fn string(&mut self) -> Result<Option<String>, Unreadable> {
        let Some(len) = self.string_len()? else { return Ok(None) };
        if len > KEPT_STRING_MAX {
            return self.malformed(format!("a name has {len} bytes; at most {KEPT_STRING_MAX} are possible"));
        }
        let mut bytes = Vec::new();
        self.pass(len, |piece| bytes.extend_from_slice(piece))?;
        // Names are in the database's encoding, which may not be UTF-8. They are only shown and compared.
        Ok(Some(String::from_utf8(bytes).unwrap_or_else(|e| String::from_utf8_lossy(e.as_bytes()).into_owned())))
    }

    /// Skips a string. Returns whether it was there and not empty.
    pub(super) fn skip_string(&mut self) -> Result<bool, Unreadable> {
        let len = self.string_len()?;
        self.pass(len.unwrap_or(0), |_| ())?;
        Ok(len.is_some_and(|len| len > 0))
    }

    /// Hashes an SQL string. Returns whether it was there and not empty, and its text if it `is_wanted`, is not too
    /// long and is UTF-8.
    pub(super) fn sql(&mut self, hasher: &mut blake3::Hasher, is_wanted: bool) -> Result<(bool, Option<String>), Unreadable> {
        let len = self.string_len()?.unwrap_or(0);
        hasher.update(&len.to_le_bytes());
        let mut kept = (is_wanted && len <= KEPT_SQL_MAX).then(Vec::new);
        self.pass(len, |piece| {
            hasher.update(piece);
            kept.iter_mut().for_each(|kept| kept.extend_from_slice(piece));
        })?;
        Ok((len > 0, kept.and_then(|bytes| String::from_utf8(bytes).ok()).filter(|text| !text.is_empty())))
    }

    /// The state of a data block's offset: 1 not known, 2 known, 3 there is no data. The offset itself is not used.
    pub(super) fn data_state(&mut self) -> Result<u8, Unreadable> {
        let state = self.byte()?;
        self.pass(u64::from(self.offset_len), |_| ())?;
        match state {
            1..=3 => Ok(state),
            _ => self.malformed("an entry does not say whether it has data"),
        }
    }
}

/// A number of at most 8 bytes in little-endian order.
fn unsigned(digits: &[u8]) -> u64 {
    digits.iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte))
}
