//! One capture of a database: its streams, in their order, and its facts.
//!
//! All programs run under the snapshot that our own transaction has exported. The next program is started while the
//! output of the current one is read, so that storing does not wait for it. A capture counts only if every program has
//! exited with 0 and its output is complete: SQL texts have their end mark, an archive was parsed to its end, and our
//! transaction still existed when the last program had its snapshot.

use std::collections::VecDeque;
use std::io::{BufRead, Cursor};
use std::process::Command;

use super::archive::{self, Archive, Unreadable};
use super::messages::explain;
use super::parallel::Directory;
use super::settings::NO_VIEWS;
use super::stream_names::{ARCHIVE_SUFFIX, stream_name};
use super::tables::{self, Tables};
use super::{Connection, PostgresOptions, PostgresSource, facts, lacking};
use crate::engine::child::{Running, Tee};
use crate::engine::{Body, Capture, CaptureReport, CapturedStream};
use crate::error::{Error, Result};
use crate::progress::Monitor;

/// The transaction in which everything is read.
const BEGIN: &str = "BEGIN TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY, NOT DEFERRABLE";
/// The last comment of pg_dump's SQL.
const END_OF_DUMP: &[u8] = b"-- PostgreSQL database dump complete";
/// The last comment of pg_dumpall's SQL.
const END_OF_CLUSTER_DUMP: &[u8] = b"-- PostgreSQL database cluster dump complete";
/// Bytes at the end in which that line must be. A `\unrestrict` with its key may follow it.
const TAIL: usize = 512;

/// The streams that are still to come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Globals,
    Dump,
    Schema,
    /// The files of a dump that lies in a directory.
    Files,
    Tables,
}

/// A stream, and the program that writes it.
struct Started {
    stream: CapturedStream,
    running: Option<(&'static str, Running<Seen>)>,
}

/// What was found in a program's output.
enum Seen {
    Text { is_complete: bool },
    Archive(Result<Archive, Unreadable>),
}

pub(super) struct PostgresCapture<'a> {
    source: &'a PostgresSource,
    monitor: &'a dyn Monitor,
    connection: Connection,
    /// The exported snapshot's name.
    snapshot: String,
    steps: VecDeque<Step>,
    /// The program whose output is the last stream that was returned.
    running: Option<(&'static str, Running<Seen>)>,
    /// The next stream, whose program runs already. Only one, since a role may have a limit of connections.
    ahead: Option<Started>,
    /// The dump that several jobs have written.
    directory: Option<Directory>,
    /// Whether the transaction has ended.
    has_ended: bool,
    tables: Tables,
    facts: Vec<(String, String)>,
}

/// The wait for locks in milliseconds, as a positive `int4`. 0 would mean to wait forever.
fn lock_wait_ms(options: &PostgresOptions) -> i32 {
    i32::try_from(options.lock_wait.as_millis()).unwrap_or(i32::MAX).max(1)
}

/// The warning about programs or a server that let an owner of tables run code as this role.
fn outdated(source: &PostgresSource, connection: &Connection) -> Option<String> {
    let text = "the owner of a table can have code run with the rights of this role while it is dumped (CVE-2024-7348)";
    match source.tools.lacking_fix() {
        Some(first) => Some(format!("{text}: this pg_dump is {}; install {first} or later", source.tools.version)),
        None if connection.knows_views => None,
        None => Some(format!("{text}: the server is too old to prevent it; install its latest minor version")),
    }
}

impl<'a> PostgresCapture<'a> {
    /// Begins the transaction, exports its snapshot and reads the facts. With several jobs it also dumps the whole
    /// database.
    pub(super) fn begin(source: &'a PostgresSource, mut connection: Connection, monitor: &'a dyn Monitor) -> Result<Self> {
        let (version, knows_views) = (connection.version, connection.knows_views);
        let kept = connection.kept_settings.iter().map(|setting| {
            format!("this role has {setting} and may not change it, so the dump may lack rows of damaged tables without an error")
        });
        kept.chain(source.unpinned.clone()).chain(outdated(source, &connection)).for_each(|warning| monitor.warn(&warning));
        connection.client.hurry(source.options.patience());
        let mut start = || {
            let client = &mut connection.client;
            if knows_views {
                client.batch_execute(NO_VIEWS)?;
            }
            client.batch_execute(BEGIN)?;
            // The queries below wait for a locked table no longer than pg_dump does.
            client.batch_execute(&format!("SET LOCAL lock_timeout = {}", lock_wait_ms(&source.options)))?;
            let snapshot: String = client.query_one("SELECT pg_export_snapshot()", &[])?.try_get(0)?;
            let mut facts = facts::read(client, version)?;
            facts.extend(lacking::read(client)?);
            Ok::<_, postgres::Error>((snapshot, facts))
        };
        let (snapshot, mut facts) = start().map_err(|e| source.options.conninfo.stopped_or(&e))?;
        if !source.options.globals_only {
            facts.iter().filter_map(|(name, value)| lacking::told(name, value)).for_each(|text| monitor.warn(&text));
        }
        facts.push(("pg_dump".to_owned(), source.tools.version.clone()));
        facts.extend(connection.system_identifier.iter().map(|id| ("system_identifier".to_owned(), id.clone())));
        facts.extend(source.options.excluded());
        let is_parallel = source.options.jobs > 1;
        let steps = match (source.options.globals_only, is_parallel) {
            (true, _) => vec![Step::Globals],
            (false, false) => vec![Step::Globals, Step::Dump, Step::Schema, Step::Tables],
            (false, true) => vec![Step::Globals, Step::Schema, Step::Files, Step::Tables],
        };
        let mut capture = PostgresCapture {
            source,
            monitor,
            connection,
            snapshot,
            steps: steps.into(),
            running: None,
            ahead: None,
            directory: None,
            has_ended: false,
            tables: Tables::default(),
            facts,
        };
        if is_parallel && !source.options.globals_only {
            capture.dump_directory()?;
        }
        Ok(capture)
    }

    /// Dumps into a directory, before any stream is returned.
    fn dump_directory(&mut self) -> Result<()> {
        let options = &self.source.options;
        let command = self.data_command(&[]);
        let place = (options.jobs, options.spool_dir.as_path());
        let dumped = Directory::dump(command, place, &options.conninfo.database, options.on_table.clone(), self.monitor);
        let (directory, messages) = dumped.map_err(|error| self.advise("pg_dump", error))?;
        if !messages.is_empty() {
            self.facts.push(("pg_dump_messages".to_owned(), messages));
        }
        self.directory = Some(directory);
        Ok(())
    }

    fn dump_command(&self, arguments: &[&str]) -> Command {
        let options = &self.source.options;
        let mut command = self.source.tools.command("pg_dump", &options.environment, &options.conninfo);
        command.args(arguments).arg("--no-password").arg(format!("--snapshot={}", self.snapshot)).arg(self.lock_wait());
        command.args(options.exclude_tables.iter().map(|pattern| format!("--exclude-table={pattern}")));
        command
    }

    /// The command for a dump with data.
    fn data_command(&self, arguments: &[&str]) -> Command {
        let mut command = self.dump_command(arguments);
        command.args(self.source.options.exclude_table_data.iter().map(|pattern| format!("--exclude-table-data={pattern}")));
        command
    }

    fn lock_wait(&self) -> String {
        format!("--lock-wait-timeout={}", lock_wait_ms(&self.source.options))
    }

    fn globals_command(&self) -> Command {
        let options = &self.source.options;
        let mut command = self.source.tools.command("pg_dumpall", &options.environment, &options.conninfo);
        // --database takes a value with `=` for a connection string. A connection string with the name in quotes is
        // right for every name.
        let database = options.conninfo.database.replace('\\', "\\\\").replace('\'', "\\'");
        command.args(["--globals-only", "--no-password"]).arg(self.lock_wait()).arg(format!("--database=dbname='{database}'"));
        if !options.role_passwords {
            command.arg("--no-role-passwords");
        }
        command
    }

    /// Starts the program of the next stream, or opens the next file.
    fn start_next(&mut self) -> Result<Option<Started>> {
        let Some(step) = self.steps.pop_front() else { return Ok(None) };
        Ok(Some(match step {
            Step::Globals => {
                let command = self.globals_command();
                start("globals.sql", "pg_dumpall", command, |output| text(output, END_OF_CLUSTER_DUMP))?
            }
            Step::Dump => {
                let command = self.data_command(&["-Fc", "-Z0"]);
                let name = format!("{}{ARCHIVE_SUFFIX}", stream_name(&self.source.options.conninfo.database));
                let on_table = self.source.options.on_table.clone();
                let watch = move |output: &mut Tee| Seen::Archive(archive::read(output, |entry| on_table(&entry.full_name())));
                start(&name, "pg_dump", command, watch)?
            }
            Step::Schema => {
                let command = self.dump_command(&["--schema-only"]);
                start("schema.sql", "pg_dump", command, |output| text(output, END_OF_DUMP))?
            }
            Step::Files => match self.next_file()? {
                Some(stream) => {
                    // There may be more.
                    self.steps.push_front(step);
                    Started { stream, running: None }
                }
                None => return self.start_next(),
            },
            Step::Tables => {
                let body = Body::Bytes(Box::new(Cursor::new(self.tables.encode().into_bytes())));
                Started { stream: CapturedStream::of_file(tables::STREAM, body), running: None }
            }
        }))
    }

    /// Waits for the program whose output was read last. It is an error if the program failed or its output is not
    /// complete.
    fn end_program(&mut self) -> Result<()> {
        let Some((program, running)) = self.running.take() else { return Ok(()) };
        let finished = running.finish(self.monitor).map_err(|error| self.advise(program, error))?;
        if !finished.messages.is_empty() {
            self.facts.push((format!("{program}_messages"), finished.messages));
        }
        match finished.seen {
            Seen::Text { is_complete: true } => Ok(()),
            Seen::Text { is_complete: false } => Err(Error::source(program, "its output is cut off, so there is no snapshot")),
            Seen::Archive(Err(error)) => {
                Err(Error::source(program, format!("its archive cannot be read, so there is no snapshot: {error}")))
            }
            Seen::Archive(Ok(archive)) if archive.database != self.source.options.conninfo.database => {
                let asked = &self.source.options.conninfo.database;
                Err(Error::source(
                    program,
                    format!("it has dumped database {} in place of {asked}, so there is no snapshot", archive.database),
                ))
            }
            Seen::Archive(Ok(archive)) => {
                self.take_tables(Tables::of(&archive));
                Ok(())
            }
        }
    }

    fn take_tables(&mut self, tables: Tables) {
        let rows: u64 = tables.blocks.iter().filter(|block| block.kind == "TABLE DATA").map(|block| block.rows).sum();
        self.facts.push(("rows".to_owned(), rows.to_string()));
        self.tables = tables;
    }

    /// The next file of a dump in a directory.
    fn next_file(&mut self) -> Result<Option<CapturedStream>> {
        // All programs have ended by now. Ending the transaction early lets the server clean up old row versions.
        self.end_transaction()?;
        let Some(directory) = &mut self.directory else { return Ok(None) };
        directory.end_file(self.monitor)?;
        let next = directory.next_stream()?;
        if next.is_none() {
            let tables = directory.tables();
            // Frees its space.
            self.directory = None;
            self.take_tables(tables);
        }
        Ok(next)
    }

    /// Ends our transaction. If it was lost, that is an error: it may have been lost before the last program had taken
    /// its snapshot.
    fn end_transaction(&mut self) -> Result<()> {
        if self.has_ended {
            return Ok(());
        }
        self.has_ended = true;
        let (ended, conninfo) = (self.connection.client.batch_execute("COMMIT"), &self.source.options.conninfo);
        ended.map_err(|e| match conninfo.stop.is_set() {
            true => Error::Cancelled,
            false => Error::source(&conninfo.database, format!("the connection was lost: {}", explain(&e))),
        })
    }

    /// Puts the remedy of common failures in front: what a program said can be long.
    fn advise(&self, program: &str, error: Error) -> Error {
        let text = error.to_string();
        let advice = if program == "pg_dumpall" && text.contains("pg_authid") {
            "this role may not read password verifiers; leave them out with --no-role-passwords"
        } else if text.contains("row-level security") {
            "a dump as this role would lack rows: dump as the owner, a superuser or a role with BYPASSRLS"
        } else if text.contains("Query was: LOCK TABLE") || text.contains("lock timeout") || text.contains("could not obtain lock") {
            "another session has locked a table: try later, or wait longer with --lock-wait-timeout"
        } else if text.contains("invalid snapshot identifier") {
            "icecore's connection was lost, and with it the transaction that held the snapshot"
        } else {
            ""
        };
        match error {
            Error::Source { path, detail } if !advice.is_empty() => Error::Source { path, detail: format!("{advice}; {detail}") },
            other => other,
        }
    }
}

impl Capture for PostgresCapture<'_> {
    fn total_bytes(&self) -> Option<u64> {
        None
    }

    fn next_stream(&mut self) -> Result<Option<CapturedStream>> {
        self.end_program()?;
        let next = match self.ahead.take() {
            Some(started) => Some(started),
            None => self.start_next()?,
        };
        // Only programs run ahead. Files need the transaction to be over, and the evidence is complete only after the
        // dump.
        let is_program = matches!(self.steps.front(), Some(Step::Globals | Step::Dump | Step::Schema));
        self.ahead = if is_program { self.start_next()? } else { None };
        Ok(next.map(|started| {
            self.running = started.running;
            started.stream
        }))
    }

    fn unreadable(&mut self, error: Error) -> Result<()> {
        // If the program has failed, its own message says more than the broken pipe.
        self.end_program()?;
        self.directory.as_mut().map_or(Ok(()), |directory| directory.end_file(self.monitor)).and(Err(error))
    }

    fn blocks_writers(&self) -> bool {
        false
    }

    fn finish(mut self: Box<Self>) -> Result<CaptureReport> {
        self.end_program()?;
        self.end_transaction()?;
        Ok(CaptureReport { facts: self.facts, ..CaptureReport::default() })
    }
}

/// Starts a program whose output is a stream.
fn start(name: &str, program: &'static str, command: Command, watch: impl FnOnce(&mut Tee) -> Seen + Send + 'static) -> Result<Started> {
    let (running, output) = Running::start(program, command, watch)?;
    Ok(Started { stream: CapturedStream::of_file(name, Body::Bytes(output)), running: Some((program, running)) })
}

/// Looks for the line at the end of an SQL dump. Only the last bytes are kept.
fn text(output: &mut Tee, end: &[u8]) -> Seen {
    let mut tail: Vec<u8> = Vec::new();
    while let Ok(bytes) = output.fill_buf() {
        let got = bytes.len();
        if got == 0 {
            break;
        }
        tail.extend_from_slice(bytes.get(got.saturating_sub(TAIL)..).unwrap_or_default());
        tail.drain(..tail.len().saturating_sub(TAIL));
        output.consume(got);
    }
    let lines = tail.split(|byte| *byte == b'\n');
    Seen::Text { is_complete: lines.into_iter().any(|line| line == end) }
}
