//! The directory of this machine's own files: catalogs, spools, and the staging places of drills.
//!
//! A rescue system may have no lasting place for them. Then a temporary directory serves: nothing in the repository depends on these files.

use std::fs::DirBuilder;
use std::fs::Permissions;
use std::io::{self, Write};
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use super::environment;
use super::output::Output;

/// Free bytes that the directory needs; a catalog takes at least as much.
const ROOM_MIN: usize = 1 << 20;

/// The directory, usual or temporary.
pub(crate) struct LocalDir {
    path: PathBuf,
    /// Removed when this is dropped.
    _temporary: Option<TempDir>,
}

impl LocalDir {
    /// Finds the cache directory. If it cannot be used, warns and makes a temporary one.
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
        // Code that needs files fails later and names the cause.
        LocalDir { path: wanted.unwrap_or_else(|| environment::temporary_dir().join("icecore")), _temporary: None }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

/// Makes the directory if it does not exist, and tries whether a file can be written there.
fn make_usable(dir: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    let mut file = tempfile::tempfile_in(dir)?;
    // Real bytes instead of a hole, so that this fails on a full disk.
    file.write_all(&vec![1; ROOM_MIN])
}
