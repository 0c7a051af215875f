//! Making and opening repositories.
//!
//! Making one ends with writing the configuration; until then there is no repository, and `init` can be run again. Opening one verifies that it is
//! the repository that this machine knows at this place, and that its configuration is the one that the key was made for.

use std::io::ErrorKind;
use std::path::PathBuf;
use std::sync::{Arc, RwLock};
use std::time::{Duration, Instant};

use zeroize::Zeroizing;

use super::heal::Healed;
use super::private::LocalCatalog;
use super::seen::{Memory, Seen, Trust};
use super::stored_twice::{read_config, read_key};
use super::{Inner, Repository, random_salt};
use crate::error::{Error, Result};
use crate::id::{KeyId, RepositoryId};
use crate::store::backend::{Backend, BackendExt, FORMAT_PAGE_NAME, ObjectKey, ObjectKind, Replica, WriteMode};
use crate::store::crypto::{Keys, keyring};
use crate::store::format::Malformed;
use crate::store::format::config::{CONFIG_LEN_MAX, Config};
use crate::store::format::key::{KDF_WORK_KIB_TOTAL, KEY_RECORDS_MAX, KdfCost, KeyPayload};
use crate::store::format::parity::PARITY_PERCENT_MAX;

/// Bytes in a chunk of a page file, for new repositories: see the table in benches/RESULTS.md.
const PAGE_CHUNK_LEN: u32 = 64 << 10;
/// Aimed-at bytes in a content-defined chunk, for new repositories.
const CONTENT_CHUNK_LEN: u32 = 64 << 10;

/// The page that says how a repository is read without icecore.
const FORMAT_PAGE: &str = include_str!("../../../store-format.md");

/// How to make a repository.
pub struct InitOptions {
    /// The passphrase; `None` makes an unencrypted repository.
    pub passphrase: Option<Zeroizing<String>>,
    /// The cost of deriving the key from the passphrase.
    pub cost: KdfCost,
    /// Parity of packs in percent, up to [`PARITY_PERCENT_MAX`]; 0 for none. With parity, each record gets a replica, too.
    pub parity_percent: u8,
}

/// How to open a repository.
pub struct OpenOptions<'a> {
    /// Gives the passphrase. It is called only if the repository is encrypted.
    pub passphrase: &'a dyn Fn() -> Result<Zeroizing<String>>,
    /// The directory of the local catalogs.
    pub cache_dir: PathBuf,
    /// How many threads work for one operation.
    pub threads: usize,
    /// Conditions under which the repository is opened.
    pub trust: Trust<'a>,
}

impl Repository {
    /// Makes a repository in an empty backend and returns its id.
    pub fn init(backend: &dyn Backend, options: &InitOptions) -> Result<RepositoryId> {
        if options.parity_percent > PARITY_PERCENT_MAX {
            return Err(Error::InvalidArgument(format!("parity of more than {PARITY_PERCENT_MAX} % is not possible")));
        }
        for replica in [Replica::First, Replica::Second] {
            if backend.stat(&ObjectKey::Config(replica))?.is_some() {
                return Err(taken(backend));
            }
        }
        refuse_remains(backend)?;
        // So that a person who finds the disk in twenty years can read it.
        backend.leave_text(FORMAT_PAGE_NAME, FORMAT_PAGE)?;
        let config = Config {
            repository: RepositoryId(random_salt()?),
            encrypted: options.passphrase.is_some(),
            page_chunk_len: PAGE_CHUNK_LEN,
            content_chunk_len: CONTENT_CHUNK_LEN,
            parity_percent: options.parity_percent,
        };
        let malformed = |m: Malformed| m.of("the new configuration");
        let config_bytes = config.encode().map_err(malformed)?;
        let mut own = None;
        if let Some(passphrase) = &options.passphrase {
            let payload =
                KeyPayload { master: random_salt()?, config_hash: *blake3::hash(&config_bytes).as_bytes(), config: config.clone() };
            let wrapped =
                keyring::wrap(&config.repository, &payload, passphrase.as_bytes(), random_salt()?, options.cost).map_err(malformed)?;
            // The key record is durable before there is a configuration: a repository whose key was lost could never be read.
            let (id, bytes) = (KeyId(random_salt()?), wrapped.encode());
            backend.write(&ObjectKey::Key(id, Replica::Second), &[&bytes], WriteMode::CreateNew)?;
            backend.write(&ObjectKey::Key(id, Replica::First), &[&bytes], WriteMode::CreateNew)?;
            own = Some(id);
        }
        // The configuration comes last. Until it is there, there is no repository, and init can be run again. Several may run at once: the one that
        // first writes the second replica makes the repository. No other key record is touched before that, because it may be the winner's.
        let second = ObjectKey::Config(Replica::Second);
        match backend.write(&second, &[&config_bytes], WriteMode::CreateNew) {
            Err(Error::Backend { source, .. }) if source.kind() == ErrorKind::AlreadyExists => {
                // If the answer to a write was lost and it was sent again, it finds its own bytes. Then this init has won.
                if backend.read_if_there(&second, CONFIG_LEN_MAX)?.as_ref() != Some(&config_bytes) {
                    let keys: Vec<ObjectKey> = own.into_iter().flat_map(both_replicas).collect();
                    backend.delete(&keys)?;
                    return Err(taken(backend));
                }
            }
            written => written?,
        }
        // From here on no other init can win. Key records of inits that were interrupted or came too late open nothing, so they go.
        remove_other_keys(backend, own)?;
        backend.write(&ObjectKey::Config(Replica::First), &[&config_bytes], WriteMode::CreateNew)?;
        Ok(config.repository)
    }

    /// Opens a repository.
    ///
    /// # Errors
    /// [`Error::NoRepository`], [`Error::WrongPassphrase`], [`Error::UnsupportedFormat`]; [`Error::Corrupt`] if both replicas of the
    /// configuration or of every key record are damaged; [`Error::Refused`] if this machine has seen another repository at this location,
    /// or if the repository is not encrypted and should be.
    pub fn open(backend: Arc<dyn Backend>, options: &OpenOptions<'_>) -> Result<Self> {
        let (config, config_bytes) = read_config(&*backend)?;
        let found = Seen::new(config.repository, config.encrypted);
        let memory = Memory::of(&options.cache_dir, &backend.location());
        // Before the passphrase is asked for: a repository that someone put in the place of another one must not get it.
        memory.allow(&found, &options.trust)?;
        let mut key_derivation = Duration::ZERO;
        let (config, keys) = match config.encrypted {
            false => {
                let keys = Keys::plain(config.repository);
                refuse_stripped(&*backend)?;
                (config, keys)
            }
            true => {
                let passphrase = (options.passphrase)()?;
                let started = Instant::now();
                let payload = unlock(&*backend, &config, &config_bytes, passphrase.as_bytes())?;
                key_derivation = started.elapsed();
                (payload.config.clone(), Keys::encrypted(payload.config.repository, &payload.master))
            }
        };
        memory.add(found);
        let local = LocalCatalog::open(&options.cache_dir, &keys, &backend.location())?;
        let threads = options.threads.max(1);
        let cache_dir = options.cache_dir.clone();
        let local = RwLock::new(Arc::new(local));
        let inner = Inner { backend, config, keys, local, cache_dir, threads, key_derivation, healed: Healed::default() };
        Ok(Repository { inner: Arc::new(inner) })
    }
}

fn taken(backend: &dyn Backend) -> Error {
    Error::InvalidArgument(format!("{} holds a repository already", backend.location()))
}

fn both_replicas(id: KeyId) -> [ObjectKey; 2] {
    [Replica::First, Replica::Second].map(|replica| ObjectKey::Key(id, replica))
}

fn remove_other_keys(backend: &dyn Backend, own: Option<KeyId>) -> Result<()> {
    let keys: Vec<ObjectKey> = backend.names(ObjectKind::Key)?.collect::<Result<_>>()?;
    let other = |key: &ObjectKey| !matches!(key, ObjectKey::Key(id, _) if Some(*id) == own);
    let keys: Vec<ObjectKey> = keys.into_iter().filter(other).collect();
    if keys.is_empty() { Ok(()) } else { backend.delete(&keys) }
}

/// Refuses a place with packs or snapshots but without a configuration. Key records alone are left by an init that was interrupted; nothing
/// depends on them.
fn refuse_remains(backend: &dyn Backend) -> Result<()> {
    for kind in [ObjectKind::Pack, ObjectKind::Snapshot] {
        if let Some(key) = backend.names(kind)?.next() {
            let key = key?;
            return Err(Error::corrupt(
                backend.location(),
                format!(
                    "there is no configuration, but {key}: both copies of `config` were lost. A new one would make this unreadable for ever"
                ),
            ));
        }
    }
    Ok(())
}

/// Refuses a configuration that says "not encrypted" if there are key records. Someone else put that configuration there.
fn refuse_stripped(backend: &dyn Backend) -> Result<()> {
    match backend.names(ObjectKind::Key)?.next() {
        None => Ok(()),
        Some(_) => Err(Error::corrupt(
            ObjectKey::Config(Replica::First).to_string(),
            "it says that the repository is not encrypted, but there are key records; someone may have replaced it",
        )),
    }
}

/// Tries the passphrase on every key record, the cheapest first. Someone who can write to the repository may have added records that take very long.
fn unlock(backend: &dyn Backend, config: &Config, config_bytes: &[u8], passphrase: &[u8]) -> Result<KeyPayload> {
    let mut ids: Vec<KeyId> = Vec::new();
    for key in backend.names(ObjectKind::Key)? {
        if let ObjectKey::Key(id, _) = key?
            && !ids.contains(&id)
        {
            ids.push(id);
        }
    }
    let found = ids.len();
    let mut damage = None;
    let mut key_records = Vec::new();
    for id in ids.into_iter().take(KEY_RECORDS_MAX) {
        match read_key(backend, id) {
            Ok(key_record) => key_records.push((id, key_record)),
            // Whatever is wrong with this record (an unknown version, a directory of its name), another one may serve.
            Err(error) => damage = damage.or(Some(error)),
        }
    }
    key_records.sort_by_key(|(id, key_record)| (key_record.cost.work_kib(), *id));
    let mut work_kib = 0;
    // A bound on the work of all records together. Without it, added records could keep the repository from being opened.
    let affordable = key_records.iter().take_while(|(_, key_record)| {
        work_kib += key_record.cost.work_kib();
        work_kib <= KDF_WORK_KIB_TOTAL
    });
    let affordable = affordable.count();
    let tried = affordable > 0;
    if affordable < key_records.len() || found > KEY_RECORDS_MAX {
        let detail =
            format!("it has {found} key records; the passphrase was tried on {affordable} of them, because the others would take too long");
        damage = damage.or_else(|| Some(Error::corrupt("the repository", detail)));
    }
    for (id, key_record) in key_records.iter().take(affordable) {
        match keyring::unwrap(&config.repository, key_record, passphrase) {
            Ok(Some(payload)) => return check_binding(payload, config, config_bytes),
            Ok(None) => {}
            Err(malformed) => damage = damage.or_else(|| Some(malformed.of(ObjectKey::Key(*id, Replica::First)))),
        }
    }
    match damage {
        // A record could not be tried, so the passphrase may be right after all.
        Some(error) => Err(error),
        None if tried => Err(Error::WrongPassphrase { location: backend.location() }),
        None => Err(Error::corrupt("the repository", "it has no key records; without one nothing in it can be read")),
    }
}

/// Compares the configuration with the one that is sealed in the key record. Someone without the key can exchange only the former.
fn check_binding(mut payload: KeyPayload, config: &Config, config_bytes: &[u8]) -> Result<KeyPayload> {
    // The sealed record does not hold the parity; the hash over all bytes of the configuration covers it.
    payload.config.parity_percent = config.parity_percent;
    let bound = *blake3::hash(config_bytes).as_bytes() == payload.config_hash && payload.config == *config;
    match bound {
        true => Ok(payload),
        false => Err(Error::corrupt(
            ObjectKey::Config(Replica::First).to_string(),
            "it is not the configuration that the key was made for; someone may have replaced it",
        )),
    }
}
