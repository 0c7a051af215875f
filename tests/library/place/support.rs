//! Databases that say who they are, and placements.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use icecore::engine::place::{Placed, Placement};
use icecore::engine::sqlite::restore::DatabaseOptions;
use icecore::fs::disk::{Disk, RealDisk};
use icecore::progress::Monitor;
use icecore::{Error, Result};
use rusqlite::Connection;
use rusqlite::config::DbConfig;

pub const STAMP: &str = "20261123T031500Z";

/// How a database is made.
#[derive(Debug, Clone, Copy)]
pub struct Spec {
    pub word: &'static str,
    pub rows: i64,
    pub page_size: u32,
    pub wal: bool,
}

pub const OLD: Spec = Spec { word: "old", rows: 50, page_size: 4096, wal: false };
pub const OLD_WAL: Spec = Spec { wal: true, ..OLD };
pub const NEW: Spec = Spec { word: "new", rows: 300, page_size: 4096, wal: false };
pub const NEW_WAL: Spec = Spec { wal: true, ..NEW };

/// A closed database, one file.
pub fn make(path: &Path, spec: Spec) {
    let conn = Connection::open(path).unwrap();
    conn.pragma_update(None, "page_size", spec.page_size).unwrap();
    if spec.wal {
        conn.pragma_update_and_check(None, "journal_mode", "WAL", |row| row.get::<_, String>(0)).unwrap();
    }
    conn.execute_batch("CREATE TABLE t(id INTEGER PRIMARY KEY, word TEXT, filler TEXT); CREATE INDEX i ON t(word, id)").unwrap();
    add_rows(&conn, spec.word, spec.rows);
}

pub fn add_rows(conn: &Connection, word: &str, rows: i64) {
    let sql = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i<?2) INSERT INTO t(word, filler) SELECT ?1, hex(zeroblob(100)) FROM n";
    conn.execute(sql, (word, rows)).unwrap();
}

/// A database whose last rows (`extra`) are only in the WAL, as a killed process leaves it.
pub fn make_with_wal(path: &Path, spec: Spec, extra: i64) {
    make(path, Spec { wal: true, ..spec });
    let conn = Connection::open(path).unwrap();
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true).unwrap();
    conn.pragma_update(None, "wal_autocheckpoint", 0).unwrap();
    add_rows(&conn, spec.word, extra);
    drop(conn);
    assert!(fs::metadata(side(path, "-wal")).unwrap().len() > 0);
}

/// A database with a hot journal, in the middle of changing every row to "torn", as a killed process leaves it.
pub fn make_with_hot_journal(path: &Path, spec: Spec) {
    make(path, Spec { wal: false, ..spec });
    let (work, journal) = (path.with_extension("work"), side(path, "-journal"));
    fs::copy(path, &work).unwrap();
    let conn = Connection::open(&work).unwrap();
    conn.execute_batch("PRAGMA cache_size=5; BEGIN; UPDATE t SET word = 'torn'; UPDATE t SET filler = 'torn'").unwrap();
    // Pages have spilled by now: the file is torn and the journal is synced.
    fs::copy(&work, path).unwrap();
    fs::copy(side(&work, "-journal"), &journal).unwrap();
    drop(conn);
    fs::remove_file(&work).unwrap();
    assert!(fs::metadata(&journal).unwrap().len() > 512);
    assert_ne!(fs::read(path).unwrap()[..8], [0; 8]);
}

/// Which words a database holds and how often; the integrity of the rest is checked.
pub fn read(path: &Path) -> Vec<(String, i64)> {
    let conn = Connection::open(path).unwrap();
    read_open(&conn)
}

pub fn read_open(conn: &Connection) -> Vec<(String, i64)> {
    let check: String = conn.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
    assert_eq!(check, "ok");
    let mut statement = conn.prepare("SELECT word, count(*) FROM t GROUP BY word ORDER BY word").unwrap();
    statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).unwrap().map(|row| row.unwrap()).collect()
}

pub fn rows(word: &str, count: i64) -> Vec<(String, i64)> {
    vec![(word.to_string(), count)]
}

pub fn side(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_os_string();
    name.push(suffix);
    PathBuf::from(name)
}

pub fn kept(path: &Path) -> PathBuf {
    side(path, &format!(".pre_restore.{STAMP}"))
}

/// The names in a directory.
pub fn names(dir: &Path) -> BTreeSet<String> {
    fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().to_str().unwrap().to_string()).collect()
}

/// Names and contents of a directory, to say that nothing has changed.
pub fn contents(dir: &Path) -> Vec<(String, Vec<u8>)> {
    names(dir).into_iter().map(|name| (name.clone(), fs::read(dir.join(name)).unwrap_or_default())).collect()
}

/// The bytes of a database of this sort.
pub fn bytes(spec: Spec) -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.db");
    make(&path, spec);
    assert_eq!(names(dir.path()).len(), 1);
    fs::read(path).unwrap()
}

/// Collects warnings; says that the user wants to stop from the `stop_after`th question on.
pub struct Listener {
    pub warnings: Mutex<Vec<String>>,
    pub questions_left: Mutex<Option<u32>>,
    /// Only from this phase on: others are also asked in by threads that wait.
    pub counted_from: &'static str,
    pub is_counted: AtomicBool,
    pub at_stop: fn() -> bool,
}

impl Default for Listener {
    fn default() -> Self {
        Listener {
            warnings: Mutex::default(),
            questions_left: Mutex::new(None),
            counted_from: "",
            is_counted: true.into(),
            at_stop: || true,
        }
    }
}

impl Monitor for Listener {
    fn phase(&self, name: &'static str, _total_bytes: Option<u64>) {
        self.is_counted.fetch_or(name == self.counted_from, Ordering::Relaxed);
    }
    fn advance(&self, _bytes: u64) {}
    fn warn(&self, message: &str) {
        self.warnings.lock().unwrap().push(message.to_string());
    }
    fn cancelled(&self) -> bool {
        if !self.is_counted.load(Ordering::Relaxed) {
            return false;
        }
        match &mut *self.questions_left.lock().unwrap() {
            None => false,
            Some(0) => (self.at_stop)(),
            Some(left) => {
                *left -= 1;
                false
            }
        }
    }
}

pub fn placement<'a>(disk: &'a dyn Disk, monitor: &'a dyn Monitor) -> Placement<'a> {
    Placement { disk, timestamp: STAMP.to_string(), monitor }
}

/// Writes these bytes, from two threads as a real restore does.
pub fn filler(bytes: &[u8]) -> impl Fn(&File) -> Result<()> + '_ {
    move |file| {
        let middle = bytes.len() / 2;
        std::thread::scope(|scope| {
            scope.spawn(|| file.write_all_at(&bytes[middle..], middle as u64).unwrap());
            file.write_all_at(&bytes[..middle], 0).map_err(|e| Error::backend("write", "test", e))
        })
    }
}

pub fn place_on(disk: &dyn Disk, dest: &Path, bytes: &[u8]) -> Result<Placed> {
    let listener = Listener::default();
    placement(disk, &listener).place_database(dest, bytes.len() as u64, None, &filler(bytes), DatabaseOptions::default())
}

pub fn place(dest: &Path, bytes: &[u8]) -> Result<Placed> {
    place_on(&RealDisk, dest, bytes)
}

pub fn live(dest: &Path, bytes: &[u8]) -> Result<Placed> {
    let listener = Listener::default();
    placement(&RealDisk, &listener).place_live(dest, bytes.len() as u64, &filler(bytes), DatabaseOptions::default())
}

/// A directory inside a temporary one, so that a simulated disk has room beside it.
pub fn scratch() -> (tempfile::TempDir, PathBuf) {
    scratch_in(&std::env::temp_dir())
}

/// In memory where the system offers it: for tests that run through thousands of syncs, which mean nothing to them.
pub fn scratch_in_memory() -> (tempfile::TempDir, PathBuf) {
    let memory = Path::new("/dev/shm");
    if memory.is_dir() { scratch_in(memory) } else { scratch() }
}

fn scratch_in(parent: &Path) -> (tempfile::TempDir, PathBuf) {
    let outer = tempfile::tempdir_in(parent).unwrap();
    let dir = outer.path().canonicalize().unwrap().join("d");
    fs::create_dir(&dir).unwrap();
    (outer, dir)
}
