//! Repair: what is damaged is healed where anything whole is left of it, and set aside where not. Nothing is ever deleted outright.
//!
//! In this order, so that a power cut at any step leaves a repository that is no worse than before:
//! 1. what is stored twice is written again from the copy that is whole; damaged records go to `quarantine`, each copied there and read back first;
//! 2. a damaged pack that can heal itself is written again under its own name, in one step;
//! 3. chunks that are missing are taken from another copy or cut out of the files that are given, and become durable in new packs;
//! 4. what is whole in damaged packs is written into new packs; then these packs are copied to `quarantine`, and read back;
//! 5. the damaged packs are marked with tombstones; then repair looks whether what it relies on is there and unmarked (mark, then look: see
//!    [`crate::store::repo::session`] and [`crate::ops::prune`]); only then they are deleted;
//! 6. snapshots of which something is lost are marked as damaged, those that are whole again as verified.

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

/// How to repair.
#[derive(Debug, Clone, Default)]
pub struct RepairOptions {
    /// Look at the structure only: what is missing, too short, or has a damaged table is found, and bytes that have changed are not.
    pub structure_only: bool,
    /// Which packs are read.
    pub subset: Subset,
    /// What packs are drawn by, if the subset is drawn at random.
    pub seed: u32,
    /// Files and directories that may hold what is missing: chunks are found by what is in them, whatever the names. A database is read as the file that it
    /// is: what is only in its write-ahead log is not seen, so give a copy, or one that is closed.
    pub from: Vec<PathBuf>,
    /// Who repairs, and when.
    pub author: Author,
}

/// A pack that is not whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct BadPack {
    /// The pack.
    #[serde(rename = "pack")]
    pub id: PackId,
    /// Chunks in it that can be read; they are written into a new pack.
    pub whole_chunks: u64,
    /// Chunks in it that cannot.
    pub bad_chunks: u64,
}

/// What a repair would do now.
#[derive(Debug, Serialize)]
pub struct RepairPlan {
    /// Whether this only shows what would be done.
    pub dry_run: bool,
    /// What is damaged, as a check reports it.
    #[serde(flatten, serialize_with = "found")]
    pub report: CheckReport,
    /// Packs that are set aside after what is whole in them was written anew.
    pub packs: Vec<BadPack>,
    /// Damaged objects that are healed by what they carry for that, and written again under their own names; records that lie under the names of other
    /// sources, and are put under their own.
    #[serde(serialize_with = "json::texts")]
    pub healable: Vec<ObjectKey>,
    /// Damaged records that are set aside.
    #[serde(serialize_with = "json::texts")]
    pub records: Vec<ObjectKey>,
    /// Second copies that are written again from the whole one.
    #[serde(serialize_with = "json::texts")]
    pub copies: Vec<ObjectKey>,
    /// Chunks that snapshots, or deltas, need and nothing that is stored gives.
    pub missing_chunks: u64,
    #[serde(skip)]
    sick: Sick,
}

/// Of what a check reports, what a plan is about.
fn found<S: Serializer>(report: &CheckReport, serializer: S) -> Result<S::Ok, S::Error> {
    let mut map = serializer.serialize_map(None)?;
    map.serialize_entry("findings", &report.findings)?;
    map.serialize_entry("touched", &report.touched)?;
    map.end()
}

impl RepairPlan {
    /// Whether there is anything to be done.
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
    /// Objects that were healed by their own parity, or second copy, under their own names; records that lay under the names of other sources.
    #[serde(serialize_with = "json::texts")]
    pub healed: Vec<ObjectKey>,
    /// Second copies that were written again.
    #[serde(rename = "rewritten_copies", serialize_with = "json::texts")]
    pub copies: Vec<ObjectKey>,
    /// Snapshots whose records were damaged and known to the local catalog: the id that was set aside, and the one under which it is listed now.
    #[serde(rename = "relisted_snapshots", serialize_with = "relisted")]
    pub reissued: Vec<(SnapshotId, SnapshotId)>,
    /// Chunks that were healed from other copies.
    #[serde(rename = "chunks_from_copies")]
    pub from_copies: u64,
    /// Chunks that were healed from files.
    #[serde(rename = "chunks_from_files")]
    pub from_files: u64,
    /// Whole chunks of damaged packs that were written anew.
    pub moved_chunks: u64,
    /// New packs, and their bytes.
    #[serde(rename = "written_packs")]
    pub written: u64,
    /// See `written`.
    pub written_bytes: u64,
    /// What was set aside, by its new name.
    #[serde(rename = "quarantined", serialize_with = "json::texts")]
    pub set_aside: Vec<ObjectKey>,
    /// What is damaged and was left where it is, and why.
    pub left: Vec<String>,
    /// What is lost: no whole copy of it is anywhere.
    pub lost: Vec<Touched>,
    /// Snapshots that are now marked as damaged.
    #[serde(rename = "marked_damaged")]
    pub damaged: Vec<SnapshotId>,
    /// Snapshots that were marked as damaged and are whole.
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

/// Makes the local catalog anew from the tables of all packs; changes nothing in the repository.
///
/// # Errors
/// As [`Repository::rebuild_catalog`].
pub fn catalog(repo: &Repository, monitor: &dyn Monitor) -> Result<Rebuilt> {
    monitor.phase("reading tables", None);
    let rebuilt = repo.rebuild_catalog()?;
    repo.refresh()?;
    Ok(rebuilt)
}

/// What repairing would do now. Changes nothing in the repository.
///
/// # Errors
/// What keeps a check from working at all; [`crate::Error::Cancelled`].
pub fn plan(repo: &Repository, options: &RepairOptions, monitor: &dyn Monitor) -> Result<RepairPlan> {
    let now_ns = Some(options.author.now_ns);
    let check = CheckOptions { read_data: !options.structure_only, subset: options.subset, seed: options.seed, over: None, now_ns };
    let survey = survey(repo, &check, monitor)?;
    let dead: HashSet<CopyPlace> = survey.bad.lost.union(&survey.bad.damaged).copied().collect();
    let mut sick = Sick { dead, at_fault: survey.bad.packs.iter().copied().collect::<BTreeSet<PackId>>() };
    sick.look_again(repo)?;
    sick.find_forged(repo)?;
    let mut healable = healable(repo, &sick)?;
    healable.extend(records::misplaced(repo)?.into_iter().map(|(key, _)| key));
    let mends: BTreeSet<PackId> = healable.iter().filter_map(|key| if let ObjectKey::Pack(id) = key { Some(*id) } else { None }).collect();
    let after = Sick {
        dead: sick.dead.iter().filter(|place| !mends.contains(&place.pack())).copied().collect(),
        at_fault: sick.at_fault.difference(&mends).copied().collect(),
    };
    let missing = after.wanted(repo, &survey.snapshots, monitor)?;
    let mut packs = Vec::new();
    for id in &after.at_fault {
        let copies = repo.copies_in(id)?;
        let bad = copies.iter().filter(|copy| sick.dead.contains(&copy.place())).count() as u64;
        packs.push(BadPack { id: *id, whole_chunks: copies.len() as u64 - bad, bad_chunks: bad });
    }
    let records = records::damaged(repo)?;
    let copies = replicas::to_mend(repo)?.into_iter().map(|(key, _)| key).collect();
    Ok(RepairPlan { dry_run: true, report: survey.report, packs, healable, records, copies, missing_chunks: missing.len() as u64, sick })
}

/// What is damaged and carries enough to be made good.
fn healable(repo: &Repository, sick: &Sick) -> Result<Vec<ObjectKey>> {
    if !repo.has_parity() {
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
        // What is stored twice is written again from the copy that is this repository's.
        let is_copy = matches!(key, ObjectKey::Config(_) | ObjectKey::Key(..));
        if !is_copy && matches!(repo.health(&key)?, Health::Healable(_)) {
            healable.push(key);
        }
    }
    Ok(healable)
}

/// Carries a plan out. What has changed since is looked at again before it is touched.
///
/// # Errors
/// [`crate::Error::Backend`] if something cannot be written; what was done until then stays done, and nothing that was there is lost.
/// [`crate::Error::Cancelled`]; [`crate::Error::Stale`] if prunes keep taking away what damaged packs are to be replaced by.
pub fn execute(repo: &Repository, plan: RepairPlan, options: &RepairOptions, monitor: &dyn Monitor) -> Result<RepairReport> {
    carry_out(repo, plan.sick, options, monitor)
}

fn carry_out(repo: &Repository, sick: Sick, options: &RepairOptions, monitor: &dyn Monitor) -> Result<RepairReport> {
    let mut run = Run { repo, options, monitor, sick, report: RepairReport::default(), relied: HashSet::new() };
    run.all()?;
    Ok(run.report)
}
