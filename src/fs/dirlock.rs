//! The lock of a directory: flock(2) on the directory itself, so that a process that dies leaves nothing to clean up.

use std::fs::{self, File, TryLockError};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

/// A directory that nobody else has locked until this is dropped or its process ends.
///
/// On a file system that has no such locks everybody gets one that is not [`DirLock::is_exclusive`]: it keeps processes out of each other's
/// way, and no promise of what is stored rests on it. What others may be at work in is then not to be removed.
#[derive(Debug)]
pub(crate) struct DirLock {
    dir: File,
    exclusive: bool,
}

impl DirLock {
    /// Locks a directory; `None` if somebody else has it, or if it is no longer the one of this name.
    pub(crate) fn try_new(path: &Path) -> io::Result<Option<Self>> {
        // Another user may have put a link or a FIFO there: the first would be followed, the second waited for.
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

    /// Whether nobody else can have it.
    pub(crate) fn is_exclusive(&self) -> bool {
        self.exclusive
    }
}

impl Drop for DirLock {
    /// A closed file is not yet an unlocked one: a child that another thread has just forked holds it, too, until it runs its program.
    fn drop(&mut self) {
        // What fails here is done by the close.
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
