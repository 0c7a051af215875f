//! Reads the bytes of one stream, with seeking.
//! It holds one chunk at a time and opens the stored stream anew for each. It relies on `Stored::open` to verify every
//! byte. A seek beyond the end is allowed; a seek before the start is an error.

use std::io::{self, ErrorKind, Read, Seek, SeekFrom};

use crate::engine::stored::Stored;

/// A stream of a snapshot. It implements `Read` and `Seek`, and reads one chunk of the store at a time. Every byte is
/// verified.
///
/// A read error contains an [`crate::Error`] (`io::Error::downcast`).
pub struct Stream {
    stored: Box<dyn Stored>,
    name: Vec<u8>,
    len: u64,
    at: u64,
    /// The chunk at `at`, and how much of it was already returned.
    ahead: Vec<u8>,
    taken: usize,
}

impl std::fmt::Debug for Stream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Stream").field("name", &String::from_utf8_lossy(&self.name)).field("len", &self.len).finish_non_exhaustive()
    }
}

impl Stream {
    pub(super) fn new(stored: Box<dyn Stored>, name: Vec<u8>, len: u64) -> Self {
        Stream { stored, name, len, at: 0, ahead: Vec::new(), taken: 0 }
    }

    /// Its length in bytes.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether it has no bytes.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.taken >= self.ahead.len() {
            // Opened anew for each chunk: the reader borrows `stored`, so it cannot be kept in the same struct.
            let mut input = self.stored.open(&self.name, self.at).map_err(io::Error::other)?;
            self.ahead = io::BufRead::fill_buf(&mut input)?.to_vec();
            self.taken = 0;
        }
        let got = self.ahead.get(self.taken..).unwrap_or_default().read(buffer)?;
        self.taken += got;
        // usize fits u64 on every platform.
        self.at += got as u64;
        Ok(got)
    }
}

impl Seek for Stream {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let at = match to {
            SeekFrom::Start(at) => Some(at),
            SeekFrom::End(by) => self.len.checked_add_signed(by),
            SeekFrom::Current(by) => self.at.checked_add_signed(by),
        };
        let at = at.ok_or_else(|| io::Error::new(ErrorKind::InvalidInput, "this is before the start of the stream"))?;
        // The chunk belongs to the old place.
        if at != self.at {
            (self.at, self.ahead, self.taken) = (at, Vec::new(), 0);
        }
        Ok(at)
    }
}
