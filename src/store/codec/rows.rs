//! A fast encoder for rows (lines of a dump) against the rows that stood in their place before.
//!
//! It is made for the usual case: most rows are there in the same order, and a few were added, removed or changed. Then
//! it is enough to look for runs of equal rows at the starts of rows, and to look near by for the bytes between two
//! runs. The matches go into an ordinary zstd frame with the old rows as prefix, so decoding needs nothing special.
//!
//! If more has changed, the encoder gives up early and says so; the caller then has zstd search. Wrong matches are not
//! possible: each one is found by comparing bytes.

use super::sequences::{BLOCK_LEN_MAX, FrameWriter, MATCH_LEN_MIN};
use crate::store::format::Malformed;

/// The shortest run, in bytes. Shorter ones are often there by chance.
const RUN_LEN_MIN: usize = 32;
/// The longest gap between two runs, in bytes. Longer new text is better compressed by zstd.
const GAP_LEN_MAX: usize = 2 << 10;
/// The most literals in a block, in bytes. More of them are worth entropy codes of their own, so such text is left to
/// zstd's search.
const LITERALS_MAX: usize = 768;
/// The most matches in a block, for the same reason.
const MATCHES_MAX: usize = 192;
/// Entries of the table of rows, as a power of two.
const ROWS_LOG: u32 = 14;
/// Entries of the table of near places, as a power of two.
const NEAR_LOG: u32 = 12;
/// Bytes that count as near: so many before the gap, and so many in the base after the end of the last run.
const NEAR_LEN: usize = 384;
/// Bytes that are hashed to find a near place.
const NEAR_KEY: usize = 4;
/// Bits that a match costs besides the bits of its offset: its three codes.
const MATCH_BITS: usize = 14;

/// The encoder with its tables. They are reused; the result does not depend on what was encoded before.
pub(super) struct Runs {
    frame: FrameWriter,
    /// Places in the base where rows start, plus one (0: empty), by a hash of the first 8 bytes of the row and by one
    /// of the first 24.
    rows: Vec<u32>,
    /// Places near gaps, plus one (0: empty), by a hash of the four bytes there. A place is counted from the start of
    /// the base; the plain text follows the base. Entries of earlier gaps stay: a place that was found is always
    /// compared.
    near: Vec<u32>,
}

/// The old rows and the new ones. A *place* counts through both: those of `plain` follow those of `base`, as zstd sees
/// prefix and content.
#[derive(Clone, Copy)]
struct Texts<'t> {
    base: &'t [u8],
    plain: &'t [u8],
}

/// A part of the base that equals a part of the new text.
#[derive(Debug, Clone, Copy, Default)]
struct Match {
    from: usize,
    len: usize,
}

impl Runs {
    pub(super) fn new() -> Result<Self, Malformed> {
        Ok(Runs { frame: FrameWriter::new()?, rows: vec![0; 1 << ROWS_LOG], near: vec![0; 1 << NEAR_LOG] })
    }

    /// Writes `plain` as a zstd frame with the prefix `base` into `out`. Gives `false` if the two differ by more than a
    /// little.
    pub(super) fn encode(&mut self, plain: &[u8], base: &[u8], out: &mut Vec<u8>) -> Result<bool, Malformed> {
        let texts = Texts { base, plain };
        // Every place fits 32 bits from here on; the tables and zstd's sequences rely on it.
        if base.is_empty() || plain.is_empty() || u32::try_from(plain.len() + base.len()).is_err() {
            return Ok(false);
        }
        // Entries of an earlier text could lead to other matches, so the same input would give other bytes.
        self.near.fill(0);
        self.frame.begin_frame();
        self.index_rows(base);
        let (mut start, mut expected) = (0, None);
        // Block by block, since zstd cuts a match at the end of a block.
        while start < plain.len() {
            let end = (start + BLOCK_LEN_MAX).min(plain.len());
            self.frame.begin_block();
            let Some(after) = self.block(texts, start, end, expected) else { return Ok(false) };
            expected = after;
            start = end;
        }
        self.frame.finish(plain, base, out).map(|()| true)
    }

    fn index_rows(&mut self, base: &[u8]) {
        self.rows.fill(0);
        self.index_row(base, 0);
        for newline in memchr::memchr_iter(b'\n', base) {
            self.index_row(base, newline + 1);
        }
    }

    fn index_row(&mut self, base: &[u8], at: usize) {
        let Some(keys) = row_keys(base, at) else { return };
        for key in keys {
            // Fits: see `encode`.
            self.rows.get_mut(key).into_iter().for_each(|row| *row = at as u32 + 1);
        }
    }

    /// Encodes the block `start..end` of the text. `expected` is the place in the base that it probably continues.
    /// Gives the place in the base that the next block probably continues, or `None` if too little of this block is in
    /// the base.
    fn block(&mut self, texts: Texts<'_>, start: usize, end: usize, mut expected: Option<usize>) -> Option<Option<usize>> {
        // Bytes before `done` are encoded. Runs are looked for at `at`. What lies between the two is a gap that still
        // grows.
        let (mut done, mut at) = (start, start);
        while at < end {
            let run = self.run_at(texts, at, end, expected);
            if run.len < RUN_LEN_MIN {
                // No run starts here. The next chance is the start of the next row: the table knows starts of rows
                // only.
                at = row_after(texts.plain, at, end);
                if at - done > GAP_LEN_MAX {
                    return None;
                }
                continue;
            }
            // A row that changed in the front is equal at its end. So the run is made longer backwards, into the gap.
            let back = common_suffix(texts.base.get(..run.from)?, texts.plain.get(done..at)?);
            self.gap(texts, done, at - back, expected.unwrap_or(run.from - back));
            // The offset is the distance of the two places. Going back moves both, so it stays the same.
            self.frame.add_match(texts.base.len() + at - run.from, run.len + back);
            (done, expected) = (at + run.len, Some(run.from + run.len));
            at = done;
            if self.is_too_much() {
                return None;
            }
        }
        self.gap(texts, done, end, expected.unwrap_or_default());
        (!self.is_too_much()).then_some(expected)
    }

    /// Whether the block has more literals or matches than pay here.
    fn is_too_much(&self) -> bool {
        self.frame.literals_len() > LITERALS_MAX || self.frame.matches() > MATCHES_MAX
    }

    /// The longest match for the bytes from `at` on, among a few places in the base. It may be shorter than a run.
    fn run_at(&self, texts: Texts<'_>, at: usize, end: usize, expected: Option<usize>) -> Match {
        let new = texts.plain.get(at..end).unwrap_or_default();
        // The place where the last run ended, if nothing or a row was added; the row after it, if a row was removed or
        // changed.
        let here = expected.into_iter().flat_map(|expected| [expected, row_after(texts.base, expected, texts.base.len())]);
        // Rows of the base that start with the same bytes, wherever they are.
        let known = row_keys(texts.plain, at).into_iter().flatten().filter_map(|key| self.row(key));
        let mut best = Match::default();
        for from in here.chain(known) {
            let len = common_prefix(texts.base.get(from..).unwrap_or_default(), new);
            if len > best.len {
                best = Match { from, len };
            }
            // A long match at the expected place is the right one. Comparing further places costs time only.
            if len >= 2 * RUN_LEN_MIN {
                break;
            }
        }
        best
    }

    /// The place in the base of the row with this key.
    fn row(&self, key: usize) -> Option<usize> {
        self.rows.get(key).and_then(|row| row.checked_sub(1)).map(|row| row as usize)
    }

    /// Encodes the gap `start..end` between two runs as literals and as matches with near places. `old` is the place in
    /// the base where the run before the gap ended: what was changed stood there.
    fn gap(&mut self, texts: Texts<'_>, start: usize, end: usize, old: usize) {
        debug_assert!(start <= end);
        // A shorter gap cannot have a match by key, so filling the table would be wasted.
        if end - start >= NEAR_KEY {
            let stood_here = old.saturating_sub(NEAR_LEN / 4)..(old + NEAR_LEN).min(texts.base.len());
            stood_here.for_each(|at| self.index_near(texts, at));
            (start.saturating_sub(NEAR_LEN)..start).for_each(|at| self.index_near(texts, texts.base.len() + at));
        }
        // Greedy, byte by byte: gaps are short, and a match that saves anything is taken at once.
        let (mut done, mut at) = (start, start);
        while at < end {
            let place = texts.base.len() + at;
            let Some((offset, len)) = self.near_match(texts, at, end, at > done) else {
                self.index_near(texts, place);
                at += 1;
                continue;
            };
            self.frame.add_literals(at - done);
            self.frame.add_match(offset, len);
            (place..place + len).for_each(|place| self.index_near(texts, place));
            at += len;
            done = at;
        }
        self.frame.add_literals(end - done);
    }

    fn index_near(&mut self, texts: Texts<'_>, place: usize) {
        let key = near_key(texts.at(place));
        // Fits: see `encode`.
        key.and_then(|key| self.near.get_mut(key)).into_iter().for_each(|near| *near = place as u32 + 1);
    }

    /// The match that saves most at `at`, as its offset and length, if one saves anything. `after_literals`: whether
    /// literals come directly before it.
    fn near_match(&self, texts: Texts<'_>, at: usize, end: usize, after_literals: bool) -> Option<(usize, usize)> {
        let place = texts.base.len() + at;
        let new = texts.plain.get(at..end)?;
        // A new row often starts like some row of the base, also a distant one.
        let is_row = at == 0 || texts.plain.get(at - 1) == Some(&b'\n');
        let row = if is_row { row_keys(texts.plain, at).and_then(|[short, _]| self.row(short)) } else { None };
        let near = near_key(new).and_then(|key| self.near.get(key)).and_then(|near| near.checked_sub(1)).map(|near| near as usize);
        // Repeated offsets come first: they cost least, and after a changed value of the same length the old row goes
        // on at the same distance.
        let repeated = self.frame.repeated();
        let offsets = repeated.into_iter().map(Some).chain([near, row].map(|from| from.and_then(|from| place.checked_sub(from))));
        let mut best = None;
        let mut best_saved = 0;
        for offset in offsets.flatten().filter(|offset| *offset > 0) {
            let Some(from) = place.checked_sub(offset) else { continue };
            let len = common_prefix(texts.at(from), new);
            // Directly after another match, zstd cannot repeat the first offset (RFC 8878, 3.1.1.5).
            let is_repeated = repeated.iter().skip(usize::from(!after_literals)).any(|repeated| *repeated == offset);
            let bits = MATCH_BITS + if is_repeated { 0 } else { offset.ilog2() as usize };
            let saved = (8 * len).saturating_sub(bits);
            if len >= MATCH_LEN_MIN && saved > best_saved {
                (best, best_saved) = (Some((offset, len)), saved);
            }
        }
        best
    }
}

impl<'t> Texts<'t> {
    /// The bytes from a place on, to the end of the text that it is in. So a match never runs from the base into the
    /// plain text.
    fn at(&self, place: usize) -> &'t [u8] {
        let text = match place.checked_sub(self.base.len()) {
            Some(at) => self.plain.get(at..),
            None => self.base.get(place..),
        };
        text.unwrap_or_default()
    }
}

/// The start of the next row, or the end.
fn row_after(text: &[u8], at: usize, end: usize) -> usize {
    memchr::memchr(b'\n', text.get(at..end).unwrap_or_default()).map_or(end, |newline| at + newline + 1)
}

fn word(text: &[u8], at: usize) -> Option<u64> {
    text.get(at..)?.first_chunk().map(|bytes| u64::from_le_bytes(*bytes))
}

/// Spreads a key over a table of `2^log` entries (Fibonacci hashing): the factor is 2^64 / golden ratio, made odd.
fn spread(key: u64, log: u32) -> usize {
    // Only `log` bits are left, so the cast keeps the value.
    (key.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (64 - log)) as usize
}

/// The keys in the table of rows for a row that starts at `at`: a short one over 8 bytes, since later columns may have
/// changed, and a long one over 24, since many rows may start with the same date. `None` if fewer than 8 bytes are
/// left.
fn row_keys(text: &[u8], at: usize) -> Option<[usize; 2]> {
    let first = word(text, at)?;
    let (second, third) = (word(text, at + 8).unwrap_or_default(), word(text, at + 16).unwrap_or_default());
    // Rotated, so that equal words at different places do not cancel out.
    let long = first.rotate_left(21) ^ second.rotate_left(42) ^ third;
    Some([spread(first, ROWS_LOG), spread(long.wrapping_add(first), ROWS_LOG)])
}

fn near_key(text: &[u8]) -> Option<usize> {
    text.first_chunk::<NEAR_KEY>().map(|bytes| spread(u64::from(u32::from_le_bytes(*bytes)), NEAR_LOG))
}

/// How many bytes at the start are equal in both.
fn common_prefix(one: &[u8], other: &[u8]) -> usize {
    // Blocks of 32 bytes become vector comparisons. Most of the encoder's time is spent here.
    let (one_blocks, other_blocks) = (one.as_chunks::<32>().0, other.as_chunks::<32>().0);
    let equal = one_blocks.iter().zip(other_blocks).take_while(|(one, other)| one == other).count() * 32;
    let rest = one.iter().skip(equal).zip(other.iter().skip(equal));
    equal + rest.take_while(|(one, other)| one == other).count()
}

/// How many bytes at the end are equal in both.
fn common_suffix(one: &[u8], other: &[u8]) -> usize {
    one.iter().rev().zip(other.iter().rev()).take_while(|(one, other)| one == other).count()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing)]
mod tests {
    use super::*;
    use crate::store::codec::{Decoder, Encoder};

    fn number(seed: usize) -> usize {
        u32::from_le_bytes(blake3::hash(&seed.to_le_bytes()).as_bytes()[..4].try_into().unwrap()) as usize
    }

    fn row(id: usize) -> Vec<u8> {
        let filler = if number(id).is_multiple_of(2) { " ".repeat(84) } else { format!("{:x}", number(id)).repeat(number(id + 1) % 40) };
        format!("{id}\t{}\t{}\t{filler}\n", id / 1000, number(id + 2) % 10_000).into_bytes()
    }

    fn rows(ids: impl Iterator<Item = usize>) -> Vec<Vec<u8>> {
        ids.map(row).collect()
    }

    /// Encodes and decodes. Gives the encoded length, or `None` if the encoder gave up.
    fn there_and_back(plain: &[u8], base: &[u8]) -> Option<usize> {
        let (mut runs, mut encoded, mut decoded) = (Runs::new().unwrap(), Vec::new(), Vec::new());
        if !runs.encode(plain, base, &mut encoded).unwrap() {
            return None;
        }
        Decoder::new().unwrap().decode(&encoded, base, plain.len() as u32, &mut decoded).unwrap();
        assert!(decoded == plain);
        // The result does not depend on what the workspace was used for before.
        let mut again = Vec::new();
        runs.encode(&base[..base.len() / 2], plain, &mut again).unwrap();
        assert!(runs.encode(plain, base, &mut again).unwrap() && again == encoded);
        Some(encoded.len())
    }

    #[test]
    fn rows_that_come_go_and_change_cost_little() {
        let old = rows(100_000..100_700);
        let base = old.concat();
        let mut less = old.clone();
        less.remove(300);
        let mut more = old.clone();
        more.insert(300, row(555_555));
        let mut moved = old.clone();
        let last = moved.pop().unwrap();
        moved.insert(200, last);
        let mut changed = old.clone();
        changed[400] = [&changed[400][..14], b"and now another", &changed[400][14..]].concat();
        for (name, new, at_most) in
            [("same", &old, 20), ("less", &less, 20), ("more", &more, 70), ("moved", &moved, 30), ("changed", &changed, 50)]
        {
            let new = new.concat();
            // Chunks are cut anywhere, also inside a row.
            for (from, to) in [(0, new.len()), (1000, new.len() - 777), (1, new.len() - 1)] {
                let len = there_and_back(&new[from..to], &base).unwrap();
                assert!(len <= at_most, "{name} {from}: {len}");
            }
        }
    }

    #[test]
    fn long_chunks_have_several_blocks() {
        let base = rows(0..4_000).concat();
        let new = rows((0..4_000).filter(|id| id % 1_000 != 7)).concat();
        assert!(new.len() > 2 * BLOCK_LEN_MAX);
        assert!(there_and_back(&new, &base).unwrap() < 100);
        for len in [BLOCK_LEN_MAX - 1, BLOCK_LEN_MAX, BLOCK_LEN_MAX + 1, 2 * BLOCK_LEN_MAX] {
            assert!(there_and_back(&new[..len], &base).is_some(), "{len}");
        }
    }

    #[test]
    fn other_content_is_left_to_a_compressor() {
        let base = rows(0..1_000).concat();
        let noise: Vec<u8> = (0..10_000).flat_map(|seed| number(seed).to_le_bytes()).collect();
        assert_eq!(there_and_back(&noise, &base), None, "noise");
        assert_eq!(there_and_back(&base, &noise), None, "nothing of it there");
        assert_eq!(there_and_back(&rows((0..1_000).map(|id| id * 617 % 1_000)).concat(), &base), None, "shuffled");
        for (plain, base) in [(&b""[..], &base[..]), (&base[..], &b""[..]), (b"x", b"y"), (b"\n", b"\n\n\n")] {
            let len = there_and_back(plain, base);
            assert!(len.is_none() || plain.len() == 1, "{len:?}");
        }
    }

    #[test]
    fn whatever_is_changed_comes_back() {
        let mut done = 0;
        for seed in 0..400 {
            let mut next = 1_000 * seed;
            let mut draw = |end: usize| {
                next += 1;
                number(next) % end
            };
            let base = rows(0..draw(2_000) + 1).concat();
            let mut plain = base.clone();
            for _ in 0..draw(6) {
                let at = draw(plain.len() + 1);
                let cut = draw(300).min(plain.len() - at);
                let from = draw(base.len());
                let new = &base[from..(from + draw(200)).min(base.len())];
                plain.splice(at..at + cut, new.iter().copied());
            }
            let from = draw(400).min(base.len());
            done += usize::from(there_and_back(&plain, &base[from..]).is_some());
        }
        assert!(done > 50, "{done}");
    }

    #[test]
    fn it_takes_about_what_a_search_takes() {
        let base = rows(100_000..101_000).concat();
        let mut new = rows((100_000..101_000).filter(|id| id % 300 != 11));
        for (number, at) in [50, 400, 700].into_iter().enumerate() {
            new.insert(at, row(300_000 + number));
        }
        let new = new.concat();
        let mut searched = Vec::new();
        Encoder::new().unwrap().squeeze_rows(&new, &base, &mut searched).unwrap();
        let len = there_and_back(&new, &base).unwrap();
        assert!(len <= searched.len() + searched.len() / 8, "{len}, {} with a search", searched.len());
    }
}
