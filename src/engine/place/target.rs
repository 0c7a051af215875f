//! A destination: a name in a directory that is held open, and the names beside it.
//!
//! Guarantee: after the directory was found, another user cannot lead a restore elsewhere by renaming directories or by
//! links, since every call goes through the open directory. The paths here are for messages only.

use std::ffi::{OsStr, OsString};
use std::fs::Metadata;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::fs::beneath::{Dir, Dirs};
use crate::fs::disk::Disk;

/// What SQLite may leave beside a database (<https://sqlite.org/tempfiles.html>, sections 2.1 to 2.3).
pub(in crate::engine) const SIDES: [&str; 3] = ["-wal", "-shm", "-journal"];

/// The side files with data. `-shm` is only an index of the WAL and is rebuilt.
pub(in crate::engine) const DATA_SIDES: [&str; 2] = ["-wal", "-journal"];

/// Bytes of the longest of [`SIDES`].
const SIDE_BYTES_MAX: usize = 8;

/// Longest name in a directory, in bytes (Linux: NAME_MAX, limits.h). macOS counts characters, so it allows at least as
/// much.
const NAME_BYTES_MAX: usize = 255;

/// Names up to this length are possible on every file system in use; eCryptfs has the lowest limit. For longer ones the
/// file system is asked.
const NAME_BYTES_ANYWHERE: usize = 143;

/// A destination: a name in a directory that is held open, or in one below that.
#[derive(Debug, Clone)]
pub(in crate::engine) struct Target {
    /// For messages, not for use.
    pub path: PathBuf,
    /// The path of the directory, for messages.
    pub dir: PathBuf,
    name: OsString,
    dirs: Arc<Dirs>,
    /// The directory below that of `dirs`.
    below: PathBuf,
}

/// A name in the directory of a [`Target`]. The directory stays open as long as this exists.
#[derive(Debug)]
pub(in crate::engine) struct Named {
    /// For messages.
    pub path: PathBuf,
    held: PathBuf,
    dir: Arc<Dir>,
}

impl Named {
    /// The path for system calls. It leads through the open directory.
    pub fn held(&self) -> &Path {
        &self.held
    }

    /// The metadata of the file or link itself; `None` if there is none.
    pub fn metadata(&self) -> Result<Option<Metadata>> {
        found(std::fs::symlink_metadata(&self.held), &self.path)
    }

    /// The directory. Callers that keep `held` longer keep this too.
    pub fn dir(&self) -> Arc<Dir> {
        Arc::clone(&self.dir)
    }
}

impl Target {
    /// The destination that a user has named. Its directory is found by [`Dir::find`]. The name itself must not be a
    /// link.
    pub fn resolve(dest: &Path) -> Result<Self> {
        if dest.as_os_str().as_bytes().ends_with(b"/") {
            return Err(Error::destination(dest, "is the name of a directory; name the file that is to be restored"));
        }
        let name = dest.file_name().ok_or_else(|| Error::destination(dest, "names no file"))?;
        let parent = dest.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let dir = Dir::find(parent).map_err(|e| match e.kind() {
            io::ErrorKind::NotFound => {
                Error::destination(dest, format!("the directory {} does not exist; make it first", parent.display()))
            }
            _ => Error::destination(dest, format!("the directory {} cannot be used: {e}", parent.display())),
        })?;
        let target = Target::new(&Dirs::new(dir), PathBuf::new(), name);
        let named = target.named()?;
        match named.metadata()? {
            Some(meta) if meta.is_symlink() => Err(refuse_link(&target.path, named.held())),
            _ => target.refuse_other().map(|()| target),
        }
    }

    /// Refuses a directory, a device and anything else that is not a regular file.
    pub fn refuse_other(&self) -> Result<()> {
        match self.metadata()? {
            Some(meta) if meta.is_dir() => Err(Error::destination(&self.path, "is a directory; name the file that is to be restored")),
            Some(meta) if !meta.is_file() => Err(Error::destination(&self.path, "is not a regular file")),
            _ => Ok(()),
        }
    }

    /// A name in a directory below a held one.
    pub fn new(dirs: &Arc<Dirs>, below: PathBuf, name: &OsStr) -> Self {
        let dir = if below.as_os_str().is_empty() { dirs.root().path().to_path_buf() } else { dirs.root().path().join(&below) };
        Target { path: dir.join(name), dir, name: name.to_os_string(), dirs: Arc::clone(dirs), below }
    }

    /// Its directory.
    pub fn open_dir(&self) -> Result<Arc<Dir>> {
        self.dirs.get(&self.below).map_err(|e| failed(&self.dir, "open this directory without following links", e))
    }

    /// The directory, relative to the held one.
    pub fn below(&self) -> &Path {
        &self.below
    }

    /// The place itself.
    pub fn named(&self) -> Result<Named> {
        self.beside(&self.name)
    }

    /// Another name in the same directory.
    pub fn beside(&self, name: &OsStr) -> Result<Named> {
        let dir = self.open_dir()?;
        Ok(Named { path: self.dir.join(name), held: dir.at(name), dir })
    }

    /// Makes the names in its directory durable.
    pub fn sync_dir(&self, disk: &dyn Disk) -> io::Result<()> {
        disk.sync_dir(self.dirs.get(&self.below)?.itself())
    }

    /// Refuses a file that is a mount point: it can be written into but not replaced.
    pub fn refuse_mount_point(&self) -> Result<()> {
        let named = self.named()?;
        match named.metadata()? {
            Some(_) => refuse_mount_point(&named),
            None => Ok(()),
        }
    }

    /// The metadata of the file or link itself; `None` if there is none.
    pub fn metadata(&self) -> Result<Option<Metadata>> {
        self.named()?.metadata()
    }

    /// The name with a suffix.
    pub fn with_suffix(&self, suffix: impl AsRef<OsStr>) -> Result<Named> {
        let mut name = self.name.clone();
        name.push(suffix);
        self.beside(&name)
    }

    /// A hidden name for a file beside it. If it would be too long, it has only the beginning of the name.
    pub fn hidden(&self, suffix: &str) -> OsString {
        let mut name = OsString::from(".");
        name.push(beginning(&self.name, self.room(1 + suffix.len())));
        name.push(suffix);
        name
    }

    /// The name under which the old file is kept: this name with `suffix`. If that would be too long, the name is cut
    /// and gets a hash, so that two long names with the same beginning stay different.
    pub fn kept(&self, suffix: &str) -> Self {
        let room = self.room(suffix.len() + SIDE_BYTES_MAX);
        let mut name = self.name.clone();
        if name.len() > room {
            let mark = format!("~{}", blake3::hash(self.name.as_bytes()).to_hex().get(..8).unwrap_or_default());
            name = beginning(&self.name, room.saturating_sub(mark.len())).to_os_string();
            name.push(mark);
        }
        name.push(suffix);
        Target::new(&self.dirs, self.below.clone(), &name)
    }

    /// How many bytes the name may have if `added_bytes` are added to it. Possibly more, if all of the name fits.
    fn room(&self, added_bytes: usize) -> usize {
        match self.name.len() + added_bytes <= NAME_BYTES_ANYWHERE {
            true => self.name.len(),
            false => self.dirs.get(&self.below).map_or(NAME_BYTES_MAX, |dir| name_bytes_max(dir.itself())).saturating_sub(added_bytes),
        }
    }

    /// The side files with data that exist and are not empty.
    pub fn full_sides(&self) -> Result<Vec<&'static str>> {
        let mut full = Vec::new();
        for side in DATA_SIDES {
            if self.with_suffix(side)?.metadata()?.is_some_and(|meta| meta.len() > 0) {
                full.push(side);
            }
        }
        Ok(full)
    }
}

/// The refusal of a link as a destination: a user who may change the link would decide which file is replaced.
pub(in crate::engine) fn refuse_link(path: &Path, held: &Path) -> Error {
    let leads = std::fs::read_link(held).map_or_else(|_| String::new(), |link| format!(" to {}", link.display()));
    Error::destination(path, format!("is a symbolic link{leads}; nothing was changed: if what it leads to is meant, name that"))
}

/// The name, cut to this length. UTF-8 is cut between characters, since some file systems accept only valid UTF-8.
fn beginning(name: &OsStr, bytes_max: usize) -> &OsStr {
    match (name.to_str(), name.as_bytes().get(..bytes_max)) {
        (_, None) => name,
        (Some(text), Some(_)) => OsStr::new((0..=bytes_max).rev().find_map(|end| text.get(..end)).unwrap_or_default()),
        (None, Some(bytes)) => OsStr::from_bytes(bytes),
    }
}

/// The longest possible name in this directory, in bytes.
pub(in crate::engine) fn name_bytes_max(dir: &Path) -> usize {
    let said = rustix::fs::statvfs(dir).map_or(0, |stat| usize::try_from(stat.f_namemax).unwrap_or(NAME_BYTES_MAX));
    if said == 0 { NAME_BYTES_MAX } else { said.min(NAME_BYTES_MAX) }
}

/// The metadata of the file or link itself; `None` if there is none.
pub(in crate::engine) fn lookup(path: &Path) -> Result<Option<Metadata>> {
    found(std::fs::symlink_metadata(path), path)
}

/// Turns "not found" into `None`. No file has a name that is too long for its file system.
fn found(looked: io::Result<Metadata>, path: &Path) -> Result<Option<Metadata>> {
    match looked {
        Ok(meta) => Ok(Some(meta)),
        Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::InvalidFilename) => Ok(None),
        Err(e) => Err(failed(path, "look at it", e)),
    }
}

/// A failed step that changed nothing.
pub(in crate::engine) fn failed(path: &Path, action: &str, error: io::Error) -> Error {
    // These are the errors of linking to a mount point or renaming over one.
    let hint = match error.kind() {
        io::ErrorKind::CrossesDevices | io::ErrorKind::ResourceBusy => MOUNTED,
        _ => "",
    };
    Error::destination(path, format!("cannot {action}: {error}; what was there is unchanged{hint}"))
}

/// What to do about a file that is a mount point, for messages.
const MOUNTED: &str = "; if it is mounted there by itself, as single files are in containers, no other file can take its name: --live writes into an open \
                       SQLite database, anything else restore beside it and copy it over";

/// Refuses a file that is a mount point, before anything is written. Neither a rename nor a link can replace it.
fn refuse_mount_point(place: &Named) -> Result<()> {
    #[cfg(any(target_os = "linux", target_os = "android"))]
    {
        use rustix::fs::{AtFlags, CWD, StatxAttributes, StatxFlags};
        // Kernels before 5.8 do not tell. Then the rename fails later, with the same advice.
        let found = rustix::fs::statx(CWD, place.held(), AtFlags::SYMLINK_NOFOLLOW, StatxFlags::TYPE);
        if found.is_ok_and(|found| found.stx_attributes.contains(StatxAttributes::MOUNT_ROOT)) {
            return Err(Error::destination(&place.path, format!("is a mount point of its own; nothing was changed{MOUNTED}")));
        }
    }
    Ok(())
}
