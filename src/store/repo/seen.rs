//! What this machine has seen of a location: the ids of the repositories that it has opened there, and whether they were encrypted. Whoever keeps the storage
//! can put another repository in the place of one, and a backup into that would be lost, or readable for him. So a change has to be accepted by name.
//!
//! One small file for each location, in the directory of the local catalogs. Without it, or with one that cannot be read, nothing has been seen.

use std::fs::DirBuilder;
use std::io::{Read, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::fs::beneath;
use crate::id::{RepositoryId, to_hex};

/// What the names of these files start with.
const PREFIX: &str = "seen-";
/// The longest such file that is read, in bytes.
const LEN_MAX: u64 = 64 << 10;
/// The most repositories that are remembered of one location, the last ones: disks that are exchanged in turn.
const REPOSITORIES_MAX: usize = 100;
/// Hex digits of an id that tell repositories apart for people.
const SHORT_DIGITS: usize = 12;

/// What a repository must be to be opened, beside what this machine has seen of its location.
#[derive(Debug, Clone, Copy, Default)]
pub struct Trust<'a> {
    /// Where a passphrase is configured, for people: then a repository without encryption is refused.
    pub passphrase_from: Option<&'a str>,
    /// The id, or its start, of a repository that may be opened though this machine has seen only others at its location.
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

/// What is remembered of one location.
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
                 one, and nothing is read from it or stored in it; if it is meant to be so, run this without that setting"
            );
            return Err(self.refused(detail));
        }
        let known = &self.content.repositories;
        let accepted = trust.accepted.is_some_and(|start| start.len() >= SHORT_DIGITS && found.id.starts_with(start));
        let Some(last) = known.last().filter(|_| !known.contains(found) && !accepted) else { return Ok(()) };
        let detail = format!(
            "repository {} is here, but this machine knows repository {} at this place: somebody may have exchanged it, and nothing is read from \
             it or stored in it; if that was you: --accept-repository {}",
            found.described(),
            last.described(),
            found.id.get(..SHORT_DIGITS).unwrap_or(&found.id)
        );
        Err(self.refused(detail))
    }

    fn refused(&self, detail: String) -> Error {
        Error::Refused { location: self.content.location.clone(), detail }
    }

    /// Remembers a repository that was opened. What cannot be written is not remembered: a backup does not fail of that.
    pub(super) fn add(mut self, found: Seen) {
        let known = &mut self.content.repositories;
        if known.contains(&found) {
            return;
        }
        // Whoever has come to an encrypted one does not want to go back without a word.
        known.retain(|seen| seen.id != found.id && (seen.encrypted || !found.encrypted));
        known.push(found);
        known.drain(..known.len().saturating_sub(REPOSITORIES_MAX));
        let _ = self.write();
    }

    /// Remembers a repository that was made here on purpose, and nothing that was here before.
    fn replace(mut self, made: Seen) -> std::io::Result<()> {
        self.content.repositories = vec![made];
        self.write()
    }

    /// Whole or not at all, also after a power cut.
    fn write(&self) -> std::io::Result<()> {
        let Some(dir) = self.path.parent() else { return Ok(()) };
        DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
        // Only its owner can read such a file.
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
/// What writing the file failed with.
pub fn remember_made(dir: &Path, location: &str, id: RepositoryId, encrypted: bool) -> std::io::Result<()> {
    Memory::of(dir, location).replace(Seen::new(id, encrypted))
}

fn read(path: &Path) -> Option<Content> {
    let mut bytes = Vec::new();
    // Another user may have put a FIFO there. Reading it would wait without end.
    beneath::open_file(path).ok()?.take(LEN_MAX + 1).read_to_end(&mut bytes).ok()?;
    serde_json::from_slice(&bytes).ok()
}
