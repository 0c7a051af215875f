//! Stores streams without pages (dumps, plain files, listings): cut by their content, and stored by several threads
//! when they are long.
//!
//! One thread reads, cuts and predicts bases, in order, because each prediction depends on the one before
//! ([`Prediction`]). The other threads encode and store batches of neighbours. A [`Collector`] puts the chunks back
//! into order for the tree.
//!
//! Guarantees: a failure in any thread, a panic included, and a request to stop end the reading soon, even when the
//! input blocks. Memory is bounded by the queue of batches.

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
use crate::ops::number::{index, wide, within_chunk};
use crate::progress::Monitor;
use crate::store::chunker::{Cut, content_cuts};
use crate::store::format::snapshot::StreamRoot;
use crate::store::repo::{ChunkWriter, KeptFeatures, NewChunk, Reference, TreeCursor, TreeWriter, WriteSession};

/// Bytes of chunks that a thread stores together. Neighbours stand on slices of the same chunks, which are then
/// decoded once for all of them.
const BATCH_LEN: usize = 1 << 20;
/// Number of batches that may wait for a thread.
const QUEUE: usize = 2;
/// Pause before a full queue is tried again: much shorter than storing a batch takes.
const FULL_PAUSE: Duration = Duration::from_millis(1);
/// Of a hole the features of at most this many chunks are kept. They are hints, and all are the same.
const KEPT_ZEROS_MAX: u64 = 256;
/// Streams of up to this many chunks are stored by the calling thread: starting threads for them costs more than it
/// saves.
const SHORT_CHUNKS: usize = 8;

/// The bytes of a stream.
pub(super) enum Input {
    /// Reading may wait for long.
    Slow(Box<dyn Read + Send>),
    /// Reading does not wait.
    Ready(Box<dyn Holes + Send>),
}

impl Input {
    /// Begins reading. The reader fails as soon as `go_on` fails, even while the source is silent.
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
    /// How often it is repeated, one after the other. More than 1 only for holes, which were not read.
    count: u64,
}

impl Piece {
    /// How many bytes of the stream it stands for.
    fn len(&self) -> u64 {
        wide(self.bytes.len()).saturating_mul(self.count)
    }
}

/// Neighbours that are stored together.
struct Batch {
    /// Counted from 0 through the stream.
    number: u64,
    pieces: Vec<Piece>,
}

/// Stores a stream and returns its root, and for a long stream also its sink, which `make_sink` makes. Short streams
/// use `writer`; its owner flushes it.
///
/// # Errors
/// [`Failure::Input`] when `input` fails. A request to stop and a failure of the session are [`Failure::Session`] and
/// end the reading at once, also while `input` blocks.
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

/// Like [`store`], for a stream that is cut into chunks already.
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
            // The read failed because it was told to stop. Report the reason for that, not the input.
            (Failure::Input(_), Err(why)) => Failure::Session(why),
            (failure, _) => failure,
        })
    };
    // Read a few chunks first: a short stream needs no threads, no collector and no sink.
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
    // From here the stream is long. The pieces read so far become the start of the first batch.
    let mut sink = make_sink()?;
    let collector = Collector::new(session, parent)?;
    let (queue, batches) = sync_channel::<Batch>(QUEUE);
    let batches = Mutex::new(batches);
    let results = std::thread::scope(|scope| {
        let threads = session.repository().threads();
        let handles: Vec<_> = (0..threads).map(|_| scope.spawn(|| store_batches(session, &batches, &collector, &sink, monitor))).collect();
        // This thread goes on reading, cutting and predicting, and sends full batches to the others.
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
        // Closing the queue, after a failure as well, ends the threads that wait for batches.
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

/// Fails if there is a reason to stop: the user's wish, or a failure anywhere in the session.
fn go_on(session: &WriteSession, monitor: &dyn Monitor) -> Result<()> {
    if monitor.cancelled() { Err(Error::Cancelled) } else { session.check() }
}

/// Puts a batch into the queue. A plain blocking `send` would wait for ever if all storing threads have failed; so
/// this looks at `go_on` between attempts.
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
        Cut::Zeros { len, count } => (vec![0; index(len)], count),
    };
    // A hole is one chunk of zeros with a count. Its bytes exist once in memory, whatever the length of the hole.
    let id = session.repository().keys().chunk_id(&bytes);
    let reference = prediction.next(&id, &bytes)?;
    let offset = *next_offset;
    let piece = Piece { offset, id, bytes, reference, count };
    // `next` above accounts for the first occurrence; pass over the others.
    prediction.pass(piece.len() - wide(piece.bytes.len()));
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
        tree.push_run(piece.id, within_chunk(wide(piece.bytes.len())), piece.count, writer, &mut cursor)?;
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
            let chunks = batch.pieces.iter().map(|piece| (piece.id, within_chunk(wide(piece.bytes.len())), piece.count));
            collector.put(batch.number, chunks.collect())?;
        }
        writer.flush()
    };
    // The thread that cuts the stream checks the session before each piece. So it also stops when a storing thread
    // panics.
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
        // Holes were not read, so they do not count as read bytes.
        if piece.count == 1 {
            session.count_read(wide(piece.bytes.len()));
        }
        read += piece.len();
        for repeat in 0..piece.count.min(KEPT_ZEROS_MAX) {
            sink.keep(piece.offset + repeat * wide(piece.bytes.len()), &piece.bytes, false);
        }
        chunks.push((piece.offset, NewChunk { id: piece.id, plain: &piece.bytes, references: vec![piece.reference.clone()] }));
    }
    let to_come = sink.store(std::slice::from_mut(writer), chunks)?;
    monitor.advance(read.saturating_sub(to_come));
    Ok(())
}
