//! The stored records of marks, and of forgotten snapshots.

use serde::{Deserialize, Serialize};

use super::Malformed;
use super::snapshot::{LABEL_LEN_MAX, TAG_LEN_MAX, verify_text};
use crate::id::{SnapshotId, SourceId};

/// The longest stored mark or record of a forgotten snapshot, in bytes. It has texts of users, and one reason of a
/// check.
pub const MARK_LEN_MAX: usize = 64 << 10;

/// Bytes of the checksum at the end of the record of a forgotten snapshot: BLAKE3 of everything before it. The name of
/// the record is not its hash, so without a key nothing else would find damage.
pub const FORGOTTEN_CHECKSUM_LEN: usize = 32;

/// One fact about a snapshot, stored after its commit. Among marks of one kind the newest wins: by time, then by id.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MarkRecord {
    /// The snapshot. The same as in the path of the mark.
    pub snapshot: SnapshotId,
    /// The kind of fact.
    pub kind: MarkKind,
    /// When it was set, in nanoseconds since 1970-01-01 UTC. Later than every mark on the snapshot that the writer saw.
    pub time_ns: i64,
    /// The machine on which it was set.
    pub host: String,
    /// The user who set it.
    pub user: String,
    /// For a flag or damage: a stable word. For a tag or untag: the tag. Else empty.
    pub code: String,
    /// A text for users; may be empty.
    pub detail: String,
}

impl MarkRecord {
    /// Refuses texts that are too long to be shown in lists.
    ///
    /// # Errors
    /// [`Malformed`], with the text that is too long.
    pub fn verify_texts(&self) -> Result<(), Malformed> {
        verify_text("host", &self.host, LABEL_LEN_MAX)?;
        verify_text("user", &self.user, LABEL_LEN_MAX)?;
        verify_text("tag or code", &self.code, TAG_LEN_MAX)
    }
}

/// The kind of a mark.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum MarkKind {
    /// The snapshot is not good.
    Flag,
    /// The snapshot is good. Clears all flags of its record, and all flags and damage that were marked before.
    Accept,
    /// The snapshot must not be forgotten.
    Protect,
    /// Removes the protection.
    Unprotect,
    /// A check has read all of it, and everything was whole.
    Verified,
    /// A check has found that it cannot be read whole. It is not good.
    Damaged,
    /// Adds a tag.
    Tag,
    /// Removes a tag.
    Untag,
}

/// The record that stays of a forgotten snapshot. It proves that the snapshot's own record was deleted on purpose and
/// not lost.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ForgottenRecord {
    /// The snapshot. The same as in the path of the record.
    pub snapshot: SnapshotId,
    /// Its parent.
    pub parent: Option<SnapshotId>,
    /// Its source.
    pub source: SourceId,
    /// Its time, in nanoseconds since 1970-01-01 UTC.
    pub time_ns: i64,
    /// When it was forgotten, in nanoseconds since 1970-01-01 UTC.
    pub forgotten_ns: i64,
    /// The label of its source, for users.
    pub label: String,
    /// Whether a second look has found that nothing protects the snapshot. Only then is the snapshot's record deleted.
    /// Before that, this record only says that forgetting has begun. If the snapshot is gone even so, it proves
    /// nothing.
    pub decided: bool,
}
