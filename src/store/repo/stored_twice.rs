//! Objects that are stored twice: the configuration and the key records. The first replica that decodes is used. Both have checksums, so a
//! replica that decodes is whole.

use crate::error::{Error, Result};
use crate::id::KeyId;
use crate::store::backend::{Backend, BackendExt, ObjectKey, Replica};
use crate::store::format::Malformed;
use crate::store::format::config::{CONFIG_LEN_MAX, Config};
use crate::store::format::key::{KEY_RECORD_LEN_MAX, KeyRecord};

/// The configuration, with its bytes.
pub(super) fn read_config(backend: &dyn Backend) -> Result<(Config, Vec<u8>)> {
    let found = first_whole(backend, &ObjectKey::Config, CONFIG_LEN_MAX, Config::decode)?;
    found.ok_or_else(|| Error::NoRepository { location: backend.location() })
}

/// A key record.
pub(super) fn read_key(backend: &dyn Backend, id: KeyId) -> Result<KeyRecord> {
    let found = first_whole(backend, &|replica| ObjectKey::Key(id, replica), KEY_RECORD_LEN_MAX, KeyRecord::decode)?;
    found.map(|(record, _)| record).ok_or_else(|| Error::NotFound { what: format!("key {id}") })
}

/// The first replica that decodes; `None` if there is none at all.
fn first_whole<T>(
    backend: &dyn Backend,
    key: &dyn Fn(Replica) -> ObjectKey,
    len_max: u64,
    decode: impl Fn(&[u8]) -> Result<T, Malformed>,
) -> Result<Option<(T, Vec<u8>)>> {
    let mut failure = None;
    for key in [Replica::First, Replica::Second].map(key) {
        match backend.read_if_there(&key, len_max) {
            Ok(None) => {}
            Ok(Some(bytes)) => match decode(&bytes) {
                Ok(value) => return Ok(Some((value, bytes))),
                Err(m) => failure = failure.or(Some(m.of(key))),
            },
            // One replica may lie on a bad sector. The other one is still tried.
            Err(error) => failure = failure.or(Some(error)),
        }
    }
    failure.map_or(Ok(None), Err)
}

/// Whether the bytes of a configuration or key record are as they were written, by their checksum.
pub(super) fn is_replica_whole(key: &ObjectKey, bytes: &[u8]) -> bool {
    match key {
        ObjectKey::Config(_) => Config::decode(bytes).is_ok(),
        _ => KeyRecord::decode(bytes).is_ok(),
    }
}
