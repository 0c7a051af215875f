//! Tombstones: prune's marks. Their names say what is marked; their content only when and by whom.

use serde::{Deserialize, Serialize};

/// What is in a tombstone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tombstone {
    /// When it was written, nanoseconds since 1970 UTC by the writer's clock.
    pub time_ns: i64,
    /// The machine that wrote it.
    pub host: String,
}
