//! Holds what the drills of all engines share: questions, reports of checks, and the trait for a server to drill on.
//!
//! A failed check is a report and not an error. An error means that the drill itself could not be carried out.

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

/// What the user wants to know, besides the drill's own checks.
#[derive(Debug, Clone, Copy)]
pub struct Questions<'q> {
    /// Assertions about the restored databases.
    pub assertions: &'q [NamedAssertion],
    /// How many threads check at once.
    pub threads: usize,
}

/// A server on which snapshots of its kind are drilled.
pub trait DrillServer: std::fmt::Debug + Send + Sync {
    /// Restores a snapshot into the server and checks the result. Findings of checks are in the result.
    ///
    /// # Errors
    /// [`crate::Error::Source`] if the server cannot be used, [`crate::Error::Cancelled`].
    fn drill(&self, stored: Box<dyn Stored>, questions: Questions<'_>, placement: &Placement<'_>) -> Result<Drilled>;
}

/// The outcome of a drill on a server.
#[derive(Debug, Clone, Default)]
pub struct Drilled {
    /// The place of the restore: the directory of a throw-away server, or the database and its server.
    pub staging: String,
    /// The server with its version, if one could be used.
    pub server: Option<String>,
    /// The user that ran the throw-away server, if there was one.
    pub server_user: Option<String>,
    /// How long the restore took, until everything was durable, milliseconds.
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
    // Exact up to 2^53 microseconds, which are 285 years.
    span.as_micros() as f64 / 1000.0
}
