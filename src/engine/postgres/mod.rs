//! PostgreSQL databases, dumped by PostgreSQL's own programs under one exported snapshot.
//!
//! Guarantee: the whole capture is of one instant. A repeatable-read transaction of ours exports its snapshot, facts
//! are read in it, and every run of `pg_dump` uses that snapshot.
//!
//! With one job the dump is `pg_dump -Fc -Z0`. It goes from the pipe into the chunker, and [`archive::read`] parses it
//! on the way; so when its last byte has come, it is known to be complete, and the rows of each table are counted. With
//! several jobs it is `pg_dump -Fd -Z0` into a private directory, and each table becomes a stream of its own
//! (`parallel`). `restore` and `drill` bring a dump back.

mod all;
pub mod archive;
mod capture;
pub(crate) mod client;
pub(crate) mod connect;
pub mod conninfo;
pub mod drill;
mod facts;
mod inspect;
pub mod lacking;
pub(crate) mod messages;
mod parallel;
pub(crate) mod private_dir;
pub mod restore;
mod settings;
mod stop;
pub mod stream_names;
pub mod tables;
mod tls;
mod tools;
mod watch;

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

pub use all::PostgresServer;
pub use connect::Connection;
pub use conninfo::Conninfo;
pub use inspect::PostgresEngine;
pub use stop::Stop;
pub use tools::Tools;

use self::settings::{Pin, Purpose};
use super::child::{self, Running};
use super::{Capture, Databases, Environment, Known, Source, SourceDescription};
use crate::error::{Error, Result};
use crate::progress::Monitor;
use crate::recorded::SourceKind;

/// Is called with the name of each table when its data begins.
pub type OnTable = Arc<dyn Fn(&str) + Send + Sync>;

/// PgBouncer's message about options that it does not pass on.
const REFUSED_BY_POOLERS: &str = "unsupported startup parameter";
/// See [`PostgresOptions::patience`].
const ANSWER_WAIT: Duration = Duration::from_secs(600);
/// How long psql may take to say which database it reaches.
const PSQL_MAX: Duration = Duration::from_secs(120);
/// Default of [`PostgresOptions::lock_wait`].
pub const LOCK_WAIT: Duration = Duration::from_secs(60);

/// What to capture, and how.
#[derive(Clone)]
pub struct PostgresOptions {
    /// Where to connect.
    pub conninfo: Conninfo,
    /// The environment of PostgreSQL's programs, with the path on which they are looked for.
    pub environment: Environment,
    /// The directory with PostgreSQL's programs; `None`: they are looked for.
    pub bin: Option<PathBuf>,
    /// Whether `globals.sql` has the roles' password verifiers. The caller makes sure that they do not go into an
    /// unencrypted repository.
    pub role_passwords: bool,
    /// Dump only the cluster's roles and tablespaces.
    pub globals_only: bool,
    /// How long a dump may wait for a locked table. While it waits, later users of that table queue behind it.
    pub lock_wait: Duration,
    /// How many tables are dumped at once. With more than one, each table becomes a stream, and the dump lies in
    /// `spool_dir` for a while.
    pub jobs: usize,
    /// The directory in which such a dump gets its own directory.
    pub spool_dir: PathBuf,
    /// Patterns of pg_dump for tables that are left out.
    pub exclude_tables: Vec<String>,
    /// Patterns of pg_dump for tables whose rows are left out.
    pub exclude_table_data: Vec<String>,
    /// Is called for each table.
    pub on_table: OnTable,
}

/// The fact with the patterns of tables that a dump lacks.
pub const EXCLUDE_TABLE_FACT: &str = "exclude_table";
/// The fact with the patterns of tables whose rows a dump lacks.
pub const EXCLUDE_TABLE_DATA_FACT: &str = "exclude_table_data";

impl PostgresOptions {
    /// How long the server may take for one answer. A query may wait for a lock, and `pg_database_size` looks at every
    /// file of a large database.
    fn patience(&self) -> Duration {
        self.lock_wait + ANSWER_WAIT
    }

    /// Facts about tables and rows that are left out.
    fn excluded(&self) -> impl Iterator<Item = (String, String)> {
        let lists = [(EXCLUDE_TABLE_FACT, &self.exclude_tables), (EXCLUDE_TABLE_DATA_FACT, &self.exclude_table_data)];
        let given = lists.into_iter().filter(|(_, patterns)| !patterns.is_empty() && !self.globals_only);
        given.map(|(name, patterns)| (name.to_owned(), patterns.join(", ")))
    }
}

/// The start of the comment on a database that a restore or drill of icecore is making, as SQL over `pg_database`. The
/// key of an advisory lock follows.
pub(crate) const WORK_COMMENT: &str = "format('icecore works on %s (%s) while it holds advisory lock ', datname, oid)";

/// One database of a server, or its globals. Streams: `globals.sql`, `schema.sql`, [`tables::STREAM`], and
/// `DATABASE.pgdump`; with several jobs `DATABASE.pgdir/toc.dat` and a file for each table beside it.
pub struct PostgresSource {
    options: PostgresOptions,
    tools: Tools,
    system_identifier: Option<String>,
    /// The connection with which the source was looked at. The first capture takes it.
    connection: Mutex<Option<Connection>>,
    /// A warning, if the programs' sessions cannot be given the settings that they should have.
    unpinned: Option<String>,
}

impl PostgresSource {
    /// Connects, finds programs that fit the server, and makes sure that they reach the same database of the same
    /// cluster.
    ///
    /// # Errors
    /// [`Error::Source`] if there is no connection, no programs fit, or they reach something else.
    pub fn connect(mut options: PostgresOptions) -> Result<Self> {
        let connection = Connection::open(&options.conninfo)?;
        // The DSN may list several servers. From here on only the one that answered is used.
        options.conninfo = connection.conninfo.clone();
        let tools = Tools::find(options.bin.as_deref(), &options.environment, connection.version)?;
        let system_identifier = connection.system_identifier.clone();
        let mut source = PostgresSource { options, tools, system_identifier, connection: Mutex::new(Some(connection)), unpinned: None };
        source.compare()?;
        Ok(source)
    }

    /// The programs that will be run.
    pub fn tools(&self) -> &Tools {
        &self.tools
    }

    /// The databases of the server, without `template0` and `template1`.
    ///
    /// # Errors
    /// [`Error::Source`] if the query fails.
    pub fn databases(&self) -> Result<Databases> {
        let mut connection = self.take_connection()?;
        let query = format!(
            "SELECT datname::text, CASE WHEN datconnlimit = -2 THEN 'it is invalid, as dropping it was interrupted: it can only be dropped' \
             WHEN NOT datallowconn THEN 'it takes no connections (ALTER DATABASE ... ALLOW_CONNECTIONS true)' \
             WHEN starts_with(shobj_description(oid, 'pg_database'), {WORK_COMMENT}) THEN 'a restore or drill of icecore is making it' END \
             FROM pg_database WHERE datname NOT IN ('template0', 'template1') ORDER BY datname"
        );
        connection.client.hurry(self.options.patience());
        let failed = |e: postgres::Error| self.options.conninfo.stopped_or(&e);
        let mut databases = Databases::default();
        for row in connection.client.query(&query, &[]).map_err(failed)? {
            let (name, why): (String, Option<String>) = (row.try_get(0).map_err(failed)?, row.try_get(1).map_err(failed)?);
            match why {
                Some(why) => databases.passed_over.push((name, why)),
                None => databases.names.push(name),
            }
        }
        *self.connection.lock().unwrap_or_else(PoisonError::into_inner) = Some(connection);
        Ok(databases)
    }

    fn take_connection(&self) -> Result<Connection> {
        let waiting = self.connection.lock().unwrap_or_else(PoisonError::into_inner).take();
        let connection = waiting.map_or_else(|| Connection::open(&self.options.conninfo), Ok)?;
        match connection.system_identifier == self.system_identifier {
            true => Ok(connection),
            false => Err(Error::source(&self.options.conninfo.database, "another server answers at this address now than before")),
        }
    }

    /// Makes sure that PostgreSQL's programs reach the same database and get the settings that they are given. psql
    /// answers for all of them, since it reads its environment as pg_dump does. Without psql this is skipped: pg_dump
    /// on another database would fail, as the exported snapshot does not exist there.
    fn compare(&mut self) -> Result<()> {
        if !self.tools.bin.join("psql").exists() {
            return Ok(());
        }
        let given: Vec<Pin> = self.options.conninfo.session.pins(Purpose::Ask).cloned().collect();
        let mut said = self.ask_psql(&given)?;
        if !given.is_empty() && said.as_ref().is_err_and(|said| said.contains(REFUSED_BY_POOLERS)) {
            self.unpin(&given);
            said = self.ask_psql(&[])?;
        }
        let conninfo = &self.options.conninfo;
        let said = said.map_err(|said| Error::source(&conninfo.database, format!("PostgreSQL's programs cannot connect: {said}")))?;
        // Compared as a whole and not line by line: a database's name may contain newlines.
        let place = format!("{} {}\n", self.system_identifier.as_deref().unwrap_or_default(), conninfo.database);
        let Some(settings) = said.strip_prefix(&place) else {
            return Err(Error::source(&conninfo.database, "PostgreSQL's programs reach another database than icecore itself does"));
        };
        // A pooler may have ignored the settings without an error.
        if self.unpinned.is_none() && !settings.lines().eq(given.iter().map(|pin| pin.value)) {
            self.unpin(&given);
        }
        Ok(())
    }

    /// The database that psql reaches and the values of these settings there; or psql's message if it fails.
    fn ask_psql(&self, pins: &[Pin]) -> Result<Result<String, String>> {
        let place = match self.system_identifier {
            Some(_) => "SELECT system_identifier, pg_catalog.current_database() FROM pg_catalog.pg_control_system()",
            None => "SELECT '', pg_catalog.current_database()",
        };
        let mut psql = self.tools.psql(&self.options.environment, &self.options.conninfo);
        // These queries have no operators and name their schemas, so they run no code of the database even if a pooler
        // drops the search_path.
        psql.args(["-XqAtw", "-F", " ", "-v", "ON_ERROR_STOP=1", "-c", place]).env("PGCLIENTENCODING", "UTF8");
        for pin in pins {
            psql.arg("-c").arg(format!("SELECT pg_catalog.current_setting('{}')", pin.name));
        }
        let stop = &self.options.conninfo.stop;
        let patience = Patience { stop, until: Instant::now() + PSQL_MAX };
        // Nobody reads `_output`: psql writes less than the pipe holds.
        let (running, _output) = Running::start("psql", psql, |output| child::collect(output))?;
        Ok(match running.finish_or("", &patience) {
            Ok(finished) => Ok(finished.seen),
            Err(Error::Cancelled) if stop.is_set() => return Err(Error::Cancelled),
            Err(Error::Cancelled) => Err(format!("no answer within {} s", PSQL_MAX.as_secs())),
            Err(error) => Err(error.to_string()),
        })
    }

    /// Goes on without settings for the programs, and keeps a warning for the capture.
    fn unpin(&mut self, given: &[Pin]) {
        self.options.conninfo.session.unpin();
        let names: Vec<&str> = given.iter().map(|pin| pin.name).collect();
        self.unpinned = Some(format!(
            "a pooler does not pass settings of PostgreSQL's programs on ({}), so a restore may report rows that differ: name the server \
             itself in --dsn",
            names.join(", ")
        ));
    }
}

impl Source for PostgresSource {
    fn identity(&self) -> SourceDescription {
        let conninfo = &self.options.conninfo;
        let server =
            self.system_identifier.clone().unwrap_or_else(|| conninfo.targets.iter().map(|target| format!("{target:?}")).collect());
        let what = match self.options.globals_only {
            true => b"globals".to_vec(),
            false => [b"database ", conninfo.database.as_bytes()].concat(),
        };
        let label = conninfo.label();
        let label = if self.options.globals_only { format!("globals of {label}") } else { label };
        SourceDescription { kind: SourceKind::POSTGRES, parts: vec![server.into_bytes(), what], label }
    }

    fn capture<'a>(&'a self, _known: &'a dyn Known, monitor: &'a dyn Monitor) -> Result<Box<dyn Capture + 'a>> {
        let connection = self.take_connection()?;
        Ok(Box::new(capture::PostgresCapture::begin(self, connection, monitor)?))
    }
}

/// Ends waiting when the user asks to stop, or at a time.
struct Patience<'s> {
    stop: &'s Stop,
    until: Instant,
}

impl Monitor for Patience<'_> {
    fn phase(&self, _name: &'static str, _total_bytes: Option<u64>) {}
    fn advance(&self, _bytes: u64) {}
    fn warn(&self, _message: &str) {}
    fn cancelled(&self) -> bool {
        self.stop.is_set() || Instant::now() >= self.until
    }
}
