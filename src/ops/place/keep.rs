//! Second names for what was there: `NAME.pre_restore.TIMESTAMP`.

use std::fs::File;
use std::io::{self, Seek};
use std::path::{Path, PathBuf};

use super::Placement;
use super::target::{SIDES, Target, failed, lookup};
use super::temp::{Temp, access_of};
use crate::error::{Error, Result};

/// Kept names tried for one timestamp, `.1`, `.2` and so on added, before the directory is taken for broken.
const COUNTER_MAX: u32 = 10_000;

/// Files that have a second name now. `""` stands for the file itself, else a suffix of [`SIDES`].
#[derive(Debug, Default)]
pub(super) struct Kept {
    files: Vec<(&'static str, PathBuf)>,
}

impl Kept {
    pub fn paths(&self) -> Vec<PathBuf> {
        self.files.iter().map(|(_, path)| path.clone()).collect()
    }
}

/// Why a second name could not be given.
enum KeepError {
    Taken,
    Other(Error),
}

impl Placement<'_> {
    /// Gives the file (`""`) and the side files named by `suffixes` a second name each, durably. All of them get the same stem, so that
    /// a kept database opens with its own WAL. `open` is the file itself where locks on it must survive a copy: opening and closing it
    /// again would drop them.
    pub(super) fn keep(&self, target: &Target, suffixes: &[&'static str], open: Option<&File>) -> Result<Kept> {
        for counter in 0..COUNTER_MAX {
            let stem = self.kept_name(counter);
            if !is_free(target, &stem)? {
                continue;
            }
            match self.keep_as(target, &stem, suffixes, open) {
                Ok(kept) => return Ok(kept),
                Err(KeepError::Taken) => {}
                Err(KeepError::Other(error)) => return Err(error),
            }
        }
        Err(Error::destination(&target.path, "no free name for what is there now; remove old .pre_restore files"))
    }

    /// The first kept name that nothing has.
    pub(super) fn free_kept_path(&self, target: &Target) -> Result<PathBuf> {
        for counter in 0..COUNTER_MAX {
            let stem = self.kept_name(counter);
            if is_free(target, &stem)? {
                return Ok(target.with_suffix(&stem));
            }
        }
        Err(Error::destination(&target.path, "no free name for what is there now; remove old .pre_restore files"))
    }

    fn kept_name(&self, counter: u32) -> String {
        match counter {
            0 => format!(".pre_restore.{}", self.timestamp),
            n => format!(".pre_restore.{}.{n}", self.timestamp),
        }
    }

    fn keep_as(&self, target: &Target, stem: &str, suffixes: &[&'static str], open: Option<&File>) -> Result<Kept, KeepError> {
        let mut kept = Kept::default();
        for &suffix in suffixes {
            let (from, to) = (target.with_suffix(suffix), target.with_suffix(format!("{stem}{suffix}")));
            let open = open.filter(|_| suffix.is_empty());
            if let Err(error) = self.second_name(target, &from, &to, open) {
                self.forget(&kept);
                return Err(error);
            }
            kept.files.push((suffix, to));
        }
        if let Err(e) = self.disk.sync_dir(&target.dir) {
            self.forget(&kept);
            return Err(KeepError::Other(failed(&target.path, "make the kept name durable", e)));
        }
        Ok(kept)
    }

    /// A hard link, or where the file system has none a copy that appears under its name only when it is whole.
    fn second_name(&self, target: &Target, from: &Path, to: &Path, open: Option<&File>) -> Result<(), KeepError> {
        match self.disk.hard_link(from, to) {
            Ok(()) => Ok(()),
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Err(KeepError::Taken),
            Err(e) if links_unsupported(&e) => self.copy(target, from, to, open).map_err(KeepError::Other),
            Err(e) => Err(KeepError::Other(failed(from, &format!("give it the second name {}", to.display()), e))),
        }
    }

    fn copy(&self, target: &Target, from: &Path, to: &Path, open: Option<&File>) -> Result<()> {
        let opened;
        let mut source = match open {
            Some(file) => file,
            None => {
                opened = File::open(from).map_err(|e| failed(from, "read it to keep a copy", e))?;
                &opened
            }
        };
        let meta = source.metadata().map_err(|e| failed(from, "read it to keep a copy", e))?;
        let temp = Temp::create(self.disk, target)?;
        let copied = source.rewind().and_then(|()| io::copy(&mut source, &mut &temp.file));
        copied.map_err(|e| failed(from, "keep a copy of it", e))?;
        self.apply_meta(&temp.file, to, &access_of(&meta), true);
        temp.sync()?;
        temp.rename(to).map_err(|e| failed(from, &format!("keep a copy of it as {}", to.display()), e))
    }

    /// Takes second names away again while the first ones are still there.
    fn forget(&self, kept: &Kept) {
        for (_, path) in &kept.files {
            // A second name too many is harmless.
            let _ = self.disk.remove_file(path);
        }
    }

    /// Undoes everything after a failure: whatever has lost its name gets it back, the file itself last, so that it never stands there
    /// without its WAL or journal; then the second names go. The error that led here comes back, with where things lie if this fails
    /// too.
    pub(super) fn put_back(&self, target: &Target, kept: &Kept, cause: Error) -> Error {
        let restored = kept.files.iter().rev().try_for_each(|(suffix, path)| {
            let original = target.with_suffix(suffix);
            match lookup(&original) {
                Ok(Some(_)) => Ok(()),
                Ok(None) => self.second_name(target, path, &original, None).map_err(|_| ()),
                Err(_) => Err(()),
            }
        });
        if restored.and_then(|()| self.disk.sync_dir(&target.dir).map_err(|_| ())).is_ok() {
            self.forget(kept);
            return cause;
        }
        let lying: Vec<String> = kept.files.iter().map(|(_, path)| path.display().to_string()).collect();
        Error::destination(&target.path, format!("{cause}; what was there lies at {} and could not be put back", lying.join(", ")))
    }
}

/// Whether neither this kept name nor one that SQLite would take for its side file is there.
fn is_free(target: &Target, stem: &str) -> Result<bool> {
    for suffix in [""].iter().chain(&SIDES) {
        if lookup(&target.with_suffix(format!("{stem}{suffix}")))?.is_some() {
            return Ok(false);
        }
    }
    Ok(true)
}

/// What file systems without hard links say (vfat and exfat: EPERM; others ENOSYS or EOPNOTSUPP), and what one says whose link count is
/// full. EPERM is also what Linux says for files of others under `fs.protected_hardlinks`; a copy serves there too.
pub(super) fn links_unsupported(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::PermissionDenied | io::ErrorKind::Unsupported | io::ErrorKind::TooManyLinks)
}
