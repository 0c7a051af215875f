//! The crate's error type. Its kinds differ by what the caller can do about them: each has an exit code and a stable
//! word for JSON.
//!
//! The text says what went wrong, where, and what to do.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

/// The advice for a full repository disk. A prune needs some space itself: it writes tombstones and new packs before it
/// deletes anything.
const FULL: &str = ": the repository's disk is full. `icecore forget --prune` makes room, but it has to write first: free some space in another way, then run it";

/// The result of every fallible function in this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong, where, and (in the text) what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// There is no repository at this location.
    #[error("no repository at {location}; if there should be one, is the disk mounted and the path right? `icecore init` makes a new one")]
    NoRepository {
        /// The location.
        location: String,
    },
    /// There is a repository, but it is not trusted. Nothing was read from it or stored in it.
    #[error("{location}: {detail}")]
    Refused {
        /// Where it is.
        location: String,
        /// Why, and how to accept it.
        detail: String,
    },
    /// Something that is needed (a snapshot, a pack, a key) is missing in the repository.
    #[error("{what} not found")]
    NotFound {
        /// The missing object, with its kind: `snapshot 1a2b`.
        what: String,
    },
    /// Something that the user has named does not exist. Nothing is damaged.
    #[error("{detail}")]
    NoSuch {
        /// What was named, and what exists.
        detail: String,
    },
    /// Stored bytes differ from what was written.
    #[error("{object} is damaged: {detail}")]
    Corrupt {
        /// The object, by kind and id.
        object: String,
        /// What is wrong.
        detail: String,
    },
    /// This passphrase opens no key record.
    #[error("wrong passphrase for {location}")]
    WrongPassphrase {
        /// The repository.
        location: String,
    },
    /// The bytes are of a format that this version of icecore does not read.
    #[error("{object} needs {detail}")]
    UnsupportedFormat {
        /// The object, by kind and id.
        object: String,
        /// What is needed, and for which version or feature: `a newer icecore: format version 9`.
        detail: String,
    },
    /// The backend failed: disk full, permission, network.
    #[error("{operation} {object}: {source}")]
    Backend {
        /// `read`, `write`, `list`, `delete`, `sync`.
        operation: &'static str,
        /// The object or directory.
        object: String,
        /// The cause.
        source: std::io::Error,
    },
    /// A source cannot be read.
    #[error("{}: {detail}", path.display())]
    Source {
        /// The file.
        path: PathBuf,
        /// Why, and what to do.
        detail: String,
    },
    /// A destination cannot be written. Nothing was lost.
    #[error("{}: {detail}", path.display())]
    Destination {
        /// The file or directory.
        path: PathBuf,
        /// Why, and what to do.
        detail: String,
    },
    /// The stored bytes are intact, but the database was already damaged when it was captured. Nothing was changed.
    #[error(
        "{}: the database in the snapshot is damaged, as it was at its capture (SQLite's quick_check: {detail}); nothing was changed here; \
         --accept-damaged restores it as it is{advice}",
        path.display()
    )]
    Unsound {
        /// The destination.
        path: PathBuf,
        /// SQLite's message.
        detail: String,
        /// More advice; may be empty.
        advice: String,
    },
    /// A fault of icecore itself: an invariant does not hold, or a thread has panicked. Everything done before is as
    /// safe as if the process had been killed.
    #[error("this is a fault of icecore itself, please report it: {detail}")]
    Bug {
        /// What is wrong, and where.
        detail: String,
    },
    /// A step failed after something had been changed. The text says what is there now, and where the old files are.
    #[error("{}: {detail}", path.display())]
    HalfDone {
        /// The file or directory.
        path: PathBuf,
        /// What is there now, what failed, and where the old files are.
        detail: String,
    },
    /// Another process or user holds something that is needed. Trying again later may help.
    #[error("{}: {detail}", path.display())]
    Busy {
        /// The file.
        path: PathBuf,
        /// Who or what holds it, and what to do.
        detail: String,
    },
    /// The arguments are wrong, or do not fit each other.
    #[error("{0}")]
    InvalidArgument(String),
    /// The operation was refused, since a rule forbids it or something has changed meanwhile. Nothing was changed.
    #[error("{detail}")]
    NotDone {
        /// Why, and what to do.
        detail: String,
    },
    /// The local catalog cannot be used; it can be deleted at any time.
    #[error("catalog {}: {detail}", path.display())]
    Catalog {
        /// The catalog file.
        path: PathBuf,
        /// What failed.
        detail: String,
    },
    /// An object that is in the catalog is no longer in the repository. Refreshing the catalog helps.
    #[error("another process has changed the repository meanwhile: {detail}")]
    Stale {
        /// The object that is gone.
        detail: String,
    },
    /// The user has asked to stop.
    #[error("interrupted")]
    Cancelled,
    /// The write session has failed before, and accepts nothing more.
    #[error("this backup has failed before, so nothing more is stored by it")]
    Poisoned,
}

/// The result of a thread that was joined. A panic becomes [`Error::Bug`]. `doing` says what the thread did, as in
/// "storing chunks".
///
/// # Errors
/// The thread's error.
pub fn joined<T>(doing: &str, outcome: std::thread::Result<Result<T>>) -> Result<T> {
    outcome.unwrap_or_else(|panic| Err(Error::panicked(doing, panic)))
}

impl Error {
    /// A [`Error::Corrupt`] in one line.
    pub fn corrupt(object: impl Into<String>, detail: impl Into<String>) -> Self {
        Error::Corrupt { object: object.into(), detail: detail.into() }
    }

    /// A [`Error::Source`] in one line.
    pub fn source(path: impl AsRef<Path>, detail: impl std::fmt::Display) -> Self {
        Error::Source { path: path.as_ref().to_path_buf(), detail: detail.to_string() }
    }

    /// A [`Error::Destination`] in one line.
    pub fn destination(path: impl AsRef<Path>, detail: impl std::fmt::Display) -> Self {
        Error::Destination { path: path.as_ref().to_path_buf(), detail: detail.to_string() }
    }

    /// An [`Error::Unsound`] in one line.
    pub fn unsound(path: impl AsRef<Path>, detail: impl Into<String>) -> Self {
        Error::Unsound { path: path.as_ref().to_path_buf(), detail: detail.into(), advice: String::new() }
    }

    /// An [`Error::Bug`] in one line.
    pub fn bug(detail: impl Into<String>) -> Self {
        Error::Bug { detail: detail.into() }
    }

    /// An [`Error::Bug`] inside an I/O error.
    pub fn bug_io(detail: impl Into<String>) -> std::io::Error {
        std::io::Error::other(Error::bug(detail))
    }

    /// The [`Error::Bug`] for a thread that has panicked, with the panic's message.
    pub fn panicked(doing: &str, panic: Box<dyn std::any::Any + Send>) -> Self {
        let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
        let text = text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "it did not say why".to_owned());
        Error::bug(format!("a thread that was {doing} panicked: {text}"))
    }

    /// A [`Error::HalfDone`] in one line.
    pub fn half_done(path: impl AsRef<Path>, detail: impl std::fmt::Display) -> Self {
        Error::HalfDone { path: path.as_ref().to_path_buf(), detail: detail.to_string() }
    }

    /// A [`Error::Backend`] in one line.
    pub fn backend(operation: &'static str, object: impl Into<String>, source: std::io::Error) -> Self {
        Error::Backend { operation, object: object.into(), source }
    }

    /// The error with a hint at the end of its text, if its kind has room for one. [`Error::NotFound`] becomes
    /// [`Error::NoSuch`], which does not count as damage.
    pub(crate) fn advised(self, hint: &str) -> Self {
        if hint.is_empty() {
            return self;
        }
        let with = |text: String| text + hint;
        match self {
            Error::NotFound { what } => Error::NoSuch { detail: with(format!("{what} not found")) },
            Error::NoSuch { detail } => Error::NoSuch { detail: with(detail) },
            Error::Corrupt { object, detail } => Error::Corrupt { object, detail: with(detail) },
            Error::Destination { path, detail } => Error::Destination { path, detail: with(detail) },
            Error::Unsound { path, detail, advice } => Error::Unsound { path, detail, advice: with(advice) },
            Error::HalfDone { path, detail } => Error::HalfDone { path, detail: with(detail) },
            Error::Busy { path, detail } => Error::Busy { path, detail: with(detail) },
            other => other,
        }
    }

    /// Whether stored bytes are damaged or missing. Other errors are faults of the machine or of the arguments.
    pub fn is_damage(&self) -> bool {
        matches!(self, Error::Corrupt { .. } | Error::NotFound { .. })
    }

    /// Its stable word in `icecore --json`.
    pub fn code(&self) -> &'static str {
        self.classified().1
    }

    /// The exit code of `icecore` if a command ends with this error. The numbers never change.
    pub fn exit_code(&self) -> u8 {
        self.classified().0
    }

    /// Advice that follows the text, if the cause itself has none; may be empty.
    pub fn advice(&self) -> &'static str {
        match self {
            Error::Backend { source, .. } if source.kind() == ErrorKind::StorageFull => FULL,
            _ => "",
        }
    }

    fn classified(&self) -> (u8, &'static str) {
        match self {
            Error::NoRepository { .. } => (10, "no-repository"),
            Error::Refused { .. } => (1, "refused"),
            Error::NotFound { .. } | Error::NoSuch { .. } => (1, "not-found"),
            Error::Corrupt { .. } | Error::Unsound { .. } => (4, "damaged"),
            Error::WrongPassphrase { .. } => (12, "wrong-passphrase"),
            Error::UnsupportedFormat { .. } => (1, "unsupported-format"),
            Error::Backend { .. } => (1, "backend"),
            Error::Source { .. } => (1, "source"),
            Error::Destination { .. } => (1, "destination"),
            Error::Bug { .. } => (1, "bug"),
            Error::HalfDone { .. } => (3, "half-done"),
            Error::Busy { .. } => (11, "busy"),
            Error::InvalidArgument(_) => (2, "usage"),
            Error::Catalog { .. } => (1, "catalog"),
            Error::Stale { .. } => (1, "stale"),
            Error::Cancelled => (130, "interrupted"),
            Error::NotDone { .. } | Error::Poisoned => (1, "failed"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Error, ErrorKind};

    #[test]
    fn a_full_disk_says_what_makes_room() {
        let advice = |kind| Error::backend("write", "pack 1", std::io::Error::from(kind)).advice();
        assert!(advice(ErrorKind::StorageFull).contains("icecore forget --prune"));
        assert_eq!(advice(ErrorKind::PermissionDenied), "");
    }
}
