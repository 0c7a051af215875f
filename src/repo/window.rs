//! Reading many chunks at once: every frame that they take is decoded once, whatever needs it.
//!
//! Frames are decoded in the order of their levels, and within a level in the order in which they are stored. What others need of a frame is copied
//! into their prefixes at once, and the frame is dropped. So the memory that it takes is that of the prefixes of frames that wait, which is
//! known before anything is read: if it is too much, the work is done in two halves.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::locate::{FramePlace, StoredCopy};
use super::reader::{ChunkBytes, Reader};
use crate::error::{Error, Result};
use crate::format::{PREFIX_LEN_MAX, WORK_READ_MAX, WORK_WRITE_MAX};
use crate::id::ChunkId;

/// Bytes of prefixes that may wait at once.
const WAITING_MAX: usize = 32 << 20;
/// The same for one chunk, which cannot be read in halves: what a writer keeps to always fits. Past it the chunk is read depth first, base by base.
const WAITING_ONE_MAX: usize = WORK_WRITE_MAX as usize * PREFIX_LEN_MAX;
/// Frames of one level for which another thread is worth starting.
const FRAMES_PER_THREAD_MIN: usize = 4;
/// Frames in the plan for each chunk that is wanted, beside those that a single one may need: twice what a writer keeps to, and most are shared.
const FRAMES_PER_CHUNK_MAX: usize = 2 * WORK_WRITE_MAX as usize;

/// A frame that is to be decoded.
struct Node {
    /// Any chunk of the frame.
    copy: StoredCopy,
    prefix: Mutex<Vec<u8>>,
    /// Its plain bytes, if they were kept from an earlier reading.
    kept: Option<Arc<Vec<u8>>>,
    /// What others need of it.
    parts: Vec<Part>,
    /// The wanted chunks that lie in it, with their numbers.
    wanted: Vec<(usize, StoredCopy)>,
}

/// Bytes of a frame that stand in the prefix of another one.
struct Part {
    of: usize,
    start: usize,
    len: usize,
    place: usize,
}

struct Plan<'a> {
    reader: &'a Reader,
    nodes: Vec<Node>,
    by_place: HashMap<FramePlace, usize>,
    /// The most nodes, whatever hostile packs say.
    nodes_max: usize,
    /// Whether frames are taken from those kept, and kept.
    keeps: bool,
}

/// What is called with the number and the verified bytes of each chunk, by several threads.
pub type Visit<'v> = dyn Fn(usize, &[u8]) -> Result<()> + Sync + 'v;

impl Reader {
    /// Calls `visit` with the number and the verified bytes of each of these chunks, in an order that reads and decodes least.
    ///
    /// # Errors
    /// As [`Reader::chunk`]; and what `visit` fails with.
    pub fn each_chunk(&self, ids: &[ChunkId], visit: &Visit<'_>) -> Result<()> {
        self.prefetch(ids.iter().copied())?;
        let mut wanted = Vec::with_capacity(ids.len());
        let mut singly = Vec::new();
        for (number, id) in ids.iter().enumerate() {
            match self.places().copies(id)?.into_iter().next() {
                Some(copy) => wanted.push((number, copy)),
                None => singly.push(number),
            }
        }
        singly.extend(self.each_copy(&wanted, self.repository().threads(), visit)?);
        // Whatever is wrong with these, reading them one by one finds another way, or says what it is.
        for number in singly {
            if let Some(id) = ids.get(number) {
                visit(number, &self.chunk(id)?)?;
            }
        }
        Ok(())
    }

    /// The same for chosen copies, by so many threads; gives the numbers of those that did not come out right.
    pub(crate) fn each_copy(&self, wanted: &[(usize, StoredCopy)], threads: usize, visit: &Visit<'_>) -> Result<Vec<usize>> {
        let nodes_max = WORK_READ_MAX as usize + FRAMES_PER_CHUNK_MAX * wanted.len();
        let mut plan = Plan { reader: self, nodes: Vec::new(), by_place: HashMap::new(), nodes_max, keeps: false };
        let mut failed = Vec::new();
        for (number, copy) in wanted {
            match plan.add(copy)? {
                Some(node) => plan.nodes.get_mut(node).into_iter().for_each(|node| node.wanted.push((*number, copy.clone()))),
                None => failed.push(*number),
            }
        }
        let order = plan.order();
        let waiting_max = plan.waiting_max(&order);
        if wanted.len() > 1 && waiting_max > WAITING_MAX {
            drop(plan);
            let (first, second) = wanted.split_at(wanted.len() / 2);
            let mut failed = self.each_copy(first, threads, visit)?;
            failed.extend(self.each_copy(second, threads, visit)?);
            return Ok(failed);
        }
        if waiting_max > WAITING_ONE_MAX {
            return Ok(wanted.iter().map(|(number, _)| *number).collect());
        }
        failed.extend(plan.run(&order, threads, visit)?);
        Ok(failed)
    }

    /// The frame of one copy, not verified; `None` if it does not decode, or not in bounded memory. What it takes is kept for others that need it.
    pub(super) fn decode_one(&self, copy: &StoredCopy) -> Result<Option<Arc<Vec<u8>>>> {
        let nodes_max = WORK_READ_MAX as usize;
        let mut plan = Plan { reader: self, nodes: Vec::new(), by_place: HashMap::new(), nodes_max, keeps: true };
        if plan.add(copy)?.is_none() {
            return Ok(None);
        }
        let order = plan.order();
        if plan.waiting_max(&order) > WAITING_ONE_MAX {
            return Ok(None);
        }
        plan.run(&order, 1, &|_, _| Ok(()))?;
        Ok(self.kept(copy))
    }
}

impl Plan<'_> {
    /// Adds the frame of a copy and all that it needs; `None` if a base is not known. Recursion ends: levels fall.
    fn add(&mut self, copy: &StoredCopy) -> Result<Option<usize>> {
        if let Some(&node) = self.by_place.get(&copy.frame_place()) {
            return Ok(Some(node));
        }
        if self.nodes.len() >= self.nodes_max {
            return Ok(None);
        }
        let kept = if self.keeps { self.reader.kept(copy) } else { None };
        let mut parts = Vec::with_capacity(copy.frame().slices.len());
        let mut place = 0;
        for slice in copy.frame().slices.iter().filter(|_| kept.is_none()) {
            let bases = self.reader.places().bases(slice.base, copy.frame().level)?;
            let Some(base) = bases.first() else { return Ok(None) };
            let (Some(from), inside) =
                (self.add(base)?, slice.offset.checked_add(slice.len).is_some_and(|end| end <= base.entry.plain_len))
            else {
                return Ok(None);
            };
            if !inside {
                return Ok(None);
            }
            let len = slice.len as usize;
            parts.push((from, Part { of: 0, start: (base.entry.offset + slice.offset) as usize, len, place }));
            place += len;
        }
        let number = self.nodes.len();
        self.nodes.push(Node { copy: copy.clone(), prefix: Mutex::default(), kept, parts: Vec::new(), wanted: Vec::new() });
        self.by_place.insert(copy.frame_place(), number);
        for (from, part) in parts {
            self.nodes.get_mut(from).into_iter().for_each(|base| base.parts.push(Part { of: number, ..part }));
        }
        Ok(Some(number))
    }

    /// The nodes in the order in which they are to be decoded.
    fn order(&self) -> Vec<usize> {
        let mut order: Vec<usize> = (0..self.nodes.len()).collect();
        order.sort_by_key(|&number| {
            self.nodes.get(number).map(|node| {
                let frame = node.copy.frame();
                (frame.level, node.copy.table.pack.id, frame.segment, frame.offset)
            })
        });
        order
    }

    /// The most bytes of prefixes that wait at any moment.
    fn waiting_max(&self, order: &[usize]) -> usize {
        let mut touched = vec![false; self.nodes.len()];
        let (mut waiting, mut most) = (0usize, 0);
        for (number, node) in order.iter().filter_map(|&number| Some((number, self.nodes.get(number)?))) {
            for part in &node.parts {
                let first = touched.get_mut(part.of).is_some_and(|touched| !std::mem::replace(touched, true));
                if first {
                    waiting += self.nodes.get(part.of).map_or(0, |of| of.copy.frame().prefix_len());
                }
            }
            most = most.max(waiting);
            // One whose bytes were kept has no prefix that waits.
            if touched.get(number).copied().unwrap_or_default() {
                waiting = waiting.saturating_sub(node.copy.frame().prefix_len());
            }
        }
        most
    }

    /// Decodes level by level; gives the numbers of the chunks that did not come out right.
    fn run(&self, order: &[usize], threads: usize, visit: &Visit<'_>) -> Result<Vec<usize>> {
        let failed = Mutex::new(Vec::new());
        let level = |number: &usize| self.nodes.get(*number).map(|node| node.copy.frame().level);
        for of_one_level in order.chunk_by(|one, other| level(one) == level(other)) {
            let next = AtomicUsize::new(0);
            let work = || -> Result<()> {
                while let Some(number) = of_one_level.get(next.fetch_add(1, Ordering::Relaxed)) {
                    self.decode(*number, &failed, visit).inspect_err(|_| next.store(of_one_level.len(), Ordering::Relaxed))?;
                }
                Ok(())
            };
            match threads.min(of_one_level.len() / FRAMES_PER_THREAD_MIN) {
                0 | 1 => work()?,
                threads => std::thread::scope(|scope| -> Result<()> {
                    let handles: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
                    let results: Vec<Result<()>> =
                        handles.into_iter().map(|handle| handle.join().unwrap_or(Err(Error::Poisoned))).collect();
                    results.into_iter().collect()
                })?,
            }
        }
        Ok(failed.into_inner().unwrap_or_else(PoisonError::into_inner))
    }

    /// A frame that does not decode leaves those that need it with a wrong prefix; their ids tell.
    fn decode_frame(&self, node: &Node, prefix: Vec<u8>) -> Result<Arc<Vec<u8>>> {
        match self.reader.decode(&node.copy, &prefix) {
            Err(error) if error.is_damage() => Ok(Arc::default()),
            Err(error) => Err(error),
            Ok(plain) => {
                let plain = Arc::new(plain);
                if self.keeps {
                    self.reader.keep(&node.copy, &plain);
                }
                Ok(plain)
            }
        }
    }

    /// Decodes one frame and hands out what is wanted of it. All of its bases have been decoded before.
    fn decode(&self, number: usize, failed: &Mutex<Vec<usize>>, visit: &Visit<'_>) -> Result<()> {
        let Some(node) = self.nodes.get(number) else { return Ok(()) };
        let prefix = std::mem::take(&mut *node.prefix.lock().unwrap_or_else(PoisonError::into_inner));
        let plain = match &node.kept {
            Some(plain) => Arc::clone(plain),
            None => self.decode_frame(node, prefix)?,
        };
        for part in &node.parts {
            let Some(of) = self.nodes.get(part.of) else { continue };
            let mut prefix = of.prefix.lock().unwrap_or_else(PoisonError::into_inner);
            if prefix.is_empty() {
                *prefix = vec![0; of.copy.frame().prefix_len()];
            }
            let (to, from) = (prefix.get_mut(part.place..part.place + part.len), plain.get(part.start..part.start + part.len));
            if let (Some(to), Some(from)) = (to, from) {
                to.copy_from_slice(from);
            }
        }
        for (number, copy) in &node.wanted {
            let bytes = ChunkBytes::of(copy, Arc::clone(&plain));
            match self.reader.matches(copy, &bytes) {
                true => visit(*number, &bytes)?,
                false => failed.lock().unwrap_or_else(PoisonError::into_inner).push(*number),
            }
        }
        Ok(())
    }
}
