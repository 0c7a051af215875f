//! Where moved content came from: features of the pieces of an old stream, small enough to keep, and the search for them in new chunks.
//!
//! Resemblance detection (Finesse, Zhang et al., FAST 2019; Odess, Zou et al., ToS 2023) gives each piece a few features and compares those
//! of an old piece with those of a new one, so both sides pay for a small sketch: a page that holds half of an old page shares a third of
//! what both hold, and each of four features agrees with that probability only. Here the sides differ. An *anchor* is a place that a rolling
//! hash of the bytes before it selects (content-defined sampling, as in Odess). An old piece keeps four, one from each quarter; a new chunk,
//! whose bytes are at hand, is searched for *all* its anchors. So one surviving quarter is enough to find the old piece, wherever it went.
//!
//! The hash is a gear hash whose table comes from a seed; an encrypted repository gives a secret one. That keeps features of known
//! content from being recognised by who does not know the seed. It is no cipher: features are kept as safely as ids.

pub mod matching;
pub mod slices;

/// Bytes in a piece of an old stream; the last one may be shorter. A page of most databases.
pub const PIECE_LEN: usize = 4096;
/// Features of a piece.
pub const FEATURES: usize = 4;
/// Bytes of the features of a piece where they are kept.
pub const FEATURES_LEN: usize = 4 * FEATURES;
/// Bytes that the hash of an anchor covers. Measured on the store of `benches/similarity.rs`, delta bytes and the rows of their slices together:
/// 32 bytes 8 % worse than 40 to 64 (short phrases lead to wrong chunks), 21 bytes 30 %. Longer windows miss rows that are shorter.
const WINDOW: usize = 48;
/// One place of 2^7 is an anchor: eight in a quarter of a page, so that hardly one has none.
const SAMPLE_BITS: u32 = 7;
/// Separates this use of a seed from others; says which hash made the features.
const GEAR_CONTEXT: &str = "icecore 2026-11 similarity gear 1";

/// The features of one piece: anchors of its four quarters, 0 where a quarter has none. A piece of zeros, or of one repeated byte, has none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Features([u32; FEATURES]);

impl Features {
    /// Of a piece that is like no other.
    pub const EMPTY: Features = Features([0; FEATURES]);

    /// The anchors. None is 0.
    pub fn anchors(&self) -> impl Iterator<Item = u32> + '_ {
        self.0.iter().copied().filter(|&anchor| anchor != 0)
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        *self == Self::EMPTY
    }

    /// As they are kept: little-endian.
    pub fn to_bytes(self) -> [u8; FEATURES_LEN] {
        let mut bytes = [0; FEATURES_LEN];
        for (out, anchor) in bytes.as_chunks_mut::<4>().0.iter_mut().zip(self.0) {
            *out = anchor.to_le_bytes();
        }
        bytes
    }

    /// From what was kept. Any bytes are features; wrong ones lead to poor slices, never to wrong data.
    pub fn from_bytes(bytes: &[u8; FEATURES_LEN]) -> Self {
        let mut anchors = [0; FEATURES];
        for (anchor, kept) in anchors.iter_mut().zip(bytes.as_chunks::<4>().0) {
            *anchor = u32::from_le_bytes(*kept);
        }
        Features(anchors)
    }
}

/// Finds anchors. Threads share one.
pub struct Sampler {
    gear: Box<[u64; 256]>,
}

impl Sampler {
    /// With the table of this seed. Samplers of different seeds find unrelated anchors.
    pub fn new(seed: u64) -> Self {
        let mut output = blake3::Hasher::new_derive_key(GEAR_CONTEXT).update(&seed.to_le_bytes()).finalize_xof();
        let mut draw = || {
            let mut bytes = [0; 8];
            output.fill(&mut bytes);
            u64::from_le_bytes(bytes)
        };
        // The middle of a run of one byte has a hash of its own; it must not be an anchor, or all pages with such a run would seem alike.
        let is_anchor_in_run = |value: u64| anchor((0..WINDOW).fold(0, |hash, _| step(hash, value))).is_some();
        let mut gear = Box::new([0; 256]);
        for entry in gear.iter_mut() {
            *entry = draw();
            while is_anchor_in_run(*entry) {
                *entry = draw();
            }
        }
        Sampler { gear }
    }

    /// The features of a piece, at most [`PIECE_LEN`] bytes long.
    pub fn features(&self, piece: &[u8]) -> Features {
        let mut found = [0; FEATURES];
        // Each search starts in the middle of its quarter, since pages start with what changes most, and ends with the first anchor, so
        // that most of the piece is not even looked at.
        let quarter = piece.len().div_ceil(FEATURES).max(1);
        for (index, part) in piece.get(quarter / 2..).unwrap_or_default().chunks(quarter).take(FEATURES).enumerate() {
            let new = self.anchors(part).map(|(_, anchor)| anchor).find(|anchor| !found.contains(anchor));
            if let (Some(new), Some(place)) = (new, found.get_mut(index)) {
                *place = new;
            }
        }
        Features(found)
    }

    /// All anchors of `bytes` with the places where their windows end, in order.
    pub fn anchors<'a>(&'a self, bytes: &'a [u8]) -> impl Iterator<Item = (usize, u32)> + 'a {
        let (first, rest) = bytes.split_at(bytes.len().min(WINDOW - 1));
        let mut hash = first.iter().fold(0, |hash, &byte| step(hash, self.value(byte)));
        rest.iter().enumerate().filter_map(move |(place, &byte)| {
            hash = step(hash, self.value(byte));
            anchor(hash).map(|anchor| (place + WINDOW, anchor))
        })
    }

    fn value(&self, byte: u8) -> u64 {
        self.gear.get(usize::from(byte)).copied().unwrap_or(0)
    }
}

/// Moves the window by one byte. What is shifted out at the top is forgotten, and [`anchor`] looks at the lowest [`WINDOW`] bits only: what
/// bytes before the window have left is above them.
fn step(hash: u64, value: u64) -> u64 {
    (hash << 1).wrapping_add(value)
}

/// The anchor of a place with this hash, if it is one; never 0.
fn anchor(hash: u64) -> Option<u32> {
    let hash = hash << (64 - WINDOW);
    // The top bits select, since all bytes of the window count there.
    if hash >> (64 - SAMPLE_BITS) != 0 {
        return None;
    }
    // The selecting bits say nothing more: multiplying by an odd number (2^64 / golden ratio) spreads the others.
    let spread = hash.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
    u32::try_from(spread).ok().filter(|&anchor| anchor != 0)
}
