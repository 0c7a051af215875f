//! Vanished snapshots: their records are gone though nobody has forgotten them. The storage has lost them, or hides them for a while.
//!
//! The catalog remembers them. Every look at the repository reports them until they are back or are dropped by name. Prune deletes nothing
//! in the meantime, because the chunks of such a snapshot may still be needed.

use std::collections::{HashMap, HashSet};

use super::{LocalCatalog, Repository};
use crate::error::{Error, Result};
use crate::id::{SnapshotId, SourceId};
use crate::store::backend::{ObjectKey, ObjectKind, WriteMode};
use crate::store::format::mark::ForgottenRecord;
use crate::store::format::record;
use crate::store::format::snapshot::{SnapshotRecord, SourceRef};

/// A snapshot whose record has vanished.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Vanished {
    /// The snapshot.
    pub id: SnapshotId,
    /// Its record, if this machine has seen it.
    pub record: Option<SnapshotRecord>,
    /// A snapshot that names it as its parent, and that snapshot's source.
    pub child: Option<(SnapshotId, SourceRef)>,
}

impl Vanished {
    fn source(&self) -> Option<&SourceRef> {
        self.record.as_ref().map(|record| &record.source).or(self.child.as_ref().map(|(_, source)| source))
    }

    /// The finding that reports it.
    pub fn error(&self) -> Error {
        let of = self.source().map_or_else(String::new, |source| format!(" of source {}", source.label));
        let how = match (&self.record, &self.child) {
            (None, Some((child, _))) => format!("snapshot {} names it as its parent", child.short()),
            _ => "this machine has seen it".to_owned(),
        };
        let detail = format!(
            "this snapshot{of} has vanished: {how}, and nobody has forgotten it; the storage may hide it, so nothing is deleted until it is back, \
             or is dropped with `icecore forget {}`",
            self.id.short()
        );
        Error::corrupt(format!("snapshot {}", self.id), detail)
    }
}

impl Repository {
    /// The snapshots that this machine has seen, with their records, from the catalog. Ask this before you list snapshots: otherwise
    /// another process on this machine may add a new one in between, which would look vanished.
    pub(crate) fn seen_snapshots(&self) -> Result<HashMap<SnapshotId, Vec<u8>>> {
        self.on_catalog(|local| Ok(local.snapshots()?.into_iter().collect()))
    }

    /// The snapshots that have vanished. Candidates are those that were known before the listing, and parents named by listed snapshots that can
    /// be read. `listed` has the ids of all records that are there.
    pub(crate) fn vanished(
        &self,
        known: &HashMap<SnapshotId, Vec<u8>>,
        listed: &HashSet<SnapshotId>,
        snapshots: &[(SnapshotId, SnapshotRecord)],
    ) -> Result<Vec<Vanished>> {
        self.on_catalog(|local| self.vanished_from(local, known, listed, snapshots))
    }

    pub(super) fn vanished_from(
        &self,
        local: &LocalCatalog,
        known: &HashMap<SnapshotId, Vec<u8>>,
        listed: &HashSet<SnapshotId>,
        snapshots: &[(SnapshotId, SnapshotRecord)],
    ) -> Result<Vec<Vanished>> {
        let mut vanished = Vec::new();
        let mut explained = Vec::new();
        for (id, bytes) in known.iter().filter(|(id, _)| !listed.contains(*id)) {
            match self.is_explained(id)? {
                true => explained.push(*id),
                false => vanished.push(Vanished { id: *id, record: record::decode(bytes).ok(), child: None }),
            }
        }
        // This comes last, and only for explained ones. After a kill before it, the next look finds again that packs have to be listed.
        local.remove_snapshots(&explained)?;
        self.add_parents(known, listed, snapshots, &mut vanished)?;
        vanished.sort_by_key(|one| one.id);
        Ok(vanished)
    }

    /// Adds parents that this machine has never seen. Many of them were forgotten, so the names of all forgotten records are listed once. Here the
    /// name is enough; a prune reads the records.
    fn add_parents(
        &self,
        known: &HashMap<SnapshotId, Vec<u8>>,
        listed: &HashSet<SnapshotId>,
        snapshots: &[(SnapshotId, SnapshotRecord)],
        vanished: &mut Vec<Vanished>,
    ) -> Result<()> {
        let mut wanted: HashMap<SnapshotId, &(SnapshotId, SnapshotRecord)> = HashMap::new();
        for snapshot in snapshots {
            // A parent that this machine has seen was judged above already.
            let parent = snapshot.1.parent.filter(|parent| !listed.contains(parent) && !known.contains_key(parent));
            wanted.extend(parent.map(|parent| (parent, snapshot)));
        }
        if wanted.is_empty() {
            return Ok(());
        }
        for key in self.backend().names(ObjectKind::Forgotten)? {
            if let ObjectKey::Forgotten(id) = key? {
                wanted.remove(&id);
            }
        }
        for (id, (child, record)) in wanted {
            if !self.has_expired(&id)? {
                vanished.push(Vanished { id, record: None, child: Some((*child, record.source.clone())) });
            }
        }
        Ok(())
    }

    /// Whether a record says that this snapshot was forgotten, or that it never was one. An unreadable record proves nothing. Neither does
    /// the record of a forget that was not decided: the snapshot may have been kept, and may be hidden now.
    pub(crate) fn is_explained(&self, id: &SnapshotId) -> Result<bool> {
        match self.read_forgotten(id) {
            Ok(Some(record)) if record.decided => Ok(true),
            Ok(_) => self.has_expired(id),
            Err(error) if error.is_damage() || matches!(error, Error::UnsupportedFormat { .. }) => self.has_expired(id),
            Err(error) => Err(error),
        }
    }

    /// Gives vanished snapshots up. Afterwards they count as forgotten at this time, nanoseconds since 1970 UTC.
    ///
    /// # Errors
    /// [`Error::Backend`].
    pub fn drop_vanished(&self, vanished: &[Vanished], now_ns: i64) -> Result<()> {
        let records = vanished.iter().map(|one| {
            let source = one.source();
            ForgottenRecord {
                snapshot: one.id,
                parent: one.record.as_ref().and_then(|record| record.parent),
                // Nothing is known of the source if only the id is known. Zeros belong to no source.
                source: source.map_or(SourceId([0; 32]), |source| source.id),
                time_ns: one.record.as_ref().map_or(0, |record| record.time_ns),
                forgotten_ns: now_ns,
                label: source.map_or_else(String::new, |source| source.label.clone()),
                decided: true,
            }
        });
        self.write_forgotten_records(records, WriteMode::Replace)?;
        self.clear_forgotten(&vanished.iter().map(|one| one.id).collect::<Vec<_>>())
    }
}
