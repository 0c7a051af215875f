//! One of several at once: what it is to do, and how it does that with its calls in the order of the baton, until it dies.

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::path::PathBuf;
use std::sync::Arc;

use icecore::Error;
use icecore::engine::place::Placement;
use icecore::engine::sqlite::restore::DatabaseOptions;
use icecore::fs::disk::RealDisk;
use icecore::id::SnapshotId;
use icecore::ops::check::{CheckOptions, check};
use icecore::ops::mark::{Author, Statement, mark};
use icecore::ops::prune::prune;
use icecore::ops::restore::{RestoreOptions, restore_streams};
use icecore::progress::Silent;
use icecore::store::format::mark::MarkKind;
use icecore::store::format::snapshot::SnapshotRecord;
use icecore::store::repo::Repository;

use crate::hook::{Fate, Hooked};
use crate::memory::Memory;
use crate::pruning::options;
use crate::schedule::{Baton, Turn};
use crate::support::{open_backend, try_forget};
use crate::world::{World, database_of};

/// Nanoseconds in a second.
const SECOND: i64 = 1_000_000_000;

/// What one is to do.
pub enum Job {
    Backup { name: &'static str, state: Vec<u8> },
    Forget { ids: Vec<SnapshotId>, force: bool },
    Protect { id: SnapshotId, protect: bool },
    Prune { grace: i64 },
    Check,
    Dump { id: SnapshotId },
    Restore { id: SnapshotId },
}

impl std::fmt::Debug for Job {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Job::Backup { name, state } => write!(f, "backup of {name}, {} bytes", state.len()),
            Job::Forget { ids, force } => write!(f, "forget {ids:?}, force {force}"),
            Job::Protect { id, protect } => write!(f, "protect {id}: {protect}"),
            Job::Prune { grace } => write!(f, "prune, grace {grace}"),
            Job::Check => write!(f, "check"),
            Job::Dump { id } => write!(f, "dump {id}"),
            Job::Restore { id } => write!(f, "restore {id}"),
        }
    }
}

impl Job {
    /// What it is to forget.
    pub fn forgets(&self) -> &[SnapshotId] {
        if let Job::Forget { ids, .. } = self { ids } else { &[] }
    }

    /// The snapshot that it protects or releases.
    pub fn protects(&self) -> Option<SnapshotId> {
        if let Job::Protect { id, .. } = self { Some(*id) } else { None }
    }
}

/// What came of it.
#[derive(Debug)]
pub enum Done {
    Committed(SnapshotId),
    Forgotten(BTreeSet<SnapshotId>),
    Marked { is_being_forgotten: bool },
    Deleted(usize),
    Read(Option<(SnapshotId, Vec<u8>)>),
}

/// See the module.
pub struct Actor<'a> {
    pub me: usize,
    pub job: Job,
    /// The first call that it does not live to make.
    pub dies_at: usize,
    pub cache: PathBuf,
    pub baton: &'a Arc<Baton>,
    /// Seconds.
    pub clock: i64,
    pub memory: &'a Arc<Memory>,
    pub world: &'a World,
}

impl Actor<'_> {
    pub fn run(&self) -> icecore::Result<Done> {
        let _turn = Turn(self.baton, self.me);
        let (baton, me, dies_at) = (self.baton.clone(), self.me, self.dies_at);
        let hooked = Hooked::new(self.memory.clone(), move |number, _| {
            baton.call(me);
            if number >= dies_at { Fate::Fail(ErrorKind::BrokenPipe) } else { Fate::Proceed }
        });
        // The place has the name that it has for everybody.
        let repo = open_backend(Arc::new(hooked), self.cache.clone(), 1)?;
        match &self.job {
            Job::Backup { name, state } => self.world.try_back_up(&repo, name, state, self.clock).map(Done::Committed),
            Job::Forget { ids, force } => {
                try_forget(&repo, ids, *force).map(|report| Done::Forgotten(report.forgotten.into_iter().collect()))
            }
            Job::Protect { id, protect } => self.protect(&repo, id, *protect),
            Job::Prune { grace } => {
                prune(&repo, &options(grace * SECOND, self.clock * SECOND), &Silent).map(|report| Done::Deleted(report.deleted as usize))
            }
            Job::Check => {
                let report = check(&repo, &CheckOptions::read_all(), &Silent)?;
                let found = report.findings.first();
                found.map_or(Ok(Done::Read(None)), |found| Err(Error::corrupt(found.object.clone(), found.detail.clone())))
            }
            Job::Dump { id } => Ok(Done::Read(Some((*id, database_of(&repo, &record(&repo, id)?)?)))),
            Job::Restore { id } => self.restore(&repo, id),
        }
    }

    fn protect(&self, repo: &Repository, id: &SnapshotId, protect: bool) -> icecore::Result<Done> {
        let author = Author { now_ns: self.clock * SECOND, host: "test".into(), user: "tester".into() };
        let kind = if protect { MarkKind::Protect } else { MarkKind::Unprotect };
        let statement = Statement { kind, code: String::new(), detail: String::new() };
        let marked = mark(repo, &repo.refresh()?, id, &statement, &author)?;
        Ok(Done::Marked { is_being_forgotten: marked.is_being_forgotten })
    }

    fn restore(&self, repo: &Repository, id: &SnapshotId) -> icecore::Result<Done> {
        let path = self.world.path(&format!("restored by {}", self.me));
        let _ = std::fs::remove_file(&path);
        let placement = Placement { disk: &RealDisk, timestamp: format!("{}", self.clock), monitor: &Silent };
        let options = RestoreOptions { database: DatabaseOptions::default(), live: false, no_xattrs: false };
        restore_streams(repo, &record(repo, id)?, &[(b"db".to_vec(), path.clone())], &options, &placement, &mut |_| {})?.whole()?;
        Ok(Done::Read(Some((*id, std::fs::read(path).unwrap()))))
    }
}

fn record(repo: &Repository, id: &SnapshotId) -> icecore::Result<SnapshotRecord> {
    let snapshots = repo.refresh()?.snapshots;
    let found = snapshots.into_iter().find(|(found, _)| found == id);
    found.map(|(_, record)| record).ok_or_else(|| Error::NotFound { what: format!("snapshot {id}") })
}
