//! Records: serde structures as bincode 2 `standard()` bytes: little-endian, varint integers (below 251 one byte; 251, 252, 253 before u16,
//! u32, u64; signed ones zigzag), enum tags as varint u32, `Option` as one byte, no padding. Decoding is limited and must use up its input.

use bincode::config::{Configuration, Limit, standard};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{Malformed, RECORD_LEN_MAX};

fn configuration() -> Configuration<bincode::config::LittleEndian, bincode::config::Varint, Limit<RECORD_LEN_MAX>> {
    standard().with_limit::<RECORD_LEN_MAX>()
}

/// The stored bytes of a record.
///
/// # Errors
/// When it is longer than [`RECORD_LEN_MAX`].
pub fn encode<T: Serialize>(record: &T) -> Result<Vec<u8>, Malformed> {
    let bytes =
        bincode::serde::encode_to_vec(record, configuration()).map_err(|e| Malformed::new(format!("the record cannot be encoded: {e}")))?;
    match bytes.len() <= RECORD_LEN_MAX {
        true => Ok(bytes),
        false => Err(Malformed::new("the record is too long")),
    }
}

/// The record in `bytes`, which must hold it and nothing else.
pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Malformed> {
    match decode_first(bytes)? {
        (record, []) => Ok(record),
        _ => Err(Malformed::new("something follows the record")),
    }
}

/// The first of several records, and the bytes after it.
pub fn decode_first<T: DeserializeOwned>(bytes: &[u8]) -> Result<(T, &[u8]), Malformed> {
    let (record, used) = bincode::serde::decode_from_slice(bytes, configuration())
        .map_err(|e| Malformed::new(format!("the record does not decode: {e}")))?;
    let rest = bytes.get(used..).ok_or_else(|| Malformed::new("the record ends too early"))?;
    Ok((record, rest))
}
