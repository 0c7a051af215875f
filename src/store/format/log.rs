//! The record of a journal entry, as it is stored.

use serde::{Deserialize, Serialize};

use crate::id::{SnapshotId, SourceId};

/// The longest stored journal entry, in bytes.
pub const LOG_LEN_MAX: usize = 64 << 10;

/// The most snapshots that an entry names: 32,000 bytes of ids. Of more it says how many there were.
pub const LOG_SNAPSHOTS_MAX: usize = 1000;

/// The longest text of an entry, in bytes; of a longer one its start is kept.
pub const LOG_DETAIL_LEN_MAX: usize = 16 << 10;

/// How many entries a prune leaves, the newest: five years of one an hour, some 20 MB. By number, so that a clock that jumps removes nothing.
pub const LOG_ENTRIES_KEPT: usize = 50_000;

/// What an operation did, told when it ended. Operations and outcomes are words, so that later ones are no damage to an older reader.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogRecord {
    /// When it ended, nanoseconds since 1970-01-01 UTC by the writer's clock, not negative; the same as in the name.
    pub time_ns: i64,
    /// How long it took, microseconds.
    pub duration_us: u64,
    /// The machine on which it ran.
    pub host: String,
    /// Who ran it.
    pub user: String,
    /// Name and version of the writer.
    pub tool: String,
    /// A stable word: `backup`, `restore`, `note`, ...
    pub operation: String,
    /// A stable word: `done`, `incomplete`, `damaged`, `failed`, `interrupted`.
    pub outcome: String,
    /// What the program exits with.
    pub exit_code: u8,
    /// The source that it was about, if it was one.
    pub source: Option<SourceId>,
    /// The first snapshots that it made, read or dropped.
    pub snapshots: Vec<SnapshotId>,
    /// How many there were in all.
    pub snapshots_total: u64,
    /// For people; may be empty.
    pub detail: String,
    /// More, by name; readers pass over names that they do not know.
    pub facts: Vec<(String, String)>,
}
