//! Tells the outcome of a restore: what was restored, and what failed and why.
//!
//! Guarantee: if the outcome is turned into one error, that is the error that stopped the restore, if there is one.
//! Otherwise its text counts all failures, and its kind is that of the gravest.
//! Relies on the kinds of errors: only after `HalfDone` something new is at the destination of a failed stream.

use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::ser::Serializer;

use crate::engine::place::{Findings, Placed};
use crate::error::{Error, Result};
use crate::ops::json;

/// A stream that was restored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Restored {
    /// The stream.
    pub name: Vec<u8>,
    /// Its length, bytes.
    pub len: u64,
    /// Its path, and what was kept of what was there.
    pub placed: Placed,
}

impl Serialize for Restored {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Placed { path, kept, findings } = &self.placed;
        let kept: Vec<json::Place<'_>> = kept.iter().map(|path| json::Place(path)).collect();
        RestoredFields { name: &self.name, path, bytes: self.len, kept, findings }.serialize(serializer)
    }
}

#[derive(Serialize)]
struct RestoredFields<'r> {
    #[serde(flatten, serialize_with = "json::name")]
    name: &'r [u8],
    #[serde(flatten, serialize_with = "json::path")]
    path: &'r Path,
    bytes: u64,
    kept: Vec<json::Place<'r>>,
    #[serde(flatten)]
    findings: &'r Findings,
}

/// Is called for every stream as soon as it is in place.
pub type Tell<'t> = dyn FnMut(Restored) + Send + 't;

/// A stream that was not restored.
#[derive(Debug, Serialize)]
pub struct Failed {
    /// The stream.
    #[serde(flatten, serialize_with = "json::name")]
    pub name: Vec<u8>,
    /// Where it should have gone.
    #[serde(flatten, serialize_with = "json::path")]
    pub path: PathBuf,
    /// Why. After [`Error::HalfDone`] something new is there; after any other error what was there is unchanged.
    #[serde(flatten, serialize_with = "json::failure")]
    pub error: Error,
}

/// The outcome of a restore.
#[derive(Debug, Default)]
pub struct Outcome {
    /// How many streams were restored.
    pub restored: u64,
    /// Their bytes.
    pub bytes: u64,
    /// The streams that failed.
    pub failed: Vec<Failed>,
    /// How many streams were not tried.
    pub untried: u64,
    /// Why not: the user stopped it, or an error would have stopped the others, too.
    pub stopped: Option<Error>,
}

impl Outcome {
    /// Whether anything was changed.
    pub fn is_changed(&self) -> bool {
        let half_done = |error: &Error| matches!(error, Error::HalfDone { .. });
        self.restored > 0 || self.failed.iter().any(|failed| half_done(&failed.error)) || self.stopped.as_ref().is_some_and(half_done)
    }

    /// Adds the outcome of another part.
    pub(super) fn add(&mut self, part: Outcome) {
        self.restored += part.restored;
        self.bytes += part.bytes;
        self.failed.extend(part.failed);
        self.untried += part.untried;
        if self.stopped.is_none() {
            self.stopped = part.stopped;
        }
    }

    /// Whether everything was restored.
    pub fn is_whole(&self) -> bool {
        self.failed.is_empty() && self.stopped.is_none()
    }

    /// Whether a failure comes from damage: in the repository, or of a database at its capture.
    pub fn is_damaged(&self) -> bool {
        self.failed.iter().map(|failed| &failed.error).chain(&self.stopped).any(is_damage)
    }

    /// All failures as one error.
    ///
    /// # Errors
    /// The error that stopped the restore; or else the only failure; or else all failures in one error with the kind
    /// of the gravest: damage, then half done, then others, then in use.
    pub fn whole(self) -> Result<()> {
        if let Some(error) = self.stopped {
            return Err(error);
        }
        let damaged = self.failed.iter().any(|failed| is_damage(&failed.error));
        let gravest = |failed: &Failed| match &failed.error {
            error if is_damage(error) => 0,
            Error::HalfDone { .. } => 1,
            Error::Busy { .. } => 3,
            _ => 2,
        };
        let texts: Vec<String> = self.failed.iter().take(NAMED_MAX).map(|failed| failed.error.to_string()).collect();
        let more = match self.failed.len().saturating_sub(texts.len()) {
            0 => String::new(),
            more => format!("; and {more} more"),
        };
        // Say what was restored, so that nobody restores it again.
        let note = match self.restored {
            0 => String::new(),
            others => format!("; everything else was restored ({others})"),
        };
        let several = self.failed.len() > 1 || !note.is_empty();
        let Some(worst) = self.failed.into_iter().min_by_key(gravest) else { return Ok(()) };
        let text = format!("{}{more}{note}", texts.join("; "));
        Err(match worst.error {
            error if !several => error,
            _ if damaged => Error::corrupt("the snapshot", text),
            Error::HalfDone { path, .. } => Error::half_done(path, text),
            Error::Busy { path, .. } => Error::Busy { path, detail: text },
            Error::Destination { path, .. } => Error::destination(path, text),
            other => other,
        })
    }
}

/// Whether an error means damage in the repository, or of a database at its capture.
fn is_damage(error: &Error) -> bool {
    error.is_damage() || matches!(error, Error::Unsound { .. })
}

/// Number of failures whose texts are in one error.
const NAMED_MAX: usize = 20;
