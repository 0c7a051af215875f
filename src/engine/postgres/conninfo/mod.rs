//! Where and how to connect, resolved as libpq does it.
//!
//! Guarantee: our own connection and PostgreSQL's programs use the same values. They are resolved once, here, and
//! programs get the result in their environment.
//!
//! A value comes from the connection string, else from the service that it or `PGSERVICE` names, else from a `PG*`
//! variable, else from libpq's defaults. If none of them has a password, it comes from the password file (PostgreSQL
//! documentation, chapters 34.1 and 34.15 to 34.17). Settings that our own connection cannot honour are refused and not
//! ignored, since the user relies on them. No message contains a password.

mod files;
mod text;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use zeroize::Zeroizing;

use super::messages::explain;
use super::settings::{Purpose, Session};
use super::stop::Stop;
use crate::engine::Environment;
use crate::error::{Error, Result};

/// How long connecting to one target and the first queries may take, if the user names no time.
pub(super) const CONNECT_MAX: Duration = Duration::from_secs(30);

/// libpq's `sslmode`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SslMode {
    /// Never TLS.
    Disable,
    /// First without TLS; with TLS if the server refuses that.
    Allow,
    /// First with TLS; without TLS if the server has none or refuses.
    Prefer,
    /// TLS. The certificate is checked only if there is a root certificate file.
    Require,
    /// TLS with a certificate that a root certificate has signed.
    VerifyCa,
    /// TLS with such a certificate for this host's name.
    VerifyFull,
}

impl SslMode {
    fn parse(text: &str) -> Result<Self> {
        Ok(match text {
            "disable" => SslMode::Disable,
            "allow" => SslMode::Allow,
            "prefer" => SslMode::Prefer,
            "require" => SslMode::Require,
            "verify-ca" => SslMode::VerifyCa,
            "verify-full" => SslMode::VerifyFull,
            _ => return invalid("sslmode is none of disable, allow, prefer, require, verify-ca, verify-full"),
        })
    }

    fn word(self) -> &'static str {
        match self {
            SslMode::Disable => "disable",
            SslMode::Allow => "allow",
            SslMode::Prefer => "prefer",
            SslMode::Require => "require",
            SslMode::VerifyCa => "verify-ca",
            SslMode::VerifyFull => "verify-full",
        }
    }
}

/// One place to connect to.
#[derive(Clone, PartialEq, Eq)]
pub struct Target {
    /// A host name or address, or the directory of a Unix socket if it begins with `/`.
    pub host: String,
    /// The address to use, so that the host's name is not looked up.
    pub hostaddr: Option<String>,
    /// The port, or the number in a socket's name.
    pub port: u16,
    /// The password for this target.
    pub(super) password: Option<Zeroizing<String>>,
}

impl Target {
    /// Whether it is a Unix socket.
    pub fn is_socket(&self) -> bool {
        self.hostaddr.is_none() && self.host.starts_with('/')
    }
}

/// Never shows the password.
impl fmt::Debug for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

/// Files of TLS.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TlsFiles {
    /// Root certificates; `system` for those of the system.
    pub root: Option<PathBuf>,
    /// The client's certificate.
    pub cert: Option<PathBuf>,
    /// Its key.
    pub key: Option<PathBuf>,
}

/// Everything that is needed to connect.
#[derive(Debug, Clone)]
pub struct Conninfo {
    /// The targets to try, in order.
    pub targets: Vec<Target>,
    /// The role.
    pub user: String,
    /// The database.
    pub database: String,
    /// Whether to use TLS.
    pub sslmode: SslMode,
    /// The files for TLS.
    pub tls: TlsFiles,
    /// How long to try one target; `None`: 30 seconds.
    pub connect_timeout: Option<Duration>,
    /// Settings for the session (`-c name=value`).
    pub options: Option<String>,
    /// Whether the user has asked to stop. That ends waiting for the server.
    pub stop: Stop,
    /// `target_session_attrs`: which kind of server is wanted, such as `read-write` or `standby`. `None`: any.
    pub attributes: Option<String>,
    /// What an open connection has found out about sessions of this role in this database.
    pub(super) session: Session,
}

/// Settings by libpq's names, each with its environment variable.
const SETTINGS: [(&str, &str); 21] = [
    ("host", "PGHOST"),
    ("hostaddr", "PGHOSTADDR"),
    ("port", "PGPORT"),
    ("dbname", "PGDATABASE"),
    ("user", "PGUSER"),
    ("password", "PGPASSWORD"),
    ("passfile", "PGPASSFILE"),
    ("service", "PGSERVICE"),
    ("sslmode", "PGSSLMODE"),
    ("sslrootcert", "PGSSLROOTCERT"),
    ("sslcert", "PGSSLCERT"),
    ("sslkey", "PGSSLKEY"),
    ("connect_timeout", "PGCONNECT_TIMEOUT"),
    ("options", "PGOPTIONS"),
    ("target_session_attrs", "PGTARGETSESSIONATTRS"),
    ("channel_binding", "PGCHANNELBINDING"),
    ("gssencmode", "PGGSSENCMODE"),
    ("requirepeer", "PGREQUIREPEER"),
    ("require_auth", "PGREQUIREAUTH"),
    ("sslnegotiation", "PGSSLNEGOTIATION"),
    ("sslcrl", "PGSSLCRL"),
];
/// Settings that are accepted and ignored: they change nothing that matters here, or PostgreSQL's programs set them.
const IGNORED: [&str; 14] = [
    "application_name",
    "fallback_application_name",
    "client_encoding",
    "keepalives",
    "keepalives_idle",
    "keepalives_interval",
    "keepalives_count",
    "tcp_user_timeout",
    "sslcompression",
    "sslsni",
    "load_balance_hosts",
    "krbsrvname",
    "gsslib",
    "ssl_max_protocol_version",
];
/// Most targets in one connection string.
const TARGETS_MAX: usize = 64;

type Values = BTreeMap<String, String>;

fn invalid<T>(message: impl Into<String>) -> Result<T> {
    Err(Error::InvalidArgument(message.into()))
}

/// Whether this name is one of libpq's.
fn is_known(key: &str) -> bool {
    const REFUSED: [&str; 4] = ["sslpassword", "sslcrldir", "ssl_min_protocol_version", "sslcertmode"];
    SETTINGS.iter().any(|(name, _)| *name == key) || IGNORED.contains(&key) || REFUSED.contains(&key)
}

/// This machine.
const LOOPBACK: &str = "127.0.0.1";

impl Conninfo {
    /// Resolves a connection string (a URI, `key=value` settings, a database's name, or nothing) in this environment.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] for a string, a variable or a file that libpq would refuse, and for settings that our
    /// own connection cannot honour. No message contains the string, as it may hold a password.
    pub fn resolve(dsn: Option<&str>, environment: &Environment) -> Result<Self> {
        let mut values = text::parse(dsn.unwrap_or_default())?;
        if let Some(service) = values.get("service").cloned().or_else(|| environment.text("PGSERVICE")) {
            for (key, value) in files::service(&service, environment)? {
                values.entry(key).or_insert(value);
            }
        }
        for (key, variable) in SETTINGS {
            if let Some(value) = environment.text(variable) {
                values.entry(key.to_owned()).or_insert(value);
            }
        }
        if environment.text("PGREQUIRESSL").is_some_and(|value| value.starts_with('1')) {
            values.entry("sslmode".to_owned()).or_insert_with(|| "require".to_owned());
        }
        // As in libpq, an empty value counts as none.
        values.retain(|_, value| !value.is_empty());
        refuse_what_we_cannot_do(&values)?;
        Self::of(&values, environment)
    }

    fn of(values: &Values, environment: &Environment) -> Result<Self> {
        let get = |key: &str| values.get(key).cloned();
        let Some(user) = get("user").or_else(|| environment.os_user.clone()) else {
            return invalid("there is no role to connect as: this system user has no name; name a role with user=NAME or PGUSER");
        };
        let database = get("dbname").unwrap_or_else(|| user.clone());
        let sslmode = SslMode::parse(get("sslmode").as_deref().unwrap_or("prefer"))?;
        let mut targets = targets(values)?;
        let passwords = files::Passwords { given: get("passfile").map(PathBuf::from), environment };
        for target in &mut targets {
            target.password = match get("password") {
                Some(password) => Some(Zeroizing::new(password)),
                None => passwords.find(target, &database, &user)?,
            };
        }
        let connect_timeout = match get("connect_timeout").map(|text| text.trim().parse::<i64>()) {
            None => None,
            // libpq waits at least two seconds. Zero and less mean no limit in libpq, and our own limit here.
            Some(Ok(seconds)) => {
                u64::try_from(seconds).ok().filter(|seconds| *seconds > 0).map(|seconds| Duration::from_secs(seconds.max(2)))
            }
            Some(Err(_)) => return invalid("connect_timeout is not a number of seconds"),
        };
        let attributes = get("target_session_attrs").filter(|text| text != "any");
        let tls = tls_files(values, environment, sslmode)?;
        Ok(Conninfo {
            targets,
            user,
            database,
            sslmode,
            tls,
            connect_timeout,
            options: get("options"),
            stop: Stop::default(),
            attributes,
            session: Session::default(),
        })
    }

    /// A server with its Unix socket in this directory. It asks for no password.
    pub fn local(dir: &str, port: u16, user: &str, database: &str) -> Self {
        Conninfo {
            targets: vec![Target { host: dir.to_owned(), hostaddr: None, port, password: None }],
            user: user.to_owned(),
            database: database.to_owned(),
            sslmode: SslMode::Disable,
            tls: TlsFiles::default(),
            connect_timeout: None,
            options: None,
            stop: Stop::default(),
            attributes: None,
            session: Session::default(),
        }
    }

    /// The same with a stop flag.
    pub fn stopped_by(self, stop: Stop) -> Self {
        Conninfo { stop, ..self }
    }

    /// The error for a failed statement: `Cancelled` if the user's stop has ended it.
    pub(super) fn stopped_or(&self, error: &postgres::Error) -> Error {
        match self.stop.is_set() && error.code().is_none() {
            true => Error::Cancelled,
            false => Error::source(&self.database, explain(error)),
        }
    }

    /// The same for another role.
    pub(crate) fn with_role(&self, name: &str, password: &str) -> Self {
        let mut other = Conninfo { user: name.to_owned(), session: Session::default(), ..self.clone() };
        other.targets.iter_mut().for_each(|target| target.password = Some(Zeroizing::new(password.to_owned())));
        other
    }

    /// The same for sessions that act as another role from their start. `RESET ROLE` returns to that role too.
    pub(crate) fn acting_as(self, role: &str) -> Self {
        // In these options a space ends a value, unless a backslash precedes it.
        let escaped = |c: char| if c == '\\' || c.is_ascii_whitespace() || c == '\x0b' { vec!['\\', c] } else { vec![c] };
        let role: String = role.chars().flat_map(escaped).collect();
        Conninfo { options: Some(format!("-c role={role}")), ..self }
    }

    /// The same with TCP to this machine in place of sockets.
    pub(crate) fn over_tcp(mut self) -> Self {
        self.targets.iter_mut().filter(|target| target.is_socket()).for_each(|target| target.host = LOOPBACK.to_owned());
        self
    }

    /// The same without the user's options. Another role may not be allowed to set them.
    pub(crate) fn without_options(self) -> Self {
        Conninfo { options: None, ..self }
    }

    /// The same for another database of the server.
    pub fn with_database(&self, database: &str) -> Self {
        // Another database may have other settings.
        Conninfo { database: database.to_owned(), session: Session::default(), ..self.clone() }
    }

    /// The same with only this target.
    pub(super) fn pinned(&self, target: &Target) -> Self {
        Conninfo { targets: vec![target.clone()], ..self.clone() }
    }

    /// The environment variables with which PostgreSQL's programs connect to the first target, with the settings that
    /// its connection has found to be needed. The password is among them, so they must go nowhere but into a child's
    /// environment.
    pub(super) fn variables(&self, purpose: Purpose) -> Vec<(&'static str, OsString)> {
        let mut set: Vec<(&'static str, OsString)> = vec![
            ("PGUSER", self.user.clone().into()),
            ("PGDATABASE", self.database.clone().into()),
            ("PGSSLMODE", self.sslmode.word().into()),
            ("PGGSSENCMODE", "disable".into()),
            // The password was looked up already, and a second look could find another one. libpq ignores a missing
            // file, and this one cannot exist.
            ("PGPASSFILE", "/dev/null/none".into()),
        ];
        if let Some(target) = self.targets.first() {
            set.push(("PGHOST", target.host.clone().into()));
            set.push(("PGPORT", target.port.to_string().into()));
            set.extend(target.hostaddr.as_ref().map(|address| ("PGHOSTADDR", address.into())));
            set.extend(target.password.as_ref().map(|password| ("PGPASSWORD", password.as_str().into())));
        }
        set.push(("PGCONNECT_TIMEOUT", self.connect_timeout.unwrap_or(CONNECT_MAX).as_secs().to_string().into()));
        set.extend(self.session.options(self.options.as_deref(), purpose).map(|options| ("PGOPTIONS", options.into())));
        // Without this, a setting of the role or the database would decide the encoding of a dump.
        set.extend(self.session.encoding.as_ref().map(|encoding| ("PGCLIENTENCODING", encoding.into())));
        let files = [("PGSSLROOTCERT", &self.tls.root), ("PGSSLCERT", &self.tls.cert), ("PGSSLKEY", &self.tls.key)];
        set.extend(files.into_iter().filter_map(|(name, path)| Some((name, path.as_ref()?.clone().into_os_string()))));
        set
    }

    /// Database and targets, for messages and records. It contains no secrets.
    pub fn label(&self) -> String {
        let places: Vec<String> = self.targets.iter().map(|target| format!("{target:?}")).collect();
        format!("{} at {}", self.database, places.join(","))
    }
}

/// Refuses settings that would make the connection safer in a way that our own connection does not have.
fn refuse_what_we_cannot_do(values: &Values) -> Result<()> {
    let is = |key: &str, fine: &[&str]| values.get(key).is_none_or(|value| fine.contains(&value.as_str()));
    let fine = [
        ("channel_binding", is("channel_binding", &["prefer", "disable"])),
        ("gssencmode", is("gssencmode", &["prefer", "disable"])),
        ("sslnegotiation", is("sslnegotiation", &["postgres"])),
    ];
    let never = ["requirepeer", "require_auth", "sslcrl", "sslcrldir", "sslpassword", "ssl_min_protocol_version", "sslcertmode"];
    let refused = fine.iter().find(|(_, fine)| !fine).map(|(key, _)| *key).or(never.into_iter().find(|key| values.contains_key(*key)));
    match refused {
        Some(key) => invalid(format!("the connection asks for {key} in a way that icecore cannot honour; leave it out")),
        None => Ok(()),
    }
}

/// The targets: hosts, addresses and ports are lists whose items belong together, as in libpq.
fn targets(values: &Values) -> Result<Vec<Target>> {
    let list = |key: &str| -> Vec<String> {
        values.get(key).map(|text| text.split(',').map(|part| part.trim().to_owned()).collect()).unwrap_or_default()
    };
    let (hosts, addresses, ports) = (list("host"), list("hostaddr"), list("port"));
    let count = hosts.len().max(addresses.len()).max(1);
    if count > TARGETS_MAX {
        return invalid(format!("the connection names {count} hosts; at most {TARGETS_MAX} are possible"));
    }
    if !hosts.is_empty() && !addresses.is_empty() && hosts.len() != addresses.len() {
        return invalid("host and hostaddr name different numbers of hosts");
    }
    if ports.len() > 1 && ports.len() != count {
        return invalid("the numbers of ports and hosts differ: give one port for all hosts, or one for each");
    }
    let mut targets = Vec::with_capacity(count);
    for index in 0..count {
        // A single port is for all hosts.
        let port = match ports.get(index).or(ports.first()).map(String::as_str) {
            None | Some("") => 5432,
            Some(text) => match text.parse::<u16>() {
                Ok(port) if port > 0 => port,
                // The text is not shown: if the host is missing, it may be a password.
                _ => {
                    return invalid(
                        "a port is not a number from 1 to 65535; is the host missing, or a password in the URI not percent-encoded?",
                    );
                }
            },
        };
        let hostaddr = addresses.get(index).filter(|address| !address.is_empty()).cloned();
        let host = match hosts.get(index).filter(|host| !host.is_empty()) {
            Some(host) if host.starts_with('@') => return invalid("abstract sockets (a host that begins with @) are not supported"),
            Some(host) => host.clone(),
            None => hostaddr.clone().unwrap_or_else(|| default_socket_dir(port)),
        };
        targets.push(Target { host, hostaddr, port, password: None });
    }
    Ok(targets)
}

/// The default directory of sockets. It is compiled into libpq: `/var/run/postgresql` in most distributions and `/tmp`
/// in others.
fn default_socket_dir(port: u16) -> String {
    let dirs = [files::DEBIAN_SOCKET_DIR, "/tmp"];
    let found = dirs.into_iter().find(|dir| Path::new(dir).join(format!(".s.PGSQL.{port}")).exists());
    found.unwrap_or(files::DEBIAN_SOCKET_DIR).to_owned()
}

fn tls_files(values: &Values, environment: &Environment, mode: SslMode) -> Result<TlsFiles> {
    let file = |key: &str, default: &str| {
        let given = values.get(key).map(PathBuf::from);
        given.or_else(|| environment.in_home(default).filter(|path| path.exists()))
    };
    let root = file("sslrootcert", ".postgresql/root.crt");
    if matches!(mode, SslMode::VerifyCa | SslMode::VerifyFull) && root.is_none() {
        return invalid(
            "sslmode verify-ca and verify-full need root certificates: give sslrootcert, or put them into ~/.postgresql/root.crt",
        );
    }
    if root.as_deref() == Some(Path::new("system")) && mode != SslMode::VerifyFull {
        return invalid("sslrootcert=system needs sslmode=verify-full");
    }
    Ok(TlsFiles { root, cert: file("sslcert", ".postgresql/postgresql.crt"), key: file("sslkey", ".postgresql/postgresql.key") })
}
