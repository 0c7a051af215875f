//! A directory for what has to be a file for a while.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::fs::beneath;

/// How often removing is tried: a program that is being ended may still make a file.
const TRIES: usize = 5;

/// A new directory that only this user may look into; removed with all that is in it when dropped.
pub(crate) struct PrivateDir {
    path: PathBuf,
}

impl PrivateDir {
    /// One in `dir`, with a name of its own: `icecore-<16 letters and digits>.pgdir`.
    ///
    /// # Errors
    /// [`Error::Destination`] if it cannot be made.
    pub(crate) fn create(dir: &Path) -> Result<Self> {
        refuse_if_changeable(dir)?;
        let made = tempfile::Builder::new()
            .prefix("icecore-")
            .suffix(".pgdir")
            .rand_bytes(16)
            .permissions(Permissions::from_mode(0o700))
            .tempdir_in(dir);
        let made =
            made.map_err(|e| Error::destination(dir, format!("no directory can be made there: {e}; --tmp names another directory")))?;
        Ok(PrivateDir { path: made.keep() })
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

/// PostgreSQL's programs reach what is there by its path. Root works for others, so who can exchange the path would get what belongs to somebody else.
///
/// # Errors
/// [`Error::Destination`] if this is root and other users can change the directory.
pub(crate) fn refuse_if_changeable(dir: &Path) -> Result<()> {
    match rustix::process::geteuid().is_root() {
        true => beneath::refuse_changeable(dir, &[])
            .map_err(|e| Error::destination(dir, format!("no directory can be made there: {e}; --tmp names another directory"))),
        false => Ok(()),
    }
}

impl Drop for PrivateDir {
    fn drop(&mut self) {
        // If all of them fail there is nobody to tell; its name says whose it is.
        let _ = (0..TRIES).any(|_| std::fs::remove_dir_all(&self.path).is_ok());
    }
}
