//! Packs: a header, sealed segments, a sealed trailer with the table of the chunks, and a footer by which the trailer
//! is found. Before the trailer there may be parity (see [`super::parity`]), which is not needed for reading a pack.
//!
//! A table has exactly one encoding, and a table that decodes keeps all bounds of the format: readers rely on that when
//! they take memory and follow bases. Decoding takes no more memory than a fixed multiple of its input.

mod rows;

use std::collections::HashSet;

use super::wire::{Input, put_varint};
use super::{
    BASES_MAX, CHUNK_LEN_MAX, FORMAT_VERSION, FRAME_LEN_MAX, Malformed, PACK_CHUNKS_MAX, PREFIX_LEN_MAX, SALT_LEN, SLICES_MAX,
    TRAILER_LEN_MAX, refuse_other_version,
};
use crate::id::{ChunkId, ID_LEN};

/// Bytes in the footer at the end of a pack.
pub const FOOTER_LEN: usize = 80;
/// The place of the version in the footer.
const VERSION_OFFSET: usize = 24;
/// Bytes of the checksum in the footer.
pub const FOOTER_CHECKSUM_LEN: usize = 16;
/// The first 8 bytes of the footer.
pub const FOOTER_MAGIC: [u8; 8] = *b"\xCEiceEND\n";
/// The segment number under which the trailer is sealed. Ordinary segments count from 0.
pub const TRAILER_SEGMENT: u32 = u32::MAX;
/// Bytes of the trailer before its ids.
pub const TRAILER_HEADER_LEN: usize = 24;
/// Bytes of a piece of a patch: a page of most databases. The last piece of a frame may be shorter.
pub const PATCH_PIECE_LEN: usize = 4096;
/// A delta names a base by this many bytes of its chunk id.
pub const BASE_PREFIX_LEN: usize = 8;

/// How a frame is encoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Encoding {
    /// The plain bytes.
    Raw,
    /// A zstd frame without magic, checksum, content size or dictionary id.
    Zstd,
    /// A frame as with [`Encoding::Zstd`], compressed with the prefix of the delta before it.
    Delta,
    /// A delta of only those pieces that differ from the pieces at the same places of the prefix. It is a bitmap of
    /// these pieces, then a zstd frame of them, compressed with the pieces at their places in the prefix before it. See
    /// [`PATCH_PIECE_LEN`].
    Patch,
}

impl Encoding {
    /// Whether it has a prefix made of bases.
    pub fn is_delta(self) -> bool {
        matches!(self, Encoding::Delta | Encoding::Patch)
    }
}

/// The first bytes of a base's id. They are enough to find it: the decoded chunk is verified, so a wrong base is
/// noticed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct IdPrefix(pub u64);

impl ChunkId {
    /// The first 8 bytes, big-endian, so that prefixes sort as ids do.
    pub fn prefix(&self) -> IdPrefix {
        IdPrefix(self.0.first_chunk::<BASE_PREFIX_LEN>().map_or(0, |head| u64::from_be_bytes(*head)))
    }
}

/// A part of a base in the prefix of a delta.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Slice {
    /// The base.
    pub base: IdPrefix,
    /// The start of the part in the plain base, in bytes.
    pub offset: u32,
    /// Its length in bytes.
    pub len: u32,
}

/// A piece that is encoded and decoded as a whole: one chunk, or several neighbours one after the other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// The segment that holds it.
    pub segment: u32,
    /// Its start in the plain segment, in bytes.
    pub offset: u32,
    /// Its encoded bytes.
    pub encoded_len: u32,
    /// Its plain bytes.
    pub plain_len: u32,
    /// How it is encoded.
    pub encoding: Encoding,
    /// 0 for raw and zstd. Else 1 plus the highest level of the copies that are its bases.
    pub level: u8,
    /// How many frames must be decoded for it, including itself.
    pub work: u32,
    /// The prefix of a delta, in order. Empty for raw and zstd.
    pub slices: Vec<Slice>,
}

impl Frame {
    /// A frame without bases, which has no place yet.
    pub fn whole(encoding: Encoding) -> Self {
        Frame { segment: 0, offset: 0, encoded_len: 0, plain_len: 0, encoding, level: 0, work: 1, slices: Vec::new() }
    }

    /// Bytes of the delta's prefix.
    pub fn prefix_len(&self) -> usize {
        self.slices.iter().map(|slice| slice.len as usize).sum()
    }
}

/// One copy of a chunk in a pack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChunkEntry {
    /// The id of the chunk.
    pub id: ChunkId,
    /// The frame that holds it.
    pub frame: u32,
    /// Its start in the plain frame, in bytes.
    pub offset: u32,
    /// Its plain bytes.
    pub plain_len: u32,
    /// Whether it is a tree node.
    pub node: bool,
    /// Its number in its lineage. Used for the skip rule only.
    pub version: u32,
}

/// The table of a pack.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Trailer {
    /// Stored bytes of each segment, including its tag. Segments follow each other after the header.
    pub segments: Vec<u32>,
    /// The frames by segment and offset. They fill each segment without gaps.
    pub frames: Vec<Frame>,
    /// The chunks by frame and offset. They fill each frame without gaps.
    pub chunks: Vec<ChunkEntry>,
}

impl Trailer {
    /// The nominal length: that of the longest chunk. Most chunks have it, so rows have a bit for it.
    fn nominal_len(chunks: &[ChunkEntry]) -> u32 {
        chunks.iter().map(|chunk| chunk.plain_len).max().unwrap_or(0)
    }

    /// The plain bytes, without padding.
    pub fn encode(&self) -> Vec<u8> {
        let nominal_len = Self::nominal_len(&self.chunks);
        let mut rows = rows::Writer::new(nominal_len, self.chunks.len());
        self.segments.iter().for_each(|&len| put_varint(&mut rows.bytes, len));
        for chunk in &self.chunks {
            rows.put(chunk, self.frames.get(chunk.frame as usize));
        }
        let (bases, rows) = (rows.bases(), rows.bytes);
        let mut out = Vec::with_capacity(TRAILER_HEADER_LEN + self.chunks.len() * ID_LEN + bases.len() * BASE_PREFIX_LEN + rows.len());
        // A writer closes a pack long before a count or a length reaches 32 bits, so the casts keep every value.
        debug_assert!([self.segments.len(), self.chunks.len(), bases.len(), rows.len()].iter().all(|len| u32::try_from(*len).is_ok()));
        for number in [self.segments.len() as u32, self.chunks.len() as u32, bases.len() as u32, rows.len() as u32, nominal_len, 0] {
            out.extend_from_slice(&number.to_le_bytes());
        }
        self.chunks.iter().for_each(|chunk| out.extend_from_slice(chunk.id.as_bytes()));
        bases.iter().for_each(|base| out.extend_from_slice(&base.0.to_be_bytes()));
        out.extend_from_slice(&rows);
        out
    }

    /// Reads the plain bytes of a trailer. `overhead` is what sealing adds to a segment.
    pub fn decode(bytes: &[u8], overhead: usize) -> Result<Self, Malformed> {
        let mut input = Input::new(bytes);
        let (segments, chunks, bases) = (input.u32()?, input.u32()?, input.u32()?);
        let (rows_len, nominal_len) = (input.u32()?, input.u32()?);
        if chunks > PACK_CHUNKS_MAX || segments > chunks || input.u32()? != 0 || bytes.len() > TRAILER_LEN_MAX as usize {
            return Err(Malformed::new("the counts in its trailer are out of bounds"));
        }
        let ids = input.bytes(chunks as usize * ID_LEN)?.as_chunks::<ID_LEN>().0;
        let bases = input.bytes(bases as usize * BASE_PREFIX_LEN)?.as_chunks::<BASE_PREFIX_LEN>().0;
        let bases: Vec<IdPrefix> = bases.iter().map(|head| IdPrefix(u64::from_be_bytes(*head))).collect();
        let mut rows = Input::new(input.bytes(rows_len as usize)?);
        input.end()?;
        if bases.iter().collect::<HashSet<_>>().len() != bases.len() {
            return Err(Malformed::new("a base is in its trailer twice"));
        }
        // Each number is read from bytes that exist, and reading stops at the first that is missing. So a false count
        // cannot make this allocate more than the input is long.
        let segments = (0..segments).map(|_| rows.varint()).collect::<Result<Vec<u32>, _>>()?;
        let mut reader = rows::Reader::new(rows, &bases, &segments, nominal_len, overhead);
        let mut table = Vec::with_capacity(ids.len());
        for id in ids {
            table.push(reader.take(ChunkId(*id))?);
        }
        let frames = reader.finish()?;
        // One table, one encoding.
        if nominal_len != Self::nominal_len(&table) {
            return Err(Malformed::new("the nominal length of its chunks is not that of the longest"));
        }
        Ok(Trailer { segments, frames, chunks: table })
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

/// Whether the prefix of a delta keeps the bounds of the format. Readers refuse a table with one that does not. `bases`
/// is a workspace.
pub fn prefix_fits(slices: &[Slice], bases: &mut Vec<IdPrefix>) -> bool {
    bases.clear();
    bases.extend(slices.iter().map(|slice| slice.base));
    bases.sort_unstable();
    bases.dedup();
    let within = |slice: &Slice| slice.len > 0 && slice.offset.checked_add(slice.len).is_some_and(|end| end <= CHUNK_LEN_MAX);
    let prefix_len: u64 = slices.iter().map(|slice| u64::from(slice.len)).sum();
    let counts = !slices.is_empty() && slices.len() <= SLICES_MAX && bases.len() <= BASES_MAX;
    counts && prefix_len <= PREFIX_LEN_MAX as u64 && slices.iter().all(within)
}

/// The padded length of an object of `len` bytes by Padme (Nikitin et al., "Reducing Metadata Leakage from Encrypted
/// Files", PETS 2019). It is at most 12 % longer, and shows only the leading bits of the length.
pub fn padme(len: u64) -> u64 {
    if len < 2 {
        return len;
    }
    // As many leading bits are kept as the exponent has bits. The others are rounded up.
    let exponent = len.ilog2();
    let low_bits = exponent - (exponent.ilog2() + 1);
    let mask = (1u64 << low_bits) - 1;
    (len + mask) & !mask
}

/// The last bytes of a pack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Footer {
    /// The start of the sealed trailer.
    pub trailer_offset: u64,
    /// Stored bytes of the trailer.
    pub trailer_len: u32,
    /// Bytes of the pack, including the footer.
    pub pack_len: u64,
    /// The salt of the header again, so that one read of trailer and footer is enough to open the trailer.
    pub salt: [u8; SALT_LEN],
}

impl Footer {
    /// The stored bytes: magic, trailer offset, pack length, trailer length, version and feature flags as in the
    /// header, salt, and then 16 bytes of the BLAKE3 of all these and of the stored trailer.
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
        // PACK_LEN_MAX is far below this limit. A reader refuses a longer pack.
        out.extend_from_slice(&u32::try_from(self.pack_len).unwrap_or(u32::MAX).to_le_bytes());
        out.extend_from_slice(&self.trailer_len.to_le_bytes());
        out.extend_from_slice(&FORMAT_VERSION.to_le_bytes());
        out.extend_from_slice(&0u16.to_le_bytes());
        out.extend_from_slice(&0u32.to_le_bytes());
        out.extend_from_slice(&self.salt);
        out
    }

    /// Reads the footer at the end of a pack of `pack_len` bytes. Its checksum also covers the trailer, so
    /// [`Footer::verify`] checks it later.
    pub fn decode(bytes: &[u8], pack_len: u64) -> Result<Self, Malformed> {
        let mut input = Input::new(bytes);
        if input.array::<8>()? != FOOTER_MAGIC {
            return Err(Malformed::new("its footer is not there"));
        }
        let (trailer_offset, stated_len, trailer_len) = (input.u64()?, input.u32()?, input.u32()?);
        // Version and feature flags. `verify` looks at them after the checksum: before that, an unknown version may
        // simply be damage.
        input.u64()?;
        let footer = Footer { trailer_offset, pack_len: u64::from(stated_len), trailer_len, salt: input.array()? };
        let end = footer.trailer_offset.checked_add(u64::from(footer.trailer_len)).and_then(|end| end.checked_add(FOOTER_LEN as u64));
        match footer.pack_len == pack_len && end == Some(pack_len) && footer.trailer_len <= TRAILER_LEN_MAX && bytes.len() == FOOTER_LEN {
            true => Ok(footer),
            false => Err(Malformed::new("its footer does not fit its length")),
        }
    }

    /// Checks that the bytes of the footer and the stored trailer were written together, and that their version is
    /// known.
    pub fn verify(&self, bytes: &[u8], stored_trailer: &[u8]) -> Result<(), Malformed> {
        let whole = bytes.split_last_chunk::<FOOTER_CHECKSUM_LEN>().is_some_and(|(fields, sum)| checksum(fields, stored_trailer) == *sum);
        if !whole {
            return Err(Malformed::new("the checksum of its trailer does not match"));
        }
        refuse_other_version(
            bytes.get(VERSION_OFFSET..).and_then(|rest| rest.first_chunk()).map_or(0, |version| u16::from_le_bytes(*version)),
        )?;
        match self.encode(stored_trailer) == bytes {
            true => Ok(()),
            false => Err(Malformed::newer("unknown feature flags in its footer")),
        }
    }
}

fn checksum(fields: &[u8], stored_trailer: &[u8]) -> [u8; FOOTER_CHECKSUM_LEN] {
    let hash = blake3::Hasher::new().update(fields).update(stored_trailer).finalize();
    let mut checksum = [0; FOOTER_CHECKSUM_LEN];
    checksum.iter_mut().zip(hash.as_bytes()).for_each(|(to, from)| *to = *from);
    checksum
}
