//! Writing chunks that are stored already into new packs, as they are encoded or whole. Prune, repair and the rescue of a commit use it.
//!
//! Nothing refers to the new packs until the caller commits. Newly encoded bytes are decoded and compared before they go into a pack.

use std::sync::Arc;

use super::Repository;
use super::locate::StoredCopy;
use super::packer::{Packer, SegmentBuilder};
use super::reader::Reader;
use crate::error::{Error, Result};
use crate::id::ChunkId;
use crate::store::codec::{Decoder, Encoder};
use crate::store::format::pack::{ChunkEntry, Encoding, Frame, Slice};
use crate::store::format::snapshot::PackRef;
use crate::store::format::{DELTA_SEGMENT_TARGET, Malformed, WHOLE_FRAME_TARGET, WHOLE_SEGMENT_TARGET};
use crate::store::repo::u32_from;

/// Makes packs of stored chunks.
pub(crate) struct Repacker {
    packer: Packer,
    encoder: Encoder,
    decoder: Decoder,
    check: Vec<u8>,
    whole: SegmentBuilder,
    small: SegmentBuilder,
    sharing: Vec<ChunkEntry>,
    sharing_plain: Vec<u8>,
}

impl Repacker {
    pub(crate) fn new(repo: &Repository) -> Result<Self> {
        Ok(Repacker {
            packer: Packer::new(repo, Arc::default(), |_| {}),
            encoder: Encoder::new().map_err(|m| m.of("a new pack"))?,
            decoder: Decoder::new().map_err(|m| m.of("a new pack"))?,
            check: Vec::new(),
            whole: SegmentBuilder::default(),
            small: SegmentBuilder::default(),
            sharing: Vec::new(),
            sharing_plain: Vec::new(),
        })
    }

    /// Copies a frame with all of its chunks as it is encoded. A delta keeps its level, so all of its bases must stay stored.
    pub(crate) fn copy_frame(&mut self, reader: &Reader, chunks: &[StoredCopy]) -> Result<()> {
        let Some(first) = chunks.first() else { return Ok(()) };
        let encoded = reader.encoded(first)?;
        let rows: Vec<ChunkEntry> = chunks.iter().map(|copy| copy.entry).collect();
        let frame = first.frame().clone();
        // The new frame goes into the kind of segment that a writer would choose, so that reads of deltas stay small.
        let small = frame.encoding.is_delta() || rows.iter().all(|chunk| chunk.node);
        self.push(frame, &rows, &encoded, small)
    }

    /// Stores a chunk without a base.
    pub(crate) fn store_whole(&mut self, id: ChunkId, plain: &[u8], node: bool, version: u32) -> Result<()> {
        let chunk = ChunkEntry { id, frame: 0, offset: 0, plain_len: u32_from(plain.len()), node, version };
        if node {
            return self.push_whole(&[chunk], plain, true);
        }
        if !self.sharing.is_empty() && self.sharing_plain.len() + plain.len() > WHOLE_FRAME_TARGET {
            self.close_frame()?;
        }
        self.sharing.push(chunk);
        self.sharing_plain.extend_from_slice(plain);
        Ok(())
    }

    /// Stores a chunk as a delta of another stored chunk, if that takes at most `len_max` bytes. Says whether it is stored.
    pub(crate) fn store_delta(
        &mut self,
        copy: &StoredCopy,
        plain: &[u8],
        base: &StoredCopy,
        base_plain: &[u8],
        len_max: usize,
    ) -> Result<bool> {
        let malformed = |m: Malformed| m.of("a chunk");
        let mut encoded = Vec::new();
        let mut encoding = Encoding::Patch;
        // Nodes are never patches: few of their ids stay in place.
        if copy.entry.node || !self.encoder.encode_patch(plain, base_plain, &mut encoded).map_err(malformed)? {
            self.encoder.encode(plain, base_plain, &mut encoded).map_err(malformed)?;
            encoding = Encoding::Delta;
        }
        // Checked before it is verified and stored: for the caller a longer delta is not better than what it has.
        if encoded.len() > len_max {
            return Ok(false);
        }
        match encoding {
            Encoding::Patch => {
                self.check.clear();
                self.check.extend_from_slice(base_plain);
                self.decoder.decode_patch(&encoded, &mut self.check, u32_from(plain.len())).map_err(malformed)?;
            }
            _ => self.decoder.decode(&encoded, base_plain, u32_from(plain.len()), &mut self.check).map_err(malformed)?,
        }
        if self.check != plain {
            return Err(not_decoded());
        }
        let slice = Slice { base: base.entry.id.prefix(), offset: 0, len: base.entry.plain_len };
        let (level, work) = (base.frame().level + 1, base.frame().work + 1);
        let frame = Frame { level, work, slices: vec![slice], ..Frame::whole(encoding) };
        self.push(frame, &[copy.entry], &encoded, true)?;
        Ok(true)
    }

    /// Makes everything durable and returns the packs.
    pub(crate) fn finish(mut self) -> Result<Vec<PackRef>> {
        self.close_frame()?;
        self.packer.add(std::mem::take(&mut self.whole))?;
        self.packer.add(std::mem::take(&mut self.small))?;
        self.packer.finish()
    }

    fn close_frame(&mut self) -> Result<()> {
        let (chunks, plain) = (std::mem::take(&mut self.sharing), std::mem::take(&mut self.sharing_plain));
        if chunks.is_empty() { Ok(()) } else { self.push_whole(&chunks, &plain, false) }
    }

    fn push_whole(&mut self, chunks: &[ChunkEntry], plain: &[u8], small: bool) -> Result<()> {
        let malformed = |m: Malformed| m.of("a chunk");
        let mut encoded = Vec::new();
        self.encoder.encode(plain, &[], &mut encoded).map_err(malformed)?;
        self.decoder.decode(&encoded, &[], u32_from(plain.len()), &mut self.check).map_err(malformed)?;
        if self.check != plain {
            return Err(not_decoded());
        }
        match encoded.len() < plain.len() {
            true => self.push(Frame::whole(Encoding::Zstd), chunks, &encoded, small),
            false => self.push(Frame::whole(Encoding::Raw), chunks, plain, small),
        }
    }

    fn push(&mut self, frame: Frame, chunks: &[ChunkEntry], encoded: &[u8], small: bool) -> Result<()> {
        let (segment, target) = match small {
            true => (&mut self.small, DELTA_SEGMENT_TARGET),
            false => (&mut self.whole, WHOLE_SEGMENT_TARGET),
        };
        if !segment.bytes.is_empty() && segment.bytes.len() + encoded.len() > target {
            self.packer.add(std::mem::take(segment))?;
        }
        segment.push(frame, chunks, encoded);
        Ok(())
    }
}

fn not_decoded() -> Error {
    Error::corrupt("a chunk in memory", "it does not decode to what was encoded; memory may be faulty")
}
