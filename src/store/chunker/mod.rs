//! Cuts streams into chunks. Page files are cut at fixed places, so that a page stays in its chunk. All other streams
//! are cut by their content, so that an insertion moves only the cuts near it.
//!
//! The cuts depend on the bytes and the seed only: not on how the bytes come in, and not on which parts are holes.
//! Otherwise an unchanged file would be stored again. Memory is two of the longest chunks.

use std::borrow::Cow;
use std::io::{ErrorKind, Read};

use fastcdc::v2020::{Normalization, cut_gear, get_gear_with_seed, select_masks};

use crate::error::Error;
use crate::fs::sparse_read::{Holes, NoHoles};
use crate::store::format::CHUNK_LEN_MAX;

/// Bytes in a chunk of a page file with this page size: the length of the repository, or one page if that is longer.
pub fn page_chunk_len(configured: u32, page_size: u32) -> u32 {
    configured.max(page_size)
}

/// The length of the buffer, in longest chunks. Bytes that are left in it move to its front before more are read.
const AHEAD: usize = 2;

impl<H: Holes + ?Sized> Holes for Box<H> {
    fn hole(&mut self) -> std::io::Result<u64> {
        (**self).hole()
    }

    fn skip(&mut self, len: u64) {
        (**self).skip(len);
    }
}

/// One or several chunks of a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cut {
    /// A chunk.
    Bytes(Vec<u8>),
    /// Several chunks of zeros, which were not read.
    Zeros {
        /// Bytes in each.
        len: u32,
        /// How many; at least two.
        count: u64,
    },
}

impl Cut {
    /// The bytes of one chunk.
    fn into_bytes(self) -> Vec<u8> {
        match self {
            Cut::Bytes(bytes) => bytes,
            Cut::Zeros { len, .. } => vec![0; len as usize],
        }
    }
}

/// Cuts a stream by its content with FastCDC (Xia et al., USENIX ATC 2016; the 2020 variant), normalisation level 1.
/// Chunks have from a quarter of `aimed_len` to four times of it. An encrypted repository has a secret `seed`, so that
/// the lengths of chunks say nothing about known content. Holes are cut like the zeros that they stand for.
pub fn content_cuts<R: Holes>(input: R, aimed_len: u32, seed: u64) -> impl Iterator<Item = std::io::Result<Cut>> {
    let cutter = Cutter::new(aimed_len, seed);
    let buffer = vec![0; AHEAD * cutter.longest];
    ContentChunks { input, cutter, zeros_len: None, buffer, start: 0, end: 0, zeros: 0, has_ended: false }
}

/// The chunks of a stream that is read as a whole. See [`content_cuts`].
pub fn content_chunks<R: Read>(input: R, aimed_len: u32, seed: u64) -> impl Iterator<Item = std::io::Result<Vec<u8>>> {
    content_cuts(NoHoles(input), aimed_len, seed).map(|cut| cut.map(Cut::into_bytes))
}

/// Bytes in each chunk of a long run of zeros.
pub fn zeros_len(aimed_len: u32, seed: u64) -> u32 {
    // A chunk has at most CHUNK_LEN_MAX bytes, so the cast keeps the value.
    Cutter::new(aimed_len, seed).zeros_len() as u32
}

/// Finds the end of a chunk.
struct Cutter {
    aimed: usize,
    longest: usize,
    /// Which bits of the hash must be zero at a cut: more of them while the chunk is shorter than `aimed`, fewer
    /// afterwards.
    masks: (u64, u64),
    gear: Cow<'static, [u64]>,
    shifted_gear: Cow<'static, [u64]>,
}

impl Cutter {
    fn new(aimed_len: u32, seed: u64) -> Self {
        let aimed = aimed_len as usize;
        let longest = (aimed * 4).min(CHUNK_LEN_MAX as usize);
        let (gear, shifted_gear) = get_gear_with_seed(seed);
        Cutter { aimed, longest, masks: select_masks(aimed, Normalization::Level1), gear, shifted_gear }
    }

    /// The length of the first chunk of these bytes. The caller must give as many bytes as the longest chunk can have,
    /// or all that are left: with fewer, the cut would depend on how many there are.
    fn cut(&self, ready: &[u8]) -> usize {
        let ((short, long), aimed) = (self.masks, self.aimed);
        cut_gear(ready, aimed / 4, aimed, self.longest, short, long, short << 1, long << 1, &self.gear, &self.shifted_gear).1
    }

    /// Bytes in a chunk that is followed by zeros only.
    fn zeros_len(&self) -> usize {
        self.cut(&vec![0; self.longest])
    }
}

/// The iterator of [`content_cuts`].
struct ContentChunks<R> {
    input: R,
    cutter: Cutter,
    /// The length of a chunk of zeros. Computed when it is first needed.
    zeros_len: Option<usize>,
    buffer: Vec<u8>,
    /// The start of the bytes in the buffer that are not cut yet.
    start: usize,
    /// Their end.
    end: usize,
    /// How many bytes directly before `end` are zeros of a hole.
    zeros: usize,
    has_ended: bool,
}

impl<R: Holes> ContentChunks<R> {
    /// Reads until the buffer has as many bytes as the longest chunk, or until the stream ends.
    fn fill(&mut self) -> std::io::Result<()> {
        let longest = self.cutter.longest;
        debug_assert!(self.start <= self.end && self.end <= self.buffer.len());
        // The buffer holds two longest chunks, so this moves less than one, and only after at least one was cut.
        if self.start + longest > self.buffer.len() {
            self.buffer.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        while !self.has_ended && self.end - self.start < longest {
            // Reading into an empty buffer gives 0 bytes, which looks like the end of the stream. So no room is an
            // error.
            let room = self.buffer.get_mut(self.end..).filter(|room| !room.is_empty());
            let room = room.ok_or_else(|| Error::bug_io("there is no room for the longest chunk"))?;
            let hole = usize::try_from(self.input.hole()?).unwrap_or(usize::MAX).min(room.len());
            if hole > 0 {
                room.iter_mut().take(hole).for_each(|byte| *byte = 0);
                self.input.skip(hole as u64);
                self.end += hole;
                self.zeros += hole;
                continue;
            }
            match self.input.read(room) {
                Ok(got) => {
                    self.has_ended = got == 0;
                    self.end += got;
                    self.zeros = if got == 0 { self.zeros } else { 0 };
                }
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    /// Skips the chunks of zeros that come next, if the stream has a hole here.
    fn pass_zeros(&mut self) -> std::io::Result<Option<Cut>> {
        let ready = self.end - self.start;
        // Only if all bytes in the buffer are zeros of the hole.
        if ready == 0 || self.zeros < ready {
            return Ok(None);
        }
        let zeros = (ready as u64).saturating_add(self.input.hole()?);
        let len = *self.zeros_len.get_or_insert_with(|| self.cutter.zeros_len());
        // Where a chunk ends depends on at most as many bytes as the longest one has. So a chunk certainly ends like
        // one of zeros if that many zeros follow its start. Later chunks reach beyond the hole and are cut by their
        // bytes.
        let count = zeros.saturating_sub(self.cutter.longest as u64) / (len as u64).max(1) + 1;
        let passed = count.saturating_mul(len as u64);
        if count < 2 || passed <= ready as u64 {
            return Ok(None);
        }
        // The zeros in the buffer are a part of these chunks.
        self.input.skip(passed - ready as u64);
        (self.start, self.end, self.zeros) = (0, 0, 0);
        // At most CHUNK_LEN_MAX, so the cast keeps the value.
        Ok(Some(Cut::Zeros { len: len as u32, count }))
    }
}

impl<R: Holes> Iterator for ContentChunks<R> {
    type Item = std::io::Result<Cut>;

    fn next(&mut self) -> Option<Self::Item> {
        match self.fill().and_then(|()| self.pass_zeros()) {
            Err(e) => return Some(Err(e)),
            Ok(Some(zeros)) => return Some(Ok(zeros)),
            Ok(None) => {}
        }
        let Some(ready) = self.buffer.get(self.start..self.end.min(self.start + self.cutter.longest)) else {
            return Some(Err(Error::bug_io("a chunk starts or ends outside the buffer")));
        };
        let len = self.cutter.cut(ready);
        let chunk = ready.get(..len).filter(|chunk| !chunk.is_empty())?.to_vec();
        self.start += len;
        Some(Ok(Cut::Bytes(chunk)))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing)]
mod tests {
    use super::*;

    /// Gives at most this many bytes at once.
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

    fn bytes_of(cut: Cut) -> Vec<Vec<u8>> {
        match cut {
            Cut::Bytes(bytes) => vec![bytes],
            Cut::Zeros { len, count } => vec![vec![0; len as usize]; count as usize],
        }
    }

    /// Reports some of its bytes as holes, and panics if they are read.
    struct WithHoles<'b> {
        bytes: &'b [u8],
        at: usize,
        holes: Vec<std::ops::Range<usize>>,
    }

    impl Read for WithHoles<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
            let end = self.holes.iter().map(|hole| hole.start).find(|start| *start > self.at).unwrap_or(self.bytes.len());
            assert!(!self.holes.iter().any(|hole| hole.contains(&self.at)));
            let got = (&self.bytes[self.at..end]).read(buffer)?;
            self.at += got;
            Ok(got)
        }
    }

    impl Holes for WithHoles<'_> {
        fn hole(&mut self) -> std::io::Result<u64> {
            Ok(self.holes.iter().find(|hole| hole.contains(&self.at)).map_or(0, |hole| hole.end - self.at) as u64)
        }

        fn skip(&mut self, len: u64) {
            self.at += len as usize;
        }
    }

    #[test]
    fn holes_are_cut_as_the_zeros_that_they_stand_for() {
        let mut bytes = vec![0; 3_000_000];
        blake3::Hasher::new().update(b"holes").finalize_xof().fill(&mut bytes);
        let holes = vec![0..300_000, 400_000..400_010, 500_000..565_536, 600_000..1_900_001, 2_000_000..2_131_072, 2_900_000..3_000_000];
        holes.iter().for_each(|hole| bytes[hole.clone()].fill(0));
        for seed in [0, 77] {
            let plain: Vec<Cut> = content_cuts(NoHoles(&bytes[..]), 16_384, seed).map(Result::unwrap).collect();
            let with_holes = WithHoles { bytes: &bytes, at: 0, holes: holes.clone() };
            let cuts: Vec<Cut> = content_cuts(with_holes, 16_384, seed).map(Result::unwrap).collect();
            let passed: u64 = cuts.iter().map(|cut| if let Cut::Zeros { count, .. } = cut { *count } else { 0 }).sum();
            assert!(passed > 15, "{passed}");
            let flat = |cuts: Vec<Cut>| cuts.into_iter().flat_map(bytes_of).collect::<Vec<_>>();
            assert!(flat(cuts) == flat(plain), "{seed}");
        }
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
