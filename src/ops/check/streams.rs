//! Checks that every chunk of every snapshot can be read, by walking all trees.
//!
//! Chunks are not read here: a chunk is sound if the catalog knows a copy that the check of packs has not found bad.
//! Subtrees that snapshots share are walked once.

use std::collections::{HashMap, HashSet};

use super::packs::BadCopies;
use super::{CheckReport, Severity, Touched};
use crate::error::{Error, Result};
use crate::id::{ChunkId, SnapshotId};
use crate::progress::Monitor;
use crate::store::format::pack::IdPrefix;
use crate::store::format::snapshot::{SnapshotRecord, StreamEntry, StreamRoot};
use crate::store::repo::{Reader, Repository, Spans, read_node};

/// Most chunks that are remembered as sound, so that shared ones are looked up once. This bounds the memory and does
/// not change the result. The same bound holds for nodes.
const SOUND_MAX: usize = 1 << 19;
/// Number of chunks that are looked up at once.
const CHUNKS_AT_ONCE: usize = 8 << 10;
/// After this many nodes the places of chunks are forgotten: each keeps the table of a pack in memory.
const PLACES_KEPT: usize = 1024;

/// Walks all trees. If something is missing, it looks again: a running backup or prune may have put chunks into packs
/// that were not listed yet, and a snapshot that was forgotten meanwhile needs nothing.
pub(crate) fn check_streams(
    repo: &Repository,
    snapshots: &[(SnapshotId, SnapshotRecord)],
    bad: &BadCopies,
    monitor: &dyn Monitor,
    report: &mut CheckReport,
) -> Result<()> {
    monitor.phase("checking snapshots", None);
    let mut first_look = CheckReport::default();
    walk_trees(repo, snapshots, bad, monitor, &mut first_look)?;
    if first_look.touched.is_empty() {
        return Ok(());
    }
    let touched: HashSet<SnapshotId> = first_look.touched.iter().map(|touched| touched.snapshot).collect();
    let listed = repo.list_snapshots()?.ids;
    // List packs after snapshots: the packs of a listed snapshot exist.
    repo.list_all_packs()?;
    let again = snapshots.iter().filter(|(id, _)| touched.contains(id) && listed.contains_key(id));
    walk_trees(repo, again, bad, monitor, report)
}

fn walk_trees<'s>(
    repo: &Repository,
    snapshots: impl IntoIterator<Item = &'s (SnapshotId, SnapshotRecord)>,
    bad: &BadCopies,
    monitor: &dyn Monitor,
    report: &mut CheckReport,
) -> Result<()> {
    let reader = Reader::for_trees(repo);
    let (sound_chunks, sound_nodes, sound_parts) = Default::default();
    let mut walker = Walker { reader: &reader, bad, monitor, sound_chunks, sound_nodes, sound_parts, nodes_read: 0 };
    for (id, snapshot) in snapshots {
        if let Some(damage) = walker.check_snapshot(id, &snapshot.listing, report)? {
            report.found(Severity::Damage, "stream", format!("snapshot {id}"), format!("its listing cannot be read: {damage}"));
            report.touched.push(Touched { snapshot: *id, stream: None });
        }
    }
    Ok(())
}

struct Walker<'a> {
    reader: &'a Reader,
    bad: &'a BadCopies,
    monitor: &'a dyn Monitor,
    /// Sound chunks with their lengths.
    sound_chunks: HashMap<ChunkId, u64>,
    /// Nodes, with their levels and lengths, below which everything is sound.
    sound_nodes: HashSet<(ChunkId, u8, u64)>,
    /// Parts of listings whose streams are all sound.
    sound_parts: HashSet<ChunkId>,
    nodes_read: usize,
}

/// The state of the walk through one tree.
#[derive(Default)]
struct Tree {
    damage: Option<Error>,
    /// Nodes that were read, each once, however often the tree has it.
    nodes: HashSet<(ChunkId, u8, u64)>,
    /// Chunks to look up, with the lengths that the tree gives them.
    chunks: Vec<(ChunkId, u64)>,
}

impl Walker<'_> {
    /// Checks all streams of a snapshot. Returns the damage to its listing, if any.
    fn check_snapshot(&mut self, id: &SnapshotId, listing: &StreamRoot, report: &mut CheckReport) -> Result<Option<Error>> {
        let reader = self.reader;
        reader.prefetch(listing.top.into_iter())?;
        if let Some(damage) = self.check_tree(listing)? {
            return Ok(Some(damage));
        }
        let damage_or = |error: Error| if error.is_damage() { Ok(Some(error)) } else { Err(error) };
        let mut parts = match reader.parts(listing) {
            Ok(parts) => parts,
            Err(error) => return damage_or(error),
        };
        while let Some(part) = parts.next_besides(&mut |chunk| self.sound_parts.contains(chunk)) {
            match part {
                Ok(part) => {
                    let (chunk, entries) = (part.chunk(), part.entries);
                    if self.check_entries(id, &entries, report)? {
                        self.sound_parts.extend(chunk);
                    }
                }
                Err(error) => return damage_or(error),
            }
        }
        Ok(None)
    }

    /// Checks the streams of a part of a listing. Returns whether all are sound.
    fn check_entries(&mut self, id: &SnapshotId, entries: &[StreamEntry], report: &mut CheckReport) -> Result<bool> {
        self.prefetch(&mut entries.iter().filter(|entry| entry.root.levels > 0).filter_map(|entry| entry.root.top))?;
        self.find_small(entries.iter().map(|entry| &entry.root))?;
        let mut is_sound = true;
        for entry in entries {
            if self.monitor.cancelled() {
                return Err(Error::Cancelled);
            }
            if let Some(damage) = self.check_tree(&entry.root)? {
                let object = format!("snapshot {id}, stream {}", String::from_utf8_lossy(&entry.name));
                report.found(Severity::Damage, "stream", object, damage.to_string());
                report.touched.push(Touched { snapshot: *id, stream: Some(entry.name.clone()) });
                is_sound = false;
            }
        }
        Ok(is_sound)
    }

    /// Returns the first damage found in a tree, if any.
    fn check_tree(&mut self, root: &StreamRoot) -> Result<Option<Error>> {
        if let Err(damage) = Spans::new(self.reader, root) {
            return Ok(Some(damage));
        }
        let mut tree = Tree::default();
        // Depth first, front to back: memory holds one path of nodes and their siblings.
        let mut open: Vec<(ChunkId, u8, u64)> = root.top.map(|top| (top, root.levels, root.len)).into_iter().collect();
        while let Some(at) = open.pop() {
            match at {
                (id, 0, len) => {
                    tree.chunks.extend((self.sound_chunks.get(&id) != Some(&len)).then_some((id, len)));
                    if tree.chunks.len() >= CHUNKS_AT_ONCE {
                        self.check_chunks(&mut tree)?;
                    }
                }
                // Known to be sound, or read already: nothing below it has to be walked again.
                at if self.sound_nodes.contains(&at) || !tree.nodes.insert(at) => {}
                at => self.open_node(at, &mut tree, &mut open)?,
            }
        }
        self.check_chunks(&mut tree)?;
        if tree.damage.is_none() {
            // Only nodes of a tree without damage are remembered. A full memory starts afresh.
            if self.sound_nodes.len() >= SOUND_MAX {
                self.sound_nodes.clear();
            }
            self.sound_nodes.extend(tree.nodes);
        }
        Ok(tree.damage)
    }

    fn open_node(&mut self, (id, level, len): (ChunkId, u8, u64), tree: &mut Tree, open: &mut Vec<(ChunkId, u8, u64)>) -> Result<()> {
        if self.monitor.cancelled() {
            return Err(Error::Cancelled);
        }
        let node = match read_node(self.reader, &id, level) {
            Ok(node) => node,
            Err(error) if error.is_damage() => {
                tree.damage.get_or_insert(error);
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        if node.span_bytes() != Some(len) {
            let wrong = "its children do not add up to the length that its parent says";
            tree.damage.get_or_insert_with(|| Error::corrupt(format!("tree node {id}"), wrong));
        }
        if level > 1 {
            let is_unknown = |child: &&crate::store::format::node::Child| !self.sound_nodes.contains(&(child.id, level - 1, child.len));
            let unknown: Vec<ChunkId> = node.children.iter().filter(is_unknown).map(|child| child.id).collect();
            self.prefetch(&mut unknown.into_iter())?;
        }
        open.extend(node.children.iter().rev().map(|child| (child.id, level - 1, child.len)));
        Ok(())
    }

    /// Looks up the places of these nodes in one batch.
    fn prefetch(&mut self, nodes: &mut dyn Iterator<Item = ChunkId>) -> Result<()> {
        let nodes: Vec<ChunkId> = nodes.collect();
        self.nodes_read += nodes.len();
        if self.nodes_read > PLACES_KEPT {
            self.nodes_read = nodes.len();
            self.reader.forget_places();
        }
        self.reader.prefetch(nodes.into_iter())
    }

    /// Looks up the chunks of streams that consist of one chunk, in one batch. One by one, each would cost reading a
    /// block of the catalog. Damage is found again and reported when the stream's turn comes.
    fn find_small<'r>(&mut self, roots: impl Iterator<Item = &'r StreamRoot>) -> Result<()> {
        let tops = roots.filter(|root| root.levels == 0).filter_map(|root| root.top.map(|top| (top, root.len)));
        let chunks = tops.filter(|(top, len)| self.sound_chunks.get(top) != Some(len)).collect();
        self.check_chunks(&mut Tree { chunks, ..Tree::default() })
    }

    /// Looks up the collected chunks.
    fn check_chunks(&mut self, tree: &mut Tree) -> Result<()> {
        let chunks = std::mem::take(&mut tree.chunks);
        if chunks.is_empty() {
            return Ok(());
        }
        let prefixes: Vec<IdPrefix> = chunks.iter().map(|(id, _)| id.prefix()).collect();
        for ((id, len), known) in chunks.iter().zip(self.reader.repository().known_copies(&prefixes)?) {
            let mut copies = known.iter().filter(|copy| copy.id == *id).peekable();
            if copies.peek().is_none() {
                tree.damage.get_or_insert_with(|| Error::corrupt(format!("chunk {id}"), "no pack holds it"));
            } else if copies.all(|copy| self.bad.contains(&copy.place)) {
                let wrong = "every stored copy of it is damaged or lacks its base";
                tree.damage.get_or_insert_with(|| Error::corrupt(format!("chunk {id}"), wrong));
            } else if !known.iter().any(|copy| copy.id == *id && u64::from(copy.plain_len) == *len) {
                tree.damage.get_or_insert_with(|| Error::corrupt(format!("chunk {id}"), "its tree gives it another length"));
            } else {
                if self.sound_chunks.len() >= SOUND_MAX {
                    self.sound_chunks.clear();
                }
                self.sound_chunks.insert(*id, *len);
            }
        }
        Ok(())
    }
}
