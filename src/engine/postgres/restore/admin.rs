//! The connection over which databases are created, renamed and dropped.
//!
//! It is never a connection to the database that is replaced: the server does not rename a database that has sessions.
//! It connects again if the connection was lost during a long load, but only to the same cluster, and then takes its
//! advisory lock again.

use postgres::error::SqlState;

use super::sql;
use crate::engine::postgres::messages::explain;
use crate::engine::postgres::{Connection, Conninfo};
use crate::error::{Error, Result};
use crate::id::random_hex;

/// Random bytes in the name of a temporary role, and in its password.
const ROLE_NAME_BYTES: usize = 8;
const ROLE_PASSWORD_BYTES: usize = 24;

/// A name and a password for a temporary role. `does` is a part of the name and says what the role does; the rest is
/// random.
pub(super) fn new_role(does: &str) -> Result<(String, String)> {
    let drawn = random_hex::<ROLE_NAME_BYTES>().and_then(|name| Ok((name, random_hex::<ROLE_PASSWORD_BYTES>()?)));
    let (name, password) =
        drawn.map_err(|e| Error::destination("a temporary role", format!("the system gives no random bytes for its password: {e}")))?;
    Ok((format!("icecore_{does}_{name}"), password))
}

/// Databases that nearly every cluster has, to connect to.
const HOMES: [&str; 2] = ["postgres", "template1"];
/// Nobody reads notices here.
const SETTINGS: &str = "SET client_min_messages = warning";

pub(super) struct Admin {
    pub(super) connection: Connection,
    /// The key of the advisory lock that the session holds.
    claim: Option<i64>,
}

/// A session of another client.
pub(super) struct Session {
    pub(super) pid: i32,
    pub(super) text: String,
}

impl Admin {
    /// Connects to a database of the server other than `avoid`: the usual ones first, then the one in the settings.
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
        let none = || {
            Error::InvalidArgument(
                "the server has no database to connect to except the one that is replaced: name another one in --dsn".into(),
            )
        };
        Err(failure.unwrap_or_else(none))
    }

    /// Uses this connection.
    pub(super) fn of(mut connection: Connection) -> Result<Self> {
        let set = connection.client.batch_execute(SETTINGS);
        set.map_err(|e| Error::source(&connection.conninfo.database, explain(&e)))?;
        Ok(Admin { connection, claim: None })
    }

    /// Takes an advisory lock with a random key and returns the key. The session holds it until it ends.
    pub(super) fn claim(&mut self) -> Result<i64> {
        let mut random = [0; 8];
        getrandom::fill(&mut random)
            .map_err(|e| Error::destination(self.label(""), format!("the system gives no random bytes for a lock: {e}")))?;
        let key = i64::from_le_bytes(random);
        self.hold(key)?;
        Ok(key)
    }

    fn hold(&mut self, key: i64) -> Result<()> {
        self.run("", "cannot be locked", &format!("SELECT pg_advisory_lock({key})"))?;
        self.claim = Some(key);
        Ok(())
    }

    /// A new connection to the same server.
    pub(super) fn again(&self) -> Result<Self> {
        let admin = Self::of(Connection::open(&self.connection.conninfo)?)?;
        // The address may lead to another cluster now, after a failover for example.
        match admin.connection.system_identifier == self.connection.system_identifier {
            true => Ok(admin),
            false => Err(Error::source(self.label(""), "the connection was lost, and now another server answers at this address")),
        }
    }

    /// Makes sure that the connection still works after a long wait, and connects again if it does not.
    pub(super) fn refresh(&mut self) -> Result<()> {
        if self.connection.client.simple_query("SELECT 1").is_err() {
            let claim = self.claim;
            *self = self.again()?;
            claim.map_or(Ok(()), |key| self.hold(key))?;
        }
        Ok(())
    }

    /// A database of this server, as messages name it.
    pub(super) fn label(&self, database: &str) -> String {
        self.connection.conninfo.with_database(database).label()
    }

    /// Runs statements. If they fail, the message is about `database` and begins with `what`.
    pub(super) fn run(&mut self, database: &str, what: &str, text: &str) -> Result<()> {
        let label = self.label(database);
        self.connection.client.batch_execute(text).map_err(|e| Error::destination(label, format!("{what}: {}", explain(&e))))
    }

    /// The first column of a query's result, without nulls.
    pub(super) fn list(&mut self, query: &str, parameters: &[&str]) -> Result<Vec<String>> {
        let label = self.label("");
        let parameters: Vec<&(dyn postgres::types::ToSql + Sync)> =
            parameters.iter().map(|text| text as &(dyn postgres::types::ToSql + Sync)).collect();
        let failed = |e: postgres::Error| Error::source(&label, explain(&e));
        let rows = self.connection.client.query(query, &parameters).map_err(failed)?;
        let values: Result<Vec<Option<String>>, _> = rows.iter().map(|row| row.try_get(0)).collect();
        Ok(values.map_err(failed)?.into_iter().flatten().collect())
    }

    /// The result of a query for a single boolean. No row and null are `false`.
    pub(super) fn is(&mut self, query: &str, parameters: &[&str]) -> Result<bool> {
        Ok(self.list(&format!("SELECT ({query})::text"), parameters)?.first().is_some_and(|text| text == "true"))
    }

    pub(super) fn exists(&mut self, database: &str) -> Result<bool> {
        self.is("EXISTS (SELECT FROM pg_database WHERE datname = $1::text)", &[database])
    }

    /// The sessions of a database. Autovacuum does not count: the server ends it when a database is renamed.
    pub(super) fn sessions(&mut self, database: &str) -> Result<Vec<Session>> {
        let query = "SELECT pid::text || ' ' || coalesce(usename::text, '') || coalesce(' from ' || host(client_addr), '') || \
                     coalesce(' (' || nullif(application_name, '') || ')', '') || coalesce(', ' || state, '') FROM pg_stat_activity \
                     WHERE datname = $1::text AND pid <> pg_backend_pid() AND backend_type <> 'autovacuum worker' ORDER BY pid";
        let rows = self.list(query, &[database])?;
        let session = |text: String| Some(Session { pid: text.split(' ').next()?.parse().ok()?, text });
        Ok(rows.into_iter().filter_map(session).collect())
    }

    /// Ends all sessions of a database that this role may end.
    pub(super) fn end_sessions(&mut self, database: &str) -> Result<()> {
        for session in self.sessions(database)? {
            // A session that has ended meanwhile is fine. One that this role may not end makes the next step fail, with
            // a better message.
            let _ = self.connection.client.query("SELECT pg_terminate_backend($1)", &[&session.pid]);
        }
        Ok(())
    }

    /// Renames databases in one transaction. The inner error says that one of them is in use.
    pub(super) fn rename(&mut self, pairs: &[(&str, &str)]) -> Result<Result<(), SqlState>, postgres::Error> {
        let renames = pairs.iter().map(|(from, to)| format!("ALTER DATABASE {} RENAME TO {};", sql::quote(from), sql::quote(to)));
        let text = format!("BEGIN; {} COMMIT", renames.collect::<String>());
        let Err(error) = self.connection.client.batch_execute(&text) else { return Ok(Ok(())) };
        match error.code().cloned() {
            Some(code) if code == SqlState::OBJECT_IN_USE => {
                self.connection.client.batch_execute("ROLLBACK")?;
                Ok(Err(code))
            }
            // The failure has undone the transaction. If even ROLLBACK fails, the session is broken, and the
            // transaction ends with it.
            Some(_) => {
                let _ = self.connection.client.batch_execute("ROLLBACK");
                Err(error)
            }
            None => Err(error),
        }
    }
}
