//! Says how a drill's checks went, in a form that is also their JSON.
//!
//! The names of checks and outcomes are part of the JSON output, so they must stay the same.

use serde::Serialize;

/// How a check went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// Everything was right.
    Passed,
    /// Something was wrong, so the drill has failed.
    Failed,
    /// It could not be made: there was nothing to compare with, or no program for it.
    Skipped,
}

/// One check.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CheckReport {
    /// The stream that it was about, if it was about one.
    pub stream: Option<String>,
    /// `roles`, `restore`, `integrity`, `header`, `content`, `sql`, `rto`; in the demonstration also `recall` and `history`.
    pub check: &'static str,
    /// Its outcome.
    pub outcome: Outcome,
    /// What was found, as text.
    pub detail: String,
    /// Only for `integrity`: rows that break rules of the schema, although every byte is readable.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
    /// Only for `integrity`: what SQLite cannot check without the database's application.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub not_checked: Vec<String>,
}

impl CheckReport {
    pub(crate) fn of(stream: Option<&str>, check: &'static str, outcome: Result<String, String>) -> Self {
        let (outcome, detail) = match outcome {
            Ok(detail) => (Outcome::Passed, detail),
            Err(detail) => (Outcome::Failed, detail),
        };
        CheckReport { stream: stream.map(str::to_owned), check, outcome, detail, warnings: Vec::new(), not_checked: Vec::new() }
    }
}
