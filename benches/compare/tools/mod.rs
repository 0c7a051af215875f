//! The programs: how each one is used.

mod borg;
mod bupstash;
mod icecore;
mod pages;
mod restic;
mod rustic;
mod zpaq;
mod zstd;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::common::Result;
use crate::common::process::{Cost, measure};
use crate::common::tool::{Sample, tree_bytes};
use crate::history::History;

/// The passphrase of every tool that wants one.
pub const PASSPHRASE: &str = "a passphrase for benches";
/// The row that is there only when asked for.
pub const DENSE: &str = "patch-from-19";

/// What a row is compared as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// The program of this repository.
    Icecore,
    /// A program that people back up with.
    Peer,
    /// What could be reached without being a backup: no metadata, no encryption, no snapshot on its own.
    Bound,
}

/// A row.
pub struct Kind {
    /// Its name.
    pub name: &'static str,
    /// What it is compared as.
    pub role: Role,
    /// The program it needs, and how that says its version.
    pub program: Option<(&'static str, &'static str)>,
    /// Makes an empty repository.
    pub make: fn(Place) -> Result<Box<dyn Tool>>,
}

/// A repository and the program that works on it.
pub trait Tool {
    /// Backs up the file that the history shows now.
    ///
    /// # Errors
    /// What the program says.
    fn backup(&mut self, history: &History) -> Result<Sample>;

    /// Restores the file of backup `nth` (counted from 0) of `count` into an empty directory. `None`: a bound that has no restore.
    ///
    /// # Errors
    /// What the program says.
    fn restore(&mut self, nth: usize, count: usize, to: &Path) -> Result<Option<Sample>>;
}

/// All rows, in the order of the table.
pub const KINDS: &[Kind] = &[
    Kind { name: "icecore", role: Role::Icecore, program: None, make: icecore::make },
    Kind { name: "restic", role: Role::Peer, program: Some(("restic", "version")), make: restic::make },
    Kind { name: "borg", role: Role::Peer, program: Some(("borg", "--version")), make: borg::make },
    Kind { name: "borg-4k", role: Role::Peer, program: Some(("borg", "--version")), make: borg::make_fixed },
    Kind { name: "rustic", role: Role::Peer, program: Some(("rustic", "--version")), make: rustic::make },
    Kind { name: "rustic-4k", role: Role::Peer, program: Some(("rustic", "--version")), make: rustic::make_fixed },
    Kind { name: "bupstash", role: Role::Peer, program: Some(("bupstash", "--version")), make: bupstash::make },
    Kind { name: "zpaq", role: Role::Peer, program: Some(("zpaq", "help")), make: zpaq::make },
    Kind { name: "patch-from", role: Role::Bound, program: Some(("zstd", "--version")), make: zstd::make },
    Kind { name: DENSE, role: Role::Bound, program: Some(("zstd", "--version")), make: zstd::make_dense },
    Kind { name: "changed-pages", role: Role::Bound, program: None, make: pages::make },
];

/// Where a tool lives: its program, and a directory of its own for repository, caches and settings.
#[derive(Debug, Clone)]
pub struct Place {
    /// The program; empty for a row that needs none.
    pub program: PathBuf,
    /// The directory.
    pub dir: PathBuf,
}

impl Place {
    /// The repository's directory. Nothing else may be in it: its size is what is stored.
    pub fn repository(&self) -> PathBuf {
        self.dir.join("repository")
    }

    /// The program, with nothing of the user's surroundings but PATH.
    pub fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command.env_clear().current_dir(&self.dir).env("LANG", "C.UTF-8").env("HOME", &self.dir).env("TMPDIR", &self.dir);
        for (name, dir) in [("XDG_CACHE_HOME", "cache"), ("XDG_CONFIG_HOME", "config"), ("XDG_DATA_HOME", "data")] {
            command.env(name, self.dir.join(dir));
        }
        if let Some(path) = std::env::var_os("PATH") {
            command.env("PATH", path);
        }
        command
    }

    /// Runs a command and measures it.
    ///
    /// # Errors
    /// What it says.
    pub fn run(&self, command: &mut Command) -> Result<(Cost, Vec<u8>)> {
        measure(command, &self.dir.join("stderr"))
    }

    /// Runs a command that backs up.
    ///
    /// # Errors
    /// What it says.
    pub fn backup(&self, command: &mut Command) -> Result<Sample> {
        let before = tree_bytes(&self.repository())?;
        let (cost, _) = self.run(command)?;
        let repository_bytes = tree_bytes(&self.repository())?;
        Ok(Sample { cost, repository_bytes, stored_bytes: repository_bytes.saturating_sub(before), ..Sample::default() })
    }

    /// Runs a command that restores.
    ///
    /// # Errors
    /// What it says.
    pub fn restore(&self, command: &mut Command) -> Result<Option<Sample>> {
        Ok(Some(Sample { cost: self.run(command)?.0, ..Sample::default() }))
    }
}

/// The first line that a program says about its version; some exit with an error after it.
pub fn version(program: &Path, argument: &str) -> String {
    let output = Command::new(program).arg(argument).stdin(Stdio::null()).output();
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    text.lines().find(|line| !line.trim().is_empty()).unwrap_or("it does not say its version").trim().to_string()
}

/// The ids of all snapshots, oldest first, from the list that restic and rustic print as JSON.
fn snapshot_ids(list: &[u8]) -> Result<Vec<String>> {
    let list: serde_json::Value = serde_json::from_slice(list)?;
    let mut found = Vec::new();
    collect_ids(&list, &mut found);
    found.sort();
    Ok(found.into_iter().map(|(_, id)| id).collect())
}

/// The list may be in groups: every object with an id and a time is a snapshot. The times, all of one time zone, sort as text.
fn collect_ids(value: &serde_json::Value, found: &mut Vec<(String, String)>) {
    let text = |key: &str| value.get(key).and_then(serde_json::Value::as_str);
    if let (Some(time), Some(id)) = (text("time"), text("id")) {
        found.push((time.to_string(), id.to_string()));
    } else if let Some(list) = value.as_array() {
        list.iter().for_each(|value| collect_ids(value, found));
    } else if let Some(map) = value.as_object() {
        map.values().for_each(|value| collect_ids(value, found));
    }
}
