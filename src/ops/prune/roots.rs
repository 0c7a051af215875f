//! Lists the roots of a prune: snapshots and pending records, which decide what is needed, and tombstones, which say
//! what is marked.
//!
//! The order of the lists matters: pending records first, then snapshots, then tombstones. A snapshot that is
//! committed meanwhile is in one of the first two.
//!
//! Guarantees: a snapshot that was known and is neither listed, nor forgotten, nor expired stops the prune, because a
//! listing may be incomplete. So does a snapshot that cannot be read: nobody knows what it needs.

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

/// Which pending records do not count.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Dead {
    /// Those that have expired.
    HaveExpired,
    /// These, and those that a prune would let expire now: for a plan that changes nothing.
    WouldExpire,
}

/// The roots, as one look at the repository found them.
pub(super) struct Roots {
    /// The ids of all listed snapshots.
    listed: HashSet<SnapshotId>,
    /// Records among the snapshots that have expired, and so are not snapshots.
    hidden: Vec<ObjectKey>,
    /// The records of the listed snapshots, without the lossy ones.
    records: Vec<SnapshotRecord>,
    /// The snapshots that a repair has marked as having lost something. What they lack does not stop a prune.
    lossy: Vec<SnapshotRecord>,
    /// All pending records.
    pending: Vec<Pending>,
    /// The records of the pending snapshots that count as roots.
    alive: Vec<SnapshotRecord>,
    tombstones: Vec<Stone>,
    /// The error of a pending record that counts and cannot be read: nobody knows what it needs.
    unclear: Option<Error>,
    /// Packs that cannot be read. If something in them is needed, the walk misses it and stops.
    unreadable: Vec<Error>,
}

/// A pending record.
struct Pending {
    id: SnapshotId,
    /// The sources under whose names it lies: one, unless somebody has copied it.
    sources: Vec<SourceTag>,
    /// When it was written, by its writer's clock; `None` if it cannot be read.
    written_ns: Option<i64>,
    /// Whether its snapshot is listed.
    is_committed: bool,
    /// Whether a tombstone says that it has expired.
    has_expired: bool,
    /// Whether what it needs is kept.
    counts: bool,
}

/// A tombstone.
pub(super) struct Stone {
    pub(super) id: PackId,
    /// Its content; `None` if it cannot be read.
    says: Option<Tombstone>,
    /// Whether it says that a pending record has expired. Such a tombstone stays for ever.
    is_expiry: bool,
}

impl Stone {
    /// Whether it is at least this many grace times old.
    pub(super) fn is_ripe(&self, times: i64, options: &PruneOptions) -> bool {
        let age = |time_ns: i64| options.now_ns.saturating_sub(time_ns);
        let time_ns = self.says.as_ref().map(|says| says.time_ns);
        options.grace_ns <= 0 || time_ns.is_some_and(|time| age(time) >= options.grace_ns.saturating_mul(times))
    }

    /// Whether it would not ripen in time: it cannot be read, or was written by a clock that is far ahead.
    pub(super) fn is_useless(&self, options: &PruneOptions) -> bool {
        !self.is_expiry && self.says.as_ref().is_none_or(|says| says.time_ns.saturating_sub(options.now_ns) > options.grace_ns)
    }

    /// Whether it says that a record has expired, or may say so because it cannot be read.
    pub(super) fn may_be_expiry(&self) -> bool {
        self.is_expiry || self.says.is_none()
    }
}

impl Roots {
    /// Lists and reads pending records, then snapshots, then tombstones, then packs. A snapshot that is committed
    /// meanwhile is in one of the first two lists.
    ///
    /// # Errors
    /// [`Error::Corrupt`] if a snapshot cannot be read, or is gone without having been forgotten.
    pub(super) fn list(repo: &Repository, options: &PruneOptions, dead: Dead) -> Result<Self> {
        let mut waiting = Vec::new();
        for (id, sources) in repo.record_names(ObjectKind::Pending)? {
            // Not found: its writer has just removed it. If it made a snapshot, that is listed below.
            let found = repo.read_same_id(&sources, |source| ObjectKey::Pending { source, id })?;
            waiting.extend(found.map(|found| (id, sources, found.read)));
        }
        // What the catalog knows before the refresh: the refresh forgets snapshots that are not listed any more.
        let known = repo.on_catalog(|local| local.snapshot_ids())?;
        let refreshed = repo.refresh()?;
        let listed: HashSet<SnapshotId> = refreshed.snapshots.iter().map(|(id, _)| *id).collect();
        let hidden = refreshed.expired;
        if !refreshed.damage.is_empty() {
            // Some object is damaged. That is fatal only if it is a snapshot.
            all_can_be_read(repo, &listed)?;
        }
        // A parent was listed when its child was made, so it must be listed or forgotten, too. This catches an
        // incomplete listing on a machine whose catalog is new.
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
                // Its snapshot is listed and says what is needed.
                _ if found.is_committed => {}
                Ok(record) if found.counts => alive.push(record),
                Err(error) if found.counts => unclear = Some(error),
                _ => {}
            }
            pending.push(found);
        }
        // Packs last. A writer makes packs durable before its record, so the list has every pack that a record above
        // names.
        let unreadable = repo.list_all_packs()?;
        Ok(Roots { listed, hidden, records, lossy, pending, alive, tombstones, unclear, unreadable })
    }

    /// Warns of packs that are not freed because they cannot be read.
    pub(super) fn warn(&self, monitor: &dyn Monitor) {
        self.unreadable.iter().for_each(|error| monitor.warn(&format!("this pack is left as it is: {error}")));
    }

    /// The marked packs, and those of them whose grace time has passed.
    pub(super) fn marked(&self, options: &PruneOptions) -> Marked {
        let ripe = self.tombstones.iter().filter(|stone| stone.is_ripe(1, options)).map(|stone| stone.id).collect();
        Marked { going: self.tombstones.iter().map(|stone| stone.id).collect(), ripe }
    }

    /// Computes what is needed. To be called once: it takes the error of an unclear pending record.
    ///
    /// # Errors
    /// [`Error::Corrupt`] if a needed object cannot be read or is missing; [`Error::Stale`] if a pending record needs
    /// it; [`Error::Cancelled`].
    pub(super) fn needed(&mut self, reader: &Reader, marked: &Marked, trust: &mut Trust, monitor: &dyn Monitor) -> Result<Needed> {
        if let Some(error) = self.unclear.take() {
            return Err(error);
        }
        monitor.phase("finding what is needed", None);
        let mut live = Live::new(reader, marked, trust, monitor);
        live.add_snapshots(self.records.iter())?;
        // A pending record may need packs that are gone already. Its writer notices that when it looks, and then
        // commits something else or nothing.
        live.add_snapshots(self.alive.iter()).map_err(|error| match error.is_damage() {
            true => {
                Error::Stale { detail: format!("a running backup refers to data that was deleted meanwhile; prune again later: {error}") }
            }
            false => error,
        })?;
        // Lossy snapshots last: what the others need must be complete, even if a lossy one has lost it, too.
        live.add_lossy(self.lossy.iter())?;
        Ok(live.finish())
    }

    /// Pending records whose writers are probably dead: a writer commits within minutes. A living one finds the
    /// suspicion when it looks, and makes another record.
    pub(super) fn suspects(&self, options: &PruneOptions) -> impl Iterator<Item = &SnapshotId> {
        self.pending.iter().filter(|pending| pending.is_suspect(options)).map(|pending| &pending.id)
    }

    /// Pending records that have been suspected for the grace time, with the sources under whose names they lie.
    pub(super) fn suspected(&self, options: &PruneOptions) -> impl Iterator<Item = (&SnapshotId, &[SourceTag])> {
        let suspects = self.pending.iter().filter(|pending| pending.is_suspect(options));
        suspects.filter(|of| is_suspected(&self.tombstones, &of.id, options)).map(|of| (&of.id, &of.sources[..]))
    }

    /// All tombstones.
    pub(super) fn tombstones(&self) -> &[Stone] {
        &self.tombstones
    }

    /// Whether this tombstone is the suspicion of a pending record that still counts.
    pub(super) fn is_at_work(&self, stone: &Stone) -> bool {
        self.pending.iter().any(|pending| pending.counts && suspicion_of(&pending.id) == stone.id)
    }

    /// The records that can go: pending records that have expired, or that were committed and left by dead writers;
    /// and expired records among the snapshots.
    pub(super) fn useless_records(&self, options: &PruneOptions) -> Vec<ObjectKey> {
        let is_useless = |pending: &&Pending| pending.has_expired || pending.is_committed && pending.seems_dead(options);
        let names = |of: &Pending| of.sources.iter().map(|source| ObjectKey::Pending { source: *source, id: of.id }).collect::<Vec<_>>();
        let pending = self.pending.iter().filter(is_useless).flat_map(names);
        pending.chain(self.hidden.iter().copied()).collect()
    }

    /// Lists the snapshots once more before packs are deleted: a single incomplete listing must not cost data.
    /// `false` if a snapshot is there whose needs were not computed.
    ///
    /// # Errors
    /// [`Error::Corrupt`] if a snapshot is gone without having been forgotten.
    pub(super) fn confirm(&self, repo: &Repository) -> Result<bool> {
        let again = repo.list_snapshots()?.ids;
        must_be_forgotten(repo, self.listed.iter().filter(|id| !again.contains_key(*id)).copied())?;
        // A pending record that did not count was not walked. If its snapshot is there after all, its writer was
        // alive.
        let looked_at =
            |id: &SnapshotId| self.listed.contains(id) || self.pending.iter().any(|pending| pending.counts && pending.id == *id);
        Ok(again.keys().all(looked_at))
    }
}

impl Pending {
    /// Whether it is older than the grace time, so that its writer is probably dead.
    fn seems_dead(&self, options: &PruneOptions) -> bool {
        let age = |time: i64| i128::from(options.now_ns) - i128::from(time);
        // A time far in the future says nothing about the age either, so it counts as old.
        options.grace_ns <= 0 || self.written_ns.is_none_or(|time| age(time).abs() >= i128::from(options.grace_ns))
    }

    /// Whether it can be suspected: neither committed nor expired, and its writer seems dead.
    fn is_suspect(&self, options: &PruneOptions) -> bool {
        !self.is_committed && !self.has_expired && self.seems_dead(options)
    }
}

/// Whether a pending record has been suspected for the grace time.
fn is_suspected(tombstones: &[Stone], id: &SnapshotId, options: &PruneOptions) -> bool {
    tombstones.iter().any(|stone| stone.id == suspicion_of(id) && stone.is_ripe(1, options))
}

/// Reads every listed snapshot that is not among `known`.
///
/// # Errors
/// [`Error::Corrupt`] if one cannot be read, because nobody knows what it needs, or is hidden by a tombstone that
/// does not say that it has expired.
fn all_can_be_read(repo: &Repository, known: &HashSet<SnapshotId>) -> Result<()> {
    let listed = repo.list_snapshots()?;
    let unknown = listed.ids.iter().filter(|(id, _)| !known.contains(*id));
    unknown.map(|(id, source)| ObjectKey::Snapshot { source: *source, id: *id }).try_for_each(|key| repo.read_snapshot(&key).map(drop))?;
    repo.false_expiries(listed.expired.keys())?.pop().map_or(Ok(()), Err)
}

/// Each of these snapshots was known and is not listed. It must have been forgotten or have expired. Otherwise the
/// listing is incomplete or somebody has deleted its record, and what it needs may still be needed.
fn must_be_forgotten(repo: &Repository, ids: impl Iterator<Item = SnapshotId>) -> Result<()> {
    for id in ids {
        let is_forgotten = repo.read_forgotten(&id)?.is_some_and(|record| record.decided);
        if !is_forgotten && !repo.has_expired(&id)? {
            let detail = "its record is gone, but it was not forgotten; prune deletes nothing until the record is back or `icecore forget` gives the snapshot up";
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
