//! Where streams are cut. Page files are cut at fixed places, so that a page keeps its chunk; anything else by its content, so that an
//! insertion moves only the cuts near it.

use std::borrow::Cow;
use std::io::{ErrorKind, Read};

use fastcdc::v2020::{Normalization, cut_gear, get_gear_with_seed, select_masks};

use crate::error::Error;
use crate::fs::sparse_read::{Holes, NoHoles};
use crate::store::format::CHUNK_LEN_MAX;

/// Bytes in a chunk of a page file with this page size: the repository's length, or one page where that is longer.
pub fn page_chunk_len(configured: u32, page_size: u32) -> u32 {
    configured.max(page_size)
}

/// Of how many of the longest chunks bytes are read ahead: what is left of them moves to the front before more are read.
const AHEAD: usize = 2;

impl<H: Holes + ?Sized> Holes for Box<H> {
    fn hole(&mut self) -> std::io::Result<u64> {
        (**self).hole()
    }

    fn skip(&mut self, len: u64) {
        (**self).skip(len);
    }
}

/// What a stream is cut into.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cut {
    /// A chunk.
    Bytes(Vec<u8>),
    /// So many chunks that are zeros and were not read.
    Zeros {
        /// Bytes in each.
        len: u32,
        /// How many; at least two.
        count: u64,
    },
}

impl Cut {
    /// The bytes of the chunk, or of one of them.
    fn into_bytes(self) -> Vec<u8> {
        match self {
            Cut::Bytes(bytes) => bytes,
            Cut::Zeros { len, .. } => vec![0; len as usize],
        }
    }
}

/// Cuts a stream by its content with FastCDC (Xia et al., USENIX ATC 2016; the 2020 variant), normalisation level 1. Chunks are between a
/// quarter and four times of the aimed-at length; `seed` makes the cuts of an encrypted repository its own, so that their lengths tell
/// nothing about known contents. Holes are cut as the zeros that they stand for.
pub fn content_cuts<R: Holes>(input: R, aimed_len: u32, seed: u64) -> impl Iterator<Item = std::io::Result<Cut>> {
    let cutter = Cutter::new(aimed_len, seed);
    let buffer = vec![0; AHEAD * cutter.longest];
    ContentChunks { input, cutter, zeros_len: None, buffer, start: 0, end: 0, zeros: 0, has_ended: false }
}

/// The chunks of a stream that is read whole; see [`content_cuts`].
pub fn content_chunks<R: Read>(input: R, aimed_len: u32, seed: u64) -> impl Iterator<Item = std::io::Result<Vec<u8>>> {
    content_cuts(NoHoles(input), aimed_len, seed).map(|cut| cut.map(Cut::into_bytes))
}

/// Bytes in the chunks of a long run of zeros.
pub fn zeros_len(aimed_len: u32, seed: u64) -> u32 {
    Cutter::new(aimed_len, seed).zeros_len() as u32
}

/// Finds cuts.
struct Cutter {
    aimed: usize,
    longest: usize,
    /// Those of short and of long chunks.
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

    /// The length of the first chunk of these bytes. The caller gives as many bytes as the longest chunk has, or all that are left.
    fn cut(&self, ready: &[u8]) -> usize {
        let ((short, long), aimed) = (self.masks, self.aimed);
        cut_gear(ready, aimed / 4, aimed, self.longest, short, long, short << 1, long << 1, &self.gear, &self.shifted_gear).1
    }

    fn zeros_len(&self) -> usize {
        self.cut(&vec![0; self.longest])
    }
}

struct ContentChunks<R> {
    input: R,
    cutter: Cutter,
    /// The length of a chunk of zeros, once it was needed.
    zeros_len: Option<usize>,
    buffer: Vec<u8>,
    /// What has been read and is not cut yet lies from `start` to `end`.
    start: usize,
    end: usize,
    /// How many bytes before `end` are zeros of a hole.
    zeros: usize,
    has_ended: bool,
}

impl<R: Holes> ContentChunks<R> {
    /// Reads until the longest chunk is at hand, or the end.
    fn fill(&mut self) -> std::io::Result<()> {
        let longest = self.cutter.longest;
        if self.start + longest > self.buffer.len() {
            self.buffer.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        while !self.has_ended && self.end - self.start < longest {
            // No room would look like the end of the stream.
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

    /// Passes over the chunks of zeros that come next. A chunk may be taken for zeros without looking only as long as the longest one would be.
    fn pass_zeros(&mut self) -> std::io::Result<Option<Cut>> {
        let ready = self.end - self.start;
        if ready == 0 || self.zeros < ready {
            return Ok(None);
        }
        let zeros = (ready as u64).saturating_add(self.input.hole()?);
        let len = *self.zeros_len.get_or_insert_with(|| self.cutter.zeros_len());
        let count = zeros.saturating_sub(self.cutter.longest as u64) / (len as u64).max(1) + 1;
        let passed = count.saturating_mul(len as u64);
        if count < 2 || passed <= ready as u64 {
            return Ok(None);
        }
        self.input.skip(passed - ready as u64);
        (self.start, self.end, self.zeros) = (0, 0, 0);
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

    fn bytes_of(cut: Cut) -> Vec<Vec<u8>> {
        match cut {
            Cut::Bytes(bytes) => vec![bytes],
            Cut::Zeros { len, count } => vec![vec![0; len as usize]; count as usize],
        }
    }

    /// Says of some of its bytes that they are a hole, and panics when they are read.
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
