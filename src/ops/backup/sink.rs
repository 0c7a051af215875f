//! Stores the chunks of one stream and keeps their features for the next backup.
//!
//! A sink hides whether moved content is looked for ([`Moved`]) and whether features are kept. Both are optional:
//! without a kept parent, for short streams, or without a place for features they are left out.

use super::moved::{Content, Moved, OldStream};
use crate::error::Result;
use crate::id::SourceId;
use crate::ops::number::{in_memory, wide};
use crate::progress::Monitor;
use crate::store::codec::similarity::{Features, PIECE_LEN, Sampler};
use crate::store::format::snapshot::StreamRoot;
use crate::store::repo::{ChunkWriter, FeatureKeeper, NewChunk, WriteSession};

/// The way of the chunks of one stream into the store.
pub(super) struct Sink<'a> {
    moved: Option<Moved<'a>>,
    keeper: Option<(FeatureKeeper, Sampler)>,
}

/// The part of a chunk's bytes that counts as progress when the chunk is stored, if it was set aside after reading. The rest counts when it is
/// read. So progress goes on to the end of a backup, and its sum is the bytes of the source.
pub(super) fn progress_when_stored(chunk_len: usize) -> u64 {
    wide(chunk_len).div_ceil(2)
}

/// Makes the sinks of one backup.
#[derive(Clone, Copy)]
pub(super) struct Sinks<'a> {
    pub(super) session: &'a WriteSession,
    pub(super) monitor: &'a dyn Monitor,
    pub(super) source: SourceId,
}

impl<'a> Sinks<'a> {
    /// Makes the sink of a stream of `len` bytes, if that is known. `old`: the streams of the parent snapshot in
    /// which moved content is looked for. `parent`: the root of the stream whose chunks lie at the same places.
    pub(super) fn make(
        self,
        name: &[u8],
        len: Option<u64>,
        content: Content,
        old: &[(Vec<u8>, StreamRoot)],
        parent: Option<&StreamRoot>,
    ) -> Result<Sink<'a>> {
        let repo = self.session.repository();
        let kept = |(name, root): &(Vec<u8>, StreamRoot)| {
            let features = repo.kept_features(self.source, name, root)?;
            Some(OldStream { root: *root, features })
        };
        let moved = Moved::new(self.session, self.monitor, old.iter().filter_map(kept).collect(), content)?;
        let keeper = repo.keep_features(self.source, name, len, parent);
        Ok(Sink { moved, keeper: keeper.map(|keeper| (keeper, repo.sampler())) })
    }
}

impl Sink<'_> {
    /// A sink that stores chunks at once, looks for nothing and keeps nothing.
    pub(super) fn plain() -> Self {
        Sink { moved: None, keeper: None }
    }

    /// Keeps the features of a chunk at this place of the stream. A piece belongs to the chunk in which it starts.
    pub(super) fn keep(&self, offset: u64, plain: &[u8], inherited: bool) {
        let Some((keeper, sampler)) = &self.keeper else { return };
        if inherited && keeper.continues() {
            // The keeper copies the features of unchanged chunks from the parent's.
            return;
        }
        let first = offset.next_multiple_of(wide(PIECE_LEN));
        let owned = plain.get(in_memory(first - offset)..).unwrap_or_default();
        let features: Vec<Features> = owned.chunks(PIECE_LEN).map(|piece| sampler.features(piece)).collect();
        keeper.put(first / wide(PIECE_LEN), &features);
    }

    /// Stores chunks, each with its place in the stream. The writers share the work, each in its own thread. Returns the
    /// progress that is still to come for chunks that were set aside: see [`progress_when_stored`].
    pub(super) fn store(&self, writers: &mut [ChunkWriter<'_>], chunks: Vec<(u64, NewChunk<'_>)>) -> Result<u64> {
        match &self.moved {
            Some(moved) => moved.store(writers, &chunks),
            None => {
                ChunkWriter::put_shared(writers, &chunks.into_iter().map(|(_, chunk)| chunk).collect::<Vec<_>>())?;
                Ok(0)
            }
        }
    }

    /// Stores the chunks that were set aside to be looked for. To be called after the last chunk.
    pub(super) fn finish(&mut self) -> Result<()> {
        self.moved.take().map_or(Ok(()), |moved| moved.finish())
    }

    /// The keeper of the features, which is finished after the commit.
    pub(super) fn into_keeper(self) -> Option<FeatureKeeper> {
        self.keeper.map(|(keeper, _)| keeper)
    }
}
