//! Sets damaged objects aside: copies them to `quarantine` and reads the copy back. The caller deletes the original
//! only after that.

use crate::error::{Error, Result};
use crate::id::{ContentId, ID_LEN};
use crate::store::backend::{BackendExt, ObjectKey, SetAside, WriteMode};
use crate::store::repo::{Repository, missing_is_damage};

use super::records::is_damaged;
use crate::ops::number::wide;

/// The longest object that is copied, bytes. It is in memory meanwhile. Packs are made a thirtieth as long.
const LEN_MAX: u64 = 256 << 20;

/// The result of copying an object.
pub(super) enum Copied {
    /// The copy lies under this name, verified. These are its bytes.
    There(ObjectKey, Vec<u8>),
    /// The object is gone, or is whole after all: a disk may fail once.
    Gone,
    /// The object cannot be copied whole, so it must stay where it is. This is why.
    Not(String),
}

/// Whether this is a snapshot record or a mark that can be read. A matching hash alone does not prove that: anybody
/// can name a file by its hash.
fn is_record(repo: &Repository, key: &ObjectKey) -> Result<bool> {
    match key {
        ObjectKey::Snapshot { .. } => Ok(!is_damaged(repo.read_snapshot(key))?),
        ObjectKey::Mark { snapshot, id } => Ok(!is_damaged(repo.read_mark(snapshot, id))?),
        _ => Ok(false),
    }
}

/// Copies an object as it is, damage included.
pub(super) fn copy(repo: &Repository, kind: SetAside, key: &ObjectKey, id: [u8; ID_LEN]) -> Result<Copied> {
    let backend = repo.backend();
    let bytes = match backend.read_if_there(key, LEN_MAX).map_err(|error| missing_is_damage(error, key)) {
        Ok(Some(bytes)) => bytes,
        Ok(None) => return Ok(Copied::Gone),
        Err(error) if error.is_damage() => return Ok(Copied::Not(format!("left where it is, because it cannot be copied: {error}"))),
        Err(error) => return Err(error),
    };
    // A short read must not pass for the whole object.
    if backend.stat(key)? != Some(wide(bytes.len())) {
        return Ok(Copied::Not(format!("{key}: left where it is, because its size and the number of bytes read differ")));
    }
    if blake3::hash(&bytes).as_bytes() == &id && is_record(repo, key)? {
        return Ok(Copied::Gone);
    }
    let content = ContentId(*blake3::hash(&bytes).as_bytes());
    let to = ObjectKey::Quarantined { kind, id, content };
    match backend.write(&to, &[&bytes], WriteMode::CreateNew) {
        Ok(()) => {}
        // An earlier repair has written the copy, and may have been interrupted before it was durable.
        Err(Error::Backend { source, .. }) if source.kind() == std::io::ErrorKind::AlreadyExists => backend.settle(&[to])?,
        Err(other) => return Err(other),
    }
    match backend.read_if_there(&to, LEN_MAX)? {
        Some(copy) if copy == bytes => Ok(Copied::There(to, bytes)),
        _ => Ok(Copied::Not(format!("{key}: left where it is, because its copy in quarantine does not read back"))),
    }
}
