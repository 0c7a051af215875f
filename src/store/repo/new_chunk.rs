//! The input of a writer: new chunks, each with references to stored chunks that it probably resembles. References are guesses: a wrong one
//! costs bytes, never data.

use crate::id::ChunkId;

/// A chunk that will be stored.
#[derive(Debug, Clone)]
pub struct NewChunk<'a> {
    /// Its id.
    pub id: ChunkId,
    /// Its plain bytes.
    pub plain: &'a [u8],
    /// Stored chunks that it probably resembles, the best first. The lineage of the one that is taken continues.
    pub references: Vec<Reference>,
}

/// A part of a stored chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BaseSlice {
    /// The chunk.
    pub id: ChunkId,
    /// Where the part starts in it, bytes.
    pub offset: u32,
    /// Its length, bytes.
    pub len: u32,
}

/// One guess at what a new chunk resembles.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reference {
    /// The chunk in the same place in the parent snapshot. Its lineage continues.
    pub predecessor: Option<ChunkId>,
    /// Parts of stored chunks whose content is probably in the new chunk, in the order in which they stand in the prefix. Empty means the
    /// whole predecessor. If they exceed the format's bounds for a prefix, the chunk is stored whole.
    pub slices: Vec<BaseSlice>,
    /// Parts of other chunks whose content has moved to the predecessor's place, the best last. For pages only. Parts for which there is no
    /// room are left out.
    pub beside: Vec<BaseSlice>,
}

impl Reference {
    /// A reference to the chunk in the same place.
    pub fn to(predecessor: Option<ChunkId>) -> Self {
        Reference { predecessor, ..Reference::default() }
    }

    /// The chunks that it names. A chunk may come several times.
    pub(super) fn chunks(&self) -> impl Iterator<Item = ChunkId> {
        self.predecessor.into_iter().chain(self.slices.iter().chain(&self.beside).map(|slice| slice.id))
    }
}
