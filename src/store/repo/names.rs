//! The names of snapshot records: `<source>-<id>`, in `pending` and in `snapshots`.
//!
//! The id is the hash of the record. Someone with access to the storage can copy or rename a record; then the same bytes lie under the
//! names of several sources. Only the name of the record's own source counts. Any other one is reported as damage.

use std::collections::BTreeMap;

use super::Repository;
use crate::error::{Error, Result};
use crate::id::{SnapshotId, SourceId, SourceTag};
use crate::store::backend::{ObjectKey, ObjectKind};
use crate::store::format::snapshot::SnapshotRecord;

/// The ids of snapshot records, each with the sources in the names of its records. There is one source unless someone has copied or renamed records.
pub(crate) type Names = BTreeMap<SnapshotId, Vec<SourceTag>>;

/// A record that lies under the name of another source.
pub(crate) struct Misplaced {
    /// Its right name.
    pub(crate) own: ObjectKey,
    /// Its stored bytes.
    pub(crate) stored: Vec<u8>,
}

/// All records of one id.
pub(crate) struct SameId {
    /// The record that counts, which is whole and under its right name. If there is none, the error of the first one.
    pub(crate) read: Result<SnapshotRecord>,
    /// The source in the name of that record.
    pub(crate) source: SourceTag,
    /// The errors of the other records.
    pub(crate) strays: Vec<Error>,
}

impl Repository {
    /// The name of the committed record of a snapshot of this source.
    pub fn snapshot_key(&self, id: &SnapshotId, source: &SourceId) -> ObjectKey {
        ObjectKey::Snapshot { source: self.keys().source_tag(source), id: *id }
    }

    /// The name of the pending record of a snapshot of this source.
    pub(crate) fn pending_key(&self, id: &SnapshotId, source: &SourceId) -> ObjectKey {
        ObjectKey::Pending { source: self.keys().source_tag(source), id: *id }
    }

    /// Lists the names of all snapshot records of a kind.
    pub(crate) fn record_names(&self, kind: ObjectKind) -> Result<Names> {
        let mut names = Names::new();
        for key in self.backend().names(kind)? {
            if let ObjectKey::Snapshot { source, id } | ObjectKey::Pending { source, id } = key? {
                names.entry(id).or_default().push(source);
            }
        }
        for sources in names.values_mut() {
            sources.sort_unstable();
            sources.dedup();
        }
        Ok(names)
    }

    /// Reads a snapshot record, pending or committed; `None` if it has just been removed.
    ///
    /// # Errors
    /// [`Error::Corrupt`], also if it belongs to another source; [`Error::UnsupportedFormat`], [`Error::Backend`].
    pub(crate) fn read_snapshot(&self, key: &ObjectKey) -> Result<Option<SnapshotRecord>> {
        let Some(stored) = self.read_record(key)? else { return Ok(None) };
        let record = self.open_snapshot(key, stored)?;
        match self.own_key(key, &record) == *key {
            true => Ok(Some(record)),
            false => Err(other_source(key)),
        }
    }

    /// The right name of a record that was found under this name.
    fn own_key(&self, key: &ObjectKey, record: &SnapshotRecord) -> ObjectKey {
        match key {
            ObjectKey::Snapshot { id, .. } => self.snapshot_key(id, &record.source.id),
            ObjectKey::Pending { id, .. } => self.pending_key(id, &record.source.id),
            other => *other,
        }
    }

    /// The record under this name, if it is whole but belongs to another source.
    pub(crate) fn misplaced(&self, key: &ObjectKey) -> Result<Option<Misplaced>> {
        let read = self.read_record(key).and_then(|stored| {
            let opened = stored.map(|stored| Ok((self.open_snapshot(key, stored.clone())?, stored)));
            opened.transpose()
        });
        match read {
            Ok(Some((record, stored))) => {
                let own = self.own_key(key, &record);
                // Only exact bytes may be put under the right name: a repair writes them there as they are.
                Ok((own != *key && super::is_whole(key, &stored, self.has_parity())).then_some(Misplaced { own, stored }))
            }
            Ok(None) => Ok(None),
            Err(error) if is_told(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Reads all records of one id. At most one of them is under its right name. `key` makes the name from a source.
    pub(crate) fn read_same_id(&self, sources: &[SourceTag], key: impl Fn(SourceTag) -> ObjectKey) -> Result<Option<SameId>> {
        let mut found: Option<SameId> = None;
        let mut bad = Vec::new();
        for source in sources {
            match self.read_snapshot(&key(*source)) {
                // It is under its right name: `read_snapshot` has compared the source.
                Ok(Some(record)) => found = Some(SameId { read: Ok(record), source: *source, strays: Vec::new() }),
                Ok(None) => {}
                Err(error) if is_told(&error) => bad.push((*source, error)),
                Err(error) => return Err(error),
            }
        }
        let mut bad = bad.into_iter();
        // If none can be read, the first error stands for the snapshot, so that it is reported and not silently absent.
        let found = found.or_else(|| bad.next().map(|(source, error)| SameId { read: Err(error), source, strays: Vec::new() }));
        Ok(found.map(|found| SameId { strays: bad.map(|(_, error)| error).collect(), ..found }))
    }
}

/// The error for a record that lies under the name of another source.
pub(super) fn other_source(key: &ObjectKey) -> Error {
    let name = match key {
        ObjectKey::Snapshot { source, id } => format!("snapshots/{source}-{id}; `icecore repair` puts it under its own name"),
        ObjectKey::Pending { source, id } => format!("pending/{source}-{id}"),
        other => other.to_string(),
    };
    Error::corrupt(key.to_string(), format!("it lies under the name of another source, {name}"))
}

/// Whether this error is reported for one record while the others are still read.
fn is_told(error: &Error) -> bool {
    error.is_damage() || matches!(error, Error::UnsupportedFormat { .. })
}
