//! Where things lie, and what a hostile descriptor can ask for.

use super::Random;
use icecore::store::format::parity::{
    COPY_SHARD_LEN, DATA_SHARDS_MAX, DESCRIPTOR_LEN, Geometry, PARITY_PERCENT_MAX, PARITY_SECTOR_LEN, PARITY_SHARDS_MIN, PROTECTED_LEN_MAX,
    record_len,
};

#[test]
fn parts_follow_each_other_and_fill_the_object() {
    let mut random = Random::new(1);
    for _ in 0..2000 {
        let head_len = 1 + random.number() % (1 << (5 + random.below(20)));
        let tail_len = (random.number() % (1 << random.below(18))) as u32;
        let percent = 1 + random.below(usize::from(PARITY_PERCENT_MAX)) as u8;
        let geometry = Geometry::of_pack(head_len, tail_len, percent);
        let mut at = 0;
        let shards: Vec<(u64, u64)> = (0..geometry.data_shards()).map(|number| geometry.data_shard(number)).collect();
        for (start, len) in &shards {
            let expected = if at == head_len { head_len + geometry.section_len() } else { at };
            assert_eq!(*start, expected);
            assert!(*len > 0 && *len <= u64::from(geometry.shard_len()));
            at = start + len;
        }
        assert!(tail_len == 0 || at == geometry.object_len());
        let mut spares: Vec<(u64, u64)> = (0..geometry.spare_shards()).map(|number| geometry.spare_shard(number)).collect();
        spares.sort_unstable();
        let mut spare = geometry.spare_start();
        for (start, len) in spares {
            assert_eq!(start, spare);
            spare += len;
        }
        assert_eq!(spare, geometry.second_table());
        assert_eq!(Geometry::decode(&geometry.encode()), Ok(geometry));
        if geometry.is_copy() {
            assert!(geometry.spare_len() == head_len + u64::from(tail_len) && geometry.shard_len() == COPY_SHARD_LEN);
            continue;
        }
        assert!(geometry.spare_start().is_multiple_of(PARITY_SECTOR_LEN.into()));
        assert!(geometry.data_shards() <= DATA_SHARDS_MAX.into());
        assert!(geometry.spare_shards() >= PARITY_SHARDS_MIN.into());
        assert!(geometry.spare_shards() * 100 >= geometry.data_shards() * u64::from(percent));
        assert!(
            geometry.section_len() < head_len + u64::from(tail_len) + (head_len + u64::from(tail_len)) / 16 + 256,
            "no more than a copy"
        );
    }
}

#[test]
fn a_large_pack_has_longer_shards_and_no_more_of_them() {
    let geometry = Geometry::of_pack(64 << 20, 1 << 20, 3);
    assert_eq!(geometry.shard_len(), 5 * PARITY_SECTOR_LEN);
    assert!(geometry.data_shards() <= DATA_SHARDS_MAX.into());
    assert_eq!(Geometry::decode(&geometry.encode()), Ok(geometry));
}

#[test]
fn descriptors_beyond_the_bounds_are_refused() {
    let descriptor = |head_len: u64, tail_len: u32, shard_len: u32, parity_shards: u32, zero: u32| {
        let mut bytes = Geometry::of_record(1).encode().to_vec();
        bytes[8..16].copy_from_slice(&head_len.to_le_bytes());
        bytes[16..20].copy_from_slice(&tail_len.to_le_bytes());
        bytes[20..24].copy_from_slice(&shard_len.to_le_bytes());
        bytes[24..28].copy_from_slice(&parity_shards.to_le_bytes());
        bytes[28..32].copy_from_slice(&zero.to_le_bytes());
        let hash = blake3::hash(&bytes[..32]);
        bytes[32..].copy_from_slice(&hash.as_bytes()[..16]);
        <[u8; DESCRIPTOR_LEN]>::try_from(bytes).unwrap()
    };
    let takes = |bytes: &[u8; DESCRIPTOR_LEN]| {
        let taken = Geometry::decode(bytes).is_ok();
        assert!(taken || Geometry::decode_damaged(bytes).is_none_or(|geometry| geometry.encode() != *bytes));
        taken
    };
    assert!(takes(&descriptor(100_000, 80, 4096, 2, 0)));
    assert!(takes(&descriptor(100_000, 80, 256, 0, 0)));
    let refused = [
        (0, 80, 4096, 2, 0),
        (100_000, 80, 0, 2, 0),
        (100_000, 80, 0, 0, 0),
        (100_000, 80, 4095, 2, 0),
        (100_000, 80, 4096, 1, 0),
        (100_000, 80, 4096, 27, 0),
        (100_000, 80, 4096, 2, 1),
        (100_000, 80, 4096, 0, 0),
        (100_000, 80, u32::MAX, 2, 0),
        (100_000, 80, 0xffff_f000, 2, 0),
        (1 << 26, 80, 4096, 2, 0),
        (PROTECTED_LEN_MAX, 0, 1 << 20, 2, 0),
        (u64::MAX, u32::MAX, 256, 0, 0),
        (u64::MAX, u32::MAX, u32::MAX, u32::MAX, u32::MAX),
    ];
    for (head_len, tail_len, shard_len, parity_shards, zero) in refused {
        assert!(
            !takes(&descriptor(head_len, tail_len, shard_len, parity_shards, zero)),
            "{head_len} {tail_len} {shard_len} {parity_shards}"
        );
    }
}

#[test]
fn any_one_damaged_byte_of_a_descriptor_is_put_right() {
    let geometry = Geometry::of_pack(1_000_000, 5000, 3);
    for place in 0..DESCRIPTOR_LEN {
        for flip in [1, 0x80, 0xff] {
            let mut bytes = geometry.encode();
            bytes[place] ^= flip;
            assert!(Geometry::decode(&bytes).is_err());
            assert_eq!(Geometry::decode_damaged(&bytes), Some(geometry), "byte {place}");
        }
    }
}

#[test]
fn a_record_without_its_section_is_told() {
    let mut random = Random::new(2);
    let object = super::Object::record(&mut random, 700);
    assert_eq!(record_len(&object.bytes), Ok(700));
    assert!(record_len(&object.bytes[..700]).is_err());
    assert!(record_len(&object.bytes[1..]).is_err());
    assert!(record_len(&[]).is_err());
    // A section of another shape.
    assert!(record_len(&super::Object::pack(&mut random, 100_000, 0, 3).bytes).is_err());
}
