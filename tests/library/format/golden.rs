//! Golden bytes: what is written for a fixed value never changes, and is read back as that value.
//!
//! `tests/fixtures/golden` holds one file for each: hex digits, `#` starts a comment. A new one is written by
//! `cargo test --test library format::golden::write_new -- --ignored`; a file that is there is never written again: other bytes are another format.

use std::path::{Path, PathBuf};

use super::values::{self, MASTER, PASSPHRASE, repository};
use icecore::id::{from_hex, to_hex};
use icecore::store::codec::reed_solomon::section;
use icecore::store::crypto::{Keys, keyring};
use icecore::store::format::config::Config;
use icecore::store::format::key::{KeyPayload, KeyRecord};
use icecore::store::format::log::LogRecord;
use icecore::store::format::mark::{ForgottenRecord, MarkRecord};
use icecore::store::format::node::Node;
use icecore::store::format::pack::{FOOTER_LEN, Footer, TRAILER_SEGMENT, Trailer};
use icecore::store::format::parity::{Geometry, record_len};
use icecore::store::format::snapshot::{SnapshotRecord, StreamEntry};
use icecore::store::format::tombstone::Tombstone;
use icecore::store::format::{Cipher, HEADER_LEN, Kind, ObjectHeader, record};

/// Decodes, and encodes what came out; `None` if the bytes are refused.
pub type Redo = fn(&[u8]) -> Option<Vec<u8>>;

/// One golden object.
pub struct Golden {
    pub name: &'static str,
    pub bytes: Vec<u8>,
    pub redo: Redo,
    /// Whether a checksum or seal covers every byte, so that nothing but these very bytes may be taken.
    pub sealed: bool,
}

/// All of them.
pub fn all() -> Vec<Golden> {
    let trailer = values::trailer().encode();
    let footer = values::footer(&trailer).encode(&trailer);
    let listing = values::listing().iter().flat_map(|entry| record::encode(entry).unwrap()).collect();
    let marks = values::MARK_KINDS.iter().flat_map(|kind| record::encode(&values::mark(*kind)).unwrap()).collect();
    let open = |name, bytes, redo| Golden { name, bytes, redo, sealed: false };
    let sealed = |name, bytes, redo| Golden { name, bytes, redo, sealed: true };
    vec![
        open("header-pack", values::header(Kind::Pack, Cipher::Aes256Gcm).encode().to_vec(), redo_header),
        open("header-snapshot", values::header(Kind::Snapshot, Cipher::None).encode().to_vec(), redo_header),
        open("header-key", values::header(Kind::Key, Cipher::Aes256Gcm).encode().to_vec(), redo_header),
        open("header-tombstone", values::header(Kind::Tombstone, Cipher::None).encode().to_vec(), redo_header),
        open("header-mark", values::header(Kind::Mark, Cipher::None).encode().to_vec(), redo_header),
        open("header-forgotten", values::header(Kind::Forgotten, Cipher::Aes256Gcm).encode().to_vec(), redo_header),
        open("header-log", values::header(Kind::Log, Cipher::None).encode().to_vec(), redo_header),
        open("config-record", record::encode(&values::config(true)).unwrap(), redo_record::<Config>),
        open("key-payload", record::encode(&values::key_payload()).unwrap(), redo_record::<KeyPayload>),
        open("node-uniform", values::uniform_node().encode(), redo_node),
        open("node-explicit", values::explicit_node().encode(), redo_node),
        open("trailer", trailer.clone(), redo_trailer),
        open("trailer-empty", Trailer::default().encode(), redo_trailer),
        open("snapshot", record::encode(&values::snapshot()).unwrap(), redo_record::<SnapshotRecord>),
        open("snapshot-least", record::encode(&values::least_snapshot()).unwrap(), redo_record::<SnapshotRecord>),
        open("listing", listing, redo_listing),
        open("marks", marks, redo_marks),
        open("forgotten", record::encode(&values::forgotten()).unwrap(), redo_record::<ForgottenRecord>),
        open("journal-entry", record::encode(&values::journal_entry()).unwrap(), redo_record::<LogRecord>),
        open("tombstone", record::encode(&values::tombstone()).unwrap(), redo_record::<Tombstone>),
        sealed("key-record", key_record().encode(), redo_key_record),
        sealed("footer", [trailer, footer].concat(), redo_footer),
        sealed("record-with-copy", with_copy(&values::counted(0x20)), redo_with_copy),
        sealed("segment", sealed_object(0, b"a chunk, and another"), redo_segment),
        sealed("segment-trailer", sealed_object(TRAILER_SEGMENT, b"the table of a pack"), redo_sealed_trailer),
    ]
}

pub fn keys() -> Keys {
    Keys::encrypted(repository(), &MASTER)
}

pub fn key_record() -> KeyRecord {
    keyring::wrap(&repository(), &values::key_payload(), PASSPHRASE, values::counted(0x80), values::cost()).unwrap()
}

/// A header and one sealed segment.
fn sealed_object(segment: u32, plain: &[u8]) -> Vec<u8> {
    let header = values::header(Kind::Pack, Cipher::Aes256Gcm);
    let mut bytes = plain.to_vec();
    keys().sealer(&header).unwrap().seal(segment, &mut bytes).unwrap();
    [&header.encode()[..], &bytes].concat()
}

/// As a record is stored in a repository with parity.
fn with_copy(record: &[u8]) -> Vec<u8> {
    [record, &section(&Geometry::of_record(record.len() as u64), record, &[]).unwrap()].concat()
}

fn redo_with_copy(bytes: &[u8]) -> Option<Vec<u8>> {
    let record = bytes.get(..record_len(bytes).ok()?)?;
    Some(with_copy(record)).filter(|again| again == bytes)
}

/// Takes a header of any kind, alone.
pub fn redo_header(bytes: &[u8]) -> Option<Vec<u8>> {
    let header = Kind::ALL.into_iter().find_map(|kind| ObjectHeader::decode(bytes, kind).ok())?;
    (bytes.len() == HEADER_LEN).then(|| header.encode().to_vec())
}

pub fn redo_record<T: serde::Serialize + serde::de::DeserializeOwned>(bytes: &[u8]) -> Option<Vec<u8>> {
    record::encode(&record::decode::<T>(bytes).ok()?).ok()
}

pub fn redo_listing(bytes: &[u8]) -> Option<Vec<u8>> {
    redo_records::<StreamEntry>(bytes)
}

/// One of each kind; a mark in a repository is an object of its own.
pub fn redo_marks(bytes: &[u8]) -> Option<Vec<u8>> {
    redo_records::<MarkRecord>(bytes)
}

fn redo_records<T: serde::Serialize + serde::de::DeserializeOwned>(bytes: &[u8]) -> Option<Vec<u8>> {
    let (mut rest, mut again) = (bytes, Vec::new());
    while !rest.is_empty() {
        let (entry, after) = record::decode_first::<T>(rest).ok()?;
        again.extend(record::encode(&entry).ok()?);
        rest = after;
    }
    Some(again)
}

pub fn redo_node(bytes: &[u8]) -> Option<Vec<u8>> {
    Some(Node::decode(bytes, *bytes.get(1)?).ok()?.encode())
}

pub fn redo_trailer(bytes: &[u8]) -> Option<Vec<u8>> {
    let trailer = Trailer::decode(bytes, 16).ok()?;
    assert_eq!(Trailer::ids_in(bytes).unwrap(), trailer.chunks.iter().map(|chunk| chunk.id).collect::<Vec<_>>());
    Some(trailer.encode())
}

pub fn redo_footer(bytes: &[u8]) -> Option<Vec<u8>> {
    let (trailer, footer_bytes) = bytes.split_last_chunk::<FOOTER_LEN>()?;
    let footer = Footer::decode(footer_bytes, values::footer(trailer).pack_len).ok()?;
    footer.verify(footer_bytes, trailer).ok()?;
    Some([trailer, &footer.encode(trailer)].concat())
}

pub fn redo_key_record(bytes: &[u8]) -> Option<Vec<u8>> {
    KeyRecord::decode(bytes).ok().map(|key_record| key_record.encode())
}

fn redo_segment(bytes: &[u8]) -> Option<Vec<u8>> {
    redo_sealed(bytes, 0)
}

fn redo_sealed_trailer(bytes: &[u8]) -> Option<Vec<u8>> {
    redo_sealed(bytes, TRAILER_SEGMENT)
}

fn redo_sealed(bytes: &[u8], segment: u32) -> Option<Vec<u8>> {
    let header = ObjectHeader::decode(bytes, Kind::Pack).ok()?;
    let mut plain = bytes.get(HEADER_LEN..)?.to_vec();
    keys().sealer(&header).ok()?.open(segment, &mut plain).ok()?;
    Some(sealed_object(segment, &plain))
}

fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/golden")
}

fn path(name: &str) -> PathBuf {
    directory().join(format!("{name}.hex"))
}

fn read(name: &str) -> Vec<u8> {
    let text = std::fs::read_to_string(path(name)).unwrap_or_else(|e| panic!("{}: {e}", path(name).display()));
    let digits: String = text.lines().filter(|line| !line.starts_with('#')).collect();
    from_hex(&digits).expect("hex digits")
}

/// Configurations are readable: their golden bytes are files as they are.
fn config_path(encrypted: bool) -> PathBuf {
    directory().join(if encrypted { "config-encrypted.json" } else { "config-plain.json" })
}

/// The same with parity, which is all that differs.
fn parity_config() -> (PathBuf, Config) {
    (directory().join("config-parity.json"), Config { parity_percent: 3, ..values::config(true) })
}

#[test]
fn encoding_gives_the_golden_bytes() {
    for golden in all() {
        let expected = read(golden.name);
        assert!(golden.bytes == expected, "{}: now {}, was {}", golden.name, to_hex(&golden.bytes), to_hex(&expected));
    }
}

#[test]
fn golden_bytes_decode_to_the_values() {
    for golden in all() {
        let bytes = read(golden.name);
        assert_eq!((golden.redo)(&bytes).as_deref(), Some(&bytes[..]), "{}", golden.name);
    }
    assert_eq!(Trailer::decode(&read("trailer"), 16).unwrap(), values::trailer());
    assert_eq!(Node::decode(&read("node-uniform"), 1).unwrap(), values::uniform_node());
    assert_eq!(Node::decode(&read("node-explicit"), 2).unwrap(), values::explicit_node());
    assert_eq!(record::decode::<SnapshotRecord>(&read("snapshot")).unwrap(), values::snapshot());
    assert_eq!(record::decode::<SnapshotRecord>(&read("snapshot-least")).unwrap(), values::least_snapshot());
    assert_eq!(record::decode::<Config>(&read("config-record")).unwrap(), values::config(true));
    assert_eq!(KeyRecord::decode(&read("key-record")).unwrap(), key_record());
    let (trailer, footer) = (read("trailer"), read("footer"));
    let expected = values::footer(&trailer);
    assert_eq!(Footer::decode(&footer[trailer.len()..], expected.pack_len).unwrap(), expected);
    assert_eq!(record::decode::<ForgottenRecord>(&read("forgotten")).unwrap(), values::forgotten());
    assert_eq!(record::decode::<LogRecord>(&read("journal-entry")).unwrap(), values::journal_entry());
    assert_eq!(record::decode::<Tombstone>(&read("tombstone")).unwrap(), values::tombstone());
    let marks = read("marks");
    let mut rest = marks.as_slice();
    for kind in values::MARK_KINDS {
        let (mark, after) = record::decode_first::<MarkRecord>(rest).unwrap();
        assert_eq!(mark, values::mark(kind));
        rest = after;
    }
    assert!(rest.is_empty());
    let listing = read("listing");
    let mut rest = listing.as_slice();
    for expected in values::listing() {
        let (entry, after) = record::decode_first::<StreamEntry>(rest).unwrap();
        assert_eq!(entry, expected);
        rest = after;
    }
    assert!(rest.is_empty());
}

#[test]
fn golden_configurations() {
    for encrypted in [true, false] {
        let bytes = std::fs::read(config_path(encrypted)).unwrap();
        assert_eq!(Config::decode(&bytes).unwrap(), values::config(encrypted));
        assert_eq!(values::config(encrypted).encode().unwrap(), bytes);
    }
    let (path, config) = parity_config();
    let bytes = std::fs::read(path).unwrap();
    assert_eq!(Config::decode(&bytes).unwrap(), config);
    assert_eq!(config.encode().unwrap(), bytes);
}

#[test]
fn the_golden_key_opens_with_its_passphrase_only() {
    let stored = KeyRecord::decode(&read("key-record")).unwrap();
    let payload = keyring::unwrap(&repository(), &stored, PASSPHRASE).unwrap().expect("the passphrase is right");
    assert!(payload == values::key_payload());
    assert!(keyring::unwrap(&repository(), &stored, b"correct hors").unwrap().is_none());
    let elsewhere = icecore::id::RepositoryId([0; 32]);
    assert!(keyring::unwrap(&elsewhere, &stored, PASSPHRASE).unwrap().is_none());
}

#[test]
fn every_golden_file_is_tested() {
    let mut expected: Vec<String> = all().iter().map(|golden| format!("{}.hex", golden.name)).collect();
    expected.extend(["config-encrypted.json".to_string(), "config-parity.json".into(), "config-plain.json".into()]);
    expected.sort();
    let mut found: Vec<String> =
        std::fs::read_dir(directory()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    found.sort();
    assert_eq!(found, expected);
}

#[test]
#[ignore = "writes golden files that are not there yet"]
fn write_new() {
    for golden in all().into_iter().filter(|golden| !path(golden.name).exists()) {
        let lines: Vec<String> = golden.bytes.chunks(32).map(to_hex).collect();
        std::fs::write(
            path(golden.name),
            format!("# {}, format 1: see tests/library/format/values.rs\n{}\n", golden.name, lines.join("\n")),
        )
        .unwrap();
    }
    for encrypted in [true, false].into_iter().filter(|encrypted| !config_path(*encrypted).exists()) {
        std::fs::write(config_path(encrypted), values::config(encrypted).encode().unwrap()).unwrap();
    }
    let (path, config) = parity_config();
    if !path.exists() {
        std::fs::write(path, config.encode().unwrap()).unwrap();
    }
}
