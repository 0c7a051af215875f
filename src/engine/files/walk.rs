//! Walks the trees lazily, in the order of names, and decides what is left out.
//!
//! Every entry is reached from the root of its tree, which is held open, without following a link. So nothing outside
//! the tree is read, even if somebody exchanges directories meanwhile. Only the names of the directories on the way are
//! in memory.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::fs::Metadata;
use std::io::ErrorKind;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use walkdir::{DirEntry, IntoIter, WalkDir};

use super::exclude::{CACHE_TAG, LeftOut, Patterns, Reason, Selection, is_cache};
use crate::error::{Error, Result};
use crate::fs::beneath::{Dir, Dirs};

/// A path that the user has named.
#[derive(Debug, Clone)]
pub(super) struct Root {
    /// The path without links.
    pub(super) path: PathBuf,
    pub(super) is_dir: bool,
    /// The beginning of all names in it. Empty for a directory that is the only root.
    pub(super) prefix: Vec<u8>,
}

impl Root {
    /// Resolves the links in a path and looks what is there.
    pub(super) fn resolve(given: &Path) -> Result<Self> {
        let failed = |e: std::io::Error| match e.kind() {
            ErrorKind::NotFound => Error::source(given, "no such file or directory; check the path"),
            _ => Error::source(given, e),
        };
        let path = given.canonicalize().map_err(failed)?;
        let metadata = std::fs::symlink_metadata(&path).map_err(failed)?;
        if !metadata.is_dir() && !metadata.is_file() {
            return Err(Error::source(given, "neither a directory nor a regular file"));
        }
        Ok(Self { path, is_dir: metadata.is_dir(), prefix: Vec::new() })
    }

    /// Fails unless the root itself can be read. Entries in it may still turn out to be unreadable.
    fn check(&self) -> Result<()> {
        let metadata = std::fs::symlink_metadata(&self.path).map_err(|e| Error::source(&self.path, e))?;
        if metadata.is_dir() != self.is_dir || !(metadata.is_dir() || metadata.is_file()) {
            return Err(Error::source(&self.path, "has become something else since the backup was asked for; start again"));
        }
        if self.is_dir {
            std::fs::read_dir(&self.path).map_err(|e| Error::source(&self.path, format_args!("cannot be listed: {e}")))?;
        }
        Ok(())
    }
}

/// Something in a tree.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub(super) path: PathBuf,
    /// Its name in the snapshot.
    pub(super) name: Vec<u8>,
    /// How deep it lies below its root; 0 for the root.
    pub(super) depth: usize,
    /// Its own metadata. A link is not followed.
    pub(super) metadata: Metadata,
    /// The directories of its tree. The root is held open, and the entry is reached from there.
    pub(super) dirs: Arc<Dirs>,
}

/// A name in a directory. The directory stays open as long as this value exists.
pub(super) struct Held {
    pub(super) dir: Arc<Dir>,
    /// The path through the held directory.
    pub(super) path: PathBuf,
}

impl Entry {
    /// The directory that it is in, reached without following a link.
    pub(super) fn dir(&self) -> std::io::Result<Arc<Dir>> {
        dir_of(&self.dirs, &self.path)
    }

    /// Its name in that directory; `.` for the root directory.
    pub(super) fn own_name(&self) -> &OsStr {
        own_name(&self.dirs, &self.path)
    }

    /// Opens its directory, to reach it from there.
    pub(super) fn held(&self) -> std::io::Result<Held> {
        let dir = self.dir()?;
        Ok(Held { path: dir.at(self.own_name()), dir })
    }
}

fn dir_of(dirs: &Dirs, path: &Path) -> std::io::Result<Arc<Dir>> {
    let above = path.parent().and_then(|above| above.strip_prefix(dirs.root().path()).ok());
    dirs.get(above.unwrap_or(Path::new("")))
}

fn own_name<'p>(dirs: &Dirs, path: &'p Path) -> &'p OsStr {
    match path == dirs.root().path() {
        true => OsStr::new("."),
        false => path.file_name().unwrap_or_default(),
    }
}

/// Goes through all trees.
pub(super) struct Walk<'a> {
    all: &'a [Root],
    /// The roots that were not begun yet.
    roots: std::slice::Iter<'a, Root>,
    current: Option<Tree<'a>>,
    /// Device and inode of the files and directories of icecore itself, which are left out.
    excluded: HashSet<(u64, u64)>,
    selection: &'a Selection,
    patterns: &'a Patterns,
    /// What was left out so far.
    pub(super) left_out: LeftOut,
}

/// The tree that is being walked.
struct Tree<'a> {
    root: &'a Root,
    dirs: Arc<Dirs>,
    /// The device of the root.
    dev: Option<u64>,
    walk: IntoIter,
    /// The tag of the cache directory that was found last. It is given out next.
    tag: Option<Entry>,
}

/// The decision about an entry.
enum Choice {
    Take(Entry),
    LeaveOut,
    /// Take a directory without its entries.
    TakeAlone(Entry),
}

/// A path that cannot be looked at, and why.
type Unseen = (PathBuf, String);

impl<'a> Walk<'a> {
    pub(super) fn begin(roots: &'a [Root], exclude: &[PathBuf], selection: &'a Selection, patterns: &'a Patterns) -> Result<Self> {
        // A root that cannot be read fails the capture: without it, the snapshot would look as if everything had been
        // deleted.
        roots.iter().try_for_each(Root::check)?;
        // The walk cannot meet a path that does not exist.
        let id_of = |path: &PathBuf| std::fs::metadata(path).ok().map(|metadata| (metadata.dev(), metadata.ino()));
        let excluded = exclude.iter().filter_map(id_of).collect();
        Ok(Self { all: roots, roots: roots.iter(), current: None, excluded, selection, patterns, left_out: LeftOut::default() })
    }

    /// The paths that the user has named.
    pub(super) fn roots(&self) -> &'a [Root] {
        self.all
    }

    /// The name that a path has in the snapshot.
    pub(super) fn name_of(&self, path: &Path) -> Vec<u8> {
        self.all.iter().find(|root| path.starts_with(&root.path)).map(|root| name_in(root, path)).unwrap_or_default()
    }

    /// Begins the walk of the next root.
    fn open(&mut self) -> Option<Result<Tree<'a>, Unseen>> {
        let root = self.roots.next()?;
        let above = if root.is_dir { &root.path } else { root.path.parent().unwrap_or(Path::new("/")) };
        let dirs = match Dir::find(above).map(Dirs::new) {
            Ok(dirs) if dirs.root().path() == above => dirs,
            Ok(_) => return Some(Err((root.path.clone(), VANISHED.to_owned()))),
            Err(e) => return Some(Err((root.path.clone(), refusal(&e)))),
        };
        let below = usize::from(root.prefix.is_empty());
        let walk = WalkDir::new(&root.path).min_depth(below).follow_links(false).sort_by_file_name().into_iter();
        let dev = std::fs::symlink_metadata(&root.path).ok().map(|metadata| metadata.dev());
        Some(Ok(Tree { root, dirs, dev, walk, tag: None }))
    }

    /// Decides about an entry that the walk has found.
    fn choose(&mut self, tree: &mut Tree<'_>, found: &DirEntry) -> std::result::Result<Choice, Unseen> {
        let is_dir = found.file_type().is_dir();
        // Names are compared before anything is looked at: a temporary file that is left out may have vanished, which
        // is not worth a line.
        if let Some(reason) = self.left_out_by_name(tree, found) {
            match reason {
                Reason::Excluded => self.left_out.excluded += 1,
                Reason::OfRestores => self.left_out.of_restores += 1,
            }
            return Ok(Choice::LeaveOut);
        }
        // Looked at through the held directory, because the path may lead elsewhere by now.
        let path = found.path().to_path_buf();
        let name = name_in(tree.root, &path);
        let looked = dir_of(&tree.dirs, &path).and_then(|dir| dir.look(own_name(&tree.dirs, &path)));
        let metadata = looked.map_err(|e| (path.clone(), exchanged(&e)))?;
        let entry = Entry { path, name, depth: found.depth(), metadata, dirs: Arc::clone(&tree.dirs) };
        let metadata = &entry.metadata;
        if self.excluded.contains(&(metadata.dev(), metadata.ino())) {
            return Ok(Choice::LeaveOut);
        }
        if metadata.is_dir() != is_dir {
            return Err((entry.path, VANISHED.to_owned()));
        }
        let is_elsewhere = self.selection.one_file_system && tree.dev.is_some_and(|dev| dev != metadata.dev());
        if is_elsewhere {
            self.left_out.other_file_systems += 1;
            return Ok(if is_dir { Choice::TakeAlone(entry) } else { Choice::LeaveOut });
        }
        if self.selection.exclude_caches && is_dir && found.depth() > 0 && is_cache(found.path()) {
            self.left_out.caches += 1;
            tree.tag = tag_in(&entry);
            return Ok(Choice::TakeAlone(entry));
        }
        Ok(Choice::Take(entry))
    }

    fn left_out_by_name(&self, tree: &Tree<'_>, found: &DirEntry) -> Option<Reason> {
        let relative = found.path().strip_prefix(&tree.root.path).ok().filter(|_| found.depth() > 0)?;
        let is_file = found.file_type().is_file();
        let by_itself = self.patterns.left_out(relative, found.file_type().is_dir());
        by_itself.or_else(|| is_file.then(|| self.patterns.side_of_left_out(relative, found.path())).flatten())
    }
}

impl Iterator for Walk<'_> {
    type Item = std::result::Result<Entry, Unseen>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let mut tree = match self.current.take() {
                Some(current) => current,
                None => match self.open()? {
                    Ok(tree) => tree,
                    Err(unseen) => return Some(Err(unseen)),
                },
            };
            if let Some(tag) = tree.tag.take() {
                self.current = Some(tree);
                return Some(Ok(tag));
            }
            let Some(found) = tree.walk.next() else { continue };
            let chosen = match found {
                Ok(found) => {
                    let chosen = self.choose(&mut tree, &found);
                    // If a directory is left out or has vanished, the walk must not enter it. For a vanished one it
                    // would report the same again.
                    if found.file_type().is_dir() && !matches!(chosen, Ok(Choice::Take(_))) {
                        tree.walk.skip_current_dir();
                    }
                    chosen
                }
                Err(error) => Err(unseen(tree.root, error)),
            };
            self.current = Some(tree);
            match chosen {
                Ok(Choice::LeaveOut) => {}
                Ok(Choice::Take(entry) | Choice::TakeAlone(entry)) => return Some(Ok(entry)),
                Err(unseen) => return Some(Err(unseen)),
            }
        }
    }
}

/// The tag of a cache directory, as an entry. It is stored, so that the restored directory is a cache directory again.
fn tag_in(dir: &Entry) -> Option<Entry> {
    let path = dir.path.join(CACHE_TAG);
    let metadata = std::fs::symlink_metadata(&path).ok()?;
    let name = [dir.name.as_slice(), b"/", CACHE_TAG.as_bytes()].concat();
    Some(Entry { name, depth: dir.depth + 1, path, metadata, dirs: Arc::clone(&dir.dirs) })
}

fn unseen(root: &Root, error: walkdir::Error) -> Unseen {
    (error.path().unwrap_or(&root.path).to_path_buf(), why(error))
}

/// The name of a path in the snapshot.
fn name_in(root: &Root, path: &Path) -> Vec<u8> {
    let below = path.strip_prefix(&root.path).unwrap_or(path).as_os_str().as_bytes();
    match (root.prefix.is_empty(), below.is_empty()) {
        (true, _) => below.to_vec(),
        (false, true) => root.prefix.clone(),
        (false, false) => [root.prefix.as_slice(), b"/", below].concat(),
    }
}

fn why(error: walkdir::Error) -> String {
    let text = error.to_string();
    error.into_io_error().map_or(text, |e| refusal(&e))
}

/// The reason for an entry that is gone: somebody has deleted it since its directory was listed.
pub(super) const VANISHED: &str = "skipped: it vanished while the backup ran";

/// The reason for an entry that cannot be reached through its directory.
fn exchanged(error: &std::io::Error) -> String {
    match rustix::io::Errno::from_io_error(error) {
        // A link or another file has taken the place of a directory on the way.
        Some(rustix::io::Errno::LOOP | rustix::io::Errno::NOTDIR) => VANISHED.to_owned(),
        _ => refusal(error),
    }
}

/// The reason for an entry that the system refuses.
pub(super) fn refusal(error: &std::io::Error) -> String {
    match error.kind() {
        ErrorKind::NotFound => VANISHED.to_owned(),
        _ => format!("skipped: {error}"),
    }
}
