//! Reading files that have holes.

use std::io::Read;

/// Input that can tell where it has zeros, without reading them.
pub trait Holes: Read {
    /// How many zeros come next that need not be read; 0 where bytes come, or zeros that have to be read.
    fn hole(&mut self) -> std::io::Result<u64>;

    /// Passes over so many of them.
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
