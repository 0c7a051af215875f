//! What is needed: every chunk that a snapshot reaches, in one of its copies, with the bases of that copy.

use std::collections::{HashMap, HashSet};

use crate::error::{Error, Result};
use crate::id::{ChunkId, PackId};
use crate::progress::Monitor;
use crate::store::format::node::Node;
use crate::store::format::snapshot::{SnapshotRecord, StreamRoot};
use crate::store::repo::{Reader, StoredCopy};

/// Chunks that are looked up together.
const BATCH: usize = 4096;

/// Rows of the tables of packs: one bit for each, so that ten million chunks take little more than a megabyte.
#[derive(Default)]
struct Places(HashMap<PackId, Rows>);

/// Which rows of a pack's table.
#[derive(Default)]
pub(super) struct Rows {
    bits: Vec<u64>,
}

impl Rows {
    pub(super) fn contains(&self, row: u32) -> bool {
        self.bits.get(row as usize / 64).is_some_and(|word| word >> (row % 64) & 1 == 1)
    }

    fn insert(&mut self, row: u32) {
        let word = row as usize / 64;
        if self.bits.len() <= word {
            self.bits.resize(word + 1, 0);
        }
        self.bits.get_mut(word).into_iter().for_each(|bits| *bits |= 1 << (row % 64));
        // What is not taken down here would be deleted.
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

/// What one prune has found out about copies by reading them. Of a chunk with several copies one is chosen and the others may go, so the chosen one
/// is read first: else a damaged one could outlive one that is whole.
#[derive(Default)]
pub(super) struct Trust {
    /// Packs that this prune has written: what is in them was verified.
    pub(super) written: HashSet<PackId>,
    whole: Places,
    bad: Places,
}

impl Trust {
    /// What was found to be bad has to be read again.
    pub(super) fn doubt(&mut self) {
        self.bad = Places::default();
    }

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

/// The packs that are marked.
pub(super) struct Marked {
    /// All of them: what is in them does not count.
    pub(super) going: HashSet<PackId>,
    /// Those that may be deleted now.
    pub(super) ripe: HashSet<PackId>,
}

/// Which packs count when a copy is chosen.
#[derive(Clone, Copy, PartialEq, Eq)]
enum From {
    /// Those that are not marked.
    Staying,
    /// All: nothing else has the chunk, so it must be written anew.
    Any,
}

/// The rows of packs that are needed.
pub(super) struct Needed {
    places: Places,
    /// Of these those of chunks that a snapshot itself reaches; the others are bases of them.
    reached: Places,
    /// The marked packs that have what is needed and nothing else has: it must be written anew before they go.
    pub(super) stranded: Vec<PackId>,
}

impl Needed {
    /// Whether a snapshot reaches the chunk of this copy, and not only what is made a delta of it.
    pub(super) fn is_reached(&self, copy: &StoredCopy) -> bool {
        self.reached.contains(copy)
    }

    /// The packs of which something is needed.
    pub(super) fn packs(&self) -> impl Iterator<Item = &PackId> {
        self.places.0.keys()
    }

    /// Those of a pack; `None` if none is.
    pub(super) fn rows(&self, pack: &PackId) -> Option<&Rows> {
        self.places.0.get(pack)
    }
}

/// Finds the rows of packs that are needed.
pub(super) struct Live<'a> {
    reader: &'a Reader,
    marked: &'a Marked,
    trust: &'a mut Trust,
    monitor: &'a dyn Monitor,
    needed: Places,
    reached: Places,
    /// Copies that cannot be read from packs that stay, and those that cannot be read at all, so that no chain is followed twice in vain.
    unreachable: Places,
    lost: Places,
    seen_nodes: HashSet<ChunkId>,
    waiting: Vec<ChunkId>,
    /// Whether what is missing now stops nothing.
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

    /// What is needed.
    pub(super) fn finish(self) -> Needed {
        let mut stranded: Vec<PackId> = self.needed.0.keys().filter(|pack| self.marked.going.contains(*pack)).copied().collect();
        stranded.sort_unstable();
        Needed { places: self.needed, reached: self.reached, stranded }
    }

    /// Adds what these snapshots reach, the oldest first. A part of a listing that several have is read once, and of each stream only what differs from the
    /// same stream of the snapshot before is looked at.
    ///
    /// # Errors
    /// [`Error::Corrupt`] if something cannot be read or is nowhere: then nothing may be deleted. [`Error::Cancelled`].
    pub(super) fn add_snapshots<'s>(&mut self, snapshots: impl Iterator<Item = &'s SnapshotRecord>) -> Result<()> {
        let mut last: HashMap<Vec<u8>, StreamRoot> = HashMap::new();
        let mut last_listing = None;
        let mut parts = HashSet::new();
        for snapshot in snapshots {
            self.walk(&snapshot.listing, last_listing.replace(snapshot.listing).as_ref())?;
            // The listing itself can be read only once it is known to be there.
            self.settle()?;
            let mut listing = self.reader.parts(&snapshot.listing)?;
            while let Some(part) = listing.next_besides(&mut |chunk| parts.contains(chunk)) {
                let part = part?;
                let chunk = part.chunk();
                let entries = part.entries;
                for entry in entries {
                    let before = last.get(&entry.name).copied();
                    self.walk(&entry.root, before.as_ref())?;
                    // Of a stream that is one chunk nothing is shared that would not be seen.
                    if entry.root.levels > 0 {
                        last.insert(entry.name, entry.root);
                    }
                }
                parts.extend(chunk);
            }
        }
        self.settle()
    }

    /// Adds what is left of snapshots of which something is lost. After all others: what these need must be there, whoever has lost it too.
    ///
    /// # Errors
    /// As [`Live::add_snapshots`], but for what is missing.
    pub(super) fn add_lossy<'s>(&mut self, snapshots: impl Iterator<Item = &'s SnapshotRecord>) -> Result<()> {
        self.is_lossy = true;
        for snapshot in snapshots {
            self.walk(&snapshot.listing, None)?;
            self.settle()?;
            // Behind a part of the listing that is lost there are others, which a salvage reads.
            let (reader, monitor) = (self.reader, self.monitor);
            reader.salvage_listing(&snapshot.listing, monitor, &mut |entry| self.walk(&entry.root, None))?;
        }
        self.settle()
    }

    /// Adds a tree; what `before`, which has been added, has at the same places is passed over.
    fn walk(&mut self, root: &StreamRoot, before: Option<&StreamRoot>) -> Result<()> {
        let Some(top) = root.top else { return Ok(()) };
        let before = before.filter(|before| before.levels == root.levels).and_then(|before| before.top);
        let mut open = vec![(top, root.levels, before)];
        while let Some((id, level, before)) = open.pop() {
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

    fn need(&mut self, id: ChunkId) -> Result<()> {
        self.waiting.push(id);
        if self.waiting.len() >= BATCH { self.settle() } else { Ok(()) }
    }

    /// Chooses the copies of the chunks that wait.
    fn settle(&mut self) -> Result<()> {
        if self.monitor.cancelled() {
            return Err(Error::Cancelled);
        }
        let waiting = std::mem::take(&mut self.waiting);
        self.reader.prefetch(waiting.iter().copied())?;
        for id in waiting {
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

    /// Keeps the first copy of a chunk that can be read, and gives it.
    fn keep_one<'c>(&mut self, copies: &'c [StoredCopy], from: From) -> Result<Option<&'c StoredCopy>> {
        for copy in copies {
            if self.keep(copy, from)? {
                return Ok(Some(copy));
            }
        }
        Ok(None)
    }

    /// Marks a copy and its bases as needed; `false` if it cannot be read from packs that count, or is damaged and has others beside it. Recursion
    /// ends: levels fall.
    fn keep(&mut self, copy: &StoredCopy, from: From) -> Result<bool> {
        let known = if from == From::Any { &self.lost } else { &self.unreachable };
        if from == From::Staying && self.marked.going.contains(&copy.pack()) || self.trust.bad.contains(copy) || known.contains(copy) {
            return Ok(false);
        }
        if self.needed.contains(copy) {
            return Ok(true);
        }
        let kept = self.keep_bases(copy, from)? && (!self.is_a_choice(copy)? || self.trust.is_whole(self.reader, copy)?);
        match (kept, from) {
            (true, _) => self.needed.insert(copy),
            (false, From::Staying) => self.unreachable.insert(copy),
            (false, From::Any) => self.lost.insert(copy),
        }
        Ok(kept)
    }

    /// Keeps one copy of every base. A base is named by the start of its id: if several chunks share that, each of them may be the one that is meant,
    /// and one that only marked packs have is no reason to take another for it.
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

    /// Whether there is another copy that this prune may drop for this one.
    fn is_a_choice(&self, copy: &StoredCopy) -> Result<bool> {
        // Those that wait for their grace time are there for later.
        let may_go = |other: &StoredCopy| !self.marked.going.contains(&other.pack()) || self.marked.ripe.contains(&other.pack());
        let others = self.reader.copies_of(&copy.entry.id)?;
        Ok(others.iter().any(|other| other.place() != copy.place() && may_go(other)))
    }
}
