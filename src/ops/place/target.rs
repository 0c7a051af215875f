//! The place where something is to be put: its real path, directory and neighbours.

use std::ffi::{OsStr, OsString};
use std::fs::Metadata;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// What SQLite may leave beside a database (<https://sqlite.org/tempfiles.html>, sections 2.1 to 2.3).
pub(super) const SIDES: [&str; 3] = ["-wal", "-shm", "-journal"];

/// The side files that hold data; `-shm` is an index of the WAL that is rebuilt from it.
pub(super) const DATA_SIDES: [&str; 2] = ["-wal", "-journal"];

/// Bytes of the longest of [`SIDES`].
const SIDE_BYTES_MAX: usize = 8;

/// Most bytes of a name in a directory (Linux: NAME_MAX, limits.h; macOS counts characters, which are no more).
const NAME_BYTES_MAX: usize = 255;

/// What every file system takes: eCryptfs takes the fewest of those in use. The file system is asked only about longer names.
const NAME_BYTES_ANYWHERE: usize = 143;

/// Symbolic links that are followed before a destination is given up as a loop (Linux: 40, path_resolution(7)).
const LINKS_MAX: usize = 40;

/// A destination with all symbolic links resolved, also where it does not exist yet.
#[derive(Debug, Clone)]
pub(super) struct Target {
    pub path: PathBuf,
    pub dir: PathBuf,
    name: OsString,
}

impl Target {
    /// Follows symbolic links, the last name's included, to the file that would be read through `dest`.
    pub fn resolve(dest: &Path) -> Result<Self> {
        if dest.as_os_str().as_bytes().ends_with(b"/") {
            return Err(Error::destination(dest, "is the name of a directory; name the file that is to be restored"));
        }
        let mut path = dest.to_path_buf();
        for _ in 0..LINKS_MAX {
            let target = Target::unresolved(&path)?;
            match std::fs::read_link(&target.path) {
                Ok(link) => path = target.dir.join(link),
                Err(_) => return target.without_directory(),
            }
        }
        Err(Error::destination(dest, "too many symbolic links"))
    }

    /// A name in a directory that is known to be resolved.
    pub fn new(dir: PathBuf, name: &OsStr) -> Self {
        Target { path: dir.join(name), dir, name: name.to_os_string() }
    }

    /// Resolves the directory, not the last name.
    pub fn unresolved(path: &Path) -> Result<Self> {
        let name = path.file_name().ok_or_else(|| Error::destination(path, "names no file"))?.to_os_string();
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let dir = parent.canonicalize().map_err(|e| match e.kind() {
            io::ErrorKind::NotFound => {
                Error::destination(path, format!("the directory {} does not exist; make it first", parent.display()))
            }
            _ => Error::destination(path, format!("the directory {} cannot be used: {e}", parent.display())),
        })?;
        Ok(Target::new(dir, &name))
    }

    /// Refuses a file that cannot be replaced, only written into.
    pub fn refuse_mount_point(&self) -> Result<()> {
        match self.metadata()? {
            Some(_) => refuse_mount_point(&self.path),
            None => Ok(()),
        }
    }

    /// Refuses what no file can be put in the place of.
    fn without_directory(self) -> Result<Self> {
        match self.metadata()? {
            Some(meta) if meta.is_dir() => Err(Error::destination(&self.path, "is a directory; name the file that is to be restored")),
            Some(meta) if !meta.is_file() => Err(Error::destination(&self.path, "is not a regular file")),
            _ => Ok(self),
        }
    }

    /// What lies at the path now, itself, not what it may point to.
    pub fn metadata(&self) -> Result<Option<Metadata>> {
        lookup(&self.path)
    }

    /// The path with something added to its name.
    pub fn with_suffix(&self, suffix: impl AsRef<std::ffi::OsStr>) -> PathBuf {
        let mut name = self.name.clone();
        name.push(suffix);
        self.dir.join(name)
    }

    /// A hidden name beside the path; of a name that would become too long only the beginning is in it.
    pub fn hidden(&self, suffix: &str) -> PathBuf {
        let mut name = OsString::from(".");
        name.push(beginning(&self.name, self.room(1 + suffix.len())));
        name.push(suffix);
        self.dir.join(name)
    }

    /// The place beside it where what is there is kept: `suffix` is added to its name, or to the beginning of a name that would become too long.
    pub fn kept(&self, suffix: &str) -> Self {
        let room = self.room(suffix.len() + SIDE_BYTES_MAX);
        let mut name = self.name.clone();
        if name.len() > room {
            let mark = format!("~{}", blake3::hash(self.name.as_bytes()).to_hex().get(..8).unwrap_or_default());
            name = beginning(&self.name, room.saturating_sub(mark.len())).to_os_string();
            name.push(mark);
        }
        name.push(suffix);
        Target::new(self.dir.clone(), &name)
    }

    /// How many bytes of its name, or more, fit where so many are added.
    fn room(&self, added_bytes: usize) -> usize {
        match self.name.len() + added_bytes <= NAME_BYTES_ANYWHERE {
            true => self.name.len(),
            false => name_bytes_max(&self.dir).saturating_sub(added_bytes),
        }
    }

    /// Which of the side files that hold data are there and not empty.
    pub fn full_sides(&self) -> Result<Vec<&'static str>> {
        let mut full = Vec::new();
        for side in DATA_SIDES {
            if lookup(&self.with_suffix(side))?.is_some_and(|meta| meta.len() > 0) {
                full.push(side);
            }
        }
        Ok(full)
    }
}

/// The name, or what of it fits; text is cut between characters, because some file systems take no other names.
fn beginning(name: &OsStr, bytes_max: usize) -> &OsStr {
    match (name.to_str(), name.as_bytes().get(..bytes_max)) {
        (_, None) => name,
        (Some(text), Some(_)) => OsStr::new((0..=bytes_max).rev().find_map(|end| text.get(..end)).unwrap_or_default()),
        (None, Some(bytes)) => OsStr::from_bytes(bytes),
    }
}

/// The most bytes that a name in this directory can have.
pub(super) fn name_bytes_max(dir: &Path) -> usize {
    let said = rustix::fs::statvfs(dir).map_or(0, |stat| usize::try_from(stat.f_namemax).unwrap_or(NAME_BYTES_MAX));
    if said == 0 { NAME_BYTES_MAX } else { said.min(NAME_BYTES_MAX) }
}

/// The metadata of a path, itself; `None` if nothing is there. A name that is too long for the file system is nobody's.
pub(super) fn lookup(path: &Path) -> Result<Option<Metadata>> {
    match std::fs::symlink_metadata(path) {
        Ok(meta) => Ok(Some(meta)),
        Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::InvalidFilename) => Ok(None),
        Err(e) => Err(failed(path, "look at it", e)),
    }
}

/// A failed step that changed nothing.
pub(super) fn failed(path: &Path, action: &str, error: io::Error) -> Error {
    // What a mount point says to being linked or renamed over.
    let hint = match error.kind() {
        io::ErrorKind::CrossesDevices | io::ErrorKind::ResourceBusy => MOUNTED,
        _ => "",
    };
    Error::destination(path, format!("cannot {action}: {error}; what was there is unchanged{hint}"))
}

/// What to do about a file that is a mount point, for messages.
const MOUNTED: &str = "; if it is mounted there by itself, as single files are in containers, no other file can take its name: --live writes into an open \
                       SQLite database, anything else restore beside it and copy it over";

/// Refuses a file that is a mount point of its own, before anything is written: neither a rename nor a link can replace it.
fn refuse_mount_point(path: &Path) -> Result<()> {
    #[cfg(any(target_os = "linux", target_os = "android"))]
    {
        use rustix::fs::{AtFlags, CWD, StatxAttributes, StatxFlags};
        // Kernels before 5.8 do not say; there the rename fails later, with the same words.
        let found = rustix::fs::statx(CWD, path, AtFlags::SYMLINK_NOFOLLOW, StatxFlags::TYPE);
        if found.is_ok_and(|found| found.stx_attributes.contains(StatxAttributes::MOUNT_ROOT)) {
            return Err(Error::destination(path, format!("is a mount point of its own; nothing was changed{MOUNTED}")));
        }
    }
    Ok(())
}
