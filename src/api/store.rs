//! A repository that is open.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use jiff::tz::TimeZone;
use zeroize::Zeroizing;

use super::Snapshot;
use crate::engine::Source;
use crate::error::{Error, Result};
use crate::fs::disk::RealDisk;
use crate::ops::backup::{self, BackupReport};
use crate::ops::check::{CheckOptions, CheckReport, check};
use crate::ops::forget::{self, ForgetReport};
use crate::ops::prune::{PruneOptions, PruneReport, prune};
use crate::ops::retention::{Calendar, GroupBy, Rules};
use crate::ops::select::{SnapshotFilter, SnapshotSpec};
use crate::progress::Monitor;
use crate::store::backend::{Backend, LocalBackend};
use crate::store::format::key::KdfCost;
use crate::store::format::parity::PARITY_PERCENT_DEFAULT;
use crate::store::repo::{InitOptions, OpenOptions, Repository, Trust, remember_made};

/// What opens a repository.
#[derive(Clone, Copy)]
pub enum Key<'k> {
    /// Nothing: it is not encrypted.
    None,
    /// A passphrase.
    Passphrase(&'k str),
}

/// What the library is told of the program and the machine, since it does not look by itself.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The directory of this machine's own files: the catalogs, which can be deleted at any time. Nobody else may write to it.
    pub cache_dir: PathBuf,
    /// The machine's name, as snapshots record it.
    pub host: String,
    /// The user's name, as snapshots record it.
    pub user: String,
    /// How many threads work for one operation.
    pub threads: usize,
    /// The clock.
    pub clock: fn() -> SystemTime,
}

impl Settings {
    /// The usual ones: as many threads as there are processors, and the system's clock.
    pub fn new(cache_dir: impl Into<PathBuf>, host: impl Into<String>) -> Self {
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        Settings { cache_dir: cache_dir.into(), host: host.into(), user: String::new(), threads, clock: SystemTime::now }
    }
}

/// What a snapshot records besides its streams.
#[derive(Debug, Clone, Default)]
pub struct BackupOptions {
    /// Names the source in place of what it derives from its host and paths. Snapshots of one kind and name are one history.
    pub source: Option<String>,
    /// Words of your choice.
    pub tags: Vec<String>,
    /// Reads all files, also those that look unchanged since the last snapshot.
    pub read_all: bool,
}

/// A repository that is open. It can be used by several threads, and by several processes at once.
pub struct Store {
    repo: Repository,
    settings: Settings,
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store").field("location", &self.repo.backend().location()).finish_non_exhaustive()
    }
}

impl Store {
    /// Makes a repository in a directory, which must be absent or empty, and opens it. Without a key it is not encrypted. Its packs carry 3 % of parity, which heals
    /// bad sectors and flipped bits.
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// use icecore::{Key, Settings, Store};
    ///
    /// let settings = Settings::new(dir.path().join("cache"), "web1");
    /// let store = Store::create(&dir.path().join("repository"), Key::Passphrase("correct horse"), settings)?;
    /// assert!(store.snapshots()?.is_empty());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] if there is a repository, [`Error::Destination`] if other things are there, [`Error::Backend`] if it cannot be made.
    pub fn create(location: &Path, key: Key<'_>, settings: Settings) -> Result<Self> {
        let backend = LocalBackend::create(location, Arc::new(RealDisk))?;
        let passphrase = match key {
            Key::None => None,
            Key::Passphrase(text) => Some(Zeroizing::new(text.to_owned())),
        };
        let is_encrypted = passphrase.is_some();
        let id = Repository::init(&backend, &InitOptions { passphrase, cost: KdfCost::DEFAULT, parity_percent: PARITY_PERCENT_DEFAULT })?;
        // Without this the first opening would do it.
        let _ = remember_made(&settings.cache_dir, &backend.location(), id, is_encrypted);
        Store::open(location, key, settings)
    }

    /// Opens a repository in a directory.
    ///
    /// # Errors
    /// [`Error::NoRepository`], [`Error::WrongPassphrase`]; [`Error::Refused`] if the repository is not the one that this machine has seen there, or is not
    /// encrypted though there is a key; [`Error::Backend`].
    pub fn open(location: &Path, key: Key<'_>, settings: Settings) -> Result<Self> {
        let backend = LocalBackend::open(location, Arc::new(RealDisk))?;
        let passphrase = || match key {
            Key::None => Err(Error::WrongPassphrase { location: location.display().to_string() }),
            Key::Passphrase(text) => Ok(Zeroizing::new(text.to_owned())),
        };
        let options = OpenOptions {
            passphrase: &passphrase,
            cache_dir: settings.cache_dir.clone(),
            threads: settings.threads,
            trust: Trust { passphrase_from: matches!(key, Key::Passphrase(_)).then_some("this program"), accepted: None },
        };
        Ok(Store { repo: Repository::open(Arc::new(backend), &options)?, settings })
    }

    /// Captures a source into a new snapshot. It counts only once it is whole: if this fails, there is no snapshot.
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// # let database = dir.path().join("app.db");
    /// # rusqlite::Connection::open(&database)?.execute_batch("CREATE TABLE t(a); INSERT INTO t VALUES (1)")?;
    /// # let settings = icecore::Settings::new(dir.path().join("cache"), "web1");
    /// # let store = icecore::Store::create(&dir.path().join("repository"), icecore::Key::None, settings)?;
    /// use icecore::{BackupOptions, Silent, SqliteOptions, SqliteSource};
    ///
    /// let source = SqliteSource::new(vec![("app.db".into(), database)], SqliteOptions::default())?;
    /// let report = store.backup(&source, &BackupOptions::default(), &Silent)?;
    /// assert!(report.record.flags.is_empty());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Source`] or [`Error::Busy`] if the source cannot be read, [`Error::Backend`] if the repository cannot be written, [`Error::Cancelled`].
    pub fn backup(&self, source: &dyn Source, options: &BackupOptions, monitor: &dyn Monitor) -> Result<BackupReport> {
        let now_ns = self.now_ns();
        let options = backup::BackupOptions {
            time_ns: now_ns,
            now_ns,
            host: self.settings.host.clone(),
            user: self.settings.user.clone(),
            tags: options.tags.clone(),
            source: options.source.clone(),
            read_all: options.read_all,
        };
        backup::backup(&self.repo, source, &options, monitor)
    }

    /// All snapshots, oldest first.
    ///
    /// # Errors
    /// [`Error::Corrupt`] if a snapshot cannot be read or has vanished, [`Error::Backend`].
    pub fn snapshots(&self) -> Result<Vec<Snapshot<'_>>> {
        let mut refreshed = self.repo.refresh()?;
        match refreshed.damage.is_empty() {
            true => Ok(refreshed.snapshots.into_iter().map(|(id, record)| Snapshot::new(&self.repo, id, record)).collect()),
            false => Err(refreshed.damage.swap_remove(0)),
        }
    }

    /// The snapshot with this id, or with the only id that begins so; `latest`, or `latest~2` for the newest but two.
    ///
    /// # Errors
    /// [`Error::NoSuch`] if there is none, [`Error::InvalidArgument`] if it is no name of a snapshot or several ids begin so, [`Error::Backend`].
    pub fn snapshot(&self, name: &str) -> Result<Snapshot<'_>> {
        let no_times = |_: &str| Err(Error::InvalidArgument("times are not taken here: compare `Snapshot::time`".into()));
        let spec = SnapshotSpec::parse(name, &no_times)?;
        let refreshed = self.repo.refresh()?;
        let (id, record) = spec.find(&refreshed.snapshots, &SnapshotFilter::default())?.clone();
        Ok(Snapshot::new(&self.repo, id, record))
    }

    /// Checks that everything is there and fits together; with `read_data` every stored byte is read and verified.
    ///
    /// # Errors
    /// [`Error::Backend`], [`Error::Cancelled`]. Damage is in the report.
    pub fn check(&self, read_data: bool, monitor: &dyn Monitor) -> Result<CheckReport> {
        let options = CheckOptions { read_data, now_ns: Some(self.now_ns()), ..CheckOptions::default() };
        check(&self.repo, &options, monitor)
    }

    /// Forgets the snapshots that the rules do not keep. Days and weeks are those of UTC. Whatever the rules say, the newest good state of each stream of each source stays. The space is freed by
    /// [`Store::prune`].
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] without any rule, [`Error::Backend`], [`Error::Cancelled`].
    pub fn forget(&self, rules: &Rules, monitor: &dyn Monitor) -> Result<ForgetReport> {
        let (refreshed, now_ns) = (self.repo.refresh()?, self.now_ns());
        let calendar = Calendar { now_ns, zone: TimeZone::UTC };
        let plan = forget::plan_by_rules(&refreshed, &SnapshotFilter::default(), rules, GroupBy::default(), &calendar)?;
        forget::execute(&self.repo, &plan, now_ns, monitor)
    }

    /// Frees the space that no snapshot needs. What is marked now is deleted by a prune after the grace time, so that backups that run meanwhile are safe.
    ///
    /// # Errors
    /// [`Error::Corrupt`] if something that a snapshot needs cannot be read: then nothing is deleted. [`Error::Backend`], [`Error::Cancelled`].
    pub fn prune(&self, monitor: &dyn Monitor) -> Result<PruneReport> {
        let (now_ns, host) = (self.now_ns(), self.settings.host.clone());
        prune(&self.repo, &PruneOptions { now_ns, host, ..PruneOptions::default() }, monitor)
    }

    /// Nanoseconds since 1970 UTC by the caller's clock.
    fn now_ns(&self) -> i64 {
        let since = (self.settings.clock)().duration_since(UNIX_EPOCH).unwrap_or_default();
        i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
    }
}
