//! A directory for what has to be a file for a while.

use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// How often removing is tried: a program that is being ended may still make a file.
const TRIES: usize = 5;

/// A new directory that only this user may look into; removed with all that is in it when dropped.
pub(crate) struct PrivateDir {
    path: PathBuf,
}

impl PrivateDir {
    /// One in `dir`, with a name of its own: `icecore-<16 hexadecimal digits>.pgdir`.
    ///
    /// # Errors
    /// [`Error::Destination`] if it cannot be made.
    pub(crate) fn create(dir: &Path) -> Result<Self> {
        let mut random = [0; 8];
        getrandom::fill(&mut random).map_err(|e| Error::destination(dir, format!("no randomness for a directory's name: {e}")))?;
        let path = dir.join(format!("icecore-{}.pgdir", crate::id::to_hex(&random)));
        let made = std::fs::DirBuilder::new().mode(0o700).create(&path);
        made.map_err(|e| Error::destination(&path, format!("cannot be made: {e}; --tmp names another directory")))?;
        Ok(PrivateDir { path })
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for PrivateDir {
    fn drop(&mut self) {
        // If all of them fail there is nobody to tell; its name says whose it is.
        let _ = (0..TRIES).any(|_| std::fs::remove_dir_all(&self.path).is_ok());
    }
}
