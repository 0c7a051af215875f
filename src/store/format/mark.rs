//! The records of marks and of forgotten snapshots, as they are stored.

use serde::{Deserialize, Serialize};

use super::Malformed;
use super::snapshot::{LABEL_LEN_MAX, TAG_LEN_MAX, verify_text};
use crate::id::{SnapshotId, SourceId};

/// The longest stored mark or record of a forgotten snapshot, in bytes: texts of people, and one reason of a check.
pub const MARK_LEN_MAX: usize = 64 << 10;

/// Bytes of the checksum that ends the record of a forgotten snapshot: BLAKE3 of everything before. Its name is not its hash, so
/// without a key nothing else would find damage.
pub const FORGOTTEN_CHECKSUM_LEN: usize = 32;

/// One fact about a snapshot, stated after its commit. Of marks of one sort the newest wins: by time, then by id.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MarkRecord {
    /// The snapshot; the same as in the mark's path.
    pub snapshot: SnapshotId,
    /// What is said of it.
    pub kind: MarkKind,
    /// When, nanoseconds since 1970-01-01 UTC. Later than every mark on the snapshot that the writer saw.
    pub time_ns: i64,
    /// The machine on which it was said.
    pub host: String,
    /// Who said it.
    pub user: String,
    /// A flag or a damage: a stable word. A tag or an untag: the tag. Else empty.
    pub code: String,
    /// For people; may be empty.
    pub detail: String,
}

impl MarkRecord {
    /// Refuses texts that are too long to be shown in lists.
    ///
    /// # Errors
    /// [`Malformed`], with what is too long.
    pub fn verify_texts(&self) -> Result<(), Malformed> {
        verify_text("host", &self.host, LABEL_LEN_MAX)?;
        verify_text("user", &self.user, LABEL_LEN_MAX)?;
        verify_text("tag or code", &self.code, TAG_LEN_MAX)
    }
}

/// What a mark says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum MarkKind {
    /// The snapshot does not count as good.
    Flag,
    /// It counts as good: clears all flags of its record, and those that were set, and damage that was found, before.
    Accept,
    /// It is not to be forgotten.
    Protect,
    /// Takes a protection back.
    Unprotect,
    /// A check read all of it, and all was whole.
    Verified,
    /// A check found that it cannot be read whole; it does not count as good.
    Damaged,
    /// Adds a tag.
    Tag,
    /// Takes a tag away.
    Untag,
}

/// What stays of a snapshot that was forgotten: proof that its record was not lost.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ForgottenRecord {
    /// The snapshot; the same as in the record's path.
    pub snapshot: SnapshotId,
    /// Its parent.
    pub parent: Option<SnapshotId>,
    /// Its source.
    pub source: SourceId,
    /// Its time, nanoseconds since 1970-01-01 UTC.
    pub time_ns: i64,
    /// When it was forgotten, nanoseconds since 1970-01-01 UTC.
    pub forgotten_ns: i64,
    /// The label of its source, for people.
    pub label: String,
    /// Whether the second look has found that nothing spares the snapshot: only then its record is deleted. Before that, this record says only that
    /// forgetting has begun, and proves nothing of a snapshot that is gone.
    pub decided: bool,
}
