//! Write sessions: from the first chunk to the one commit point.
//!
//! The order is "mark, then look". First the packs are made durable, then the record in `pending` (the mark). Then the session looks for marks
//! of a prune, and for everything that the snapshot relies on. Then it writes the record in `snapshots`. No lock and no clock decides.
//! Inherited subtrees are safe while the snapshots that they come from are listed. Every other pack that the snapshot relies on is looked for
//! by name.

mod closure;
mod commit;
mod rescue;
mod suspects;

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::Repository;
use super::locate::StoredCopy;
use super::packer::Packer;
use super::reader::Reader;
use crate::error::Result;
use crate::id::{ChunkId, PackId, SnapshotId, SourceId, SourceTag};
use crate::store::backend::{ObjectKey, ObjectKind};
use crate::store::format::pack::{ChunkEntry, Encoding};
use crate::store::format::snapshot::SnapshotStats;
use crate::store::repo::u64_from;

pub(super) use closure::Closure;
pub(crate) use commit::later;
pub use commit::{Committed, SnapshotDraft};
pub use suspects::Suspects;

/// The snapshot on which a session builds.
#[derive(Debug, Clone, Default)]
pub struct SessionOptions {
    /// The snapshot whose trees may be inherited, and its source.
    pub parent: Option<(SnapshotId, SourceId)>,
}

/// Takes chunks from several threads and commits one snapshot. If it is dropped without a commit, it leaves packs that nothing refers to.
pub struct WriteSession {
    repo: Repository,
    reader: Reader,
    packer: Packer,
    /// The snapshots whose trees are inherited: the parent, and others with streams that the parent does not have.
    inherits: Vec<(SnapshotId, SourceTag)>,
    /// Chunks that this session is storing and that the catalog does not have yet.
    claimed: Arc<Mutex<HashSet<ChunkId>>>,
    /// Packs of earlier sessions that this snapshot relies on, apart from what it inherits.
    used: Mutex<HashSet<PackId>>,
    /// Packs that a prune had marked when the session began. What is in them counts as absent.
    tombstoned: HashSet<PackId>,
    /// Packs that seem damaged or gone. If this is set, no chunk counts as stored before it was looked for, also not an inherited one.
    suspects: Option<Suspects>,
    /// Chunks that are stored anew, whole, because their stored copies are damaged or gone. Older deltas can stand on the new copies.
    mended: Mutex<HashSet<ChunkId>>,
    stats: Mutex<SnapshotStats>,
    /// Whether anything has failed. The packer's threads set it too.
    poisoned: Arc<AtomicBool>,
}

impl WriteSession {
    /// Begins a session. The catalog should be fresh: see [`Repository::refresh`].
    pub fn begin(repo: &Repository, options: &SessionOptions) -> Result<Self> {
        let claimed = Arc::new(Mutex::new(HashSet::new()));
        let forget = Arc::clone(&claimed);
        let poisoned = Arc::new(AtomicBool::new(false));
        // Once a pack is in the catalog, its chunks are found there. The set of claimed chunks then need not grow with the backup.
        let packer = Packer::new(repo, Arc::clone(&poisoned), move |ids| {
            let mut claimed = forget.lock().unwrap_or_else(PoisonError::into_inner);
            ids.iter().for_each(|id| {
                claimed.remove(id);
            });
        });
        Ok(WriteSession {
            repo: repo.clone(),
            reader: Reader::new(repo),
            packer,
            inherits: options.parent.iter().map(|(id, source)| (*id, repo.keys().source_tag(source))).collect(),
            claimed,
            used: Mutex::default(),
            tombstoned: list_tombstones(repo)?,
            suspects: None,
            mended: Mutex::default(),
            stats: Mutex::default(),
            poisoned,
        })
    }

    /// The repository.
    pub fn repository(&self) -> &Repository {
        &self.repo
    }

    /// Says that trees of this snapshot, which belongs to this source, may be inherited, too.
    pub fn inherit_from(&mut self, snapshot: SnapshotId, source: &SourceId) {
        self.inherits.push((snapshot, self.repo.keys().source_tag(source)));
    }

    /// Reads what is stored already.
    pub fn reader(&self) -> &Reader {
        &self.reader
    }

    /// Counts bytes that were read from the source and hashed.
    pub fn count_read(&self, bytes: u64) {
        self.stats.lock().unwrap_or_else(PoisonError::into_inner).read_bytes += bytes;
    }

    /// Runs one step of the session. After a failure nothing more is accepted. Every failure of the session goes through here.
    pub(super) fn guarded<T>(&self, step: impl FnOnce() -> Result<T>) -> Result<T> {
        self.check()?;
        step().inspect_err(|_| self.poison())
    }

    /// Whether the session still accepts anything. Long loops that put nothing ask this too, so that they end after a failure elsewhere.
    ///
    /// # Errors
    /// The reason why a pack could not be written; [`crate::Error::Poisoned`] after a failure elsewhere.
    pub fn check(&self) -> Result<()> {
        self.packer.check()
    }

    /// Makes the session accept nothing more.
    pub fn poison(&self) {
        self.poisoned.store(true, Ordering::Release);
    }

    pub(super) fn packer(&self) -> &Packer {
        &self.packer
    }

    #[cfg(test)]
    pub(super) fn packer_mut(&mut self) -> &mut Packer {
        &mut self.packer
    }

    /// Whether this chunk is new to the session. Only the first call for a chunk says so.
    pub(super) fn claim(&self, id: &ChunkId) -> bool {
        self.claimed.lock().unwrap_or_else(PoisonError::into_inner).insert(*id)
    }

    /// Takes a claim back, because the chunk was not stored.
    pub(super) fn unclaim(&self, id: &ChunkId) {
        self.claimed.lock().unwrap_or_else(PoisonError::into_inner).remove(id);
    }

    /// Whether a copy of this chunk is stored that counts. If so, the snapshot relies on it from now on.
    pub(super) fn use_stored(&self, id: &ChunkId) -> Result<bool> {
        let Some((_, closure)) = self.trusted(self.repo.copies(id)?)? else { return Ok(false) };
        self.build_upon(&closure);
        // The catalog has the chunk, so a later put finds it there.
        self.unclaim(id);
        Ok(true)
    }

    /// Notes that the snapshot relies on all packs of this closure.
    pub(super) fn build_upon(&self, closure: &Closure) {
        self.used.lock().unwrap_or_else(PoisonError::into_inner).extend(closure.packs());
    }

    /// The first of these copies that may be relied on, with its closure: neither it nor a base that it needs lies in a pack that a prune
    /// has marked or that is suspect.
    pub(super) fn trusted(&self, copies: Vec<StoredCopy>) -> Result<Option<(StoredCopy, Closure)>> {
        for copy in copies {
            // The whole chain is looked at. A copy that lies in a good pack is of no use if a base of it is going to be deleted.
            if let Some(closure) = Closure::of(self.reader.places(), &copy, &|pack| self.counts(pack))? {
                return Ok(Some((copy, closure)));
            }
        }
        Ok(None)
    }

    /// Counts a new chunk.
    pub(super) fn count_chunk(&self, chunk: &ChunkEntry) {
        if !chunk.node {
            let mut stats = self.stats.lock().unwrap_or_else(PoisonError::into_inner);
            stats.new_chunks += 1;
            stats.new_plain_bytes += u64::from(chunk.plain_len);
        }
    }

    /// Counts the encoded bytes of a new frame, of nodes or of others.
    pub(super) fn count_frame(&self, encoding: Encoding, encoded_len: usize, nodes: bool) {
        let mut stats = self.stats.lock().unwrap_or_else(PoisonError::into_inner);
        // Frames of nodes are counted apart, because they are the price of metadata and not of data.
        let bytes = match (nodes, encoding) {
            (true, _) => &mut stats.node_bytes,
            (false, Encoding::Raw) => &mut stats.raw_bytes,
            (false, Encoding::Zstd) => &mut stats.zstd_bytes,
            (false, Encoding::Delta | Encoding::Patch) => &mut stats.delta_bytes,
        };
        *bytes += u64_from(encoded_len);
    }
}

/// The packs that prune has marked.
pub(super) fn list_tombstones(repo: &Repository) -> Result<HashSet<PackId>> {
    let mut marked = HashSet::new();
    for key in repo.backend().names(ObjectKind::Tombstone)? {
        if let ObjectKey::Tombstone(id) = key? {
            marked.insert(id);
        }
    }
    Ok(marked)
}
