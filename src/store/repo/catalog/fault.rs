//! Sorts failures inside the catalog by what follows from them.
//! Damage means that the file is made afresh; busy means that the caller tries later; all other failures are reported.
//! It relies on fixed SQL statements: an SQL error therefore means that the file is not the one that icecore made.

use std::path::Path;

use rusqlite::{ErrorCode, ffi};

use crate::error::Error;

/// A failure on its way out of this folder.
#[derive(Debug)]
pub(super) enum Fault {
    /// The file holds something that was never written. It must be made afresh.
    Damaged(String),
    /// Another process or thread held the file for too long.
    Busy(String),
    /// The machine failed (disk full, no permission), or the caller asked for something wrong.
    Other(String),
}

impl Fault {
    pub(super) fn damaged(detail: impl Into<String>) -> Self {
        Fault::Damaged(detail.into())
    }

    /// As an error of the crate, with the path of the catalog file.
    pub(super) fn into_error(self, path: &Path) -> Error {
        let path = path.to_path_buf();
        match self {
            Fault::Damaged(detail) => Error::Catalog { path, detail: format!("it is damaged and will be rebuilt: {detail}") },
            Fault::Other(detail) => Error::Catalog { path, detail },
            Fault::Busy(detail) => {
                Error::Busy { path, detail: format!("the catalog is held by another process ({detail}); let that one end, then try again") }
            }
        }
    }
}

impl From<rusqlite::Error> for Fault {
    fn from(error: rusqlite::Error) -> Self {
        let text = error.to_string();
        match error {
            rusqlite::Error::SqliteFailure(failure, _) => from_code(failure, text),
            // A column has another type than the schema gives it, or a row is missing that every catalog has.
            _ => Fault::Damaged(text),
        }
    }
}

impl From<std::io::Error> for Fault {
    fn from(error: std::io::Error) -> Self {
        Fault::Other(error.to_string())
    }
}

/// Sorts SQLite's result codes (<https://sqlite.org/rescode.html>).
fn from_code(failure: ffi::Error, text: String) -> Fault {
    let short_or_wrong =
        matches!(failure.extended_code, ffi::SQLITE_IOERR_SHORT_READ | ffi::SQLITE_IOERR_CORRUPTFS | ffi::SQLITE_IOERR_DATA);
    match failure.code {
        ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked => Fault::Busy(text),
        // Our statements are fixed and right, and callers cannot pass anything in that breaks a constraint. So SQLITE_ERROR (a table or
        // column is missing), a broken constraint and an absurd length all mean that this is not the file that we made.
        ErrorCode::DatabaseCorrupt
        | ErrorCode::NotADatabase
        | ErrorCode::TooBig
        | ErrorCode::ConstraintViolation
        | ErrorCode::TypeMismatch => Fault::Damaged(text),
        ErrorCode::Unknown if failure.extended_code == ffi::SQLITE_ERROR => Fault::Damaged(text),
        // SQLite reports these as failures of the disk, but a file that is cut short gives them as well.
        _ if short_or_wrong => Fault::Damaged(text),
        _ => Fault::Other(text),
    }
}
