//! Healing damaged objects with the redundancy that they carry: packs have parity, records have a replica, config and key records are stored twice.
//!
//! To repair an object, call [`health`] or [`Repository::health`]. They say whether it is whole, and if not, which bytes were written.
//! These bytes are verified, so it is enough to write them under the same name ([`crate::store::backend::WriteMode::Replace`]). No key is
//! needed. [`heal_pack`] and [`heal_record`] do the same for bytes at hand. An object that is missing cannot be healed.
//!
//! Readers heal in memory when nothing else helps, and go on; [`Repository::healed_objects`] lists what they healed.

use std::collections::{BTreeSet, HashSet};
use std::io::ErrorKind;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::Repository;
use super::cache::Cache;
use super::segments::missing_is_damage;
use super::stored_twice::{is_replica_whole, read_config};
use crate::error::{Error, Result};
use crate::id::PackId;
use crate::progress::Monitor;
use crate::store::backend::{Backend, ObjectKey, Replica};
use crate::store::codec::reed_solomon::{heal, section};
use crate::store::format::mark::FORGOTTEN_CHECKSUM_LEN;
use crate::store::format::parity::{Geometry, PARITY_SECTOR_LEN, PROTECTED_LEN_MAX, record_len};
use crate::store::format::{Kind, Malformed, ObjectHeader};
use crate::store::repo::u64_from;

/// Bytes of healed packs that are kept in memory.
const HEALED_BUDGET: usize = 32 << 20;

/// How an object is.
#[derive(Debug)]
pub enum Health {
    /// It is as it was written. If its name is the hash of its bytes, these were compared with it, otherwise with the object's checksums.
    Whole,
    /// It is damaged. These are the bytes that were written.
    Healable(Vec<u8>),
    /// It is damaged, and cannot be healed from itself: [`Error::Corrupt`] with the reason.
    Lost(Error),
    /// It is missing.
    Missing,
}

/// Says how an object is. No key is needed. `has_parity` comes from [`stored_parity`] or from the configuration. The object is read whole;
/// zeros stand for sectors that cannot be read.
///
/// # Errors
/// [`Error::Backend`].
pub fn health(backend: &dyn Backend, key: &ObjectKey, has_parity: bool) -> Result<Health> {
    let Some(size) = backend.stat(key)? else {
        return Ok(other_replica(backend, key)?.map_or(Health::Missing, Health::Healable));
    };
    let corrupt = |detail: String| Ok(Health::Lost(Error::corrupt(key.to_string(), detail)));
    // The object is read whole. A length that no object of ours has must not fill the memory.
    if size > PROTECTED_LEN_MAX {
        return corrupt(format!("its length of {size} bytes is out of bounds"));
    }
    let mut has_bad_sectors = false;
    let Some(bytes) = read_around(backend, key, 0..size, &mut has_bad_sectors)? else { return Ok(Health::Missing) };
    // Every attempt to heal is judged by this same test, so parity that is damaged itself can never pass wrong bytes for right ones.
    let is_whole = is_whole(key, &bytes, has_parity);
    let healed = match (is_whole, key) {
        (true, _) if !has_bad_sectors => return Ok(Health::Whole),
        // The unreadable sectors held zeros anyway. Writing the object again moves it away from them.
        (true, _) => Some(bytes),
        (false, ObjectKey::Config(_) | ObjectKey::Key(..)) => other_replica(backend, key)?,
        (false, _) => has_parity.then(|| heal(&bytes, &|healed| self::is_whole(key, healed, true))).flatten(),
    };
    match healed {
        Some(healed) => Ok(Health::Healable(healed)),
        None if has_bad_sectors => corrupt("it cannot be read whole".into()),
        None => corrupt("its bytes are not those that were written".into()),
    }
}

/// Whether the repository's configuration asks for parity. If the configuration cannot be read, nothing else can be read either, and the
/// answer is no.
///
/// # Errors
/// [`Error::Backend`].
pub fn stored_parity(backend: &dyn Backend) -> Result<bool> {
    match read_config(backend) {
        Ok((config, _)) => Ok(config.parity_percent > 0),
        Err(error @ Error::Backend { .. }) => Err(error),
        Err(_) => Ok(false),
    }
}

/// The bytes of a pack before they were damaged, if its parity suffices. They were compared with the pack's name, which is their hash.
pub fn heal_pack(id: PackId, damaged: &[u8]) -> Option<Vec<u8>> {
    heal_record(&ObjectKey::Pack(id), damaged)
}

/// The bytes of a damaged snapshot record (pending or not), mark, forgotten record or tombstone, from its replica. If the name is not the
/// hash of the bytes, they have all of their checksums.
pub fn heal_record(key: &ObjectKey, damaged: &[u8]) -> Option<Vec<u8>> {
    heal(damaged, &|bytes| is_whole(key, bytes, true))
}

/// Whether these are the bytes that were written under this key.
pub(crate) fn is_whole(key: &ObjectKey, bytes: &[u8], has_parity: bool) -> bool {
    let name = match key {
        ObjectKey::Pack(id) => id.as_bytes(),
        ObjectKey::Snapshot { id, .. } | ObjectKey::Pending { id, .. } => id.as_bytes(),
        ObjectKey::Mark { id, .. } => id.as_bytes(),
        ObjectKey::Log { id, .. } => id.as_bytes(),
        ObjectKey::Config(_) | ObjectKey::Key(..) => return is_replica_whole(key, bytes),
        ObjectKey::Quarantined { content, .. } => content.as_bytes(),
        ObjectKey::Forgotten(_) => return unnamed_record(bytes, has_parity).is_some_and(has_own_checksum),
        ObjectKey::Tombstone(_) => {
            return unnamed_record(bytes, has_parity).is_some_and(|record| ObjectHeader::decode(record, Kind::Tombstone).is_ok());
        }
    };
    blake3::hash(bytes).as_bytes() == name
}

/// The record in these bytes without its replica, if the replica belongs to it. For records whose name is not the hash of their bytes.
fn unnamed_record(bytes: &[u8], has_parity: bool) -> Option<&[u8]> {
    if !has_parity {
        return Some(bytes);
    }
    let (record, found) = bytes.split_at_checked(record_len(bytes).ok()?)?;
    let expected = section(&Geometry::of_record(u64_from(record.len())), record, &[]).ok()?;
    (expected == found).then_some(record)
}

/// Whether a forgotten record ends with the checksum of its bytes.
fn has_own_checksum(record: &[u8]) -> bool {
    record.split_last_chunk::<FORGOTTEN_CHECKSUM_LEN>().is_some_and(|(record, sum)| blake3::hash(record).as_bytes() == sum)
}

/// The other replica of a configuration or key record, if it is whole.
fn other_replica(backend: &dyn Backend, key: &ObjectKey) -> Result<Option<Vec<u8>>> {
    let other = |replica: &Replica| if *replica == Replica::First { Replica::Second } else { Replica::First };
    let other = match key {
        ObjectKey::Config(replica) => ObjectKey::Config(other(replica)),
        ObjectKey::Key(id, replica) => ObjectKey::Key(*id, other(replica)),
        _ => return Ok(None),
    };
    match super::read_record_from(backend, &other) {
        Ok(bytes) => Ok(bytes.filter(|bytes| is_replica_whole(&other, bytes))),
        Err(error) if error.is_damage() => Ok(None),
        Err(error) => Err(error),
    }
}

/// Reads a range, with zeros for sectors that cannot be read. `None` if the object has gone. After a failure the range is halved, so a few
/// bad sectors in a large pack cost few reads.
fn read_around(backend: &dyn Backend, key: &ObjectKey, range: Range<u64>, has_bad_sectors: &mut bool) -> Result<Option<Vec<u8>>> {
    match backend.read(key, Some(range.clone())) {
        Ok(bytes) => return Ok(Some(bytes)),
        Err(Error::Backend { source, .. }) if source.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => match missing_is_damage(error, key) {
            error if error.is_damage() => {}
            error => return Err(error),
        },
    }
    let sectors = (range.end - range.start).div_ceil(PARITY_SECTOR_LEN.into());
    if sectors <= 1 {
        *has_bad_sectors = true;
        return Ok(Some((range.start..range.end).map(|_| 0).collect()));
    }
    // Cut between two sectors of the parity: parity can only replace sectors whole.
    let middle = range.start + sectors / 2 * u64::from(PARITY_SECTOR_LEN);
    let first = read_around(backend, key, range.start..middle, has_bad_sectors)?;
    let second = read_around(backend, key, middle..range.end, has_bad_sectors)?;
    Ok(first.zip(second).map(|(first, second)| [first, second].concat()))
}

/// The objects that this open repository has healed in memory.
pub(super) struct Healed {
    state: Mutex<State>,
}

struct State {
    packs: Cache<PackId, Arc<Vec<u8>>>,
    /// Packs that were tried without success: damaged for good, or whole. They are not read again until [`Healed::look_again`].
    hopeless: HashSet<PackId>,
    /// All objects that were healed.
    objects: BTreeSet<ObjectKey>,
}

impl Default for Healed {
    fn default() -> Self {
        let state = State { packs: Cache::new(HEALED_BUDGET), hopeless: HashSet::new(), objects: BTreeSet::new() };
        Healed { state: Mutex::new(state) }
    }
}

impl Healed {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets all packs be tried anew. Someone may have repaired some of them.
    pub(super) fn look_again(&self) {
        self.state().hopeless.clear();
    }
}

impl Repository {
    /// Whether its packs have parity and its records have replicas.
    pub fn has_parity(&self) -> bool {
        self.config().parity_percent > 0
    }

    /// [`health`] of an object of this repository.
    ///
    /// # Errors
    /// [`Error::Backend`].
    pub fn health(&self, key: &ObjectKey) -> Result<Health> {
        health(self.backend(), key, self.has_parity())
    }

    /// The damaged objects that were healed in memory since the repository was opened. In the storage they are still damaged.
    pub fn healed_objects(&self) -> Vec<ObjectKey> {
        self.inner.healed.state().objects.iter().copied().collect()
    }

    /// Warns of the objects that were healed in memory, if there are any.
    pub fn warn_of_healed(&self, monitor: &dyn Monitor) {
        let healed = self.healed_objects();
        if let Some(first) = healed.first() {
            let text = match healed.len() - 1 {
                0 => format!("{first} is damaged and was read with the help of parity"),
                1 => format!("{first} and 1 more object are damaged and were read with the help of parity"),
                more => format!("{first} and {more} more objects are damaged and were read with the help of parity"),
            };
            monitor.warn(&format!("{text}; `icecore repair` heals what it can"));
        }
    }

    /// Remembers that a damaged object was healed in memory.
    pub(super) fn note_healed(&self, key: &ObjectKey) {
        self.inner.healed.state().objects.insert(*key);
    }

    /// The bytes of a damaged pack as they were written. `None` if the pack cannot be healed, is missing, or is whole.
    pub(crate) fn healed_pack(&self, id: &PackId) -> Result<Option<Arc<Vec<u8>>>> {
        if !self.has_parity() {
            return Ok(None);
        }
        {
            let mut state = self.inner.healed.state();
            // Healing reads the whole pack. A reader asks for each of its chunks, so the result is kept, and failures are, too.
            let known = state.packs.get(id);
            if known.is_some() || state.hopeless.contains(id) {
                return Ok(known);
            }
        }
        let key = ObjectKey::Pack(*id);
        // Without the lock: two threads may heal the same pack, which costs time only.
        let healed = match self.health(&key)? {
            Health::Healable(bytes) => Some(Arc::new(bytes)),
            Health::Whole | Health::Lost(_) | Health::Missing => None,
        };
        let mut state = self.inner.healed.state();
        match &healed {
            Some(bytes) => {
                state.packs.put(*id, Arc::clone(bytes), bytes.len());
                state.objects.insert(key);
            }
            None => drop(state.hopeless.insert(*id)),
        }
        Ok(healed)
    }

    /// A record with its replica appended, if this repository has parity.
    pub(super) fn with_replica(&self, mut stored: Vec<u8>) -> Result<Vec<u8>> {
        if self.has_parity() {
            let replica = section(&Geometry::of_record(u64_from(stored.len())), &stored, &[]).map_err(|m| m.of("a new record"))?;
            stored.extend_from_slice(&replica);
        }
        Ok(stored)
    }

    /// The longest stored form of a record of `len` bytes.
    pub(super) fn with_replica_len(&self, len: u64) -> u64 {
        if self.has_parity() { Geometry::of_record(len).object_len() } else { len }
    }

    /// A stored record without its replica. If its name is the hash of its bytes, these are compared with it. A damaged record is healed.
    ///
    /// # Errors
    /// [`Error::Corrupt`].
    pub(super) fn without_replica(&self, key: &ObjectKey, mut stored: Vec<u8>) -> Result<Vec<u8>> {
        if !self.has_parity() {
            // The later checks of the other records say more exactly what is wrong.
            let is_named = !matches!(key, ObjectKey::Forgotten(_) | ObjectKey::Tombstone(_));
            return match !is_named || is_whole(key, &stored, false) {
                true => Ok(stored),
                false => Err(Error::corrupt(key.to_string(), "its name is not the hash of its bytes")),
            };
        }
        if !is_whole(key, &stored, true) {
            let lost = || Error::corrupt(key.to_string(), "its bytes are not those that were written, and its second copy is damaged too");
            stored = heal_record(key, &stored).ok_or_else(lost)?;
            self.note_healed(key);
        }
        let len = record_len(&stored).map_err(|m: Malformed| m.of(key))?;
        stored.truncate(len);
        Ok(stored)
    }
}
