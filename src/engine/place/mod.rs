//! Puts verified bytes in the place of a database or a file, and never destroys what was there.
//!
//! Nothing here knows what a repository is: the caller gives a function that writes the new bytes into an open file.
//!
//! | function | destination | what was there |
//! |---|---|---|
//! | [`Placement::place_database`] | a closed SQLite database, or anything that lies in its place | `NAME.pre_restore.TIMESTAMP` (`-wal`, `-journal`) |
//! | [`Placement::place_live`] | a SQLite database that other processes have open | a consistent copy under the same name |
//! | [`Placement::place_file`] | a plain file | `NAME.pre_restore.TIMESTAMP` |
//! | `Tree` in `files/restore/tree.rs` | a directory that is filled by names from a repository | as above, entry by entry |
//!
//! Guarantee: killed at any moment, NAME is the complete old database, or the complete new one, or absent with both
//! beside it. It is never a mixture. A killed restore may also leave a file `.NAME.icecore-restore-RANDOM`, which does
//! no harm and can be deleted.
//!
//! A destination in use is refused (see `sqlite/restore/holder.rs`). Two limits:
//! - A process that opens the database between the last check and the rename has the old file open, which is the kept
//!   one then.
//! - The calling process must not have the destination open: closing any handle on a file drops the locks that SQLite
//!   holds on it in the same process (<https://sqlite.org/howtocorrupt.html>, section 2.2).

pub(in crate::engine) mod dress;
pub(in crate::engine) mod keep;
mod plain;
pub(crate) mod sparse_write;
pub(in crate::engine) mod target;
pub(in crate::engine) mod temp;

use std::fs::File;
use std::path::PathBuf;

use crate::error::Result;
use crate::fs::disk::Disk;
use crate::progress::Monitor;

/// Writes the new bytes into the file and verifies them. The file is opened for reading and writing, and is empty or
/// has the announced length. Several threads may write (`write_at`). The caller makes the file durable.
pub type Fill<'f> = dyn Fn(&File) -> Result<()> + 'f;

/// The context of all functions of this module.
pub struct Placement<'a> {
    /// Creates, renames and removes files, and makes them durable.
    pub disk: &'a dyn Disk,
    /// The time in the name of a kept file, `NAME.pre_restore.TIMESTAMP`, such as `20261123T031500Z`. The caller gives
    /// it, as this module has no clock.
    pub timestamp: String,
    /// Gets phases and warnings, and says whether to stop.
    pub monitor: &'a dyn Monitor,
}

/// The outcome of placing a file.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Placed {
    /// The path of the new file: the destination, with symbolic links resolved.
    pub path: PathBuf,
    /// The paths of the files that were there before; empty if there were none.
    pub kept: Vec<PathBuf>,
    /// The findings of SQLite's checks of a new database.
    pub findings: Findings,
}

/// The findings of SQLite's checks of a database.
#[derive(Debug, Clone, PartialEq, Eq, Default, serde::Serialize)]
pub struct Findings {
    /// Bytes cannot be read, or an index gives wrong answers.
    pub damage: Vec<String>,
    /// Every byte is readable, but rows break a constraint, or an index may differ from its table.
    pub warnings: Vec<String>,
    /// What SQLite cannot judge without the database's application.
    pub not_checked: Vec<String>,
}
