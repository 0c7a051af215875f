//! Reading many chunks at once: every frame that they take is read and decoded once, whatever needs it.
//!
//! First the encoded bytes of all deltas are fetched, segment by segment in the order in which they are stored: they are small. Then the frames without
//! bases are decoded in their order; what others need of a frame is copied into their prefixes at once, and a delta is decoded as soon as its prefix is
//! complete. So a chain of deltas is followed to its end while it is at hand, and the memory that is taken is that of prefixes which wait for more
//! than one base. It is known before anything is read: if it is too much, prefixes wait in a file, or the work is done in two halves.

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

/// Bytes of prefixes that may wait at once.
pub(crate) const WAITING_MAX: usize = 56 << 20;
/// The same for one chunk, which cannot be read in halves: what a writer keeps to always fits. Past it the chunk is read depth first, base by base.
const WAITING_ONE_MAX: usize = WORK_WRITE_MAX as usize * PREFIX_LEN_MAX;
/// Encoded bytes of deltas that are fetched before the work begins.
const FETCHED_MAX: usize = 8 << 20;
/// Frames or segments for which another thread is worth starting.
const PER_THREAD_MIN: usize = 4;
/// Frames in the plan for each chunk that is wanted, beside those that a single one may need: twice what a writer keeps to, and most are shared.
const FRAMES_PER_CHUNK_MAX: usize = 2 * WORK_WRITE_MAX as usize;

/// A frame that is to be decoded.
struct Node {
    /// Any chunk of the frame.
    copy: StoredCopy,
    prefix: Mutex<Prefix>,
    /// How many parts of the prefix are missing.
    missing: AtomicUsize,
    /// Its encoded bytes, if it is a delta and they are fetched.
    encoded: OnceLock<Vec<u8>>,
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
    waiting: Waiting<'a>,
}

/// What is called with the number and the verified bytes of each chunk, by several threads.
pub type Visit<'v> = dyn Fn(usize, &[u8]) -> Result<()> + Sync + 'v;

impl Reader {
    /// Calls `visit` with the number and the verified bytes of each of these chunks, in an order that reads and decodes least. With room to
    /// spill, every frame is decoded once even if not all that waits for it fits in memory.
    ///
    /// # Errors
    /// As [`Reader::chunk`]; and what `visit` fails with.
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
        // Whatever is wrong with these, reading them one by one finds another way, or says what it is.
        for number in singly {
            if let Some(id) = ids.get(number) {
                visit(number, &self.chunk(id)?)?;
            }
        }
        Ok(())
    }

    /// The same for chosen copies, by so many threads, with so many bytes of prefixes that wait; gives the numbers of those that did not come out
    /// right.
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
        let nodes_max = WORK_READ_MAX as usize + FRAMES_PER_CHUNK_MAX * wanted.len();
        let mut plan = Plan::new(self, nodes_max, false);
        let mut failed = Vec::new();
        for (number, copy) in wanted {
            match plan.add(copy)? {
                Some(node) => plan.nodes.get_mut(node).ok_or_else(no_node)?.wanted.push((*number, copy.clone())),
                None => failed.push(*number),
            }
        }
        let waiting_max = plan.waiting_max();
        if let (true, Some(spill)) = (waiting_max > bound, spill)
            && spill.reserve(plan.prefix_bytes())?
        {
            plan.waiting = Waiting::new(Some(spill));
            failed.extend(plan.run(threads, visit)?);
            spill.give_back()?;
            return Ok(failed);
        }
        if wanted.len() > 1 && waiting_max > bound {
            drop(plan);
            let (first, second) = wanted.split_at(wanted.len() / 2);
            let mut failed = self.read_copies(first, threads, bound, spill, visit)?;
            failed.extend(self.read_copies(second, threads, bound, spill, visit)?);
            return Ok(failed);
        }
        if waiting_max > WAITING_ONE_MAX {
            return Ok(wanted.iter().map(|(number, _)| *number).collect());
        }
        failed.extend(plan.run(threads, visit)?);
        Ok(failed)
    }

    /// The frame of one copy, not verified; `None` if it does not decode, or not in bounded memory. What it takes is kept for others that need it.
    pub(super) fn decode_one(&self, copy: &StoredCopy) -> Result<Option<Arc<Vec<u8>>>> {
        let nodes_max = WORK_READ_MAX as usize;
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

    /// The nodes that have no bases, or need none, in the order in which they are stored.
    fn roots(&self) -> Vec<usize> {
        let is_root = |number: &usize| self.nodes.get(*number).is_some_and(|node| node.missing.load(Ordering::Relaxed) == 0);
        let mut roots: Vec<usize> = (0..self.nodes.len()).filter(is_root).collect();
        roots.sort_by_key(|&number| self.nodes.get(number).map(|node| node.stored_at()));
        roots
    }

    /// The most bytes of prefixes that wait at any moment, if one thread does the work.
    fn waiting_max(&self) -> usize {
        let mut missing: Vec<usize> = self.nodes.iter().map(|node| node.missing.load(Ordering::Relaxed)).collect();
        let total = missing.clone();
        let (mut waiting, mut most) = (0usize, 0);
        let mut ready = self.roots();
        ready.reverse();
        while let Some(number) = ready.pop() {
            let Some(node) = self.nodes.get(number) else { continue };
            for part in &node.parts {
                let (Some(missing), Some(of)) = (missing.get_mut(part.of), self.nodes.get(part.of)) else { continue };
                waiting += if total.get(part.of) == Some(missing) { of.copy.frame().prefix_len() } else { 0 };
                *missing -= 1;
                if *missing == 0 {
                    ready.push(part.of);
                }
            }
            most = most.max(waiting);
            waiting = waiting.saturating_sub(if node.kept.is_none() { node.copy.frame().prefix_len() } else { 0 });
        }
        most
    }

    /// The bytes of all prefixes.
    fn prefix_bytes(&self) -> u64 {
        self.nodes.iter().filter(|node| node.kept.is_none()).map(|node| node.copy.frame().prefix_len() as u64).sum()
    }

    /// Decodes everything; gives the numbers of the chunks that did not come out right.
    fn run(&self, threads: usize, visit: &Visit<'_>) -> Result<Vec<usize>> {
        self.fetch(threads)?;
        let failed = Mutex::new(Vec::new());
        let roots = self.roots();
        each_in_threads(threads.min(roots.len() / PER_THREAD_MIN), &roots, &Silent, |root| {
            let mut ready = vec![*root];
            while let Some(number) = ready.pop() {
                self.decode(number, &mut ready, &failed, visit)?;
            }
            Ok(())
        })?;
        Ok(failed.into_inner().unwrap_or_else(PoisonError::into_inner))
    }

    /// Fetches the encoded bytes of deltas, as long as they are not too much.
    fn fetch(&self, threads: usize) -> Result<()> {
        let mut deltas: Vec<&Node> =
            self.nodes.iter().filter(|node| node.copy.frame().encoding.is_delta() && node.kept.is_none()).collect();
        deltas.sort_by_key(|node| node.stored_at());
        let mut bytes = 0;
        deltas.retain(|node| {
            bytes += node.copy.frame().encoded_len as usize;
            bytes <= FETCHED_MAX
        });
        let of_one_segment =
            |one: &&Node, other: &&Node| one.stored_at().0 == other.stored_at().0 && one.stored_at().1 == other.stored_at().1;
        let by_segment: Vec<&[&Node]> = deltas.chunk_by(of_one_segment).collect();
        each_in_threads(threads.min(by_segment.len() / PER_THREAD_MIN), &by_segment, &Silent, |nodes| {
            for node in *nodes {
                match self.reader.encoded(&node.copy) {
                    Ok(encoded) => drop(node.encoded.set(encoded.to_vec())),
                    // Found again when it is decoded.
                    Err(error) if error.is_damage() => {}
                    Err(error) => return Err(error),
                }
            }
            Ok(())
        })
    }

    /// Decodes one frame, all of whose bases have been decoded, and hands out what is wanted of it. Adds what is ready then.
    fn decode(&self, number: usize, ready: &mut Vec<usize>, failed: &Mutex<Vec<usize>>, visit: &Visit<'_>) -> Result<()> {
        let node = self.nodes.get(number).ok_or_else(no_node)?;
        debug_assert_eq!(node.missing.load(Ordering::Acquire), 0, "all bases come first");
        let prefix = self.waiting.take(&node.prefix, node.copy.frame().prefix_len())?;
        let plain = match &node.kept {
            Some(plain) => Arc::clone(plain),
            None => self.decode_frame(node, prefix)?,
        };
        // The next link of a chain takes the bytes over.
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
            // A frame that did not decode is empty: see `decode_frame`.
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

    /// A frame that does not decode leaves those that need it with a wrong prefix; their ids tell.
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
    Error::bug("a frame that is to be read is not in the plan")
}

impl Node {
    /// Where it is stored: pack, segment, place.
    fn stored_at(&self) -> (PackId, u32, u32) {
        let frame = self.copy.frame();
        (self.copy.table.pack.id, frame.segment, frame.offset)
    }
}
