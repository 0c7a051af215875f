//! Makes and verifies checksums over rows, because SQLite notices damage to page structure, but not to content.
//! A sum covers the kind of the row and each part with its length, so no row passes for one of another table, and bytes
//! cannot move from one part to the next. It relies on a key that differs for each catalog file.

use super::fault::Fault;
use crate::store::repo::u64_from;

/// The kind of a row. It is part of the row's sum, so that no row passes for one of another table.
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

/// Makes and verifies sums. The key comes from the repository's secret and from random bytes of the catalog file. So pages of an earlier
/// file of the same name, as in a write-ahead log that was left, have wrong sums.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Sums {
    key: [u8; blake3::KEY_LEN],
}

impl Sums {
    pub(super) fn new(key: [u8; blake3::KEY_LEN]) -> Self {
        Sums { key }
    }

    /// The sum over the parts. Their lengths are included, so that bytes cannot move from one part to the next.
    pub(super) fn of(&self, kind: Kind, parts: &[&[u8]]) -> i64 {
        let mut hasher = blake3::Hasher::new_keyed(&self.key);
        // A kind is one byte (`repr(u8)`).
        hasher.update(&[kind as u8]);
        for part in parts {
            // A usize has at most 64 bits.
            hasher.update(&u64_from(part.len()).to_le_bytes()).update(part);
        }
        let [a, b, c, d, e, f, g, h, ..] = *hasher.finalize().as_bytes();
        i64::from_le_bytes([a, b, c, d, e, f, g, h])
    }

    /// Refuses parts that do not have this sum.
    pub(super) fn verify(&self, kind: Kind, parts: &[&[u8]], sum: i64) -> Result<(), Fault> {
        if self.of(kind, parts) == sum { Ok(()) } else { Err(Fault::damaged(format!("the sum of a row is wrong ({kind:?})"))) }
    }
}
