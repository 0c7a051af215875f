//! Keeps the file that a restore replaces, under the name `NAME.pre_restore.TIMESTAMP`.
//!
//! The old file gets its second name, durably, before the new one takes the first. So at every moment at least one of
//! its names exists. A hard link is used where the file system has them; else a copy. If a later step fails,
//! [`Placement::put_back`] gives the first name back.
//!
//! If the name is too long for the file system together with the longest suffix that SQLite adds, NAME is cut:
//! `BEGINNING~1a2b3c4d.pre_restore.TIMESTAMP`, with 8 hex digits of the BLAKE3 of the whole NAME.

use std::fs::File;
use std::io::{self, Seek};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::Placement;
use super::target::{Named, SIDES, Target, failed};
use super::temp::Temp;
use crate::error::{Error, Result};
use crate::fs::beneath;

/// Most names that are tried for one timestamp, with `.1`, `.2` and so on. A directory with more is probably broken.
const COUNTER_MAX: u32 = 10_000;

/// A file that has a second name.
#[derive(Debug)]
struct KeptFile {
    /// `""` for the file itself, else one of [`SIDES`].
    suffix: &'static str,
    /// The kept name without the suffix.
    stem: Target,
    /// Device and inode of the file under its first name.
    identity: (u64, u64),
}

/// Files that have a second name.
#[derive(Debug, Default)]
pub(in crate::engine) struct Kept {
    files: Vec<KeptFile>,
}

impl KeptFile {
    fn path(&self) -> PathBuf {
        let mut path = self.stem.path.clone().into_os_string();
        path.push(self.suffix);
        PathBuf::from(path)
    }
}

impl Kept {
    pub fn paths(&self) -> Vec<PathBuf> {
        self.files.iter().map(KeptFile::path).collect()
    }

    pub fn is_empty(&self) -> bool {
        self.files.is_empty()
    }

    fn list(&self) -> String {
        self.files.iter().map(|file| file.path().display().to_string()).collect::<Vec<_>>().join(", ")
    }
}

/// Why a second name could not be given.
enum KeepError {
    /// A file of this name has appeared meanwhile. The next name is tried.
    Taken,
    Other(Error),
}

impl Placement<'_> {
    /// Gives the file (`""`) and its side files in `suffixes` a second name each, durably. All get the same stem, so
    /// that a kept database opens with its own WAL. `open` is the file itself, if this process holds locks on it:
    /// opening it again for a copy and closing that would drop them.
    pub(in crate::engine) fn keep(&self, target: &Target, suffixes: &[&'static str], open: Option<&File>) -> Result<Kept> {
        let kept = self.keep_unsynced(target, suffixes, open)?;
        if let Err(e) = target.sync_dir(self.disk) {
            self.forget(&kept);
            return Err(failed(&target.path, "make the kept name durable", e));
        }
        Ok(kept)
    }

    /// Like [`Placement::keep`], but the second names are not durable yet.
    pub(in crate::engine) fn keep_unsynced(&self, target: &Target, suffixes: &[&'static str], open: Option<&File>) -> Result<Kept> {
        self.under_free_name(target, |kept| self.keep_as(target, kept, suffixes, open))
    }

    /// Gives a finished copy of the target's file a kept name, durably.
    pub(in crate::engine) fn keep_copy(&self, target: &Target, mut copy: Temp<'_>) -> Result<Named> {
        let kept = self.under_free_name(target, |kept| {
            let place = kept.named().map_err(KeepError::Other)?;
            name_copy(&mut copy, &target.path, &place)?;
            Ok(place)
        })?;
        target.sync_dir(self.disk).map_err(|e| {
            let _ = self.disk.remove_file(kept.held());
            failed(&target.path, "make the kept copy durable", e)
        })?;
        Ok(kept)
    }

    /// Tries kept names until one is free.
    fn under_free_name<T>(&self, target: &Target, mut attempt: impl FnMut(&Target) -> Result<T, KeepError>) -> Result<T> {
        for counter in 0..COUNTER_MAX {
            let kept = target.kept(&self.kept_suffix(counter));
            if !is_free(&kept)? {
                continue;
            }
            match attempt(&kept) {
                Ok(kept) => return Ok(kept),
                Err(KeepError::Taken) => {}
                Err(KeepError::Other(error)) => return Err(error),
            }
        }
        Err(Error::destination(&target.path, "no free name for what is there now; remove old .pre_restore files"))
    }

    fn kept_suffix(&self, counter: u32) -> String {
        match counter {
            0 => format!(".pre_restore.{}", self.timestamp),
            n => format!(".pre_restore.{}.{n}", self.timestamp),
        }
    }

    /// Gives the second names with this stem: all of them, or none.
    fn keep_as(&self, target: &Target, to: &Target, suffixes: &[&'static str], open: Option<&File>) -> Result<Kept, KeepError> {
        let mut kept = Kept::default();
        for &suffix in suffixes {
            let named = || {
                let from = target.with_suffix(suffix).map_err(KeepError::Other)?;
                let path = to.with_suffix(suffix).map_err(KeepError::Other)?;
                let identity = look(&from)?;
                self.second_name(target, &from, &path, open.filter(|_| suffix.is_empty()))?;
                Ok(identity)
            };
            match named() {
                Ok(identity) => kept.files.push(KeptFile { suffix, stem: to.clone(), identity }),
                Err(error) => {
                    // The first names still exist, so the second ones can go.
                    self.forget(&kept);
                    return Err(error);
                }
            }
        }
        Ok(kept)
    }

    /// Gives a second name: a hard link, or a copy if the file system has no hard links. A copy gets the name only when
    /// it is complete.
    fn second_name(&self, target: &Target, from: &Named, to: &Named, open: Option<&File>) -> Result<(), KeepError> {
        match self.disk.hard_link(from.held(), to.held()) {
            Ok(()) => Ok(()),
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Err(KeepError::Taken),
            Err(e) if links_unsupported(&e) => self.copy(target, from, to, open),
            Err(e) => Err(KeepError::Other(failed(&from.path, &format!("give it the second name {}", to.path.display()), e))),
        }
    }

    /// Gives a second name by a copy.
    fn copy(&self, target: &Target, from: &Named, to: &Named, open: Option<&File>) -> Result<(), KeepError> {
        let looked = std::fs::symlink_metadata(from.held());
        let kind = looked.map_err(|e| KeepError::Other(failed(&from.path, "look at it", e)))?.file_type();
        if kind.is_symlink() {
            // The link itself is copied, not its target.
            let made = std::fs::read_link(from.held()).and_then(|link| std::os::unix::fs::symlink(link, to.held()));
            return made.map_err(|e| match e.kind() {
                io::ErrorKind::AlreadyExists => KeepError::Taken,
                _ => KeepError::Other(failed(&from.path, "keep a copy of this link", e)),
            });
        }
        if !kind.is_file() {
            let why = "is not a regular file and cannot be kept here; move it away first";
            return Err(KeepError::Other(Error::destination(&from.path, why)));
        }
        let mut temp = self.copy_to_temp(target, from, open).map_err(KeepError::Other)?;
        name_copy(&mut temp, &from.path, to)
    }

    /// Copies a file with its attributes into a temporary file, durably.
    fn copy_to_temp(&self, target: &Target, from: &Named, open: Option<&File>) -> Result<Temp<'_>> {
        let reading = |e| failed(&from.path, "keep a copy of it", e);
        let opened;
        let mut source = match open {
            Some(file) => file,
            None => {
                opened = beneath::open_file(from.held()).map_err(reading)?;
                &opened
            }
        };
        let meta = source.metadata().map_err(reading)?;
        let temp = Temp::create(self.disk, target)?;
        source.rewind().and_then(|()| io::copy(&mut source, &mut &temp.file)).map_err(reading)?;
        self.apply_meta(&temp.file, &from.path, &self.attributes_of(from, &meta), true);
        temp.sync()?;
        Ok(temp)
    }

    /// Removes the second names again. Call this only while the first names exist.
    pub(in crate::engine) fn forget(&self, kept: &Kept) {
        for file in &kept.files {
            // If one stays, it is only one name too many.
            let _ = file.stem.with_suffix(file.suffix).map(|place| self.disk.remove_file(place.held()));
        }
    }

    /// Undoes the restore after a failure. Files that have lost their first name get it back, the database itself last,
    /// so that it never exists without its WAL or journal. Then the second names are removed. Returns `cause`. If this
    /// fails too, or another process has taken a name meanwhile, the error says where the old files are.
    pub(in crate::engine) fn put_back(&self, target: &Target, kept: &Kept, cause: Error) -> Error {
        if kept.is_empty() {
            return cause;
        }
        // In reverse, since the file itself comes first in the list.
        let all_back = kept.files.iter().rev().all(|file| {
            let (Ok(original), Ok(kept)) = (target.with_suffix(file.suffix), file.stem.with_suffix(file.suffix)) else { return false };
            match original.metadata() {
                // It has its name still. Another file under that name must not be replaced.
                Ok(Some(there)) => (there.dev(), there.ino()) == file.identity,
                Ok(None) => self.second_name(target, &kept, &original, None).is_ok(),
                Err(_) => false,
            }
        });
        if all_back && target.sync_dir(self.disk).is_ok() {
            self.forget(kept);
            return cause;
        }
        Error::half_done(&target.path, format!("{cause}; and then it could not be put back: what was there lies at {}", kept.list()))
    }

    /// The last step: makes the new name durable.
    pub(in crate::engine) fn settle_name(&self, target: &Target, kept: &Kept) -> Result<()> {
        target.sync_dir(self.disk).map_err(|e| {
            let was = if kept.is_empty() { String::new() } else { format!("; what was there lies at {}", kept.list()) };
            Error::half_done(&target.path, format!("the new one is in place, but a power cut now may undo that: {e}{was}"))
        })
    }
}

fn look(place: &Named) -> Result<(u64, u64), KeepError> {
    let meta = std::fs::symlink_metadata(place.held()).map_err(|e| KeepError::Other(failed(&place.path, "look at it", e)))?;
    Ok((meta.dev(), meta.ino()))
}

/// Gives a finished copy its kept name.
fn name_copy(copy: &mut Temp<'_>, of: &Path, to: &Named) -> Result<(), KeepError> {
    copy.rename_new(to).map_err(|e| match e.kind() {
        io::ErrorKind::AlreadyExists => KeepError::Taken,
        _ => KeepError::Other(failed(of, &format!("keep a copy of it as {}", to.path.display()), e)),
    })
}

/// Whether neither this name exists, nor one that SQLite would take for its side file.
fn is_free(kept: &Target) -> Result<bool> {
    for suffix in [""].iter().chain(&SIDES) {
        if kept.with_suffix(suffix)?.metadata()?.is_some() {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Whether a hard link is impossible here, so that a copy is needed: the file system has no links (vfat and exfat:
/// EPERM; others: ENOSYS or EOPNOTSUPP), the file has the most links already, or it belongs to another user under
/// `fs.protected_hardlinks` (EPERM).
pub(in crate::engine) fn links_unsupported(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::PermissionDenied | io::ErrorKind::Unsupported | io::ErrorKind::TooManyLinks)
}
