use std::collections::BTreeSet;
use std::convert::Infallible;
use std::ops::Range;

use icecore::store::codec::similarity::PIECE_LEN;
use icecore::store::codec::similarity::matching::{Candidate, VOTES_UNIQUE};
use icecore::store::codec::similarity::slices::{Limits, OldChunk, Slice, choose};
use icecore::store::codec::{Decoder, Encoder};
use icecore::store::format::{BASES_MAX, PREFIX_LEN_MAX, SLICES_MAX, WORK_WRITE_MAX};

use super::{Random, found};

const CHUNK_LEN: u64 = 64 << 10;
const PIECE: u64 = PIECE_LEN as u64;

fn votes(piece: u32, votes: u32) -> Candidate {
    Candidate { piece, votes: votes * VOTES_UNIQUE }
}

/// Slices of a stream of 100 chunks of 64 KiB.
fn ranges(candidates: &[Candidate], limits: Limits, work: impl Fn(u64) -> Option<u32>) -> Vec<Range<u64>> {
    let chunk_at = |at: u64| {
        let number = at / CHUNK_LEN;
        let range = number * CHUNK_LEN..(number + 1) * CHUNK_LEN;
        Ok::<_, Infallible>(work(number).filter(|_| number < 100).map(|work| OldChunk { range, work }))
    };
    choose(candidates, limits, chunk_at).unwrap().into_iter().map(|slice| slice.range).collect()
}

fn pieces(range: Range<u64>) -> Range<u64> {
    range.start * PIECE..range.end * PIECE
}

#[test]
fn the_best_base_is_last_and_near_pieces_are_one_slice() {
    let all = Limits::default();
    assert_eq!(ranges(&[], all, |_| Some(1)), []);
    // One chunk with 3 votes, one with 6; a gap of four pieces is filled, one of five is not.
    let candidates = [votes(0, 3), votes(17, 2), votes(22, 2), votes(28, 2)];
    let wide = |start: u64, end: u64| start * PIECE - 1024..end * PIECE + 1024;
    assert_eq!(ranges(&candidates, all, |_| Some(1)), [pieces(0..1), wide(17, 23), pieces(28..29)]);
    // Blocks of pieces get longer, but not past their chunk.
    assert_eq!(
        ranges(&[votes(15, 1), votes(16, 1), votes(17, 1)], all, |_| Some(1)),
        [15 * PIECE..16 * PIECE, 16 * PIECE..18 * PIECE + 1024]
    );
    // Less than one feature of its own: no base.
    assert_eq!(ranges(&[Candidate { piece: 3, votes: VOTES_UNIQUE - 1 }], all, |_| Some(1)), []);
    let two = Limits { votes: VOTES_UNIQUE + 1, ..all };
    assert_eq!(ranges(&[votes(3, 1), votes(17, 1), votes(40, 1), votes(44, 1)], two, |_| Some(1)), [wide(40, 45)]);
    // Past the end, or not to be used.
    assert_eq!(ranges(&[votes(5, 4), votes(1600, 4), votes(u32::MAX, 4)], all, |_| Some(1)), [pieces(5..6)]);
    assert_eq!(ranges(&[votes(5, 4), votes(40, 4)], all, |number| (number != 0).then_some(1)), [pieces(40..41)]);
}

#[test]
fn the_best_is_kept_when_something_must_go() {
    let all = Limits::default();
    let many: Vec<Candidate> = (0..100).map(|number| votes(16 * number, 1 + number % 4)).collect();
    let bases = ranges(&many, Limits { bases: 25, ..all }, |_| Some(1));
    assert_eq!(bases.len(), 25);
    assert!(bases.iter().all(|range| range.start / CHUNK_LEN % 4 == 3));
    let prefix = ranges(&many, Limits { prefix_len: 10 * PIECE_LEN + 100, ..all }, |_| Some(1));
    assert_eq!(prefix.len(), 10);
    assert!(prefix.iter().all(|range| range.start / CHUNK_LEN % 4 == 3));
    // 1 + 3 x 42 is 127: the dear ones with equal votes do not come in.
    let work = ranges(&many, all, |number| Some(if number % 8 == 3 { 90 } else { 9 }));
    assert_eq!(work.len(), 14);
    assert!(work.iter().all(|range| range.start / CHUNK_LEN % 8 != 3));
    assert_eq!(ranges(&[votes(0, 4)], all, |_| Some(WORK_WRITE_MAX)), []);
    assert_eq!(ranges(&[votes(0, 4)], all, |_| Some(WORK_WRITE_MAX - 1)), [pieces(0..1)]);
    assert_eq!(ranges(&[votes(0, 4), votes(90, 4)], Limits { bases: 0, ..all }, |_| Some(1)), []);
}

#[test]
fn an_error_of_the_caller_comes_back() {
    assert_eq!(choose(&[votes(1, 4)], Limits::default(), |_| Err("no tree")), Err("no tree"));
}

#[test]
fn a_piece_in_two_chunks_gives_a_part_of_each() {
    let bounds = [0, 10_000, 50_000, 50_100, 80_000];
    let chunk_at = |at: u64| {
        let place = bounds.windows(2).find(|bounds| (bounds[0]..bounds[1]).contains(&at));
        Ok::<_, Infallible>(place.map(|bounds| OldChunk { range: bounds[0]..bounds[1], work: 1 }))
    };
    // Piece 2 is 8192..12288. Piece 12 is 49152..53248: its middle is in the last chunk; the chunk of 100 bytes is no base.
    let slices = choose(&[votes(1, 1), votes(2, 1), votes(4, 2), votes(12, 1)], Limits::default(), chunk_at).unwrap();
    let expected =
        [(50_100..80_000, 50_100..53_248), (0..10_000, 3072..10_000), (10_000..50_000, 10_000..21_504), (10_000..50_000, 49_152..50_000)];
    let expected: Vec<Slice> = expected.into_iter().map(|(chunk, range)| Slice { chunk, range }).collect();
    assert_eq!(slices, expected);
}

#[test]
fn limits_hold_for_any_candidates() {
    let mut random = Random::new(20);
    let (mut full_prefix, mut full_slices, mut full_bases) = (0, 0, 0);
    for round in 0..600 {
        let longest = [3_000, 20_000, 70_000, 1 << 20][round % 4];
        let mut bounds = vec![0];
        while bounds.len() < 400 {
            bounds.push(bounds.last().unwrap() + 1 + random.below(longest));
        }
        let span = bounds.last().unwrap() / PIECE + 3;
        let candidates: Vec<Candidate> = (0..random.below(2000))
            .map(|_| Candidate {
                piece: random.below(span) as u32,
                votes: (random.below(65)) as u32 * [1, 1 << 25][random.below(60) as usize / 59],
            })
            .collect();
        let limits = Limits {
            bases: random.below(80) as usize,
            prefix_len: random.below(2 << 20) as usize,
            votes: random.below(40) as u32,
            work: [u32::MAX, WORK_WRITE_MAX, random.below(200) as u32][round % 3],
        };
        let works: Vec<u32> = (0..bounds.len()).map(|_| [0, 1, random.below(40) as u32, u32::MAX][random.below(4) as usize]).collect();
        let number_at = |at: u64| bounds.partition_point(|&bound| bound <= at) - 1;
        let chunk_at = |at: u64| {
            let number = number_at(at);
            Ok::<_, Infallible>(bounds.get(number + 1).map(|&end| OldChunk { range: bounds[number]..end, work: works[number] }))
        };
        let slices = choose(&candidates, limits, chunk_at).unwrap();
        let bases: BTreeSet<usize> = slices.iter().map(|slice| number_at(slice.range.start)).collect();
        let prefix: u64 = slices.iter().map(|slice| slice.range.end - slice.range.start).sum();
        let work = bases.iter().fold(1_u64, |work, &number| work + u64::from(works[number]));
        assert!(slices.len() <= SLICES_MAX);
        assert!(bases.len() <= BASES_MAX.min(limits.bases));
        assert!(prefix <= PREFIX_LEN_MAX.min(limits.prefix_len) as u64);
        assert!(slices.is_empty() || work <= u64::from(WORK_WRITE_MAX.min(limits.work)));
        for slice in &slices {
            assert_eq!(Ok(Some(slice.chunk.clone())), chunk_at(slice.range.start).map(|chunk| chunk.map(|chunk| chunk.range)));
            assert!(slice.range.start < slice.range.end && slice.range.end <= slice.chunk.end, "{slice:?}");
        }
        let mut sorted: Vec<&Range<u64>> = slices.iter().map(|slice| &slice.range).collect();
        sorted.sort_by_key(|range| range.start);
        assert!(sorted.windows(2).all(|pair| pair[0].end <= pair[1].start), "overlap: {sorted:?}");
        full_prefix += usize::from(prefix + 2 * PIECE > PREFIX_LEN_MAX.min(limits.prefix_len) as u64);
        full_slices += usize::from(slices.len() == SLICES_MAX);
        full_bases += usize::from(!slices.is_empty() && bases.len() == BASES_MAX.min(limits.bases));
    }
    // Else the test says nothing about the limits.
    assert!(full_prefix > 20 && full_slices > 20 && full_bases > 20, "{full_prefix} {full_slices} {full_bases}");
}

#[test]
fn moved_content_becomes_a_small_delta() {
    let mut random = Random::new(21);
    let old = random.pieces(1000);
    let new: Vec<Vec<u8>> = (0..20)
        .map(|_| {
            let picks = (0..15).map(|_| old[random.below(1000) as usize][100..].to_vec());
            picks.collect::<Vec<_>>().concat()
        })
        .collect();
    let (mut encoder, mut decoder) = (Encoder::new().unwrap(), Decoder::new().unwrap());
    let (mut encoded, mut decoded) = (Vec::new(), Vec::new());
    let stream = old.concat();
    for (chunk, candidates) in new.iter().zip(found(&old, &new)) {
        let prefix: Vec<u8> = ranges(&candidates, Limits::default(), |_| Some(1))
            .into_iter()
            .flat_map(|range| stream[range.start as usize..range.end as usize].iter().copied())
            .collect();
        encoder.encode(chunk, &prefix, &mut encoded).unwrap();
        assert!(encoded.len() < 400, "{} bytes", encoded.len());
        decoder.decode(&encoded, &prefix, chunk.len() as u32, &mut decoded).unwrap();
        assert!(decoded == *chunk);
    }
}
