//! When a file may be taken as unchanged without reading it.
//!
//! A stamp holds device, inode, size, modification and change time, taken *before* the content is read. It is given out only if the last
//! change was then more than [`SETTLED`] old, so that a later write within the clock's granularity cannot go unseen, and only if the file
//! system is a local one that keeps change times itself. It holds for [`READ_AGAIN_AFTER`]; then the content is read all the same. The
//! change time cannot be set by anyone, so a copy over the file that keeps size and modification time is seen.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use super::Stamp;
use crate::recorded::FileMeta;

/// How old the last change must be for a stamp to be given out.
pub(super) const SETTLED: Duration = Duration::from_secs(2);

/// How long a stamp saves reading.
pub(super) const READ_AGAIN_AFTER: Duration = Duration::from_secs(24 * 3600);

/// Most bytes of an encoded stamp.
pub(super) const STAMP_BYTES_MAX: usize = 512;

/// Version of the encoding of a plain file's stamp; a stamp of another one is no stamp. Far from those of databases, so that neither is
/// taken for the other.
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
    /// Whether the snapshot has all attributes of the file that are kept. Their change sets the change time, so then they are as they were, too.
    pub(super) has_attributes: bool,
}

impl PlainStamp {
    /// As it is kept.
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
        now_ns.checked_sub(SETTLED.as_nanos() as i64).is_some_and(|settled| self.ctime_ns < settled && self.mtime_ns < settled)
    }

    /// The stamp of a plain file on a local file system that looked like this at `now`, before its content was read, if it may have one.
    pub(super) fn plain_stamp(&self, now: SystemTime, has_attributes: bool) -> Option<Stamp> {
        let read_ns = to_ns(now).filter(|&now_ns| self.is_settled(now_ns))?;
        PlainStamp { version: PLAIN_VERSION, file: *self, read_ns, has_attributes }.encoded()
    }

    /// What a stamp says, if it proves that this plain file has not changed.
    pub(super) fn unchanged_since(&self, known: &Stamp, now: SystemTime) -> Option<PlainStamp> {
        let config = bincode::config::standard().with_limit::<STAMP_BYTES_MAX>();
        let (stamp, used) = bincode::serde::decode_from_slice::<PlainStamp, _>(&known.0, config).ok()?;
        let whole = used == known.0.len() && stamp.version == PLAIN_VERSION;
        (whole && stamp.file == *self && is_fresh(stamp.read_ns, now)).then_some(stamp)
    }
}

/// The attributes that are stored of a file, but for the extended ones.
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

/// How many bytes of a file take no space. Short files that a file system keeps elsewhere than in blocks have no holes.
fn holes_of(metadata: &Metadata) -> u64 {
    /// The smallest hole that most file systems have.
    const HOLE_LEN_MIN: u64 = 4096;
    let holes = metadata.len().saturating_sub(metadata.blocks().saturating_mul(512));
    if holes < HOLE_LEN_MIN { 0 } else { holes }
}

/// Whether what was read then need not be read again yet.
pub(super) fn is_fresh(read_ns: i64, now: SystemTime) -> bool {
    let age = to_ns(now).and_then(|now_ns| now_ns.checked_sub(read_ns));
    age.is_some_and(|age| (0..READ_AGAIN_AFTER.as_nanos() as i64).contains(&age))
}

/// Nanoseconds since 1970-01-01 UTC; `None` before it and after 2262.
pub(super) fn to_ns(time: SystemTime) -> Option<i64> {
    i64::try_from(time.duration_since(SystemTime::UNIX_EPOCH).ok()?.as_nanos()).ok()
}

/// Whether a file is on a file system of this machine that is known to keep change times itself: on network and FUSE file systems attributes
/// may be cached or made up.
#[cfg(target_os = "linux")]
pub(super) fn is_local(path: &Path) -> bool {
    // Magic numbers of statfs(2): ext2 to ext4, XFS, Btrfs, tmpfs, F2FS, ZFS, bcachefs, overlayfs.
    const LOCAL: [u32; 8] = [0xEF53, 0x5846_5342, 0x9123_683E, 0x0102_1994, 0xF2F5_2010, 0x2FC1_2FC1, 0xCA45_1A4E, 0x794C_7630];
    rustix::fs::statfs(path).is_ok_and(|fs| LOCAL.contains(&(fs.f_type as u32)))
}

/// Elsewhere there is no list of trusted file systems yet, so everything is read.
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
