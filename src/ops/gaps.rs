//! Says which streams of a snapshot are not good, and which snapshots hold the newest good state of each stream.
//!
//!
//! A flag is about one stream or about the whole snapshot. A snapshot whose flags all name streams is good in
//! everything else. So the newest good state of a stream is in the newest snapshot of the source that is not flagged
//! as a whole and has no flag about this stream. If such a snapshot lacks the stream, and no flag names it, a user
//! has deleted it: then its absence is the newest good state. All this follows from the records alone, without
//! listings.

use std::collections::BTreeSet;

use crate::ops::number::wide;
use crate::recorded::Flag;
use crate::store::format::snapshot::SnapshotRecord;

/// The streams of a snapshot that are not good.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Gaps {
    /// Every stream: the snapshot is flagged as a whole.
    All,
    /// These streams and directories, with everything below them. None of them is below another. If empty, the
    /// snapshot is good.
    Streams(BTreeSet<Vec<u8>>),
}

impl Gaps {
    /// The gaps of a good snapshot.
    pub fn none() -> Self {
        Gaps::Streams(BTreeSet::new())
    }

    /// The gaps that these flags make.
    pub fn of(flags: &[Flag]) -> Self {
        match flags.iter().map(|flag| flag.stream.clone()).collect::<Option<BTreeSet<Vec<u8>>>>() {
            None => Gaps::All,
            Some(streams) => Gaps::tidy(streams),
        }
    }

    /// The gaps of a snapshot. If every stream that it has is flagged, it is good in nothing.
    pub fn of_snapshot(record: &SnapshotRecord) -> Self {
        // These two codes are about streams that the snapshot does not have.
        let is_there = |flag: &&Flag| flag.code != "missing" && flag.code != "incomplete";
        let flagged: BTreeSet<&[u8]> = record.flags.iter().filter(is_there).filter_map(|flag| flag.stream.as_deref()).collect();
        let all_flagged = !record.flags.is_empty() && wide(flagged.len()) >= record.entries;
        if all_flagged { Gaps::All } else { Gaps::of(&record.flags) }
    }

    /// Leaves out names that are below another one.
    fn tidy(streams: BTreeSet<Vec<u8>>) -> Self {
        let kept = streams.iter().filter(|stream| !ancestors(stream).any(|above| streams.contains(above)));
        Gaps::Streams(kept.cloned().collect())
    }

    /// Whether every stream is good.
    pub fn is_empty(&self) -> bool {
        matches!(self, Gaps::Streams(streams) if streams.is_empty())
    }

    /// Whether this stream is not good.
    pub fn covers(&self, stream: &[u8]) -> bool {
        match self {
            Gaps::All => true,
            Gaps::Streams(streams) => streams.contains(stream) || ancestors(stream).any(|above| streams.contains(above)),
        }
    }

    /// The streams that are good in neither snapshot.
    pub fn and(&self, other: &Gaps) -> Gaps {
        match (self, other) {
            (Gaps::All, gaps) | (gaps, Gaps::All) => gaps.clone(),
            // A name is in both if the other set has it or a directory above it.
            (Gaps::Streams(own), Gaps::Streams(others)) => {
                let covered = own.iter().filter(|stream| other.covers(stream));
                Gaps::tidy(covered.chain(others.iter().filter(|stream| self.covers(stream))).cloned().collect())
            }
        }
    }
}

/// The directories above a name, without the root.
fn ancestors(name: &[u8]) -> impl Iterator<Item = &[u8]> {
    name.iter().enumerate().filter(|(_, byte)| **byte == b'/').filter_map(|(at, _)| name.get(..at))
}

/// A snapshot that has the newest good state of some streams.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder<T> {
    /// The snapshot.
    pub snapshot: T,
    /// The streams for which no newer snapshot has a good state.
    pub wanted: Gaps,
    /// Those of them for which this one has no good state either.
    pub left: Gaps,
}

impl<T> Holder<T> {
    /// Whether it holds the newest good state of this stream.
    pub fn holds(&self, stream: &[u8]) -> bool {
        self.wanted.covers(stream) && !self.left.covers(stream)
    }
}

/// The snapshots of one source that hold the newest good state of some stream, the newest first. They are given from
/// the newest to the oldest.
pub fn holders<T>(newest_first: impl IntoIterator<Item = (T, Gaps)>) -> Vec<Holder<T>> {
    // At first the good state of every stream is missing. Each snapshot in turn leaves only its own gaps missing.
    let mut wanted = Gaps::All;
    let mut holders = Vec::new();
    for (snapshot, gaps) in newest_first {
        if wanted.is_empty() {
            break;
        }
        let left = wanted.and(&gaps);
        // It narrows what is still missing, so it holds something.
        if left != wanted {
            holders.push(Holder { snapshot, wanted: std::mem::replace(&mut wanted, left.clone()), left });
        }
    }
    holders
}

#[cfg(test)]
mod tests {
    use super::{Gaps, holders};
    use crate::recorded::Flag;

    fn gaps(streams: &[&str]) -> Gaps {
        Gaps::of(&streams.iter().map(|stream| Flag::new("damaged", "").about(stream.as_bytes())).collect::<Vec<_>>())
    }

    #[test]
    fn a_directory_stands_for_all_below_it() {
        let some = gaps(&["a", "a/b", "c/d"]);
        assert_eq!(some, gaps(&["a", "c/d"]));
        for (stream, is_covered) in [("a", true), ("a/b/c", true), ("ab", false), ("c", false), ("c/d", true), ("c/d/e", true)] {
            assert_eq!(some.covers(stream.as_bytes()), is_covered, "{stream}");
        }
        assert_eq!(Gaps::of(&[Flag::new("empty", ""), Flag::new("damaged", "").about(b"a")]), Gaps::All);
        assert_eq!(gaps(&[""]), Gaps::All, "the root is everything");
        assert!(gaps(&[]).is_empty() && !some.is_empty() && !Gaps::All.is_empty());
    }

    #[test]
    fn what_neither_has() {
        assert_eq!(gaps(&["a", "b/c"]).and(&gaps(&["b", "d"])), gaps(&["b/c"]));
        assert_eq!(gaps(&["b"]).and(&gaps(&["b/c", "b/d"])), gaps(&["b/c", "b/d"]));
        assert_eq!(gaps(&["a"]).and(&Gaps::All), gaps(&["a"]));
        assert_eq!(Gaps::All.and(&Gaps::All), Gaps::All);
        assert!(gaps(&["a"]).and(&gaps(&["b"])).is_empty());
    }

    #[test]
    fn the_newest_good_state_of_each_stream() {
        let history =
            [(5, Gaps::All), (4, gaps(&["a", "b"])), (3, gaps(&["a", "b", "c"])), (2, gaps(&["b"])), (1, gaps(&[])), (0, gaps(&[]))];
        let found = holders(history);
        assert_eq!(found.iter().map(|holder| holder.snapshot).collect::<Vec<_>>(), [4, 2, 1]);
        let of = |stream: &str| found.iter().filter(|holder| holder.holds(stream.as_bytes())).map(|h| h.snapshot).collect::<Vec<_>>();
        assert_eq!([of("c"), of("a"), of("b")], [[4], [2], [1]]);
        assert_eq!(holders([(1, Gaps::All), (0, Gaps::All)]), []);
    }
}
