//! Turns SQLite's refusals into messages for users: which file is in the way, why, and what to do.
//!
//! SQLite does not name the file, so permissions are looked at after the failure. Nothing is changed. If they show no
//! cause, the message is SQLite's own. Only locks count as busy: then a later try may help.

use std::path::{Path, PathBuf};

use rusqlite::{ErrorCode, ffi};
use rustix::fs::{Access, access};

use crate::error::Error;

/// The file beside a database with this suffix (`-wal`, `-shm`, `-journal`).
pub(super) fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_os_string();
    name.push(suffix);
    PathBuf::from(name)
}

/// Whether trying again later may help.
pub(super) fn is_busy(error: &rusqlite::Error) -> bool {
    matches!(error.sqlite_error_code(), Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked | ErrorCode::FileLockingProtocolFailed))
}

/// The error for the user, with its cause and a way out.
pub(super) fn explain(path: &Path, error: &rusqlite::Error) -> Error {
    if is_busy(error) {
        let detail = "locked by another process (a long write, or locking_mode=exclusive); try again, or with a longer --busy-timeout";
        return Error::Busy { path: path.to_path_buf(), detail: detail.to_owned() };
    }
    let Some(code) = error.sqlite_error_code() else { return Error::source(path, error) };
    match code {
        ErrorCode::NotADatabase => Error::source(
            path,
            "not a SQLite database, or an encrypted one, or one whose header is damaged; `backup files` stores it as it is",
        ),
        ErrorCode::DatabaseCorrupt => {
            Error::source(path, format_args!("too damaged for SQLite to read ({error}); `backup files` stores the file as it is"))
        }
        ErrorCode::ReadOnly => Error::source(path, read_only(path, error)),
        ErrorCode::CannotOpen | ErrorCode::PermissionDenied => Error::source(path, cannot_open(path, error)),
        _ if extended_code(error) == ffi::SQLITE_IOERR_SHORT_READ => {
            Error::source(path, "the file or its -wal is shorter than SQLite expects: something other than SQLite has cut it off")
        }
        _ => Error::source(path, format_args!("SQLite cannot read it: {error}")),
    }
}

/// Why SQLite must write, but may not.
fn read_only(path: &Path, error: &rusqlite::Error) -> String {
    if extended_code(error) == ffi::SQLITE_READONLY_ROLLBACK {
        let journal = beside(path, "-journal");
        return format!(
            "an interrupted write has left {}, which must be rolled back, but this user may not write here; \
             run as the owner, or let the application open the database once",
            journal.display()
        );
    }
    cannot_open(path, error)
}

fn extended_code(error: &rusqlite::Error) -> i32 {
    error.sqlite_error().map_or(0, |e| e.extended_code)
}

/// Which file is in the way. SQLite does not say it, so the permissions of all of them are looked at.
fn cannot_open(path: &Path, error: &rusqlite::Error) -> String {
    let (wal, shm) = (beside(path, "-wal"), beside(path, "-shm"));
    for part in [path, &wal, &shm] {
        if part.is_dir() {
            return format!("{} is a directory; a file of that name is part of the database", part.display());
        }
        if part.exists() && access(part, Access::READ_OK).is_err() {
            return format!("{} cannot be read: permission denied; run as the owner of the database", part.display());
        }
    }
    // Readers of a WAL database write their locks and marks into the -shm.
    for part in [&wal, &shm] {
        if part.exists() && access(part, Access::WRITE_OK).is_err() {
            return format!(
                "{} cannot be written, which WAL mode needs even for reading; run as the owner of the database",
                part.display()
            );
        }
    }
    let directory = path.parent().unwrap_or(Path::new("/"));
    if access(directory, Access::WRITE_OK).is_err() {
        return format!(
            "it is in WAL mode without -shm or -wal, and this user may not make them in {}; run as the owner of the database",
            directory.display()
        );
    }
    format!("SQLite cannot open it: {error}")
}
