//! Packs: a header, sealed segments, a sealed trailer that is the table of the chunks, and a footer that finds the trailer.

use super::wire::{Input, put_varint};
use super::{
    BASES_MAX, CHUNK_LEN_MAX, LEVEL_READ_MAX, Malformed, PACK_CHUNKS_MAX, PREFIX_LEN_MAX, SALT_LEN, SEGMENT_LEN_MAX, SLICES_MAX,
    TRAILER_LEN_MAX, WORK_READ_MAX,
};
use crate::id::{ChunkId, ID_LEN};

/// Bytes in the footer at the end of a pack.
pub const FOOTER_LEN: usize = 80;
/// Bytes of the checksum in the footer.
pub const FOOTER_CHECKSUM_LEN: usize = 16;
/// The first 8 bytes of the footer.
pub const FOOTER_MAGIC: [u8; 8] = *b"\xCEiceEND\n";
/// The segment number under which the trailer is sealed; ordinary segments count from 0.
pub const TRAILER_SEGMENT: u32 = u32::MAX;
/// Bytes of the trailer before its ids.
pub const TRAILER_HEADER_LEN: usize = 24;
/// Bytes of a chunk id by which a delta names a base.
pub const BASE_PREFIX_LEN: usize = 8;

/// How a chunk is encoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Encoding {
    /// As it is.
    Raw,
    /// A zstd frame without magic, checksum, content size or dictionary id.
    Zstd,
    /// The same, compressed with the delta's prefix before it.
    Delta,
}

/// The first bytes of a base's id. Enough to find it; the decoded chunk is verified, so a wrong one is noticed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct IdPrefix(pub u64);

impl ChunkId {
    /// The first 8 bytes, big-endian, so that prefixes sort as ids do.
    pub fn prefix(&self) -> IdPrefix {
        IdPrefix(self.0.first_chunk::<BASE_PREFIX_LEN>().map_or(0, |head| u64::from_be_bytes(*head)))
    }
}

/// A part of a base that stands in a delta's prefix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Slice {
    /// The base.
    pub base: IdPrefix,
    /// Where the part starts in the plain base, bytes.
    pub offset: u32,
    /// Its length, bytes.
    pub len: u32,
}

/// One copy of a chunk in a pack.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChunkEntry {
    /// Which chunk.
    pub id: ChunkId,
    /// The segment that holds it.
    pub segment: u32,
    /// Where it starts in the plain segment, bytes.
    pub offset: u32,
    /// Its encoded bytes.
    pub encoded_len: u32,
    /// Its plain bytes.
    pub plain_len: u32,
    /// How it is encoded.
    pub encoding: Encoding,
    /// Whether it is a tree node.
    pub node: bool,
    /// Its place in its lineage, for the skip rule only.
    pub version: u32,
    /// 0 for raw and zstd, else 1 + the highest level of the base copies.
    pub level: u8,
    /// 1 + the sum of the work of its bases.
    pub work: u32,
    /// The prefix of a delta, in order; empty for others.
    pub slices: Vec<Slice>,
}

impl ChunkEntry {
    /// Bytes of the delta's prefix.
    pub fn prefix_len(&self) -> usize {
        self.slices.iter().map(|slice| slice.len as usize).sum()
    }
}

/// The table of a pack.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Trailer {
    /// Stored bytes of each segment, tags included. Segments lie back to back after the header.
    pub segments: Vec<u32>,
    /// The chunks by segment and offset; they fill each segment without gaps.
    pub chunks: Vec<ChunkEntry>,
}

/// Bits of the byte that starts a chunk's row.
mod row {
    pub const ENCODING: u8 = 0b0000_0011;
    pub const NODE: u8 = 0b0000_0100;
    pub const NEXT_SEGMENT: u8 = 0b0000_1000;
    pub const NOMINAL_LEN: u8 = 0b0001_0000;
    pub const WHOLE_BASE: u8 = 0b0010_0000;
    pub const RESERVED: u8 = 0b1100_0000;
}

impl Trailer {
    /// The length that rows need not spell out: that of the longest chunk.
    fn nominal_len(chunks: &[ChunkEntry]) -> u32 {
        chunks.iter().map(|chunk| chunk.plain_len).max().unwrap_or(0)
    }

    /// The plain bytes, without padding.
    pub fn encode(&self) -> Vec<u8> {
        let nominal_len = Self::nominal_len(&self.chunks);
        let slices: usize = self.chunks.iter().map(|chunk| chunk.slices.len()).sum();
        let mut rows = Vec::with_capacity(self.chunks.len() * 8);
        self.segments.iter().for_each(|&len| put_varint(&mut rows, len));
        let mut segment = 0;
        for chunk in &self.chunks {
            put_row(&mut rows, chunk, chunk.segment != segment, nominal_len);
            segment = chunk.segment;
        }
        let mut out = Vec::with_capacity(TRAILER_HEADER_LEN + self.chunks.len() * ID_LEN + slices * BASE_PREFIX_LEN + rows.len());
        for number in [self.segments.len() as u32, self.chunks.len() as u32, slices as u32, rows.len() as u32, nominal_len, 0] {
            out.extend_from_slice(&number.to_le_bytes());
        }
        self.chunks.iter().for_each(|chunk| out.extend_from_slice(chunk.id.as_bytes()));
        self.chunks.iter().flat_map(|chunk| &chunk.slices).for_each(|slice| out.extend_from_slice(&slice.base.0.to_be_bytes()));
        out.extend_from_slice(&rows);
        out
    }

    /// Reads the plain bytes of a trailer. `overhead` is what sealing adds to a segment.
    pub fn decode(bytes: &[u8], overhead: usize) -> Result<Self, Malformed> {
        let mut input = Input::new(bytes);
        let (segments, chunks, slices) = (input.u32()?, input.u32()?, input.u32()?);
        let (rows_len, nominal_len) = (input.u32()?, input.u32()?);
        if chunks > PACK_CHUNKS_MAX || segments > chunks || input.u32()? != 0 || bytes.len() > TRAILER_LEN_MAX as usize {
            return Err(Malformed::new("the counts in its trailer are out of bounds"));
        }
        let ids = input.bytes(chunks as usize * ID_LEN)?.as_chunks::<ID_LEN>().0;
        let mut bases = Input::new(input.bytes(slices as usize * BASE_PREFIX_LEN)?);
        let mut rows = Input::new(input.bytes(rows_len as usize)?);
        input.end()?;
        // Counted from bytes that are there, so a hostile count cannot make this allocate more than the input is long.
        let segments = (0..segments).map(|_| rows.varint()).collect::<Result<Vec<u32>, _>>()?;
        let mut place = Place { segment: 0, offset: 0, rest: 0, overhead, started: false };
        let mut table = Vec::with_capacity(ids.len());
        for id in ids {
            table.push(take_row(&mut rows, &mut bases, ChunkId(*id), nominal_len, &segments, &mut place)?);
        }
        rows.end()?;
        bases.end()?;
        let used = if place.started { place.segment as usize + 1 } else { 0 };
        if place.rest != 0 || used != segments.len() {
            return Err(Malformed::new("the chunks in its trailer do not fill its segments"));
        }
        if nominal_len != Self::nominal_len(&table) {
            return Err(Malformed::new("the nominal length of its chunks is not that of the longest"));
        }
        Ok(Trailer { segments, chunks: table })
    }

    /// The ids in an encoded trailer, without decoding the rest.
    pub fn ids_in(bytes: &[u8]) -> Result<Vec<ChunkId>, Malformed> {
        let mut input = Input::new(bytes);
        input.u32()?;
        let chunks = input.u32()? as usize;
        input.bytes(TRAILER_HEADER_LEN - 8)?;
        let ids = chunks.checked_mul(ID_LEN).ok_or_else(|| Malformed::new("the counts in its trailer are out of bounds"))?;
        Ok(input.bytes(ids)?.as_chunks::<ID_LEN>().0.iter().map(|id| ChunkId(*id)).collect())
    }
}

/// Whether a bit of the row says it all.
fn is_whole_base(slices: &[Slice], nominal_len: u32) -> bool {
    matches!(slices, [slice] if slice.offset == 0 && slice.len == nominal_len)
}

fn put_row(rows: &mut Vec<u8>, chunk: &ChunkEntry, next_segment: bool, nominal_len: u32) {
    let whole_base = is_whole_base(&chunk.slices, nominal_len);
    let mut bits = match chunk.encoding {
        Encoding::Raw => 0,
        Encoding::Zstd => 1,
        Encoding::Delta => 2,
    };
    for (set, bit) in [
        (chunk.node, row::NODE),
        (next_segment, row::NEXT_SEGMENT),
        (chunk.plain_len == nominal_len, row::NOMINAL_LEN),
        (whole_base, row::WHOLE_BASE),
    ] {
        bits |= if set { bit } else { 0 };
    }
    rows.push(bits);
    put_varint(rows, chunk.encoded_len);
    if chunk.plain_len != nominal_len {
        put_varint(rows, chunk.plain_len);
    }
    put_varint(rows, chunk.version);
    if chunk.encoding == Encoding::Delta {
        rows.push(chunk.level);
        put_varint(rows, chunk.work);
        if !whole_base {
            put_varint(rows, chunk.slices.len() as u32);
            for slice in &chunk.slices {
                put_varint(rows, slice.offset);
                put_varint(rows, slice.len);
            }
        }
    }
}

/// Where the next chunk lies while a trailer is read.
struct Place {
    segment: u32,
    offset: u32,
    /// Plain bytes of the segment that no chunk has taken yet.
    rest: u32,
    overhead: usize,
    started: bool,
}

impl Place {
    fn enter(&mut self, segment: u32, segments: &[u32]) -> Result<(), Malformed> {
        let stored = segments.get(segment as usize).ok_or_else(|| Malformed::new("a chunk lies in no segment"))?;
        let plain = (*stored as usize).checked_sub(self.overhead).and_then(|len| u32::try_from(len).ok());
        self.rest =
            plain.filter(|len| *len <= SEGMENT_LEN_MAX).ok_or_else(|| Malformed::new("the length of a segment is out of bounds"))?;
        (self.segment, self.offset, self.started) = (segment, 0, true);
        Ok(())
    }
}

fn take_row(
    rows: &mut Input<'_>,
    bases: &mut Input<'_>,
    id: ChunkId,
    nominal_len: u32,
    segments: &[u32],
    place: &mut Place,
) -> Result<ChunkEntry, Malformed> {
    let bits = rows.u8()?;
    if bits & row::RESERVED != 0 {
        return Err(Malformed::newer("an unknown way to encode a chunk"));
    }
    let next_segment = bits & row::NEXT_SEGMENT != 0;
    match (place.started, next_segment) {
        (false, false) => place.enter(0, segments)?,
        (true, true) if place.rest == 0 => place.enter(place.segment.saturating_add(1), segments)?,
        (true, false) => {}
        _ => return Err(Malformed::new("the chunks in its trailer do not fill its segments")),
    }
    let encoded_len = rows.varint()?;
    let plain_len = if bits & row::NOMINAL_LEN != 0 { nominal_len } else { explicit_len(rows, nominal_len)? };
    let version = rows.varint()?;
    let encoding = match bits & row::ENCODING {
        0 => Encoding::Raw,
        1 => Encoding::Zstd,
        2 => Encoding::Delta,
        other => return Err(Malformed::newer(format!("encoding {other}"))),
    };
    let mut entry = ChunkEntry {
        id,
        segment: place.segment,
        offset: place.offset,
        encoded_len,
        plain_len,
        encoding,
        node: bits & row::NODE != 0,
        version,
        level: 0,
        work: 1,
        slices: Vec::new(),
    };
    if encoding == Encoding::Delta {
        (entry.level, entry.work) = (rows.u8()?, rows.varint()?);
        entry.slices = take_slices(rows, bases, bits & row::WHOLE_BASE != 0, nominal_len)?;
    }
    check_entry(&entry, bits)?;
    place.rest = place.rest.checked_sub(encoded_len).ok_or_else(|| Malformed::new("a chunk reaches past its segment"))?;
    place.offset += encoded_len;
    Ok(entry)
}

/// A length that differs from the nominal one, for which there is a bit: one table, one encoding.
fn explicit_len(rows: &mut Input<'_>, nominal_len: u32) -> Result<u32, Malformed> {
    match rows.varint()? {
        len if len == nominal_len => Err(Malformed::new("a chunk spells out the nominal length")),
        len => Ok(len),
    }
}

fn take_slices(rows: &mut Input<'_>, bases: &mut Input<'_>, whole_base: bool, nominal_len: u32) -> Result<Vec<Slice>, Malformed> {
    let mut base = || bases.array().map(|head| IdPrefix(u64::from_be_bytes(head)));
    if whole_base {
        return Ok(vec![Slice { base: base()?, offset: 0, len: nominal_len }]);
    }
    let count = rows.varint()? as usize;
    if count == 0 || count > SLICES_MAX {
        return Err(Malformed::new("a delta has too many slices or none"));
    }
    let slices = (0..count)
        .map(|_| Ok(Slice { base: base()?, offset: rows.varint()?, len: rows.varint()? }))
        .collect::<Result<Vec<_>, Malformed>>()?;
    match is_whole_base(&slices, nominal_len) {
        true => Err(Malformed::new("a delta spells out a whole base")),
        false => Ok(slices),
    }
}

/// The bounds that hold for every copy, whatever its bases are.
fn check_entry(entry: &ChunkEntry, bits: u8) -> Result<(), Malformed> {
    let delta = entry.encoding == Encoding::Delta;
    if entry.plain_len == 0 || entry.plain_len > CHUNK_LEN_MAX || entry.encoded_len == 0 {
        return Err(Malformed::new("the length of a chunk is out of bounds"));
    }
    if entry.encoding == Encoding::Raw && entry.encoded_len != entry.plain_len {
        return Err(Malformed::new("a raw chunk has two lengths"));
    }
    if !delta && bits & row::WHOLE_BASE != 0
        || delta && (entry.level == 0 || entry.level > LEVEL_READ_MAX || entry.work < 2 || entry.work > WORK_READ_MAX)
    {
        return Err(Malformed::new("the level or work of a chunk is out of bounds"));
    }
    let mut bases: Vec<IdPrefix> = entry.slices.iter().map(|slice| slice.base).collect();
    bases.sort_unstable();
    bases.dedup();
    let slices_fit = entry.slices.iter().all(|s| s.len > 0 && s.offset.checked_add(s.len).is_some_and(|end| end <= CHUNK_LEN_MAX));
    match bases.len() <= BASES_MAX && slices_fit && entry.prefix_len() <= PREFIX_LEN_MAX {
        true => Ok(()),
        false => Err(Malformed::new("the prefix of a delta is out of bounds")),
    }
}

/// The padded length of an object of `len` bytes by Padme (Nikitin et al., "Reducing Metadata Leakage from Encrypted Files", PETS 2019):
/// at most 12 % more, and only the leading bits of the length show.
pub fn padme(len: u64) -> u64 {
    if len < 2 {
        return len;
    }
    let exponent = len.ilog2();
    let low_bits = exponent - (exponent.ilog2() + 1);
    let mask = (1u64 << low_bits) - 1;
    (len + mask) & !mask
}

/// The last bytes of a pack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Footer {
    /// Where the sealed trailer starts.
    pub trailer_offset: u64,
    /// Its stored bytes.
    pub trailer_len: u32,
    /// The pack's bytes, footer included.
    pub pack_len: u64,
    /// The salt of the header once more, so that one read of trailer and footer is enough to open both.
    pub salt: [u8; SALT_LEN],
}

impl Footer {
    /// The stored bytes: magic, trailer offset, pack length, trailer length, feature flags as in the header, salt, then 16 bytes of the BLAKE3 of these and
    /// the stored trailer.
    pub fn encode(&self, stored_trailer: &[u8]) -> Vec<u8> {
        let mut out = self.fields();
        let checksum = checksum(&out, stored_trailer);
        out.extend_from_slice(&checksum);
        out
    }

    fn fields(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(FOOTER_LEN);
        out.extend_from_slice(&FOOTER_MAGIC);
        out.extend_from_slice(&self.trailer_offset.to_le_bytes());
        out.extend_from_slice(&self.pack_len.to_le_bytes());
        out.extend_from_slice(&self.trailer_len.to_le_bytes());
        out.extend_from_slice(&0u32.to_le_bytes());
        out.extend_from_slice(&self.salt);
        out
    }

    /// Reads the footer at the end of a pack of `pack_len` bytes; its checksum is for [`Footer::verify`], once the trailer is there.
    pub fn decode(bytes: &[u8], pack_len: u64) -> Result<Self, Malformed> {
        let mut input = Input::new(bytes);
        if input.array::<8>()? != FOOTER_MAGIC {
            return Err(Malformed::new("its footer is not there"));
        }
        let (trailer_offset, stated_len, trailer_len) = (input.u64()?, input.u64()?, input.u32()?);
        // Feature flags; the checksum that covers them is still to be verified, so this may be damage as well.
        input.u32()?;
        let footer = Footer { trailer_offset, pack_len: stated_len, trailer_len, salt: input.array()? };
        let end = footer.trailer_offset.checked_add(u64::from(footer.trailer_len)).and_then(|end| end.checked_add(FOOTER_LEN as u64));
        match footer.pack_len == pack_len && end == Some(pack_len) && footer.trailer_len <= TRAILER_LEN_MAX && bytes.len() == FOOTER_LEN {
            true => Ok(footer),
            false => Err(Malformed::new("its footer does not fit its length")),
        }
    }

    /// Whether the footer's bytes and the stored trailer are those that were written together.
    pub fn verify(&self, bytes: &[u8], stored_trailer: &[u8]) -> Result<(), Malformed> {
        let whole = bytes.split_last_chunk::<FOOTER_CHECKSUM_LEN>().is_some_and(|(fields, sum)| checksum(fields, stored_trailer) == *sum);
        match whole {
            false => Err(Malformed::new("the checksum of its trailer does not match")),
            true if self.encode(stored_trailer) != bytes => Err(Malformed::newer("unknown feature flags in its footer")),
            true => Ok(()),
        }
    }
}

fn checksum(fields: &[u8], stored_trailer: &[u8]) -> [u8; FOOTER_CHECKSUM_LEN] {
    let hash = blake3::Hasher::new().update(fields).update(stored_trailer).finalize();
    let mut checksum = [0; FOOTER_CHECKSUM_LEN];
    checksum.iter_mut().zip(hash.as_bytes()).for_each(|(to, from)| *to = *from);
    checksum
}
