//! Files that killed processes leave: temporary files, and empty directories of marks.
//!
//! The clock of the file system says how old a file is: its time is compared with that of a file that is made now. So a machine with a
//! wrong clock does not take another machine's file for old. A file that a process on this machine is writing is locked, too, and stays. If
//! a file is removed although a suspended process on another machine still writes it, that process only has to write it again.

use std::fs::{self, File, TryLockError};
use std::io::{self, ErrorKind};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::names::is_directory_name;
use super::{DIRECTORIES, FILE_MODE, LocalBackend, TEMPORARY, is_absent, temporary_name};
use crate::store::backend::{ObjectKind, Unfinished};

impl LocalBackend {
    pub(super) fn count_unfinished(&self) -> io::Result<Unfinished> {
        let mut found = Unfinished::default();
        self.each_temporary(&mut |_, metadata| {
            found.files += 1;
            found.bytes += metadata.len();
            Ok(())
        })?;
        Ok(found)
    }

    pub(super) fn sweep_unfinished(&self, min_age: Duration) -> io::Result<Unfinished> {
        let mut files: Vec<(PathBuf, fs::Metadata)> = Vec::new();
        self.each_temporary(&mut |path, metadata| {
            files.push((path, metadata));
            Ok(())
        })?;
        let mut removed = Unfinished::default();
        if !files.is_empty() {
            // Making a file to learn the time is done only if there is something to judge.
            let now = self.file_system_time()?;
            for (path, metadata) in files {
                // Both must hold. Locks are not seen from other machines, and ages say nothing about a process that was suspended.
                if is_old(&metadata, now, min_age) && nobody_writes(&path)? {
                    match self.disk.remove_file(&path) {
                        Ok(()) => {
                            removed.files += 1;
                            removed.bytes += metadata.len();
                        }
                        Err(cause) if cause.kind() == ErrorKind::NotFound => {}
                        Err(cause) => return Err(cause),
                    }
                }
            }
        }
        // `remove_dir` refuses a directory that is not empty, so a mark that is written now is safe.
        for directory in self.directories_of(ObjectKind::Mark, "marks")? {
            match fs::remove_dir(&directory) {
                Err(cause) if !matches!(cause.kind(), ErrorKind::DirectoryNotEmpty | ErrorKind::AlreadyExists | ErrorKind::NotFound) => {
                    return Err(cause);
                }
                _ => {}
            }
        }
        Ok(removed)
    }

    /// The time that the file system gives to a file that is made now.
    fn file_system_time(&self) -> io::Result<SystemTime> {
        let path = self.root.join(temporary_name()?);
        self.disk.create(&path, &[], FILE_MODE)?;
        let time = fs::symlink_metadata(&path).and_then(|found| found.modified());
        self.disk.remove_file(&path)?;
        time
    }

    fn each_temporary(&self, visit: &mut dyn FnMut(PathBuf, fs::Metadata) -> io::Result<()>) -> io::Result<()> {
        let mut directories = vec![self.root.clone()];
        directories.extend(DIRECTORIES.iter().map(|name| self.root.join(name)));
        directories.extend(self.directories_of(ObjectKind::Pack, "packs")?);
        directories.extend(self.directories_of(ObjectKind::Mark, "marks")?);
        for directory in directories {
            for entry in entries(&directory)? {
                let entry = entry?;
                // Only our own prefix. Whatever else lies there belongs to someone else and is never removed.
                if entry.file_name().to_str().is_none_or(|name| !name.starts_with(TEMPORARY)) {
                    continue;
                }
                match entry.metadata() {
                    Ok(metadata) if metadata.is_file() => visit(entry.path(), metadata)?,
                    Ok(_) => {}
                    Err(cause) if is_absent(&cause) => {}
                    Err(cause) => return Err(cause),
                }
            }
        }
        Ok(())
    }

    /// The directories with objects, below the directory of a kind.
    fn directories_of(&self, kind: ObjectKind, name: &str) -> io::Result<Vec<PathBuf>> {
        let mut found = Vec::new();
        for entry in entries(&self.root.join(name))? {
            let entry = entry?;
            let is_ours = entry.file_name().to_str().is_some_and(|name| is_directory_name(kind, name));
            if is_ours && entry.file_type()?.is_dir() {
                found.push(entry.path());
            }
        }
        Ok(found)
    }
}

fn entries(directory: &Path) -> io::Result<impl Iterator<Item = io::Result<fs::DirEntry>>> {
    match fs::read_dir(directory) {
        Err(cause) if is_absent(&cause) => Ok(None.into_iter().flatten()),
        opened => opened.map(|entries| Some(entries).into_iter().flatten()),
    }
}

/// Whether a file is old. A time far in the future only shows that a clock was wrong; such a file counts as old, too.
fn is_old(metadata: &fs::Metadata, now: SystemTime, min_age: Duration) -> bool {
    let modified = metadata.modified().unwrap_or(now);
    let apart = now.duration_since(modified).unwrap_or_else(|ahead| ahead.duration());
    apart >= min_age
}

/// Whether no process on this machine holds the lock of a writer on this file.
fn nobody_writes(path: &Path) -> io::Result<bool> {
    let flags = rustix::fs::OFlags::NONBLOCK | rustix::fs::OFlags::NOFOLLOW;
    let opened = File::options().read(true).custom_flags(i32::try_from(flags.bits()).map_err(io::Error::other)?).open(path);
    match opened {
        Ok(file) => Ok(!matches!(file.try_lock(), Err(TryLockError::WouldBlock))),
        Err(cause) if is_absent(&cause) => Ok(false),
        Err(cause) => Err(cause),
    }
}
