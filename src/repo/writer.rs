//! Storing chunks: known ones are noted, new ones encoded, verified and handed to the packer.

use std::sync::Arc;

use super::locate::StoredCopy;
use super::packer::SegmentBuilder;
use super::session::WriteSession;
use crate::codec::{Decoder, Encoder};
use crate::error::{Error, Result};
use crate::format::pack::{ChunkEntry, Encoding, Slice};
use crate::format::{DELTA_SEGMENT_TARGET, LEVEL_WRITE_MAX, PREFIX_LEN_MAX, WHOLE_SEGMENT_TARGET, WORK_WRITE_MAX};
use crate::id::ChunkId;

/// The base of the skip rule for chunks: the base of version k is version k - b^v, where b^v is the largest power of b that divides k
/// (SVN skip-deltas; hop encoding of dbDedup, SIGMOD 2017). It bounds the depth at b - 1 for each digit of k in base b.
const CHUNK_SKIP: u32 = 16;
/// The same for tree nodes, which are smaller and read by every operation.
const NODE_SKIP: u32 = 4;
/// A delta this many times smaller than the chunk is taken without trying to store the chunk whole.
const CLEAR_GAIN: usize = 8;

/// Stores chunks for one thread. Everything put is part of the session only after [`ChunkWriter::flush`].
pub struct ChunkWriter<'s> {
    session: &'s WriteSession,
    encoder: Encoder,
    decoder: Decoder,
    whole: SegmentBuilder,
    small: SegmentBuilder,
    encoded: Vec<u8>,
    alternative: Vec<u8>,
    check: Vec<u8>,
}

/// A chunk that was put counts as stored for the whole session: one that is lost must not be in a snapshot.
impl Drop for ChunkWriter<'_> {
    fn drop(&mut self) {
        if !self.whole.bytes.is_empty() || !self.small.bytes.is_empty() {
            self.session.poison();
        }
    }
}

/// What a delta is to be made against.
struct Base {
    copy: StoredCopy,
    version: u32,
    level: u8,
    work: u32,
}

impl<'s> ChunkWriter<'s> {
    pub(super) fn new(session: &'s WriteSession) -> Result<Self> {
        let malformed = |m: crate::format::Malformed| m.of("a new chunk");
        Ok(ChunkWriter {
            session,
            encoder: Encoder::new().map_err(malformed)?,
            decoder: Decoder::new().map_err(malformed)?,
            whole: SegmentBuilder::default(),
            small: SegmentBuilder::default(),
            encoded: Vec::new(),
            alternative: Vec::new(),
            check: Vec::new(),
        })
    }

    /// Stores a chunk and gives its id. `predecessor` is the chunk that stood in its place in the parent snapshot.
    ///
    /// # Errors
    /// After any failure the whole session is poisoned.
    pub fn put(&mut self, plain: &[u8], predecessor: Option<ChunkId>) -> Result<ChunkId> {
        let id = self.session.repository().keys().chunk_id(plain);
        self.put_named(id, plain, predecessor)?;
        Ok(id)
    }

    /// Stores a chunk whose id is known from [`ChunkWriter::find`].
    pub fn put_named(&mut self, id: ChunkId, plain: &[u8], predecessor: Option<ChunkId>) -> Result<()> {
        let session = self.session;
        session.guarded(|| self.store(id, plain, predecessor, false))
    }

    /// The id of a chunk, and whether it is stored already (then it is built upon) and need not be put.
    pub fn find(&mut self, plain: &[u8], predecessor: Option<ChunkId>) -> Result<(ChunkId, bool)> {
        let id = self.session.repository().keys().chunk_id(plain);
        let stored = predecessor == Some(id) || self.session.guarded(|| self.session.use_stored(&id))?;
        Ok((id, stored))
    }

    /// Stores a tree node, which is a chunk too.
    pub(super) fn put_node(&mut self, plain: &[u8], predecessor: Option<ChunkId>) -> Result<ChunkId> {
        let session = self.session;
        let id = session.repository().keys().chunk_id(plain);
        session.guarded(|| self.store(id, plain, predecessor, true))?;
        Ok(id)
    }

    /// Hands what is left to the packer.
    pub fn flush(&mut self) -> Result<()> {
        let (whole, small) = (std::mem::take(&mut self.whole), std::mem::take(&mut self.small));
        self.session.guarded(|| {
            self.session.packer().add(whole)?;
            self.session.packer().add(small)
        })
    }

    fn store(&mut self, id: ChunkId, plain: &[u8], predecessor: Option<ChunkId>, node: bool) -> Result<()> {
        let inherited = predecessor == Some(id);
        if inherited || !self.session.claim(&id) || self.session.use_stored(&id)? {
            return Ok(());
        }
        let base = match predecessor {
            Some(predecessor) => self.choose_base(&predecessor, if node { NODE_SKIP } else { CHUNK_SKIP })?,
            None => None,
        };
        let entry = self.encode(id, plain, base, node)?;
        self.session.count_new(&entry, self.encoded.len());
        let small = node || entry.encoding == Encoding::Delta;
        let (segment, target) = match small {
            true => (&mut self.small, DELTA_SEGMENT_TARGET),
            false => (&mut self.whole, WHOLE_SEGMENT_TARGET),
        };
        if !segment.bytes.is_empty() && segment.bytes.len() + self.encoded.len() > target {
            self.session.packer().add(std::mem::take(segment))?;
        }
        segment.push(entry, &self.encoded);
        Ok(())
    }

    /// Encodes into `self.encoded`, in the way that stores least, and verifies that it decodes to the same bytes.
    fn encode(&mut self, id: ChunkId, plain: &[u8], base: Option<Base>, node: bool) -> Result<ChunkEntry> {
        let malformed = |m: crate::format::Malformed| m.of(format!("chunk {id}"));
        let base = base.map(|base| self.read_base(base)).transpose()?.flatten();
        let mut entry = ChunkEntry {
            id,
            segment: 0,
            offset: 0,
            encoded_len: 0,
            plain_len: plain.len() as u32,
            encoding: Encoding::Raw,
            node,
            version: base.as_ref().map_or(0, |(base, _)| base.version),
            level: 0,
            work: 1,
            slices: Vec::new(),
        };
        let mut prefix = Arc::default();
        self.encoded.clear();
        if let Some((base, bytes)) = base {
            prefix = bytes;
            self.encoder.encode(plain, &prefix, &mut self.encoded).map_err(malformed)?;
            entry.encoding = Encoding::Delta;
            (entry.level, entry.work) = (base.level, base.work);
            entry.slices = vec![Slice { base: base.copy.entry.id.prefix(), offset: 0, len: prefix.len() as u32 }];
        }
        if entry.encoding != Encoding::Delta || self.encoded.len() * CLEAR_GAIN > plain.len() {
            self.encoder.encode(plain, &[], &mut self.alternative).map_err(malformed)?;
            // A delta must save something for the chain that reading it takes.
            if entry.encoding != Encoding::Delta || self.encoded.len() * 8 > self.alternative.len() * 7 {
                std::mem::swap(&mut self.encoded, &mut self.alternative);
                prefix = Arc::default();
                (entry.encoding, entry.level, entry.work) = (Encoding::Zstd, 0, 1);
                entry.slices.clear();
            }
        }
        if entry.encoding == Encoding::Zstd && self.encoded.len() >= plain.len() {
            entry.encoding = Encoding::Raw;
            self.encoded.clear();
            self.encoded.extend_from_slice(plain);
            return Ok(entry);
        }
        self.decoder.decode(&self.encoded, &prefix, entry.plain_len, &mut self.check).map_err(malformed)?;
        match self.check == plain {
            true => Ok(entry),
            false => Err(Error::corrupt(format!("new chunk {id}"), "it does not decode to what was encoded; memory may be faulty")),
        }
    }

    /// The bytes of a base, which is built upon from now on; `None` if it cannot be read: damage to what is stored, or a catalog that is
    /// wrong about it, must not stop a backup that can store the chunk whole.
    fn read_base(&self, base: Base) -> Result<Option<(Base, Arc<Vec<u8>>)>> {
        let read = self.session.reader().base_bytes(&base.copy);
        match read.and_then(|bytes| self.session.use_copy(&base.copy).map(|()| bytes)) {
            Ok(bytes) => Ok(Some((base, bytes))),
            Err(error) if error.is_damage() || matches!(error, Error::Stale { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The base that the skip rule gives a successor of `predecessor`; `None` where the chunk must be stored whole. The target lies on the
    /// predecessor's own chain in an unbroken lineage; in a broken one the first older version on it serves.
    fn choose_base(&self, predecessor: &ChunkId, skip: u32) -> Result<Option<Base>> {
        let Some(mut copy) = self.session.trusted_copies(predecessor)?.into_iter().next() else { return Ok(None) };
        let version = copy.entry.version.saturating_add(1);
        let target = version - largest_power_dividing(version, skip);
        while copy.entry.version > target {
            let [slice] = copy.entry.slices.as_slice() else { break };
            let older = self.session.trusted_bases(slice.base, copy.entry.level)?;
            let Some(older) = older.into_iter().find(|older| older.entry.version < copy.entry.version) else { break };
            copy = older;
        }
        let (level, work) = (copy.entry.level + 1, copy.entry.work + 1);
        let ambiguous = self.session.trusted_bases(copy.entry.id.prefix(), u8::MAX)?.iter().any(|other| other.entry.id != copy.entry.id);
        let fits = level <= LEVEL_WRITE_MAX && work <= WORK_WRITE_MAX && copy.entry.plain_len as usize <= PREFIX_LEN_MAX && !ambiguous;
        Ok(fits.then_some(Base { copy, version, level, work }))
    }
}

/// The largest power of `base` that divides `number`, which is not 0.
fn largest_power_dividing(number: u32, base: u32) -> u32 {
    let mut power = 1u32;
    while let Some(next) = power.checked_mul(base).filter(|next| number.is_multiple_of(*next)) {
        power = next;
    }
    power
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn skip_rule_bounds_the_depth() {
        for (skip, versions, depth_max) in [(16, 10_000, 46), (4, 10_000, 22)] {
            let mut depth = vec![0u32];
            for version in 1..=versions {
                let base = version - largest_power_dividing(version, skip);
                depth.push(depth.get(base as usize).copied().unwrap_or_default() + 1);
            }
            let deepest = depth.iter().max().copied().unwrap_or_default();
            assert!(deepest <= depth_max, "skip {skip}: {deepest} > {depth_max}");
        }
    }
}
