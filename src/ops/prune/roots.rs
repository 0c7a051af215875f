//! What is there: the objects that decide what is needed.

use std::collections::HashSet;

use super::live::{Live, Marked, Needed, Trust};
use super::plan::PruneOptions;
use crate::backend::{ObjectKey, ObjectKind};
use crate::error::{Error, Result};
use crate::format::mark::MarkKind;
use crate::format::snapshot::SnapshotRecord;
use crate::id::{PackId, SnapshotId};
use crate::progress::Monitor;
use crate::repo::{LOST, Reader, Repository};

/// Which pending records are not counted.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Dead {
    /// Those whose tombstones are of age.
    AreMarked,
    /// These, and those that a prune would mark and that would be of age at once.
    WouldBeMarked,
}

/// A look at the repository.
pub(super) struct Roots {
    listed: HashSet<SnapshotId>,
    records: Vec<SnapshotRecord>,
    /// Those of which something is lost, as a repair has stated: what is missing of them stops nothing.
    lossy: Vec<SnapshotRecord>,
    pending: Vec<Pending>,
    /// The pending records that count.
    alive: Vec<SnapshotRecord>,
    tombstones: Vec<Stone>,
    /// Why a pending record that counts cannot be read: nobody knows what it needs.
    unclear: Option<Error>,
    /// Packs that cannot be read. If something in them is needed it is missed elsewhere.
    unreadable: Vec<Error>,
}

/// A pending record.
struct Pending {
    id: SnapshotId,
    /// When its snapshot was taken, as its writer's clock says; `None` if it cannot be read.
    time_ns: Option<i64>,
    /// What it needs is kept.
    counts: bool,
}

/// A tombstone.
pub(super) struct Stone {
    pub(super) id: PackId,
    /// When it was written, as that prune's clock says; `None` if it cannot be read.
    pub(super) time_ns: Option<i64>,
}

impl Stone {
    /// Whether so many grace times have passed.
    pub(super) fn is_ripe(&self, times: i64, options: &PruneOptions) -> bool {
        let age = |time_ns: i64| options.now_ns.saturating_sub(time_ns);
        options.grace_ns <= 0 || self.time_ns.is_some_and(|time| age(time) >= options.grace_ns.saturating_mul(times))
    }

    /// Whether it would not be of age when it should: it cannot be read, or was written by a clock that is far ahead.
    pub(super) fn is_useless(&self, options: &PruneOptions) -> bool {
        self.time_ns.is_none_or(|time| time.saturating_sub(options.now_ns) > options.grace_ns)
    }
}

impl Roots {
    /// Lists and reads pending records, then snapshots, then tombstones, then packs: a snapshot that is committed meanwhile is in one of the first two.
    ///
    /// # Errors
    /// [`Error::Corrupt`] if a snapshot is gone that nobody has forgotten, or cannot be read.
    pub(super) fn list(repo: &Repository, options: &PruneOptions, dead: Dead) -> Result<Self> {
        let mut waiting = Vec::new();
        for id in pending_ids(repo)? {
            match repo.read_pending(&id) {
                Ok(Some(record)) => waiting.push((id, Ok(record))),
                // Its writer has just removed it, and the snapshot, if it made one, is listed below.
                Ok(None) => {}
                Err(error) if error.is_damage() || matches!(error, Error::UnsupportedFormat { .. }) => waiting.push((id, Err(error))),
                Err(error) => return Err(error),
            }
        }
        let known = repo.on_catalog(|local| local.snapshot_ids())?;
        let refreshed = repo.refresh()?;
        let listed: HashSet<SnapshotId> = refreshed.snapshots.iter().map(|(id, _)| *id).collect();
        if !refreshed.damage.is_empty() {
            all_can_be_read(repo, &listed)?;
        }
        let parents = refreshed.snapshots.iter().filter_map(|(_, record)| record.parent);
        must_be_forgotten(repo, known.into_iter().chain(parents).filter(|id| !listed.contains(id)))?;
        let is_lossy = |id: &SnapshotId| {
            let health = refreshed.marks.get(id).and_then(|marks| marks.health());
            health.is_some_and(|mark| mark.kind == MarkKind::Damaged && mark.code == LOST)
        };
        let (lossy, records): (Vec<_>, Vec<_>) = refreshed.snapshots.into_iter().partition(|(id, _)| is_lossy(id));
        let [lossy, records] = [lossy, records].map(|of| of.into_iter().map(|(_, record)| record).collect::<Vec<SnapshotRecord>>());
        let tombstones = tombstones(repo)?;
        let (mut pending, mut alive, mut unclear) = (Vec::new(), Vec::new(), None);
        for (id, record) in waiting {
            let mut found = Pending { id, time_ns: record.as_ref().ok().map(|record| record.time_ns), counts: false };
            let marked = tombstones.iter().any(|stone| stone.id == as_marked(&id) && stone.is_ripe(1, options));
            let dead = marked || dead == Dead::WouldBeMarked && options.grace_ns <= 0 && found.seems_dead(options);
            found.counts = !dead;
            pending.push(found);
            match record {
                Ok(record) if !dead => alive.push(record),
                Err(error) if !dead => unclear = Some(error),
                _ => {}
            }
        }
        let unreadable = repo.list_all_packs()?;
        Ok(Roots { listed, records, lossy, pending, alive, tombstones, unclear, unreadable })
    }

    /// Says what is not freed because it cannot be read.
    pub(super) fn warn(&self, monitor: &dyn Monitor) {
        self.unreadable.iter().for_each(|error| monitor.warn(&format!("left as it is: {error}")));
    }

    pub(super) fn marked(&self, options: &PruneOptions) -> Marked {
        let ripe = self.tombstones.iter().filter(|stone| stone.is_ripe(1, options)).map(|stone| stone.id).collect();
        Marked { going: self.tombstones.iter().map(|stone| stone.id).collect(), ripe }
    }

    /// What is needed.
    ///
    /// # Errors
    /// [`Error::Corrupt`] if something cannot be read or is nowhere; [`Error::Stale`] if that is so for a pending record; [`Error::Cancelled`].
    pub(super) fn needed(&mut self, reader: &Reader, marked: &Marked, trust: &mut Trust, monitor: &dyn Monitor) -> Result<Needed> {
        if let Some(error) = self.unclear.take() {
            return Err(error);
        }
        monitor.phase("finding what is needed", None);
        let mut live = Live::new(reader, marked, trust, monitor);
        live.add_snapshots(self.records.iter())?;
        // A writer that has marked what was gone already sees that when it looks, and commits something else or nothing.
        live.add_snapshots(self.alive.iter()).map_err(|error| match error.is_damage() {
            true => Error::Stale { detail: format!("a backup that has not ended builds upon what is gone; prune again later: {error}") },
            false => error,
        })?;
        live.add_lossy(self.lossy.iter())?;
        Ok(live.finish())
    }

    /// Pending records whose writers must be dead: they commit within minutes. One that is not sees the mark, and makes another record.
    pub(super) fn dead_writers(&self, options: &PruneOptions) -> impl Iterator<Item = PackId> {
        self.pending.iter().filter(|pending| pending.seems_dead(options)).map(|pending| as_marked(&pending.id))
    }

    /// All tombstones.
    pub(super) fn tombstones(&self) -> &[Stone] {
        &self.tombstones
    }

    /// The pending records that are marked and of age.
    pub(super) fn expired<'r>(&'r self, marked: &'r Marked) -> impl Iterator<Item = SnapshotId> + 'r {
        self.pending.iter().map(|pending| pending.id).filter(|id| marked.ripe.contains(&as_marked(id)))
    }

    /// Lists the snapshots once more, as a listing that lies must not cost data; `false` if there is one that was not looked at.
    ///
    /// # Errors
    /// [`Error::Corrupt`] if one is gone that nobody has forgotten.
    pub(super) fn confirm(&self, repo: &Repository) -> Result<bool> {
        let again = snapshot_ids(repo)?;
        must_be_forgotten(repo, self.listed.difference(&again).copied())?;
        // What a writer needs that was taken for dead was not looked at, if its snapshot is there all the same.
        let looked_at =
            |id: &SnapshotId| self.listed.contains(id) || self.pending.iter().any(|pending| pending.counts && pending.id == *id);
        Ok(again.iter().all(looked_at))
    }
}

impl Pending {
    fn seems_dead(&self, options: &PruneOptions) -> bool {
        let age = |time: i64| i128::from(options.now_ns) - i128::from(time);
        // A clock that is far ahead says nothing either.
        options.grace_ns <= 0 || self.time_ns.is_none_or(|time| age(time).abs() >= i128::from(options.grace_ns))
    }
}

/// The name of the tombstone of a pending record.
fn as_marked(id: &SnapshotId) -> PackId {
    PackId(*id.as_bytes())
}

/// # Errors
/// [`Error::Corrupt`] if one of the snapshots that are listed, beside these, cannot be read: nobody knows what it needs.
fn all_can_be_read(repo: &Repository, known: &HashSet<SnapshotId>) -> Result<()> {
    snapshot_ids(repo)?.iter().filter(|id| !known.contains(*id)).try_for_each(|id| repo.read_snapshot(id).map(drop))
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

fn list<T>(repo: &Repository, kind: ObjectKind, of: impl Fn(ObjectKey) -> Option<T>) -> Result<Vec<T>> {
    let mut found = Vec::new();
    for key in repo.backend().names(kind)? {
        found.extend(of(key?));
    }
    Ok(found)
}

fn snapshot_ids(repo: &Repository) -> Result<HashSet<SnapshotId>> {
    let ids = list(repo, ObjectKind::Snapshot, |key| if let ObjectKey::Snapshot(id) = key { Some(id) } else { None })?;
    Ok(ids.into_iter().collect())
}

fn pending_ids(repo: &Repository) -> Result<Vec<SnapshotId>> {
    list(repo, ObjectKind::Pending, |key| if let ObjectKey::Pending(id) = key { Some(id) } else { None })
}

fn tombstones(repo: &Repository) -> Result<Vec<Stone>> {
    let ids = list(repo, ObjectKind::Tombstone, |key| if let ObjectKey::Tombstone(id) = key { Some(id) } else { None })?;
    ids.into_iter().map(|id| Ok(Stone { id, time_ns: repo.read_tombstone(id)?.map(|tombstone| tombstone.time_ns) })).collect()
}
