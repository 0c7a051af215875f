//! Keys, nonces and associated data as the page says, made here a second time, open what the library seals.

use super::golden;
use super::page::{Page, Table};
use super::values::{self, MASTER, PASSPHRASE, counted, repository};
use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use icecore::id::{SourceId, to_hex};
use icecore::store::crypto::Keys;
use icecore::store::format::pack::TRAILER_SEGMENT;
use icecore::store::format::{Cipher, FORMAT_VERSION, Kind, record};

pub fn open(key: &[u8; 32], nonce: [u8; 12], associated: &[u8], sealed: &[u8]) -> Option<Vec<u8>> {
    let key = LessSafeKey::new(UnboundKey::new(&AES_256_GCM, key).unwrap());
    let mut bytes = sealed.to_vec();
    Some(key.open_in_place(Nonce::assume_unique_for_key(nonce), Aad::from(associated), &mut bytes).ok()?.to_vec())
}

fn context(page: &Page, name: &str) -> String {
    let table = page.table("Names and keys", "name");
    table.rows.iter().find(|row| row[0] == name).unwrap_or_else(|| panic!("no context {name}"))[1].clone()
}

/// Puts values into the fields of a byte table.
fn fill(table: &Table, values: &[(&str, &[u8])]) -> Vec<u8> {
    let mut bytes = vec![0; table.chain()];
    assert_eq!(table.names(), values.iter().map(|(name, _)| *name).collect::<Vec<_>>());
    for (name, value) in values {
        bytes[table.place(name)].copy_from_slice(value);
    }
    bytes
}

#[test]
fn segments_open_by_the_page() {
    let page = Page::read();
    for kind in Kind::ALL {
        let header = values::header(kind, Cipher::Aes256Gcm);
        let sealer = golden::keys().sealer(&header).unwrap();
        for segment in [0u32, 1, 70_000, TRAILER_SEGMENT] {
            let mut sealed = b"plain".to_vec();
            sealer.seal(segment, &mut sealed).unwrap();
            let material = [&MASTER[..], &header.salt, &[kind.code()]].concat();
            let key = blake3::derive_key(&context(&page, "SUB_KEY_CONTEXT"), &material);
            let number = segment.to_le_bytes();
            let nonce = fill(page.bytes_of("Nonce"), &[("segment", &number), ("zero", &[0; 8])]);
            let associated = fill(
                page.bytes_of("Associated data"),
                &[
                    ("repository", repository().as_bytes()),
                    ("version", &FORMAT_VERSION.to_le_bytes()),
                    ("kind", &[kind.code()]),
                    ("header", &header.encode()),
                    ("segment", &number),
                ],
            );
            let nonce = nonce.try_into().unwrap();
            assert_eq!(open(&key, nonce, &associated, &sealed).as_deref(), Some(&b"plain"[..]));
            for byte in 0..associated.len() {
                let mut other = associated.clone();
                other[byte] ^= 1;
                assert!(open(&key, nonce, &other, &sealed).is_none(), "byte {byte} of the associated data is not bound");
            }
        }
    }
}

#[test]
fn key_records_open_by_the_page() {
    let page = Page::read();
    let stored = golden::key_record().encode();
    let plain_part = page.bytes_of("Key record, plain part");
    let number = |name| plain_part.number(name, &stored) as u32;
    let len = plain_part.chain();
    let params = argon2::Params::new(number("memory"), number("passes"), number("lanes"), Some(32)).unwrap();
    let mut key = [0; 32];
    let argon = argon2::Argon2::new(argon2::Algorithm::Argon2id, argon2::Version::V0x13, params);
    argon.hash_password_into(PASSPHRASE, &counted(0x80), &mut key).unwrap();
    let associated = [&repository().as_bytes()[..], &FORMAT_VERSION.to_le_bytes(), &[Kind::Key.code()], &stored[..len]].concat();
    let sealed = &stored[len..len + number("sealed_len") as usize];
    let payload = open(&key, [0; 12], &associated, sealed).expect("it opens");
    assert_eq!(payload, record::encode(&values::key_payload()).unwrap());
}

#[test]
fn ids_and_seeds_are_made_by_the_page() {
    let page = Page::read();
    let chunk_key = blake3::derive_key(&context(&page, "CHUNK_KEY_CONTEXT"), &MASTER);
    assert_eq!(golden::keys().chunk_id(b"chunk").0, *blake3::keyed_hash(&chunk_key, b"chunk").as_bytes());
    assert_eq!(Keys::plain(repository()).chunk_id(b"chunk").0, *blake3::hash(b"chunk").as_bytes());
    let seed = blake3::derive_key(&context(&page, "CHUNKING_SEED_CONTEXT"), &MASTER);
    assert_eq!(golden::keys().chunking_seed().to_le_bytes(), seed[..8]);
    assert_eq!(Keys::plain(repository()).chunking_seed(), 0);
    let (source, tag_key) = (SourceId([7; 32]), blake3::derive_key(&context(&page, "SOURCE_TAG_CONTEXT"), &MASTER));
    assert_eq!(golden::keys().source_tag(&source).0, blake3::keyed_hash(&tag_key, &source.0).as_bytes()[..8]);
    assert_eq!(Keys::plain(repository()).source_tag(&source).0, blake3::hash(&source.0).as_bytes()[..8]);
    let header = values::header(Kind::Pack, Cipher::Aes256Gcm);
    let material = [&MASTER[..], &header.salt, &[Kind::Pack.code()]].concat();
    let padding_key = blake3::derive_key(&context(&page, "PADDING_CONTEXT"), &material);
    let mut expected = [0; 100];
    blake3::Hasher::new_keyed(&padding_key).finalize_xof().fill(&mut expected);
    assert_eq!(golden::keys().sealer(&header).unwrap().padding(100), expected);
}

/// The same as fixed bytes: page and code could change together.
#[test]
fn derivations_never_change() {
    let id = golden::keys().chunk_id(b"chunk");
    let header = values::header(Kind::Pack, Cipher::Aes256Gcm);
    let padding = to_hex(&golden::keys().sealer(&header).unwrap().padding(8));
    let tag = golden::keys().source_tag(&SourceId([7; 32])).to_string();
    let found = [id.to_string(), format!("{:016x}", golden::keys().chunking_seed()), padding, tag];
    let expected =
        ["f1cf0895d2727539a8f8baea6d811366773edda3613937e40db265a20a7d8951", "76c7ee0431b9f608", "da62f381c54e0b4c", "994ea6aa2425e730"];
    assert_eq!(found, expected);
}

/// A sealed repository takes nothing unsealed, and the other way round.
#[test]
fn the_cipher_is_never_taken_from_an_object() {
    assert!(golden::keys().sealer(&values::header(Kind::Pack, Cipher::None)).is_err());
    assert!(Keys::plain(repository()).sealer(&values::header(Kind::Pack, Cipher::Aes256Gcm)).is_err());
}
