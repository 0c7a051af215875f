//! Patches: deltas that hold only the pieces of a chunk that differ from the pieces at the same places of its base.
//!
//! A patch is a bitmap of the changed pieces and one zstd frame with all of them. The prefix of the frame is the old
//! versions of the same pieces. So a changed page is compressed against its own old version, and unchanged pages around
//! it cost neither bytes nor time. A decoder trusts neither the bitmap nor the lengths.

use super::{Decoder, Encoder};
use crate::store::format::pack::PATCH_PIECE_LEN;
use crate::store::format::{CHUNK_LEN_MAX, Malformed};

/// The part of the pieces that may have changed, as a fraction: half. If more have changed, content may have moved
/// between pieces. A patch cannot see that; a delta against the whole base can.
const CHANGED_MAX: (usize, usize) = (1, 2);

impl Encoder {
    /// Writes `plain` as a patch of `base` into `out`, whose old contents are dropped. Gives `false`, and no patch, if
    /// nothing has changed or more than half.
    pub fn encode_patch(&mut self, plain: &[u8], base: &[u8], out: &mut Vec<u8>) -> Result<bool, Malformed> {
        let pieces = plain.len().div_ceil(PATCH_PIECE_LEN);
        let mut bitmap = vec![0u8; pieces.div_ceil(8)];
        let (mut changed, mut prefix) = (Vec::new(), Vec::new());
        let mut count = 0;
        for (number, piece) in plain.chunks(PATCH_PIECE_LEN).enumerate() {
            let start = number * PATCH_PIECE_LEN;
            // Shorter than the piece, or empty, where the base has ended. Then they differ, and the piece goes into the
            // patch whole.
            let old = base.get(start..(start + piece.len()).min(base.len())).unwrap_or_default();
            if old != piece {
                count += 1;
                bitmap.get_mut(number / 8).into_iter().for_each(|byte| *byte |= 1 << (number % 8));
                changed.extend_from_slice(piece);
                prefix.extend_from_slice(old);
            }
        }
        if count == 0 || count * CHANGED_MAX.1 > pieces * CHANGED_MAX.0 {
            return Ok(false);
        }
        // Taken out of `self`, because `encode_delta` borrows `self`; put back below also after an error, to keep its
        // memory.
        let mut frame = std::mem::take(&mut self.patch);
        let encoded = self.encode_delta(&changed, &prefix, &mut frame);
        out.clear();
        out.extend_from_slice(&bitmap);
        out.extend_from_slice(&frame);
        self.patch = frame;
        encoded.map(|()| true)
    }
}

impl Decoder {
    /// Turns `base` into the plain bytes of the patch, in place. Lengths and errors are as with [`Decoder::decode`].
    pub fn decode_patch(&mut self, encoded: &[u8], base: &mut Vec<u8>, plain_len: u32) -> Result<(), Malformed> {
        let len = plain_len as usize;
        let pieces = len.div_ceil(PATCH_PIECE_LEN);
        let (bitmap, frame) = encoded.split_at_checked(pieces.div_ceil(8)).ok_or_else(|| Malformed::new("a patch ends too early"))?;
        let is_set = |number: usize| bitmap.get(number / 8).is_some_and(|byte| byte >> (number % 8) & 1 == 1);
        let range = |number: usize| number * PATCH_PIECE_LEN..((number + 1) * PATCH_PIECE_LEN).min(len);
        let is_there = |number: usize| is_set(number) || range(number).end <= base.len();
        // Bits past the last piece must be zero: each patch has one form. A piece that the patch does not have must be
        // whole in the base.
        if plain_len > CHUNK_LEN_MAX || (pieces..bitmap.len() * 8).any(is_set) || !(0..pieces).all(is_there) {
            return Err(Malformed::new("a patch does not fit its chunk or its base"));
        }
        let changed = || (0..pieces).filter(|number| is_set(*number)).map(range);
        // The same prefix that the encoder had: the old bytes of the changed pieces, as far as the base reaches.
        let mut prefix = Vec::new();
        for range in changed() {
            prefix.extend_from_slice(base.get(range.start.min(base.len())..range.end.min(base.len())).unwrap_or_default());
        }
        let mut plain = std::mem::take(&mut self.patch);
        // A piece has at most PATCH_PIECE_LEN bytes and all together at most `plain_len`, so neither the cast nor the
        // sum overflows.
        let decoded = self.decode(frame, &prefix, changed().map(|range| range.len() as u32).sum(), &mut plain);
        // After an error `base` may be half changed. The caller gets the error and drops it.
        base.resize(len, 0);
        let mut rest = plain.as_slice();
        for range in changed() {
            let (piece, after) = rest.split_at(range.len().min(rest.len()));
            rest = after;
            base.get_mut(range).filter(|to| to.len() == piece.len()).into_iter().for_each(|to| to.copy_from_slice(piece));
        }
        self.patch = plain;
        decoded
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing)]
mod tests {
    use super::*;

    fn bytes(seed: u64, len: usize) -> Vec<u8> {
        let mut output = blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof();
        let mut bytes = vec![0; len];
        output.fill(&mut bytes);
        bytes
    }

    fn there_and_back(plain: &[u8], base: &[u8]) -> Option<usize> {
        let (mut encoded, mut decoded) = (Vec::new(), base.to_vec());
        if !Encoder::new().unwrap().encode_patch(plain, base, &mut encoded).unwrap() {
            return None;
        }
        Decoder::new().unwrap().decode_patch(&encoded, &mut decoded, plain.len() as u32).unwrap();
        assert!(decoded == plain);
        Some(encoded.len())
    }

    #[test]
    fn a_changed_byte_costs_little_and_comes_back() {
        for len in [4096, 65_536, 65_536 + 100, 10_000] {
            let base = bytes(1, len);
            for at in [0, len / 2, len - 1] {
                let mut plain = base.clone();
                plain[at] ^= 1;
                let encoded_len = there_and_back(&plain, &base);
                assert!(len == 4096 && encoded_len.is_none() || encoded_len.unwrap() < 60, "{len} {at}: {encoded_len:?}");
            }
        }
    }

    #[test]
    fn chunk_and_base_of_other_lengths() {
        let base = bytes(1, 40_000);
        for len in [36_000, 40_960, 45_000, 81_000] {
            let mut plain = bytes(2, len);
            let kept = (len.min(40_000) / PATCH_PIECE_LEN).saturating_sub(1) * PATCH_PIECE_LEN;
            plain[..kept].copy_from_slice(&base[..kept]);
            assert_eq!(there_and_back(&plain, &base).is_some(), len != 81_000, "{len}");
        }
        assert_eq!(there_and_back(&base, &base), None, "nothing has changed");
        assert_eq!(there_and_back(&bytes(3, 40_000), &base), None, "everything has");
    }

    #[test]
    fn hostile_patches_are_refused() {
        let base = bytes(1, 20_000);
        let mut plain = base.clone();
        plain[5000] ^= 1;
        let mut encoded = Vec::new();
        assert!(Encoder::new().unwrap().encode_patch(&plain, &base, &mut encoded).unwrap());
        let mut decoder = Decoder::new().unwrap();
        for (cut, base_len) in [(0, 20_000), (1, 20_000), (encoded.len() - 1, 20_000), (encoded.len(), 4000), (encoded.len(), 19_999)] {
            assert!(decoder.decode_patch(&encoded[..cut], &mut base[..base_len].to_vec(), 20_000).is_err(), "{cut} {base_len}");
        }
        let mut outside = encoded.clone();
        outside[0] |= 0b1000_0000;
        assert!(decoder.decode_patch(&outside, &mut base.clone(), 20_000).is_err(), "five pieces have no eighth");
        let mut made = base.clone();
        decoder.decode_patch(&encoded, &mut made, 20_000).unwrap();
        assert!(made == plain);
    }
}
