//! Heals records that are stored twice (config and keys): names the bad replica and the bytes of the whole one.
//!
//! Guarantee: a replica is only replaced if it is missing or damaged and the other one is whole. If both are whole and
//! differ, both stay, since nobody can tell which is right. A config must be that of the open repository.
//! Relies on the caller to write the bytes.

use std::collections::BTreeSet;

use crate::error::{Error, Result};
use crate::id::KeyId;
use crate::store::backend::{ObjectKey, ObjectKind, Replica};
use crate::store::format::config::Config;
use crate::store::format::key::KeyRecord;
use crate::store::repo::{Repository, read_record_from};

/// The replicas that are missing or damaged, with the bytes that they should have.
pub(super) fn to_heal(repo: &Repository) -> Result<Vec<(ObjectKey, Vec<u8>)>> {
    let mut mend = Vec::new();
    let is_ours = |bytes: &[u8]| Config::decode(bytes).is_ok_and(|config| config == *repo.config());
    mend.extend(pair(repo, &ObjectKey::Config, &is_ours)?);
    let mut keys: BTreeSet<KeyId> = BTreeSet::new();
    for key in repo.backend().names(ObjectKind::Key)? {
        if let ObjectKey::Key(id, _) = key? {
            keys.insert(id);
        }
    }
    for id in keys {
        mend.extend(pair(repo, &|replica| ObjectKey::Key(id, replica), &|bytes| KeyRecord::decode(bytes).is_ok())?);
    }
    Ok(mend)
}

/// The replica that is not whole, if the other one is. If both are whole and differ, nobody can tell which is right,
/// so both stay.
fn pair(repo: &Repository, key: &dyn Fn(Replica) -> ObjectKey, is_whole: &dyn Fn(&[u8]) -> bool) -> Result<Option<(ObjectKey, Vec<u8>)>> {
    let mut whole = Vec::new();
    for replica in [Replica::First, Replica::Second] {
        let key = key(replica);
        whole.push(match read_record_from(repo.backend(), &key) {
            Ok(bytes) => bytes.filter(|bytes| is_whole(bytes)),
            // The name belongs to something that is not a file, or the disk cannot read it.
            Err(Error::Corrupt { .. }) => None,
            Err(error) => return Err(error),
        });
    }
    let mut whole = whole.into_iter();
    match (whole.next().flatten(), whole.next().flatten()) {
        (Some(bytes), None) => Ok(Some((key(Replica::Second), bytes))),
        (None, Some(bytes)) => Ok(Some((key(Replica::First), bytes))),
        _ => Ok(None),
    }
}
