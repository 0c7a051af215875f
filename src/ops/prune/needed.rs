//! Finds what is needed: every chunk that a root reaches, in one of its copies, with the bases of that copy.
//!
//! Trees are walked from the roots. Of each chunk the first readable copy is kept, by rising level, so that short
//! chains win. Packs that are not marked are preferred; if only marked packs have a chunk, they are "stranded": it
//! must be copied before they go.
//!
//! Guarantees: if a needed chunk has no readable copy, the walk ends with an error, and nothing may be deleted. If a
//! chunk has several copies and the others may go, the chosen copy has been read and verified.

use std::collections::{HashMap, HashSet};

use crate::error::{Error, Result};
use crate::id::{ChunkId, PackId};
use crate::ops::number::index;
use crate::progress::Monitor;
use crate::store::format::node::Node;
use crate::store::format::snapshot::{SnapshotRecord, StreamRoot};
use crate::store::repo::{Reader, StoredCopy};

/// Number of chunks that are looked up together.
const BATCH: usize = 4096;

/// A set of rows in the tables of packs, with one bit for each: ten million chunks take little more than a megabyte.
#[derive(Default)]
struct Places(HashMap<PackId, Rows>);

/// A set of rows in the table of one pack.
#[derive(Default)]
pub(super) struct Rows {
    bits: Vec<u64>,
}

impl Rows {
    pub(super) fn contains(&self, row: u32) -> bool {
        self.bits.get(index(row) / 64).is_some_and(|word| word >> (row % 64) & 1 == 1)
    }

    fn insert(&mut self, row: u32) {
        let word = index(row) / 64;
        if self.bits.len() <= word {
            self.bits.resize(word + 1, 0);
        }
        self.bits.get_mut(word).into_iter().for_each(|bits| *bits |= 1 << (row % 64));
        // A row that is not in the set would be deleted.
        debug_assert!(self.contains(row));
    }
}

impl Places {
    fn contains(&self, copy: &StoredCopy) -> bool {
        self.0.get(&copy.pack()).is_some_and(|rows| rows.contains(copy.row()))
    }

    fn insert(&mut self, copy: &StoredCopy) {
        self.0.entry(copy.pack()).or_default().insert(copy.row());
    }
}

/// What one prune has learned about copies by reading them. Of a chunk with several copies one is kept and the others
/// may go. So that copy is read first; otherwise a damaged copy could be kept and a whole one deleted.
#[derive(Default)]
pub(super) struct Trust {
    /// Packs that this prune has written. Their content was verified before.
    pub(super) written: HashSet<PackId>,
    whole: Places,
    bad: Places,
}

impl Trust {
    /// Forgets the bad copies, so that they are read again: their bases may have been moved just then.
    pub(super) fn doubt(&mut self) {
        self.bad = Places::default();
    }

    /// Reads a copy, unless it was read before. `false` if it is damaged.
    fn is_whole(&mut self, reader: &Reader, copy: &StoredCopy) -> Result<bool> {
        if self.written.contains(&copy.pack()) || self.whole.contains(copy) {
            return Ok(true);
        }
        match reader.copy(copy) {
            Ok(_) => self.whole.insert(copy),
            Err(error) if error.is_damage() => {
                self.bad.insert(copy);
                return Ok(false);
            }
            Err(error) => return Err(error),
        }
        Ok(true)
    }
}

/// The packs that are marked by tombstones.
pub(super) struct Marked {
    /// All of them. Their chunks count as absent.
    pub(super) going: HashSet<PackId>,
    /// Those whose grace time has passed, so that they may be deleted now.
    pub(super) ripe: HashSet<PackId>,
}

/// From which packs a copy may be chosen.
#[derive(Clone, Copy, PartialEq, Eq)]
enum From {
    /// From packs that are not marked.
    Staying,
    /// From all packs: no other pack has the chunk, so it must be written anew.
    Any,
}

/// The rows of packs that are needed.
pub(super) struct Needed {
    places: Places,
    /// The rows of chunks that a root itself reaches. The others are only bases.
    reached: Places,
    /// Marked packs that alone have something that is needed. It must be written anew before they go.
    pub(super) stranded: Vec<PackId>,
}

impl Needed {
    /// Whether a root reaches the chunk of this copy itself, not only as the base of a delta.
    pub(super) fn is_reached(&self, copy: &StoredCopy) -> bool {
        self.reached.contains(copy)
    }

    /// The packs with at least one needed row.
    pub(super) fn packs(&self) -> impl Iterator<Item = &PackId> {
        self.places.0.keys()
    }

    /// The needed rows of a pack; `None` if nothing of it is needed.
    pub(super) fn rows(&self, pack: &PackId) -> Option<&Rows> {
        self.places.0.get(pack)
    }
}

/// Walks trees and chooses copies.
pub(super) struct Live<'a> {
    reader: &'a Reader,
    marked: &'a Marked,
    trust: &'a mut Trust,
    monitor: &'a dyn Monitor,
    needed: Places,
    reached: Places,
    /// Copies that cannot be read from unmarked packs (`unreachable`) or not at all (`lost`). They are remembered so
    /// that no chain is followed twice in vain.
    unreachable: Places,
    lost: Places,
    seen_nodes: HashSet<ChunkId>,
    waiting: Vec<ChunkId>,
    /// Whether missing chunks are tolerated, for snapshots that are known to be lossy.
    is_lossy: bool,
}

impl<'a> Live<'a> {
    pub(super) fn new(reader: &'a Reader, marked: &'a Marked, trust: &'a mut Trust, monitor: &'a dyn Monitor) -> Self {
        Live {
            reader,
            marked,
            trust,
            monitor,
            needed: Places::default(),
            reached: Places::default(),
            unreachable: Places::default(),
            lost: Places::default(),
            seen_nodes: HashSet::new(),
            waiting: Vec::new(),
            is_lossy: false,
        }
    }

    /// The result, after all roots were added.
    pub(super) fn finish(self) -> Needed {
        let mut stranded: Vec<PackId> = self.needed.0.keys().filter(|pack| self.marked.going.contains(*pack)).copied().collect();
        stranded.sort_unstable();
        Needed { places: self.needed, reached: self.reached, stranded }
    }

    /// Adds everything that these snapshots reach, the oldest first. Parts of a listing that several snapshots share
    /// are read once. Of each stream only what differs from the same stream of the snapshot before is walked.
    ///
    /// # Errors
    /// [`Error::Corrupt`] if a needed object cannot be read or is missing: then nothing may be deleted.
    /// [`Error::Cancelled`].
    pub(super) fn add_snapshots<'s>(&mut self, snapshots: impl Iterator<Item = &'s SnapshotRecord>) -> Result<()> {
        let mut last: HashMap<Vec<u8>, StreamRoot> = HashMap::new();
        let mut last_listing = None;
        let mut parts = HashSet::new();
        for snapshot in snapshots {
            self.walk(&snapshot.listing, last_listing.replace(snapshot.listing).as_ref())?;
            // Before the listing is read, its chunks must have been found.
            self.settle()?;
            let mut listing = self.reader.parts(&snapshot.listing)?;
            while let Some(part) = listing.next_besides(&mut |chunk| parts.contains(chunk)) {
                let part = part?;
                let chunk = part.chunk();
                let entries = part.entries;
                for entry in entries {
                    let before = last.get(&entry.name).copied();
                    self.walk(&entry.root, before.as_ref())?;
                    // A stream of one chunk has no subtrees to share, so it need not be remembered.
                    if entry.root.levels > 0 {
                        last.insert(entry.name, entry.root);
                    }
                }
                parts.extend(chunk);
            }
        }
        self.settle()
    }

    /// Adds what is left of snapshots that have lost something. To be called after all others: what those need must
    /// be complete, even where a lossy snapshot has lost the same.
    ///
    /// # Errors
    /// The errors of [`Live::add_snapshots`], except for missing chunks.
    pub(super) fn add_lossy<'s>(&mut self, snapshots: impl Iterator<Item = &'s SnapshotRecord>) -> Result<()> {
        self.is_lossy = true;
        for snapshot in snapshots {
            self.walk(&snapshot.listing, None)?;
            self.settle()?;
            // A lost part of the listing does not end it: salvage reads the parts after it, so their streams are
            // kept, too.
            let (reader, monitor) = (self.reader, self.monitor);
            reader.salvage_listing(&snapshot.listing, monitor, &mut |entry| self.walk(&entry.root, None))?;
        }
        self.settle()
    }

    /// Adds a tree. Subtrees that the tree `before` has at the same places are passed over: it has been added
    /// already.
    fn walk(&mut self, root: &StreamRoot, before: Option<&StreamRoot>) -> Result<()> {
        let Some(top) = root.top else { return Ok(()) };
        // Places correspond only between trees of equal height.
        let before = before.filter(|before| before.levels == root.levels).and_then(|before| before.top);
        let mut open = vec![(top, root.levels, before)];
        while let Some((id, level, before)) = open.pop() {
            // An equal subtree was walked with `before`, and a node that was seen was walked with its children.
            if before == Some(id) || level > 0 && !self.seen_nodes.insert(id) {
                continue;
            }
            self.need(id)?;
            if level > 0 {
                let node = match self.node(&id, level) {
                    Err(error) if error.is_damage() && self.is_lossy => continue,
                    node => node?,
                };
                let old = before.map(|before| self.node(&before, level)).transpose()?;
                let old = |number: usize| old.as_ref().and_then(|old| old.children.get(number)).map(|child| child.id);
                open.extend(node.children.iter().enumerate().map(|(number, child)| (child.id, level - 1, old(number))));
            }
        }
        Ok(())
    }

    fn node(&self, id: &ChunkId, level: u8) -> Result<Node> {
        let bytes = self.reader.chunk(id)?;
        Node::decode(&bytes, level).map_err(|m| m.of(format!("tree node {id}")))
    }

    /// Queues a chunk; a full queue is looked up at once.
    fn need(&mut self, id: ChunkId) -> Result<()> {
        self.waiting.push(id);
        if self.waiting.len() >= BATCH { self.settle() } else { Ok(()) }
    }

    /// Chooses a copy for each queued chunk.
    fn settle(&mut self) -> Result<()> {
        if self.monitor.cancelled() {
            return Err(Error::Cancelled);
        }
        let waiting = std::mem::take(&mut self.waiting);
        self.reader.prefetch(waiting.iter().copied())?;
        for id in waiting {
            // Copies come by rising level, so the first that can be kept has the shortest chain.
            let copies = self.reader.copies_of(&id)?;
            let kept = match self.keep_one(&copies, From::Staying)? {
                None => self.keep_one(&copies, From::Any)?,
                kept => kept,
            };
            if let Some(copy) = kept {
                self.reached.insert(copy);
            } else if !self.is_lossy {
                let detail = if copies.is_empty() { "it is in no pack" } else { "no copy of it can be read from the packs that are there" };
                return Err(self.reader.repository().lost(format!("chunk {id}"), detail));
            }
        }
        Ok(())
    }

    /// Keeps the first of these copies that can be read, and returns it.
    fn keep_one<'c>(&mut self, copies: &'c [StoredCopy], from: From) -> Result<Option<&'c StoredCopy>> {
        for copy in copies {
            if self.keep(copy, from)? {
                return Ok(Some(copy));
            }
        }
        Ok(None)
    }

    /// Adds a copy and its bases to what is needed. `false` if it cannot be read from packs that count, or if it is
    /// damaged and other copies exist. The recursion ends because a base has a lower level than its delta.
    fn keep(&mut self, copy: &StoredCopy, from: From) -> Result<bool> {
        let known = if from == From::Any { &self.lost } else { &self.unreachable };
        if from == From::Staying && self.marked.going.contains(&copy.pack()) || self.trust.bad.contains(copy) || known.contains(copy) {
            return Ok(false);
        }
        if self.needed.contains(copy) {
            return Ok(true);
        }
        // Reading every copy would make each prune as slow as a full check. So a copy is read only where choosing it
        // may delete another one.
        let kept = self.keep_bases(copy, from)? && (!self.is_a_choice(copy)? || self.trust.is_whole(self.reader, copy)?);
        match (kept, from) {
            (true, _) => self.needed.insert(copy),
            (false, From::Staying) => self.unreachable.insert(copy),
            (false, From::Any) => self.lost.insert(copy),
        }
        Ok(kept)
    }

    /// Keeps one copy of every base. A delta names a base by the start of its id. If several chunks share that, each
    /// may be the one, so all of them are kept. When only marked packs have one of them, that is not a reason to take
    /// another chunk for it.
    fn keep_bases(&mut self, copy: &StoredCopy, from: From) -> Result<bool> {
        for slice in &copy.frame().slices {
            let mut bases = self.reader.bases_of(slice.base, copy.frame().level)?;
            let mut kept = 0;
            let mut missed = 0;
            while let Some(id) = bases.first().map(|base| base.entry.id) {
                let (of_one, others): (Vec<_>, Vec<_>) = bases.into_iter().partition(|base| base.entry.id == id);
                if self.keep_one(&of_one, from)?.is_some() {
                    kept += 1
                } else {
                    missed += 1
                }
                bases = others;
            }
            if kept == 0 || missed > 0 && from == From::Staying {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Whether choosing this copy may delete another copy of the same chunk.
    fn is_a_choice(&self, copy: &StoredCopy) -> Result<bool> {
        // Packs that wait for their grace time stay for now: if this copy is damaged, the next prune finds theirs.
        let may_go = |other: &StoredCopy| !self.marked.going.contains(&other.pack()) || self.marked.ripe.contains(&other.pack());
        let others = self.reader.copies_of(&copy.entry.id)?;
        Ok(others.iter().any(|other| other.place() != copy.place() && may_go(other)))
    }
}
