//! The directory of this machine's own files: catalogs, spools, what a drill restores. A rescue system may have no place for them that lasts; nothing that
//! is stored depends on it.

use std::fs::DirBuilder;
use std::fs::Permissions;
use std::io::{self, Write};
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use super::environment;
use super::output::Output;

/// Bytes that have to fit: less is of no use to a catalog.
const ROOM_MIN: usize = 1 << 20;

/// See the module.
pub(crate) struct LocalDir {
    path: PathBuf,
    /// Removed when this is dropped.
    _temporary: Option<TempDir>,
}

impl LocalDir {
    /// The cache directory; where that cannot be used a temporary one, and a warning.
    pub(crate) fn find(output: &Output) -> Self {
        let wanted = environment::cache_dir();
        let why = match &wanted {
            None => "there is no place for the local catalog: set ICECORE_CACHE_DIR, XDG_CACHE_HOME or HOME".to_owned(),
            Some(dir) => match make_usable(dir) {
                Ok(()) => return LocalDir { path: dir.clone(), _temporary: None },
                Err(cause) => format!("the directory of the local catalog, {}, cannot be used: {cause}", dir.display()),
            },
        };
        for above in [environment::temporary_dir(), PathBuf::from("/var/tmp")] {
            let made = tempfile::Builder::new().prefix("icecore-").permissions(Permissions::from_mode(0o700)).tempdir_in(&above);
            if let Ok(dir) = made.and_then(|dir| make_usable(dir.path()).map(|()| dir)) {
                output.warn(&format!("{why}; it is made anew in {} for this run", dir.path().display()));
                return LocalDir { path: dir.path().to_path_buf(), _temporary: Some(dir) };
            }
        }
        output.warn(&format!("{why}; it is kept in memory for this run"));
        // What does need files fails there with the cause.
        LocalDir { path: wanted.unwrap_or_else(|| environment::temporary_dir().join("icecore")), _temporary: None }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

/// Makes the directory if it is not there, and sees whether a file can be there.
fn make_usable(dir: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    let mut file = tempfile::tempfile_in(dir)?;
    // Not a hole: where the disk is full this fails.
    file.write_all(&vec![1; ROOM_MIN])
}
