//! Decides when a database may be taken as unchanged without reading it.
//!
//! Nothing inside a database proves that: in WAL mode an update can leave the size and all of page 1 as they were. So
//! the file system must prove it. A stamp holds the states of the main file and of the -wal (or its absence), taken
//! *before* the read transaction. It follows the rule of `engine/stamp.rs`. While there is a rollback journal, no stamp
//! is given out.

use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use super::explain::beside;
use crate::engine::stamp::{FileState, STAMP_BYTES_MAX, is_fresh, is_local, to_ns};
use crate::engine::{Stamp, attributes};
use crate::error::{Error, Result};
use crate::recorded::{FileMeta, SqliteFacts};

/// The version of the encoding below. A stamp of another version is ignored.
const STAMP_VERSION: u8 = 1;

/// The states of a database's files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct FilesState {
    main: FileState,
    wal: Option<FileState>,
    journal: Option<FileState>,
}

/// A stamp before it is encoded.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
struct StampRecord {
    version: u8,
    files: FilesState,
    /// When the content was last read, nanoseconds since 1970-01-01 UTC.
    read_ns: i64,
    facts: SqliteFacts,
}

impl FilesState {
    /// Device and inode of the main file.
    pub(super) fn file_id(&self) -> (u64, u64) {
        self.main.id()
    }

    /// Bytes in the main file.
    pub(super) fn main_len(&self) -> u64 {
        self.main.size
    }

    /// Bytes in the write-ahead log. `None` if there is no such file.
    pub(super) fn wal_len(&self) -> Option<u64> {
        self.wal.map(|file| file.size)
    }

    /// Whether the main file has everything: there is no log and no journal with content.
    pub(super) fn is_main_only(&self) -> bool {
        [self.wal, self.journal].iter().flatten().all(|file| file.size == 0)
    }

    /// The state to record in the stamp. `after` is the state after SQLite has opened the files, still before the read
    /// transaction.
    ///
    /// When root opens an existing -wal, SQLite sets its owner. That moves the change time and nothing else. If only
    /// the change time of the -wal differs, this has happened: a write would have moved the modification time, too,
    /// which was settled before.
    pub(super) fn once_opened(&self, after: &FilesState) -> FilesState {
        let only_ctime = |before: FileState, after: FileState| FileState { ctime_ns: after.ctime_ns, ..before } == after;
        match (self.wal, after.wal) {
            (Some(before), Some(now)) if only_ctime(before, now) => FilesState { wal: after.wal, ..*self },
            _ => *self,
        }
    }

    /// The stamp of a database, if it may have one. `self` is its state at `now`, before it was opened; `recorded` is
    /// what [`FilesState::once_opened`] gave.
    pub(super) fn stamp(&self, recorded: FilesState, path: &Path, now: SystemTime, facts: SqliteFacts) -> Option<Stamp> {
        let now_ns = to_ns(now)?;
        // A file that changed a moment ago may change again within the same time stamp. Remote file systems may show
        // old states.
        let all_settled = [Some(self.main), self.wal].iter().flatten().all(|file| file.is_settled(now_ns));
        if !all_settled || self.journal.is_some() || !is_local(path) {
            return None;
        }
        let record = StampRecord { version: STAMP_VERSION, files: recorded, read_ns: now_ns, facts };
        bincode::serde::encode_to_vec(record, bincode::config::standard()).ok().map(Stamp)
    }

    /// The facts in a stamp, if the stamp proves that nothing has changed.
    pub(super) fn unchanged_since(&self, known: &Stamp, now: SystemTime) -> Option<SqliteFacts> {
        // Stamps are kept on disk, so they are decoded with a limit and believed only if all of them fits.
        let config = bincode::config::standard().with_limit::<STAMP_BYTES_MAX>();
        let (record, used): (StampRecord, usize) = bincode::serde::decode_from_slice(&known.0, config).ok()?;
        let fresh = is_fresh(record.read_ns, now);
        (used == known.0.len() && record.version == STAMP_VERSION && fresh && record.files == *self).then_some(record.facts)
    }
}

/// Looks at the files of a database without opening any. Gives their state, the attributes of the main file, and how
/// many names (hard links) it has.
pub(super) fn observe(path: &Path) -> Result<(FilesState, FileMeta, u64)> {
    // Links in the path were resolved before. If there is one now, it has taken the place of the database.
    let metadata = std::fs::symlink_metadata(path).map_err(|e| match e.kind() {
        ErrorKind::NotFound => Error::source(path, "no such file; check the path"),
        _ => Error::source(path, e),
    })?;
    if metadata.is_dir() {
        return Err(Error::source(path, "a directory; name the database file in it, or use `backup files`"));
    }
    if !metadata.is_file() {
        return Err(Error::source(path, "not a regular file, so not a database"));
    }
    let state = FilesState { main: FileState::of(&metadata), wal: state_beside(path, "-wal")?, journal: state_beside(path, "-journal")? };
    let meta = attributes::seen(path, &metadata).unwrap_or_else(|_| attributes::narrow(&metadata));
    Ok((state, meta, metadata.nlink()))
}

fn state_beside(path: &Path, suffix: &str) -> Result<Option<FileState>> {
    let path = beside(path, suffix);
    match std::fs::symlink_metadata(&path) {
        Ok(metadata) => Ok(Some(FileState::of(&metadata))),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
        Err(e) => Err(Error::source(path, e)),
    }
}
