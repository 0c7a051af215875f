//! Writes the tree of a stream.
//! Each node is encoded against the parent's node at the same place, so a tree costs about what has changed. It relies
//! on callers to push the chunks in order. A stream of one chunk has no node.

use super::merkle::TreeCursor;
use super::writer::ChunkWriter;
use crate::error::{Error, Result};
use crate::id::ChunkId;
use crate::store::format::NODE_FANOUT;
use crate::store::format::node::{Child, Node};
use crate::store::format::snapshot::StreamRoot;
use crate::store::repo::u64_from;

/// Builds the tree of one stream from its chunks, which come in order.
pub struct TreeWriter {
    /// For each level: the children that have no node yet, and the number of nodes that were made.
    levels: Vec<(Vec<Child>, u64)>,
    len: u64,
}

impl TreeWriter {
    /// A tree without chunks.
    pub fn new() -> Self {
        TreeWriter { levels: Vec::new(), len: 0 }
    }

    /// Appends the next chunk.
    pub fn push(&mut self, id: ChunkId, len: u32, writer: &mut ChunkWriter<'_>, parent: &mut TreeCursor<'_>) -> Result<()> {
        self.len += u64::from(len);
        self.push_at(0, Child { id, len: u64::from(len) }, writer, parent)
    }

    /// Appends the same chunk `count` times. All nodes over nothing else are equal, so one is made for each level: a long hole costs almost nothing.
    pub fn push_run(&mut self, id: ChunkId, len: u32, count: u64, writer: &mut ChunkWriter<'_>, parent: &mut TreeCursor<'_>) -> Result<()> {
        self.len = self.len.saturating_add(u64::from(len).saturating_mul(count));
        self.push_many(0, Child { id, len: u64::from(len) }, count, writer, parent)
    }

    fn push_many(
        &mut self,
        level: usize,
        child: Child,
        mut count: u64,
        writer: &mut ChunkWriter<'_>,
        parent: &mut TreeCursor<'_>,
    ) -> Result<()> {
        while count > 0 {
            let whole_nodes = count / u64_from(NODE_FANOUT);
            match self.levels.get_mut(level) {
                // Only at the start of a node. Before that, single children fill the open node.
                Some((open, made)) if open.is_empty() && whole_nodes > 1 => {
                    // Seven levels hold any stream, so a level fits into a byte.
                    let node = Node { level: level as u8 + 1, children: vec![child; NODE_FANOUT] };
                    let predecessor = parent.node_id(node.level, *made)?;
                    *made += whole_nodes;
                    let id = writer.put_node(&node.encode(), predecessor)?;
                    let node = Child { id, len: child.len.saturating_mul(u64_from(NODE_FANOUT)) };
                    self.push_many(level + 1, node, whole_nodes, writer, parent)?;
                    count -= whole_nodes * u64_from(NODE_FANOUT);
                }
                _ => {
                    self.push_at(level, child, writer, parent)?;
                    count -= 1;
                }
            }
        }
        Ok(())
    }

    fn push_at(&mut self, level: usize, child: Child, writer: &mut ChunkWriter<'_>, parent: &mut TreeCursor<'_>) -> Result<()> {
        if self.levels.len() <= level {
            self.levels.push((Vec::with_capacity(NODE_FANOUT), 0));
        }
        debug_assert!(level < self.levels.len(), "levels are opened one by one");
        let (open, _) = self.levels.get_mut(level).ok_or_else(|| Error::bug("a level of a tree is not open"))?;
        open.push(child);
        match open.len() >= NODE_FANOUT {
            true => self.close_node(level, writer, parent),
            false => Ok(()),
        }
    }

    fn close_node(&mut self, level: usize, writer: &mut ChunkWriter<'_>, parent: &mut TreeCursor<'_>) -> Result<()> {
        let (open, made) = self.levels.get_mut(level).ok_or_else(|| Error::bug("a level of a tree is not open"))?;
        // Seven levels hold any stream, so a level fits into a byte.
        let node = Node { level: level as u8 + 1, children: std::mem::take(open) };
        let index = *made;
        *made += 1;
        let len = node.children.iter().map(|child| child.len).sum();
        let predecessor = parent.node_id(node.level, index)?;
        let id = writer.put_node(&node.encode(), predecessor)?;
        self.push_at(level + 1, Child { id, len }, writer, parent)
    }

    /// Closes the open nodes, level by level, and returns the root. A tree of one chunk has no node: the chunk is its top.
    pub fn finish(mut self, writer: &mut ChunkWriter<'_>, parent: &mut TreeCursor<'_>) -> Result<StreamRoot> {
        let mut level = 0;
        while let Some((open, made)) = self.levels.get(level) {
            let topmost = level + 1 == self.levels.len();
            match (open.as_slice(), *made) {
                // A single child on the highest level, and no node made there: that child is the top of the tree. Levels are few, as above.
                ([only], 0) if topmost => return Ok(StreamRoot { len: self.len, levels: level as u8, top: Some(only.id) }),
                ([], _) => level += 1,
                _ => {
                    self.close_node(level, writer, parent)?;
                    level += 1;
                }
            }
        }
        Ok(StreamRoot { len: 0, levels: 0, top: None })
    }
}

impl Default for TreeWriter {
    fn default() -> Self {
        Self::new()
    }
}
