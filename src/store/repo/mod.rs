//! A repository: opening it, its objects, the catalog over them, and reading and writing chunks. This is the only layer that knows both keys
//! and bytes.
//!
//! The table says what may run beside what, in any number of processes on any number of hosts. Nothing waits and nothing locks.
//!
//! | | backup | restore, look, check | prune |
//! |---|---|---|---|
//! | backup | safe: packs have names of their own, and the snapshot record is the one commit point | safe: nothing that is listed ever changes | safe: mark, then look (see [`session`]) |
//! | forget, mark | safe: a writer whose parent is gone walks its whole tree | a snapshot may go after it was named: a clear error | safe: see `ops/forget/mod.rs` |
//! | restore, look, check | safe | safe | a pack may go while its snapshot is forgotten: a clear error, never wrong data |
//! | repair | safe: a damaged pack gets a tombstone before it goes, as in a prune | safe: what can be read was written anew before | safe: both mark, then look |
//!
//! Entries of the journal are safe beside everything: they are only added, each under a name of its own, and only people and `status` read them.

pub mod catalog;

mod batches;
mod cache;
mod expired;
mod features;
mod forgotten;
mod heal;
mod hints;
mod journal_entries;
mod listing;
mod listing_lookup;
mod locate;
mod marks;
mod merkle;
mod names;
mod new_chunk;
mod numbers;
mod open;
mod packer;
mod places;
mod private;
mod reader;
mod rebuild;
mod refresh;
mod repack;
mod seen;
mod segments;
pub mod session;
mod spool;
mod stored_twice;
mod strings;
mod threads;
mod tolerant;
mod tree_writer;
mod vanished;
mod waiting;
mod window;
mod writer;

pub(crate) use cache::Cache;
pub(crate) use expired::{expiry_of, suspicion_of};
pub use features::{FeatureKeeper, KeptFeatures};
pub use forgotten::ForgottenList;
pub(crate) use heal::is_whole;
pub use heal::{Health, heal_pack, heal_record, health, stored_parity};
pub use hints::known_snapshots;
pub use journal_entries::LogName;
pub use listing::{ListingCuts, Part};
pub use listing_lookup::ListingLookup;
pub use locate::{CopyPlace, StoredCopy};
pub(crate) use locate::{FramePlace, PackTable};
pub(crate) use marks::LOST;
pub use marks::SnapshotMarks;
pub use merkle::{ChunkSpan, Spans, TreeCursor};
pub(crate) use merkle::{read_node, zeros};
pub(crate) use names::Misplaced;
pub use new_chunk::{BaseSlice, NewChunk, Reference};
pub(crate) use numbers::{u32_from, u64_from, usize_from};
pub use open::{InitOptions, OpenOptions};
pub use packer::{BACKUP_LEN_MAX, too_much_text};
pub use private::LocalCatalog;
pub use reader::{ChunkBytes, Reader};
pub use rebuild::Rebuilt;
pub use refresh::Refreshed;
pub(crate) use refresh::{read_pack_from, read_record_from};
pub(crate) use repack::Repacker;
pub use seen::{Trust, remember_made};
pub(crate) use segments::missing_is_damage;
pub(crate) use session::later;
pub use session::{Committed, SessionOptions, SnapshotDraft, Suspects, WriteSession};
pub use spool::{Held, Spool};
pub(crate) use strings::{put_string, string_pairs};
pub(crate) use threads::each_in_threads;
pub use tolerant::ListingLoss;
pub(crate) use tolerant::{Piece, Pieces};
pub use tree_writer::TreeWriter;
pub use vanished::Vanished;
pub use waiting::Spill;
pub(crate) use window::WAITING_MAX;
pub use writer::ChunkWriter;

use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::{Error, Result};
use crate::id::{PackId, SnapshotId};
use crate::store::backend::{Backend, ObjectKey, WriteMode};
use crate::store::crypto::Keys;
use crate::store::format::config::Config;
use crate::store::format::snapshot::SnapshotRecord;
use crate::store::format::tombstone::Tombstone;
use crate::store::format::{Kind, ObjectHeader, SALT_LEN, record};

/// An open repository. Cheap to clone; all clones are the same repository.
#[derive(Clone)]
pub struct Repository {
    inner: Arc<Inner>,
}

struct Inner {
    backend: Arc<dyn Backend>,
    config: Config,
    keys: Keys,
    local: RwLock<Arc<LocalCatalog>>,
    cache_dir: PathBuf,
    threads: usize,
    key_derivation: Duration,
    healed: heal::Healed,
}

impl std::fmt::Debug for Repository {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Repository").field("backend", &self.inner.backend).field("config", &self.inner.config).finish_non_exhaustive()
    }
}

impl Repository {
    /// Where its objects are kept.
    pub fn backend(&self) -> &dyn Backend {
        &*self.inner.backend
    }

    /// The settings that were fixed when it was made.
    pub fn config(&self) -> &Config {
        &self.inner.config
    }

    /// Its keys.
    pub fn keys(&self) -> &Keys {
        &self.inner.keys
    }

    /// The local catalog that it uses at this moment.
    pub fn catalog(&self) -> Arc<LocalCatalog> {
        Arc::clone(&self.inner.local.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Calls `work` with the catalog. If the catalog fails (it is damaged, was removed, or another process holds it), `work` is called once
    /// more, with another catalog. So `work` must not keep anything that it learnt in the first call.
    pub(crate) fn on_catalog<T>(&self, work: impl Fn(&LocalCatalog) -> Result<T>) -> Result<T> {
        let local = self.catalog();
        match work(&local) {
            Err(error) if local.has_failed(&error) => work(&*self.other_catalog(&local)?),
            other => other,
        }
    }

    /// Replaces a catalog that has failed by one into which all packs are listed. If another thread has done so already, that one is used.
    fn other_catalog(&self, failed: &Arc<LocalCatalog>) -> Result<Arc<LocalCatalog>> {
        let mut local = self.inner.local.write().unwrap_or_else(PoisonError::into_inner);
        // Under the write lock, so that only one thread lists all packs.
        if Arc::ptr_eq(&local, failed) {
            let Inner { cache_dir, keys, backend, .. } = &*self.inner;
            // A damaged catalog was replaced by an empty one, which can be shared. A catalog that another process holds is left to it.
            let other = match failed.is_damaged() {
                true => LocalCatalog::open(cache_dir, keys, &backend.location())?,
                false => LocalCatalog::private(cache_dir, keys, &backend.location())?,
            };
            let unreadable = self.list_packs_into(&other)?;
            *other.listed_all.lock().unwrap_or_else(PoisonError::into_inner) = Some(unreadable);
            *local = Arc::new(other);
        }
        Ok(Arc::clone(&local))
    }

    /// The directory of local catalogs and spools.
    pub fn cache_dir(&self) -> &Path {
        &self.inner.cache_dir
    }

    /// How many threads work for one operation.
    pub fn threads(&self) -> usize {
        self.inner.threads
    }

    /// How long deriving the key from the passphrase took.
    pub fn key_derivation(&self) -> Duration {
        self.inner.key_derivation
    }

    /// Seals a snapshot record. Its id is the hash of the stored bytes.
    pub(crate) fn seal_snapshot(&self, snapshot: &SnapshotRecord) -> Result<(SnapshotId, Vec<u8>)> {
        snapshot.verify_texts().map_err(|m| m.of("a new snapshot record"))?;
        let stored = self.with_replica(self.seal_record(Kind::Snapshot, snapshot)?)?;
        Ok((SnapshotId(*blake3::hash(&stored).as_bytes()), stored))
    }

    /// Opens a snapshot record, pending or committed, that was found under this name. The caller must still compare the name with the
    /// record's source.
    fn open_snapshot(&self, object: &ObjectKey, stored: Vec<u8>) -> Result<SnapshotRecord> {
        let snapshot: SnapshotRecord = self.open_record(Kind::Snapshot, object, &self.without_replica(object, stored)?)?;
        snapshot.verify_texts().map_err(|m| m.of(object))?;
        Ok(snapshot)
    }

    /// Seals a tombstone.
    pub(crate) fn seal_tombstone(&self, tombstone: &Tombstone) -> Result<Vec<u8>> {
        self.with_replica(self.seal_record(Kind::Tombstone, tombstone)?)
    }

    /// Writes these tombstones, durably, and returns how many were new. With [`WriteMode::CreateNew`] a tombstone that is there stays as it is.
    pub(crate) fn write_tombstones(&self, tombstones: impl Iterator<Item = Tombstone>, mode: WriteMode) -> Result<u64> {
        let sealed = tombstones.map(|tombstone| Ok((ObjectKey::Tombstone(tombstone.object), self.seal_tombstone(&tombstone)?)));
        let objects: Vec<(ObjectKey, Vec<u8>)> = sealed.collect::<Result<_>>()?;
        let written = self.backend().write_all(&objects, mode)?;
        Ok(u64_from(written.into_iter().filter(|written| *written).count()))
    }

    /// The content of the tombstone of this id. `None` if it has just gone, cannot be read, or was written for another id: then only its name counts.
    pub(crate) fn read_tombstone(&self, id: PackId) -> Result<Option<Tombstone>> {
        let object = ObjectKey::Tombstone(id);
        let open = |stored| self.open_record(Kind::Tombstone, &object, &self.without_replica(&object, stored)?);
        match self.read_record(&object).and_then(|stored| stored.map(open).transpose()) {
            Err(error) if error.is_damage() || matches!(error, Error::UnsupportedFormat { .. }) => Ok(None),
            // Someone who controls the storage can copy an old tombstone to the name of a pack that got its tombstone a moment ago.
            other => Ok(other?.filter(|tombstone: &Tombstone| tombstone.object == id)),
        }
    }

    /// The stored form of a record: a header with a fresh salt, then the record, sealed.
    fn seal_record<T: Serialize>(&self, kind: Kind, plain: &T) -> Result<Vec<u8>> {
        let malformed = |m: crate::store::format::Malformed| m.of(format!("a new record of kind {kind:?}"));
        let header = ObjectHeader { kind, cipher: self.keys().cipher(), salt: random_salt()? };
        let mut body = record::encode(plain).map_err(malformed)?;
        self.keys().sealer(&header).and_then(|sealer| sealer.seal(0, &mut body)).map_err(malformed)?;
        Ok([&header.encode()[..], &body].concat())
    }

    /// Opens what [`Repository::seal_record`] made.
    fn open_record<T: Serialize + DeserializeOwned>(&self, kind: Kind, object: &ObjectKey, stored: &[u8]) -> Result<T> {
        let open = || {
            let header = ObjectHeader::decode(stored, kind)?;
            let mut body = stored.get(crate::store::format::HEADER_LEN..).unwrap_or_default().to_vec();
            self.keys().sealer(&header)?.open(0, &mut body)?;
            record::decode(&body)
        };
        open().map_err(|m| m.of(object))
    }
}

/// Fresh random bytes for the salt of an object.
pub(crate) fn random_salt() -> Result<[u8; SALT_LEN]> {
    let mut salt = [0; SALT_LEN];
    match getrandom::fill(&mut salt) {
        Ok(()) => Ok(salt),
        Err(e) => Err(Error::backend("read", "the system's random numbers", std::io::Error::other(e.to_string()))),
    }
}
