//! Drill: the proof that a snapshot is worth something. It is restored to a staging directory or server, and what came back is looked at as a user would:
//! by the database's own full check, by the content that was recorded at the capture, by the user's assertions, and by the clock.

mod assertion;
mod checks;
pub mod demo;
mod postgres;
mod report;
mod threads;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

pub use assertion::{Assertion, NamedAssertion};
pub use postgres::{Account, ServerPlace, ServerStaging};
pub use report::{CheckReport, Outcome, Report, StreamReport};

use self::checks::Work;
use super::export::swap::Place;
use super::place::{DatabaseOptions, Placement};
use super::restore::{self, RestoreOptions, restore_tree};
use crate::error::{Error, Result};
use crate::id::SnapshotId;
use crate::recorded::{EntryKind, SourceKind};
use crate::store::format::snapshot::{SnapshotRecord, StreamEntry};
use crate::store::repo::{Reader, Repository};

/// Where the snapshot is restored to.
#[derive(Debug, Clone)]
pub enum Staging {
    /// A directory that is absent or empty; what is restored stays there.
    Kept(PathBuf),
    /// A new directory below this one, which goes at the end.
    Scratch(PathBuf),
    /// A PostgreSQL server, for the snapshots that are of a database of one.
    Server(Box<ServerStaging>),
}

/// How to drill.
#[derive(Debug, Clone)]
pub struct DrillOptions {
    /// Where the snapshot is restored to.
    pub staging: Staging,
    /// What must be true of the restored databases.
    pub assertions: Vec<NamedAssertion>,
    /// When the recovery began, before the repository was opened.
    pub started: Instant,
    /// How long the recovery may take.
    pub rto: Option<Duration>,
    /// Threads that check at once.
    pub threads: usize,
}

/// Restores a snapshot to the staging place and checks what came back. What a check finds is in the report.
///
/// # Errors
/// [`Error::InvalidArgument`] for an assertion about a database that is not in the snapshot, a staging directory with something in it, or a staging place of
/// another kind than the snapshot's; [`Error::Destination`] when it cannot be written; [`Error::Source`] if a throw-away server cannot be had; [`Error::Cancelled`].
pub fn drill(
    repo: &Repository,
    (id, record): (&SnapshotId, &SnapshotRecord),
    options: &DrillOptions,
    placement: &Placement<'_>,
) -> Result<Report> {
    let listing = Reader::new(repo).listing(&record.listing, placement.monitor)?;
    let is_server = matches!(options.staging, Staging::Server(_));
    if is_server != (record.source.kind == SourceKind::Postgres) {
        let text = if is_server { "it is not of a PostgreSQL database" } else { "it is of a PostgreSQL database, which takes a server" };
        return Err(Error::InvalidArgument(format!("snapshot {}: {text}", id.short())));
    }
    let is_sqlite = |entry: &&StreamEntry| matches!(entry.kind, EntryKind::Sqlite(_));
    let databases = if is_server { postgres::databases(&listing) } else { listing.iter().filter(is_sqlite).collect() };
    assertion::refuse_unknown(&options.assertions, &databases)?;
    match &options.staging {
        Staging::Server(staging) => postgres::drill(repo, (id, record), &listing, staging, options, placement),
        Staging::Kept(dir) => {
            refuse_full(dir)?;
            drill_in(repo, (id, record), &listing, dir, options, placement)
        }
        Staging::Scratch(above) => {
            let scratch = Place::scratch(placement.disk, above, "drill")?.stage(placement.monitor)?;
            drill_in(repo, (id, record), &listing, &scratch.path, options, placement)
        }
    }
}

fn refuse_full(dir: &Path) -> Result<()> {
    match std::fs::read_dir(dir).map(|mut entries| entries.next().is_some()) {
        Ok(true) => Err(Error::InvalidArgument(format!("{} is not empty; name a new directory to stage in", dir.display()))),
        _ => Ok(()),
    }
}

fn drill_in(
    repo: &Repository,
    (id, record): (&SnapshotId, &SnapshotRecord),
    listing: &[StreamEntry],
    dir: &Path,
    options: &DrillOptions,
    placement: &Placement<'_>,
) -> Result<Report> {
    let mut report = Report::of(id, record, dir.to_string_lossy().into_owned());
    let began = Instant::now();
    // What is wrong with a database, the full check below says better.
    let database = DatabaseOptions { check: false, accept_damaged: true, ..DatabaseOptions::default() };
    let unchecked = RestoreOptions { database, live: false, no_xattrs: true };
    let restored = restore_tree(repo, record, dir, &unchecked, placement, &mut |_| {}).and_then(restore::Outcome::whole);
    report.restore_ms = millis(began.elapsed());
    match restored {
        Ok(_) => report.add(None, "restore", Ok(format!("{} bytes, each chunk verified", record.logical_bytes))),
        Err(error) if error.is_damage() => report.add(None, "restore", Err(error.to_string())),
        Err(error) => return Err(error),
    }
    if report.passed {
        let began = Instant::now();
        let databases: Vec<&StreamEntry> = listing.iter().filter(|entry| matches!(entry.kind, EntryKind::Sqlite(_))).collect();
        let work = Work::of(dir, &databases, &options.assertions);
        placement.monitor.phase("checking", None);
        work.run(options.threads, placement.monitor)?.into_iter().for_each(|check| report.push(check));
        report.verify_ms = millis(began.elapsed());
    }
    report.streams = listing.iter().map(StreamReport::of).collect();
    report.finish(options.started.elapsed(), options.rto);
    Ok(report)
}

fn millis(span: Duration) -> f64 {
    span.as_micros() as f64 / 1000.0
}
