//! Key records: the master key, wrapped by a passphrase. Each is stored twice, with the same bytes.
//!
//! A record must be read before anything is verified, because the key is in it. So its bounds protect memory and time:
//! nobody who can write into the repository can make opening it take everything.

use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::config::Config;
use super::wire::Input;
use super::{Cipher, HEADER_LEN, Kind, Malformed, ObjectHeader, SALT_LEN};

/// Bytes of a key record before its sealed payload: the header, then memory, passes, lanes and the length of the
/// payload, 4 bytes each.
pub const KEY_PLAIN_LEN: usize = HEADER_LEN + 16;
/// Bytes of the BLAKE3 at the end. It tells damage from a wrong passphrase.
pub const KEY_CHECKSUM_LEN: usize = 32;
/// The longest key record, in bytes.
pub const KEY_RECORD_LEN_MAX: u64 = 64 << 10;

/// The least memory for key derivation that a reader accepts, in KiB (RFC 9106, section 3.1: 8 for each lane).
pub const KDF_MEMORY_KIB_MIN: u32 = 8;
/// The most memory for key derivation that a reader accepts, in KiB.
pub const KDF_MEMORY_KIB_MAX: u32 = 256 << 10;
/// The most passes that a reader accepts.
pub const KDF_PASSES_MAX: u32 = 64;
/// The most lanes that a reader accepts.
pub const KDF_LANES_MAX: u32 = 64;
/// The most work for one key record: memory in KiB times passes. It takes a few seconds.
pub const KDF_WORK_KIB_MAX: u64 = 1 << 20;
/// The most work for all key records that are tried with one passphrase, in the same unit. It takes about half a
/// minute; longer helps nobody.
pub const KDF_WORK_KIB_TOTAL: u64 = 16 << 20;
/// The most key records that are read to open a repository.
pub const KEY_RECORDS_MAX: usize = 1024;

/// The cost of Argon2id (RFC 9106).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KdfCost {
    /// Memory in KiB.
    pub memory_kib: u32,
    /// Passes over the memory.
    pub passes: u32,
    /// Lanes.
    pub lanes: u32,
}

impl KdfCost {
    /// RFC 9106, section 4, second recommended option: 64 MiB, 3 passes, 4 lanes.
    pub const DEFAULT: KdfCost = KdfCost { memory_kib: 64 << 10, passes: 3, lanes: 4 };

    /// How much memory is filled in all passes, in KiB. The time is about proportional to it.
    pub fn work_kib(&self) -> u64 {
        u64::from(self.memory_kib) * u64::from(self.passes)
    }

    /// Refuses costs that no reader accepts. A hostile record must not take all memory or time.
    ///
    /// # Errors
    /// [`Malformed`], with the costs and the bounds.
    pub fn verify(&self) -> Result<(), Malformed> {
        let KdfCost { memory_kib, passes, lanes } = *self;
        let lanes_fit = (1..=KDF_LANES_MAX).contains(&lanes) && memory_kib >= KDF_MEMORY_KIB_MIN.saturating_mul(lanes);
        let is_sane = memory_kib <= KDF_MEMORY_KIB_MAX && (1..=KDF_PASSES_MAX).contains(&passes) && self.work_kib() <= KDF_WORK_KIB_MAX;
        match lanes_fit && is_sane {
            true => Ok(()),
            false => Err(Malformed::new(format!(
                "its key derivation asks for {memory_kib} KiB, {passes} passes and {lanes} lanes, which is out of bounds: at most \
                 {KDF_MEMORY_KIB_MAX} KiB, {KDF_PASSES_MAX} passes, {KDF_LANES_MAX} lanes of 8 KiB or more, and {KDF_WORK_KIB_MAX} KiB in all passes"
            ))),
        }
    }
}

/// A key record as stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyRecord {
    /// The salt of the key derivation.
    pub salt: [u8; SALT_LEN],
    /// The cost of the key derivation.
    pub cost: KdfCost,
    /// A sealed [`KeyPayload`].
    pub sealed: Vec<u8>,
}

/// The content that a key record seals.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyPayload {
    /// The master key.
    pub master: [u8; 32],
    /// BLAKE3 of the stored bytes of the configuration.
    pub config_hash: [u8; 32],
    /// The configuration. In an encrypted repository this copy counts.
    pub config: Config,
}

impl Drop for KeyPayload {
    fn drop(&mut self) {
        zeroize::Zeroize::zeroize(&mut self.master);
    }
}

impl KeyPayload {
    /// The bytes of the record. They are wiped when dropped.
    pub fn encode(&self) -> Result<Zeroizing<Vec<u8>>, Malformed> {
        super::record::encode(self).map(Zeroizing::new)
    }
}

impl KeyRecord {
    /// The bytes before the sealed payload. They are its associated data, so none of them can be changed.
    pub fn plain_part(&self) -> Vec<u8> {
        let header = ObjectHeader { kind: Kind::Key, cipher: Cipher::Aes256Gcm, salt: self.salt };
        let mut bytes = header.encode().to_vec();
        // A payload has some hundred bytes, so the cast of its length keeps the value.
        for number in [self.cost.memory_kib, self.cost.passes, self.cost.lanes, self.sealed.len() as u32] {
            bytes.extend_from_slice(&number.to_le_bytes());
        }
        bytes
    }

    /// The stored bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = self.plain_part();
        bytes.extend_from_slice(&self.sealed);
        let checksum = blake3::hash(&bytes);
        bytes.extend_from_slice(checksum.as_bytes());
        bytes
    }

    /// Reads the stored bytes.
    pub fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        if bytes.len() as u64 > KEY_RECORD_LEN_MAX {
            return Err(Malformed::new("it is too long"));
        }
        let header = ObjectHeader::decode(bytes, Kind::Key)?;
        if header.cipher != Cipher::Aes256Gcm {
            return Err(Malformed::new("the key in it is not encrypted"));
        }
        let body_len = bytes.len().checked_sub(KEY_CHECKSUM_LEN).ok_or_else(|| Malformed::new("it ends too early"))?;
        let mut input = Input::new(bytes);
        let body = input.bytes(body_len)?;
        // Before anything of the body is believed: damage must be reported as such, and not as a wrong passphrase.
        if blake3::hash(body).as_bytes() != input.rest() {
            return Err(Malformed::new("its checksum does not match"));
        }
        let mut input = Input::new(body);
        input.bytes(HEADER_LEN)?;
        let cost = KdfCost { memory_kib: input.u32()?, passes: input.u32()?, lanes: input.u32()? };
        cost.verify()?;
        let sealed_len = input.u32()? as usize;
        let sealed = input.bytes(sealed_len)?.to_vec();
        input.end()?;
        Ok(KeyRecord { salt: header.salt, cost, sealed })
    }
}
