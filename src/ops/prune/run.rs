//! Carrying a prune out: writing anew, marking, looking again, deleting.

use std::collections::{HashMap, HashSet};

use super::flatten::Chains;
use super::needed::{Marked, Needed, Trust};
use super::plan::{PackUse, PruneOptions};
use super::roots::{Dead, Roots, Stone};
use super::{PruneReport, plan_of};
use crate::error::{Error, Result};
use crate::id::{PackId, SnapshotId, SourceTag};
use crate::progress::Monitor;
use crate::store::backend::{ObjectKey, WriteMode};
use crate::store::format::tombstone::Tombstone;
use crate::store::repo::{Reader, Repacker, Repository, StoredCopy, suspicion_of};

/// How often deleting starts again because something that is needed lies in marked packs only, or a snapshot has come.
const ATTEMPTS: usize = 8;

/// Packs deleted between two looks at whether the user wants to stop.
const DELETED_AT_ONCE: usize = 1000;

/// A prune that runs.
pub(super) struct Run<'a> {
    pub(super) repo: &'a Repository,
    pub(super) options: &'a PruneOptions,
    pub(super) monitor: &'a dyn Monitor,
    pub(super) trust: Trust,
    pub(super) report: PruneReport,
    /// The packs that were there at the last look.
    pub(super) seen: HashSet<PackId>,
}

impl Run<'_> {
    /// Does a step again until it says that it is done: others may undo what it has seen.
    pub(super) fn attempt(&mut self, step: impl Fn(&mut Self) -> Result<bool>) -> Result<()> {
        for _ in 0..ATTEMPTS {
            // What could not be read may have been so because its bases were just being moved.
            self.trust.doubt();
            match step(self) {
                Ok(true) => return Ok(()),
                Ok(false) => {}
                Err(error) if error.is_damage() && self.was_overtaken()? => {}
                Err(error) => return Err(error),
            }
        }
        Err(Error::Stale { detail: "others keep changing what is needed; nothing was deleted that is".into() })
    }

    /// Whether another prune has deleted packs since the last look: what seems to be lost may be elsewhere.
    fn was_overtaken(&self) -> Result<bool> {
        self.repo.list_all_packs()?;
        Ok(!self.seen.is_subset(&self.packs()?))
    }

    fn packs(&self) -> Result<HashSet<PackId>> {
        Ok(self.repo.on_catalog(|local| local.packs())?.iter().map(|known| known.pack.id).collect())
    }

    /// Plans, writes anew what is needed of packs that are to go, and marks these.
    pub(super) fn mark(&mut self) -> Result<bool> {
        let mut roots = Roots::list(self.repo, self.options, Dead::HaveExpired)?;
        roots.warn(self.monitor);
        if self.suspect(&roots)? {
            roots = Roots::list(self.repo, self.options, Dead::HaveExpired)?;
        }
        if self.let_expire(&roots)? {
            roots = Roots::list(self.repo, self.options, Dead::HaveExpired)?;
        }
        self.seen = self.packs()?;
        let marked = roots.marked(self.options);
        let mut reader = Reader::new(self.repo);
        let mut needed = roots.needed(&reader, &marked, &mut self.trust, self.monitor)?;
        let chains = Chains::to_shorten(self.repo, &reader, &needed, self.options)?;
        let mut plan = plan_of(self.repo, &marked, &needed, self.options)?;
        if self.shorten(&reader, chains)? {
            reader = Reader::new(self.repo);
            needed = roots.needed(&reader, &marked, &mut self.trust, self.monitor)?;
            plan = plan_of(self.repo, &marked, &needed, self.options)?.with(&plan);
        }
        self.write_anew(&reader, &needed, &plan.repack)?;
        let marked = plan.delete.iter().chain(&plan.repack).map(|pack| pack.id);
        self.report.marked += self.write_tombstones(marked, WriteMode::CreateNew)?;
        Ok(true)
    }

    /// Copies what is needed of these packs, and what is stranded, into new ones, and makes these durable.
    pub(super) fn write_anew(&mut self, reader: &Reader, needed: &Needed, packs: &[PackUse]) -> Result<()> {
        let from: Vec<PackId> = needed.stranded.iter().copied().chain(packs.iter().map(|pack| pack.id)).collect();
        if from.is_empty() {
            return Ok(());
        }
        self.monitor.phase("writing packs anew", Some(packs.iter().map(|pack| pack.size).sum()));
        let mut repacker = Repacker::new(self.repo)?;
        for id in from {
            self.copy_needed(&mut repacker, reader, needed, &id)?;
            self.monitor.advance(packs.iter().find(|pack| pack.id == id).map_or(0, |pack| pack.size));
        }
        self.add_written(repacker)
    }

    /// Makes new packs durable and counts them.
    pub(super) fn add_written(&mut self, repacker: Repacker) -> Result<()> {
        let written = repacker.finish()?;
        self.report.written += written.len() as u64;
        self.report.written_bytes += written.iter().map(|pack| pack.size).sum::<u64>();
        self.trust.written.extend(written.iter().map(|pack| pack.id));
        Ok(())
    }

    /// Copies what is needed of one pack, each chunk verified first: one that is damaged is taken from another copy.
    fn copy_needed(&self, repacker: &mut Repacker, reader: &Reader, needed: &Needed, id: &PackId) -> Result<()> {
        let Some(rows) = needed.rows(id) else { return Ok(()) };
        let copies = self.repo.copies_in(id)?;
        reader.prefetch(copies.iter().filter(|copy| rows.contains(copy.row())).map(|copy| copy.entry.id))?;
        for of_one_frame in copies.chunk_by(|one, other| one.entry.frame == other.entry.frame) {
            if self.monitor.cancelled() {
                return Err(Error::Cancelled);
            }
            let wanted: Vec<&StoredCopy> = of_one_frame.iter().filter(|copy| rows.contains(copy.row())).collect();
            let mut plain = Vec::with_capacity(wanted.len());
            let mut whole = true;
            for copy in &wanted {
                match reader.copy(copy) {
                    Ok(bytes) => plain.push(bytes),
                    Err(error) if error.is_damage() => {
                        whole = false;
                        plain.push(reader.chunk(&copy.entry.id)?);
                    }
                    Err(error) => return Err(error),
                }
            }
            if whole && wanted.len() == of_one_frame.len() {
                repacker.copy_frame(reader, of_one_frame)?;
                continue;
            }
            for (copy, plain) in wanted.into_iter().zip(plain) {
                repacker.store_whole(copy.entry.id, &plain, copy.entry.node, copy.entry.version)?;
            }
        }
        Ok(())
    }

    /// Marks the pending records of writers that seem to be dead, and marks again what is marked in a way that would never come of age; whether a record was
    /// marked.
    fn suspect(&self, roots: &Roots) -> Result<bool> {
        let any = self.write_tombstones(roots.suspects(self.options).map(suspicion_of), WriteMode::CreateNew)? > 0;
        let packs = self.packs()?;
        let is_useless = |stone: &&Stone| {
            stone.is_useless(self.options) && (packs.contains(&stone.id) || roots.is_at_work(stone) || !stone.may_be_expiry())
        };
        self.write_tombstones(roots.tombstones().iter().filter(is_useless).map(|stone| stone.id), WriteMode::Replace)?;
        Ok(any)
    }

    /// Lets pending records expire that have been suspected for the grace time and are no snapshots; whether one did. A writer that commits from now on finds
    /// the suspicion. One that has found none has committed before it, and its snapshot is listed.
    fn let_expire(&self, roots: &Roots) -> Result<bool> {
        let mut suspected = roots.suspected(self.options).peekable();
        if suspected.peek().is_none() {
            return Ok(false);
        }
        let committed = self.repo.list_snapshots()?;
        let mut any = false;
        for (id, sources) in suspected {
            // A listing that lies must not cost a snapshot.
            if !committed.ids.contains_key(id) && !self.is_there(id, sources)? {
                self.repo.write_expiry(id, self.options.now_ns, &self.options.host)?;
                any = true;
            }
        }
        Ok(any)
    }

    /// Whether a committed record of this id is there, of one of these sources.
    fn is_there(&self, id: &SnapshotId, sources: &[SourceTag]) -> Result<bool> {
        for source in sources {
            if self.repo.backend().stat(&ObjectKey::Snapshot { source: *source, id: *id })?.is_some() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn write_tombstones(&self, ids: impl Iterator<Item = PackId>, mode: WriteMode) -> Result<u64> {
        let of = |object| Tombstone { object, time_ns: self.options.now_ns, host: self.options.host.clone(), expired: None };
        self.repo.write_tombstones(ids.map(of), mode)
    }

    /// Deletes what has been marked for the grace time and is still not needed; `false` if something that is needed had to be copied first.
    pub(super) fn sweep(&mut self) -> Result<bool> {
        let roots = Roots::list(self.repo, self.options, Dead::HaveExpired)?;
        self.seen = self.packs()?;
        let marked = roots.marked(self.options);
        let known = self.repo.on_catalog(|local| local.packs())?;
        let present: HashMap<PackId, u64> = known.iter().map(|known| (known.pack.id, known.pack.size)).collect();
        self.report.waiting = marked.going.iter().filter(|id| present.contains_key(*id) && !marked.ripe.contains(*id)).count() as u64;
        let useless = roots.useless_records(self.options);
        let gone: Vec<PackId> = self.removable(&roots, &marked, &present);
        let doomed: Vec<(PackId, u64)> = present.into_iter().filter(|(id, _)| marked.ripe.contains(id)).collect();
        if !doomed.is_empty() && !self.delete_unless_needed(roots, &marked, &doomed)? {
            return Ok(false);
        }
        self.repo.backend().delete(&useless)?;
        self.report.expired += useless.len() as u64;
        let stones: Vec<ObjectKey> = gone.into_iter().map(ObjectKey::Tombstone).collect();
        self.repo.backend().delete(&stones)?;
        Ok(true)
    }

    /// Tombstones go one grace time after what they mark: a writer that began before it may still look for it. Those that say that a record has expired stay:
    /// its writer may commit it at any time. What cannot be read and marks no pack may be such a one.
    fn removable(&self, roots: &Roots, marked: &Marked, present: &HashMap<PackId, u64>) -> Vec<PackId> {
        let gone = |stone: &Stone| match present.contains_key(&stone.id) {
            true => marked.ripe.contains(&stone.id),
            false => !stone.may_be_expiry() && !roots.is_at_work(stone),
        };
        let goes = |stone: &&Stone| gone(stone) && stone.is_ripe(2, self.options);
        roots.tombstones().iter().filter(goes).map(|stone| stone.id).collect()
    }

    /// Looks once more at what is needed, then deletes these packs; `false` if one of them had something that is needed, which is copied now, or if a
    /// snapshot has come that was not looked at.
    fn delete_unless_needed(&mut self, mut roots: Roots, marked: &Marked, doomed: &[(PackId, u64)]) -> Result<bool> {
        let reader = Reader::new(self.repo);
        let needed = roots.needed(&reader, marked, &mut self.trust, self.monitor)?;
        if !needed.stranded.is_empty() {
            self.write_anew(&reader, &needed, &[])?;
            return Ok(false);
        }
        if !roots.confirm(self.repo)? {
            return Ok(false);
        }
        for packs in doomed.chunks(DELETED_AT_ONCE) {
            if self.monitor.cancelled() {
                return Err(Error::Cancelled);
            }
            let keys: Vec<ObjectKey> = packs.iter().map(|(id, _)| ObjectKey::Pack(*id)).collect();
            self.repo.backend().delete(&keys)?;
            self.report.deleted += packs.len() as u64;
            self.report.deleted_bytes += packs.iter().map(|(_, size)| size).sum::<u64>();
        }
        let gone: Vec<PackId> = doomed.iter().map(|(id, _)| *id).collect();
        self.repo.on_catalog(|local| local.remove_packs(&gone)).map(|()| true)
    }
}
