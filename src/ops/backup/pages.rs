//! Stores page files (databases): several threads read, hash and store parts of one file at once.
//!
//! The delta base of a changed chunk is the chunk at the same place of the parent. A chunk that the parent has
//! unchanged at its place is taken over without being looked up in the catalog. Chunks that have changed can be set
//! aside in a spool and stored later ([`store_set_aside`]): that keeps the read transaction short, and neighbours
//! that stand on the same frames are stored together.
//!
//! Relies on [`PageRead::read_at`], which can be called by several threads at once and gives the same bytes for the
//! same place.

use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::collect::{Collector, Failure, first_failure};
use super::sink::{Sink, progress_when_stored};
use crate::engine::PageRead;
use crate::error::{Error, Result};
use crate::id::ChunkId;
use crate::ops::number::{in_memory, index, wide, within_chunk};
use crate::progress::Monitor;
use crate::store::format::snapshot::StreamRoot;
use crate::store::repo::{ChunkWriter, NewChunk, Reference, Spool, TreeCursor, WriteSession};

/// Bytes that a thread reads at once, rounded down to whole chunks.
const UNIT_BYTES: u64 = 1 << 20;

/// Bytes of set-aside chunks that are stored together. A frame on which several of them stand is decoded once for all
/// of them.
const SET_ASIDE_WINDOW_LEN: usize = 8 << 20;

/// One page file to be stored.
pub(super) struct Job<'a> {
    pub(super) session: &'a WriteSession,
    /// Bytes in a chunk; a multiple of the page size.
    pub(super) chunk_len: u32,
    pub(super) parent: Option<StreamRoot>,
    pub(super) monitor: &'a dyn Monitor,
    pub(super) sink: &'a Sink<'a>,
    /// Takes new chunks instead of the sink, to be stored later. A spool without a file takes only chunks that have a
    /// predecessor.
    pub(super) spool: &'a Spool<SetAside>,
    /// The number of this stream's sink, by which [`store_set_aside`] finds it again.
    pub(super) sink_number: usize,
}

/// A chunk that was set aside until all of its stream has been read.
pub(super) struct SetAside {
    /// Its offset in its stream, bytes.
    pub(super) place: u64,
    /// Its id.
    pub(super) id: ChunkId,
    /// The chunk at the same place of the parent.
    pub(super) predecessor: Option<ChunkId>,
    /// The number of its stream's sink.
    pub(super) sink: usize,
}

/// What happens to a chunk that was just read.
enum Now {
    /// It is in the repository.
    Known,
    /// It was set aside, and is stored later.
    SetAside,
    /// It is to be stored.
    Store,
}

/// What the threads that store one file share.
struct Work<'a> {
    next_unit: AtomicU64,
    units: u64,
    unit_len: u64,
    stop: AtomicBool,
    predecessors: Mutex<TreeCursor<'a>>,
    collector: Collector<'a>,
}

impl Job<'_> {
    /// Stores the file and returns its root.
    ///
    /// # Errors
    /// [`Failure::Input`] with the error of [`PageRead::read_at`]; [`Failure::Session`] for everything else.
    pub(super) fn store(&self, pages: &dyn PageRead) -> Result<StreamRoot, Failure> {
        let chunk_len = u64::from(self.chunk_len);
        let unit_len = (UNIT_BYTES / chunk_len).max(1) * chunk_len;
        let work = Work {
            next_unit: AtomicU64::new(0),
            units: pages.len_bytes().div_ceil(unit_len),
            unit_len,
            stop: AtomicBool::new(false),
            predecessors: Mutex::new(TreeCursor::new(self.session.reader(), self.parent)),
            collector: Collector::new(self.session, self.parent)?,
        };
        // No more threads than units: a small file would only start idle ones.
        let threads = wide(self.session.repository().threads()).min(work.units);
        let results = std::thread::scope(|scope| {
            let handles: Vec<_> = (0..threads).map(|_| scope.spawn(|| self.run(pages, &work))).collect();
            handles
                .into_iter()
                .map(|handle| handle.join().unwrap_or_else(|panic| Err(Error::panicked("storing pages", panic).into())))
                .collect()
        });
        match first_failure(results) {
            Ok(()) => Ok(work.collector.finish()?),
            Err(error) => Err(work.collector.give_up(error)),
        }
    }

    fn run(&self, pages: &dyn PageRead, work: &Work<'_>) -> Result<(), Failure> {
        let mut writer = self.session.writer()?;
        let result = self.run_units(pages, work, &mut writer);
        if result.is_err() {
            work.stop.store(true, Ordering::Relaxed);
        }
        // Flush after a failure, too: the session counts every chunk that was put as stored, and a later stream may
        // refer to it.
        let flushed = writer.flush();
        result.and(flushed.map_err(Failure::Session))
    }

    fn run_units(&self, pages: &dyn PageRead, work: &Work<'_>, writer: &mut ChunkWriter<'_>) -> Result<(), Failure> {
        let mut buffer = Vec::new();
        loop {
            // Each thread takes the next unit, so a slow part of the file does not hold the others up. Only the
            // number must be unique; no other data depends on it, hence `Relaxed`.
            let unit = work.next_unit.fetch_add(1, Ordering::Relaxed);
            if unit >= work.units || work.stop.load(Ordering::Relaxed) {
                return Ok(());
            }
            if self.monitor.cancelled() {
                return Err(Error::Cancelled.into());
            }
            self.session.check()?;
            let offset = unit * work.unit_len;
            let len = work.unit_len.min(pages.len_bytes() - offset);
            buffer.resize(in_memory(len), 0);
            pages.read_at(offset, &mut buffer).map_err(Failure::Input)?;
            self.session.count_read(len);
            let predecessors = self.predecessors(work, offset, len)?;
            let keys = self.session.repository().keys();
            let mut chunks = Vec::with_capacity(predecessors.len());
            let mut changed = Vec::new();
            let mut place = offset;
            let mut to_come = 0;
            for (plain, predecessor) in buffer.chunks(index(self.chunk_len)).zip(predecessors) {
                let id = keys.chunk_id(plain);
                // Unchanged since the parent: no lookup and no copy. A sink that keeps features must see such chunks,
                // too.
                let inherited = self.session.inherits(predecessor, &id)?;
                self.sink.keep(place, plain, inherited);
                if !inherited {
                    match self.set_aside(writer, place, id, plain, predecessor)? {
                        Now::Known => {}
                        Now::SetAside => to_come += progress_when_stored(plain.len()),
                        Now::Store => changed.push((place, NewChunk { id, plain, references: vec![Reference::to(predecessor)] })),
                    }
                }
                chunks.push((id, within_chunk(wide(plain.len())), 1));
                place += wide(plain.len());
            }
            to_come += self.sink.store(std::slice::from_mut(writer), changed)?;
            work.collector.put(unit, chunks)?;
            self.monitor.advance(len.saturating_sub(to_come));
        }
    }

    /// Sets a chunk aside, if this stream sets chunks aside and there is room.
    fn set_aside(&self, writer: &ChunkWriter<'_>, place: u64, id: ChunkId, plain: &[u8], predecessor: Option<ChunkId>) -> Result<Now> {
        // The spool in memory only serves to store neighbours with common bases together. A chunk without a base
        // gains nothing.
        if !self.spool.has_file() && predecessor.is_none() {
            return Ok(Now::Store);
        }
        // A chunk that is stored already needs no room in the spool.
        if writer.find(&id)? {
            return Ok(Now::Known);
        }
        let is_aside = self.spool.put(SetAside { place, id, predecessor, sink: self.sink_number }, plain)?;
        Ok(if is_aside { Now::SetAside } else { Now::Store })
    }

    /// The parent's chunks at the places of these bytes. The parent may have been cut at other lengths; then its
    /// chunk of the same number is as good a guess as any other.
    fn predecessors(&self, work: &Work<'_>, offset: u64, len: u64) -> Result<Vec<Option<ChunkId>>> {
        let chunk_len = u64::from(self.chunk_len);
        let mut cursor = work.predecessors.lock().unwrap_or_else(PoisonError::into_inner);
        let first = offset / chunk_len;
        (first..first + len.div_ceil(chunk_len)).map(|index| Ok(cursor.chunk(index)?.map(|child| child.id))).collect()
    }
}

/// Stores the chunks that were set aside, with several threads, in the order of their streams and places.
pub(super) fn store_set_aside(session: &WriteSession, spool: &Spool<SetAside>, sinks: &[Sink<'_>], monitor: &dyn Monitor) -> Result<()> {
    let mut chunks = spool.take_all();
    if chunks.is_empty() {
        return Ok(());
    }
    // The reading threads put them in any order. Neighbours often stand on the same frames, so sort them back.
    chunks.sort_by_key(|(chunk, _)| (chunk.sink, chunk.place));
    let mut writers = (0..session.repository().threads()).map(|_| session.writer()).collect::<Result<Vec<_>>>()?;
    let mut window = Vec::new();
    let mut window_bytes = 0;
    for (chunk, held) in chunks {
        let plain = spool.read(held)?;
        // Memory is bounded by the window, whatever the size of the spool.
        if window_bytes + plain.len() > SET_ASIDE_WINDOW_LEN {
            store_window(&mut writers, sinks, &std::mem::take(&mut window), monitor)?;
            window_bytes = 0;
        }
        window_bytes += plain.len();
        window.push((chunk, plain));
    }
    store_window(&mut writers, sinks, &window, monitor)?;
    writers.iter_mut().try_for_each(ChunkWriter::flush)
}

fn store_window(writers: &mut [ChunkWriter<'_>], sinks: &[Sink<'_>], window: &[(SetAside, Vec<u8>)], monitor: &dyn Monitor) -> Result<()> {
    for of_one_sink in window.chunk_by(|(one, _), (other, _)| one.sink == other.sink) {
        if monitor.cancelled() {
            return Err(Error::Cancelled);
        }
        let sink = of_one_sink
            .first()
            .and_then(|(chunk, _)| sinks.get(chunk.sink))
            .ok_or_else(|| Error::bug("a chunk that was set aside is of no stream"))?;
        let chunks = of_one_sink
            .iter()
            .map(|(chunk, plain)| (chunk.place, NewChunk { id: chunk.id, plain, references: vec![Reference::to(chunk.predecessor)] }));
        let to_come = sink.store(writers, chunks.collect())?;
        let stored: u64 = of_one_sink.iter().map(|(_, plain)| progress_when_stored(plain.len())).sum();
        monitor.advance(stored.saturating_sub(to_come));
    }
    Ok(())
}
