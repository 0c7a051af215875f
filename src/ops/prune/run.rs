//! Carries a prune out: writes anew, marks, looks again, deletes.
//!
//! Order of writes: new packs are durable before the packs that they replace are marked, and marks are durable before
//! the last look at roots. A pack is deleted only if it was marked for the grace time and the look after that does
//! not need it.

use std::collections::{HashMap, HashSet};

use super::flatten::Chains;
use super::needed::{Marked, Needed, Trust};
use super::plan::{PackUse, PruneOptions};
use super::roots::{Dead, Roots, Stone};
use super::{PruneReport, plan_of};
use crate::error::{Error, Result};
use crate::id::{PackId, SnapshotId, SourceTag};
use crate::ops::number::wide;
use crate::progress::Monitor;
use crate::store::backend::{ObjectKey, WriteMode};
use crate::store::format::tombstone::Tombstone;
use crate::store::repo::{Reader, Repacker, Repository, StoredCopy, suspicion_of};

/// How often a step is repeated because needed chunks are only in marked packs, or a snapshot has come meanwhile.
const ATTEMPTS: usize = 8;

/// Packs that are deleted between two looks at whether the user wants to stop.
const DELETED_AT_ONCE: usize = 1000;

/// A prune that runs.
pub(super) struct Run<'a> {
    pub(super) repo: &'a Repository,
    pub(super) options: &'a PruneOptions,
    pub(super) monitor: &'a dyn Monitor,
    /// Which copies are known to be whole.
    pub(super) trust: Trust,
    pub(super) report: PruneReport,
    /// The packs that existed at the last look.
    pub(super) seen: HashSet<PackId>,
}

impl Run<'_> {
    /// Repeats a step until it is done. Other processes may change what it has read.
    pub(super) fn attempt(&mut self, step: impl Fn(&mut Self) -> Result<bool>) -> Result<()> {
        for _ in 0..ATTEMPTS {
            // A copy may have been unreadable only because another prune was moving its bases.
            self.trust.doubt();
            match step(self) {
                Ok(true) => return Ok(()),
                Ok(false) => {}
                Err(error) if error.is_damage() && self.was_overtaken()? => {}
                Err(error) => return Err(error),
            }
        }
        Err(Error::Stale {
            detail: "other processes keep changing what is needed; nothing that is needed was deleted; prune again later".into(),
        })
    }

    /// Whether another prune has deleted packs since the last look. Then a chunk that seems lost may be in a new
    /// pack.
    fn was_overtaken(&self) -> Result<bool> {
        self.repo.list_all_packs()?;
        Ok(!self.seen.is_subset(&self.packs()?))
    }

    /// The packs that the catalog knows.
    fn packs(&self) -> Result<HashSet<PackId>> {
        Ok(self.repo.on_catalog(|local| local.packs())?.iter().map(|known| known.pack.id).collect())
    }

    /// Plans, writes the needed chunks of the packs that go into new ones, and marks the old ones.
    pub(super) fn mark(&mut self) -> Result<bool> {
        let mut roots = Roots::list(self.repo, self.options, Dead::HaveExpired)?;
        roots.warn(self.monitor);
        // After a new suspicion or an expiry look again: a mark counts only for looks after it.
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
        // New copies with lower levels exist now, so other copies are needed than before.
        if self.shorten(&reader, chains)? {
            reader = Reader::new(self.repo);
            needed = roots.needed(&reader, &marked, &mut self.trust, self.monitor)?;
            plan = plan_of(self.repo, &marked, &needed, self.options)?.with(&plan);
        }
        self.write_anew(&reader, &needed, &plan.repack)?;
        // `write_anew` has made the new packs durable. Only now may the old ones be marked.
        let marked = plan.delete.iter().chain(&plan.repack).map(|pack| pack.id);
        self.report.marked += self.write_tombstones(marked, WriteMode::CreateNew)?;
        Ok(true)
    }

    /// Copies the needed chunks of these packs, and of the stranded ones, into new packs, durably.
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

    /// Makes the new packs durable and counts them.
    pub(super) fn add_written(&mut self, repacker: Repacker) -> Result<()> {
        let written = repacker.finish()?;
        self.report.written += wide(written.len());
        self.report.written_bytes += written.iter().map(|pack| pack.size).sum::<u64>();
        self.trust.written.extend(written.iter().map(|pack| pack.id));
        Ok(())
    }

    /// Copies the needed chunks of one pack. Each is verified first; if it is damaged, another copy of it is taken.
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
            // All chunks of the frame are needed and whole: copy it as it is, without decoding it again. A partly
            // needed frame is taken apart.
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

    /// Marks pending records whose writers seem dead as suspected, and renews tombstones that would never ripen.
    /// Returns whether a record was newly suspected.
    fn suspect(&self, roots: &Roots) -> Result<bool> {
        let any = self.write_tombstones(roots.suspects(self.options).map(suspicion_of), WriteMode::CreateNew)? > 0;
        let packs = self.packs()?;
        // A tombstone that cannot be read may say that a record has expired. It is overwritten only where it surely
        // stands for a pack or a suspicion.
        let is_useless = |stone: &&Stone| {
            stone.is_useless(self.options) && (packs.contains(&stone.id) || roots.is_at_work(stone) || !stone.may_be_expiry())
        };
        self.write_tombstones(roots.tombstones().iter().filter(is_useless).map(|stone| stone.id), WriteMode::Replace)?;
        Ok(any)
    }

    /// Lets records expire that were suspected for the grace time and did not become snapshots. Returns whether one
    /// did. A writer looks again after its commit. If it finds no suspicion then, its record came first, and its snapshot
    /// is listed here.
    fn let_expire(&self, roots: &Roots) -> Result<bool> {
        let mut suspected = roots.suspected(self.options).peekable();
        if suspected.peek().is_none() {
            return Ok(false);
        }
        let committed = self.repo.list_snapshots()?;
        let mut any = false;
        for (id, sources) in suspected {
            // Ask for the record itself, too: an incomplete listing must not cost a snapshot.
            if !committed.ids.contains_key(id) && !self.is_there(id, sources)? {
                self.repo.write_expiry(id, self.options.now_ns, &self.options.host)?;
                any = true;
            }
        }
        Ok(any)
    }

    /// Whether a committed record with this id exists under one of these sources.
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

    /// Deletes the packs that were marked for the grace time and are still not needed. `false` if something that is
    /// needed had to be copied first.
    pub(super) fn sweep(&mut self) -> Result<bool> {
        // The look after the mark: everything is listed afresh.
        let roots = Roots::list(self.repo, self.options, Dead::HaveExpired)?;
        self.seen = self.packs()?;
        let marked = roots.marked(self.options);
        let known = self.repo.on_catalog(|local| local.packs())?;
        let present: HashMap<PackId, u64> = known.iter().map(|known| (known.pack.id, known.pack.size)).collect();
        self.report.waiting = wide(marked.going.iter().filter(|id| present.contains_key(*id) && !marked.ripe.contains(*id)).count());
        let useless = roots.useless_records(self.options);
        // By the packs that are there now, before the deletion.
        let gone: Vec<PackId> = self.removable(&roots, &marked, &present);
        let doomed: Vec<(PackId, u64)> = present.into_iter().filter(|(id, _)| marked.ripe.contains(id)).collect();
        if !doomed.is_empty() && !self.delete_unless_needed(roots, &marked, &doomed)? {
            return Ok(false);
        }
        // Tombstones last: a pack must never lose its mark before it is gone.
        self.repo.backend().delete(&useless)?;
        self.report.expired += wide(useless.len());
        let stones: Vec<ObjectKey> = gone.into_iter().map(ObjectKey::Tombstone).collect();
        self.repo.backend().delete(&stones)?;
        Ok(true)
    }

    /// The tombstones that can go. A tombstone stays for two grace times: a writer that began before its pack was
    /// deleted may still look for it. A writer also asks for each pack by name, so it notices a deleted one anyway. One that says that a record has expired stays for ever: its writer may commit the
    /// record at any time. One that cannot be read and marks no existing pack may be such a tombstone.
    fn removable(&self, roots: &Roots, marked: &Marked, present: &HashMap<PackId, u64>) -> Vec<PackId> {
        let gone = |stone: &Stone| match present.contains_key(&stone.id) {
            true => marked.ripe.contains(&stone.id),
            false => !stone.may_be_expiry() && !roots.is_at_work(stone),
        };
        let goes = |stone: &&Stone| gone(stone) && stone.is_ripe(2, self.options);
        roots.tombstones().iter().filter(goes).map(|stone| stone.id).collect()
    }

    /// Computes once more what is needed, then deletes these packs. `false` if one of them had something that is
    /// needed, which is copied now, or if a snapshot has come that was not looked at.
    fn delete_unless_needed(&mut self, mut roots: Roots, marked: &Marked, doomed: &[(PackId, u64)]) -> Result<bool> {
        let reader = Reader::new(self.repo);
        let needed = roots.needed(&reader, marked, &mut self.trust, self.monitor)?;
        if !needed.stranded.is_empty() {
            self.write_anew(&reader, &needed, &[])?;
            return Ok(false);
        }
        // The second listing, right before the deletion.
        if !roots.confirm(self.repo)? {
            return Ok(false);
        }
        debug_assert!(
            doomed.iter().all(|(id, _)| marked.ripe.contains(id) && needed.rows(id).is_none()),
            "only packs that nobody needs go"
        );
        for packs in doomed.chunks(DELETED_AT_ONCE) {
            if self.monitor.cancelled() {
                return Err(Error::Cancelled);
            }
            let keys: Vec<ObjectKey> = packs.iter().map(|(id, _)| ObjectKey::Pack(*id)).collect();
            self.repo.backend().delete(&keys)?;
            self.report.deleted += wide(packs.len());
            self.report.deleted_bytes += packs.iter().map(|(_, size)| size).sum::<u64>();
        }
        let gone: Vec<PackId> = doomed.iter().map(|(id, _)| *id).collect();
        self.repo.on_catalog(|local| local.remove_packs(&gone)).map(|()| true)
    }
}
