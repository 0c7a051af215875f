//! Forgetting snapshots. A small record that stays is written before the snapshot's own record is deleted.
//!
//! It proves that the snapshot was not lost. Prune stops without such a proof for each snapshot that was known and is not listed. Deleting
//! takes two steps: the record first says that forgetting has begun, and then that it is decided. Only the second is a proof.

use std::collections::HashSet;

use super::Repository;
use super::segments::missing_is_damage;
use crate::error::{Error, Result};
use crate::id::SnapshotId;
use crate::store::backend::{BackendExt, ObjectKey, ObjectKind, WriteMode};
use crate::store::format::Kind;
use crate::store::format::mark::{FORGOTTEN_CHECKSUM_LEN, ForgottenRecord, MARK_LEN_MAX};
use crate::store::format::snapshot::{LABEL_LEN_MAX, SnapshotRecord};
use crate::store::repo::u64_from;

/// The snapshots that were forgotten.
#[derive(Debug, Default)]
pub struct ForgottenList {
    /// The records, in the order of their ids. A snapshot with a record may still be listed: then forgetting it was interrupted, and it counts as
    /// listed.
    pub records: Vec<ForgottenRecord>,
    /// Records that cannot be read, and why. Nothing proves that these snapshots were forgotten.
    pub unreadable: Vec<(SnapshotId, Error)>,
}

impl Repository {
    /// Writes, durably, that forgetting these snapshots has begun at this time, nanoseconds since 1970 UTC. A record that is there already
    /// stays. It may say that another forget has decided, and that forget may have deleted the snapshot since this one looked.
    ///
    /// # Errors
    /// [`Error::Backend`].
    pub fn write_forgotten(&self, snapshots: &[(SnapshotId, SnapshotRecord)], forgotten_ns: i64) -> Result<()> {
        self.write_forgotten_of(snapshots.iter(), (forgotten_ns, false), WriteMode::CreateNew)
    }

    /// Writes, durably, that nothing keeps these snapshots: their records are deleted next.
    ///
    /// # Errors
    /// [`Error::Backend`].
    pub(crate) fn decide_forgotten<'s>(
        &self,
        snapshots: impl Iterator<Item = &'s (SnapshotId, SnapshotRecord)>,
        forgotten_ns: i64,
    ) -> Result<()> {
        self.write_forgotten_of(snapshots, (forgotten_ns, true), WriteMode::Replace)
    }

    fn write_forgotten_of<'s>(
        &self,
        snapshots: impl Iterator<Item = &'s (SnapshotId, SnapshotRecord)>,
        (forgotten_ns, decided): (i64, bool),
        mode: WriteMode,
    ) -> Result<()> {
        let records = snapshots.map(|(id, snapshot)| {
            let label = &snapshot.source.label;
            // A label that is too long is cut between two characters: a long name must not make forgetting fail.
            let label_end = (0..=LABEL_LEN_MAX.min(label.len())).rev().find(|end| label.is_char_boundary(*end));
            ForgottenRecord {
                snapshot: *id,
                parent: snapshot.parent,
                source: snapshot.source.id,
                time_ns: snapshot.time_ns,
                forgotten_ns,
                label: label.get(..label_end.unwrap_or(0)).unwrap_or_default().to_string(),
                decided,
            }
        });
        self.write_forgotten_records(records, mode)
    }

    /// Writes complete records.
    pub(crate) fn write_forgotten_records(&self, records: impl Iterator<Item = ForgottenRecord>, mode: WriteMode) -> Result<()> {
        let sealed = records.map(|record| {
            let stored = self.seal_record(Kind::Forgotten, &record)?;
            let checksum = blake3::hash(&stored);
            Ok((ObjectKey::Forgotten(record.snapshot), self.with_replica([&stored[..], checksum.as_bytes()].concat())?))
        });
        let objects: Vec<(ObjectKey, Vec<u8>)> = sealed.collect::<Result<_>>()?;
        self.backend().write_all(&objects, mode).map(drop)
    }

    /// The record of a forgotten snapshot; `None` if it was not forgotten.
    ///
    /// # Errors
    /// [`Error::Corrupt`], [`Error::UnsupportedFormat`], [`Error::Backend`].
    pub fn read_forgotten(&self, id: &SnapshotId) -> Result<Option<ForgottenRecord>> {
        let object = ObjectKey::Forgotten(*id);
        let corrupt = |detail: &str| Error::corrupt(object.to_string(), detail);
        let read = self
            .backend()
            .read_if_there(&object, self.with_replica_len(u64_from(MARK_LEN_MAX)))
            .map_err(|error| missing_is_damage(error, &object))?;
        let Some(bytes) = read.map(|stored| self.without_replica(&object, stored)).transpose()? else { return Ok(None) };
        let (stored, checksum) = bytes
            .split_last_chunk::<FORGOTTEN_CHECKSUM_LEN>()
            .map(|(stored, sum)| (stored, *sum))
            .ok_or_else(|| corrupt("it is too short"))?;
        if *blake3::hash(stored).as_bytes() != checksum {
            return Err(corrupt("its checksum is wrong"));
        }
        let forgotten: ForgottenRecord = self.open_record(Kind::Forgotten, &object, stored)?;
        // Someone who controls the storage could put the record of one snapshot under the name of another.
        match forgotten.snapshot == *id {
            true => Ok(Some(forgotten)),
            false => Err(corrupt("it belongs to another snapshot")),
        }
    }

    /// Whether there is a record of forgetting this snapshot, readable or not.
    ///
    /// # Errors
    /// [`Error::Backend`].
    pub fn has_forgotten(&self, id: &SnapshotId) -> Result<bool> {
        Ok(self.backend().stat(&ObjectKey::Forgotten(*id))?.is_some())
    }

    /// Reads the records of all forgotten snapshots.
    ///
    /// # Errors
    /// [`Error::Backend`].
    pub fn list_forgotten(&self) -> Result<ForgottenList> {
        let mut list = ForgottenList::default();
        for id in self.forgotten_ids()? {
            match self.read_forgotten(&id) {
                Ok(record) => list.records.extend(record),
                // One bad record must not hide the others.
                Err(error @ (Error::Corrupt { .. } | Error::UnsupportedFormat { .. })) => list.unreadable.push((id, error)),
                Err(error) => return Err(error),
            }
        }
        Ok(list)
    }

    fn forgotten_ids(&self) -> Result<Vec<SnapshotId>> {
        let mut ids = Vec::new();
        for key in self.backend().names(ObjectKind::Forgotten)? {
            if let ObjectKey::Forgotten(id) = key? {
                ids.push(id);
            }
        }
        ids.sort_unstable();
        ids.dedup();
        Ok(ids)
    }

    /// Deletes the records of snapshots for which [`Repository::decide_forgotten`] has returned.
    pub(crate) fn delete_snapshots<'s>(&self, snapshots: impl Iterator<Item = &'s (SnapshotId, SnapshotRecord)>) -> Result<()> {
        let keys = snapshots.map(|(id, snapshot)| self.snapshot_key(id, &snapshot.source.id));
        self.backend().delete(&keys.collect::<Vec<_>>())
    }

    /// The last step, after the snapshots' records are deleted: the catalog forgets them, and the marks on all snapshots that are forgotten and gone
    /// are removed, also those that an interrupted run has left.
    pub(crate) fn clear_forgotten(&self, deleted: &[SnapshotId]) -> Result<()> {
        // This only saves work. If it fails, the next refresh finds out by itself.
        let _ = self.catalog().remove_snapshots(deleted);
        let mut gone: HashSet<SnapshotId> = self.forgotten_ids()?.into_iter().collect();
        self.list_snapshots()?.ids.keys().for_each(|listed| {
            gone.remove(listed);
        });
        self.remove_marks_of(&gone)
    }
}
