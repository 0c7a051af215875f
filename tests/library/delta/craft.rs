//! Packs and snapshots made by hand, in an unencrypted repository: whatever a hostile writer could store.

use icecore::id::{ChunkId, PackId, RepositoryId, SnapshotId, SourceId};
use icecore::recorded::{EntryKind, SourceKind};
use icecore::store::backend::{Backend, ObjectKey, WriteMode};
use icecore::store::crypto::Keys;
use icecore::store::format::pack::{ChunkEntry, Encoding, Footer, Frame, Slice, Trailer};
use icecore::store::format::snapshot::{PackRef, SnapshotRecord, SnapshotStats, SourceRef, StreamEntry, StreamRoot};
use icecore::store::format::{Cipher, HEADER_LEN, Kind, ObjectHeader, record};
use zstd::zstd_safe::{CCtx, CParameter, FrameFormat, compress_bound};

use super::scene::Scene;

/// A frame of one chunk.
#[derive(Clone)]
pub struct Crafted {
    pub id: ChunkId,
    pub plain_len: u32,
    pub frame: Frame,
    pub encoded: Vec<u8>,
}

/// The true id of a chunk in an unencrypted repository.
pub fn id(plain: &[u8]) -> ChunkId {
    ChunkId(*blake3::hash(plain).as_bytes())
}

pub fn slice(base: &ChunkId, offset: usize, len: usize) -> Slice {
    Slice { base: base.prefix(), offset: offset as u32, len: len as u32 }
}

/// A chunk as it is.
pub fn raw(plain: &[u8]) -> Crafted {
    Crafted { id: id(plain), plain_len: plain.len() as u32, frame: Frame::whole(Encoding::Raw), encoded: plain.to_vec() }
}

/// An honest delta, but for the level and the work that it claims.
pub fn delta(plain: &[u8], prefix: &[u8], slices: Vec<Slice>, level: u8, work: u32) -> Crafted {
    let frame = Frame { level, work, slices, ..Frame::whole(Encoding::Delta) };
    Crafted { id: id(plain), plain_len: plain.len() as u32, frame, encoded: encode(plain, prefix) }
}

/// As format version 1 wants it: a frame without magic and sizes.
fn encode(plain: &[u8], prefix: &[u8]) -> Vec<u8> {
    let mut context = CCtx::create();
    let window = (plain.len() + prefix.len()).next_power_of_two().trailing_zeros().max(10);
    for parameter in [
        CParameter::Format(FrameFormat::Magicless),
        CParameter::ContentSizeFlag(false),
        CParameter::DictIdFlag(false),
        CParameter::WindowLog(window),
    ] {
        context.set_parameter(parameter).unwrap();
    }
    context.ref_prefix(prefix).unwrap();
    let mut encoded = Vec::with_capacity(compress_bound(plain.len()));
    context.compress2(&mut encoded, plain).unwrap();
    encoded
}

/// Stores these frames in one pack, in segments of up to a MiB.
pub fn store_pack(scene: &Scene, crafted: &[Crafted]) -> PackRef {
    let mut table = Trailer::default();
    let mut segments: Vec<Vec<u8>> = Vec::new();
    for (number, one) in crafted.iter().enumerate() {
        if segments.last().is_none_or(|segment| segment.len() + one.encoded.len() > 1 << 20) {
            segments.push(Vec::new());
        }
        let segment = segments.len() as u32 - 1;
        let bytes = segments.last_mut().unwrap();
        let (offset, encoded_len) = (bytes.len() as u32, one.encoded.len() as u32);
        table.frames.push(Frame { segment, offset, encoded_len, plain_len: one.plain_len, ..one.frame.clone() });
        let plain_len = one.plain_len;
        table.chunks.push(ChunkEntry { id: one.id, frame: number as u32, offset: 0, plain_len, node: false, version: 0 });
        bytes.extend_from_slice(&one.encoded);
    }
    table.segments = segments.iter().map(|segment| segment.len() as u32).collect();
    let salt = *blake3::hash(&segments.concat()).as_bytes();
    let body = [&ObjectHeader { kind: Kind::Pack, cipher: Cipher::None, salt }.encode()[..], &segments.concat()].concat();
    let trailer = table.encode();
    let (trailer_offset, trailer_len) = (body.len() as u64, trailer.len() as u32);
    let pack_len = trailer_offset + u64::from(trailer_len) + icecore::store::format::pack::FOOTER_LEN as u64;
    let footer = Footer { trailer_offset, trailer_len, pack_len, salt }.encode(&trailer);
    let bytes = [body, trailer, footer].concat();
    let pack = PackRef { id: PackId(*blake3::hash(&bytes).as_bytes()), size: pack_len, trailer_offset };
    scene.memory.write(&ObjectKey::Pack(pack.id), &[&bytes], WriteMode::Replace).unwrap();
    pack
}

/// Stores a snapshot whose stream `db` is this one chunk; its listing lies in a pack of its own.
pub fn store_snapshot(scene: &Scene, top: &Crafted, packs: &[PackRef]) -> (SnapshotId, SnapshotRecord) {
    let root = StreamRoot { len: u64::from(top.plain_len), levels: 0, top: Some(top.id) };
    let entry = record::encode(&StreamEntry { name: b"db".to_vec(), kind: EntryKind::File, root, meta: None, tables: Vec::new() }).unwrap();
    let listing = raw(&entry);
    let listing_pack = store_pack(scene, std::slice::from_ref(&listing));
    let snapshot = SnapshotRecord {
        time_ns: 1,
        duration_us: 0,
        host: "hostile".into(),
        user: String::new(),
        tool: String::new(),
        source: SourceRef { id: SourceId([1; 32]), kind: SourceKind::FILES, label: String::new() },
        parent: None,
        tags: Vec::new(),
        flags: Vec::new(),
        accepted: Vec::new(),
        listing: StreamRoot { len: entry.len() as u64, levels: 0, top: Some(listing.id) },
        entries: 1,
        logical_bytes: root.len,
        packs: [packs, &[listing_pack]].concat(),
        stats: SnapshotStats::default(),
        written_ns: 1,
        facts: Vec::new(),
    };
    let header = ObjectHeader { kind: Kind::Snapshot, cipher: Cipher::None, salt: [4; 32] }.encode();
    assert_eq!(header.len(), HEADER_LEN);
    let stored = [&header[..], &record::encode(&snapshot).unwrap()].concat();
    let id = SnapshotId(*blake3::hash(&stored).as_bytes());
    let source = Keys::plain(RepositoryId([0; 32])).source_tag(&snapshot.source.id);
    scene.memory.write(&ObjectKey::Snapshot { source, id }, &[&stored], WriteMode::Replace).unwrap();
    (id, snapshot)
}
