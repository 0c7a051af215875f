//! Records: serde structures as bincode 2 `standard()` bytes: little-endian, varint integers (below 251 one byte; 251, 252, 253 before u16,
//! u32, u64; signed ones zigzag), enum tags as varint u32, `Option` as one byte, no padding. Decoding is limited, must use up its input, and
//! takes only the bytes that encoding the value gives: bincode itself reads a number also in a longer form than it writes.

use bincode::config::standard;
use bincode::enc::write::Writer;
use bincode::error::EncodeError;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{Malformed, RECORD_LEN_MAX};

/// Against its limit bincode counts the memory size of a number, up to 8 bytes, not the stored one, which may be 1.
const CLAIM_FACTOR: usize = 8;
/// Inputs up to these lengths are decoded under limits of their own, so that a short one cannot make the decoder allocate for a long one.
const SHORT: usize = 64 << 10;
const MEDIUM: usize = 2 << 20;

/// The stored bytes of a record.
///
/// # Errors
/// When it is longer than [`RECORD_LEN_MAX`].
pub fn encode<T: Serialize>(record: &T) -> Result<Vec<u8>, Malformed> {
    let bytes =
        bincode::serde::encode_to_vec(record, standard()).map_err(|e| Malformed::new(format!("the record cannot be encoded: {e}")))?;
    match bytes.len() <= RECORD_LEN_MAX {
        true => Ok(bytes),
        false => Err(Malformed::new("the record is too long")),
    }
}

/// The record in `bytes`, which must hold it and nothing else.
pub fn decode<T: Serialize + DeserializeOwned>(bytes: &[u8]) -> Result<T, Malformed> {
    match decode_first(bytes)? {
        (record, []) => Ok(record),
        _ => Err(Malformed::new("something follows the record")),
    }
}

/// The first of several records, and the bytes after it.
pub fn decode_first<T: Serialize + DeserializeOwned>(bytes: &[u8]) -> Result<(T, &[u8]), Malformed> {
    let head = bytes.get(..RECORD_LEN_MAX).unwrap_or(bytes);
    let (record, used) = if head.len() <= SHORT {
        decode_limited::<T, { CLAIM_FACTOR * SHORT }>(head)
    } else if head.len() <= MEDIUM {
        decode_limited::<T, { CLAIM_FACTOR * MEDIUM }>(head)
    } else {
        decode_limited::<T, { CLAIM_FACTOR * RECORD_LEN_MAX }>(head)
    }?;
    let (taken, rest) = bytes.split_at_checked(used).ok_or_else(|| Malformed::new("the record ends too early"))?;
    let mut same = SameBytes { rest: taken };
    bincode::serde::encode_into_writer(&record, &mut same, standard())
        .map_err(|_| Malformed::new("the record is not in its one encoding"))?;
    match same.rest {
        [] => Ok((record, rest)),
        _ => Err(Malformed::new("the record is not in its one encoding")),
    }
}

fn decode_limited<T: DeserializeOwned, const LIMIT: usize>(bytes: &[u8]) -> Result<(T, usize), Malformed> {
    bincode::serde::decode_from_slice(bytes, standard().with_limit::<LIMIT>())
        .map_err(|e| Malformed::new(format!("the record does not decode: {e}")))
}

/// Takes only the bytes that it already has; keeps no copy, as some records hold a key.
struct SameBytes<'a> {
    rest: &'a [u8],
}

impl Writer for SameBytes<'_> {
    fn write(&mut self, bytes: &[u8]) -> Result<(), EncodeError> {
        self.rest = self.rest.strip_prefix(bytes).ok_or(EncodeError::UnexpectedEnd)?;
        Ok(())
    }
}
