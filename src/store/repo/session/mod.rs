//! Write sessions: from the first chunk to the one commit point.
//!
//! "Mark, then look": packs durable, then the record durable in `pending` (the mark), then a look at what prune has marked and at whether everything
//! that was built upon is there, then the record in `snapshots`. No lock and no clock decides. What inherited subtrees need is safe while
//! the snapshots that they come from are listed; every other pack that was built upon is looked for by name.

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

pub(super) use closure::Closure;
pub(crate) use commit::later;
pub use commit::{Committed, SnapshotDraft};
pub use suspects::Suspects;

/// What a session builds upon.
#[derive(Debug, Clone, Default)]
pub struct SessionOptions {
    /// The snapshot whose trees may be inherited, and its source.
    pub parent: Option<(SnapshotId, SourceId)>,
}

/// Takes chunks from several threads and commits one snapshot. Dropped without a commit it leaves packs that nothing refers to.
pub struct WriteSession {
    repo: Repository,
    reader: Reader,
    packer: Packer,
    /// The snapshots whose trees are inherited: the parent, and others that have streams which the parent lacks.
    inherits: Vec<(SnapshotId, SourceTag)>,
    /// Chunks of this session that are not in the catalog yet.
    claimed: Arc<Mutex<HashSet<ChunkId>>>,
    /// Packs of others that this session builds upon, apart from what it inherits.
    used: Mutex<HashSet<PackId>>,
    /// Packs that a prune has marked when the session began; what is in them counts as absent.
    tombstoned: HashSet<PackId>,
    /// Packs that seem to be damaged or gone; if there is such a set, nothing is believed to be stored before it was looked for.
    suspects: Option<Suspects>,
    /// Chunks whose stored copies cannot be relied upon, and which are stored anew, whole, so that older deltas can stand on them.
    healed: Mutex<HashSet<ChunkId>>,
    stats: Mutex<SnapshotStats>,
    /// Whether anything has failed; the packer's threads set it too.
    poisoned: Arc<AtomicBool>,
}

impl WriteSession {
    /// Begins a session. The catalog should be fresh: see [`Repository::refresh`].
    pub fn begin(repo: &Repository, options: &SessionOptions) -> Result<Self> {
        let claimed = Arc::new(Mutex::new(HashSet::new()));
        let forget = Arc::clone(&claimed);
        let poisoned = Arc::new(AtomicBool::new(false));
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
            healed: Mutex::default(),
            stats: Mutex::default(),
            poisoned,
        })
    }

    /// The repository.
    pub fn repository(&self) -> &Repository {
        &self.repo
    }

    /// Trees of this snapshot, which is of this source, may be inherited, too.
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

    /// Runs a step of the session; if it fails, nothing more is accepted. Every failure path of the session goes through here.
    pub(super) fn guarded<T>(&self, step: impl FnOnce() -> Result<T>) -> Result<T> {
        self.check()?;
        step().inspect_err(|_| self.poison())
    }

    /// Whether the session still accepts anything. Long loops that put nothing ask this too, so that a failure elsewhere ends them.
    ///
    /// # Errors
    /// Why a pack could not be written; [`crate::Error::Poisoned`] after a failure elsewhere.
    pub fn check(&self) -> Result<()> {
        self.packer.check()
    }

    /// Nothing more is accepted.
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

    /// Whether this chunk is new to the session; a chunk is claimed once.
    pub(super) fn claim(&self, id: &ChunkId) -> bool {
        self.claimed.lock().unwrap_or_else(PoisonError::into_inner).insert(*id)
    }

    /// Takes a claim back: the chunk was not stored.
    pub(super) fn unclaim(&self, id: &ChunkId) {
        self.claimed.lock().unwrap_or_else(PoisonError::into_inner).remove(id);
    }

    /// If a copy that counts is stored, builds upon it.
    pub(super) fn use_stored(&self, id: &ChunkId) -> Result<bool> {
        let Some((_, closure)) = self.trusted(self.repo.copies(id)?)? else { return Ok(false) };
        self.build_upon(&closure);
        self.unclaim(id);
        Ok(true)
    }

    /// Notes all packs that are needed to read what has this closure.
    pub(super) fn build_upon(&self, closure: &Closure) {
        self.used.lock().unwrap_or_else(PoisonError::into_inner).extend(closure.packs());
    }

    /// The first of these copies that may be built upon, with its closure: it is in no tombstoned pack, and neither are the bases that reading it
    /// takes.
    pub(super) fn trusted(&self, copies: Vec<StoredCopy>) -> Result<Option<(StoredCopy, Closure)>> {
        for copy in copies {
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
        let bytes = match (nodes, encoding) {
            (true, _) => &mut stats.node_bytes,
            (false, Encoding::Raw) => &mut stats.raw_bytes,
            (false, Encoding::Zstd) => &mut stats.zstd_bytes,
            (false, Encoding::Delta | Encoding::Patch) => &mut stats.delta_bytes,
        };
        *bytes += encoded_len as u64;
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
