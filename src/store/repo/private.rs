//! Chooses the catalog that a process works with: the shared one, or a private one.
//!
//! It is a private one if another process holds the shared one and does not go on, because it was suspended in the middle of a write. So no
//! process ever waits for another; it only has to read the tables of all packs once more. A catalog that turns out damaged, or whose file
//! is removed, is replaced while the work goes on.

use std::fs::{self, DirBuilder};
use std::io;
use std::ops::Deref;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use super::catalog::Catalog;
use super::locate::Tables;
use crate::error::{Error, Result};
use crate::fs::dirlock::DirLock;
use crate::id::random_hex;
use crate::store::crypto::Keys;

/// The start of the names of private directories.
const PREFIX: &str = "private-";
/// How often to try again when another process removes a new directory before it is locked.
const TRIES: usize = 16;

/// The catalog that a repository works with, and data that belongs to it. Fields are dropped in this order: the catalog before its directory.
pub struct LocalCatalog {
    catalog: Catalog,
    /// Decoded tables of packs, by the catalog's numbers.
    pub(super) tables: Tables,
    /// Set once all packs have been listed into this catalog: errors for packs that could not be read. That happens at most once when a
    /// chunk cannot be found. It is locked while listing, so that no other thread takes a chunk for lost.
    pub(super) listed_all: Mutex<Option<Vec<Error>>>,
    _dir: Option<PrivateDir>,
}

impl Deref for LocalCatalog {
    type Target = Catalog;

    fn deref(&self) -> &Catalog {
        &self.catalog
    }
}

impl LocalCatalog {
    /// The shared catalog in `dir` if it can be written now. A private one if another process holds it. One in memory if no file can be made.
    pub(super) fn open(dir: &Path, keys: &Keys, location: &str) -> Result<Self> {
        let shared =
            Catalog::open(dir, keys.repository(), location, &keys.catalog_key()).and_then(|catalog| catalog.probe().map(|()| catalog));
        match shared {
            Ok(catalog) => Ok(Self::new(catalog, None)),
            // The other process may never go on. Waiting for it could stop all backups of this machine.
            Err(Error::Busy { .. }) => Self::private(dir, keys, location),
            Err(_) => Self::in_memory(keys, location),
        }
    }

    fn in_memory(keys: &Keys, location: &str) -> Result<Self> {
        Ok(Self::new(Catalog::in_memory(keys.repository(), location)?, None))
    }

    /// An empty catalog that no other process uses: in a file, or in memory if no file can be made.
    pub(super) fn private(dir: &Path, keys: &Keys, location: &str) -> Result<Self> {
        let open = |dir: &PrivateDir| Catalog::open(&dir.path, keys.repository(), location, &keys.catalog_key());
        let in_file = PrivateDir::make(dir).ok().and_then(|dir| Some((open(&dir).ok()?, dir)));
        match in_file {
            Some((catalog, dir)) => Ok(Self::new(catalog, Some(dir))),
            None => Self::in_memory(keys, location),
        }
    }

    fn new(catalog: Catalog, dir: Option<PrivateDir>) -> Self {
        LocalCatalog { catalog, tables: Tables::new(), listed_all: Mutex::new(None), _dir: dir }
    }

    /// Whether an error comes from this catalog and not from the repository. Then another catalog helps.
    pub(super) fn has_failed(&self, error: &Error) -> bool {
        matches!(error, Error::Busy { path, .. } | Error::Catalog { path, .. } if path == self.catalog.path())
    }
}

/// A directory that is locked while its process lives. It is removed when dropped, or by the next process that makes such a directory.
struct PrivateDir {
    path: PathBuf,
    _lock: DirLock,
}

impl PrivateDir {
    fn make(parent: &Path) -> io::Result<Self> {
        DirBuilder::new().recursive(true).mode(0o700).create(parent)?;
        remove_abandoned(parent)?;
        for _ in 0..TRIES {
            let path = parent.join(format!("{PREFIX}{}", random_hex::<8>()?));
            DirBuilder::new().mode(0o700).create(&path)?;
            // Between making and locking it, another process may take it for abandoned and remove it.
            if let Some(lock) = DirLock::try_new(&path)? {
                return Ok(PrivateDir { path, _lock: lock });
            }
        }
        Err(io::Error::other("it is removed over and over by other processes"))
    }
}

impl Drop for PrivateDir {
    fn drop(&mut self) {
        // If it cannot be removed now, the next process that needs one removes it.
        let _ = fs::remove_dir_all(&self.path);
    }
}

/// Removes the directories of killed processes. A suspended process still holds its lock, so its directory stays.
fn remove_abandoned(parent: &Path) -> io::Result<()> {
    for entry in fs::read_dir(parent)? {
        let entry = entry?;
        let ours = entry.file_name().to_str().is_some_and(|name| name.starts_with(PREFIX));
        if ours
            && let Ok(Some(lock)) = DirLock::try_new(&entry.path())
            && lock.is_exclusive()
        {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn directories_live_as_long_as_their_process() {
        let dir = tempfile::tempdir().unwrap();
        let names = || fs::read_dir(dir.path()).unwrap().count();
        let first = PrivateDir::make(dir.path()).unwrap();
        let abandoned = dir.path().join("private-00");
        fs::create_dir(&abandoned).unwrap();
        fs::write(abandoned.join("x"), "of a process that was killed").unwrap();
        fs::create_dir(dir.path().join("other")).unwrap();
        let second = PrivateDir::make(dir.path()).unwrap();
        assert!(!abandoned.exists());
        assert!(first.path.exists() && second.path.exists());
        assert_eq!(names(), 3);
        drop((first, second));
        assert_eq!(names(), 1);
    }
}
