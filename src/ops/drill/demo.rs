//! The demo: a smoke test of backup and restore that needs nothing.
//!
//! A small store is made, backed up, changed, and backed up again. Both states are restored and asked the questions
//! that users of the store would ask. The right answers follow from how the store was made, not from a look at the
//! original. So a mistake that backup and restore share shows, too.

use std::path::{Path, PathBuf};
use std::time::{Instant, SystemTime};

use rusqlite::{Connection, params};
use zeroize::Zeroizing;

use super::Report;
use super::{DrillOptions, Staging, drill};
use crate::engine::drill::CheckReport;
use crate::engine::place::Placement;
use crate::engine::sqlite::{BUSY_TIMEOUT, ContentWhen, SqliteOptions, SqliteSource};
use crate::error::{Error, Result};
use crate::ops::backup::{BackupOptions, backup};
use crate::ops::export::swap::Place;
use crate::store::backend::local::LocalBackend;
use crate::store::format::key::KdfCost;
use crate::store::format::parity::PARITY_PERCENT_DEFAULT;
use crate::store::repo::{InitOptions, OpenOptions, Repository};

/// Number of rows in the first state.
const MEMORIES: i64 = 2000;
/// Number of rows that the change adds.
const ADDED: i64 = 200;
/// The topics of memories.
const TOPICS: [&str; 7] = ["glacier", "harbour", "violin", "comet", "orchard", "lantern", "compass"];
/// The registered models; each has `VERSIONS` versions.
const MODELS: [&str; 3] = ["recall-small", "recall-large", "rank"];
const VERSIONS: i64 = 4;

/// How to run the demo.
#[derive(Debug, Clone)]
pub struct DemoOptions {
    /// A directory to work in. Everything in it that the demo made is removed at the end.
    pub scratch: PathBuf,
    /// The clock, nanoseconds since 1970-01-01 UTC.
    pub now_ns: i64,
    /// The machine's name.
    pub host: String,
    /// The user's name.
    pub user: String,
    /// Number of threads.
    pub threads: usize,
}

/// A state of the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Seeded,
    Changed,
}

/// Runs the demo in its own repository, and returns the drills of both states.
///
/// # Errors
/// The errors of making, backing up and restoring the store. Failed checks are in the reports.
pub fn demo(options: &DemoOptions, placement: &Placement<'_>) -> Result<Vec<Report>> {
    let scratch = Place::scratch(placement.disk, &options.scratch, "drill")?.stage(placement.monitor)?;
    let at = |name: &str| scratch.path.join(name);
    let failed = |e: rusqlite::Error| Error::source(scratch.path.join("memory.db"), e);
    let store = Store::seed(&scratch.path).map_err(failed)?;
    // Encrypted with a random passphrase, as users have it.
    let repo = repository(&at("repository"), &at("cache"), options.threads)?;
    let mut reports = Vec::new();
    let first = take(&repo, &at(""), options)?;
    store.change().map_err(failed)?;
    // The store stays open, so the change is in its write-ahead log: the backup must read it there.
    let second = take(&repo, &at(""), options)?;
    drop(store);
    for (snapshot, state, dir) in [(first, State::Seeded, "first"), (second, State::Changed, "second")] {
        let drilled = DrillOptions {
            staging: Staging::Kept(at(dir)),
            assertions: Vec::new(),
            started: Instant::now(),
            rto: None,
            threads: options.threads,
        };
        let mut report = drill(&repo, (&snapshot.id, &snapshot.record), &drilled, placement)?;
        for (stream, check, outcome) in ask(&at(dir), state) {
            report.push(CheckReport::of(Some(stream), check, outcome));
        }
        reports.push(report);
    }
    Ok(reports)
}

fn repository(path: &Path, cache: &Path, threads: usize) -> Result<Repository> {
    let backend = std::sync::Arc::new(LocalBackend::create(path, std::sync::Arc::new(crate::fs::disk::RealDisk))?);
    let passphrase = Zeroizing::new(crate::id::random_hex::<16>().map_err(|e| Error::destination(path, e))?);
    Repository::init(
        &*backend,
        &InitOptions { passphrase: Some(passphrase.clone()), cost: KdfCost::DEFAULT, parity_percent: PARITY_PERCENT_DEFAULT },
    )?;
    let ask = || Ok(passphrase.clone());
    Repository::open(backend, &OpenOptions { passphrase: &ask, cache_dir: cache.to_path_buf(), threads, trust: Default::default() })
}

fn take(repo: &Repository, dir: &Path, options: &DemoOptions) -> Result<crate::ops::backup::BackupReport> {
    let databases = ["memory.db", "model_registry.db"].map(|name| (name.to_owned(), dir.join(name)));
    let how = SqliteOptions { busy_timeout: BUSY_TIMEOUT, temp_dir: None, clock: SystemTime::now, content: ContentWhen::Always };
    let source = SqliteSource::new(databases.to_vec(), how)?;
    let record = BackupOptions {
        time_ns: options.now_ns,
        now_ns: options.now_ns,
        host: options.host.clone(),
        user: options.user.clone(),
        tags: vec!["drill".to_owned()],
        source: Some("drill".to_owned()),
        read_all: false,
    };
    backup(repo, &source, &record, &crate::progress::Silent)
}

/// The topic of a memory in a state; `None` if it does not exist.
fn topic(state: State, id: i64) -> Option<&'static str> {
    let at = |id: i64| TOPICS.get(usize::try_from(id).ok()? % TOPICS.len()).copied();
    let seeded = at(id);
    match state {
        State::Seeded => seeded.filter(|_| id <= MEMORIES),
        // The change deletes every 40th memory and gives others a new topic.
        State::Changed if id > MEMORIES + ADDED || id % 40 == 3 => None,
        State::Changed if id % 20 == 7 => at(id + 1),
        State::Changed => seeded,
    }
}

/// The stage of a version in the registry.
fn stage(state: State, version: i64) -> &'static str {
    match (state, version) {
        (State::Seeded, 1) | (State::Changed, 2) => "production",
        (State::Changed, 1) => "archived",
        _ => "staging",
    }
}

/// The text of a memory. The token is its own: 7919 and 100003 are primes, so no two ids in use share one.
fn body(topic: &str, id: i64) -> String {
    format!("memory number {id} is about the {topic} and is recalled by its token t{}", id * 7919 % 100_003)
}

/// The open store: full-text recall with triggers, and a registry with a history kept by triggers.
struct Store {
    memory: Connection,
    registry: Connection,
}

impl Store {
    fn seed(dir: &Path) -> rusqlite::Result<Self> {
        let (memory, registry) = (Connection::open(dir.join("memory.db"))?, Connection::open(dir.join("model_registry.db"))?);
        let store = Store { memory, registry };
        store.memory.execute_batch(
            "PRAGMA journal_mode=WAL;
             CREATE TABLE memory(id INTEGER PRIMARY KEY, body TEXT NOT NULL, weight REAL);
             CREATE VIRTUAL TABLE recall USING fts5(body, content='memory', content_rowid='id');
             CREATE TRIGGER added AFTER INSERT ON memory BEGIN INSERT INTO recall(rowid, body) VALUES (new.id, new.body); END;
             CREATE TRIGGER removed AFTER DELETE ON memory BEGIN
                 INSERT INTO recall(recall, rowid, body) VALUES ('delete', old.id, old.body); END;
             CREATE TRIGGER changed AFTER UPDATE ON memory BEGIN
                 INSERT INTO recall(recall, rowid, body) VALUES ('delete', old.id, old.body);
                 INSERT INTO recall(rowid, body) VALUES (new.id, new.body); END;",
        )?;
        store.registry.execute_batch(
            "PRAGMA journal_mode=WAL;
             CREATE TABLE version(model TEXT, version INTEGER, stage TEXT NOT NULL, PRIMARY KEY(model, version)) WITHOUT ROWID;
             CREATE TABLE history(id INTEGER PRIMARY KEY, model TEXT, version INTEGER, stage TEXT);
             CREATE TRIGGER registered AFTER INSERT ON version BEGIN
                 INSERT INTO history(model, version, stage) VALUES (new.model, new.version, new.stage); END;
             CREATE TRIGGER promoted AFTER UPDATE ON version WHEN new.stage <> old.stage BEGIN
                 INSERT INTO history(model, version, stage) VALUES (new.model, new.version, new.stage); END;",
        )?;
        store.memorize(State::Seeded, 1..=MEMORIES)?;
        let tx = store.registry.unchecked_transaction()?;
        for (model, version) in versions() {
            tx.execute("INSERT INTO version VALUES (?1, ?2, ?3)", params![model, version, stage(State::Seeded, version)])?;
        }
        tx.commit()?;
        Ok(store)
    }

    /// Inserts the memories with these ids.
    fn memorize(&self, state: State, ids: std::ops::RangeInclusive<i64>) -> rusqlite::Result<()> {
        let tx = self.memory.unchecked_transaction()?;
        for id in ids {
            if let Some(topic) = topic(state, id) {
                // Ids are small, so exact as f64.
                tx.execute("INSERT INTO memory VALUES (?1, ?2, ?3)", params![id, body(topic, id), id as f64 / 8.0])?;
            }
        }
        tx.commit()
    }

    /// Takes the store from the first state to the second.
    fn change(&self) -> rusqlite::Result<()> {
        let tx = self.memory.unchecked_transaction()?;
        for id in 1..=MEMORIES {
            match topic(State::Changed, id) {
                None => drop(tx.execute("DELETE FROM memory WHERE id = ?1", [id])?),
                Some(now) if Some(now) != topic(State::Seeded, id) => {
                    tx.execute("UPDATE memory SET body = ?2 WHERE id = ?1", params![id, body(now, id)])?;
                }
                Some(_) => {}
            }
        }
        tx.commit()?;
        self.memorize(State::Changed, MEMORIES + 1..=MEMORIES + ADDED)?;
        let tx = self.registry.unchecked_transaction()?;
        for (model, version) in versions() {
            let now = params![model, version, stage(State::Changed, version)];
            tx.execute("UPDATE version SET stage = ?3 WHERE model = ?1 AND version = ?2", now)?;
        }
        tx.commit()
    }
}

fn versions() -> impl Iterator<Item = (&'static str, i64)> {
    MODELS.into_iter().flat_map(|model| (1..=VERSIONS).map(move |version| (model, version)))
}

/// Asks the restored store what its users ask.
fn ask(dir: &Path, state: State) -> [(&'static str, &'static str, Result<String, String>); 2] {
    let opened = |name: &str| Connection::open(dir.join(name));
    let recalled = opened("memory.db").and_then(|conn| recall(&conn, state)).unwrap_or_else(|e| Err(e.to_string()));
    let history = opened("model_registry.db").and_then(|conn| history(&conn, state)).unwrap_or_else(|e| Err(e.to_string()));
    [("memory.db", "recall", recalled), ("model_registry.db", "history", history)]
}

/// Checks full-text recall: by topic, and each memory by its own token.
fn recall(conn: &Connection, state: State) -> rusqlite::Result<Result<String, String>> {
    let mut asked = 0;
    let mut statement = conn.prepare("SELECT rowid FROM recall WHERE recall MATCH ?1 ORDER BY rowid")?;
    let mut hits = |word: &str| -> rusqlite::Result<Vec<i64>> { statement.query_map([word], |row| row.get(0))?.collect() };
    for word in TOPICS {
        asked += 1;
        let expected: Vec<i64> = (1..=MEMORIES + ADDED).filter(|&id| topic(state, id) == Some(word)).collect();
        let found = hits(word)?;
        if found != expected {
            return Ok(Err(format!("{word:?} recalls {} memories instead of {}, or others", found.len(), expected.len())));
        }
    }
    for id in (1..=MEMORIES + ADDED).step_by(13) {
        asked += 1;
        let expected: Vec<i64> = topic(state, id).map(|_| id).into_iter().collect();
        let token = format!("t{}", id * 7919 % 100_003);
        if hits(&token)? != expected {
            return Ok(Err(format!("memory {id} is not recalled by its token {token} as it should be")));
        }
    }
    Ok(Ok(format!("{asked} questions, all answered as they were before")))
}

/// Checks the stages of each model, now and in their order.
fn history(conn: &Connection, state: State) -> rusqlite::Result<Result<String, String>> {
    let mut expected: Vec<(String, i64, String)> =
        versions().map(|(model, version)| (model.to_owned(), version, stage(State::Seeded, version).to_owned())).collect();
    if state == State::Changed {
        let changed = versions().filter(|(_, version)| stage(State::Seeded, *version) != stage(State::Changed, *version));
        expected.extend(changed.map(|(model, version)| (model.to_owned(), version, stage(State::Changed, version).to_owned())));
    }
    let mut statement = conn.prepare("SELECT model, version, stage FROM history ORDER BY id")?;
    let found: Vec<(String, i64, String)> =
        statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?.collect::<rusqlite::Result<_>>()?;
    if found != expected {
        return Ok(Err(format!("the history has {} entries instead of {}, or others", found.len(), expected.len())));
    }
    let mut statement = conn.prepare("SELECT count(*) FROM version WHERE stage = 'production'")?;
    let in_production: i64 = statement.query_row([], |row| row.get(0))?;
    match usize::try_from(in_production) == Ok(MODELS.len()) {
        true => Ok(Ok(format!("{} entries, and the versions in production", found.len()))),
        false => Ok(Err(format!("{in_production} versions are in production instead of {}", MODELS.len()))),
    }
}
