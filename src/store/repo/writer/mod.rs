//! Storing chunks: known ones are noted, new ones encoded, verified and handed to the packer.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

use super::new_chunk::{NewChunk, Reference};
use super::packer::SegmentBuilder;
use super::session::WriteSession;
use crate::error::{Error, Result, joined};
use crate::id::ChunkId;
use crate::store::codec::{Decoder, Encoder};
use crate::store::format::pack::{ChunkEntry, Encoding, Frame};
use crate::store::format::{DELTA_SEGMENT_TARGET, Malformed, WHOLE_FRAME_TARGET, WHOLE_SEGMENT_TARGET};

mod base;
mod lineage;
#[cfg(test)]
mod tests;
mod thrift;

use base::Base;

/// A delta this many times smaller than the chunk is taken without looking elsewhere or trying to store the chunk whole. With 8 a chunk of which some
/// pages hold what was in others was taken as it is.
const CLEAR_GAIN: usize = 32;
/// The same for rows, of a stream without pages: they are often ten times smaller by themselves. A
/// chunk that is not is looked for elsewhere when all others are stored, while nothing else is done.
const CLEAR_GAIN_ROWS: usize = 32;
/// The share, one in so many, of what a chunk takes whole that a delta must save for the chain that reading it takes.
const WORTH_IT: usize = 8;
/// The same for rows: all chunks of a dump change in every step, so each chain is read with all others, and a chunk that is whole begins a new one.
const WORTH_IT_ROWS: usize = 2;
/// How many times smaller than against its window a chunk of rows must be against something else.
const NEW_LINEAGE_GAIN: usize = 4;
/// A delta shorter than this, bytes, is one change, which a better search does not make smaller.
const SQUEEZED_MIN: usize = 64;

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

/// A delta that was encoded.
struct Delta {
    base: Base,
    prefix: Vec<u8>,
    encoding: Encoding,
    /// Whether a better search would hardly make it smaller.
    is_small: bool,
}

/// Is told what stands in the place of a chunk, by the chunk's number, where that is read in full.
pub type Seen<'v> = dyn Fn(usize, &[u8]) + Sync + 'v;

/// Whether a chunk is one of a stream without pages, which stands on a window.
fn in_rows(new: &NewChunk<'_>) -> bool {
    new.references.first().is_some_and(|first| first.predecessor.is_some() && !first.slices.is_empty())
}

/// What is to be stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// A chunk of a stream.
    Chunk,
    /// One that is to be stored only if that takes little.
    CloseChunk,
    /// A node of a tree.
    Node,
}

/// Bytes of prefixes that are read together, and are in memory at once.
const PREFIXES_LEN: usize = 8 << 20;

/// A chunk that is not stored yet, by its number, with the base that its first reference gives.
type Claimed<'c> = (usize, &'c NewChunk<'c>, Option<Base>);
/// The same with the prefix that the base gives.
type Prepared<'c> = (usize, &'c NewChunk<'c>, Option<(Base, Vec<u8>)>);

/// Claims the chunks that are not stored yet, and chooses their bases.
fn claim<'c>(session: &WriteSession, chunks: &'c [NewChunk<'c>], kind: Kind) -> Result<Vec<Claimed<'c>>> {
    let mut fresh = Vec::new();
    for (number, chunk) in chunks.iter().enumerate() {
        let mut inherited = false;
        for reference in &chunk.references {
            inherited = inherited || session.inherits(reference.predecessor, &chunk.id)?;
        }
        if !inherited && session.claim(&chunk.id) && !session.use_stored(&chunk.id)? {
            session.heal(chunk)?;
            fresh.push((number, chunk));
        }
    }
    let named = fresh.iter().filter_map(|(_, chunk)| chunk.references.first()).flat_map(Reference::chunks);
    session.reader().prefetch(named)?;
    let mut claimed = Vec::with_capacity(fresh.len());
    for (number, chunk) in fresh {
        let first = chunk.references.first().map(|reference| Base::choose(session, reference, kind == Kind::Node));
        claimed.push((number, chunk, first.transpose()?.flatten()));
    }
    Ok(claimed)
}

/// Takes as many of these chunks as may have their prefixes in memory at once, at least one, and reads the prefixes.
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

    /// Stores chunks, each in whichever way stores least. Their bases are read together.
    ///
    /// # Errors
    /// After any failure the whole session is poisoned.
    pub fn put(&mut self, chunks: &[NewChunk<'_>]) -> Result<()> {
        let session = self.session;
        session.guarded(|| self.store_all(chunks, Kind::Chunk, &|_, _| ())).map(drop)
    }

    /// Whether a chunk is stored already (then it is built upon) and need not be put.
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

    /// Hands what is left to the packer.
    pub fn flush(&mut self) -> Result<()> {
        let session = self.session;
        session.guarded(|| {
            self.close_frame()?;
            session.packer().add(std::mem::take(&mut self.whole))?;
            session.packer().add(std::mem::take(&mut self.small))
        })
    }

    /// Stores chunks, but for those that are not close if only close ones are wanted; gives the numbers of these.
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

    /// Stores those of the chunks that are stored already or whose delta is small, with the work shared among writers; the others stay, by their numbers
    /// in ascending order.
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
        let next = || prepared.lock().unwrap_or_else(PoisonError::into_inner).next();
        let store = |writer: &mut ChunkWriter<'_>| -> Result<Vec<usize>> {
            let mut rest = Vec::new();
            while let Some(prepared) = next() {
                let stored = writer.session.check().and_then(|()| writer.store_prepared(prepared, kind, seen));
                // The others need not go on.
                rest.extend(stored.inspect_err(|_| writer.session.poison())?);
            }
            Ok(rest)
        };
        let store = &store;
        let results: Vec<Result<Vec<usize>>> = std::thread::scope(|scope| {
            let handles: Vec<_> = writers.iter_mut().map(|writer| scope.spawn(move || store(writer))).collect();
            handles.into_iter().map(|handle| joined("storing chunks", handle.join())).collect()
        });
        // What stopped the others says nothing.
        let (done, failed): (Vec<_>, Vec<_>) = results.into_iter().partition(Result::is_ok);
        let why = failed.into_iter().filter_map(Result::err).min_by_key(|error| matches!(error, Error::Poisoned));
        Ok(why.map_or_else(|| done.into_iter().collect::<Result<Vec<_>>>(), Err)?.concat())
    }

    /// As [`ChunkWriter::store`]; gives the number of a chunk that is not stored.
    fn store_prepared(&mut self, (number, chunk, first): Prepared<'_>, kind: Kind, seen: &Seen<'_>) -> Result<Option<usize>> {
        if let Some((_, prefix)) = first.as_ref().filter(|(base, _)| base.is_one_chunk()) {
            seen(number, prefix);
        }
        Ok((!self.store(chunk, first, kind)?).then_some(number))
    }

    /// Stores a chunk, `first` being what its first reference gives, unless it is not close and only close ones are wanted; whether it is stored.
    fn store(&mut self, new: &NewChunk<'_>, first: Option<(Base, Vec<u8>)>, kind: Kind) -> Result<bool> {
        let NewChunk { id, plain, .. } = *new;
        let best = if self.session.is_healed(&id) { None } else { self.best_delta(new, first, kind)? };
        let close = best.is_some() && self.is_clear(new);
        if kind == Kind::CloseChunk && !close {
            self.session.unclaim(&id);
            return Ok(false);
        }
        let version = best.as_ref().map_or(0, |delta| delta.base.version);
        let chunk = ChunkEntry { id, frame: 0, offset: 0, plain_len: plain.len() as u32, node: kind == Kind::Node, version };
        self.session.count_chunk(&chunk);
        if let Some(delta) = best
            && (close || self.is_worth_it(new).map_err(|m| m.of(format!("chunk {id}")))?)
        {
            if !delta.is_small {
                self.squeeze(plain, &delta.prefix).map_err(|m| m.of(format!("chunk {id}")))?;
            }
            self.verify(delta.encoding, &delta.prefix, plain, &id)?;
            self.session.build_upon(&delta.base.closure);
            self.push_small(delta.base.frame(delta.encoding), &chunk)?;
        } else if chunk.node {
            let frame = self.encode_whole(plain).map_err(|m| m.of(format!("chunk {id}")))?;
            self.push_small(frame, &chunk)?;
        } else {
            self.share(chunk, plain)?;
        }
        Ok(true)
    }

    /// Encodes a chunk into `self.encoded` as the smallest delta that its references give, or the first one that is small; `None` if there is no base
    /// that can be read.
    fn best_delta(&mut self, new: &NewChunk<'_>, first: Option<(Base, Vec<u8>)>, kind: Kind) -> Result<Option<Delta>> {
        let malformed = |m: Malformed| m.of(format!("chunk {}", new.id));
        let mut best = None;
        if let Some((base, prefix)) = first {
            let (encoding, is_small) = self.encode_delta(new, &base, &prefix).map_err(malformed)?;
            best = Some(Delta { base, prefix, encoding, is_small });
            std::mem::swap(&mut self.encoded, &mut self.alternative);
        }
        for reference in new.references.iter().skip(1) {
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
                // Rows that stand on another place begin a new lineage on top of the chains there, and want more for that than a few bytes.
                true => self.alternative.len() * NEW_LINEAGE_GAIN < self.encoded.len(),
                false => self.alternative.len() + base.price() < self.encoded.len() + best.base.price(),
            });
            if is_better {
                std::mem::swap(&mut self.encoded, &mut self.alternative);
                best = Some(Delta { base, prefix, encoding, is_small });
            }
        }
        Ok(best)
    }

    /// Encodes into `self.alternative`: as a patch where the chunk stands in its base's place and few of its pages have changed. Says also whether a
    /// better search would hardly make it smaller.
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

    /// Whether the delta in `self.encoded` is so small that nothing else need be tried.
    fn is_clear(&self, new: &NewChunk<'_>) -> bool {
        self.encoded.len() * if in_rows(new) { CLEAR_GAIN_ROWS } else { CLEAR_GAIN } <= new.plain.len()
    }

    /// Makes the delta of rows in `self.encoded` smaller.
    fn squeeze(&mut self, plain: &[u8], prefix: &[u8]) -> Result<(), Malformed> {
        self.encoder.squeeze_rows(plain, prefix, &mut self.alternative)?;
        if self.alternative.len() < self.encoded.len() {
            std::mem::swap(&mut self.encoded, &mut self.alternative);
        }
        Ok(())
    }

    /// Whether the delta in `self.encoded` saves enough for the chain that reading it takes.
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

    /// Decodes `self.encoded` and compares it with what was to be stored.
    fn verify(&mut self, encoding: Encoding, prefix: &[u8], plain: &[u8], id: &ChunkId) -> Result<()> {
        if encoding == Encoding::Raw {
            return Ok(());
        }
        let len = plain.len() as u32;
        let decoded = match encoding {
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
