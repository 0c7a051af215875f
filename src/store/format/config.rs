//! The configuration of a repository: readable JSON. It is stored twice, with the same bytes.
//!
//! It never changes. Key records hold its hash and a sealed copy, so a storage host cannot change it either. So it is
//! read strictly: any bytes but those that encoding gives are refused.

use serde::{Deserialize, Serialize};

use super::parity::PARITY_PERCENT_MAX;
use super::{Cipher, FORMAT_VERSION, Malformed, record, refuse_other_version};
use crate::id::{RepositoryId, from_hex, to_hex};

/// The longest configuration, in bytes.
pub const CONFIG_LEN_MAX: u64 = 64 << 10;
/// The shortest chunk length that a configuration may ask for, in bytes: the usual SQLite page.
pub const CONFIG_CHUNK_LEN_MIN: u32 = 4 << 10;
/// The longest chunk length that it may ask for, in bytes. Content-defined chunks have up to four times as many:
/// [`super::CHUNK_LEN_MAX`].
pub const CONFIG_CHUNK_LEN_MAX: u32 = 256 << 10;

/// The properties of a repository, which never change. In an encrypted repository the sealed copy in the key records
/// counts, not the file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Config {
    /// A random id, made by `init`.
    pub repository: RepositoryId,
    /// Whether objects are sealed and chunk ids keyed.
    pub encrypted: bool,
    /// Bytes in a chunk of a page file: a power of two from 4 KiB to 256 KiB. A chunk is never smaller than a page.
    pub page_chunk_len: u32,
    /// The length that content-defined chunks aim at, in bytes, within the same bounds. Chunks have from a quarter of
    /// it to four times of it.
    pub content_chunk_len: u32,
    /// Parity of packs in percent, at most [`PARITY_PERCENT_MAX`]; 0 for none. It is not in the bytes of the record. It
    /// is a feature of the file, and key records seal the hash of the file.
    #[serde(skip)]
    pub parity_percent: u8,
}

/// The JSON file. Field order is the stored order.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ConfigFile {
    icecore: u16,
    repository: String,
    cipher: String,
    chunk_ids: String,
    page_chunk_len: u32,
    content_chunk_len: u32,
    features: Vec<String>,
    checksum: String,
}

impl Config {
    /// How this repository's objects are sealed.
    pub fn cipher(&self) -> Cipher {
        match self.encrypted {
            true => Cipher::Aes256Gcm,
            false => Cipher::None,
        }
    }

    /// The stored bytes.
    pub fn encode(&self) -> Result<Vec<u8>, Malformed> {
        let file = ConfigFile {
            icecore: FORMAT_VERSION,
            repository: self.repository.to_string(),
            cipher: cipher_name(self.encrypted).into(),
            chunk_ids: chunk_ids_name(self.encrypted).into(),
            page_chunk_len: self.page_chunk_len,
            content_chunk_len: self.content_chunk_len,
            features: parity_feature(self.parity_percent).into_iter().collect(),
            checksum: self.checksum()?,
        };
        let mut bytes = serde_json::to_vec_pretty(&file).map_err(|e| Malformed::new(e.to_string()))?;
        bytes.push(b'\n');
        Ok(bytes)
    }

    /// Reads the stored bytes.
    pub fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        if bytes.len() as u64 > CONFIG_LEN_MAX {
            return Err(Malformed::new("it is too long"));
        }
        refuse_others(bytes)?;
        let file: ConfigFile =
            serde_json::from_slice(bytes).map_err(|e| Malformed::new(format!("it is not the JSON of a configuration: {e}")))?;
        refuse_other_version(file.icecore)?;
        let encrypted = match file.cipher.as_str() {
            name if name == cipher_name(true) => true,
            name if name == cipher_name(false) => false,
            other => return Err(Malformed::newer(format!("cipher {other:?}"))),
        };
        let id =
            from_hex(&file.repository).and_then(|id| id.try_into().ok()).ok_or_else(|| Malformed::new("the repository id is no id"))?;
        let config = Config {
            repository: RepositoryId(id),
            encrypted,
            page_chunk_len: file.page_chunk_len,
            content_chunk_len: file.content_chunk_len,
            parity_percent: file.features.first().and_then(|name| parity_of(name)).unwrap_or(0),
        };
        if file.checksum != config.checksum()? || file.chunk_ids != chunk_ids_name(encrypted) {
            return Err(Malformed::new("its checksum does not match"));
        }
        let sane = |len: u32| len.is_power_of_two() && (CONFIG_CHUNK_LEN_MIN..=CONFIG_CHUNK_LEN_MAX).contains(&len);
        if !sane(config.page_chunk_len) || !sane(config.content_chunk_len) {
            return Err(Malformed::new("a chunk length is out of bounds"));
        }
        // Key records have the hash of these very bytes, so a file that has lost its line end is refused, too.
        match config.encode()? == bytes {
            true => Ok(config),
            false => Err(Malformed::new("it is not laid out as it was written")),
        }
    }

    /// The checksum in the file, over the bytes of the record and the names of features. So it does not depend on the
    /// layout of the JSON.
    fn checksum(&self) -> Result<String, Malformed> {
        let mut bytes = record::encode(self)?;
        bytes.extend(parity_feature(self.parity_percent).into_iter().flat_map(String::into_bytes));
        Ok(to_hex(blake3::hash(&bytes).as_bytes()))
    }
}

fn cipher_name(encrypted: bool) -> &'static str {
    if encrypted { "aes-256-gcm" } else { "none" }
}

fn chunk_ids_name(encrypted: bool) -> &'static str {
    if encrypted { "keyed blake3" } else { "blake3" }
}

/// The name of the feature that says how much parity there is.
fn parity_feature(percent: u8) -> Option<String> {
    (percent > 0).then(|| format!("parity {percent}%"))
}

/// The percent of parity in the name of a feature; `None` for the name of another feature.
fn parity_of(name: &str) -> Option<u8> {
    (1..=PARITY_PERCENT_MAX).find(|percent| parity_feature(*percent).as_deref() == Some(name))
}

/// Refuses another version, or unknown features, by name. The strict decoder would only say that the JSON is wrong.
fn refuse_others(bytes: &[u8]) -> Result<(), Malformed> {
    let Ok(value) = serde_json::from_slice::<serde_json::Value>(bytes) else { return Ok(()) };
    if let Some(version) = value.get("icecore").and_then(|v| v.as_u64()) {
        refuse_other_version(u16::try_from(version).unwrap_or(u16::MAX))?;
    }
    let features = value.get("features").and_then(|v| v.as_array());
    let is_known = |feature: &&serde_json::Value| feature.as_str().and_then(parity_of).is_some();
    match features.and_then(|features| features.iter().find(|feature| !is_known(feature))) {
        Some(feature) => Err(Malformed::newer(format!("feature {feature}"))),
        None => Ok(()),
    }
}
