//! Tombstones: the marks of prune on objects that it is going to delete. The name says which object is marked. The
//! content says when and by whom, and repeats the name, so that a tombstone under another name has no effect.

use serde::{Deserialize, Serialize};

use crate::id::{PackId, SnapshotId};

/// The content of a tombstone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tombstone {
    /// The id in its name. A tombstone with another id has no effect.
    pub object: PackId,
    /// When it was written, in nanoseconds since 1970-01-01 UTC by the writer's clock.
    pub time_ns: i64,
    /// The machine that wrote it.
    pub host: String,
    /// The expired pending record, if the tombstone is about one. The same as in its name.
    pub expired: Option<SnapshotId>,
}
