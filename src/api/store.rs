//! An open repository, for Rust programs. Each method is one operation of the command line, with its report and its
//! entry in the journal.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use jiff::tz::TimeZone;
use zeroize::Zeroizing;

use super::Snapshot;
use crate::engine::Source;
use crate::engine::postgres::PostgresServer;
use crate::error::{Error, Result};
use crate::fs::disk::RealDisk;
use crate::ops::backup::{self, AllTaken, Recorded, Taken};
use crate::ops::check::{self, Checked};
use crate::ops::forget::{self, ForgetWish, Forgotten, Which};
use crate::ops::init::init;
use crate::ops::journal::Query;
use crate::ops::journaled::{Work, Worker};
use crate::ops::log::{self, Log};
use crate::ops::prune::{self, PruneOptions, PruneReport};
use crate::ops::repair::{self, RepairOptions, Repaired};
use crate::ops::retention::{Calendar, GroupBy, Rules};
use crate::ops::select::{SnapshotFilter, SnapshotSpec};
use crate::ops::stats::{Stats, stats};
use crate::ops::status::{Status, StatusOptions, status};
use crate::progress::{Monitor, Silent};
use crate::store::backend::LocalBackend;
use crate::store::format::key::KdfCost;
use crate::store::format::parity::PARITY_PERCENT_DEFAULT;
use crate::store::repo::{InitOptions, OpenOptions, Repository, Trust};

/// How a repository is opened.
#[derive(Clone, Copy)]
pub enum Key<'k> {
    /// It is not encrypted.
    None,
    /// A passphrase.
    Passphrase(&'k str),
}

/// What the library has to know about the program and the machine. It does not find these out by itself.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The directory for this machine's catalogs, which can be deleted at any time. No other user may write to it.
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
    /// The default settings: as many threads as processors, and the system's clock.
    pub fn new(cache_dir: impl Into<PathBuf>, host: impl Into<String>) -> Self {
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        Settings { cache_dir: cache_dir.into(), host: host.into(), user: String::new(), threads, clock: SystemTime::now }
    }
}

/// What a snapshot records besides its streams.
#[derive(Debug, Clone, Default)]
pub struct BackupOptions {
    /// The name of the source. Snapshots of one kind and name are one history. `None`: the identity comes from host and
    /// paths.
    pub source: Option<String>,
    /// Tags.
    pub tags: Vec<String>,
    /// Whether all files are read, even if they look unchanged since the last snapshot.
    pub read_all: bool,
}

impl BackupOptions {
    fn recorded(&self) -> Recorded {
        let BackupOptions { source, tags, read_all } = self.clone();
        Recorded { source, tags, read_all, ..Recorded::default() }
    }
}

/// An open repository. Several threads can use it, and several processes can open the same one.
pub struct Store {
    repo: Repository,
    worker: Worker,
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store").field("location", &self.repo.backend().location()).finish_non_exhaustive()
    }
}

impl Store {
    /// Creates a repository and opens it. The directory must be absent or empty. Without a key the repository is not
    /// encrypted. Its packs have 3 % of parity, which heals bad sectors and flipped bits.
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
    /// [`Error::InvalidArgument`] if the directory is a repository, [`Error::Destination`] if it has other files,
    /// [`Error::Backend`] if it cannot be written.
    pub fn create(location: &Path, key: Key<'_>, settings: Settings) -> Result<Self> {
        let backend = LocalBackend::create(location, Arc::new(RealDisk))?;
        let passphrase = match key {
            Key::None => None,
            Key::Passphrase(text) => Some(Zeroizing::new(text.to_owned())),
        };
        let options = InitOptions { passphrase, cost: KdfCost::DEFAULT, parity_percent: PARITY_PERCENT_DEFAULT };
        init(&backend, &options, &settings.cache_dir)?;
        Store::open(location, key, settings)
    }

    /// Opens a repository in a directory.
    ///
    /// # Errors
    /// [`Error::NoRepository`], [`Error::WrongPassphrase`]; [`Error::Refused`] if this machine has seen another
    /// repository there before, or if the repository is not encrypted but a key is given; [`Error::Backend`].
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
        let Settings { host, user, clock, .. } = settings;
        Ok(Store { repo: Repository::open(Arc::new(backend), &options)?, worker: Worker { host, user, clock } })
    }

    /// Captures a source into a new snapshot. If this fails, there is no snapshot.
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
    /// assert!(report.flags.is_empty());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Source`] or [`Error::Busy`] if the source cannot be read, [`Error::Backend`] if the repository cannot be written, [`Error::Cancelled`].
    pub fn backup(&self, source: &dyn Source, options: &BackupOptions, monitor: &dyn Monitor) -> Result<Taken> {
        backup::perform_on(&self.work(monitor), source, &options.recorded())
    }

    /// Captures all databases of a server, one after the other, each into a snapshot of its own. All get the same tag.
    /// A database that fails does not stop the others.
    ///
    /// # Errors
    /// [`Error::Source`] if the databases cannot be listed. Failures that would stop the others too: [`Error::Busy`],
    /// [`Error::Cancelled`].
    pub fn backup_all(&self, server: &PostgresServer, options: &BackupOptions, monitor: &dyn Monitor) -> Result<AllTaken> {
        backup::perform_all(&self.work(monitor), server, &options.recorded())
    }

    /// All snapshots, oldest first.
    ///
    /// # Errors
    /// [`Error::Corrupt`] if a snapshot cannot be read or has vanished, [`Error::Backend`].
    pub fn snapshots(&self) -> Result<Vec<Snapshot<'_>>> {
        let mut refreshed = self.repo.refresh()?;
        // A program that lists snapshots must not take a damaged one for a missing one.
        match refreshed.damage.is_empty() {
            true => Ok(refreshed.snapshots.into_iter().map(|(id, record)| Snapshot::new(&self.repo, &self.worker, id, record)).collect()),
            false => Err(refreshed.damage.swap_remove(0)),
        }
    }

    /// The snapshot with this id, or with the only id that begins with this text. Also `latest` for the newest good one,
    /// and `latest~2` for the good one two before it.
    ///
    /// # Errors
    /// [`Error::NoSuch`] if there is none, [`Error::InvalidArgument`] if this cannot name a snapshot or several ids
    /// begin with it, or for `latest` in a store of several sources; [`Error::Backend`].
    pub fn snapshot(&self, name: &str) -> Result<Snapshot<'_>> {
        let no_times = |_: &str| {
            Err(Error::InvalidArgument("a snapshot cannot be named by a time here: list them and compare `Snapshot::time`".into()))
        };
        let spec = SnapshotSpec::parse(name, &no_times)?;
        let refreshed = self.repo.refresh()?;
        let (id, record) = spec.find(&refreshed.snapshots, &SnapshotFilter::default())?.clone();
        Ok(Snapshot::new(&self.repo, &self.worker, id, record))
    }

    /// Checks that everything exists and is consistent. With `read_data` it reads and verifies every stored byte.
    ///
    /// # Errors
    /// [`Error::Backend`], [`Error::Cancelled`]. Damage is in the report.
    pub fn check(&self, read_data: bool, monitor: &dyn Monitor) -> Result<Checked> {
        check::perform(&self.work(monitor), &check::Wish { read_data, ..check::Wish::default() })
    }

    /// Looks for damage in every stored byte. It heals what it can and sets the rest aside. Nothing is deleted.
    ///
    /// # Errors
    /// [`Error::Backend`] if something cannot be written; the repairs before that stay. [`Error::Cancelled`].
    pub fn repair(&self, monitor: &dyn Monitor) -> Result<Repaired> {
        repair::perform(&self.work(monitor), &RepairOptions::default())
    }

    /// Forgets the snapshots that the rules do not keep. Days and weeks are those of UTC. The newest good state of each
    /// stream of each source always stays. [`Store::prune`] frees the space.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] without any rule, [`Error::Backend`], [`Error::Cancelled`].
    pub fn forget(&self, rules: &Rules, monitor: &dyn Monitor) -> Result<Forgotten> {
        forget::perform(&self.work(monitor), &self.wish(rules, None))
    }

    /// Like [`Store::forget`], with a prune after it.
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// # let database = dir.path().join("app.db");
    /// # rusqlite::Connection::open(&database)?.execute_batch("CREATE TABLE t(a); INSERT INTO t VALUES (1)")?;
    /// # let settings = icecore::Settings::new(dir.path().join("cache"), "web1");
    /// # let store = icecore::Store::create(&dir.path().join("repository"), icecore::Key::None, settings)?;
    /// use icecore::{BackupOptions, Keep, Rules, Silent, SqliteOptions, SqliteSource};
    ///
    /// let source = SqliteSource::new(vec![("app.db".into(), database)], SqliteOptions::default())?;
    /// for _ in 0..3 {
    ///     store.backup(&source, &BackupOptions::default(), &Silent)?;
    /// }
    /// let mut rules = Rules::default();
    /// rules.count[0] = Keep::Newest(2);
    /// let report = store.forget_and_prune(&rules, &Silent)?;
    /// assert_eq!((report.kept, report.forgotten), (2, 1));
    /// assert!(report.prune.is_some());
    /// // The report is what `icecore --json forget --prune` prints.
    /// assert_eq!(serde_json::to_value(&report)?["groups"][0]["forget"][0]["reasons"], serde_json::json!([]));
    /// // Each operation is in the journal.
    /// let done: Vec<String> = store.log(None)?.entries.into_iter().map(|entry| entry.operation).collect();
    /// assert_eq!(done, ["backup", "backup", "backup", "forget", "prune"]);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// As [`Store::forget`]. If the prune fails, its error is in the report.
    pub fn forget_and_prune(&self, rules: &Rules, monitor: &dyn Monitor) -> Result<Forgotten> {
        forget::perform(&self.work(monitor), &self.wish(rules, Some(PruneOptions::default())))
    }

    fn wish(&self, rules: &Rules, prune: Option<PruneOptions>) -> ForgetWish {
        let calendar = Calendar { now_ns: self.worker.now_ns(), zone: TimeZone::UTC };
        let which = Which::Rules { rules: Box::new(rules.clone()), filter: SnapshotFilter::default(), by: GroupBy::default(), calendar };
        ForgetWish { which, dry_run: false, prune, agreed: None }
    }

    /// Frees the space that no snapshot needs. It deletes in two steps: this prune marks packs, and one after the grace
    /// time deletes them. So backups that run meanwhile are safe.
    ///
    /// # Errors
    /// [`Error::Corrupt`] if something that a snapshot needs cannot be read: then nothing is deleted. [`Error::Backend`], [`Error::Cancelled`].
    pub fn prune(&self, monitor: &dyn Monitor) -> Result<PruneReport> {
        prune::perform(&self.work(monitor), &PruneOptions::default())
    }

    /// The state of all sources: the last good snapshot of each, and what happened after it. A last good snapshot older
    /// than `max_age` counts as overdue.
    ///
    /// # Errors
    /// [`Error::Backend`], [`Error::Cancelled`]. Damage is in the report.
    pub fn status(&self, max_age: Option<Duration>, monitor: &dyn Monitor) -> Result<Status> {
        let max_age_s = max_age.map(|age| i64::try_from(age.as_secs()).unwrap_or(i64::MAX));
        let options = StatusOptions { now_ns: self.worker.now_ns(), max_age_s, ..StatusOptions::default() };
        status(&self.repo, &self.repo.refresh()?, &options, monitor)
    }

    /// The content of the repository, and the space that it takes.
    ///
    /// # Errors
    /// [`Error::Backend`], [`Error::Cancelled`]. Damage is in the report.
    pub fn stats(&self, monitor: &dyn Monitor) -> Result<Stats> {
        stats(&self.repo, monitor)
    }

    /// The newest entries of the journal, or all of them, oldest first. Every backup, restore, export, drill, forget,
    /// prune, repair, check and mark has an entry, on every machine.
    ///
    /// # Errors
    /// [`Error::Backend`]. Damage is in the report.
    pub fn log(&self, limit: Option<usize>) -> Result<Log> {
        log::list(&self.repo, &Query { limit, ..Query::default() }, &Silent)
    }

    fn work<'w>(&'w self, monitor: &'w dyn Monitor) -> Work<'w> {
        Work { repo: &self.repo, worker: &self.worker, monitor }
    }
}
