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

use std::cell::OnceCell;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::path::Path;

use super::history::Inherited;
use crate::engine::files::CACHE_TAG;
use crate::engine::postgres::stream_names::{DIRECTORY_INFIX, dumped_database, split_directory};
use crate::engine::{self, CaptureReport, Comparison, NamedRoot};
use crate::ops::gaps::Gaps;
use crate::recorded::{EntryKind, Flag, SourceKind};
use crate::store::format::snapshot::{SnapshotRecord, StreamEntry};

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
pub(super) fn judge(kind: &SourceKind, entries: &[StreamEntry], report: &CaptureReport, last: &Inherited) -> Verdict {
    let flags = once(&report.flags);
    let reported = flags.len();
    let mut case = Case { entries, now: OnceCell::new(), last, gaps: Gaps::of(&flags), flags };
    match engine::of(kind).comparison() {
        Comparison::Named => {
            case.databases();
            case.not_named();
        }
        Comparison::Trees => {
            case.roots(&report.roots);
            case.databases();
            case.lost_in_trees();
        }
        Comparison::Programs => case.programs(),
    }
    case.whole();
    case.flags.get_mut(reported..).unwrap_or_default().sort_by(|a, b| a.stream.cmp(&b.stream));
    let was_accepted = |flag: &Flag| flag.stream.is_some() && last.accepted.iter().any(|old| is_same(old, flag));
    let (accepted, flags) = case.flags.into_iter().partition(was_accepted);
    Verdict { flags: bounded(flags), accepted: bounded(accepted) }
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

/// Bytes that say how much there is in a stream.
pub(super) fn measure(entry: &StreamEntry) -> u64 {
    match &entry.kind {
        EntryKind::Sqlite(facts) => entry.root.len.saturating_sub(u64::from(facts.freelist_pages) * u64::from(facts.page_size)),
        _ => entry.root.len,
    }
}

fn is_database(entry: &StreamEntry) -> bool {
    matches!(entry.kind, EntryKind::Sqlite(_))
}

fn has_shrunk(before: u64, after: u64) -> bool {
    before >= SHRUNK_FROM && after < before / 2
}

/// A name for people.
fn shown(name: &[u8]) -> std::borrow::Cow<'_, str> {
    String::from_utf8_lossy(name)
}

struct Case<'a> {
    entries: &'a [StreamEntry],
    now: OnceCell<HashMap<&'a [u8], &'a StreamEntry>>,
    last: &'a Inherited,
    /// What the flags so far are about.
    gaps: Gaps,
    flags: Vec<Flag>,
}

impl<'a> Case<'a> {
    /// The stream of this name in the capture.
    fn now(&self, name: &[u8]) -> Option<&'a StreamEntry> {
        let by_name = || self.entries.iter().map(|entry| (entry.name.as_slice(), entry)).collect();
        self.now.get_or_init(by_name).get(name).copied()
    }

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
        let last = self.last;
        for old in last.all_good().filter(|old| is_database(old)) {
            let Some(new) = self.now(&old.name) else { continue };
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
        for old in last.all_good().filter(|old| is_database(old)) {
            if self.now(&old.name).is_none() {
                self.flag("missing", &old.name, format!("{} is in the last good snapshot, and was not named this time", shown(&old.name)));
            }
        }
        self.settle();
    }

    /// Databases in trees that are not there, for another reason than that a user has deleted them.
    fn lost_in_trees(&mut self) {
        let last = self.last;
        let mut lost: BTreeMap<Vec<u8>, String> = BTreeMap::new();
        let mut full: Option<HashSet<&[u8]>> = None;
        for old in last.all_good().filter(|old| is_database(old)) {
            if self.now(&old.name).is_some() {
                continue;
            }
            let beside = ["-wal", "-journal", "-shm"].into_iter().find(|side| self.now(&[&old.name, side.as_bytes()].concat()).is_some());
            if let Some(side) = beside {
                let name = shown(&old.name);
                lost.insert(old.name.clone(), format!("{name} is gone, while {name}{side} is still there"));
                continue;
            }
            let is_tag = |entry: &&StreamEntry| entry.name.rsplit(|byte| *byte == b'/').next() == Some(CACHE_TAG.as_bytes());
            let filling = || self.entries.iter().filter(|entry| !is_tag(entry)).filter_map(|entry| parent_of(&entry.name)).collect();
            let full = full.get_or_insert_with(filling);
            let mut above = std::iter::successors(parent_of(&old.name), |dir| parent_of(dir));
            let still_there = above.find(|dir| self.now(dir).is_some_and(|entry| entry.kind == EntryKind::Directory));
            if let Some(dir) = still_there.filter(|dir| !full.contains(dir)) {
                let (name, old) = (shown(dir), shown(&old.name));
                let text = match self.now(&[dir, b"/", CACHE_TAG.as_bytes()].concat()) {
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
    fn roots(&mut self, roots: &[NamedRoot]) {
        let last = self.last;
        let prefixes: HashSet<&[u8]> = roots.iter().map(|root| root.prefix.as_slice()).collect();
        let now = sums(self.entries.iter(), &prefixes);
        let before = sums(last.all_good(), &prefixes);
        for root in roots {
            let of = |sums: &HashMap<&[u8], Sum>| sums.get(root.prefix.as_slice()).copied().unwrap_or_default();
            let (now, before) = (of(&now), of(&before));
            let was_known = last.has_good && (root.prefix.is_empty() || last.good(&root.prefix).is_some());
            let path = root.path.display();
            if now.entries == 0 && (before.entries > 0 || !was_known) {
                self.flag("empty", &root.prefix, format!("{path} has nothing in it: is its volume not mounted?"));
            } else if now.bytes == 0 && before.bytes > 0 {
                self.flag(
                    "empty",
                    &root.prefix,
                    format!("{path} has no bytes in it, and had {}: is its volume not mounted?", before.bytes),
                );
            }
        }
        if last.roots > 1 {
            let mut named: BTreeSet<&[u8]> = prefixes.iter().map(|prefix| first_part(prefix)).collect();
            named.extend(roots.iter().filter_map(|root| Some(last_part(&root.path)?.as_encoded_bytes())));
            let gone: BTreeSet<&[u8]> = last.all_good().map(|entry| first_part(&entry.name)).filter(|part| !named.contains(part)).collect();
            for part in gone {
                self.flag("missing", part, format!("{} is in the last good snapshot, and was not named this time", shown(part)));
            }
        }
        self.settle();
    }

    /// Output of programs. The files of a dump count as one, and as the same whether it is an archive or a directory: one table may well be emptied.
    fn programs(&mut self) {
        let last = self.last;
        let now = outputs(self.entries.iter());
        for (name, before) in outputs(last.all_good()) {
            let Some(after) = now.get(name) else {
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
    fn whole(&mut self) {
        let sum = |entries: &mut dyn Iterator<Item = &'a StreamEntry>| -> u64 {
            entries.filter(|entry| !self.gaps.covers(&entry.name)).map(measure).fold(0, u64::saturating_add)
        };
        let (before, after) = (sum(&mut self.last.all_good()), sum(&mut self.entries.iter()));
        // The newest good states come from several snapshots, and no single one may have had them all. So one whole snapshot is compared as well:
        // otherwise a file that only a flagged snapshot had is missed for ever.
        if has_shrunk(before, after) && has_shrunk(self.last.whole_bytes, self.entries.iter().map(measure).sum()) {
            self.flag("shrunk", b"", format!("there are {after} bytes in all; there were {before}"));
        }
    }
}

/// The directory of a name; none at the top.
fn parent_of(name: &[u8]) -> Option<&[u8]> {
    name.iter().rposition(|byte| *byte == b'/').and_then(|at| name.get(..at))
}

fn first_part(name: &[u8]) -> &[u8] {
    name.split(|byte| *byte == b'/').next().unwrap_or_default()
}

fn last_part(path: &Path) -> Option<&std::ffi::OsStr> {
    path.file_name()
}

/// What a tree holds.
#[derive(Debug, Clone, Copy, Default)]
struct Sum {
    entries: u64,
    bytes: u64,
}

/// What is below each of these roots; a directory does not count as its own entry.
fn sums<'e>(entries: impl Iterator<Item = &'e StreamEntry>, prefixes: &HashSet<&'e [u8]>) -> HashMap<&'e [u8], Sum> {
    let mut sums: HashMap<&[u8], Sum> = HashMap::new();
    for entry in entries {
        let above = std::iter::successors(Some(entry.name.as_slice()), |name| parent_of(name)).chain([b"".as_slice()]);
        let Some(root) = above.into_iter().find(|name| prefixes.contains(name)) else { continue };
        if root != entry.name.as_slice() || entry.kind != EntryKind::Directory {
            let sum = sums.entry(root).or_default();
            sum.entries += 1;
            sum.bytes += entry.root.len;
        }
    }
    sums
}

/// What a program wrote.
struct Output {
    bytes: u64,
    /// The stream, or the directory of streams, that has it.
    stream: Vec<u8>,
}

fn outputs<'e>(entries: impl Iterator<Item = &'e StreamEntry>) -> BTreeMap<&'e [u8], Output> {
    let mut outputs = BTreeMap::new();
    for entry in entries {
        let stream = match split_directory(&entry.name) {
            Some((database, _)) => [database, DIRECTORY_INFIX.trim_end_matches('/').as_bytes()].concat(),
            None => entry.name.clone(),
        };
        let name = dumped_database(&entry.name).unwrap_or(&entry.name);
        outputs.entry(name).or_insert(Output { bytes: 0, stream }).bytes += entry.root.len;
    }
    outputs
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
