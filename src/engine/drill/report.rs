//! What a check of a drill says.

use serde::Serialize;

/// How a check went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// As it should be.
    Passed,
    /// Not so: the drill has failed.
    Failed,
    /// There was nothing to compare with.
    Skipped,
}

/// One check.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CheckReport {
    /// The stream that it was about, if it was about one.
    pub stream: Option<String>,
    /// `roles`, `restore`, `integrity`, `header`, `content`, `sql`, `rto`; in the demonstration also `recall` and `history`.
    pub check: &'static str,
    /// How it went.
    pub outcome: Outcome,
    /// What was found, for people.
    pub detail: String,
    /// Of `integrity`: what breaks rules of the schema, though every byte is readable.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
    /// Of `integrity`: what SQLite cannot judge without the database's application.
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
