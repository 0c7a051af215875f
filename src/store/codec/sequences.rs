//! Zstd frames (RFC 8878) out of sequences that are known already: where what is to be encoded is the base but for few bytes, finding that out takes
//! less than what a compressor does to get ready. Literals stand as they are and all codes have the distributions that the format predefines: a
//! compressor that has so little to say does the same.

/// Bytes that a block gives at most (RFC 8878, 3.1.1.2.4).
pub(super) const BLOCK_LEN_MAX: usize = 128 << 10;
/// The shortest copy that a frame can have (RFC 8878, 3.1.1.3.2.1.1).
pub(super) const COPY_LEN_MIN: usize = 3;
/// Offsets that are repeated in a new frame (RFC 8878, 3.1.1.5).
const REPEATED: [usize; 3] = [1, 4, 8];
/// The smallest window, as a power of two (RFC 8878, 3.1.1.1.2).
const WINDOW_LOG_MIN: u32 = 10;
/// Type of a block of sequences (RFC 8878, 3.1.1.2.2).
const COMPRESSED_BLOCK: u32 = 2;

/// The predefined distributions of codes: lengths of literals, lengths of copies, offsets (RFC 8878, 3.1.1.3.2.2). -1 is "less than 1".
const LITERALS: [i8; 36] = [4, 3, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 1, 1, 1, 2, 2, 2, 2, 2, 2, 2, 2, 2, 3, 2, 1, 1, 1, 1, 1, -1, -1, -1, -1];
const COPIES: [i8; 53] = [
    1, 4, 3, 2, 2, 2, 2, 2, 2, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1,
    1, -1, -1, -1, -1, -1, -1, -1,
];
const OFFSETS: [i8; 29] = [1, 1, 1, 1, 1, 1, 2, 2, 2, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, -1, -1, -1, -1, -1];

/// Codes of lengths (RFC 8878, 3.1.1.3.2.1.1): from the first of these the code has the bits beside it, and each next one starts where it ends.
const LITERALS_CODES: LengthCodes =
    LengthCodes { direct: 16, least: 0, bits: &[1, 1, 1, 1, 2, 2, 3, 3, 4, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16] };
const COPIES_CODES: LengthCodes =
    LengthCodes { direct: 32, least: 3, bits: &[1, 1, 1, 1, 2, 2, 3, 3, 4, 4, 5, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16] };

struct LengthCodes {
    /// Codes below stand for one length each, from the least one.
    direct: usize,
    least: usize,
    /// The bits of the others.
    bits: &'static [u8],
}

/// A code, with the bits that follow it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Code {
    symbol: usize,
    extra: u64,
    bits: u32,
}

impl LengthCodes {
    fn of(&self, len: usize) -> Code {
        let above = len.saturating_sub(self.least);
        if above < self.direct {
            return Code { symbol: above, ..Code::default() };
        }
        let (mut symbol, mut first, mut width) = (self.direct, self.direct, 0);
        for bits in self.bits {
            width = u32::from(*bits);
            if above < first + (1 << width) {
                break;
            }
            first += 1 << width;
            symbol += 1;
        }
        Code { symbol, extra: (above - first) as u64, bits: width }
    }
}

/// The offset that is meant, counted after the three that are repeated.
fn offset_code(value: usize) -> Code {
    let bits = value.max(1).ilog2();
    Code { symbol: bits as usize, extra: (value - (1 << bits)) as u64, bits }
}

/// A state of a decoder of codes (RFC 8878, 4.1.1).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct State {
    symbol: u8,
    /// Bits that are read to find the next state, and what is added to them.
    bits: u8,
    base: u8,
}

/// The states, and which one to be in to go on to another one.
struct Table {
    log: u32,
    states: Vec<State>,
    /// By code and next state: the state that gives the code and has that next state in reach.
    before: Vec<u8>,
}

impl Table {
    /// As the format spreads codes over states.
    fn new(log: u32, distribution: &[i8]) -> Table {
        let len = 1usize << log;
        let mut states = vec![State::default(); len];
        let (mut spread_end, mut at) = (len, 0);
        for symbol in (0u8..).zip(distribution).filter(|(_, count)| **count < 0).map(|(symbol, _)| symbol) {
            spread_end -= 1;
            states.get_mut(spread_end).into_iter().for_each(|state| state.symbol = symbol);
        }
        for (symbol, count) in (0u8..).zip(distribution) {
            for _ in 0..*count {
                states.get_mut(at).into_iter().for_each(|state| state.symbol = symbol);
                at = (at + len / 2 + len / 8 + 3) % len;
                while at >= spread_end {
                    at = (at + len / 2 + len / 8 + 3) % len;
                }
            }
        }
        let mut seen: Vec<u32> = distribution.iter().map(|count| u32::from(count.unsigned_abs())).collect();
        let mut before = vec![0; distribution.len() * len];
        for (number, state) in (0u8..).zip(&mut states) {
            let Some(count) = seen.get_mut(usize::from(state.symbol)) else { continue };
            let bits = log - count.ilog2();
            let base = (*count << bits) as usize - len;
            *count += 1;
            (state.bits, state.base) = (bits as u8, base as u8);
            let row = usize::from(state.symbol) * len;
            before.get_mut(row + base..row + base + (1 << bits)).into_iter().for_each(|to| to.fill(number));
        }
        Table { log, states, before }
    }

    /// The state that gives a code and can be followed by `next`.
    fn before(&self, symbol: usize, next: u8) -> u8 {
        self.before.get((symbol << self.log) + usize::from(next)).copied().unwrap_or_default()
    }

    /// Bits that lead from a state to the next one.
    fn step(&self, from: u8, to: u8) -> (u64, u32) {
        let state = self.states.get(usize::from(from)).copied().unwrap_or_default();
        (u64::from(to.saturating_sub(state.base)), u32::from(state.bits))
    }
}

/// Bits as a decoder reads them, from the last one on.
#[derive(Default)]
struct Bits {
    waiting: u64,
    count: u32,
}

impl Bits {
    /// Appends up to 32 bits.
    fn put(&mut self, value: u64, bits: u32, out: &mut Vec<u8>) {
        self.waiting |= value << self.count;
        self.count += bits;
        while self.count >= 8 {
            out.push(self.waiting as u8);
            self.waiting >>= 8;
            self.count -= 8;
        }
    }

    /// The bit by which a decoder finds the last one.
    fn finish(mut self, out: &mut Vec<u8>) {
        self.put(1, 1, out);
        if self.count > 0 {
            out.push(self.waiting as u8);
        }
    }
}

#[derive(Debug, Clone, Copy)]
struct Sequence {
    literals: Code,
    copy: Code,
    offset: Code,
}

/// Writes frames. One block is filled at a time.
pub(super) struct FrameWriter {
    tables: [Table; 3],
    repeated: [usize; 3],
    sequences: Vec<Sequence>,
    literals: Vec<u8>,
    /// Literals since the last copy.
    literals_run: usize,
}

impl FrameWriter {
    pub(super) fn new() -> Self {
        let tables = [Table::new(6, &LITERALS), Table::new(6, &COPIES), Table::new(5, &OFFSETS)];
        FrameWriter { tables, repeated: REPEATED, sequences: Vec::new(), literals: Vec::new(), literals_run: 0 }
    }

    /// Begins a frame, magicless and without its length, in which offsets reach `reach` bytes back.
    pub(super) fn begin(&mut self, reach: usize, out: &mut Vec<u8>) {
        out.clear();
        let window_log = reach.next_power_of_two().ilog2().max(WINDOW_LOG_MIN);
        out.extend_from_slice(&[0, ((window_log - WINDOW_LOG_MIN) << 3) as u8]);
        self.repeated = REPEATED;
        self.clear();
    }

    fn clear(&mut self) {
        self.sequences.clear();
        self.literals.clear();
        self.literals_run = 0;
    }

    /// Bytes of literals in this block.
    pub(super) fn literals_len(&self) -> usize {
        self.literals.len()
    }

    /// Copies in this block.
    pub(super) fn copies(&self) -> usize {
        self.sequences.len()
    }

    /// The offsets that cost least.
    pub(super) fn repeated(&self) -> [usize; 3] {
        self.repeated
    }

    /// Adds bytes as they are.
    pub(super) fn literals(&mut self, bytes: &[u8]) {
        self.literals.extend_from_slice(bytes);
        self.literals_run += bytes.len();
    }

    /// Adds a copy of `len` bytes from `offset` bytes before; at least [`COPY_LEN_MIN`] of them.
    pub(super) fn copy(&mut self, offset: usize, len: usize) {
        let [first, second, third] = self.repeated;
        // Without literals the first of them would only have gone on (RFC 8878, 3.1.1.5).
        let choices = if self.literals_run == 0 { [second, third, first.saturating_sub(1)] } else { self.repeated };
        let (value, repeated) = match choices.iter().position(|choice| *choice == offset) {
            Some(0) if self.literals_run > 0 => (1, self.repeated),
            Some(place) => {
                let kept = if offset == second { [first, third] } else { [first, second] };
                (place + 1, [offset, kept[0], kept[1]])
            }
            None => (offset + REPEATED.len(), [offset, first, second]),
        };
        self.repeated = repeated;
        let sequence = Sequence { literals: LITERALS_CODES.of(self.literals_run), copy: COPIES_CODES.of(len), offset: offset_code(value) };
        self.sequences.push(sequence);
        self.literals_run = 0;
    }

    /// Ends a block, which gives at most [`BLOCK_LEN_MAX`] bytes, and begins the next one.
    pub(super) fn end_block(&mut self, is_last: bool, out: &mut Vec<u8>) {
        let header = out.len();
        out.extend_from_slice(&[0; 3]);
        self.put_literals(out);
        self.put_sequences(out);
        let len = (out.len() - header - 3) as u32;
        let bytes = (u32::from(is_last) | COMPRESSED_BLOCK << 1 | len << 3).to_le_bytes();
        for (to, from) in out.iter_mut().skip(header).zip(bytes.into_iter().take(3)) {
            *to = from;
        }
        self.clear();
    }

    /// Raw literals (RFC 8878, 3.1.1.3.1.1).
    fn put_literals(&self, out: &mut Vec<u8>) {
        let len = self.literals.len() as u32;
        let (header, bytes) = match len {
            0..32 => (len << 3, 1),
            32..4096 => (1 << 2 | len << 4, 2),
            _ => (3 << 2 | len << 4, 3),
        };
        out.extend(header.to_le_bytes().into_iter().take(bytes));
        out.extend_from_slice(&self.literals);
    }

    /// RFC 8878, 3.1.1.3.2: everything is written in the reverse of the order in which it is read.
    fn put_sequences(&self, out: &mut Vec<u8>) {
        let count = self.sequences.len();
        match count {
            0..128 => out.push(count as u8),
            128..0x7f00 => out.extend_from_slice(&[(count >> 8) as u8 + 128, count as u8]),
            _ => {
                out.push(255);
                out.extend_from_slice(&((count - 0x7f00) as u16).to_le_bytes());
            }
        }
        if count == 0 {
            return;
        }
        // All three kinds of codes as predefined.
        out.push(0);
        let [literals, copies, offsets] = &self.tables;
        let mut bits = Bits::default();
        let mut next: Option<[u8; 3]> = None;
        for sequence in self.sequences.iter().rev() {
            let [to_literals, to_copies, to_offsets] = next.unwrap_or([0; 3]);
            let states = [
                literals.before(sequence.literals.symbol, to_literals),
                copies.before(sequence.copy.symbol, to_copies),
                offsets.before(sequence.offset.symbol, to_offsets),
            ];
            if next.is_some() {
                for (value, width) in
                    [offsets.step(states[2], to_offsets), copies.step(states[1], to_copies), literals.step(states[0], to_literals)]
                {
                    bits.put(value, width, out);
                }
            }
            for code in [sequence.literals, sequence.copy, sequence.offset] {
                bits.put(code.extra, code.bits, out);
            }
            next = Some(states);
        }
        let [to_literals, to_copies, to_offsets] = next.unwrap_or([0; 3]);
        for (state, table) in [(to_copies, copies), (to_offsets, offsets), (to_literals, literals)] {
            bits.put(u64::from(state), table.log, out);
        }
        bits.finish(out);
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
            let (mut writer, mut frame) = (FrameWriter::new(), Vec::new());
            writer.begin(base.len() + 3 * BLOCK_LEN_MAX, &mut frame);
            let blocks = numbers.below(3) + 1;
            for block in 1..=blocks {
                let end = all.len() + BLOCK_LEN_MAX;
                for _ in 0..numbers.length(2000) {
                    let literals = numbers.length(64);
                    let literals = numbers.bytes(literals);
                    let len = COPY_LEN_MIN + numbers.length(1 << 15);
                    if all.len() + literals.len() + len > end {
                        break;
                    }
                    writer.literals(&literals);
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
                writer.literals(&rest);
                all.extend_from_slice(&rest);
                writer.end_block(block == blocks, &mut frame);
            }
            let plain = &all[base.len()..];
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
            let (mut writer, mut frame) = (FrameWriter::new(), Vec::new());
            if literals + copied > BLOCK_LEN_MAX {
                continue;
            }
            writer.begin(base.len() + literals + copied, &mut frame);
            let mut all = base.clone();
            all.extend_from_slice(&Numbers::new(2).bytes(literals));
            writer.literals(&all[base.len()..]);
            writer.copy(700, copied);
            copy(&mut all, 700, copied);
            writer.end_block(true, &mut frame);
            assert!(decoded(&frame, &base, literals + copied) == all[base.len()..], "{literals} {copied}");
        }
    }

    #[test]
    fn repeated_offsets_take_fewer_bits() {
        let lens = [5000, 700].map(|second| {
            let (mut writer, mut frame) = (FrameWriter::new(), Vec::new());
            writer.begin(1 << 16, &mut frame);
            for number in 0..100 {
                writer.literals(b"x");
                writer.copy(if number % 2 == 0 { 700 } else { second }, 4);
            }
            writer.end_block(true, &mut frame);
            frame.len()
        });
        assert!(lens[1] < lens[0], "{lens:?}");
    }
}
