//! Finds where moved content came from (a VACUUM moves rows between pages). Old streams keep features of their pieces,
//! which are small; new chunks are searched for them.
//!
//! Known methods (Finesse, Zhang et al., FAST 2019; Odess, Zou et al., ToS 2023) give each piece a few features and
//! compare the features of an old piece with those of a new one. Both sides are small sketches then, and they miss
//! much: a page with half of an old page shares a third of what both hold, and each of four features agrees with that
//! probability only.
//!
//! Here the sides differ. An *anchor* is a place that a rolling hash of the bytes before it selects (content-defined
//! sampling, as in Odess). An old piece keeps four anchors, one from each quarter. The bytes of a new chunk are at
//! hand, so *all* its anchors are used. One surviving quarter is then enough to find the old piece, wherever it went.
//!
//! The hash is a gear hash with a table made from a seed. In an encrypted repository the seed is secret, so nobody
//! without it can recognise known content by its features. This is not encryption: features are stored as safely as
//! chunk ids. Wrong features lead to poor bases, never to wrong data.

pub mod matching;
pub mod slices;

/// Bytes in a piece of an old stream: a page of most databases. The last piece of a stream may be shorter.
pub const PIECE_LEN: usize = 4096;
/// Features of a piece.
pub const FEATURES: usize = 4;
/// Stored bytes of the features of a piece.
pub const FEATURES_LEN: usize = 4 * FEATURES;
/// Bytes that the hash of an anchor covers. Measured on the store of `benches/similarity.rs`, as the sum of delta bytes
/// and of the rows for their slices: 32 bytes are 8 % worse than 40 to 64 (short phrases lead to wrong chunks), 21
/// bytes 30 %. Longer windows miss short rows.
const WINDOW: usize = 48;
/// One place of 2^7 is an anchor. That makes eight in a quarter of a page, so hardly any quarter has none.
const SAMPLE_BITS: u32 = 7;
/// Separates this use of a seed from others, and names the hash. A change of the hash needs a new name.
const GEAR_CONTEXT: &str = "icecore 2026-11 similarity gear 1";

/// The features of one piece: one anchor of each quarter, or 0 for a quarter without one. A piece of one repeated byte
/// has none at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Features([u32; FEATURES]);

impl Features {
    /// The features of a piece without any anchor.
    pub const EMPTY: Features = Features([0; FEATURES]);

    /// The anchors. 0 is not one.
    pub fn anchors(&self) -> impl Iterator<Item = u32> + '_ {
        self.0.iter().copied().filter(|&anchor| anchor != 0)
    }

    /// Whether there is no anchor.
    pub fn is_empty(&self) -> bool {
        *self == Self::EMPTY
    }

    /// The stored form: little-endian numbers.
    pub fn to_bytes(self) -> [u8; FEATURES_LEN] {
        let mut bytes = [0; FEATURES_LEN];
        for (out, anchor) in bytes.as_chunks_mut::<4>().0.iter_mut().zip(self.0) {
            *out = anchor.to_le_bytes();
        }
        bytes
    }

    /// Features from their stored form. Any bytes are valid; wrong ones lead to poor slices, never to wrong data.
    pub fn from_bytes(bytes: &[u8; FEATURES_LEN]) -> Self {
        let mut anchors = [0; FEATURES];
        for (anchor, kept) in anchors.iter_mut().zip(bytes.as_chunks::<4>().0) {
            *anchor = u32::from_le_bytes(*kept);
        }
        Features(anchors)
    }
}

/// Finds anchors. Several threads may share one.
pub struct Sampler {
    /// A random number for each value of a byte.
    gear: Box<[u64; 256]>,
}

impl Sampler {
    /// A sampler with the table that this seed gives. Samplers of different seeds find unrelated anchors.
    pub fn new(seed: u64) -> Self {
        let mut output = blake3::Hasher::new_derive_key(GEAR_CONTEXT).update(&seed.to_le_bytes()).finalize_xof();
        let mut draw = || {
            let mut bytes = [0; 8];
            output.fill(&mut bytes);
            u64::from_le_bytes(bytes)
        };
        // Inside a run of one repeated byte every place has the same hash. If that selected an anchor, all pages with
        // such a run (zeros at their end, usually) would seem alike. So numbers that would do so are drawn again.
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
        // The search starts half a quarter late, since the start of a page (its header) changes most. It ends at the
        // first anchor of each quarter, so most bytes of the piece are not looked at.
        let quarter = piece.len().div_ceil(FEATURES).max(1);
        for (index, part) in piece.get(quarter / 2..).unwrap_or_default().chunks(quarter).take(FEATURES).enumerate() {
            // An anchor that is there already would say nothing new; a later one of this quarter may.
            let new = self.anchors(part).map(|(_, anchor)| anchor).find(|anchor| !found.contains(anchor));
            if let (Some(new), Some(place)) = (new, found.get_mut(index)) {
                *place = new;
            }
        }
        Features(found)
    }

    /// All anchors of `bytes`, in order, each with the place where its window ends.
    pub fn anchors<'a>(&'a self, bytes: &'a [u8]) -> impl Iterator<Item = (usize, u32)> + 'a {
        // No anchor can end before a whole window has gone by: its hash would depend on less than the window.
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

/// Moves the window on by one byte. Each step shifts older bytes up by one bit. [`anchor`] looks at the lowest
/// [`WINDOW`] bits only, and bytes before the window are shifted out of those.
fn step(hash: u64, value: u64) -> u64 {
    (hash << 1).wrapping_add(value)
}

/// The anchor of a place with this hash; `None` if the place is not selected. Never 0.
fn anchor(hash: u64) -> Option<u32> {
    let hash = hash << (64 - WINDOW);
    // The top bits select, because all bytes of the window have an influence on them.
    if hash >> (64 - SAMPLE_BITS) != 0 {
        return None;
    }
    // In every anchor the selecting bits are zero. Multiplying by an odd number (2^64 / golden ratio) spreads the other
    // bits over 32.
    let spread = hash.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
    u32::try_from(spread).ok().filter(|&anchor| anchor != 0)
}
