//! Streams without pages: cut by content, stored by several threads when they are long.

use std::io::Read;
use std::sync::mpsc::{Receiver, sync_channel};
use std::sync::{Mutex, PoisonError};
use std::thread::ScopedJoinHandle;

use super::collect::{Collector, Failure, first_failure};
use super::landmarks::Landmarks;
use super::predict::Prediction;
use super::sink::Sink;
use crate::chunker::content_chunks;
use crate::error::{Error, Result};
use crate::format::snapshot::StreamRoot;
use crate::id::ChunkId;
use crate::progress::Monitor;
use crate::repo::{ChunkWriter, KeptFeatures, NewChunk, Reference, TreeCursor, TreeWriter, WriteSession};

/// Chunks that may wait for a thread.
const QUEUE: usize = 16;
/// Streams of up to this many chunks are stored by the calling thread.
const SHORT_CHUNKS: usize = 8;

struct Piece {
    number: u64,
    /// Where it lies in the stream, bytes.
    offset: u64,
    id: ChunkId,
    bytes: Vec<u8>,
    reference: Reference,
}

/// Stores a stream and gives its root, of a longer stream also its sink, which `make_sink` makes. `writer` is used for short streams; what it takes is
/// flushed by its owner.
///
/// # Errors
/// [`Failure::Input`] when `input` fails.
pub(super) fn store<'a>(
    session: &WriteSession,
    writer: &mut ChunkWriter<'_>,
    input: Box<dyn Read + Send>,
    parent: Option<StreamRoot>,
    features: Option<KeptFeatures>,
    make_sink: impl FnOnce() -> Result<Sink<'a>>,
    monitor: &dyn Monitor,
) -> Result<(StreamRoot, Option<Sink<'a>>), Failure> {
    let config = session.repository().config();
    let seed = session.repository().keys().chunking_seed();
    let mut chunks = content_chunks(input, config.content_chunk_len, seed);
    let landmarks = features.map(|features| Landmarks::new(features, session.repository().sampler()));
    let mut prediction = Prediction::new(session.reader(), parent, landmarks);
    let mut head: Vec<Piece> = Vec::new();
    let mut offset = 0;
    for number in 0..=SHORT_CHUNKS as u64 {
        match next_piece(session, &mut chunks, number, &mut offset, &mut prediction)? {
            Some(piece) => head.push(piece),
            None => return Ok((store_short(session, writer, head, parent, monitor)?, None)),
        }
    }
    let mut sink = make_sink()?;
    let collector = Collector::new(session, parent)?;
    let (queue, pieces) = sync_channel::<Piece>(QUEUE);
    let pieces = Mutex::new(pieces);
    let results = std::thread::scope(|scope| {
        let threads = session.repository().threads();
        let handles: Vec<_> = (0..threads).map(|_| scope.spawn(|| store_pieces(session, &pieces, &collector, &sink, monitor))).collect();
        let mut number = head.len() as u64;
        let mut feed = || -> Result<(), Failure> {
            for piece in std::mem::take(&mut head) {
                queue.send(piece).map_err(|_| Error::Poisoned)?;
            }
            while let Some(piece) = next_piece(session, &mut chunks, number, &mut offset, &mut prediction)? {
                number += 1;
                queue.send(piece).map_err(|_| Error::Poisoned)?;
            }
            Ok(())
        };
        let fed = feed();
        drop(queue);
        let join = |handle: ScopedJoinHandle<'_, Result<()>>| handle.join().unwrap_or(Err(Error::Poisoned)).map_err(Failure::from);
        let mut results: Vec<_> = handles.into_iter().map(join).collect();
        results.push(fed);
        results
    });
    match first_failure(results) {
        Ok(()) => {
            sink.finish()?;
            Ok((collector.finish()?, Some(sink)))
        }
        Err(error) => Err(collector.give_up(error)),
    }
}

fn next_piece(
    session: &WriteSession,
    chunks: &mut impl Iterator<Item = std::io::Result<Vec<u8>>>,
    number: u64,
    next_offset: &mut u64,
    prediction: &mut Prediction<'_>,
) -> Result<Option<Piece>, Failure> {
    let Some(bytes) = chunks.next() else { return Ok(None) };
    let bytes = bytes.map_err(|e| Failure::Input(Error::source("the source", e)))?;
    let id = session.repository().keys().chunk_id(&bytes);
    let reference = prediction.next(&id, &bytes)?;
    let offset = *next_offset;
    *next_offset += bytes.len() as u64;
    Ok(Some(Piece { number, offset, id, bytes, reference }))
}

fn store_short(
    session: &WriteSession,
    writer: &mut ChunkWriter<'_>,
    pieces: Vec<Piece>,
    parent: Option<StreamRoot>,
    monitor: &dyn Monitor,
) -> Result<StreamRoot> {
    let mut tree = TreeWriter::new();
    let mut cursor = TreeCursor::new(session.reader(), parent);
    for piece in pieces {
        store_piece(session, writer, &piece, &Sink::plain(), monitor)?;
        tree.push(piece.id, piece.bytes.len() as u32, writer, &mut cursor)?;
    }
    tree.finish(writer, &mut cursor)
}

fn store_pieces(
    session: &WriteSession,
    pieces: &Mutex<Receiver<Piece>>,
    collector: &Collector<'_>,
    sink: &Sink<'_>,
    monitor: &dyn Monitor,
) -> Result<()> {
    let next = || pieces.lock().unwrap_or_else(PoisonError::into_inner).recv().ok();
    let store_all = || {
        let mut writer = session.writer()?;
        while let Some(piece) = next() {
            if monitor.cancelled() {
                return Err(Error::Cancelled);
            }
            store_piece(session, &mut writer, &piece, sink, monitor)?;
            collector.put(piece.number, vec![(piece.id, piece.bytes.len() as u32)])?;
        }
        writer.flush()
    };
    let result = store_all();
    if result.is_err() {
        // Whoever cuts the stream must not wait for ever for room in the queue; the session is poisoned and nothing is lost by this.
        while next().is_some() {}
    }
    result
}

fn store_piece(session: &WriteSession, writer: &mut ChunkWriter<'_>, piece: &Piece, sink: &Sink<'_>, monitor: &dyn Monitor) -> Result<()> {
    session.count_read(piece.bytes.len() as u64);
    monitor.advance(piece.bytes.len() as u64);
    sink.keep(piece.offset, &piece.bytes, false);
    let chunk = NewChunk { id: piece.id, plain: &piece.bytes, references: vec![piece.reference.clone()] };
    sink.store(writer, vec![(piece.offset, chunk)])
}
