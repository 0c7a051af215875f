//! When a database may be taken as unchanged without reading it.
//!
//! Nothing inside a database proves it: in WAL mode an update can leave the size and all of page 1 as they were. So the file system has to.
//! A stamp holds the states of the main file and of the -wal (or its absence), taken *before* the read transaction, and follows the rule
//! of `engine/stamp.rs`; besides, none is given out while there is a rollback journal.

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

/// Version of the encoding below; a stamp of another one is no stamp.
const STAMP_VERSION: u8 = 1;

/// What the file system says of a database.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct FilesState {
    main: FileState,
    wal: Option<FileState>,
    journal: Option<FileState>,
}

/// A stamp, as it is encoded.
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

    /// Bytes in the write-ahead log; `None` if there is no such file.
    pub(super) fn wal_len(&self) -> Option<u64> {
        self.wal.map(|file| file.size)
    }

    /// Whether all there is stands in the main file.
    pub(super) fn is_main_only(&self) -> bool {
        [self.wal, self.journal].iter().flatten().all(|file| file.size == 0)
    }

    /// What to record, when the files looked like `after` once SQLite had opened them, still before the read transaction.
    ///
    /// For root SQLite sets the owner of an existing -wal when it opens it, which moves the change time, and nothing else. If the rest
    /// is as it was, this is what happened: a write would have moved the modification time away from a value that was settled.
    pub(super) fn once_opened(&self, after: &FilesState) -> FilesState {
        let only_ctime = |before: FileState, after: FileState| FileState { ctime_ns: after.ctime_ns, ..before } == after;
        match (self.wal, after.wal) {
            (Some(before), Some(now)) if only_ctime(before, now) => FilesState { wal: after.wal, ..*self },
            _ => *self,
        }
    }

    /// The stamp of a database that looked like this at `now`, and like `recorded` once it was open, before its content was read; if it
    /// may have one.
    pub(super) fn stamp(&self, recorded: FilesState, path: &Path, now: SystemTime, facts: SqliteFacts) -> Option<Stamp> {
        let now_ns = to_ns(now)?;
        let all_settled = [Some(self.main), self.wal].iter().flatten().all(|file| file.is_settled(now_ns));
        if !all_settled || self.journal.is_some() || !is_local(path) {
            return None;
        }
        let record = StampRecord { version: STAMP_VERSION, files: recorded, read_ns: now_ns, facts };
        bincode::serde::encode_to_vec(record, bincode::config::standard()).ok().map(Stamp)
    }

    /// The facts in a stamp, if it proves that nothing has changed.
    pub(super) fn unchanged_since(&self, known: &Stamp, now: SystemTime) -> Option<SqliteFacts> {
        let config = bincode::config::standard().with_limit::<STAMP_BYTES_MAX>();
        let (record, used): (StampRecord, usize) = bincode::serde::decode_from_slice(&known.0, config).ok()?;
        let fresh = is_fresh(record.read_ns, now);
        (used == known.0.len() && record.version == STAMP_VERSION && fresh && record.files == *self).then_some(record.facts)
    }
}

/// Looks at the files of a database without opening any.
pub(super) fn observe(path: &Path) -> Result<(FilesState, FileMeta, u64)> {
    // The path has no links; one that is there now has taken the place of the database.
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
