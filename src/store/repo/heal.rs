//! Healing damaged objects with what they carry for it: packs with parity, records with their second copy, config and key records with the other one.
//!
//! For who repairs: [`health`] (or [`Repository::health`]) says of any object whether it is whole, and if not, which bytes it had. These are verified: to write
//! them under the same name, in place of the damaged ones ([`crate::store::backend::WriteMode::Replace`]), is all there is to do. It needs no key.
//! [`heal_pack`] and [`heal_record`] do the same to bytes at hand. What is not there at all is not healed.
//!
//! Readers heal in memory, as the last resort, and go on; [`Repository::healed_objects`] says that they did.

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

/// Bytes of healed packs that stay in memory.
const HEALED_BUDGET: usize = 32 << 20;

/// How an object is.
#[derive(Debug)]
pub enum Health {
    /// As it was written. A pack or record that has a name made of its bytes was compared with it, others with their checksums.
    Whole,
    /// Damaged; these are the bytes that were written.
    Healable(Vec<u8>),
    /// Damaged for good, as far as the object itself goes: [`Error::Corrupt`] with the reason.
    Lost(Error),
    /// Not there.
    Missing,
}

/// How an object is, without a key. `has_parity` is [`stored_parity`]'s answer, or that of the configuration. Reads the object whole, around bad sectors.
///
/// # Errors
/// [`Error::Backend`].
pub fn health(backend: &dyn Backend, key: &ObjectKey, has_parity: bool) -> Result<Health> {
    let Some(size) = backend.stat(key)? else {
        return Ok(other_replica(backend, key)?.map_or(Health::Missing, Health::Healable));
    };
    let corrupt = |detail: String| Ok(Health::Lost(Error::corrupt(key.to_string(), detail)));
    if size > PROTECTED_LEN_MAX {
        return corrupt(format!("its length of {size} bytes is out of bounds"));
    }
    let mut has_bad_sectors = false;
    let Some(bytes) = read_around(backend, key, 0..size, &mut has_bad_sectors)? else { return Ok(Health::Missing) };
    let is_whole = is_whole(key, &bytes, has_parity);
    let healed = match (is_whole, key) {
        (true, _) if !has_bad_sectors => return Ok(Health::Whole),
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

/// Whether the repository's configuration asks for parity, so far as it can be read: without it nothing else can be read either.
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

/// The bytes of a pack before they were damaged, if its parity suffices: they are those that its name is the hash of.
pub fn heal_pack(id: PackId, damaged: &[u8]) -> Option<Vec<u8>> {
    heal_record(&ObjectKey::Pack(id), damaged)
}

/// The same of a snapshot record (pending or not), mark, forgotten record or tombstone with its second copy. Those without a name made of their bytes have
/// all of their checksums.
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

/// What a record without a name of its bytes is without its section, if that is the very section of it.
fn unnamed_record(bytes: &[u8], has_parity: bool) -> Option<&[u8]> {
    if !has_parity {
        return Some(bytes);
    }
    let (record, found) = bytes.split_at_checked(record_len(bytes).ok()?)?;
    let expected = section(&Geometry::of_record(u64_from(record.len())), record, &[]).ok()?;
    (expected == found).then_some(record)
}

/// Whether a forgotten record ends with the checksum of what is before it.
fn has_own_checksum(record: &[u8]) -> bool {
    record.split_last_chunk::<FORGOTTEN_CHECKSUM_LEN>().is_some_and(|(record, sum)| blake3::hash(record).as_bytes() == sum)
}

/// The other copy of what is stored twice, if it is whole.
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

/// Reads a range, with zeros for sectors that cannot be read; `None` if the object is not there any more.
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
    let middle = range.start + sectors / 2 * u64::from(PARITY_SECTOR_LEN);
    let first = read_around(backend, key, range.start..middle, has_bad_sectors)?;
    let second = read_around(backend, key, middle..range.end, has_bad_sectors)?;
    Ok(first.zip(second).map(|(first, second)| [first, second].concat()))
}

/// What an open repository has healed in memory.
pub(super) struct Healed {
    state: Mutex<State>,
}

struct State {
    packs: Cache<PackId, Arc<Vec<u8>>>,
    /// Damaged packs that were tried and cannot be healed, and whole ones: not to be read again and again.
    hopeless: HashSet<PackId>,
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

    /// Packs that could not be healed may have been put right.
    pub(super) fn look_again(&self) {
        self.state().hopeless.clear();
    }
}

impl Repository {
    /// Whether its packs have parity and its records second copies.
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

    /// The damaged objects that were healed in memory by reading since the repository was opened. They are damaged still.
    pub fn healed_objects(&self) -> Vec<ObjectKey> {
        self.inner.healed.state().objects.iter().copied().collect()
    }

    /// Tells of the objects that were healed in memory, if there are any.
    pub fn warn_of_healed(&self, monitor: &dyn Monitor) {
        let healed = self.healed_objects();
        if let Some(first) = healed.first() {
            let others = if healed.len() > 1 { format!(" and {} more objects are", healed.len() - 1) } else { " is".into() };
            monitor.warn(&format!("{first}{others} damaged and was read with the help of parity: `icecore repair` puts that right"));
        }
    }

    /// Remembers that a damaged object was healed in memory.
    pub(super) fn note_healed(&self, key: &ObjectKey) {
        self.inner.healed.state().objects.insert(*key);
    }

    /// The bytes of a damaged pack as they were; `None` if it cannot be healed, or is not there, or is whole.
    pub(crate) fn healed_pack(&self, id: &PackId) -> Result<Option<Arc<Vec<u8>>>> {
        if !self.has_parity() {
            return Ok(None);
        }
        {
            let mut state = self.inner.healed.state();
            let known = state.packs.get(id);
            if known.is_some() || state.hopeless.contains(id) {
                return Ok(known);
            }
        }
        let key = ObjectKey::Pack(*id);
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

    /// A record with its second copy, if this repository has these.
    pub(super) fn with_copy(&self, mut stored: Vec<u8>) -> Result<Vec<u8>> {
        if self.has_parity() {
            let copy = section(&Geometry::of_record(u64_from(stored.len())), &stored, &[]).map_err(|m| m.of("a new record"))?;
            stored.extend_from_slice(&copy);
        }
        Ok(stored)
    }

    /// The longest stored form of a record of so many bytes.
    pub(super) fn with_copy_len(&self, len: u64) -> u64 {
        if self.has_parity() { Geometry::of_record(len).object_len() } else { len }
    }

    /// A stored record without its second copy. One that has a name of its bytes is compared with it; a damaged one is healed.
    ///
    /// # Errors
    /// [`Error::Corrupt`].
    pub(super) fn without_copy(&self, key: &ObjectKey, mut stored: Vec<u8>) -> Result<Vec<u8>> {
        if !self.has_parity() {
            // The checks of unnamed records say more exactly what is wrong.
            let is_named = !matches!(key, ObjectKey::Forgotten(_) | ObjectKey::Tombstone(_));
            return match !is_named || is_whole(key, &stored, false) {
                true => Ok(stored),
                false => Err(Error::corrupt(key.to_string(), "its bytes are not those that its name is the hash of")),
            };
        }
        if !is_whole(key, &stored, true) {
            let lost = || Error::corrupt(key.to_string(), "its bytes are not those that were written, and its second copy does not help");
            stored = heal_record(key, &stored).ok_or_else(lost)?;
            self.note_healed(key);
        }
        let len = record_len(&stored).map_err(|m: Malformed| m.of(key))?;
        stored.truncate(len);
        Ok(stored)
    }
}
