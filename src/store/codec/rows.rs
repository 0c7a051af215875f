//! Deltas of rows against the rows that stood in their place: most are there in the same order, a few have come, gone or changed. Where that is so, the
//! runs of rows that are equal are found by looking at the starts of rows only, and what is between two runs is looked for nearby. Where it is not, there
//! is no answer, and a compressor has to search.

use super::sequences::{BLOCK_LEN_MAX, COPY_LEN_MIN, FrameWriter};
use crate::store::format::Malformed;

/// A run is taken from this length on, bytes: it is hardly there by chance.
const RUN_LEN_MIN: usize = 32;
/// The most bytes between two runs. Long new text takes a compressor.
const GAP_LEN_MAX: usize = 2 << 10;
/// The most literals of a delta: more of them are worth a code of their own.
const LITERALS_MAX: usize = 768;
/// The most copies of a delta, for the same reason.
const COPIES_MAX: usize = 192;
/// Entries, as a power of two, of the table of rows.
const ROWS_LOG: u32 = 14;
/// The same of the table of what lies near a gap.
const NEAR_LOG: u32 = 12;
/// Bytes before a gap, and in the base behind the end of the last run, that are near it.
const NEAR_LEN: usize = 384;
/// Bytes that are hashed for what lies near.
const NEAR_KEY: usize = 4;
/// Bits that a copy takes beside those of its offset: its three codes.
const COPY_BITS: usize = 14;

/// Workspace.
pub(super) struct Runs {
    frame: FrameWriter,
    /// Where rows of the base start, plus one, by a hash of their first bytes: of 8, and of 24.
    rows: Vec<u32>,
    /// Where four bytes stand near a gap, plus one, counted from the start of the base through both; what is of another gap is seen by comparing.
    near: Vec<u32>,
}

/// The two texts.
#[derive(Clone, Copy)]
struct Texts<'t> {
    base: &'t [u8],
    plain: &'t [u8],
}

/// Where in the base a part of the new text is.
#[derive(Debug, Clone, Copy, Default)]
struct Match {
    from: usize,
    len: usize,
}

impl Runs {
    pub(super) fn new() -> Result<Self, Malformed> {
        Ok(Runs { frame: FrameWriter::new()?, rows: vec![0; 1 << ROWS_LOG], near: vec![0; 1 << NEAR_LOG] })
    }

    /// `plain` as a zstd frame with the prefix `base`, into `out`; `false` if it is not the base but for a little.
    pub(super) fn encode(&mut self, plain: &[u8], base: &[u8], out: &mut Vec<u8>) -> Result<bool, Malformed> {
        let texts = Texts { base, plain };
        if base.is_empty() || plain.is_empty() || u32::try_from(plain.len() + base.len()).is_err() {
            return Ok(false);
        }
        self.near.fill(0);
        self.frame.begin_frame();
        self.index_rows(base);
        let (mut start, mut expected) = (0, None);
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
            self.rows.get_mut(key).into_iter().for_each(|row| *row = at as u32 + 1);
        }
    }

    /// Encodes a block of the text; gives where in the base its end stood, or `None` if too little of it is there. `expected` is where it may start.
    fn block(&mut self, texts: Texts<'_>, start: usize, end: usize, mut expected: Option<usize>) -> Option<Option<usize>> {
        // Up to here all is encoded; from the next place on runs are looked for.
        let (mut done, mut at) = (start, start);
        while at < end {
            let run = self.run_at(texts, at, end, expected);
            if run.len < RUN_LEN_MIN {
                at = row_after(texts.plain, at, end);
                if at - done > GAP_LEN_MAX {
                    return None;
                }
                continue;
            }
            let back = common_suffix(texts.base.get(..run.from)?, texts.plain.get(done..at)?);
            self.gap(texts, done, at - back, expected.unwrap_or(run.from - back));
            self.frame.copy(texts.base.len() + at - run.from, run.len + back);
            (done, expected) = (at + run.len, Some(run.from + run.len));
            at = done;
            if self.is_too_much() {
                return None;
            }
        }
        self.gap(texts, done, end, expected.unwrap_or_default());
        (!self.is_too_much()).then_some(expected)
    }

    fn is_too_much(&self) -> bool {
        self.frame.literals_len() > LITERALS_MAX || self.frame.copies() > COPIES_MAX
    }

    /// The longest of what may be a run from here on.
    fn run_at(&self, texts: Texts<'_>, at: usize, end: usize, expected: Option<usize>) -> Match {
        let new = texts.plain.get(at..end).unwrap_or_default();
        let here = expected.into_iter().flat_map(|expected| [expected, row_after(texts.base, expected, texts.base.len())]);
        let known = row_keys(texts.plain, at).into_iter().flatten().filter_map(|key| self.row(key));
        let mut best = Match::default();
        for from in here.chain(known) {
            let len = common_prefix(texts.base.get(from..).unwrap_or_default(), new);
            if len > best.len {
                best = Match { from, len };
            }
            // Among runs the first is best: it is where it was expected.
            if len >= 2 * RUN_LEN_MIN {
                break;
            }
        }
        best
    }

    fn row(&self, key: usize) -> Option<usize> {
        self.rows.get(key).and_then(|row| row.checked_sub(1)).map(|row| row as usize)
    }

    /// Encodes what is between two runs, with copies of what is near. `old` is where in the base the run before it ended.
    fn gap(&mut self, texts: Texts<'_>, start: usize, end: usize, old: usize) {
        if end - start >= NEAR_KEY {
            let stood_here = old.saturating_sub(NEAR_LEN / 4)..(old + NEAR_LEN).min(texts.base.len());
            stood_here.for_each(|at| self.index_near(texts, at));
            (start.saturating_sub(NEAR_LEN)..start).for_each(|at| self.index_near(texts, texts.base.len() + at));
        }
        let (mut done, mut at) = (start, start);
        while at < end {
            let place = texts.base.len() + at;
            let Some((offset, len)) = self.near_copy(texts, at, end, at > done) else {
                self.index_near(texts, place);
                at += 1;
                continue;
            };
            self.frame.literals(at - done);
            self.frame.copy(offset, len);
            (place..place + len).for_each(|place| self.index_near(texts, place));
            at += len;
            done = at;
        }
        self.frame.literals(end - done);
    }

    fn index_near(&mut self, texts: Texts<'_>, place: usize) {
        let key = near_key(texts.at(place));
        key.and_then(|key| self.near.get_mut(key)).into_iter().for_each(|near| *near = place as u32 + 1);
    }

    /// The copy that saves most here, as its offset and length, if one saves anything.
    fn near_copy(&self, texts: Texts<'_>, at: usize, end: usize, after_literals: bool) -> Option<(usize, usize)> {
        let place = texts.base.len() + at;
        let new = texts.plain.get(at..end)?;
        let is_row = at == 0 || texts.plain.get(at - 1) == Some(&b'\n');
        let row = if is_row { row_keys(texts.plain, at).and_then(|[short, _]| self.row(short)) } else { None };
        let near = near_key(new).and_then(|key| self.near.get(key)).and_then(|near| near.checked_sub(1)).map(|near| near as usize);
        let repeated = self.frame.repeated();
        let offsets = repeated.into_iter().map(Some).chain([near, row].map(|from| from.and_then(|from| place.checked_sub(from))));
        let mut best = None;
        let mut best_saved = 0;
        for offset in offsets.flatten().filter(|offset| *offset > 0) {
            let Some(from) = place.checked_sub(offset) else { continue };
            let len = common_prefix(texts.at(from), new);
            let is_repeated = repeated.iter().skip(usize::from(!after_literals)).any(|repeated| *repeated == offset);
            let bits = COPY_BITS + if is_repeated { 0 } else { offset.ilog2() as usize };
            let saved = (8 * len).saturating_sub(bits);
            if len >= COPY_LEN_MIN && saved > best_saved {
                (best, best_saved) = (Some((offset, len)), saved);
            }
        }
        best
    }
}

impl<'t> Texts<'t> {
    /// What follows a place, counted through both: what stands in the base ends with it.
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

/// Spreads a key over a table; the factor is 2^64 / golden ratio, made odd.
fn spread(key: u64, log: u32) -> usize {
    (key.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (64 - log)) as usize
}

/// Where a row that starts here is looked for: by a long key, as many rows may start with the same date, and by a short one, as later columns change.
/// The long one comes last, so that it is there for the last of rows which start with the same; `None` at the end of the text.
fn row_keys(text: &[u8], at: usize) -> Option<[usize; 2]> {
    let first = word(text, at)?;
    let (second, third) = (word(text, at + 8).unwrap_or_default(), word(text, at + 16).unwrap_or_default());
    let long = first.rotate_left(21) ^ second.rotate_left(42) ^ third;
    Some([spread(first, ROWS_LOG), spread(long.wrapping_add(first), ROWS_LOG)])
}

fn near_key(text: &[u8]) -> Option<usize> {
    text.first_chunk::<NEAR_KEY>().map(|bytes| spread(u64::from(u32::from_le_bytes(*bytes)), NEAR_LOG))
}

/// How many bytes both start with.
fn common_prefix(one: &[u8], other: &[u8]) -> usize {
    let (one_blocks, other_blocks) = (one.as_chunks::<32>().0, other.as_chunks::<32>().0);
    let equal = one_blocks.iter().zip(other_blocks).take_while(|(one, other)| one == other).count() * 32;
    let rest = one.iter().skip(equal).zip(other.iter().skip(equal));
    equal + rest.take_while(|(one, other)| one == other).count()
}

/// How many bytes both end with.
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

    /// The bytes that it takes, if it is done.
    fn there_and_back(plain: &[u8], base: &[u8]) -> Option<usize> {
        let (mut runs, mut encoded, mut decoded) = (Runs::new().unwrap(), Vec::new(), Vec::new());
        if !runs.encode(plain, base, &mut encoded).unwrap() {
            return None;
        }
        Decoder::new().unwrap().decode(&encoded, base, plain.len() as u32, &mut decoded).unwrap();
        assert!(decoded == plain);
        // What the workspace was used for before is no matter.
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
            // Cut as chunks are: anywhere.
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
