//! Defines the trait for reading files with holes, and an adapter for input without known holes.

use std::io::Read;

/// Input that knows where its holes are, so that their zeros need not be read.
pub trait Holes: Read {
    /// The length of the hole that comes next; 0 if bytes come next.
    fn hole(&mut self) -> std::io::Result<u64>;

    /// Skips so many bytes of the hole.
    fn skip(&mut self, len: u64);
}

/// Input without known holes: every byte is read.
pub struct NoHoles<R>(pub R);

impl<R: Read> Read for NoHoles<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        self.0.read(buffer)
    }
}

impl<R: Read> Holes for NoHoles<R> {
    fn hole(&mut self) -> std::io::Result<u64> {
        Ok(0)
    }

    fn skip(&mut self, _len: u64) {}
}
