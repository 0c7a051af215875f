//! Parity sections as the page says.

use super::golden;
use super::page::Page;
use super::values;
use icecore::store::codec::reed_solomon::section;
use icecore::store::format::config::Config;
use icecore::store::format::parity::{DESCRIPTOR_CHECKSUM_LEN, DESCRIPTOR_LEN, Geometry, PARITY_MAGIC, SHARD_CHECKSUM_LEN};

#[test]
fn descriptor() {
    let page = Page::read();
    let table = page.bytes_of("Descriptor of parity");
    assert_eq!(table.names(), ["magic", "head_len", "tail_len", "shard_len", "parity_shards", "reserved", "checksum"]);
    let bytes = Geometry::of_pack(1_000_000, 5000, 3).encode();
    assert_eq!(table.bytes("magic", &bytes), PARITY_MAGIC);
    let numbers = ["head_len", "tail_len", "shard_len", "parity_shards", "reserved"].map(|name| table.number(name, &bytes));
    // 245 shards of the head, 2 of the tail, 3 % of them.
    assert_eq!(numbers, [1_000_000, 5000, 4096, 8, 0]);
    let checksum = table.place("checksum");
    assert_eq!(bytes[checksum.clone()], blake3::hash(&bytes[..checksum.start]).as_bytes()[..DESCRIPTOR_CHECKSUM_LEN]);
    let copied = Geometry::of_record(285).encode();
    let numbers = ["head_len", "tail_len", "shard_len", "parity_shards", "reserved"].map(|name| table.number(name, &copied));
    assert_eq!(numbers, [285, 0, 256, 0, 0]);
}

fn counted(len: usize, first: u8) -> Vec<u8> {
    (0..len).map(|at| (at as u32).wrapping_mul(2_654_435_761).to_le_bytes()[3] ^ first).collect()
}

/// The parts of a section, in the order of the page; and the bytes of the code, which never change.
#[test]
fn section_with_parity_shards() {
    let (head, tail) = (counted(50_000, 1), counted(4500, 2));
    let geometry = Geometry::of_pack(50_000, 4500, 10);
    let bytes = section(&geometry, &head, &tail).unwrap();
    let (data, parity) = (13 + 2, 2);
    let shards: Vec<&[u8]> = head.chunks(4096).chain(tail.chunks(4096)).collect();
    assert_eq!(shards.len(), data);
    let table_len = (data + parity) * SHARD_CHECKSUM_LEN;
    let parity_start = (50_000usize + DESCRIPTOR_LEN + table_len).next_multiple_of(4096) - 50_000;
    let (before, rest) = bytes.split_at(parity_start);
    let (code, after) = rest.split_at(parity * 4096);
    let sums = shards.iter().copied().chain(code.chunks(4096)).flat_map(|shard| blake3::hash(shard).as_bytes()[..8].to_vec());
    let sums: Vec<u8> = sums.collect();
    let descriptor = geometry.encode();
    assert_eq!(before[..DESCRIPTOR_LEN + table_len], [&descriptor[..], &sums].concat());
    assert!(before[DESCRIPTOR_LEN + table_len..].iter().all(|byte| *byte == 0));
    assert_eq!(after, [&sums[..], &descriptor].concat());
    assert_eq!(blake3::hash(code).to_hex().as_str(), "ab43a5677206652b46fcd284a35bf2cfcd4c9aa0e20825297b442e0831df0b5c");
}

#[test]
fn section_with_a_copy() {
    let (head, tail) = (counted(700, 3), counted(150, 4));
    let geometry = Geometry::of_pack(700, 150, 3);
    let sums: Vec<u8> = head.chunks(256).chain(tail.chunks(256)).flat_map(|shard| blake3::hash(shard).as_bytes()[..8].to_vec()).collect();
    let descriptor = geometry.encode();
    let expected = [&descriptor[..], &sums, &tail, &head, &sums, &descriptor].concat();
    assert_eq!(section(&geometry, &head, &tail).unwrap(), expected);
}

/// Up to where a pack has a copy, as the page says.
#[test]
fn small_packs_have_copies() {
    let parity_from = (1..20_000).find(|len| Geometry::of_pack(*len, 1000, 3).spare_len() != len + 1000).unwrap() + 1000;
    assert!((8 << 10..10 << 10).contains(&parity_from), "{parity_from}");
    assert!(Page::read().text.contains("up to about 9 KiB"));
}

#[test]
fn the_feature_is_bound() {
    let with = |parity_percent| Config { parity_percent, ..values::config(true) };
    assert_ne!(with(0).encode().unwrap(), with(3).encode().unwrap());
    let text = String::from_utf8(with(3).encode().unwrap()).unwrap();
    assert!(text.contains("\"parity 3%\""), "{text}");
    // Another number, or none, breaks the checksum; more than there may be is a feature that is not known.
    let other = Config::decode(text.replace("parity 3%", "parity 4%").as_bytes()).unwrap_err();
    assert!(other.to_string().contains("checksum"), "{other}");
    for unknown in ["parity 51%", "parity 0%", "parity 03%", "parity", "mirrors"] {
        let refused = Config::decode(text.replace("parity 3%", unknown).as_bytes()).unwrap_err().of("it").to_string();
        assert!(refused.contains("needs a newer icecore") && refused.contains(unknown), "{refused}");
    }
    assert!(golden::all().iter().any(|golden| golden.name == "record-with-copy"));
}
