//! Writes zstd frames from matches that the caller has found.
//!
//! If a chunk equals its base except for a few bytes, its matches can be found in less time than zstd needs to fill its
//! search tables. So the caller finds them (`rows.rs`), and zstd only encodes them.
//!
//! In zstd's words a frame consists of *sequences*: some literals, which stand as they are, and then a *match*, which
//! repeats earlier bytes. zstd does not verify the matches against the text. A wrong one gives a frame that decodes to
//! other bytes, which the comparison of every fresh chunk finds.

use zstd_sys::ZSTD_Sequence;

use super::zstd_contexts::SequenceContext;
use crate::store::format::Malformed;

/// The most plain bytes of a block (RFC 8878, 3.1.1.2.4).
pub(super) const BLOCK_LEN_MAX: usize = 128 << 10;
/// The shortest match that a frame can have (RFC 8878, 3.1.1.3.2.1.1).
pub(super) const MATCH_LEN_MIN: usize = 3;
/// The repeated offsets at the start of a frame (RFC 8878, 3.1.1.5).
const REPEATED: [usize; 3] = [1, 4, 8];

/// Collects the sequences of one frame and writes it.
pub(super) struct FrameWriter {
    context: SequenceContext,
    sequences: Vec<ZSTD_Sequence>,
    /// The last three different offsets. zstd writes one of these in fewer bits. Used by the caller to estimate costs
    /// only: zstd derives its codes by itself.
    repeated: [usize; 3],
    /// Literals since the last match, in bytes.
    literals_run: usize,
    /// Literals since the block began, in bytes.
    block_literals: usize,
    /// Matches since the block began.
    block_matches: usize,
}

impl FrameWriter {
    pub(super) fn new() -> Result<Self, Malformed> {
        let context = SequenceContext::new()?;
        Ok(FrameWriter { context, sequences: Vec::new(), repeated: REPEATED, literals_run: 0, block_literals: 0, block_matches: 0 })
    }

    pub(super) fn begin_frame(&mut self) {
        self.sequences.clear();
        self.repeated = REPEATED;
        self.literals_run = 0;
        self.begin_block();
    }

    /// Begins a block of up to [`BLOCK_LEN_MAX`] plain bytes. A match must not reach into the next block: zstd would
    /// cut it there and may write the rest as literals.
    pub(super) fn begin_block(&mut self) {
        (self.block_literals, self.block_matches) = (0, 0);
    }

    /// Literals in this block, in bytes.
    pub(super) fn literals_len(&self) -> usize {
        self.block_literals
    }

    /// Matches in this block.
    pub(super) fn matches(&self) -> usize {
        self.block_matches
    }

    /// The repeated offsets, which cost least. The last one comes first.
    pub(super) fn repeated(&self) -> [usize; 3] {
        self.repeated
    }

    /// The next `len` plain bytes stand as they are. zstd takes them from the text that [`FrameWriter::finish`] gets.
    pub(super) fn add_literals(&mut self, len: usize) {
        self.literals_run += len;
        self.block_literals += len;
    }

    /// The next `len` bytes repeat those that stand `offset` bytes before; at least [`MATCH_LEN_MIN`] of them.
    pub(super) fn add_match(&mut self, offset: usize, len: usize) {
        debug_assert!(offset > 0 && len >= MATCH_LEN_MIN);
        // An offset moves to the front; the others keep their order (RFC 8878, 3.1.1.5).
        let [first, second, third] = self.repeated;
        if offset != first {
            self.repeated = [offset, first, if offset == second { third } else { second }];
        }
        // Base and text together are shorter than 4 GiB (`Runs::encode` refuses others), so the casts keep every value.
        debug_assert!([offset, self.literals_run, len].iter().all(|value| u32::try_from(*value).is_ok()));
        let sequence = ZSTD_Sequence { offset: offset as u32, litLength: self.literals_run as u32, matchLength: len as u32, rep: 0 };
        self.sequences.push(sequence);
        self.literals_run = 0;
        self.block_matches += 1;
    }

    /// Writes the frame, without magic and content size, into `out`, whose old contents are dropped. `plain` is the
    /// text that the sequences describe, `base` the prefix. Literals after the last match need no sequence: zstd writes
    /// the rest of `plain` as literals.
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

    /// The plain bytes of a frame.
    fn decoded(frame: &[u8], base: &[u8], len: usize) -> Vec<u8> {
        let mut plain = Vec::new();
        Decoder::new().unwrap().decode(frame, base, len as u32, &mut plain).unwrap();
        plain
    }

    /// Repeats `len` bytes from `offset` bytes before the end.
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
                    let len = MATCH_LEN_MIN + numbers.length(1 << 15);
                    if all.len() + literals.len() + len > end {
                        break;
                    }
                    writer.add_literals(literals.len());
                    all.extend_from_slice(&literals);
                    let repeated = writer.repeated();
                    let offset = match numbers.below(3) {
                        0 => numbers.length(all.len()) + 1,
                        1 => repeated[numbers.below(3)],
                        _ => (repeated[0] - 1).max(1),
                    };
                    let offset = offset.min(all.len());
                    writer.add_match(offset, len);
                    copy(&mut all, offset, len);
                }
                let rest = numbers.length(5000).min(end - all.len());
                let rest = numbers.bytes(rest);
                writer.add_literals(rest.len());
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
            writer.add_literals(literals);
            writer.add_match(700, copied);
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
                writer.add_literals(1);
                writer.add_match(if number % 2 == 0 { 700 } else { second }, 4);
            }
            writer.finish(&[0; 500], &[0; 5000], &mut frame).unwrap();
            frame.len()
        });
        assert!(lens[1] < lens[0], "{lens:?}");
    }
}
