//! Puts restored databases in their places: over a closed database (`closed.rs`), or into one that others have open
//! (`live.rs`). `holder.rs` finds out who else uses it.

mod closed;
pub(crate) mod holder;
mod live;

use std::time::Duration;

use super::BUSY_TIMEOUT;

/// How the new database is checked before it gets its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DatabaseOptions {
    /// Run `PRAGMA quick_check` on it.
    pub check: bool,
    /// Put it in place even if the check finds damage; the findings become warnings. For a snapshot that is flagged as
    /// damaged. (Rows that break a constraint, and findings that only the application can judge, never count as
    /// damage.)
    pub accept_damaged: bool,
    /// How long a live restore waits for transactions of others.
    pub busy_timeout: Duration,
}

impl Default for DatabaseOptions {
    fn default() -> Self {
        DatabaseOptions { check: true, accept_damaged: false, busy_timeout: BUSY_TIMEOUT }
    }
}
