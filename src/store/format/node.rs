//! Tree nodes: lists of the ids below them. A node is stored as a chunk under its own id.
//!
//! A list has exactly one encoding. Otherwise one tree could have many ids, and equal trees would not be stored once.

use super::wire::Input;
use super::{Malformed, NODE_CHILDREN_MAX, TREE_LEVELS_MAX};
use crate::id::{ChunkId, ID_LEN};

/// Bytes before the ids: tag, level, count, reserved, span.
pub const NODE_HEADER_LEN: usize = 16;
/// The first byte of a node.
pub const NODE_TAG: u8 = 0x4e;

/// One node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// 1 if its children are chunks. Else they are nodes of the level below.
    pub level: u8,
    /// The children in the order of the stream.
    pub children: Vec<Child>,
}

/// One child of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Child {
    /// The id of the chunk or node.
    pub id: ChunkId,
    /// How many bytes of the stream are in it or below it.
    pub len: u64,
}

impl Node {
    /// The stored bytes. If all children except the last have the same length (the span) and the last is not longer,
    /// only two lengths are stored: `span`, ids, length of the last child. Else `span` is 0, and after the ids follows
    /// the length of each child.
    pub fn encode(&self) -> Vec<u8> {
        let span = self.uniform_span();
        let mut out = Vec::with_capacity(NODE_HEADER_LEN + self.children.len() * (ID_LEN + 8));
        out.extend_from_slice(&[NODE_TAG, self.level]);
        // A writer gives a node at most NODE_FANOUT children, so the cast keeps the value.
        debug_assert!(u16::try_from(self.children.len()).is_ok());
        out.extend_from_slice(&(self.children.len() as u16).to_le_bytes());
        out.extend_from_slice(&0u32.to_le_bytes());
        out.extend_from_slice(&span.unwrap_or(0).to_le_bytes());
        self.children.iter().for_each(|child| out.extend_from_slice(child.id.as_bytes()));
        match span {
            Some(_) => out.extend_from_slice(&self.children.last().map_or(0, |last| last.len).to_le_bytes()),
            None => self.children.iter().for_each(|child| out.extend_from_slice(&child.len.to_le_bytes())),
        }
        out
    }

    /// The length that all children except the last have, if the short encoding is possible.
    fn uniform_span(&self) -> Option<u64> {
        let (last, others) = self.children.split_last()?;
        let span = self.children.first()?.len;
        (others.iter().all(|child| child.len == span) && last.len <= span).then_some(span)
    }

    /// Reads the stored bytes of a node of this level.
    pub fn decode(bytes: &[u8], level: u8) -> Result<Self, Malformed> {
        let mut input = Input::new(bytes);
        if input.array::<2>()? != [NODE_TAG, level] || level == 0 || level > TREE_LEVELS_MAX {
            return Err(Malformed::new("it is not a tree node of the level that its parent says"));
        }
        let count = usize::from(input.u16()?);
        if count == 0 || count > NODE_CHILDREN_MAX || input.u32()? != 0 {
            return Err(Malformed::new("the node's header is out of bounds"));
        }
        let span = input.u64()?;
        let ids = input.bytes(count * ID_LEN)?.as_chunks::<ID_LEN>().0;
        let mut children: Vec<Child> = ids.iter().map(|id| Child { id: ChunkId(*id), len: span }).collect();
        if span == 0 {
            for child in &mut children {
                child.len = input.u64()?;
            }
        } else {
            let len = input.u64()?;
            if len > span {
                return Err(Malformed::new("the node's last child is longer than the others"));
            }
            children.iter_mut().rev().take(1).for_each(|last| last.len = len);
        }
        input.end()?;
        if children.iter().any(|child| child.len == 0) {
            return Err(Malformed::new("a child of the node is empty"));
        }
        let node = Node { level, children };
        // The short encoding must be used if it is possible: one list, one encoding.
        match node.uniform_span().unwrap_or(0) == span {
            true => Ok(node),
            false => Err(Malformed::new("the lengths of the node's children are not in their shortest form")),
        }
    }

    /// Bytes of the stream below this node; `None` if the sum overflows.
    pub fn span_bytes(&self) -> Option<u64> {
        self.children.iter().try_fold(0u64, |sum, child| sum.checked_add(child.len))
    }
}
