//! Chooses the packs that a check reads, if it does not read all.
//!
//! Guarantee: the same packs and the same seed give the same choice, and reading every part once reads every pack. A
//! share or size above zero chooses at least one pack, if there is one.
//! Relies on ids that are evenly spread: only then are the parts about equally large.

use std::str::FromStr;

use crate::error::Error;
use crate::id::PackId;

/// Which packs are to be read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Subset {
    /// All packs.
    #[default]
    All,
    /// One of `of` parts, counted from 1. Packs are divided by their ids, so reading every part once reads every
    /// pack.
    Part {
        /// The number of the part.
        number: u32,
        /// The number of parts.
        of: u32,
    },
    /// This share of all packs, in millionths, drawn at random; at least one pack.
    Share(u32),
    /// Packs of this many bytes together, drawn at random; at least one pack.
    Bytes(u64),
}

/// The unit of [`Subset::Share`]: so many make all packs.
const MILLION: u32 = 1_000_000;
/// One percent in [`Subset::Share`].
const PERCENT: f64 = 10_000.0;
/// The most parts, as with restic.
const PARTS_MAX: u32 = 256;

impl Subset {
    /// Chooses packs from all, given with their sizes in bytes. The result is sorted by id, and the same for the same
    /// `seed`.
    pub fn choose(&self, packs: &[(PackId, u64)], seed: u32) -> Vec<(PackId, u64)> {
        let mut chosen = match *self {
            Subset::All => packs.to_vec(),
            Subset::Part { number, of } => {
                let in_part = |id: &PackId| first_bytes(id.as_bytes()) % u64::from(of.max(1)) == u64::from(number.saturating_sub(1));
                packs.iter().filter(|(id, _)| in_part(id)).copied().collect()
            }
            Subset::Share(millionths) => {
                let wanted = (packs.len() as u128 * u128::from(millionths)).div_ceil(u128::from(MILLION)).max(1);
                let mut drawn = shuffled(packs, seed);
                drawn.truncate(usize::try_from(wanted).unwrap_or(usize::MAX));
                drawn
            }
            Subset::Bytes(bytes) => {
                let mut sum = 0u64;
                let fits = |(_, size): &(PackId, u64)| {
                    let is_first = sum == 0;
                    sum = sum.saturating_add(*size);
                    is_first || sum <= bytes
                };
                shuffled(packs, seed).into_iter().take_while(fits).collect()
            }
        };
        chosen.sort_unstable();
        chosen
    }
}

/// The packs in a random order that depends only on the seed.
fn shuffled(packs: &[(PackId, u64)], seed: u32) -> Vec<(PackId, u64)> {
    let mut drawn = packs.to_vec();
    let place = |id: &PackId| first_bytes(blake3::Hasher::new().update(&seed.to_le_bytes()).update(id.as_bytes()).finalize().as_bytes());
    drawn.sort_by_cached_key(|(id, _)| (place(id), *id));
    drawn
}

fn first_bytes(bytes: &[u8; 32]) -> u64 {
    bytes.first_chunk::<8>().map_or(0, |head| u64::from_be_bytes(*head))
}

impl FromStr for Subset {
    type Err = Error;

    /// `n/t`, `x%`, or bytes with `K`, `M`, `G` or `T` for powers of 1024.
    fn from_str(text: &str) -> Result<Self, Error> {
        let wrong = || Error::InvalidArgument(format!("{text}: no part of the packs; give n/t (1/5), x% (2.5%) or a size (500M)"));
        if let Some((number, of)) = text.split_once('/') {
            let (number, of) = (number.parse().map_err(|_| wrong())?, of.parse().map_err(|_| wrong())?);
            let is_part = (1..=PARTS_MAX).contains(&of) && (1..=of).contains(&number);
            return if is_part { Ok(Subset::Part { number, of }) } else { Err(wrong()) };
        }
        if let Some(percent) = text.strip_suffix('%') {
            let percent: f64 = percent.parse().map_err(|_| wrong())?;
            let is_share = percent > 0.0 && percent <= 100.0;
            // Rounded up, so that no share is nothing.
            return if is_share { Ok(Subset::Share((percent * PERCENT).ceil() as u32)) } else { Err(wrong()) };
        }
        let shift = |unit: char| [('k', 10), ('m', 20), ('g', 30), ('t', 40)].iter().find(|(name, _)| *name == unit.to_ascii_lowercase());
        let (number, shift) = match text.chars().last().and_then(shift) {
            Some((_, shift)) => (text.get(..text.len() - 1).unwrap_or_default(), *shift),
            None => (text, 0),
        };
        let number: u64 = number.parse().map_err(|_| wrong())?;
        match number.checked_mul(1 << shift) {
            Some(bytes @ 1..) => Ok(Subset::Bytes(bytes)),
            _ => Err(wrong()),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing)]
mod tests {
    use super::*;

    fn packs(count: u32) -> Vec<(PackId, u64)> {
        (0..count).map(|n| (PackId(*blake3::hash(&n.to_le_bytes()).as_bytes()), 1000)).collect()
    }

    #[test]
    fn what_is_typed() {
        let all = ["1/5", "256/256", "2.5%", "100%", "0.00001%", "500", "500k", "3M", "2G", "1T"];
        let parsed: Vec<Subset> = all.iter().map(|text| text.parse().unwrap()).collect();
        let (part, bytes) = (|number, of| Subset::Part { number, of }, Subset::Bytes);
        let shares = [Subset::Share(25_000), Subset::Share(1_000_000), Subset::Share(1)];
        let sizes = [bytes(500), bytes(500 << 10), bytes(3 << 20), bytes(2 << 30), bytes(1 << 40)];
        assert_eq!(parsed, [&[part(1, 5), part(256, 256)], &shares[..], &sizes].concat());
        for wrong in
            ["", "0/5", "6/5", "1/257", "1/0", "-1/5", "0%", "100.1%", "NaN%", "%", "0", "M", "5X", "99999999999G", "1/2/3", "5\u{e9}"]
        {
            assert!(wrong.parse::<Subset>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_parts_are_all_and_none_twice() {
        let packs = packs(300);
        let mut read: Vec<_> = (1..=7).flat_map(|number| Subset::Part { number, of: 7 }.choose(&packs, 0)).collect();
        read.sort_unstable();
        assert_eq!(read, Subset::All.choose(&packs, 0));
        assert!((1..=7).all(|number| Subset::Part { number, of: 7 }.choose(&packs, 0).len() > 20));
    }

    #[test]
    fn what_is_drawn_hangs_on_the_seed() {
        let packs = packs(300);
        let share = Subset::Share(105_000);
        assert_eq!(share.choose(&packs, 1).len(), 32, "rounded up");
        assert_eq!(share.choose(&packs, 1), share.choose(&packs, 1));
        assert_ne!(share.choose(&packs, 1), share.choose(&packs, 2));
        assert_eq!(Subset::Share(1).choose(&packs, 1).len(), 1);
        assert_eq!(Subset::Bytes(5500).choose(&packs, 1).len(), 5);
        assert_eq!(Subset::Bytes(1).choose(&packs, 1).len(), 1);
        assert!([Subset::All, share, Subset::Bytes(9)].iter().all(|subset| subset.choose(&[], 1).is_empty()));
    }
}
