//! Dumps become databases of a PostgreSQL server again, and what was there is kept.
//!
//! The new database is made under a name of its own, from `template0` and with the statement that the dump has for that, loaded by `pg_restore`,
//! analyzed, dumped once more and compared with the dump row by row (by sums). Only then both databases are renamed, in one transaction:
//! at every instant the name belongs to the old database or to the new one. Whatever fails before that leaves the old one as it was, and the half-made
//! one is dropped; if that cannot be done, the message says how.
//!
//! What `pg_restore` leaves out unless it makes the database itself (its owner, settings of it and of roles in it, its rights, comments and
//! limits) is taken from the dump and given to the new database: settings before loading, the rest after it.

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

/// Most bytes of a name (`NAMEDATALEN` less its end).
const NAME_BYTES_MAX: usize = 63;
/// Databases that every new one is made of; they are never replaced.
const TEMPLATES: [&str; 2] = ["template0", "template1"];
/// Databases that are only connected to, as nobody means them when another is restored.
const HOMES: [&str; 2] = ["postgres", "template1"];

/// Where a database goes, and how.
#[derive(Debug, Clone)]
pub struct ServerOptions {
    /// The server. Its database is the one to replace, or one to connect to: see [`restore`].
    pub conninfo: Conninfo,
    /// What the programs inherit, and where they are looked for.
    pub environment: Environment,
    /// The directory with PostgreSQL's programs; `None`: they are looked for.
    pub bin: Option<PathBuf>,
    /// The new database's name; `None`: that of the dumped one.
    pub name: Option<String>,
    /// How many tables and indexes are loaded at once. With more than one, or if it is a directory, the dump is written to a private place first, unless it
    /// is a file.
    pub jobs: usize,
    /// The directory of that place.
    pub spool_dir: PathBuf,
    /// A word for names: the time, as `20261123T031500Z`.
    pub timestamp: String,
    /// End sessions that stand in the way.
    pub disconnect: bool,
    /// Everything belongs to the role that connects.
    pub no_owner: bool,
    /// Leave grants and default privileges out.
    pub no_privileges: bool,
    /// Everything goes to the default tablespace.
    pub no_tablespaces: bool,
    /// Whether what was restored is compared with the dump.
    pub verify: bool,
    /// Restore all that can be, into a database that takes no other's place.
    pub keep_going: bool,
    /// What code in the dump could use if it got a superuser's rights.
    pub at_stake: AtStake,
}

/// Whose rights code of a dump would have that runs as a superuser of the server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AtStake {
    /// Those of the role that connects.
    Role,
    /// The server is there for this alone, and runs as this user, with these rights.
    ServerUser(String),
    /// The same; its user has no rights.
    Nothing,
}

/// A database that was restored.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct RestoredDatabase {
    /// Its name.
    #[serde(rename = "database")]
    pub name: String,
    /// Where it is, for people.
    #[serde(rename = "server")]
    pub label: String,
    /// The name under which the old one is kept, if there was one.
    pub kept: Option<String>,
    /// Tables with data in the dump, those without rows too.
    pub tables: u64,
    /// Their rows.
    pub rows: u64,
    /// Large objects.
    pub large_objects: u64,
    /// Bytes of the dump.
    pub dump_bytes: u64,
    /// Whether it was compared with the dump.
    pub verified: bool,
    /// Definitions (kind and name) that the server writes in other words now; views and checks do so once.
    pub differing: Vec<String>,
    /// What could not be restored, of [`ServerOptions::keep_going`].
    pub failed: Vec<FailedObject>,
    /// Logical replication slots of the old database, which stay with it and keep the server's log until they are dropped.
    pub slots: Vec<String>,
}

/// More restores of one database in one second are refused.
const SAME_SECOND_MAX: u32 = 99;

/// The names that a restore is about.
#[derive(Debug)]
struct Names {
    target: String,
    temporary: String,
    kept: String,
    /// Whether a database that has the name already may be renamed.
    may_replace: bool,
}

impl Names {
    fn of(dumped: &str, options: &ServerOptions) -> Result<Self> {
        let given = options.conninfo.database.as_str();
        let target = options.name.as_deref().unwrap_or(dumped);
        if options.name.is_none() && given != dumped && !HOMES.contains(&given) {
            return Err(Error::InvalidArgument(format!(
                "the dump is of database {dumped}, but --dsn names {given}: say which is meant with --as {given} or --as {dumped}"
            )));
        }
        if target.is_empty() || target.len() > NAME_BYTES_MAX || target.contains('\0') {
            return Err(Error::InvalidArgument(format!("{target:?} is no name that a database can have")));
        }
        if TEMPLATES.contains(&target) {
            return Err(Error::InvalidArgument(format!("{target} is never replaced: restore it beside with --as NAME")));
        }
        let may_replace = options.name.is_none() || given == target;
        if options.keep_going && may_replace {
            return Err(Error::InvalidArgument(
                "what is restored with --keep-going may lack something, and never takes the place of another database: choose a name with --as, \
                 and let --dsn name another database"
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

    /// Where another restore of the same second has taken a name, both get a number.
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

    /// What temporary names of this database begin with.
    fn temporary_start(&self) -> String {
        let end = self.temporary.rfind('_').map_or(self.temporary.len(), |end| end + 1);
        self.temporary.get(..end).unwrap_or_default().to_owned()
    }
}

/// A name with something after it, which is shortened so that all of it fits. The time is in small letters, so that no quotes are needed in SQL.
fn suffixed(name: &str, what: &str, timestamp: &str) -> String {
    let suffix = format!("{what}{}", timestamp.to_ascii_lowercase());
    let room = NAME_BYTES_MAX.saturating_sub(suffix.len());
    let end = (0..=room.min(name.len())).rev().find(|end| name.is_char_boundary(*end)).unwrap_or(0);
    format!("{}{suffix}", name.get(..end).unwrap_or_default())
}

/// The setting under which the statements of a dump are meant: in strings a backslash is one unless this is off.
fn standard_strings(head: &Archive) -> &'static str {
    let entry = head.entries.iter().find(|entry| entry.kind == "STDSTRINGS");
    match entry.and_then(|entry| entry.definition.as_deref()).is_some_and(|text| text.contains("'off'")) {
        true => "SET standard_conforming_strings = off",
        false => "SET standard_conforming_strings = on",
    }
}

/// Restores a dump as a database. Its name is [`ServerOptions::name`], else that of the dumped one. An old database of that name is replaced, and
/// kept under another name, unless only `name` asked for it and the connection settings do not name it too.
///
/// # Errors
/// [`Error::Destination`] with all that stands in the way, before anything is made; [`Error::Busy`] if that is sessions that are connected;
/// [`Error::Source`] if a program or the connection fails; [`Error::Corrupt`] if the dump cannot be read. In each case the old database is as it was.
pub fn restore(dump: &Dump, options: &ServerOptions, monitor: &dyn Monitor) -> Result<RestoredDatabase> {
    restore_as(dump, options, None, monitor)
}

/// The same; with `scratch`, the lock that the caller holds, the database is one that is only looked at: it has its name from the start and keeps the mark of one that
/// is dropped when nobody holds the lock any more.
fn restore_as(dump: &Dump, options: &ServerOptions, scratch: Option<i64>, monitor: &dyn Monitor) -> Result<RestoredDatabase> {
    let head = dump.head(&is_wanted)?;
    let mut names = Names::of(&head.database, options)?;
    let mut admin = Admin::open(&options.conninfo, &names.target)?;
    // From here on everything is about the one server that has answered.
    let label = admin.label(&names.target);
    match scratch {
        Some(_) => names.temporary.clone_from(&names.target),
        None => names.avoid_taken(&mut admin, &options.timestamp)?,
    }
    abandoned::drop_abandoned(&mut admin, monitor);
    let tools = preflight::tools(options, &head, admin.connection.version)?;
    let looked = Preflight::new(&mut admin, options, dump, &head, &names).check()?;
    looked.warnings.iter().for_each(|warning| monitor.warn(warning));
    let logins = Logins::prepare(&mut admin, (dump, &head), options, monitor)?;
    let made = make((dump, &head), &mut admin, &names, &tools, options, (scratch, &logins), monitor);
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

/// Makes the database, fills it and gives it its name. Gives that of the old one too.
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
        // The new one is whole, and the message says how to go on with it.
        Err(busy @ Error::Busy { .. }) => Err(busy),
        Err(error) => Err(making.drop_after(admin, error)),
    }
}

/// A database that is loaded.
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
    making.drop_absent(dump.fact(ABSENT_FACT), monitor)?;
    let failed = load::load((dump, head), making, tools, options, logins, monitor)?;
    let mut filled = Filled { verified: options.verify, differing: Vec::new(), failed };
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
    admin.refresh()?;
    filled.failed.extend(making.finish(admin, options.keep_going)?);
    match monitor.cancelled() {
        true => Err(Error::Cancelled),
        false => Ok(filled),
    }
}

impl Filled {
    /// Takes down what could not be done. An interruption stays one.
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
