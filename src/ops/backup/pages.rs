//! Page files: read, hashed and stored by several threads at once, each on its own part.

use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::collect::{Collector, Failure, first_failure};
use super::sink::{Sink, progress_when_stored};
use crate::engine::PageRead;
use crate::error::{Error, Result};
use crate::id::ChunkId;
use crate::progress::Monitor;
use crate::store::format::snapshot::StreamRoot;
use crate::store::repo::{ChunkWriter, NewChunk, Reference, Spool, TreeCursor, WriteSession};

/// Bytes that a thread reads at once.
const UNIT_BYTES: u64 = 1 << 20;

/// Bytes of chunks that were set aside and are stored together: a frame that several of them stand on is decoded once for all.
const SET_ASIDE_WINDOW_LEN: usize = 8 << 20;

/// One page file to be stored.
pub(super) struct Job<'a> {
    pub(super) session: &'a WriteSession,
    /// Bytes in a chunk; a multiple of the page size.
    pub(super) chunk_len: u32,
    pub(super) parent: Option<StreamRoot>,
    pub(super) monitor: &'a dyn Monitor,
    pub(super) sink: &'a Sink<'a>,
    /// Takes new chunks instead of the sink, for later; one without a file only those that stand in the place of another.
    pub(super) spool: &'a Spool<SetAside>,
    /// The number of the sink.
    pub(super) sink_number: usize,
}

/// A chunk that was set aside until all of its stream has been read.
pub(super) struct SetAside {
    /// Where it lies in its stream, bytes.
    pub(super) place: u64,
    /// Its id.
    pub(super) id: ChunkId,
    /// What stood in its place in the parent.
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

/// What the threads share.
struct Work<'a> {
    next_unit: AtomicU64,
    units: u64,
    unit_len: u64,
    stop: AtomicBool,
    predecessors: Mutex<TreeCursor<'a>>,
    collector: Collector<'a>,
}

impl Job<'_> {
    /// Stores the file and gives its root.
    ///
    /// # Errors
    /// [`Failure::Input`] with what [`PageRead::read_at`] says.
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
        let threads = (self.session.repository().threads() as u64).min(work.units);
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
        // Also after a failure: what was put counts as stored.
        let flushed = writer.flush();
        result.and(flushed.map_err(Failure::Session))
    }

    fn run_units(&self, pages: &dyn PageRead, work: &Work<'_>, writer: &mut ChunkWriter<'_>) -> Result<(), Failure> {
        let mut buffer = Vec::new();
        loop {
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
            buffer.resize(len as usize, 0);
            pages.read_at(offset, &mut buffer).map_err(Failure::Input)?;
            self.session.count_read(len);
            let predecessors = self.predecessors(work, offset, len)?;
            let keys = self.session.repository().keys();
            let mut chunks = Vec::with_capacity(predecessors.len());
            let mut changed = Vec::new();
            let mut place = offset;
            let mut to_come = 0;
            for (plain, predecessor) in buffer.chunks(self.chunk_len as usize).zip(predecessors) {
                let id = keys.chunk_id(plain);
                let inherited = self.session.inherits(predecessor, &id)?;
                self.sink.keep(place, plain, inherited);
                if !inherited {
                    match self.set_aside(writer, place, id, plain, predecessor)? {
                        Now::Known => {}
                        Now::SetAside => to_come += progress_when_stored(plain.len()),
                        Now::Store => changed.push((place, NewChunk { id, plain, references: vec![Reference::to(predecessor)] })),
                    }
                }
                chunks.push((id, plain.len() as u32, 1));
                place += plain.len() as u64;
            }
            to_come += self.sink.store(std::slice::from_mut(writer), changed)?;
            work.collector.put(unit, chunks)?;
            self.monitor.advance(len.saturating_sub(to_come));
        }
    }

    /// Sets a chunk aside if it should be stored later and there is room.
    fn set_aside(&self, writer: &ChunkWriter<'_>, place: u64, id: ChunkId, plain: &[u8], predecessor: Option<ChunkId>) -> Result<Now> {
        if !self.spool.has_file() && predecessor.is_none() {
            return Ok(Now::Store);
        }
        if writer.find(&id)? {
            return Ok(Now::Known);
        }
        let is_aside = self.spool.put(SetAside { place, id, predecessor, sink: self.sink_number }, plain)?;
        Ok(if is_aside { Now::SetAside } else { Now::Store })
    }

    /// The chunks that stand in the place of these bytes in the parent. The parent may have been cut at other lengths; then its chunk at this
    /// number is as good a guess as any.
    fn predecessors(&self, work: &Work<'_>, offset: u64, len: u64) -> Result<Vec<Option<ChunkId>>> {
        let chunk_len = u64::from(self.chunk_len);
        let mut cursor = work.predecessors.lock().unwrap_or_else(PoisonError::into_inner);
        let first = offset / chunk_len;
        (first..first + len.div_ceil(chunk_len)).map(|index| Ok(cursor.chunk(index)?.map(|child| child.id))).collect()
    }
}

/// Stores what was set aside.
pub(super) fn store_set_aside(session: &WriteSession, spool: &Spool<SetAside>, sinks: &[Sink<'_>], monitor: &dyn Monitor) -> Result<()> {
    let mut chunks = spool.take_all();
    if chunks.is_empty() {
        return Ok(());
    }
    // The threads that read have put them out of order; neighbours are often made of the same.
    chunks.sort_by_key(|(chunk, _)| (chunk.sink, chunk.place));
    let mut writers = (0..session.repository().threads()).map(|_| session.writer()).collect::<Result<Vec<_>>>()?;
    let mut window = Vec::new();
    let mut window_bytes = 0;
    for (chunk, held) in chunks {
        let plain = spool.read(held)?;
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
