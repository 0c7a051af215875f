//! Setting damaged objects aside: copied to `quarantine` and read back, before anybody deletes them.

use crate::error::{Error, Result};
use crate::id::{ContentId, ID_LEN};
use crate::store::backend::{BackendExt, ObjectKey, SetAside, WriteMode};
use crate::store::repo::{Repository, missing_is_damage};

use super::records::is_damaged;

/// The longest object that is copied, bytes: it is in memory meanwhile. Thirty times as long as packs are made.
const LEN_MAX: u64 = 256 << 20;

/// What became of copying an object.
pub(super) enum Copied {
    /// It lies there under this name, verified; these are its bytes.
    There(ObjectKey, Vec<u8>),
    /// It is not there any more, or is whole after all: a disk may fail once.
    Gone,
    /// It cannot be copied whole, so it has to stay where it is.
    Not(String),
}

/// Whether this is a record of a snapshot, or a mark, that can be read. Anything has the right bytes for a name that was made of them.
fn is_record(repo: &Repository, key: &ObjectKey) -> Result<bool> {
    match key {
        ObjectKey::Snapshot { .. } => Ok(!is_damaged(repo.read_snapshot(key))?),
        ObjectKey::Mark { snapshot, id } => Ok(!is_damaged(repo.read_mark(snapshot, id))?),
        _ => Ok(false),
    }
}

/// Copies an object as it is found.
pub(super) fn copy(repo: &Repository, kind: SetAside, key: &ObjectKey, id: [u8; ID_LEN]) -> Result<Copied> {
    let backend = repo.backend();
    let bytes = match backend.read_if_there(key, LEN_MAX).map_err(|error| missing_is_damage(error, key)) {
        Ok(Some(bytes)) => bytes,
        Ok(None) => return Ok(Copied::Gone),
        Err(error) if error.is_damage() => return Ok(Copied::Not(format!("left where it is, as it cannot be copied: {error}"))),
        Err(error) => return Err(error),
    };
    // A read that came out short must not pass for what is there.
    if backend.stat(key)? != Some(bytes.len() as u64) {
        return Ok(Copied::Not(format!("{key}: left where it is, as it does not read back the same")));
    }
    if blake3::hash(&bytes).as_bytes() == &id && is_record(repo, key)? {
        return Ok(Copied::Gone);
    }
    let content = ContentId(*blake3::hash(&bytes).as_bytes());
    let to = ObjectKey::Quarantined { kind, id, content };
    match backend.write(&to, &[&bytes], WriteMode::CreateNew) {
        Ok(()) => {}
        // An earlier repair came as far as this; whether it came to its end is not known.
        Err(Error::Backend { source, .. }) if source.kind() == std::io::ErrorKind::AlreadyExists => backend.settle(&[to])?,
        Err(other) => return Err(other),
    }
    match backend.read_if_there(&to, LEN_MAX)? {
        Some(copy) if copy == bytes => Ok(Copied::There(to, bytes)),
        _ => Ok(Copied::Not(format!("{key}: left where it is, as its copy in quarantine does not read back"))),
    }
}
