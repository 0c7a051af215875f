//! A place of its own for each test: repository, cache and home, and nothing of the caller's environment.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rusqlite::Connection;
use serde_json::Value;
use tempfile::TempDir;

pub use crate::run::Run;

pub struct Place {
    dir: TempDir,
}

impl Place {
    pub fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("home")).unwrap();
        Place { dir }
    }

    /// With an unencrypted repository and the database `a.db`.
    pub fn with_repository() -> Self {
        Self::with_a_repository(&[])
    }

    /// The same without parity, so that damage does not heal.
    pub fn without_parity() -> Self {
        Self::with_a_repository(&["--parity", "0"])
    }

    fn with_a_repository(options: &[&str]) -> Self {
        let place = Self::new();
        assert_eq!(place.run([&["init", "--no-encryption"], options].concat()).code, Some(0));
        place.database("a.db", 100);
        place
    }

    pub fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn command(&self) -> Command {
        self.program(env!("CARGO_BIN_EXE_icecore"))
    }

    /// A program that runs here.
    pub fn program(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        for name in ["REPOSITORY", "PASSWORD", "PASSWORD_FILE", "PASSWORD_COMMAND", "CACHE_DIR"] {
            command.env_remove(format!("ICECORE_{name}"));
        }
        command.current_dir(self.dir.path()).stdin(Stdio::null()).env_remove("XDG_CACHE_HOME");
        command.env("HOME", self.path("home")).env("ICECORE_CACHE_DIR", self.path("cache")).env("TZ", "UTC");
        command
    }

    pub fn run<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Run {
        self.command().args(args).output().unwrap().into()
    }

    /// Runs a command that must succeed.
    pub fn ok<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Run {
        let run = self.run(args);
        assert_eq!(run.code, Some(0), "{}", run.stderr);
        run
    }

    /// The JSON document of a command that must succeed.
    pub fn json<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Value {
        let args: Vec<_> = args.into_iter().map(|arg| arg.as_ref().to_owned()).collect();
        self.ok(std::iter::once("--json".into()).chain(args)).json()
    }

    /// Makes a database, closed again.
    pub fn database(&self, name: impl AsRef<Path>, rows: u32) -> PathBuf {
        let path = self.path(name);
        let conn = Connection::open(&path).unwrap();
        conn.execute_batch("CREATE TABLE IF NOT EXISTS t (id INTEGER PRIMARY KEY, text TEXT)").unwrap();
        insert(&conn, rows);
        path
    }

    pub fn snapshots(&self) -> Vec<Value> {
        self.json(["snapshots"])["snapshots"].as_array().unwrap().clone()
    }

    /// The id of the newest snapshot, flagged or not.
    pub fn newest(&self) -> String {
        self.snapshots().pop().unwrap()["id"].as_str().unwrap().to_owned()
    }

    /// Where the record of a snapshot lies.
    pub fn record(&self, id: &str) -> PathBuf {
        let is_its = |path: &PathBuf| path.file_name().unwrap().to_str().unwrap().ends_with(id);
        self.stored("snapshots").into_iter().find(is_its).unwrap()
    }

    /// Every object of the repository below this directory: all files but the page.
    pub fn stored(&self, directory: &str) -> Vec<PathBuf> {
        let files = walkdir::WalkDir::new(self.path(".icecore").join(directory)).into_iter();
        let objects = files.map(|entry| entry.unwrap()).filter(|entry| entry.file_type().is_file() && entry.file_name() != "FORMAT.md");
        objects.map(|entry| entry.into_path()).collect()
    }
}

impl Run {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|e| panic!("{e}: {:?}", self.stdout))
    }

    /// It failed, with this code and these words on standard error, and said nothing on standard output.
    #[track_caller]
    pub fn failed(&self, code: i32, words: &[&str]) {
        assert_eq!((self.code, self.stdout.as_str()), (Some(code), ""), "{}", self.stderr);
        for word in words {
            assert!(self.stderr.contains(word), "{word:?} is not in {:?}", self.stderr);
        }
    }
}

pub fn insert(conn: &Connection, rows: u32) {
    let sql = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?1) INSERT INTO t(text) SELECT hex(randomblob(200)) FROM n";
    conn.execute(sql, [rows]).unwrap();
}

pub fn rows(path: &Path) -> i64 {
    Connection::open(path).unwrap().query_row("SELECT count(*) FROM t", [], |row| row.get(0)).unwrap()
}
