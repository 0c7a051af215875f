//! Keys and bytes: where objects are kept. Knows nothing of what is in them.

pub mod local;

use std::fmt::Debug;
use std::ops::Range;
use std::time::Duration;

use crate::error::Result;
use crate::id::{ContentId, ID_LEN, KeyId, LogId, MarkId, PackId, SnapshotId, SourceTag};

pub use local::LocalBackend;

/// What the format page is called in a repository.
pub const FORMAT_PAGE_NAME: &str = "FORMAT.md";

/// Which of the two stored copies of a small, precious object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Replica {
    /// Written second, read first.
    First,
    /// Written first, read when the first does not decode.
    Second,
}

/// Decimal digits of the time in the name of a journal entry: those of the last time that 63 bits of nanoseconds hold, in 2262. All names have
/// as many, so that their order is that of their times.
pub const LOG_TIME_DIGITS: usize = 19;

/// The name of an object. Paths exist only inside a backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ObjectKey {
    /// The repository's configuration.
    Config(Replica),
    /// A wrapped master key.
    Key(KeyId, Replica),
    /// Encoded chunks; named by the hash of its bytes.
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
    /// What stays of a snapshot that was forgotten.
    Forgotten(SnapshotId),
    /// Prune's mark on a pack that it means to delete.
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
        /// What it was.
        kind: SetAside,
        /// The name that it had.
        id: [u8; ID_LEN],
        /// Its bytes: an object may be set aside more than once, with other damage.
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
    /// Fail with [`std::io::ErrorKind::AlreadyExists`]; of several racing writers exactly one succeeds.
    CreateNew,
    /// Put the new bytes in its place in one step: readers see the old ones or the new ones, whole.
    Replace,
}

/// A place for objects. What has a body here does it one object after the other, for implementations that cannot do better; helpers for callers are in
/// [`BackendExt`].
///
/// Guarantees of every implementation: a write is atomic (an object is there whole or not at all, also after a crash); when `write`
/// returns, the object survives a power cut; a listing started after a write returned has the object (list-after-write consistency).
/// All errors are [`crate::Error::Backend`]; a missing object gives [`std::io::ErrorKind::NotFound`] inside it.
pub trait Backend: Send + Sync + Debug {
    /// A stable, canonical name of this place; with the repository's id it keys the local catalog.
    fn location(&self) -> String;

    /// All objects of one kind, in no particular order. Foreign files (wrong name, temporary) are left out.
    fn list(&self, kind: ObjectKind) -> Result<Box<dyn Iterator<Item = Result<ObjectInfo>> + '_>>;

    /// [`Backend::list`] without the sizes, which may cost a look at each object.
    fn names(&self, kind: ObjectKind) -> Result<Box<dyn Iterator<Item = Result<ObjectKey>> + '_>> {
        Ok(Box::new(self.list(kind)?.map(|info| info.map(|info| info.key))))
    }

    /// The size of one object in bytes, or `None` if it is not there.
    fn stat(&self, key: &ObjectKey) -> Result<Option<u64>>;

    /// The bytes of an object, or of a range of it. A range that reaches past the end is an error of kind
    /// [`std::io::ErrorKind::UnexpectedEof`], never a short answer.
    fn read(&self, key: &ObjectKey, range: Option<Range<u64>>) -> Result<Vec<u8>>;

    /// Stores an object: the parts, one after the other.
    fn write(&self, key: &ObjectKey, parts: &[&[u8]], mode: WriteMode) -> Result<()>;

    /// Stores several objects, and says of each whether it did: with [`WriteMode::CreateNew`] one that is there already stays as it is. After an
    /// error, or a crash in the middle, any of them may be there, whole. What an implementation can do for all at once it does once.
    fn write_all(&self, objects: &[(ObjectKey, Vec<u8>)], mode: WriteMode) -> Result<Vec<bool>> {
        let each = objects.iter().map(|(key, bytes)| match self.write(key, &[bytes], mode) {
            Err(crate::Error::Backend { source, .. }) if source.kind() == std::io::ErrorKind::AlreadyExists => Ok(false),
            written => written.map(|()| true),
        });
        each.collect()
    }

    /// Removes objects; all of them are gone for good when it returns. Removing what is not there is no error. After an error, or a crash in
    /// the middle, any of them may be gone.
    fn delete(&self, keys: &[ObjectKey]) -> Result<()>;

    /// Makes sure that these objects, written by anyone, survive a power cut: one that another process has just put in place may be
    /// visible before its directory entry is on disk. Those that are not there are no error.
    fn settle(&self, keys: &[ObjectKey]) -> Result<()>;

    /// Puts a text for people beside the objects, under this name, unless one is there. It is no object, in no listing, and nothing reads it. A backend that has
    /// no place for one leaves it out.
    fn leave_text(&self, _name: &str, _text: &str) -> Result<()> {
        Ok(())
    }

    /// What writes that have not ended, by killed processes or running ones, have put here so far. No object, and in no listing.
    fn unfinished(&self) -> Result<Unfinished> {
        Ok(Unfinished::default())
    }

    /// Removes what writes have left that began this long ago and that no living process is known to be at, and empty directories. A writer that is
    /// at work all the same writes again.
    fn remove_unfinished(&self, _min_age: Duration) -> Result<Unfinished> {
        Ok(Unfinished::default())
    }
}

/// What writes have left that have not ended.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Unfinished {
    /// Files.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// What callers of a [`Backend`] want besides.
pub trait BackendExt: Backend {
    /// The whole object, or `None` if it is not there. One of more than `len_max` bytes is [`crate::Error::Corrupt`] and is not read.
    fn read_if_there(&self, key: &ObjectKey, len_max: u64) -> Result<Option<Vec<u8>>> {
        let Some(len) = self.stat(key)? else { return Ok(None) };
        if len > len_max {
            return Err(crate::Error::corrupt(key.to_string(), format!("it has {len} bytes, and at most {len_max} are possible")));
        }
        match self.read(key, Some(0..len)) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(crate::Error::Backend { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(other) => Err(other),
        }
    }
}

impl<B: Backend + ?Sized> BackendExt for B {}
