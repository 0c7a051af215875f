//! Records: serde structures as bytes of bincode 2 `standard()`. That is little-endian, with varint integers (one byte
//! below 251; 251, 252, 253 before u16, u32, u64; signed ones as zigzag), enum tags as varint u32, `Option` as one
//! byte, and no padding.
//!
//! Decoding has a limit, must use all of its input, and accepts only the bytes that encoding the value gives. (bincode
//! itself also reads a number in a longer form than it writes.)

use bincode::config::standard;
use bincode::enc::write::Writer;
use bincode::error::EncodeError;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{Malformed, RECORD_LEN_MAX};

/// bincode counts the size of a number in memory (up to 8 bytes) against its limit, and not its stored size (1 byte or
/// more). So limits are so many times the length of the input.
const CLAIM_FACTOR: usize = 8;
/// Inputs up to these lengths have limits of their own, so that a short input cannot make the decoder allocate as much
/// as a long one.
const SHORT: usize = 64 << 10;
const MEDIUM: usize = 2 << 20;

/// The stored bytes of a record.
///
/// # Errors
/// If they are longer than [`RECORD_LEN_MAX`].
pub fn encode<T: Serialize>(record: &T) -> Result<Vec<u8>, Malformed> {
    let bytes =
        bincode::serde::encode_to_vec(record, standard()).map_err(|e| Malformed::new(format!("the record cannot be encoded: {e}")))?;
    match bytes.len() <= RECORD_LEN_MAX {
        true => Ok(bytes),
        false => Err(Malformed::new("the record is too long")),
    }
}

/// The record in `bytes`. Nothing may follow it.
pub fn decode<T: Serialize + DeserializeOwned>(bytes: &[u8]) -> Result<T, Malformed> {
    match decode_first(bytes)? {
        (record, []) => Ok(record),
        _ => Err(Malformed::new("something follows the record")),
    }
}

/// The first of several records, and the bytes after it.
pub fn decode_first<T: Serialize + DeserializeOwned>(bytes: &[u8]) -> Result<(T, &[u8]), Malformed> {
    let head = bytes.get(..RECORD_LEN_MAX).unwrap_or(bytes);
    // bincode takes its limit as a constant, so there is one call for each.
    let (record, used) = if head.len() <= SHORT {
        decode_limited::<T, { CLAIM_FACTOR * SHORT }>(head)
    } else if head.len() <= MEDIUM {
        decode_limited::<T, { CLAIM_FACTOR * MEDIUM }>(head)
    } else {
        decode_limited::<T, { CLAIM_FACTOR * RECORD_LEN_MAX }>(head)
    }?;
    let (taken, rest) = bytes.split_at_checked(used).ok_or_else(|| Malformed::new("the record ends too early"))?;
    // Encoded again and compared: a record in another form would have another name, and could be stored twice.
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

/// A writer that compares bytes with those that it has. It keeps no copy, because some records hold a key.
struct SameBytes<'a> {
    rest: &'a [u8],
}

impl Writer for SameBytes<'_> {
    fn write(&mut self, bytes: &[u8]) -> Result<(), EncodeError> {
        self.rest = self.rest.strip_prefix(bytes).ok_or(EncodeError::UnexpectedEnd)?;
        Ok(())
    }
}
