//! The test vectors of the page: each is computed here by icecore's own code, and the printed repository is read by icecore and by the script.
//!
//! `cargo test --test library make_vectors -- --ignored` makes a new repository and writes it into `tests/fixtures/vectors/repository.txt`, and this and the
//! vectors into the page. It is to be run when the stored format has changed.

use std::path::Path;

use super::annotate::{self, objects};
use super::chunks;
use super::derive::open;
use super::page::Page;
use super::script::{Script, has_all_modules};
use super::support::{Bed, stream};
use super::values::{self, MASTER, PASSPHRASE, counted, repository};
use icecore::id::{SnapshotId, to_hex};
use icecore::ops::backup::named_source;
use icecore::progress::Silent;
use icecore::recorded::SourceKind;
use icecore::store::codec::reed_solomon::section;
use icecore::store::crypto::{CHUNK_KEY_CONTEXT, Keys, PADDING_CONTEXT, SUB_KEY_CONTEXT, SUSPICION_CONTEXT, keyring};
use icecore::store::format::parity::Geometry;
use icecore::store::format::tombstone::Tombstone;
use icecore::store::format::wire::put_varint;
use icecore::store::format::{Cipher, FORMAT_VERSION, Kind, record};
use icecore::store::repo::{Reader, Reference};

/// What the printed repository holds, as the stream `db`.
const TEXT: &[u8] = b"To be read in twenty years.\n";
const VECTORS: &str = "vectors";
const REPOSITORY: &str = "repository";

fn sealing() -> Vec<[String; 2]> {
    let keys = Keys::encrypted(repository(), &MASTER);
    let header = values::header(Kind::Pack, Cipher::Aes256Gcm);
    let material = [&MASTER[..], &header.salt, &[Kind::Pack.code()]].concat();
    let sub_key = blake3::derive_key(SUB_KEY_CONTEXT, &material);
    let nonce: [u8; 12] = [&1u32.to_le_bytes()[..], &[0; 8]].concat().try_into().unwrap();
    let bound = [&FORMAT_VERSION.to_le_bytes()[..], &[Kind::Pack.code()], &header.encode()[..], &1u32.to_le_bytes()].concat();
    let associated = [&repository().as_bytes()[..], &bound].concat();
    let sealer = keys.sealer(&header).unwrap();
    let mut sealed = b"chunk".to_vec();
    sealer.seal(1, &mut sealed).unwrap();
    assert_eq!(open(&sub_key, nonce, &associated, &sealed).as_deref(), Some(&b"chunk"[..]));
    let row = |what: &str, bytes: &[u8]| [what.to_string(), to_hex(bytes)];
    let memory = named_source(&SourceKind::SQLITE, "memory");
    vec![
        row("key of chunk ids", &blake3::derive_key(CHUNK_KEY_CONTEXT, &MASTER)),
        row("id of the chunk `chunk`, encrypted", keys.chunk_id(b"chunk").as_bytes()),
        row("id of the chunk `chunk`, unencrypted", Keys::plain(repository()).chunk_id(b"chunk").as_bytes()),
        row("chunking seed, as 8 bytes", &keys.chunking_seed().to_le_bytes()),
        row("header of a pack, encrypted, with salt S", &header.encode()),
        row("sub-key of this pack", &sub_key),
        row("padding key of this pack", &blake3::derive_key(PADDING_CONTEXT, &material)),
        row("the first 16 bytes of its padding", &sealer.padding(16)),
        row("nonce of its segment 1", &nonce),
        row("associated data of its segment 1", &associated),
        row("its segment 1 with the plain bytes `chunk`, sealed", &sealed),
        row("id of the suspicion of the pending record R", &blake3::derive_key(SUSPICION_CONTEXT, repository().as_bytes())),
        row("id of the source of kind `sqlite` with the name `memory`", memory.as_bytes()),
        row("tag of this source, encrypted", &keys.source_tag(&memory).0),
        row("tag of this source, unencrypted", &Keys::plain(repository()).source_tag(&memory).0),
    ]
}

fn encodings() -> Vec<[String; 2]> {
    let row = |what: String, bytes: &[u8]| [what, to_hex(bytes)];
    let mut rows = Vec::new();
    for number in [0, 127, 128, 300, u32::MAX] {
        let mut bytes = Vec::new();
        put_varint(&mut bytes, number);
        rows.push(row(format!("{number} in LEB128"), &bytes));
    }
    for number in [250u64, 251, 65_535, 65_536, 1 << 32] {
        rows.push(row(format!("{number} as a u64 of a record"), &record::encode(&number).unwrap()));
    }
    for number in [-1i64, 126, -129] {
        rows.push(row(format!("{number} as an i64 of a record"), &record::encode(&number).unwrap()));
    }
    let tombstone = Tombstone { object: icecore::id::PackId(counted(0x80)), time_ns: 1000, host: "db".into(), expired: None };
    rows.push(row("record Tombstone: object S, time 1000, host `db`, nothing expired".into(), &record::encode(&tombstone).unwrap()));
    rows.push(row(
        "record Config: R, encrypted, page chunks of 32768 bytes, content chunks of 65536".into(),
        &record::encode(&values::config(true)).unwrap(),
    ));
    rows
}

fn key_wrap() -> Vec<[String; 2]> {
    let params = argon2::Params::new(32, 2, 1, Some(32)).unwrap();
    let mut key = [0; 32];
    let argon = argon2::Argon2::new(argon2::Algorithm::Argon2id, argon2::Version::V0x13, params);
    argon.hash_password_into(PASSPHRASE, &counted(0x80), &mut key).unwrap();
    let payload = values::key_payload();
    let stored = keyring::wrap(&repository(), &payload, PASSPHRASE, counted(0x80), values::cost()).unwrap().encode();
    let row = |what: &str, bytes: &[u8]| [what.to_string(), to_hex(bytes)];
    vec![
        row("Argon2id of P with salt S, 32 KiB, 2 passes, 1 lane", &key),
        row("record KeyPayload of M and a configuration of this Config", &payload.encode().unwrap()),
        row("key record that seals it with this key", &stored),
    ]
}

/// One number in each of four data shards, and what that makes in two parity shards.
fn parity() -> Vec<[String; 2]> {
    let numbers = [0x0001u16, 0x0203, 0xffff, 0x1234];
    let mut data = [0; 3 * 4096 + 64];
    for (shard, number) in numbers.iter().enumerate() {
        [data[shard * 4096], data[shard * 4096 + 32]] = number.to_le_bytes();
    }
    let (head, tail) = data.split_at(3 * 4096);
    let geometry = Geometry::of_pack(head.len() as u64, tail.len() as u32, 3);
    let section = section(&geometry, head, tail).unwrap();
    let found = (0..geometry.spare_shards()).map(|shard| {
        let start = (geometry.spare_shard(shard).0 - geometry.head_len()) as usize;
        format!("{:04x}", u16::from_le_bytes([section[start], section[start + 32]]))
    });
    let given: Vec<String> = numbers.iter().map(|number| format!("{number:04x}")).collect();
    assert!(!geometry.is_copy());
    let descriptor = ["descriptor of parity: head 12288, tail 64, shards of 4096, 2 of parity".to_string(), to_hex(&geometry.encode())];
    let what = format!("parity of four data shards, the numbers at one place being {}: two numbers", given.join(" "));
    vec![[what, found.collect::<Vec<_>>().join(" ")], descriptor]
}

fn vectors() -> Vec<[String; 2]> {
    [encodings(), sealing(), key_wrap(), parity()].concat()
}

fn inputs() -> [[String; 2]; 4] {
    let row = |what: &str, bytes: &[u8]| [what.to_string(), to_hex(bytes)];
    [
        row("R, a repository id", repository().as_bytes()),
        row("M, a master key", &MASTER),
        row("S, a salt", &counted(0x80)),
        row("P, a passphrase, `correct horse`", PASSPHRASE),
    ]
}

fn block() -> String {
    let table = |heads: &str, rows: &[[String; 2]]| {
        let rows: String = rows.iter().map(|[what, bytes]| format!("| {what} | `{bytes}` |\n")).collect();
        format!("| {heads} |\n|---|---|\n{rows}")
    };
    format!("{}\n{}", table("given | bytes", &inputs()), table("vector | bytes", &vectors()))
}

/// What stands on the page between two markers.
fn between<'p>(page: &'p str, name: &str) -> [&'p str; 3] {
    let (start, end) = (format!("<!-- {name}: begin -->\n"), format!("<!-- {name}: end -->"));
    let from = page.find(&start).expect("where it begins") + start.len();
    let to = from + page[from..].find(&end).expect("where it ends");
    [&page[..from], &page[from..to], &page[to..]]
}

fn fixture() -> String {
    std::fs::read_to_string(path()).unwrap()
}

fn path() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/vectors/repository.txt")
}

/// A repository with the objects of the fixture.
fn printed() -> Bed {
    let bed = Bed { dir: tempfile::tempdir().unwrap() };
    for place in ["keys", "packs", "pending", "snapshots", "marks", "forgotten", "tombstones", "log", "quarantine"] {
        std::fs::create_dir_all(bed.path("repo").join(place)).unwrap();
    }
    for (path, bytes) in objects(&fixture()) {
        let path = bed.path("repo").join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    }
    bed
}

fn only_snapshot(bed: &Bed) -> SnapshotId {
    let snapshots = bed.open().refresh().unwrap().snapshots;
    assert_eq!(snapshots.len(), 1);
    snapshots[0].0
}

#[test]
fn vectors_are_those_of_the_page() {
    let page = Page::read();
    for (column, computed) in [("given", inputs().to_vec()), ("vector", vectors())] {
        let stated = &page.table("Test vectors", column).rows;
        assert_eq!(stated.len(), computed.len());
        for (row, [what, bytes]) in stated.iter().zip(computed) {
            assert_eq!((&row[0], &row[1]), (&what.replace('`', ""), &bytes));
        }
    }
    assert_eq!(between(&page.text, VECTORS)[1], block());
}

#[test]
fn the_printed_repository_is_read() {
    let bed = printed();
    let (id, repo) = (only_snapshot(&bed), bed.open());
    assert_eq!(stream(&repo, &id, "db").unwrap(), TEXT);
    let record = repo.refresh().unwrap().snapshots.pop().unwrap().1;
    assert_eq!(Reader::new(&repo).listing(&record.listing, &Silent).unwrap().len(), 1);
    if !has_all_modules() {
        return;
    }
    let script = Script::new(bed);
    assert_eq!(script.stream(&id.to_string(), "db"), TEXT);
    assert_eq!(String::from_utf8(script.run(&["latest"]).stdout).unwrap(), format!("file {} db\n", TEXT.len()));
}

/// Every field is what its annotation says: the text is made again from the objects.
#[test]
fn the_annotations_are_true() {
    let page = Page::read();
    assert_eq!(between(&page.text, REPOSITORY)[1], format!("```text\n{}```\n", fixture()));
    assert_eq!(annotate::repository(&printed()), fixture());
}

#[test]
#[ignore = "makes a new repository, and writes it and the vectors into the page"]
fn make_vectors() {
    let bed = Bed::new(true);
    chunks::commit(&bed.open(), &[(TEXT.to_vec(), Reference::default())]);
    let text = annotate::repository(&bed);
    std::fs::write(path(), &text).unwrap();
    let page = Page::read().text;
    let [before, _, after] = between(&page, VECTORS);
    let page = [before, &block(), after].concat();
    let [before, _, after] = between(&page, REPOSITORY);
    let page = [before, "```text\n", &text, "```\n", after].concat();
    std::fs::write(concat!(env!("CARGO_MANIFEST_DIR"), "/store-format.md"), page).unwrap();
}
