//! Tombstones: prune's marks. Their names say what is marked, their content when and by whom, and of a snapshot record that this was meant.

use serde::{Deserialize, Serialize};

use crate::id::{PackId, SnapshotId};

/// What is in a tombstone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tombstone {
    /// The id in its name, so that it says nothing under another one.
    pub object: PackId,
    /// When it was written, nanoseconds since 1970 UTC by the writer's clock.
    pub time_ns: i64,
    /// The machine that wrote it.
    pub host: String,
    /// The pending record that has expired, if the tombstone is about one. The same as in its name.
    pub expired: Option<SnapshotId>,
}
