//! Prune: free the space that no snapshot needs any more.
//!
//! "Mark, then look" (see [`crate::repo::session`] for the writer's half). What is to go is marked with a tombstone; then, after the grace time, pending
//! records, snapshots and tombstones are listed afresh and what is needed is computed again; only what is marked and still not needed is
//! deleted. A chunk in a marked pack counts as absent, for writers and for other prunes, so whatever is needed of a marked pack is copied into a new one
//! first. Nothing depends on a clock or a lock: the grace time only keeps backups that are running from having to copy too.
//!
//! Every step can be stopped: new packs to which nothing refers are garbage for the next prune, a tombstone stays until its pack is gone.

mod flatten;
mod live;
mod plan;

use std::collections::HashSet;

use self::live::Live;
pub use self::plan::{PackUse, PruneOptions, PrunePlan};
use crate::backend::{ObjectKey, ObjectKind, WriteMode};
use crate::error::{Error, Result};
use crate::format::snapshot::SnapshotRecord;
use crate::format::tombstone::Tombstone;
use crate::id::{PackId, SnapshotId};
use crate::progress::Monitor;
use crate::repo::{Reader, Repacker, Repository, StoredCopy};

/// How often deleting starts again because something that was needed lies in marked packs only.
const ATTEMPTS: usize = 8;

/// What a prune did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PruneReport {
    /// Packs that were marked now.
    pub marked: u64,
    /// Packs that were deleted, and their bytes.
    pub deleted: u64,
    /// See `deleted`.
    pub deleted_bytes: u64,
    /// New packs with what was needed of others, and their bytes.
    pub written: u64,
    /// See `written`.
    pub written_bytes: u64,
    /// Pending records of dead writers that were removed.
    pub expired: u64,
    /// Marked packs that wait for the grace time to pass.
    pub waiting: u64,
}

/// What is there: the objects that decide what is needed.
struct Roots {
    listed: HashSet<SnapshotId>,
    records: Vec<SnapshotRecord>,
    pending: Vec<SnapshotId>,
    tombstones: Vec<(PackId, i64)>,
}

/// What pruning would do now. Changes nothing.
///
/// # Errors
/// [`Error::Corrupt`] if something that a snapshot needs cannot be read: then nothing may be deleted.
pub fn plan(repo: &Repository, options: &PruneOptions, monitor: &dyn Monitor) -> Result<PrunePlan> {
    let roots = Roots::list(repo, options)?;
    let going = roots.going();
    let reader = Reader::new(repo);
    let live = roots.live(&reader, &going, monitor)?;
    plan_of(repo, &going, &live, options)
}

/// Prunes: plans, writes anew, marks, and deletes what has been marked for the grace time.
///
/// # Errors
/// As [`plan`]; what was marked or written until then is garbage or stays marked, and nothing that is needed is lost.
pub fn prune(repo: &Repository, options: &PruneOptions, monitor: &dyn Monitor) -> Result<PruneReport> {
    let mut report = PruneReport::default();
    let roots = Roots::list(repo, options)?;
    let going = roots.going();
    let reader = Reader::new(repo);
    let mut live = roots.live(&reader, &going, monitor)?;
    let fresh;
    if flatten::flatten(repo, &reader, &live, options, monitor, &mut report)? {
        fresh = Reader::new(repo);
        live = roots.live(&fresh, &going, monitor)?;
    }
    let plan = plan_of(repo, &going, &live, options)?;
    write_anew(repo, &reader, &live, &plan.repack, monitor, &mut report)?;
    for pack in plan.delete.iter().chain(&plan.repack) {
        mark(repo, pack.id, options)?;
        report.marked += 1;
    }
    for id in roots.dead_writers(options) {
        mark(repo, PackId(*id.as_bytes()), options)?;
    }
    sweep(repo, options, monitor, &mut report)?;
    Ok(report)
}

/// Deletes what has been marked for the grace time and is still not needed.
fn sweep(repo: &Repository, options: &PruneOptions, monitor: &dyn Monitor, report: &mut PruneReport) -> Result<()> {
    for _ in 0..ATTEMPTS {
        let roots = Roots::list(repo, options)?;
        let ripe: HashSet<PackId> = roots.tombstones.iter().filter(|(_, time)| is_ripe(*time, 1, options)).map(|(id, _)| *id).collect();
        let present: HashSet<PackId> = repo.on_catalog(|local| local.packs())?.iter().map(|known| known.pack.id).collect();
        report.waiting = roots.tombstones.iter().filter(|(id, _)| present.contains(id) && !ripe.contains(id)).count() as u64;
        let going = roots.going();
        if ripe.iter().any(|id| present.contains(id)) {
            let reader = Reader::new(repo);
            let live = roots.live(&reader, &going, monitor)?;
            if !live.stranded.is_empty() {
                write_anew(repo, &reader, &live, &[], monitor, report)?;
                continue;
            }
            roots.confirm(repo)?;
            delete_packs(repo, ripe.iter().filter(|id| present.contains(id)), report)?;
        }
        for id in roots.pending.iter().filter(|id| ripe.contains(&PackId(*id.as_bytes()))) {
            repo.backend().delete(&ObjectKey::Pending(*id))?;
            report.expired += 1;
        }
        // A tombstone goes one grace time after what it marks: a writer that began before it may still look for it.
        for (id, time) in &roots.tombstones {
            let gone = !present.contains(id) || ripe.contains(id);
            if gone && is_ripe(*time, 2, options) {
                repo.backend().delete(&ObjectKey::Tombstone(*id))?;
            }
        }
        return Ok(());
    }
    Err(Error::Stale { detail: "other prunes keep marking packs that are needed".into() })
}

fn is_ripe(time_ns: i64, times: i64, options: &PruneOptions) -> bool {
    options.now_ns.saturating_sub(time_ns) >= options.grace_ns.saturating_mul(times)
}

fn delete_packs<'p>(repo: &Repository, packs: impl Iterator<Item = &'p PackId>, report: &mut PruneReport) -> Result<()> {
    let mut gone = Vec::new();
    for id in packs {
        let key = ObjectKey::Pack(*id);
        report.deleted_bytes += repo.backend().stat(&key)?.unwrap_or(0);
        repo.backend().delete(&key)?;
        report.deleted += 1;
        gone.push(*id);
    }
    repo.on_catalog(|local| local.remove_packs(&gone))
}

fn mark(repo: &Repository, id: PackId, options: &PruneOptions) -> Result<()> {
    let tombstone = Tombstone { time_ns: options.now_ns, host: options.host.clone() };
    let stored = repo.seal_tombstone(&tombstone)?;
    match repo.backend().write(&ObjectKey::Tombstone(id), &[&stored], WriteMode::CreateNew) {
        // One that another prune has written is as good.
        Err(Error::Backend { source, .. }) if source.kind() == std::io::ErrorKind::AlreadyExists => Ok(()),
        other => other,
    }
}

impl Roots {
    /// Lists pending records, then snapshots, then tombstones: a snapshot that is committed meanwhile is in one of the first two.
    fn list(repo: &Repository, options: &PruneOptions) -> Result<Self> {
        let pending: Vec<SnapshotId> = list(repo, ObjectKind::Pending)?.into_iter().filter_map(snapshot_of).collect();
        let known = repo.on_catalog(|local| local.snapshot_ids())?;
        let refreshed = repo.refresh()?;
        if let Some(damage) = refreshed.damage.into_iter().next() {
            return Err(damage);
        }
        let listed: HashSet<SnapshotId> = refreshed.snapshots.iter().map(|(id, _)| *id).collect();
        let parents = refreshed.snapshots.iter().filter_map(|(_, record)| record.parent);
        must_be_forgotten(repo, known.into_iter().chain(parents).filter(|id| !listed.contains(id)))?;
        let mut records: Vec<SnapshotRecord> = refreshed.snapshots.into_iter().map(|(_, record)| record).collect();
        let mut tombstones = Vec::new();
        for id in list(repo, ObjectKind::Tombstone)?.into_iter().filter_map(pack_of) {
            // One that cannot be read is as young as can be.
            tombstones.push((id, repo.read_tombstone(id)?.map_or(options.now_ns, |tombstone| tombstone.time_ns)));
        }
        let expired = |id: &SnapshotId| {
            let marked = tombstones.iter().find(|(marked, _)| marked.as_bytes() == id.as_bytes());
            marked.is_some_and(|(_, time)| is_ripe(*time, 1, options))
        };
        for id in pending.iter().filter(|id| !expired(id)) {
            records.extend(repo.read_pending(id)?);
        }
        repo.list_all_packs()?;
        Ok(Roots { listed, records, pending, tombstones })
    }

    fn going(&self) -> HashSet<PackId> {
        self.tombstones.iter().map(|(id, _)| *id).collect()
    }

    fn live<'a>(&self, reader: &'a Reader, going: &'a HashSet<PackId>, monitor: &dyn Monitor) -> Result<Live<'a>> {
        monitor.phase("finding what is needed", None);
        let mut live = Live::new(reader, going);
        live.add_snapshots(self.records.iter(), monitor)?;
        Ok(live)
    }

    /// Pending records whose writers must be dead: they commit within minutes.
    fn dead_writers(&self, options: &PruneOptions) -> Vec<SnapshotId> {
        if options.grace_ns == 0 { self.pending.clone() } else { Vec::new() }
    }

    /// Lists the snapshots once more: a listing that lies must not cost data.
    fn confirm(&self, repo: &Repository) -> Result<()> {
        let listed = list(repo, ObjectKind::Snapshot)?.into_iter();
        let again: HashSet<SnapshotId> = listed.filter_map(|key| if let ObjectKey::Snapshot(id) = key { Some(id) } else { None }).collect();
        must_be_forgotten(repo, self.listed.difference(&again).copied())
    }
}

/// A snapshot that was there and is not listed must have been forgotten: else a listing lies, or somebody has deleted its record, and what it needs may
/// be needed still.
fn must_be_forgotten(repo: &Repository, ids: impl Iterator<Item = SnapshotId>) -> Result<()> {
    for id in ids {
        if repo.read_forgotten(&id)?.is_none() {
            let detail = "it is gone, but was not forgotten; nothing is deleted while that is so";
            return Err(Error::corrupt(ObjectKey::Snapshot(id).to_string(), detail));
        }
    }
    Ok(())
}

fn list(repo: &Repository, kind: ObjectKind) -> Result<Vec<ObjectKey>> {
    repo.backend().list(kind)?.map(|info| Ok(info?.key)).collect()
}

fn pack_of(key: ObjectKey) -> Option<PackId> {
    if let ObjectKey::Tombstone(id) = key { Some(id) } else { None }
}

fn snapshot_of(key: ObjectKey) -> Option<SnapshotId> {
    if let ObjectKey::Pending(id) = key { Some(id) } else { None }
}

fn plan_of(repo: &Repository, going: &HashSet<PackId>, live: &Live<'_>, options: &PruneOptions) -> Result<PrunePlan> {
    let mut packs = Vec::new();
    let (mut marked, mut marked_bytes) = (0, 0);
    for known in repo.on_catalog(|local| local.packs())? {
        let (id, size) = (known.pack.id, known.pack.size);
        if going.contains(&id) {
            marked += 1;
            marked_bytes += size;
            continue;
        }
        let used = match live.rows(&id) {
            None => 0,
            Some(rows) => {
                let copies = repo.copies_in(&id)?;
                let bytes_of = |copy: &StoredCopy| {
                    let frame = copy.frame();
                    u64::from(frame.encoded_len) * u64::from(copy.entry.plain_len) / u64::from(frame.plain_len.max(1))
                };
                let all: u64 = copies.iter().map(bytes_of).sum();
                let needed: u64 = copies.iter().filter(|copy| rows.contains(copy.row())).map(bytes_of).sum();
                // Tables and padding go with what they are for.
                (needed as u128 * u128::from(size) / u128::from(all.max(1))).max(1) as u64
            }
        };
        packs.push(PackUse { id, size, used: used.min(size) });
    }
    Ok(PrunePlan { marked, marked_bytes, ..PrunePlan::new(&packs, options) })
}

/// Copies what is needed of these packs, and what is stranded, into new ones, and makes these durable.
fn write_anew(
    repo: &Repository,
    reader: &Reader,
    live: &Live<'_>,
    packs: &[PackUse],
    monitor: &dyn Monitor,
    report: &mut PruneReport,
) -> Result<()> {
    if packs.is_empty() && live.stranded.is_empty() {
        return Ok(());
    }
    monitor.phase("writing packs anew", Some(packs.iter().map(|pack| pack.size).sum()));
    let mut repacker = Repacker::new(repo)?;
    for pack in packs {
        if monitor.cancelled() {
            return Err(Error::Cancelled);
        }
        let Some(rows) = live.rows(&pack.id) else { continue };
        let copies = repo.copies_in(&pack.id)?;
        for of_one_frame in copies.chunk_by(|one, other| one.entry.frame == other.entry.frame) {
            let needed: Vec<&StoredCopy> = of_one_frame.iter().filter(|copy| rows.contains(copy.row())).collect();
            if needed.len() == of_one_frame.len() {
                repacker.copy_frame(reader, of_one_frame)?;
                continue;
            }
            for copy in needed {
                repacker.store_whole(copy.entry.id, &reader.copy(copy)?, copy.entry.node, copy.entry.version)?;
            }
        }
        monitor.advance(pack.size);
    }
    for (id, node) in &live.stranded {
        repacker.store_whole(*id, &reader.chunk(id)?, *node, 0)?;
    }
    let written = repacker.finish()?;
    report.written += written.len() as u64;
    report.written_bytes += written.iter().map(|pack| pack.size).sum::<u64>();
    Ok(())
}
