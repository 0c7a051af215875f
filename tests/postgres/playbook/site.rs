//! A directory as the playbook has it: databases in .data, the scripts of this source tree.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rusqlite::Connection;
use serde_json::Value;
use tempfile::TempDir;

pub use super::run::Run;

pub const BACKUP: &str =
    "bash scripts/backup_sqlite.sh --memory-db .data/brainstem.db --registry-db .data/model_registry.db --out-dir backups/sqlite/latest";
pub const RESTORE: &str = "bash scripts/restore_sqlite.sh --backup-dir backups/sqlite/latest --memory-db .data/brainstem.db --registry-db .data/model_registry.db";

/// For a server at this DSN.
pub fn backup_postgres(dsn: &str) -> String {
    format!("bash scripts/backup_postgres.sh --dsn \"{dsn}\" --out-dir backups/postgres/latest")
}

pub fn restore_postgres(dsn: &str) -> String {
    format!("bash scripts/restore_postgres.sh --dsn \"{dsn}\" --backup-file backups/postgres/latest/brainstem.pgdump")
}

pub struct Site {
    dir: TempDir,
}

impl Site {
    pub fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let site = Site { dir };
        std::fs::create_dir(site.path(".data")).unwrap();
        std::os::unix::fs::symlink(Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts"), site.path("scripts")).unwrap();
        site.database(".data/brainstem.db", 300);
        site.database(".data/model_registry.db", 40);
        site
    }

    /// With one backup taken.
    pub fn backed_up() -> Self {
        let site = Site::new();
        site.ok(BACKUP);
        site
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Adds rows to a database; closed again.
    pub fn database(&self, name: &str, rows: u32) {
        let conn = Connection::open(self.path(name)).unwrap();
        conn.execute_batch("PRAGMA journal_mode=WAL; CREATE TABLE IF NOT EXISTS t(id INTEGER PRIMARY KEY, text TEXT)").unwrap();
        let sql = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?1) INSERT INTO t(text) SELECT hex(zeroblob(100)) FROM n";
        conn.execute(sql, [rows]).unwrap();
    }

    pub fn rows(&self, name: &str) -> i64 {
        Connection::open(self.path(name)).unwrap().query_row("SELECT count(*) FROM t", [], |row| row.get(0)).unwrap()
    }

    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        for name in ["REPOSITORY", "PASSWORD", "PASSWORD_FILE", "PASSWORD_COMMAND"] {
            command.env_remove(format!("ICECORE_{name}"));
        }
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.as_encoded_bytes().starts_with(b"PG")) {
            command.env_remove(name);
        }
        command.current_dir(self.dir.path()).stdin(Stdio::null()).env("ICECORE_BIN", env!("CARGO_BIN_EXE_icecore"));
        command.env("ICECORE_CACHE_DIR", self.path("cache")).env("HOME", self.dir.path()).env("TZ", "UTC");
        command
    }

    /// The program on the repository that the scripts have made.
    pub fn icecore(&self) -> Command {
        let mut command = self.command(env!("CARGO_BIN_EXE_icecore"));
        command.env("ICECORE_REPOSITORY", "backups/sqlite/icecore-repository");
        command.env("ICECORE_PASSWORD_FILE", "backups/sqlite/icecore-repository.key");
        command
    }

    pub fn sh(&self, line: &str) -> Run {
        self.command("bash").args(["-c", line]).output().unwrap().into()
    }

    /// Runs a line that has to end well.
    #[track_caller]
    pub fn ok(&self, line: &str) -> Run {
        let run = self.sh(line);
        assert_eq!(run.code, Some(0), "{line}: {}", run.stderr);
        run
    }

    pub fn drill(&self, args: &[&str]) -> Run {
        self.icecore().arg("drill").args(args).output().unwrap().into()
    }

    pub fn json(&self, name: &str) -> Value {
        serde_json::from_slice(&std::fs::read(self.path(name)).unwrap()).unwrap()
    }

    /// Every file below a directory with its bytes.
    pub fn files(&self, name: &str) -> BTreeMap<PathBuf, Vec<u8>> {
        let files = walkdir::WalkDir::new(self.path(name)).into_iter().map(Result::unwrap).filter(|entry| entry.file_type().is_file());
        files
            .map(|entry| (entry.path().strip_prefix(self.dir.path()).unwrap().to_path_buf(), std::fs::read(entry.path()).unwrap()))
            .collect()
    }

    /// The names in a directory, sorted.
    pub fn names(&self, name: &str) -> Vec<String> {
        let entries = std::fs::read_dir(self.path(name)).unwrap();
        let mut names: Vec<String> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

impl Run {
    /// It failed, with this code and these words on standard error.
    #[track_caller]
    pub fn fails(&self, code: i32, words: &[&str]) {
        assert_eq!(self.code, Some(code), "{}{}", self.stdout, self.stderr);
        words.iter().for_each(|word| assert!(self.stderr.contains(word), "{word:?} is not in {:?}", self.stderr));
    }
}
