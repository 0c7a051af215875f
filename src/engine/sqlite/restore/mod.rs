//! Databases back in their places.

mod closed;
pub(crate) mod holder;
mod live;

use std::time::Duration;

use super::BUSY_TIMEOUT;

/// What is asked of the new database before it takes the name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DatabaseOptions {
    /// Run `PRAGMA quick_check` on it.
    pub check: bool,
    /// Put it in place although the check finds damage (a snapshot that was flagged as damaged, asked for all the same); the findings
    /// become warnings. Rows that break a constraint, and what only the application can judge, are no damage.
    pub accept_damaged: bool,
    /// How long a live restore waits for transactions of others.
    pub busy_timeout: Duration,
}

impl Default for DatabaseOptions {
    fn default() -> Self {
        DatabaseOptions { check: true, accept_damaged: false, busy_timeout: BUSY_TIMEOUT }
    }
}
