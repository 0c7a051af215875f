//! Storing chunks. A chunk that is stored already is only noted. A new one is encoded, verified and handed to the packer.
//!
//! For each new chunk the writer tries the bases that its references give, and takes the delta that is worth its chain, or stores the chunk
//! whole. Every frame is decoded and compared before it goes into a pack, so a faulty encoder or faulty memory is noticed while the source is
//! still there. Writers of several threads share one session; a chunk that several of them get is stored once.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

use super::new_chunk::{NewChunk, Reference};
use super::packer::SegmentBuilder;
use super::session::WriteSession;
use crate::error::{Error, Result, joined};
use crate::id::ChunkId;
use crate::store::codec::{Decoder, Encoder};
use crate::store::format::pack::{ChunkEntry, Encoding, Frame};
use crate::store::format::{DELTA_SEGMENT_TARGET, LEVEL_WRITE_MAX, Malformed, WHOLE_FRAME_TARGET, WHOLE_SEGMENT_TARGET, WORK_WRITE_MAX};
use crate::store::repo::u32_from;

mod base;
mod lineage;
#[cfg(test)]
mod tests;
mod thrift;

use base::Base;

/// A delta this many times smaller than the chunk is taken at once; nothing else is tried. With 8, deltas were taken of chunks in which some
/// pages hold what was in other chunks, and those pages were stored again.
const CLEAR_GAIN: usize = 32;
/// The same for rows, the content of a stream without pages. Deltas of rows are often ten times smaller without any search. Chunks that stay
/// larger are searched for again after all others are stored, when the threads are idle.
const CLEAR_GAIN_ROWS: usize = 32;
/// A delta must save at least 1/`WORTH_IT` of the bytes that the chunk takes when it is stored whole. Less is not worth the chain that reading
/// it takes.
const WORTH_IT: usize = 8;
/// The share for rows. All chunks of a dump change in every step, so each chain is read along with all others. A chunk that is stored whole
/// begins a new chain.
const WORTH_IT_ROWS: usize = 2;
/// A delta of rows against another place must be this many times smaller than the delta against the window.
const NEW_LINEAGE_GAIN: usize = 4;
/// A delta shorter than this, bytes, is one change, and a better search does not make it smaller.
const SQUEEZED_MIN: usize = 64;

/// Stores chunks for one thread. What is put belongs to the session only after [`ChunkWriter::flush`].
pub struct ChunkWriter<'s> {
    session: &'s WriteSession,
    encoder: Encoder,
    decoder: Decoder,
    /// New chunks that will share a frame, and their plain bytes.
    sharing: Vec<ChunkEntry>,
    sharing_plain: Vec<u8>,
    /// The open segment of frames without bases, and the one of deltas and nodes.
    whole: SegmentBuilder,
    small: SegmentBuilder,
    /// The best encoding so far of the chunk at hand, and the one that is being tried.
    encoded: Vec<u8>,
    alternative: Vec<u8>,
    /// The bytes that an encoding was decoded to.
    check: Vec<u8>,
}

/// Chunks that were put count as stored for the whole session. If a writer is dropped before it was flushed, they are lost, and the session
/// must not commit a snapshot that refers to them.
impl Drop for ChunkWriter<'_> {
    fn drop(&mut self) {
        if !self.whole.bytes.is_empty() || !self.small.bytes.is_empty() || !self.sharing.is_empty() {
            self.session.poison();
        }
    }
}

/// A delta that was encoded.
struct Delta {
    base: Base,
    prefix: Vec<u8>,
    encoding: Encoding,
    /// Whether a better search would hardly make it smaller.
    is_small: bool,
}

/// Gets a chunk's number and the plain bytes of the chunk that stood in its place, if those are read in full.
pub type Seen<'v> = dyn Fn(usize, &[u8]) + Sync + 'v;

/// Whether a chunk is of a stream without pages: then its base is a window.
fn in_rows(new: &NewChunk<'_>) -> bool {
    new.references.first().is_some_and(|first| first.predecessor.is_some() && !first.slices.is_empty())
}

/// The kind of a chunk, which decides how it is encoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// A chunk of a stream.
    Chunk,
    /// A chunk of a stream, which is stored only if its delta is small.
    CloseChunk,
    /// A node of a tree.
    Node,
}

/// Bytes of prefixes that are read together, and so are in memory at once.
const PREFIXES_LEN: usize = 8 << 20;

/// A chunk that is not stored yet, by its number, with the base that its first reference gives.
type Claimed<'c> = (usize, &'c NewChunk<'c>, Option<Base>);
/// A claimed chunk together with the bytes of its base, the prefix.
type Prepared<'c> = (usize, &'c NewChunk<'c>, Option<(Base, Vec<u8>)>);

/// Claims the chunks that are not stored yet, so that no other thread stores them, and chooses their bases.
fn claim<'c>(session: &WriteSession, chunks: &'c [NewChunk<'c>], kind: Kind) -> Result<Vec<Claimed<'c>>> {
    let mut fresh = Vec::new();
    for (number, chunk) in chunks.iter().enumerate() {
        let mut inherited = false;
        for reference in &chunk.references {
            inherited = inherited || session.inherits(reference.predecessor, &chunk.id)?;
        }
        if !inherited && session.claim(&chunk.id) && !session.use_stored(&chunk.id)? {
            session.note_mended(chunk)?;
            fresh.push((number, chunk));
        }
    }
    // The whole chains of all bases are looked up in a few batches. One by one, each level of each chain would be a look-up of its own.
    let named = fresh.iter().filter_map(|(_, chunk)| chunk.references.first()).flat_map(Reference::chunks);
    session.reader().prefetch(named)?;
    let mut claimed = Vec::with_capacity(fresh.len());
    for (number, chunk) in fresh {
        let first = chunk.references.first().map(|reference| Base::choose(session, reference, kind == Kind::Node));
        claimed.push((number, chunk, first.transpose()?.flatten()));
    }
    Ok(claimed)
}

/// Takes as many of the chunks as may have their prefixes in memory at once, but at least one, and reads their prefixes.
fn prepare<'c>(session: &WriteSession, claimed: &mut VecDeque<Claimed<'c>>, threads: usize) -> Result<Vec<Prepared<'c>>> {
    let (mut chunks, mut bases, mut bytes) = (Vec::new(), Vec::new(), 0);
    while let Some((number, chunk, base)) = claimed.pop_front() {
        let len = base.as_ref().map_or(0, Base::prefix_len);
        if bytes > 0 && bytes + len > PREFIXES_LEN {
            claimed.push_front((number, chunk, base));
            break;
        }
        bytes += len;
        chunks.push((number, chunk));
        bases.push(base);
    }
    let prefixes = base::read_all(session, &bases, threads)?;
    let with_prefix = bases.into_iter().zip(prefixes).map(|(base, prefix)| base.zip(prefix));
    Ok(chunks.into_iter().zip(with_prefix).map(|((number, chunk), first)| (number, chunk, first)).collect())
}

impl WriteSession {
    /// A writer for one thread.
    pub fn writer(&self) -> Result<ChunkWriter<'_>> {
        ChunkWriter::new(self)
    }
}

impl<'s> ChunkWriter<'s> {
    fn new(session: &'s WriteSession) -> Result<Self> {
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

    /// Stores chunks, each in the way that takes fewest bytes. Their bases are read together.
    pub fn put(&mut self, chunks: &[NewChunk<'_>]) -> Result<()> {
        let session = self.session;
        session.guarded(|| self.store_all(chunks, Kind::Chunk, &|_, _| ())).map(drop)
    }

    /// Whether a chunk is stored already and need not be put. If so, the snapshot counts on that stored copy.
    pub fn find(&self, id: &ChunkId) -> Result<bool> {
        self.session.guarded(|| self.session.use_stored(id))
    }

    /// Stores a tree node, which is a chunk too.
    pub(super) fn put_node(&mut self, plain: &[u8], predecessor: Option<ChunkId>) -> Result<ChunkId> {
        let session = self.session;
        let id = session.repository().keys().chunk_id(plain);
        let node = NewChunk { id, plain, references: vec![Reference::to(predecessor)] };
        session.guarded(|| self.store_all(&[node], Kind::Node, &|_, _| ()))?;
        Ok(id)
    }

    /// Hands everything that waits to the packer.
    pub fn flush(&mut self) -> Result<()> {
        let session = self.session;
        session.guarded(|| {
            self.close_frame()?;
            session.packer().add(std::mem::take(&mut self.whole))?;
            session.packer().add(std::mem::take(&mut self.small))
        })
    }

    /// Stores chunks. [`Kind::CloseChunk`] leaves out those whose delta is not small; their numbers are returned.
    fn store_all(&mut self, chunks: &[NewChunk<'_>], kind: Kind, seen: &Seen<'_>) -> Result<Vec<usize>> {
        let mut rest = Vec::new();
        let mut claimed = VecDeque::from(claim(self.session, chunks, kind)?);
        while !claimed.is_empty() {
            for prepared in prepare(self.session, &mut claimed, 1)? {
                rest.extend(self.store_prepared(prepared, kind, seen)?);
            }
        }
        Ok(rest)
    }

    /// As [`ChunkWriter::put`], with the work shared among several writers of one session, each in a thread of its own.
    pub fn put_shared(writers: &mut [ChunkWriter<'_>], chunks: &[NewChunk<'_>]) -> Result<()> {
        Self::store_shared(writers, chunks, Kind::Chunk, &|_, _| ()).map(drop)
    }

    /// Stores the chunks whose delta is small, with the work shared among the writers. Chunks that are stored already count as done. Returns the
    /// numbers of the others in ascending order.
    pub fn put_close(writers: &mut [ChunkWriter<'_>], chunks: &[NewChunk<'_>], seen: &Seen<'_>) -> Result<Vec<usize>> {
        Self::store_shared(writers, chunks, Kind::CloseChunk, seen)
    }

    fn store_shared(writers: &mut [ChunkWriter<'_>], chunks: &[NewChunk<'_>], kind: Kind, seen: &Seen<'_>) -> Result<Vec<usize>> {
        if let [writer] = writers {
            let session = writer.session;
            return session.guarded(|| writer.store_all(chunks, kind, seen));
        }
        let Some(session) = writers.first().map(|writer| writer.session) else { return Ok((0..chunks.len()).collect()) };
        session.guarded(|| {
            let mut claimed = VecDeque::from(claim(session, chunks, kind)?);
            let mut rest = Vec::new();
            while !claimed.is_empty() {
                let prepared = prepare(session, &mut claimed, writers.len())?;
                rest.extend(Self::store_by_all(writers, prepared, kind, seen)?);
            }
            rest.sort_unstable();
            Ok(rest)
        })
    }

    fn store_by_all(writers: &mut [ChunkWriter<'_>], prepared: Vec<Prepared<'_>>, kind: Kind, seen: &Seen<'_>) -> Result<Vec<usize>> {
        let prepared = Mutex::new(prepared.into_iter());
        // Each thread takes the next chunk when it is ready, because chunks take very different times.
        let next = || prepared.lock().unwrap_or_else(PoisonError::into_inner).next();
        let store = |writer: &mut ChunkWriter<'_>| -> Result<Vec<usize>> {
            let mut rest = Vec::new();
            while let Some(prepared) = next() {
                let stored = writer.session.check().and_then(|()| writer.store_prepared(prepared, kind, seen));
                // The other threads stop at their next chunk.
                rest.extend(stored.inspect_err(|_| writer.session.poison())?);
            }
            Ok(rest)
        };
        let store = &store;
        let results: Vec<Result<Vec<usize>>> = std::thread::scope(|scope| {
            let handles: Vec<_> = writers.iter_mut().map(|writer| scope.spawn(move || store(writer))).collect();
            handles.into_iter().map(|handle| joined("storing chunks", handle.join())).collect()
        });
        // The threads that were stopped have `Poisoned`. The error that stopped them is reported.
        let (done, failed): (Vec<_>, Vec<_>) = results.into_iter().partition(Result::is_ok);
        let why = failed.into_iter().filter_map(Result::err).min_by_key(|error| matches!(error, Error::Poisoned));
        Ok(why.map_or_else(|| done.into_iter().collect::<Result<Vec<_>>>(), Err)?.concat())
    }

    /// As [`ChunkWriter::store`]; returns the chunk's number if it is not stored.
    fn store_prepared(&mut self, (number, chunk, first): Prepared<'_>, kind: Kind, seen: &Seen<'_>) -> Result<Option<usize>> {
        // Only with a prefix that is one whole chunk do places in the prefix match places in the new chunk.
        if let Some((_, prefix)) = first.as_ref().filter(|(base, _)| base.is_one_chunk()) {
            seen(number, prefix);
        }
        Ok((!self.store(chunk, first, kind)?).then_some(number))
    }

    /// Stores a chunk and says whether it is stored. `first` is the base that the first reference gives, with its bytes. For
    /// [`Kind::CloseChunk`] a chunk whose delta is not small is not stored.
    fn store(&mut self, new: &NewChunk<'_>, first: Option<(Base, Vec<u8>)>, kind: Kind) -> Result<bool> {
        let NewChunk { id, plain, .. } = *new;
        // A mended chunk is stored whole, because older deltas stand on it: as a delta its level could be too high for them.
        let best = if self.session.is_mended(&id) { None } else { self.best_delta(new, first, kind)? };
        let close = best.is_some() && self.is_clear(new);
        if kind == Kind::CloseChunk && !close {
            // The chunk comes again after the others, and must then be new to the session.
            self.session.unclaim(&id);
            return Ok(false);
        }
        let version = best.as_ref().map_or(0, |delta| delta.base.version);
        // The frame's number and the place in it are set when the chunk comes into a pack. Its length is at most CHUNK_LEN_MAX.
        let chunk = ChunkEntry { id, frame: 0, offset: 0, plain_len: u32_from(plain.len()), node: kind == Kind::Node, version };
        self.session.count_chunk(&chunk);
        if let Some(delta) = best
            && (close || self.is_worth_it(new).map_err(|m| m.of(format!("chunk {id}")))?)
        {
            // Only a delta that will be stored is worth the slow search.
            if !delta.is_small {
                self.squeeze(plain, &delta.prefix).map_err(|m| m.of(format!("chunk {id}")))?;
            }
            self.verify(delta.encoding, &delta.prefix, plain, &id)?;
            self.session.build_upon(&delta.base.closure);
            self.push_small(delta.base.frame(delta.encoding), &chunk)?;
        } else if chunk.node {
            let frame = self.encode_whole(plain).map_err(|m| m.of(format!("chunk {id}")))?;
            self.verify(frame.encoding, &[], plain, &id)?;
            self.push_small(frame, &chunk)?;
        } else {
            self.share(chunk, plain)?;
        }
        Ok(true)
    }

    /// Encodes a chunk into `self.encoded`: as the smallest delta that its references give, or as the first one that is small. `None` if no base
    /// can be read.
    fn best_delta(&mut self, new: &NewChunk<'_>, first: Option<(Base, Vec<u8>)>, kind: Kind) -> Result<Option<Delta>> {
        let malformed = |m: Malformed| m.of(format!("chunk {}", new.id));
        let mut best = None;
        if let Some((base, prefix)) = first {
            let (encoding, is_small) = self.encode_delta(new, &base, &prefix).map_err(malformed)?;
            best = Some(Delta { base, prefix, encoding, is_small });
            std::mem::swap(&mut self.encoded, &mut self.alternative);
        }
        for reference in new.references.iter().skip(1) {
            // Rows take the first delta that is worth its chain: their first reference is the window, and another place starts a new lineage.
            if best.is_some() && (self.is_clear(new) || in_rows(new) && self.is_worth_it(new).map_err(malformed)?) {
                break;
            }
            let base = match in_rows(new) {
                true => Base::of_rows(self.session, reference)?,
                false => Base::choose(self.session, reference, kind == Kind::Node)?,
            };
            let Some(base) = base else { continue };
            let Some(prefix) = base.read(self.session)? else { continue };
            let (encoding, is_small) = self.encode_delta(new, &base, &prefix).map_err(malformed)?;
            let is_better = best.as_ref().is_none_or(|best: &Delta| match in_rows(new) {
                // Rows that stand on another place begin a new lineage on top of the chains there. That must save more than a few bytes.
                true => self.alternative.len() * NEW_LINEAGE_GAIN < self.encoded.len(),
                // Of two deltas that take about as many bytes, the one with the shorter chain is taken.
                false => self.alternative.len() + base.price() < self.encoded.len() + best.base.price(),
            });
            if is_better {
                std::mem::swap(&mut self.encoded, &mut self.alternative);
                best = Some(Delta { base, prefix, encoding, is_small });
            }
        }
        Ok(best)
    }

    /// Encodes into `self.alternative`. A chunk becomes a patch if its base is one chunk and few of its pages have changed. The flag says that a
    /// better search would hardly make the delta smaller.
    fn encode_delta(&mut self, new: &NewChunk<'_>, base: &Base, prefix: &[u8]) -> Result<(Encoding, bool), Malformed> {
        if base.is_one_chunk() && self.encoder.encode_patch(new.plain, prefix, &mut self.alternative)? {
            return Ok((Encoding::Patch, true));
        }
        if !in_rows(new) {
            self.encoder.encode(new.plain, prefix, &mut self.alternative)?;
            return Ok((Encoding::Delta, true));
        }
        if self.encoder.encode_runs(new.plain, prefix, &mut self.alternative)? {
            return Ok((Encoding::Delta, true));
        }
        self.encoder.encode_rows(new.plain, prefix, &mut self.alternative)?;
        Ok((Encoding::Delta, self.alternative.len() < SQUEEZED_MIN))
    }

    /// Whether the delta in `self.encoded` is so small that nothing else needs to be tried.
    fn is_clear(&self, new: &NewChunk<'_>) -> bool {
        self.encoded.len() * if in_rows(new) { CLEAR_GAIN_ROWS } else { CLEAR_GAIN } <= new.plain.len()
    }

    /// Replaces the delta in `self.encoded` by a smaller one if a slow search finds it.
    fn squeeze(&mut self, plain: &[u8], prefix: &[u8]) -> Result<(), Malformed> {
        self.encoder.squeeze_rows(plain, prefix, &mut self.alternative)?;
        if self.alternative.len() < self.encoded.len() {
            std::mem::swap(&mut self.encoded, &mut self.alternative);
        }
        Ok(())
    }

    /// Whether the delta in `self.encoded` saves enough, compared with the chunk stored whole, to be worth the chain that reading it takes.
    fn is_worth_it(&mut self, new: &NewChunk<'_>) -> Result<bool, Malformed> {
        self.encoder.encode_rows(new.plain, &[], &mut self.alternative)?;
        let saved = self.alternative.len().saturating_sub(self.encoded.len());
        Ok(saved * if in_rows(new) { WORTH_IT_ROWS } else { WORTH_IT } >= self.alternative.len())
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

    /// Decodes `self.encoded` and compares the result with the plain bytes.
    fn verify(&mut self, encoding: Encoding, prefix: &[u8], plain: &[u8], id: &ChunkId) -> Result<()> {
        // Raw bytes are the plain bytes themselves. There is nothing to decode.
        if encoding == Encoding::Raw {
            return Ok(());
        }
        // A frame is at most FRAME_LEN_MAX bytes, 1 MiB.
        let len = u32_from(plain.len());
        let decoded = match encoding {
            // A patch is applied in place, so it needs a copy of its base.
            Encoding::Patch => {
                self.check.clear();
                self.check.extend_from_slice(prefix);
                self.decoder.decode_patch(&self.encoded, &mut self.check, len)
            }
            _ => self.decoder.decode(&self.encoded, prefix, len, &mut self.check),
        };
        decoded.map_err(|m| m.of(format!("chunk {id}")))?;
        match self.check == plain {
            true => Ok(()),
            false => Err(Error::corrupt(format!("new chunk {id}"), "it does not decode to what was encoded; memory may be faulty")),
        }
    }

    /// Puts the delta or node in `self.encoded` into the segment of small frames.
    fn push_small(&mut self, frame: Frame, chunk: &ChunkEntry) -> Result<()> {
        debug_assert!(frame.level <= LEVEL_WRITE_MAX && frame.work <= WORK_WRITE_MAX, "a base that does not fit was refused");
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

    /// Encodes the frame that chunks share, verifies it, and puts it into its segment.
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
        // The buffer is kept, so that the next frame needs no new one.
        self.sharing_plain = plain;
        self.sharing_plain.clear();
        Ok(())
    }
}
