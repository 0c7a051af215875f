//! Drill: proves that a snapshot can be restored and is good.
//!
//! The snapshot is restored to a staging directory or server. Then it is checked as its users would: by the
//! database's own full check, by the content that was recorded at the capture, by the user's assertions, and by the
//! time it took. What fails is in the report; an error means that the drill itself could not be done.

pub mod demo;
mod perform;
mod report;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

pub use perform::{DrillReport, DrillWish, Start, perform, perform_demo};
pub use report::{Report, StreamReport};

use super::export::swap::Place;
use super::restore::{self, RestoreOptions, restore_tree};
use super::stored::stored;
use crate::engine;
use crate::engine::drill::{DrillServer, Drilled, NamedAssertion, Questions, millis, refuse_unknown};
use crate::engine::place::Placement;
use crate::engine::sqlite::restore::DatabaseOptions;
use crate::engine::stored::{Stored, StreamInfo};
use crate::error::{Error, Result};
use crate::id::SnapshotId;
use crate::store::format::snapshot::SnapshotRecord;
use crate::store::repo::Repository;

/// Where the snapshot is restored to.
#[derive(Debug)]
pub enum Staging {
    /// A directory that is absent or empty. What is restored stays there.
    Kept(PathBuf),
    /// A new directory below this one. It is removed at the end.
    Scratch(PathBuf),
    /// A server of the snapshot's kind.
    Server(Box<dyn DrillServer>),
}

/// How to drill.
#[derive(Debug)]
pub struct DrillOptions {
    /// Where the snapshot is restored to.
    pub staging: Staging,
    /// The assertions about the restored databases.
    pub assertions: Vec<NamedAssertion>,
    /// When the recovery began, before the repository was opened.
    pub started: Instant,
    /// The recovery time objective: how long the recovery may take.
    pub rto: Option<Duration>,
    /// Number of threads that check.
    pub threads: usize,
}

/// Restores a snapshot to the staging place and checks the result. Failed checks are in the report.
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
    let stored = stored(repo, record, placement.monitor)?;
    let engine = engine::of(&record.source.kind);
    let is_server = matches!(options.staging, Staging::Server(_));
    // A dump can only be proved on a server, and files only in a directory.
    if is_server != engine.needs_server() {
        let text = if is_server {
            "it is not of a PostgreSQL database, so it needs a directory and not a server"
        } else {
            "it is of a PostgreSQL database, so it needs a server and not a directory"
        };
        return Err(Error::InvalidArgument(format!("snapshot {}: {text}", id.short())));
    }
    let databases: Vec<&[u8]> = stored
        .streams()
        .iter()
        .filter(|stream| engine.is_database(&stream.name, &stream.kind))
        .map(|stream| stream.name.as_slice())
        .collect();
    refuse_unknown(&options.assertions, &databases)?;
    match &options.staging {
        Staging::Server(server) => drill_on((id, record), stored, &**server, options, placement),
        Staging::Kept(dir) => {
            refuse_full(dir)?;
            drill_in(repo, (id, record), &*stored, dir, options, placement)
        }
        Staging::Scratch(above) => {
            let scratch = Place::scratch(placement.disk, above, "drill")?.stage(placement.monitor)?;
            drill_in(repo, (id, record), &*stored, &scratch.path, options, placement)
        }
    }
}

fn drill_on(
    (id, record): (&SnapshotId, &SnapshotRecord),
    stored: Box<dyn Stored>,
    server: &dyn DrillServer,
    options: &DrillOptions,
    placement: &Placement<'_>,
) -> Result<Report> {
    let streams = describe(&*stored)?;
    let questions = Questions { assertions: &options.assertions, threads: options.threads };
    let Drilled { staging, server, server_user, restore_ms, verify_ms, checks } = server.drill(stored, questions, placement)?;
    let mut report = Report { server, server_user, restore_ms, verify_ms, streams, ..Report::of(id, record, staging) };
    checks.into_iter().for_each(|check| report.push(check));
    report.finish(options.started.elapsed(), options.rto);
    Ok(report)
}

/// The streams for the report.
fn describe(stored: &dyn Stored) -> Result<Vec<StreamReport>> {
    let engine = engine::of(stored.kind());
    let evidence = engine.evidence(stored)?;
    let report = |stream: &StreamInfo| {
        let evidence = evidence.as_ref().filter(|_| engine.is_database(&stream.name, &stream.kind));
        StreamReport::of(stream, engine.stream_word(&stream.name, &stream.kind), evidence)
    };
    Ok(stored.streams().iter().map(report).collect())
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
    stored: &dyn Stored,
    dir: &Path,
    options: &DrillOptions,
    placement: &Placement<'_>,
) -> Result<Report> {
    let mut report = Report::of(id, record, dir.to_string_lossy().into_owned());
    let began = Instant::now();
    // Restore damaged databases too: the full check below describes the damage better than a refusal.
    let database = DatabaseOptions { check: false, accept_damaged: true, ..DatabaseOptions::default() };
    let unchecked = RestoreOptions { database, live: false, no_xattrs: true };
    // Damage fails the drill. Everything else, such as a full disk, says nothing about the snapshot.
    let restored = restore_tree(repo, record, dir, &unchecked, placement, &mut |_| {}).and_then(restore::Outcome::whole);
    report.restore_ms = millis(began.elapsed());
    match restored {
        Ok(_) => report.add(None, "restore", Ok(format!("{} bytes, each chunk verified", record.logical_bytes))),
        Err(error) if error.is_damage() => report.add(None, "restore", Err(error.to_string())),
        Err(error) => return Err(error),
    }
    // Databases that were not restored cannot be checked.
    if report.passed {
        let began = Instant::now();
        let engine = engine::of(&record.source.kind);
        let checks = engine.verify(dir, stored.streams(), &options.assertions, options.threads, placement.monitor)?;
        checks.into_iter().for_each(|check| report.push(check));
        report.verify_ms = millis(began.elapsed());
    }
    report.streams = describe(stored)?;
    report.finish(options.started.elapsed(), options.rto);
    Ok(report)
}
