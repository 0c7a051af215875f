//! Where objects are kept. A backend moves bytes under names, and knows nothing of their content.
//!
//! All safety of commit and prune rests on three guarantees of [`Backend`]: writes are atomic, writes are durable when they return, and a
//! listing that starts after a write returned contains the object.

pub mod local;

use std::fmt::Debug;
use std::ops::Range;
use std::time::Duration;

use crate::error::Result;
use crate::id::{ContentId, ID_LEN, KeyId, LogId, MarkId, PackId, SnapshotId, SourceTag};

pub use local::LocalBackend;

/// The name of the format page in a repository.
pub const FORMAT_PAGE_NAME: &str = "FORMAT.md";

/// Which of the two replicas of a small object that must not be lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Replica {
    /// Written second, read first.
    First,
    /// Written first, read when the first does not decode.
    Second,
}

/// Decimal digits of the time in the name of a journal entry. The largest time in 63 bits of nanoseconds, in 2262, has as many. All names
/// have the same number of digits, so their order is the order of their times.
pub const LOG_TIME_DIGITS: usize = 19;

/// The name of an object. Paths exist only inside a backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ObjectKey {
    /// The repository's configuration.
    Config(Replica),
    /// A wrapped master key.
    Key(KeyId, Replica),
    /// Encoded chunks. The name is the hash of its bytes.
    Pack(PackId),
    /// A snapshot record before its commit.
    Pending {
        /// What stands for its source.
        source: SourceTag,
        /// The snapshot.
        id: SnapshotId,
    },
    /// A committed snapshot record.
    Snapshot {
        /// What stands for its source.
        source: SourceTag,
        /// The snapshot.
        id: SnapshotId,
    },
    /// A small fact about a snapshot, stated after its commit.
    Mark {
        /// The snapshot.
        snapshot: SnapshotId,
        /// The mark's own name.
        id: MarkId,
    },
    /// The record that stays of a forgotten snapshot.
    Forgotten(SnapshotId),
    /// Prune's mark on a pack that it is going to delete.
    Tombstone(PackId),
    /// An entry of the journal. Keys are in the order of their times.
    Log {
        /// When it was written, nanoseconds since 1970 UTC by the writer's clock; not negative.
        time_ns: i64,
        /// The entry's own name.
        id: LogId,
    },
    /// A damaged object that a repair has set aside, as it was found.
    Quarantined {
        /// The kind of the object.
        kind: SetAside,
        /// The name that it had.
        id: [u8; ID_LEN],
        /// The hash of its bytes. An object may be set aside several times, each time with other damage.
        content: ContentId,
    },
}

/// The kinds of objects that a repair sets aside.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SetAside {
    /// [`ObjectKey::Pack`]
    Pack,
    /// [`ObjectKey::Snapshot`]
    Snapshot,
    /// [`ObjectKey::Mark`]
    Mark,
    /// [`ObjectKey::Forgotten`]
    Forgotten,
    /// [`ObjectKey::Log`]
    Log,
}

impl SetAside {
    /// All kinds.
    pub const ALL: [SetAside; 5] = [SetAside::Pack, SetAside::Snapshot, SetAside::Mark, SetAside::Forgotten, SetAside::Log];

    /// The word in the object's name.
    pub fn word(self) -> &'static str {
        match self {
            SetAside::Pack => "pack",
            SetAside::Snapshot => "snapshot",
            SetAside::Mark => "mark",
            SetAside::Forgotten => "forgotten",
            SetAside::Log => "log",
        }
    }
}

/// The kinds of objects, as far as they can be listed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ObjectKind {
    /// [`ObjectKey::Config`]
    Config,
    /// [`ObjectKey::Key`]
    Key,
    /// [`ObjectKey::Pack`]
    Pack,
    /// [`ObjectKey::Pending`]
    Pending,
    /// [`ObjectKey::Snapshot`]
    Snapshot,
    /// [`ObjectKey::Mark`], of all snapshots
    Mark,
    /// [`ObjectKey::Forgotten`]
    Forgotten,
    /// [`ObjectKey::Tombstone`]
    Tombstone,
    /// [`ObjectKey::Log`]
    Log,
    /// [`ObjectKey::Quarantined`]
    Quarantined,
}

impl ObjectKind {
    /// All kinds.
    pub const ALL: [ObjectKind; 10] = [
        ObjectKind::Config,
        ObjectKind::Key,
        ObjectKind::Pack,
        ObjectKind::Pending,
        ObjectKind::Snapshot,
        ObjectKind::Mark,
        ObjectKind::Forgotten,
        ObjectKind::Tombstone,
        ObjectKind::Log,
        ObjectKind::Quarantined,
    ];
}

impl ObjectKey {
    /// The kind of this object.
    pub fn kind(&self) -> ObjectKind {
        match self {
            ObjectKey::Config(_) => ObjectKind::Config,
            ObjectKey::Key(..) => ObjectKind::Key,
            ObjectKey::Pack(_) => ObjectKind::Pack,
            ObjectKey::Pending { .. } => ObjectKind::Pending,
            ObjectKey::Snapshot { .. } => ObjectKind::Snapshot,
            ObjectKey::Mark { .. } => ObjectKind::Mark,
            ObjectKey::Forgotten(_) => ObjectKind::Forgotten,
            ObjectKey::Tombstone(_) => ObjectKind::Tombstone,
            ObjectKey::Log { .. } => ObjectKind::Log,
            ObjectKey::Quarantined { .. } => ObjectKind::Quarantined,
        }
    }
}

impl std::fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            ObjectKey::Config(Replica::First) => write!(f, "config"),
            ObjectKey::Config(Replica::Second) => write!(f, "config (second copy)"),
            ObjectKey::Key(id, Replica::First) => write!(f, "key {id}"),
            ObjectKey::Key(id, Replica::Second) => write!(f, "key {id} (second copy)"),
            ObjectKey::Pack(id) => write!(f, "pack {id}"),
            ObjectKey::Pending { id, .. } => write!(f, "pending snapshot {id}"),
            ObjectKey::Snapshot { id, .. } => write!(f, "snapshot {id}"),
            ObjectKey::Mark { snapshot, id } => write!(f, "mark {} of snapshot {snapshot}", id.short()),
            ObjectKey::Forgotten(id) => write!(f, "record of forgotten snapshot {id}"),
            ObjectKey::Tombstone(id) => write!(f, "tombstone of pack {id}"),
            ObjectKey::Log { time_ns, id } => write!(f, "journal entry {time_ns:0LOG_TIME_DIGITS$}-{id}"),
            ObjectKey::Quarantined { kind, id, .. } => write!(f, "quarantined {} {}", kind.word(), crate::id::to_hex(id)),
        }
    }
}

/// One entry of a listing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ObjectInfo {
    /// Its name.
    pub key: ObjectKey,
    /// Its size in bytes.
    pub size: u64,
}

/// What a write does when the object is there already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WriteMode {
    /// Fail with [`std::io::ErrorKind::AlreadyExists`]. Of several writers at the same time exactly one succeeds.
    CreateNew,
    /// Replace it in one step. Readers see the old bytes or the new ones, whole.
    Replace,
}

/// A place for objects. Methods with a body here handle one object after the other; an implementation may do better. Helpers for callers are in
/// [`BackendExt`].
///
/// Every implementation guarantees: a write is atomic (an object is there whole or not at all, also after a crash); when `write` returns, the
/// object survives a power cut; a listing that starts after a write returned contains the object (list-after-write consistency).
/// All errors are [`crate::Error::Backend`]; a missing object gives [`std::io::ErrorKind::NotFound`] inside it.
pub trait Backend: Send + Sync + Debug {
    /// A stable, canonical name of this place. The local catalog is found by it and by the repository's id.
    fn location(&self) -> String;

    /// All objects of one kind, in no particular order. Foreign files (wrong name, temporary) are left out.
    fn list(&self, kind: ObjectKind) -> Result<Box<dyn Iterator<Item = Result<ObjectInfo>> + '_>>;

    /// [`Backend::list`] without the sizes: a size may cost a look at the object.
    fn names(&self, kind: ObjectKind) -> Result<Box<dyn Iterator<Item = Result<ObjectKey>> + '_>> {
        Ok(Box::new(self.list(kind)?.map(|info| info.map(|info| info.key))))
    }

    /// The size of one object in bytes, or `None` if it is not there.
    fn stat(&self, key: &ObjectKey) -> Result<Option<u64>>;

    /// The bytes of an object or of a range of it. A range that reaches past the end is an error of kind
    /// [`std::io::ErrorKind::UnexpectedEof`], never a short answer.
    fn read(&self, key: &ObjectKey, range: Option<Range<u64>>) -> Result<Vec<u8>>;

    /// Stores an object: the parts, one after the other.
    fn write(&self, key: &ObjectKey, parts: &[&[u8]], mode: WriteMode) -> Result<()>;

    /// Stores several objects, and says for each whether it was stored: with [`WriteMode::CreateNew`] one that is there already stays as it
    /// is. After an error, or a crash in the middle, any of them may be there, whole. An implementation may sync all of them at once.
    fn write_all(&self, objects: &[(ObjectKey, Vec<u8>)], mode: WriteMode) -> Result<Vec<bool>> {
        let each = objects.iter().map(|(key, bytes)| match self.write(key, &[bytes], mode) {
            Err(crate::Error::Backend { source, .. }) if source.kind() == std::io::ErrorKind::AlreadyExists => Ok(false),
            written => written.map(|()| true),
        });
        each.collect()
    }

    /// Removes objects. All of them are gone for good when it returns. A missing object is not an error. After an error, or a crash in the middle,
    /// any of them may be gone.
    fn delete(&self, keys: &[ObjectKey]) -> Result<()>;

    /// Makes sure that these objects survive a power cut, also those of other processes. An object that another process has just put in place may be
    /// visible before its directory entry is on disk. Missing objects are not an error.
    fn settle(&self, keys: &[ObjectKey]) -> Result<()>;

    /// Puts a text for people beside the objects, under this name, unless one is there. It is not an object: no listing has it, and nothing
    /// reads it. A backend without a place for texts leaves it out.
    fn leave_text(&self, _name: &str, _text: &str) -> Result<()> {
        Ok(())
    }

    /// Counts the files of writes that have not ended, of killed and of running processes. They are not objects, and no listing has them.
    fn unfinished(&self) -> Result<Unfinished> {
        Ok(Unfinished::default())
    }

    /// Removes the files of writes that began at least `min_age` ago and that no living process is known to work on, and empty directories.
    /// A writer that is working nevertheless writes its file again.
    fn remove_unfinished(&self, _min_age: Duration) -> Result<Unfinished> {
        Ok(Unfinished::default())
    }
}

/// The files of writes that have not ended.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Unfinished {
    /// Files.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// Further methods for callers of a [`Backend`].
pub trait BackendExt: Backend {
    /// The whole object, or `None` if it is not there. An object of more than `len_max` bytes is [`crate::Error::Corrupt`] and is not read.
    fn read_if_there(&self, key: &ObjectKey, len_max: u64) -> Result<Option<Vec<u8>>> {
        let Some(len) = self.stat(key)? else { return Ok(None) };
        if len > len_max {
            return Err(crate::Error::corrupt(key.to_string(), format!("it has {len} bytes, but at most {len_max} are possible")));
        }
        // The range is given, so that a file that has grown since cannot fill the memory.
        match self.read(key, Some(0..len)) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(crate::Error::Backend { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(other) => Err(other),
        }
    }
}

impl<B: Backend + ?Sized> BackendExt for B {}
