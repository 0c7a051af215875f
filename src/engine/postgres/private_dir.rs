//! A private directory for a dump that has to be files for a while. It is removed when dropped.
//!
//! PostgreSQL's programs reach the files by their path. So root uses no directory that another user could change or
//! rename.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::fs::beneath;

/// How often removing is tried. A program that is being ended may still create a file.
const TRIES: usize = 5;

/// A new directory that only this user may read. Dropping it removes it with everything in it.
pub(crate) struct PrivateDir {
    path: PathBuf,
}

impl PrivateDir {
    /// Creates one in `dir`, with the name `icecore-<16 letters and digits>.pgdir`.
    ///
    /// # Errors
    /// [`Error::Destination`] if it cannot be created.
    pub(crate) fn create(dir: &Path) -> Result<Self> {
        refuse_if_changeable(dir)?;
        let made = tempfile::Builder::new()
            .prefix("icecore-")
            .suffix(".pgdir")
            .rand_bytes(16)
            .permissions(Permissions::from_mode(0o700))
            .tempdir_in(dir);
        let made = made.map_err(|e| {
            Error::destination(dir, format!("a directory cannot be created there: {e}; choose another directory with --tmp"))
        })?;
        Ok(PrivateDir { path: made.keep() })
    }

    /// Its path.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

/// Refuses a directory that other users can change, if this is root. PostgreSQL's programs reach files in it by their
/// path, and root dumps the data of others: a user who exchanged the path could read them.
///
/// # Errors
/// [`Error::Destination`] if this is root and other users can change the directory.
pub(crate) fn refuse_if_changeable(dir: &Path) -> Result<()> {
    match rustix::process::geteuid().is_root() {
        true => beneath::refuse_changeable(dir, &[]).map_err(|e| {
            Error::destination(dir, format!("it cannot be used for temporary files: {e}; choose another directory with --tmp"))
        }),
        false => Ok(()),
    }
}

impl Drop for PrivateDir {
    fn drop(&mut self) {
        // A failure cannot be reported from here. The directory's name says that it is icecore's.
        let _ = (0..TRIES).any(|_| std::fs::remove_dir_all(&self.path).is_ok());
    }
}
