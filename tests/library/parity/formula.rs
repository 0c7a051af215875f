//! Parity shards are what the formula in store-format.md says, computed here by the formula alone.

use icecore::store::format::parity::Geometry;

use super::{Object, Random};

/// The polynomial and the basis, as the page has them.
const POLYNOMIAL: u32 = 0x1002D;
const BASIS: [u16; 16] =
    [0x0001, 0xACCA, 0x3C0E, 0x163E, 0xC582, 0xED2E, 0x914C, 0x4012, 0x6C98, 0x10D8, 0x6A72, 0xB900, 0xFDB8, 0xFB34, 0xFF38, 0x991E];

/// The element of the field that a number stands for.
fn element(number: u16) -> u16 {
    (0..16).filter(|bit| number >> bit & 1 == 1).fold(0, |sum, bit| sum ^ BASIS[bit])
}

fn product(a: u16, b: u16) -> u16 {
    let (mut a, mut sum) = (u32::from(a), 0);
    for bit in 0..16 {
        if b >> bit & 1 == 1 {
            sum ^= a;
        }
        a <<= 1;
        if a & 0x10000 != 0 {
            a ^= POLYNOMIAL;
        }
    }
    sum as u16
}

/// a^(2^16 - 2) = 1/a.
fn inverse(a: u16) -> u16 {
    (1..16).fold((1, a), |(inverse, power), _| (product(inverse, product(power, power)), product(power, power))).0
}

/// Number `at` of a shard that counts as filled up with zeros: of 64 bytes the low ones come first.
fn number(shard: &[u8], at: usize) -> u16 {
    let byte = |place: usize| shard.get(place).copied().unwrap_or(0);
    let place = at / 32 * 64 + at % 32;
    u16::from_le_bytes([byte(place), byte(place + 32)])
}

/// Number `at` of parity shard `j`, as an element of the field.
fn parity(data: &[&[u8]], group: usize, j: u16, at: usize) -> u16 {
    let mut sum = 0;
    for (number_of_group, shards) in data.chunks(group).enumerate() {
        let place = |i: usize| element(u16::try_from(group * (number_of_group + 1) + i).unwrap());
        for (i, shard) in shards.iter().enumerate() {
            let (mut above, mut below) = (element(number(shard, at)), 1);
            for other in (0..group).filter(|other| *other != i) {
                above = product(above, element(j) ^ place(other));
                below = product(below, place(i) ^ place(other));
            }
            sum ^= product(above, inverse(below));
        }
    }
    sum
}

#[test]
fn parity_shards_follow_the_formula() {
    let mut random = Random::new(20261130);
    for (head_len, tail_len, percent) in [(50_000, 700, 20), (300_000, 5000, 3), (200_000, 9000, 50)] {
        let object = Object::pack(&mut random, head_len, tail_len, percent);
        let geometry: &Geometry = &object.geometry;
        assert!(!geometry.is_copy());
        let part = |(from, len): (u64, u64)| &object.bytes[from as usize..(from + len) as usize];
        let data: Vec<&[u8]> = (0..geometry.data_shards()).map(|shard| part(geometry.data_shard(shard))).collect();
        let group = (geometry.spare_shards() as usize).next_power_of_two();
        for _ in 0..8 {
            let (shard, at) = (random.below(geometry.spare_shards() as usize), random.below(geometry.shard_len() as usize / 2));
            let stored = number(part(geometry.spare_shard(shard as u64)), at);
            assert_eq!(parity(&data, group, shard as u16, at), element(stored), "shard {shard}, number {at}");
        }
    }
}

#[test]
fn the_page_has_the_basis() {
    let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/store-format.md")).unwrap();
    let words: Vec<String> = BASIS.iter().map(|element| format!("{element:04X}")).collect();
    assert!(page.contains(&words.join(" ")), "store-format.md does not have {}", words.join(" "));
    assert!(page.contains(&format!("0x{POLYNOMIAL:X}")));
}
