//! Backup programs that read a dump from their standard input.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::common::Result;
use crate::common::process::measure;
use crate::common::tool::find;
use crate::programs::{PASSPHRASE, Run, grown};

/// A program, and how it is used.
pub struct Peer {
    pub name: &'static str,
    program: PathBuf,
    /// What makes a repository.
    init: &'static [&'static str],
    /// What stores a dump, in a shell in which `$1` is a number.
    store: &'static str,
}

/// Those that are there.
pub fn piped(peers: Option<&Path>) -> Vec<Peer> {
    let known: [(&str, &[&str], &str); 2] = [
        ("restic", &["init"], "--quiet backup --stdin --stdin-filename database.pgdump"),
        ("borg", &["init", "--encryption", "repokey"], "create ::version-$1 -"),
    ];
    let there = known.into_iter().filter_map(|(name, init, store)| match find(name, peers) {
        Some(program) => Some(Peer { name, program, init, store }),
        None => {
            println!("{name}: left out, there is no such program");
            None
        }
    });
    there.collect()
}

/// Gives a command the variables that another one has been given.
pub fn surround(command: &mut Command, of: &Command) {
    command.envs(of.get_envs().filter_map(|(name, value)| Some((name, value?))));
}

impl Peer {
    /// Makes a repository in a directory of its own.
    ///
    /// # Errors
    /// What the program says.
    pub fn init(&self, dir: &Path) -> Result<()> {
        let mut command = Command::new(&self.program);
        self.settle(&mut command, dir);
        measure(command.args(self.init), &dir.join("stderr")).map(drop)
    }

    /// Stores what `pg_dump` writes.
    ///
    /// # Errors
    /// What the programs say.
    pub fn backup(&self, dir: &Path, pg_dump: &Command, n: u32) -> Result<Run> {
        let mut command = Command::new("bash");
        surround(&mut command, pg_dump);
        self.settle(&mut command, dir);
        let script = format!("set -o pipefail; \"$2\" -Fc -Z0 | \"$0\" {}", self.store);
        command.arg("-c").arg(script).arg(&self.program).arg(n.to_string()).arg(pg_dump.get_program());
        grown(dir, &mut command)
    }

    /// Everything that the program keeps is in the directory.
    fn settle(&self, command: &mut Command, dir: &Path) {
        let repository = dir.join("repository");
        command.env("RESTIC_REPOSITORY", &repository).env("RESTIC_PASSWORD", PASSPHRASE).env("RESTIC_CACHE_DIR", dir.join("cache"));
        command.env("BORG_REPO", &repository).env("BORG_PASSPHRASE", PASSPHRASE).env("BORG_BASE_DIR", dir);
    }
}
