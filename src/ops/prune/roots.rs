//! What is there: the objects that decide what is needed.

use std::collections::HashSet;

use super::needed::{Live, Marked, Needed, Trust};
use super::plan::PruneOptions;
use crate::error::{Error, Result};
use crate::id::{PackId, SnapshotId, SourceTag};
use crate::progress::Monitor;
use crate::store::backend::{ObjectKey, ObjectKind};
use crate::store::format::mark::MarkKind;
use crate::store::format::snapshot::SnapshotRecord;
use crate::store::format::tombstone::Tombstone;
use crate::store::repo::{LOST, Reader, Repository, expiry_of, suspicion_of};

/// Which pending records are not counted.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Dead {
    /// Those that have expired.
    HaveExpired,
    /// These, and those that would expire in a prune.
    WouldExpire,
}

/// A look at the repository.
pub(super) struct Roots {
    listed: HashSet<SnapshotId>,
    /// Records among the snapshots that are none.
    hidden: Vec<ObjectKey>,
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
    /// The sources that it lies under: one, if nobody has meddled.
    sources: Vec<SourceTag>,
    /// When it was written, as its writer's clock says; `None` if it cannot be read.
    written_ns: Option<i64>,
    /// Its snapshot is there.
    is_committed: bool,
    /// It is stated that it is none any more.
    has_expired: bool,
    /// What it needs is kept.
    counts: bool,
}

/// A tombstone.
pub(super) struct Stone {
    pub(super) id: PackId,
    /// What it says; `None` if it cannot be read.
    says: Option<Tombstone>,
    /// It says of a record that this has expired, and so stays for ever.
    is_expiry: bool,
}

impl Stone {
    /// Whether so many grace times have passed.
    pub(super) fn is_ripe(&self, times: i64, options: &PruneOptions) -> bool {
        let age = |time_ns: i64| options.now_ns.saturating_sub(time_ns);
        let time_ns = self.says.as_ref().map(|says| says.time_ns);
        options.grace_ns <= 0 || time_ns.is_some_and(|time| age(time) >= options.grace_ns.saturating_mul(times))
    }

    /// Whether it would not be of age when it should: it cannot be read, or was written by a clock that is far ahead.
    pub(super) fn is_useless(&self, options: &PruneOptions) -> bool {
        !self.is_expiry && self.says.as_ref().is_none_or(|says| says.time_ns.saturating_sub(options.now_ns) > options.grace_ns)
    }

    /// Whether it says that a record has expired, or may have said so: it cannot be read.
    pub(super) fn may_be_expiry(&self) -> bool {
        self.is_expiry || self.says.is_none()
    }
}

impl Roots {
    /// Lists and reads pending records, then snapshots, then tombstones, then packs: a snapshot that is committed meanwhile is in one of the first two.
    ///
    /// # Errors
    /// [`Error::Corrupt`] if a snapshot is gone that nobody has forgotten, or cannot be read.
    pub(super) fn list(repo: &Repository, options: &PruneOptions, dead: Dead) -> Result<Self> {
        let mut waiting = Vec::new();
        for (id, sources) in repo.record_names(ObjectKind::Pending)? {
            // If there is none any more its writer has just removed it, and the snapshot, if it made one, is listed below.
            let found = repo.read_same_id(&sources, |source| ObjectKey::Pending { source, id })?;
            waiting.extend(found.map(|found| (id, sources, found.read)));
        }
        let known = repo.on_catalog(|local| local.snapshot_ids())?;
        let refreshed = repo.refresh()?;
        let listed: HashSet<SnapshotId> = refreshed.snapshots.iter().map(|(id, _)| *id).collect();
        let hidden = refreshed.expired;
        if !refreshed.damage.is_empty() {
            all_can_be_read(repo, &listed)?;
        }
        let parents = refreshed.snapshots.iter().filter_map(|(_, record)| record.parent);
        if let Some(one) = refreshed.vanished.first() {
            return Err(one.error());
        }
        must_be_forgotten(repo, known.into_iter().chain(parents).filter(|id| !listed.contains(id)))?;
        let is_lossy = |id: &SnapshotId| {
            let health = refreshed.marks.get(id).and_then(|marks| marks.health());
            health.is_some_and(|mark| mark.kind == MarkKind::Damaged && mark.code == LOST)
        };
        let (lossy, records): (Vec<_>, Vec<_>) = refreshed.snapshots.into_iter().partition(|(id, _)| is_lossy(id));
        let [lossy, records] = [lossy, records].map(|of| of.into_iter().map(|(_, record)| record).collect::<Vec<SnapshotRecord>>());
        let tombstones = tombstones(repo)?;
        let (mut pending, mut alive, mut unclear) = (Vec::new(), Vec::new(), None);
        for (id, sources, record) in waiting {
            let written_ns = record.as_ref().ok().map(|record| record.written_ns);
            let has_expired = tombstones.iter().any(|stone| stone.id == expiry_of(&id) && stone.is_expiry);
            let mut found = Pending { id, sources, written_ns, is_committed: listed.contains(&id), has_expired, counts: true };
            let would_expire = || found.is_suspect(options) && (options.grace_ns <= 0 || is_suspected(&tombstones, &id, options));
            found.counts = !(has_expired || dead == Dead::WouldExpire && would_expire());
            match record {
                // Its snapshot says what it needs.
                _ if found.is_committed => {}
                Ok(record) if found.counts => alive.push(record),
                Err(error) if found.counts => unclear = Some(error),
                _ => {}
            }
            pending.push(found);
        }
        let unreadable = repo.list_all_packs()?;
        Ok(Roots { listed, hidden, records, lossy, pending, alive, tombstones, unclear, unreadable })
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

    /// Pending records whose writers must be dead: they commit within minutes. One that is not sees the suspicion, and makes another record.
    pub(super) fn suspects(&self, options: &PruneOptions) -> impl Iterator<Item = &SnapshotId> {
        self.pending.iter().filter(|pending| pending.is_suspect(options)).map(|pending| &pending.id)
    }

    /// Pending records that have been suspected for the grace time, and the sources that they lie under.
    pub(super) fn suspected(&self, options: &PruneOptions) -> impl Iterator<Item = (&SnapshotId, &[SourceTag])> {
        let suspects = self.pending.iter().filter(|pending| pending.is_suspect(options));
        suspects.filter(|of| is_suspected(&self.tombstones, &of.id, options)).map(|of| (&of.id, &of.sources[..]))
    }

    /// All tombstones.
    pub(super) fn tombstones(&self) -> &[Stone] {
        &self.tombstones
    }

    /// Whether this is the suspicion of a pending record that counts still.
    pub(super) fn is_at_work(&self, stone: &Stone) -> bool {
        self.pending.iter().any(|pending| pending.counts && suspicion_of(&pending.id) == stone.id)
    }

    /// The records that can go: pending ones that have expired or whose dead writers have committed them, and those in the place of snapshots that are none.
    pub(super) fn useless_records(&self, options: &PruneOptions) -> Vec<ObjectKey> {
        let is_useless = |pending: &&Pending| pending.has_expired || pending.is_committed && pending.seems_dead(options);
        let names = |of: &Pending| of.sources.iter().map(|source| ObjectKey::Pending { source: *source, id: of.id }).collect::<Vec<_>>();
        let pending = self.pending.iter().filter(is_useless).flat_map(names);
        pending.chain(self.hidden.iter().copied()).collect()
    }

    /// Lists the snapshots once more, as a listing that lies must not cost data; `false` if there is one that was not looked at.
    ///
    /// # Errors
    /// [`Error::Corrupt`] if one is gone that nobody has forgotten.
    pub(super) fn confirm(&self, repo: &Repository) -> Result<bool> {
        let again = repo.list_snapshots()?.ids;
        must_be_forgotten(repo, self.listed.iter().filter(|id| !again.contains_key(*id)).copied())?;
        // What a writer needs that was taken for dead was not looked at, if its snapshot is there all the same.
        let looked_at =
            |id: &SnapshotId| self.listed.contains(id) || self.pending.iter().any(|pending| pending.counts && pending.id == *id);
        Ok(again.keys().all(looked_at))
    }
}

impl Pending {
    fn seems_dead(&self, options: &PruneOptions) -> bool {
        let age = |time: i64| i128::from(options.now_ns) - i128::from(time);
        // A clock that is far ahead says nothing either.
        options.grace_ns <= 0 || self.written_ns.is_none_or(|time| age(time).abs() >= i128::from(options.grace_ns))
    }

    fn is_suspect(&self, options: &PruneOptions) -> bool {
        !self.is_committed && !self.has_expired && self.seems_dead(options)
    }
}

/// Whether a pending record has been suspected for the grace time.
fn is_suspected(tombstones: &[Stone], id: &SnapshotId, options: &PruneOptions) -> bool {
    tombstones.iter().any(|stone| stone.id == suspicion_of(id) && stone.is_ripe(1, options))
}

/// # Errors
/// [`Error::Corrupt`] if one of the snapshots that are listed, beside these, cannot be read: nobody knows what it needs; or if one is hidden by a tombstone
/// that does not say that it has expired.
fn all_can_be_read(repo: &Repository, known: &HashSet<SnapshotId>) -> Result<()> {
    let listed = repo.list_snapshots()?;
    let unknown = listed.ids.iter().filter(|(id, _)| !known.contains(*id));
    unknown.map(|(id, source)| ObjectKey::Snapshot { source: *source, id: *id }).try_for_each(|key| repo.read_snapshot(&key).map(drop))?;
    repo.false_expiries(listed.expired.keys())?.pop().map_or(Ok(()), Err)
}

/// A snapshot that was there and is not listed must have been forgotten, or have been none: else a listing lies, or somebody has deleted its record, and what
/// it needs may be needed still.
fn must_be_forgotten(repo: &Repository, ids: impl Iterator<Item = SnapshotId>) -> Result<()> {
    for id in ids {
        let is_forgotten = repo.read_forgotten(&id)?.is_some_and(|record| record.decided);
        if !is_forgotten && !repo.has_expired(&id)? {
            let detail = "it is gone, but was not forgotten; nothing is deleted while that is so";
            return Err(Error::corrupt(format!("snapshot {id}"), detail));
        }
    }
    Ok(())
}

fn tombstones(repo: &Repository) -> Result<Vec<Stone>> {
    let mut ids = Vec::new();
    for key in repo.backend().names(ObjectKind::Tombstone)? {
        ids.extend(if let ObjectKey::Tombstone(id) = key? { Some(id) } else { None });
    }
    let read = |id: PackId| {
        let says = repo.read_tombstone(id)?;
        let is_expiry = says.as_ref().and_then(|says| says.expired).is_some_and(|of| expiry_of(&of) == id);
        Ok(Stone { id, says, is_expiry })
    };
    ids.into_iter().map(read).collect()
}
