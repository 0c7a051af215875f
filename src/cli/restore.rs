//! The commands `restore` (to files) and `dump`. `restore_server.rs` restores into PostgreSQL, `salvage.rs` has `--salvage`.

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
use icecore::ops::export::{self, FromOptions};
use icecore::ops::journaled::{Report, Work};
use icecore::ops::restore::{self, Destination, Listed, RestoreOptions, RestoreReport, RestoreWish, perform, say_which};
use icecore::progress::Monitor;
use icecore::store::format::snapshot::SnapshotRecord;
use icecore::store::repo::Repository;

use super::args::{FilterArgs, SnapArgs, span};
use super::context::{Context, wanted};
use super::exit::{Exit, Failure};
use super::location::refuse_as_directory;
use super::outlet::Outlet;
use super::output::{self, count, printable};
use super::restore_modes::{Mode, mode_of, snap_of};
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
    #[arg(value_name = "SNAP")]
    pub(crate) snap: Option<OsString>,
    #[command(flatten)]
    pub(crate) filter: FilterArgs,
    /// Restore these streams onto these files, and directories into these directories; with --salvage NAME alone
    #[arg(value_name = "NAME=DEST")]
    pub(crate) streams: Vec<OsString>,
    /// Restore all streams into this directory
    #[arg(long, value_name = "DIR")]
    pub(crate) to: Option<PathBuf>,
    /// Give every byte that can be had of damaged streams, into a new directory: with zeros for what is lost, as NAME.salvaged
    #[arg(long)]
    pub(crate) salvage: bool,
    /// Restore files of an export, without a repository
    #[arg(long, value_name = "DIR")]
    pub(crate) from_dir: Option<PathBuf>,
    /// Write into databases that others may have open, through SQLite
    #[arg(long)]
    pub(crate) live: bool,
    /// With --live: how long to wait for a lock that somebody else holds on a database [default: 5s]
    #[arg(long, value_name = "SPAN", value_parser = span)]
    pub(crate) busy_timeout: Option<Duration>,
    /// Put a database in place although SQLite finds it damaged
    #[arg(long)]
    pub(crate) accept_damaged: bool,
    /// Restore no access control lists, extended attributes and capabilities; modes give no more than the lists did
    #[arg(long)]
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

/// How many restored paths the text lists.
const SHOWN_MAX: usize = 20;
/// `restore`.
pub(crate) fn restore(context: &Context<'_>, args: &RestoreArgs) -> Result<Exit, Failure> {
    for (option, dir) in [("--to", &args.to), ("--from-dir", &args.from_dir), ("--tmp", &args.server.tmp)] {
        dir.as_ref().map_or(Ok(()), |dir| refuse_as_directory(option, dir))?;
    }
    match (mode_of(args)?, &args.server.dsn, &args.from_dir) {
        (Mode::Export, _, Some(dir)) => return from_dir(context, dir, args),
        (Mode::Server | Mode::Table | Mode::ServerFromFile | Mode::TableFromFile, Some(dsn), _) => {
            return super::restore_server::restore(context, args, dsn);
        }
        _ => {}
    }
    let snap = snap_of(args)?;
    let repo = context.open()?;
    let wanted = wanted(snap, &args.filter)?;
    if let (true, Some(dir)) = (args.salvage, &args.to) {
        return super::salvage::salvage(context, &repo, &wanted, (dir, &args.streams), args.no_xattrs);
    }
    let progress = context.progress();
    let told = args.streams.iter().map(|stream| stream.to_string_lossy()).collect::<Vec<_>>().join(" ");
    let targets = |is_known: &dyn Fn(&[u8]) -> bool| args.streams.iter().map(|argument| targets::target(argument, is_known)).collect();
    let wish = RestoreWish {
        to: args.to.as_deref().map_or(Destination::Streams { told, targets: &targets }, Destination::Tree),
        options: RestoreOptions { database: database_options(args), live: args.live, no_xattrs: args.no_xattrs },
        timestamp: time::compact(time::now_ns()),
        listed_max: listed_max(context),
    };
    let work = Work { repo: &repo, worker: &context.worker(), monitor: &progress };
    let report = perform(&work, &wanted, &wish)?;
    drop(progress);
    let from = format!("snapshot {}", report.snapshot.as_deref().map(short).unwrap_or_default());
    context.output.report_as(report.outcome().into(), &report, |report| text(report, &from))
}

/// How many restored streams are kept for the report: all for JSON, the first ones for text.
fn listed_max(context: &Context<'_>) -> usize {
    if context.output.json { usize::MAX } else { SHOWN_MAX }
}

/// The start of an id, for people.
fn short(id: &str) -> String {
    id.chars().take(12).collect()
}

/// `restore --from-dir`. There is no SNAP, so the first argument is a NAME=DEST, too.
fn from_dir(context: &Context<'_>, dir: &Path, args: &RestoreArgs) -> Result<Exit, Failure> {
    let started = Instant::now();
    let arguments: Vec<&OsString> = args.snap.iter().chain(&args.streams).collect();
    let progress = context.progress();
    let given = export::open_directory(dir, &progress)?;
    if !given.is_verified() {
        let why = format!("{} has no {}: its files cannot be verified, only checked by SQLite", dir.display(), export::CHECKSUMS_NAME);
        progress.warn(&why);
    }
    let targets = arguments.into_iter().map(|argument| targets::target(argument, |name| given.has(name))).collect::<Result<Vec<_>, _>>()?;
    let database = database_options(args);
    let placement = Placement { disk: &RealDisk, timestamp: time::compact(time::now_ns()), monitor: &progress };
    let mut listed = Listed { max: listed_max(context), restored: Vec::new() };
    let options = FromOptions { database, live: args.live };
    let outcome = export::restore_given(&given, &targets, &options, &placement, &mut |restored| listed.add(restored))?;
    let report = RestoreReport {
        snapshot: given.snapshot().map(str::to_owned),
        duration_us: started.elapsed().as_micros() as u64,
        verified: given.is_verified(),
        ..RestoreReport::of(outcome, listed.restored, None, &progress)?
    };
    drop(progress);
    let named = given.snapshot().map_or_else(String::new, |id| format!(" (snapshot {})", short(id)));
    let from = format!("{}{named}", dir.display());
    context.output.report_as(report.outcome().into(), &report, |report| text(report, &from))
}

fn database_options(args: &RestoreArgs) -> DatabaseOptions {
    let default = DatabaseOptions::default();
    DatabaseOptions { accept_damaged: args.accept_damaged, busy_timeout: args.busy_timeout.unwrap_or(default.busy_timeout), ..default }
}

fn text(report: &RestoreReport, from: &str) -> String {
    let mut text = String::new();
    for (index, stream) in report.restored.iter().enumerate() {
        if index < SHOWN_MAX || !stream.placed.kept.is_empty() {
            text.push_str(&format!("{} {}\n", printable(&stream.placed.path.to_string_lossy()), output::bytes(stream.len)));
        }
        for kept in &stream.placed.kept {
            text.push_str(&format!("  what was there is kept as {}\n", printable(&kept.to_string_lossy())));
        }
    }
    let (streams, bytes) = (count(report.streams, "stream"), output::bytes(report.bytes));
    let took = output::took(report.duration_us, report.key_derivation_us, &[]);
    let word = report.outcome().word();
    let (from, verified) = (printable(from), if report.verified { "verified" } else { "not verified" });
    let lacking = match (report.failed.len() as u64, report.untried) {
        (0, 0) => String::new(),
        (failed, 0) => format!("; {word}: {failed} not restored"),
        (failed, untried) => format!("; {word}: {failed} not restored, {untried} not tried"),
    };
    text.push_str(&format!("restored {streams} of {from}, {bytes}, {verified}, in {took}{lacking}\n"));
    text
}

/// `dump`.
pub(crate) fn dump(context: &Context<'_>, args: &DumpArgs) -> Result<Exit, Failure> {
    use std::os::unix::ffi::OsStrExt;
    let repo = context.open()?;
    let progress = context.progress();
    let refreshed = context.refresh(&repo, &progress)?;
    let wanted = wanted(&args.snap.snap, &args.snap.filter)?;
    let (id, record) = wanted.find(&refreshed, &progress)?;
    // The standard library's handle would buffer lines and copy; the descriptor itself does not.
    let stdout = io::stdout().as_fd().try_clone_to_owned();
    let mut out = File::from(stdout.map_err(|e| Failure::failed(format!("cannot use standard output: {e}")))?);
    let is_file = out.metadata().is_ok_and(|meta| meta.is_file());
    let dumped = match is_file {
        true => restore::dump(&repo, record, args.name.as_bytes(), &mut out, &progress).map(drop),
        false => dump_to_pipe(&repo, record, args.name.as_bytes(), out, &progress),
    };
    repo.warn_of_healed(&progress);
    match dumped {
        Ok(()) => Ok(Exit::Done),
        Err(_) if progress.cancelled() => Err(Error::Cancelled.into()),
        Err(Error::Backend { operation: "write", source, .. }) if source.kind() == ErrorKind::BrokenPipe => Ok(Exit::ClosedPipe),
        Err(error) => Err(say_which(error, id, record).into()),
    }
}

fn dump_to_pipe(repo: &Repository, record: &SnapshotRecord, name: &[u8], pipe: File, monitor: &dyn Monitor) -> icecore::Result<()> {
    let failed = |e: io::Error| Error::backend("write", "standard output", e);
    let mut out = Outlet::start(pipe, monitor).map_err(failed)?;
    restore::dump(repo, record, name, &mut out, monitor)?;
    out.finish().map_err(failed)
}
