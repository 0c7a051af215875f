//! Where the chunks of one stream go.

use super::moved::{Content, Moved, OldStream};
use crate::error::Result;
use crate::id::SourceId;
use crate::progress::Monitor;
use crate::store::codec::similarity::{Features, PIECE_LEN, Sampler};
use crate::store::format::snapshot::StreamRoot;
use crate::store::repo::{ChunkWriter, FeatureKeeper, NewChunk, WriteSession};

/// Stores the chunks of one stream, looks for those that have moved, and keeps the features for the next backup to do the same.
pub(super) struct Sink<'a> {
    moved: Option<Moved<'a>>,
    keeper: Option<(FeatureKeeper, Sampler)>,
}

/// The part of a chunk's bytes that counts as progress when the chunk is stored, if it was set aside after reading. The rest counts when it is
/// read. So progress goes on to the end of a backup, and its sum is the bytes of the source.
pub(super) fn progress_when_stored(chunk_len: usize) -> u64 {
    (chunk_len as u64).div_ceil(2)
}

/// Makes the sinks of one backup.
#[derive(Clone, Copy)]
pub(super) struct Sinks<'a> {
    pub(super) session: &'a WriteSession,
    pub(super) monitor: &'a dyn Monitor,
    pub(super) source: SourceId,
}

impl<'a> Sinks<'a> {
    /// The sink of a stream of `len` bytes, if that is known. `old` are the streams of the parent snapshot in which moved content is looked for;
    /// `parent` is the root of the one whose chunks lie at the same places.
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
    /// Of a stream that is stored as it comes, with nothing to look for and nothing to keep.
    pub(super) fn plain() -> Self {
        Sink { moved: None, keeper: None }
    }

    /// Keeps the features of a chunk at this place of the stream. Each piece belongs to the chunk in which it starts.
    pub(super) fn keep(&self, offset: u64, plain: &[u8], inherited: bool) {
        let Some((keeper, sampler)) = &self.keeper else { return };
        if inherited && keeper.continues() {
            return;
        }
        let first = offset.next_multiple_of(PIECE_LEN as u64);
        let owned = plain.get((first - offset) as usize..).unwrap_or_default();
        let features: Vec<Features> = owned.chunks(PIECE_LEN).map(|piece| sampler.features(piece)).collect();
        keeper.put(first / PIECE_LEN as u64, &features);
    }

    /// Stores chunks, each with its place in the stream; the work is shared among the writers. Gives the progress that is still to come for
    /// chunks that were set aside: [`progress_when_stored`].
    pub(super) fn store(&self, writers: &mut [ChunkWriter<'_>], chunks: Vec<(u64, NewChunk<'_>)>) -> Result<u64> {
        match &self.moved {
            Some(moved) => moved.store(writers, &chunks),
            None => {
                ChunkWriter::put_shared(writers, &chunks.into_iter().map(|(_, chunk)| chunk).collect::<Vec<_>>())?;
                Ok(0)
            }
        }
    }

    /// Stores what was set aside to be looked for. To be called when all chunks have come.
    pub(super) fn finish(&mut self) -> Result<()> {
        self.moved.take().map_or(Ok(()), |moved| moved.finish())
    }

    /// What keeps the features, to be finished after the commit.
    pub(super) fn into_keeper(self) -> Option<FeatureKeeper> {
        self.keeper.map(|(keeper, _)| keeper)
    }
}
