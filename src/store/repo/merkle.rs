//! Stored trees of chunk ids, and walking them. A stream's root names the top node; nodes name nodes or chunks with their lengths.
//!
//! Nodes are chunks, so their bytes are verified. What they say is not trusted: levels and lengths are compared with what the parent says.

use std::collections::HashMap;
use std::sync::Arc;

use super::Repository;
use super::cache::Cache;
use super::reader::Reader;
use crate::error::{Error, Result};
use crate::id::ChunkId;
use crate::store::chunker::zeros_len;
use crate::store::format::node::{Child, Node};
use crate::store::format::snapshot::StreamRoot;
use crate::store::format::{CHUNK_LEN_MAX, NODE_FANOUT, TREE_LEVELS_MAX};
use crate::store::repo::{u64_from, usize_from};

/// Bytes of nodes that a cursor keeps: about the nodes over 4 GiB of a stream in chunks of 64 KiB.
const LATELY_BUDGET: usize = 3 << 20;

/// Where a chunk lies in its stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChunkSpan {
    /// Its first byte's place in the stream.
    pub offset: u64,
    /// The chunk.
    pub id: ChunkId,
    /// Its length in bytes.
    pub len: u32,
}

/// Looks up nodes and chunks of a stored tree by place. It keeps the last node of every level, so that going through in order reads each node once.
/// Its answers are guesses at good bases. A damaged node counts as one without children.
pub struct TreeCursor<'r> {
    reader: &'r Reader,
    root: Option<StreamRoot>,
    /// By level - 1: the index of the node and the node.
    last: Vec<Option<(u64, Arc<Node>)>>,
    /// Nodes by id, for look-ups in any order.
    lately: Cache<ChunkId, Arc<Node>>,
}

impl<'r> TreeCursor<'r> {
    /// A cursor over a tree, or over none.
    pub fn new(reader: &'r Reader, root: Option<StreamRoot>) -> Self {
        let levels = root.map_or(0, |root| usize::from(root.levels));
        TreeCursor { reader, root, last: vec![None; levels], lately: Cache::new(LATELY_BUDGET) }
    }

    /// The root of the tree.
    pub fn root(&self) -> Option<StreamRoot> {
        self.root
    }

    /// The chunk with this number in the stream; `None` past the end.
    pub fn chunk(&mut self, index: u64) -> Result<Option<Child>> {
        match self.root {
            Some(StreamRoot { levels: 0, top: Some(id), len }) => Ok((index == 0).then_some(Child { id, len })),
            Some(StreamRoot { levels: 1.., .. }) => self.child(1, index),
            _ => Ok(None),
        }
    }

    /// The chunk that holds this byte of the stream; `None` past the end.
    pub fn at(&mut self, offset: u64) -> Result<Option<ChunkSpan>> {
        let Some(StreamRoot { levels, top: Some(top), len }) = self.root else { return Ok(None) };
        if offset >= len {
            return Ok(None);
        }
        let (mut id, mut start, mut end) = (top, 0u64, len);
        for level in (1..=levels).rev() {
            let node = self.node(&id, level)?;
            let mut child_start = start;
            // Chunks have different lengths, so the child is found by adding up.
            let found = node.children.iter().find_map(|child| {
                let child_end = child_start.saturating_add(child.len);
                let place = std::mem::replace(&mut child_start, child_end);
                (offset < child_end).then_some((child.id, place, child_end))
            });
            let Some(found) = found else { return Ok(None) };
            (id, start, end) = found;
        }
        // At most CHUNK_LEN_MAX, which is a u32.
        let len = u32::try_from(end - start).unwrap_or(CHUNK_LEN_MAX).min(CHUNK_LEN_MAX);
        Ok(Some(ChunkSpan { offset: start, id, len }))
    }

    /// A node, from the cache if it has it. A damaged one has no children.
    fn node(&mut self, id: &ChunkId, level: u8) -> Result<Arc<Node>> {
        if let Some(node) = self.lately.get(id).filter(|node| node.level == level) {
            return Ok(node);
        }
        let node = match read_node(self.reader, id, level) {
            Err(error) if error.is_damage() => Node { level, children: Vec::new() },
            read => read?,
        };
        let node = Arc::new(node);
        self.lately.put(*id, Arc::clone(&node), NODE_FANOUT * size_of::<Child>());
        Ok(node)
    }

    /// The id of the node with this number among the nodes of this level.
    pub fn node_id(&mut self, level: u8, index: u64) -> Result<Option<ChunkId>> {
        match self.root {
            Some(root) if level == root.levels && level > 0 => Ok(root.top.filter(|_| index == 0)),
            Some(root) if level < root.levels && level > 0 => Ok(self.child(level + 1, index)?.map(|child| child.id)),
            _ => Ok(None),
        }
    }

    /// The child with this number among all children of nodes of `level`. All nodes of a level but the last are full, so its node can be computed.
    fn child(&mut self, level: u8, index: u64) -> Result<Option<Child>> {
        // A remainder of NODE_FANOUT, which is a usize, so the cast loses nothing.
        let (node_index, slot) = (index / u64_from(NODE_FANOUT), (index % u64_from(NODE_FANOUT)) as usize);
        let cached = self.last.get(usize::from(level) - 1).and_then(Option::as_ref);
        if let Some((at, node)) = cached
            && *at == node_index
        {
            return Ok(node.children.get(slot).copied());
        }
        let Some(id) = self.node_id(level, node_index)? else { return Ok(None) };
        let node = self.node(&id, level)?;
        let child = node.children.get(slot).copied();
        self.last.get_mut(usize::from(level) - 1).into_iter().for_each(|last| *last = Some((node_index, Arc::clone(&node))));
        Ok(child)
    }
}

/// Reads a node and verifies that it has the level that its parent says.
pub(crate) fn read_node(reader: &Reader, id: &ChunkId, level: u8) -> Result<Node> {
    let bytes = reader.chunk(id)?;
    Node::decode(&bytes, level).map_err(|m| m.of(format!("tree node {id}")))
}

/// The chunks of a stream, in order. The lengths in the nodes are compared with the root's, so a stream is never longer or shorter than its
/// root says.
pub struct Spans<'r> {
    reader: &'r Reader,
    /// The open nodes, from the root down: the children of each that are still to come, in reverse order, and its level.
    open: Vec<(Vec<Child>, u8)>,
    offset: u64,
    end: u64,
    /// Chunks that end at or before this place are skipped.
    from: u64,
    /// Chunks and nodes that are skipped wherever they are: by id, the length of the stream that they stand for.
    known: HashMap<ChunkId, u64>,
    failed: bool,
}

impl<'r> Spans<'r> {
    /// Walks the tree with this root.
    ///
    /// # Errors
    /// If the root contradicts itself.
    pub fn new(reader: &'r Reader, root: &StreamRoot) -> Result<Self> {
        let open = match (root.top, root.len) {
            (None, 0) if root.levels == 0 => Vec::new(),
            (Some(id), 1..) if root.levels <= TREE_LEVELS_MAX => vec![(vec![Child { id, len: root.len }], root.levels + 1)],
            _ => return Err(Error::corrupt("the root of a stream", "its length does not fit its tree")),
        };
        Ok(Spans { reader, open, offset: 0, end: root.len, from: 0, known: HashMap::new(), failed: false })
    }

    /// Skips the chunks and nodes with these ids. Each comes with the length of the stream that it stands for.
    pub(crate) fn without(self, known: HashMap<ChunkId, u64>) -> Self {
        Spans { known, ..self }
    }

    /// Skips all chunks that end at or before this place. Nodes that hold only such chunks are not read.
    pub(crate) fn skip_to(&mut self, offset: u64) {
        self.from = self.from.max(offset.min(self.end));
    }

    fn is_passed_over(&self, child: &Child) -> bool {
        self.offset.saturating_add(child.len) <= self.from || self.known.get(&child.id) == Some(&child.len)
    }

    fn advance(&mut self) -> Result<Option<ChunkSpan>> {
        while let Some((rest, level)) = self.open.last_mut() {
            let level = *level;
            // All children of this node have been visited.
            let Some(child) = rest.pop() else {
                self.open.pop();
                continue;
            };
            if self.is_passed_over(&child) {
                self.offset = self.offset.saturating_add(child.len);
                continue;
            }
            if level == 1 {
                let span = ChunkSpan { offset: self.offset, id: child.id, len: chunk_len(&child)? };
                self.offset += child.len;
                return Ok(Some(span));
            }
            let node = read_node(self.reader, &child.id, level - 1)?;
            // A child's length was taken from its parent, and is now compared with what is below it. So offsets are right before any chunk is read.
            if node.span_bytes() != Some(child.len) {
                return Err(Error::corrupt(
                    format!("tree node {}", child.id),
                    "its children do not add up to the length that its parent says",
                ));
            }
            self.open.push((node.children.into_iter().rev().collect(), level - 1));
        }
        match self.offset == self.end {
            true => Ok(None),
            false => Err(Error::corrupt("a stream's tree", "it ends too early")),
        }
    }
}

/// The ids of the chunk of a long hole, and of the nodes over nothing else, each with the length that it stands for. An id says what a node
/// contains, so these nodes need not be read.
pub(crate) fn zeros(repo: &Repository) -> HashMap<ChunkId, u64> {
    let keys = repo.keys();
    let len = zeros_len(repo.config().content_chunk_len, keys.chunking_seed());
    let mut child = Child { id: keys.chunk_id(&vec![0; usize_from(len)]), len: u64::from(len) };
    let mut known = HashMap::from([(child.id, child.len)]);
    for level in 1..=TREE_LEVELS_MAX {
        let Some(len) = child.len.checked_mul(u64_from(NODE_FANOUT)) else { break };
        // A hole is one chunk again and again, so its nodes are full and of equal children.
        let node = Node { level, children: vec![child; NODE_FANOUT] };
        child = Child { id: keys.chunk_id(&node.encode()), len };
        known.insert(child.id, len);
    }
    known
}

fn chunk_len(child: &Child) -> Result<u32> {
    u32::try_from(child.len)
        .ok()
        .filter(|len| *len <= CHUNK_LEN_MAX)
        .ok_or_else(|| Error::corrupt(format!("the tree node above chunk {}", child.id), "the length of the chunk is out of bounds"))
}

impl Iterator for Spans<'_> {
    type Item = Result<ChunkSpan>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.failed {
            return None;
        }
        let next = self.advance();
        self.failed = next.is_err();
        next.transpose()
    }
}

/// Calls `visit` with the id and level (0: chunk) of everything in a tree, parents before children. If `visit` returns `false` for a node,
/// the nodes and chunks below it are left out.
pub(crate) fn walk(reader: &Reader, root: &StreamRoot, visit: &mut dyn FnMut(&ChunkId, u8) -> Result<bool>) -> Result<()> {
    let mut open: Vec<(ChunkId, u8)> = root.top.map(|top| (top, root.levels)).into_iter().collect();
    while let Some((id, level)) = open.pop() {
        if visit(&id, level)? && level > 0 {
            open.extend(read_node(reader, &id, level)?.children.iter().rev().map(|child| (child.id, level - 1)));
        }
    }
    Ok(())
}
