//! BLAKE3 of many short rows. Each step of a hash waits for the one before, which leaves most of a core idle while a short row is hashed; rows of as many
//! blocks go through the steps together, one in each lane. The loops over lanes are those that a compiler turns into vectors.

use super::sum::RowSum;

/// Rows that are hashed together. Of 4 or 8 the loops are unrolled before they can become vectors: rows of 97 bytes then took five times as long as
/// one by one, with 16 they take 3/5 of that.
const LANES: usize = 16;
/// Bytes of a block and of a chunk (the BLAKE3 paper, 2.1); longer inputs are trees.
const BLOCK_LEN: usize = 64;
const CHUNK_LEN: usize = 1024;
const ROUNDS: usize = 7;
/// The initialisation vector, and the flags of a chunk that is all there is (the BLAKE3 paper, tables 1 and 3).
const IV: [u32; 8] = [0x6a09_e667, 0xbb67_ae85, 0x3c6e_f372, 0xa54f_f53a, 0x510e_527f, 0x9b05_688c, 0x1f83_d9ab, 0x5be0_cd19];
const CHUNK_START: u32 = 1;
const CHUNK_END: u32 = 2;
const ROOT: u32 = 8;

/// One word of each row.
type Lane = [u32; LANES];

/// Hashes rows and sums them up.
#[derive(Default)]
pub(super) struct Lanes<'r> {
    /// By blocks: rows that wait for others of as many.
    waiting: [Waiting<'r>; CHUNK_LEN / BLOCK_LEN],
}

#[derive(Default, Clone, Copy)]
struct Waiting<'r> {
    rows: [&'r [u8]; LANES],
    count: usize,
}

impl<'r> Lanes<'r> {
    /// Adds a row.
    pub(super) fn add(&mut self, row: &'r [u8], sum: &mut RowSum) {
        // An empty row has a block too.
        let blocks = row.len().div_ceil(BLOCK_LEN).max(1);
        let Some(Waiting { rows, count }) = self.waiting.get_mut(blocks - 1) else { return sum.add(&blake3::hash(row)) };
        rows.get_mut(*count).into_iter().for_each(|place| *place = row);
        *count += 1;
        if *count == LANES {
            *count = 0;
            add_all(rows, blocks, sum);
        }
    }

    /// Adds the rows that wait for others.
    pub(super) fn finish(self, sum: &mut RowSum) {
        for Waiting { rows, count } in self.waiting {
            rows.iter().take(count).for_each(|row| sum.add(&blake3::hash(row)));
        }
    }
}

/// Adds the hashes of rows of so many blocks, at most a chunk (the BLAKE3 paper, 2.2 to 2.4; the counter is 0).
fn add_all(rows: &[&[u8]; LANES], blocks: usize, sum: &mut RowSum) {
    let mut value = IV.map(|word| [word; LANES]);
    let mut message = [[0; LANES]; 16];
    for block in 0..blocks {
        let parts = rows.map(|row| row.get(block * BLOCK_LEN..).unwrap_or_default());
        for (lane, part) in parts.iter().enumerate() {
            put_block(&mut message, lane, part);
        }
        let first = if block == 0 { CHUNK_START } else { 0 };
        let last = if block + 1 == blocks { CHUNK_END | ROOT } else { 0 };
        let lens = parts.map(|part| part.len().min(BLOCK_LEN) as u32);
        compress(&mut value, &message, lens, [first | last; LANES]);
    }
    for lane in 0..LANES {
        let word = |words: &[Lane; 2]| {
            let [low, high] = words.each_ref().map(|word| u64::from(word.get(lane).copied().unwrap_or_default()));
            low | high << 32
        };
        sum.add_words(value.as_chunks::<2>().0.iter().map(word));
    }
}

/// Puts the next block of one row, of which this is the rest, into its lane.
fn put_block(message: &mut [Lane; 16], lane: usize, part: &[u8]) {
    let block = match part.first_chunk::<BLOCK_LEN>() {
        Some(block) => *block,
        None => {
            let mut block = [0; BLOCK_LEN];
            block.iter_mut().zip(part).for_each(|(to, from)| *to = *from);
            block
        }
    };
    for (word, bytes) in message.iter_mut().zip(block.as_chunks::<4>().0) {
        word.get_mut(lane).into_iter().for_each(|word| *word = u32::from_le_bytes(*bytes));
    }
}

fn compress(value: &mut [Lane; 8], message: &[Lane; 16], lens: Lane, flags: Lane) {
    let [v0, v1, v2, v3, v4, v5, v6, v7] = *value;
    let [i0, i1, i2, i3, ..] = IV.map(|word| [word; LANES]);
    let mut state = [v0, v1, v2, v3, v4, v5, v6, v7, i0, i1, i2, i3, [0; LANES], [0; LANES], lens, flags];
    let mut m = message.each_ref();
    for _ in 0..ROUNDS {
        round(&mut state, &m);
        m = [m[2], m[6], m[3], m[10], m[7], m[0], m[4], m[13], m[1], m[11], m[12], m[5], m[9], m[14], m[15], m[8]];
    }
    let (low, high) = state.split_at(value.len());
    for ((out, low), high) in value.as_flattened_mut().iter_mut().zip(low.as_flattened()).zip(high.as_flattened()) {
        *out = low ^ high;
    }
}

fn round(state: &mut [Lane; 16], m: &[&Lane; 16]) {
    let [s0, s1, s2, s3, s4, s5, s6, s7, s8, s9, s10, s11, s12, s13, s14, s15] = state;
    mix(s0, s4, s8, s12, (m[0], m[1]));
    mix(s1, s5, s9, s13, (m[2], m[3]));
    mix(s2, s6, s10, s14, (m[4], m[5]));
    mix(s3, s7, s11, s15, (m[6], m[7]));
    mix(s0, s5, s10, s15, (m[8], m[9]));
    mix(s1, s6, s11, s12, (m[10], m[11]));
    mix(s2, s7, s8, s13, (m[12], m[13]));
    mix(s3, s4, s9, s14, (m[14], m[15]));
}

/// The function G, in all lanes. Inlined it would be taken apart and not become vectors again.
#[inline(never)]
fn mix(a: &mut Lane, b: &mut Lane, c: &mut Lane, d: &mut Lane, (x, y): (&Lane, &Lane)) {
    for (((((a, b), c), d), x), y) in a.iter_mut().zip(b).zip(c).zip(d).zip(x).zip(y) {
        *a = a.wrapping_add(*b).wrapping_add(*x);
        *d = (*d ^ *a).rotate_right(16);
        *c = c.wrapping_add(*d);
        *b = (*b ^ *c).rotate_right(12);
        *a = a.wrapping_add(*b).wrapping_add(*y);
        *d = (*d ^ *a).rotate_right(8);
        *c = c.wrapping_add(*d);
        *b = (*b ^ *c).rotate_right(7);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_as_one_by_one(rows: &[&[u8]]) -> bool {
        let (mut lanes, mut sum, mut expected) = (Lanes::default(), RowSum::default(), RowSum::default());
        for row in rows {
            lanes.add(row, &mut sum);
            expected.add(&blake3::hash(row));
        }
        lanes.finish(&mut sum);
        sum == expected
    }

    #[test]
    fn rows_are_hashed_as_one_by_one() {
        let text: Vec<u8> = (0..3_000_u32).flat_map(|number| number.wrapping_mul(0x9e37_79b9).to_le_bytes().into_iter().skip(3)).collect();
        for len in (0..300).chain(950..1030).chain([2048, 2500]) {
            // Full lanes, and some that wait.
            for count in [1, LANES, LANES + 5, 3 * LANES - 1] {
                let rows: Vec<&[u8]> = (0..count).filter_map(|start| text.get(start..start + len)).collect();
                assert!(rows.len() == count && is_as_one_by_one(&rows), "{count} rows of {len} bytes");
            }
        }
    }

    #[test]
    fn rows_of_other_lengths_share_lanes() {
        let text: Vec<u8> = (0..=255).cycle().take(1100).collect();
        let rows: Vec<&[u8]> = (0..3000).filter_map(|number| text.get(..number * 37 % 1101)).collect();
        assert!(rows.len() == 3000 && is_as_one_by_one(&rows));
    }
}
