//! The names of objects in their directories: from the object to the name and back. Both directions are strict, so an object has exactly
//! one name, and every other file is foreign.

use std::path::Path;

use crate::id::{PackId, SnapshotId, SourceTag, from_hex, to_hex};
use crate::store::backend::{LOG_TIME_DIGITS, ObjectKey, ObjectKind, Replica, SetAside};

/// The end of the name of a replica.
const SECOND: &str = ".copy";

pub(super) fn directory_name(kind: ObjectKind) -> &'static str {
    match kind {
        ObjectKind::Config => "",
        ObjectKind::Key => "keys",
        ObjectKind::Pack => "packs",
        ObjectKind::Pending => "pending",
        ObjectKind::Snapshot => "snapshots",
        ObjectKind::Mark => "marks",
        ObjectKind::Forgotten => "forgotten",
        ObjectKind::Tombstone => "tombstones",
        ObjectKind::Log => "log",
        ObjectKind::Quarantined => "quarantine",
    }
}

/// The name of the directory below `packs` that holds a pack.
pub(super) fn shard_name(id: &PackId) -> String {
    to_hex(id.0.first_chunk::<1>().map_or(&[], |byte| byte.as_slice()))
}

/// Whether a directory of this name, below the directory of this kind, holds objects.
pub(super) fn is_directory_name(kind: ObjectKind, name: &str) -> bool {
    match kind {
        ObjectKind::Mark => name.parse::<SnapshotId>().is_ok(),
        _ => from_hex(name).is_some_and(|bytes| bytes.len() == 1),
    }
}

pub(super) fn file_name(key: &ObjectKey) -> String {
    let second = |replica: &Replica| if *replica == Replica::Second { SECOND } else { "" };
    match key {
        ObjectKey::Config(replica) => format!("config{}", second(replica)),
        ObjectKey::Key(id, replica) => format!("{id}{}", second(replica)),
        ObjectKey::Pack(id) | ObjectKey::Tombstone(id) => id.to_string(),
        ObjectKey::Pending { source, id } | ObjectKey::Snapshot { source, id } => format!("{source}-{id}"),
        ObjectKey::Forgotten(id) => id.to_string(),
        ObjectKey::Mark { id, .. } => id.to_string(),
        ObjectKey::Log { time_ns, id } => format!("{time_ns:0LOG_TIME_DIGITS$}-{id}"),
        ObjectKey::Quarantined { kind, id, content } => format!("{}-{}-{content}", kind.word(), to_hex(id)),
    }
}

/// The source and the id in the name of a snapshot record.
fn parse_by_source(name: &str) -> Option<(SourceTag, SnapshotId)> {
    let (source, id) = name.split_once('-')?;
    Some((source.parse().ok()?, id.parse().ok()?))
}

/// The object of this kind that a file of this name in this directory is; `None` for a foreign file.
pub(super) fn parse_name(kind: ObjectKind, directory: &Path, name: &str) -> Option<ObjectKey> {
    match kind {
        ObjectKind::Config => None,
        ObjectKind::Key => match name.strip_suffix(SECOND) {
            Some(first) => Some(ObjectKey::Key(first.parse().ok()?, Replica::Second)),
            None => Some(ObjectKey::Key(name.parse().ok()?, Replica::First)),
        },
        ObjectKind::Pack => Some(ObjectKey::Pack(name.parse().ok()?)),
        ObjectKind::Pending => parse_by_source(name).map(|(source, id)| ObjectKey::Pending { source, id }),
        ObjectKind::Snapshot => parse_by_source(name).map(|(source, id)| ObjectKey::Snapshot { source, id }),
        ObjectKind::Mark => {
            let snapshot = directory.file_name()?.to_str()?.parse().ok()?;
            Some(ObjectKey::Mark { snapshot, id: name.parse().ok()? })
        }
        ObjectKind::Forgotten => Some(ObjectKey::Forgotten(name.parse().ok()?)),
        ObjectKind::Tombstone => Some(ObjectKey::Tombstone(name.parse().ok()?)),
        ObjectKind::Log => {
            let (time, id) = name.split_once('-')?;
            // Only digits: `parse` would also accept a sign.
            let is_time = time.len() == LOG_TIME_DIGITS && time.bytes().all(|c| c.is_ascii_digit());
            Some(ObjectKey::Log { time_ns: time.parse().ok().filter(|_| is_time)?, id: id.parse().ok()? })
        }
        ObjectKind::Quarantined => {
            let (word, ids) = name.split_once('-')?;
            let (id, content) = ids.split_once('-')?;
            let kind = SetAside::ALL.into_iter().find(|kind| kind.word() == word)?;
            Some(ObjectKey::Quarantined { kind, id: from_hex(id)?.try_into().ok()?, content: content.parse().ok()? })
        }
    }
}
