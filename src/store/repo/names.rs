//! The names that snapshot records lie under: `<source>-<id>`, in `pending` and in `snapshots`.
//!
//! The id is the hash of the record, and a person with access to the storage can copy or rename it. Then the same bytes lie under the names of several sources.
//! Only the name of the record's own source counts. Any other one is damage, and is told.

use std::collections::BTreeMap;

use super::Repository;
use crate::error::{Error, Result};
use crate::id::{SnapshotId, SourceId, SourceTag};
use crate::store::backend::{ObjectKey, ObjectKind};
use crate::store::format::snapshot::SnapshotRecord;

/// Snapshot records by their ids, each with the sources that it lies under: one, if nobody has meddled.
pub(crate) type Names = BTreeMap<SnapshotId, Vec<SourceTag>>;

/// A record that lies under the name of another source.
pub(crate) struct Misplaced {
    /// Where it belongs.
    pub(crate) own: ObjectKey,
    /// It, as it is stored.
    pub(crate) stored: Vec<u8>,
}

/// The records of one id.
pub(crate) struct SameId {
    /// The one that counts: it is whole and in its place. Without such a one, what is wrong with the first one.
    pub(crate) read: Result<SnapshotRecord>,
    /// The source that it lies under.
    pub(crate) source: SourceTag,
    /// What is wrong with the others.
    pub(crate) strays: Vec<Error>,
}

impl Repository {
    /// The name of the committed record of a snapshot of this source.
    pub fn snapshot_key(&self, id: &SnapshotId, source: &SourceId) -> ObjectKey {
        ObjectKey::Snapshot { source: self.keys().source_tag(source), id: *id }
    }

    /// The name of its record before the commit.
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

    /// A snapshot record, pending or committed; `None` if it has just been removed.
    ///
    /// # Errors
    /// [`Error::Corrupt`], also if it is that of another source; [`Error::UnsupportedFormat`], [`Error::Backend`].
    pub(crate) fn read_snapshot(&self, key: &ObjectKey) -> Result<Option<SnapshotRecord>> {
        let Some(stored) = self.read_record(key)? else { return Ok(None) };
        let record = self.open_snapshot(key, stored)?;
        match self.own_key(key, &record) == *key {
            true => Ok(Some(record)),
            false => Err(other_source(key)),
        }
    }

    /// Where the record belongs that was found under this name.
    fn own_key(&self, key: &ObjectKey, record: &SnapshotRecord) -> ObjectKey {
        match key {
            ObjectKey::Snapshot { id, .. } => self.snapshot_key(id, &record.source.id),
            ObjectKey::Pending { id, .. } => self.pending_key(id, &record.source.id),
            other => *other,
        }
    }

    /// The record under this name if it is whole and that of another source.
    pub(crate) fn misplaced(&self, key: &ObjectKey) -> Result<Option<Misplaced>> {
        let read = self.read_record(key).and_then(|stored| {
            let opened = stored.map(|stored| Ok((self.open_snapshot(key, stored.clone())?, stored)));
            opened.transpose()
        });
        match read {
            Ok(Some((record, stored))) => {
                let own = self.own_key(key, &record);
                Ok((own != *key && super::is_whole(key, &stored, self.has_parity())).then_some(Misplaced { own, stored }))
            }
            Ok(None) => Ok(None),
            Err(error) if is_told(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Reads the records of one id. One of them at most is in its place. `key` makes a name of a source.
    pub(crate) fn read_same_id(&self, sources: &[SourceTag], key: impl Fn(SourceTag) -> ObjectKey) -> Result<Option<SameId>> {
        let mut found: Option<SameId> = None;
        let mut bad = Vec::new();
        for source in sources {
            match self.read_snapshot(&key(*source)) {
                Ok(Some(record)) => found = Some(SameId { read: Ok(record), source: *source, strays: Vec::new() }),
                Ok(None) => {}
                Err(error) if is_told(&error) => bad.push((*source, error)),
                Err(error) => return Err(error),
            }
        }
        let mut bad = bad.into_iter();
        let found = found.or_else(|| bad.next().map(|(source, error)| SameId { read: Err(error), source, strays: Vec::new() }));
        Ok(found.map(|found| SameId { strays: bad.map(|(_, error)| error).collect(), ..found }))
    }
}

/// What is wrong with a record under the name of a source that is not its own.
pub(super) fn other_source(key: &ObjectKey) -> Error {
    let name = match key {
        ObjectKey::Snapshot { source, id } => format!("snapshots/{source}-{id}; `icecore repair` puts it in its place"),
        ObjectKey::Pending { source, id } => format!("pending/{source}-{id}"),
        other => other.to_string(),
    };
    Error::corrupt(key.to_string(), format!("it lies under the name of another source, {name}"))
}

/// Whether it is told of one record, and the others are read all the same.
fn is_told(error: &Error) -> bool {
    error.is_damage() || matches!(error, Error::UnsupportedFormat { .. })
}
