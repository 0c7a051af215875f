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
//! Killed at any moment, NAME is the old database whole, or the new one, or absent with both lying beside it: never a mixture of the
//! two. What a killed restore leaves besides is a file `.NAME.icecore-restore-RANDOM`, which is in nobody's way and can be deleted.
//!
//! A destination in use is refused (see `sqlite/restore/holder.rs`). Two things cannot be seen and are the caller's to know: a process that opens the
//! database in the instant between the last look and the rename keeps the old file open, which by then is the kept one; and the
//! calling process itself must not have the destination open, because closing any handle on a file gives up the locks that SQLite
//! holds on it in the same process (<https://sqlite.org/howtocorrupt.html>, section 2.2).

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

/// Writes the new bytes into the file, which is there, empty or of the announced length, and opened for reading and writing. It may use
/// several threads (`write_at`); it verifies what it writes. The file is made durable afterwards, not by this function.
pub type Fill<'f> = dyn Fn(&File) -> Result<()> + 'f;

/// How things are put in place: what all functions of this module share.
pub struct Placement<'a> {
    /// Where names are given, taken and made durable.
    pub disk: &'a dyn Disk,
    /// Goes into the name of what is kept, `NAME.pre_restore.TIMESTAMP`: `20261123T031500Z`. The caller's, as this module has no clock.
    pub timestamp: String,
    /// Hears of phases and warnings, and is asked whether to stop.
    pub monitor: &'a dyn Monitor,
}

/// What was done.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Placed {
    /// Where the new bytes are: the destination, with symbolic links resolved.
    pub path: PathBuf,
    /// What was there before, where it lies now; empty if nothing was there.
    pub kept: Vec<PathBuf>,
    /// What SQLite said of a database that was put in place.
    pub findings: Findings,
}

/// What SQLite's checks said of a database.
#[derive(Debug, Clone, PartialEq, Eq, Default, serde::Serialize)]
pub struct Findings {
    /// Bytes cannot be read, or an index gives wrong answers.
    pub damage: Vec<String>,
    /// Every byte is readable, but rows break a constraint, or an index may differ from its table.
    pub warnings: Vec<String>,
    /// What SQLite cannot judge without the database's application.
    pub not_checked: Vec<String>,
}
