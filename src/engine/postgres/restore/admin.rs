//! The connection that databases are made and renamed through. It is never to the database that is replaced, as that would stand in the way.

use postgres::error::SqlState;

use super::sql;
use crate::engine::postgres::messages::explain;
use crate::engine::postgres::{Connection, Conninfo};
use crate::error::{Error, Result};
use crate::id::random_hex;

/// Random bytes in the name of a role that is made for a while, and in its password.
const ROLE_NAME_BYTES: usize = 8;
const ROLE_PASSWORD_BYTES: usize = 24;

/// A name and a password for a role that is made for a while. The name says what the role does; nobody can guess the rest.
pub(super) fn new_role(does: &str) -> Result<(String, String)> {
    let drawn = random_hex::<ROLE_NAME_BYTES>().and_then(|name| Ok((name, random_hex::<ROLE_PASSWORD_BYTES>()?)));
    let (name, password) = drawn.map_err(|e| Error::destination("a role", format!("no randomness: {e}")))?;
    Ok((format!("icecore_{does}_{name}"), password))
}

/// Databases that nearly every cluster has, to work from.
const HOMES: [&str; 2] = ["postgres", "template1"];
/// Notices are of no use to anybody here.
const SETTINGS: &str = "SET client_min_messages = warning";

pub(super) struct Admin {
    pub(super) connection: Connection,
    /// The advisory lock that its session holds.
    claim: Option<i64>,
}

/// A session of somebody else.
pub(super) struct Session {
    pub(super) pid: i32,
    pub(super) text: String,
}

impl Admin {
    /// Connects to a database of the server other than `avoid`.
    pub(super) fn open(conninfo: &Conninfo, avoid: &str) -> Result<Self> {
        let mut homes: Vec<&str> = HOMES.to_vec();
        homes.push(&conninfo.database);
        let mut failure = None;
        for home in homes.into_iter().filter(|home| *home != avoid) {
            match Connection::open(&conninfo.with_database(home)) {
                Ok(connection) => return Self::of(connection),
                Err(Error::Cancelled) => return Err(Error::Cancelled),
                Err(error) => failure = failure.or(Some(error)),
            }
        }
        let none = || Error::InvalidArgument("there is no database to work from besides the one to replace: name another in --dsn".into());
        Err(failure.unwrap_or_else(none))
    }

    /// Over this connection.
    pub(super) fn of(mut connection: Connection) -> Result<Self> {
        let set = connection.client.batch_execute(SETTINGS);
        set.map_err(|e| Error::source(&connection.conninfo.database, explain(&e)))?;
        Ok(Admin { connection, claim: None })
    }

    /// Takes an advisory lock that nobody else has, until this ends, and gives its number.
    pub(super) fn claim(&mut self) -> Result<i64> {
        let mut random = [0; 8];
        getrandom::fill(&mut random).map_err(|e| Error::destination(self.label(""), format!("no randomness for a lock: {e}")))?;
        let key = i64::from_le_bytes(random);
        self.hold(key)?;
        Ok(key)
    }

    fn hold(&mut self, key: i64) -> Result<()> {
        self.run("", "cannot be locked", &format!("SELECT pg_advisory_lock({key})"))?;
        self.claim = Some(key);
        Ok(())
    }

    /// Another such connection to the same server.
    pub(super) fn again(&self) -> Result<Self> {
        let admin = Self::of(Connection::open(&self.connection.conninfo)?)?;
        match admin.connection.system_identifier == self.connection.system_identifier {
            true => Ok(admin),
            false => Err(Error::source(self.label(""), "another server answers now than before")),
        }
    }

    /// Makes sure that it is usable after a long wait.
    pub(super) fn refresh(&mut self) -> Result<()> {
        if self.connection.client.simple_query("SELECT 1").is_err() {
            let claim = self.claim;
            *self = self.again()?;
            claim.map_or(Ok(()), |key| self.hold(key))?;
        }
        Ok(())
    }

    /// A database of this server, for messages.
    pub(super) fn label(&self, database: &str) -> String {
        self.connection.conninfo.with_database(database).label()
    }

    /// Runs statements, for which `what` is said if they fail.
    pub(super) fn run(&mut self, database: &str, what: &str, text: &str) -> Result<()> {
        let label = self.label(database);
        self.connection.client.batch_execute(text).map_err(|e| Error::destination(label, format!("{what}: {}", explain(&e))))
    }

    /// The first column of what a query with these parameters gives, null left out.
    pub(super) fn list(&mut self, query: &str, parameters: &[&str]) -> Result<Vec<String>> {
        let label = self.label("");
        let parameters: Vec<&(dyn postgres::types::ToSql + Sync)> =
            parameters.iter().map(|text| text as &(dyn postgres::types::ToSql + Sync)).collect();
        let failed = |e: postgres::Error| Error::source(&label, explain(&e));
        let rows = self.connection.client.query(query, &parameters).map_err(failed)?;
        let values: Result<Vec<Option<String>>, _> = rows.iter().map(|row| row.try_get(0)).collect();
        Ok(values.map_err(failed)?.into_iter().flatten().collect())
    }

    /// What a query says that gives one row with a truth value.
    pub(super) fn is(&mut self, query: &str, parameters: &[&str]) -> Result<bool> {
        Ok(self.list(&format!("SELECT ({query})::text"), parameters)?.first().is_some_and(|text| text == "true"))
    }

    pub(super) fn exists(&mut self, database: &str) -> Result<bool> {
        self.is("EXISTS (SELECT FROM pg_database WHERE datname = $1::text)", &[database])
    }

    /// Who is connected to a database, apart from what the server itself ends when it has to.
    pub(super) fn sessions(&mut self, database: &str) -> Result<Vec<Session>> {
        let query = "SELECT pid::text || ' ' || coalesce(usename::text, '') || coalesce(' from ' || host(client_addr), '') || \
                     coalesce(' (' || nullif(application_name, '') || ')', '') || coalesce(', ' || state, '') FROM pg_stat_activity \
                     WHERE datname = $1::text AND pid <> pg_backend_pid() AND backend_type <> 'autovacuum worker' ORDER BY pid";
        let rows = self.list(query, &[database])?;
        let session = |text: String| Some(Session { pid: text.split(' ').next()?.parse().ok()?, text });
        Ok(rows.into_iter().filter_map(session).collect())
    }

    /// Ends all sessions of a database that may be ended; those that may not stand in the way later.
    pub(super) fn end_sessions(&mut self, database: &str) -> Result<()> {
        for session in self.sessions(database)? {
            // One that has gone by itself, or that this role may not end, is no failure here.
            let _ = self.connection.client.query("SELECT pg_terminate_backend($1)", &[&session.pid]);
        }
        Ok(())
    }

    /// Renames databases, all or none.
    pub(super) fn rename(&mut self, pairs: &[(&str, &str)]) -> Result<Result<(), SqlState>, postgres::Error> {
        let renames = pairs.iter().map(|(from, to)| format!("ALTER DATABASE {} RENAME TO {};", sql::quote(from), sql::quote(to)));
        let text = format!("BEGIN; {} COMMIT", renames.collect::<String>());
        let Err(error) = self.connection.client.batch_execute(&text) else { return Ok(Ok(())) };
        match error.code().cloned() {
            Some(code) if code == SqlState::OBJECT_IN_USE => {
                self.connection.client.batch_execute("ROLLBACK")?;
                Ok(Err(code))
            }
            // What the transaction has done is gone with the failure, or with the session.
            Some(_) => {
                let _ = self.connection.client.batch_execute("ROLLBACK");
                Err(error)
            }
            None => Err(error),
        }
    }
}
