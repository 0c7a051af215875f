//! The command `backup postgres`.

use std::path::PathBuf;
use std::time::Duration;

use icecore::engine::postgres::{Conninfo, LOCK_WAIT, PostgresOptions, PostgresServer, PostgresSource};
use icecore::ops::backup::{AllTaken, perform, perform_all};
use icecore::ops::journaled::{Report, Work};
use icecore::recorded::SourceKind;

use super::args::RecordArgs;
use super::backup::{problems, recorded, text};
use super::context::Context;
use super::environment;
use super::exit::{Exit, Failure};
use super::output::{in_one_line, printable};
use super::screen::Screen;

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
    #[arg(long, conflicts_with_all = ["all_databases", "lock_wait_timeout", "jobs", "exclude_table", "exclude_table_data"])]
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
    /// With --jobs: where that directory is made [default: TMPDIR, else /tmp]
    #[arg(long, value_name = "DIR", requires = "jobs", conflicts_with = "globals_only")]
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

/// `backup postgres`.
pub(crate) fn backup(context: &Context<'_>, args: &PostgresArgs) -> Result<Exit, Failure> {
    let environment = environment::everything();
    let conninfo = Conninfo::resolve(args.dsn.as_deref(), &environment)?.stopped_by(context.stop());
    let repo = context.open()?;
    if !repo.config().encrypted && !args.no_role_passwords {
        let text = "globals.sql holds the roles' password verifiers, and this repository is not encrypted: leave them out with --no-role-passwords";
        return Err(Failure::usage(text));
    }
    let recorded = recorded(&args.record)?;
    let progress = context.progress();
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
        on_table: progress.on_item(),
    };
    let work = Work { repo: &repo, worker: &context.worker(), monitor: &progress };
    let screen = &context.output.screen;
    if args.all_databases {
        let all = perform_all(&work, &PostgresServer(options), &recorded)?;
        drop(progress);
        context.output.report_or_warn(&all, |all| all_text(all, screen), all_problems)?;
        return Ok(all.outcome().into());
    }
    let label = options.conninfo.label();
    let given = if options.globals_only { format!("globals of {label}") } else { label };
    let taken = perform(&work, (&SourceKind::POSTGRES, &given), &recorded, || Ok(Box::new(PostgresSource::connect(options)?)))?;
    drop(progress);
    context.output.report_or_warn(&taken, |taken| text(taken, screen), problems)?;
    Ok(taken.outcome().into())
}

/// The problems of all backups.
fn all_problems(all: &AllTaken) -> Vec<String> {
    let failed = all.failed.iter().map(|failed| format!("no snapshot of {}: {}", failed.database, failed.error));
    all.snapshots.iter().flat_map(problems).chain(failed).collect()
}

fn all_text(all: &AllTaken, screen: &Screen) -> String {
    let mut text: String = all.snapshots.iter().map(|taken| text(taken, screen)).collect();
    for failed in &all.failed {
        text.push_str(&format!("no snapshot of {}: {}\n", printable(&failed.database), in_one_line(&failed.error)));
    }
    text.push_str(&format!("tag {}\n", all.tag));
    text
}
