//! Collects what earlier snapshots of the source give to a new one: trees to inherit, stamps of files, delta bases,
//! and the state that the capture is compared with.
//!
//! The parent is the newest snapshot of the source, whatever its flags: most of its streams are similar to the new
//! ones. But a stream that is flagged in the parent may be cut short. Then its newest good state is the better base,
//! if the lengths say so. A capture is judged only by the newest good state of each stream.
//!
//! Few listings are read for this: the parent's, and those of the snapshots that the records name as holders of
//! streams that the parent has flagged. A damaged listing is passed over with a warning: it must not stop a backup.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use super::census::{Past, is_database, measure};
use crate::engine::{self, Comparison, Known, Stamp};
use crate::error::{Error, Result};
use crate::id::{SnapshotId, SourceId};
use crate::ops::gaps::{Gaps, Holder, holders};
use crate::progress::Monitor;
use crate::recorded::Flag;
use crate::store::format::mark::MarkKind;
use crate::store::format::snapshot::{SnapshotRecord, SourceRef, StreamEntry, StreamRoot};
use crate::store::repo::catalog::{NamedStamp, StampSet};
use crate::store::repo::{ListingLookup, Reader, Refreshed, WriteSession};

/// At most this many snapshots are read for streams that are flagged in the parent. Streams that only older ones hold
/// are compared with nothing.
const HOLDERS_MAX: usize = 8;
/// A stream without a predecessor is compared with at most this many of the parent's streams.
const OLD_STREAMS_MAX: usize = 4;
/// Number of blocks of stamps that are kept in memory. A walk of a tree comes back to the blocks of the directories
/// above.
const BLOCKS_KEPT: usize = 8;
/// The name of the fact that records how many files and directories were named, if there were several.
pub(super) const ROOTS_FACT: &str = "roots";

/// A listed snapshot.
type Listed = (SnapshotId, SnapshotRecord);

/// The earlier snapshots of a source that count for a new one.
pub(super) struct History<'r> {
    /// The newest one.
    pub(super) parent: Option<&'r Listed>,
    /// The streams that are not good in the parent.
    parent_gaps: Gaps,
    /// The streams that are good neither in the parent nor in the snapshot before it.
    lasting_gaps: Gaps,
    /// The snapshots that hold the newest good states.
    holders: Vec<Holder<&'r Listed>>,
    /// The flags that were accepted in the newest of these holders.
    accepted: Vec<Flag>,
}

impl<'r> History<'r> {
    /// Chooses by the records alone. A snapshot with a date after `latest_ns` counts only if there is no other: it
    /// would remain the newest for ever. A snapshot that is damaged in the repository, or may be, never counts: the
    /// new one would inherit its gaps.
    pub(super) fn of(refreshed: &'r Refreshed, source: SourceId, latest_ns: i64) -> Self {
        let is_sound = |id: &SnapshotId| {
            let marks = refreshed.marks.get(id);
            marks.is_none_or(|marks| marks.unreadable == 0 && marks.health().is_none_or(|mark| mark.kind != MarkKind::Damaged))
        };
        let of_source = || refreshed.snapshots.iter().rev().filter(|(id, record)| record.source.id == source && is_sound(id));
        // Snapshots are listed from the oldest to the newest.
        let in_time: Vec<&Listed> = of_source().filter(|(_, record)| record.time_ns <= latest_ns).collect();
        let newest_first = if in_time.is_empty() { of_source().collect() } else { in_time };
        let gaps = |place: usize| newest_first.get(place).map_or_else(Gaps::none, |(_, record)| Gaps::of_snapshot(record));
        let mut holders = holders(newest_first.iter().map(|listed| (*listed, Gaps::of_snapshot(&listed.1))));
        holders.truncate(HOLDERS_MAX);
        let accepted = holders.first().map_or_else(Vec::new, |holder| {
            let (id, record) = holder.snapshot;
            let by_mark = refreshed.marks.get(id).map(|marks| marks.accepted.as_slice()).unwrap_or_default();
            record.accepted.iter().chain(by_mark).cloned().collect()
        });
        // A gap is lasting if two snapshots in a row have it: then the short state is probably how the source is now.
        let lasting_gaps = if newest_first.len() > 1 { gaps(0).and(&gaps(1)) } else { Gaps::none() };
        History { parent: newest_first.first().copied(), parent_gaps: gaps(0), lasting_gaps, holders, accepted }
    }
}

/// What earlier snapshots give to a new one. There may be millions of streams, so entries of the parent are read when
/// they are asked for.
pub(super) struct Inherited {
    /// Finds entries of the parent's listing by name.
    entries: Option<ListingLookup>,
    /// The parent's listing.
    pub(super) listing: Option<StreamRoot>,
    /// The stamps of the parent's files; `None` if all files have to be read.
    stamps: Option<StampSet>,
    /// Whether an unchanged database is read again when its content was not recorded.
    wants_content: bool,
    /// The parent's longest streams, the longest first.
    longest: Vec<(Vec<u8>, StreamRoot)>,
    parent_gaps: Gaps,
    lasting_gaps: Gaps,
    /// Whether the parent is one of the holders: then its entries without a gap are the newest good states.
    parent_holds: bool,
    /// The newest good states that other snapshots hold, and whether their trees may be inherited.
    others: HashMap<Vec<u8>, (StreamEntry, bool)>,
    /// How many files and directories were named for the newest holder.
    pub(super) roots: usize,
    /// The flags that a user has accepted in the newest holder.
    pub(super) accepted: Vec<Flag>,
    /// Whether there is any good state.
    pub(super) has_good: bool,
    /// The census of the newest good states.
    pub(super) past: Past,
    /// Bytes of all streams of the oldest holder that was read: often the newest snapshot without a flag.
    pub(super) whole_bytes: u64,
}

impl Inherited {
    pub(super) fn of(session: &mut WriteSession, history: &History<'_>, source: &SourceRef, monitor: &dyn Monitor) -> Result<Self> {
        let mut all = Inherited {
            entries: None,
            listing: None,
            stamps: None,
            wants_content: false,
            longest: Vec::new(),
            parent_gaps: history.parent_gaps.clone(),
            lasting_gaps: history.lasting_gaps.clone(),
            parent_holds: false,
            others: HashMap::new(),
            roots: 1,
            accepted: history.accepted.clone(),
            has_good: false,
            past: Past::default(),
            whole_bytes: 0,
        };
        let Some((parent, record)) = history.parent else { return Ok(all) };
        let comparison = engine::of(&source.kind).comparison();
        let parent_bytes = all.take_parent(session, history, comparison, monitor)?;
        if all.entries.is_some() {
            // Stamps count only together with the snapshot for which they were taken.
            all.stamps = session.repository().on_catalog(|local| local.stamps(source.id))?.filter(|set| set.snapshot == *parent);
            all.listing = Some(record.listing);
        }
        for (number, holder) in history.holders.iter().enumerate() {
            let (id, record) = holder.snapshot;
            let bytes = if id == parent { all.entries.as_ref().map(|_| parent_bytes) } else { all.take_other(session, holder, monitor)? };
            let Some(bytes) = bytes else { continue };
            all.parent_holds |= id == parent;
            all.has_good = true;
            all.whole_bytes = bytes;
            if number == 0 {
                all.roots = named_roots(record);
            }
        }
        let several_trees = all.roots > 1;
        all.others.values().for_each(|(entry, _)| all.past.add(entry, comparison, several_trees));
        Ok(all)
    }

    /// Reads through the parent's listing once: counts it, and keeps a lookup. Returns the bytes of all streams.
    fn take_parent(&mut self, session: &WriteSession, history: &History<'_>, comparison: Comparison, monitor: &dyn Monitor) -> Result<u64> {
        let Some((parent, record)) = history.parent else { return Ok(0) };
        let holds = history.holders.iter().any(|holder| holder.snapshot.0 == *parent);
        let several_trees = history.holders.first().is_some_and(|holder| named_roots(&holder.snapshot.1) > 1);
        let (mut past, mut longest, mut bytes) = (Past::default(), Vec::new(), 0_u64);
        let look = &mut |entry: &StreamEntry| {
            bytes = bytes.saturating_add(measure(entry));
            offer(&mut longest, entry);
            if holds && !history.parent_gaps.covers(&entry.name) {
                past.add(entry, comparison, several_trees);
            }
        };
        let opened = ListingLookup::open(session.reader(), &record.listing, monitor, look);
        if let Some(entries) = unless_damaged(opened, parent, monitor)? {
            // Only now: a listing that turns out damaged half way must leave nothing behind.
            (self.entries, self.longest, self.past) = (Some(entries), longest, past);
        }
        Ok(bytes)
    }

    /// Takes the newest good states from a holder that is not the parent. Returns the bytes of all its streams, or
    /// `None` if its listing is damaged.
    fn take_other(&mut self, session: &mut WriteSession, holder: &Holder<&Listed>, monitor: &dyn Monitor) -> Result<Option<u64>> {
        let (id, record) = holder.snapshot;
        let (mut held, mut bytes) = (Vec::new(), 0_u64);
        let mut look = |entry: StreamEntry| {
            bytes = bytes.saturating_add(measure(&entry));
            held.extend(holder.holds(&entry.name).then_some(entry));
        };
        let read = session.reader().entries(&record.listing).and_then(|mut entries| {
            entries.try_for_each(|entry| if monitor.cancelled() { Err(Error::Cancelled) } else { entry.map(&mut look) })
        });
        if unless_damaged(read, id, monitor)?.is_none() {
            return Ok(None);
        }
        // If a pack of the record is unknown, it is gone or a prune has moved its chunks. Then chunks of this
        // snapshot may be missing, so its trees are not inherited; they only serve for comparison.
        let has_all = session.repository().knows_all(record.packs.iter().map(|pack| pack.id))?;
        if has_all {
            session.inherit_from(*id, &record.source.id);
        }
        self.others.extend(held.into_iter().map(|entry| (entry.name.clone(), (entry, has_all))));
        Ok(Some(bytes))
    }

    /// Has streams read again although their files look unchanged. `all`: every stream, because only what is read can
    /// be stored anew. `wants_content`: the databases whose content was not recorded.
    pub(super) fn have_read_again(&mut self, all: bool, wants_content: bool) {
        if all {
            self.stamps = None;
        }
        self.wants_content = wants_content;
    }

    /// The parent's stream of this name.
    pub(super) fn entry(&self, reader: &Reader, name: &[u8]) -> Result<Option<StreamEntry>> {
        self.entries.as_ref().map_or(Ok(None), |entries| entries.get(reader, name))
    }

    /// Whether some snapshot has a good state of this stream.
    pub(super) fn has_good_of(&self, reader: &Reader, name: &[u8]) -> Result<bool> {
        match self.parent_holds && !self.parent_gaps.covers(name) {
            true => Ok(self.entry(reader, name)?.is_some()),
            false => Ok(self.others.contains_key(name)),
        }
    }

    /// Calls `look` for the newest good state of every stream.
    pub(super) fn each_good(&self, reader: &Reader, look: &mut dyn FnMut(&StreamEntry)) -> Result<()> {
        if let Some(listing) = self.listing.as_ref().filter(|_| self.parent_holds) {
            for entry in reader.entries(listing)? {
                let entry = entry?;
                if !self.parent_gaps.covers(&entry.name) {
                    look(&entry);
                }
            }
        }
        self.others.values().for_each(|(entry, _)| look(entry));
        Ok(())
    }

    /// The tree that is most similar to a new stream. `parent` is the parent's stream of this name; `len` the new
    /// length, where it is known before reading.
    pub(super) fn base(&self, name: &[u8], parent: Option<StreamRoot>, len: Option<u64>) -> Option<StreamRoot> {
        let good = self.others.get(name).filter(|(_, may_inherit)| *may_inherit).map(|(entry, _)| entry.root);
        let (Some(of_parent), Some(of_good)) = (parent, good) else { return parent.or(good) };
        let is_better = match len {
            // The length is known: the nearer length wins.
            Some(len) => len.abs_diff(of_good.len) < len.abs_diff(of_parent.len),
            // The length is not known. A longer good state is better than a short parent, unless the parent's parent
            // was short too: a program whose output was cut short once usually gives all of it the next time.
            None => of_good.len > of_parent.len && !self.lasting_gaps.covers(name),
        };
        if is_better { good } else { parent }
    }

    /// The streams in which moved content is looked for: the base, or without one the parent's longest streams.
    pub(super) fn old_streams(&self, name: &[u8], base: Option<StreamRoot>) -> Vec<(Vec<u8>, StreamRoot)> {
        base.map_or_else(|| self.longest.clone(), |root| vec![(name.to_vec(), root)])
    }

    /// Answers the engine's questions for the stamps of the parent's files.
    pub(super) fn known<'a>(&'a self, session: &'a WriteSession) -> KnownStamps<'a> {
        KnownStamps { inherited: self, session, lately: Mutex::new(Vec::new()) }
    }
}

/// Adds a stream if it is among the longest; the longest comes first.
fn offer(longest: &mut Vec<(Vec<u8>, StreamRoot)>, entry: &StreamEntry) {
    let at = longest.partition_point(|(_, root)| root.len >= entry.root.len);
    if at < OLD_STREAMS_MAX {
        longest.insert(at, (entry.name.clone(), entry.root));
        longest.truncate(OLD_STREAMS_MAX);
    }
}

/// How many files and directories were named for this snapshot.
fn named_roots(record: &SnapshotRecord) -> usize {
    let fact = record.facts.iter().find(|(name, _)| name == ROOTS_FACT);
    fact.and_then(|(_, number)| number.parse().ok()).unwrap_or(1)
}

/// Turns damage of a listing into a warning and `None`: it must not stop a backup.
fn unless_damaged<T>(read: Result<T>, id: &SnapshotId, monitor: &dyn Monitor) -> Result<Option<T>> {
    match read {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.is_damage() => {
            monitor.warn(&format!(
                "the listing of the earlier snapshot {} is damaged, so this backup does not build on it: {error}",
                id.short()
            ));
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// Finds stamps by name. They are hints: a stamp that cannot be read is treated as missing, and the file is read.
pub(super) struct KnownStamps<'a> {
    inherited: &'a Inherited,
    session: &'a WriteSession,
    /// The blocks that were read last, the newest use at the end.
    lately: Mutex<Vec<Vec<NamedStamp>>>,
}

impl Known for KnownStamps<'_> {
    fn stamp(&self, name: &[u8]) -> Option<Stamp> {
        let stamp = self.find(self.inherited.stamps.as_ref()?, name)?;
        if self.inherited.wants_content {
            let entry = self.inherited.entry(self.session.reader(), name).ok()??;
            if is_database(&entry) && entry.tables.is_empty() {
                return None;
            }
        }
        Some(Stamp(stamp))
    }
}

impl KnownStamps<'_> {
    fn find(&self, set: &StampSet, name: &[u8]) -> Option<Vec<u8>> {
        let mut lately = self.lately.lock().unwrap_or_else(PoisonError::into_inner);
        let has = |block: &Vec<NamedStamp>| match (block.first(), block.last()) {
            (Some(first), Some(last)) => (first.0.as_slice()..=last.0.as_slice()).contains(&name),
            _ => false,
        };
        let block = match lately.iter().rposition(has) {
            Some(at) => lately.remove(at),
            None => self.session.repository().catalog().stamps_around(set, name).ok()?,
        };
        if lately.len() >= BLOCKS_KEPT {
            lately.remove(0);
        }
        let found = block.binary_search_by(|(other, _)| other.as_slice().cmp(name)).ok();
        let stamp = found.and_then(|at| block.get(at)).map(|(_, stamp)| stamp.clone());
        lately.push(block);
        stamp
    }
}
