//! PostgreSQL databases, dumped by their own programs under one exported snapshot.
//!
//! One repeatable-read transaction of our own exports its snapshot; facts are read in it, and each run of `pg_dump` takes it up, so that
//! all of it is of one instant. The dump is `pg_dump -Fc -Z0`, which goes from the pipe into the chunker without a copy, and past
//! [`archive::read`] on its way: that it is complete, and what each table has in it, is known when its last byte has come. With several jobs it is
//! `pg_dump -Fd -Z0` into a private directory, and each table a stream of its own.

pub mod archive;
mod capture;
pub(crate) mod connect;
pub mod conninfo;
mod facts;
mod parallel;
pub(crate) mod spool;
pub mod streams;
pub mod tables;
mod tls;
mod tools;

use std::collections::HashMap;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

pub use connect::Connection;
pub use conninfo::Conninfo;
pub use tools::Tools;

use self::connect::explain;
use super::{Capture, Environment, Source, SourceDescription, Stamp};
use crate::error::{Error, Result};
use crate::format::snapshot::SourceKind;
use crate::progress::Monitor;

/// Hears of the table that is being read.
pub type OnTable = Arc<dyn Fn(&str) + Send + Sync>;

/// Default of [`PostgresOptions::lock_wait`].
pub const LOCK_WAIT: Duration = Duration::from_secs(60);

/// What to capture, and how.
#[derive(Clone)]
pub struct PostgresOptions {
    /// Where to connect.
    pub conninfo: Conninfo,
    /// What the programs inherit, and where they are looked for.
    pub environment: Environment,
    /// The directory with PostgreSQL's programs; `None`: they are looked for.
    pub bin: Option<PathBuf>,
    /// Whether `globals.sql` has the roles' password verifiers. They must not go into an unencrypted repository: the caller sees to that.
    pub role_passwords: bool,
    /// Only what is global in the cluster: roles and tablespaces.
    pub globals_only: bool,
    /// How long a dump may wait for a table that somebody holds locked, and make others queue behind it.
    pub lock_wait: Duration,
    /// How many tables are dumped at once. With more than one each table becomes a stream, and the dump lies in `spool_dir` for a while.
    pub jobs: usize,
    /// Where the directory of such a dump is made.
    pub spool_dir: PathBuf,
    /// Tables, by the patterns of pg_dump, that are left out, with all that depends on them.
    pub exclude_tables: Vec<String>,
    /// Tables, by the patterns of pg_dump, whose rows are left out.
    pub exclude_table_data: Vec<String>,
    /// Hears of tables.
    pub on_table: OnTable,
}

/// The facts that say which tables a dump lacks, and which rows.
pub const EXCLUDE_TABLE_FACT: &str = "exclude_table";
/// See [`EXCLUDE_TABLE_FACT`].
pub const EXCLUDE_TABLE_DATA_FACT: &str = "exclude_table_data";

impl PostgresOptions {
    /// Facts about what is left out.
    fn excluded(&self) -> impl Iterator<Item = (String, String)> {
        let lists = [(EXCLUDE_TABLE_FACT, &self.exclude_tables), (EXCLUDE_TABLE_DATA_FACT, &self.exclude_table_data)];
        let given = lists.into_iter().filter(|(_, patterns)| !patterns.is_empty() && !self.globals_only);
        given.map(|(name, patterns)| (name.to_owned(), patterns.join(", ")))
    }
}

/// One database of a server, or its globals. Streams: `schema.sql`, `globals.sql`, `DATABASE.pgdump` or with several jobs
/// `DATABASE.pgdir/toc.dat` and a file for each table beside it, and [`tables::STREAM`].
pub struct PostgresSource {
    options: PostgresOptions,
    tools: Tools,
    system_identifier: Option<String>,
    /// The connection that was made to look; the first capture takes it.
    connection: Mutex<Option<Connection>>,
}

impl PostgresSource {
    /// Connects, finds programs that fit the server, and makes sure that they reach the same database of the same cluster.
    ///
    /// # Errors
    /// [`Error::Source`] if there is no connection, no programs fit, or they reach something else.
    pub fn connect(mut options: PostgresOptions) -> Result<Self> {
        let connection = Connection::open(&options.conninfo)?;
        // From here on everything is about the one server that has answered.
        options.conninfo = connection.conninfo.clone();
        let tools = Tools::find(options.bin.as_deref(), &options.environment, connection.version)?;
        let system_identifier = connection.system_identifier.clone();
        let source = PostgresSource { options, tools, system_identifier, connection: Mutex::new(Some(connection)) };
        source.compare()?;
        Ok(source)
    }

    /// The programs that will be run.
    pub fn tools(&self) -> &Tools {
        &self.tools
    }

    /// Databases of the server that can be dumped, sorted by name.
    ///
    /// # Errors
    /// [`Error::Source`] if the server does not say.
    pub fn databases(&self) -> Result<Vec<String>> {
        let mut connection = self.take_connection()?;
        let query = "SELECT datname::text FROM pg_database WHERE datallowconn AND NOT datistemplate ORDER BY datname";
        let rows = connection.client.query(query, &[]);
        let names = rows.and_then(|rows| rows.iter().map(|row| row.try_get(0)).collect());
        let names = names.map_err(|e| Error::source(&self.options.conninfo.database, explain(&e)))?;
        *self.connection.lock().unwrap_or_else(PoisonError::into_inner) = Some(connection);
        Ok(names)
    }

    fn take_connection(&self) -> Result<Connection> {
        let waiting = self.connection.lock().unwrap_or_else(PoisonError::into_inner).take();
        let connection = waiting.map_or_else(|| Connection::open(&self.options.conninfo), Ok)?;
        match connection.system_identifier == self.system_identifier {
            true => Ok(connection),
            false => Err(Error::source(&self.options.conninfo.database, "another server answers now than before")),
        }
    }

    /// Asks psql, which reads its environment as pg_dump does, where it is. Where there is no psql, the exported snapshot still tells other
    /// databases from ours: they do not have it.
    fn compare(&self) -> Result<()> {
        if !self.tools.bin.join("psql").exists() {
            return Ok(());
        }
        let conninfo = &self.options.conninfo;
        let query = match self.system_identifier {
            Some(_) => "SELECT system_identifier::text || ' ' || current_database() FROM pg_control_system()",
            None => "SELECT ' ' || current_database()",
        };
        let mut psql = self.tools.command("psql", &self.options.environment, conninfo);
        psql.args(["-XqAtw", "-v", "ON_ERROR_STOP=1", "-c", query]).env("PGCLIENTENCODING", "UTF8").stdin(Stdio::null());
        let output = psql.output().map_err(|e| Error::source("psql", format!("cannot be run: {e}")))?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            return Err(Error::source(&conninfo.database, format!("PostgreSQL's programs cannot connect: {}", said.trim_end())));
        }
        let reached = String::from_utf8_lossy(&output.stdout);
        let expected = format!("{} {}", self.system_identifier.as_deref().unwrap_or_default(), conninfo.database);
        match reached.strip_suffix('\n').unwrap_or(&reached) == expected {
            true => Ok(()),
            false => Err(Error::source(&conninfo.database, "PostgreSQL's programs reach another database than icecore itself does")),
        }
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
        SourceDescription { kind: SourceKind::Postgres, parts: vec![server.into_bytes(), what], label }
    }

    fn capture<'a>(&'a self, _known: &'a HashMap<Vec<u8>, Stamp>, monitor: &'a dyn Monitor) -> Result<Box<dyn Capture + 'a>> {
        let connection = self.take_connection()?;
        Ok(Box::new(capture::PostgresCapture::begin(self, connection, monitor)?))
    }
}
