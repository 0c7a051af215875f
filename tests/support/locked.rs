//! A database that another process uses.

use std::process::{Child, Command, Stdio};

/// A process that keeps a SQLite database locked until it is dropped.
pub struct Locked(Child);

impl Locked {
    /// `python` is the program as the test starts it: with its own working directory, or plain.
    pub fn new(mut python: Command, database: &std::path::Path) -> Self {
        let script = "import sqlite3,sys\nc=sqlite3.connect(sys.argv[1],isolation_level=None)\nc.execute('BEGIN EXCLUSIVE')\nprint('held',flush=True)\nsys.stdin.read()";
        let mut child = python.args(["-c", script]).arg(database).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        std::io::BufRead::read_line(&mut std::io::BufReader::new(child.stdout.take().unwrap()), &mut String::new()).unwrap();
        Locked(child)
    }
}

impl Drop for Locked {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        self.0.wait().unwrap();
    }
}
