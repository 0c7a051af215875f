//! Finds the holes of a file, so that they need not be read: parts that take no space and read as zeros (lseek(2),
//! SEEK_HOLE and SEEK_DATA).
//!
//! Only the file systems in [`is_trusted`] are asked. Others may report a hole where bytes were written a moment ago
//! (openzfs/zfs#15526), and a backup that believed them would store zeros.

use std::fs::File;
use std::io;
use std::path::Path;

/// Files shorter than this are read whole: asking costs more.
const ASKED_FROM: u64 = 256 << 10;

/// The part of a file around the place that was asked for last: a hole, or data.
#[derive(Debug, Default)]
pub(super) struct Extents {
    /// Whether the file system is asked.
    asked: bool,
    /// The end of the part; 0 before the first question.
    end: u64,
    is_hole: bool,
}

impl Extents {
    /// For a file that is read whole, without asking the file system.
    pub(super) fn unasked() -> Self {
        Extents::default()
    }

    /// For an open file of `len` bytes on a trusted file system. Files without holes are not asked again.
    pub(super) fn of(file: &File, len: u64) -> Self {
        Extents { asked: len >= ASKED_FROM && first_hole(file, 0).is_some_and(|hole| hole < len), ..Extents::default() }
    }

    /// Whether there is a hole at all.
    pub(super) fn has_holes(&self) -> bool {
        self.asked
    }

    /// How many bytes can be read at `at`: up to the end of this part, or to `end`.
    pub(super) fn data(&mut self, file: &File, at: u64, end: u64) -> io::Result<u64> {
        self.look(file, at, end)?;
        // This may also be a hole, if the caller does not skip it. It reads as zeros.
        Ok(self.end.min(end).saturating_sub(at))
    }

    /// The length of the hole at `at`, at most up to `end`; 0 if there is no hole.
    pub(super) fn hole(&mut self, file: &File, at: u64, end: u64) -> io::Result<u64> {
        self.look(file, at, end)?;
        Ok(if self.is_hole { self.end.min(end).saturating_sub(at) } else { 0 })
    }

    /// Finds out about the part at `at`, unless it is the one that is known.
    fn look(&mut self, file: &File, at: u64, end: u64) -> io::Result<()> {
        if !self.asked {
            self.end = end;
        }
        if at < self.end || at >= end {
            return Ok(());
        }
        (self.end, self.is_hole) = match first_data(file, at)? {
            None => (end, true),
            Some(data) if data > at => (data, true),
            // At least one byte, so that reading goes on if the file changes between the two questions.
            Some(_) => (first_hole(file, at).unwrap_or(end).max(at + 1), false),
        };
        Ok(())
    }
}

/// The first data at or after a place. `None` if there is only a hole up to the end of the file.
#[cfg(target_os = "linux")]
fn first_data(file: &File, at: u64) -> io::Result<Option<u64>> {
    use rustix::fs::{SeekFrom, seek};
    match seek(file, SeekFrom::Data(at)) {
        Ok(data) => Ok(Some(data)),
        Err(rustix::io::Errno::NXIO) => Ok(None),
        Err(e) => Err(e.into()),
    }
}

/// The first hole at or after a place; the end of the file counts as one. `None` if the system does not say.
#[cfg(target_os = "linux")]
fn first_hole(file: &File, at: u64) -> Option<u64> {
    use rustix::fs::{SeekFrom, seek};
    seek(file, SeekFrom::Hole(at)).ok()
}

#[cfg(not(target_os = "linux"))]
fn first_data(_file: &File, at: u64) -> io::Result<Option<u64>> {
    Ok(Some(at))
}

#[cfg(not(target_os = "linux"))]
fn first_hole(_file: &File, _at: u64) -> Option<u64> {
    None
}

/// Whether the file system of a path is known to answer correctly, also about bytes that were just written: ext2 to
/// ext4, XFS, Btrfs, tmpfs, F2FS, bcachefs, and overlayfs over these.
#[cfg(target_os = "linux")]
pub(super) fn is_trusted(path: &Path) -> bool {
    const TRUSTED: [u32; 7] = [0xEF53, 0x5846_5342, 0x9123_683E, 0x0102_1994, 0xF2F5_2010, 0xCA45_1A4E, 0x794C_7630];
    // The type of `f_type` differs between machines; all magic numbers have 32 bits, so the cast keeps what matters.
    rustix::fs::statfs(path).is_ok_and(|fs| TRUSTED.contains(&(fs.f_type as u32)))
}

/// On other systems no file system is asked.
#[cfg(not(target_os = "linux"))]
pub(super) fn is_trusted(_path: &Path) -> bool {
    false
}
