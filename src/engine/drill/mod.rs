//! What the drills of all engines share.

mod assertion;
mod report;
mod threads;

use super::place::Placement;
use super::stored::Stored;
use crate::error::Result;

pub use assertion::{Assertion, NamedAssertion};
pub(crate) use assertion::{is_true, refuse_unknown};
pub use report::{CheckReport, Outcome};
pub(crate) use threads::in_threads;

/// What a drill asks besides its own checks.
#[derive(Debug, Clone, Copy)]
pub struct Questions<'q> {
    /// What must be true of the restored databases.
    pub assertions: &'q [NamedAssertion],
    /// Threads that check at once.
    pub threads: usize,
}

/// A server on which snapshots of its kind are drilled.
pub trait DrillServer: std::fmt::Debug + Send + Sync {
    /// Restores a snapshot to the server and checks what came back.
    ///
    /// # Errors
    /// [`crate::Error::Source`] if the server cannot be had, [`crate::Error::Cancelled`]. What a check finds is in what is given back.
    fn drill(&self, stored: Box<dyn Stored>, questions: Questions<'_>, placement: &Placement<'_>) -> Result<Drilled>;
}

/// What a drill on a server did and found.
#[derive(Debug, Clone, Default)]
pub struct Drilled {
    /// Where it was restored to: the directory of a throw-away server, or the database and its server.
    pub staging: String,
    /// The server with its version, if there was one that it could be restored to.
    pub server: Option<String>,
    /// The user who ran the throw-away server, if there was one.
    pub server_user: Option<String>,
    /// How long the restore took, until all was durable, milliseconds.
    pub restore_ms: f64,
    /// How long the checks took, milliseconds.
    pub verify_ms: f64,
    /// All checks.
    pub checks: Vec<CheckReport>,
}

impl Drilled {
    pub(crate) fn add(&mut self, stream: Option<&str>, check: &'static str, outcome: Result<String, String>) {
        self.checks.push(CheckReport::of(stream, check, outcome));
    }
}

/// A span of time in milliseconds.
pub(crate) fn millis(span: std::time::Duration) -> f64 {
    span.as_micros() as f64 / 1000.0
}
