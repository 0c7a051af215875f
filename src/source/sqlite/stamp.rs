//! When a database may be taken as unchanged without reading it.
//!
//! Nothing inside a database proves it: in WAL mode an update can leave the size and all of page 1 as they were. So the file system has to.
//! A stamp holds device, inode, size, modification and change time of the main file and of the -wal (or its absence), taken *before* the
//! read transaction. It is given out only if both change times were then more than [`SETTLED`] old, so that a later write within the clock's
//! granularity cannot go unseen, if no rollback journal was there, and if the file system is a local one that keeps change times
//! itself. It holds for [`READ_AGAIN_AFTER`]; then the content is read all the same. The change time cannot be set by anyone, so a copy over
//! the file that keeps size and modification time is seen.

use std::fs::Metadata;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use super::explain::beside;
use crate::error::{Error, Result};
use crate::format::snapshot::{FileMeta, SqliteFacts};
use crate::source::Stamp;

/// How old the last change must be for a stamp to be given out.
pub(super) const SETTLED: Duration = Duration::from_secs(2);

/// How long a stamp saves reading.
pub(super) const READ_AGAIN_AFTER: Duration = Duration::from_secs(24 * 3600);

/// Version of the encoding below; a stamp of another one is no stamp.
const STAMP_VERSION: u8 = 1;

/// Most bytes of an encoded stamp.
const STAMP_BYTES_MAX: usize = 512;

const NS_PER_S: i64 = 1_000_000_000;

/// What the file system says of one file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct FileState {
    dev: u64,
    ino: u64,
    size: u64,
    mtime_ns: i64,
    ctime_ns: i64,
}

impl FileState {
    fn of(metadata: &Metadata) -> Self {
        let ns = |s: i64, ns: i64| s.saturating_mul(NS_PER_S).saturating_add(ns);
        Self {
            dev: metadata.dev(),
            ino: metadata.ino(),
            size: metadata.size(),
            mtime_ns: ns(metadata.mtime(), metadata.mtime_nsec()),
            ctime_ns: ns(metadata.ctime(), metadata.ctime_nsec()),
        }
    }
}

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
        (self.main.dev, self.main.ino)
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

    /// The stamp of a database that looked like this at `now`, before its content was read, if it may have one.
    pub(super) fn stamp(&self, path: &Path, now: SystemTime, facts: SqliteFacts) -> Option<Stamp> {
        let now_ns = to_ns(now)?;
        let settled = now_ns.checked_sub(SETTLED.as_nanos() as i64)?;
        let all_settled = [Some(self.main), self.wal].iter().flatten().all(|file| file.ctime_ns < settled && file.mtime_ns < settled);
        if !all_settled || self.journal.is_some() || !is_local(path) {
            return None;
        }
        let record = StampRecord { version: STAMP_VERSION, files: *self, read_ns: now_ns, facts };
        bincode::serde::encode_to_vec(record, bincode::config::standard()).ok().map(Stamp)
    }

    /// The facts in a stamp, if it proves that nothing has changed.
    pub(super) fn unchanged_since(&self, known: &Stamp, now: SystemTime) -> Option<SqliteFacts> {
        let config = bincode::config::standard().with_limit::<STAMP_BYTES_MAX>();
        let (record, used): (StampRecord, usize) = bincode::serde::decode_from_slice(&known.0, config).ok()?;
        let age = to_ns(now)?.checked_sub(record.read_ns)?;
        let fresh = (0..READ_AGAIN_AFTER.as_nanos() as i64).contains(&age);
        (used == known.0.len() && record.version == STAMP_VERSION && fresh && record.files == *self).then_some(record.facts)
    }
}

fn to_ns(time: SystemTime) -> Option<i64> {
    i64::try_from(time.duration_since(SystemTime::UNIX_EPOCH).ok()?.as_nanos()).ok()
}

/// Looks at the files of a database without opening any.
pub(super) fn observe(path: &Path) -> Result<(FilesState, FileMeta, u64)> {
    let metadata = std::fs::metadata(path).map_err(|e| match e.kind() {
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
    let meta = FileMeta { mode: metadata.mode() & 0o7777, mtime_ns: state.main.mtime_ns, uid: metadata.uid(), gid: metadata.gid() };
    Ok((state, meta, metadata.nlink()))
}

fn state_beside(path: &Path, suffix: &str) -> Result<Option<FileState>> {
    let path = beside(path, suffix);
    match std::fs::metadata(&path) {
        Ok(metadata) => Ok(Some(FileState::of(&metadata))),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
        Err(e) => Err(Error::source(path, e)),
    }
}

/// Whether a file is on a file system of this machine that is known to keep change times itself: on network and FUSE file systems attributes
/// may be cached or made up.
#[cfg(target_os = "linux")]
fn is_local(path: &Path) -> bool {
    // Magic numbers of statfs(2): ext2 to ext4, XFS, Btrfs, tmpfs, F2FS, ZFS, bcachefs, overlayfs.
    const LOCAL: [u32; 8] = [0xEF53, 0x5846_5342, 0x9123_683E, 0x0102_1994, 0xF2F5_2010, 0x2FC1_2FC1, 0xCA45_1A4E, 0x794C_7630];
    rustix::fs::statfs(path).is_ok_and(|fs| LOCAL.contains(&(fs.f_type as u32)))
}

/// Elsewhere there is no list of trusted file systems yet, so everything is read.
#[cfg(not(target_os = "linux"))]
fn is_local(_path: &Path) -> bool {
    false
}
