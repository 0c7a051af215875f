//! `restore --dsn`: restores a dump into a PostgreSQL server.

use std::path::PathBuf;

use icecore::engine::Environment;
use icecore::engine::postgres::Conninfo;
use icecore::engine::postgres::restore::{
    AtStake, Dump, RestoredDatabase, RestoredTable, ServerOptions, TableOptions, restore as restore_database, restore_table, slots_text,
};
use icecore::id::SnapshotId;
use icecore::ops::journaled::{Report, Work};
use icecore::ops::restore::{IntoServer, perform_into};
use icecore::progress::Monitor;

use super::context::{Context, wanted};
use super::exit::{Exit, Failure};
use super::output::{self, count, ms, printable};
use super::progress::Progress;
use super::restore::RestoreArgs;
use super::restore_modes::snap_of;
use super::{environment, time};

/// What `icecore restore --help` ends with.
pub(crate) const AFTER_HELP: &str = "\
Into a PostgreSQL server: the database that the snapshot is of is made anew beside the old one, loaded, analyzed, dumped and compared with the
snapshot; only then it takes the name. Any failure before that leaves the old one as it was. What would make it fail (roles, extensions, rights, space,
sessions that are connected) is looked for first. --dsn names the same database, or `postgres` to connect to; settings mean what they mean to psql.
A database of the name given with --as is replaced only if --dsn names it too.

If something cannot be restored, it is named and nothing is changed. With --keep-going --as NAME all the rest becomes a database of that name, what is
missing is listed, and the exit code is 3.

Roles and tablespaces belong to the server, not to a database. On a new server, first:
  icecore dump SNAP globals.sql | psql -d postgres

With --from-dir the files come from an export (see `icecore export`), and no repository is needed. If it has a checksums.txt, all files that this
names are verified before anything is touched; so it is with --from-file and the file's own line there.

--table makes one table with its rows beside what is in the database that --dsn names, as NAME_restored_TIMESTAMP in its schema, without indexes,
keys and triggers, to look at and to copy rows back from; only this table's part of the dump is read.

--salvage gives every byte that can be had of damaged streams. What is lost is zeros in the file, which never takes the stream's name but NAME.salvaged;
the report names the lost ranges and the tables of a database that have losses. The exit code is 4 if something is lost.

Examples:
  icecore restore latest --to restored
  icecore restore '@2026-11-23 03:15' memory.db=/var/lib/app/memory.db
  icecore restore latest --salvage --to salvaged
  icecore restore --from-dir /srv/artefacts/brain memory.db=/var/lib/app/memory.db
  icecore restore latest --dsn postgresql://admin@db.example.org/brainstem --jobs 4
  icecore restore latest --dsn postgresql://admin@db.example.org/postgres --as brainstem_yesterday
  icecore restore latest --dsn postgresql://admin@db.example.org/postgres --as brainstem_rest --keep-going
  icecore restore latest --dsn postgresql://admin@db.example.org/brainstem --table public.users
  icecore restore --from-file brainstem.pgdump --dsn postgresql://admin@db.example.org/postgres";

/// The heading of the options for servers.
const HEADING: &str = "Into a PostgreSQL server";

/// How to restore into a server.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = HEADING)]
pub(crate) struct ServerArgs {
    /// The server, and the database to replace or to connect to
    #[arg(long, value_name = "DSN")]
    pub(crate) dsn: Option<String>,
    /// Restore this dump in place of a snapshot's, checked against the checksums.txt beside it
    #[arg(long, value_name = "FILE")]
    pub(crate) from_file: Option<PathBuf>,
    /// The new database's name; with --table the new table's
    #[arg(long = "as", value_name = "NAME")]
    pub(crate) name: Option<String>,
    /// Only this table; names as they are, or each in double quotes as in SQL
    #[arg(long, value_name = "SCHEMA.NAME")]
    pub(crate) table: Option<String>,
    /// Tables and indexes that are loaded at once; with more than one, or if it was backed up so, a snapshot's dump is written to a private place first [default: 1]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=256))]
    pub(crate) jobs: Option<u16>,
    /// The directory of that place, and of other temporary files [default: TMPDIR, else /tmp]
    #[arg(long, value_name = "DIR")]
    pub(crate) tmp: Option<PathBuf>,
    /// End the sessions that are connected to the old database
    #[arg(long)]
    pub(crate) disconnect: bool,
    /// Everything is to belong to the role that connects
    #[arg(long)]
    pub(crate) no_owner: bool,
    /// Leave out grants and default privileges
    #[arg(long)]
    pub(crate) no_privileges: bool,
    /// Put everything into the default tablespace
    #[arg(long)]
    pub(crate) no_tablespaces: bool,
    /// Do not dump the new database to compare it
    #[arg(long)]
    pub(crate) no_verify: bool,
    /// Where something cannot be restored, go on with all the rest, list it, and exit with 3; into a database of another name only
    #[arg(long)]
    pub(crate) keep_going: bool,
    /// The directory of pg_restore and pg_dump [default: the first on PATH or in Debian's directories that is as new as the server]
    #[arg(long, value_name = "DIR")]
    pub(crate) pg_bin: Option<PathBuf>,
}

/// `restore --dsn`.
pub(crate) fn restore(context: &Context<'_>, restore: &RestoreArgs, dsn: &str) -> Result<Exit, Failure> {
    let args = &restore.server;
    let environment = environment::everything();
    let conninfo = Conninfo::resolve(Some(dsn), &environment)?.stopped_by(context.stop());
    if let Some(path) = &args.from_file {
        let progress = context.progress();
        let dump = Dump::of_file(path, &progress)?;
        let from = path.display().to_string();
        if let Some(table) = &args.table {
            let options = table_options(args, conninfo, table);
            let report = IntoServer::by(None, || Ok((restore_table(&dump, &options, &progress)?, true)))?;
            return tell_table(context, progress, &report, &from);
        }
        let options = server_options(args, conninfo, environment);
        let report = IntoServer::by(None, || load(&dump, &options, &progress))?;
        return tell(context, progress, &report, &from);
    }
    let snap = snap_of(restore)?;
    let repo = context.open()?;
    let (wanted, label) = (wanted(snap, &restore.filter)?, conninfo.label());
    let progress = context.progress();
    let work = Work { repo: &repo, worker: &context.worker(), monitor: &progress };
    if let Some(table) = &args.table {
        let options = table_options(args, conninfo, table);
        let load = |stored| Ok((restore_table(&Dump::of_snapshot(stored)?, &options, &progress)?, true));
        let report = perform_into(&work, &wanted, &label, load)?;
        return tell_table(context, progress, &report, &name_of(report.snapshot));
    }
    let options = server_options(args, conninfo, environment);
    let report = perform_into(&work, &wanted, &label, |stored| load(&Dump::of_snapshot(stored)?, &options, &progress))?;
    tell(context, progress, &report, &name_of(report.snapshot))
}

/// For people.
fn name_of(snapshot: Option<SnapshotId>) -> String {
    snapshot.map_or_else(String::new, |id| format!("snapshot {}", id.short()))
}

fn table_options(args: &ServerArgs, conninfo: Conninfo, table: &str) -> TableOptions {
    TableOptions { conninfo, table: table.to_owned(), name: args.name.clone(), timestamp: time::compact(time::now_ns()) }
}

fn server_options(args: &ServerArgs, conninfo: Conninfo, environment: Environment) -> ServerOptions {
    ServerOptions {
        conninfo,
        bin: args.pg_bin.clone(),
        name: args.name.clone(),
        jobs: usize::from(args.jobs.unwrap_or(1)),
        spool_dir: args.tmp.clone().unwrap_or_else(environment::temporary_dir),
        environment,
        timestamp: time::compact(time::now_ns()),
        disconnect: args.disconnect,
        no_owner: args.no_owner,
        no_privileges: args.no_privileges,
        no_tablespaces: args.no_tablespaces,
        verify: !args.no_verify,
        keep_going: args.keep_going,
        at_stake: AtStake::Role,
    }
}

/// Restores the database; also says whether nothing is missing.
fn load(dump: &Dump, options: &ServerOptions, progress: &Progress) -> icecore::Result<(RestoredDatabase, bool)> {
    let restored = restore_database(dump, options, progress)?;
    let is_whole = restored.failed.is_empty();
    Ok((restored, is_whole))
}

fn tell(context: &Context<'_>, progress: Progress, report: &IntoServer<RestoredDatabase>, from: &str) -> Result<Exit, Failure> {
    let restored = &report.restored;
    if !restored.slots.is_empty() {
        progress.warn(&slots_text(&restored.name, &restored.slots));
    }
    for failed in &restored.failed {
        progress.warn(&format!("not restored: {}: {}", failed.object, failed.reason));
    }
    drop(progress);
    context.output.report(report, |report| text(report, from))?;
    Ok(report.outcome().into())
}

fn tell_table(context: &Context<'_>, progress: Progress, report: &IntoServer<RestoredTable>, from: &str) -> Result<Exit, Failure> {
    drop(progress);
    context.output.report(report, |report| table_text(report, from))?;
    Ok(report.outcome().into())
}

fn text(report: &IntoServer<RestoredDatabase>, from: &str) -> String {
    /// How many definitions the text names.
    const SHOWN_MAX: usize = 5;
    let restored = &report.restored;
    let mut text = String::new();
    if !restored.differing.is_empty() {
        let some = restored.differing.iter().take(SHOWN_MAX).cloned().collect::<Vec<_>>().join(", ");
        let number = count(restored.differing.len() as u64, "definition");
        text.push_str(&format!("{number} written in other words by the server now: {}\n", printable(&some)));
    }
    if let Some(kept) = &restored.kept {
        text.push_str(&format!("the old database is kept as {}\n", printable(kept)));
    }
    let (tables, rows) = (count(restored.tables, "table"), count(restored.rows, "row"));
    let objects = if restored.large_objects > 0 { format!(", {}", count(restored.large_objects, "large object")) } else { String::new() };
    let verified = match (restored.verified, restored.failed.len() as u64) {
        (true, 0) => "verified".to_owned(),
        (false, 0) => "not verified".to_owned(),
        (_, failed) => format!("but for {}", count(failed, "thing")),
    };
    let (server, from, took) = (printable(&restored.label), printable(from), output::duration(ms(report.duration_us)));
    text.push_str(&format!("restored {server} from {from}: {tables}, {rows}{objects}, {verified}, in {took}\n"));
    text
}

fn table_text(report: &IntoServer<RestoredTable>, from: &str) -> String {
    let restored = &report.restored;
    let (rows, read, took) = (count(restored.rows, "row"), output::bytes(restored.read_bytes), output::duration(ms(report.duration_us)));
    let (table, server, from) = (printable(&restored.name), printable(&restored.label), printable(from));
    format!("restored table {table} in {server} from {from}: {rows}, verified, {read} of the dump read, in {took}\n")
}
