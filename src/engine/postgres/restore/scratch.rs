//! Scratch databases: a drill restores a dump into one, compares it, asks its questions and drops it.
//!
//! [`Ready`] is a server on which everything was tried that can be tried without restoring; [`Scratch`] is the restored
//! database. Guarantee: it is dropped by [`Scratch::remove`]. If this process is killed before that, the next restore
//! or drill on the server drops it, since its comment marks it (`abandoned`).

use std::path::Path;

use super::admin::Admin;
use super::asker::Asker;
use super::preflight::{dumped_major, is_wanted, reader_major};
use super::{Dump, RestoredDatabase, ServerOptions, TEMPLATES, abandoned, preflight, restore_as, sql, suffixed, verify};
use crate::engine::Environment;
use crate::engine::postgres::archive::Archive;
use crate::engine::postgres::{Conninfo, Tools};
use crate::error::{Error, Result};
use crate::progress::Monitor;

/// Random digits in the name of a scratch database, as two drills may begin in the same second.
const DIGITS: usize = 4;

/// Installed server programs that are new enough for this dump: for the server that was dumped and for the archive's
/// format.
///
/// # Errors
/// [`Error::Source`] if there are none; else as reading the dump.
pub(crate) fn server_tools(dump: &Dump, bin: Option<&Path>, environment: &Environment) -> Result<Tools> {
    let head = dump.head(&is_wanted)?;
    Tools::find_server(bin, environment, dumped_major(&head).max(reader_major(&head)))
}

/// A server that has answered, with the programs that can restore a dump into it.
pub(crate) struct Ready {
    admin: Admin,
    head: Archive,
    tools: Tools,
    name: String,
    options: ServerOptions,
    /// The key of the lock that `admin` holds. `None` on a throw-away server, where nobody else looks for abandoned
    /// databases.
    claim: Option<i64>,
    /// The role that asks the user's questions, if it is not the one that restores.
    asker: Option<Asker>,
}

/// A database that exists until [`Scratch::remove`].
pub(crate) struct Scratch {
    admin: Admin,
    head: Archive,
    tools: Tools,
    name: String,
    asker: Option<Asker>,
    /// How to connect to it.
    pub(crate) conninfo: Conninfo,
    /// What was restored.
    pub(crate) restored: RestoredDatabase,
}

impl Ready {
    /// Connects and finds fitting programs. On a throw-away server (`is_own`) the database gets the name of the dumped
    /// one, else a unique name beside the server's other databases. With `asks`, the role that will ask the user's
    /// questions is made and logs in now, so that a drill does not find out after an hour of restoring that it cannot
    /// ask.
    ///
    /// # Errors
    /// [`Error::Source`] if there is no connection or there are no programs; else as reading the dump.
    pub(crate) fn new(dump: &Dump, is_own: bool, asks: bool, options: &ServerOptions) -> Result<Self> {
        let head = dump.head(&is_wanted)?;
        let name = match is_own && !TEMPLATES.contains(&head.database.as_str()) {
            true => head.database.clone(),
            false => scratch_name(&head.database, &options.timestamp)?,
        };
        let mut admin = Admin::open(&options.conninfo, &name)?;
        let tools = preflight::tools(options, &head, admin.connection.version)?;
        let target = (!is_own || name != head.database).then(|| name.clone());
        let options = ServerOptions { name: target, verify: false, keep_going: false, disconnect: is_own, ..options.clone() };
        let claim = if is_own { None } else { Some(admin.claim()?) };
        let asker = if asks { Asker::make(&mut admin)? } else { None };
        Ok(Ready { admin, head, tools, name, options, claim, asker })
    }

    /// The server's version, for people.
    pub(crate) fn server(&self) -> String {
        let version = self.admin.connection.version;
        format!("PostgreSQL {}.{}", version / 10_000, version % 10_000)
    }

    /// Restores the dump. [`Scratch::compare`] compares the database with it.
    ///
    /// # Errors
    /// As [`super::restore`]; then the database is dropped.
    pub(crate) fn restore(self, dump: &Dump, monitor: &dyn Monitor) -> Result<Scratch> {
        let Ready { mut admin, head, tools, name, options, claim, asker } = self;
        let restored = match restore_as(dump, &options, claim, monitor) {
            Ok(restored) => restored,
            Err(error) => {
                remove_asker(asker, &mut admin, monitor);
                return Err(error);
            }
        };
        let conninfo = admin.connection.conninfo.with_database(&name);
        Ok(Scratch { admin, head, tools, name, asker, conninfo, restored })
    }
}

impl Scratch {
    /// Dumps the database and compares rows and their sums with the original dump.
    ///
    /// # Errors
    /// [`Error::Destination`] naming the tables that differ.
    pub(crate) fn compare(&self, dump: &Dump, options: &ServerOptions, monitor: &dyn Monitor) -> Result<()> {
        let compared = verify::verify(dump, &self.head, &self.conninfo, &self.tools, options, monitor)?;
        compared.warnings.iter().for_each(|warning| monitor.warn(warning));
        Ok(())
    }

    /// How to connect for the user's questions: as a role that may only read.
    ///
    /// # Errors
    /// [`Error::Destination`] if the role cannot be given that right.
    pub(crate) fn asking(&self) -> Result<Conninfo> {
        let Some(asker) = &self.asker else { return Ok(self.conninfo.clone()) };
        asker.let_read(&self.conninfo).map(|()| asker.conninfo(&self.conninfo))
    }

    /// Ends all sessions in the database.
    pub(crate) fn end_sessions(&mut self) {
        // The caller calls this until the sessions are gone, so a failure is tried again.
        let _ = self.admin.end_sessions(&self.name);
    }

    /// Drops the database and the role that asked.
    pub(crate) fn remove(mut self, monitor: &dyn Monitor) {
        const HOW: &str = " WITH (FORCE)";
        let removed = self.admin.refresh().and_then(|()| abandoned::drop(&mut self.admin, &self.name, HOW));
        if let Err(error) = removed {
            let drop = format!("DROP DATABASE {}{HOW}", sql::quote(&self.name));
            monitor.warn(&format!("the scratch database could not be dropped ({error}); drop it by hand: {drop}"));
        }
        remove_asker(self.asker, &mut self.admin, monitor);
    }
}

fn remove_asker(asker: Option<Asker>, admin: &mut Admin, monitor: &dyn Monitor) {
    if let Some(Err(error)) = asker.map(|asker| admin.refresh().and_then(|()| asker.remove(admin))) {
        monitor.warn(&error.to_string());
    }
}

fn scratch_name(dumped: &str, timestamp: &str) -> Result<String> {
    let random = crate::id::random_hex::<{ DIGITS / 2 }>();
    let random = random.map_err(|e| Error::destination(dumped, format!("no randomness for a name: {e}")))?;
    Ok(suffixed(dumped, "_drill_", &format!("{timestamp}{random}")))
}
