//! What earlier snapshots of the source give a new one: trees to inherit, stamps of files, bases for deltas, and the state to compare it with.
//!
//! The parent is the newest snapshot of the source, whatever its flags: most of its streams are what the new ones are most like. But a stream that is
//! flagged in it may be cut short or lack most of its content. Its newest good state is then the better base, if the lengths say so. What the capture is
//! judged by is the newest good state of each stream alone. Few listings are read for that: of the parent, and of the snapshots that the records
//! name as holders of streams that are flagged in it.

use std::collections::HashMap;

use super::judge::measure;
use crate::engine::Stamp;
use crate::error::Result;
use crate::id::{SnapshotId, SourceId};
use crate::ops::gaps::{Gaps, Holder, holders};
use crate::progress::Monitor;
use crate::recorded::{EntryKind, Flag};
use crate::store::format::mark::MarkKind;
use crate::store::format::snapshot::{SnapshotRecord, StreamEntry, StreamRoot};
use crate::store::repo::{Refreshed, WriteSession};

/// How many snapshots are asked for streams that are flagged in the parent. Streams that only older ones have are compared with nothing.
const HOLDERS_MAX: usize = 8;
/// How many of the parent's streams a new one is compared with.
const OLD_STREAMS_MAX: usize = 4;
/// The fact that says how many files and directories were named, if there were several.
pub(super) const ROOTS_FACT: &str = "roots";

/// A listed snapshot.
type Listed = (SnapshotId, SnapshotRecord);

/// The earlier snapshots of a source that count for a new one.
pub(super) struct History<'r> {
    /// The newest one.
    pub(super) parent: Option<&'r Listed>,
    /// What of the parent is not good.
    parent_gaps: Gaps,
    /// What is not good in the parent, nor in the snapshot before it.
    lasting_gaps: Gaps,
    /// Those with the newest good states.
    holders: Vec<Holder<&'r Listed>>,
    /// The flags that were accepted in the newest of these.
    accepted: Vec<Flag>,
}

impl<'r> History<'r> {
    /// By the records alone. A snapshot that is dated later than `latest_ns` counts only if there are no others: it would stay the newest one for ever.
    /// One that is damaged in the repository, or may be, never does: what it lacks would be missing in the new one, too.
    pub(super) fn of(refreshed: &'r Refreshed, source: SourceId, latest_ns: i64) -> Self {
        let is_sound = |id: &SnapshotId| {
            let marks = refreshed.marks.get(id);
            marks.is_none_or(|marks| marks.unreadable == 0 && marks.health().is_none_or(|mark| mark.kind != MarkKind::Damaged))
        };
        let of_source = || refreshed.snapshots.iter().rev().filter(|(id, record)| record.source.id == source && is_sound(id));
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
        let lasting_gaps = if newest_first.len() > 1 { gaps(0).and(&gaps(1)) } else { Gaps::none() };
        History { parent: newest_first.first().copied(), parent_gaps: gaps(0), lasting_gaps, holders, accepted }
    }
}

/// The streams of a snapshot by their names. A tree may have millions: as a sorted list they take half of the memory that a hash map does.
#[derive(Default)]
pub(super) struct Streams(Vec<StreamEntry>);

impl Streams {
    fn of(mut entries: Vec<StreamEntry>) -> Self {
        entries.sort_unstable_by(|one, other| one.name.cmp(&other.name));
        Streams(entries)
    }

    /// The stream of this name.
    pub(super) fn get(&self, name: &[u8]) -> Option<&StreamEntry> {
        self.0.binary_search_by(|entry| entry.name.as_slice().cmp(name)).ok().and_then(|at| self.0.get(at))
    }

    fn iter(&self) -> std::slice::Iter<'_, StreamEntry> {
        self.0.iter()
    }
}

/// What earlier snapshots give a new one.
pub(super) struct Inherited {
    /// The parent's streams.
    pub(super) entries: Streams,
    /// The parent's listing.
    pub(super) listing: Option<StreamRoot>,
    /// What the files of the parent's streams looked like.
    pub(super) known: HashMap<Vec<u8>, Stamp>,
    parent_gaps: Gaps,
    lasting_gaps: Gaps,
    /// Whether the parent is the newest one with good streams, so that its own entries that are good are the newest good states.
    parent_holds: bool,
    /// Further newest good states, of other snapshots; and whether their trees may be inherited.
    others: HashMap<Vec<u8>, (StreamEntry, bool)>,
    /// How many files and directories were named at the newest good state.
    pub(super) roots: usize,
    /// The flags that a user has accepted there.
    pub(super) accepted: Vec<Flag>,
    /// Whether there is any good state.
    pub(super) has_good: bool,
    /// Bytes in all streams of the oldest snapshot that was read for its good states: often the newest one without a flag.
    pub(super) whole_bytes: u64,
}

impl Inherited {
    pub(super) fn of(session: &mut WriteSession, history: &History<'_>, source: SourceId, monitor: &dyn Monitor) -> Result<Self> {
        let mut all = Inherited {
            entries: Streams::default(),
            listing: None,
            known: HashMap::new(),
            parent_gaps: history.parent_gaps.clone(),
            lasting_gaps: history.lasting_gaps.clone(),
            parent_holds: false,
            others: HashMap::new(),
            roots: 1,
            accepted: history.accepted.clone(),
            has_good: false,
            whole_bytes: 0,
        };
        let Some((parent, record)) = history.parent else { return Ok(all) };
        if let Some(entries) = listing(session, parent, record, monitor)? {
            all.known = match session.repository().on_catalog(|local| local.stamps(source))? {
                Some((of, stamps)) if of == *parent => stamps.into_iter().map(|(name, stamp)| (name, Stamp(stamp))).collect(),
                _ => HashMap::new(),
            };
            all.entries = Streams::of(entries);
            all.listing = Some(record.listing);
        }
        for (number, holder) in history.holders.iter().enumerate() {
            let (id, record) = holder.snapshot;
            let is_parent = id == parent;
            let entries = if is_parent { None } else { listing(session, id, record, monitor)? };
            if is_parent && all.listing.is_none() || !is_parent && entries.is_none() {
                continue;
            }
            all.parent_holds |= is_parent;
            all.has_good = true;
            if number == 0 {
                let named = record.facts.iter().find(|(name, _)| name == ROOTS_FACT).and_then(|(_, number)| number.parse().ok());
                all.roots = named.unwrap_or(1);
            }
            let of_all = entries.as_deref().unwrap_or(&all.entries.0);
            all.whole_bytes = of_all.iter().map(measure).sum();
            if let Some(entries) = entries {
                // Packs that nobody has are gone, or a prune has moved what was in them. What is inherited from such a snapshot might be gone, too.
                let has_all = session.repository().knows_all(record.packs.iter().map(|pack| pack.id))?;
                if has_all {
                    session.inherit_from(*id, &record.source.id);
                }
                let held = entries.into_iter().filter(|entry| holder.holds(&entry.name));
                all.others.extend(held.map(|entry| (entry.name.clone(), (entry, has_all))));
            }
        }
        Ok(all)
    }

    /// Drops what is known of streams that are to be read although their files look the same: all of them, as what is not read cannot be stored
    /// anew, or those whose content is wanted and was not recorded.
    pub(super) fn have_read_again(&mut self, all: bool, without_content: bool) {
        let entries = &self.entries;
        let lacks_content =
            |name: &Vec<u8>| entries.get(name).is_none_or(|entry| matches!(entry.kind, EntryKind::Sqlite(_)) && entry.tables.is_empty());
        self.known.retain(|name, _| !(all || without_content && lacks_content(name)));
    }

    /// The newest good state of a stream.
    pub(super) fn good(&self, name: &[u8]) -> Option<&StreamEntry> {
        match self.parent_holds && !self.parent_gaps.covers(name) {
            true => self.entries.get(name),
            false => self.others.get(name).map(|(entry, _)| entry),
        }
    }

    /// The newest good states of all streams.
    pub(super) fn all_good(&self) -> impl Iterator<Item = &StreamEntry> {
        let of_parent = self.entries.iter().filter(|entry| self.parent_holds && !self.parent_gaps.covers(&entry.name));
        of_parent.chain(self.others.values().map(|(entry, _)| entry))
    }

    /// What a new stream of this name is most like; `len` is its length, where that is known before it is read.
    pub(super) fn base(&self, name: &[u8], len: Option<u64>) -> Option<StreamRoot> {
        let parent = self.entries.get(name).map(|entry| entry.root);
        let good = self.others.get(name).filter(|(_, may_inherit)| *may_inherit).map(|(entry, _)| entry.root);
        let (Some(of_parent), Some(of_good)) = (parent, good) else { return parent.or(good) };
        let is_better = match len {
            Some(len) => len.abs_diff(of_good.len) < len.abs_diff(of_parent.len),
            // The output of a program that was cut short once is whole the next time; what stays short is what there is now.
            None => of_good.len > of_parent.len && !self.lasting_gaps.covers(name),
        };
        if is_better { good } else { parent }
    }

    /// Where moved content of a stream is looked for: in the stream that is its base, or if there is none in the parent's longest ones.
    pub(super) fn old_streams(&self, name: &[u8], base: Option<StreamRoot>) -> Vec<(Vec<u8>, StreamRoot)> {
        if let Some(root) = base {
            return vec![(name.to_vec(), root)];
        }
        let mut longest: Vec<&StreamEntry> = self.entries.iter().collect();
        longest.sort_unstable_by_key(|entry| std::cmp::Reverse(entry.root.len));
        longest.iter().take(OLD_STREAMS_MAX).map(|entry| (entry.name.clone(), entry.root)).collect()
    }
}

/// The streams of a snapshot; `None` if its listing is damaged: that must not stop a backup.
fn listing(session: &WriteSession, id: &SnapshotId, record: &SnapshotRecord, monitor: &dyn Monitor) -> Result<Option<Vec<StreamEntry>>> {
    match session.reader().listing(&record.listing, monitor) {
        Ok(entries) => Ok(Some(entries)),
        Err(error) if error.is_damage() => {
            monitor.warn(&format!("the earlier snapshot {} cannot be used: {error}", id.short()));
            Ok(None)
        }
        Err(error) => Err(error),
    }
}
