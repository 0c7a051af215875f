//! Reads what this machine remembers of a repository, without a passphrase.
//! It serves only hints, such as completions in a shell. Nothing is verified, because the key is missing.

use std::path::Path;

use super::catalog;
use super::stored_twice::read_config;
use crate::error::Result;
use crate::id::SnapshotId;
use crate::store::backend::Backend;
use crate::store::format::record;
use crate::store::format::snapshot::SnapshotRecord;

/// The snapshots that the local catalog knows, oldest first; none if there is no catalog. Marks are not looked at, and nothing is verified:
/// the key is missing, so everybody who can write the catalog decides what is in it.
///
/// # Errors
/// As of reading the configuration; [`Error::Catalog`](crate::Error::Catalog) if the file cannot be read.
pub fn known_snapshots(backend: &dyn Backend, cache_dir: &Path) -> Result<Vec<(SnapshotId, SnapshotRecord)>> {
    let (config, _) = read_config(backend)?;
    let rows = catalog::peek(cache_dir, config.repository, &backend.location())?;
    let decoded = rows.into_iter().filter_map(|(id, bytes)| Some((id, record::decode::<SnapshotRecord>(&bytes).ok()?)));
    let mut snapshots: Vec<_> = decoded.collect();
    snapshots.sort_by_key(|(_, record)| record.time_ns);
    Ok(snapshots)
}
