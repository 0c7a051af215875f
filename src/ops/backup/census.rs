//! What the judgement of a capture needs of its streams, and of those of the last good state: a count, so that millions of streams take no memory.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use crate::engine::files::CACHE_TAG;
use crate::engine::postgres::stream_names::{DIRECTORY_INFIX, dumped_database, split_directory};
use crate::engine::{Comparison, NamedRoot};
use crate::recorded::EntryKind;
use crate::store::format::snapshot::StreamEntry;

/// What SQLite puts beside a database.
pub(super) const SIDES: [&str; 3] = ["-wal", "-journal", "-shm"];

/// What a tree holds.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Sum {
    pub(super) entries: u64,
    pub(super) bytes: u64,
}

/// What a program wrote.
#[derive(Debug, Clone)]
pub(super) struct Output {
    pub(super) bytes: u64,
    /// The stream, or the directory of streams, that has it.
    pub(super) stream: Vec<u8>,
}

/// What programs wrote, by name. The files of a dump count as one, and as the same whether it is an archive or a directory.
pub(super) type Outputs = BTreeMap<Vec<u8>, Output>;

/// Counts the streams of the last good state.
#[derive(Debug, Default)]
pub(super) struct Past {
    /// The databases.
    pub(super) databases: Vec<StreamEntry>,
    /// The first parts of all names, if several trees were named.
    pub(super) tops: BTreeSet<Vec<u8>>,
    /// What programs wrote.
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
    /// How they are compared.
    pub(super) comparison: Comparison,
    /// The names that are looked for: of databases that there were, and of what lies beside and above them.
    wanted: HashSet<Vec<u8>>,
    found: HashMap<Vec<u8>, StreamEntry>,
    /// The directories among them with anything but a tag in them.
    full: HashSet<Vec<u8>>,
    /// By what the names in each tree begin with.
    trees: HashMap<Vec<u8>, Sum>,
    /// What programs wrote.
    pub(super) outputs: Outputs,
    /// All bytes, as [`measure`] counts them.
    pub(super) bytes: u64,
    /// How many streams there are.
    pub(super) entries: u64,
    /// Bytes of all streams.
    pub(super) logical_bytes: u64,
}

impl Census {
    /// Nothing is counted yet.
    pub(super) fn new(comparison: Comparison, past: &Past, roots: &[NamedRoot]) -> Self {
        let mut wanted = HashSet::new();
        for name in past.databases.iter().map(|old| old.name.as_slice()) {
            wanted.insert(name.to_vec());
            wanted.extend(SIDES.map(|side| [name, side.as_bytes()].concat()));
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

    /// The stream of this name, if that was looked for: one of a database that there was, or of what may lie beside or above it.
    pub(super) fn get(&self, name: &[u8]) -> Option<&StreamEntry> {
        self.found.get(name)
    }

    /// Whether there is anything but a tag in a directory in which there was a database.
    pub(super) fn is_full(&self, dir: &[u8]) -> bool {
        self.full.contains(dir)
    }

    /// What is in the tree in which names begin like this.
    pub(super) fn tree(&self, prefix: &[u8]) -> Sum {
        self.trees.get(prefix).copied().unwrap_or_default()
    }
}

/// Counts a stream in the tree that it is in. A directory does not count as its own entry.
pub(super) fn add_to_tree(trees: &mut HashMap<Vec<u8>, Sum>, entry: &StreamEntry) {
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

/// Bytes that say how much there is in a stream.
pub(super) fn measure(entry: &StreamEntry) -> u64 {
    match &entry.kind {
        EntryKind::Sqlite(facts) => entry.root.len.saturating_sub(u64::from(facts.freelist_pages) * u64::from(facts.page_size)),
        _ => entry.root.len,
    }
}

/// Whether a stream is a database of its own.
pub(super) fn is_database(entry: &StreamEntry) -> bool {
    matches!(entry.kind, EntryKind::Sqlite(_))
}

/// The directories that a name is in, from the inside, without the top.
pub(super) fn above(name: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::successors(parent_of(name), |dir| parent_of(dir))
}

/// The directory of a name; none at the top.
pub(super) fn parent_of(name: &[u8]) -> Option<&[u8]> {
    name.iter().rposition(|byte| *byte == b'/').and_then(|at| name.get(..at))
}

/// The name's part at the top.
pub(super) fn first_part(name: &[u8]) -> &[u8] {
    name.split(|byte| *byte == b'/').next().unwrap_or_default()
}

/// The tag that makes a directory a cache.
pub(super) fn tag_in(dir: &[u8]) -> Vec<u8> {
    [dir, b"/", CACHE_TAG.as_bytes()].concat()
}

fn is_tag(name: &[u8]) -> bool {
    name.rsplit(|byte| *byte == b'/').next() == Some(CACHE_TAG.as_bytes())
}
