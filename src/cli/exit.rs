//! Exit codes, and which failure gives which.

use std::io::ErrorKind;
use std::process::ExitCode;

use icecore::Error;

/// What the caller of the program learns from its exit code. Scripts rely on these numbers; they never change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Exit {
    /// Everything was done.
    Done = 0,
    /// It failed; there is no snapshot, nothing was changed.
    Failed = 1,
    /// The arguments are wrong (the number that clap gives too).
    Usage = 2,
    /// Something was done, but not all: a snapshot is flagged or lacks what could not be read, a restore left something out, or the report
    /// of what was done could not be written.
    Incomplete = 3,
    /// Stored data is damaged.
    Damaged = 4,
    /// `status`: a source has no good snapshot, or none that is young enough; or there are no snapshots.
    Overdue = 5,
    /// There is no repository.
    NoRepository = 10,
    /// Somebody else holds what is needed.
    Busy = 11,
    /// The passphrase is wrong.
    WrongPassphrase = 12,
    /// Stopped by SIGINT, SIGTERM, SIGHUP or SIGQUIT.
    Interrupted = 130,
    /// The reader of `dump` closed the pipe before the end: what a shell reports of a program that SIGPIPE ended.
    ClosedPipe = 141,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        ExitCode::from(exit as u8)
    }
}

/// What to do about a repository whose disk is full. A prune writes what it is about to delete before it deletes anything.
const FULL: &str = ": the repository's disk is full. `icecore forget --prune` makes room, but has to write first: free some space by other means, then run it";

/// Why a command ends early.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Failure {
    /// The exit code.
    pub(crate) exit: Exit,
    /// A stable word for programs, in the JSON form of errors.
    pub(crate) code: &'static str,
    /// For people: what, where, what to do. Nothing is said if it is empty.
    pub(crate) message: String,
}

impl Failure {
    /// A failure of what was asked for.
    pub(crate) fn failed(message: impl Into<String>) -> Self {
        Failure { exit: Exit::Failed, code: "failed", message: message.into() }
    }

    /// Arguments that make no sense.
    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Failure { exit: Exit::Usage, code: "usage", message: message.into() }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let (exit, code) = classified(&error);
        let advice = match &error {
            Error::Backend { source, .. } if source.kind() == ErrorKind::StorageFull => FULL,
            _ => "",
        };
        Failure { exit, code, message: format!("{error}{advice}") }
    }
}

/// The stable word for an error.
pub(crate) fn code_of(error: &Error) -> &'static str {
    classified(error).1
}

fn classified(error: &Error) -> (Exit, &'static str) {
    match error {
        Error::NoRepository { .. } => (Exit::NoRepository, "no-repository"),
        Error::Refused { .. } => (Exit::Failed, "refused"),
        Error::NotFound { .. } | Error::NoSuch { .. } => (Exit::Failed, "not-found"),
        Error::Corrupt { .. } => (Exit::Damaged, "damaged"),
        Error::WrongPassphrase { .. } => (Exit::WrongPassphrase, "wrong-passphrase"),
        Error::UnsupportedFormat { .. } => (Exit::Failed, "unsupported-format"),
        Error::Backend { .. } => (Exit::Failed, "backend"),
        Error::Source { .. } => (Exit::Failed, "source"),
        Error::Destination { .. } => (Exit::Failed, "destination"),
        Error::Unsound { .. } => (Exit::Damaged, "damaged"),
        Error::Bug { .. } => (Exit::Failed, "bug"),
        Error::HalfDone { .. } => (Exit::Incomplete, "half-done"),
        Error::Busy { .. } => (Exit::Busy, "busy"),
        Error::InvalidArgument(_) => (Exit::Usage, "usage"),
        Error::Catalog { .. } => (Exit::Failed, "catalog"),
        Error::Stale { .. } => (Exit::Failed, "stale"),
        Error::Cancelled => (Exit::Interrupted, "interrupted"),
        _ => (Exit::Failed, "failed"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_says_what_makes_room() {
        let error = |kind| Failure::from(Error::backend("write", "pack 1", std::io::Error::from(kind))).message;
        assert!(error(ErrorKind::StorageFull).contains("icecore forget --prune"));
        assert!(!error(ErrorKind::PermissionDenied).contains("prune"));
    }
}
