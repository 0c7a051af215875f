//! Restoring from an export, without a repository.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::{Component, Path, PathBuf};

use super::manifest::{Found, MANIFEST_LEN_MAX, MANIFEST_NAME};
use super::sums::{self, CHECKSUMS_LEN_MAX, CHECKSUMS_NAME, ReadError, read_hashed};
use crate::error::{Error, Result};
use crate::ops::place::{DatabaseOptions, Placement};
use crate::ops::restore::{Job, Outcome, RestoreOptions, Tell, not_written, run_jobs};
use crate::progress::Monitor;
use crate::source::sqlite::is_sqlite;

/// How to restore from a directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct FromOptions {
    /// What is asked of databases before they take their names.
    pub database: DatabaseOptions,
    /// Write into databases that others may have open, through SQLite.
    pub live: bool,
}

/// A directory with files to restore, its checksums verified.
#[derive(Debug)]
pub struct Given {
    dir: PathBuf,
    /// `None`: there is no `checksums.txt`.
    sums: Option<HashMap<Vec<u8>, [u8; 32]>>,
    snapshot: Option<String>,
}

impl Given {
    /// Whether there was a `checksums.txt`; every file that it names was as it says.
    pub fn is_verified(&self) -> bool {
        self.sums.is_some()
    }

    /// The snapshot that `manifest.json` names, if there is one.
    pub fn snapshot(&self) -> Option<&str> {
        self.snapshot.as_deref()
    }

    /// Whether there is such a file.
    pub fn has(&self, name: &[u8]) -> bool {
        self.sums.as_ref().is_some_and(|sums| sums.contains_key(name)) || self.dir.join(OsStr::from_bytes(name)).is_file()
    }
}

/// Opens a directory with files to restore: reads every file that its `checksums.txt`, if it has one, names.
///
/// # Errors
/// [`Error::Corrupt`] when a file is missing or is not what its checksum says; [`Error::Source`] when something cannot be read.
pub fn open_directory(dir: &Path, monitor: &dyn Monitor) -> Result<Given> {
    let found = std::fs::metadata(dir).map_err(|e| match e.kind() {
        io::ErrorKind::NotFound => Error::source(dir, "no such directory; check the path"),
        _ => Error::source(dir, e),
    })?;
    if !found.is_dir() {
        return Err(Error::source(dir, "is no directory; name the directory that has the files"));
    }
    let snapshot = read_bounded(&dir.join(MANIFEST_NAME), MANIFEST_LEN_MAX)?.and_then(|text| snapshot_of(&text));
    let path = dir.join(CHECKSUMS_NAME);
    let Some(text) = read_bounded(&path, CHECKSUMS_LEN_MAX)? else { return Ok(Given { dir: dir.to_path_buf(), sums: None, snapshot }) };
    let wrong = |detail: String| Error::corrupt(path.display().to_string(), detail);
    let list = sums::parse(&text).map_err(|line| wrong(format!("line {line} is no checksum of sha256sum; nothing was changed")))?;
    if list.is_empty() {
        return Err(wrong("it is empty; nothing was changed".to_owned()));
    }
    verify(dir, &list, monitor)?;
    Ok(Given { dir: dir.to_path_buf(), sums: Some(list.into_iter().collect()), snapshot })
}

fn snapshot_of(text: &[u8]) -> Option<String> {
    let document: serde_json::Value = serde_json::from_slice(text).ok()?;
    let found: Found = serde_json::from_value(document.clone()).ok()?;
    let id = document.get("snapshot").and_then(serde_json::Value::as_str)?;
    (found.format == super::MANIFEST_FORMAT).then(|| id.to_owned())
}

fn read_bounded(path: &Path, len_max: u64) -> Result<Option<Vec<u8>>> {
    match std::fs::metadata(path) {
        Ok(found) if found.len() > len_max => Err(Error::source(path, format_args!("is larger than {len_max} bytes"))),
        Ok(_) => std::fs::read(path).map(Some).map_err(|e| Error::source(path, e)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(Error::source(path, e)),
    }
}

/// All of them, so that one run tells everything that is wrong.
fn verify(dir: &Path, list: &[sums::NamedSum], monitor: &dyn Monitor) -> Result<()> {
    let path_of = |name: &[u8]| dir.join(OsStr::from_bytes(name));
    let total = list.iter().filter_map(|(name, _)| std::fs::metadata(path_of(name)).ok()).map(|found| found.len()).sum();
    monitor.phase("verifying", Some(total));
    let mut wrong = Vec::new();
    for (name, sha256) in list {
        let shown = String::from_utf8_lossy(name);
        let path = path_of(name);
        let inside = Path::new(OsStr::from_bytes(name)).components().all(|part| matches!(part, Component::Normal(_)));
        if !inside {
            wrong.push(format!("{shown:?} is no name of a file in it"));
            continue;
        }
        match File::open(&path) {
            Ok(file) => match read_hashed(&file, monitor, &mut |_, _| Ok(())) {
                Ok((_, found)) if found == *sha256 => {}
                Ok(_) => wrong.push(format!("{shown} is not what its checksum says")),
                Err(ReadError::Read(e)) => wrong.push(format!("{shown} cannot be read: {e}")),
                Err(ReadError::Other(error)) => return Err(error),
            },
            Err(e) if e.kind() == io::ErrorKind::NotFound => wrong.push(format!("{shown} is missing")),
            Err(e) => wrong.push(format!("{shown} cannot be read: {e}")),
        }
    }
    match wrong.is_empty() {
        true => Ok(()),
        false => Err(Error::corrupt(dir.display().to_string(), format!("{}; nothing was changed", wrong.join("; ")))),
    }
}

/// Restores files of a directory onto these destinations, as many as can be, each verified again as it is copied, and what was there kept as by
/// [`super::super::restore::restore_streams`].
///
/// # Errors
/// Before anything is written: [`Error::Source`] for a file that is not there or has changes in a log beside it; [`Error::Corrupt`] for one that
/// `checksums.txt` does not name. What concerns one file is in the outcome, also that it has changed since it was verified.
pub fn restore_given(
    given: &Given,
    targets: &[(Vec<u8>, PathBuf)],
    options: &FromOptions,
    placement: &Placement<'_>,
    tell: &mut Tell<'_>,
) -> Result<Outcome> {
    let mut inputs = Vec::new();
    for (name, dest) in targets {
        let input = Input::open(given, name)?;
        if options.live && !input.is_database {
            return Err(Error::InvalidArgument("--live is for SQLite databases only".into()));
        }
        inputs.push((input, name, dest));
    }
    let jobs: Vec<Job<'_>> = inputs
        .iter()
        .map(|(input, name, dest)| Job {
            name,
            dest,
            len: input.len,
            meta: None,
            is_database: input.is_database,
            fill: Box::new(|to: &File| input.copy(to, placement.monitor)),
        })
        .collect();
    run_jobs(&jobs, &RestoreOptions { database: options.database, live: options.live, no_xattrs: false }, placement, tell)
}

/// A file to restore.
struct Input {
    path: PathBuf,
    len: u64,
    is_database: bool,
    sha256: Option<[u8; 32]>,
}

impl Input {
    fn open(given: &Given, name: &[u8]) -> Result<Self> {
        let path = given.dir.join(OsStr::from_bytes(name));
        let sha256 = given.sums.as_ref().map(|sums| sums.get(name).copied());
        let listed = || Error::corrupt(path.display().to_string(), format!("{CHECKSUMS_NAME} does not name it; nothing was changed"));
        let found = std::fs::metadata(&path).map_err(|e| match e.kind() {
            io::ErrorKind::NotFound => Error::source(&path, "no such file; nothing was changed"),
            _ => Error::source(&path, e),
        })?;
        let sha256 = sha256.map(|sum| sum.ok_or_else(listed)).transpose()?;
        if !found.is_file() {
            return Err(Error::source(&path, "is not a regular file; nothing was changed"));
        }
        for side in ["-wal", "-journal"] {
            let mut beside = path.clone().into_os_string();
            beside.push(side);
            if std::fs::metadata(&beside).is_ok_and(|found| found.len() > 0) {
                let detail =
                    format!("{} lies beside it: somebody has changed this copy since; use another one", Path::new(&beside).display());
                return Err(Error::source(&path, detail));
            }
        }
        // A file of no bytes is an empty database.
        let is_database = found.len() == 0 || is_sqlite(&path)?;
        Ok(Input { path, len: found.len(), is_database, sha256 })
    }

    fn copy(&self, to: &File, monitor: &dyn Monitor) -> Result<()> {
        let write = |offset: u64, bytes: &[u8]| {
            // More than was announced would be written past the reserved space.
            match offset.saturating_add(bytes.len() as u64) <= self.len {
                true => to.write_all_at(bytes, offset).map_err(|e| not_written(&e)),
                false => Err(self.changed()),
            }
        };
        let file = File::open(&self.path).map_err(|e| Error::source(&self.path, e))?;
        let (len, found) = read_hashed(&file, monitor, &mut { write }).map_err(|error| error.of(&self.path))?;
        match len == self.len && self.sha256.is_none_or(|sha256| sha256 == found) {
            true => Ok(()),
            false => Err(self.changed()),
        }
    }

    fn changed(&self) -> Error {
        Error::corrupt(self.path.display().to_string(), "it changed while it was restored; nothing was changed")
    }
}
