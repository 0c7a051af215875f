//! Checksums over rows. SQLite itself notices only damage to the structure of its pages, not to what is in them.

use super::fault::Fault;

/// What a row is: part of its sum, so that a row never passes for one of another table.
#[derive(Debug, Clone, Copy)]
#[repr(u8)]
pub(super) enum Kind {
    Meta = 1,
    Run = 2,
    Block = 3,
    Pack = 4,
    Trailer = 5,
    Snapshot = 6,
    StampSet = 7,
    Stamp = 8,
    Reading = 9,
}

/// Makes and verifies sums. The key is made of the repository's secret and of random bytes per catalog file, so that pages of an earlier file of the same name (a write-ahead log
/// that was left lying) are never taken for its own.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Sums {
    key: [u8; blake3::KEY_LEN],
}

impl Sums {
    pub(super) fn new(key: [u8; blake3::KEY_LEN]) -> Self {
        Sums { key }
    }

    /// The sum over these parts and their lengths.
    pub(super) fn of(&self, kind: Kind, parts: &[&[u8]]) -> i64 {
        let mut hasher = blake3::Hasher::new_keyed(&self.key);
        hasher.update(&[kind as u8]);
        for part in parts {
            hasher.update(&(part.len() as u64).to_le_bytes()).update(part);
        }
        let [a, b, c, d, e, f, g, h, ..] = *hasher.finalize().as_bytes();
        i64::from_le_bytes([a, b, c, d, e, f, g, h])
    }

    /// Refuses parts that have another sum.
    pub(super) fn verify(&self, kind: Kind, parts: &[&[u8]], sum: i64) -> Result<(), Fault> {
        if self.of(kind, parts) == sum { Ok(()) } else { Err(Fault::damaged(format!("{kind:?} row does not have its sum"))) }
    }
}
