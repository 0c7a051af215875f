//! One value, one encoding: bytes that say the same in another way are refused.

use super::golden;
use super::values::{self, counted, entry, slice};
use icecore::format::config::Config;
use icecore::format::key::{KEY_CHECKSUM_LEN, KeyRecord};
use icecore::format::node::Node;
use icecore::format::pack::{ChunkEntry, TRAILER_HEADER_LEN, Trailer};
use icecore::format::snapshot::SnapshotRecord;
use icecore::format::{FORMAT_VERSION, record, wire};
use icecore::id::{ChunkId, ID_LEN};

fn refusal<T>(result: Result<T, icecore::format::Malformed>) -> String {
    result.err().expect("this is another encoding of a value").to_string()
}

/// A table with one chunk of this plain length and these rows.
fn table(nominal_len: u32, slices: &[u64], rows: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for number in [1, 1, slices.len() as u32, rows.len() as u32, nominal_len, 0] {
        bytes.extend_from_slice(&number.to_le_bytes());
    }
    bytes.extend_from_slice(&counted(1));
    slices.iter().for_each(|base| bytes.extend_from_slice(&base.to_be_bytes()));
    [&bytes[..], rows].concat()
}

#[test]
fn rows_have_one_form() {
    // Segment of 10 + 16 bytes; then bits, encoded length, plain length or not, version.
    let nominal = table(100, &[], &[26, 0b1_0001, 10, 0]);
    let expected =
        Trailer { segments: vec![26], chunks: vec![ChunkEntry { id: ChunkId(counted(1)), plain_len: 100, ..entry(1, 0, 0, 10) }] };
    assert_eq!(Trailer::decode(&nominal, 16).unwrap(), expected);
    assert_eq!(expected.encode(), nominal);
    for (rows, nominal_len, says) in [
        (&[26, 0b0_0001, 10, 100, 0][..], 100, "spells out the nominal length"),
        (&[26, 0b0_0001, 10, 100, 0], 101, "not that of the longest"),
        (&[26, 0b0_0001, 10, 100, 0], 0, "not that of the longest"),
        (&[26, 0b1_1001, 10, 0], 100, "do not fill"),
        (&[26, 0b11_0001, 10, 0], 100, "level or work"),
        (&[26, 0b1_0001, 0x8a, 0, 0], 100, "shortest form"),
        (&[26, 0b1_0001, 10, 0, 0], 100, "follows"),
        (&[26, 0b101_0001, 10, 0], 100, "unknown way"),
        (&[26, 0b1_0011, 10, 0], 100, "encoding 3"),
        (&[26, 0b1_0000, 10, 0], 100, "two lengths"),
    ] {
        let said = refusal(Trailer::decode(&table(nominal_len, &[], rows), 16));
        assert!(said.contains(says), "{rows:?}: {said}");
    }
}

#[test]
fn whole_bases_have_one_form() {
    let whole = table(100, &[7], &[26, 0b11_0010, 10, 1, 1, 2]);
    let chunk =
        values::delta(ChunkEntry { id: ChunkId(counted(1)), plain_len: 100, ..entry(1, 0, 0, 10) }, 1, 1, 2, vec![slice(7, 0, 100)]);
    assert_eq!(Trailer::decode(&whole, 16).unwrap(), Trailer { segments: vec![26], chunks: vec![chunk] });
    let spelled_out = table(100, &[7], &[26, 0b1_0010, 10, 1, 1, 2, 1, 0, 100]);
    assert!(refusal(Trailer::decode(&spelled_out, 16)).contains("whole base"));
    // Bases that no slice names.
    let more = table(100, &[7, 8], &[26, 0b11_0010, 10, 1, 1, 2]);
    assert!(refusal(Trailer::decode(&more, 16)).contains("follows"));
}

#[test]
fn reserved_fields_of_tables_and_nodes_are_zero() {
    let mut bytes = values::trailer().encode();
    bytes[TRAILER_HEADER_LEN - 1] = 1;
    refusal(Trailer::decode(&bytes, 16));
    let mut empty = Trailer::default().encode();
    empty[16] = 1;
    refusal(Trailer::decode(&empty, 16));
    for reserved in 4..8 {
        let mut bytes = values::uniform_node().encode();
        bytes[reserved] = 1;
        refusal(Node::decode(&bytes, 1));
    }
}

#[test]
fn nodes_have_one_form() {
    for lens in [&[5u64][..], &[5, 5], &[5, 5, 3]] {
        let node = Node { level: 1, children: values::children(lens) };
        let uniform = node.encode();
        assert_eq!(Node::decode(&uniform, 1).unwrap(), node);
        let ids_end = 16 + lens.len() * ID_LEN;
        let mut explicit = uniform[..ids_end].to_vec();
        explicit[8..16].fill(0);
        lens.iter().for_each(|len| explicit.extend_from_slice(&len.to_le_bytes()));
        assert!(refusal(Node::decode(&explicit, 1)).contains("one would do"));
    }
    // One child has the span of its only, last length.
    let mut single = Node { level: 1, children: values::children(&[5]) }.encode();
    single[8] = 6;
    assert!(refusal(Node::decode(&single, 1)).contains("one would do"));
}

#[test]
fn numbers_of_records_have_one_form() {
    let bytes = record::encode(&values::least_snapshot()).unwrap();
    // The first field is -1, zigzag 1; the second is 0.
    assert_eq!(bytes[..2], [1, 0]);
    for long in [&[251, 1, 0][..], &[252, 1, 0, 0, 0], &[253, 1, 0, 0, 0, 0, 0, 0, 0]] {
        let longer = [long, &bytes[1..]].concat();
        assert!(refusal(record::decode::<SnapshotRecord>(&longer)).contains("one encoding"));
    }
}

#[test]
fn leb128_has_one_form() {
    for (bytes, value) in
        [(&[0][..], Some(0)), (&[0x7f], Some(127)), (&[0x80, 1], Some(128)), (&[0xff, 0xff, 0xff, 0xff, 15], Some(u32::MAX))]
    {
        let mut input = wire::Input::new(bytes);
        assert_eq!(input.varint().ok(), value);
        let mut again = Vec::new();
        wire::put_varint(&mut again, value.unwrap());
        assert_eq!(again, bytes);
    }
    for bytes in [&[][..], &[0x80], &[0x80, 0], &[0xff, 0], &[0xff, 0xff, 0xff, 0xff, 16], &[0x80, 0x80, 0x80, 0x80, 0x80, 1]] {
        assert!(wire::Input::new(bytes).varint().is_err(), "{bytes:?}");
    }
}

#[test]
fn a_key_record_says_that_it_is_sealed() {
    let mut body = golden::key_record().encode();
    body.truncate(body.len() - KEY_CHECKSUM_LEN);
    body[10] = 0;
    let bytes = [&body[..], blake3::hash(&body).as_bytes()].concat();
    assert!(refusal(KeyRecord::decode(&bytes)).contains("does not seal"));
}

#[test]
fn versions_and_features_are_refused_by_name() {
    let text = String::from_utf8(values::config(true).encode().unwrap()).unwrap();
    for (from, to, says) in [
        ("\"icecore\": 1", "\"icecore\": 2".to_string(), "format version 2"),
        ("\"icecore\": 1", "\"icecore\": 0".into(), "no format version 0"),
        ("\"features\": []", "\"features\": [\"parity\"]".into(), "parity"),
        ("aes-256-gcm", "aes-512-gcm".into(), "aes-512-gcm"),
        ("\"keyed blake3\"", "\"blake3\"".into(), "checksum"),
        ("\"checksum\"", "\"more\": 1, \"checksum\"".into(), "more"),
    ] {
        let changed = text.replace(from, &to);
        assert_ne!(changed, text);
        let said = refusal(Config::decode(changed.as_bytes()));
        assert!(said.contains(says), "{said}");
    }
    let mut header = values::header(icecore::format::Kind::Pack, icecore::format::Cipher::None).encode();
    for (at, value, says) in [(8, FORMAT_VERSION as u8 + 1, "version 2"), (10, 2, "cipher 2"), (12, 4, "flags 0x4")] {
        let old = std::mem::replace(&mut header[at], value);
        let error = icecore::format::ObjectHeader::decode(&header, icecore::format::Kind::Pack).unwrap_err();
        assert!(error.to_string().contains(says), "{error}");
        assert!(matches!(error.of("x"), icecore::Error::UnsupportedFormat { .. }));
        header[at] = old;
    }
}

/// Keys are bound to the bytes, so these count, not what the JSON says.
#[test]
fn a_configuration_is_not_laid_out_anew() {
    let value: serde_json::Value = serde_json::from_slice(&values::config(false).encode().unwrap()).unwrap();
    assert!(Config::decode(value.to_string().as_bytes()).is_err());
}
