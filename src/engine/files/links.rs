//! Remembers files with several names, and the side files of databases, during a walk. Memory grows only with files
//! that have several names; of side files, only those on the way down to the current directory are kept.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::PathBuf;

use super::sides::{SIDES, beside};
use super::walk::Entry;

/// Device and inode.
pub(super) type FileId = (u64, u64);

/// Plain files with several names, each with the name under which it is in the snapshot.
pub(super) type Links = HashMap<FileId, Vec<u8>>;

/// Databases with several names. They wait until all names in the trees are known, because only one of the names may
/// have the log.
#[derive(Default)]
pub(super) struct SharedDatabases {
    places: HashMap<FileId, usize>,
    groups: Vec<Vec<Entry>>,
}

impl SharedDatabases {
    pub(super) fn has(&self, id: FileId) -> bool {
        self.places.contains_key(&id)
    }

    pub(super) fn add(&mut self, id: FileId, entry: Entry) {
        let place = *self.places.entry(id).or_insert(self.groups.len());
        match self.groups.get_mut(place) {
            Some(group) => group.push(entry),
            None => self.groups.push(vec![entry]),
        }
    }

    /// All of them, in the order in which they were found.
    pub(super) fn take(&mut self) -> Vec<Vec<Entry>> {
        self.places.clear();
        std::mem::take(&mut self.groups)
    }
}

/// The side files of the databases that were found. They are not entries of their own. They lie in the same directory
/// as the database and sort after it, so they can be forgotten when the walk leaves the directory.
#[derive(Default)]
pub(super) struct Covered {
    by_depth: BTreeMap<usize, HashSet<PathBuf>>,
}

impl Covered {
    /// Notes the side files of a database.
    pub(super) fn add_sides_of(&mut self, database: &Entry) {
        let names = self.by_depth.entry(database.depth).or_default();
        names.extend(SIDES.iter().map(|side| beside(&database.path, side)));
    }

    /// Whether this entry is a side file.
    pub(super) fn has(&mut self, entry: &Entry) -> bool {
        // The walk goes depth first. An entry at this depth means that all deeper directories were left.
        self.by_depth.split_off(&(entry.depth + 1));
        self.by_depth.get(&entry.depth).is_some_and(|names| names.contains(&entry.path))
    }
}
