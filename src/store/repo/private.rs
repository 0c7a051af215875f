//! The catalog that a process works with: the one that all share, or, if that is held by a process that does not go on (suspended in the
//! middle of a write), one of its own. So nobody waits for it, and what it costs is reading the tables of all packs once more. A catalog
//! that is found damaged, or whose file is removed, is replaced in the middle of the work.

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

/// What the names of private directories start with.
const PREFIX: &str = "private-";
/// How often a new directory may be removed by another process before it is locked.
const TRIES: usize = 16;

/// The catalog that a repository works with, and what is known only together with it. Fields are dropped in this order.
pub struct LocalCatalog {
    catalog: Catalog,
    /// By the catalog's own numbers of packs.
    pub(super) tables: Tables,
    /// Set once all packs have been listed into this catalog, which happens at most once when a chunk cannot be found: what could not be
    /// read. Locked meanwhile, so that no other thread takes a chunk for lost.
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
    /// The shared catalog in `dir` if it can be written now; a private one if another process holds it; one in memory if there can be no file.
    pub(super) fn open(dir: &Path, keys: &Keys, location: &str) -> Result<Self> {
        let shared =
            Catalog::open(dir, keys.repository(), location, &keys.catalog_key()).and_then(|catalog| catalog.probe().map(|()| catalog));
        match shared {
            Ok(catalog) => Ok(Self::new(catalog, None)),
            Err(Error::Busy { .. }) => Self::private(dir, keys, location),
            Err(_) => Self::in_memory(keys, location),
        }
    }

    fn in_memory(keys: &Keys, location: &str) -> Result<Self> {
        Ok(Self::new(Catalog::in_memory(keys.repository(), location)?, None))
    }

    /// An empty catalog that no other process uses: in a file, or in memory if there can be none.
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

    /// Whether an error is this catalog's own, not the repository's: then another one helps.
    pub(super) fn has_failed(&self, error: &Error) -> bool {
        matches!(error, Error::Busy { path, .. } | Error::Catalog { path, .. } if path == self.catalog.path())
    }
}

/// A directory that is locked as long as its process lives, and removed with it or by the next one that makes such a directory.
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
            if let Some(lock) = DirLock::try_new(&path)? {
                return Ok(PrivateDir { path, _lock: lock });
            }
        }
        Err(io::Error::other("it is removed over and over by other processes"))
    }
}

impl Drop for PrivateDir {
    fn drop(&mut self) {
        // What cannot be removed now is removed by the next process that needs one.
        let _ = fs::remove_dir_all(&self.path);
    }
}

/// Removes the directories of processes that were killed. A suspended one keeps its lock.
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
