//! What is needed: every chunk that a snapshot reaches, in one of its copies, with the bases of that copy.

use std::collections::{HashMap, HashSet};

use crate::error::{Error, Result};
use crate::format::node::Node;
use crate::format::snapshot::{SnapshotRecord, StreamEntry, StreamRoot};
use crate::id::{ChunkId, PackId};
use crate::progress::Monitor;
use crate::repo::{Reader, StoredCopy};

/// Chunks that are looked up together.
const BATCH: usize = 4096;

/// The rows of packs that are needed.
pub(super) struct Live<'a> {
    reader: &'a Reader,
    /// Packs that are going: what is in them does not count, and is stranded if it is nowhere else.
    going: &'a HashSet<PackId>,
    rows: HashMap<PackId, Rows>,
    /// Of these rows those of chunks that a snapshot itself reaches; the others are bases of them.
    reached: HashMap<PackId, Rows>,
    /// Chunks of which only packs that are going have a copy.
    pub(super) stranded: Vec<(ChunkId, bool)>,
    seen_nodes: HashSet<ChunkId>,
    waiting: Vec<(ChunkId, bool)>,
}

/// Which rows of a pack's table are needed.
#[derive(Default, Clone)]
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
    }
}

impl<'a> Live<'a> {
    pub(super) fn new(reader: &'a Reader, going: &'a HashSet<PackId>) -> Self {
        Live {
            reader,
            going,
            rows: HashMap::new(),
            reached: HashMap::new(),
            stranded: Vec::new(),
            seen_nodes: HashSet::new(),
            waiting: Vec::new(),
        }
    }

    /// The rows of a pack that are needed; `None` if none is.
    pub(super) fn rows(&self, pack: &PackId) -> Option<&Rows> {
        self.rows.get(pack)
    }

    /// Whether a snapshot reaches the chunk of this copy, which is needed, and not only what is made a delta of it.
    pub(super) fn is_reached(&self, copy: &StoredCopy) -> bool {
        self.reached.get(&copy.pack()).is_some_and(|rows| rows.contains(copy.row()))
    }

    /// The packs of which something is needed.
    pub(super) fn packs(&self) -> impl Iterator<Item = &PackId> {
        self.rows.keys()
    }

    /// Adds what these snapshots reach, the oldest first: of each stream only what differs from the same stream of the snapshot before is looked at.
    ///
    /// # Errors
    /// [`Error::Corrupt`] if something cannot be read or is nowhere: then nothing may be deleted.
    pub(super) fn add_snapshots<'s>(&mut self, snapshots: impl Iterator<Item = &'s SnapshotRecord>, monitor: &dyn Monitor) -> Result<()> {
        let mut last: HashMap<Vec<u8>, StreamRoot> = HashMap::new();
        let mut last_listing = None;
        for snapshot in snapshots {
            if monitor.cancelled() {
                return Err(Error::Cancelled);
            }
            self.walk(&snapshot.listing, last_listing.replace(snapshot.listing).as_ref())?;
            // The listing itself can be read only once it is known to be there.
            self.settle()?;
            let entries: Vec<StreamEntry> = self.reader.listing(&snapshot.listing)?;
            for entry in entries {
                let before = last.get(&entry.name).copied();
                self.walk(&entry.root, before.as_ref())?;
                last.insert(entry.name, entry.root);
            }
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
            self.need(id, level > 0)?;
            if level > 0 {
                let node = self.node(&id, level)?;
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

    fn need(&mut self, id: ChunkId, node: bool) -> Result<()> {
        self.waiting.push((id, node));
        if self.waiting.len() >= BATCH { self.settle() } else { Ok(()) }
    }

    /// Chooses the copies of the chunks that wait.
    fn settle(&mut self) -> Result<()> {
        let waiting = std::mem::take(&mut self.waiting);
        self.reader.prefetch(waiting.iter().map(|(id, _)| *id))?;
        for (id, node) in waiting {
            let copies = self.reader.copies_of(&id)?;
            let mut kept = None;
            for copy in &copies {
                if kept.is_none() && self.keep(copy)? {
                    kept = Some(copy);
                }
            }
            if let Some(copy) = kept {
                self.reached.entry(copy.pack()).or_default().insert(copy.row());
            } else {
                match copies.iter().any(|copy| self.going.contains(&copy.pack())) {
                    true => self.stranded.push((id, node)),
                    false => return Err(self.reader.repository().lost(format!("chunk {id}"), "it is in no pack")),
                }
            }
        }
        Ok(())
    }

    /// Marks a copy and its bases as needed; `false` if it cannot be read from packs that stay. Recursion ends: levels fall.
    fn keep(&mut self, copy: &StoredCopy) -> Result<bool> {
        if self.rows.get(&copy.pack()).is_some_and(|rows| rows.contains(copy.row())) {
            return Ok(true);
        }
        if self.going.contains(&copy.pack()) {
            return Ok(false);
        }
        for slice in &copy.frame().slices {
            let mut kept = false;
            for base in self.reader.bases_of(slice.base, copy.frame().level)? {
                kept = kept || self.keep(&base)?;
            }
            if !kept {
                return Ok(false);
            }
        }
        self.rows.entry(copy.pack()).or_default().insert(copy.row());
        Ok(true)
    }
}
