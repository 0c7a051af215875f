//! Writers that were taken for dead, and what they may still do.
//!
//! A writer may be suspended for any time between its mark (in `pending`) and its commit (in `snapshots`), and it may be killed right after
//! the commit. So prune drops a pending record from its roots in two steps. What the second step writes stays for ever.
//!
//! 1. *Suspicion*: a tombstone whose name is derived from the id. A writer that finds it after its commit takes the commit back.
//! 2. *Expiry*: a tombstone with the id itself as its name. It is written only if the suspicion is there and the snapshot still is not. From
//!    then on a record of this id in `snapshots` is not a snapshot, whenever it appears.
//!
//! This guarantees that no snapshot expires whose commit was reported as a success: such a commit came before the suspicion, so prune sees
//! the snapshot between the two steps.

use std::collections::{HashMap, HashSet};

use super::Repository;
use super::names::Names;
use super::session::list_tombstones;
use crate::error::{Error, Result};
use crate::id::{PackId, SnapshotId, SourceTag};
use crate::store::backend::{ObjectKey, ObjectKind, WriteMode};
use crate::store::crypto::SUSPICION_CONTEXT;
use crate::store::format::tombstone::Tombstone;

/// The snapshot records that are there.
#[derive(Debug, Default)]
pub(crate) struct SnapshotList {
    /// The snapshots, each with the source in its record's name.
    pub(crate) ids: HashMap<SnapshotId, SourceTag>,
    /// Further records of the same ids, which lie under the names of other sources; each with the reason why it is wrong.
    pub(crate) strays: Vec<Error>,
    /// Records that are not snapshots: a prune took their writers for dead before they appeared.
    pub(crate) expired: Names,
}

/// The name of the tombstone that says that the writer of this pending record seems dead.
pub(crate) fn suspicion_of(id: &SnapshotId) -> PackId {
    PackId(blake3::derive_key(SUSPICION_CONTEXT, id.as_bytes()))
}

/// The name of the tombstone that says that this record does not count any more.
pub(crate) fn expiry_of(id: &SnapshotId) -> PackId {
    PackId(*id.as_bytes())
}

impl Repository {
    /// Lists the snapshots, then the tombstones. In this order no expired record is missed: an expiry is written before its record can appear.
    pub(crate) fn list_snapshots(&self) -> Result<SnapshotList> {
        let mut list = SnapshotList::default();
        let names = self.record_names(ObjectKind::Snapshot)?;
        let tombstones = if names.is_empty() { HashSet::new() } else { list_tombstones(self)? };
        for (id, sources) in names {
            if tombstones.contains(&expiry_of(&id)) {
                list.expired.insert(id, sources);
                continue;
            }
            // Records of one id under several sources: someone has copied a record. Its content says to which source it belongs.
            let mut own = sources.first().copied();
            if sources.len() > 1
                && let Some(found) = self.read_same_id(&sources, |source| ObjectKey::Snapshot { source, id })?
            {
                own = Some(found.source);
                list.strays.extend(found.strays);
            }
            list.ids.extend(own.map(|own| (id, own)));
        }
        Ok(list)
    }

    /// Whether a readable tombstone says that this snapshot record has expired. The name of a tombstone alone is not believed: otherwise someone who
    /// controls the storage could make prune delete snapshots.
    pub(crate) fn has_expired(&self, id: &SnapshotId) -> Result<bool> {
        Ok(self.read_tombstone(expiry_of(id))?.is_some_and(|tombstone| tombstone.expired == Some(*id)))
    }

    /// One error for each of these hidden snapshots whose tombstone does not say that it has expired.
    pub(crate) fn false_expiries<'i>(&self, expired: impl Iterator<Item = &'i SnapshotId>) -> Result<Vec<Error>> {
        let mut found = Vec::new();
        for id in expired {
            if !self.has_expired(id)? {
                let detail = format!(
                    "it hides snapshot {}, but does not say that the snapshot has expired; to make the snapshot count again, remove tombstones/{id}",
                    id.short()
                );
                found.push(Error::corrupt(ObjectKey::Tombstone(expiry_of(id)).to_string(), detail));
            }
        }
        Ok(found)
    }

    /// Writes, durably and for ever, that this record is not a snapshot.
    pub(crate) fn write_expiry(&self, id: &SnapshotId, time_ns: i64, host: &str) -> Result<()> {
        let tombstone = Tombstone { object: expiry_of(id), time_ns, host: host.to_owned(), expired: Some(*id) };
        self.write_tombstones(std::iter::once(tombstone), WriteMode::Replace).map(drop)
    }

    /// Whether a prune takes the writer of this pending record for dead, or has already removed the record.
    pub(crate) fn is_taken_for_dead(&self, id: &SnapshotId, pending: &ObjectKey) -> Result<bool> {
        let tombstones = list_tombstones(self)?;
        let marked = tombstones.contains(&suspicion_of(id)) || tombstones.contains(&expiry_of(id));
        // The pending record is looked at last, because prune removes it before it removes the suspicion.
        Ok(marked || self.backend().stat(pending)?.is_none())
    }
}
