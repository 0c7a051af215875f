//! Whether a capture has everything that the newest good state of each stream has.
//!
//! What a user does to files is no reason for a flag, what hides or destroys databases is. So a plain file that is gone, shorter or empty is nothing
//! by itself: logs are rotated and files are deleted every day. These are flagged:
//!
//! - a database that was named the last time and is not now, or a dump that is not there any more;
//! - a database in a tree that is gone while its log or journal is still there;
//! - a database in a tree whose directory is there and empty: a volume may not be mounted, or the directory may now be left out as a cache;
//! - a database in a tree that has become a link or a directory;
//! - a database or the output of a program that had bytes and is empty, or had 64 KiB and has lost more than half of them. Free pages of a database do
//!   not count: neither is a VACUUM a loss, nor does a database that was emptied in place look full;
//! - a file that was a database and is none;
//! - a tree that was named and has nothing in it, or no bytes where it had some, also at its first backup; a tree that is not named any more;
//! - all that no other flag is about, together, if it had 64 KiB and has lost more than half of them.
//!
//! What a user has accepted in the newest good state does not become a flag again as long as it stays as it is.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::Path;

use super::census::{Census, SIDES, Sum, above, add_to_tree, first_part, measure, parent_of, tag_in};
use super::history::Inherited;
use super::intake::Captured;
use super::sorted::Sorted;
use crate::engine::files::LeftOut;
use crate::engine::{Comparison, NamedRoot};
use crate::error::Result;
use crate::ops::gaps::Gaps;
use crate::recorded::{EntryKind, Flag};
use crate::store::format::record;
use crate::store::format::snapshot::{SnapshotRecord, StreamEntry};
use crate::store::repo::Reader;

/// What had at least this many bytes is flagged if it loses more than half of them.
const SHRUNK_FROM: u64 = 64 << 10;
/// The most flags of one snapshot. Beyond that directories stand for what is in them.
const FLAGS_MAX: usize = 100;

/// What is to be said of a capture.
#[derive(Debug, Default)]
pub(super) struct Verdict {
    pub(super) flags: Vec<Flag>,
    /// What a user has accepted before.
    pub(super) accepted: Vec<Flag>,
}

impl Verdict {
    /// The record with what is to be said of it, before what is known of it already.
    pub(super) fn on(mut self, draft: SnapshotRecord) -> SnapshotRecord {
        self.flags.extend(draft.flags);
        SnapshotRecord { flags: self.flags, accepted: self.accepted, ..draft }
    }
}

/// Judges a capture by what its source reports, its streams and the last good state.
///
/// # Errors
/// As reading the listing of the parent, and the new entries, again.
pub(super) fn judge(captured: &Captured, last: &Inherited, reader: &Reader) -> Result<Verdict> {
    let Captured { census, entries, roots, .. } = captured;
    let flags = once(&captured.report.flags);
    let reported = flags.len();
    let mut case = Case { now: census, last, reader, gaps: Gaps::of(&flags), flags, left_out: captured.report.left_out };
    match census.comparison {
        Comparison::Named => {
            case.databases();
            case.not_named();
        }
        Comparison::Trees => {
            case.roots(roots)?;
            case.databases();
            case.lost_in_trees();
        }
        Comparison::Programs => case.programs(),
    }
    case.whole(entries)?;
    case.flags.get_mut(reported..).unwrap_or_default().sort_by(|a, b| a.stream.cmp(&b.stream));
    let was_accepted = |flag: &Flag| flag.stream.is_some() && last.accepted.iter().any(|old| is_same(old, flag));
    let (accepted, flags) = case.flags.into_iter().partition(was_accepted);
    Ok(Verdict { flags: bounded(flags), accepted: bounded(accepted) })
}

/// One stream may show in several ways that it is damaged: the last one, that of its structure, says it best.
fn once(flags: &[Flag]) -> Vec<Flag> {
    let is_said_later = |flag: &Flag, rest: &[Flag]| rest.iter().any(|other| other.code == flag.code && other.stream == flag.stream);
    let with_rest = flags.iter().enumerate().map(|(at, flag)| (flag, flags.get(at + 1..).unwrap_or_default()));
    with_rest.filter(|(flag, rest)| flag.code != "damaged" || !is_said_later(flag, rest)).map(|(flag, _)| flag.clone()).collect()
}

/// Whether what was accepted is as it was. Damage is if nothing more is damaged.
fn is_same(old: &Flag, new: &Flag) -> bool {
    old.code == new.code && old.stream == new.stream && (new.code != "damaged" || old.detail == new.detail)
}

fn has_shrunk(before: u64, after: u64) -> bool {
    before >= SHRUNK_FROM && after < before / 2
}

/// A name for people.
fn shown(name: &[u8]) -> std::borrow::Cow<'_, str> {
    String::from_utf8_lossy(name)
}

struct Case<'a> {
    now: &'a Census,
    last: &'a Inherited,
    reader: &'a Reader,
    /// What the flags so far are about.
    gaps: Gaps,
    flags: Vec<Flag>,
    left_out: LeftOut,
}

impl Case<'_> {
    fn flag(&mut self, code: &str, stream: &[u8], detail: String) {
        if !self.gaps.covers(stream) {
            self.flags.push(Flag::new(code, detail).about(stream));
        }
    }

    /// Makes the flags so far count.
    fn settle(&mut self) {
        self.gaps = Gaps::of(&self.flags);
    }

    /// Databases that are there, and less than they were.
    fn databases(&mut self) {
        let (last, census) = (self.last, self.now);
        for old in &last.past.databases {
            let Some(new) = census.get(&old.name) else { continue };
            let (before, after) = (measure(old), measure(new));
            let name = shown(&old.name);
            match new.kind {
                EntryKind::Sqlite(_) | EntryKind::File if new.root.len == 0 && old.root.len > 0 => {
                    self.flag("empty", &old.name, format!("{name} is empty; it had {} bytes", old.root.len));
                }
                EntryKind::Sqlite(_) if has_shrunk(before, after) => {
                    self.flag("shrunk", &old.name, format!("{name} has {after} bytes in use; it had {before}"));
                }
                EntryKind::File => self.flag("not-a-database", &old.name, format!("{name} was a database, and is none any more")),
                EntryKind::Symlink(_) => {
                    let text = "was a database, and is a symbolic link now: what that points to is in no snapshot under this name";
                    self.flag("missing", &old.name, format!("{name} {text}"));
                }
                EntryKind::Directory => self.flag("missing", &old.name, format!("{name} was a database, and is a directory now")),
                EntryKind::Sqlite(_) | EntryKind::HardLink(_) => {}
            }
        }
        self.settle();
    }

    /// Of databases that are named one by one: those that are not named any more.
    fn not_named(&mut self) {
        let last = self.last;
        for old in &last.past.databases {
            if self.now.get(&old.name).is_none() {
                self.flag("missing", &old.name, format!("{} is in the last good snapshot, and was not named this time", shown(&old.name)));
            }
        }
        self.settle();
    }

    /// Databases in trees that are not there, for another reason than that a user has deleted them.
    fn lost_in_trees(&mut self) {
        let (last, census) = (self.last, self.now);
        let mut lost: BTreeMap<Vec<u8>, String> = BTreeMap::new();
        for old in &last.past.databases {
            if census.get(&old.name).is_some() {
                continue;
            }
            let beside = SIDES.into_iter().find(|side| census.get(&[&old.name, side.as_bytes()].concat()).is_some());
            if let Some(side) = beside {
                let name = shown(&old.name);
                lost.insert(old.name.clone(), format!("{name} is gone, while {name}{side} is still there"));
                continue;
            }
            let still_there = above(&old.name).find(|dir| census.get(dir).is_some_and(|entry| entry.kind == EntryKind::Directory));
            if let Some(dir) = still_there.filter(|dir| !census.is_full(dir)) {
                let (name, old) = (shown(dir), shown(&old.name));
                let text = match census.get(&tag_in(dir)) {
                    Some(_) => format!("{name} is left out, as it says that it is a cache: {old} was in it"),
                    None => format!("{name} is empty, where {old} was: is a volume not mounted?"),
                };
                lost.insert(dir.to_vec(), text);
            }
        }
        lost.into_iter().for_each(|(stream, detail)| self.flag("missing", &stream, detail));
        self.settle();
    }

    /// Trees that were named: those with nothing in them, and those that are not named any more.
    fn roots(&mut self, roots: &[NamedRoot]) -> Result<()> {
        let (last, census) = (self.last, self.now);
        let is_suspect = |root: &&NamedRoot| census.tree(&root.prefix).bytes == 0;
        let mut before: HashMap<Vec<u8>, Sum> = roots.iter().filter(is_suspect).map(|root| (root.prefix.clone(), Sum::default())).collect();
        if !before.is_empty() {
            // All trees, as one may be within another one's prefix.
            before.extend(roots.iter().map(|root| (root.prefix.clone(), Sum::default())));
            last.each_good(self.reader, &mut |entry| add_to_tree(&mut before, entry))?;
        }
        for root in roots.iter().filter(is_suspect) {
            let (now, before) = (census.tree(&root.prefix), before.get(&root.prefix).copied().unwrap_or_default());
            let was_known = last.has_good && (root.prefix.is_empty() || last.has_good_of(self.reader, &root.prefix)?);
            let path = root.path.display();
            if now.entries == 0 && (before.entries > 0 || !was_known) {
                let text = match self.left_out.excluded {
                    0 => format!("{path} has nothing in it: is its volume not mounted?"),
                    _ => format!("nothing of {path} is stored: all that is in it is excluded, or its volume is not mounted"),
                };
                self.flag("empty", &root.prefix, text);
            } else if now.bytes == 0 && before.bytes > 0 {
                self.flag(
                    "empty",
                    &root.prefix,
                    format!("{path} has no bytes in it, and had {}: is its volume not mounted?", before.bytes),
                );
            }
        }
        if last.roots > 1 {
            let mut named: BTreeSet<&[u8]> = roots.iter().map(|root| first_part(&root.prefix)).collect();
            named.extend(roots.iter().filter_map(|root| Some(last_part(&root.path)?.as_encoded_bytes())));
            for part in last.past.tops.iter().filter(|part| !named.contains(part.as_slice())) {
                self.flag("missing", part, format!("{} is in the last good snapshot, and was not named this time", shown(part)));
            }
        }
        self.settle();
        Ok(())
    }

    /// Output of programs. The files of a dump count as one, and as the same whether it is an archive or a directory: one table may well be emptied.
    fn programs(&mut self) {
        let (last, census) = (self.last, self.now);
        for (name, before) in &last.past.outputs {
            let Some(after) = census.outputs.get(name) else {
                self.flag("missing", &before.stream, format!("{} is in the last good snapshot, and not in this one", shown(name)));
                continue;
            };
            let (name, after_bytes, before_bytes) = (shown(name), after.bytes, before.bytes);
            if after_bytes == 0 && before_bytes > 0 {
                self.flag("empty", &after.stream, format!("{name} is empty; it had {before_bytes} bytes"));
            } else if has_shrunk(before_bytes, after_bytes) {
                self.flag("shrunk", &after.stream, format!("{name} has {after_bytes} bytes; it had {before_bytes}"));
            }
        }
        self.settle();
    }

    /// Everything that no flag is about, taken together.
    fn whole(&mut self, entries: &Sorted) -> Result<()> {
        // The newest good states come from several snapshots, and no single one may have had them all. So one whole snapshot is compared as well:
        // otherwise a file that only a flagged snapshot had is missed for ever.
        if !has_shrunk(self.last.whole_bytes, self.now.bytes) {
            return Ok(());
        }
        let (mut before, mut after) = (0_u64, 0_u64);
        let is_outside = |entry: &StreamEntry| !self.gaps.covers(&entry.name);
        let add = |sum: &mut u64, entry: &StreamEntry| *sum = sum.saturating_add(if is_outside(entry) { measure(entry) } else { 0 });
        self.last.each_good(self.reader, &mut |entry| add(&mut before, entry))?;
        for item in entries.iter()? {
            let entry = record::decode::<StreamEntry>(&item?.1).map_err(|m| m.of("the new listing"))?;
            add(&mut after, &entry);
        }
        if has_shrunk(before, after) {
            self.flag("shrunk", b"", format!("there are {after} bytes in all; there were {before}"));
        }
        Ok(())
    }
}

fn last_part(path: &Path) -> Option<&std::ffi::OsStr> {
    path.file_name()
}

/// At most [`FLAGS_MAX`]: as long as there are more, the directories of the deepest streams stand for them. That says more than is wrong, never less.
fn bounded(mut flags: Vec<Flag>) -> Vec<Flag> {
    let depth = |flag: &Flag| flag.stream.as_ref().map_or(0, |stream| 1 + stream.iter().filter(|byte| **byte == b'/').count());
    while flags.len() > FLAGS_MAX {
        let deepest = flags.iter().map(depth).max().unwrap_or(0);
        let mut merged: BTreeMap<_, (Flag, usize)> = BTreeMap::new();
        for flag in flags {
            let stream = match (&flag.stream, depth(&flag) == deepest) {
                (Some(stream), true) => parent_of(stream).map(<[u8]>::to_vec),
                (stream, _) => stream.clone(),
            };
            let first = merged.entry((flag.code.clone(), stream.clone())).or_insert((Flag { stream, ..flag }, 0));
            first.1 += 1;
        }
        let one = |(flag, count): (Flag, usize)| match count {
            1 => flag,
            more => Flag { detail: format!("{}; and {} more", flag.detail, more - 1), ..flag },
        };
        flags = merged.into_values().map(one).collect();
        if deepest == 0 {
            break;
        }
    }
    flags
}
