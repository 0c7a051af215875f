//! Export: writes a snapshot as flat files that need no icecore: its streams, `checksums.txt` and `manifest.json`.
//!
//!
//! The new directory is made beside its place, filled, synced, and every file is read again and hashed. Then it takes
//! the name in one step (see `swap.rs`). So the name always leads to a complete export, the old one or the new one. What was
//! there and is not an unchanged export is kept.

mod from;
mod manifest;
mod perform;
pub(super) mod swap;

use std::collections::HashMap;

use std::path::{Path, PathBuf};

pub use crate::fs::sha256sums::{CHECKSUMS_LEN_MAX, CHECKSUMS_NAME, FileHash};
pub use from::{FromOptions, Given, open_directory, restore_given};
pub use manifest::{
    FileInfo, FlagInfo, MANIFEST_FORMAT, MANIFEST_LEN_MAX, MANIFEST_NAME, MANIFEST_SCHEMA, Manifest, NameInfo, SourceInfo, SqliteInfo,
    TableInfo,
};
pub use perform::{ExportReport, perform};

use self::swap::{Place, Staging};
use super::restore::{Entries, Filling, Refused, Restored};
use crate::engine::files::restore::tree::Tree;
use crate::engine::place::{Findings, Placement};
use crate::engine::sqlite::restore::DatabaseOptions;
use crate::engine::{self, Engine, Evidence};
use crate::error::{Error, Result};
use crate::fs::disk::Disk;
use crate::fs::sha256sums as sums;
use crate::id::SnapshotId;
use crate::ops::number::wide;
use crate::ops::stored::StoredSnapshot;
use crate::progress::Monitor;
use crate::recorded::{EntryKind, FileMeta};
use crate::store::format::snapshot::{SnapshotRecord, StreamEntry};
use crate::store::repo::{Reader, Repository};

/// How to export.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ExportOptions {
    /// The clock, nanoseconds since 1970-01-01 UTC.
    pub now_ns: i64,
    /// Also export databases that do not pass SQLite's quick_check.
    pub accept_damaged: bool,
}

/// The export that was made.
#[derive(Debug, Clone, PartialEq)]
pub struct Exported {
    /// The directory, with symbolic links resolved.
    pub path: PathBuf,
    /// The content of its `manifest.json`.
    pub manifest: Manifest,
    /// Where the old directory is kept, if it was not an unchanged export.
    pub kept: Option<PathBuf>,
    /// SQLite's findings about the databases that have any.
    pub findings: Vec<(Vec<u8>, Findings)>,
}

/// Makes `dir` an export of the snapshot. `dir` may be absent, empty, or an export. An export that has changed since,
/// or that another program wrote, is kept as `DIR.pre_export.TIMESTAMP`.
///
/// # Errors
/// [`Error::Destination`] when `dir` holds something else or cannot be written; [`Error::Busy`] when another export
/// is at work there; [`Error::Corrupt`]; [`Error::Cancelled`]. Then what was there is unchanged.
pub fn export(
    repo: &Repository,
    (id, record): (&SnapshotId, &SnapshotRecord),
    dir: &Path,
    options: &ExportOptions,
    placement: &Placement<'_>,
) -> Result<Exported> {
    let (disk, monitor) = (placement.disk, placement.monitor);
    let reader = Reader::new(repo);
    let stored = StoredSnapshot::new(repo, Reader::new(repo), record, reader.listing(&record.listing, monitor)?);
    let engine = engine::of(&record.source.kind);
    let evidence = engine.evidence(&stored)?;
    let mut listing = stored.into_listing();
    // The evidence of a dump is in the manifest. It is not a file of the dump, and a restore reads it anew from the
    // dump.
    listing.retain(|entry| evidence.as_ref().is_none_or(|evidence| evidence.stream != entry.name));
    if let Some(name) = [CHECKSUMS_NAME, MANIFEST_NAME].iter().find(|name| listing.iter().any(|entry| entry.name == name.as_bytes())) {
        return Err(Error::InvalidArgument(format!(
            "the snapshot has a stream named {name}, which an export needs for itself; use restore --to"
        )));
    }
    let place = Place::open(disk, dir)?;
    // From here to `publish` everything goes into the hidden directory; an error drops it.
    let staging = place.stage(monitor)?;
    let findings = write_streams(&reader, &listing, record, &staging, options, placement)?;
    let manifest = describe(Manifest::of(id, record, options.now_ns), &listing, (engine, evidence.as_ref()), &staging, monitor)?;
    write_descriptions(disk, &staging, &manifest.0, &manifest.1)?;
    if monitor.cancelled() {
        return Err(Error::Cancelled);
    }
    let kept = place.publish(disk, staging, &placement.timestamp, monitor)?;
    let path = dir.canonicalize().unwrap_or_else(|_| dir.to_path_buf());
    Ok(Exported { path, manifest: manifest.0, kept, findings })
}

fn write_streams(
    reader: &Reader,
    listing: &[StreamEntry],
    record: &SnapshotRecord,
    staging: &Staging,
    options: &ExportOptions,
    placement: &Placement<'_>,
) -> Result<Vec<(Vec<u8>, Findings)>> {
    placement.monitor.phase("exporting", Some(record.logical_bytes));
    // The files belong to the user who exports, not to the owner of the originals. Special mode bits are dropped.
    let owner = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    let dress = |entry: &StreamEntry| {
        let meta = entry.meta.clone()?.without_attributes();
        Some(FileMeta { mode: meta.mode & 0o777, uid: owner.0, gid: owner.1, ..meta })
    };
    let database = DatabaseOptions { accept_damaged: options.accept_damaged, ..DatabaseOptions::default() };
    let unusable = |e| Error::destination(&staging.path, format!("cannot be used: {e}; what was there is unchanged"));
    let tree = Tree::open_held(placement, staging.dir.again().map_err(unusable)?)?;
    let (entries, total, monitor) = (Entries::Listed(listing), wide(listing.len()), placement.monitor);
    let filling = Filling { reader, entries, total, database, dress: &dress, monitor };
    let mut findings = Vec::new();
    let mut tell = |restored: Restored| {
        if restored.placed.findings != Findings::default() {
            findings.push((restored.name, restored.placed.findings));
        }
    };
    let mut outcome = filling.fill(&tree, Refused::new(), &mut tell);
    // An incomplete export is given up, so nothing counts as restored in the error's text.
    outcome.restored = 0;
    outcome.whole().map_err(|error| match error {
        // Name the file by its place in the export: the directory that was being filled is gone.
        Error::Unsound { path, detail, advice } => {
            Error::Unsound { path: path.strip_prefix(tree.root()).map(Path::to_path_buf).unwrap_or(path), detail, advice }
        }
        other => other,
    })?;
    placement.monitor.phase("syncing", None);
    tree.finish()?;
    Ok(findings)
}

/// Reads every file again, as it is on the disk, and returns the manifest and the text of `checksums.txt`.
fn describe(
    mut manifest: Manifest,
    listing: &[StreamEntry],
    (engine, evidence): (&dyn Engine, Option<&Evidence>),
    staging: &Staging,
    monitor: &dyn Monitor,
) -> Result<(Manifest, Vec<u8>)> {
    use std::os::unix::ffi::OsStrExt;
    monitor.phase("hashing", Some(listing.iter().map(|entry| entry.root.len).fold(0, u64::saturating_add)));
    let (mut sums, mut hashes) = (Vec::new(), HashMap::new());
    for entry in listing {
        let hash = match &entry.kind {
            EntryKind::Directory | EntryKind::Symlink(_) => {
                manifest.others.push(NameInfo::of(&entry.name));
                continue;
            }
            // A further name of a file that was hashed already.
            EntryKind::HardLink(other) => hashes.get(other.as_slice()).copied(),
            _ => None,
        };
        let hash = match hash {
            Some(hash) => hash,
            None => hash_file(staging, Path::new(std::ffi::OsStr::from_bytes(&entry.name)), monitor)?,
        };
        hashes.insert(entry.name.as_slice(), hash);
        sums.extend_from_slice(&sums::line(&entry.name, &hash.sha256));
        manifest.bytes += hash.len;
        manifest.files.push(FileInfo::of(entry, (engine, evidence), &hash));
    }
    Ok((manifest, sums))
}

fn hash_file(staging: &Staging, name: &Path, monitor: &dyn Monitor) -> Result<FileHash> {
    let unreadable = |e| Error::destination(name, format!("cannot be read again: {e}; nothing was changed"));
    let last = name.file_name().unwrap_or_default();
    let opened = match name.parent().filter(|above| !above.as_os_str().is_empty()) {
        Some(above) => staging.dir.enter(above).and_then(|above| above.open_file(last)),
        None => staging.dir.open_file(last),
    };
    let file = opened.map_err(unreadable)?;
    sums::hash_file(&file, monitor).map_err(|error| match error {
        sums::ReadError::Read(e) => unreadable(e),
        sums::ReadError::Other(error) => error,
    })
}

/// Writes `checksums.txt` and `manifest.json`, durably.
fn write_descriptions(disk: &dyn Disk, staging: &Staging, manifest: &Manifest, sums: &[u8]) -> Result<()> {
    let failed =
        |e: &dyn std::fmt::Display| Error::destination(&staging.path, format!("cannot be completed: {e}; what was there is unchanged"));
    let json = serde_json::to_vec_pretty(manifest).map_err(|e| failed(&e))?;
    disk.create(&staging.dir.at(CHECKSUMS_NAME), &[sums], 0o644).map_err(|e| failed(&e))?;
    disk.create(&staging.dir.at(MANIFEST_NAME), &[&json, b"\n"], 0o644).map_err(|e| failed(&e))?;
    disk.sync_dir(staging.dir.itself()).map_err(|e| failed(&e))
}
