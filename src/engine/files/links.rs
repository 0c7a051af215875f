//! Files with several names, and files that belong to a database. Holds only what has several names.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::PathBuf;

use super::sides::{SIDES, beside};
use super::walk::Entry;

/// Device and inode.
pub(super) type FileId = (u64, u64);

/// Plain files with several names that are in the snapshot, under this name.
pub(super) type Links = HashMap<FileId, Vec<u8>>;

/// Databases with several names, put off until all of the names that are in the trees are known: only one of them may have the log.
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

/// The names beside databases that have been found, which are no entries of their own. They sort after the database and lie in the same
/// directory, so what belongs to directories that were left is forgotten.
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

    /// Whether this one is a side file.
    pub(super) fn has(&mut self, entry: &Entry) -> bool {
        self.by_depth.split_off(&(entry.depth + 1));
        self.by_depth.get(&entry.depth).is_some_and(|names| names.contains(&entry.path))
    }
}
