//! What all commands share: opening the repository, progress, and finding snapshots.

use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, OnceLock};
use std::time::SystemTime;

use icecore::engine::postgres::Stop;
use icecore::fs::disk::RealDisk;
use icecore::ops::journaled::Worker;
use icecore::ops::select::{SnapshotFilter, Wanted};
use icecore::progress::Monitor;
use icecore::store::backend::local::LocalBackend;
use icecore::store::repo::{OpenOptions, Refreshed, Repository, Trust};

use super::args::{FilterArgs, Global};
use super::exit::Failure;
use super::local_files::LocalDir;
use super::output::Output;
use super::progress::Progress;
use super::{environment, passphrase, signals, time};

/// The program's run.
pub(crate) struct Context<'o> {
    pub(crate) output: &'o Output,
    global: Global,
    cancelled: Arc<AtomicBool>,
    local: OnceLock<LocalDir>,
}

impl<'o> Context<'o> {
    pub(crate) fn new(global: Global, output: &'o Output) -> Result<Self, Failure> {
        let cancelled = signals::watch().map_err(|e| Failure::failed(format!("cannot watch for signals: {e}")))?;
        Ok(Context { output, global, cancelled, local: OnceLock::new() })
    }

    /// The path of the repository, which need not exist.
    pub(crate) fn repository_path(&self) -> Result<PathBuf, Failure> {
        environment::repository(self.global.repo.as_deref())
    }

    /// Whether -R was given.
    pub(crate) fn names_repository(&self) -> bool {
        self.global.repo.is_some()
    }

    /// Opens the repository; asks for the passphrase if it has one.
    pub(crate) fn open(&self) -> Result<Repository, Failure> {
        let path = self.repository_path()?;
        let backend = self.backend(&path)?;
        let ask = || passphrase::of_repository(&path.display().to_string(), &self.cancelled, &|text| self.output.warn(text));
        let trust = Trust { passphrase_from: passphrase::configured(), accepted: self.global.accept_repository.as_deref() };
        let options = OpenOptions { passphrase: &ask, cache_dir: self.local_dir().to_path_buf(), threads: self.threads(), trust };
        Ok(Repository::open(Arc::new(backend), &options)?)
    }

    /// The place of the repository, without its content.
    pub(crate) fn backend(&self, path: &Path) -> Result<LocalBackend, Failure> {
        LocalBackend::open(path, Arc::new(RealDisk)).map_err(|error| {
            let is_absent = matches!(error, icecore::Error::NoRepository { .. });
            let mut failure = Failure::from(error);
            failure.message.push_str(if is_absent { environment::why_there(self.global.repo.as_deref()) } else { "" });
            failure
        })
    }

    /// The directory of this machine's own files. If the usual one cannot be used, a warning says so once.
    pub(crate) fn local_dir(&self) -> &Path {
        self.local.get_or_init(|| LocalDir::find(self.output)).path()
    }

    /// Whether the user has asked to stop.
    pub(crate) fn cancelled(&self) -> &AtomicBool {
        &self.cancelled
    }

    /// The same flag for code that waits for servers.
    pub(crate) fn stop(&self) -> Stop {
        Stop::new(Arc::clone(&self.cancelled))
    }

    /// How many threads work at once.
    pub(crate) fn threads(&self) -> usize {
        let cores = || std::thread::available_parallelism().map_or(1, |cores| cores.get());
        self.global.threads.map_or_else(cores, usize::from)
    }

    /// Host, user and clock for the journal.
    pub(crate) fn worker(&self) -> Worker {
        Worker { host: environment::host(), user: environment::user(), clock: SystemTime::now }
    }

    /// Starts to show progress, until it is dropped.
    pub(crate) fn progress(&self) -> Progress {
        Progress::start(self.output, Arc::clone(&self.cancelled))
    }

    /// Lists the snapshots and warns about those that cannot be read.
    pub(crate) fn refresh(&self, repo: &Repository, monitor: &dyn Monitor) -> Result<Refreshed, Failure> {
        let refreshed = repo.refresh()?;
        refreshed.damage.iter().for_each(|damage| monitor.warn(&damage.to_string()));
        Ok(refreshed)
    }
}

/// SNAP as a query for the library.
pub(crate) fn wanted(snap: &str, args: &FilterArgs) -> Result<Wanted, Failure> {
    Ok(Wanted::named(snap, &time::at, filter(args))?)
}

/// The filter that the arguments describe.
pub(crate) fn filter(args: &FilterArgs) -> SnapshotFilter {
    SnapshotFilter { source: args.source.clone(), tag: args.tag.clone(), host: args.host.clone() }
}
