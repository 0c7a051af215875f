//! Runs an export as an operation: finds the snapshot, exports it, gives a report, and writes a journal entry.
//!
//! The user is warned of the snapshot's flags before anything is written, and of objects that were healed while read.
//! Relies on `export` for the rule that the directory's name always leads to a complete export.

use std::path::{Path, PathBuf};
use std::time::Instant;

use serde::Serialize;

use super::{ExportOptions, Exported, export};
use crate::engine;
use crate::engine::place::{Findings, Placement};
use crate::error::{Error, Result};
use crate::fs::disk::RealDisk;
use crate::id::SnapshotId;
use crate::ops::journal::{Operation, Outcome};
use crate::ops::journaled::{Report, Work};
use crate::ops::json;
use crate::ops::number::{micros, wide};
use crate::ops::restore::is_for;
use crate::ops::select::Wanted;
use crate::ops::text::{absolute, compact};

/// The report of an export.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ExportReport {
    /// The snapshot.
    pub snapshot: SnapshotId,
    /// The directory, with symbolic links resolved.
    #[serde(flatten, serialize_with = "json::path")]
    pub path: PathBuf,
    /// Number of files, without `checksums.txt` and `manifest.json`.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// `good` or `flagged`.
    pub status: &'static str,
    /// Where the old directory is kept, if it was not an unchanged export.
    #[serde(serialize_with = "json::place_or_null")]
    pub kept: Option<PathBuf>,
    /// Damage in databases, each line with the name of the database.
    pub damage: Vec<String>,
    /// Content that breaks rules of a database's schema, though every byte is readable.
    pub warnings: Vec<String>,
    /// What SQLite cannot check without the application.
    pub not_checked: Vec<String>,
    /// How long it took, microseconds.
    #[serde(rename = "duration_ms", serialize_with = "json::ms")]
    pub duration_us: u64,
    /// How long the passphrase took when the repository was opened, microseconds; not in `duration_us`.
    #[serde(rename = "key_derivation_ms", serialize_with = "json::ms")]
    pub key_derivation_us: u64,
}

impl Report for ExportReport {
    fn outcome(&self) -> Outcome {
        Outcome::Done
    }
}

/// Makes `dir` an export of a snapshot, and writes a journal entry.
///
/// # Errors
/// The errors of [`Wanted::find`] and [`export()`].
pub fn perform(work: &Work<'_>, wanted: &Wanted, dir: &Path, accept_damaged: bool) -> Result<ExportReport> {
    work.journaled(Operation::Export, |story| {
        let started = Instant::now();
        story.detail.clone_from(&wanted.text);
        let refreshed = work.look()?;
        let (id, record) = wanted.find(&refreshed, work.monitor)?;
        story.about(*id, record);
        if accept_damaged && !engine::of(&record.source.kind).has_files() {
            return Err(Error::InvalidArgument(is_for("--accept-damaged", "SQLite databases", id, record)));
        }
        story.detail = format!("to {}", absolute(dir).display());
        work.warn_of_flags(id, record);
        let now_ns = work.worker.now_ns();
        let placement = Placement { disk: &RealDisk, timestamp: compact(now_ns), monitor: work.monitor };
        let options = ExportOptions { now_ns, accept_damaged };
        let Exported { path, manifest, kept, findings } = export(work.repo, (id, record), dir, &options, &placement)?;
        work.repo.warn_of_healed(work.monitor);
        Ok(ExportReport {
            snapshot: *id,
            path,
            files: wide(manifest.files.len()),
            bytes: manifest.bytes,
            status: manifest.status,
            kept,
            damage: told(&findings, |of| &of.damage),
            warnings: told(&findings, |of| &of.warnings),
            not_checked: told(&findings, |of| &of.not_checked),
            duration_us: micros(started.elapsed()),
            key_derivation_us: micros(work.repo.key_derivation()),
        })
    })
}

fn told(findings: &[(Vec<u8>, Findings)], which: impl Fn(&Findings) -> &Vec<String>) -> Vec<String> {
    let lines = |(name, of): &(Vec<u8>, Findings)| {
        let name = String::from_utf8_lossy(name).into_owned();
        which(of).iter().map(|line| format!("{name}: {line}")).collect::<Vec<_>>()
    };
    findings.iter().flat_map(lines).collect()
}
