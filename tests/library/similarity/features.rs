use icecore::store::codec::similarity::{FEATURES, FEATURES_LEN, Features, PIECE_LEN, Sampler};

use super::{Random, features_of};

fn anchors(features: &[Features]) -> Vec<u32> {
    features.iter().flat_map(|features| features.anchors().collect::<Vec<_>>()).collect()
}

#[test]
fn the_same_piece_has_the_same_features_in_each_run() {
    let piece = Random(1).bytes(PIECE_LEN);
    let features = Sampler::new(42).features(&piece);
    assert_eq!(features, Sampler::new(42).features(&piece));
    // Stored features outlive the program. A change of the hash needs a change of GEAR_CONTEXT, and of this test.
    assert_eq!(features.anchors().collect::<Vec<_>>(), [1_908_075_274, 3_695_688_735, 3_113_188_401, 532_158_803]);
}

#[test]
fn another_seed_gives_other_features() {
    let pieces = Random::new(2).pieces(500);
    let (one, other) = (anchors(&features_of(&Sampler::new(1), &pieces)), anchors(&features_of(&Sampler::new(2), &pieces)));
    assert!(one.len() > 1950 && other.len() > 1950, "{} and {} of 2000 quarters have anchors", one.len(), other.len());
    assert!(one.iter().all(|anchor| !other.contains(anchor)));
}

#[test]
fn pieces_with_nothing_to_tell_have_no_features() {
    let mut random = Random::new(3);
    for seed in 0..20 {
        let sampler = Sampler::new(seed);
        for byte in 0..=u8::MAX {
            assert!(sampler.features(&[byte; PIECE_LEN]).is_empty(), "byte {byte} of seed {seed}");
        }
    }
    let sampler = Sampler::new(random.draw());
    for len in [0, 1, 3, 4, 5, 47, 48, 100, 191] {
        assert!(sampler.features(&random.bytes(len)).is_empty(), "{len} bytes");
    }
    // A few bytes in zeros: the places are few, not one for each offset.
    let mut sparse = vec![0; PIECE_LEN];
    sparse[1000..1008].copy_from_slice(&random.draw().to_le_bytes());
    assert!(sampler.features(&sparse).anchors().count() <= 2);
}

#[test]
fn a_shift_keeps_most_features() {
    let sampler = Sampler::new(1);
    let mut random = Random::new(4);
    let (mut kept, mut all) = (0, 0);
    for _ in 0..300 {
        let text = random.bytes(PIECE_LEN + 64);
        let shift = 1 + random.below(64) as usize;
        let old = sampler.features(&text[..PIECE_LEN]);
        let new: Vec<u32> = sampler.features(&text[shift..][..PIECE_LEN]).anchors().collect();
        all += old.anchors().count();
        kept += old.anchors().filter(|anchor| new.contains(anchor)).count();
    }
    assert!(all > 300 * FEATURES * 97 / 100, "{all}");
    // An anchor is lost if it lies among the bytes that the shift takes from the search: 32 of them on average, one anchor for 128.
    assert!(kept * 100 > all * 65, "{kept} of {all}");
}

#[test]
fn features_are_kept_as_bytes() {
    let features = Sampler::new(5).features(&Random::new(5).bytes(PIECE_LEN));
    let bytes = features.to_bytes();
    assert_eq!(Features::from_bytes(&bytes), features);
    assert_eq!(bytes[..4], features.anchors().next().unwrap().to_le_bytes());
    assert_eq!(Features::from_bytes(&[0; FEATURES_LEN]), Features::EMPTY);
    assert_eq!(Features::EMPTY.anchors().count(), 0);
}
