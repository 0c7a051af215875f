//! The few file-system operations on which durability depends, behind a trait. Tests replace it with a disk that loses
//! everything that was not synced.

use std::fmt::Debug;
use std::fs::File;
use std::io::{self, Write};
use std::path::Path;

/// File-system operations. Their order is up to the callers. Reads are not here, since they change nothing. The default
/// methods work on the real file system.
pub trait Disk: Send + Sync + Debug {
    /// Creates a file that must not exist yet, with these permission bits, writes the parts into it and makes its
    /// content durable, but not its name. It is written and synced through one handle: a handle that is opened later
    /// may not get an earlier write error. The file is locked meanwhile.
    fn create(&self, path: &Path, parts: &[&[u8]], mode: u32) -> io::Result<()> {
        use std::os::unix::fs::OpenOptionsExt;
        let mut file = File::options().write(true).create_new(true).mode(mode).open(path)?;
        // The lock tells others that the file is being written. On a file system without locks they go by the file's
        // age.
        let _ = file.try_lock();
        parts.iter().try_for_each(|part| file.write_all(part))?;
        file.sync_all()
    }

    /// Creates a file that must not exist yet, with these permission bits, opened for reading and writing. Neither its
    /// content nor its name is durable: the caller syncs the file or the file system later.
    fn create_new(&self, path: &Path, mode: u32) -> io::Result<File> {
        use std::os::unix::fs::OpenOptionsExt;
        File::options().read(true).write(true).create_new(true).mode(mode).open(path)
    }

    /// Whether [`Disk::sync_filesystem`] can be relied on for the file system of this directory.
    fn can_sync_filesystem(&self, dir: &File) -> bool {
        can_sync(dir)
    }

    /// Makes everything durable that was written to the file system of an open directory: content, attributes and
    /// names. Reports write errors since the directory was opened.
    fn sync_filesystem(&self, dir: &File, _path: &Path) -> io::Result<()> {
        sync_all_of(dir)
    }

    /// Makes the contents and attributes of an open file durable; `path` is its name, for messages and for tests.
    fn sync_file(&self, file: &File, _path: &Path) -> io::Result<()> {
        file.sync_all()
    }

    /// Makes the names in a directory durable.
    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        File::open(path)?.sync_all()
    }

    /// Renames a file atomically and replaces any file of that name.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        std::fs::rename(from, to)
    }

    /// Gives a file a second name, which must not be taken.
    fn hard_link(&self, from: &Path, to: &Path) -> io::Result<()> {
        std::fs::hard_link(from, to)
    }

    /// Renames a file atomically to a name that must not be taken. For file systems without hard links. If the system
    /// has no such call, the error is [`io::ErrorKind::InvalidInput`] or [`io::ErrorKind::Unsupported`].
    fn rename_new(&self, from: &Path, to: &Path) -> io::Result<()> {
        use rustix::fs::{CWD, RenameFlags, renameat_with};
        Ok(renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE)?)
    }

    /// Exchanges two names atomically. They may be files or directories in one file system. If the system or the file
    /// system has no such call, the error is [`io::ErrorKind::InvalidInput`] or [`io::ErrorKind::Unsupported`].
    fn exchange(&self, one: &Path, other: &Path) -> io::Result<()> {
        use rustix::fs::{CWD, RenameFlags, renameat_with};
        Ok(renameat_with(CWD, one, CWD, other, RenameFlags::EXCHANGE)?)
    }

    /// Removes a name.
    fn remove_file(&self, path: &Path) -> io::Result<()> {
        std::fs::remove_file(path)
    }

    /// Creates a directory with its parents. It is no error if it exists. New directories are for their owner alone
    /// (mode 0700), and their names are not durable yet.
    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        use std::os::unix::fs::DirBuilderExt;
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path)
    }
}

/// The file system itself.
#[derive(Debug, Clone, Copy, Default)]
pub struct RealDisk;

impl Disk for RealDisk {}

#[cfg(target_os = "linux")]
fn can_sync(dir: &File) -> bool {
    reports_write_errors() && syncs_all_of_it(dir)
}

#[cfg(target_os = "linux")]
fn sync_all_of(dir: &File) -> io::Result<()> {
    Ok(rustix::fs::syncfs(dir)?)
}

#[cfg(not(target_os = "linux"))]
fn can_sync(_dir: &File) -> bool {
    false
}

#[cfg(not(target_os = "linux"))]
fn sync_all_of(_dir: &File) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

/// Whether syncfs(2) reports write errors: since Linux 5.8 (syncfs(2), "Notes").
#[cfg(target_os = "linux")]
fn reports_write_errors() -> bool {
    let system = rustix::system::uname();
    let mut numbers =
        system.release().to_bytes().split(|byte| !byte.is_ascii_digit()).map(|digits| std::str::from_utf8(digits).ok()?.parse().ok());
    let mut number = || numbers.next().flatten().unwrap_or(0u32);
    (number(), number()) >= (5, 8)
}

/// Whether syncfs(2) makes everything on this file system durable. Network and FUSE file systems and overlays may not
/// pass it on.
#[cfg(target_os = "linux")]
fn syncs_all_of_it(dir: &File) -> bool {
    // Magic numbers of statfs(2): ext2 to ext4, XFS, Btrfs, tmpfs, F2FS.
    const KNOWN: [u32; 5] = [0xEF53, 0x5846_5342, 0x9123_683E, 0x0102_1994, 0xF2F5_2010];
    // The type of the field differs between architectures, and may be signed; a magic number has 32 bits, which the
    // cast keeps.
    rustix::fs::fstatfs(dir).is_ok_and(|fs| KNOWN.contains(&(fs.f_type as u32)))
}
