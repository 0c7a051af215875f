//! Opens icecore's own connection to a server, as libpq would.
//!
//! Targets are tried in order, with and without TLS as `sslmode` says. Guarantee: the session has the settings of
//! `settings` before anything else is asked, names are looked up only where no user can create any, and the
//! connection's [`Conninfo`] leads to this one server, so PostgreSQL's programs reach the same.

use postgres::NoTls;
use postgres::error::SqlState;
use tokio_postgres::Config;
use tokio_postgres::config::SslMode as Tls;

use super::client::{Client, Refused, cancel};
use super::conninfo::{Conninfo, SslMode, Target};
use super::messages::explain;
use super::settings::{self, SEARCH_PATH, set_up};
use super::{REFUSED_BY_POOLERS, tls};
use crate::error::{Error, Result};

/// A connection, with what was found out about the server.
pub struct Connection {
    /// The session.
    pub client: Client,
    /// Settings that lead only to this server.
    pub conninfo: Conninfo,
    /// `server_version_num`: 150018 is 15.18.
    pub version: u32,
    /// The cluster's identifier, if this role may read it.
    pub system_identifier: Option<String>,
    /// Settings (`name=value`) that can make a dump lack rows and that this role may not change.
    pub kept_settings: Vec<String>,
    /// Whether the server has `restrict_nonsystem_relation_kind`, with which a session reads no views.
    pub knows_views: bool,
}

impl Connection {
    /// Connects to the first target that answers. As in libpq, a target that refuses the password ends the search.
    ///
    /// # Errors
    /// [`Error::Source`] with the message of each target. It never contains the password.
    pub fn open(conninfo: &Conninfo) -> Result<Self> {
        Self::begin(conninfo, true)
    }

    /// Like [`Connection::open`]. With `has_path`, our own search_path is asked for when the session begins; without
    /// it, a session that resets the setting gets the one of its role and database.
    fn begin(conninfo: &Conninfo, has_path: bool) -> Result<Self> {
        let (mut said, was_stopped) = (Vec::new(), conninfo.stop.is_set());
        for target in &conninfo.targets {
            let pinned = conninfo.pinned(target);
            let (client, is_pooled) = match connect(&pinned, target, has_path)? {
                // This pooler refuses settings at the start of a session. Then the first statement sets them.
                Err(error) if has_path && error.text().contains(REFUSED_BY_POOLERS) => (connect(&pinned, target, false)?, true),
                outcome => (outcome, false),
            };
            let client = match client {
                Ok(client) => client,
                Err(error) => {
                    let is_final = error.code().is_some_and(|code| *code == SqlState::INVALID_PASSWORD);
                    said.push(format!("{target:?}: {}", error.text()));
                    match is_final || (conninfo.stop.is_set() && !was_stopped) {
                        true => break,
                        false => continue,
                    }
                }
            };
            match Self::look(client, pinned, is_pooled) {
                Ok(Ok(connection)) => return Ok(connection),
                Ok(Err(unwanted)) => said.push(format!("{target:?}: {unwanted}")),
                Err(error) => said.push(format!("{target:?}: {}", explain(&error))),
            }
        }
        match conninfo.stop.is_set() && !was_stopped {
            true => Err(Error::Cancelled),
            false => Err(Error::source(&conninfo.database, format!("cannot connect: {}", said.join("; ")))),
        }
    }

    /// A function that asks the server to cancel the running statement. Another thread may call it. It is not known
    /// whether the request arrives.
    pub(crate) fn canceller(&self) -> Result<impl Fn() + Send + Sync + use<>> {
        let token = self.client.cancel_token();
        let connector = match self.conninfo.sslmode {
            SslMode::Disable => None,
            _ => Some(tls::connector(&self.conninfo)?),
        };
        let target = self.conninfo.targets.first().cloned();
        Ok(move || match (&target, &connector) {
            (Some(target), Some(connector)) if !target.is_socket() => cancel(&token, target, connector.clone()),
            (Some(target), _) => cancel(&token, target, NoTls),
            (None, _) => {}
        })
    }

    /// Sets up the session with [`settings`] and finds out what the server is. The inner error says that
    /// `target_session_attrs` asks for another kind of server.
    fn look(mut client: Client, mut conninfo: Conninfo, is_pooled: bool) -> Result<Result<Self, &'static str>, postgres::Error> {
        let found = set_up::set_up(&mut client)?;
        conninfo.session = found.session;
        conninfo.session.is_pooled = is_pooled;
        let row = client.query_one("SELECT current_setting('server_version_num')::int4, pg_is_in_recovery()", &[])?;
        // A version is not negative. 0 would only make every program count as new enough.
        let version = u32::try_from(row.try_get::<_, i32>(0)?).unwrap_or(0);
        let (standby, read_only): (bool, bool) = (row.try_get(1)?, found.is_read_only);
        let wanted = match conninfo.attributes.as_deref() {
            Some("read-write") => !standby && !read_only,
            Some("read-only") => standby || read_only,
            Some("primary") => !standby,
            Some("standby") => standby,
            // `prefer-standby` accepts any server.
            _ => true,
        };
        if !wanted {
            return Ok(Err("is not of the kind that target_session_attrs asks for"));
        }
        let system_identifier = client.query_one("SELECT system_identifier::text FROM pg_control_system()", &[]);
        let system_identifier = match system_identifier {
            Ok(row) => Some(row.try_get(0)?),
            Err(error) if error.code() == Some(&SqlState::INSUFFICIENT_PRIVILEGE) => None,
            Err(error) => return Err(error),
        };
        client.settle();
        Ok(Ok(Connection { client, conninfo, version, system_identifier, kept_settings: found.kept, knows_views: found.knows_views }))
    }

    /// Connects for the user's own queries: the session reads and writes values as an application's does.
    ///
    /// # Errors
    /// As [`Connection::open`].
    pub(crate) fn open_as_an_application(conninfo: &Conninfo) -> Result<Self> {
        let mut connection = Self::begin(conninfo, false)?;
        let set = connection.client.batch_execute(&settings::as_an_application());
        set.map_err(|e| Error::source(conninfo.label(), explain(&e))).map(|()| connection)
    }
}

fn connect(conninfo: &Conninfo, target: &Target, has_path: bool) -> Result<Result<Client, Refused>> {
    let patience = (conninfo.connect_timeout, &conninfo.stop);
    let (first, second) = match conninfo.sslmode {
        _ if target.is_socket() => (Tls::Disable, None),
        SslMode::Disable => (Tls::Disable, None),
        SslMode::Allow => (Tls::Disable, Some(Tls::Require)),
        SslMode::Prefer => (Tls::Prefer, Some(Tls::Disable)),
        SslMode::Require | SslMode::VerifyCa | SslMode::VerifyFull => (Tls::Require, None),
    };
    if first == Tls::Disable && second.is_none() {
        return Ok(Client::connect(config(conninfo, target, has_path).ssl_mode(Tls::Disable), target, NoTls, patience));
    }
    let connector = tls::connector(conninfo)?;
    let attempt = |tls: Tls| Client::connect(config(conninfo, target, has_path).ssl_mode(tls), target, connector.clone(), patience);
    // The second way is tried only after failures that it may avoid: no connection at all, or a server that demands or
    // refuses TLS. A wrong password is sent once.
    let may_mend = |error: &Refused| error.code().is_none_or(|code| *code == SqlState::INVALID_AUTHORIZATION_SPECIFICATION);
    Ok(match (attempt(first), second) {
        (Err(error), Some(second)) if may_mend(&error) && !conninfo.stop.is_set() => attempt(second),
        (outcome, _) => outcome,
    })
}

fn config(conninfo: &Conninfo, target: &Target, has_path: bool) -> Config {
    let mut config = Config::new();
    config.user(&conninfo.user).dbname(&conninfo.database).application_name("icecore");
    if let Some(password) = &target.password {
        config.password(password.as_bytes());
    }
    // The last value of a setting wins, so ours comes after the user's.
    let path = has_path.then(|| format!("-c {SEARCH_PATH}"));
    let options: Vec<&str> = conninfo.options.iter().chain(&path).map(String::as_str).collect();
    if !options.is_empty() {
        config.options(options.join(" "));
    }
    config
}
