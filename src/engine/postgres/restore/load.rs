//! Loads a dump into the new database with `pg_restore`.
//!
//! One run of `pg_restore` loads everything, or one run for each pass (see `passes`), with a list of its entries. It
//! reads the dump through a pipe if it can. Several jobs and dumps that are directories need a path: that of the dump's
//! own file, or a private copy in `--tmp`.
//!
//! Guarantee: an exit code other than 0 is an error, unless `keep_going` and `pg_restore` went on to the end. No
//! failing statement is repeated in a message, since it may hold a password (`failures`). Lists and private copies are
//! where no other user can change them.

use std::fs::File;
use std::io::{BufRead, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::process::{Command, Stdio};

use tempfile::NamedTempFile;

use super::ServerOptions;
use super::dump::{At, Dump};
use super::failures::{FailedObject, Said};
use super::logins::{self, Logins};
use super::making::{self, Making};
use super::passes::Pass;
use super::preflight::some;
use crate::engine::child;
use crate::engine::postgres::archive::Archive;
use crate::engine::postgres::messages::explain;
use crate::engine::postgres::private_dir::{PrivateDir, refuse_if_changeable};
use crate::engine::postgres::{Connection, Conninfo, Tools};
use crate::engine::program::{self, Program};
use crate::error::{Error, Result, joined};
use crate::progress::Monitor;

/// Where pg_restore reads the dump.
enum Place<'a> {
    Pipe,
    Path(&'a Path),
}

/// Loads the dump into the new database. `head` is its table of contents. With `keep_going`, the objects that could not
/// be loaded are returned.
pub(super) fn load(
    (dump, head): (&Dump, &Archive),
    making: &Making<'_>,
    tools: &Tools,
    options: &ServerOptions,
    logins: &Logins,
    monitor: &dyn Monitor,
) -> Result<Vec<FailedObject>> {
    monitor.phase("loading", Some(dump.len));
    let how = How { head, keep_going: options.keep_going, is_part: !logins.passes.is_empty(), monitor };
    let work = Work { dump, making, tools, options, logins, how };
    if !dump.needs_room(options.jobs) {
        return work.run(&Place::Pipe);
    }
    // A dump in the directory format: its files are written to a private directory, as pg_restore cannot read them from
    // a pipe.
    if let Some(files) = dump.files() {
        let spool = PrivateDir::create(&options.spool_dir)?;
        files.into_iter().try_for_each(|name| write_file(dump, At::File(name), &spool.path().join(name), monitor))?;
        return work.run(&Place::Path(spool.path()));
    }
    match dump.path() {
        Some(path) => {
            let failed = work.run(&Place::Path(path))?;
            // pg_restore opened the path by itself. If the file was exchanged meanwhile, another dump than the checked
            // one was loaded.
            dump.is_still_there().map(|()| failed)
        }
        None => {
            let spool = spooled(dump, &options.spool_dir, monitor)?;
            work.run(&Place::Path(spool.path()))
        }
    }
}

/// What is loaded, and how.
struct Work<'a> {
    dump: &'a Dump,
    making: &'a Making<'a>,
    tools: &'a Tools,
    options: &'a ServerOptions,
    logins: &'a Logins,
    how: How<'a>,
}

impl Work<'_> {
    fn run(&self, place: &Place<'_>) -> Result<Vec<FailedObject>> {
        if self.logins.passes.is_empty() {
            return self.restore(place, self.command(&self.making.conninfo)?);
        }
        let failed: Result<Vec<Vec<FailedObject>>> = self.logins.passes.iter().map(|pass| self.pass(place, pass)).collect();
        // After a failure this is not needed: the caller drops the database, and everything that the roles own in it.
        Ok(failed?.concat()).and_then(|failed| self.logins.let_go(&self.making.conninfo).map(|()| failed))
    }

    /// Restores the entries of one pass, as the role that the plan names.
    fn pass(&self, place: &Place<'_>, pass: &Pass) -> Result<Vec<FailedObject>> {
        let dir = &self.options.spool_dir;
        // A user who could exchange the list could have an entry restored with a superuser's rights.
        refuse_if_changeable(dir)?;
        let cannot = |e: std::io::Error| {
            Error::destination(
                dir,
                format!("pg_restore's list of entries cannot be written there: {e}; choose another directory with --tmp"),
            )
        };
        let mut list = tempfile::Builder::new().prefix("icecore-").suffix(".list").rand_bytes(16).tempfile_in(dir).map_err(cannot)?;
        let text: String = pass.entries.iter().map(|id| format!("{id};\n")).collect();
        list.write_all(text.as_bytes()).map_err(cannot)?;
        let restore = |conninfo: &Conninfo| {
            let mut command = self.command(conninfo)?;
            command.arg("--use-list").arg(list.path());
            self.restore(place, command)
        };
        let Some(login) = self.logins.of_pass(pass) else { return restore(&self.making.conninfo) };
        // The owner may lack rights that a superuser did not need, such as USAGE on a schema. They are granted for this
        // pass only.
        let mut connection = self.making.connect()?;
        let back = logins::lend(&mut connection, login, &pass.needs)?;
        drop(connection);
        let as_whom =
            format!("\npg_restore had no more rights than those of {}, so that code in the dump does not run as a superuser", login.told());
        let restored = restore(&login.conninfo(&self.making.conninfo)).map_err(|error| making::add(error, &as_whom))?;
        let returned = self.making.connect()?.client.batch_execute(&back);
        returned
            .map_err(|e| failed(format!("rights that role {} had for the restore only cannot be revoked: {}", login.acting(), explain(&e))))
            .map(|()| restored)
    }

    /// The program with its options. It connects with these settings.
    fn command(&self, conninfo: &Conninfo) -> Result<Command> {
        let options = self.options;
        // Opened for the settings that come back. They name the one server that answers, and what a session there has
        // to be given so that it reads the dump as it was written.
        let conninfo = Connection::open(conninfo)?.conninfo;
        let mut command = self.tools.loader("pg_restore", &options.environment, &conninfo);
        // --dbname takes a value with `=` for a connection string. A connection string with the name in quotes is right
        // for every name.
        let database = conninfo.database.replace('\\', "\\\\").replace('\'', "\\'");
        // Without --verbose pg_restore does not say which entry an error belongs to.
        command.args(["--no-password", "--verbose"]).arg(format!("--dbname=dbname='{database}'"));
        let left_out = [
            ("--exit-on-error", !options.keep_going),
            ("--no-owner", options.no_owner),
            ("--no-privileges", options.no_privileges),
            ("--no-tablespaces", options.no_tablespaces),
        ];
        command.args(left_out.into_iter().filter(|(_, is_given)| *is_given).map(|(option, _)| option));
        Ok(command)
    }

    fn restore(&self, place: &Place<'_>, mut command: Command) -> Result<Vec<FailedObject>> {
        match place {
            Place::Pipe => {
                self.how.monitor.phase("loading", Some(self.dump.len));
                Loader::start(command.stdin(Stdio::piped()))?.run(Some(self.dump), &self.how)
            }
            Place::Path(path) => {
                self.how.monitor.phase("loading", None);
                command.arg(format!("--jobs={}", self.options.jobs)).stdin(Stdio::null());
                Loader::start(command.arg(path))?.run(None, &self.how)
            }
        }
    }
}

/// How the end of pg_restore is judged.
struct How<'a> {
    head: &'a Archive,
    keep_going: bool,
    /// Whether it restores only the entries of a pass. Then it may close the pipe before the end of the dump.
    is_part: bool,
    monitor: &'a dyn Monitor,
}

/// A running pg_restore. Dropping it ends the program.
struct Loader {
    program: Program,
    messages: child::Messages<Said>,
}

fn failed(detail: impl std::fmt::Display) -> Error {
    Error::source("pg_restore", detail)
}

impl Loader {
    fn start(command: &mut Command) -> Result<Self> {
        let cannot = |e: std::io::Error| failed(format!("cannot be run: {e}"));
        let mut program = Program::start(command.stdout(Stdio::null()).stderr(Stdio::piped())).map_err(cannot)?;
        let messages = child::Messages::collect(&mut program, Said::read).map_err(cannot)?;
        Ok(Loader { program, messages })
    }

    /// Writes the dump to its pipe, if it has one, and waits for its end.
    fn run(mut self, dump: Option<&Dump>, how: &How<'_>) -> Result<Vec<FailedObject>> {
        let (pipe, monitor) = (self.program.stdin(), how.monitor);
        let (fed, ended) = std::thread::scope(|scope| {
            // In a thread of its own: writing to a full pipe blocks, and the wait below must still see an interruption.
            let feeder = scope.spawn(move || match (dump, pipe) {
                (Some(dump), Some(mut pipe)) => {
                    let is_enough = std::cell::Cell::new(false);
                    let fed = copy(dump, At::Offset(0), monitor, &mut pipe, |e| {
                        is_enough.set(how.is_part && e.kind() == std::io::ErrorKind::BrokenPipe);
                        failed(format!("does not take the dump: {e}"))
                    });
                    if is_enough.get() { Ok(()) } else { fed }
                }
                _ => Ok(()),
            });
            let ended = self.wait(how);
            (joined("giving pg_restore its dump", feeder.join()), ended)
        });
        match (fed, ended) {
            _ if monitor.cancelled() => Err(Error::Cancelled),
            // If pg_restore failed and closed its pipe, its own error says why. If the dump could not be read to its
            // end, that is the cause of both failures.
            (Ok(()) | Err(Error::Source { .. }), Err(error)) => Err(error),
            (fed, ended) => fed.and(ended),
        }
    }

    /// Waits for the end of pg_restore and judges it.
    fn wait(&mut self, how: &How<'_>) -> Result<Vec<FailedObject>> {
        // Ending the program closes its end of the pipe, so the thread that writes to it ends too.
        let status = self.program.wait("pg_restore", how.monitor).inspect_err(|_| self.program.end())?;
        let said = self.messages.take();
        let objects = said.failed(how.head);
        // Exit code 0: everything else that it has written is a warning.
        let Some(ended) = program::failure(status) else {
            said.other.lines().for_each(|line| how.monitor.warn(line));
            return Ok(objects);
        };
        // pg_restore fails if any entry has failed. With `keep_going` that is no error, if it did not stop before the
        // end.
        if how.keep_going && said.went_on {
            said.other.lines().for_each(|line| how.monitor.warn(line));
            return Ok(objects);
        }
        let told: Vec<String> = objects.iter().map(|object| format!("{} cannot be restored: {}", object.object, object.reason)).collect();
        let told = if told.is_empty() { said.other.trim_end().to_owned() } else { some(&told) };
        match told.is_empty() {
            true => Err(failed(ended)),
            false => Err(failed(format!("{ended}: {told}{}", advice(&told)))),
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
        () if said.contains("unsupported startup parameter") => {
            "\na pooler refuses what pg_restore has to set: name the server itself in --dsn"
        }
        () if said.contains("does not exist") => {
            "\nsearch_path is empty while a dump is loaded, so a function that names objects without their schema fails: give that function a \
             search_path of its own in the dumped database (ALTER FUNCTION ... SET search_path); to restore everything else from this \
             snapshot, use `--keep-going --as NAME`"
        }
        () if said.contains("cannot be restored: ") => {
            "\n`--keep-going --as NAME` restores everything else into a database of another name"
        }
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

/// Writes one file of a dump to a new file that only this user may read.
fn write_file(dump: &Dump, at: At<'_>, path: &Path, monitor: &dyn Monitor) -> Result<()> {
    let cannot =
        |what: &str, e: std::io::Error| Error::destination(path, format!("cannot be {what}: {e}; choose another directory with --tmp"));
    let file = File::options().write(true).create_new(true).mode(0o600).open(path).map_err(|e| cannot("made", e))?;
    copy(dump, at, monitor, &mut &file, |e| cannot("written", e))
}

/// The dump as a file that only this user may read. It is deleted when dropped.
fn spooled(dump: &Dump, dir: &Path, monitor: &dyn Monitor) -> Result<NamedTempFile> {
    // pg_restore opens the file by its name, which a user who may write to the directory could put another file under.
    refuse_if_changeable(dir)?;
    let cannot = |what: &str, e: std::io::Error| {
        Error::destination(dir, format!("the dump cannot be {what} there: {e}; choose another directory with --tmp"))
    };
    let spool = tempfile::Builder::new().prefix("icecore-").suffix(".pgdump").rand_bytes(16).tempfile_in(dir);
    let spool = spool.map_err(|e| cannot("created", e))?;
    copy(dump, At::Offset(0), monitor, &mut spool.as_file(), |e| cannot("written", e))?;
    Ok(spool)
}
