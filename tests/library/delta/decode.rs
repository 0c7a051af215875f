//! A decoder of its own: tables from the packs' last bytes, zstd with its usual magic and a prefix, nothing of what icecore reads with but the
//! layout of a table and the cipher.

use std::collections::HashMap;
use std::sync::Arc;

use icecore::id::{ChunkId, PackId};
use icecore::store::backend::ObjectKey;
use icecore::store::format::pack::{Encoding, FOOTER_LEN, Frame, IdPrefix, TRAILER_SEGMENT, Trailer};
use icecore::store::format::{HEADER_LEN, Kind, ObjectHeader};
use icecore::store::repo::Repository;
use zstd::zstd_safe::DCtx;

use super::memory::Objects;
use super::scene::{Scene, Stream};

/// Which frame: the number of its pack here and its number in the table.
type Place = (usize, usize);

/// A copy of a chunk: the level of its frame, the frame, and its bytes in the plain frame.
type Stored = (u8, Place, std::ops::Range<usize>);

struct Pack {
    id: PackId,
    table: Trailer,
    /// Opened.
    segments: Vec<Vec<u8>>,
}

/// All packs of a repository.
struct Archive {
    packs: Vec<Pack>,
    /// By the start of a chunk's id, the lowest level first.
    copies: HashMap<IdPrefix, Vec<Stored>>,
    frames: HashMap<Place, Arc<Vec<u8>>>,
}

/// What was decoded.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Decoded {
    pub chunks: usize,
    pub deltas: usize,
    /// Chunks that were compared with bytes that a source gave, not by id alone.
    pub compared: usize,
}

impl Archive {
    fn open(repo: &Repository, objects: &Objects) -> Self {
        let mut packs = Vec::new();
        for (key, bytes) in objects {
            if let ObjectKey::Pack(id) = key {
                packs.push(open_pack(repo, *id, bytes));
            }
        }
        let mut copies: HashMap<IdPrefix, Vec<Stored>> = HashMap::new();
        for (number, pack) in packs.iter().enumerate() {
            for chunk in &pack.table.chunks {
                let level = pack.table.frames[chunk.frame as usize].level;
                let range = chunk.offset as usize..(chunk.offset + chunk.plain_len) as usize;
                copies.entry(chunk.id.prefix()).or_default().push((level, (number, chunk.frame as usize), range));
            }
        }
        copies.values_mut().for_each(|copies| copies.sort_by_key(|(level, place, ..)| (*level, *place)));
        Archive { packs, copies, frames: HashMap::new() }
    }

    fn frame(&mut self, place: Place) -> Arc<Vec<u8>> {
        if let Some(plain) = self.frames.get(&place) {
            return plain.clone();
        }
        let frame: Frame = self.packs[place.0].table.frames[place.1].clone();
        let mut prefix = Vec::new();
        for slice in &frame.slices {
            let (_, base, range) = self.copies[&slice.base].first().filter(|(level, ..)| *level < frame.level).unwrap().clone();
            let base = self.frame(base);
            prefix.extend_from_slice(&base[range][slice.offset as usize..][..slice.len as usize]);
        }
        let encoded = &self.packs[place.0].segments[frame.segment as usize][frame.offset as usize..][..frame.encoded_len as usize];
        let plain = Arc::new(match frame.encoding {
            Encoding::Raw => encoded.to_vec(),
            Encoding::Patch => unpatch(encoded, &prefix, frame.plain_len as usize),
            _ => unpack(encoded, &prefix, frame.plain_len as usize),
        });
        self.frames.insert(place, plain.clone());
        plain
    }
}

fn open_pack(repo: &Repository, id: PackId, bytes: &[u8]) -> Pack {
    assert!(blake3::hash(bytes).as_bytes() == id.as_bytes(), "pack {id} has another hash");
    let footer = &bytes[bytes.len() - FOOTER_LEN..];
    let start = u64::from_le_bytes(footer[8..16].try_into().unwrap()) as usize;
    let header = ObjectHeader::decode(bytes, Kind::Pack).unwrap();
    let sealer = repo.keys().sealer(&header).unwrap();
    let open = |segment: u32, stored: &[u8]| {
        let mut plain = stored.to_vec();
        sealer.open(segment, &mut plain).unwrap();
        plain
    };
    let trailer = open(TRAILER_SEGMENT, &bytes[start..bytes.len() - FOOTER_LEN]);
    let table = Trailer::decode(&trailer, header.cipher.overhead()).unwrap();
    let (mut segments, mut place) = (Vec::new(), HEADER_LEN);
    for (number, len) in table.segments.iter().enumerate() {
        segments.push(open(number as u32, &bytes[place..place + *len as usize]));
        place += *len as usize;
    }
    Pack { id, table, segments }
}

fn unpack(encoded: &[u8], prefix: &[u8], len: usize) -> Vec<u8> {
    let mut context = DCtx::create();
    context.ref_prefix(prefix).unwrap();
    let mut plain = Vec::with_capacity(len);
    let framed = [&[0x28, 0xb5, 0x2f, 0xfd], encoded].concat();
    context.decompress(&mut plain, &framed).map_err(zstd::zstd_safe::get_error_name).unwrap();
    assert_eq!(plain.len(), len);
    plain
}

fn unpatch(encoded: &[u8], prefix: &[u8], len: usize) -> Vec<u8> {
    let pieces: Vec<(usize, usize)> = (0..len).step_by(4096).map(|start| (start, (start + 4096).min(len))).collect();
    let (bitmap, frame) = encoded.split_at(pieces.len().div_ceil(8));
    let changed: Vec<bool> = (0..pieces.len()).map(|number| bitmap[number / 8] & 1 << (number % 8) != 0).collect();
    let of_changed = || pieces.iter().zip(&changed).filter(|(_, changed)| **changed).map(|(piece, _)| *piece);
    let old: Vec<u8> = of_changed().flat_map(|(start, end)| prefix[start.min(prefix.len())..end.min(prefix.len())].to_vec()).collect();
    let mut new = unpack(frame, &old, of_changed().map(|(start, end)| end - start).sum());
    let mut plain = Vec::new();
    for ((start, end), changed) in pieces.iter().zip(&changed) {
        match changed {
            true => plain.extend(new.drain(..end - start)),
            false => plain.extend_from_slice(&prefix[*start..*end]),
        }
    }
    plain
}

/// Decodes every copy of every chunk that is stored. Each must be what its id says; those of these page streams are compared with their bytes too.
pub fn decode_all(scene: &Scene, streams: &[&Stream]) -> Decoded {
    let repo = scene.open("decoder");
    let mut known: HashMap<ChunkId, &[u8]> = HashMap::new();
    for stream in streams {
        let Some(page_size) = stream.page_size else { continue };
        let chunk_len = repo.config().page_chunk_len.max(page_size) as usize;
        known.extend(stream.bytes.chunks(chunk_len).map(|plain| (repo.keys().chunk_id(plain), plain)));
    }
    let mut archive = Archive::open(&repo, &scene.memory.copy());
    let mut decoded = Decoded::default();
    for number in 0..archive.packs.len() {
        for row in 0..archive.packs[number].table.chunks.len() {
            let chunk = archive.packs[number].table.chunks[row];
            let frame = archive.frame((number, chunk.frame as usize));
            let plain = &frame[chunk.offset as usize..][..chunk.plain_len as usize];
            let pack = archive.packs[number].id;
            assert!(repo.keys().chunk_id(plain) == chunk.id, "chunk {} in pack {pack} decodes to something else", chunk.id);
            if let Some(expected) = known.get(&chunk.id) {
                assert!(plain == *expected, "chunk {} in pack {pack} decodes to something else", chunk.id);
                decoded.compared += 1;
            }
            decoded.chunks += 1;
            decoded.deltas += usize::from(archive.packs[number].table.frames[chunk.frame as usize].encoding == Encoding::Delta);
        }
    }
    decoded
}
