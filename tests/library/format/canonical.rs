//! One value, one encoding: bytes that say the same in another way are refused.

use super::golden;
use super::values::{self, chunk, counted, delta, slice, whole};
use icecore::id::ID_LEN;
use icecore::store::format::config::Config;
use icecore::store::format::key::{KEY_CHECKSUM_LEN, KeyRecord};
use icecore::store::format::node::Node;
use icecore::store::format::pack::{ChunkEntry, Encoding, FOOTER_CHECKSUM_LEN, Footer, Frame, TRAILER_HEADER_LEN, Trailer};
use icecore::store::format::snapshot::SnapshotRecord;
use icecore::store::format::{FORMAT_VERSION, record, wire};

fn refusal<T>(result: Result<T, icecore::store::format::Malformed>) -> String {
    result.err().expect("this is another encoding of a value").to_string()
}

/// A table of one segment with as many chunks, these bases, and rows that start with the length of the segment.
fn table(chunks: u8, nominal_len: u32, bases: &[u64], rows: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for number in [1, u32::from(chunks), bases.len() as u32, rows.len() as u32, nominal_len, 0] {
        bytes.extend_from_slice(&number.to_le_bytes());
    }
    (1..=chunks).for_each(|first| bytes.extend_from_slice(&counted(first)));
    bases.iter().for_each(|base| bytes.extend_from_slice(&base.to_be_bytes()));
    [&bytes[..], rows].concat()
}

/// These bytes stand for this value, and it for them.
fn same(bytes: &[u8], value: &Trailer) {
    assert_eq!(Trailer::decode(bytes, 16).as_ref(), Ok(value));
    assert_eq!(value.encode(), bytes);
}

/// Refused for this reason.
fn refused(bytes: &[u8], says: &str) {
    let said = refusal(Trailer::decode(bytes, 16));
    assert!(said.contains(says), "{bytes:?}: {said}");
}

fn zstd(encoded_len: u32) -> Frame {
    whole(Encoding::Zstd, encoded_len)
}

#[test]
fn rows_have_one_form() {
    // Segment of 10 + 16 bytes; then bits, encoded length, plain length or not, version.
    same(&table(1, 100, &[], &[26, 0b1_0001, 10, 0]), &values::table(vec![vec![(zstd(10), vec![chunk(1, 100)])]]));
    for (rows, nominal_len, says) in [
        (&[26, 0b0_0001, 10, 100, 0][..], 100, "spells out the nominal length"),
        (&[26, 0b0_0001, 10, 100, 0], 101, "not that of the longest"),
        (&[26, 0b0_0001, 10, 100, 0], 0, "not that of the longest"),
        (&[26, 0b1_1001, 10, 0], 100, "do not fill"),
        (&[26, 0b1_0001, 9, 0], 100, "do not fill"),
        (&[26, 0b1_0001, 11, 0], 100, "past its segment"),
        (&[26, 0b11_0001, 10, 0], 100, "not a delta"),
        (&[26, 0b1_0001, 0x8a, 0, 0], 100, "shortest form"),
        (&[26, 0b1_0001, 10, 0, 0], 100, "follows"),
        (&[26, 0b1001_0001, 10, 0], 100, "unknown way"),
        (&[26, 0b1_0011, 10, 0], 100, "ends too early"),
        (&[26, 0b1_0000, 10, 0], 100, "two lengths"),
    ] {
        refused(&table(1, nominal_len, &[], rows), says);
    }
}

#[test]
fn frames_of_several_chunks_have_one_form() {
    // Rows that go on with a frame have no encoded length: bits, plain length or not, version.
    let rows = [26, 0b1_0001, 10, 0, 0b101_0000, 1, 0b100_0100, 7, 2];
    let node = ChunkEntry { node: true, version: 2, ..chunk(3, 7) };
    let chunks = vec![chunk(1, 100), ChunkEntry { version: 1, ..chunk(2, 100) }, node];
    let expected = values::table(vec![vec![(zstd(10), chunks)]]);
    assert_eq!(expected.frames[0].plain_len, 207);
    assert_eq!(expected.chunks.iter().map(|chunk| (chunk.frame, chunk.offset)).collect::<Vec<_>>(), [(0, 0), (0, 100), (0, 200)]);
    same(&table(3, 100, &[], &rows), &expected);
    // A raw frame is as long as its chunks together.
    let raw = values::table(vec![vec![(whole(Encoding::Raw, 107), vec![chunk(1, 100), chunk(2, 7)])]]);
    same(&table(2, 100, &[], &[123, 0b1_0000, 107, 0, 0b100_0000, 7, 0]), &raw);
    for (says, rows) in [
        ("two lengths", &[123, 0b1_0000, 107, 0, 0b100_0000, 8, 0][..]),
        ("two lengths", &[123, 0b1_0000, 107, 0, 0b0_0001, 1, 7, 0]),
        ("does not start a frame", &[26, 0b101_0000, 0, 0b1_0001, 10, 0]),
        ("that it does not start", &[26, 0b1_0001, 10, 0, 0b101_0001, 0]),
        ("that it does not start", &[26, 0b1_0001, 10, 0, 0b101_0010, 0]),
        ("that it does not start", &[26, 0b1_0001, 10, 0, 0b101_1000, 0]),
        ("that it does not start", &[26, 0b1_0001, 10, 0, 0b111_0000, 0]),
        ("spells out the nominal length", &[26, 0b1_0001, 10, 0, 0b100_0000, 100, 0]),
        ("length of a chunk", &[26, 0b1_0001, 10, 0, 0b100_0000, 0, 0]),
        ("not that of the longest", &[26, 0b1_0001, 10, 0, 0b100_0000, 101, 0]),
        ("past its segment", &[26, 0b1_0001, 10, 0, 0b1_0001, 1, 0]),
    ] {
        refused(&table(2, 100, &[], rows), says);
    }
}

#[test]
fn whole_bases_have_one_form() {
    let delta = |slices| values::table(vec![vec![(delta(10, 1, 2, slices), vec![ChunkEntry { version: 1, ..chunk(1, 100) }])]]);
    same(&table(1, 100, &[7], &[26, 0b11_0010, 10, 1, 1, 2]), &delta(vec![slice(7, 0, 100)]));
    refused(&table(1, 100, &[7], &[26, 0b1_0010, 10, 1, 1, 2, 1, 0, 0, 0]), "spells out a whole base");
    refused(&table(1, 100, &[7], &[26, 0b1_0010, 10, 1, 1, 2, 1, 0, 0, 100]), "spells out the nominal length");
    // Neither all of it nor from its start.
    same(&table(1, 100, &[7], &[26, 0b1_0010, 10, 1, 1, 2, 1, 0, 0, 99]), &delta(vec![slice(7, 0, 99)]));
    same(&table(1, 100, &[7], &[26, 0b1_0010, 10, 1, 1, 2, 1, 0, 1, 0]), &delta(vec![slice(7, 1, 100)]));
    // Used twice: the second is one place before the first that is not used yet, that one being past the end.
    same(&table(1, 100, &[7], &[26, 0b1_0010, 10, 1, 1, 2, 2, 0, 0, 0, 1, 0, 0]), &delta(vec![slice(7, 0, 100), slice(7, 0, 100)]));
}

/// The rows of two chunks of 100 bytes: a delta against all of base 7, then one with these slices.
fn after_a_whole_base(slices: &[u8]) -> Vec<u8> {
    [&[36, 0b11_0010, 10, 0, 1, 2, 0b1_0010, 10, 0, 1, 2][..], slices].concat()
}

#[test]
fn bases_are_named_in_one_way() {
    let two = |slices| {
        let first = delta(10, 1, 2, vec![slice(7, 0, 100)]);
        values::table(vec![vec![(first, vec![chunk(1, 100)]), (delta(10, 1, 2, slices), vec![chunk(2, 100)])]])
    };
    // A base that was used cannot be new, so its whole is spelled out.
    same(&table(2, 100, &[7], &after_a_whole_base(&[1, 1, 0, 0])), &two(vec![slice(7, 0, 100)]));
    let mixed = vec![slice(8, 0, 1), slice(7, 2, 3), slice(9, 4, 5), slice(8, 6, 7)];
    same(&table(2, 100, &[7, 8, 9], &after_a_whole_base(&[4, 0, 0, 1, 2, 2, 3, 0, 4, 5, 2, 6, 7])), &two(mixed));
    for (bases, slices, says) in [
        (&[7][..], &[1, 0, 0, 1][..], "names no base"),
        (&[7], &[1, 2, 0, 1], "names no base"),
        (&[7, 8], &[1, 2, 0, 1], "names no base"),
        (&[7], &[1, 0xff, 0xff, 0xff, 0xff, 15, 0, 1], "names no base"),
        (&[7, 8], &[1, 1, 0, 1], "not all of its bases are used"),
        (&[7, 8, 9], &[1, 0, 0, 1], "not all of its bases are used"),
        (&[7, 7], &[1, 0, 0, 1], "base is in its trailer twice"),
        (&[7], &[1, 1, 0, 100], "spells out the nominal length"),
        (&[7], &[0], "too many slices or none"),
        (&[7], &[1, 1, 0], "ends too early"),
    ] {
        refused(&table(2, 100, bases, &after_a_whole_base(slices)), says);
    }
    // A whole base with no base left.
    refused(&table(1, 100, &[], &[26, 0b11_0010, 10, 0, 1, 2]), "names no base");
    // Bases of a table without deltas.
    refused(&table(1, 100, &[7], &[26, 0b1_0001, 10, 0]), "not all of its bases are used");
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
        assert!(refusal(Node::decode(&explicit, 1)).contains("shortest form"));
    }
    // One child has the span of its only, last length.
    let mut single = Node { level: 1, children: values::children(&[5]) }.encode();
    single[8] = 6;
    assert!(refusal(Node::decode(&single, 1)).contains("shortest form"));
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
fn kinds_of_marks_have_one_form() {
    let bytes = record::encode(&values::mark(values::MARK_KINDS[7])).unwrap();
    assert_eq!(bytes[ID_LEN], 7);
    for other in [&[8][..], &[250], &[251, 7, 0], &[252, 7, 0, 0, 0]] {
        refusal(record::decode::<icecore::store::format::mark::MarkRecord>(&[&bytes[..ID_LEN], other, &bytes[ID_LEN + 1..]].concat()));
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
    assert!(refusal(KeyRecord::decode(&bytes)).contains("is not encrypted"));
}

#[test]
fn versions_and_features_are_refused_by_name() {
    let text = String::from_utf8(values::config(true).encode().unwrap()).unwrap();
    for (from, to, says) in [
        ("\"icecore\": 2", "\"icecore\": 3".to_string(), "a newer icecore: format version 3"),
        ("\"icecore\": 2", "\"icecore\": 1".into(), "icecore 0.1: format version 1, and this icecore reads version 2"),
        ("\"icecore\": 2", "\"icecore\": 0".into(), "no format version 0"),
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
    let mut header = values::header(icecore::store::format::Kind::Pack, icecore::store::format::Cipher::None).encode();
    for (at, value, says) in [
        (8, FORMAT_VERSION as u8 + 1, "a newer icecore: format version 3"),
        (8, 1, "icecore 0.1: format version 1, and this icecore reads version 2"),
        (10, 2, "cipher 2"),
        (12, 4, "flags 0x4"),
    ] {
        let old = std::mem::replace(&mut header[at], value);
        let error = icecore::store::format::ObjectHeader::decode(&header, icecore::store::format::Kind::Pack).unwrap_err();
        assert!(error.to_string().contains(says), "{error}");
        assert!(matches!(error.of("x"), icecore::Error::UnsupportedFormat { .. }));
        header[at] = old;
    }
}

/// Readers do not read a pack's header, so the footer has the version, too.
#[test]
fn a_newer_pack_is_newer_and_not_damaged() {
    let trailer = b"a trailer";
    let footer = values::footer(trailer);
    let newer = |at: usize, value: u8| {
        let mut bytes = footer.encode(trailer);
        bytes[at] = value;
        let end = bytes.len() - FOOTER_CHECKSUM_LEN;
        let sum = blake3::Hasher::new().update(&bytes[..end]).update(trailer).finalize();
        bytes[end..].copy_from_slice(&sum.as_bytes()[..FOOTER_CHECKSUM_LEN]);
        bytes
    };
    for (at, value, says) in [
        (24, 3, "a newer icecore: format version 3"),
        (24, 1, "icecore 0.1: format version 1, and this icecore reads version 2"),
        (28, 4, "flags"),
        (26, 1, "flags"),
    ] {
        let bytes = newer(at, value);
        let error = Footer::decode(&bytes, footer.pack_len).unwrap().verify(&bytes, trailer).unwrap_err();
        assert!(error.to_string().contains(says), "{error}");
        assert!(matches!(error.of("x"), icecore::Error::UnsupportedFormat { .. }));
    }
    // A flipped bit is damage.
    let mut bytes = footer.encode(trailer);
    bytes[24] ^= 1;
    let error = Footer::decode(&bytes, footer.pack_len).unwrap().verify(&bytes, trailer).unwrap_err();
    assert!(error.of("x").is_damage());
}

/// Keys are bound to the bytes, so these count, not what the JSON says.
#[test]
fn a_configuration_is_not_laid_out_anew() {
    let value: serde_json::Value = serde_json::from_slice(&values::config(false).encode().unwrap()).unwrap();
    assert!(Config::decode(value.to_string().as_bytes()).is_err());
}
