//! Encodes and decodes every stored byte, and holds all limits and magics. `store-format.md` says the same in words and
//! tables, and `tests/library/format` compares the two.
//!
//! Decoders trust nothing: every length is bounded before memory is taken, and every value has exactly one encoding, so
//! bytes that decode are the bytes that were written. A decoder says what is wrong ([`Malformed`]); the caller adds
//! which object it is.

pub mod config;
pub mod key;
pub mod log;
pub mod mark;
pub mod node;
pub mod pack;
pub mod parity;
pub mod record;
pub mod snapshot;
pub mod tombstone;
pub mod wire;

use std::fmt::Display;

use crate::error::Error;

// Casts between `u32`, `usize` and `u64` in `store/format`, `store/codec` and `store/chunker` only widen, where nothing
// else is said beside them. This proves that widening keeps every value.
const _: () = assert!(usize::BITS >= u32::BITS && usize::BITS <= u64::BITS);

/// The format version that this program writes and reads.
pub const FORMAT_VERSION: u16 = 2;
/// Versions that are not read any more, each with the release of icecore that reads it.
const FORMER_VERSIONS: [(u16, &str); 1] = [(1, "0.1")];

/// Bytes in an [`ObjectHeader`].
pub const HEADER_LEN: usize = 48;
/// Bytes in a salt. It is drawn at random for every object, so that no sub-key and no name is ever used twice.
pub const SALT_LEN: usize = 32;
/// Bytes that sealing adds to a segment: the tag of AES-256-GCM (NIST SP 800-38D).
pub const TAG_LEN: usize = 16;

/// The longest chunk, in plain bytes. It bounds every buffer for decoding.
pub const CHUNK_LEN_MAX: u32 = 1 << 20;
/// The longest segment that a reader accepts, in plain bytes.
pub const SEGMENT_LEN_MAX: u32 = 2 << 20;
/// The longest frame, in plain bytes. A frame is decoded as a whole; it has one chunk or several neighbours.
pub const FRAME_LEN_MAX: u32 = 1 << 20;
/// A writer closes a frame of whole chunks at this many plain bytes. Neighbours are compressed together, and reading
/// one chunk decodes all of them.
pub const WHOLE_FRAME_TARGET: usize = 512 << 10;
/// A writer closes a segment of whole chunks at this many bytes.
pub const WHOLE_SEGMENT_TARGET: usize = 1 << 20;
/// A writer closes a segment of deltas and nodes at this many bytes. These are read one by one, and a segment is read
/// as a whole.
pub const DELTA_SEGMENT_TARGET: usize = 64 << 10;
/// The longest pack that a reader accepts, in bytes.
pub const PACK_LEN_MAX: u64 = 1 << 30;
/// A writer closes a pack at this many bytes: large enough for one cheap request, small enough to hold three of them in
/// memory.
pub const PACK_TARGET: usize = 8 << 20;
/// The longest pack trailer, in bytes.
pub const TRAILER_LEN_MAX: u32 = 64 << 20;
/// The most chunks in one pack. A pack of [`PACK_TARGET`] bytes with deltas of 60 bytes stays below it.
pub const PACK_CHUNKS_MAX: u32 = 1 << 20;
/// The most slices in a delta's prefix.
pub const SLICES_MAX: usize = 64;
/// The most different chunks among a delta's slices.
pub const BASES_MAX: usize = 32;
/// The longest prefix of a delta, in bytes.
pub const PREFIX_LEN_MAX: usize = 512 << 10;
/// The highest level that a writer gives a frame. A chunk that would exceed it gets an older base, or none.
pub const LEVEL_WRITE_MAX: u8 = 64;
/// The highest level that a reader accepts.
pub const LEVEL_READ_MAX: u8 = 128;
/// The most work that a writer gives a frame, in frames to be decoded. A chunk that would exceed it gets an older base, or none.
pub const WORK_WRITE_MAX: u32 = 128;
/// The most work that a reader accepts. It leaves room for later writers with wider bounds.
pub const WORK_READ_MAX: u32 = 1024;
/// The most children of a node that a reader accepts.
pub const NODE_CHILDREN_MAX: usize = 1024;
/// The children that a writer gives a node. 128 ids are 4 KiB.
pub const NODE_FANOUT: usize = 128;
/// The most levels of a tree: with 128 children each, 7 levels hold any stream of 2^63 bytes.
pub const TREE_LEVELS_MAX: u8 = 16;
/// The longest record (snapshot, key payload), in bytes.
pub const RECORD_LEN_MAX: usize = 64 << 20;

/// The kind of an object. Its magic is the first 8 bytes of the object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// A pack.
    Pack,
    /// A snapshot record, pending or committed.
    Snapshot,
    /// A key record.
    Key,
    /// A tombstone.
    Tombstone,
    /// A mark on a snapshot.
    Mark,
    /// The record that stays of a forgotten snapshot.
    Forgotten,
    /// An entry of the journal.
    Log,
}

impl Kind {
    /// All kinds.
    pub const ALL: [Kind; 7] = [Kind::Pack, Kind::Snapshot, Kind::Key, Kind::Tombstone, Kind::Mark, Kind::Forgotten, Kind::Log];

    /// The first 8 bytes of the object. The first one is not ASCII and the last one ends a line, so a text file is
    /// never taken for an object.
    pub fn magic(self) -> [u8; 8] {
        match self {
            Kind::Pack => *b"\xCEicePAK\n",
            Kind::Snapshot => *b"\xCEiceSNP\n",
            Kind::Key => *b"\xCEiceKEY\n",
            Kind::Tombstone => *b"\xCEiceTMB\n",
            Kind::Mark => *b"\xCEiceMRK\n",
            Kind::Forgotten => *b"\xCEiceFGT\n",
            Kind::Log => *b"\xCEiceLOG\n",
        }
    }

    /// The number that stands for this kind in associated data and in key derivation.
    pub fn code(self) -> u8 {
        match self {
            Kind::Pack => 1,
            Kind::Snapshot => 2,
            Kind::Key => 3,
            Kind::Tombstone => 4,
            Kind::Mark => 5,
            Kind::Forgotten => 6,
            Kind::Log => 7,
        }
    }
}

/// How segments and records are sealed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Cipher {
    /// They are not sealed: anyone who can read the repository can read the data.
    None,
    /// AES-256-GCM with a sub-key for each object and the segment number as nonce.
    Aes256Gcm,
}

impl Cipher {
    /// The number in headers.
    pub fn code(self) -> u8 {
        match self {
            Cipher::None => 0,
            Cipher::Aes256Gcm => 1,
        }
    }

    /// The cipher with this number.
    pub fn from_code(code: u8) -> Option<Self> {
        [Cipher::None, Cipher::Aes256Gcm].into_iter().find(|cipher| cipher.code() == code)
    }

    /// Bytes that sealing adds.
    pub fn overhead(self) -> usize {
        match self {
            Cipher::None => 0,
            Cipher::Aes256Gcm => TAG_LEN,
        }
    }
}

/// The header of every pack and record. It is not sealed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ObjectHeader {
    /// The kind of object.
    pub kind: Kind,
    /// How the rest of it is sealed.
    pub cipher: Cipher,
    /// Makes the sub-key and the name of the object unique.
    pub salt: [u8; SALT_LEN],
}

impl ObjectHeader {
    /// The stored bytes.
    pub fn encode(&self) -> [u8; HEADER_LEN] {
        let mut bytes = [0; HEADER_LEN];
        let (fixed, salt) = bytes.split_at_mut(HEADER_LEN - SALT_LEN);
        salt.copy_from_slice(&self.salt);
        let fields = [&self.kind.magic()[..], &FORMAT_VERSION.to_le_bytes(), &[self.cipher.code(), 0], &0u32.to_le_bytes()].concat();
        fixed.copy_from_slice(&fields);
        bytes
    }

    /// Reads the header at the start of `bytes`. Refuses an object of another kind or version, or with unknown
    /// features.
    pub fn decode(bytes: &[u8], kind: Kind) -> Result<Self, Malformed> {
        let mut input = wire::Input::new(bytes);
        if input.array::<8>()? != kind.magic() {
            return Err(Malformed::new("the magic at its start is wrong"));
        }
        let version = input.u16()?;
        refuse_other_version(version)?;
        let cipher = input.u8()?;
        let cipher = Cipher::from_code(cipher).ok_or_else(|| Malformed::newer(format!("cipher {cipher}")))?;
        if input.u8()? != 0 {
            return Err(Malformed::new("a reserved byte of the header is not zero"));
        }
        let features = input.u32()?;
        if features != 0 {
            return Err(Malformed::newer(format!("feature flags {features:#x}")));
        }
        Ok(ObjectHeader { kind, cipher, salt: input.array()? })
    }
}

/// Refuses another format version. The error names the release that reads it.
fn refuse_other_version(version: u16) -> Result<(), Malformed> {
    let former = FORMER_VERSIONS.iter().find(|(former, _)| *former == version);
    match former {
        _ if version == FORMAT_VERSION => Ok(()),
        Some((_, release)) => Err(Malformed::unsupported(format!(
            "icecore {release}: format version {version}, and this icecore reads version {FORMAT_VERSION}"
        ))),
        None if version > FORMAT_VERSION => Err(Malformed::newer(format!("format version {version}"))),
        None => Err(Malformed::new(format!("there is no format version {version}"))),
    }
}

/// Why bytes do not decode. The layer above knows the object that they come from, and makes an [`Error`] of it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{detail}")]
pub struct Malformed {
    detail: String,
    is_unsupported: bool,
}

impl Malformed {
    /// The bytes break a rule of the format.
    pub fn new(detail: impl Into<String>) -> Self {
        Malformed { detail: detail.into(), is_unsupported: false }
    }

    /// The bytes need something that this version does not know.
    pub fn newer(detail: impl Display) -> Self {
        Malformed::unsupported(format!("a newer icecore: {detail}"))
    }

    /// The bytes have a format that another version of icecore reads.
    fn unsupported(detail: String) -> Self {
        Malformed { detail, is_unsupported: true }
    }

    /// What is wrong, without the name of the object.
    pub fn detail(&self) -> &str {
        &self.detail
    }

    /// The error for the caller, with the object's name.
    pub fn of(self, object: impl Display) -> Error {
        let object = object.to_string();
        match self.is_unsupported {
            true => Error::UnsupportedFormat { object, detail: self.detail },
            false => Error::Corrupt { object, detail: self.detail },
        }
    }
}
