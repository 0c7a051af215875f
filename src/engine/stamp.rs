//! Stamps: when a file counts as unchanged without being read.
//!
//! A stamp has device, inode, size, modification time and change time, taken *before* the content is read. A file gets
//! one only if its last change is older than [`SETTLED`], since a later write within the granularity of the clock would
//! not change the times, and only on a local file system that keeps change times itself. A stamp holds for
//! [`READ_AGAIN_AFTER`]; then the content is read anyway.
//!
//! No program can set the change time. So a file is read again even if its size and modification time were restored
//! after a change.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use super::Stamp;
use crate::recorded::FileMeta;

/// How old the last change of a file must be before it gets a stamp.
pub(super) const SETTLED: Duration = Duration::from_secs(2);

/// How long a stamp holds.
pub(super) const READ_AGAIN_AFTER: Duration = Duration::from_secs(24 * 3600);

/// Longest encoded stamp, in bytes.
pub(super) const STAMP_BYTES_MAX: usize = 512;

/// Version of the encoding of a plain file's stamp. A stamp of another version does not count. The numbers of
/// databases' stamps are far from this, so neither is taken for the other.
const PLAIN_VERSION: u8 = 102;

const NS_PER_S: i64 = 1_000_000_000;

/// What the file system says of one file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct FileState {
    pub(super) dev: u64,
    pub(super) ino: u64,
    pub(super) size: u64,
    pub(super) mtime_ns: i64,
    pub(super) ctime_ns: i64,
}

/// A plain file's stamp.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct PlainStamp {
    version: u8,
    file: FileState,
    /// When the content was last read, nanoseconds since 1970-01-01 UTC.
    read_ns: i64,
    /// Whether the snapshot has all the file's attributes. Changing one sets the change time, so with an equal stamp
    /// they are unchanged too.
    pub(super) has_attributes: bool,
}

impl PlainStamp {
    /// Its encoding.
    pub(super) fn encoded(&self) -> Option<Stamp> {
        bincode::serde::encode_to_vec(self, bincode::config::standard()).ok().map(Stamp)
    }
}

impl FileState {
    pub(super) fn of(metadata: &Metadata) -> Self {
        let ns = |s: i64, ns: i64| s.saturating_mul(NS_PER_S).saturating_add(ns);
        Self {
            dev: metadata.dev(),
            ino: metadata.ino(),
            size: metadata.size(),
            mtime_ns: ns(metadata.mtime(), metadata.mtime_nsec()),
            ctime_ns: ns(metadata.ctime(), metadata.ctime_nsec()),
        }
    }

    /// Device and inode.
    pub(super) fn id(&self) -> (u64, u64) {
        (self.dev, self.ino)
    }

    /// Whether the last change was over [`SETTLED`] ago.
    pub(super) fn is_settled(&self, now_ns: i64) -> bool {
        now_ns.checked_sub(span_ns(SETTLED)).is_some_and(|settled| self.ctime_ns < settled && self.mtime_ns < settled)
    }

    /// The stamp of a plain file on a local file system with this state at `now`, before its content is read. `None` if
    /// its last change is too recent.
    pub(super) fn plain_stamp(&self, now: SystemTime, has_attributes: bool) -> Option<Stamp> {
        let read_ns = to_ns(now).filter(|&now_ns| self.is_settled(now_ns))?;
        PlainStamp { version: PLAIN_VERSION, file: *self, read_ns, has_attributes }.encoded()
    }

    /// The decoded stamp, if it shows that this plain file has not changed.
    pub(super) fn unchanged_since(&self, known: &Stamp, now: SystemTime) -> Option<PlainStamp> {
        // Stamps come from a local file, so the length is limited and every byte must be used.
        let config = bincode::config::standard().with_limit::<STAMP_BYTES_MAX>();
        let (stamp, used) = bincode::serde::decode_from_slice::<PlainStamp, _>(&known.0, config).ok()?;
        let whole = used == known.0.len() && stamp.version == PLAIN_VERSION;
        // `file` has the change time, so any write, rename or change of attributes since then makes the states differ.
        (whole && stamp.file == *self && is_fresh(stamp.read_ns, now)).then_some(stamp)
    }
}

/// The attributes of a file that are stored, without the extended ones.
pub(crate) fn meta_of(metadata: &Metadata) -> FileMeta {
    FileMeta {
        mode: metadata.mode() & 0o7777,
        mtime_ns: FileState::of(metadata).mtime_ns,
        uid: metadata.uid(),
        gid: metadata.gid(),
        holes: if metadata.is_file() { holes_of(metadata) } else { 0 },
        attributes: Vec::new(),
    }
}

/// How many bytes of a file are holes. Some file systems store short files without blocks; these do not count as holes.
fn holes_of(metadata: &Metadata) -> u64 {
    /// The smallest hole that most file systems have.
    const HOLE_LEN_MIN: u64 = 4096;
    let holes = metadata.len().saturating_sub(metadata.blocks().saturating_mul(512));
    if holes < HOLE_LEN_MIN { 0 } else { holes }
}

/// Whether the time of the last read is recent enough. A time in the future is not: the clock was set back.
pub(super) fn is_fresh(read_ns: i64, now: SystemTime) -> bool {
    let age = to_ns(now).and_then(|now_ns| now_ns.checked_sub(read_ns));
    age.is_some_and(|age| (0..span_ns(READ_AGAIN_AFTER)).contains(&age))
}

/// A span in nanoseconds; the longest possible one if it does not fit.
fn span_ns(span: Duration) -> i64 {
    i64::try_from(span.as_nanos()).unwrap_or(i64::MAX)
}

/// Nanoseconds since 1970-01-01 UTC; `None` for times before that and after 2262.
pub(super) fn to_ns(time: SystemTime) -> Option<i64> {
    i64::try_from(time.duration_since(SystemTime::UNIX_EPOCH).ok()?.as_nanos()).ok()
}

/// Whether a file is on a local file system that is known to keep change times itself. On network and FUSE file systems
/// attributes may be cached or invented.
#[cfg(target_os = "linux")]
pub(super) fn is_local(path: &Path) -> bool {
    // Magic numbers of statfs(2): ext2 to ext4, XFS, Btrfs, tmpfs, F2FS, ZFS, bcachefs, overlayfs.
    const LOCAL: [u32; 8] = [0xEF53, 0x5846_5342, 0x9123_683E, 0x0102_1994, 0xF2F5_2010, 0x2FC1_2FC1, 0xCA45_1A4E, 0x794C_7630];
    // The type of the field differs between architectures, and may be signed; a magic number has 32 bits, which the
    // cast keeps.
    rustix::fs::statfs(path).is_ok_and(|fs| LOCAL.contains(&(fs.f_type as u32)))
}

/// On other systems no file system is trusted yet, so every file is read.
#[cfg(not(target_os = "linux"))]
pub(super) fn is_local(_path: &Path) -> bool {
    false
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_stamp_holds_for_the_same_file_and_a_day() {
        let state = FileState { dev: 1, ino: 2, size: 3, mtime_ns: 4, ctime_ns: 5 };
        let at = |s: u64| SystemTime::UNIX_EPOCH + Duration::from_secs(s);
        assert_eq!(state.plain_stamp(at(2), true), None, "the last change is too young");
        let stamp = state.plain_stamp(at(3), true).unwrap();
        assert!(state.unchanged_since(&stamp, at(3)).is_some());
        assert!(state.unchanged_since(&stamp, at(3 + 86_399)).is_some());
        assert!(state.unchanged_since(&stamp, at(3 + 86_400)).is_none(), "once a day it is read anyway");
        assert!(state.unchanged_since(&stamp, at(2)).is_none(), "the clock went back");
        let changes: [fn(&mut FileState); 5] = [|s| s.dev += 1, |s| s.ino += 1, |s| s.size += 1, |s| s.mtime_ns += 1, |s| s.ctime_ns += 1];
        for change in changes {
            let mut changed = state;
            change(&mut changed);
            assert!(changed.unchanged_since(&stamp, at(3)).is_none(), "{changed:?}");
        }
        for len in 0..stamp.0.len() {
            assert!(state.unchanged_since(&Stamp(stamp.0.get(..len).unwrap().to_vec()), at(3)).is_none(), "cut at {len}");
        }
    }
}
