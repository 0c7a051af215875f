//! A second implementation of the records' encoding reads and writes the same bytes: should bincode ever be gone, wincode can take its place.
//! Its structures are written down here once more, so that a change of the library's own is noticed.

use super::golden;
use super::values;
use icecore::store::format::record;
use wincode::config::Configuration;
use wincode::{SchemaRead, SchemaWrite};

type Id = [u8; 32];

#[derive(Debug, PartialEq, SchemaRead, SchemaWrite)]
struct Config {
    repository: Id,
    encrypted: bool,
    page_chunk_len: u32,
    content_chunk_len: u32,
}

#[derive(Debug, PartialEq, SchemaRead, SchemaWrite)]
struct KeyPayload {
    master: Id,
    config_hash: Id,
    config: Config,
}

#[derive(Debug, PartialEq, SchemaRead, SchemaWrite)]
struct SnapshotRecord {
    time_ns: i64,
    duration_us: u64,
    host: String,
    user: String,
    tool: String,
    source: SourceRef,
    parent: Option<Id>,
    tags: Vec<String>,
    flags: Vec<Flag>,
    accepted: Vec<Flag>,
    listing: StreamRoot,
    entries: u64,
    logical_bytes: u64,
    packs: Vec<PackRef>,
    stats: [u64; 8],
    written_ns: i64,
    facts: Vec<(String, String)>,
}

#[derive(Debug, PartialEq, SchemaRead, SchemaWrite)]
struct Flag {
    code: String,
    stream: Option<Vec<u8>>,
    detail: String,
}

#[derive(Debug, PartialEq, SchemaRead, SchemaWrite)]
struct SourceRef {
    id: Id,
    kind: String,
    label: String,
}

#[derive(Debug, PartialEq, SchemaRead, SchemaWrite)]
struct StreamRoot {
    len: u64,
    levels: u8,
    top: Option<Id>,
}

#[derive(Debug, PartialEq, SchemaRead, SchemaWrite)]
struct PackRef {
    id: Id,
    size: u64,
    trailer_offset: u64,
}

#[derive(Debug, PartialEq, SchemaRead, SchemaWrite)]
struct StreamEntry {
    name: Vec<u8>,
    kind: EntryKind,
    root: StreamRoot,
    meta: Option<FileMeta>,
    tables: Vec<TableContent>,
}

#[derive(Debug, PartialEq, SchemaRead, SchemaWrite)]
struct TableContent {
    name: Vec<u8>,
    rows: u64,
    sum: Id,
}

#[derive(Debug, PartialEq, SchemaRead, SchemaWrite)]
enum EntryKind {
    Sqlite(SqliteFacts),
    File,
    Directory,
    Symlink(Vec<u8>),
    HardLink(Vec<u8>),
}

#[derive(Debug, PartialEq, SchemaRead, SchemaWrite)]
struct FileMeta {
    mode: u32,
    mtime_ns: i64,
    uid: u32,
    gid: u32,
    holes: u64,
    attributes: Vec<Attribute>,
}

#[derive(Debug, PartialEq, SchemaRead, SchemaWrite)]
struct Attribute {
    name: Vec<u8>,
    value: Vec<u8>,
}

#[derive(Debug, PartialEq, SchemaRead, SchemaWrite)]
struct SqliteFacts {
    page_size: u32,
    page_count: u64,
    user_version: i32,
    application_id: i32,
    encoding: u32,
    wal: bool,
    change_counter: u32,
    schema_cookie: u32,
    freelist_pages: u32,
}

#[derive(Debug, PartialEq, SchemaRead, SchemaWrite)]
struct MarkRecord {
    snapshot: Id,
    kind: MarkKind,
    time_ns: i64,
    host: String,
    user: String,
    code: String,
    detail: String,
}

#[derive(Debug, PartialEq, SchemaRead, SchemaWrite)]
enum MarkKind {
    Flag,
    Accept,
    Protect,
    Unprotect,
    Verified,
    Damaged,
    Tag,
    Untag,
}

#[derive(Debug, PartialEq, SchemaRead, SchemaWrite)]
struct LogRecord {
    time_ns: i64,
    duration_us: u64,
    host: String,
    user: String,
    tool: String,
    operation: String,
    outcome: String,
    exit_code: u8,
    source: Option<Id>,
    snapshots: Vec<Id>,
    snapshots_total: u64,
    detail: String,
    facts: Vec<(String, String)>,
}

#[derive(Debug, PartialEq, SchemaRead, SchemaWrite)]
struct ForgottenRecord {
    snapshot: Id,
    parent: Option<Id>,
    source: Id,
    time_ns: i64,
    forgotten_ns: i64,
    label: String,
    decided: bool,
}

#[derive(Debug, PartialEq, SchemaRead, SchemaWrite)]
struct Tombstone {
    object: Id,
    time_ns: i64,
    host: String,
    expired: Option<Id>,
}

/// Reads a golden object, writes it again, and gives what was read.
macro_rules! reread {
    ($type:ty, $bytes:expr) => {{
        let configuration = Configuration::default().with_varint_encoding();
        let bytes: Vec<u8> = $bytes;
        let value: $type = wincode::config::deserialize_exact(&bytes, configuration).unwrap();
        assert_eq!(wincode::config::serialize(&value, configuration).unwrap(), bytes);
        value
    }};
}

#[test]
fn configurations_and_keys() {
    let config = Config { repository: values::repository().0, encrypted: true, page_chunk_len: 32768, content_chunk_len: 65536 };
    let payload = reread!(KeyPayload, record::encode(&values::key_payload()).unwrap());
    assert_eq!(payload, KeyPayload { master: values::MASTER, config_hash: values::key_payload().config_hash, config });
    assert!(!reread!(Config, record::encode(&values::config(false)).unwrap()).encrypted);
}

#[test]
fn snapshots() {
    let ours = values::snapshot();
    let read = reread!(SnapshotRecord, record::encode(&ours).unwrap());
    assert_eq!((read.time_ns, read.duration_us, read.entries, read.logical_bytes), (ours.time_ns, 250, 251, 70_000));
    assert_eq!((read.host, read.user, read.tool), (ours.host, ours.user, ours.tool));
    assert_eq!(read.source, SourceRef { id: ours.source.id.0, kind: "sqlite".to_owned(), label: ours.source.label });
    assert_eq!(read.parent, ours.parent.map(|id| id.0));
    assert_eq!(read.tags, ours.tags);
    let flag = |flag: &icecore::recorded::Flag| Flag { code: flag.code.clone(), stream: flag.stream.clone(), detail: flag.detail.clone() };
    assert_eq!(read.flags, ours.flags.iter().map(flag).collect::<Vec<_>>());
    assert_eq!(read.accepted, ours.accepted.iter().map(flag).collect::<Vec<_>>());
    assert_eq!(read.listing, StreamRoot { len: 1 << 33, levels: 2, top: Some(values::counted(0x43)) });
    let pack =
        |pack: &icecore::store::format::snapshot::PackRef| PackRef { id: pack.id.0, size: pack.size, trailer_offset: pack.trailer_offset };
    assert_eq!(read.packs, ours.packs.iter().map(pack).collect::<Vec<_>>());
    assert_eq!(read.stats, [1 << 32, 3, 196_608, 65_536, 65_535, 255, 256, u64::MAX]);
    assert_eq!((read.written_ns, read.facts), (ours.written_ns, ours.facts));
    let least = reread!(SnapshotRecord, record::encode(&values::least_snapshot()).unwrap());
    assert_eq!((least.time_ns, least.parent, least.source.kind.as_str()), (-1, None, "files"));
}

#[test]
fn marks_and_forgotten() {
    let ours = values::mark(values::MARK_KINDS[0]);
    let read = values::MARK_KINDS.map(|kind| reread!(MarkRecord, record::encode(&values::mark(kind)).unwrap()));
    for (mark, kind) in read.iter().zip(values::MARK_KINDS) {
        assert_eq!((mark.snapshot, mark.time_ns, format!("{:?}", mark.kind)), (ours.snapshot.0, ours.time_ns, format!("{kind:?}")));
        assert_eq!([&mark.host, &mark.user, &mark.code, &mark.detail], [&ours.host, &ours.user, &ours.code, &ours.detail]);
    }
    let ours = values::forgotten();
    let expected = ForgottenRecord {
        snapshot: ours.snapshot.0,
        parent: ours.parent.map(|id| id.0),
        source: ours.source.0,
        time_ns: ours.time_ns,
        forgotten_ns: ours.forgotten_ns,
        label: ours.label.clone(),
        decided: ours.decided,
    };
    assert_eq!(reread!(ForgottenRecord, record::encode(&ours).unwrap()), expected);
    let ours = values::tombstone();
    let expected =
        Tombstone { object: ours.object.0, time_ns: ours.time_ns, host: ours.host.clone(), expired: ours.expired.map(|id| id.0) };
    assert_eq!(reread!(Tombstone, record::encode(&ours).unwrap()), expected);
}

#[test]
fn journal_entries() {
    let ours = values::journal_entry();
    let expected = LogRecord {
        time_ns: ours.time_ns,
        duration_us: ours.duration_us,
        host: ours.host.clone(),
        user: ours.user.clone(),
        tool: ours.tool.clone(),
        operation: ours.operation.clone(),
        outcome: ours.outcome.clone(),
        exit_code: ours.exit_code,
        source: ours.source.map(|id| id.0),
        snapshots: ours.snapshots.iter().map(|id| id.0).collect(),
        snapshots_total: ours.snapshots_total,
        detail: ours.detail.clone(),
        facts: ours.facts.clone(),
    };
    assert_eq!(reread!(LogRecord, record::encode(&ours).unwrap()), expected);
}

#[test]
fn listings() {
    let kinds: Vec<EntryKind> = values::listing().iter().map(|entry| reread!(StreamEntry, record::encode(entry).unwrap()).kind).collect();
    let facts = SqliteFacts {
        page_size: 65_536,
        page_count: 1 << 34,
        user_version: -7,
        application_id: i32::MIN,
        encoding: 1,
        wal: true,
        change_counter: u32::MAX,
        schema_cookie: 300,
        freelist_pages: 0,
    };
    let link = |name: &[u8]| name.to_vec();
    let expected = [
        EntryKind::Sqlite(facts),
        EntryKind::File,
        EntryKind::Directory,
        EntryKind::Symlink(link(b"../elsewhere")),
        EntryKind::HardLink(link(b"notes/\xff.txt")),
    ];
    assert_eq!(kinds, expected);
    let database = reread!(StreamEntry, record::encode(&values::listing()[0]).unwrap());
    let table = |name: &[u8], rows, first| TableContent { name: name.to_vec(), rows, sum: values::counted(first) };
    assert_eq!(database.tables, [table(b"memory", 1 << 40, 0x61), table(b"sqlite_schema", 1, 0x62)]);
    let file = reread!(StreamEntry, record::encode(&values::listing()[1]).unwrap());
    assert_eq!(file.name, b"notes/\xff.txt");
    assert_eq!(file.root, StreamRoot { len: 300, levels: 0, top: Some(values::counted(0x52)) });
    let attribute = |name: &[u8], value: &[u8]| Attribute { name: name.to_vec(), value: value.to_vec() };
    let attributes = vec![attribute(b"system.posix_acl_access", b"\x02\0\0\0"), attribute(b"user.empty", b"")];
    assert_eq!(file.meta, Some(FileMeta { mode: 0o4755, mtime_ns: i64::MIN, uid: 0, gid: 100_000, holes: 1 << 40, attributes }));
}

/// Whatever damaged records bincode takes, wincode takes as the same value.
#[test]
fn both_agree_on_damaged_records() {
    let configuration = Configuration::default().with_varint_encoding();
    let bytes = record::encode(&values::snapshot()).unwrap();
    let mut taken = 0;
    for bit in 0..bytes.len() * 8 {
        let mut flipped = bytes.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        let Some(again) = golden::redo_record::<icecore::store::format::snapshot::SnapshotRecord>(&flipped) else { continue };
        let value: SnapshotRecord = wincode::config::deserialize_exact(&flipped, configuration).unwrap();
        assert_eq!(wincode::config::serialize(&value, configuration).unwrap(), again);
        taken += 1;
    }
    assert!(taken > bytes.len(), "only {taken} changed records were readable");
}
