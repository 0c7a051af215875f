//! The new database, under its temporary name until it is complete.
//!
//! It is created from the dump's own statement, so encoding and locale are those of the dumped database. A comment
//! marks it as incomplete until [`Making::finish`]; so the next restore can drop it if this process is killed (see
//! [`abandoned`]).
//!
//! The properties of the database come in two parts. Settings are applied before loading, since functions and indexes
//! may depend on them. Rights, comments and limits wait for the end: revoked rights or a connection limit could stop
//! the loading itself.

use super::admin::Admin;
use super::preflight::is_of_database;
use super::{FailedObject, Names, ServerOptions, abandoned, sql};
use crate::engine::postgres::archive::{Archive, Entry};
use crate::engine::postgres::messages::explain;
use crate::engine::postgres::{Connection, Conninfo};
use crate::engine::stoppable::stoppable;
use crate::error::{Error, Result};
use crate::progress::Monitor;

/// A database that is being made. Every use ends with [`Making::finish`] or [`Making::drop_after`].
pub(super) struct Making<'a> {
    pub(super) names: &'a Names,
    /// How to connect to it.
    pub(super) conninfo: Conninfo,
    /// Statements that run when the database is complete: rights, comments, limits.
    later: Vec<String>,
    /// Whether this is a temporary database of a drill. It keeps the comment that marks it for dropping.
    is_scratch: bool,
}

impl<'a> Making<'a> {
    /// Creates an empty database with the dumped one's encoding, locale, owner and settings. `claim` is the key of a
    /// lock that the caller holds, for a scratch database; without it, `admin` takes a lock.
    pub(super) fn create(admin: &mut Admin, head: &Archive, names: &'a Names, options: &ServerOptions, claim: Option<i64>) -> Result<Self> {
        let is_scratch = claim.is_some();
        // The lock comes before the database: a marked database whose lock nobody holds would be dropped by another
        // restore.
        let claim = claim.map_or_else(|| admin.claim(), Ok)?;
        let temporary = &names.temporary;
        admin.run(temporary, "the session cannot be set up as the dump asks", super::standard_strings(head))?;
        let statement = create_statement(head, temporary, options)?;
        admin.run(temporary, "cannot be created", &statement).map_err(advise)?;
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
        // The statements of the dump name the old database; `retarget` puts the temporary name in its place.
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

    /// Runs a statement about the new database before it is loaded. With `keep_going`, a statement that fails is tried
    /// again at the end; if it fails again, it is reported.
    fn now(&mut self, admin: &mut Admin, options: &ServerOptions, what: &str, text: &str) -> Result<()> {
        match admin.run(&self.names.temporary, what, text) {
            Err(_) if options.keep_going => self.later.push(text.to_owned()),
            outcome => outcome?,
        }
        Ok(())
    }

    pub(super) fn connect(&self) -> Result<Connection> {
        Connection::open(&self.conninfo)
    }

    /// Gathers the planner's statistics. Dumps have none, and queries would be slow until autovacuum has gathered them.
    pub(super) fn analyze(&self, monitor: &dyn Monitor) -> Result<()> {
        let mut connection = self.connect()?;
        let cancel = connection.canceller()?;
        let done = stoppable(monitor, cancel, || connection.client.batch_execute("SET client_min_messages = error; ANALYZE"));
        if monitor.cancelled() {
            return Err(Error::Cancelled);
        }
        done.map_err(|e| Error::destination(self.conninfo.label(), format!("ANALYZE: {}", explain(&e))))
    }

    /// Drops the schema and the extension that every new database has, if the dumped database lacked them. A dump does
    /// not say so; a fact of the snapshot does.
    pub(super) fn drop_absent(&self, absent: Option<&str>, monitor: &dyn Monitor) -> Result<()> {
        const DROPS: [(&str, &str); 2] = [("schema public", "DROP SCHEMA public"), ("extension plpgsql", "DROP EXTENSION plpgsql")];
        for (what, drop) in DROPS.into_iter().filter(|(what, _)| absent.is_some_and(|absent| absent.split(", ").any(|one| one == *what))) {
            if let Err(error) = self.connect()?.client.batch_execute(drop) {
                monitor.warn(&format!(
                    "the new database has a {what} that the dumped one did not have, and it cannot be dropped: {}",
                    explain(&error)
                ));
            }
        }
        Ok(())
    }

    /// Sets rights, comments and limits of the complete database. With `keep_going`, statements that fail are returned.
    pub(super) fn finish(&mut self, admin: &mut Admin, keep_going: bool) -> Result<Vec<FailedObject>> {
        // First, as the dump's own comment on the database takes the place of the mark.
        if !self.is_scratch {
            abandoned::unmark(admin, &self.names.temporary)?;
        }
        // On a scratch database the dump's comment would overwrite the mark.
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

    /// Drops it after `error`. If dropping fails too, the error gets the statement that drops it by hand.
    pub(super) fn drop_after(&self, admin: &mut Admin, error: Error) -> Error {
        let text = format!("DROP DATABASE IF EXISTS {} WITH (FORCE)", sql::quote(&self.names.temporary));
        let dropped = admin.refresh().and_then(|()| abandoned::drop(admin, &self.names.temporary, " WITH (FORCE)"));
        match dropped {
            Ok(()) => error,
            Err(why) => add(error, &format!("; the new database could not be dropped ({why}); drop it by hand: {text}")),
        }
    }
}

/// The error with `more` at the end of its text. Kinds that are not listed here become [`Error::Destination`], an
/// interruption too.
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
        Error::InvalidArgument(format!(
            "the dump's {} for {} cannot be restored: its text is not UTF-8, or too long",
            entry.kind, entry.name
        ))
    })
}

/// Whether a statement about the database is a setting, which runs before loading. Everything else waits for the end:
/// loading may need a right that is revoked, or exceed a limit.
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
    // A dump that was tampered with could have anything here, and this session may be a superuser's.
    match sql::statements(&statement).as_slice() {
        [one] if one.starts_with("CREATE DATABASE ") => Ok(one.clone()),
        _ => Err(Error::InvalidArgument(
            "the dump's CREATE DATABASE statement is not one that pg_dump writes, so nothing was created: the dump may have been changed"
                .into(),
        )),
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
