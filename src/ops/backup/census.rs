//! Counts the streams of a capture and of the last good state, for the judgement.
//!
//! Only what the judgement asks for is kept: databases, the names beside and above them, sums by tree, and outputs of
//! programs. So millions of plain files take no memory.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use crate::engine::files::CACHE_TAG;
use crate::engine::postgres::stream_names::{DIRECTORY_INFIX, dumped_database, split_directory};
use crate::engine::{Comparison, NamedRoot};
use crate::recorded::EntryKind;
use crate::store::format::snapshot::StreamEntry;

/// The suffixes of the files that SQLite puts beside a database.
pub(super) const SIDES: [&str; 3] = ["-wal", "-journal", "-shm"];

/// What a named tree holds.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Sum {
    pub(super) entries: u64,
    pub(super) bytes: u64,
}

/// The output of a program.
#[derive(Debug, Clone)]
pub(super) struct Output {
    pub(super) bytes: u64,
    /// The stream that has it, or the directory of streams.
    pub(super) stream: Vec<u8>,
}

/// The outputs of programs by name. The files of one dump are counted together, under the same name for an archive
/// and a directory.
pub(super) type Outputs = BTreeMap<Vec<u8>, Output>;

/// Counts the streams of the last good state.
#[derive(Debug, Default)]
pub(super) struct Past {
    /// The databases.
    pub(super) databases: Vec<StreamEntry>,
    /// The first parts of all names, if several trees were named: these are the trees.
    pub(super) tops: BTreeSet<Vec<u8>>,
    /// The outputs of programs.
    pub(super) outputs: Outputs,
}

impl Past {
    /// Counts a stream.
    pub(super) fn add(&mut self, entry: &StreamEntry, comparison: Comparison, several_trees: bool) {
        if is_database(entry) {
            self.databases.push(entry.clone());
        }
        if several_trees && !self.tops.contains(first_part(&entry.name)) {
            self.tops.insert(first_part(&entry.name).to_vec());
        }
        if comparison == Comparison::Programs {
            add_output(&mut self.outputs, entry);
        }
    }
}

/// Counts the streams of a capture.
#[derive(Debug)]
pub(super) struct Census {
    /// How captures of this kind of source are compared.
    pub(super) comparison: Comparison,
    /// The names to look for: of the databases of the last good state, and of everything that may lie beside and
    /// above them.
    wanted: HashSet<Vec<u8>>,
    found: HashMap<Vec<u8>, StreamEntry>,
    /// The wanted directories that hold anything besides a cache tag.
    full: HashSet<Vec<u8>>,
    /// The sums of the named trees, by the prefix of the names in each.
    trees: HashMap<Vec<u8>, Sum>,
    /// The outputs of programs.
    pub(super) outputs: Outputs,
    /// All bytes, as [`measure`] counts them.
    pub(super) bytes: u64,
    /// How many streams there are.
    pub(super) entries: u64,
    /// Bytes of all streams.
    pub(super) logical_bytes: u64,
}

impl Census {
    /// An empty census that looks for the databases of `past` and the trees of `roots`.
    pub(super) fn new(comparison: Comparison, past: &Past, roots: &[NamedRoot]) -> Self {
        let mut wanted = HashSet::new();
        for name in past.databases.iter().map(|old| old.name.as_slice()) {
            wanted.insert(name.to_vec());
            wanted.extend(SIDES.map(|side| [name, side.as_bytes()].concat()));
            // If the database is gone, the nearest directory above it that still exists tells why.
            for dir in above(name) {
                wanted.insert(dir.to_vec());
                wanted.insert(tag_in(dir));
            }
        }
        Census {
            comparison,
            wanted,
            found: HashMap::new(),
            full: HashSet::new(),
            trees: roots.iter().map(|root| (root.prefix.clone(), Sum::default())).collect(),
            outputs: Outputs::new(),
            bytes: 0,
            entries: 0,
            logical_bytes: 0,
        }
    }

    /// Counts a stream.
    pub(super) fn add(&mut self, entry: &StreamEntry) {
        self.entries += 1;
        self.bytes = self.bytes.saturating_add(measure(entry));
        if !matches!(entry.kind, EntryKind::Directory | EntryKind::Symlink(_) | EntryKind::HardLink(_)) {
            self.logical_bytes = self.logical_bytes.saturating_add(entry.root.len);
        }
        add_to_tree(&mut self.trees, entry);
        if self.comparison == Comparison::Programs {
            add_output(&mut self.outputs, entry);
        }
        // The common case of a tree without databases: nothing more to look for.
        if self.wanted.is_empty() {
            return;
        }
        if let Some(dir) = parent_of(&entry.name).filter(|dir| self.wanted.contains(*dir) && !is_tag(&entry.name)) {
            self.full.insert(dir.to_vec());
        }
        if self.wanted.contains(&entry.name) {
            self.found.insert(entry.name.clone(), entry.clone());
        }
    }

    /// The stream of this name, if it is one of the wanted names and the capture has it.
    pub(super) fn get(&self, name: &[u8]) -> Option<&StreamEntry> {
        self.found.get(name)
    }

    /// Whether the capture has anything besides a cache tag in this directory, which held a database.
    pub(super) fn is_full(&self, dir: &[u8]) -> bool {
        self.full.contains(dir)
    }

    /// The sums of the tree whose names begin with this prefix.
    pub(super) fn tree(&self, prefix: &[u8]) -> Sum {
        self.trees.get(prefix).copied().unwrap_or_default()
    }
}

/// Counts a stream in its tree, the innermost if trees are nested. The directory of the tree itself does not count.
pub(super) fn add_to_tree(trees: &mut HashMap<Vec<u8>, Sum>, entry: &StreamEntry) {
    // From the name itself upwards; the empty prefix is that of a single tree.
    let names = std::iter::once(entry.name.as_slice()).chain(above(&entry.name)).chain([b"".as_slice()]);
    let mut among = names.filter(|name| trees.contains_key(*name));
    let Some(root) = among.next() else { return };
    if root == entry.name.as_slice() && entry.kind == EntryKind::Directory {
        return;
    }
    if let Some(sum) = trees.get_mut(root) {
        sum.entries += 1;
        sum.bytes = sum.bytes.saturating_add(entry.root.len);
    }
}

fn add_output(outputs: &mut Outputs, entry: &StreamEntry) {
    let stream = match split_directory(&entry.name) {
        Some((database, _)) => [database, DIRECTORY_INFIX.trim_end_matches('/').as_bytes()].concat(),
        None => entry.name.clone(),
    };
    let name = dumped_database(&entry.name).unwrap_or(&entry.name).to_vec();
    let output = outputs.entry(name).or_insert(Output { bytes: 0, stream });
    output.bytes = output.bytes.saturating_add(entry.root.len);
}

/// The bytes by which streams are compared. Free pages of a database do not count: they hold nothing.
pub(super) fn measure(entry: &StreamEntry) -> u64 {
    match &entry.kind {
        EntryKind::Sqlite(facts) => entry.root.len.saturating_sub(u64::from(facts.freelist_pages) * u64::from(facts.page_size)),
        _ => entry.root.len,
    }
}

/// Whether a stream is a SQLite database.
pub(super) fn is_database(entry: &StreamEntry) -> bool {
    matches!(entry.kind, EntryKind::Sqlite(_))
}

/// The directories above a name, from the inside to the outside, without the root.
pub(super) fn above(name: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::successors(parent_of(name), |dir| parent_of(dir))
}

/// The directory of a name; `None` at the top.
pub(super) fn parent_of(name: &[u8]) -> Option<&[u8]> {
    name.iter().rposition(|byte| *byte == b'/').and_then(|at| name.get(..at))
}

/// The first part of a name.
pub(super) fn first_part(name: &[u8]) -> &[u8] {
    name.split(|byte| *byte == b'/').next().unwrap_or_default()
}

/// The name of the tag that declares a directory a cache.
pub(super) fn tag_in(dir: &[u8]) -> Vec<u8> {
    [dir, b"/", CACHE_TAG.as_bytes()].concat()
}

fn is_tag(name: &[u8]) -> bool {
    name.rsplit(|byte| *byte == b'/').next() == Some(CACHE_TAG.as_bytes())
}
