//! The stored record of a journal entry: what an operation did, and how it ended.

use serde::{Deserialize, Serialize};

use crate::id::{SnapshotId, SourceId};

/// The longest stored journal entry, in bytes.
pub const LOG_LEN_MAX: usize = 64 << 10;

/// The most snapshots that an entry names (32,000 bytes of ids). If there are more, the entry only has their number.
pub const LOG_SNAPSHOTS_MAX: usize = 1000;

/// The longest text of an entry, in bytes. A longer text is cut off.
pub const LOG_DETAIL_LEN_MAX: usize = 16 << 10;

/// How many entries a prune keeps, the newest ones: five years with one entry an hour, about 20 MB. A number and not an
/// age, so that a clock that jumps removes nothing.
pub const LOG_ENTRIES_KEPT: usize = 50_000;

/// What an operation did, written when it ended. Operations and outcomes are words, so that an older reader does not
/// take a later one for damage.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogRecord {
    /// When it ended, in nanoseconds since 1970-01-01 UTC by the writer's clock. Not negative. The same as in the name
    /// of the entry.
    pub time_ns: i64,
    /// How long it took, in microseconds.
    pub duration_us: u64,
    /// The machine on which it ran.
    pub host: String,
    /// The user who ran it.
    pub user: String,
    /// Name and version of the writer.
    pub tool: String,
    /// A stable word: `backup`, `restore`, `note`, ...
    pub operation: String,
    /// A stable word: `done`, `incomplete`, `damaged`, `failed`, `interrupted`.
    pub outcome: String,
    /// The exit code of the program.
    pub exit_code: u8,
    /// The source that it was about, if it was about one.
    pub source: Option<SourceId>,
    /// The first snapshots that it made, read or forgot.
    pub snapshots: Vec<SnapshotId>,
    /// How many snapshots there were in all.
    pub snapshots_total: u64,
    /// A text for users; may be empty.
    pub detail: String,
    /// Further facts by name. Readers ignore names that they do not know.
    pub facts: Vec<(String, String)>,
}
