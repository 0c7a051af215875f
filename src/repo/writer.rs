//! Storing chunks: known ones are noted, new ones encoded, verified and handed to the packer.

use super::packer::SegmentBuilder;
use super::session::WriteSession;
use crate::codec::{Decoder, Encoder};
use crate::error::{Error, Result};
use crate::format::pack::{ChunkEntry, Encoding, Frame};
use crate::format::{DELTA_SEGMENT_TARGET, Malformed, WHOLE_FRAME_TARGET, WHOLE_SEGMENT_TARGET};
use crate::id::ChunkId;

mod base;

use base::Base;
pub use base::{BaseSlice, Reference};

/// A delta this many times smaller than the chunk is taken without trying to store the chunk whole.
const CLEAR_GAIN: usize = 8;

/// Stores chunks for one thread. Everything put is part of the session only after [`ChunkWriter::flush`].
pub struct ChunkWriter<'s> {
    session: &'s WriteSession,
    encoder: Encoder,
    decoder: Decoder,
    /// New chunks that are to share a frame, and their plain bytes.
    sharing: Vec<ChunkEntry>,
    sharing_plain: Vec<u8>,
    whole: SegmentBuilder,
    small: SegmentBuilder,
    encoded: Vec<u8>,
    alternative: Vec<u8>,
    check: Vec<u8>,
}

/// A chunk that was put counts as stored for the whole session: one that is lost must not be in a snapshot.
impl Drop for ChunkWriter<'_> {
    fn drop(&mut self) {
        if !self.whole.bytes.is_empty() || !self.small.bytes.is_empty() || !self.sharing.is_empty() {
            self.session.poison();
        }
    }
}

impl<'s> ChunkWriter<'s> {
    pub(super) fn new(session: &'s WriteSession) -> Result<Self> {
        let malformed = |m: Malformed| m.of("a new chunk");
        Ok(ChunkWriter {
            session,
            encoder: Encoder::new().map_err(malformed)?,
            decoder: Decoder::new().map_err(malformed)?,
            sharing: Vec::new(),
            sharing_plain: Vec::new(),
            whole: SegmentBuilder::default(),
            small: SegmentBuilder::default(),
            encoded: Vec::new(),
            alternative: Vec::new(),
            check: Vec::new(),
        })
    }

    /// Stores a chunk with this id. `reference` says what it is probably like.
    ///
    /// # Errors
    /// After any failure the whole session is poisoned.
    pub fn put(&mut self, id: ChunkId, plain: &[u8], reference: &Reference) -> Result<()> {
        let session = self.session;
        session.guarded(|| self.store(id, plain, reference, false))
    }

    /// Whether a chunk is stored already (then it is built upon) and need not be put.
    pub fn find(&self, id: &ChunkId, predecessor: Option<ChunkId>) -> Result<bool> {
        Ok(predecessor == Some(*id) || self.session.guarded(|| self.session.use_stored(id))?)
    }

    /// Stores a tree node, which is a chunk too.
    pub(super) fn put_node(&mut self, plain: &[u8], predecessor: Option<ChunkId>) -> Result<ChunkId> {
        let session = self.session;
        let id = session.repository().keys().chunk_id(plain);
        session.guarded(|| self.store(id, plain, &Reference::to(predecessor), true))?;
        Ok(id)
    }

    /// Hands what is left to the packer.
    pub fn flush(&mut self) -> Result<()> {
        let session = self.session;
        session.guarded(|| {
            self.close_frame()?;
            session.packer().add(std::mem::take(&mut self.whole))?;
            session.packer().add(std::mem::take(&mut self.small))
        })
    }

    fn store(&mut self, id: ChunkId, plain: &[u8], reference: &Reference, node: bool) -> Result<()> {
        let inherited = reference.predecessor == Some(id);
        if inherited || !self.session.claim(&id) || self.session.use_stored(&id)? {
            return Ok(());
        }
        let base = Base::choose(self.session, reference, node)?;
        let version = base.as_ref().map_or(0, |base| base.version);
        let chunk = ChunkEntry { id, frame: 0, offset: 0, plain_len: plain.len() as u32, node, version };
        self.session.count_chunk(&chunk);
        if let Some(base) = base
            && let Some(frame) = self.try_delta(&chunk, plain, base)?
        {
            return self.push_small(frame, &chunk);
        }
        if node {
            let frame = self.encode_whole(plain).map_err(|m| m.of(format!("chunk {id}")))?;
            return self.push_small(frame, &chunk);
        }
        self.share(chunk, plain)
    }

    /// Encodes a chunk as a delta into `self.encoded` and verifies it; `None` if its base cannot be read, or it is better stored whole.
    fn try_delta(&mut self, chunk: &ChunkEntry, plain: &[u8], base: Base) -> Result<Option<Frame>> {
        let malformed = |m: Malformed| m.of(format!("chunk {}", chunk.id));
        let Some(prefix) = base.read(self.session)? else { return Ok(None) };
        self.encoder.encode(plain, &prefix, &mut self.encoded).map_err(malformed)?;
        if self.encoded.len() * CLEAR_GAIN > plain.len() {
            self.encoder.encode(plain, &[], &mut self.alternative).map_err(malformed)?;
            // A delta must save something for the chain that reading it takes.
            if self.encoded.len() * 8 > self.alternative.len() * 7 {
                return Ok(None);
            }
        }
        let frame = base.frame();
        self.verify(Encoding::Delta, &prefix, plain, &chunk.id)?;
        self.session.build_upon(&base.closure);
        Ok(Some(frame))
    }

    /// Encodes bytes without a base into `self.encoded`.
    fn encode_whole(&mut self, plain: &[u8]) -> Result<Frame, Malformed> {
        self.encoder.encode(plain, &[], &mut self.encoded)?;
        if self.encoded.len() < plain.len() {
            return Ok(Frame::whole(Encoding::Zstd));
        }
        self.encoded.clear();
        self.encoded.extend_from_slice(plain);
        Ok(Frame::whole(Encoding::Raw))
    }

    /// Decodes `self.encoded` and compares it with what was to be stored.
    fn verify(&mut self, encoding: Encoding, prefix: &[u8], plain: &[u8], id: &ChunkId) -> Result<()> {
        if encoding == Encoding::Raw {
            return Ok(());
        }
        self.decoder.decode(&self.encoded, prefix, plain.len() as u32, &mut self.check).map_err(|m| m.of(format!("chunk {id}")))?;
        match self.check == plain {
            true => Ok(()),
            false => Err(Error::corrupt(format!("new chunk {id}"), "it does not decode to what was encoded; memory may be faulty")),
        }
    }

    /// Puts a delta or a node, which lies in `self.encoded`, into its segment.
    fn push_small(&mut self, frame: Frame, chunk: &ChunkEntry) -> Result<()> {
        self.session.count_frame(frame.encoding, self.encoded.len(), chunk.node);
        if !self.small.bytes.is_empty() && self.small.bytes.len() + self.encoded.len() > DELTA_SEGMENT_TARGET {
            self.session.packer().add(std::mem::take(&mut self.small))?;
        }
        self.small.push(frame, std::slice::from_ref(chunk), &self.encoded);
        Ok(())
    }

    /// Adds a chunk to the frame that it shares with its neighbours.
    fn share(&mut self, chunk: ChunkEntry, plain: &[u8]) -> Result<()> {
        if !self.sharing.is_empty() && self.sharing_plain.len() + plain.len() > WHOLE_FRAME_TARGET {
            self.close_frame()?;
        }
        self.sharing.push(chunk);
        self.sharing_plain.extend_from_slice(plain);
        match self.sharing_plain.len() >= WHOLE_FRAME_TARGET {
            true => self.close_frame(),
            false => Ok(()),
        }
    }

    /// Encodes, verifies and puts into its segment the frame that chunks share.
    fn close_frame(&mut self) -> Result<()> {
        let (chunks, plain) = (std::mem::take(&mut self.sharing), std::mem::take(&mut self.sharing_plain));
        let Some(first) = chunks.first() else { return Ok(()) };
        let frame = self.encode_whole(&plain).map_err(|m| m.of(format!("chunk {}", first.id)))?;
        self.verify(frame.encoding, &[], &plain, &first.id)?;
        self.session.count_frame(frame.encoding, self.encoded.len(), false);
        if !self.whole.bytes.is_empty() && self.whole.bytes.len() + self.encoded.len() > WHOLE_SEGMENT_TARGET {
            self.session.packer().add(std::mem::take(&mut self.whole))?;
        }
        self.whole.push(frame, &chunks, &self.encoded);
        self.sharing_plain = plain;
        self.sharing_plain.clear();
        Ok(())
    }
}
