//! Other processes: this test binary, started again.

use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use icecore::engine::sqlite::restore::DatabaseOptions;
use icecore::fs::disk::RealDisk;
use rusqlite::Connection;
use rusqlite::config::DbConfig;

use super::support::{Listener, NEW, NEW_WAL, Spec, add_rows, bytes, filler, placement};

/// A process that does what [`act`] knows by this word, until it is dropped.
pub struct Other(pub Child);

impl Other {
    pub fn start(word: &str, path: &Path) -> Self {
        let mut child = command(word, path).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        assert!(lines.any(|line| line.unwrap().contains("READY")), "the other process did not get ready");
        Other(child)
    }
}

impl Drop for Other {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Runs one to its end; whether it ended well.
pub fn run(word: &str, path: &Path) -> bool {
    command(word, path).stdin(Stdio::null()).status().unwrap().success()
}

fn command(word: &str, path: &Path) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["place::child::act", "--exact", "--ignored", "--nocapture"]).env("PLACE_ACT", word).env("PLACE_PATH", path);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    command
}

#[test]
#[ignore = "the other process of other tests"]
fn act() {
    let (Ok(word), Some(path)) = (std::env::var("PLACE_ACT"), std::env::var_os("PLACE_PATH")) else { return };
    let path = Path::new(&path);
    if word.starts_with("abort-live") {
        return abort_midway(path, if word == "abort-live" { NEW } else { NEW_WAL });
    }
    let conn = Connection::open(path).unwrap();
    let count = || conn.query_row("SELECT count(*) FROM t", [], |row| row.get::<_, i64>(0)).unwrap();
    match word.as_str() {
        // Has read once, holds no transaction.
        "idle" => drop(count()),
        // Has opened the file, not read it.
        "opened" => {}
        "reading" => {
            conn.execute_batch("BEGIN").unwrap();
            count();
        }
        "writing" => {
            conn.execute_batch("BEGIN IMMEDIATE").unwrap();
            add_rows(&conn, "writer", 3);
        }
        other => panic!("{other}?"),
    }
    println!("READY");
    let _ = std::io::stdin().read_to_end(&mut Vec::new());
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true).unwrap();
}

/// A live restore that dies after its first pages.
fn abort_midway(path: &Path, spec: Spec) {
    // One question comes before each step of pages.
    let counted = Listener { questions_left: Some(1).into(), counted_from: "writing", is_counted: false.into(), ..Listener::default() };
    let listener = Listener { at_stop: || std::process::abort(), ..counted };
    let new = bytes(Spec { rows: 40_000, ..spec });
    placement(&RealDisk, &listener).place_live(path, new.len() as u64, &filler(&new), DatabaseOptions::default()).unwrap();
}
