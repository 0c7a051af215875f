//! Repair: heals or mends damage as far as undamaged bytes are left, and sets the rest aside. Nothing is ever deleted
//! without a verified copy in `quarantine`.
//!
//! The order makes sure that a power cut at any step leaves the repository no worse than before:
//! 1. a damaged replica is written again from the other one; damaged records are copied to `quarantine` and read back,
//!    then replaced or removed;
//! 2. a damaged pack with enough parity is healed: written again under its own name, in one step;
//! 3. missing chunks are mended: taken from another copy, or cut out of the files that the user names, and made
//!    durable in new packs;
//! 4. the whole chunks of damaged packs are written into new packs; then the damaged packs are copied to `quarantine`
//!    and read back;
//! 5. the damaged packs are marked with tombstones; then repair looks whether everything that it relies on is there
//!    and not marked (mark, then look: see [`crate::store::repo::session`] and [`crate::ops::prune`]); only then are
//!    they deleted;
//! 6. snapshots that have lost something are marked as damaged, and snapshots that are whole again as verified.

mod aside;
mod findings;
mod from_files;
mod health;
mod perform;
mod records;
mod replicas;
mod run;

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::path::PathBuf;

pub use perform::{CatalogReport, Repaired, perform, perform_catalog};
use serde::Serialize;
use serde::ser::{SerializeMap, Serializer};

use super::json;
use crate::error::Result;
use crate::id::{PackId, SnapshotId};
use crate::ops::check::{CheckOptions, CheckReport, Subset, Touched, survey};
use crate::ops::mark::Author;
use crate::progress::Monitor;
use crate::store::backend::{ObjectKey, ObjectKind};
use crate::store::repo::{CopyPlace, Health, Rebuilt, Repository};

use self::findings::Sick;
use self::run::Run;
use crate::ops::number::wide;

/// How to repair.
#[derive(Debug, Clone, Default)]
pub struct RepairOptions {
    /// Check the structure only. This finds objects that are missing or too short and damaged tables, but not changed
    /// bytes.
    pub structure_only: bool,
    /// Which packs are read.
    pub subset: Subset,
    /// The seed by which packs are drawn, if the subset is random.
    pub seed: u32,
    /// Files and directories that may hold missing chunks. Chunks are found by their content, whatever the names. A
    /// database is read as the file that it is, without its write-ahead log; so give a copy, or a database that is
    /// closed.
    pub from: Vec<PathBuf>,
    /// Who repairs, and when.
    pub author: Author,
}

/// A damaged pack.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct BadPack {
    /// The pack.
    #[serde(rename = "pack")]
    pub id: PackId,
    /// Number of its chunks that can be read. They are written into a new pack.
    pub whole_chunks: u64,
    /// Number of its chunks that cannot be read.
    pub bad_chunks: u64,
}

/// What a repair would do now.
#[derive(Debug, Serialize)]
pub struct RepairPlan {
    /// Whether this is a dry run, which changes nothing.
    pub dry_run: bool,
    /// What is damaged, as a check reports it.
    #[serde(flatten, serialize_with = "found")]
    pub report: CheckReport,
    /// Packs that are set aside after their whole chunks were written anew.
    pub packs: Vec<BadPack>,
    /// Damaged objects that are healed by their own parity or second copy, under their own names; and records that
    /// lie under the name of another source, and are moved to their own.
    #[serde(serialize_with = "json::texts")]
    pub healable: Vec<ObjectKey>,
    /// Damaged records that are set aside.
    #[serde(serialize_with = "json::texts")]
    pub records: Vec<ObjectKey>,
    /// Replicas that are written again from the other one.
    #[serde(serialize_with = "json::texts")]
    pub copies: Vec<ObjectKey>,
    /// Number of chunks that snapshots or deltas need and no readable copy gives.
    pub missing_chunks: u64,
    #[serde(skip)]
    sick: Sick,
}

/// The part of the check's report that a plan shows.
fn found<S: Serializer>(report: &CheckReport, serializer: S) -> Result<S::Ok, S::Error> {
    let mut map = serializer.serialize_map(None)?;
    map.serialize_entry("findings", &report.findings)?;
    map.serialize_entry("touched", &report.touched)?;
    map.end()
}

impl RepairPlan {
    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.packs.is_empty()
            && self.healable.is_empty()
            && self.records.is_empty()
            && self.copies.is_empty()
            && self.missing_chunks == 0
            && self.report.touched.is_empty()
    }
}

/// What a repair did.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct RepairReport {
    /// Objects that were healed by their own parity or second copy, under their own names; and records that were
    /// moved from the name of another source to their own.
    #[serde(serialize_with = "json::texts")]
    pub healed: Vec<ObjectKey>,
    /// Replicas that were written again.
    #[serde(rename = "rewritten_copies", serialize_with = "json::texts")]
    pub copies: Vec<ObjectKey>,
    /// Snapshots whose damaged records the local catalog knew: the id that was set aside, and the id under which each
    /// is listed now.
    #[serde(rename = "relisted_snapshots", serialize_with = "relisted")]
    pub reissued: Vec<(SnapshotId, SnapshotId)>,
    /// Chunks that were mended from other copies.
    #[serde(rename = "chunks_from_copies")]
    pub from_copies: u64,
    /// Chunks that were mended from files.
    #[serde(rename = "chunks_from_files")]
    pub from_files: u64,
    /// Good chunks of damaged packs that were written anew.
    pub moved_chunks: u64,
    /// New packs, and their bytes.
    #[serde(rename = "written_packs")]
    pub written: u64,
    /// See `written`.
    pub written_bytes: u64,
    /// Objects that were set aside, by their names in `quarantine`.
    #[serde(rename = "quarantined", serialize_with = "json::texts")]
    pub set_aside: Vec<ObjectKey>,
    /// Damaged objects that were left where they are, and why.
    pub left: Vec<String>,
    /// Streams that are lost in part: no whole copy exists anywhere.
    pub lost: Vec<Touched>,
    /// Snapshots that were marked as damaged.
    #[serde(rename = "marked_damaged")]
    pub damaged: Vec<SnapshotId>,
    /// Snapshots that had been marked as damaged, are whole, and were marked as verified.
    #[serde(rename = "marked_verified")]
    pub verified: Vec<SnapshotId>,
}

fn relisted<S: Serializer>(reissued: &[(SnapshotId, SnapshotId)], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(reissued.iter().map(|(damaged, now)| BTreeMap::from([("damaged", damaged), ("listed_as", now)])))
}

impl RepairReport {
    /// Whether stored data is still damaged.
    pub fn is_damaged(&self) -> bool {
        !self.lost.is_empty() || !self.left.is_empty()
    }
}

/// Builds the local catalog anew from the tables of all packs. Does not change the repository.
///
/// # Errors
/// The errors of [`Repository::rebuild_catalog`].
pub fn catalog(repo: &Repository, monitor: &dyn Monitor) -> Result<Rebuilt> {
    monitor.phase("reading tables", None);
    let rebuilt = repo.rebuild_catalog()?;
    repo.refresh()?;
    Ok(rebuilt)
}

/// What a repair would do now. Changes nothing in the repository.
///
/// # Errors
/// The errors that stop a check; [`crate::Error::Cancelled`].
pub fn plan(repo: &Repository, options: &RepairOptions, monitor: &dyn Monitor) -> Result<RepairPlan> {
    let now_ns = Some(options.author.now_ns);
    let check = CheckOptions { read_data: !options.structure_only, subset: options.subset, seed: options.seed, over: None, now_ns };
    let survey = survey(repo, &check, monitor)?;
    let dead: HashSet<CopyPlace> = survey.bad.lost.union(&survey.bad.damaged).copied().collect();
    let mut sick = Sick { dead, at_fault: survey.bad.packs.iter().copied().collect::<BTreeSet<PackId>>() };
    // The survey may have met copies whose bases were healed or mended since.
    sick.look_again(repo)?;
    sick.find_forged(repo)?;
    let mut healable = healable(repo, &sick)?;
    healable.extend(records::misplaced(repo)?.into_iter().map(|(key, _)| key));
    // The state after healing: only what is damaged then needs mending.
    let mends: BTreeSet<PackId> = healable.iter().filter_map(|key| if let ObjectKey::Pack(id) = key { Some(*id) } else { None }).collect();
    let after = Sick {
        dead: sick.dead.iter().filter(|place| !mends.contains(&place.pack())).copied().collect(),
        at_fault: sick.at_fault.difference(&mends).copied().collect(),
    };
    let missing = after.wanted(repo, &survey.snapshots, monitor)?;
    let mut packs = Vec::new();
    // What is left at fault has to be replaced.
    for id in &after.at_fault {
        let copies = repo.copies_in(id)?;
        let bad = wide(copies.iter().filter(|copy| sick.dead.contains(&copy.place())).count());
        packs.push(BadPack { id: *id, whole_chunks: wide(copies.len()) - bad, bad_chunks: bad });
    }
    let records = records::damaged(repo)?;
    let copies = replicas::to_heal(repo)?.into_iter().map(|(key, _)| key).collect();
    Ok(RepairPlan { dry_run: true, report: survey.report, packs, healable, records, copies, missing_chunks: wide(missing.len()), sick })
}

/// The damaged objects that carry enough to be healed.
fn healable(repo: &Repository, sick: &Sick) -> Result<Vec<ObjectKey>> {
    if !repo.has_parity() {
        // Without parity nothing carries what heals it.
        return Ok(Vec::new());
    }
    let mut keys: BTreeSet<ObjectKey> = sick.at_fault.iter().map(|id| ObjectKey::Pack(*id)).chain(repo.healed_objects()).collect();
    for kind in [ObjectKind::Snapshot, ObjectKind::Pending, ObjectKind::Mark, ObjectKind::Forgotten, ObjectKind::Tombstone] {
        for key in repo.backend().names(kind)? {
            keys.insert(key?);
        }
    }
    let mut healable = Vec::new();
    for key in keys {
        // Config and key records have replicas, and `replicas` compares those with this repository's configuration.
        let is_copy = matches!(key, ObjectKey::Config(_) | ObjectKey::Key(..));
        if !is_copy && matches!(repo.health(&key)?, Health::Healable(_)) {
            healable.push(key);
        }
    }
    Ok(healable)
}

/// Carries a plan out. Each object is looked at again before it is touched, as it may have changed since.
///
/// # Errors
/// [`crate::Error::Backend`] if something cannot be written. What was done until then stays done, and nothing that
/// was there is lost.
/// [`crate::Error::Cancelled`]; [`crate::Error::Stale`] if prunes keep marking the packs that replace the damaged
/// ones.
pub fn execute(repo: &Repository, plan: RepairPlan, options: &RepairOptions, monitor: &dyn Monitor) -> Result<RepairReport> {
    carry_out(repo, plan.sick, options, monitor)
}

fn carry_out(repo: &Repository, sick: Sick, options: &RepairOptions, monitor: &dyn Monitor) -> Result<RepairReport> {
    let mut run = Run { repo, options, monitor, sick, report: RepairReport::default(), relied: HashSet::new() };
    run.all()?;
    Ok(run.report)
}
