//! The command `drill`: restores a snapshot to a staging place and checks it there.

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use icecore::Error;
use icecore::engine::drill::{Assertion, NamedAssertion, Outcome};
use icecore::engine::postgres::Conninfo;
use icecore::engine::postgres::drill::{ServerPlace, ServerStaging};
use icecore::engine::postgres::stream_names::{dumped_database, is_dump};
use icecore::ops::drill::demo::DemoOptions;
use icecore::ops::drill::{DrillReport, DrillWish, Staging, Start, perform, perform_demo};
use icecore::ops::journaled::{Report, Work, Worker};
use icecore::recorded::SourceKind;

use super::args::FilterArgs;
use super::context::{Context, wanted};
use super::exit::{Exit, Failure};
use super::location::refuse_as_directory;
use super::output::{self, ms, printable};
use super::screen::{Screen, Tone};
use super::{environment, time, whole};

/// The heading of the options for servers.
const HEADING: &str = "Of a PostgreSQL snapshot";

/// Permission bits of a report file, before the umask. Monitoring programs of other users read it.
const REPORT_MODE: u32 = 0o666;

/// Prove that a snapshot restores: to a staging place, checked, against the clock
#[derive(Debug, clap::Args)]
#[command(
    after_help = "With SNAP: restores it to a staging directory, runs integrity_check on its databases, compares headers, row counts and content checksums \
                  with those recorded at the capture, runs the assertions, and measures the time from opening the repository to the end of the checks. \
                  A snapshot that passes is marked as verified.\n\
                  A PostgreSQL snapshot is restored to a server that is made for it from installed programs (initdb, postgres), with the roles of globals.sql, \
                  and gone at the end; or, with --dsn, as a database of another name on a server that is there, dropped at the end. Rows are counted and compared \
                  by dumping it once more, indexes and tables are looked through by amcheck. As root the server runs as user nobody: what the dump has run has no rights.\n\
                  Without SNAP: makes a small store of its own (memories with full-text recall, a model registry with its history), backs it up, changes it, \
                  backs it up again, restores both states and asks them what their users would ask. The repository is not used.\n\n\
                  Exits with 4 if a check fails.\n\n\
                  Examples:\n  icecore drill\n  icecore drill latest --rto 30m --report drill.json\n  \
                  icecore drill latest --check-sql 'memory.db:SELECT count(*) > 1000 FROM memory'\n  \
                  icecore drill latest --rto 1h --check-sql 'brainstem:SELECT count(*) > 1000 FROM memory'\n  \
                  icecore drill latest --dsn postgresql://admin@staging.example.org/postgres --jobs 4"
)]
pub(crate) struct DrillArgs {
    /// An id or the start of one, `latest`, `latest~N` or `@TIME`; without it a demonstration
    #[arg(value_name = "SNAP")]
    snap: Option<String>,
    #[command(flatten)]
    filter: FilterArgs,
    /// Restore to this new or empty directory, and leave it there [default: a temporary one beside the catalogs]; a PostgreSQL server is made below it, and goes
    /// [default: TMPDIR, else /var/tmp]
    #[arg(long, value_name = "DIR", requires = "snap")]
    staging: Option<PathBuf>,
    /// A query whose first value must be true (not zero, not null), on the restored database of this name; may be given several times
    #[arg(long, value_name = "[NAME:]SQL", requires = "snap")]
    check_sql: Vec<OsString>,
    /// Fail if the recovery takes longer: a number with s, m, h or d
    #[arg(long, value_name = "SPAN")]
    rto: Option<String>,
    /// Write the report, as with --json, to this file
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
    /// Do not mark the snapshot as verified
    #[arg(long, requires = "snap")]
    no_mark: bool,
    #[command(flatten)]
    server: ServerArgs,
}

/// How to drill on a server.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = HEADING)]
struct ServerArgs {
    /// Restore to this server, as a database beside the others [default: a server of its own]
    #[arg(long, value_name = "DSN", requires = "snap", conflicts_with = "staging")]
    dsn: Option<String>,
    /// Tables and indexes that are loaded at once; with more than one the dump is written to a private file first
    #[arg(long, value_name = "N", requires = "snap", value_parser = clap::value_parser!(u16).range(1..=256))]
    jobs: Option<u16>,
    /// Everything is to belong to the role that connects
    #[arg(long, requires = "dsn")]
    no_owner: bool,
    /// Leave out grants and default privileges
    #[arg(long, requires = "dsn")]
    no_privileges: bool,
    /// The directory of PostgreSQL's programs [default: the first on PATH or in Debian's directories that fit the dump]
    #[arg(long, value_name = "DIR", requires = "snap")]
    pg_bin: Option<PathBuf>,
}

/// `drill`.
pub(crate) fn run(context: &Context<'_>, args: &DrillArgs) -> Result<Exit, Failure> {
    let rto = args.rto.as_deref().map(time::seconds).transpose()?.map(|seconds| Duration::from_secs(seconds.unsigned_abs()));
    args.staging.as_ref().map_or(Ok(()), |dir| refuse_as_directory("--staging", dir))?;
    let start = Start { instant: Instant::now(), now_ns: time::now_ns(), rto };
    let worker = context.worker();
    let Some(snap) = &args.snap else {
        args.filter.refuse("a drill without SNAP, which does not use the repository")?;
        let progress = context.progress();
        let Worker { host, user, .. } = worker.clone();
        let scratch = context.local_dir().to_path_buf();
        let options = DemoOptions { scratch, now_ns: start.now_ns, host, user, threads: context.threads() };
        let report = perform_demo(&options, &worker, &start, &progress)?;
        drop(progress);
        return tell(context, args, &report);
    };
    let repo = context.open()?;
    let wanted = wanted(snap, &args.filter)?;
    let progress = context.progress();
    let staging = |kind: &SourceKind| match icecore::engine::of(kind).needs_server() {
        true => args.on_server(context),
        false => args.in_directory(context, kind),
    };
    let assertions = |names: &[&[u8]]| args.check_sql.iter().map(|text| assertion(text, names)).collect();
    let wish = DrillWish { staging: &staging, assertions: &assertions, start, mark: !args.no_mark };
    let report = perform(&Work { repo: &repo, worker: &worker, monitor: &progress }, &wanted, &wish)?;
    drop(progress);
    tell(context, args, &report)
}

/// Prints the report, and fails if the drill has failed.
fn tell(context: &Context<'_>, args: &DrillArgs, report: &DrillReport) -> Result<Exit, Failure> {
    if let Some(path) = &args.report {
        write_report(path, report)?;
    }
    let exit = context.output.report_as(report.outcome().into(), report, |report| text(report, &context.output.screen))?;
    match report.failure() {
        Some(message) => Err(Failure { exit: Exit::Damaged, code: "drill-failed", message }),
        None => Ok(exit),
    }
}

impl DrillArgs {
    fn in_directory(&self, context: &Context<'_>, kind: &SourceKind) -> icecore::Result<Staging> {
        let ServerArgs { dsn, jobs, pg_bin, .. } = &self.server;
        let given = [("--dsn", dsn.is_some()), ("--jobs", jobs.is_some()), ("--pg-bin", pg_bin.is_some())];
        if let Some((option, _)) = given.into_iter().find(|(_, is_given)| *is_given) {
            let text = format!("{option} is for snapshots of PostgreSQL databases, and this one is of another kind: {}", kind.name());
            return Err(Error::InvalidArgument(text));
        }
        match &self.staging {
            Some(dir) => Ok(Staging::Kept(dir.clone())),
            None => Ok(Staging::Scratch(context.local_dir().to_path_buf())),
        }
    }

    fn on_server(&self, context: &Context<'_>) -> icecore::Result<Staging> {
        let ServerArgs { dsn, jobs, no_owner, no_privileges, pg_bin } = &self.server;
        let environment = environment::everything();
        let place = match dsn {
            Some(dsn) => ServerPlace::Beside {
                conninfo: Box::new(Conninfo::resolve(Some(dsn), &environment)?.stopped_by(context.stop())),
                spool_dir: environment::temporary_dir(),
                no_owner: *no_owner,
                no_privileges: *no_privileges,
            },
            None => ServerPlace::ThrowAway {
                above: self.staging.clone().unwrap_or_else(environment::server_dir),
                account: environment::server_account()?,
            },
        };
        let jobs = usize::from(jobs.unwrap_or(1));
        Ok(Staging::Server(Box::new(ServerStaging { place, environment, bin: pg_bin.clone(), jobs })))
    }
}

/// Parses `NAME:SQL`. NAME is a stream or the database of a dump; without such a name all of it is SQL.
fn assertion(text: &OsString, names: &[&[u8]]) -> icecore::Result<NamedAssertion> {
    let bytes = text.as_bytes();
    let after = |name: &[u8]| bytes.strip_prefix(name)?.strip_prefix(b":");
    let sql = |name: &[u8]| after(name).or_else(|| after(dumped_database(name).filter(|_| is_dump(name))?));
    let named = names.iter().filter_map(|name| Some((*name, sql(name)?))).max_by_key(|(name, _)| name.len());
    let (stream, sql) = named.map_or((None, bytes), |(name, sql)| (Some(name.to_vec()), sql));
    let sql = std::str::from_utf8(sql).map_err(|_| Error::InvalidArgument("an assertion is not UTF-8".to_owned()))?.to_owned();
    Ok(NamedAssertion { stream, assertion: Assertion { sql } })
}

/// Writes the report in one step, because a monitor may read the file at any time.
fn write_report(path: &Path, report: &DrillReport) -> Result<(), Failure> {
    let failed = |e: &dyn std::fmt::Display| Failure::failed(format!("cannot write the report {}: {e}", path.display()));
    let bytes = output::document(report).map_err(|e| failed(&e))?;
    let above = path.parent().filter(|above| !above.as_os_str().is_empty());
    let made = above.map_or(Ok(()), std::fs::create_dir_all);
    made.and_then(|()| whole::write(path, &bytes, REPORT_MODE)).map_err(|e| failed(&e))
}

fn text(report: &DrillReport, screen: &Screen) -> String {
    let mut text = String::new();
    for drill in &report.drills {
        let id: String = drill.snapshot.chars().take(12).collect();
        text.push_str(&format!("snapshot {id} of {}, {}\n", time::utc(drill.time_ns), output::bytes(drill.bytes)));
        for check in &drill.checks {
            let outcome = match check.outcome {
                Outcome::Passed => "ok",
                Outcome::Failed => "FAILED",
                Outcome::Skipped => "skipped",
            };
            let stream = screen.name(check.stream.as_deref().unwrap_or_default());
            let line = format!("{:<10} {stream}{}{}", check.check, if stream.is_empty() { "" } else { ": " }, check.detail);
            let tone = if check.outcome == Outcome::Failed { Tone::Bad } else { Tone::Aside };
            let room = " ".repeat(8_usize.saturating_sub(outcome.len()));
            text.push_str(&format!("  {}{room}{}\n", screen.paint(tone, outcome), printable(&line)));
        }
        if let Some(user) = &drill.server_user {
            text.push_str(&(printable(&format!("  on a server of its own, run by user {user}")) + "\n"));
        }
        text.push_str(&format!(
            "  recovery took {}: restore {}, checks {}\n",
            output::duration(drill.recovery_ms),
            output::duration(drill.restore_ms),
            output::duration(drill.verify_ms)
        ));
    }
    let marked = if report.marked { ", and the snapshot is marked as verified" } else { "" };
    let (word, tone) = if report.passed { ("passed", Tone::Good) } else { ("FAILED", Tone::Bad) };
    text.push_str(&format!("the drill {} in {}{marked}\n", screen.paint(tone, word), output::duration(ms(report.duration_us))));
    text
}
