//! Every decoder of bytes that others may have written, as a function of bytes alone, with inputs to start from. What it must hold is asserted in it: it
//! refuses, or gives what stands for just these bytes; nothing panics. Used by this test and by the targets in `fuzz/`.
// The fuzz targets use a part of it.
#![allow(dead_code)]

use std::collections::HashMap;
use std::path::Path;
use std::time::{Duration, SystemTime};

use icecore::Conninfo;
use icecore::engine::postgres::archive;
use icecore::engine::sqlite::structure::{Root, StructureInspector, TreeKind};
use icecore::engine::sqlite::{ContentWhen, SqliteOptions, SqliteSource};
use icecore::engine::{Body, Environment, PageRead, Source};
use icecore::id::{RepositoryId, SnapshotId};
use icecore::progress::Silent;
use icecore::store::codec::reed_solomon::{heal, section};
use icecore::store::codec::{Decoder as ChunkDecoder, Encoder};
use icecore::store::format::config::Config;
use icecore::store::format::pack::{FOOTER_LEN, Footer};
use icecore::store::format::parity::{Geometry, record_len};
use icecore::store::repo::catalog::Catalog;

// The fuzz targets include this file, and have no other way to these.
#[path = "../format/golden.rs"]
#[allow(unused_imports, clippy::duplicate_mod)]
mod golden;
#[path = "../format/values.rs"]
#[allow(clippy::duplicate_mod)]
mod values;

/// Plain bytes that a decoded chunk may have here: enough for every path, few enough for many runs.
const PLAIN_LEN_MAX: u32 = 1 << 17;
/// Bytes that the structure check may keep.
const STRUCTURE_BYTES_MAX: usize = 1 << 20;
/// Bytes of a database or its log that are looked at.
const DATABASE_LEN_MAX: usize = 1 << 16;

/// One decoder.
pub struct Decoder {
    /// Its name, which is that of its fuzz target.
    pub name: &'static str,
    /// Inputs that are good.
    pub seeds: fn() -> Vec<Vec<u8>>,
    /// Takes any bytes.
    pub run: fn(&[u8]),
    /// An input costs a millisecond or more: it works on files, or tries much.
    pub is_slow: bool,
}

/// All of them.
pub const ALL: &[Decoder] = &[
    fast("config", || vec![values::config(true).encode().unwrap(), values::config(false).encode().unwrap()], config),
    fast("header", || golden(&["header-pack", "header-snapshot", "header-key"]), |bytes| same("header-pack", bytes)),
    fast("config_record", || golden(&["config-record"]), |bytes| same("config-record", bytes)),
    fast("key_record", || golden(&["key-record"]), |bytes| same("key-record", bytes)),
    fast("key_payload", || golden(&["key-payload"]), |bytes| same("key-payload", bytes)),
    fast("snapshot", || golden(&["snapshot", "snapshot-least"]), |bytes| same("snapshot", bytes)),
    fast("listing", || golden(&["listing"]), |bytes| same("listing", bytes)),
    fast("marks", || golden(&["marks"]), |bytes| same("marks", bytes)),
    fast("forgotten", || golden(&["forgotten"]), |bytes| same("forgotten", bytes)),
    fast("tombstone", || golden(&["tombstone"]), |bytes| same("tombstone", bytes)),
    fast("log_entry", || golden(&["journal-entry"]), |bytes| same("journal-entry", bytes)),
    fast("node", || golden(&["node-uniform", "node-explicit"]), |bytes| same("node-explicit", bytes)),
    fast("trailer", || golden(&["trailer", "trailer-empty"]), |bytes| same("trailer", bytes)),
    fast("footer", || golden(&["footer"]), footer),
    fast("segment", || golden(&["segment", "segment-trailer"]), |bytes| same("segment", bytes)),
    fast("zstd_chunk", || chunks(Vec::new), |bytes| chunk(bytes, &[])),
    fast("delta_chunk", || chunks(base), |bytes| chunk(bytes, &base())),
    fast("patch_chunk", patches, patch),
    Decoder { name: "parity", seeds: || protected().to_vec(), run: parity, is_slow: true },
    fast("archive", || vec![include_bytes!("../../fixtures/dumps/small.dump").to_vec()], archive),
    fast(
        "archive_directory",
        || vec![include_bytes!("../../fixtures/dumps/toc.dat").to_vec(), b"4000 blob_4000.dat\n".to_vec()],
        directory,
    ),
    fast("conninfo", conninfos, conninfo),
    fast("database_pages", databases, pages),
    Decoder { name: "database", seeds: databases_with_logs, run: database, is_slow: true },
    Decoder { name: "catalog", seeds: catalogs, run: catalog, is_slow: true },
];

const fn fast(name: &'static str, seeds: fn() -> Vec<Vec<u8>>, run: fn(&[u8])) -> Decoder {
    Decoder { name, seeds, run, is_slow: false }
}

/// Gives bytes to the decoder of this name.
pub fn run(name: &str, bytes: &[u8]) {
    let decoder = ALL.iter().find(|decoder| decoder.name == name).unwrap_or_else(|| panic!("there is no decoder {name}"));
    (decoder.run)(bytes);
}

fn all_golden() -> &'static HashMap<&'static str, golden::Golden> {
    static GOLDEN: std::sync::OnceLock<HashMap<&'static str, golden::Golden>> = std::sync::OnceLock::new();
    GOLDEN.get_or_init(|| golden::all().into_iter().map(|golden| (golden.name, golden)).collect())
}

fn golden(names: &[&str]) -> Vec<Vec<u8>> {
    names.iter().map(|name| all_golden()[name].bytes.clone()).collect()
}

/// Refused, or it stands for just these bytes.
fn same(name: &str, bytes: &[u8]) {
    if let Some(again) = (all_golden()[name].redo)(bytes) {
        assert!(again == bytes, "it is encoded in another way");
    }
}

fn config(bytes: &[u8]) {
    if let Ok(config) = Config::decode(bytes) {
        assert_eq!(Config::decode(&config.encode().unwrap()).unwrap(), config);
    }
}

fn footer(bytes: &[u8]) {
    same("footer", bytes);
    let Some((trailer, stored)) = bytes.split_last_chunk::<FOOTER_LEN>() else { return };
    if let Ok(footer) = Footer::decode(stored, bytes.len() as u64) {
        let _ = footer.verify(stored, trailer);
    }
}

/// What deltas are made against.
fn base() -> Vec<u8> {
    (0..20_000_u32).flat_map(|n| (n / 7).to_le_bytes()).collect()
}

fn changed() -> Vec<u8> {
    let mut plain = base();
    plain.drain(500..600);
    plain[70_000] ^= 1;
    plain
}

/// The plain length, then the encoded bytes.
fn chunks(prefix: fn() -> Vec<u8>) -> Vec<Vec<u8>> {
    let mut encoder = Encoder::new().unwrap();
    let plains = [changed(), vec![0; 5000], b"short".to_vec()];
    let encode = |plain: &Vec<u8>| {
        let mut encoded = Vec::new();
        encoder.encode(plain, &prefix(), &mut encoded).unwrap();
        [&(plain.len() as u32).to_le_bytes()[..], &encoded].concat()
    };
    plains.iter().map(encode).collect()
}

fn with_len(bytes: &[u8]) -> Option<(u32, &[u8])> {
    let (len, encoded) = bytes.split_first_chunk::<4>()?;
    Some((u32::from_le_bytes(*len) % PLAIN_LEN_MAX, encoded))
}

fn chunk(bytes: &[u8], prefix: &[u8]) {
    let Some((len, encoded)) = with_len(bytes) else { return };
    let mut plain = Vec::new();
    if ChunkDecoder::new().unwrap().decode(encoded, prefix, len, &mut plain).is_ok() {
        assert_eq!(plain.len(), len as usize);
    }
}

fn patches() -> Vec<Vec<u8>> {
    let mut plain = base();
    plain[3] ^= 1;
    plain[60_000] ^= 1;
    let mut encoded = Vec::new();
    assert!(Encoder::new().unwrap().encode_patch(&plain, &base(), &mut encoded).unwrap());
    vec![[&(plain.len() as u32).to_le_bytes()[..], &encoded].concat()]
}

fn patch(bytes: &[u8]) {
    let Some((len, encoded)) = with_len(bytes) else { return };
    let mut plain = base();
    if ChunkDecoder::new().unwrap().decode_patch(encoded, &mut plain, len).is_ok() {
        assert_eq!(plain.len(), len as usize);
    }
}

/// A pack's bytes with their parity, and a record with its second copy.
fn protected() -> &'static [Vec<u8>; 2] {
    static PROTECTED: std::sync::OnceLock<[Vec<u8>; 2]> = std::sync::OnceLock::new();
    PROTECTED.get_or_init(|| {
        let (head, tail) = (&base()[..9_000], &base()[70_000..70_300]);
        let of = |geometry: Geometry, head: &[u8], tail: &[u8]| [head, &section(&geometry, head, tail).unwrap(), tail].concat();
        [of(Geometry::of_pack(9_000, 300, 3), head, tail), of(Geometry::of_record(300), tail, &[])]
    })
}

/// What is healed is what was stored, or nothing.
fn parity(bytes: &[u8]) {
    let names = protected().each_ref().map(|bytes| blake3::hash(bytes));
    if let Some(healed) = heal(bytes, &|bytes| names.contains(&blake3::hash(bytes))) {
        assert!(protected().contains(&healed), "something else came out");
    }
    let _ = record_len(bytes);
}

fn archive(bytes: &[u8]) {
    if let Ok(archive) = archive::read(bytes, |_| ()) {
        assert_eq!(archive.len, bytes.len() as u64);
    }
    let Ok(head) = archive::head(bytes, &|_, _| true) else { return };
    let data = bytes.get(usize::try_from(head.data_offset).unwrap()..).unwrap();
    for entry in &head.entries {
        let _ = archive::table_rows(data, &head, entry, &mut |_| Ok(()));
    }
}

fn directory(bytes: &[u8]) {
    if let Ok(archive) = archive::directory::read(bytes, &|_, _| true) {
        assert_eq!(archive.len, bytes.len() as u64);
        let names: Vec<(usize, String)> = (0..archive.entries.len()).map(|index| (index, format!("file-{index}.dat"))).collect();
        let _ = archive::directory::rename_files(bytes, &archive, &names);
    }
    let _ = archive::directory::large_objects(bytes);
    let _ = archive::directory::large_object(bytes, 7);
    let _ = archive::directory::pass(bytes);
}

fn conninfos() -> Vec<Vec<u8>> {
    let texts = [
        "postgresql://user:p%40ss@[::1]:5432,host:5433/db?sslmode=require&connect_timeout=3&options=-c%20a%3Db",
        "host=/tmp,localhost port=1,2 user='a b' password='it\\'s' dbname=x target_session_attrs=read-write",
        "db",
    ];
    texts.map(|text| text.as_bytes().to_vec()).into()
}

/// Taken or refused.
fn conninfo(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let environment = Environment { os_user: Some("nobody".into()), ..Environment::default() };
    let _ = Conninfo::resolve(Some(text), &environment).map(|conninfo| conninfo.label());
}

fn scratch() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}

/// Small databases with trees, overflow pages, free pages and a pointer map.
fn databases() -> Vec<Vec<u8>> {
    let make = |auto_vacuum: u8| {
        let dir = scratch();
        let db = rusqlite::Connection::open(dir.path().join("db")).unwrap();
        db.execute_batch(&format!(
            "PRAGMA page_size=512; PRAGMA auto_vacuum={auto_vacuum}; CREATE TABLE t(id INTEGER PRIMARY KEY, x); CREATE INDEX i ON t(x);
             WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 40) INSERT INTO t SELECT i, printf('%.*c', i * 20, 'x') FROM n;
             CREATE TABLE gone(x); INSERT INTO gone SELECT x FROM t; DELETE FROM gone WHERE rowid > 3;"
        ))
        .unwrap();
        std::fs::read(dir.path().join("db")).unwrap()
    };
    vec![make(0), make(1)]
}

fn pages(bytes: &[u8]) {
    let bytes = &bytes[..bytes.len().min(DATABASE_LEN_MAX)];
    let page_size = bytes.get(16..18).map_or(512, |size| usize::from(u16::from_be_bytes([size[0], size[1]]))).max(512);
    for roots in [None, Some(&[Root { page: 2, kind: TreeKind::Any }, Root { page: 3, kind: TreeKind::Index }][..])] {
        let inspector = StructureInspector::new(bytes, (bytes.len() / page_size) as u64, STRUCTURE_BYTES_MAX);
        inspector.pages(1, bytes);
        assert!(inspector.memory_bytes() <= STRUCTURE_BYTES_MAX + (1 << 20));
        let _ = inspector.finish(roots);
    }
}

/// The length of the database, the database, the log.
fn databases_with_logs() -> Vec<Vec<u8>> {
    let dir = scratch();
    let path = dir.path().join("db");
    let db = rusqlite::Connection::open(&path).unwrap();
    db.execute_batch(
        "PRAGMA page_size=512; PRAGMA journal_mode=WAL; PRAGMA wal_autocheckpoint=0; CREATE TABLE t(x); INSERT INTO t VALUES (1);",
    )
    .unwrap();
    db.execute_batch("PRAGMA wal_checkpoint; INSERT INTO t VALUES (randomblob(2000)); UPDATE t SET x = 2 WHERE x = 1;").unwrap();
    let (main, log) = (std::fs::read(&path).unwrap(), std::fs::read(dir.path().join("db-wal")).unwrap());
    let with_log = [&(main.len() as u32).to_le_bytes()[..], &main, &log].concat();
    let alone = databases().into_iter().map(|main| [&(main.len() as u32).to_le_bytes()[..], &main].concat());
    alone.chain([with_log]).collect()
}

/// Captured whole, or refused.
fn database(bytes: &[u8]) {
    let Some((len, rest)) = bytes.split_first_chunk::<4>() else { return };
    let (main, log) = rest.split_at((u32::from_le_bytes(*len) as usize).min(rest.len()).min(DATABASE_LEN_MAX));
    let dir = scratch();
    let path = dir.path().join("db");
    std::fs::write(&path, main).unwrap();
    if !log.is_empty() {
        std::fs::write(dir.path().join("db-wal"), &log[..log.len().min(DATABASE_LEN_MAX)]).unwrap();
    }
    let options = SqliteOptions {
        busy_timeout: Duration::from_millis(10),
        temp_dir: None,
        clock: || SystemTime::UNIX_EPOCH,
        content: ContentWhen::Always,
    };
    let _ = capture(&path, options);
}

fn capture(path: &Path, options: SqliteOptions) -> icecore::Result<()> {
    let source = SqliteSource::new(vec![("db".into(), path.to_path_buf())], options)?;
    let known = HashMap::new();
    let mut capture = source.capture(&known, &Silent)?;
    while let Some(stream) = capture.next_stream()? {
        if let Body::Pages(image) = stream.body {
            read_pages(&*image)?;
        }
    }
    capture.finish().map(drop)
}

fn read_pages(image: &dyn PageRead) -> icecore::Result<()> {
    let (len, page_size) = (image.len_bytes(), u64::from(image.page_size()));
    for offset in (0..len.min(DATABASE_LEN_MAX as u64 * 2)).step_by(page_size as usize) {
        image.read_at(offset, &mut vec![0; page_size.min(len - offset) as usize])?;
    }
    Ok(())
}

/// A catalog with a pack and a snapshot, as its one file.
fn catalogs() -> Vec<Vec<u8>> {
    let dir = scratch();
    let path = fill_catalog(dir.path());
    vec![std::fs::read(path).unwrap()]
}

fn fill_catalog(dir: &Path) -> std::path::PathBuf {
    use icecore::id::{ChunkId, PackId};
    use icecore::store::format::snapshot::PackRef;
    use icecore::store::repo::catalog::NewPack;
    let catalog = Catalog::open(dir, RepositoryId([1; 32]), "fuzz", &[7; 32]).unwrap();
    let ids: Vec<ChunkId> = (0..50_u8).map(|n| ChunkId(*blake3::hash(&[n]).as_bytes())).collect();
    let pack = PackRef { id: PackId([2; 32]), size: 1000, trailer_offset: 900 };
    catalog.add_packs(&[NewPack { pack, ids: &ids, trailer: &[7; 90] }]).unwrap();
    catalog.put_snapshots(&[(SnapshotId([3; 32]), vec![4; 100])]).unwrap();
    let path = catalog.path().to_path_buf();
    drop(catalog);
    rusqlite::Connection::open(&path).unwrap().execute_batch("PRAGMA wal_checkpoint(TRUNCATE)").unwrap();
    path
}

/// The catalog answers with what was put in, with nothing, with an error, or begins anew.
fn catalog(bytes: &[u8]) {
    static PATH: std::sync::OnceLock<std::ffi::OsString> = std::sync::OnceLock::new();
    let name = PATH.get_or_init(|| fill_catalog(scratch().path()).file_name().unwrap().to_owned());
    let dir = scratch();
    std::fs::write(dir.path().join(name), bytes).unwrap();
    let Ok(catalog) = Catalog::open(dir.path(), RepositoryId([1; 32]), "fuzz", &[7; 32]) else { return };
    for n in 0..60_u8 {
        let id = icecore::id::ChunkId(*blake3::hash(&[n]).as_bytes());
        let found = catalog.find(icecore::store::repo::catalog::prefix(&id)).unwrap_or_default();
        assert!(found.len() <= 1 && found.iter().all(|at| at.index == u32::from(n)), "an answer that is wrong");
    }
    for known in catalog.packs().unwrap_or_default() {
        assert_eq!(known.pack.size, 1000);
        assert!(catalog.trailer(known.num).ok().flatten().is_none_or(|trailer| trailer == [7; 90]));
    }
    assert!(catalog.snapshots().unwrap_or_default().iter().all(|(id, bytes)| id.0 == [3; 32] && *bytes == [4; 100]));
    let _ = catalog.snapshot_ids();
}
