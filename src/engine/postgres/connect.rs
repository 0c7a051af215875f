//! Our own connection to a server.

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

/// A connection, with what was found out about its other end.
pub struct Connection {
    /// The session.
    pub client: Client,
    /// The settings that lead to this very server, and to no other.
    pub conninfo: Conninfo,
    /// `server_version_num`: 150018 is 15.18.
    pub version: u32,
    /// The cluster's identifier, if this role may know it.
    pub system_identifier: Option<String>,
    /// Settings by which a dump may lack rows, and that this role cannot change, with their values.
    pub kept_settings: Vec<String>,
    /// Whether the server can be told not to read views, as pg_dump does.
    pub knows_views: bool,
}

impl Connection {
    /// Connects to the first place that answers, as libpq does: a place that refuses the password ends the search.
    ///
    /// # Errors
    /// [`Error::Source`] with what each place said; it never has the password in it.
    pub fn open(conninfo: &Conninfo) -> Result<Self> {
        Self::begin(conninfo, true)
    }

    /// The same; without `has_path` the session looks names up as its role and database say, once that was reset.
    fn begin(conninfo: &Conninfo, has_path: bool) -> Result<Self> {
        let (mut said, was_stopped) = (Vec::new(), conninfo.stop.is_set());
        for target in &conninfo.targets {
            let pinned = conninfo.pinned(target);
            let (client, is_pooled) = match connect(&pinned, target, has_path)? {
                // Such a pooler takes the session as it is. The first statement sets the same.
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

    /// Asks the server to stop the statement that runs. For a thread of its own; whether it comes through is not known.
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

    /// Whether this is a server that was asked for, and which. From here on the session has the settings of [`settings`].
    fn look(mut client: Client, mut conninfo: Conninfo, is_pooled: bool) -> Result<Result<Self, &'static str>, postgres::Error> {
        let found = set_up::set_up(&mut client)?;
        conninfo.session = found.session;
        conninfo.session.is_pooled = is_pooled;
        let row = client.query_one("SELECT current_setting('server_version_num')::int4, pg_is_in_recovery()", &[])?;
        let version = row.try_get::<_, i32>(0)?.max(0) as u32;
        let (standby, read_only): (bool, bool) = (row.try_get(1)?, found.is_read_only);
        let wanted = match conninfo.attributes.as_deref() {
            Some("read-write") => !standby && !read_only,
            Some("read-only") => standby || read_only,
            Some("primary") => !standby,
            Some("standby") => standby,
            // `prefer-standby` takes what there is.
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

    /// Connects for what the user asks: a session as an application has one.
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
    // Only what the other way may mend is tried in the other way: no connection at all, or a server that wants it otherwise.
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
    // Ours come last, and so win.
    let path = has_path.then(|| format!("-c {SEARCH_PATH}"));
    let options: Vec<&str> = conninfo.options.iter().chain(&path).map(String::as_str).collect();
    if !options.is_empty() {
        config.options(options.join(" "));
    }
    config
}
