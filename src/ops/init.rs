//! Makes a repository, and remembers on this machine that it was made on purpose.
//!
//! The result does not depend on that memory: the first command that opens the repository does the same.

use std::path::Path;

use serde::Serialize;

use super::journal::Outcome;
use super::journaled::Report;
use crate::error::Result;
use crate::id::RepositoryId;
use crate::store::backend::Backend;
use crate::store::repo::{InitOptions, Repository, remember_made};

/// The repository that was made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct InitReport {
    /// Its id.
    pub repository: RepositoryId,
    /// Where it is.
    pub location: String,
    /// Whether it takes a passphrase.
    pub encrypted: bool,
    /// Percent of parity in packs; 0 for none.
    pub parity: u8,
}

impl Report for InitReport {
    fn outcome(&self) -> Outcome {
        Outcome::Done
    }
}

/// Makes a repository, and remembers it on this machine. There is no journal yet, so no entry is written.
///
/// # Errors
/// The errors of [`Repository::init`].
pub fn init(backend: &dyn Backend, options: &InitOptions, cache_dir: &Path) -> Result<InitReport> {
    let (encrypted, parity) = (options.passphrase.is_some(), options.parity_percent);
    let (repository, location) = (Repository::init(backend, options)?, backend.location());
    // A failure is ignored: the first command that opens the repository does the same.
    let _ = remember_made(cache_dir, &location, repository, encrypted);
    Ok(InitReport { repository, location, encrypted, parity })
}
