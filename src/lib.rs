//! icecore keeps the history of databases. It takes consistent snapshots of SQLite files and PostgreSQL databases,
//! stores each at about the size of what has changed, and restores any of them, verified.
//!
//! A program opens a [`Store`], backs up a [`Source`] into it, and reads its [`Snapshot`]s:
//!
//! ```
//! # let dir = tempfile::tempdir()?;
//! # let database = dir.path().join("app.db");
//! # rusqlite::Connection::open(&database)?.execute_batch("CREATE TABLE t(a); INSERT INTO t VALUES (1)")?;
//! use icecore::{BackupOptions, Key, RestoreOptions, Settings, Silent, SqliteOptions, SqliteSource, Store};
//!
//! let settings = Settings::new(dir.path().join("cache"), "web1");
//! let store = Store::create(&dir.path().join("repository"), Key::Passphrase("correct horse"), settings)?;
//! let source = SqliteSource::new(vec![("app.db".into(), database)], SqliteOptions::default())?;
//! store.backup(&source, &BackupOptions::default(), &Silent)?;
//!
//! let snapshot = store.snapshot("latest")?;
//! let report = snapshot.restore(&dir.path().join("restored"), "20261130T120000Z", &RestoreOptions::default(), &Silent)?;
//! assert!(report.is_whole());
//! assert!(dir.path().join("restored/app.db").exists());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Every operation returns a report, a plain struct with the same JSON as `icecore --json` (`docs/json.md`), and writes
//! an entry into the repository's journal: see [`Store::log`]. Host, user and clock come from the [`Settings`]. A
//! [`Monitor`] receives progress and warnings and can stop any operation. `examples/` has complete programs.
//!
//! The library has layers. A module uses only its own layer and those below it (`tests/tidy.rs` checks this):
//!
//! | layer | modules | job |
//! |---|---|---|
//! | 6 | `cli`, `main` | arguments, output, progress bars, exit codes |
//! | 5 | `api` | what other programs use: [`Store`], [`Snapshot`], [`Stream`] |
//! | 4 | [`ops`] | what a user can do: backup, restore, export, drill, check, repair, prune, forget, mark, stats, journal, status |
//! | 3 | [`engine`] | what is special about each kind of source: SQLite, PostgreSQL, files, commands; never sees the store |
//! | 3 | [`store`] | storing bytes: format, encryption, deltas, chunking, backends, the repository; never sees a database |
//! | 2 | [`recorded`] | types of sources and streams that engines and store share |
//! | 1 | [`error`], [`id`], [`progress`], [`mod@fs`] | errors, ids, progress and cancelling, directories that are held open |
//!
//! The library never prints and never reads the environment. `cli` passes in what it needs, and the clock.

mod api;
#[doc(hidden)]
pub mod engine;
#[doc(hidden)]
pub mod error;
#[doc(hidden)]
pub mod fs;
#[doc(hidden)]
pub mod id;
#[doc(hidden)]
pub mod ops;
#[doc(hidden)]
pub mod progress;
#[doc(hidden)]
pub mod recorded;
#[doc(hidden)]
pub mod store;

pub use api::{BackupOptions, Key, Settings, Snapshot, Store, Stream};
pub use engine::command::CommandSource;
pub use engine::files::{FilesOptions, FilesSource};
pub use engine::place::Placed;
pub use engine::postgres::{Conninfo, PostgresOptions, PostgresServer, PostgresSource};
pub use engine::sqlite::restore::DatabaseOptions;
pub use engine::sqlite::{ContentWhen, SqliteOptions, SqliteSource};
pub use engine::stored::StreamInfo;
pub use engine::{Environment, Source};
pub use error::{Error, Result};
pub use ops::backup::{AllTaken, Taken};
pub use ops::check::{CheckReport, Checked, Finding, Severity, Touched, Verdict};
pub use ops::drill::DrillReport;
pub use ops::export::ExportReport;
pub use ops::forget::{Decided, DecidedGroup, Forgotten};
pub use ops::journal::Outcome;
pub use ops::journaled::Report;
pub use ops::list::SnapshotInfo;
pub use ops::log::{Entry, Log};
pub use ops::mark::MarkReport;
pub use ops::prune::PruneReport;
pub use ops::repair::{RepairReport, Repaired};
pub use ops::restore::{Failed, RestoreOptions, RestoreReport, Restored};
pub use ops::retention::{Keep, Period, Rules};
pub use ops::stats::Stats;
pub use ops::status::{SourceStatus, State, Status};
pub use progress::{Monitor, Silent};
pub use recorded::{EntryKind, Flag};
