//! Write sessions: from the first chunk to the one commit point.
//!
//! "Mark, then look": packs durable, then `pending/<id>` durable (the mark), then a look at what prune has marked and at whether everything
//! that was built upon is there, then `snapshots/<id>`. No lock and no clock decides. What inherited subtrees need is safe while
//! the parent is listed; every other pack that was built upon is looked for by name.

mod commit;
mod rescue;

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::Repository;
use super::locate::{CopyPlace, StoredCopy};
use super::packer::Packer;
use super::reader::Reader;
use super::writer::ChunkWriter;
use crate::backend::{ObjectKey, ObjectKind};
use crate::error::{Error, Result};
use crate::format::pack::{ChunkEntry, Encoding, IdPrefix};
use crate::format::snapshot::SnapshotStats;
use crate::id::{ChunkId, PackId, SnapshotId};

pub use commit::{Committed, SnapshotDraft};

/// What a session builds upon.
#[derive(Debug, Clone, Default)]
pub struct SessionOptions {
    /// The snapshot whose trees may be inherited.
    pub parent: Option<SnapshotId>,
}

/// Takes chunks from several threads and commits one snapshot. Dropped without a commit it leaves packs that nothing refers to.
pub struct WriteSession {
    repo: Repository,
    reader: Reader,
    packer: Packer,
    parent: Option<SnapshotId>,
    /// Chunks of this session that are not in the catalog yet.
    claimed: Arc<Mutex<HashSet<ChunkId>>>,
    /// Packs of others that this session builds upon, apart from what it inherits from the parent.
    used: Mutex<HashSet<PackId>>,
    /// Packs that a prune has marked when the session began; what is in them counts as absent.
    tombstoned: HashSet<PackId>,
    stats: Mutex<SnapshotStats>,
    poisoned: AtomicBool,
}

impl WriteSession {
    /// Begins a session. The catalog should be fresh: see [`Repository::refresh`].
    pub fn begin(repo: &Repository, options: &SessionOptions) -> Result<Self> {
        let claimed = Arc::new(Mutex::new(HashSet::new()));
        let forget = Arc::clone(&claimed);
        let packer = Packer::new(repo, move |ids| {
            let mut claimed = forget.lock().unwrap_or_else(PoisonError::into_inner);
            ids.iter().for_each(|id| {
                claimed.remove(id);
            });
        });
        Ok(WriteSession {
            repo: repo.clone(),
            reader: Reader::new(repo),
            packer,
            parent: options.parent,
            claimed,
            used: Mutex::default(),
            tombstoned: list_tombstones(repo)?,
            stats: Mutex::default(),
            poisoned: AtomicBool::new(false),
        })
    }

    /// The repository.
    pub fn repository(&self) -> &Repository {
        &self.repo
    }

    /// Reads what is stored already.
    pub fn reader(&self) -> &Reader {
        &self.reader
    }

    /// A writer for one thread.
    pub fn writer(&self) -> Result<ChunkWriter<'_>> {
        ChunkWriter::new(self)
    }

    /// Counts bytes that were read from the source and hashed.
    pub fn count_read(&self, bytes: u64) {
        self.stats.lock().unwrap_or_else(PoisonError::into_inner).read_bytes += bytes;
    }

    /// Runs a step of the session; if it fails, nothing more is accepted. Every failure path of the session goes through here.
    pub(super) fn guarded<T>(&self, step: impl FnOnce() -> Result<T>) -> Result<T> {
        if self.poisoned.load(Ordering::Acquire) {
            return Err(Error::Poisoned);
        }
        step().inspect_err(|_| self.poison())
    }

    /// Nothing more is accepted.
    pub(super) fn poison(&self) {
        self.poisoned.store(true, Ordering::Release);
    }

    pub(super) fn packer(&self) -> &Packer {
        &self.packer
    }

    /// Whether this chunk is new to the session; a chunk is claimed once.
    pub(super) fn claim(&self, id: &ChunkId) -> bool {
        self.claimed.lock().unwrap_or_else(PoisonError::into_inner).insert(*id)
    }

    /// If a copy that counts is stored, builds upon it.
    pub(super) fn use_stored(&self, id: &ChunkId) -> Result<bool> {
        let Some(copy) = self.trusted_copies(id)?.into_iter().next() else { return Ok(false) };
        self.use_copy(&copy)?;
        self.claimed.lock().unwrap_or_else(PoisonError::into_inner).remove(id);
        Ok(true)
    }

    /// Notes all packs that are needed to read this copy. Copies whose bases are gone do not count: see [`Self::trusted_copies`].
    pub(super) fn use_copy(&self, copy: &StoredCopy) -> Result<()> {
        let closure = self.closure(copy)?.ok_or_else(|| Error::Stale { detail: format!("a base of chunk {} is gone", copy.entry.id) })?;
        self.used.lock().unwrap_or_else(PoisonError::into_inner).extend(closure);
        Ok(())
    }

    /// The copies of a chunk that may be built upon: in no tombstoned pack, and all of their bases neither.
    pub(super) fn trusted_copies(&self, id: &ChunkId) -> Result<Vec<StoredCopy>> {
        let mut trusted = Vec::new();
        for copy in self.repo.copies(id)? {
            if self.closure(&copy)?.is_some() {
                trusted.push(copy);
            }
        }
        Ok(trusted)
    }

    /// The same for the base of a delta of level `below`.
    pub(super) fn trusted_bases(&self, prefix: IdPrefix, below: u8) -> Result<Vec<StoredCopy>> {
        let mut bases = self.repo.base_copies(prefix, below)?;
        bases.retain(|base| !self.tombstoned.contains(&base.table.pack.id));
        Ok(bases)
    }

    /// The packs that reading this copy takes; `None` if one of them does not count.
    fn closure(&self, copy: &StoredCopy) -> Result<Option<HashSet<PackId>>> {
        closure_without(&self.repo, copy, &|pack| !self.tombstoned.contains(pack))
    }

    pub(super) fn count_new(&self, entry: &ChunkEntry, encoded_len: usize) {
        let mut stats = self.stats.lock().unwrap_or_else(PoisonError::into_inner);
        let bytes = encoded_len as u64;
        if entry.node {
            stats.node_bytes += bytes;
            return;
        }
        stats.new_chunks += 1;
        stats.new_plain_bytes += u64::from(entry.plain_len);
        match entry.encoding {
            Encoding::Raw => stats.raw_bytes += bytes,
            Encoding::Zstd => stats.zstd_bytes += bytes,
            Encoding::Delta => stats.delta_bytes += bytes,
        }
    }
}

impl Repository {
    /// Whether the catalog knows everything that reading this copy takes.
    pub(crate) fn is_complete(&self, copy: &StoredCopy) -> Result<bool> {
        Ok(closure_without(self, copy, &|_| true)?.is_some())
    }
}

/// The packs that prune has marked.
pub(super) fn list_tombstones(repo: &Repository) -> Result<HashSet<PackId>> {
    let mut marked = HashSet::new();
    for info in repo.backend().list(ObjectKind::Tombstone)? {
        if let ObjectKey::Tombstone(id) = info?.key {
            marked.insert(id);
        }
    }
    Ok(marked)
}

/// The packs that reading this copy takes, bases of bases included, using only packs that count; `None` if that cannot be done. For every base one
/// copy is chosen: of those that can be read in this way the one of the lowest level, as prune does when it keeps one.
pub(super) fn closure_without(repo: &Repository, copy: &StoredCopy, counts: &dyn Fn(&PackId) -> bool) -> Result<Option<HashSet<PackId>>> {
    let mut packs = HashSet::new();
    let found = gather(repo, copy, counts, &mut HashMap::new(), &mut packs)?;
    Ok(found.then_some(packs))
}

/// Whether a copy can be read; adds the packs. A base is of a lower level than its delta, so this goes at most as deep as levels go.
fn gather(
    repo: &Repository,
    copy: &StoredCopy,
    counts: &dyn Fn(&PackId) -> bool,
    known: &mut HashMap<CopyPlace, bool>,
    packs: &mut HashSet<PackId>,
) -> Result<bool> {
    if let Some(found) = known.get(&copy.place()) {
        return Ok(*found);
    }
    let mut found = counts(&copy.table.pack.id);
    for slice in &copy.entry.slices {
        let bases = if found { repo.base_copies(slice.base, copy.entry.level)? } else { break };
        found = false;
        for base in bases {
            found = gather(repo, &base, counts, known, packs)?;
            if found {
                break;
            }
        }
    }
    if found {
        packs.insert(copy.table.pack.id);
    }
    known.insert(copy.place(), found);
    Ok(found)
}
