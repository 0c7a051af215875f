//! Bursts, scattered flips, lost sectors, cut and lengthened objects.

use super::{Object, Random, proof};
use icecore::store::format::parity::Geometry;

/// Head, tail and percent of objects of all shapes: copies, the fewest shards, many, shards of several sectors.
const SHAPES: [(usize, usize, u8); 8] = [
    (300, 140, 3),
    (5_000, 700, 3),
    (11_000, 1_300, 1),
    (40_960, 4_096, 3),
    (100_001, 8_193, 3),
    (700_000, 9_000, 10),
    (2_000_000, 60_000, 3),
    (17_500_000, 300_000, 1),
];

fn objects(seed: u64) -> (Random, Vec<Object>) {
    let mut random = Random::new(seed);
    let mut objects: Vec<Object> = SHAPES.iter().map(|(head, tail, percent)| Object::pack(&mut random, *head, *tail, *percent)).collect();
    objects.extend([60, 200, 512, 70_000].map(|len| Object::record(&mut random, len)));
    assert!(objects.iter().any(|object| !object.geometry.is_copy() && object.geometry.spare_shards() == 2));
    assert!(objects.iter().any(|object| object.geometry.is_copy() && object.geometry.data_shards() > 4));
    assert!(objects.iter().any(|object| object.geometry.shard_len() > 4096));
    (random, objects)
}

/// How often, so that the large ones do not take all the time.
fn rounds(object: &Object) -> usize {
    (10_000_000 / (object.bytes.len() + 100_000)).clamp(4, 60)
}

#[test]
fn flips_up_to_the_number_of_parity_shards_are_healed() {
    let (mut random, objects) = objects(11);
    let mut flips = 0;
    for object in objects.iter().filter(|object| !object.geometry.is_copy()) {
        for _ in 0..rounds(object) {
            let mut damaged = object.bytes.clone();
            for _ in 0..1 + random.below(object.geometry.spare_shards() as usize) {
                let place = random.below(damaged.len());
                damaged[place] ^= 1 << random.below(8);
                flips += 1;
            }
            assert!(object.heal(&damaged).is_some());
        }
    }
    println!("{flips} scattered flips healed");
}

/// The two shards that the descriptors cost are in the budget too.
#[test]
fn flips_in_both_descriptors_and_tables_are_healed() {
    let (mut random, objects) = objects(12);
    for object in &objects {
        for _ in 0..rounds(object) {
            let mut damaged = object.bytes.clone();
            let geometry = &object.geometry;
            for start in [geometry.head_len(), geometry.second_descriptor()] {
                damaged[start as usize + random.below(48)] ^= 1 << random.below(8);
            }
            assert!(object.heal(&damaged).is_some());
            let mut damaged = object.bytes.clone();
            let entry = random.below(geometry.table_len() as usize) as u64;
            for table in [geometry.first_table(), geometry.second_table()] {
                damaged[(table + entry) as usize] ^= 0xff;
            }
            assert!(object.heal(&damaged).is_some());
        }
    }
}

/// One shard fewer than the parity shards, as a burst begins and ends within shards.
#[test]
fn a_burst_is_healed_wherever_it_is() {
    let (mut random, objects) = objects(13);
    for object in &objects {
        let geometry = &object.geometry;
        let burst = if geometry.is_copy() {
            geometry.spare_len().saturating_sub(geometry.shard_len().into()).max(48)
        } else {
            (geometry.spare_shards() - 1) * u64::from(geometry.shard_len())
        };
        let mut starts: Vec<usize> = (0..rounds(object)).map(|_| random.below(object.bytes.len())).collect();
        // Where head, tables, parity and tail meet.
        let edges =
            [geometry.head_len(), geometry.first_table(), geometry.spare_start(), geometry.second_table(), geometry.second_descriptor()];
        let around = |edge: u64| [edge.saturating_sub(burst - 1), edge.saturating_sub(burst / 2), edge.saturating_sub(1), edge];
        starts.extend(edges.into_iter().flat_map(around).map(|start| start as usize));
        starts.extend([0, object.bytes.len() - burst as usize]);
        // In large objects a part of them.
        let one_in = 1 + object.bytes.len() as u64 / 1_000_000;
        for start in proof::some_of(starts, one_in.min(6), random.number()) {
            let mut damaged = object.bytes.clone();
            let end = (start + burst as usize).min(damaged.len());
            let noise = random.bytes(end - start);
            damaged[start..end].copy_from_slice(&noise);
            assert!(object.heal(&damaged).is_some(), "{geometry:?}: {start}..{end}");
            damaged[start..end].fill(0);
            assert!(object.heal(&damaged).is_some(), "{geometry:?}: zeros at {start}..{end}");
        }
    }
}

#[test]
fn as_many_lost_shards_as_there_is_parity_are_healed_and_not_one_more() {
    let (mut random, objects) = objects(14);
    for object in objects.iter().filter(|object| !object.geometry.is_copy()) {
        let geometry = &object.geometry;
        let mut shards: Vec<(u64, u64)> = (0..geometry.data_shards()).map(|number| geometry.data_shard(number)).collect();
        shards.extend((0..geometry.spare_shards()).map(|number| geometry.spare_shard(number)));
        let lose = |damaged: &mut Vec<u8>, (start, len): (u64, u64)| {
            damaged[start as usize..(start + len) as usize].iter_mut().for_each(|byte| *byte = !*byte);
        };
        for _ in 0..rounds(object) / 4 + 1 {
            for place in (1..shards.len()).rev() {
                shards.swap(place, random.below(place + 1));
            }
            let (lost, others) = shards.split_at(geometry.spare_shards() as usize);
            let mut damaged = object.bytes.clone();
            lost.iter().for_each(|shard| lose(&mut damaged, *shard));
            assert!(object.heal(&damaged).is_some());
            // One more, of the data.
            let is_data = |shard: &&(u64, u64)| shard.0 < geometry.head_len() || shard.0 > geometry.second_descriptor();
            lose(&mut damaged, *others.iter().find(is_data).unwrap());
            let data_lost = lost.iter().any(|shard| is_data(&shard));
            assert!(object.heal(&damaged).is_none() || !data_lost);
        }
    }
}

#[test]
fn every_flip_and_every_cut_of_small_objects() {
    let mut random = Random::new(15);
    let small = [Object::pack(&mut random, 700, 150, 3), Object::record(&mut random, 230), Object::pack(&mut random, 20_000, 900, 3)];
    for object in &small {
        let every = if object.geometry.is_copy() { 1 } else { 7 };
        let places = proof::some_of((0..object.bytes.len()).step_by(every).collect(), 5, random.number());
        for &place in &places {
            let mut damaged = object.bytes.clone();
            damaged[place] ^= 0x10;
            assert!(object.heal(&damaged).is_some(), "byte {place}");
        }
        // What is cut off is a burst at the end.
        let sure =
            if object.geometry.is_copy() { object.geometry.spare_len() - 256.min(object.geometry.spare_len()) } else { 4096 } as usize;
        for &len in &places {
            let is_healed = object.heal(&object.bytes[..len]).is_some();
            assert!(is_healed || len + sure < object.bytes.len(), "{len} of {}", object.bytes.len());
        }
        for more in [1, 100, 5000] {
            let longer = [&object.bytes[..], &random.bytes(more)].concat();
            assert!(object.heal(&longer).is_some());
        }
    }
}

/// Whatever the damage, what comes out is the object or nothing ([`Object::heal`] asserts it).
#[test]
fn damage_beyond_the_budget_gives_the_object_or_nothing() {
    let (mut random, objects) = objects(16);
    let (mut healed, mut lost) = (0, 0);
    for object in objects.iter().filter(|object| object.bytes.len() < 1_000_000) {
        for _ in 0..40 {
            let mut damaged = object.bytes.clone();
            for _ in 0..1 + random.below(6) {
                let start = random.below(damaged.len());
                let end = (start + 1 + random.below(20_000)).min(damaged.len());
                let noise = random.bytes(end - start);
                damaged[start..end].copy_from_slice(&noise);
            }
            damaged.truncate(random.below(2 * object.bytes.len()));
            match object.heal(&damaged) {
                Some(_) => healed += 1,
                None => lost += 1,
            }
        }
    }
    assert!(healed > 0 && lost > 0, "{healed} {lost}");
}

/// Every descriptor in it is sound and says something else; nothing is believed.
#[test]
fn bytes_full_of_descriptors_give_nothing() {
    let mut bytes = Vec::new();
    while bytes.len() < 200_000 {
        bytes.extend_from_slice(&Geometry::of_pack(bytes.len() as u64, 100 + bytes.len() as u32, 50).encode());
        let at = bytes.len() as u64;
        bytes.extend_from_slice(&Geometry::of_record(at).encode());
    }
    assert!(icecore::store::codec::reed_solomon::heal(&bytes, &|_| false).is_none());
}

/// The columns in which the code is worked out are no part of the format: the same shards as from the code at once.
#[test]
fn parity_is_that_of_whole_shards() {
    let mut random = Random::new(17);
    let object = Object::pack(&mut random, 17_500_000, 300_000, 1);
    let (geometry, shard_len) = (&object.geometry, object.geometry.shard_len() as usize);
    let mut data: Vec<Vec<u8>> = Vec::new();
    for number in 0..geometry.data_shards() {
        let (start, len) = geometry.data_shard(number);
        let mut shard = object.bytes[start as usize..(start + len) as usize].to_vec();
        shard.resize(shard_len, 0);
        data.push(shard);
    }
    let parity = reed_solomon_simd::encode(data.len(), geometry.spare_shards() as usize, &data).unwrap();
    let start = geometry.spare_start() as usize;
    assert!(object.bytes[start..start + geometry.spare_len() as usize] == parity.concat());
}
