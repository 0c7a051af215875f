//! Carries a repair out, in the order that [`super`] explains.
//!
//! Packs are deleted only in `replace_packs`: after their whole chunks are durable elsewhere, their bytes are in
//! `quarantine`, and a look after the mark has found everything that repair relies on.

use std::collections::{BTreeSet, HashSet};
use std::io::ErrorKind;

use crate::error::{Error, Result};
use crate::id::{ChunkId, PackId};
use crate::ops::check::{CheckReport, Finding, check_snapshots};
use crate::progress::Monitor;
use crate::store::backend::{ObjectKey, ObjectKind, SetAside, WriteMode};
use crate::store::format::pack::IdPrefix;
use crate::store::format::tombstone::Tombstone;
use crate::store::repo::catalog::PackReading;
use crate::store::repo::{Health, Reader, Repacker, Repository, StoredCopy};

use super::aside::{Copied, copy};
use super::findings::Sick;
use super::from_files::Cutter;
use super::{RepairOptions, RepairReport, healable, replicas};
use crate::ops::number::wide;

/// How often the replacement of damaged packs is written again because a prune marks it meanwhile.
const ATTEMPTS: usize = 8;

/// A repair that runs.
pub(super) struct Run<'a> {
    pub(super) repo: &'a Repository,
    pub(super) options: &'a RepairOptions,
    pub(super) monitor: &'a dyn Monitor,
    pub(super) sick: Sick,
    pub(super) report: RepairReport,
    /// The packs that must be there and not marked before damaged packs are deleted.
    pub(super) relied: HashSet<PackId>,
}

impl Run<'_> {
    /// Runs all steps.
    pub(super) fn all(&mut self) -> Result<()> {
        self.write_replicas()?;
        self.heal_objects()?;
        self.put_in_place()?;
        self.set_aside_records()?;
        self.mend_chunks()?;
        self.replace_packs()?;
        self.repo.list_all_packs()?;
        self.sick.look_again(self.repo)?;
        self.mark_snapshots()?;
        self.leave_hidden()
    }

    /// Writes damaged replicas again. If a directory is in the place of one, it is left and reported, and does not
    /// stop the repair.
    fn write_replicas(&mut self) -> Result<()> {
        for (key, bytes) in replicas::to_heal(self.repo)? {
            match self.repo.backend().write(&key, &[&bytes], WriteMode::Replace) {
                Ok(()) => self.report.copies.push(key),
                Err(Error::Backend { source, .. }) if source.kind() == ErrorKind::IsADirectory => {
                    self.report.left.push(format!("{key}: a directory is in its place; remove that, then repair again"));
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Reports what no repair can mend: snapshots whose records have vanished, are hidden, or need a newer icecore.
    fn leave_hidden(&mut self) -> Result<()> {
        let mut report = CheckReport::default();
        check_snapshots(self.repo, &mut report)?;
        for Finding { object, detail, .. } in report.findings {
            // An object that could not be set aside has been reported already.
            if !self.report.left.iter().any(|left| left.contains(&object)) {
                self.report.left.push(format!("{object}: {detail}"));
            }
        }
        Ok(())
    }

    /// Heals objects by their own parity or second copy. Each is replaced in one step: a reader finds the damaged
    /// bytes or the right ones.
    fn heal_objects(&mut self) -> Result<()> {
        for key in healable(self.repo, &self.sick)? {
            let Health::Healable(bytes) = self.repo.health(&key)? else { continue };
            self.repo.backend().write(&key, &[&bytes], WriteMode::Replace)?;
            self.report.healed.push(key);
            if let ObjectKey::Pack(id) = key {
                self.sick.at_fault.remove(&id);
                let reading = PackReading { time_ns: self.options.author.now_ns, is_sound: true };
                // A failure is ignored: the record only spares backups the doubt.
                let _ = self.repo.catalog().put_readings(&[(id, reading)]);
            }
        }
        if self.report.healed.is_empty() { Ok(()) } else { self.sick.look_again(self.repo) }
    }

    /// Mends missing chunks, until a round finds nothing more: when a tree node is mended, more chunks may be missing
    /// below it.
    fn mend_chunks(&mut self) -> Result<()> {
        // Chunks that were mended already are not tried again. Otherwise the loop would not end for a data chunk that
        // stands where a node should be: it is whole, and stays wanted.
        let mut healed = HashSet::new();
        loop {
            let snapshots = check_snapshots(self.repo, &mut CheckReport::default())?;
            let wanted = self.sick.wanted(self.repo, &snapshots, self.monitor)?;
            if wanted.is_empty() {
                return Ok(());
            }
            let mut repacker = Repacker::new(self.repo)?;
            let before = wide(healed.len());
            self.mend_from_copies(&wanted, &mut healed, &mut repacker)?;
            let from_copies = wide(healed.len()) - before;
            let from_files = self.mend_from_files(&wanted, &mut healed, &mut repacker)?;
            self.add_written(repacker)?;
            self.report.from_copies += from_copies;
            self.report.from_files += from_files;
            if from_copies == 0 && from_files == 0 {
                return Ok(());
            }
            self.sick.look_again(self.repo)?;
        }
    }

    /// Stores wanted chunks again, whole, if any copy of them can be read. A delta may need a base although copies
    /// exist: all of them may have too high a level.
    fn mend_from_copies(&self, wanted: &HashSet<IdPrefix>, healed: &mut HashSet<ChunkId>, repacker: &mut Repacker) -> Result<()> {
        self.monitor.phase("looking for other copies", None);
        let reader = Reader::new(self.repo);
        for prefix in wanted {
            for copy in self.repo.candidates(*prefix)? {
                if healed.contains(&copy.entry.id) {
                    continue;
                }
                match reader.copy(&copy) {
                    Ok(plain) => {
                        repacker.store_whole(copy.entry.id, &plain, copy.entry.node, copy.entry.version)?;
                        healed.insert(copy.entry.id);
                    }
                    Err(error) if error.is_damage() => {}
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(())
    }

    fn mend_from_files(&self, wanted: &HashSet<IdPrefix>, healed: &mut HashSet<ChunkId>, repacker: &mut Repacker) -> Result<u64> {
        if self.options.from.is_empty() {
            return Ok(0);
        }
        self.monitor.phase("looking into the files", None);
        let before = healed.len();
        let mut cutter = Cutter { repo: self.repo, monitor: self.monitor, wanted, repacker, found: std::mem::take(healed) };
        let looked = self.options.from.iter().try_for_each(|path| cutter.look_into(path));
        // Also after a failure: what was found has been stored.
        *healed = cutter.found;
        looked?;
        Ok(wide(healed.len() - before))
    }

    fn add_written(&mut self, repacker: Repacker) -> Result<()> {
        let written = repacker.finish()?;
        self.report.written += wide(written.len());
        self.report.written_bytes += written.iter().map(|pack| pack.size).sum::<u64>();
        self.relied.extend(written.iter().map(|pack| pack.id));
        Ok(())
    }

    /// Replaces damaged packs: writes their whole chunks anew, sets them aside, marks them, looks again, deletes them.
    fn replace_packs(&mut self) -> Result<()> {
        let mut going = BTreeSet::new();
        self.write_anew(&HashSet::new())?;
        for id in self.sick.at_fault.clone() {
            if self.set_aside_pack(&id)? {
                going.insert(id);
            }
        }
        for _ in 0..ATTEMPTS {
            if going.is_empty() {
                return Ok(());
            }
            let marked = self.mark_packs(&going)?;
            // The look after the mark: a prune that marked what we rely on before our mark is seen here; one that
            // marks later sees our mark.
            debug_assert!(going.iter().all(|id| !self.relied.contains(id)), "repair relies on a pack that it deletes");
            if self.relied.is_disjoint(&marked) && self.are_there()? {
                return self.delete_packs(&going);
            }
            // A prune relied on the damaged packs and marked their replacement. Write again what it is going to
            // delete. It counts the damaged packs as absent from now on.
            self.relied.clear();
            self.repo.list_all_packs()?;
            self.write_anew(&marked)?;
        }
        Err(Error::Stale { detail: "prunes keep marking the packs that replace damaged ones; no pack was deleted; run `icecore repair` again when no prune runs".into() })
    }

    /// Writes every whole chunk of the packs at fault into new packs, unless another copy in an unmarked pack can be
    /// read just as well.
    fn write_anew(&mut self, marked: &HashSet<PackId>) -> Result<()> {
        if self.sick.at_fault.is_empty() {
            return Ok(());
        }
        self.monitor.phase("writing packs anew", None);
        let reader = Reader::new(self.repo);
        let mut repacker = Repacker::new(self.repo)?;
        for id in self.sick.at_fault.clone() {
            let copies = self.repo.copies_in(&id)?;
            for frame in copies.chunk_by(|one, other| one.entry.frame == other.entry.frame) {
                if self.monitor.cancelled() {
                    return Err(Error::Cancelled);
                }
                self.write_frame(&reader, frame, marked, &mut repacker)?;
            }
        }
        self.add_written(repacker)
    }

    fn write_frame(&mut self, reader: &Reader, frame: &[StoredCopy], marked: &HashSet<PackId>, repacker: &mut Repacker) -> Result<()> {
        let mut whole = Vec::with_capacity(frame.len());
        for copy in frame {
            match reader.copy(copy) {
                Ok(plain) => whole.push((copy, plain)),
                Err(error) if error.is_damage() => {}
                Err(error) => return Err(error),
            }
        }
        // If every whole chunk of the frame has an equal copy elsewhere, rely on those copies instead.
        let mut is_new = false;
        for (copy, _) in &whole {
            match self.twin(reader, copy, marked)? {
                Some(pack) => drop(self.relied.insert(pack)),
                None => is_new = true,
            }
        }
        if !is_new {
            return Ok(());
        }
        self.report.moved_chunks += wide(whole.len());
        // Every chunk of the frame is whole: copy it as it is, so that deltas stay deltas. Otherwise store the whole
        // chunks one by one, without bases.
        if whole.len() == frame.len() {
            return repacker.copy_frame(reader, frame);
        }
        whole.into_iter().try_for_each(|(copy, plain)| repacker.store_whole(copy.entry.id, &plain, copy.entry.node, copy.entry.version))
    }

    /// The pack of another copy of the chunk that is readable and needs no bases, or the same bases as this one.
    fn twin(&self, reader: &Reader, copy: &StoredCopy, marked: &HashSet<PackId>) -> Result<Option<PackId>> {
        for other in self.repo.copies(&copy.entry.id)? {
            let (own, of_other) = (copy.frame(), other.frame());
            let counts = !self.sick.at_fault.contains(&other.pack()) && !marked.contains(&other.pack());
            let alike = of_other.level == 0 || own.level == of_other.level && own.slices == of_other.slices;
            if counts && alike {
                match reader.copy(&other) {
                    Ok(_) => return Ok(Some(other.pack())),
                    Err(error) if error.is_damage() => {}
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(None)
    }

    /// Copies a damaged pack to quarantine. Returns whether the pack may be deleted.
    fn set_aside_pack(&mut self, id: &PackId) -> Result<bool> {
        let key = ObjectKey::Pack(*id);
        match copy(self.repo, SetAside::Pack, &key, *id.as_bytes())? {
            Copied::There(to, bytes) => {
                // The bytes may be right after all: the pack needs a newer icecore, or was healed meanwhile. If its
                // chunks are dead although its bytes are right, a faulty machine wrote it wrong.
                let is_right = blake3::hash(&bytes).as_bytes() == id.as_bytes();
                let stays = match self.repo.find_trailer(*id, wide(bytes.len())).and_then(|pack| self.repo.read_table(&pack)) {
                    Err(Error::UnsupportedFormat { .. }) => true,
                    // Not a pack, but something else under a pack's name.
                    Err(error) if error.is_damage() => false,
                    _ => !self.has_dead(id)?,
                };
                if is_right && stays {
                    self.repo.backend().delete(&[to])?;
                    return Ok(false);
                }
                self.report.set_aside.push(to);
                Ok(true)
            }
            Copied::Gone => Ok(false),
            Copied::Not(why) => {
                self.report.left.push(why);
                Ok(false)
            }
        }
    }

    /// Whether a copy in this pack cannot be read.
    fn has_dead(&self, id: &PackId) -> Result<bool> {
        Ok(self.repo.copies_in(id)?.iter().any(|copy| self.sick.dead.contains(&copy.place())))
    }

    /// Marks the packs that go, and returns all objects that others have marked. A pack with the id of a snapshot
    /// record is not marked: nobody relies on it, and the mark would hide the snapshot.
    fn mark_packs(&self, going: &BTreeSet<PackId>) -> Result<HashSet<PackId>> {
        let mut records = HashSet::new();
        for kind in [ObjectKind::Snapshot, ObjectKind::Pending] {
            records.extend(self.repo.record_names(kind)?.into_keys().map(|id| PackId(*id.as_bytes())));
        }
        let author = &self.options.author;
        let of = |object: &PackId| Tombstone { object: *object, time_ns: author.now_ns, host: author.host.clone(), expired: None };
        self.repo.write_tombstones(going.iter().filter(|id| !records.contains(*id)).map(of), WriteMode::CreateNew)?;
        let mut marked = HashSet::new();
        for key in self.repo.backend().names(ObjectKind::Tombstone)? {
            if let ObjectKey::Tombstone(id) = key?
                && !going.contains(&id)
            {
                marked.insert(id);
            }
        }
        Ok(marked)
    }

    /// Whether all packs that repair relies on are still there.
    fn are_there(&self) -> Result<bool> {
        for id in &self.relied {
            if self.repo.backend().stat(&ObjectKey::Pack(*id))?.is_none() {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Deletes these packs. Their tombstones stay, as after a prune: a writer that began before may still look for
    /// them. The next prune removes them.
    fn delete_packs(&self, going: &BTreeSet<PackId>) -> Result<()> {
        let keys: Vec<ObjectKey> = going.iter().map(|id| ObjectKey::Pack(*id)).collect();
        self.repo.backend().delete(&keys)?;
        let gone: Vec<PackId> = going.iter().copied().collect();
        self.repo.on_catalog(|local| local.remove_packs(&gone))
    }
}
