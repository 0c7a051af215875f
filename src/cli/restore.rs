//! `restore` and `dump`.

use std::collections::HashSet;
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, ErrorKind};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::Instant;

use icecore::Error;
use icecore::backend::disk::RealDisk;
use icecore::format::snapshot::SnapshotRecord;
use icecore::ops::export::{self, FromOptions};
use icecore::ops::journal::Operation;
use icecore::ops::place::{DatabaseOptions, Placement};
use icecore::ops::restore::{self, RestoreOptions, Restored};
use icecore::ops::subtree;
use icecore::progress::Monitor;
use icecore::repo::{Reader, Refreshed, Repository};
use serde::Serialize;

use super::args::{DumpArgs, FilterArgs, RestoreArgs};
use super::context::{Context, find_in};
use super::exit::{Exit, Failure};
use super::journal::{Story, journaled};
use super::outlet::Outlet;
use super::output::{self, count, printable};
use super::views::{Located, Named};
use super::{names, time};

#[derive(Serialize)]
struct Done {
    /// With --from-dir what the manifest there names.
    snapshot: Option<String>,
    bytes: u64,
    duration_ms: f64,
    key_derivation_ms: f64,
    /// Whether there was something to verify against; always so but with --from-dir.
    verified: bool,
    restored: Vec<RestoredView>,
    #[serde(skip)]
    from: String,
}

#[derive(Serialize)]
struct RestoredView {
    #[serde(flatten)]
    named: Named,
    #[serde(flatten)]
    located: Located,
    bytes: u64,
    kept: Vec<Located>,
    /// What SQLite said of a database.
    damage: Vec<String>,
    warnings: Vec<String>,
    not_checked: Vec<String>,
}

/// `restore`.
pub(crate) fn restore(context: &Context<'_>, args: &RestoreArgs) -> Result<Exit, Failure> {
    if let Some(dsn) = &args.server.dsn {
        return super::server::restore(context, args, dsn);
    }
    if let Some(dir) = &args.from_dir {
        return from_dir(context, dir, args);
    }
    if args.to.is_none() && args.streams.is_empty() {
        return Err(Failure::usage(
            "say where to: --to DIR for all streams, NAME=DEST for one of them, or --dsn DSN for a PostgreSQL server",
        ));
    }
    let snap = args.snap.as_ref().and_then(|snap| snap.to_str()).ok_or_else(|| Failure::usage("SNAP is not UTF-8"))?;
    let repo = context.open()?;
    journaled(context, &repo, Operation::Restore, |story| {
        story.detail = snap.to_owned();
        put_back(context, &repo, snap, args, story)
    })
}

fn put_back(context: &Context<'_>, repo: &Repository, snap: &str, args: &RestoreArgs, story: &mut Story) -> Result<Exit, Failure> {
    let started = Instant::now();
    let progress = context.progress();
    let refreshed = context.refresh(repo, &progress)?;
    let (id, record) = find_in(&refreshed, snap, &args.filter)?.clone();
    story.snapshots.push(id);
    story.source = Some(record.source.id);
    story.detail = destinations(args);
    for flag in &record.flags {
        progress.warn(&format!("snapshot {} is flagged {}: {}", id.short(), flag.code, flag.detail));
    }
    let restored =
        place(repo, &record, args, &progress).map_err(|error| or_a_good_one(refused(error, snap, &args.filter), &refreshed, &record))?;
    repo.warn_of_healed(&progress);
    drop(progress);
    let done = Done {
        snapshot: Some(id.to_string()),
        bytes: restored.iter().map(|stream| stream.len).sum(),
        duration_ms: output::ms(started.elapsed().as_micros() as u64),
        key_derivation_ms: output::ms(repo.key_derivation().as_micros() as u64),
        verified: true,
        restored: restored.iter().map(RestoredView::of).collect(),
        from: format!("snapshot {}", id.short()),
    };
    context.output.report(&done, Done::text)?;
    Ok(Exit::Done)
}

/// `restore --from-dir`. What would be SNAP is the first of the files here.
fn from_dir(context: &Context<'_>, dir: &Path, args: &RestoreArgs) -> Result<Exit, Failure> {
    let started = Instant::now();
    let arguments: Vec<&OsString> = args.snap.iter().chain(&args.streams).collect();
    if arguments.is_empty() {
        return Err(Failure::usage("say which file goes where: NAME=DEST"));
    }
    let progress = context.progress();
    let given = export::open_directory(dir, &progress)?;
    if !given.is_verified() {
        let why = format!("{} has no {}: its files cannot be verified, only checked by SQLite", dir.display(), export::CHECKSUMS_NAME);
        progress.warn(&why);
    }
    let targets = arguments.into_iter().map(|argument| names::target(argument, |name| given.has(name))).collect::<Result<Vec<_>, _>>()?;
    let database = database_options(args);
    let placement = Placement { disk: &RealDisk, timestamp: time::compact(time::now_ns()), monitor: &progress };
    let restored = export::restore_given(&given, &targets, &FromOptions { database, live: args.live }, &placement)?;
    drop(progress);
    let named = given.snapshot().map_or_else(String::new, |id| format!(" (snapshot {})", id.chars().take(12).collect::<String>()));
    let done = Done {
        snapshot: given.snapshot().map(str::to_owned),
        bytes: restored.iter().map(|stream| stream.len).sum(),
        duration_ms: output::ms(started.elapsed().as_micros() as u64),
        key_derivation_ms: 0.0,
        verified: given.is_verified(),
        restored: restored.iter().map(RestoredView::of).collect(),
        from: format!("{}{named}", dir.display()),
    };
    context.output.report(&done, Done::text)?;
    Ok(Exit::Done)
}

fn database_options(args: &RestoreArgs) -> DatabaseOptions {
    let default = DatabaseOptions::default();
    DatabaseOptions { accept_damaged: args.accept_damaged, busy_timeout: args.busy_timeout.unwrap_or(default.busy_timeout), ..default }
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
    let options = RestoreOptions { database: database_options(args), live: args.live, no_xattrs: args.no_xattrs };
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
    let is_known = |name: &[u8]| streams.contains(name) || subtree::is_directory(&listing, name);
    let target = |argument| names::target(argument, is_known).map_err(Refused::Arguments);
    args.streams.iter().map(target).collect()
}

fn refused(refused: Refused, snap: &str, filter: &FilterArgs) -> Failure {
    match refused {
        Refused::Arguments(failure) => failure,
        Refused::Library(error) => of_which_source(error, snap, filter),
    }
}

/// Of what is damaged: where it was well.
fn or_a_good_one(failure: Failure, refreshed: &Refreshed, record: &SnapshotRecord) -> Failure {
    let is_good = |other: &SnapshotRecord| other.source.id == record.source.id && other.flags.is_empty() && other.time_ns < record.time_ns;
    match refreshed.snapshots.iter().rev().find(|(_, other)| failure.exit == Exit::Damaged && is_good(other)) {
        Some((id, _)) => Failure { message: format!("{}; the last good snapshot before it is {}", failure.message, id.short()), ..failure },
        None => failure,
    }
}

/// Of a stream that is not there: perhaps another source was meant.
fn of_which_source(error: Error, snap: &str, filter: &FilterArgs) -> Failure {
    let is_of_all = matches!(error, Error::NoSuch { .. }) && snap.starts_with("latest") && filter.source.is_none();
    let failure = Failure::from(error);
    let hint = if is_of_all { "; `latest` is the newest of all sources: choose one with --source" } else { "" };
    Failure { message: failure.message + hint, ..failure }
}

impl RestoredView {
    fn of(restored: &Restored) -> Self {
        RestoredView {
            named: Named::of(&restored.name),
            located: Located::of(&restored.placed.path),
            bytes: restored.len,
            kept: restored.placed.kept.iter().map(|path| Located::of(path)).collect(),
            damage: restored.placed.findings.damage.clone(),
            warnings: restored.placed.findings.warnings.clone(),
            not_checked: restored.placed.findings.not_checked.clone(),
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
        let (from, verified) = (printable(&self.from), if self.verified { "verified" } else { "not verified" });
        text.push_str(&format!("restored {streams} of {from}, {bytes}, {verified}, in {took}{derivation}\n"));
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
    let is_file = out.metadata().is_ok_and(|meta| meta.is_file());
    let dumped = match is_file {
        true => restore::dump(&repo, &record, args.name.as_bytes(), &mut out, &progress).map(drop),
        false => dump_to_pipe(&repo, &record, args.name.as_bytes(), out, &progress),
    };
    repo.warn_of_healed(&progress);
    match dumped {
        Ok(()) => Ok(Exit::Done),
        Err(_) if progress.cancelled() => Err(Error::Cancelled.into()),
        Err(Error::Backend { operation: "write", source, .. }) if source.kind() == ErrorKind::BrokenPipe => Ok(Exit::ClosedPipe),
        Err(error) => Err(of_which_source(error, &args.snap.snap, &args.snap.filter)),
    }
}

fn dump_to_pipe(repo: &Repository, record: &SnapshotRecord, name: &[u8], pipe: File, monitor: &dyn Monitor) -> icecore::Result<()> {
    let failed = |e: io::Error| Error::backend("write", "standard output", e);
    let mut out = Outlet::start(pipe, monitor).map_err(failed)?;
    restore::dump(repo, record, name, &mut out, monitor)?;
    out.finish().map_err(failed)
}
