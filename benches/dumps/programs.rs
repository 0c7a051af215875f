//! The programs that the versions go through.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::common::Result;
use crate::common::process::{Cost, measure};
use crate::common::tool::tree_bytes;

/// The passphrase of every repository.
pub const PASSPHRASE: &str = "a passphrase for benches";

/// What one run cost.
#[derive(Debug, Clone, Copy, Default)]
pub struct Run {
    /// Bytes that were added, or that the output is long.
    pub bytes: u64,
    pub cost: Cost,
    /// What it says deriving the key took, milliseconds.
    pub key_ms: f64,
}

impl Run {
    /// Wall time without the key derivation, milliseconds.
    pub fn net_ms(&self) -> f64 {
        self.cost.wall.as_secs_f64() * 1e3 - self.key_ms
    }

    /// Processor time, milliseconds.
    pub fn cpu_ms(&self) -> f64 {
        self.cost.cpu.as_secs_f64() * 1e3
    }
}

/// Which programs are there.
#[derive(Debug, Clone)]
pub struct Programs {
    icecore: PathBuf,
    /// Whether what icecore is compared with runs too.
    pub others: bool,
    /// Whether restic is one of them.
    pub restic: bool,
}

impl Programs {
    /// icecore as it is at `icecore`, and the others if they are wanted and there.
    pub fn new(icecore: PathBuf, others: bool) -> Self {
        let restic = others && Command::new("restic").arg("version").output().is_ok_and(|output| output.status.success());
        if others && !restic {
            println!("restic: left out, there is no such program");
        }
        Programs { icecore, others, restic }
    }

    /// icecore with a repository and a cache in `dir`, which must be there.
    ///
    /// # Errors
    /// What it says.
    pub fn icecore(&self, dir: &Path, args: &[&str]) -> Result<Run> {
        let mut command = Command::new(&self.icecore);
        for name in ["ICECORE_REPOSITORY", "ICECORE_PASSWORD_FILE", "ICECORE_PASSWORD_COMMAND"] {
            command.env_remove(name);
        }
        command.env("ICECORE_PASSWORD", PASSPHRASE).env("ICECORE_CACHE_DIR", dir.join("cache"));
        command.arg("--json").arg("--repo").arg(dir.join("repository")).args(args);
        grown(dir, &mut command)
    }

    /// restic with a repository and a cache in `dir`, which must be there.
    ///
    /// # Errors
    /// What it says.
    pub fn restic(&self, dir: &Path, args: &[&str]) -> Result<Run> {
        let mut command = Command::new("restic");
        command.env("RESTIC_PASSWORD", PASSPHRASE).arg("--repo").arg(dir.join("repository")).arg("--cache-dir").arg(dir.join("cache"));
        grown(dir, command.arg("--quiet").args(args))
    }

    /// `zstd -3` of a file, with the file before as what it is like, if there is one.
    ///
    /// # Errors
    /// What it says.
    pub fn zstd(&self, file: &Path, before: Option<&Path>, dir: &Path) -> Result<Run> {
        let to = dir.join("packed.zst");
        let mut command = Command::new("zstd");
        command.args(["-q", "-3", "-f", "--long=31"]);
        if let Some(before) = before {
            command.arg(format!("--patch-from={}", before.display()));
        }
        let (cost, _) = measure(command.arg(file).arg("-o").arg(&to), &dir.join("stderr"))?;
        Ok(Run { bytes: to.metadata()?.len(), cost, key_ms: 0.0 })
    }
}

/// Runs a command and sees by how much the repository in `dir` has grown.
///
/// # Errors
/// What it says.
pub fn grown(dir: &Path, command: &mut Command) -> Result<Run> {
    let repository = dir.join("repository");
    let before = tree_bytes(&repository)?;
    let (cost, output) = measure(command, &dir.join("stderr"))?;
    let bytes = tree_bytes(&repository)?.saturating_sub(before);
    let answer = serde_json::from_slice::<serde_json::Value>(&output).ok();
    let key_ms = answer.and_then(|answer| answer.get("key_derivation_ms")?.as_f64()).unwrap_or(0.0);
    Ok(Run { bytes, cost, key_ms })
}
