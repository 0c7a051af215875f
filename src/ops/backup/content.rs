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

/// Bytes of chunks that a thread stores together: neighbours stand on parts of the same chunks, which are decoded once for all of them.
const BATCH_LEN: usize = 1 << 20;
/// Batches that may wait for a thread.
const QUEUE: usize = 2;
/// Streams of up to this many chunks are stored by the calling thread.
const SHORT_CHUNKS: usize = 8;

struct Piece {
    /// Where it lies in the stream, bytes.
    offset: u64,
    id: ChunkId,
    bytes: Vec<u8>,
    reference: Reference,
}

/// Neighbours that are stored together.
struct Batch {
    /// Counted from 0 through the stream.
    number: u64,
    pieces: Vec<Piece>,
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
    for _ in 0..=SHORT_CHUNKS {
        match next_piece(session, &mut chunks, &mut offset, &mut prediction)? {
            Some(piece) => head.push(piece),
            None => return Ok((store_short(session, writer, head, parent, monitor)?, None)),
        }
    }
    let mut sink = make_sink()?;
    let collector = Collector::new(session, parent)?;
    let (queue, batches) = sync_channel::<Batch>(QUEUE);
    let batches = Mutex::new(batches);
    let results = std::thread::scope(|scope| {
        let threads = session.repository().threads();
        let handles: Vec<_> = (0..threads).map(|_| scope.spawn(|| store_batches(session, &batches, &collector, &sink, monitor))).collect();
        let mut feed = || -> Result<(), Failure> {
            let mut batch = Batch { number: 0, pieces: std::mem::take(&mut head) };
            let mut bytes: usize = batch.pieces.iter().map(|piece| piece.bytes.len()).sum();
            while let Some(piece) = next_piece(session, &mut chunks, &mut offset, &mut prediction)? {
                if bytes + piece.bytes.len() > BATCH_LEN {
                    let next = Batch { number: batch.number + 1, pieces: Vec::new() };
                    queue.send(std::mem::replace(&mut batch, next)).map_err(|_| Error::Poisoned)?;
                    bytes = 0;
                }
                bytes += piece.bytes.len();
                batch.pieces.push(piece);
            }
            Ok(queue.send(batch).map_err(|_| Error::Poisoned)?)
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
    next_offset: &mut u64,
    prediction: &mut Prediction<'_>,
) -> Result<Option<Piece>, Failure> {
    let Some(bytes) = chunks.next() else { return Ok(None) };
    let bytes = bytes.map_err(|e| Failure::Input(Error::source("the source", e)))?;
    let id = session.repository().keys().chunk_id(&bytes);
    let reference = prediction.next(&id, &bytes)?;
    let offset = *next_offset;
    *next_offset += bytes.len() as u64;
    Ok(Some(Piece { offset, id, bytes, reference }))
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
    store_pieces(session, writer, &pieces, &Sink::plain(), monitor)?;
    for piece in pieces {
        tree.push(piece.id, piece.bytes.len() as u32, writer, &mut cursor)?;
    }
    tree.finish(writer, &mut cursor)
}

fn store_batches(
    session: &WriteSession,
    batches: &Mutex<Receiver<Batch>>,
    collector: &Collector<'_>,
    sink: &Sink<'_>,
    monitor: &dyn Monitor,
) -> Result<()> {
    let next = || batches.lock().unwrap_or_else(PoisonError::into_inner).recv().ok();
    let store_all = || {
        let mut writer = session.writer()?;
        while let Some(batch) = next() {
            if monitor.cancelled() {
                return Err(Error::Cancelled);
            }
            store_pieces(session, &mut writer, &batch.pieces, sink, monitor)?;
            collector.put(batch.number, batch.pieces.iter().map(|piece| (piece.id, piece.bytes.len() as u32)).collect())?;
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

fn store_pieces(
    session: &WriteSession,
    writer: &mut ChunkWriter<'_>,
    pieces: &[Piece],
    sink: &Sink<'_>,
    monitor: &dyn Monitor,
) -> Result<()> {
    let mut chunks = Vec::with_capacity(pieces.len());
    for piece in pieces {
        session.count_read(piece.bytes.len() as u64);
        monitor.advance(piece.bytes.len() as u64);
        sink.keep(piece.offset, &piece.bytes, false);
        chunks.push((piece.offset, NewChunk { id: piece.id, plain: &piece.bytes, references: vec![piece.reference.clone()] }));
    }
    sink.store(std::slice::from_mut(writer), chunks)
}
