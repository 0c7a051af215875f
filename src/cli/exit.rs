//! Exit codes, and which failure gives which code.

use std::process::ExitCode;

use icecore::Error;
use icecore::ops::journal::Outcome;

/// The exit codes. Scripts rely on these numbers, so they never change.
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
        let (exit, code) = (Exit::of(error.exit_code()), error.code());
        Failure { exit, code, message: format!("{error}{}", error.advice()) }
    }
}

impl Exit {
    /// Of the code of an error or an outcome.
    fn of(code: u8) -> Self {
        let all = [Exit::Done, Exit::Usage, Exit::Incomplete, Exit::Damaged, Exit::NoRepository, Exit::Busy, Exit::WrongPassphrase];
        all.into_iter().chain([Exit::Interrupted]).find(|exit| *exit as u8 == code).unwrap_or(Exit::Failed)
    }
}

impl From<Outcome> for Exit {
    fn from(outcome: Outcome) -> Self {
        Exit::of(outcome.exit_code())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_have_the_exit_codes_of_the_program() {
        let cases = [
            (Error::Cancelled, Exit::Interrupted),
            (Error::InvalidArgument(String::new()), Exit::Usage),
            (Error::Poisoned, Exit::Failed),
            (Error::corrupt("", ""), Exit::Damaged),
            (Error::half_done("", ""), Exit::Incomplete),
            (Error::NoRepository { location: String::new() }, Exit::NoRepository),
            (Error::WrongPassphrase { location: String::new() }, Exit::WrongPassphrase),
            (Error::Busy { path: "".into(), detail: String::new() }, Exit::Busy),
        ];
        for (error, exit) in cases {
            assert_eq!(Exit::of(error.exit_code()), exit, "{error:?}");
        }
        let full = Error::backend("write", "pack 1", std::io::Error::from(std::io::ErrorKind::StorageFull));
        assert!(Failure::from(full).message.contains("icecore forget --prune"));
    }
}
