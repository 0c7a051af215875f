//! Locks a directory with flock(2) on the directory itself. The system releases it with the process, so a process that
//! dies leaves nothing to clean up.

use std::fs::{self, File, TryLockError};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

/// The lock of a directory, held until this is dropped or the process ends.
///
/// On a file system without such locks everyone gets one that is not [`DirLock::is_exclusive`]. The lock only keeps
/// processes out of each other's way; the safety of stored data does not depend on it. Without an exclusive lock, do
/// not remove what another process may be working in.
#[derive(Debug)]
pub(crate) struct DirLock {
    dir: File,
    exclusive: bool,
}

impl DirLock {
    /// Locks a directory. `None` if another process has locked it, or if it was replaced while it was being locked.
    pub(crate) fn try_new(path: &Path) -> io::Result<Option<Self>> {
        // Another user may have put a link there, which would be followed, or a FIFO, which would block.
        let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let dir: File = match rustix::fs::open(path, flags, Mode::empty()) {
            Err(Errno::NOENT) => return Ok(None),
            opened => opened?.into(),
        };
        let exclusive = match dir.try_lock() {
            Ok(()) => true,
            Err(TryLockError::WouldBlock) => return Ok(None),
            Err(TryLockError::Error(_)) => false,
        };
        let lock = DirLock { dir, exclusive };
        let same = fs::symlink_metadata(path).is_ok_and(|found| lock.metadata().is_ok_and(|own| own.ino() == found.ino()));
        Ok(same.then_some(lock))
    }

    pub(crate) fn metadata(&self) -> io::Result<fs::Metadata> {
        self.dir.metadata()
    }

    /// Whether no other process can have it.
    pub(crate) fn is_exclusive(&self) -> bool {
        self.exclusive
    }
}

impl Drop for DirLock {
    /// Unlocks it explicitly. Closing is not enough at once: a child that another thread has just forked holds the file
    /// too, until it runs its program.
    fn drop(&mut self) {
        // If this fails, the close still unlocks it.
        let _ = self.dir.unlock();
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_ends_with_its_guard_though_a_child_has_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let lock = DirLock::try_new(dir.path()).unwrap().unwrap();
        assert!(lock.is_exclusive());
        // As a child has it between fork(2) and execve(2).
        let of_child = lock.dir.try_clone().unwrap();
        assert!(DirLock::try_new(dir.path()).unwrap().is_none());
        drop(lock);
        assert!(DirLock::try_new(dir.path()).unwrap().is_some());
        drop(of_child);
    }

    #[test]
    fn what_is_gone_is_not_locked() {
        let dir = tempfile::tempdir().unwrap();
        assert!(DirLock::try_new(&dir.path().join("absent")).unwrap().is_none());
    }
}
