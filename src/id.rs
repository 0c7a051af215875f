//! Typed identifiers, so that an id of one kind cannot be used as another. All but the tag of a source have 32 bytes
//! and print as 64 lower-case hex digits.

use std::fmt;
use std::str::FromStr;

use data_encoding::HEXLOWER;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Length of an identifier in bytes.
pub const ID_LEN: usize = 32;

/// Bytes as lower-case hex digits.
pub fn to_hex(bytes: &[u8]) -> String {
    HEXLOWER.encode(bytes)
}

/// `BYTES` random bytes as hex digits: for a unique name or a password.
///
/// # Errors
/// If the system gives no random bytes.
pub fn random_hex<const BYTES: usize>() -> std::io::Result<String> {
    let mut random = [0; BYTES];
    getrandom::fill(&mut random).map_err(|e| std::io::Error::other(e.to_string()))?;
    Ok(to_hex(&random))
}

/// The bytes of lower-case hex digits. `None` for anything else. Upper case is refused, so that a name has only one
/// spelling.
pub fn from_hex(text: &str) -> Option<Vec<u8>> {
    HEXLOWER.decode(text.as_bytes()).ok()
}

macro_rules! define_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub [u8; ID_LEN]);

        impl $name {
            /// The bytes.
            pub fn as_bytes(&self) -> &[u8; ID_LEN] {
                &self.0
            }

            /// The first 12 hex digits, for messages.
            pub fn short(&self) -> String {
                let mut hex = to_hex(&self.0);
                hex.truncate(12);
                hex
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&to_hex(&self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({})", stringify!($name), self.short())
            }
        }

        /// As bytes in records, as hex digits in JSON.
        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                if serializer.is_human_readable() { serializer.collect_str(self) } else { self.0.serialize(serializer) }
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                match deserializer.is_human_readable() {
                    true => String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom),
                    false => Deserialize::deserialize(deserializer).map($name),
                }
            }
        }

        impl FromStr for $name {
            type Err = ParseIdError;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                from_hex(text).and_then(|bytes| bytes.try_into().ok()).map($name).ok_or(ParseIdError)
            }
        }
    };
}

/// The text is not 64 lower-case hex digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not an id: 64 lower-case hex digits are needed")]
pub struct ParseIdError;

define_id!(
    /// A piece of a stream, or a tree node: BLAKE3 of its plain bytes, keyed in encrypted repositories.
    ChunkId
);
define_id!(
    /// A pack: BLAKE3 of its stored bytes.
    PackId
);
define_id!(
    /// A snapshot: BLAKE3 of its stored record.
    SnapshotId
);
define_id!(
    /// A mark on a snapshot: BLAKE3 of its stored record.
    MarkId
);
define_id!(
    /// An entry of the journal: BLAKE3 of its stored record.
    LogId
);
define_id!(
    /// A key record: random.
    KeyId
);
define_id!(
    /// A repository: random, made by `init`.
    RepositoryId
);
define_id!(
    /// An object that was set aside: BLAKE3 of its bytes, which may not fit the object's own name.
    ContentId
);
define_id!(
    /// A source: BLAKE3 of its identity.
    SourceId
);

/// Bytes in the tag of a source.
const TAG_LEN: usize = 8;

/// A short form of a source in the names of its snapshots. It is computed from the identity, with a key in encrypted
/// repositories. Prints as 16 lower-case hex digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SourceTag(pub [u8; TAG_LEN]);

impl fmt::Display for SourceTag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&to_hex(&self.0))
    }
}

/// The text is not 16 lower-case hex digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not the tag of a source: 16 lower-case hex digits are needed")]
pub struct ParseTagError;

impl FromStr for SourceTag {
    type Err = ParseTagError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        from_hex(text).and_then(|bytes| bytes.try_into().ok()).map(SourceTag).ok_or(ParseTagError)
    }
}

#[cfg(test)]
mod tests {
    use super::SnapshotId;

    #[test]
    fn an_id_is_digits_in_json_and_bytes_in_records() {
        let id = SnapshotId([0xab; 32]);
        let text = serde_json::to_string(&id).unwrap_or_default();
        assert_eq!(text, format!("\"{id}\""));
        assert_eq!(serde_json::from_str::<SnapshotId>(&text).ok(), Some(id));
        assert!(serde_json::from_str::<SnapshotId>("\"AB\"").is_err());
        let config = bincode::config::standard();
        let bytes = bincode::serde::encode_to_vec(id, config).unwrap_or_default();
        assert_eq!(bytes, [0xab; 32]);
        assert_eq!(bincode::serde::decode_from_slice::<SnapshotId, _>(&bytes, config).ok(), Some((id, 32)));
    }
}
