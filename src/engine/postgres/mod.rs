//! PostgreSQL databases, dumped by their own programs under one exported snapshot.
//!
//! One repeatable-read transaction of our own exports its snapshot; facts are read in it, and each run of `pg_dump` takes it up, so that
//! all of it is of one instant. The dump is `pg_dump -Fc -Z0`, which goes from the pipe into the chunker without a copy, and past
//! [`archive::read`] on its way: that it is complete, and what each table has in it, is known when its last byte has come. With several jobs it is
//! `pg_dump -Fd -Z0` into a private directory, and each table a stream of its own.

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

/// Hears of the table that is being read.
pub type OnTable = Arc<dyn Fn(&str) + Send + Sync>;

/// What PgBouncer says of options that it does not pass on.
const REFUSED_BY_POOLERS: &str = "unsupported startup parameter";
/// See [`PostgresOptions::patience`].
const ANSWER_WAIT: Duration = Duration::from_secs(600);
/// How long psql may take to say where it is.
const PSQL_MAX: Duration = Duration::from_secs(120);
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
    /// How long the server may take for one answer: what is asked may wait for a lock, and look at each file of a large database.
    fn patience(&self) -> Duration {
        self.lock_wait + ANSWER_WAIT
    }

    /// Facts about what is left out.
    fn excluded(&self) -> impl Iterator<Item = (String, String)> {
        let lists = [(EXCLUDE_TABLE_FACT, &self.exclude_tables), (EXCLUDE_TABLE_DATA_FACT, &self.exclude_table_data)];
        let given = lists.into_iter().filter(|(_, patterns)| !patterns.is_empty() && !self.globals_only);
        given.map(|(name, patterns)| (name.to_owned(), patterns.join(", ")))
    }
}

/// What the comment of a database begins with that icecore itself is making or only looks at, as SQL over `pg_database`; the number of an advisory lock follows.
pub(crate) const WORK_COMMENT: &str = "format('icecore works on %s (%s) while it holds advisory lock ', datname, oid)";

/// One database of a server, or its globals. Streams: `schema.sql`, `globals.sql`, `DATABASE.pgdump` or with several jobs
/// `DATABASE.pgdir/toc.dat` and a file for each table beside it, and [`tables::STREAM`].
pub struct PostgresSource {
    options: PostgresOptions,
    tools: Tools,
    system_identifier: Option<String>,
    /// The connection that was made to look; the first capture takes it.
    connection: Mutex<Option<Connection>>,
    /// What the programs' sessions are not as they should be in.
    unpinned: Option<String>,
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
        let mut source = PostgresSource { options, tools, system_identifier, connection: Mutex::new(Some(connection)), unpinned: None };
        source.compare()?;
        Ok(source)
    }

    /// The programs that will be run.
    pub fn tools(&self) -> &Tools {
        &self.tools
    }

    /// The databases of the server, but for the two that every server makes new ones of.
    ///
    /// # Errors
    /// [`Error::Source`] if the server does not say.
    pub fn databases(&self) -> Result<Databases> {
        let mut connection = self.take_connection()?;
        let query = format!(
            "SELECT datname::text, CASE WHEN datconnlimit = -2 THEN 'it is invalid, as dropping it was interrupted: it can only be dropped' \
             WHEN NOT datallowconn THEN 'it takes no connections (ALTER DATABASE ... ALLOW_CONNECTIONS true)' \
             WHEN starts_with(shobj_description(oid, 'pg_database'), {WORK_COMMENT}) THEN 'it is half-made, or of a drill' END \
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
            false => Err(Error::source(&self.options.conninfo.database, "another server answers now than before")),
        }
    }

    /// Asks psql, which reads its environment as pg_dump does, where it is, and whether it has the settings that it was given. Where there is no psql, the
    /// exported snapshot still tells other databases from ours: they do not have it.
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
        // A name may have line ends in it.
        let place = format!("{} {}\n", self.system_identifier.as_deref().unwrap_or_default(), conninfo.database);
        let Some(settings) = said.strip_prefix(&place) else {
            return Err(Error::source(&conninfo.database, "PostgreSQL's programs reach another database than icecore itself does"));
        };
        // A pooler may have passed over what it was given.
        if self.unpinned.is_none() && !settings.lines().eq(given.iter().map(|pin| pin.value)) {
            self.unpin(&given);
        }
        Ok(())
    }

    /// Where psql gets to, and what settings it has there; or what it says if it fails.
    fn ask_psql(&self, pins: &[Pin]) -> Result<Result<String, String>> {
        let place = match self.system_identifier {
            Some(_) => "SELECT system_identifier, pg_catalog.current_database() FROM pg_catalog.pg_control_system()",
            None => "SELECT '', pg_catalog.current_database()",
        };
        let mut psql = self.tools.psql(&self.options.environment, &self.options.conninfo);
        // Without an operator in them, queries run no code of the database's even where a pooler passes no search_path on.
        psql.args(["-XqAtw", "-F", " ", "-v", "ON_ERROR_STOP=1", "-c", place]).env("PGCLIENTENCODING", "UTF8");
        for pin in pins {
            psql.arg("-c").arg(format!("SELECT pg_catalog.current_setting('{}')", pin.name));
        }
        let stop = &self.options.conninfo.stop;
        let patience = Patience { stop, until: Instant::now() + PSQL_MAX };
        // It writes less than may wait for a reader, so nobody has to read here.
        let (running, _output) = Running::start("psql", psql, |output| child::collect(output))?;
        Ok(match running.finish_or("", &patience) {
            Ok(finished) => Ok(finished.seen),
            Err(Error::Cancelled) if stop.is_set() => return Err(Error::Cancelled),
            Err(Error::Cancelled) => Err(format!("no answer within {} s", PSQL_MAX.as_secs())),
            Err(error) => Err(error.to_string()),
        })
    }

    fn unpin(&mut self, given: &[Pin]) {
        self.options.conninfo.session.unpin();
        let names: Vec<&str> = given.iter().map(|pin| pin.name).collect();
        self.unpinned = Some(format!(
            "a pooler does not let PostgreSQL's programs set what is not as usual here ({}), so a restore may say that rows differ: name the server itself in --dsn",
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

/// Waits until the user has asked to stop, and no longer than this.
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
