//! Seals and opens objects. The module is pure: every salt and key is passed in.
//!
//! Each object has a sub-key of its own: BLAKE3 `derive_key` over the master key, the object's random salt and the code
//! of its kind. The segments are sealed under it with AES-256-GCM (NIST SP 800-38D). The nonce is the segment number;
//! since no two objects have the same sub-key, no nonce is used twice with a key. Repository id, format version, kind,
//! segment number and the plain header are associated data, so a segment opens in its own place only.

pub mod keyring;
mod locked;

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use zeroize::Zeroizing;

use self::locked::Locked;
use crate::id::{ChunkId, RepositoryId, SourceId, SourceTag};
use crate::store::format::{Cipher, FORMAT_VERSION, Kind, Malformed, ObjectHeader};

/// Context of `derive_key` for sub-keys. The code of the kind is in the key material.
pub const SUB_KEY_CONTEXT: &str = "icecore 2026-11 format 1 object sub-key";
/// Context of `derive_key` for the padding of packs.
pub const PADDING_CONTEXT: &str = "icecore 2026-11 format 1 padding";
/// Context of `derive_key` for the key of chunk ids.
pub const CHUNK_KEY_CONTEXT: &str = "icecore 2026-11 format 1 chunk id key";

/// Context of `derive_key` for the name of the tombstone of a pending record whose writer seems to be dead.
pub const SUSPICION_CONTEXT: &str = "icecore 2026-11 format 1 suspicion";

/// Context of `derive_key` for the key of the local catalog's sums.
pub const CATALOG_CONTEXT: &str = "icecore 2026-11 format 1 catalog sums";

/// Context of `derive_key` for the seed of content-defined cuts.
pub const CHUNKING_SEED_CONTEXT: &str = "icecore 2026-11 format 1 chunking seed";

/// Context of `derive_key` for the key of the tags of sources.
pub const SOURCE_TAG_CONTEXT: &str = "icecore 2026-11 format 1 source tag";

/// The keys of a repository: its secret, and everything that is derived from it. An unencrypted repository has no
/// secret.
pub struct Keys {
    repository: RepositoryId,
    secret: Option<Secret>,
}

/// The keys that stay in memory as long as the repository is open. They are locked, so that they are not written to
/// swap space.
struct Secret {
    master: Locked<32>,
    chunk_key: Locked<32>,
}

impl std::fmt::Debug for Keys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Keys").field("repository", &self.repository).field("encrypted", &self.secret.is_some()).finish()
    }
}

impl Keys {
    /// The keys of an encrypted repository.
    pub fn encrypted(repository: RepositoryId, master: &[u8; 32]) -> Self {
        let chunk_key = Zeroizing::new(blake3::derive_key(CHUNK_KEY_CONTEXT, master));
        let locked = |key: &[u8; 32]| Locked::new(|bytes| bytes.copy_from_slice(key));
        Keys { repository, secret: Some(Secret { master: locked(master), chunk_key: locked(&chunk_key) }) }
    }

    /// The keys of an unencrypted repository: no secret.
    pub fn plain(repository: RepositoryId) -> Self {
        Keys { repository, secret: None }
    }

    /// How objects of this repository are sealed.
    pub fn cipher(&self) -> Cipher {
        match self.secret {
            Some(_) => Cipher::Aes256Gcm,
            None => Cipher::None,
        }
    }

    /// The id of the repository.
    pub fn repository(&self) -> RepositoryId {
        self.repository
    }

    /// The id of a chunk with these plain bytes. In an encrypted repository it is keyed BLAKE3, so that a storage host
    /// cannot test for known content.
    pub fn chunk_id(&self, plain: &[u8]) -> ChunkId {
        match &self.secret {
            Some(secret) => ChunkId(*blake3::keyed_hash(secret.chunk_key.bytes(), plain).as_bytes()),
            None => ChunkId(*blake3::hash(plain).as_bytes()),
        }
    }

    /// The seed of content-defined cuts. Secret in an encrypted repository, 0 in others.
    pub fn chunking_seed(&self) -> u64 {
        let Some(secret) = &self.secret else { return 0 };
        let key = Zeroizing::new(blake3::derive_key(CHUNKING_SEED_CONTEXT, secret.master.bytes()));
        key.first_chunk::<8>().map_or(0, |head| u64::from_le_bytes(*head))
    }

    /// The key for the checksums of the local catalog. Only someone with the passphrase can change the catalog
    /// unnoticed. Zeros in an unencrypted repository.
    pub fn catalog_key(&self) -> Zeroizing<[u8; 32]> {
        Zeroizing::new(self.secret.as_ref().map_or([0; 32], |secret| blake3::derive_key(CATALOG_CONTEXT, secret.master.bytes())))
    }

    /// The tag of a source, which is in the names of its snapshots. In an encrypted repository it is keyed: a storage
    /// host learns which snapshots belong together, but not which source they have.
    pub fn source_tag(&self, source: &SourceId) -> SourceTag {
        let hash = match &self.secret {
            Some(secret) => {
                let key = Zeroizing::new(blake3::derive_key(SOURCE_TAG_CONTEXT, secret.master.bytes()));
                blake3::keyed_hash(&key, source.as_bytes())
            }
            None => blake3::hash(source.as_bytes()),
        };
        let [a, b, c, d, e, f, g, h, ..] = *hash.as_bytes();
        SourceTag([a, b, c, d, e, f, g, h])
    }

    /// The sealer of one object.
    ///
    /// # Errors
    /// If the header names another cipher than that of this repository. Otherwise a storage host could put unsealed
    /// objects into an encrypted repository.
    pub fn sealer(&self, header: &ObjectHeader) -> Result<Sealer, Malformed> {
        if header.cipher != self.cipher() {
            return Err(Malformed::new("it is not sealed like the other objects of this repository"));
        }
        let Some(secret) = &self.secret else { return Ok(Sealer { key: None, noise: None, bound: Vec::new() }) };
        let mut material = Zeroizing::new(Vec::with_capacity(65));
        material.extend_from_slice(secret.master.bytes());
        material.extend_from_slice(&header.salt);
        material.push(header.kind.code());
        let sub_key = Zeroizing::new(blake3::derive_key(SUB_KEY_CONTEXT, &material));
        let noise = Some(Zeroizing::new(blake3::derive_key(PADDING_CONTEXT, &material)));
        Ok(Sealer { key: Some(aead_key(&sub_key)?), noise, bound: bound_bytes(&self.repository, header.kind, &header.encode()) })
    }
}

fn aead_key(key: &[u8; 32]) -> Result<LessSafeKey, Malformed> {
    UnboundKey::new(&AES_256_GCM, key).map(LessSafeKey::new).map_err(|_| Malformed::new("the cipher refused its key"))
}

/// The associated data that is the same for all segments of an object: repository id, format version, kind, header.
fn bound_bytes(repository: &RepositoryId, kind: Kind, header: &[u8]) -> Vec<u8> {
    [&repository.as_bytes()[..], &FORMAT_VERSION.to_le_bytes(), &[kind.code()], header].concat()
}

/// Seals and opens the segments of one object.
pub struct Sealer {
    /// `None` in an unencrypted repository.
    key: Option<LessSafeKey>,
    /// The key of the padding.
    noise: Option<Zeroizing<[u8; 32]>>,
    /// The associated data without the segment number.
    bound: Vec<u8>,
}

impl Sealer {
    /// Seals in place and appends the tag. Each segment number may be used once for an object: it is the nonce.
    pub fn seal(&self, segment: u32, bytes: &mut Vec<u8>) -> Result<(), Malformed> {
        let Some(key) = &self.key else { return Ok(()) };
        key.seal_in_place_append_tag(nonce(segment), Aad::from(self.associated(segment)), bytes)
            .map_err(|_| Malformed::new("the cipher refused to seal"))
    }

    /// Opens in place and cuts off the tag. Fails if any byte was changed, or if the segment is from another place.
    pub fn open(&self, segment: u32, bytes: &mut Vec<u8>) -> Result<(), Malformed> {
        let Some(key) = &self.key else { return Ok(()) };
        let len = key
            .open_in_place(nonce(segment), Aad::from(self.associated(segment)), bytes)
            .map_err(|_| Malformed::new("its seal is broken"))?
            .len();
        bytes.truncate(len);
        Ok(())
    }

    /// Padding for the object. Nobody without the key can tell it from sealed bytes. Zeros in an unencrypted
    /// repository.
    pub fn padding(&self, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        if let Some(noise) = &self.noise {
            blake3::Hasher::new_keyed(noise).finalize_xof().fill(&mut bytes);
        }
        bytes
    }

    /// The associated data of a segment.
    fn associated(&self, segment: u32) -> Vec<u8> {
        [&self.bound[..], &segment.to_le_bytes()].concat()
    }
}

/// The nonce of a segment: its number. That is unique for the key, because each object has a key of its own.
fn nonce(segment: u32) -> Nonce {
    let mut bytes = [0; NONCE_LEN];
    bytes.iter_mut().zip(segment.to_le_bytes()).for_each(|(to, from)| *to = from);
    Nonce::assume_unique_for_key(bytes)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// KiB that this process has locked.
    #[cfg(target_os = "linux")]
    fn locked() -> u64 {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmLck:")).unwrap();
        line.trim().trim_end_matches(" kB").parse().unwrap()
    }

    /// Other tests of this process may have keys, too, so the test does not check that nothing is locked without keys.
    #[cfg(target_os = "linux")]
    #[test]
    fn keys_are_locked_in_memory() {
        let limit = rustix::process::getrlimit(rustix::process::Resource::Memlock).current;
        if limit.is_some_and(|limit| limit < 1 << 20) && !rustix::process::geteuid().is_root() {
            return;
        }
        let keys = Keys::encrypted(RepositoryId([1; 32]), &[7; 32]);
        assert!(locked() >= 8, "{} KiB are locked", locked());
        assert_eq!(keys.chunk_id(b"x").0, *blake3::keyed_hash(&blake3::derive_key(CHUNK_KEY_CONTEXT, &[7; 32]), b"x").as_bytes());
    }
}
