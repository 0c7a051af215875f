//! Errors, sorted by what the caller can do about them.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

/// What to do about a repository whose disk is full. A prune writes what it is about to delete before it deletes anything.
const FULL: &str = ": the repository's disk is full. `icecore forget --prune` makes room, but has to write first: free some space by other means, then run it";

/// The result of every fallible function in this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong, where, and (in the text) what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// There is no repository at this location.
    #[error(
        "no repository at {location}. If there should be one: is the path right, and is its disk mounted? `icecore init` makes a new one"
    )]
    NoRepository {
        /// Where it was looked for.
        location: String,
    },
    /// A repository is there, but it is not to be trusted: nothing was read from it or stored in it.
    #[error("{location}: {detail}")]
    Refused {
        /// Where it is.
        location: String,
        /// Why, and how to accept it.
        detail: String,
    },
    /// What is needed (a snapshot, a pack, a key) is not in the repository.
    #[error("{what} not found")]
    NotFound {
        /// What was looked for, with its kind: `snapshot 1a2b`.
        what: String,
    },
    /// What the user named is not there; nothing is damaged.
    #[error("{detail}")]
    NoSuch {
        /// What was named, and what there is.
        detail: String,
    },
    /// Stored bytes are not what was written.
    #[error("{object} is damaged: {detail}")]
    Corrupt {
        /// The object, by kind and id.
        object: String,
        /// What does not hold.
        detail: String,
    },
    /// No key record opens with this passphrase.
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
        /// Which icecore reads it, and the version or feature: `a newer icecore: format version 9`.
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
    /// What is to be captured cannot be read as asked.
    #[error("{}: {detail}", path.display())]
    Source {
        /// The file.
        path: PathBuf,
        /// Why, and what to do.
        detail: String,
    },
    /// A restore destination cannot be written as asked. Nothing was lost.
    #[error("{}: {detail}", path.display())]
    Destination {
        /// The file or directory.
        path: PathBuf,
        /// Why, and what to do.
        detail: String,
    },
    /// A database that a snapshot has whole was damaged when it was captured. Nothing was changed.
    #[error(
        "{}: the database in the snapshot is damaged, as it was at its capture (SQLite's quick_check: {detail}); what is there was left as it is; \
         --accept-damaged restores it all the same{advice}",
        path.display()
    )]
    Unsound {
        /// Where it was to go.
        path: PathBuf,
        /// What SQLite says.
        detail: String,
        /// What else might help; may be empty.
        advice: String,
    },
    /// A fault of icecore itself: something that cannot be is so, or a thread panicked. What was done up to here is as safe as if the process had been killed.
    #[error("this is a fault of icecore itself, please report it: {detail}")]
    Bug {
        /// What cannot be, and where.
        detail: String,
    },
    /// A step failed after something had been changed: the text says what stands now, and where what was there lies.
    #[error("{}: {detail}", path.display())]
    HalfDone {
        /// The file or directory.
        path: PathBuf,
        /// What stands, what failed, and where the old one lies.
        detail: String,
    },
    /// Someone else holds what is needed; trying again later may help.
    #[error("{}: {detail}", path.display())]
    Busy {
        /// The file.
        path: PathBuf,
        /// Who or what holds it, and what to do.
        detail: String,
    },
    /// The arguments make no sense together.
    #[error("{0}")]
    InvalidArgument(String),
    /// What was asked for is not done, as a rule forbids it or things changed meanwhile; nothing was changed.
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
    /// What the catalog promised is not in the repository (any more); a fresh look at the repository helps.
    #[error("the repository changed underneath: {detail}")]
    Stale {
        /// Which object is gone.
        detail: String,
    },
    /// The caller asked to stop.
    #[error("interrupted")]
    Cancelled,
    /// An earlier failure of this write session; nothing more is accepted by it.
    #[error("this backup failed earlier and takes nothing more")]
    Poisoned,
}

/// What a thread gave back; one that panicked gives [`Error::Bug`]. `doing` says what it did, as in "storing chunks".
///
/// # Errors
/// What the thread failed with.
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

    /// The same as an error of reading or writing.
    pub fn bug_io(detail: impl Into<String>) -> std::io::Error {
        std::io::Error::other(Error::bug(detail))
    }

    /// The [`Error::Bug`] of a thread that panicked, with what it said.
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

    /// The same with a hint at the end of its text, where there is room for one. What was not found stays so, but is no damage any more.
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

    /// Whether stored bytes are bad or missing, as opposed to a fault of the machine or the arguments.
    pub fn is_damage(&self) -> bool {
        matches!(self, Error::Corrupt { .. } | Error::NotFound { .. })
    }

    /// A stable word for it, as `icecore --json` gives it.
    pub fn code(&self) -> &'static str {
        self.classified().1
    }

    /// What `icecore` exits with if this ends a command. The numbers never change.
    pub fn exit_code(&self) -> u8 {
        self.classified().0
    }

    /// What to do about it, where its cause does not say so: what follows the text, or nothing.
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
