use icecore::store::codec::similarity::matching::{BATCH_ANCHORS_MAX, BATCH_CHUNKS_MAX, Batch, Matcher, SHARED_MAX, VOTES_UNIQUE};
use icecore::store::codec::similarity::{Features, PIECE_LEN, Sampler};
use icecore::store::format::CHUNK_LEN_MAX;

use super::{Random, features_of, found};

#[test]
fn moved_pieces_are_found_wherever_they_went() {
    let mut random = Random::new(10);
    let old = random.pieces(400);
    // Sixteen pieces out of order in each chunk, at odd offsets.
    let picks: Vec<Vec<usize>> = (0..25).map(|_| (0..16).map(|_| random.below(400) as usize).collect()).collect();
    let new: Vec<Vec<u8>> = picks
        .iter()
        .map(|picks| {
            let lead = 1 + random.below(900) as usize;
            picks.iter().fold(random.bytes(lead), |chunk, &pick| [chunk, old[pick].clone()].concat())
        })
        .collect();
    for (picks, candidates) in picks.iter().zip(found(&old, &new)) {
        let mut wanted = picks.clone();
        wanted.sort_unstable();
        wanted.dedup();
        // All, only these, and in order.
        assert_eq!(candidates.iter().map(|candidate| candidate.piece as usize).collect::<Vec<_>>(), wanted);
        assert!(candidates.iter().all(|candidate| candidate.votes >= 3 * VOTES_UNIQUE && candidate.votes <= 4 * VOTES_UNIQUE));
    }
}

#[test]
fn half_a_piece_is_enough() {
    let mut random = Random::new(11);
    let old = random.pieces(500);
    let new: Vec<Vec<u8>> = old.iter().map(|piece| [random.bytes(3000), piece[1024..3072].to_vec(), random.bytes(3000)].concat()).collect();
    let hits = found(&old, &new).iter().enumerate().filter(|(number, found)| found.iter().any(|c| c.piece as usize == *number)).count();
    assert!(hits >= 495, "{hits} of 500");
}

#[test]
fn unrelated_content_is_not_found() {
    let mut random = Random::new(12);
    let (old, mut new) = (random.pieces(2000), random.pieces(300));
    new.push(vec![0; 1 << 16]);
    let candidates: usize = found(&[old, vec![vec![0; PIECE_LEN]; 100]].concat(), &new).iter().map(Vec::len).sum();
    // 300 x 32 anchors against 8,000 features of 32 bits: one by chance in 60 runs.
    assert!(candidates <= 1, "{candidates}");
}

#[test]
fn boilerplate_has_no_votes() {
    let mut random = Random::new(13);
    let piece = random.bytes(PIECE_LEN);
    let copies = |count: usize| vec![piece.clone(); count];
    for old in 1..=usize::from(SHARED_MAX) {
        let candidates = found(&copies(old), &copies(1)).remove(0);
        assert_eq!(candidates.len(), old);
        assert!(candidates.iter().all(|candidate| candidate.votes == 4 * (VOTES_UNIQUE / old as u32)), "{old}: {candidates:?}");
    }
    assert_eq!(found(&copies(usize::from(SHARED_MAX) + 1), &copies(1))[0], []);
    assert_eq!(found(&copies(1), &copies(usize::from(SHARED_MAX))).iter().filter(|found| found.len() == 1).count(), 16);
    assert!(found(&copies(1), &copies(usize::from(SHARED_MAX) + 1)).iter().all(Vec::is_empty));
}

#[test]
fn a_batch_takes_what_it_holds_and_no_more() {
    let sampler = Sampler::new(1);
    let mut random = Random::new(14);
    let mut batch = Batch::new();
    assert!(batch.is_empty());
    assert_eq!(batch.add(&sampler, &random.bytes(CHUNK_LEN_MAX as usize)), Some(0));
    let chunk = random.bytes(CHUNK_LEN_MAX as usize);
    let mut number = 0;
    while let Some(next) = batch.add(&sampler, &chunk) {
        number += 1;
        assert_eq!(next, number);
    }
    // One anchor for 128 bytes.
    assert!((245..270).contains(&number), "{number}");
    let other = random.bytes(CHUNK_LEN_MAX as usize);
    assert_eq!(batch.add(&sampler, &other), None);
    // What did not fit has left nothing behind that another chunk with its number could take for its own.
    let piece = random.bytes(PIECE_LEN);
    assert_eq!(batch.add(&sampler, &piece), Some(number + 1));
    let mut matcher = Matcher::new(batch);
    matcher.pass([sampler.features(&piece), sampler.features(&other[..PIECE_LEN])]);
    let found: Vec<u32> = matcher.finish().of(number + 1).iter().map(|candidate| candidate.piece).collect();
    assert_eq!(found, [0]);

    let mut batch = Batch::new();
    assert!((0..BATCH_CHUNKS_MAX).all(|number| batch.add(&sampler, &[]) == Some(number)));
    assert_eq!(batch.add(&sampler, &[]), None);
}

/// The bound of the design, with a full batch and an old stream that hits it so often that hits must be dropped.
#[test]
fn memory_is_bounded_and_the_rarest_hits_stay() {
    let sampler = Sampler::new(1);
    let mut random = Random::new(15);
    let pieces: Vec<Vec<u8>> = (0..BATCH_ANCHORS_MAX / 540).map(|_| random.bytes(1 << 16)).collect();
    let features: Vec<Features> = pieces.iter().flat_map(|chunk| chunk.chunks(PIECE_LEN).map(|piece| sampler.features(piece))).collect();
    let unique = features.len() / 2;
    let mut found = (0, 0);
    let info = allocation_counter::measure(|| {
        let mut batch = Batch::new();
        let numbers: Vec<u32> = pieces.iter().map_while(|chunk| batch.add(&sampler, chunk)).collect();
        assert_eq!(numbers.len(), pieces.len());
        let mut matcher = Matcher::new(batch);
        // The first half once, the others ten times: 1.3 million hits.
        matcher.pass(features.iter().copied());
        (0..10).for_each(|_| matcher.pass(features[unique..].iter().copied()));
        let matches = matcher.finish();
        for number in numbers {
            let candidates = matches.of(number);
            let half = if (number as usize * 16) < unique { &mut found.0 } else { &mut found.1 };
            *half += candidates.len();
        }
    });
    assert!(info.bytes_max <= 32 << 20, "{} bytes", info.bytes_max);
    assert!(info.bytes_max >= 24 << 20, "the batch was not full: {} bytes", info.bytes_max);
    assert!(found.0 >= unique * 99 / 100, "{} of {unique} pieces that occur once were found", found.0);
    // Some anchors are those of another piece by chance.
    assert!(found.1 < 200, "hits were not dropped: {}", found.1);
}

#[test]
fn in_a_long_old_stream_one_feature_is_not_enough() {
    let votes_min = |pieces: usize| {
        let mut matcher = Matcher::new(Batch::new());
        matcher.pass(std::iter::repeat_n(Features::EMPTY, pieces));
        matcher.finish().votes_min()
    };
    assert_eq!(votes_min(0), VOTES_UNIQUE);
    assert_eq!(votes_min(1 << 20), VOTES_UNIQUE);
    assert_eq!(votes_min((1 << 20) + 1), VOTES_UNIQUE + 1);
}

#[test]
fn any_kept_bytes_are_features() {
    let mut random = Random::new(16);
    let sampler = Sampler::new(1);
    let old = random.pieces(100);
    let mut batch = Batch::new();
    for piece in &old {
        batch.add(&sampler, piece).unwrap();
    }
    let mut features = features_of(&sampler, &old);
    for _ in 0..10_000 {
        let wild: [u8; 16] = std::array::from_fn(|_| random.draw() as u8);
        features.push(Features::from_bytes(&wild));
        let kept = features[random.below(100) as usize].to_bytes();
        // The same anchor four times in one piece.
        features.push(Features::from_bytes(&[&kept[..4]; 4].concat().try_into().unwrap()));
    }
    let mut matcher = Matcher::new(batch);
    matcher.pass(features.iter().copied());
    let matches = matcher.finish();
    for number in 0..100 {
        for candidate in matches.of(number) {
            assert!((candidate.piece as usize) < features.len());
            assert!((1..=4 * VOTES_UNIQUE).contains(&candidate.votes));
        }
    }
    assert_eq!(matches.of(100), []);
    assert_eq!(matches.of(u32::MAX), []);
}
