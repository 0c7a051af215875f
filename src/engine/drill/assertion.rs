//! Judges the user's assertions about restored databases (`--check-sql`).
//!
//! Guarantee: an assertion that fails, gives no row or ends with an error never passes, and each assertion is about
//! exactly one database. Long values are cut in reports. Relies on the engines to run the queries.

use std::fmt::Display;

use crate::error::{Error, Result};

/// Most databases that the message about an unknown name lists.
const NAMED_MAX: usize = 8;
/// Most characters of a value in a report.
const SHOWN_MAX: usize = 200;

/// A query whose first value must be true: not null, not zero, not false.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Assertion {
    /// One SQL statement that reads.
    pub sql: String,
}

/// An assertion about one database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamedAssertion {
    /// The database's stream; `None`: the only database of the snapshot.
    pub stream: Option<Vec<u8>>,
    /// What must hold.
    pub assertion: Assertion,
}

impl NamedAssertion {
    pub(crate) fn is_about(&self, stream: &[u8]) -> bool {
        self.stream.as_ref().is_none_or(|name| name == stream)
    }
}

impl Assertion {
    /// The text for the report; `Err` if the assertion failed. `value` is whether the value is true, and the value as
    /// text; `None` if there was no row.
    pub(crate) fn judge<E: Display>(&self, value: Result<Option<(bool, String)>, E>) -> Result<String, String> {
        let cut = |text: String| match text.char_indices().nth(SHOWN_MAX) {
            Some((end, _)) => format!("{}...", text.get(..end).unwrap_or_default()),
            None => text,
        };
        match value {
            Ok(Some((true, shown))) => Ok(format!("{}: {}", self.sql, cut(shown))),
            Ok(Some((false, shown))) => Err(format!("{}: {}, which is not true", self.sql, cut(shown))),
            Ok(None) => Err(format!("{}: no row", self.sql)),
            Err(e) => Err(format!("{}: {e}", self.sql)),
        }
    }
}

/// Whether a text counts as true: it is a number other than zero.
pub(crate) fn is_true(text: &str) -> bool {
    text.trim().parse::<f64>().is_ok_and(|number| number != 0.0)
}

/// Refuses an assertion that is not about exactly one of the databases.
pub(crate) fn refuse_unknown(assertions: &[NamedAssertion], databases: &[&[u8]]) -> Result<()> {
    for named in assertions {
        if databases.iter().filter(|name| named.is_about(name)).count() != 1 {
            let names: Vec<_> = databases.iter().take(NAMED_MAX).map(|name| String::from_utf8_lossy(name)).collect();
            let text = format!("{:?}: name the database that it is about, NAME:SQL, one of: {}", named.assertion.sql, names.join(", "));
            return Err(Error::InvalidArgument(text));
        }
    }
    Ok(())
}
