//! Where streams are cut. Page files are cut at fixed places, so that a page keeps its chunk; anything else by its content, so that an
//! insertion moves only the cuts near it.

use std::borrow::Cow;
use std::io::{ErrorKind, Read};

use fastcdc::v2020::{Normalization, cut_gear, get_gear_with_seed, select_masks};

use crate::format::CHUNK_LEN_MAX;

/// Bytes in a chunk of a page file with this page size: the repository's length, or one page where that is longer.
pub fn page_chunk_len(configured: u32, page_size: u32) -> u32 {
    configured.max(page_size)
}

/// Of how many of the longest chunks bytes are read ahead: what is left of them moves to the front before more are read.
const AHEAD: usize = 2;

/// Cuts a stream by its content with FastCDC (Xia et al., USENIX ATC 2016; the 2020 variant), normalisation level 1. Chunks are between a
/// quarter and four times of the aimed-at length; `seed` makes the cuts of an encrypted repository its own, so that their lengths tell
/// nothing about known contents.
pub fn content_chunks<R: Read>(input: R, aimed_len: u32, seed: u64) -> impl Iterator<Item = std::io::Result<Vec<u8>>> {
    let aimed = aimed_len as usize;
    let longest = (aimed * 4).min(CHUNK_LEN_MAX as usize);
    let (gear, shifted_gear) = get_gear_with_seed(seed);
    let masks = select_masks(aimed, Normalization::Level1);
    ContentChunks { input, aimed, longest, masks, gear, shifted_gear, buffer: vec![0; AHEAD * longest], start: 0, end: 0, has_ended: false }
}

struct ContentChunks<R> {
    input: R,
    aimed: usize,
    longest: usize,
    /// Those of short and of long chunks.
    masks: (u64, u64),
    gear: Cow<'static, [u64]>,
    shifted_gear: Cow<'static, [u64]>,
    /// What has been read and is not cut yet lies from `start` to `end`.
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    has_ended: bool,
}

impl<R: Read> ContentChunks<R> {
    /// Reads until the longest chunk is at hand, or the end.
    fn fill(&mut self) -> std::io::Result<()> {
        if self.start + self.longest > self.buffer.len() {
            self.buffer.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        while !self.has_ended && self.end - self.start < self.longest {
            match self.input.read(self.buffer.get_mut(self.end..).unwrap_or_default()) {
                Ok(got) => {
                    self.has_ended = got == 0;
                    self.end += got;
                }
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }
}

impl<R: Read> Iterator for ContentChunks<R> {
    type Item = std::io::Result<Vec<u8>>;

    fn next(&mut self) -> Option<Self::Item> {
        if let Err(e) = self.fill() {
            return Some(Err(e));
        }
        let ready = self.buffer.get(self.start..self.end.min(self.start + self.longest)).unwrap_or_default();
        let ((short, long), aimed) = (self.masks, self.aimed);
        let (_, len) = cut_gear(ready, aimed / 4, aimed, self.longest, short, long, short << 1, long << 1, &self.gear, &self.shifted_gear);
        let chunk = ready.get(..len).filter(|chunk| !chunk.is_empty())?.to_vec();
        self.start += len;
        Some(Ok(chunk))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing)]
mod tests {
    use super::*;

    /// Gives so many bytes at once.
    struct Slow<'b>(&'b [u8], usize);

    impl Read for Slow<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
            let len = self.1.min(self.0.len());
            (&mut self.0).take(len as u64).read(buffer)
        }
    }

    #[test]
    fn cuts_are_those_of_the_algorithm_however_bytes_come() {
        let mut bytes = vec![0; 1_500_000];
        blake3::Hasher::new().update(b"chunks").finalize_xof().fill(&mut bytes);
        bytes.splice(700_000..700_000, [0; 100_000]);
        for seed in [0, 77] {
            let whole = fastcdc::v2020::FastCDC::with_level_and_seed(&bytes, 4096, 16_384, 65_536, Normalization::Level1, seed);
            let expected: Vec<usize> = whole.map(|chunk| chunk.length).collect();
            for at_once in [1000, 65_536, 1 << 20] {
                let chunks: Vec<Vec<u8>> = content_chunks(Slow(&bytes, at_once), 16_384, seed).collect::<Result<_, _>>().unwrap();
                assert!(chunks.iter().map(Vec::len).eq(expected.iter().copied()), "{seed} {at_once}");
                assert!(chunks.concat() == bytes);
            }
        }
        assert_eq!(content_chunks(&b""[..], 16_384, 1).count(), 0);
    }

    #[test]
    fn a_failure_of_the_input_is_handed_on() {
        struct Broken;
        impl Read for Broken {
            fn read(&mut self, _: &mut [u8]) -> std::io::Result<usize> {
                Err(ErrorKind::BrokenPipe.into())
            }
        }
        let mut chunks = content_chunks((&[7; 100_000][..]).chain(Broken), 16_384, 1);
        assert!(chunks.by_ref().take(10).any(|chunk| chunk.is_err_and(|e| e.kind() == ErrorKind::BrokenPipe)));
    }
}
