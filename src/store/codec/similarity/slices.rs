//! Chooses which slices of the old stream become the prefix of a delta.
//!
//! A reader must decode every base whole, and a slice costs about 14 bytes in a trailer. So few bases and few slices
//! are better. First the old chunks with most votes are chosen, then pieces of these. A small gap between two pieces of
//! one chunk is filled, since that saves a slice. Adding the neighbours of pieces gains nothing more (see
//! `benches/similarity.rs`).
//!
//! The result keeps to the limits of the format, whatever the candidates are.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::ops::Range;

use super::PIECE_LEN;
use super::matching::{Candidate, VOTES_UNIQUE};
use crate::store::format::{BASES_MAX, PREFIX_LEN_MAX, SLICES_MAX, WORK_WRITE_MAX};

/// The longest gap between two pieces of one chunk that is filled, in bytes.
const GAP_LEN_MAX: u64 = 16 << 10;
/// By how much a slice of several pieces is made longer on each side, in bytes. The end of a block rarely has a longer
/// part without a feature.
const WIDEN_LEN: u64 = 1 << 10;

/// What a prefix may cost. Values above those that the format allows a writer have no effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// The most old chunks.
    pub bases: usize,
    /// The most bytes.
    pub prefix_len: usize,
    /// The most work that the delta may have: 1 plus the work of its bases.
    pub work: u32,
    /// The fewest votes that make an old chunk a base; see [`Matches::votes_min`].
    ///
    /// [`Matches::votes_min`]: super::matching::Matches::votes_min
    pub votes: u32,
}

impl Default for Limits {
    /// The limits of the format, and the votes for an old stream that is not long.
    fn default() -> Self {
        Limits { bases: BASES_MAX, prefix_len: PREFIX_LEN_MAX, work: WORK_WRITE_MAX, votes: VOTES_UNIQUE }
    }
}

/// A chunk of the old stream that may become a base.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OldChunk {
    /// Its place in the old stream, in bytes.
    pub range: Range<u64>,
    /// The work of the copy that would be the base.
    pub work: u32,
}

/// A part of one old chunk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Slice {
    /// The place of the old chunk in the old stream, in bytes.
    pub chunk: Range<u64>,
    /// The place of the slice in the old stream, in bytes. It is not empty and lies within `chunk`.
    pub range: Range<u64>,
}

impl Slice {
    fn len(&self) -> u64 {
        self.range.end - self.range.start
    }
}

/// A possible base with its candidates.
struct Base {
    chunk: OldChunk,
    votes: u32,
    pieces: Vec<Candidate>,
}

/// A slice with the votes of its pieces and the rank of its base: 0 is the best one.
struct Run {
    slice: Slice,
    votes: u32,
    rank: usize,
}

/// Chooses the slices of a chunk's prefix from its candidates, in the order in which they form the prefix. The best
/// base comes last, where its offsets are shortest. The result is empty if nothing is worth it. It keeps to `limits`
/// and to the format: at most [`SLICES_MAX`] slices, none empty, none overlapping.
///
/// `chunk_at` gives the chunk of the old stream at an offset in bytes, and `Ok(None)` where no chunk may be a base.
/// Chunks do not overlap. If the candidates come in the order of their pieces, it is called about once per old chunk.
///
/// # Errors
/// Those of `chunk_at`.
pub fn choose<E>(
    candidates: &[Candidate],
    limits: Limits,
    chunk_at: impl FnMut(u64) -> Result<Option<OldChunk>, E>,
) -> Result<Vec<Slice>, E> {
    let bases = best(by_chunk(candidates, chunk_at)?, limits);
    let mut room = limits.prefix_len.min(PREFIX_LEN_MAX) as u64;
    let mut runs = merge(pieces(&bases, &mut room), &mut room);
    // Merging comes first: slices that it has joined count as one for the limit.
    runs.sort_by_key(|run| (Reverse(run.votes), run.slice.range.start));
    runs.truncate(SLICES_MAX);
    widen(&mut runs, &mut room);
    runs.sort_by_key(|run| (Reverse(run.rank), run.slice.range.start));
    Ok(runs.into_iter().map(|run| run.slice).collect())
}

/// Groups the candidates by the old chunk in which the middle of the piece lies.
fn by_chunk<E>(candidates: &[Candidate], mut chunk_at: impl FnMut(u64) -> Result<Option<OldChunk>, E>) -> Result<Vec<Base>, E> {
    let mut bases: BTreeMap<u64, Base> = BTreeMap::new();
    for candidate in candidates {
        // The last piece of a stream may be so short that its middle is past the end. Then its start decides.
        let places = [candidate.offset() + PIECE_LEN as u64 / 2, candidate.offset()];
        // The caller's lookup may be slow, so the chunks that it has given are looked at first.
        let known = bases.range_mut(..=places[0]).next_back().map(|(_, base)| base).filter(|base| base.chunk.range.contains(&places[0]));
        if let Some(base) = known {
            base.add(*candidate);
            continue;
        }
        for place in places {
            if let Some(chunk) = chunk_at(place)?.filter(|chunk| chunk.range.contains(&place)) {
                let base = bases.entry(chunk.range.start).or_insert(Base { chunk, votes: 0, pieces: Vec::new() });
                base.add(*candidate);
                break;
            }
        }
    }
    Ok(bases.into_values().collect())
}

impl Base {
    fn add(&mut self, candidate: Candidate) {
        self.votes = self.votes.saturating_add(candidate.votes);
        self.pieces.push(candidate);
    }
}

/// Keeps as many bases as the limits allow, the best first.
fn best(mut bases: Vec<Base>, limits: Limits) -> Vec<Base> {
    let (bases_max, work_max) = (limits.bases.min(BASES_MAX), limits.work.min(WORK_WRITE_MAX));
    bases.retain(|base| base.votes >= limits.votes);
    bases.sort_by_key(|base| (Reverse(base.votes), base.chunk.range.start));
    let wanted = bases.iter().take(bases_max).fold(1_u32, |sum, base| sum.saturating_add(base.chunk.work));
    if wanted > work_max {
        // Not all can be had. Then a base counts by its votes per work. The square keeps weak ones back: they gain
        // little even if they cost little.
        let worth = |base: &Base| u64::from(base.votes).pow(2) / u64::from(base.chunk.work.max(1));
        bases.sort_by_key(|base| (Reverse(worth(base)), base.chunk.range.start));
    }
    // Greedy: a base that does not fit is left out, and cheaper ones after it may still fit.
    let mut work: u32 = 1;
    bases.retain(|base| {
        let with = work.saturating_add(base.chunk.work);
        let fits = with <= work_max;
        work = if fits { with } else { work };
        fits
    });
    bases.truncate(bases_max);
    bases
}

/// The pieces of the bases, as far as there is room for them; those with most votes are preferred. They come in the
/// order of the old stream. A piece that lies in several bases gives a part of each.
fn pieces(bases: &[Base], room: &mut u64) -> Vec<Run> {
    let mut chunks: Vec<(usize, &Range<u64>)> = bases.iter().map(|base| &base.chunk.range).enumerate().collect();
    chunks.sort_by_key(|(_, chunk)| chunk.start);
    let mut runs: Vec<Run> = Vec::new();
    for piece in bases.iter().flat_map(|base| &base.pieces) {
        let (start, end) = (piece.offset(), piece.offset() + PIECE_LEN as u64);
        // Content-defined chunks end anywhere, so a piece may lie in several. Parts in chunks that are no bases are
        // left out.
        let first = chunks.partition_point(|(_, chunk)| chunk.end <= start);
        for &(rank, chunk) in chunks.iter().skip(first).take_while(|(_, chunk)| chunk.start < end) {
            let slice = Slice { chunk: chunk.clone(), range: start.max(chunk.start)..end.min(chunk.end) };
            runs.push(Run { slice, votes: piece.votes, rank });
        }
    }
    runs.sort_by_key(|run| (Reverse(run.votes), run.rank, run.slice.range.start));
    runs.retain(|run| {
        let fits = run.slice.len() <= *room;
        *room -= if fits { run.slice.len() } else { 0 };
        fits
    });
    runs.sort_by_key(|run| (run.slice.range.start, run.rank));
    runs
}

/// Joins neighbours within a chunk. Also joins those with a small gap between them, while there is room for the bytes
/// of the gap.
fn merge(runs: Vec<Run>, room: &mut u64) -> Vec<Run> {
    let mut merged: Vec<Run> = Vec::new();
    for run in runs {
        match merged.last_mut() {
            Some(last) if last.rank == run.rank && run.slice.range.start <= last.slice.range.end + GAP_LEN_MAX.min(*room) => {
                *room -= run.slice.range.start.saturating_sub(last.slice.range.end);
                last.slice.range.end = last.slice.range.end.max(run.slice.range.end);
                last.votes = last.votes.saturating_add(run.votes);
            }
            _ => merged.push(run),
        }
    }
    merged
}

/// Makes slices of several pieces longer on both sides, as far as there is room. Content that moved as a block does not
/// end where a piece ends; a page that moved alone does. No two slices can meet: slices of one chunk lie further apart
/// than [`GAP_LEN_MAX`], or no room is left.
fn widen(runs: &mut [Run], room: &mut u64) {
    for Run { slice: Slice { chunk, range }, .. } in runs {
        if range.end - range.start > PIECE_LEN as u64 {
            let before = (range.start - chunk.start).min(WIDEN_LEN).min(*room);
            range.start -= before;
            *room -= before;
            let after = (chunk.end - range.end).min(WIDEN_LEN).min(*room);
            range.end += after;
            *room -= after;
        }
    }
}
