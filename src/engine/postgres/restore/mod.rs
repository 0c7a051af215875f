//! Restores a dump into a PostgreSQL server and keeps the database that was there.
//!
//! The new database is created under a temporary name, from `template0`, with the dump's own CREATE DATABASE statement.
//! `pg_restore` loads it, ANALYZE follows, and it is dumped again and compared with the dump by a sum over the rows of
//! each table. Only then both databases are renamed, in one transaction.
//!
//! Guarantee: at every instant the name belongs to the old database or to the new one. A failure before the renaming
//! leaves the old database as it was, and the incomplete one is dropped; if dropping fails, the message gives the
//! statement.
//!
//! `pg_restore` leaves out the properties of the database itself unless it creates the database: owner, settings,
//! rights, comments, limits. They are taken from the dump: settings are applied before loading, the rest after it.

mod abandoned;
mod admin;
mod asker;
mod dump;
mod failures;
mod flat;
mod globals;
mod load;
mod logins;
mod making;
mod passes;
mod preflight;
mod scratch;
mod sql;
mod table;
mod take_name;
mod verify;

use std::path::PathBuf;

pub use dump::Dump;
pub(super) use dump::{evidence_of, read_tables};
pub use failures::FailedObject;
pub(crate) use globals::{Globals, MadeRoles};
pub use preflight::slots_text;
pub(crate) use scratch::{Ready, Scratch, server_tools};
pub use table::{RestoredTable, TableOptions, restore_table};

use self::admin::Admin;
use self::logins::Logins;
use self::making::Making;
use self::preflight::{Preflight, is_wanted};
use crate::engine::Environment;
use crate::engine::postgres::Conninfo;
use crate::engine::postgres::archive::Archive;
use crate::engine::postgres::lacking::ABSENT_FACT;
use crate::error::{Error, Result};
use crate::progress::Monitor;

/// Longest name of a database or table, in bytes (`NAMEDATALEN` minus the terminating zero).
const NAME_BYTES_MAX: usize = 63;
/// The server copies these for each new database, so they are never replaced.
const TEMPLATES: [&str; 2] = ["template0", "template1"];
/// Databases that a DSN names only to connect to the server. A DSN with one of them does not choose the database to
/// replace.
const HOMES: [&str; 2] = ["postgres", "template1"];

/// Where a dump is restored, and how.
#[derive(Debug, Clone)]
pub struct ServerOptions {
    /// The server. Its database is the one to replace, or only one to connect to: see [`restore`].
    pub conninfo: Conninfo,
    /// The environment of PostgreSQL's programs, with the path on which they are looked for.
    pub environment: Environment,
    /// The directory with PostgreSQL's programs; `None`: they are looked for.
    pub bin: Option<PathBuf>,
    /// The new database's name; `None`: that of the dumped database.
    pub name: Option<String>,
    /// How many tables and indexes are loaded at once. A stored dump is first written to `spool_dir` if this is more
    /// than one, or if the dump is a directory.
    pub jobs: usize,
    /// The directory for such a private copy of the dump, and for lists that `pg_restore` reads.
    pub spool_dir: PathBuf,
    /// The time, as `20261123T031500Z`. It is a part of the temporary name and of the old database's new name.
    pub timestamp: String,
    /// End sessions that stand in the way.
    pub disconnect: bool,
    /// All objects belong to the role that connects.
    pub no_owner: bool,
    /// Leave out grants and default privileges.
    pub no_privileges: bool,
    /// All objects go to the default tablespace.
    pub no_tablespaces: bool,
    /// Whether the restored database is compared with the dump.
    pub verify: bool,
    /// Restore everything that can be restored. The result may be incomplete, so it never replaces another database.
    pub keep_going: bool,
    /// What code in the dump could do if it ran as a superuser of the server.
    pub at_stake: AtStake,
}

/// The rights that code in a dump would have if it ran as a superuser of the server. Warnings name them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AtStake {
    /// Those of the role that connects.
    Role,
    /// The server was started for this drill only. It runs as the user with this description.
    ServerUser(String),
    /// The server was started for this drill only, and its user has no rights worth a warning.
    Nothing,
}

/// A database that was restored.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct RestoredDatabase {
    /// Its name.
    #[serde(rename = "database")]
    pub name: String,
    /// Server and database, as messages show them.
    #[serde(rename = "server")]
    pub label: String,
    /// The name under which the old one is kept, if there was one.
    pub kept: Option<String>,
    /// Tables with data in the dump. Empty ones count too.
    pub tables: u64,
    /// Their rows.
    pub rows: u64,
    /// Large objects.
    pub large_objects: u64,
    /// Bytes of the dump.
    pub dump_bytes: u64,
    /// Whether it was compared with the dump.
    pub verified: bool,
    /// Definitions (kind and name) whose text the server writes differently after the restore. Views and CHECK
    /// constraints can change once in this way.
    pub differing: Vec<String>,
    /// What could not be restored. Only with [`ServerOptions::keep_going`].
    pub failed: Vec<FailedObject>,
    /// Logical replication slots of the old database. They stay with it and make the server keep its log until they are
    /// dropped.
    pub slots: Vec<String>,
}

/// Most restores of one database that may begin in one second. Each needs names of its own.
const SAME_SECOND_MAX: u32 = 99;

/// The names of the databases that a restore makes and renames.
#[derive(Debug)]
struct Names {
    /// The name that the new database has at the end.
    target: String,
    /// The name that it has until it is complete.
    temporary: String,
    /// The name that the old database gets.
    kept: String,
    /// Whether a database that already has the target name may be renamed.
    may_replace: bool,
}

impl Names {
    fn of(dumped: &str, options: &ServerOptions) -> Result<Self> {
        let given = options.conninfo.database.as_str();
        let target = options.name.as_deref().unwrap_or(dumped);
        // Without --as, a DSN with a third database is ambiguous. Guessing could replace the wrong one.
        if options.name.is_none() && given != dumped && !HOMES.contains(&given) {
            return Err(Error::InvalidArgument(format!(
                "the dump is of database {dumped}, but --dsn names {given}: say which is meant with --as {given} or --as {dumped}"
            )));
        }
        if target.is_empty() || target.len() > NAME_BYTES_MAX || target.contains('\0') {
            return Err(Error::InvalidArgument(format!(
                "{target:?} cannot be the name of a database: it is empty, too long or has a zero byte"
            )));
        }
        if TEMPLATES.contains(&target) {
            return Err(Error::InvalidArgument(format!(
                "{target} is a template of the server and is never replaced: choose a new name with --as NAME"
            )));
        }
        // `--as` alone asks for a new database. To replace an existing one under another name the user names it twice:
        // in --as and in the DSN.
        let may_replace = options.name.is_none() || given == target;
        if options.keep_going && may_replace {
            return Err(Error::InvalidArgument(
                "a database that is restored with --keep-going may be incomplete, so it never replaces another one: choose a new name with --as, \
                 and name another database in --dsn"
                    .into(),
            ));
        }
        Ok(Names {
            target: target.to_owned(),
            temporary: suffixed(target, "_restoring_", &options.timestamp),
            kept: suffixed(target, "_pre_restore_", &options.timestamp),
            may_replace,
        })
    }

    /// Adds a number to both names if another restore of the same second has taken one of them. This only avoids the
    /// usual collision: creating and renaming fail if a name is taken later.
    fn avoid_taken(&mut self, admin: &mut Admin, timestamp: &str) -> Result<()> {
        for number in 2..=SAME_SECOND_MAX {
            if !admin.exists(&self.temporary)? && !admin.exists(&self.kept)? {
                break;
            }
            let numbered = format!("{timestamp}{number}");
            self.temporary = suffixed(&self.target, "_restoring_", &numbered);
            self.kept = suffixed(&self.target, "_pre_restore_", &numbered);
        }
        Ok(())
    }

    /// The start that all temporary names of this database share: everything before the timestamp.
    fn temporary_start(&self) -> String {
        let end = self.temporary.rfind('_').map_or(self.temporary.len(), |end| end + 1);
        self.temporary.get(..end).unwrap_or_default().to_owned()
    }
}

/// `name`, `what` and the timestamp in one name. `name` is cut so that the whole fits. The timestamp is in lower case,
/// so SQL needs no quotes for it.
fn suffixed(name: &str, what: &str, timestamp: &str) -> String {
    let suffix = format!("{what}{}", timestamp.to_ascii_lowercase());
    let room = NAME_BYTES_MAX.saturating_sub(suffix.len());
    // The server would cut in the middle of a character, and two names that differ could become one.
    let end = (0..=room.min(name.len())).rev().find(|end| name.is_char_boundary(*end)).unwrap_or(0);
    format!("{}{suffix}", name.get(..end).unwrap_or_default())
}

/// The statement that sets `standard_conforming_strings` to its value at the time of the dump. With `off`, a backslash
/// in a string of the dump is an escape.
fn standard_strings(head: &Archive) -> &'static str {
    let entry = head.entries.iter().find(|entry| entry.kind == "STDSTRINGS");
    match entry.and_then(|entry| entry.definition.as_deref()).is_some_and(|text| text.contains("'off'")) {
        true => "SET standard_conforming_strings = off",
        false => "SET standard_conforming_strings = on",
    }
}

/// Restores a dump as a database. Its name is [`ServerOptions::name`], else that of the dumped one. An old database of
/// that name is replaced and kept under another name. If `name` is given, the connection settings must name the old
/// database too; else it is an error that it exists.
///
/// # Errors
/// [`Error::Destination`] with everything that stands in the way, before anything is made; [`Error::Busy`] if the only
/// obstacle is connected sessions; [`Error::Source`] if a program or the connection fails; [`Error::Corrupt`] if the
/// dump cannot be read. In each case the old database is as it was.
pub fn restore(dump: &Dump, options: &ServerOptions, monitor: &dyn Monitor) -> Result<RestoredDatabase> {
    restore_as(dump, options, None, monitor)
}

/// Like [`restore`]. With `scratch`, the key of an advisory lock that the caller holds, the database is temporary: it
/// has its final name from the start and keeps the comment by which others drop it when nobody holds the lock any more.
fn restore_as(dump: &Dump, options: &ServerOptions, scratch: Option<i64>, monitor: &dyn Monitor) -> Result<RestoredDatabase> {
    let head = dump.head(&is_wanted)?;
    let mut names = Names::of(&head.database, options)?;
    let mut admin = Admin::open(&options.conninfo, &names.target)?;
    // The DSN may list several servers. From here on only the one that answered is used.
    let label = admin.label(&names.target);
    match scratch {
        // A scratch database is never renamed.
        Some(_) => names.temporary.clone_from(&names.target),
        None => names.avoid_taken(&mut admin, &options.timestamp)?,
    }
    // First, so that a killed restore's database neither fills the disk nor shows up in the warnings below.
    abandoned::drop_abandoned(&mut admin, monitor);
    let tools = preflight::tools(options, &head, admin.connection.version)?;
    let looked = Preflight::new(&mut admin, options, dump, &head, &names).check()?;
    looked.warnings.iter().for_each(|warning| monitor.warn(warning));
    // Nothing has been made up to here. The roles that load rows come first, since logging in as them may fail.
    let logins = Logins::prepare(&mut admin, (dump, &head), options, monitor)?;
    let made = make((dump, &head), &mut admin, &names, &tools, options, (scratch, &logins), monitor);
    // Also after a failure: roles with passwords must not stay.
    logins.remove(&mut admin, monitor);
    let (filled, kept) = made?;
    let count = |kind: &str| {
        let blocks = dump.evidence.blocks.iter().filter(|block| block.kind == kind);
        blocks.fold((0, 0), |(number, rows), block| (number + 1, rows + block.rows))
    };
    let (tables, rows) = count("TABLE DATA");
    let (_, large_objects) = count("BLOBS");
    let Filled { verified, differing, failed } = filled;
    let (name, slots, dump_bytes) = (names.target, looked.slots, dump.len);
    Ok(RestoredDatabase { name, label, kept, tables, rows, large_objects, dump_bytes, verified, differing, failed, slots })
}

/// Creates the database, fills it and gives it its name. Returns also the name under which the old one is kept.
fn make(
    (dump, head): (&Dump, &Archive),
    admin: &mut Admin,
    names: &Names,
    tools: &crate::engine::postgres::Tools,
    options: &ServerOptions,
    (scratch, logins): (Option<i64>, &Logins),
    monitor: &dyn Monitor,
) -> Result<(Filled, Option<String>)> {
    let mut making = Making::create(admin, head, names, options, scratch)?;
    let filled = match fill((dump, head), &mut making, admin, tools, (options, logins), monitor) {
        Ok(filled) => filled,
        Err(error) => return Err(making.drop_after(admin, error)),
    };
    let swapped = if scratch.is_some() { Ok(None) } else { take_name::swap(admin, names, options.disconnect) };
    match swapped {
        Ok(kept) => Ok((filled, kept)),
        // The new database is complete and loading it may have taken hours, so it stays. The message says how to rename
        // it by hand.
        Err(busy @ Error::Busy { .. }) => Err(busy),
        Err(error) => Err(making.drop_after(admin, error)),
    }
}

/// The outcome of loading a database and comparing it.
#[derive(Default)]
struct Filled {
    verified: bool,
    differing: Vec<String>,
    failed: Vec<FailedObject>,
}

fn fill(
    (dump, head): (&Dump, &Archive),
    making: &mut Making<'_>,
    admin: &mut Admin,
    tools: &crate::engine::postgres::Tools,
    (options, logins): (&ServerOptions, &Logins),
    monitor: &dyn Monitor,
) -> Result<Filled> {
    preflight::collation(admin, dump, making.names)?.iter().for_each(|warning| monitor.warn(warning));
    // Before loading: the dump may have a schema or an extension of the same name.
    making.drop_absent(dump.fact(ABSENT_FACT), monitor)?;
    let failed = load::load((dump, head), making, tools, options, logins, monitor)?;
    let mut filled = Filled { verified: options.verify, differing: Vec::new(), failed };
    // Dumps have no statistics. Without them the first queries after the swap would be planned badly.
    monitor.phase("analyzing", None);
    match making.analyze(monitor) {
        Err(error) if options.keep_going => filled.lacks("statistics", error)?,
        outcome => outcome?,
    }
    if options.verify {
        match verify::verify(dump, head, &making.conninfo, tools, options, monitor) {
            Ok(compared) => {
                compared.warnings.iter().for_each(|warning| monitor.warn(warning));
                filled.differing = compared.differing;
                let wrong = compared.wrong.into_iter().map(|reason| FailedObject { object: "rows".to_owned(), reason });
                filled.failed.extend(wrong);
            }
            Err(error) if options.keep_going => {
                filled.verified = false;
                filled.lacks("the comparison with the dump", error)?;
            }
            Err(error) => return Err(error),
        }
    }
    // Loading may have taken hours, in which the server or a firewall can have closed the idle connection.
    admin.refresh()?;
    filled.failed.extend(making.finish(admin, options.keep_going)?);
    // The last chance to stop: the caller renames the databases next.
    match monitor.cancelled() {
        true => Err(Error::Cancelled),
        false => Ok(filled),
    }
}

impl Filled {
    /// Records a step that failed. An interruption is passed on instead.
    fn lacks(&mut self, object: &str, error: Error) -> Result<()> {
        if matches!(error, Error::Cancelled) {
            return Err(error);
        }
        self.failed.push(FailedObject { object: object.to_owned(), reason: error.to_string() });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_fit_and_are_cut_between_characters() {
        let long = "\u{e9}".repeat(31);
        let name = suffixed(&long, "_pre_restore_", "20261123T031500Z");
        assert_eq!(name, format!("{}_pre_restore_20261123t031500z", "\u{e9}".repeat(17)));
        assert_eq!(suffixed("db", "_x_", "T"), "db_x_t");
    }
}
