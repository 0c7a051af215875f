//! `drill`.

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use icecore::engine::drill::{Assertion, NamedAssertion, Outcome};
use icecore::engine::place::Placement;
use icecore::engine::postgres::Conninfo;
use icecore::engine::postgres::drill::{ServerPlace, ServerStaging};
use icecore::engine::postgres::stream_names::{dumped_database, is_dump};
use icecore::fs::disk::RealDisk;
use icecore::ops::drill::demo::{DemoOptions, demo};
use icecore::ops::drill::{DrillOptions, Report, Staging, drill};
use icecore::ops::journal::Operation;
use icecore::ops::mark::{Statement, mark as put_mark};
use icecore::progress::Monitor;
use icecore::store::format::mark::MarkKind;
use icecore::store::repo::{Reader, Repository};
use serde::Serialize;

use super::args::FilterArgs;
use super::context::{Context, find_in};
use super::exit::{Exit, Failure};
use super::journaled::{Story, author, journaled};
use super::output::{self, SCHEMA, printable};
use super::{environment, time, whole};

/// Heads the options of drills on a server.
const HEADING: &str = "Of a PostgreSQL snapshot";

/// Permission bits of a report, before the umask: monitors read it.
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
    #[arg(long)]
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

#[derive(Serialize)]
struct Done {
    /// `snapshot` or `demo`.
    kind: &'static str,
    passed: bool,
    started: String,
    ended: String,
    tool: &'static str,
    host: String,
    user: String,
    /// Whether the snapshot was marked as verified.
    marked: bool,
    duration_ms: f64,
    drills: Vec<Drilled>,
}

#[derive(Serialize)]
struct Drilled {
    time: String,
    #[serde(flatten)]
    report: Report,
}

#[derive(Serialize)]
struct Document<'d> {
    schema: u32,
    #[serde(flatten)]
    done: &'d Done,
}

/// When the drill began.
struct Start {
    instant: Instant,
    now_ns: i64,
    rto: Option<Duration>,
}

/// `drill`.
pub(crate) fn run(context: &Context<'_>, args: &DrillArgs) -> Result<Exit, Failure> {
    let rto = args.rto.as_deref().map(time::seconds).transpose()?.map(|seconds| Duration::from_secs(seconds.unsigned_abs()));
    let start = Start { instant: Instant::now(), now_ns: time::now_ns(), rto };
    let Some(snap) = &args.snap else {
        let drills = of_demo(context, start.now_ns)?;
        let late = rto.is_some_and(|rto| start.instant.elapsed() > rto);
        return tell(context, args, Done::of("demo", drills, false, late, &start));
    };
    let repo = context.open()?;
    journaled(context, &repo, Operation::Drill, |story| {
        story.detail.clone_from(snap);
        let (report, marked) = of_snapshot(context, &repo, args, snap, &start, story)?;
        story.detail = format!("{} restored in {}", output::bytes(report.bytes), output::duration(report.restore_ms));
        story.detail.push_str(&format!(", checked in {}", output::duration(report.verify_ms)));
        // Whether it was in time, its own checks say.
        tell(context, args, Done::of("snapshot", vec![report], marked, false, &start))
    })
}

fn tell(context: &Context<'_>, args: &DrillArgs, done: Done) -> Result<Exit, Failure> {
    if let Some(path) = &args.report {
        write_report(path, &done)?;
    }
    let exit = if done.passed { Exit::Done } else { done.failure().exit };
    context.output.report_as(exit, &done, Done::text)?;
    if done.passed { Ok(Exit::Done) } else { Err(done.failure()) }
}

fn of_demo(context: &Context<'_>, now_ns: i64) -> Result<Vec<Report>, Failure> {
    let progress = context.progress();
    let placement = Placement { disk: &RealDisk, timestamp: time::compact(now_ns), monitor: &progress };
    let options = DemoOptions {
        scratch: context.local_dir().to_path_buf(),
        now_ns,
        host: environment::host(),
        user: environment::user(),
        threads: context.threads(),
    };
    Ok(demo(&options, &placement)?)
}

fn of_snapshot(
    context: &Context<'_>,
    repo: &Repository,
    args: &DrillArgs,
    snap: &str,
    start: &Start,
    story: &mut Story,
) -> Result<(Report, bool), Failure> {
    let progress = context.progress();
    let refreshed = context.refresh(repo, &progress)?;
    let (id, record) = find_in(&refreshed, snap, &args.filter)?.clone();
    story.snapshots.push(id);
    story.source = Some(record.source.id);
    let listing = Reader::new(repo).listing(&record.listing, &progress)?;
    let names: Vec<&[u8]> = listing.iter().map(|entry| entry.name.as_slice()).collect();
    let options = DrillOptions {
        staging: if icecore::engine::of(&record.source.kind).needs_server() {
            args.on_server(context)?
        } else {
            args.in_directory(context)?
        },
        assertions: args.check_sql.iter().map(|text| assertion(text, &names)).collect::<Result<_, _>>()?,
        started: start.instant,
        rto: start.rto,
        threads: context.threads(),
    };
    let placement = Placement { disk: &RealDisk, timestamp: time::compact(time::now_ns()), monitor: &progress };
    let report = drill(repo, (&id, &record), &options, &placement)?;
    repo.warn_of_healed(&progress);
    if !report.passed || args.no_mark {
        return Ok((report, false));
    }
    let statement = Statement { kind: MarkKind::Verified, code: String::new(), detail: "drill: restored and checked".to_owned() };
    let marked = put_mark(repo, &refreshed, &id, &statement, &author());
    if let Err(error) = &marked {
        // The proof stands without the mark, for example where the repository may only be read.
        progress.warn(&format!("the snapshot could not be marked as verified: {error}"));
    }
    Ok((report, marked.is_ok()))
}

impl DrillArgs {
    fn in_directory(&self, context: &Context<'_>) -> Result<Staging, Failure> {
        if self.server.dsn.is_some() || self.server.jobs.is_some() || self.server.pg_bin.is_some() {
            return Err(Failure::usage(
                "--dsn, --jobs and --pg-bin are for snapshots of PostgreSQL databases, and this is of something else",
            ));
        }
        match &self.staging {
            Some(dir) => Ok(Staging::Kept(dir.clone())),
            None => Ok(Staging::Scratch(context.local_dir().to_path_buf())),
        }
    }

    fn on_server(&self, context: &Context<'_>) -> Result<Staging, Failure> {
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

/// `NAME:SQL`, where NAME is a stream, or the database that a dump is of; anything else is all SQL.
fn assertion(text: &OsString, names: &[&[u8]]) -> Result<NamedAssertion, Failure> {
    let bytes = text.as_bytes();
    let after = |name: &[u8]| bytes.strip_prefix(name)?.strip_prefix(b":");
    let sql = |name: &[u8]| after(name).or_else(|| after(dumped_database(name).filter(|_| is_dump(name))?));
    let named = names.iter().filter_map(|name| Some((*name, sql(name)?))).max_by_key(|(name, _)| name.len());
    let (stream, sql) = named.map_or((None, bytes), |(name, sql)| (Some(name.to_vec()), sql));
    let sql = std::str::from_utf8(sql).map_err(|_| Failure::usage("an assertion is not UTF-8"))?.to_owned();
    Ok(NamedAssertion { stream, assertion: Assertion { sql } })
}

/// Complete or not at all, and durable: a monitor may read it at any time.
fn write_report(path: &Path, done: &Done) -> Result<(), Failure> {
    let failed = |e: &dyn std::fmt::Display| Failure::failed(format!("cannot write the report {}: {e}", path.display()));
    let mut bytes = serde_json::to_vec_pretty(&Document { schema: SCHEMA, done }).map_err(|e| failed(&e))?;
    bytes.push(b'\n');
    let above = path.parent().filter(|above| !above.as_os_str().is_empty());
    let made = above.map_or(Ok(()), std::fs::create_dir_all);
    made.and_then(|()| whole::write(path, &bytes, REPORT_MODE)).map_err(|e| failed(&e))
}

impl Done {
    fn of(kind: &'static str, drills: Vec<Report>, marked: bool, late: bool, start: &Start) -> Self {
        Done {
            kind,
            passed: !late && drills.iter().all(|report| report.passed),
            started: time::utc(start.now_ns),
            ended: time::utc(time::now_ns()),
            tool: concat!("icecore ", env!("CARGO_PKG_VERSION")),
            host: environment::host(),
            user: environment::user(),
            marked,
            duration_ms: output::ms(start.instant.elapsed().as_micros() as u64),
            drills: drills.into_iter().map(|report| Drilled { time: time::utc(report.time_ns), report }).collect(),
        }
    }

    /// Why the program ends with 4.
    fn failure(&self) -> Failure {
        let mut lines: Vec<String> = Vec::new();
        for check in self.drills.iter().flat_map(|drilled| drilled.report.failures()) {
            let stream = check.stream.as_ref().map_or_else(String::new, |name| format!("{name}: "));
            lines.push(format!("{stream}{}: {}", check.check, check.detail));
        }
        if lines.is_empty() {
            lines.push("it took too long".to_owned());
        }
        Failure { exit: Exit::Damaged, code: "drill-failed", message: format!("the drill failed: {}", lines.join("; ")) }
    }

    fn text(&self) -> String {
        let mut text = String::new();
        for Drilled { time, report } in &self.drills {
            let id: String = report.snapshot.chars().take(12).collect();
            text.push_str(&format!("snapshot {id} of {time}, {}\n", output::bytes(report.bytes)));
            for check in &report.checks {
                let outcome = match check.outcome {
                    Outcome::Passed => "ok",
                    Outcome::Failed => "FAILED",
                    Outcome::Skipped => "skipped",
                };
                let stream = check.stream.as_deref().unwrap_or_default();
                let line =
                    format!("  {outcome:<8}{:<10} {stream}{}{}", check.check, if stream.is_empty() { "" } else { ": " }, check.detail);
                text.push_str(&(printable(&line) + "\n"));
            }
            if let Some(user) = &report.server_user {
                text.push_str(&(printable(&format!("  on a server of its own, run by user {user}")) + "\n"));
            }
            text.push_str(&format!(
                "  recovery took {}: restore {}, checks {}\n",
                output::duration(report.recovery_ms),
                output::duration(report.restore_ms),
                output::duration(report.verify_ms)
            ));
        }
        let marked = if self.marked { ", and the snapshot is marked as verified" } else { "" };
        text.push_str(&format!(
            "the drill {} in {}{marked}\n",
            if self.passed { "passed" } else { "FAILED" },
            output::duration(self.duration_ms)
        ));
        text
    }
}
