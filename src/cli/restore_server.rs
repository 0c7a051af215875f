//! `restore --dsn`: into a PostgreSQL server.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Instant;

use icecore::engine::Environment;
use icecore::engine::postgres::Conninfo;
use icecore::engine::postgres::restore::{
    AtStake, Dump, FailedObject, RestoredDatabase, RestoredTable, ServerOptions, TableOptions, restore as restore_database, restore_table,
    slots_text,
};
use icecore::ops::journal::Operation;
use icecore::ops::stored::stored;
use icecore::progress::Monitor;
use serde::Serialize;

use super::args::FilterArgs;
use super::context::{Context, find_in};
use super::exit::{Exit, Failure};
use super::journaled::journaled;
use super::output::{self, count, printable};
use super::progress::Progress;
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

/// Heads the options of restores into a server.
const HEADING: &str = "Into a PostgreSQL server";

/// What needs --dsn. It has to be said where --dsn is refused, too: there clap does not ask for what else an option needs.
pub(crate) const FOR_SERVERS: [&str; 11] =
    ["name", "table", "jobs", "tmp", "disconnect", "no_owner", "no_privileges", "no_tablespaces", "no_verify", "keep_going", "pg_bin"];

/// How to restore into a server.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = HEADING)]
pub(crate) struct ServerArgs {
    /// The server, and the database to replace or to connect to
    #[arg(long, value_name = "DSN", conflicts_with_all = ["to", "from_dir", "live", "accept_damaged"])]
    pub(crate) dsn: Option<String>,
    /// Restore this dump in place of a snapshot's, checked against the checksums.txt beside it
    #[arg(long, value_name = "FILE", requires = "dsn", conflicts_with_all = ["source", "tag", "host"])]
    pub(crate) from_file: Option<PathBuf>,
    /// The new database's name; with --table the new table's
    #[arg(long = "as", value_name = "NAME", requires = "dsn")]
    pub(crate) name: Option<String>,
    /// Only this table; names as they are, or each in double quotes as in SQL
    #[arg(long, value_name = "SCHEMA.NAME", requires = "dsn")]
    pub(crate) table: Option<String>,
    /// Tables and indexes that are loaded at once; with more than one, or if it was backed up so, a snapshot's dump is written to a private place first
    #[arg(long, value_name = "N", requires = "dsn", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=256))]
    pub(crate) jobs: u16,
    /// The directory of that place [default: TMPDIR, else /tmp]
    #[arg(long, value_name = "DIR", requires = "dsn")]
    pub(crate) tmp: Option<PathBuf>,
    /// End the sessions that are connected to the old database
    #[arg(long, requires = "dsn")]
    pub(crate) disconnect: bool,
    /// Everything is to belong to the role that connects
    #[arg(long, requires = "dsn")]
    pub(crate) no_owner: bool,
    /// Leave out grants and default privileges
    #[arg(long, requires = "dsn")]
    pub(crate) no_privileges: bool,
    /// Put everything into the default tablespace
    #[arg(long, requires = "dsn")]
    pub(crate) no_tablespaces: bool,
    /// Do not dump the new database to compare it
    #[arg(long, requires = "dsn")]
    pub(crate) no_verify: bool,
    /// Where something cannot be restored, go on with all the rest, list it, and exit with 3; into a database of another name only
    #[arg(long, requires_all = ["dsn", "name"], conflicts_with = "table")]
    pub(crate) keep_going: bool,
    /// The directory of pg_restore and pg_dump [default: the first on PATH or in Debian's directories that is as new as the server]
    #[arg(long, value_name = "DIR", requires = "dsn")]
    pub(crate) pg_bin: Option<PathBuf>,
}

#[derive(Serialize)]
struct Done {
    /// Of a file, none.
    snapshot: Option<String>,
    database: String,
    server: String,
    kept: Option<String>,
    tables: u64,
    rows: u64,
    large_objects: u64,
    dump_bytes: u64,
    verified: bool,
    differing: Vec<String>,
    failed: Vec<FailedObject>,
    slots: Vec<String>,
    duration_ms: f64,
    #[serde(skip)]
    from: String,
}

#[derive(Serialize)]
struct TableDone {
    snapshot: Option<String>,
    table: String,
    server: String,
    rows: u64,
    read_bytes: u64,
    duration_ms: f64,
    #[serde(skip)]
    from: String,
}

/// `restore --dsn`.
pub(crate) fn restore(
    context: &Context<'_>,
    (snap, filter): (Option<&OsString>, &FilterArgs),
    args: &ServerArgs,
    dsn: &str,
) -> Result<Exit, Failure> {
    let environment = environment::everything();
    let conninfo = Conninfo::resolve(Some(dsn), &environment)?.stopped_by(context.stop());
    if let Some(path) = &args.from_file {
        let progress = context.progress();
        let dump = Dump::of_file(path, &progress)?;
        let from = Origin { snapshot: None, name: path.display().to_string() };
        return load(context, args, (conninfo, environment), &dump, from, progress);
    }
    let snap = snap.ok_or_else(|| Failure::usage("say which snapshot: SNAP, or --from-file FILE"))?;
    let snap = snap.to_str().ok_or_else(|| Failure::usage("SNAP is not UTF-8"))?;
    let repo = context.open()?;
    journaled(context, &repo, Operation::Restore, |story| {
        story.detail = format!("{snap} to {}", conninfo.label());
        let progress = context.progress();
        let (id, record) = find_in(&context.refresh(&repo, &progress)?, snap, filter)?.clone();
        story.snapshots.push(id);
        story.source = Some(record.source.id);
        for flag in &record.flags {
            progress.warn(&format!("snapshot {} is flagged {}: {}", id.short(), flag.code, flag.detail));
        }
        let from = Origin { snapshot: Some(id.to_string()), name: format!("snapshot {}", id.short()) };
        let dump = Dump::of_snapshot(stored(&repo, &record, &progress)?)?;
        load(context, args, (conninfo, environment), &dump, from, progress)
    })
}

/// Where a dump comes from.
struct Origin {
    snapshot: Option<String>,
    /// For people.
    name: String,
}

fn load(
    context: &Context<'_>,
    server: &ServerArgs,
    (conninfo, environment): (Conninfo, Environment),
    dump: &Dump,
    from: Origin,
    progress: Progress,
) -> Result<Exit, Failure> {
    let timestamp = time::compact(time::now_ns());
    let started = Instant::now();
    let ms = || output::ms(started.elapsed().as_micros() as u64);
    if let Some(table) = &server.table {
        let options = TableOptions { conninfo, table: table.clone(), name: server.name.clone(), timestamp };
        let restored = restore_table(dump, &options, &progress)?;
        drop(progress);
        context.output.report(&TableDone::of(restored, from, ms()), TableDone::text)?;
        return Ok(Exit::Done);
    }
    let options = ServerOptions {
        conninfo,
        bin: server.pg_bin.clone(),
        name: server.name.clone(),
        jobs: usize::from(server.jobs),
        spool_dir: server.tmp.clone().unwrap_or_else(environment::temporary_dir),
        environment,
        timestamp,
        disconnect: server.disconnect,
        no_owner: server.no_owner,
        no_privileges: server.no_privileges,
        no_tablespaces: server.no_tablespaces,
        verify: !server.no_verify,
        keep_going: server.keep_going,
        at_stake: AtStake::Role,
    };
    let restored = restore_database(dump, &options, &progress)?;
    let exit = if restored.failed.is_empty() { Exit::Done } else { Exit::Incomplete };
    if !restored.slots.is_empty() {
        progress.warn(&slots_text(&restored.name, &restored.slots));
    }
    for failed in &restored.failed {
        progress.warn(&format!("not restored: {}: {}", failed.object, failed.reason));
    }
    drop(progress);
    context.output.report(&Done::of(restored, from, ms()), Done::text)?;
    Ok(exit)
}

impl Done {
    fn of(restored: RestoredDatabase, from: Origin, duration_ms: f64) -> Self {
        let RestoredDatabase { name, label, kept, tables, rows, large_objects, dump_bytes, verified, differing, failed, slots } = restored;
        Done {
            snapshot: from.snapshot,
            database: name,
            server: label,
            kept,
            tables,
            rows,
            large_objects,
            dump_bytes,
            verified,
            differing,
            failed,
            slots,
            duration_ms,
            from: from.name,
        }
    }

    fn text(&self) -> String {
        /// More are no news to anyone.
        const SHOWN_MAX: usize = 5;
        let mut text = String::new();
        if !self.differing.is_empty() {
            let some = self.differing.iter().take(SHOWN_MAX).cloned().collect::<Vec<_>>().join(", ");
            let number = count(self.differing.len() as u64, "definition");
            text.push_str(&format!("{number} written in other words by the server now: {}\n", printable(&some)));
        }
        if let Some(kept) = &self.kept {
            text.push_str(&format!("the old database is kept as {}\n", printable(kept)));
        }
        let (tables, rows) = (count(self.tables, "table"), count(self.rows, "row"));
        let objects = if self.large_objects > 0 { format!(", {}", count(self.large_objects, "large object")) } else { String::new() };
        let verified = match (self.verified, self.failed.len() as u64) {
            (true, 0) => "verified".to_owned(),
            (false, 0) => "not verified".to_owned(),
            (_, failed) => format!("but for {}", count(failed, "thing")),
        };
        let (server, from, took) = (printable(&self.server), printable(&self.from), output::duration(self.duration_ms));
        text.push_str(&format!("restored {server} from {from}: {tables}, {rows}{objects}, {verified}, in {took}\n"));
        text
    }
}

impl TableDone {
    fn of(restored: RestoredTable, from: Origin, duration_ms: f64) -> Self {
        let RestoredTable { name, label, rows, bytes, head_bytes } = restored;
        TableDone {
            snapshot: from.snapshot,
            table: name,
            server: label,
            rows,
            read_bytes: bytes + head_bytes,
            duration_ms,
            from: from.name,
        }
    }

    fn text(&self) -> String {
        let (rows, read, took) = (count(self.rows, "row"), output::bytes(self.read_bytes), output::duration(self.duration_ms));
        let (table, server, from) = (printable(&self.table), printable(&self.server), printable(&self.from));
        format!("restored table {table} in {server} from {from}: {rows}, verified, {read} of the dump read, in {took}\n")
    }
}
