//! `restore` and `dump`.

use std::collections::HashSet;
use std::fs::File;
use std::io::{self, ErrorKind};
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::time::Instant;

use icecore::Error;
use icecore::backend::disk::RealDisk;
use icecore::format::snapshot::SnapshotRecord;
use icecore::ops::journal::Operation;
use icecore::ops::place::{DatabaseOptions, Placement};
use icecore::ops::restore::{self, RestoreOptions, Restored};
use icecore::progress::Monitor;
use icecore::repo::{Reader, Repository};
use serde::Serialize;

use super::args::{DumpArgs, RestoreArgs};
use super::context::Context;
use super::exit::{Exit, Failure};
use super::journal::{Story, journaled};
use super::output::{self, count, printable};
use super::views::{Located, Named};
use super::{names, time};

#[derive(Serialize)]
struct Done {
    snapshot: String,
    bytes: u64,
    duration_ms: f64,
    key_derivation_ms: f64,
    restored: Vec<RestoredView>,
    #[serde(skip)]
    short_id: String,
}

#[derive(Serialize)]
struct RestoredView {
    #[serde(flatten)]
    named: Named,
    #[serde(flatten)]
    located: Located,
    bytes: u64,
    kept: Vec<Located>,
}

/// `restore`.
pub(crate) fn restore(context: &Context<'_>, args: &RestoreArgs) -> Result<Exit, Failure> {
    let repo = context.open()?;
    journaled(context, &repo, Operation::Restore, |story| put_back(context, &repo, args, story))
}

fn put_back(context: &Context<'_>, repo: &Repository, args: &RestoreArgs, story: &mut Story) -> Result<Exit, Failure> {
    let started = Instant::now();
    let progress = context.progress();
    story.detail = args.snap.snap.clone();
    let (id, record) = context.find(repo, &args.snap, &progress)?;
    story.snapshots.push(id);
    story.source = Some(record.source.id);
    story.detail = destinations(args);
    for flag in &record.flags {
        progress.warn(&format!("snapshot {} is flagged {}: {}", id.short(), flag.code, flag.detail));
    }
    let restored = place(repo, &record, args, &progress).map_err(|error| refused(error, &record, args.accept_damaged))?;
    repo.warn_of_healed(&progress);
    drop(progress);
    let done = Done {
        snapshot: id.to_string(),
        bytes: restored.iter().map(|stream| stream.len).sum(),
        duration_ms: output::ms(started.elapsed().as_micros() as u64),
        key_derivation_ms: output::ms(repo.key_derivation().as_micros() as u64),
        restored: restored.iter().map(RestoredView::of).collect(),
        short_id: id.short(),
    };
    context.output.report(&done, Done::text)?;
    Ok(Exit::Done)
}

/// Where it goes, for the journal.
fn destinations(args: &RestoreArgs) -> String {
    match &args.to {
        Some(dir) => format!("into {}", dir.display()),
        None => args.streams.iter().map(|stream| stream.to_string_lossy()).collect::<Vec<_>>().join(" "),
    }
}

/// A restore that did not happen; of a database that was damaged when it was captured, that is why.
enum Refused {
    Arguments(Failure),
    Library(Error),
}

fn place(repo: &Repository, record: &SnapshotRecord, args: &RestoreArgs, monitor: &dyn Monitor) -> Result<Vec<Restored>, Refused> {
    let database = DatabaseOptions { accept_damaged: args.accept_damaged, ..DatabaseOptions::default() };
    let options = RestoreOptions { database, live: args.live };
    let placement = Placement { disk: &RealDisk, timestamp: time::compact(time::now_ns()), monitor };
    let restored = match &args.to {
        Some(dir) => restore::restore_tree(repo, record, dir, &options, &placement),
        None => {
            let targets = targets(repo, record, args)?;
            restore::restore_streams(repo, record, &targets, &options, &placement)
        }
    };
    restored.map_err(Refused::Library)
}

fn targets(repo: &Repository, record: &SnapshotRecord, args: &RestoreArgs) -> Result<Vec<(Vec<u8>, PathBuf)>, Refused> {
    let listing = Reader::new(repo).listing(&record.listing).map_err(Refused::Library)?;
    let streams: HashSet<&[u8]> = listing.iter().map(|entry| entry.name.as_slice()).collect();
    let target = |argument| names::target(argument, |name| streams.contains(name)).map_err(Refused::Arguments);
    args.streams.iter().map(target).collect()
}

fn refused(refused: Refused, record: &SnapshotRecord, accept_damaged: bool) -> Failure {
    let damaged = record.flags.iter().any(|flag| flag.code == "damaged") && !accept_damaged;
    match refused {
        Refused::Arguments(failure) => failure,
        Refused::Library(error @ Error::Destination { .. }) if damaged => {
            let hint = "this snapshot is flagged damaged: --accept-damaged restores it as it is";
            Failure { exit: Exit::Damaged, code: "damaged", message: format!("{error}; {hint}") }
        }
        Refused::Library(error) => error.into(),
    }
}

impl RestoredView {
    fn of(restored: &Restored) -> Self {
        RestoredView {
            named: Named::of(&restored.name),
            located: Located::of(&restored.placed.path),
            bytes: restored.len,
            kept: restored.placed.kept.iter().map(|path| Located::of(path)).collect(),
        }
    }
}

impl Done {
    fn text(&self) -> String {
        /// Above this the paths are no news to anyone.
        const SHOWN_MAX: usize = 20;
        let mut text = String::new();
        for (index, stream) in self.restored.iter().enumerate() {
            if index < SHOWN_MAX || !stream.kept.is_empty() {
                text.push_str(&format!("{} {}\n", printable(&stream.located.path), output::bytes(stream.bytes)));
            }
            for kept in &stream.kept {
                text.push_str(&format!("  what was there is kept as {}\n", printable(&kept.path)));
            }
        }
        let (streams, bytes) = (count(self.restored.len() as u64, "stream"), output::bytes(self.bytes));
        let (took, derivation) = (output::duration(self.duration_ms), output::key_derivation(self.key_derivation_ms));
        text.push_str(&format!("restored {streams} of snapshot {}, {bytes}, verified, in {took}{derivation}\n", self.short_id));
        text
    }
}

/// `dump`.
pub(crate) fn dump(context: &Context<'_>, args: &DumpArgs) -> Result<Exit, Failure> {
    use std::os::unix::ffi::OsStrExt;
    let repo = context.open()?;
    let progress = context.progress();
    let (_, record) = context.find(&repo, &args.snap, &progress)?;
    // Not through the standard library's handle, which looks for line ends and copies.
    let stdout = io::stdout().as_fd().try_clone_to_owned();
    let mut out = File::from(stdout.map_err(|e| Failure::failed(format!("cannot use standard output: {e}")))?);
    let dumped = restore::dump(&repo, &record, args.name.as_bytes(), &mut out, &progress);
    repo.warn_of_healed(&progress);
    match dumped {
        Ok(_) => Ok(Exit::Done),
        Err(Error::Backend { operation: "write", source, .. }) if source.kind() == ErrorKind::BrokenPipe => Ok(Exit::ClosedPipe),
        Err(error) => Err(error.into()),
    }
}
