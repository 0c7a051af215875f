//! `backup postgres`.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use icecore::engine::postgres::{Conninfo, Databases, LOCK_WAIT, PostgresOptions, PostgresSource};
use icecore::ops::journal::Operation;
use icecore::recorded::SourceKind;
use icecore::store::repo::Repository;
use serde::Serialize;

use super::args::RecordArgs;
use super::backup::{Done, name_source, options as record_options, take};
use super::context::Context;
use super::exit::{Exit, Failure};
use super::journaled::{Story, journaled};
use super::output::printable;
use super::{environment, time};

/// Take a snapshot of a PostgreSQL database: a dump, its schema, and the cluster's roles
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Connection settings mean what they mean to psql: a URI, `key=value` settings or a database's name, the variables PGHOST and so on, a \
                  service file, ~/.pgpass. A password in --dsn can be seen in the list of processes; the other ways keep it out of there. In a URI \
                  it has to be percent-encoded (@ is %40).\n\n\
                  Streams: DATABASE.pgdump (for pg_restore), schema.sql, globals.sql, and tables.tsv with the rows and a checksum of each table. With --jobs \
                  the dump is a directory, DATABASE.pgdir/ (for pg_restore -Fd), with a stream for each table.\n\n\
                  Examples:\n  icecore backup postgres --dsn postgresql://backup@db.example.org/brainstem\n  \
                  PGSERVICE=brain icecore backup postgres --no-role-passwords\n  \
                  icecore backup postgres --dsn postgresql://backup@db.example.org/brainstem --jobs 4 --tmp /var/tmp\n  \
                  icecore backup postgres --dsn postgresql://backup@db.example.org/brainstem --exclude-table-data 'public.session_*'"
)]
pub(crate) struct PostgresArgs {
    /// The database [default: what libpq's environment says]
    #[arg(long, value_name = "DSN")]
    pub(crate) dsn: Option<String>,
    /// The directory of pg_dump [default: the first on PATH or in Debian's directories that is as new as the server]
    #[arg(long, value_name = "DIR")]
    pub(crate) pg_bin: Option<PathBuf>,
    /// Leave password verifiers out of globals.sql; needed in an unencrypted repository, and where the role may not read them
    #[arg(long)]
    pub(crate) no_role_passwords: bool,
    /// Only globals.sql: roles and tablespaces
    #[arg(long, conflicts_with = "all_databases")]
    pub(crate) globals_only: bool,
    /// One snapshot of each database of the server but template0 and template1, all with one tag
    #[arg(long, conflicts_with = "source")]
    pub(crate) all_databases: bool,
    /// How long to wait for a locked table, seconds; others who want it wait as long
    #[arg(long, value_name = "SECONDS", default_value_t = LOCK_WAIT.as_secs(), value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub(crate) lock_wait_timeout: u64,
    /// Tables that are dumped at once; with more than one the dump lies in a private directory first, and each table is a stream of its own
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=256))]
    pub(crate) jobs: u16,
    /// Where that directory is made [default: TMPDIR, else /tmp]
    #[arg(long, value_name = "DIR")]
    pub(crate) tmp: Option<PathBuf>,
    /// Leave these tables out, as pg_dump does with such a pattern; recorded, and a restore says so
    #[arg(long, value_name = "PATTERN")]
    pub(crate) exclude_table: Vec<String>,
    /// Leave the rows of these tables out
    #[arg(long, value_name = "PATTERN")]
    pub(crate) exclude_table_data: Vec<String>,
    #[command(flatten)]
    pub(crate) record: RecordArgs,
}

/// Snapshots of several databases.
#[derive(Serialize)]
struct AllDone {
    tag: String,
    snapshots: Vec<Done>,
    failed: Vec<FailedView>,
    passed_over: Vec<PassedOver>,
}

#[derive(Serialize)]
struct FailedView {
    database: String,
    error: String,
}

#[derive(Serialize)]
struct PassedOver {
    database: String,
    reason: String,
}

/// `backup postgres`.
pub(crate) fn backup(context: &Context<'_>, args: &PostgresArgs) -> Result<Exit, Failure> {
    let environment = environment::everything();
    let conninfo = Conninfo::resolve(args.dsn.as_deref(), &environment)?.stopped_by(context.stop());
    let repo = context.open()?;
    if !repo.config().encrypted && !args.no_role_passwords {
        let text = "globals.sql holds the roles' password verifiers, and this repository is not encrypted: leave them out with --no-role-passwords";
        return Err(Failure::usage(text));
    }
    record_options(&args.record)?;
    let options = PostgresOptions {
        conninfo,
        environment,
        bin: args.pg_bin.clone(),
        role_passwords: !args.no_role_passwords,
        globals_only: args.globals_only,
        lock_wait: Duration::from_secs(args.lock_wait_timeout),
        jobs: usize::from(args.jobs),
        spool_dir: args.tmp.clone().unwrap_or_else(environment::temporary_dir),
        exclude_tables: args.exclude_table.clone(),
        exclude_table_data: args.exclude_table_data.clone(),
        on_table: Arc::new(|_| {}),
    };
    if args.all_databases {
        let done = all(context, &repo, &options, &args.record)?;
        context.output.report_or_warn(&done, AllDone::text, AllDone::problems)?;
        return Ok(done.exit());
    }
    journaled(context, &repo, Operation::Backup, |story| {
        let done = one(context, &repo, options, &args.record, story)?;
        context.output.report_or_warn(&done, Done::text, Done::problems)?;
        Ok(done.exit())
    })
}

fn one(
    context: &Context<'_>,
    repo: &Repository,
    options: PostgresOptions,
    record: &RecordArgs,
    story: &mut Story,
) -> Result<Done, Failure> {
    let label = options.conninfo.label();
    name_source(story, &SourceKind::POSTGRES, record, &if options.globals_only { format!("globals of {label}") } else { label });
    let progress = context.progress();
    let source = PostgresSource::connect(PostgresOptions { on_table: progress.on_item(), ..options })?;
    take(repo, &progress, &source, &record_options(record)?, story)
}

/// The databases of the server. In the journal only if it does not say.
fn databases(context: &Context<'_>, repo: &Repository, options: &PostgresOptions) -> Result<Databases, Failure> {
    let mut databases = Databases::default();
    journaled(context, repo, Operation::Backup, |story| {
        story.detail = format!("all databases, from {}", options.conninfo.label());
        databases = PostgresSource::connect(options.clone())?.databases()?;
        story.untold = true;
        Ok(Exit::Done)
    })?;
    Ok(databases)
}

/// One database after the other, each with an entry in the journal; one that fails does not stop those after it.
fn all(context: &Context<'_>, repo: &Repository, options: &PostgresOptions, record: &RecordArgs) -> Result<AllDone, Failure> {
    let Databases { names, passed_over } = databases(context, repo, options)?;
    let passed_over: Vec<PassedOver> = passed_over.into_iter().map(|(database, reason)| PassedOver { database, reason }).collect();
    for PassedOver { database, reason } in &passed_over {
        context.output.warn(&format!("database {database} is passed over: {reason}"));
    }
    let tag = format!("all-databases-{}", time::utc(time::now_ns()));
    let tags = record.tags.iter().cloned().chain([tag.clone()]).collect();
    let record = RecordArgs { tags, source: None, host: record.host.clone(), time: record.time.clone() };
    let mut done = AllDone { tag, snapshots: Vec::new(), failed: Vec::new(), passed_over };
    for database in names {
        let options = PostgresOptions { conninfo: options.conninfo.with_database(&database), ..options.clone() };
        let mut taken = None;
        let ended =
            journaled(context, repo, Operation::Backup, |story| Ok(taken.insert(one(context, repo, options, &record, story)?).exit()));
        match ended {
            Ok(_) => done.snapshots.extend(taken),
            Err(failure) if failure.exit == Exit::Failed => done.failed.push(FailedView { database, error: failure.message }),
            Err(failure) => return Err(failure),
        }
    }
    Ok(done)
}

impl AllDone {
    fn exit(&self) -> Exit {
        match (self.snapshots.is_empty(), self.failed.is_empty()) {
            (true, _) => Exit::Failed,
            (false, true) if self.snapshots.iter().all(|done| done.exit() == Exit::Done) => Exit::Done,
            (false, _) => Exit::Incomplete,
        }
    }

    /// What is not well.
    fn problems(&self) -> Vec<String> {
        let failed = self.failed.iter().map(|failed| format!("no snapshot of {}: {}", failed.database, failed.error));
        self.snapshots.iter().flat_map(Done::problems).chain(failed).collect()
    }

    fn text(&self) -> String {
        let mut text: String = self.snapshots.iter().map(Done::text).collect();
        for failed in &self.failed {
            text.push_str(&format!("no snapshot of {}: {}\n", printable(&failed.database), printable(&failed.error)));
        }
        text.push_str(&format!("tag {}\n", self.tag));
        text
    }
}
