//! Names the files that SQLite keeps beside a database.
//!
//! Relies on SQLite's documentation for the suffixes.

use std::path::{Path, PathBuf};

/// Suffixes of the side files of a database (<https://sqlite.org/tempfiles.html>, sections 2.1 to 2.3).
pub(super) const SIDES: [&str; 3] = ["-wal", "-shm", "-journal"];

/// The file beside a database with this suffix.
pub(super) fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_os_string();
    name.push(suffix);
    PathBuf::from(name)
}
