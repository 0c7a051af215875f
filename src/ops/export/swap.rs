//! A directory that takes the place of another one in one step.
//!
//! The new one is made beside the old one as `.NAME.icecore-export-RANDOM` and locked (flock(2)) for as long as its maker lives. When it is
//! complete and durable the two names are exchanged; then the old one goes. Killed anywhere, NAME is the old directory or the new
//! one, each whole; what lies under the hidden name then is removed by the next export to the same place, as nobody has it locked.
//! Where the file system cannot exchange names the old one is renamed away first: between the two renames NAME is absent.
//!
//! The directory above may belong to another user, who can exchange its entries at any moment. So both it and the new directory are held open, and every write goes
//! through the open directories. Before the new directory gets its name, it is checked to be the one that was filled.

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
use crate::progress::Monitor;

/// Between the name and the random digits of a directory that is being filled.
const HIDDEN: &str = ".icecore-export-";
/// Random digits at the end of its name.
const HIDDEN_DIGITS: usize = 16;
/// Kept names tried for one timestamp, `.1`, `.2` and so on added.
const KEPT_MAX: u32 = 1000;

/// The place of an export.
pub(in crate::ops) struct Place {
    /// With symbolic links resolved.
    path: PathBuf,
    above: Dir,
    name: OsString,
    /// The directory that is there, locked, so that of two exports to one place the second waits for another time.
    old: Option<DirLock>,
}

/// The new directory on its way; removed when dropped before it has its name.
pub(in crate::ops) struct Staging {
    pub(in crate::ops) path: PathBuf,
    pub(super) dir: Dir,
    above: Dir,
    name: OsString,
    _lock: DirLock,
    placed: bool,
}

/// What lies in the place.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Old {
    /// Nothing.
    Absent,
    /// An export of ours as it was written, or an empty directory.
    Ours,
    /// Something else, which is not ours to remove.
    Foreign,
}

fn failed(path: &Path, action: &str, error: impl std::fmt::Display) -> Error {
    Error::destination(path, format!("cannot {action}: {error}; what was there is unchanged"))
}

fn random_digits(path: &Path) -> Result<String> {
    random_hex::<{ HIDDEN_DIGITS / 2 }>().map_err(|e| failed(path, "get a random name", e))
}

impl Place {
    /// Looks at the place. The directory above it is made if it is not there.
    ///
    /// # Errors
    /// [`Error::Destination`] if something is there that no export may replace; [`Error::Busy`] if another export is at work there.
    pub(super) fn open(disk: &dyn Disk, dir: &Path) -> Result<Self> {
        // Without `/` at its end, which would follow a link.
        let given: PathBuf = dir.components().collect();
        let path = match fs::symlink_metadata(&given) {
            // A link of another user could lead anywhere.
            Ok(found) if found.is_dir() || found.is_symlink() => {
                Dir::find(&given).map_err(|e| failed(dir, "use this directory", e))?.path().to_path_buf()
            }
            Ok(_) => return Err(Error::destination(dir, "is no directory; name the directory that the files go to")),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Self::absent(disk, dir)?,
            Err(e) => return Err(failed(dir, "use this directory", e)),
        };
        let named = |path: &Path| Some((path.parent()?.to_path_buf(), path.file_name()?.to_os_string()));
        let (above, name) = named(&path).ok_or_else(|| Error::destination(&path, "cannot be replaced; name a directory below it"))?;
        let above = Dir::find(&above).map_err(|e| failed(&above, "use this directory", e))?;
        let mut place = Place { path, above, name, old: None };
        if let Ok(found) = fs::symlink_metadata(&place.path) {
            if !found.is_dir() {
                return Err(Error::destination(&place.path, "is no directory; name the directory that the files go to"));
            }
            let locked = DirLock::try_new(&place.path).map_err(|e| failed(&place.path, "look at this directory", e))?;
            let busy = || Error::Busy { path: place.path.clone(), detail: "another export is at work there; try again later".to_owned() };
            place.old = Some(locked.ok_or_else(busy)?);
        }
        place.refuse_unknown()?;
        Ok(place)
    }

    fn absent(disk: &dyn Disk, dir: &Path) -> Result<PathBuf> {
        let name = dir.file_name().ok_or_else(|| Error::destination(dir, "names no directory"))?;
        let above = dir.parent().filter(|above| !above.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let (above, made) = Dir::find_or_make(disk, above).map_err(|e| failed(above, "use this directory", e))?;
        for (holder, _) in made {
            disk.sync_dir(holder.itself()).map_err(|e| failed(holder.path(), "make its names durable", e))?;
        }
        Ok(above.path().join(name))
    }

    /// A place for directories that never get a name: they go when dropped, or when the next one is made after a kill.
    pub(in crate::ops) fn scratch(disk: &dyn Disk, above: &Path, name: &str) -> Result<Self> {
        let (held, _) = Dir::find_or_make(disk, above).map_err(|e| failed(above, "use this directory", e))?;
        Ok(Place { path: held.path().join(name), above: held, name: name.into(), old: None })
    }

    /// A directory of something else, named by mistake, is not moved away.
    fn refuse_unknown(&self) -> Result<()> {
        if self.old.is_none() || [CHECKSUMS_NAME, MANIFEST_NAME].iter().any(|name| self.path.join(name).exists()) {
            return Ok(());
        }
        let mut entries = fs::read_dir(&self.path).map_err(|e| failed(&self.path, "look at this directory", e))?;
        match entries.next() {
            None => Ok(()),
            Some(_) => {
                let detail = format!(
                    "is not empty and is no export (it has neither {MANIFEST_NAME} nor {CHECKSUMS_NAME}); name a new or empty directory"
                );
                Err(Error::destination(&self.path, detail))
            }
        }
    }

    /// Makes the new directory, and removes what earlier exports that were killed have left.
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

    /// Makes a directory of this name and holds it. It is for this user alone.
    fn make(&self, name: &OsStr) -> io::Result<Dir> {
        fs::DirBuilder::new().mode(0o700).create(self.above.at(name))?;
        let dir = self.above.enter(Path::new(name))?;
        if dir.metadata()?.uid() != rustix::process::geteuid().as_raw() {
            return Err(io::Error::other("another user has put another one there"));
        }
        // The umask may have taken rights away.
        fs::set_permissions(dir.itself(), fs::Permissions::from_mode(0o700))?;
        Ok(dir)
    }

    fn hidden(&self) -> OsString {
        let mut name = OsString::from(".");
        name.push(&self.name);
        name.push(HIDDEN);
        name
    }

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

    /// Gives the new directory, which is complete and durable, the name. Returns where what was there is kept, if that is not ours.
    pub(super) fn publish(&self, disk: &dyn Disk, mut staging: Staging, timestamp: &str, monitor: &dyn Monitor) -> Result<Option<PathBuf>> {
        let old = self.classify();
        if let Some(there) = &self.old {
            let there = there.metadata().map_err(|e| failed(&self.path, "look at it", e))?;
            // What another user has made there does not say who may read this.
            let is_ours = [0, rustix::process::geteuid().as_raw()].contains(&there.uid());
            let mode = if is_ours { there.mode() & 0o777 } else { 0o700 };
            fs::set_permissions(staging.dir.itself(), fs::Permissions::from_mode(mode))
                .map_err(|e| failed(&self.path, "give the new directory its mode", e))?;
        }
        if old == Old::Foreign {
            self.rename_to_kept(disk, &mut staging, timestamp)?;
        }
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

    /// The new directory takes the name that the old one will have, so that the exchange gives it that in the same step.
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
        // Not in one step here. The old one waits under a third name, so that it can come back.
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

/// Renames a directory to a name that nothing has, where the system can tell.
fn rename_new(disk: &dyn Disk, from: &Path, to: &Path) -> io::Result<()> {
    match disk.rename_new(from, to) {
        // rename(2) itself replaces no directory that has something in it.
        Err(e) if matches!(e.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::Unsupported) => disk.rename(from, to),
        outcome => outcome,
    }
}

/// Whether a directory is an export as it was written, file for file by name, size and time, or empty: then nothing is lost with it.
fn is_ours(dir: &Path) -> bool {
    let manifest = dir.join(MANIFEST_NAME);
    let mut text = Vec::new();
    let read = beneath::open_file(&manifest).and_then(|file| file.take(MANIFEST_LEN_MAX + 1).read_to_end(&mut text));
    let found: Option<Found> = read.ok().filter(|len| *len as u64 <= MANIFEST_LEN_MAX).and_then(|_| serde_json::from_slice(&text).ok());
    let found = found.filter(|found| found.format == MANIFEST_FORMAT);
    WalkDir::new(dir).min_depth(1).into_iter().all(|entry| {
        let (Ok(entry), Some(found)) = (entry, &found) else { return false };
        let (Ok(path), Ok(metadata)) = (entry.path().strip_prefix(dir), entry.metadata()) else { return false };
        let is_own = metadata.is_file() && [CHECKSUMS_NAME, MANIFEST_NAME].iter().any(|name| path == Path::new(name));
        // Directories above files need not be listed; that they are empty loses nothing.
        let is_other = metadata.is_dir() || (!metadata.is_file() && found.others.iter().any(|other| other.is(path)));
        is_own || is_other || found.files.iter().any(|file| file.name.is(path) && file.is_as_written(&metadata))
    })
}

impl Staging {
    /// Whether its name is still that of the directory that was made.
    fn has_its_name(&self) -> bool {
        let same = |found: fs::Metadata, own: fs::Metadata| (found.dev(), found.ino()) == (own.dev(), own.ino());
        self.above.look(&self.name).and_then(|found| Ok(same(found, self.dir.metadata()?))).unwrap_or(false)
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        // If another name leads to it, it may be the export that is in place. The next export removes what stays.
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
