//! Replaces a directory by a new one in one step.
//!
//! The new directory is made beside the old one as `.NAME.icecore-export-RANDOM`, and locked (flock(2)) as long as
//! its maker lives. When it is complete and durable, the two names are exchanged, and the old directory is removed.
//! If the process is killed at any point, NAME is the old directory or the new one, each whole. The next export to
//! the same place removes what is left under a hidden name that nobody has locked. Where the file system cannot
//! exchange names, the old directory is renamed away first; between the two renames NAME is absent.
//!
//! The directory above may belong to another user, who can exchange its entries at any moment. So it and the new
//! directory are held open, and every write goes through these open directories. Before the new directory gets its
//! name, it is checked to be the one that was filled.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use walkdir::WalkDir;

use super::manifest::{Found, MANIFEST_FORMAT, MANIFEST_LEN_MAX, MANIFEST_NAME};
use crate::error::{Error, Result};
use crate::fs::beneath::{self, Dir};
use crate::fs::dirlock::DirLock;
use crate::fs::disk::Disk;
use crate::fs::sha256sums::CHECKSUMS_NAME;
use crate::id::random_hex;
use crate::ops::number::wide;
use crate::progress::Monitor;

/// The part between the name and the random digits in the name of a directory that is being filled.
const HIDDEN: &str = ".icecore-export-";
/// Number of random digits at the end of its name.
const HIDDEN_DIGITS: usize = 16;
/// Number of names that are tried for keeping the old directory, with `.1`, `.2` and so on after the timestamp.
const KEPT_MAX: u32 = 1000;

/// The place of an export.
pub(in crate::ops) struct Place {
    /// The path, with symbolic links resolved.
    path: PathBuf,
    above: Dir,
    name: OsString,
    /// The directory that is there, locked, so that a second export to the same place does not run at the same time.
    old: Option<DirLock>,
}

/// The new directory while it is filled. Dropping it before it has its name removes it.
pub(in crate::ops) struct Staging {
    pub(in crate::ops) path: PathBuf,
    pub(super) dir: Dir,
    above: Dir,
    name: OsString,
    _lock: DirLock,
    placed: bool,
}

/// What is in the place now.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Old {
    /// Nothing.
    Absent,
    /// An unchanged export of icecore, or an empty directory. It can be removed.
    Ours,
    /// Something else. It must be kept.
    Foreign,
}

fn failed(path: &Path, action: &str, error: impl std::fmt::Display) -> Error {
    Error::destination(path, format!("cannot {action}: {error}; what was there is unchanged"))
}

fn random_digits(path: &Path) -> Result<String> {
    random_hex::<{ HIDDEN_DIGITS / 2 }>().map_err(|e| failed(path, "get a random name", e))
}

impl Place {
    /// Looks at the place, and makes the directory above it if that is missing.
    ///
    /// # Errors
    /// [`Error::Destination`] if something is there that an export must not replace; [`Error::Busy`] if another
    /// export is at work there.
    pub(super) fn open(disk: &dyn Disk, dir: &Path) -> Result<Self> {
        // Drop a `/` at the end: it would make the system follow a link.
        let given: PathBuf = dir.components().collect();
        let path = match fs::symlink_metadata(&given) {
            // Resolve the path without trusting links: another user's link could lead anywhere.
            Ok(found) if found.is_dir() || found.is_symlink() => {
                Dir::find(&given).map_err(|e| failed(dir, "use this directory", e))?.path().to_path_buf()
            }
            Ok(_) => return Err(Error::destination(dir, "is not a directory; name the directory that the files go to")),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Self::absent(disk, dir)?,
            Err(e) => return Err(failed(dir, "use this directory", e)),
        };
        let named = |path: &Path| Some((path.parent()?.to_path_buf(), path.file_name()?.to_os_string()));
        let (above, name) = named(&path).ok_or_else(|| Error::destination(&path, "cannot be replaced; name a directory below it"))?;
        let above = Dir::find(&above).map_err(|e| failed(&above, "use this directory", e))?;
        let mut place = Place { path, above, name, old: None };
        if let Ok(found) = fs::symlink_metadata(&place.path) {
            if !found.is_dir() {
                return Err(Error::destination(&place.path, "is not a directory; name the directory that the files go to"));
            }
            let locked = DirLock::try_new(&place.path).map_err(|e| failed(&place.path, "look at this directory", e))?;
            let busy = || Error::Busy { path: place.path.clone(), detail: "another export is at work there; try again later".to_owned() };
            place.old = Some(locked.ok_or_else(busy)?);
        }
        place.refuse_unknown()?;
        Ok(place)
    }

    /// The resolved path of a directory that does not exist yet. Directories above it are made, durably.
    fn absent(disk: &dyn Disk, dir: &Path) -> Result<PathBuf> {
        let name = dir.file_name().ok_or_else(|| Error::destination(dir, "does not name a directory"))?;
        let above = dir.parent().filter(|above| !above.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let (above, made) = Dir::find_or_make(disk, above).map_err(|e| failed(above, "use this directory", e))?;
        for (holder, _) in made {
            disk.sync_dir(holder.itself()).map_err(|e| failed(holder.path(), "make its names durable", e))?;
        }
        Ok(above.path().join(name))
    }

    /// A place for scratch directories, which never get a name. They are removed when dropped, or after a kill when
    /// the next one is made.
    pub(in crate::ops) fn scratch(disk: &dyn Disk, above: &Path, name: &str) -> Result<Self> {
        let (held, _) = Dir::find_or_make(disk, above).map_err(|e| failed(above, "use this directory", e))?;
        Ok(Place { path: held.path().join(name), above: held, name: name.into(), old: None })
    }

    /// Refuses a directory of another purpose, which was probably named by mistake: it must not be moved away.
    fn refuse_unknown(&self) -> Result<()> {
        if self.old.is_none() || [CHECKSUMS_NAME, MANIFEST_NAME].iter().any(|name| self.path.join(name).exists()) {
            return Ok(());
        }
        let mut entries = fs::read_dir(&self.path).map_err(|e| failed(&self.path, "look at this directory", e))?;
        match entries.next() {
            None => Ok(()),
            Some(_) => {
                let detail = format!(
                    "is not empty and is not an export (it has neither {MANIFEST_NAME} nor {CHECKSUMS_NAME}); name a new or empty directory"
                );
                Err(Error::destination(&self.path, detail))
            }
        }
    }

    /// Makes the new directory, and removes what killed exports have left.
    pub(in crate::ops) fn stage(&self, monitor: &dyn Monitor) -> Result<Staging> {
        self.remove_leftovers(monitor);
        let mut name = self.hidden();
        name.push(random_digits(&self.path)?);
        let path = self.above.path().join(&name);
        let cannot = |e| failed(&self.path, "make a directory beside it", e);
        let above = self.above.again().map_err(cannot)?;
        let dir = self.make(&name).map_err(cannot)?;
        let locked =
            DirLock::try_new(&self.above.at(&name)).and_then(|lock| lock.ok_or_else(|| io::Error::other("somebody has locked it")));
        match locked {
            Ok(lock) => Ok(Staging { path, dir, above, name, _lock: lock, placed: false }),
            Err(e) => {
                let _ = fs::remove_dir(self.above.at(&name));
                Err(failed(&self.path, "lock a directory beside it", e))
            }
        }
    }

    /// Makes a directory of this name, for this user alone, and holds it open.
    fn make(&self, name: &OsStr) -> io::Result<Dir> {
        fs::DirBuilder::new().mode(0o700).create(self.above.at(name))?;
        let dir = self.above.enter(Path::new(name))?;
        // Between making and entering it somebody may have exchanged it.
        if dir.metadata()?.uid() != rustix::process::geteuid().as_raw() {
            return Err(io::Error::other("another user has put another one there"));
        }
        // The umask may have removed rights that we need.
        fs::set_permissions(dir.itself(), fs::Permissions::from_mode(0o700))?;
        Ok(dir)
    }

    /// The start of the names of directories that are being filled for this place.
    fn hidden(&self) -> OsString {
        let mut name = OsString::from(".");
        name.push(&self.name);
        name.push(HIDDEN);
        name
    }

    /// Removes directories that killed exports to this place have left. A lock shows that its maker is alive.
    fn remove_leftovers(&self, monitor: &dyn Monitor) {
        let hidden = self.hidden();
        let Ok(entries) = fs::read_dir(self.above.itself()) else { return };
        for entry in entries.flatten() {
            let name = entry.file_name();
            let digits = name.as_bytes().strip_prefix(hidden.as_bytes()).unwrap_or_default();
            let is_leftover = digits.len() == HIDDEN_DIGITS && digits.iter().all(u8::is_ascii_hexdigit);
            if is_leftover
                && let Ok(Some(lock)) = DirLock::try_new(&entry.path())
                && lock.is_exclusive()
            {
                let shown = self.above.path().join(&name);
                match fs::remove_dir_all(entry.path()) {
                    Ok(()) => monitor.warn(&format!("removed {}, which an interrupted export had left", shown.display())),
                    Err(e) => monitor.warn(&format!("{}, which an interrupted export has left, cannot be removed: {e}", shown.display())),
                }
            }
        }
    }

    fn classify(&self) -> Old {
        match (&self.old, is_ours(&self.path)) {
            (None, _) => Old::Absent,
            (Some(_), true) => Old::Ours,
            (Some(_), false) => Old::Foreign,
        }
    }

    /// Gives the complete, durable new directory the name. Returns where the old directory is kept, if it must be.
    pub(super) fn publish(&self, disk: &dyn Disk, mut staging: Staging, timestamp: &str, monitor: &dyn Monitor) -> Result<Option<PathBuf>> {
        let old = self.classify();
        if let Some(there) = &self.old {
            let there = there.metadata().map_err(|e| failed(&self.path, "look at it", e))?;
            // Take the mode over from the old directory only if it is ours or root's: another user must not decide
            // who may read this.
            let is_ours = [0, rustix::process::geteuid().as_raw()].contains(&there.uid());
            let mode = if is_ours { there.mode() & 0o777 } else { 0o700 };
            fs::set_permissions(staging.dir.itself(), fs::Permissions::from_mode(mode))
                .map_err(|e| failed(&self.path, "give the new directory its mode", e))?;
        }
        if old == Old::Foreign {
            self.rename_to_kept(disk, &mut staging, timestamp)?;
        }
        // Last check before the exchange: somebody may have put another directory under the hidden name.
        if !staging.has_its_name() {
            return Err(failed(&self.path, "rename the new directory to it", "somebody has put another one in its place"));
        }
        self.swap(disk, &staging, old).map_err(|e| failed(&self.path, "rename the new directory to it", e))?;
        let (other, other_name) = (staging.path.clone(), staging.name.clone());
        staging.placed = true;
        let undone = |e| Error::half_done(&self.path, format!("the new one is in place, but a power cut now may undo that: {e}"));
        disk.sync_dir(self.above.itself()).map_err(undone)?;
        match old {
            Old::Absent => Ok(None),
            Old::Foreign => Ok(Some(other)),
            Old::Ours => {
                match fs::remove_dir_all(self.above.at(&other_name)) {
                    Err(e) if e.kind() != io::ErrorKind::NotFound => {
                        monitor.warn(&format!("{}, the export that was there, cannot be removed: {e}", other.display()));
                    }
                    _ => {}
                }
                Ok(None)
            }
        }
    }

    /// Renames the new directory to the name under which the old one will be kept. The exchange then gives the old
    /// one that name in the same step.
    fn rename_to_kept(&self, disk: &dyn Disk, staging: &mut Staging, timestamp: &str) -> Result<()> {
        for counter in 0..KEPT_MAX {
            let mut name = self.name.clone();
            name.push(format!(".pre_export.{timestamp}"));
            if counter > 0 {
                name.push(format!(".{counter}"));
            }
            match rename_new(disk, &self.above.at(&staging.name), &self.above.at(&name)) {
                Ok(()) => {
                    staging.path = self.above.path().join(&name);
                    staging.name = name;
                    return Ok(());
                }
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists || e.kind() == io::ErrorKind::DirectoryNotEmpty => {}
                Err(e) => return Err(failed(&self.path, "find a name to keep it under", e)),
            }
        }
        Err(failed(&self.path, "find a name to keep it under", "all are taken"))
    }

    fn swap(&self, disk: &dyn Disk, staging: &Staging, old: Old) -> io::Result<()> {
        let (new, place) = (self.above.at(&staging.name), self.above.at(&self.name));
        if old == Old::Absent {
            return rename_new(disk, &new, &place);
        }
        match disk.exchange(&new, &place) {
            Err(e) if matches!(e.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::Unsupported) => {}
            outcome => return outcome,
        }
        // This file system cannot exchange names. The old directory waits under a third name, so that it can come
        // back if the second rename fails.
        let mut third_name = staging.name.clone();
        third_name.push(".old");
        let third = self.above.at(&third_name);
        rename_new(disk, &place, &third)?;
        if let Err(e) = rename_new(disk, &new, &place) {
            return match rename_new(disk, &third, &place) {
                Ok(()) => Err(e),
                Err(back) => {
                    let third = self.above.path().join(third_name);
                    Err(io::Error::other(format!("{e}; and then the old one could not come back ({back}): it is {}", third.display())))
                }
            };
        }
        rename_new(disk, &third, &new)
    }
}

/// Renames a directory to a name that does not exist, as far as the system can check that.
fn rename_new(disk: &dyn Disk, from: &Path, to: &Path) -> io::Result<()> {
    match disk.rename_new(from, to) {
        // Without the check rename(2) still does not replace a directory that has something in it.
        Err(e) if matches!(e.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::Unsupported) => disk.rename(from, to),
        outcome => outcome,
    }
}

/// Whether a directory is empty, or an unchanged export: each file has the name, size and time that the manifest
/// says. Then nothing is lost with it.
fn is_ours(dir: &Path) -> bool {
    let manifest = dir.join(MANIFEST_NAME);
    let mut text = Vec::new();
    let read = beneath::open_file(&manifest).and_then(|file| file.take(MANIFEST_LEN_MAX + 1).read_to_end(&mut text));
    let found: Option<Found> = read.ok().filter(|len| wide(*len) <= MANIFEST_LEN_MAX).and_then(|_| serde_json::from_slice(&text).ok());
    let found = found.filter(|found| found.format == MANIFEST_FORMAT);
    WalkDir::new(dir).min_depth(1).into_iter().all(|entry| {
        let (Ok(entry), Some(found)) = (entry, &found) else { return false };
        let (Ok(path), Ok(metadata)) = (entry.path().strip_prefix(dir), entry.metadata()) else { return false };
        let is_own = metadata.is_file() && [CHECKSUMS_NAME, MANIFEST_NAME].iter().any(|name| path == Path::new(name));
        // The manifest need not list directories. An extra empty one is no loss.
        let is_other = metadata.is_dir() || (!metadata.is_file() && found.others.iter().any(|other| other.is(path)));
        is_own || is_other || found.files.iter().any(|file| file.name.is(path) && file.is_as_written(&metadata))
    })
}

impl Staging {
    /// Whether its name still leads to the directory that was made.
    fn has_its_name(&self) -> bool {
        let same = |found: fs::Metadata, own: fs::Metadata| (found.dev(), found.ino()) == (own.dev(), own.ino());
        self.above.look(&self.name).and_then(|found| Ok(same(found, self.dir.metadata()?))).unwrap_or(false)
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        // If the name leads elsewhere, that may be the export that is in place, so nothing is removed. The next
        // export removes what stays.
        if self.placed || !self.has_its_name() {
            return;
        }
        for entry in fs::read_dir(self.dir.itself()).into_iter().flatten().flatten() {
            let _ = match entry.file_type() {
                Ok(kind) if kind.is_dir() => fs::remove_dir_all(entry.path()),
                _ => fs::remove_file(entry.path()),
            };
        }
        let _ = fs::remove_dir(self.above.at(&self.name));
    }
}
