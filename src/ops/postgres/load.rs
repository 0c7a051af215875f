//! `pg_restore`, fed with the dump.

use std::fs::File;
use std::io::{BufRead, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::process::{Command, Stdio};

use tempfile::NamedTempFile;

use super::ServerOptions;
use super::input::{At, Dump};
use super::making::Making;
use crate::error::{Error, Result};
use crate::progress::Monitor;
use crate::source::child;
use crate::source::postgres::Tools;
use crate::source::postgres::spool::PrivateDir;
use crate::source::program::{self, Program};

/// Loads the dump into the new database: through a pipe, or with several jobs from a file: the one that it is, or one that only this user may read. One
/// that is a directory becomes one again, in a private place.
pub(super) fn load(dump: &Dump, making: &Making<'_>, tools: &Tools, options: &ServerOptions, monitor: &dyn Monitor) -> Result<()> {
    monitor.phase("loading", Some(dump.len));
    let mut command = tools.command("pg_restore", &options.environment, &making.conninfo);
    // Materialized views are computed as in a session of the database itself, whose settings may name a time zone.
    command.env_remove("PGTZ");
    // What is given here is taken for a connection string if it looks like one, so it is one.
    let database = making.conninfo.database.replace('\\', "\\\\").replace('\'', "\\'");
    command.args(["--exit-on-error", "--no-password"]).arg(format!("--dbname=dbname='{database}'"));
    let left_out =
        [("--no-owner", options.no_owner), ("--no-privileges", options.no_privileges), ("--no-tablespaces", options.no_tablespaces)];
    command.args(left_out.into_iter().filter(|(_, is_given)| *is_given).map(|(option, _)| option));
    if !dump.needs_room(options.jobs) {
        return Loader::start(command.stdin(Stdio::piped()))?.run(Some(dump), monitor);
    }
    command.arg(format!("--jobs={}", options.jobs)).stdin(Stdio::null());
    let mut run = |path: &Path| {
        monitor.phase("loading", None);
        Loader::start(command.arg(path))?.run(None, monitor)
    };
    if let Some(files) = dump.files() {
        let spool = PrivateDir::create(&options.spool_dir)?;
        files.into_iter().try_for_each(|name| write_file(dump, At::File(name), &spool.path().join(name), monitor))?;
        return run(spool.path());
    }
    match dump.path() {
        Some(path) => run(path).and_then(|()| dump.is_still_there()),
        None => {
            let spool = spooled(dump, &options.spool_dir, monitor)?;
            run(spool.path())
        }
    }
}

/// A running pg_restore. Dropping it ends it.
struct Loader {
    program: Program,
    messages: child::Messages,
}

fn failed(detail: impl std::fmt::Display) -> Error {
    Error::source("pg_restore", detail)
}

impl Loader {
    fn start(command: &mut Command) -> Result<Self> {
        let cannot = |e: std::io::Error| failed(format!("cannot be run: {e}"));
        let mut program = Program::start(command.stdout(Stdio::null()).stderr(Stdio::piped())).map_err(cannot)?;
        let messages = child::Messages::collect(&mut program).map_err(cannot)?;
        Ok(Loader { program, messages })
    }

    /// Gives it the dump, if it reads that from a pipe, and waits for its end.
    fn run(mut self, dump: Option<&Dump>, monitor: &dyn Monitor) -> Result<()> {
        let pipe = self.program.stdin();
        let (fed, ended) = std::thread::scope(|scope| {
            // A pipe that is full makes its writer wait, who could not be interrupted then.
            let feeder = scope.spawn(move || match (dump, pipe) {
                (Some(dump), Some(mut pipe)) => {
                    copy(dump, At::Offset(0), monitor, &mut pipe, |e| failed(format!("does not take the dump: {e}")))
                }
                _ => Ok(()),
            });
            let ended = self.wait(monitor);
            (feeder.join().unwrap_or(Err(Error::Poisoned)), ended)
        });
        match (fed, ended) {
            _ if monitor.cancelled() => Err(Error::Cancelled),
            // What it says of a pipe that it has closed is worth more; of a dump that could not be read to its end, that is why.
            (Ok(()) | Err(Error::Source { .. }), Err(error)) => Err(error),
            (fed, _) => fed,
        }
    }

    fn wait(&mut self, monitor: &dyn Monitor) -> Result<()> {
        // One that is told to stop closes its end of the pipe, so that whoever writes to it ends too.
        let status = self.program.wait("pg_restore", monitor).inspect_err(|_| self.program.end())?;
        let messages = self.messages.take();
        let said = messages.trim_end();
        match program::failure(status) {
            None => {
                said.lines().for_each(|line| monitor.warn(line));
                Ok(())
            }
            Some(how) if said.is_empty() => Err(failed(how)),
            Some(how) => Err(failed(format!("{how}: {said}{}", advice(said)))),
        }
    }
}

fn advice(said: &str) -> &'static str {
    match () {
        () if said.contains("role ") && said.contains("does not exist") => {
            "\ncreate the role (`icecore dump SNAP globals.sql` has the statement), or use --no-owner --no-privileges"
        }
        () if said.contains("must be member of role") || said.contains("must be able to SET ROLE") => {
            "\nrestore as a superuser or a member of that role, or use --no-owner"
        }
        () if said.contains("permission denied") || said.contains("must be superuser") || said.contains("must be owner") => {
            "\nrestore as a superuser, or leave out what this role may not make with --no-owner --no-privileges"
        }
        () if said.contains("No space left") => "\nthe server's disk is full",
        () => "",
    }
}

fn copy(dump: &Dump, at: At<'_>, monitor: &dyn Monitor, out: &mut dyn Write, refused: impl Fn(std::io::Error) -> Error) -> Result<()> {
    let mut input = dump.input(at, monitor)?;
    loop {
        let got = match input.fill_buf() {
            Ok([]) => return Ok(()),
            Ok(bytes) => {
                out.write_all(bytes).map_err(&refused)?;
                bytes.len()
            }
            Err(e) => return Err(input.failure().unwrap_or_else(|| Error::source(&dump.name, e))),
        };
        input.consume(got);
    }
}

/// Writes a part of a dump to a new file, which only this user may read.
fn write_file(dump: &Dump, at: At<'_>, path: &Path, monitor: &dyn Monitor) -> Result<()> {
    let cannot = |what: &str, e: std::io::Error| Error::destination(path, format!("cannot be {what}: {e}; --tmp names another directory"));
    let file = File::options().write(true).create_new(true).mode(0o600).open(path).map_err(|e| cannot("made", e))?;
    copy(dump, at, monitor, &mut &file, |e| cannot("written", e))
}

/// The dump as a file that only this user may read, gone when dropped.
fn spooled(dump: &Dump, dir: &Path, monitor: &dyn Monitor) -> Result<NamedTempFile> {
    let cannot = |what: &str, e: std::io::Error| Error::destination(dir, format!("a dump cannot be {what} there: {e}; --tmp names another directory"));
    let spool = tempfile::Builder::new().prefix("icecore-").suffix(".pgdump").rand_bytes(16).tempfile_in(dir);
    let spool = spool.map_err(|e| cannot("put", e))?;
    copy(dump, At::Offset(0), monitor, &mut spool.as_file(), |e| cannot("written", e))?;
    Ok(spool)
}
