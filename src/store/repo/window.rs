//! Reading many chunks at once. Every frame that they need is read and decoded once, however many chunks need it.
//!
//! First the encoded bytes of all deltas are fetched, segment by segment, in the order in which they are stored. They are small. Then the
//! frames without bases are decoded in that order. The parts that others need of a frame are copied into their prefixes at once, and a delta is
//! decoded as soon as its prefix is complete. So a chain is followed to its end while its frames are in memory.
//!
//! Memory is taken by prefixes that wait for more than one base. How much that can be is computed before anything is read. If it is too
//! much, prefixes wait in a file, or the work is done in two halves. Frames are not verified here; every chunk that is handed out is.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use super::locate::{FramePlace, StoredCopy};
use super::reader::{ChunkBytes, Reader};
use super::threads::each_in_threads;
use super::waiting::{Prefix, Spill, Waiting};
use crate::error::{Error, Result};
use crate::id::{ChunkId, PackId};
use crate::progress::Silent;
use crate::store::format::{PREFIX_LEN_MAX, WORK_READ_MAX, WORK_WRITE_MAX};
use crate::store::repo::{u64_from, usize_from};

/// The most bytes of prefixes that wait at the same time.
pub(crate) const WAITING_MAX: usize = 56 << 20;
/// The same for one chunk, which cannot be divided. What a writer may store always fits. A chunk that needs more is read base by base.
const WAITING_ONE_MAX: usize = usize_from(WORK_WRITE_MAX) * PREFIX_LEN_MAX;
/// The most encoded bytes of deltas that are fetched before decoding begins.
const FETCHED_MAX: usize = 8 << 20;
/// Another thread is worth starting for so many frames or segments.
const PER_THREAD_MIN: usize = 4;
/// The most frames in a plan for each wanted chunk, besides those that one chunk alone may need. This is twice a writer's bound, and most frames are
/// shared.
const FRAMES_PER_CHUNK_MAX: usize = 2 * usize_from(WORK_WRITE_MAX);

/// A frame in the plan, which will be decoded.
struct Node {
    /// One of the chunks in the frame.
    copy: StoredCopy,
    prefix: Mutex<Prefix>,
    /// How many parts the prefix lacks.
    missing: AtomicUsize,
    /// Its encoded bytes, if it is a delta and was fetched.
    encoded: OnceLock<Vec<u8>>,
    /// Its plain bytes, if the reader's cache had them.
    kept: Option<Arc<Vec<u8>>>,
    /// The parts of it that other frames need.
    parts: Vec<Part>,
    /// The wanted chunks in it, with their numbers.
    wanted: Vec<(usize, StoredCopy)>,
}

/// A part of a frame that belongs into the prefix of another frame.
struct Part {
    /// The number of the other frame.
    of: usize,
    /// Where the part starts in this frame, and its length.
    start: usize,
    len: usize,
    /// Where it belongs in the prefix.
    place: usize,
}

struct Plan<'a> {
    reader: &'a Reader,
    nodes: Vec<Node>,
    by_place: HashMap<FramePlace, usize>,
    /// The most nodes, so that hostile packs cannot make the plan endless.
    nodes_max: usize,
    /// Whether frames are taken from the reader's cache and put into it.
    keeps: bool,
    waiting: Waiting<'a>,
}

/// Gets the number and the verified bytes of each chunk. It is called by several threads.
pub type Visit<'v> = dyn Fn(usize, &[u8]) -> Result<()> + Sync + 'v;

impl Reader {
    /// Calls `visit` with the number and the verified bytes of each of these chunks, in the order in which least is read and decoded. With
    /// `spill`, every frame is decoded once even if the waiting prefixes do not fit in memory.
    ///
    /// # Errors
    /// As [`Reader::chunk`], and the error of `visit`.
    pub fn each_chunk(&self, ids: &[ChunkId], spill: Option<Spill<'_>>, visit: &Visit<'_>) -> Result<()> {
        self.prefetch(ids.iter().copied())?;
        let mut wanted = Vec::with_capacity(ids.len());
        let mut singly = Vec::new();
        for (number, id) in ids.iter().enumerate() {
            match self.places().copies(id)?.into_iter().next() {
                Some(copy) => wanted.push((number, copy)),
                None => singly.push(number),
            }
        }
        singly.extend(self.read_copies(&wanted, self.repository().threads(), WAITING_MAX, spill, visit)?);
        // Something is wrong with these. Reading them one by one tries other copies, or says what is wrong.
        for number in singly {
            if let Some(id) = ids.get(number) {
                visit(number, &self.chunk(id)?)?;
            }
        }
        Ok(())
    }

    /// Reads chosen copies as [`Reader::each_chunk`] does, with so many threads and bytes of waiting prefixes. Returns the numbers of the copies
    /// that did not come out right.
    pub(crate) fn each_copy(
        &self,
        wanted: &[(usize, StoredCopy)],
        threads: usize,
        waiting_max: usize,
        visit: &Visit<'_>,
    ) -> Result<Vec<usize>> {
        self.read_copies(wanted, threads, waiting_max, None, visit)
    }

    fn read_copies(
        &self,
        wanted: &[(usize, StoredCopy)],
        threads: usize,
        bound: usize,
        spill: Option<Spill<'_>>,
        visit: &Visit<'_>,
    ) -> Result<Vec<usize>> {
        // The work of all wanted chunks is planned before anything is read, so that a bound can be chosen that holds.
        let nodes_max = usize_from(WORK_READ_MAX) + FRAMES_PER_CHUNK_MAX * wanted.len();
        let mut plan = Plan::new(self, nodes_max, false);
        let mut failed = Vec::new();
        for (number, copy) in wanted {
            match plan.add(copy)? {
                Some(node) => plan.nodes.get_mut(node).ok_or_else(no_node)?.wanted.push((*number, copy.clone())),
                None => failed.push(*number),
            }
        }
        let waiting_max = plan.waiting_max();
        // First choice when memory does not suffice: prefixes wait in a file. It must have room for all of them before the work begins.
        if let (true, Some(spill)) = (waiting_max > bound, spill)
            && spill.reserve(plan.prefix_bytes())?
        {
            plan.waiting = Waiting::new(Some(spill));
            failed.extend(plan.run(threads, visit)?);
            spill.give_back()?;
            return Ok(failed);
        }
        // Second choice: two halves. Frames that both halves need are decoded twice.
        if wanted.len() > 1 && waiting_max > bound {
            drop(plan);
            let (first, second) = wanted.split_at(wanted.len() / 2);
            let mut failed = self.read_copies(first, threads, bound, spill, visit)?;
            failed.extend(self.read_copies(second, threads, bound, spill, visit)?);
            return Ok(failed);
        }
        // One chunk alone needs too much. Only a hostile pack does that; the caller reads it base by base, and finds the bound on work.
        if waiting_max > WAITING_ONE_MAX {
            return Ok(wanted.iter().map(|(number, _)| *number).collect());
        }
        failed.extend(plan.run(threads, visit)?);
        Ok(failed)
    }

    /// The frame of one copy, not verified. `None` if it does not decode, or needs too much memory. The frames of its chain are kept in the cache.
    pub(super) fn decode_one(&self, copy: &StoredCopy) -> Result<Option<Arc<Vec<u8>>>> {
        let nodes_max = usize_from(WORK_READ_MAX);
        let mut plan = Plan::new(self, nodes_max, true);
        if plan.add(copy)?.is_none() {
            return Ok(None);
        }
        if plan.waiting_max() > WAITING_ONE_MAX {
            return Ok(None);
        }
        plan.run(1, &|_, _| Ok(()))?;
        Ok(self.kept(copy))
    }
}

impl<'a> Plan<'a> {
    fn new(reader: &'a Reader, nodes_max: usize, keeps: bool) -> Self {
        Plan { reader, nodes: Vec::new(), by_place: HashMap::new(), nodes_max, keeps, waiting: Waiting::default() }
    }

    /// Adds the frame of a copy and all frames that it needs; `None` if a base is not known. The recursion ends, because levels fall.
    fn add(&mut self, copy: &StoredCopy) -> Result<Option<usize>> {
        if let Some(&node) = self.by_place.get(&copy.frame_place()) {
            return Ok(Some(node));
        }
        if self.nodes.len() >= self.nodes_max {
            return Ok(None);
        }
        let kept = if self.keeps { self.reader.kept(copy) } else { None };
        // The parts are linked only after the node has its number, which it gets after its bases.
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
            let len = usize_from(slice.len);
            // A base's offset and the slice in it lie within a frame of at most FRAME_LEN_MAX bytes: `inside` and the table's decoding say so.
            let start = usize_from(base.entry.offset + slice.offset);
            parts.push((from, Part { of: 0, start, len, place }));
            place += len;
        }
        let number = self.nodes.len();
        self.nodes.push(Node {
            copy: copy.clone(),
            prefix: Mutex::default(),
            missing: AtomicUsize::new(parts.len()),
            encoded: OnceLock::new(),
            kept,
            parts: Vec::new(),
            wanted: Vec::new(),
        });
        self.by_place.insert(copy.frame_place(), number);
        for (from, part) in parts {
            self.nodes.get_mut(from).ok_or_else(no_node)?.parts.push(Part { of: number, ..part });
        }
        Ok(Some(number))
    }

    /// The nodes that need no bases, in the order in which they are stored.
    fn roots(&self) -> Vec<usize> {
        let is_root = |number: &usize| self.nodes.get(*number).is_some_and(|node| node.missing.load(Ordering::Relaxed) == 0);
        let mut roots: Vec<usize> = (0..self.nodes.len()).filter(is_root).collect();
        roots.sort_by_key(|&number| self.nodes.get(number).map(|node| node.stored_at()));
        roots
    }

    /// The most bytes of prefixes that wait at any moment if one thread does the work. It goes through the same steps as the work itself,
    /// without data.
    fn waiting_max(&self) -> usize {
        let mut missing: Vec<usize> = self.nodes.iter().map(|node| node.missing.load(Ordering::Relaxed)).collect();
        let total = missing.clone();
        let (mut waiting, mut most) = (0usize, 0);
        let mut ready = self.roots();
        // Taken from the end, so that they come in the order of storage, and a delta that is ready comes before the next root.
        ready.reverse();
        while let Some(number) = ready.pop() {
            let Some(node) = self.nodes.get(number) else { continue };
            for part in &node.parts {
                let (Some(missing), Some(of)) = (missing.get_mut(part.of), self.nodes.get(part.of)) else { continue };
                // The first part that arrives takes the memory of the whole prefix.
                waiting += if total.get(part.of) == Some(missing) { of.copy.frame().prefix_len() } else { 0 };
                *missing -= 1;
                if *missing == 0 {
                    ready.push(part.of);
                }
            }
            most = most.max(waiting);
            // The node's own prefix goes when it is decoded.
            waiting = waiting.saturating_sub(if node.kept.is_none() { node.copy.frame().prefix_len() } else { 0 });
        }
        most
    }

    /// The bytes of all prefixes.
    fn prefix_bytes(&self) -> u64 {
        self.nodes.iter().filter(|node| node.kept.is_none()).map(|node| u64_from(node.copy.frame().prefix_len())).sum()
    }

    /// Decodes everything. Returns the numbers of the chunks that did not come out right.
    fn run(&self, threads: usize, visit: &Visit<'_>) -> Result<Vec<usize>> {
        self.fetch(threads)?;
        let failed = Mutex::new(Vec::new());
        let roots = self.roots();
        each_in_threads(threads.min(roots.len() / PER_THREAD_MIN), &roots, &Silent, |root| {
            // A stack: a chain is followed to its end before the next root is read, so few frames are in memory.
            let mut ready = vec![*root];
            while let Some(number) = ready.pop() {
                self.decode(number, &mut ready, &failed, visit)?;
            }
            Ok(())
        })?;
        Ok(failed.into_inner().unwrap_or_else(PoisonError::into_inner))
    }

    /// Fetches the encoded bytes of deltas, up to [`FETCHED_MAX`]. Further deltas are read when they are decoded.
    fn fetch(&self, threads: usize) -> Result<()> {
        let mut deltas: Vec<&Node> =
            self.nodes.iter().filter(|node| node.copy.frame().encoding.is_delta() && node.kept.is_none()).collect();
        deltas.sort_by_key(|node| node.stored_at());
        let mut bytes = 0;
        deltas.retain(|node| {
            bytes += usize_from(node.copy.frame().encoded_len);
            bytes <= FETCHED_MAX
        });
        let of_one_segment =
            |one: &&Node, other: &&Node| one.stored_at().0 == other.stored_at().0 && one.stored_at().1 == other.stored_at().1;
        let by_segment: Vec<&[&Node]> = deltas.chunk_by(of_one_segment).collect();
        each_in_threads(threads.min(by_segment.len() / PER_THREAD_MIN), &by_segment, &Silent, |nodes| {
            for node in *nodes {
                match self.reader.encoded(&node.copy) {
                    Ok(encoded) => drop(node.encoded.set(encoded.to_vec())),
                    // It is found again when the frame is decoded.
                    Err(error) if error.is_damage() => {}
                    Err(error) => return Err(error),
                }
            }
            Ok(())
        })
    }

    /// Decodes one frame, whose bases have all been decoded, and hands out its parts and chunks. Adds the frames that are complete now to `ready`.
    fn decode(&self, number: usize, ready: &mut Vec<usize>, failed: &Mutex<Vec<usize>>, visit: &Visit<'_>) -> Result<()> {
        let node = self.nodes.get(number).ok_or_else(no_node)?;
        debug_assert_eq!(node.missing.load(Ordering::Acquire), 0, "all bases come first");
        let prefix = self.waiting.take(&node.prefix, node.copy.frame().prefix_len())?;
        let plain = match &node.kept {
            Some(plain) => Arc::clone(plain),
            None => self.decode_frame(node, prefix)?,
        };
        // A frame that is the whole prefix of one other frame: its bytes are handed over and not copied.
        if let ([part], true) = (node.parts.as_slice(), node.wanted.is_empty())
            && part.len == plain.len()
            && let Some(of) = self.nodes.get(part.of)
            && of.copy.frame().prefix_len() == plain.len()
        {
            *of.prefix.lock().unwrap_or_else(PoisonError::into_inner) = Prefix::Whole(Arc::unwrap_or_clone(plain));
            of.missing.store(0, Ordering::Release);
            ready.push(part.of);
            return Ok(());
        }
        for part in &node.parts {
            let of = self.nodes.get(part.of).ok_or_else(no_node)?;
            // A frame that did not decode is empty: see `decode_frame`. The prefixes keep zeros in its place.
            let from = plain.get(part.start..part.start + part.len).unwrap_or_default();
            self.waiting.put(&of.prefix, of.copy.frame().prefix_len(), part.place, from)?;
            if of.missing.fetch_sub(1, Ordering::AcqRel) == 1 {
                ready.push(part.of);
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

    /// Decodes a frame. A damaged one counts as empty: the frames that need it get a wrong prefix, and their chunks do not match their ids.
    fn decode_frame(&self, node: &Node, prefix: Vec<u8>) -> Result<Arc<Vec<u8>>> {
        let decoded = match node.encoded.get() {
            Some(encoded) => self.reader.decode_bytes(&node.copy, encoded, prefix),
            None => self.reader.decode(&node.copy, prefix),
        };
        match decoded {
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
}

fn no_node() -> Error {
    Error::bug("a frame is not in the plan")
}

impl Node {
    /// Where the frame is stored: pack, segment, place in the segment.
    fn stored_at(&self) -> (PackId, u32, u32) {
        let frame = self.copy.frame();
        (self.copy.table.pack.id, frame.segment, frame.offset)
    }
}
