//! Repositories and databases for tests.
//! Each test binary uses a part of it.
#![allow(dead_code)]

use std::path::{Path, PathBuf};
use std::sync::Arc;

use icecore::engine::sqlite::{SqliteOptions, SqliteSource};
use icecore::fs::disk::RealDisk;
use icecore::id::{SnapshotId, SourceTag};
use icecore::ops::backup::{BackupOptions, BackupReport, backup};
use icecore::ops::forget::{ForgetReport, execute, plan_named};
use icecore::ops::journal::{Event, Operation, Outcome, record};
use icecore::ops::mark::{Author, Marked, Statement, mark};
use icecore::ops::restore::dump;
use icecore::progress::Silent;
use icecore::store::backend::{Backend, LocalBackend, ObjectKey, ObjectKind};
use icecore::store::format::key::KdfCost;
use icecore::store::format::mark::MarkKind;
use icecore::store::repo::{InitOptions, LogName, OpenOptions, Repository};
use rusqlite::Connection;
use zeroize::Zeroizing;

/// The cheapest key derivation that the format allows; tests are not about its cost.
pub const CHEAP: KdfCost = KdfCost { memory_kib: 8, passes: 1, lanes: 1 };

/// A directory with a repository, a cache and room for databases.
pub struct Bed {
    pub dir: tempfile::TempDir,
}

impl Bed {
    pub fn new(encrypted: bool) -> Self {
        Self::with_parity(encrypted, 0)
    }

    pub fn with_parity(encrypted: bool, parity_percent: u8) -> Self {
        let bed = Bed { dir: tempfile::tempdir().unwrap() };
        let backend = LocalBackend::create(&bed.path("repo"), Arc::new(RealDisk)).unwrap();
        let passphrase = encrypted.then(|| Zeroizing::new("correct horse".to_string()));
        Repository::init(&backend, &InitOptions { passphrase, cost: CHEAP, parity_percent }).unwrap();
        bed
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn open(&self) -> Repository {
        self.open_as("repo", "cache", 4)
    }

    pub fn open_as(&self, repo: &str, cache: &str, threads: usize) -> Repository {
        let backend = LocalBackend::open(&self.path(repo), Arc::new(RealDisk)).unwrap();
        open_backend(Arc::new(backend), self.path(cache), threads).unwrap()
    }
}

pub fn open_backend(backend: Arc<dyn Backend>, cache_dir: PathBuf, threads: usize) -> icecore::Result<Repository> {
    let passphrase = || Ok(Zeroizing::new("correct horse".to_string()));
    Repository::open(backend, &OpenOptions { passphrase: &passphrase, cache_dir, threads, trust: Default::default() })
}

pub fn sqlite_source(databases: &[(&str, &Path)]) -> SqliteSource {
    let databases = databases.iter().map(|(name, path)| (name.to_string(), path.to_path_buf())).collect();
    SqliteSource::new(databases, sqlite_options()).unwrap()
}

/// Reads everything every time: tests change files faster than stamps allow.
pub fn sqlite_options() -> SqliteOptions {
    let clock = || std::time::SystemTime::UNIX_EPOCH;
    SqliteOptions { busy_timeout: std::time::Duration::from_secs(5), temp_dir: None, clock, content: Default::default() }
}

/// Backs one database up at a made-up time.
pub fn back_up(repo: &Repository, database: &Path, time: i64) -> BackupReport {
    try_back_up(repo, database, time).unwrap()
}

pub fn try_back_up(repo: &Repository, database: &Path, time: i64) -> icecore::Result<BackupReport> {
    try_back_up_as(None, repo, database, time)
}

/// With a name for the source, so that its history goes on when the database lies elsewhere.
pub fn try_back_up_as(source: Option<&str>, repo: &Repository, database: &Path, time: i64) -> icecore::Result<BackupReport> {
    let (second, source) = (1_000_000_000, source.map(str::to_string));
    let options = BackupOptions { time_ns: time * second, now_ns: time * second, host: "test".into(), source, ..BackupOptions::default() };
    backup(repo, &sqlite_source(&[("db", database)]), &options, &Silent)
}

/// Puts a mark on a snapshot, at a made-up time.
pub fn try_mark(repo: &Repository, id: &SnapshotId, kind: MarkKind, code: &str) -> icecore::Result<Marked> {
    let author = Author { now_ns: 1_000_000_000_000, host: "test".into(), user: "tester".into() };
    mark(repo, &repo.refresh()?, id, &Statement { kind, code: code.into(), detail: String::new() }, &author)
}

pub fn protect(repo: &Repository, id: &SnapshotId) -> Marked {
    try_mark(repo, id, MarkKind::Protect, "").unwrap()
}

/// Writes an entry into the journal, at a made-up time.
pub fn tell(repo: &Repository, time_ns: i64) -> LogName {
    let event = Event {
        operation: Operation::Check,
        outcome: Outcome::Done,
        exit_code: 0,
        duration: std::time::Duration::ZERO,
        source: None,
        snapshots: Vec::new(),
        detail: "all is well".into(),
        facts: Vec::new(),
    };
    record(repo, &event, &Author { now_ns: time_ns, host: "test".into(), user: "tester".into() }).unwrap()
}

/// Forgets snapshots by name, at a made-up time.
pub fn forget(repo: &Repository, ids: &[SnapshotId], force: bool) -> ForgetReport {
    try_forget(repo, ids, force).unwrap()
}

pub fn try_forget(repo: &Repository, ids: &[SnapshotId], force: bool) -> icecore::Result<ForgetReport> {
    let plan = plan_named(&repo.refresh()?, ids, force);
    execute(repo, &plan, 2_000_000_000_000, &Silent)
}

/// One stream of a snapshot.
pub fn stream(repo: &Repository, id: &SnapshotId, name: &str) -> icecore::Result<Vec<u8>> {
    let refreshed = repo.refresh()?;
    let (_, record) = refreshed
        .snapshots
        .iter()
        .find(|(found, _)| found == id)
        .ok_or_else(|| icecore::Error::NotFound { what: format!("snapshot {id}") })?;
    let mut bytes = Vec::new();
    dump(repo, record, name.as_bytes(), &mut bytes, &Silent)?;
    Ok(bytes)
}

/// A small database with text, an index and some history in its freelist.
pub fn make_database(path: &Path, rows: u32) -> Connection {
    let db = Connection::open(path).unwrap();
    db.execute_batch(
        "PRAGMA page_size=4096; CREATE TABLE memory(id INTEGER PRIMARY KEY, key TEXT, body TEXT); CREATE INDEX memory_key ON memory(key);",
    )
    .unwrap();
    add_rows(&db, 0, rows);
    db
}

pub fn add_rows(db: &Connection, from: u32, count: u32) {
    let tx = db.unchecked_transaction().unwrap();
    for n in from..from + count {
        let body = format!("row {n}: {}", blake3::hash(&n.to_le_bytes()).to_hex().repeat(3));
        tx.execute("INSERT INTO memory(key, body) VALUES (?1, ?2)", (format!("key-{}", n % 97), body)).unwrap();
    }
    tx.commit().unwrap();
}

/// Changes some rows, adds some, deletes some; what `n` is decides which.
pub fn step(db: &Connection, n: u32) {
    db.execute("UPDATE memory SET body = body || ?1 WHERE id % 211 = ?2", (format!(" step {n}"), n % 211)).unwrap();
    db.execute("DELETE FROM memory WHERE id % 503 = ?1", [n % 503]).unwrap();
    add_rows(db, 1_000_000 + n * 100, 20);
}

/// The sources that the records of a snapshot lie under.
pub fn sources_of(backend: &dyn Backend, of: &SnapshotId) -> Vec<SourceTag> {
    let found = backend.names(ObjectKind::Snapshot).unwrap().filter_map(|key| match key.unwrap() {
        ObjectKey::Snapshot { source, id } if id == *of => Some(source),
        _ => None,
    });
    found.collect()
}

/// Where the record of a snapshot lies, if it is there.
pub fn record_key(backend: &dyn Backend, id: &SnapshotId) -> Option<ObjectKey> {
    sources_of(backend, id).first().map(|source| ObjectKey::Snapshot { source: *source, id: *id })
}

/// Where the record of a snapshot that is there lay before its commit.
pub fn pending_key(backend: &dyn Backend, id: &SnapshotId) -> ObjectKey {
    ObjectKey::Pending { source: sources_of(backend, id)[0], id: *id }
}
