//! What a writer is given: chunks, and what they are probably like.

use crate::id::ChunkId;

/// A chunk to be stored.
#[derive(Debug, Clone)]
pub struct NewChunk<'a> {
    /// Its id.
    pub id: ChunkId,
    /// Its plain bytes.
    pub plain: &'a [u8],
    /// What it is probably like, the best first; the lineage of the one that is taken goes on.
    pub references: Vec<Reference>,
}

/// A part of a chunk that is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BaseSlice {
    /// The chunk.
    pub id: ChunkId,
    /// Where the part starts in it, bytes.
    pub offset: u32,
    /// Its length, bytes.
    pub len: u32,
}

/// What a new chunk is probably like.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reference {
    /// The chunk that stood in its place in the parent snapshot; its lineage goes on.
    pub predecessor: Option<ChunkId>,
    /// The parts of stored chunks that hold what is probably in it, in the order in which they are to stand before it; empty for the whole predecessor.
    /// If they are not within the format's bounds for a prefix, the chunk is stored whole.
    pub slices: Vec<BaseSlice>,
    /// The parts of other chunks that hold what has come to the predecessor's place, the best last; for pages only. Those for which there is no
    /// room are left out.
    pub beside: Vec<BaseSlice>,
}

impl Reference {
    /// To the chunk that stood in its place.
    pub fn to(predecessor: Option<ChunkId>) -> Self {
        Reference { predecessor, ..Reference::default() }
    }

    /// The chunks that it names; one may come several times.
    pub(super) fn chunks(&self) -> impl Iterator<Item = ChunkId> {
        self.predecessor.into_iter().chain(self.slices.iter().chain(&self.beside).map(|slice| slice.id))
    }
}
