//! The drill of a PostgreSQL database: a restore that is checked and then removed.
//!
//! The dump is restored into a throw-away server, or into a scratch database of a given server. Rows are compared with
//! the evidence of the capture, PostgreSQL's own check (amcheck) looks through indexes and tables, and the user's
//! assertions are asked. A dump that cannot be restored is a result of the drill, not a failure of it.
//!
//! Guarantee: databases of a given server are not touched, and what the drill makes is removed at its end. Code in the
//! dump never has more rights than the messages say.

mod checks;
mod confined;
mod server;

use std::path::PathBuf;
use std::time::Instant;

pub use server::Account;

use self::server::ThrowAway;
use crate::engine::Environment;
use crate::engine::drill::{CheckReport, DrillServer, Drilled, Outcome, Questions, millis};
use crate::engine::place::Placement;
use crate::engine::postgres::Conninfo;
use crate::engine::postgres::restore::{AtStake, Dump, Globals, MadeRoles, Ready, Scratch, ServerOptions, server_tools};
use crate::engine::stored::{self, Stored};
use crate::error::{Error, Result};
use crate::progress::Monitor;

/// The stream with the cluster's roles.
const GLOBALS: &[u8] = b"globals.sql";
/// Longest such stream that is read, in bytes: enough for some hundred thousand roles.
const GLOBALS_LEN_MAX: u64 = 64 << 20;
/// The user that owns nothing.
const NOBODY: &str = "nobody";
/// Most failed statements in one message.
const TOLD_MAX: usize = 10;

/// Which server a PostgreSQL snapshot is restored to, and how.
#[derive(Debug, Clone)]
pub struct ServerStaging {
    /// Which server.
    pub place: ServerPlace,
    /// The environment of PostgreSQL's programs, with the path on which they are looked for.
    pub environment: Environment,
    /// The directory with PostgreSQL's programs; `None`: they are looked for.
    pub bin: Option<PathBuf>,
    /// How many tables and indexes are loaded at once.
    pub jobs: usize,
}

/// Where a PostgreSQL snapshot is restored to.
#[derive(Debug, Clone)]
pub enum ServerPlace {
    /// A server that is started for the drill and removed at its end.
    ThrowAway {
        /// The directory in which the server's directory is made.
        above: PathBuf,
        /// The user that runs it, if not the user of this process. PostgreSQL refuses to run as root.
        account: Option<Account>,
    },
    /// An existing server: a database beside its other ones, dropped at the end.
    Beside {
        /// How to connect.
        conninfo: Box<Conninfo>,
        /// Where the dump is written if several jobs load it.
        spool_dir: PathBuf,
        /// All objects belong to the role that connects.
        no_owner: bool,
        /// Leave out grants and default privileges.
        no_privileges: bool,
    },
}

/// What is drilled.
struct Drill<'d> {
    dump: Dump,
    questions: Questions<'d>,
    monitor: &'d dyn Monitor,
}

impl DrillServer for ServerStaging {
    fn drill(&self, stored: Box<dyn Stored>, questions: Questions<'_>, placement: &Placement<'_>) -> Result<Drilled> {
        drill(stored, self, questions, placement)
    }
}

/// Restores the snapshot's dump and checks the result.
fn drill(stored: Box<dyn Stored>, staging: &ServerStaging, questions: Questions<'_>, placement: &Placement<'_>) -> Result<Drilled> {
    let monitor = placement.monitor;
    let globals = match &staging.place {
        ServerPlace::ThrowAway { .. } => read_globals(&*stored)?,
        ServerPlace::Beside { .. } => None,
    };
    let mut drill = Drill { dump: Dump::of_snapshot(stored)?, questions, monitor };
    let how =
        |conninfo: &Conninfo, bin: Option<PathBuf>, spool_dir: PathBuf, (no_owner, no_privileges): (bool, bool), at_stake| ServerOptions {
            conninfo: conninfo.clone(),
            environment: staging.environment.clone(),
            bin,
            name: None,
            jobs: staging.jobs,
            spool_dir,
            timestamp: placement.timestamp.clone(),
            disconnect: false,
            no_owner,
            no_privileges,
            // Tablespaces are directories of the machine that was dumped. This one need not have them.
            no_tablespaces: true,
            verify: true,
            keep_going: false,
            at_stake,
        };
    let began = Instant::now();
    match &staging.place {
        ServerPlace::Beside { conninfo, spool_dir, no_owner, no_privileges } => {
            let report = Drilled { staging: conninfo.label(), ..Drilled::default() };
            let how = how(conninfo, staging.bin.clone(), spool_dir.clone(), (*no_owner, *no_privileges), AtStake::Role);
            drill.in_database(report, began, false, &how)
        }
        ServerPlace::ThrowAway { above, account } => {
            let tools = server_tools(&drill.dump, staging.bin.as_deref(), &staging.environment)?;
            let roles = globals.clone().unwrap_or_default();
            let server = ThrowAway::start(&tools.bin, roles.superuser(), above, account.as_ref(), &staging.environment, monitor)?;
            // The restore's own warning speaks of the role's rights. Here the rights of the user that runs the server
            // matter, so that warning is replaced.
            if let Some(why) = drill.dump.unproven.take() {
                monitor.warn(&trust(why, account.as_ref(), server.is_confined));
            }
            // User nobody has no rights that code could use.
            let at_stake = match account.as_ref() {
                Some(account) if server.is_confined && account.name == NOBODY => AtStake::Nothing,
                account => AtStake::ServerUser(format!(
                    "{}, whose rights this drill's server has; {}",
                    who(account),
                    confinement(server.is_confined)
                )),
            };
            let mut report = Drilled { staging: server.dir.to_string_lossy().into_owned(), ..Drilled::default() };
            report.server_user = account.as_ref().map(|account| account.name.clone()).or_else(|| staging.environment.os_user.clone());
            // Before the dump, whose objects belong to these roles.
            report.checks.push(roles_check(globals.is_some(), roles.make(&server.conninfo)?, monitor));
            // The server's directory belongs to the account, which could exchange files in it. So this process writes
            // beside it.
            let spool_dir = if account.is_some() { above.clone() } else { server.dir.clone() };
            let how = how(&server.conninfo, Some(tools.bin), spool_dir, (false, false), at_stake);
            let report = drill.in_database(report, began, true, &how);
            server.end(monitor);
            report
        }
    }
}

/// The warning about a dump that nothing proves to be the one that was backed up. It comes before the server gets any
/// of the dump.
fn trust(why: &str, account: Option<&Account>, is_confined: bool) -> String {
    let (who, confinement) = (who(account), confinement(is_confined));
    format!("{why}: others may have changed the dump, and this drill's server runs its code; it runs as {who}; {confinement}")
}

/// What code in a dump can reach on the throw-away server.
fn confinement(is_confined: bool) -> &'static str {
    match is_confined {
        true => "it opens no files but its own and the system's",
        false => "this system cannot keep it from other files and programs",
    }
}

/// The user that runs the throw-away server.
fn who(account: Option<&Account>) -> String {
    match account {
        Some(account) if account.name == NOBODY => format!("user {NOBODY}, who has no rights"),
        Some(account) => format!("user {}, who may own data of other servers", account.name),
        None => "this user, with all of this user's rights: drill as a user with few rights".to_owned(),
    }
}

impl Drill<'_> {
    /// Restores the dump into a server and checks the result. A dump that cannot be restored goes into the report.
    fn in_database(&self, mut report: Drilled, began: Instant, is_own: bool, how: &ServerOptions) -> Result<Drilled> {
        let scratch = match Ready::new(&self.dump, is_own, !self.questions.assertions.is_empty(), how) {
            // The server or the programs are at fault, so nothing was found out about the dump.
            Err(error) if !error.is_damage() => return Err(error),
            Err(error) => Err(error.to_string()),
            Ok(ready) => {
                report.server = Some(ready.server());
                found(ready.restore(&self.dump, self.monitor))?
            }
        };
        report.restore_ms = millis(began.elapsed());
        match scratch {
            Err(error) => {
                report.add(None, "restore", Err(error));
                Ok(report)
            }
            Ok(mut scratch) => {
                report.add(None, "restore", Ok(restored(&scratch)));
                let looked = self.look(report, &mut scratch, how);
                // A throw-away server is removed as a whole.
                if !is_own {
                    scratch.remove(self.monitor);
                }
                looked
            }
        }
    }

    /// Compares the rows with the capture's, and runs the checks.
    fn look(&self, mut report: Drilled, scratch: &mut Scratch, how: &ServerOptions) -> Result<Drilled> {
        let began = Instant::now();
        let name = Some(self.dump.name.as_str());
        let found_out = found(scratch.compare(&self.dump, how, self.monitor))?;
        let (rows, tables) = (scratch.restored.rows, scratch.restored.tables);
        report.add(name, "content", found_out.map(|()| format!("{rows} rows in {tables} tables, with the content of the capture")));
        self.monitor.phase("checking", None);
        let checks = checks::run(scratch, &self.dump.name, self.questions, self.monitor)?;
        report.checks.extend(checks);
        report.verify_ms = millis(began.elapsed());
        Ok(report)
    }
}

fn restored(scratch: &Scratch) -> String {
    let found = &scratch.restored;
    let objects = if found.large_objects > 0 { format!(", {} large objects", found.large_objects) } else { String::new() };
    format!("{} tables, {} rows{objects}", found.tables, found.rows)
}

/// Turns an error into a finding. Only an interruption ends the drill.
fn found<T>(outcome: Result<T>) -> Result<Result<T, String>> {
    match outcome {
        Ok(value) => Ok(Ok(value)),
        Err(Error::Cancelled) => Err(Error::Cancelled),
        Err(error) => Ok(Err(error.to_string())),
    }
}

fn read_globals(stored: &dyn Stored) -> Result<Option<Globals>> {
    let Some(stream) = stored::find(stored, GLOBALS) else { return Ok(None) };
    if stream.len > GLOBALS_LEN_MAX {
        return Err(Error::InvalidArgument(format!("globals.sql has {} bytes, and a drill reads at most {GLOBALS_LEN_MAX}", stream.len)));
    }
    let text = stored::read_all(stored, stream, GLOBALS_LEN_MAX)?;
    Ok(Some(Globals::of(&String::from_utf8_lossy(&text))))
}

/// The check of the roles. A missing role fails it: on a new server nothing that belongs to that role could be
/// restored. Other statements that the server refuses are only reported.
fn roles_check(is_there: bool, roles: MadeRoles, monitor: &dyn Monitor) -> CheckReport {
    let check = |outcome| CheckReport::of(Some("globals.sql"), "roles", outcome);
    if !is_there {
        return CheckReport { outcome: Outcome::Skipped, ..check(Ok("the snapshot has no globals.sql".to_owned())) };
    }
    let MadeRoles { made, missing, refused } = roles;
    for text in &refused {
        monitor.warn(&format!("globals.sql: {text}"));
    }
    let some = |all: &[String]| all.iter().take(TOLD_MAX).cloned().collect::<Vec<_>>().join("; ");
    let refused = if refused.is_empty() { String::new() } else { format!("; refused: {}", some(&refused)) };
    check(match missing.is_empty() {
        true => Ok(format!("{made} roles made{refused}")),
        false => Err(format!("these roles cannot be created: {}{refused}", some(&missing))),
    })
}
