//! Bringing the catalog up to date with the repository.
//!
//! The storage decides, never the catalog. Snapshots are always listed. If a snapshot that the catalog knows is gone, or the catalog is
//! new, all packs are listed as well. So a repository that was copied, rolled back or exchanged cannot make the catalog promise chunks that
//! are not there.

use std::collections::{HashMap, HashSet};
use std::sync::PoisonError;

use super::catalog::NewPack;
use super::expired::SnapshotList;
use super::locate::PackTable;
use super::names::other_source;
use super::segments::missing_is_damage;
use super::{Health, LocalCatalog, Repository, SnapshotMarks, Vanished};
use crate::error::{Error, Result};
use crate::id::{PackId, SnapshotId};
use crate::store::backend::{Backend, BackendExt, ObjectKey, ObjectKind};
use crate::store::format::pack::{FOOTER_LEN, Footer, Trailer};
use crate::store::format::parity::PROTECTED_LEN_MAX;
use crate::store::format::snapshot::{PackRef, SnapshotRecord};
use crate::store::format::{HEADER_LEN, Kind, ObjectHeader, PACK_LEN_MAX, TRAILER_LEN_MAX, record};
use crate::store::repo::u64_from;

/// How many packs are added to the catalog in one call.
const BATCH: usize = 256;

/// The result of a look at the repository.
#[derive(Debug, Default)]
pub struct Refreshed {
    /// The snapshots that are listed and readable, oldest first: by recorded time, but parents before their children. Their flags and tags are
    /// those that count now, after all marks.
    pub snapshots: Vec<(SnapshotId, SnapshotRecord)>,
    /// The marks on these snapshots. A snapshot without marks is not in it.
    pub marks: HashMap<SnapshotId, SnapshotMarks>,
    /// Errors for records and packs that are listed but cannot be read, and for snapshots that have vanished.
    pub damage: Vec<Error>,
    /// Records in `snapshots` that are not snapshots, because a prune had taken their writers for dead. They are ignored; the next prune
    /// removes them.
    pub expired: Vec<ObjectKey>,
    /// Snapshots that this machine has seen, or that are parents of listed ones, and that are gone although nobody has forgotten them. They are also
    /// in `damage`.
    pub vanished: Vec<Vanished>,
}

impl Repository {
    /// Lists the snapshots and adds new ones, with their packs, to the catalog. Lists all packs if a known snapshot is gone or the catalog is new.
    pub fn refresh(&self) -> Result<Refreshed> {
        self.on_catalog(|local| self.refresh_into(local))
    }

    fn refresh_into(&self, local: &LocalCatalog) -> Result<Refreshed> {
        // A prune may have written packs anew since they were listed. A reader that misses a chunk may list them once more.
        *local.listed_all.lock().unwrap_or_else(PoisonError::into_inner) = None;
        self.inner.healed.look_again();
        // The catalog is read before the listing. A snapshot that another process adds after the listing must not look vanished.
        let known: HashMap<SnapshotId, Vec<u8>> = local.snapshots()?.into_iter().collect();
        let SnapshotList { ids, strays, expired } = self.list_snapshots()?;
        let listed: HashSet<SnapshotId> = ids.keys().copied().collect();
        let is_any_gone = known.keys().any(|id| !listed.contains(id));
        let mut refreshed = Refreshed { damage: self.false_expiries(expired.keys())?, ..Refreshed::default() };
        refreshed.damage.extend(strays);
        let must_list_packs = local.was_rebuilt() || is_any_gone;
        let mut fresh = Vec::new();
        for (id, source) in &ids {
            let key = ObjectKey::Snapshot { source: *source, id: *id };
            // A record was verified when it went into the catalog. If it does not decode now, it is read again.
            let cached = known.get(id).and_then(|bytes| record::decode::<SnapshotRecord>(bytes).ok());
            let snapshot = match cached {
                // It is not read, so that this is reported even if the record is gone by now.
                Some(snapshot) if self.snapshot_key(id, &snapshot.source.id) != key => {
                    refreshed.damage.push(other_source(&key));
                    continue;
                }
                Some(snapshot) => snapshot,
                None => match self.read_snapshot(&key) {
                    Ok(Some(snapshot)) => {
                        fresh.push((*id, snapshot.clone()));
                        snapshot
                    }
                    Ok(None) => continue,
                    Err(error) if error.is_damage() || matches!(error, Error::UnsupportedFormat { .. }) => {
                        refreshed.damage.push(error);
                        continue;
                    }
                    Err(error) => return Err(error),
                },
            };
            refreshed.snapshots.push((*id, snapshot));
        }
        self.take_in(local, &fresh, must_list_packs, &mut refreshed.damage)?;
        refreshed.vanished = self.vanished_from(local, &known, &listed, &refreshed.snapshots)?;
        // A snapshot that a tombstone hides is reported already.
        refreshed.vanished.retain(|one| !expired.contains_key(&one.id));
        let hidden =
            expired.into_iter().flat_map(|(id, sources)| sources.into_iter().map(move |source| ObjectKey::Snapshot { source, id }));
        refreshed.expired.extend(hidden);
        refreshed.damage.extend(refreshed.vanished.iter().map(Vanished::error));
        sort_by_history(&mut refreshed.snapshots);
        let (marks, unreadable) = self.apply_marks(&mut refreshed.snapshots)?;
        refreshed.marks = marks;
        refreshed.damage.extend(unreadable);
        Ok(refreshed)
    }

    /// Adds new snapshots and their packs to the catalog. The packs come first, so that after a crash in between this is done again.
    fn take_in(
        &self,
        local: &LocalCatalog,
        fresh: &[(SnapshotId, SnapshotRecord)],
        list_packs: bool,
        damage: &mut Vec<Error>,
    ) -> Result<()> {
        if list_packs {
            damage.extend(self.list_packs_into(local)?);
        } else {
            let known: HashSet<PackId> = local.packs()?.into_iter().map(|known| known.pack.id).collect();
            let missing: Vec<PackRef> =
                fresh.iter().flat_map(|(_, s)| &s.packs).filter(|pack| !known.contains(&pack.id)).copied().collect();
            // A missing pack was rewritten by a prune. If a chunk of it is needed, listing all packs finds it.
            let failures = self.add_packs(local, missing)?;
            damage.extend(failures.into_iter().filter(|(_, error)| !matches!(error, Error::NotFound { .. })).map(|(_, error)| error));
        }
        let mut records = Vec::new();
        for (id, snapshot) in fresh {
            records.push((*id, record::encode(snapshot).map_err(|m| m.of(format!("snapshot {id}")))?));
        }
        local.put_snapshots(&records)
    }

    /// Lists all packs, unless that was done since the catalog was opened or refreshed. A chunk that is not found afterwards is lost.
    pub(crate) fn list_all_packs_once(&self) -> Result<()> {
        let local = self.catalog();
        // The lock is held while listing, so that no other thread takes a chunk for lost in the meantime.
        let mut listed = local.listed_all.lock().unwrap_or_else(PoisonError::into_inner);
        if listed.is_none() {
            *listed = Some(self.list_all_packs()?);
        }
        Ok(())
    }

    /// The error for an object that no known pack holds. It may be in a pack that cannot be read, so such a pack is named.
    pub(crate) fn lost(&self, object: String, detail: &str) -> Error {
        let local = self.catalog();
        let listed = local.listed_all.lock().unwrap_or_else(PoisonError::into_inner);
        match listed.as_ref().and_then(|unreadable| unreadable.first()) {
            Some(unreadable) => Error::corrupt(object, format!("{detail} that can be read; {unreadable}")),
            None => Error::corrupt(object, detail),
        }
    }

    /// Makes the catalog have exactly the packs that are listed. Returns errors for packs that cannot be read.
    pub fn list_all_packs(&self) -> Result<Vec<Error>> {
        self.inner.healed.look_again();
        self.on_catalog(|local| self.list_packs_into(local))
    }

    pub(super) fn list_packs_into(&self, local: &LocalCatalog) -> Result<Vec<Error>> {
        // The known packs are read before the listing. A pack that another process adds to the catalog meanwhile is not among them, and is not
        // removed.
        let known: Vec<PackId> = local.packs()?.into_iter().map(|known| known.pack.id).collect();
        let mut listed = HashMap::new();
        for info in self.backend().list(ObjectKind::Pack)? {
            let info = info?;
            if let ObjectKey::Pack(id) = info.key {
                listed.insert(id, info.size);
            }
        }
        let gone: Vec<PackId> = known.iter().filter(|id| !listed.contains_key(*id)).copied().collect();
        local.remove_packs(&gone)?;
        known.iter().for_each(|id| {
            listed.remove(id);
        });
        let mut damage = Vec::new();
        let mut found = Vec::new();
        for (id, size) in listed {
            match self.find_trailer(id, size).or_else(|error| self.or_healed(id, error, |healed| self.trailer_in(id, healed))) {
                Ok(pack) => found.push(pack),
                Err(Error::NotFound { .. }) => {}
                Err(error) if error.is_damage() || matches!(error, Error::UnsupportedFormat { .. }) => damage.push(error),
                Err(error) => return Err(error),
            }
        }
        damage.extend(
            self.add_packs(local, found)?.into_iter().filter(|(_, error)| !matches!(error, Error::NotFound { .. })).map(|(_, error)| error),
        );
        Ok(damage)
    }

    /// Adds packs to the catalog. Returns those that cannot be read, with the reason.
    fn add_packs(&self, local: &LocalCatalog, packs: Vec<PackRef>) -> Result<Vec<(PackId, Error)>> {
        let mut failures = Vec::new();
        for batch in packs.chunks(BATCH) {
            let mut tables = Vec::new();
            for pack in batch {
                match self.read_table(pack).or_else(|error| self.or_healed(pack.id, error, |healed| self.table_in(pack, healed))) {
                    Ok((bytes, ids)) => tables.push((pack, bytes, ids)),
                    Err(error) if error.is_damage() || matches!(error, Error::UnsupportedFormat { .. }) => failures.push((pack.id, error)),
                    Err(error) => return Err(error),
                }
            }
            let new: Vec<NewPack<'_>> = tables.iter().map(|(pack, bytes, ids)| NewPack { pack: **pack, ids, trailer: bytes }).collect();
            local.add_packs(&new)?;
        }
        Ok(failures)
    }

    /// After an error that is damage: the result of `read` on the healed bytes of the pack, if it can be healed.
    fn or_healed<T>(&self, id: PackId, error: Error, read: impl FnOnce(&[u8]) -> Result<T>) -> Result<T> {
        let healed = if error.is_damage() { self.healed_pack(&id)? } else { None };
        healed.map_or(Err(error), |bytes| read(&bytes))
    }

    /// Finds the trailer in the bytes of a whole pack.
    pub(crate) fn trailer_in(&self, id: PackId, bytes: &[u8]) -> Result<PackRef> {
        let object = ObjectKey::Pack(id);
        let size = u64_from(bytes.len());
        let footer = bytes.last_chunk::<FOOTER_LEN>().ok_or_else(|| Error::corrupt(object.to_string(), "it ends too early"))?;
        let footer = Footer::decode(footer, size).map_err(|m| m.of(object))?;
        Ok(PackRef { id, size, trailer_offset: footer.trailer_offset })
    }

    /// Reads the table from the bytes of a whole pack.
    pub(crate) fn table_in(&self, pack: &PackRef, bytes: &[u8]) -> Result<(Vec<u8>, Vec<crate::id::ChunkId>)> {
        let start = usize::try_from(pack.trailer_offset).unwrap_or(usize::MAX);
        let table = bytes.get(start..);
        self.open_table(pack, table.ok_or_else(|| Error::corrupt(ObjectKey::Pack(pack.id).to_string(), "its table starts after its end"))?)
    }

    /// Finds the trailer of a pack. Only its name and size are known.
    pub(crate) fn find_trailer(&self, id: PackId, size: u64) -> Result<PackRef> {
        let object = ObjectKey::Pack(id);
        let least = u64_from(HEADER_LEN + FOOTER_LEN);
        if size < least || size > PACK_LEN_MAX {
            return Err(Error::corrupt(object.to_string(), format!("its length of {size} bytes is out of bounds")));
        }
        let footer = self.read_pack(&object, size - u64_from(FOOTER_LEN)..size)?;
        let footer = Footer::decode(&footer, size).map_err(|m| m.of(object))?;
        Ok(PackRef { id, size, trailer_offset: footer.trailer_offset })
    }

    /// Reads and verifies the table of a pack: the bytes for the catalog, and the ids of its chunks.
    pub(crate) fn read_table(&self, pack: &PackRef) -> Result<(Vec<u8>, Vec<crate::id::ChunkId>)> {
        let object = ObjectKey::Pack(pack.id);
        let sane = pack.size <= PACK_LEN_MAX
            && pack.trailer_offset < pack.size
            && pack.size - pack.trailer_offset <= u64::from(TRAILER_LEN_MAX) + u64_from(FOOTER_LEN);
        if !sane {
            return Err(Error::corrupt(object.to_string(), "the place of its trailer is out of bounds"));
        }
        self.open_table(pack, &self.read_pack(&object, pack.trailer_offset..pack.size)?)
    }

    /// Opens the table in the last bytes of a pack, which are trailer and footer.
    fn open_table(&self, pack: &PackRef, bytes: &[u8]) -> Result<(Vec<u8>, Vec<crate::id::ChunkId>)> {
        let open = || {
            let (stored, footer_bytes) =
                bytes.split_last_chunk::<FOOTER_LEN>().ok_or_else(|| crate::store::format::Malformed::new("it ends too early"))?;
            let footer = Footer::decode(footer_bytes, pack.size)?;
            footer.verify(footer_bytes, stored)?;
            let header = ObjectHeader { kind: Kind::Pack, cipher: self.keys().cipher(), salt: footer.salt };
            let mut trailer = stored.to_vec();
            self.keys().sealer(&header)?.open(crate::store::format::pack::TRAILER_SEGMENT, &mut trailer)?;
            let kept = PackTable::catalog_bytes(&footer.salt, &trailer);
            // Decoded once here, so that the catalog never gets a table that cannot be used.
            PackTable::decode(self, *pack, &kept)?;
            Ok((kept, Trailer::ids_in(&trailer)?))
        };
        open().map_err(|m: crate::store::format::Malformed| m.of(ObjectKey::Pack(pack.id)))
    }

    /// Reads a small object; `None` if it is not there. One that the disk cannot read counts as damaged, so that work which does not need it goes on.
    pub(crate) fn read_record(&self, object: &ObjectKey) -> Result<Option<Vec<u8>>> {
        match read_record_from(self.backend(), object) {
            // The record may lie on a bad sector; its replica, in the same object, may lie on a good one.
            Err(error) if error.is_damage() && self.has_parity() => match self.health(object)? {
                Health::Whole | Health::Lost(_) => Err(error),
                Health::Missing => Ok(None),
                Health::Healable(bytes) => {
                    self.note_healed(object);
                    Ok(Some(bytes))
                }
            },
            other => other,
        }
    }

    /// A range of a pack; [`Error::NotFound`] if the pack is not there.
    pub(crate) fn read_pack(&self, object: &ObjectKey, range: std::ops::Range<u64>) -> Result<Vec<u8>> {
        read_pack_from(self.backend(), object, range)
    }
}

/// [`Repository::read_record`] without a key: the stored bytes as they are.
pub(crate) fn read_record_from(backend: &dyn Backend, object: &ObjectKey) -> Result<Option<Vec<u8>>> {
    backend.read_if_there(object, PROTECTED_LEN_MAX).map_err(|error| missing_is_damage(error, object))
}

/// [`Repository::read_pack`] without a key: the stored bytes as they are.
pub(crate) fn read_pack_from(backend: &dyn Backend, object: &ObjectKey, range: std::ops::Range<u64>) -> Result<Vec<u8>> {
    match backend.read(object, Some(range)) {
        Err(Error::Backend { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
            Err(Error::NotFound { what: object.to_string() })
        }
        other => other.map_err(|error| missing_is_damage(error, object)),
    }
}

/// Sorts oldest first by recorded time. Clocks jump, so a parent is put before its children whatever the times say.
fn sort_by_history(snapshots: &mut Vec<(SnapshotId, SnapshotRecord)>) {
    snapshots.sort_by_key(|(id, snapshot)| (snapshot.time_ns, *id));
    let place: HashMap<SnapshotId, usize> = snapshots.iter().enumerate().map(|(place, (id, _))| (*id, place)).collect();
    let parent_of: Vec<Option<usize>> = snapshots.iter().map(|(_, s)| s.parent.and_then(|parent| place.get(&parent).copied())).collect();
    let mut done = vec![false; parent_of.len()];
    let mut order = Vec::with_capacity(parent_of.len());
    for start in 0..parent_of.len() {
        // From the snapshot up to its oldest ancestor that is not placed yet. These are then placed in reverse.
        let mut line = Vec::new();
        let mut next = Some(start);
        // An id is a hash of a record that names its parent, so no cycle can exist. `done` is set on the way down nevertheless.
        while let Some(at) = next.filter(|at| !done.get(*at).copied().unwrap_or(true)) {
            done.get_mut(at).into_iter().for_each(|seen| *seen = true);
            line.push(at);
            next = parent_of.get(at).copied().flatten();
        }
        order.extend(line.into_iter().rev());
    }
    let mut slots: Vec<Option<(SnapshotId, SnapshotRecord)>> = std::mem::take(snapshots).into_iter().map(Some).collect();
    snapshots.extend(order.into_iter().filter_map(|at| slots.get_mut(at).and_then(Option::take)));
    debug_assert!(slots.iter().all(Option::is_none), "a snapshot is missing in the order");
}
