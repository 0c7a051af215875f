//! Streams without pages: cut by content, stored by several threads when they are long.

use std::io::Read;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Mutex, PoisonError};
use std::thread::ScopedJoinHandle;
use std::time::Duration;

use super::collect::{Collector, Failure, first_failure};
use super::landmarks::Landmarks;
use super::predict::Prediction;
use super::sink::Sink;
use crate::engine::pump::Pump;
use crate::error::{Error, Result, joined};
use crate::fs::sparse_read::{Holes, NoHoles};
use crate::id::ChunkId;
use crate::progress::Monitor;
use crate::store::chunker::{Cut, content_cuts};
use crate::store::format::snapshot::StreamRoot;
use crate::store::repo::{ChunkWriter, KeptFeatures, NewChunk, Reference, TreeCursor, TreeWriter, WriteSession};

/// Bytes of chunks that a thread stores together: neighbours stand on parts of the same chunks, which are decoded once for all of them.
const BATCH_LEN: usize = 1 << 20;
/// Batches that may wait for a thread.
const QUEUE: usize = 2;
/// How long to wait before a full queue is looked at again: much less than storing a batch takes.
const FULL_PAUSE: Duration = Duration::from_millis(1);
/// Of how many chunks of a hole features are kept. What is kept are hints.
const KEPT_ZEROS_MAX: u64 = 256;
/// Streams of up to this many chunks are stored by the calling thread.
const SHORT_CHUNKS: usize = 8;

/// The bytes of a stream.
pub(super) enum Input {
    /// Reading may wait for long.
    Slow(Box<dyn Read + Send>),
    /// Reading does not wait.
    Ready(Box<dyn Holes + Send>),
}

impl Input {
    /// Something to read from, which fails as soon as `go_on` does.
    fn begin<'g>(self, go_on: &'g dyn Fn() -> Result<()>) -> Result<Box<dyn Holes + 'g>> {
        Ok(match self {
            Input::Slow(bytes) => Box::new(NoHoles(Pump::start(bytes, go_on).map_err(|e| Error::source("the source", e))?)),
            Input::Ready(bytes) => bytes,
        })
    }
}

struct Piece {
    /// Where it lies in the stream, bytes.
    offset: u64,
    id: ChunkId,
    bytes: Vec<u8>,
    reference: Reference,
    /// How often it comes, one after the other; more than once only what was not read.
    count: u64,
}

impl Piece {
    /// Bytes of the stream.
    fn len(&self) -> u64 {
        (self.bytes.len() as u64).saturating_mul(self.count)
    }
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
/// [`Failure::Input`] when `input` fails. A request to stop and a failure of the session end it at once, whatever the input does.
pub(super) fn store<'a>(
    session: &WriteSession,
    writer: &mut ChunkWriter<'_>,
    input: Input,
    parent: Option<StreamRoot>,
    features: Option<KeptFeatures>,
    make_sink: impl FnOnce() -> Result<Sink<'a>>,
    monitor: &dyn Monitor,
) -> Result<(StreamRoot, Option<Sink<'a>>), Failure> {
    let config = session.repository().config();
    let seed = session.repository().keys().chunking_seed();
    let go_on = || go_on(session, monitor);
    let cuts = content_cuts(input.begin(&go_on)?, config.content_chunk_len, seed);
    store_cuts(session, writer, cuts, parent, features, make_sink, monitor)
}

/// [`store`] of what is cut already.
pub(super) fn store_cuts<'a>(
    session: &WriteSession,
    writer: &mut ChunkWriter<'_>,
    mut chunks: impl Iterator<Item = std::io::Result<Cut>>,
    parent: Option<StreamRoot>,
    features: Option<KeptFeatures>,
    make_sink: impl FnOnce() -> Result<Sink<'a>>,
    monitor: &dyn Monitor,
) -> Result<(StreamRoot, Option<Sink<'a>>), Failure> {
    let go_on = || go_on(session, monitor);
    let mut next_piece = |prediction: &mut _, offset: &mut _| {
        go_on()?;
        next_piece(session, &mut chunks, offset, prediction).map_err(|failure| match (failure, go_on()) {
            // Reading failed because it was to stop.
            (Failure::Input(_), Err(why)) => Failure::Session(why),
            (failure, _) => failure,
        })
    };
    let landmarks = features.map(|features| Landmarks::new(features, session.repository().sampler()));
    let mut prediction = Prediction::new(session.reader(), parent, landmarks);
    let mut head: Vec<Piece> = Vec::new();
    let mut offset = 0;
    for _ in 0..=SHORT_CHUNKS {
        match next_piece(&mut prediction, &mut offset)? {
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
            while let Some(piece) = next_piece(&mut prediction, &mut offset)? {
                if bytes + piece.bytes.len() > BATCH_LEN {
                    let next = Batch { number: batch.number + 1, pieces: Vec::new() };
                    send(&queue, std::mem::replace(&mut batch, next), &go_on)?;
                    bytes = 0;
                }
                bytes += piece.bytes.len();
                batch.pieces.push(piece);
            }
            Ok(send(&queue, batch, &go_on)?)
        };
        let fed = feed();
        drop(queue);
        let join = |handle: ScopedJoinHandle<'_, Result<()>>| joined("storing chunks", handle.join()).map_err(Failure::from);
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

/// Whether there is a reason to stop: the user's wish, or a failure anywhere in the session.
fn go_on(session: &WriteSession, monitor: &dyn Monitor) -> Result<()> {
    if monitor.cancelled() { Err(Error::Cancelled) } else { session.check() }
}

/// Hands a batch to whoever stores it. Who waits for room in the queue sees that nobody makes any.
fn send(queue: &SyncSender<Batch>, mut batch: Batch, go_on: &dyn Fn() -> Result<()>) -> Result<()> {
    loop {
        batch = match queue.try_send(batch) {
            Ok(()) => return Ok(()),
            Err(TrySendError::Full(batch)) => batch,
            Err(TrySendError::Disconnected(_)) => return Err(Error::Poisoned),
        };
        go_on()?;
        std::thread::sleep(FULL_PAUSE);
    }
}

fn next_piece(
    session: &WriteSession,
    chunks: &mut impl Iterator<Item = std::io::Result<Cut>>,
    next_offset: &mut u64,
    prediction: &mut Prediction<'_>,
) -> Result<Option<Piece>, Failure> {
    let Some(cut) = chunks.next() else { return Ok(None) };
    let (bytes, count) = match cut.map_err(|e| Failure::Input(Error::source("the source", e)))? {
        Cut::Bytes(bytes) => (bytes, 1),
        Cut::Zeros { len, count } => (vec![0; len as usize], count),
    };
    let id = session.repository().keys().chunk_id(&bytes);
    let reference = prediction.next(&id, &bytes)?;
    let offset = *next_offset;
    let piece = Piece { offset, id, bytes, reference, count };
    prediction.pass(piece.len() - piece.bytes.len() as u64);
    *next_offset = offset.saturating_add(piece.len());
    Ok(Some(piece))
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
        tree.push_run(piece.id, piece.bytes.len() as u32, piece.count, writer, &mut cursor)?;
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
            go_on(session, monitor)?;
            store_pieces(session, &mut writer, &batch.pieces, sink, monitor)?;
            let chunks = batch.pieces.iter().map(|piece| (piece.id, piece.bytes.len() as u32, piece.count));
            collector.put(batch.number, chunks.collect())?;
        }
        writer.flush()
    };
    // Whoever cuts the stream sees this before he cuts the next piece, also after a panic.
    let _guard = PoisonOnPanic(session);
    store_all().inspect_err(|_| session.poison())
}

struct PoisonOnPanic<'s>(&'s WriteSession);

impl Drop for PoisonOnPanic<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.poison();
        }
    }
}

fn store_pieces(
    session: &WriteSession,
    writer: &mut ChunkWriter<'_>,
    pieces: &[Piece],
    sink: &Sink<'_>,
    monitor: &dyn Monitor,
) -> Result<()> {
    let mut chunks = Vec::with_capacity(pieces.len());
    let mut read = 0;
    for piece in pieces {
        if piece.count == 1 {
            session.count_read(piece.bytes.len() as u64);
        }
        read += piece.len();
        for repeat in 0..piece.count.min(KEPT_ZEROS_MAX) {
            sink.keep(piece.offset + repeat * piece.bytes.len() as u64, &piece.bytes, false);
        }
        chunks.push((piece.offset, NewChunk { id: piece.id, plain: &piece.bytes, references: vec![piece.reference.clone()] }));
    }
    let to_come = sink.store(std::slice::from_mut(writer), chunks)?;
    monitor.advance(read.saturating_sub(to_come));
    Ok(())
}
