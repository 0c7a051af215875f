//! Zstd frames made of sequences that are known already. Where a chunk is its base but for a few bytes, finding the copies takes less time than a
//! compressor needs to get ready; zstd only encodes them.

use zstd_sys::ZSTD_Sequence;

use super::zstd_contexts::SequenceContext;
use crate::store::format::Malformed;

/// The most plain bytes of a block (RFC 8878, 3.1.1.2.4).
pub(super) const BLOCK_LEN_MAX: usize = 128 << 10;
/// The shortest copy that a frame can have (RFC 8878, 3.1.1.3.2.1.1).
pub(super) const COPY_LEN_MIN: usize = 3;
/// Offsets that are repeated in a new frame (RFC 8878, 3.1.1.5).
const REPEATED: [usize; 3] = [1, 4, 8];

/// Collects the sequences of one frame and has it written.
pub(super) struct FrameWriter {
    context: SequenceContext,
    sequences: Vec<ZSTD_Sequence>,
    /// The last three different offsets. zstd repeats them for fewer bits.
    repeated: [usize; 3],
    /// Literals since the last copy.
    literals_run: usize,
    /// Literals and copies since the last block began.
    block_literals: usize,
    block_copies: usize,
}

impl FrameWriter {
    pub(super) fn new() -> Result<Self, Malformed> {
        let context = SequenceContext::new()?;
        Ok(FrameWriter { context, sequences: Vec::new(), repeated: REPEATED, literals_run: 0, block_literals: 0, block_copies: 0 })
    }

    pub(super) fn begin_frame(&mut self) {
        self.sequences.clear();
        self.repeated = REPEATED;
        self.literals_run = 0;
        self.begin_block();
    }

    /// Begins a block of up to [`BLOCK_LEN_MAX`] plain bytes. A copy must not reach into the next one: zstd writes what it has to cut as literals.
    pub(super) fn begin_block(&mut self) {
        (self.block_literals, self.block_copies) = (0, 0);
    }

    /// Bytes of literals in this block.
    pub(super) fn literals_len(&self) -> usize {
        self.block_literals
    }

    /// Copies in this block.
    pub(super) fn copies(&self) -> usize {
        self.block_copies
    }

    /// The offsets that cost least.
    pub(super) fn repeated(&self) -> [usize; 3] {
        self.repeated
    }

    /// Adds bytes that stand as they are.
    pub(super) fn literals(&mut self, len: usize) {
        self.literals_run += len;
        self.block_literals += len;
    }

    /// Adds a copy of `len` bytes from `offset` bytes before; at least [`COPY_LEN_MIN`] of them.
    pub(super) fn copy(&mut self, offset: usize, len: usize) {
        let [first, second, third] = self.repeated;
        if offset != first {
            self.repeated = [offset, first, if offset == second { third } else { second }];
        }
        let sequence = ZSTD_Sequence { offset: offset as u32, litLength: self.literals_run as u32, matchLength: len as u32, rep: 0 };
        self.sequences.push(sequence);
        self.literals_run = 0;
        self.block_copies += 1;
    }

    /// Writes the frame, magicless and without its length, into `out` (whose old contents go). `plain` is what the sequences stand for.
    pub(super) fn finish(&mut self, plain: &[u8], base: &[u8], out: &mut Vec<u8>) -> Result<(), Malformed> {
        self.context.compress(&self.sequences, plain, base, out)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing)]
mod tests {
    use super::*;
    use crate::store::codec::Decoder;

    /// Numbers that follow from a seed.
    struct Numbers(blake3::OutputReader);

    impl Numbers {
        fn new(seed: u64) -> Self {
            Numbers(blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof())
        }

        fn below(&mut self, end: usize) -> usize {
            let mut bytes = [0; 8];
            self.0.fill(&mut bytes);
            (u64::from_le_bytes(bytes) % end as u64) as usize
        }

        /// Mostly small, sometimes large.
        fn length(&mut self, end: usize) -> usize {
            let bits = self.below(end.ilog2() as usize + 1);
            self.below(1 << bits)
        }

        fn bytes(&mut self, len: usize) -> Vec<u8> {
            let mut bytes = vec![0; len];
            self.0.fill(&mut bytes);
            bytes
        }
    }

    /// What a decoder makes of a frame.
    fn decoded(frame: &[u8], base: &[u8], len: usize) -> Vec<u8> {
        let mut plain = Vec::new();
        Decoder::new().unwrap().decode(frame, base, len as u32, &mut plain).unwrap();
        plain
    }

    /// Copies within what has come so far, base and all.
    fn copy(all: &mut Vec<u8>, offset: usize, len: usize) {
        for _ in 0..len {
            all.push(all[all.len() - offset]);
        }
    }

    #[test]
    fn zstd_reads_what_is_written() {
        for seed in 0..300 {
            let mut numbers = Numbers::new(seed);
            let base_len = numbers.below(100_000) + 10;
            let base = numbers.bytes(base_len);
            let mut all = base.clone();
            let (mut writer, mut frame) = (FrameWriter::new().unwrap(), Vec::new());
            writer.begin_frame();
            let blocks = numbers.below(3) + 1;
            for _ in 0..blocks {
                writer.begin_block();
                let end = all.len() + BLOCK_LEN_MAX;
                for _ in 0..numbers.length(2000) {
                    let literals = numbers.length(64);
                    let literals = numbers.bytes(literals);
                    let len = COPY_LEN_MIN + numbers.length(1 << 15);
                    if all.len() + literals.len() + len > end {
                        break;
                    }
                    writer.literals(literals.len());
                    all.extend_from_slice(&literals);
                    let repeated = writer.repeated();
                    let offset = match numbers.below(3) {
                        0 => numbers.length(all.len()) + 1,
                        1 => repeated[numbers.below(3)],
                        _ => (repeated[0] - 1).max(1),
                    };
                    let offset = offset.min(all.len());
                    writer.copy(offset, len);
                    copy(&mut all, offset, len);
                }
                let rest = numbers.length(5000).min(end - all.len());
                let rest = numbers.bytes(rest);
                writer.literals(rest.len());
                all.extend_from_slice(&rest);
            }
            let plain = &all[base.len()..];
            writer.finish(plain, &base, &mut frame).unwrap();
            assert!(decoded(&frame, &base, plain.len()) == plain, "{seed}");
        }
    }

    #[test]
    fn every_length_has_its_code() {
        for (literals, copied) in (0..300)
            .map(|len| (len, len + 3))
            .chain((8..17).flat_map(|log| [-1, 0, 1].map(|by| ((1 << log) + by) as usize)).map(|len| (len, len)))
        {
            let base = Numbers::new(1).bytes(1000);
            let (mut writer, mut frame) = (FrameWriter::new().unwrap(), Vec::new());
            if literals + copied > BLOCK_LEN_MAX {
                continue;
            }
            writer.begin_frame();
            let mut all = base.clone();
            all.extend_from_slice(&Numbers::new(2).bytes(literals));
            writer.literals(literals);
            writer.copy(700, copied);
            copy(&mut all, 700, copied);
            writer.finish(&all[base.len()..], &base, &mut frame).unwrap();
            assert!(decoded(&frame, &base, literals + copied) == all[base.len()..], "{literals} {copied}");
        }
    }

    #[test]
    fn repeated_offsets_take_fewer_bits() {
        let lens = [5000, 700].map(|second| {
            let (mut writer, mut frame) = (FrameWriter::new().unwrap(), Vec::new());
            writer.begin_frame();
            for number in 0..100 {
                writer.literals(1);
                writer.copy(if number % 2 == 0 { 700 } else { second }, 4);
            }
            writer.finish(&[0; 500], &[0; 5000], &mut frame).unwrap();
            frame.len()
        });
        assert!(lens[1] < lens[0], "{lens:?}");
    }
}
