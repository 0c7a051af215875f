//! `restore` and `dump`.

use std::collections::HashSet;
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, ErrorKind};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::Duration;
use std::time::Instant;

use icecore::Error;
use icecore::engine::place::Placement;
use icecore::engine::sqlite::restore::DatabaseOptions;
use icecore::fs::disk::RealDisk;
use icecore::id::SnapshotId;
use icecore::ops::export::{self, FromOptions};
use icecore::ops::journal::Operation;
use icecore::ops::restore::{self, Failed, Outcome, RestoreOptions, Restored};
use icecore::ops::subtree;
use icecore::progress::Monitor;
use icecore::store::format::snapshot::SnapshotRecord;
use icecore::store::repo::{Reader, Refreshed, Repository};
use serde::Serialize;

use super::args::{FilterArgs, SnapArgs, span};
use super::context::{Context, find_in};
use super::exit::{Exit, Failure, code_of};
use super::journaled::{Story, journaled};
use super::outlet::Outlet;
use super::output::{self, count, printable};
use super::progress::Progress;
use super::views::{Located, Named};
use super::{targets, time};

/// Give a snapshot back, as files or as a PostgreSQL database; what was there is kept as NAME.pre_restore.TIMESTAMP (a database: NAME_pre_restore_TIMESTAMP)
#[derive(Debug, clap::Args)]
#[command(
    override_usage = "icecore restore [OPTIONS] SNAP --to DIR\n       icecore restore [OPTIONS] SNAP NAME=DEST...\n       icecore restore [OPTIONS] SNAP --salvage --to DIR [NAME...]\n       \
                      icecore restore [OPTIONS] --from-dir DIR NAME=DEST...\n       \
                      icecore restore [OPTIONS] SNAP --dsn DSN\n       icecore restore [OPTIONS] --from-file FILE.pgdump --dsn DSN",
    after_help = super::restore_server::AFTER_HELP
)]
pub(crate) struct RestoreArgs {
    /// An id or the start of one, `latest`, `latest~N` or `@TIME`
    #[arg(value_name = "SNAP", required_unless_present_any = ["from_dir", "from_file"], conflicts_with = "from_file")]
    pub(crate) snap: Option<OsString>,
    #[command(flatten)]
    pub(crate) filter: FilterArgs,
    /// Restore these streams onto these files, and directories into these directories; with --salvage NAME alone
    #[arg(value_name = "NAME=DEST")]
    pub(crate) streams: Vec<OsString>,
    /// Restore all streams into this directory
    #[arg(long, value_name = "DIR", conflicts_with_all = super::restore_server::FOR_SERVERS)]
    pub(crate) to: Option<PathBuf>,
    /// Give every byte that can be had of damaged streams, into a new directory: with zeros for what is lost, as NAME.salvaged
    #[arg(long, requires = "to", conflicts_with_all = ["live", "busy_timeout", "accept_damaged", "from_dir", "from_file", "dsn"])]
    pub(crate) salvage: bool,
    /// Restore files of an export, without a repository
    #[arg(long, value_name = "DIR", conflicts_with_all = ["to", "source", "tag", "host"], conflicts_with_all = super::restore_server::FOR_SERVERS)]
    pub(crate) from_dir: Option<PathBuf>,
    /// Write into databases that others may have open, through SQLite
    #[arg(long, conflicts_with = "to")]
    pub(crate) live: bool,
    /// With --live: how long to wait for a lock that somebody else holds on a database [default: 5s]
    #[arg(long, value_name = "SPAN", requires = "live", value_parser = span)]
    pub(crate) busy_timeout: Option<Duration>,
    /// Put a database in place although SQLite finds it damaged
    #[arg(long)]
    pub(crate) accept_damaged: bool,
    /// Restore no access control lists, extended attributes and capabilities; modes give no more than the lists did
    #[arg(long, conflicts_with = "from_dir")]
    pub(crate) no_xattrs: bool,
    #[command(flatten)]
    pub(crate) server: super::restore_server::ServerArgs,
}

/// Write one stream to standard output, verified
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  icecore dump latest memory.db > memory.db")]
pub(crate) struct DumpArgs {
    #[command(flatten)]
    pub(crate) snap: SnapArgs,
    /// The stream
    #[arg(value_name = "NAME")]
    pub(crate) name: OsString,
}

/// Above this the paths are no news to anyone.
pub(crate) const SHOWN_MAX: usize = 20;
/// Failures that are told one by one; of more the reasons repeat.
pub(crate) const FAILED_SHOWN_MAX: usize = 50;

#[derive(Serialize)]
struct Done {
    /// With --from-dir what the manifest there names.
    snapshot: Option<String>,
    bytes: u64,
    duration_ms: f64,
    key_derivation_ms: f64,
    /// Whether there was something to verify against; always so but with --from-dir.
    verified: bool,
    /// `done`, `incomplete`, `damaged` or `interrupted`.
    status: &'static str,
    restored: Vec<RestoredView>,
    failed: Vec<FailedView>,
    /// Streams that were not tried any more.
    untried: u64,
    #[serde(skip)]
    from: String,
    /// The number of all streams. `restored` may list fewer: only those that are shown.
    #[serde(skip)]
    streams: u64,
}

#[derive(Serialize)]
pub(crate) struct FailedView {
    #[serde(flatten)]
    named: Named,
    #[serde(flatten)]
    located: Located,
    code: &'static str,
    message: String,
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
        if !args.streams.is_empty() {
            return Err(Failure::usage("--dsn restores a database, NAME=DEST files: give one of them"));
        }
        return super::restore_server::restore(context, (args.snap.as_ref(), &args.filter), &args.server, dsn);
    }
    if let Some(dir) = &args.from_dir {
        return from_dir(context, dir, args);
    }
    if args.to.is_none() && args.streams.is_empty() {
        return Err(Failure::usage(
            "say where to: --to DIR for all streams, NAME=DEST for one of them, or --dsn DSN for a PostgreSQL server",
        ));
    }
    if args.to.is_some() && !args.streams.is_empty() && !args.salvage {
        return Err(Failure::usage("--to restores all streams, NAME=DEST one of them: give one of the two"));
    }
    let snap = args.snap.as_ref().and_then(|snap| snap.to_str()).ok_or_else(|| Failure::usage("SNAP is not UTF-8"))?;
    let repo = context.open()?;
    journaled(context, &repo, Operation::Restore, |story| {
        story.detail = snap.to_owned();
        if let (true, Some(dir)) = (args.salvage, &args.to) {
            return super::salvage::salvage(context, &repo, snap, dir, args, story);
        }
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
    let mut shown = Shown::new(context.output.json);
    let outcome = place(repo, &record, args, &progress, &mut shown).map_err(|error| refused(error, snap, &args.filter))?;
    repo.warn_of_healed(&progress);
    let good = if outcome.is_damaged() { last_good(&refreshed, &id, &record) } else { None };
    let done = Done {
        snapshot: Some(id.to_string()),
        duration_ms: output::ms(started.elapsed().as_micros() as u64),
        key_derivation_ms: output::ms(repo.key_derivation().as_micros() as u64),
        from: format!("snapshot {}", id.short()),
        ..Done::default()
    };
    end(context, done, outcome, shown, good, progress)
}

/// Says what was done and what was not. Where nothing was changed, that is a failure as of any other command.
fn end(
    context: &Context<'_>,
    mut done: Done,
    outcome: Outcome,
    shown: Shown,
    good: Option<String>,
    progress: Progress,
) -> Result<Exit, Failure> {
    let hint = good.map_or_else(String::new, |id| format!("; the last good snapshot of this source is {id}"));
    if !outcome.is_changed() && !outcome.is_whole() {
        drop(progress);
        let mut failure = Failure::from(outcome.whole().err().unwrap_or(Error::Poisoned));
        failure.message.push_str(&hint);
        return Err(failure);
    }
    for failed in outcome.failed.iter().take(FAILED_SHOWN_MAX) {
        progress.warn(&format!("{} was not restored: {}", String::from_utf8_lossy(&failed.name), failed.error));
    }
    if outcome.failed.len() > FAILED_SHOWN_MAX {
        progress.warn(&format!("{} more were not restored; --json lists all", outcome.failed.len() - FAILED_SHOWN_MAX));
    }
    if let Some(error) = &outcome.stopped {
        progress.warn(&format!("the restore stopped: {error}; {} not tried", count(outcome.untried, "stream")));
    }
    if !hint.is_empty() {
        progress.warn(hint.trim_start_matches("; "));
    }
    drop(progress);
    let (exit, status) = match () {
        () if matches!(outcome.stopped, Some(Error::Cancelled)) => (Exit::Interrupted, "interrupted"),
        () if outcome.is_damaged() => (Exit::Damaged, "damaged"),
        () if !outcome.is_whole() => (Exit::Incomplete, "incomplete"),
        () => (Exit::Done, "done"),
    };
    done.status = status;
    done.bytes = outcome.bytes;
    done.streams = outcome.restored;
    done.untried = outcome.untried;
    done.restored = shown.restored;
    done.failed = outcome.failed.iter().map(FailedView::of).collect();
    context.output.report_as(exit, &done, Done::text)
}

/// The newest snapshot of the same source that counts as good, but this one.
fn last_good(refreshed: &Refreshed, id: &SnapshotId, record: &SnapshotRecord) -> Option<String> {
    let of_source =
        |(other, found): &&(SnapshotId, SnapshotRecord)| other != id && found.source.id == record.source.id && found.flags.is_empty();
    refreshed.snapshots.iter().rev().find(of_source).map(|(id, _)| id.short())
}

/// What the report shows of what was restored: as JSON all of it, as text the first ones and those that took the place of something.
struct Shown {
    all: bool,
    restored: Vec<RestoredView>,
}

impl Shown {
    fn new(all: bool) -> Self {
        Shown { all, restored: Vec::new() }
    }

    fn add(&mut self, restored: &Restored) {
        if self.all || self.restored.len() < SHOWN_MAX || !restored.placed.kept.is_empty() {
            self.restored.push(RestoredView::of(restored));
        }
    }
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
    let targets = arguments.into_iter().map(|argument| targets::target(argument, |name| given.has(name))).collect::<Result<Vec<_>, _>>()?;
    let database = database_options(args);
    let placement = Placement { disk: &RealDisk, timestamp: time::compact(time::now_ns()), monitor: &progress };
    let mut shown = Shown::new(context.output.json);
    let options = FromOptions { database, live: args.live };
    let outcome = export::restore_given(&given, &targets, &options, &placement, &mut |restored| shown.add(&restored))?;
    let named = given.snapshot().map_or_else(String::new, |id| format!(" (snapshot {})", id.chars().take(12).collect::<String>()));
    let done = Done {
        snapshot: given.snapshot().map(str::to_owned),
        duration_ms: output::ms(started.elapsed().as_micros() as u64),
        verified: given.is_verified(),
        from: format!("{}{named}", dir.display()),
        ..Done::default()
    };
    end(context, done, outcome, shown, None, progress)
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

/// A restore that did not begin.
enum Refused {
    Arguments(Failure),
    Library(Error),
}

fn place(
    repo: &Repository,
    record: &SnapshotRecord,
    args: &RestoreArgs,
    monitor: &dyn Monitor,
    shown: &mut Shown,
) -> Result<Outcome, Refused> {
    let options = RestoreOptions { database: database_options(args), live: args.live, no_xattrs: args.no_xattrs };
    let placement = Placement { disk: &RealDisk, timestamp: time::compact(time::now_ns()), monitor };
    let mut tell = |restored: Restored| shown.add(&restored);
    let outcome = match &args.to {
        Some(dir) => restore::restore_tree(repo, record, dir, &options, &placement, &mut tell),
        None => {
            let targets = targets(repo, record, args, monitor)?;
            restore::restore_streams(repo, record, &targets, &options, &placement, &mut tell)
        }
    };
    outcome.map_err(Refused::Library)
}

fn targets(
    repo: &Repository,
    record: &SnapshotRecord,
    args: &RestoreArgs,
    monitor: &dyn Monitor,
) -> Result<Vec<(Vec<u8>, PathBuf)>, Refused> {
    let listing = Reader::new(repo).listing(&record.listing, monitor).map_err(Refused::Library)?;
    let streams: HashSet<&[u8]> = listing.iter().map(|entry| entry.name.as_slice()).collect();
    let is_known = |name: &[u8]| streams.contains(name) || subtree::is_directory(&listing, name);
    let target = |argument| targets::target(argument, is_known).map_err(Refused::Arguments);
    args.streams.iter().map(target).collect()
}

fn refused(refused: Refused, snap: &str, filter: &FilterArgs) -> Failure {
    match refused {
        Refused::Arguments(failure) => failure,
        Refused::Library(error) => of_which_source(error, snap, filter),
    }
}

impl FailedView {
    pub(crate) fn of(failed: &Failed) -> Self {
        FailedView {
            named: Named::of(&failed.name),
            located: Located::of(&failed.path),
            code: code_of(&failed.error),
            message: failed.error.to_string(),
        }
    }
}

/// Of a stream that is not there: perhaps another source was meant.
pub(crate) fn of_which_source(error: Error, snap: &str, filter: &FilterArgs) -> Failure {
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

impl Default for Done {
    fn default() -> Self {
        Done {
            snapshot: None,
            bytes: 0,
            duration_ms: 0.0,
            key_derivation_ms: 0.0,
            verified: true,
            status: "done",
            restored: Vec::new(),
            failed: Vec::new(),
            untried: 0,
            from: String::new(),
            streams: 0,
        }
    }
}

impl Done {
    fn text(&self) -> String {
        let mut text = String::new();
        for (index, stream) in self.restored.iter().enumerate() {
            if index < SHOWN_MAX || !stream.kept.is_empty() {
                text.push_str(&format!("{} {}\n", printable(&stream.located.path), output::bytes(stream.bytes)));
            }
            for kept in &stream.kept {
                text.push_str(&format!("  what was there is kept as {}\n", printable(&kept.path)));
            }
        }
        let (streams, bytes) = (count(self.streams, "stream"), output::bytes(self.bytes));
        let (took, derivation) = (output::duration(self.duration_ms), output::key_derivation(self.key_derivation_ms));
        let (from, verified) = (printable(&self.from), if self.verified { "verified" } else { "not verified" });
        let lacking = match (self.failed.len() as u64, self.untried) {
            (0, 0) => String::new(),
            (failed, 0) => format!("; {failed} not restored"),
            (failed, untried) => format!("; {failed} not restored, {untried} not tried"),
        };
        text.push_str(&format!("restored {streams} of {from}, {bytes}, {verified}, in {took}{derivation}{lacking}\n"));
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
