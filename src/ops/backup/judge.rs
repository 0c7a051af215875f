//! Decides which flags a capture gets, by comparing it with the newest good state of each stream.
//!
//! Users may do to files whatever they want; only what hides or destroys databases is flagged. So a plain file that
//! is gone, shorter or empty is not flagged by itself: logs are rotated and files deleted every day. These are
//! flagged:
//!
//! - a database that was named the last time and is not named now, or a dump that is missing;
//! - a database in a tree that is gone while its log or journal is still there;
//! - a database in a tree whose directory still exists and is empty (a volume may not be mounted), or is now left out
//!   as a cache;
//! - a database in a tree that has become a link or a directory;
//! - a database, or the output of a program, that had bytes and is empty, or had at least 64 KiB and has lost more
//!   than half of them. Free pages of a database are not counted: then a VACUUM is not a loss, and a database that
//!   was emptied in place does not look full;
//! - a file that was a database and is not one any more;
//! - a tree that has no entries, or has no bytes and had some, also at its first backup; a tree that is not named any
//!   more;
//! - all streams without a flag, taken together, if they had at least 64 KiB and have lost more than half of them.
//!
//! A flag that a user has accepted in the newest good state is not raised again as long as the state stays the same.
//! The judgement relies on counts ([`Census`], `Past`): the listings are read again only if something seems to be
//! missing.

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
use crate::ops::text::bytes;
use crate::recorded::{EntryKind, Flag};
use crate::store::format::record;
use crate::store::format::snapshot::{SnapshotRecord, StreamEntry};
use crate::store::repo::Reader;

/// Streams that had at least this many bytes are flagged if they lose more than half of them.
const SHRUNK_FROM: u64 = 64 << 10;
/// Most flags of one snapshot. If there are more, directories stand for the streams in them.
const FLAGS_MAX: usize = 100;

/// The flags of a capture.
#[derive(Debug, Default)]
pub(super) struct Verdict {
    pub(super) flags: Vec<Flag>,
    /// What would be flags, but a user has accepted them before.
    pub(super) accepted: Vec<Flag>,
}

impl Verdict {
    /// Puts the flags into the record, before those that it has already.
    pub(super) fn on(mut self, draft: SnapshotRecord) -> SnapshotRecord {
        self.flags.extend(draft.flags);
        SnapshotRecord { flags: self.flags, accepted: self.accepted, ..draft }
    }
}

/// Judges a capture by the flags that its source reports, its streams, and the newest good state.
///
/// # Errors
/// As for reading the parent's listing and the new entries again.
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
    // The source's own flags stay in front and in their order.
    case.flags.get_mut(reported..).unwrap_or_default().sort_by(|a, b| a.stream.cmp(&b.stream));
    let was_accepted = |flag: &Flag| flag.stream.is_some() && last.accepted.iter().any(|old| is_same(old, flag));
    let (accepted, flags) = case.flags.into_iter().partition(was_accepted);
    Ok(Verdict { flags: bounded(flags), accepted: bounded(accepted) })
}

/// Drops all but the last `damaged` flag of a stream. A stream may show in several ways that it is damaged; the last
/// flag, of its structure, says it best.
fn once(flags: &[Flag]) -> Vec<Flag> {
    let is_said_later = |flag: &Flag, rest: &[Flag]| rest.iter().any(|other| other.code == flag.code && other.stream == flag.stream);
    let with_rest = flags.iter().enumerate().map(|(at, flag)| (flag, flags.get(at + 1..).unwrap_or_default()));
    with_rest.filter(|(flag, rest)| flag.code != "damaged" || !is_said_later(flag, rest)).map(|(flag, _)| flag.clone()).collect()
}

/// Whether an accepted flag covers a new one. For damage the details must be equal too: otherwise more may be damaged
/// now.
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
    /// The streams that are covered by the flags as of the last [`Case::settle`].
    gaps: Gaps,
    flags: Vec<Flag>,
    left_out: LeftOut,
}

impl Case<'_> {
    /// Adds a flag, unless an earlier step has flagged this stream or a directory above it.
    fn flag(&mut self, code: &str, stream: &[u8], detail: String) {
        if !self.gaps.covers(stream) {
            self.flags.push(Flag::new(code, detail).about(stream));
        }
    }

    /// Ends a step: from now on its flags cover their streams. Within a step a stream can get several flags.
    fn settle(&mut self) {
        self.gaps = Gaps::of(&self.flags);
    }

    /// Databases that are still there and have become less.
    fn databases(&mut self) {
        let (last, census) = (self.last, self.now);
        for old in &last.past.databases {
            let Some(new) = census.get(&old.name) else { continue };
            let (before, after) = (measure(old), measure(new));
            let name = shown(&old.name);
            match new.kind {
                EntryKind::Sqlite(_) | EntryKind::File if new.root.len == 0 && old.root.len > 0 => {
                    self.flag("empty", &old.name, format!("{name} is empty; it had {}", bytes(old.root.len)));
                }
                EntryKind::Sqlite(_) if has_shrunk(before, after) => {
                    self.flag("shrunk", &old.name, format!("{name} has {} in use; it had {}", bytes(after), bytes(before)));
                }
                EntryKind::File => self.flag("not-a-database", &old.name, format!("{name} was a database, and is not one any more")),
                EntryKind::Symlink(_) => {
                    let text = "was a database, and is a symbolic link now: no snapshot has the file that it points to under this name";
                    self.flag("missing", &old.name, format!("{name} {text}"));
                }
                EntryKind::Directory => self.flag("missing", &old.name, format!("{name} was a database, and is a directory now")),
                EntryKind::Sqlite(_) | EntryKind::HardLink(_) => {}
            }
        }
        self.settle();
    }

    /// For databases that are named one by one: those that are not named any more.
    fn not_named(&mut self) {
        let last = self.last;
        for old in &last.past.databases {
            if self.now.get(&old.name).is_none() {
                self.flag("missing", &old.name, format!("{} is in the last good snapshot, and was not named this time", shown(&old.name)));
            }
        }
        self.settle();
    }

    /// Databases that are gone from trees, when something says that the user has not just deleted them.
    fn lost_in_trees(&mut self) {
        let (last, census) = (self.last, self.now);
        let mut lost: BTreeMap<Vec<u8>, String> = BTreeMap::new();
        for old in &last.past.databases {
            if census.get(&old.name).is_some() {
                continue;
            }
            // SQLite removes the log and the journal with the database; somebody who moves a database takes them
            // along.
            let beside = SIDES.into_iter().find(|side| census.get(&[&old.name, side.as_bytes()].concat()).is_some());
            if let Some(side) = beside {
                let name = shown(&old.name);
                lost.insert(old.name.clone(), format!("{name} is gone, while {name}{side} is still there"));
                continue;
            }
            // The nearest directory that still exists. If it is empty, a volume may be missing; a flag on it stands
            // for all its databases.
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

    /// The named trees: those with nothing in them, and those that are not named any more.
    fn roots(&mut self, roots: &[NamedRoot]) -> Result<()> {
        let (last, census) = (self.last, self.now);
        // Only trees without bytes are suspect. Only for these the old listing is read.
        let is_suspect = |root: &&NamedRoot| census.tree(&root.prefix).bytes == 0;
        let mut before: HashMap<Vec<u8>, Sum> = roots.iter().filter(is_suspect).map(|root| (root.prefix.clone(), Sum::default())).collect();
        if !before.is_empty() {
            // Count all trees, not only the suspect ones: one tree may lie within another one's prefix.
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
                    format!("{path} has no bytes in it, and had {}: is its volume not mounted?", bytes(before.bytes)),
                );
            }
        }
        // With several trees the first part of each name is that of its tree. A single tree has no such part.
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

    /// The outputs of programs. The files of one dump are counted together, whether it is an archive or a directory:
    /// one table may well be emptied.
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
                self.flag("shrunk", &after.stream, format!("{name} has {}; it had {}", bytes(after_bytes), bytes(before_bytes)));
            }
        }
        self.settle();
    }

    /// All streams without a flag, taken together.
    fn whole(&mut self, entries: &Sorted) -> Result<()> {
        // The newest good states come from several snapshots, and perhaps no single snapshot had all of them. So the
        // sum is also compared with one whole snapshot. Otherwise a file that only a flagged snapshot had would be
        // missed for ever.
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

/// Reduces flags to [`FLAGS_MAX`]: as long as there are more, the directories of the deepest streams stand for these.
/// That may cover more than is wrong, never less.
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
        // Nothing is left to merge into: all flags are about the whole snapshot.
        if deepest == 0 {
            break;
        }
    }
    flags
}
