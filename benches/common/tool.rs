//! icecore as a process, and the programs it is compared with.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::process::Command;

use super::Result;
use super::process::{Cost, again, measure};
use super::report::{median, ms};

/// One run.
#[derive(Debug, Clone, Copy, Default)]
pub struct Sample {
    /// What the process cost.
    pub cost: Cost,
    /// By how many bytes the repository grew, or how long the output of another program is.
    pub stored_bytes: u64,
    /// Bytes in the repository afterwards.
    pub repository_bytes: u64,
    /// What the run says it took to derive the key.
    pub key_derivation_ms: Option<f64>,
    /// The CPU time of that: what a run takes that does little else. On a busy machine it is much less than the wall time.
    pub key_derivation_cpu_ms: Option<f64>,
    /// What the run says it took to read and hash the source.
    pub capture_ms: Option<f64>,
}

/// A repository, its catalog, and the binary that works on them.
pub struct Icecore {
    dir: PathBuf,
    key_derivation_cpu_ms: Option<f64>,
}

impl Icecore {
    /// Everything in this directory, which must be empty or not there; makes the repository.
    ///
    /// # Errors
    /// What `icecore init` says.
    pub fn init(dir: &Path) -> Result<Self> {
        Self::init_with(dir, &[])
    }

    /// The same with more arguments of `init`.
    ///
    /// # Errors
    /// What `icecore init` says.
    pub fn init_with(dir: &Path, args: &[&str]) -> Result<Self> {
        std::fs::create_dir_all(dir)?;
        let mut icecore = Icecore { dir: dir.to_path_buf(), key_derivation_cpu_ms: None };
        icecore.run([&["init"], args].concat())?;
        if !args.contains(&"--no-encryption") {
            let mut listings = (0..3).map(|_| Ok(ms(icecore.run(["snapshots"])?.cost.cpu))).collect::<Result<Vec<_>>>()?;
            icecore.key_derivation_cpu_ms = Some(median(&mut listings));
        }
        Ok(icecore)
    }

    /// `backup sqlite store=FILE`.
    ///
    /// # Errors
    /// What it says.
    pub fn backup(&self, file: &Path) -> Result<Sample> {
        self.run([OsStr::new("backup"), OsStr::new("sqlite"), &stream(file)])
    }

    /// `restore SNAPSHOT store=FILE`.
    ///
    /// # Errors
    /// What it says.
    pub fn restore(&self, snapshot: &str, file: &Path) -> Result<Sample> {
        self.run([OsStr::new("restore"), OsStr::new(snapshot), &stream(file)])
    }

    /// `check --read-data`.
    ///
    /// # Errors
    /// What it says.
    pub fn check(&self) -> Result<Sample> {
        self.run(["check", "--read-data"])
    }

    /// Any command.
    ///
    /// # Errors
    /// What it says.
    pub fn run<A: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = A>) -> Result<Sample> {
        let repository = self.dir.join("repository");
        let before = tree_bytes(&repository)?;
        let mut command = Command::new(env!("CARGO_BIN_EXE_icecore"));
        for name in ["ICECORE_REPOSITORY", "ICECORE_PASSWORD_FILE", "ICECORE_PASSWORD_COMMAND"] {
            command.env_remove(name);
        }
        command.env("ICECORE_PASSWORD", "a passphrase for benches").env("ICECORE_CACHE_DIR", self.dir.join("cache"));
        command.arg("--json").arg("--repo").arg(&repository).args(args);
        let (cost, output) = measure(&mut command, &self.dir.join("stderr"))?;
        let repository_bytes = tree_bytes(&repository)?;
        Ok(Sample {
            cost,
            repository_bytes,
            stored_bytes: repository_bytes.saturating_sub(before),
            key_derivation_ms: number(&output, "key_derivation_ms"),
            key_derivation_cpu_ms: self.key_derivation_cpu_ms,
            capture_ms: number(&output, "capture_ms"),
        })
    }
}

fn stream(file: &Path) -> OsString {
    let mut argument = OsString::from("store=");
    argument.push(file);
    argument
}

/// The number that a JSON document, or one of several lines of JSON, has under this key at its top level.
fn number(output: &[u8], key: &str) -> Option<f64> {
    let whole = serde_json::from_slice::<serde_json::Value>(output).into_iter();
    let lines = output.split(|&byte| byte == b'\n').filter_map(|line| serde_json::from_slice(line).ok());
    whole.chain(lines).find_map(|value| value.get(key)?.as_f64())
}

/// Bytes in all files under a directory; 0 when it is not there.
pub fn tree_bytes(dir: &Path) -> Result<u64> {
    if !dir.exists() {
        return Ok(0);
    }
    let mut bytes = 0;
    for entry in walkdir::WalkDir::new(dir) {
        let meta = entry?.metadata()?;
        bytes += if meta.is_file() { meta.len() } else { 0 };
    }
    Ok(bytes)
}

/// `zstd -3 -T0` of a file into another.
///
/// # Errors
/// When the program is missing or fails.
pub fn zstd(from: &Path, to: &Path, log: &Path) -> Result<Cost> {
    Ok(measure(Command::new("zstd").args(["-q", "-3", "-T0", "-f"]).arg(from).arg("-o").arg(to), log)?.0)
}

/// `sync` of one file.
///
/// # Errors
/// When the program fails.
pub fn sync(file: &Path, log: &Path) -> Result<Cost> {
    Ok(measure(Command::new("sync").arg(file), log)?.0)
}

/// `cp` of a file that is to be as safe as a restored one: copied, synced, and asked whether it is sound.
///
/// # Errors
/// When a program fails or the copy is not sound.
pub fn copy_sync_check(from: &Path, to: &Path, log: &Path) -> Result<Cost> {
    // Never by sharing blocks: a restore has to write its bytes.
    let reflink = if cfg!(target_os = "linux") { &["--reflink=never"][..] } else { &[] };
    let copy = measure(Command::new("cp").args(reflink).arg(from).arg(to), log)?.0;
    Ok(copy.then(sync_check(to, log)?))
}

/// What a file that another program wrote lacks of a restored one: synced, and asked whether it is sound. The bench must answer
/// `--quick-check FILE` with [`quick_check`].
///
/// # Errors
/// When a program fails or the file is not sound.
pub fn sync_check(file: &Path, log: &Path) -> Result<Cost> {
    let sync = sync(file, log)?;
    let path = file.to_str().ok_or("a path in UTF-8")?;
    let check = measure(&mut again(&["--quick-check", path])?, log)?.0;
    Ok(sync.then(check))
}

/// What the `--quick-check` child does.
///
/// # Errors
/// When the database is not sound.
pub fn quick_check(path: &Path) -> Result<()> {
    let conn = rusqlite::Connection::open_with_flags(path, rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY)?;
    let answer: String = conn.pragma_query_value(None, "quick_check", |row| row.get(0))?;
    if answer == "ok" { Ok(()) } else { Err(format!("{}: {answer}", path.display()).into()) }
}

/// Where a program is: in `peers`, else in PATH.
pub fn find(program: &str, peers: Option<&Path>) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let dirs = peers.map(Path::to_path_buf).into_iter().chain(std::env::split_paths(&path));
    dirs.map(|dir| dir.join(program)).find(|file| file.is_file())
}
