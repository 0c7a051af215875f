//! Restores from an export, or another directory with files, without a repository.
//!
//! Every file that `checksums.txt` names is verified before anything is written, and again while it is copied,
//! because it may change in between. The directory may belong to somebody else: it is held open, links in it are not
//! followed, and names that lead out of it are refused.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::fs::{File, Metadata};
use std::io::{self, Read, Seek};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use super::manifest::{Found, MANIFEST_LEN_MAX, MANIFEST_NAME};
use crate::engine::place::Placement;
use crate::engine::sqlite::begins_like_sqlite;
use crate::engine::sqlite::restore::DatabaseOptions;
use crate::error::{Error, Result};
use crate::fs::beneath::{Dir, Dirs};
use crate::fs::sha256sums::{self as sums, CHECKSUMS_LEN_MAX, CHECKSUMS_NAME, ReadError, read_hashed};
use crate::ops::number::wide;
use crate::ops::restore::{Job, Outcome, RestoreOptions, Tell, not_written, run_jobs};
use crate::progress::Monitor;

/// How to restore from a directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct FromOptions {
    /// How databases are checked before they take their names.
    pub database: DatabaseOptions,
    /// Write into databases that other programs may have open, through SQLite.
    pub live: bool,
}

/// A directory with files to restore, its checksums verified.
#[derive(Debug)]
pub struct Given {
    /// Held open. No link in it is followed: it may be somebody else's.
    dirs: Arc<Dirs>,
    /// The checksums by name; `None` without a `checksums.txt`.
    sums: Option<HashMap<Vec<u8>, [u8; 32]>>,
    snapshot: Option<String>,
}

impl Given {
    /// Whether it has a `checksums.txt`. Then every file in it was verified.
    pub fn is_verified(&self) -> bool {
        self.sums.is_some()
    }

    /// The snapshot that `manifest.json` names, if there is one.
    pub fn snapshot(&self) -> Option<&str> {
        self.snapshot.as_deref()
    }

    /// Whether it has a file of this name.
    pub fn has(&self, name: &[u8]) -> bool {
        self.sums.as_ref().is_some_and(|sums| sums.contains_key(name)) || look(&self.dirs, name).is_ok_and(|found| found.is_file())
    }
}

/// Opens a directory with files to restore, and reads every file that its `checksums.txt` names, if it has one.
///
/// # Errors
/// [`Error::Corrupt`] when a file is missing or is not what its checksum says; [`Error::Source`] when something cannot be read.
pub fn open_directory(dir: &Path, monitor: &dyn Monitor) -> Result<Given> {
    let found = Dir::find(dir).map_err(|e| match e.kind() {
        io::ErrorKind::NotFound => Error::source(dir, "no such directory; check the path"),
        io::ErrorKind::NotADirectory => Error::source(dir, "is not a directory; name the directory that has the files"),
        _ => Error::source(dir, e),
    })?;
    let dirs = Dirs::new(found);
    let snapshot = read_bounded(&dirs, MANIFEST_NAME, MANIFEST_LEN_MAX)?.and_then(|text| snapshot_of(&text));
    let path = dir.join(CHECKSUMS_NAME);
    let Some(text) = read_bounded(&dirs, CHECKSUMS_NAME, CHECKSUMS_LEN_MAX)? else { return Ok(Given { dirs, sums: None, snapshot }) };
    let wrong = |detail: String| Error::corrupt(path.display().to_string(), detail);
    let list =
        sums::parse(&text).map_err(|line| wrong(format!("line {line} is not a checksum as sha256sum writes it; nothing was changed")))?;
    if list.is_empty() {
        return Err(wrong("it names no file; nothing was changed".to_owned()));
    }
    verify(&dirs, &list, monitor)?;
    Ok(Given { dirs, sums: Some(list.into_iter().collect()), snapshot })
}

/// The snapshot's id in the text of a manifest, if icecore wrote it.
fn snapshot_of(text: &[u8]) -> Option<String> {
    let document: serde_json::Value = serde_json::from_slice(text).ok()?;
    let found: Found = serde_json::from_value(document.clone()).ok()?;
    let id = document.get("snapshot").and_then(serde_json::Value::as_str)?;
    (found.format == super::MANIFEST_FORMAT).then(|| id.to_owned())
}

/// Reads a small file; `None` if it is not there.
fn read_bounded(dirs: &Dirs, name: &str, len_max: u64) -> Result<Option<Vec<u8>>> {
    let path = dirs.root().path().join(name);
    let file = match dirs.root().open_file(OsStr::new(name)) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        opened => opened.map_err(|e| Error::source(&path, e))?,
    };
    let mut bytes = Vec::new();
    // One byte more than allowed tells that it is too long, whatever its size says.
    file.take(len_max + 1).read_to_end(&mut bytes).map_err(|e| Error::source(&path, e))?;
    match wide(bytes.len()) > len_max {
        true => Err(Error::source(&path, format_args!("is larger than {len_max} bytes"))),
        false => Ok(Some(bytes)),
    }
}

/// The directory and the last part of a name in an export. A name that leads out of it counts as not found.
fn split(dirs: &Dirs, name: &[u8]) -> io::Result<(Arc<Dir>, OsString)> {
    let path = Path::new(OsStr::from_bytes(name));
    match (path.components().all(|part| matches!(part, Component::Normal(_))), path.file_name()) {
        (true, Some(last)) => Ok((dirs.get(path.parent().unwrap_or(Path::new("")))?, last.to_os_string())),
        _ => Err(io::ErrorKind::NotFound.into()),
    }
}

fn look(dirs: &Dirs, name: &[u8]) -> io::Result<Metadata> {
    let (dir, last) = split(dirs, name)?;
    dir.look(&last)
}

fn open(dirs: &Dirs, name: &[u8]) -> io::Result<File> {
    let (dir, last) = split(dirs, name)?;
    dir.open_file(&last)
}

/// Verifies all files of the list, so that one run reports everything that is wrong.
fn verify(dirs: &Dirs, list: &[sums::NamedSum], monitor: &dyn Monitor) -> Result<()> {
    let dir = dirs.root().path();
    let total = list.iter().filter_map(|(name, _)| look(dirs, name).ok()).map(|found| found.len()).sum();
    monitor.phase("verifying", Some(total));
    let mut wrong = Vec::new();
    for (name, sha256) in list {
        let shown = String::from_utf8_lossy(name);
        let inside = Path::new(OsStr::from_bytes(name)).components().all(|part| matches!(part, Component::Normal(_)));
        if !inside {
            wrong.push(format!("{shown:?} is not a name of a file in this directory"));
            continue;
        }
        match open(dirs, name) {
            Ok(file) => match read_hashed(&file, monitor, &mut up_to_its_length(&file, name)?) {
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

/// Fails when a file grows while it is read: a file that somebody appends to would never end.
fn up_to_its_length(file: &File, name: &[u8]) -> Result<impl FnMut(u64, &[u8]) -> Result<()> + use<>> {
    let path = PathBuf::from(OsStr::from_bytes(name));
    let len = file.metadata().map_err(|e| Error::source(&path, e))?.len();
    Ok(move |offset: u64, bytes: &[u8]| match offset.saturating_add(wide(bytes.len())) <= len {
        true => Ok(()),
        false => Err(Error::source(&path, "grew while it was read; nothing was changed")),
    })
}

/// Restores files of a directory onto these destinations, as many as possible. Each is verified again as it is
/// copied, and what was there is kept as by [`super::super::restore::restore_streams`].
///
/// # Errors
/// Before anything is written: [`Error::Source`] for a file that is not there or has changes in a log beside it;
/// [`Error::Corrupt`] for one that `checksums.txt` does not name. Failures of single files are in the outcome, also
/// when a file has changed since it was verified.
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
    /// Its path, for messages.
    path: PathBuf,
    file: File,
    len: u64,
    is_database: bool,
    sha256: Option<[u8; 32]>,
}

impl Input {
    fn open(given: &Given, name: &[u8]) -> Result<Self> {
        let path = given.dirs.root().path().join(OsStr::from_bytes(name));
        let sha256 = given.sums.as_ref().map(|sums| sums.get(name).copied());
        let listed = || Error::corrupt(path.display().to_string(), format!("{CHECKSUMS_NAME} does not name it; nothing was changed"));
        let file = open(&given.dirs, name).map_err(|e| match e.kind() {
            io::ErrorKind::NotFound => Error::source(&path, "no such file; nothing was changed"),
            _ => Error::source(&path, format_args!("{e}; nothing was changed")),
        })?;
        let sha256 = sha256.map(|sum| sum.ok_or_else(listed)).transpose()?;
        let len = file.metadata().map_err(|e| Error::source(&path, e))?.len();
        // A log or journal means that somebody has opened this copy. Its content is not what the checksum covers, and
        // without the log the database may be incomplete.
        for side in ["-wal", "-journal"] {
            let mut beside = path.clone().into_os_string();
            beside.push(side);
            if look(&given.dirs, &[name, side.as_bytes()].concat()).is_ok_and(|found| found.len() > 0) {
                let detail =
                    format!("{} lies beside it: somebody has changed this copy since; use another one", Path::new(&beside).display());
                return Err(Error::source(&path, detail));
            }
        }
        // An empty file is an empty database.
        let is_database = len == 0 || begins_like_sqlite(&file).map_err(|e| Error::source(&path, e))?;
        Ok(Input { path, file, len, is_database, sha256 })
    }

    fn copy(&self, to: &File, monitor: &dyn Monitor) -> Result<()> {
        let write = |offset: u64, bytes: &[u8]| {
            // A longer file would be written past the space that was reserved.
            match offset.saturating_add(wide(bytes.len())) <= self.len {
                true => to.write_all_at(bytes, offset).map_err(|e| not_written(&e)),
                false => Err(self.changed()),
            }
        };
        let mut file = &self.file;
        file.rewind().map_err(|e| Error::source(&self.path, e))?;
        let (len, found) = read_hashed(file, monitor, &mut { write }).map_err(|error| error.of(&self.path))?;
        match len == self.len && self.sha256.is_none_or(|sha256| sha256 == found) {
            true => Ok(()),
            false => Err(self.changed()),
        }
    }

    fn changed(&self) -> Error {
        Error::corrupt(self.path.display().to_string(), "it changed while it was read, so it was not restored")
    }
}
