//! The new database, under its temporary name until it is whole.

use super::admin::Admin;
use super::preflight::is_of_database;
use super::{FailedObject, Names, ServerOptions, abandoned, sql};
use crate::engine::postgres::archive::{Archive, Entry};
use crate::engine::postgres::messages::explain;
use crate::engine::postgres::{Connection, Conninfo};
use crate::engine::stoppable::stoppable;
use crate::error::{Error, Result};
use crate::progress::Monitor;

/// A database that is being made. It has to end as [`Making::finish`] or [`Making::drop_after`].
pub(super) struct Making<'a> {
    pub(super) names: &'a Names,
    /// How to connect to it.
    pub(super) conninfo: Conninfo,
    /// Statements that are for a database that is whole: rights, comments, limits.
    later: Vec<String>,
    /// Whether it is dropped after a look, and so keeps the comment that says so.
    is_scratch: bool,
}

impl<'a> Making<'a> {
    /// Makes an empty one, with the encoding and the locale that the dumped one had, its owner and its settings. Without a `claim` it is the admin's own.
    pub(super) fn create(admin: &mut Admin, head: &Archive, names: &'a Names, options: &ServerOptions, claim: Option<i64>) -> Result<Self> {
        let is_scratch = claim.is_some();
        let claim = claim.map_or_else(|| admin.claim(), Ok)?;
        let temporary = &names.temporary;
        admin.run(temporary, "cannot take up the dump's settings", super::standard_strings(head))?;
        let statement = create_statement(head, temporary, options)?;
        admin.run(temporary, "cannot be made", &statement).map_err(advise)?;
        let conninfo = admin.connection.conninfo.with_database(temporary);
        let mut making = Making { names, conninfo, later: Vec::new(), is_scratch };
        match abandoned::mark(admin, temporary, claim).and_then(|()| making.set_up(admin, head, options)) {
            Ok(()) => Ok(making),
            Err(error) => Err(making.drop_after(admin, error)),
        }
    }

    fn set_up(&mut self, admin: &mut Admin, head: &Archive, options: &ServerOptions) -> Result<()> {
        let temporary = &self.names.temporary;
        let database = head.entries.iter().find(|entry| entry.kind == "DATABASE");
        if let Some(owner) = database.map(|entry| &entry.owner).filter(|owner| !options.no_owner && !owner.is_empty()) {
            let text = format!("ALTER DATABASE {} OWNER TO {}", sql::quote(temporary), sql::quote(owner));
            self.now(admin, options, "its owner cannot be set", &text)?;
        }
        let about = head.entries.iter().filter(|entry| entry.kind != "DATABASE" && is_of_database(&entry.kind, &entry.name));
        for entry in about.filter(|entry| entry.kind != "ACL" || !options.no_privileges) {
            let text = definition(entry)?;
            let statements = sql::statements(&sql::retarget(text, temporary));
            let (settings, later): (Vec<_>, Vec<_>) = statements.into_iter().partition(|text| is_setting(text));
            self.later.extend(later);
            for text in settings {
                self.now(admin, options, "its settings cannot be set", &text)?;
            }
        }
        Ok(())
    }

    /// Runs a statement about the new database before it is loaded. If all is to be restored that can be, one that fails is tried again at the end, and told.
    fn now(&mut self, admin: &mut Admin, options: &ServerOptions, what: &str, text: &str) -> Result<()> {
        match admin.run(&self.names.temporary, what, text) {
            Err(_) if options.keep_going => self.later.push(text.to_owned()),
            outcome => outcome?,
        }
        Ok(())
    }

    /// Connects to it.
    pub(super) fn connect(&self) -> Result<Connection> {
        Connection::open(&self.conninfo)
    }

    /// Gathers statistics, without which queries are slow until autovacuum has been there: dumps have none.
    pub(super) fn analyze(&self, monitor: &dyn Monitor) -> Result<()> {
        let mut connection = self.connect()?;
        let cancel = connection.canceller()?;
        let done = stoppable(monitor, cancel, || connection.client.batch_execute("SET client_min_messages = error; ANALYZE"));
        if monitor.cancelled() {
            return Err(Error::Cancelled);
        }
        done.map_err(|e| Error::destination(self.conninfo.label(), format!("ANALYZE: {}", explain(&e))))
    }

    /// Drops what every new database has and the dumped one had not, which no dump says.
    pub(super) fn drop_absent(&self, absent: Option<&str>, monitor: &dyn Monitor) -> Result<()> {
        const DROPS: [(&str, &str); 2] = [("schema public", "DROP SCHEMA public"), ("extension plpgsql", "DROP EXTENSION plpgsql")];
        for (what, drop) in DROPS.into_iter().filter(|(what, _)| absent.is_some_and(|absent| absent.split(", ").any(|one| one == *what))) {
            if let Err(error) = self.connect()?.client.batch_execute(drop) {
                monitor.warn(&format!("the dumped database had no {what}, and the new one has: it cannot be dropped: {}", explain(&error)));
            }
        }
        Ok(())
    }

    /// Gives it what a database has that is whole. Gives what could not be done, if that is to be no failure.
    pub(super) fn finish(&mut self, admin: &mut Admin, keep_going: bool) -> Result<Vec<FailedObject>> {
        if !self.is_scratch {
            abandoned::unmark(admin, &self.names.temporary)?;
        }
        let is_kept = |text: &String| !self.is_scratch || !text.starts_with("COMMENT ON DATABASE ");
        let mut failed = Vec::new();
        for text in std::mem::take(&mut self.later).into_iter().filter(is_kept) {
            match admin.run(&self.names.temporary, "its rights and comments cannot be set", &text) {
                Err(error) if keep_going => failed.push(FailedObject { object: "DATABASE".to_owned(), reason: error.to_string() }),
                outcome => outcome?,
            }
        }
        Ok(failed)
    }

    /// Drops it, and adds to what went wrong that this could not be done, if so.
    pub(super) fn drop_after(&self, admin: &mut Admin, error: Error) -> Error {
        let text = format!("DROP DATABASE IF EXISTS {} WITH (FORCE)", sql::quote(&self.names.temporary));
        let dropped = admin.refresh().and_then(|()| abandoned::drop(admin, &self.names.temporary, " WITH (FORCE)"));
        match dropped {
            Ok(()) => error,
            Err(why) => add(error, &format!("; the half-made database is left and has to be dropped by hand: {text}; ({why})")),
        }
    }
}

/// The same error with more to its text. An interruption stays one, unless there is something to say.
pub(super) fn add(error: Error, more: &str) -> Error {
    match error {
        Error::Source { path, detail } => Error::Source { path, detail: detail + more },
        Error::Destination { path, detail } => Error::Destination { path, detail: detail + more },
        Error::Busy { path, detail } => Error::Busy { path, detail: detail + more },
        Error::Corrupt { object, detail } => Error::Corrupt { object, detail: detail + more },
        other => Error::Destination { path: "restore".into(), detail: format!("{other}{more}") },
    }
}

fn definition(entry: &Entry) -> Result<&str> {
    let text = entry.definition.as_deref();
    text.ok_or_else(|| {
        Error::InvalidArgument(format!("the dump's {} for {} is no UTF-8 or too long to be restored", entry.kind, entry.name))
    })
}

/// Settings that loading may need; all else waits for the end, rights since loading might need them, limits since it might break them.
fn is_setting(statement: &str) -> bool {
    let limits = ["CONNECTION LIMIT", "IS_TEMPLATE", "ALLOW_CONNECTIONS"];
    statement.starts_with("ALTER ") && sql::has_word(statement, "SET") && !limits.iter().any(|limit| statement.contains(limit))
}

fn create_statement(head: &Archive, temporary: &str, options: &ServerOptions) -> Result<String> {
    let Some(entry) = head.entries.iter().find(|entry| entry.kind == "DATABASE") else {
        return Ok(format!("CREATE DATABASE {} TEMPLATE template0", sql::quote(temporary)));
    };
    let statement = sql::retarget(definition(entry)?, temporary);
    let statement = if options.no_tablespaces { sql::without(&statement, "TABLESPACE") } else { statement };
    match sql::statements(&statement).as_slice() {
        [one] if one.starts_with("CREATE DATABASE ") => Ok(one.clone()),
        _ => Err(Error::InvalidArgument("the dump's statement that makes the database is not one of pg_dump's".into())),
    }
}

fn advise(error: Error) -> Error {
    let text = error.to_string();
    let advice = if text.contains("locale") {
        "; the server's machine lacks a locale that the dumped database had: install it there (locale-gen, or a glibc language pack)"
    } else if text.contains("disk") || text.contains("space left") {
        "; the server's disk is full"
    } else {
        ""
    };
    add(error, advice)
}
