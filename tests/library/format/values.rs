//! Fixed values, one of everything that is stored, with all their fields different.

use icecore::id::{ChunkId, PackId, RepositoryId, SnapshotId, SourceId};
use icecore::recorded::{Attribute, EntryKind, FileMeta, Flag, SourceKind, SqliteFacts, TableContent};
use icecore::store::format::config::Config;
use icecore::store::format::key::{KdfCost, KeyPayload};
use icecore::store::format::log::LogRecord;
use icecore::store::format::mark::{ForgottenRecord, MarkKind, MarkRecord};
use icecore::store::format::node::{Child, Node};
use icecore::store::format::pack::{ChunkEntry, Encoding, Footer, Frame, IdPrefix, Slice, Trailer};
use icecore::store::format::snapshot::{PackRef, SnapshotRecord, SnapshotStats, SourceRef, StreamEntry, StreamRoot};
use icecore::store::format::tombstone::Tombstone;
use icecore::store::format::{Cipher, Kind, ObjectHeader};

pub const PASSPHRASE: &[u8] = b"correct horse";
pub const MASTER: [u8; 32] = *b"a master key that is not secret.";

/// 32 bytes that count up from `first`.
pub fn counted(first: u8) -> [u8; 32] {
    std::array::from_fn(|place| first.wrapping_add(place as u8))
}

pub fn repository() -> RepositoryId {
    RepositoryId(counted(0x10))
}

pub fn header(kind: Kind, cipher: Cipher) -> ObjectHeader {
    ObjectHeader { kind, cipher, salt: counted(0x80) }
}

pub fn config(encrypted: bool) -> Config {
    Config { repository: repository(), encrypted, page_chunk_len: 32 << 10, content_chunk_len: 64 << 10, parity_percent: 0 }
}

pub fn cost() -> KdfCost {
    KdfCost { memory_kib: 32, passes: 2, lanes: 1 }
}

pub fn key_payload() -> KeyPayload {
    let config_hash = *blake3::hash(&config(true).encode().unwrap()).as_bytes();
    KeyPayload { master: MASTER, config_hash, config: config(true) }
}

/// All children but the last cover the same span.
pub fn uniform_node() -> Node {
    let lens = [65536, 65536, 4096];
    Node { level: 1, children: children(&lens) }
}

/// A length for each child.
pub fn explicit_node() -> Node {
    let lens = [17, 1 << 40, 300];
    Node { level: 2, children: children(&lens) }
}

pub fn children(lens: &[u64]) -> Vec<Child> {
    lens.iter().zip(0x21u32..).map(|(&len, first)| Child { id: ChunkId(counted(first as u8)), len }).collect()
}

/// A chunk, before it has its place.
pub fn chunk(first: u8, plain_len: u32) -> ChunkEntry {
    ChunkEntry { id: ChunkId(counted(first)), frame: 0, offset: 0, plain_len, node: false, version: 0 }
}

/// A frame without bases, before it has its place.
pub fn whole(encoding: Encoding, encoded_len: u32) -> Frame {
    Frame { encoded_len, ..Frame::whole(encoding) }
}

/// A delta, before it has its place.
pub fn delta(encoded_len: u32, level: u8, work: u32, slices: Vec<Slice>) -> Frame {
    Frame { encoded_len, level, work, slices, ..Frame::whole(Encoding::Delta) }
}

pub fn slice(base: u64, offset: u32, len: u32) -> Slice {
    Slice { base: IdPrefix(base), offset, len }
}

/// The table of segments of frames of chunks, each put where it lies. Sealing adds 16 bytes to a segment.
pub fn table(segments: Vec<Vec<(Frame, Vec<ChunkEntry>)>>) -> Trailer {
    let mut table = Trailer::default();
    for (number, frames) in (0..).zip(segments) {
        let mut offset = 0;
        for (frame, chunks) in frames {
            let mut plain_len = 0;
            for chunk in chunks {
                table.chunks.push(ChunkEntry { frame: table.frames.len() as u32, offset: plain_len, ..chunk });
                plain_len += chunk.plain_len;
            }
            table.frames.push(Frame { segment: number, offset, plain_len, ..frame });
            offset += table.frames.last().unwrap().encoded_len;
        }
        table.segments.push(offset + 16);
    }
    table
}

/// Every kind of row, with every bit set and not set somewhere, bases that are new, named again and named twice in a row, and LEB128 numbers of one to
/// three bytes.
pub fn trailer() -> Trailer {
    let (first, second) = (0xfedc_ba98_7654_3210, 0x0102_0304_0506_0708);
    let node = |first, version| ChunkEntry { node: true, version, ..chunk(first, 4000) };
    let at = |version, chunk| ChunkEntry { version, ..chunk };
    let wholes = vec![
        (whole(Encoding::Zstd, 20_000), vec![chunk(0x31, 65536), at(5, chunk(0x32, 4000)), at(300, chunk(0x33, 65536))]),
        (whole(Encoding::Raw, 65536), vec![chunk(0x34, 65536)]),
        (whole(Encoding::Raw, 4001), vec![node(0x35, 0), chunk(0x36, 1)]),
    ];
    let parts = vec![slice(second, 4096, 8192), slice(9, 0, 1), slice(second, 0, 65535)];
    let deltas = vec![
        (delta(57, 1, 2, vec![slice(first, 0, 65536)]), vec![at(1, chunk(0x37, 65536))]),
        (delta(300, 21, 128, parts), vec![at(4096, chunk(0x38, 65536))]),
        (Frame { encoding: Encoding::Patch, ..delta(90, 2, 3, vec![slice(77, 0, 4000)]) }, vec![node(0x39, 2)]),
        (delta(58, 1, 2, vec![slice(first, 0, 65536)]), vec![at(1, chunk(0x3a, 65536))]),
        (delta(200, 128, 1024, vec![slice(77, 4, 65536), slice(78, 0, 65536)]), vec![at(7, chunk(0x3b, 65536)), at(8, chunk(0x3c, 112))]),
    ];
    let last = vec![(whole(Encoding::Raw, 112), vec![ChunkEntry { plain_len: 112, ..node(0x3d, 0) }])];
    table(vec![wholes, deltas, last])
}

/// The footer of a pack that ends with this trailer.
pub fn footer(stored_trailer: &[u8]) -> Footer {
    let trailer_offset = 48 + trailer().segments.iter().map(|len| u64::from(*len)).sum::<u64>();
    Footer {
        trailer_offset,
        trailer_len: stored_trailer.len() as u32,
        pack_len: trailer_offset + stored_trailer.len() as u64 + 80,
        salt: counted(0x80),
    }
}

pub fn root(first: u8) -> StreamRoot {
    StreamRoot { len: 1 << 33, levels: 2, top: Some(ChunkId(counted(first))) }
}

/// Numbers of every stored length, negative ones, empty and long lists.
pub fn snapshot() -> SnapshotRecord {
    SnapshotRecord {
        time_ns: 1_793_880_000_123_456_789,
        duration_us: 250,
        host: "db-1.example".into(),
        user: "mia".into(),
        tool: "icecore 0.1.0".into(),
        source: SourceRef { id: SourceId(counted(0x41)), kind: SourceKind::SQLITE, label: "/srv/memory.db".into() },
        parent: Some(SnapshotId(counted(0x42))),
        tags: vec!["nightly".into(), String::new(), "gr\u{fc}n".into()],
        flags: vec![
            Flag::new("damaged", "quick_check: row 7 missing from index").about(b"memory.db"),
            Flag::new("no-instant", "written to without pause"),
        ],
        accepted: vec![Flag::new("incomplete", "shut: Permission denied").about(b"sub/sh\xfft")],
        listing: root(0x43),
        entries: 251,
        logical_bytes: 70_000,
        packs: vec![
            PackRef { id: PackId(counted(0x44)), size: 8_650_752, trailer_offset: 8_600_000 },
            PackRef { id: PackId(counted(0x45)), size: 250, trailer_offset: 128 },
        ],
        stats: SnapshotStats {
            read_bytes: 1 << 32,
            new_chunks: 3,
            new_plain_bytes: 196_608,
            raw_bytes: 65_536,
            zstd_bytes: 65_535,
            delta_bytes: 255,
            node_bytes: 256,
            pack_bytes: u64::MAX,
        },
        written_ns: 1_793_880_000_373_456_789,
        facts: vec![("instant".into(), "proven".into()), ("sqlite".into(), "3.54.1".into())],
    }
}

/// The least that a record can say.
pub fn least_snapshot() -> SnapshotRecord {
    SnapshotRecord {
        time_ns: -1,
        duration_us: 0,
        host: String::new(),
        user: String::new(),
        tool: String::new(),
        source: SourceRef { id: SourceId([0; 32]), kind: SourceKind::FILES, label: String::new() },
        parent: None,
        tags: Vec::new(),
        flags: Vec::new(),
        accepted: Vec::new(),
        listing: StreamRoot { len: 0, levels: 0, top: None },
        entries: 0,
        logical_bytes: 0,
        packs: Vec::new(),
        stats: SnapshotStats::default(),
        written_ns: 0,
        facts: Vec::new(),
    }
}

pub const MARK_KINDS: [MarkKind; 8] = [
    MarkKind::Flag,
    MarkKind::Accept,
    MarkKind::Protect,
    MarkKind::Unprotect,
    MarkKind::Verified,
    MarkKind::Damaged,
    MarkKind::Tag,
    MarkKind::Untag,
];

pub fn mark(kind: MarkKind) -> MarkRecord {
    MarkRecord {
        snapshot: SnapshotId(counted(0x61)),
        kind,
        time_ns: 1_793_880_000_123_456_789,
        host: "db-2.example".into(),
        user: "mia".into(),
        code: "by-user".into(),
        detail: "gr\u{fc}n".into(),
    }
}

pub fn forgotten() -> ForgottenRecord {
    ForgottenRecord {
        snapshot: SnapshotId(counted(0x62)),
        parent: Some(SnapshotId(counted(0x63))),
        source: SourceId(counted(0x64)),
        time_ns: -2,
        forgotten_ns: 1_793_880_000_123_456_790,
        label: "/srv/memory.db".into(),
        decided: true,
    }
}

pub fn tombstone() -> Tombstone {
    Tombstone {
        object: PackId(counted(0x68)),
        time_ns: 1_793_880_000_123_456_791,
        host: "db-3.example".into(),
        expired: Some(SnapshotId(counted(0x68))),
    }
}

pub fn journal_entry() -> LogRecord {
    LogRecord {
        time_ns: 1_793_880_000_123_456_792,
        duration_us: 1 << 33,
        host: "db-4.example".into(),
        user: "ada".into(),
        tool: "icecore 0.1.0".into(),
        operation: "restore".into(),
        outcome: "incomplete".into(),
        exit_code: 3,
        source: Some(SourceId(counted(0x65))),
        snapshots: vec![SnapshotId(counted(0x66)), SnapshotId(counted(0x67))],
        snapshots_total: 1 << 16,
        detail: "/srv/memory.db".into(),
        facts: vec![("verified".into(), "yes".into())],
    }
}

pub fn facts() -> SqliteFacts {
    SqliteFacts {
        page_size: 65_536,
        page_count: 1 << 34,
        user_version: -7,
        application_id: i32::MIN,
        encoding: 1,
        wal: true,
        change_counter: u32::MAX,
        schema_cookie: 300,
        freelist_pages: 0,
    }
}

/// One of every kind.
pub fn listing() -> Vec<StreamEntry> {
    let empty = StreamRoot { len: 0, levels: 0, top: None };
    let meta = Some(FileMeta { mode: 0o4755, mtime_ns: i64::MIN, uid: 0, gid: 100_000, ..FileMeta::default() });
    let attribute = |name: &[u8], value: &[u8]| Attribute { name: name.to_vec(), value: value.to_vec() };
    let attributes = vec![attribute(b"system.posix_acl_access", b"\x02\0\0\0"), attribute(b"user.empty", b"")];
    let odd = meta.clone().map(|meta| FileMeta { holes: 1 << 40, attributes, ..meta });
    let only = StreamRoot { len: 300, levels: 0, top: Some(ChunkId(counted(0x52))) };
    let entry = |name: &[u8], kind, root, meta| StreamEntry { name: name.to_vec(), kind, root, meta, tables: Vec::new() };
    let table = |name: &[u8], rows, first| TableContent { name: name.to_vec(), rows, sum: counted(first) };
    let tables = vec![table(b"memory", 1 << 40, 0x61), table(b"sqlite_schema", 1, 0x62)];
    vec![
        StreamEntry { tables, ..entry(b"memory.db", EntryKind::Sqlite(facts()), root(0x51), None) },
        entry(b"notes/\xff.txt", EntryKind::File, only, odd),
        entry(b"notes", EntryKind::Directory, empty, meta.clone()),
        entry(b"link", EntryKind::Symlink(b"../elsewhere".to_vec()), empty, meta),
        entry(b"same", EntryKind::HardLink(b"notes/\xff.txt".to_vec()), empty, None),
    ]
}
