//! The memory of this machine for a location: the ids of the repositories that it has opened there, and whether they were encrypted.
//!
//! Someone who controls the storage can put another repository in the place of one. A backup into that one would be lost, or readable for them. So a
//! changed repository must be accepted by its id. There is one small file for each location, beside the local catalogs. If it is missing or cannot be
//! read, nothing has been seen.

use std::fs::DirBuilder;
use std::io::{Read, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::fs::beneath;
use crate::id::{RepositoryId, to_hex};

/// The start of the names of these files.
const PREFIX: &str = "seen-";
/// The longest such file that is read, bytes.
const LEN_MAX: u64 = 64 << 10;
/// The most repositories that are remembered for one location; the last ones stay. There are several where disks are exchanged in turn.
const REPOSITORIES_MAX: usize = 100;
/// Hex digits of an id in messages and in `--accept-repository`.
const SHORT_DIGITS: usize = 12;

/// Conditions for opening a repository, besides what this machine has seen at its location.
#[derive(Debug, Clone, Copy, Default)]
pub struct Trust<'a> {
    /// Where a passphrase is configured, as messages name it. If it is set, a repository without encryption is refused.
    pub passphrase_from: Option<&'a str>,
    /// The id, or the start of the id, of a repository that may be opened although this machine has seen only others at its location.
    pub accepted: Option<&'a str>,
}

/// A repository as it was seen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Seen {
    id: String,
    encrypted: bool,
}

impl Seen {
    pub(super) fn new(id: RepositoryId, encrypted: bool) -> Self {
        Seen { id: id.to_string(), encrypted }
    }

    fn described(&self) -> String {
        let short = self.id.get(..SHORT_DIGITS).unwrap_or(&self.id);
        format!("{short} ({})", if self.encrypted { "encrypted" } else { "not encrypted" })
    }
}

/// The file of one location.
#[derive(Serialize, Deserialize)]
struct Content {
    location: String,
    repositories: Vec<Seen>,
}

/// The repositories that are remembered for one location.
pub(super) struct Memory {
    path: PathBuf,
    content: Content,
}

impl Memory {
    pub(super) fn of(dir: &Path, location: &str) -> Self {
        let hash = blake3::derive_key("icecore 2026 seen location file name", location.as_bytes());
        let path = dir.join(format!("{PREFIX}{}", to_hex(hash.get(..16).unwrap_or_default())));
        let read = read(&path).filter(|content| content.location == location);
        Memory { path, content: read.unwrap_or_else(|| Content { location: location.to_owned(), repositories: Vec::new() }) }
    }

    /// # Errors
    /// [`Error::Refused`] if something else was seen here and this was not accepted.
    pub(super) fn allow(&self, found: &Seen, trust: &Trust<'_>) -> Result<()> {
        if let Some(from) = trust.passphrase_from.filter(|_| !found.encrypted) {
            let detail = format!(
                "this repository is not encrypted, but a passphrase is configured ({from}): somebody may have put it in the place of an encrypted \
                 one, and nothing is read from it or stored in it; if the repository shall be unencrypted, run this without that setting"
            );
            return Err(self.refused(detail));
        }
        let known = &self.content.repositories;
        let accepted = trust.accepted.is_some_and(|start| start.len() >= SHORT_DIGITS && found.id.starts_with(start));
        let Some(last) = known.last().filter(|_| !known.contains(found) && !accepted) else { return Ok(()) };
        let detail = format!(
            "repository {} is here, but this machine knows repository {} at this place: somebody may have exchanged it, and nothing is read from \
             it or stored in it; if you exchanged it yourself, add --accept-repository {}",
            found.described(),
            last.described(),
            found.id.get(..SHORT_DIGITS).unwrap_or(&found.id)
        );
        Err(self.refused(detail))
    }

    fn refused(&self, detail: String) -> Error {
        Error::Refused { location: self.content.location.clone(), detail }
    }

    /// Remembers a repository that was opened. If that cannot be written, it is not remembered; a backup does not fail because of this.
    pub(super) fn add(mut self, found: Seen) {
        let known = &mut self.content.repositories;
        if known.contains(&found) {
            return;
        }
        // After an encrypted repository, the plain ones that were here before do not count any more: going back to one must be accepted again.
        known.retain(|seen| seen.id != found.id && (seen.encrypted || !found.encrypted));
        known.push(found);
        known.drain(..known.len().saturating_sub(REPOSITORIES_MAX));
        let _ = self.write();
    }

    /// Remembers a repository that was made here on purpose, and forgets all others.
    fn replace(mut self, made: Seen) -> std::io::Result<()> {
        self.content.repositories = vec![made];
        self.write()
    }

    /// Writes the file. After a crash it is the old one or the new one, whole.
    fn write(&self) -> std::io::Result<()> {
        let Some(dir) = self.path.parent() else { return Ok(()) };
        DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
        // A temporary file of this kind can be read only by its owner.
        let mut unfinished = tempfile::NamedTempFile::new_in(dir)?;
        unfinished.write_all(&serde_json::to_vec(&self.content)?)?;
        unfinished.as_file().sync_all()?;
        unfinished.persist(&self.path)?;
        Ok(())
    }
}

/// Remembers that a repository was made here on purpose.
///
/// # Errors
/// If the file cannot be written.
pub fn remember_made(dir: &Path, location: &str, id: RepositoryId, encrypted: bool) -> std::io::Result<()> {
    Memory::of(dir, location).replace(Seen::new(id, encrypted))
}

fn read(path: &Path) -> Option<Content> {
    let mut bytes = Vec::new();
    // Another user may have put a FIFO there, and reading that would wait without end. `open_file` refuses it.
    beneath::open_file(path).ok()?.take(LEN_MAX + 1).read_to_end(&mut bytes).ok()?;
    serde_json::from_slice(&bytes).ok()
}
