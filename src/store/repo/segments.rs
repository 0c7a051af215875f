//! Reading segments. Each is read once, however many threads want it at the same time, and a bounded number of bytes is kept. Opening a segment
//! verifies its seal, where the repository is encrypted.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use super::cache::Cache;
use super::locate::StoredCopy;
use crate::error::{Error, Result};
use crate::id::PackId;
use crate::store::backend::{Backend, ObjectKey};

/// A segment, or the place where the first thread that wants it will put it. The other threads wait for its lock.
type Slot = Arc<Mutex<Option<Arc<Vec<u8>>>>>;

/// Opened segments, with a bound on their bytes.
pub(crate) struct Segments {
    slots: Mutex<Cache<(PackId, u32), Slot>>,
    /// Whole packs that were read for another reason. Their segments are not read again.
    held: Mutex<HashMap<PackId, Arc<Vec<u8>>>>,
}

impl Segments {
    pub(crate) fn new(budget_bytes: usize) -> Self {
        Segments { slots: Mutex::new(Cache::new(budget_bytes)), held: Mutex::default() }
    }

    /// Takes the stored bytes of a pack. The caller bounds how many packs.
    pub(crate) fn hold(&self, pack: PackId, bytes: Vec<u8>) {
        self.held.lock().unwrap_or_else(PoisonError::into_inner).insert(pack, Arc::new(bytes));
    }

    /// The stored bytes of a segment, if its pack is held.
    fn held(&self, pack: &PackId, range: &Range<u64>) -> Option<Vec<u8>> {
        let held = self.held.lock().unwrap_or_else(PoisonError::into_inner).get(pack).cloned();
        let (start, end) = (usize::try_from(range.start).ok()?, usize::try_from(range.end).ok()?);
        held.and_then(|bytes| bytes.get(start..end).map(<[u8]>::to_vec))
    }

    /// The plain bytes of the segment that holds this copy.
    pub(crate) fn of(&self, backend: &dyn Backend, copy: &StoredCopy) -> Result<Arc<Vec<u8>>> {
        let number = copy.frame().segment;
        let key = (copy.table.pack.id, number);
        let range = copy.table.segment_range(number)?;
        // The map is locked only to find the slot. Reading happens under the slot's own lock, so that other segments can be read meanwhile.
        let slot = {
            let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
            match slots.get(&key) {
                Some(slot) => slot,
                None => {
                    let slot = Slot::default();
                    // A segment has at most SEGMENT_LEN_MAX bytes, so its length fits.
                    slots.put(key, Arc::clone(&slot), (range.end - range.start) as usize);
                    slot
                }
            }
        };
        let mut bytes = slot.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(bytes) = &*bytes {
            return Ok(Arc::clone(bytes));
        }
        // After a failure the slot stays empty, and the next thread tries again.
        let stored = self.held(&key.0, &range);
        let opened = Arc::new(open_segment(backend, copy, range, stored)?);
        *bytes = Some(Arc::clone(&opened));
        Ok(opened)
    }
}

/// Reads a segment, unless its stored bytes are given, and opens it.
fn open_segment(backend: &dyn Backend, copy: &StoredCopy, range: Range<u64>, stored: Option<Vec<u8>>) -> Result<Vec<u8>> {
    let object = ObjectKey::Pack(copy.table.pack.id);
    let read = || backend.read(&object, Some(range.clone())).map_err(|error| missing_is_damage(error, &object));
    let mut bytes = stored.map_or_else(read, Ok)?;
    let number = copy.frame().segment;
    let open = copy.table.sealer.open(number, &mut bytes);
    open.map_err(|m| Error::corrupt(object.to_string(), format!("segment {number} at bytes {}-{}: {m}", range.start, range.end)))?;
    Ok(bytes)
}

/// Turns some failures of the storage into damage. An object that the repository names may be missing, too short, or on a bad sector. That
/// is not a fault of the machine: another copy may serve, and work that does not need the object goes on.
pub(crate) fn missing_is_damage(error: Error, object: &ObjectKey) -> Error {
    use std::io::ErrorKind::{InvalidData, NotFound, UnexpectedEof};
    match error {
        Error::Backend { source, .. } if source.kind() == NotFound => Error::corrupt(object.to_string(), "it is missing"),
        Error::Backend { source, .. } if source.kind() == UnexpectedEof => {
            Error::corrupt(object.to_string(), "it is shorter than it was written")
        }
        Error::Backend { source, .. } if source.kind() == InvalidData || is_bad_sector(&source) => {
            Error::corrupt(object.to_string(), format!("it cannot be read: {source}"))
        }
        other => other,
    }
}

fn is_bad_sector(cause: &std::io::Error) -> bool {
    cause.raw_os_error() == Some(rustix::io::Errno::IO.raw_os_error())
}
