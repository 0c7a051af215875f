//! Which parts of the old stream become the prefix of a delta.

use std::ops::Range;

use super::PIECE_LEN;
use super::matching::Candidate;
use crate::format::{BASES_MAX, PREFIX_LEN_MAX, SLICES_MAX, WORK_WRITE_MAX};

/// A chunk of the old stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OldChunk {
    /// Where it lies in the old stream, in bytes.
    pub range: Range<u64>,
    /// The work of the copy that would be its base.
    pub work: u32,
}

/// TUNE
#[derive(Debug, Clone)]
pub struct Tuning {
    pub bases: usize,
    pub prefix: usize,
    pub gap: u64,
    pub extend: u64,
    pub min_base: u32,
    pub min_piece: u32,
    pub order: u32,
    pub work: u32,
}

impl Default for Tuning {
    fn default() -> Self {
        Tuning { bases: BASES_MAX, prefix: PREFIX_LEN_MAX, gap: 0, extend: 0, min_base: 1, min_piece: 1, order: 0, work: WORK_WRITE_MAX }
    }
}

struct Base {
    range: Range<u64>,
    work: u32,
    votes: u32,
    pieces: Vec<Candidate>,
}

/// Chooses.
pub fn choose(candidates: &[Candidate], mut chunk_at: impl FnMut(u64) -> Option<OldChunk>, tuning: &Tuning) -> Vec<Range<u64>> {
    let mut bases: Vec<Base> = Vec::new();
    for candidate in candidates {
        let middle = candidate.offset() + PIECE_LEN as u64 / 2;
        let known = bases.last().is_some_and(|base| base.range.contains(&middle));
        if !known {
            let Some(chunk) = chunk_at(middle).or_else(|| chunk_at(candidate.offset())) else { continue };
            bases.push(Base { range: chunk.range, work: chunk.work, votes: 0, pieces: Vec::new() });
        }
        let Some(base) = bases.last_mut() else { continue };
        base.votes += candidate.votes;
        base.pieces.push(*candidate);
    }
    bases.retain(|base| base.votes >= tuning.min_base);
    bases.sort_by_key(|base| std::cmp::Reverse(base.votes));
    let mut work = 1;
    let mut taken: Vec<Base> = Vec::new();
    for base in bases {
        if taken.len() < tuning.bases && work + base.work <= tuning.work {
            work += base.work;
            taken.push(base);
        }
    }
    let mut pieces: Vec<(u32, u64, usize)> = Vec::new();
    for (index, base) in taken.iter().enumerate() {
        for piece in &base.pieces {
            if piece.votes >= tuning.min_piece {
                pieces.push((piece.votes, piece.offset(), index));
            }
        }
    }
    pieces.sort_by_key(|&(votes, offset, index)| (std::cmp::Reverse(votes), index, offset));
    let mut room = tuning.prefix as u64;
    let mut runs: Vec<(Range<u64>, u32)> = Vec::new();
    for (votes, offset, index) in pieces {
        let Some(base) = taken.get(index) else { continue };
        let start = offset.saturating_sub(tuning.extend).max(base.range.start);
        let end = (offset + PIECE_LEN as u64 + tuning.extend).min(base.range.end);
        if start >= end || end - start > room {
            continue;
        }
        room -= end - start;
        runs.push((start..end, votes));
    }
    runs.sort_by_key(|(run, _)| run.start);
    let mut merged: Vec<(Range<u64>, u32, usize)> = Vec::new();
    for (run, votes) in runs {
        let index = taken.iter().position(|base| base.range.contains(&run.start)).unwrap_or(0);
        match merged.last_mut() {
            Some((last, sum, base)) if *base == index && run.start <= last.end + tuning.gap.min(room) => {
                room -= run.start.saturating_sub(last.end);
                last.end = last.end.max(run.end);
                *sum += votes;
            }
            _ => merged.push((run, votes, index)),
        }
    }
    merged.sort_by_key(|(_, votes, _)| std::cmp::Reverse(*votes));
    merged.truncate(SLICES_MAX);
    match tuning.order {
        0 => merged.reverse(),
        1 => merged.sort_by_key(|(run, _, _)| run.start),
        2 => merged.sort_by_key(|(run, _, base)| (std::cmp::Reverse(*base), run.start)),
        _ => {}
    }
    merged.into_iter().map(|(run, _, _)| run).collect()
}
