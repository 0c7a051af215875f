//! Wraps the master key with a passphrase, and unwraps it. A wrong passphrase and a damaged record are told apart by
//! the checksum in the record (`format/key.rs`), not here.

use argon2::{Algorithm, Argon2, Block, Params, Version};
use zeroize::Zeroizing;

use super::{aead_key, bound_bytes, nonce};
use crate::id::RepositoryId;
use crate::store::format::key::{KdfCost, KeyPayload, KeyRecord};
use crate::store::format::{Cipher, Kind, Malformed, SALT_LEN, record};

use aws_lc_rs::aead::Aad;

/// The key record from which `passphrase` gives `payload`. `salt` must be fresh random bytes.
pub fn wrap(
    repository: &RepositoryId,
    payload: &KeyPayload,
    passphrase: &[u8],
    salt: [u8; SALT_LEN],
    cost: KdfCost,
) -> Result<KeyRecord, Malformed> {
    let mut sealed = payload.encode()?.to_vec();
    let key = aead_key(&*derive(passphrase, &salt, cost)?)?;
    // The associated data has the length of the sealed payload, so the record needs that length before the payload is
    // sealed.
    let sealed_len = sealed.len() + Cipher::Aes256Gcm.overhead();
    let mut key_record = KeyRecord { salt, cost, sealed: vec![0; sealed_len] };
    let bound = bound_bytes(repository, Kind::Key, &key_record.plain_part());
    key.seal_in_place_append_tag(nonce(0), Aad::from(bound), &mut sealed).map_err(|_| Malformed::new("the cipher refused to seal"))?;
    key_record.sealed = sealed;
    Ok(key_record)
}

/// Opens a key record. `None` if it was wrapped with another passphrase.
pub fn unwrap(repository: &RepositoryId, key_record: &KeyRecord, passphrase: &[u8]) -> Result<Option<KeyPayload>, Malformed> {
    let key = aead_key(&*derive(passphrase, &key_record.salt, key_record.cost)?)?;
    let bound = bound_bytes(repository, Kind::Key, &key_record.plain_part());
    let mut bytes = Zeroizing::new(key_record.sealed.clone());
    let Ok(plain) = key.open_in_place(nonce(0), Aad::from(bound), &mut bytes) else { return Ok(None) };
    record::decode(plain).map(Some)
}

/// Derives a key by Argon2id (RFC 9106), version 0x13. The cost is checked first, because it may come from a record
/// that nobody has verified.
fn derive(passphrase: &[u8], salt: &[u8], cost: KdfCost) -> Result<Zeroizing<[u8; 32]>, Malformed> {
    cost.verify()?;
    let malformed = |e: argon2::Error| Malformed::new(format!("the key derivation refused its parameters: {e}"));
    let params = Params::new(cost.memory_kib, cost.passes, cost.lanes, Some(32)).map_err(malformed)?;
    let mut blocks: Vec<Block> = Vec::new();
    // Reserved here, so that too little memory is an error. The library would end the process.
    let no_memory =
        |_| Malformed::new(format!("its key derivation needs {} KiB of memory, and the system does not give that much", cost.memory_kib));
    blocks.try_reserve_exact(params.block_count()).map_err(no_memory)?;
    blocks.resize(params.block_count(), Block::default());
    let mut key = Zeroizing::new([0; 32]);
    let argon2 = Argon2::new(Algorithm::Argon2id, Version::V0x13, params);
    argon2.hash_password_into_with_memory(passphrase, salt, &mut key[..], blocks.as_mut_slice()).map_err(malformed)?;
    Ok(key)
}
