//! Writers that were taken for dead, and what they may still do.
//!
//! A writer may stand still for any time between its mark (in `pending`) and its commit (in `snapshots`), and may be killed right after the
//! commit. So prune takes a pending record out of the roots in two steps, and what it has written last stays for ever:
//!
//! 1. *Suspicion*: a tombstone under a name that is made of the id. A writer that finds it after its commit takes the commit back.
//! 2. *Expiry*: a tombstone with the id itself, written only when the suspicion was there and the snapshot still is not. From then on
//!    a record of this id in `snapshots` is no snapshot, whenever it appears.
//!
//! A commit that was reported as a success came before the suspicion, so prune sees it between the two steps: no such snapshot ever expires.

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
    /// Those that are snapshots, and the source in the name of each.
    pub(crate) ids: HashMap<SnapshotId, SourceTag>,
    /// What is wrong with other records of the same ids: they lie under the names of other sources.
    pub(crate) strays: Vec<Error>,
    /// Those that are none: prune has taken their writers for dead before they appeared.
    pub(crate) expired: Names,
}

/// The name of the tombstone that says that this pending record seems to be that of a dead writer.
pub(crate) fn suspicion_of(id: &SnapshotId) -> PackId {
    PackId(blake3::derive_key(SUSPICION_CONTEXT, id.as_bytes()))
}

/// The name of the tombstone that says that this record is none any more.
pub(crate) fn expiry_of(id: &SnapshotId) -> PackId {
    PackId(*id.as_bytes())
}

impl Repository {
    /// Lists the snapshots, then the tombstones: what prune lets expire is marked before it can appear.
    pub(crate) fn list_snapshots(&self) -> Result<SnapshotList> {
        let mut list = SnapshotList::default();
        let names = self.record_names(ObjectKind::Snapshot)?;
        let tombstones = if names.is_empty() { HashSet::new() } else { list_tombstones(self)? };
        for (id, sources) in names {
            if tombstones.contains(&expiry_of(&id)) {
                list.expired.insert(id, sources);
                continue;
            }
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

    /// Whether a tombstone that can be read says that this snapshot record has expired. The name alone does not: whoever holds the storage could make prune
    /// delete snapshots with it.
    pub(crate) fn has_expired(&self, id: &SnapshotId) -> Result<bool> {
        Ok(self.read_tombstone(expiry_of(id))?.is_some_and(|tombstone| tombstone.expired == Some(*id)))
    }

    /// What is wrong with the tombstones that hide these snapshots, if they do not say so.
    pub(crate) fn false_expiries<'i>(&self, expired: impl Iterator<Item = &'i SnapshotId>) -> Result<Vec<Error>> {
        let mut found = Vec::new();
        for id in expired {
            if !self.has_expired(id)? {
                let detail = format!(
                    "it hides snapshot {} and does not say that this has expired: if the snapshot is to count, remove tombstones/{id}",
                    id.short()
                );
                found.push(Error::corrupt(ObjectKey::Tombstone(expiry_of(id)).to_string(), detail));
            }
        }
        Ok(found)
    }

    /// States, durably and for ever, that this record is no snapshot.
    pub(crate) fn write_expiry(&self, id: &SnapshotId, time_ns: i64, host: &str) -> Result<()> {
        let tombstone = Tombstone { object: expiry_of(id), time_ns, host: host.to_owned(), expired: Some(*id) };
        self.write_tombstones(std::iter::once(tombstone), WriteMode::Replace).map(drop)
    }

    /// Whether prune takes the writer of this record, which lies under `pending`, for dead, or has come as far as removing it.
    pub(crate) fn is_taken_for_dead(&self, id: &SnapshotId, pending: &ObjectKey) -> Result<bool> {
        let tombstones = list_tombstones(self)?;
        let marked = tombstones.contains(&suspicion_of(id)) || tombstones.contains(&expiry_of(id));
        // Only then: prune removes the record before it removes the suspicion.
        Ok(marked || self.backend().stat(pending)?.is_none())
    }
}
