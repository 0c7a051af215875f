//! Fills a directory by names from a repository.
//!
//! The names are not trusted: someone who has written into the repository may want a restore to write elsewhere. A name
//! is accepted only if it is relative and has no `.`, `..` or empty part. Nothing is ever written through a symbolic
//! link: neither through one that was there before, nor one that was restored a moment ago, nor one that another user
//! puts there meanwhile. The root is held open, and everything else is reached from there (see `beneath.rs`).
//!
//! Nothing is overwritten. A file in the way gets a kept name, as everywhere. A directory in the place of a file, or a
//! file in the place of a directory, is an error.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::fs::{File, FileType};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::engine::place::keep::links_unsupported;
use crate::engine::place::target::{Named, Target, failed, refuse_link};
use crate::engine::place::temp::{HiddenNames, hidden_name};
use crate::engine::place::{Fill, Placed, Placement};
use crate::engine::sqlite::restore::DatabaseOptions;
use crate::error::{Error, Result};
use crate::fs::beneath::{self, Dir, Dirs, MadeDirs};
use crate::recorded::FileMeta;

/// A directory that is filled. Its methods may be called from several threads for different names.
pub struct Tree<'a> {
    pub(in crate::engine) placement: &'a Placement<'a>,
    /// For messages.
    pub(in crate::engine) root: PathBuf,
    pub(in crate::engine) dirs: Arc<Dirs>,
    /// Set if the whole file system is synced at once. The directory in it is open since before the first byte is
    /// written: errors of earlier writes are reported to descriptors that were open then.
    pub(in crate::engine) whole: Option<Whole>,
    pub(in crate::engine) hidden: HiddenNames,
    /// Directories that were made for the root, each as the directory above it and its name. The deepest comes last.
    made: Vec<(Arc<Dir>, OsString)>,
    work: Mutex<Work>,
}

/// The file system of the root.
pub(in crate::engine) struct Whole {
    pub dir: File,
    device: u64,
}

/// Work that is left for the end, and the way to the last name. Paths of directories are relative to the root.
#[derive(Default)]
struct Work {
    /// Directories with new names in them that the sync of the whole file system does not cover.
    unsynced: BTreeSet<PathBuf>,
    /// Directories with their attributes. They get these at the end: a directory without write permission could not be
    /// filled.
    directories: Vec<(PathBuf, FileMeta)>,
    /// Directories that were made because names lie below them. The deepest comes last.
    made: Vec<PathBuf>,
    /// The directories on the way to the last name, from the root down. They were looked at already, and nothing here
    /// replaces a directory.
    way: Vec<Entered>,
}

/// A directory that was looked at or made.
#[derive(Debug, Clone)]
struct Entered {
    path: PathBuf,
    place: Inside,
}

/// What is known about all names in a directory.
#[derive(Debug, Clone, Copy)]
pub(in crate::engine) struct Inside {
    /// The directory was made by this restore, so nothing was in it before.
    pub is_new: bool,
    device: u64,
}

impl<'a> Tree<'a> {
    /// Opens the directory. Makes it with its parents if it does not exist. It may have content, which stays.
    ///
    /// # Errors
    /// [`Error::Destination`] if it is not a directory or cannot be made.
    pub fn open(placement: &'a Placement<'a>, root: &Path) -> Result<Self> {
        Self::open_with(placement, root, false)
    }

    /// As [`Tree::open`], for many files: if the system can do that, the whole file system is synced at once instead of
    /// each file.
    ///
    /// # Errors
    /// As [`Tree::open`].
    pub fn open_for_many(placement: &'a Placement<'a>, root: &Path) -> Result<Self> {
        Self::open_with(placement, root, true)
    }

    /// As [`Tree::open`], for an existing directory that is held.
    ///
    /// # Errors
    /// As [`Tree::open`].
    pub(crate) fn open_held(placement: &'a Placement<'a>, dir: Dir) -> Result<Self> {
        Self::fill(placement, dir, Vec::new(), false)
    }

    fn open_with(placement: &'a Placement<'a>, root: &Path, many: bool) -> Result<Self> {
        let (dir, made) = make_root(placement, root)?;
        Self::fill(placement, dir, made, many)
    }

    fn fill(placement: &'a Placement<'a>, dir: Dir, made: Vec<(Arc<Dir>, OsString)>, many: bool) -> Result<Self> {
        let root = dir.path().to_path_buf();
        let unusable = |e| failed(&root, "use this directory", e);
        let device = dir.metadata().map_err(unusable)?.dev();
        let whole = match many {
            true => Some(dir.open().map_err(unusable)?).filter(|open| placement.disk.can_sync_filesystem(open)),
            false => None,
        };
        let whole = whole.map(|dir| Whole { dir, device });
        let hidden = HiddenNames::new(&root)?;
        let way = vec![Entered { path: PathBuf::new(), place: Inside { is_new: !made.is_empty(), device } }];
        Ok(Tree { placement, dirs: Dirs::new(dir), root, whole, hidden, made, work: Mutex::new(Work { way, ..Work::default() }) })
    }

    /// Removes the directories that were made for the root and for names in it, if they are empty.
    pub fn undo(self) {
        let parents = self.work.into_inner().unwrap_or_else(PoisonError::into_inner).made;
        // Errors are ignored: the directory is not empty and must stay, or it is empty and does no harm.
        let remove = |above: &Dir, name: &OsStr| drop(std::fs::remove_dir(above.at(name)));
        for dir in parents.iter().rev() {
            let above = self.dirs.get(dir.parent().unwrap_or(Path::new("")));
            let _ = above.map(|above| remove(&above, dir.file_name().unwrap_or_default()));
        }
        self.made.iter().rev().for_each(|(above, name)| remove(above, name));
    }

    /// The directory, with symbolic links resolved.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Gives the root these attributes, at the end.
    pub fn dress_root(&self, meta: FileMeta) {
        self.work().directories.push((PathBuf::new(), meta));
    }

    /// Writes a plain file of `len_bytes` bytes; see [`Placement::place_file`]. A symbolic link in its place is kept as
    /// a link and not followed.
    ///
    /// # Errors
    /// [`Error::Destination`] for a name that leads out of the tree, or a directory in the way; and the errors of
    /// [`Placement::place_file`].
    pub fn file(&self, name: &[u8], len_bytes: u64, meta: Option<FileMeta>, fill: &Fill<'_>) -> Result<Placed> {
        let target = self.target(name)?;
        self.refuse_directory(&target)?;
        let kept = self.placement.place_file_at(&target, len_bytes, meta, fill)?;
        Ok(self.done(target, kept.paths()))
    }

    /// Writes a database of `len_bytes` bytes; see [`Placement::place_database`].
    ///
    /// # Errors
    /// [`Error::Destination`] for a name that leads out of the tree, or a directory or a symbolic link in the way; and
    /// the errors of [`Placement::place_database`].
    pub fn database(
        &self,
        name: &[u8],
        len_bytes: u64,
        meta: Option<FileMeta>,
        fill: &Fill<'_>,
        options: DatabaseOptions,
    ) -> Result<Placed> {
        let target = self.target(name)?;
        if target.metadata()?.is_some_and(|there| there.is_symlink()) {
            return Err(Error::destination(
                &target.path,
                "is a symbolic link; remove it, or restore this database onto its target by name",
            ));
        }
        target.refuse_other()?;
        self.placement.place_database_at(&target, len_bytes, meta, fill, options)
    }

    /// Makes a directory, or uses an existing one. [`Tree::finish`] sets its attributes.
    ///
    /// # Errors
    /// [`Error::Destination`] for a name that leads out of the tree, or if something else is in the way.
    pub fn directory(&self, name: &[u8], meta: Option<FileMeta>) -> Result<PathBuf> {
        let (target, inside) = self.place(name)?;
        let dir = target.below().join(OsStr::from_bytes(name.rsplit(|&byte| byte == b'/').next().unwrap_or_default()));
        let entered = self.enter(&dir, inside)?;
        let mut work = self.work();
        work.way.push(entered);
        if let Some(meta) = meta {
            work.directories.push((dir, meta));
        }
        Ok(target.path)
    }

    /// Makes a symbolic link, with its own times and owner. Its target is not looked at.
    ///
    /// # Errors
    /// [`Error::Destination`] for a name that leads out of the tree, a directory in the way, or a link that the system
    /// refuses.
    pub fn symlink(&self, name: &[u8], link: &[u8], meta: Option<FileMeta>) -> Result<Placed> {
        let target = self.target(name)?;
        self.refuse_directory(&target)?;
        let link = Path::new(OsStr::from_bytes(link));
        let dress = |place: &Named| meta.iter().for_each(|meta| self.placement.dress_link(place, &target.path, meta));
        let place = target.named()?;
        // The same link is there already, so nothing needs to be kept.
        if std::fs::read_link(place.held()).is_ok_and(|there| there.as_os_str() == link.as_os_str()) {
            dress(&place);
            return Ok(Placed { path: target.path, ..Placed::default() });
        }
        let make = |hidden: &Named| std::os::unix::fs::symlink(link, hidden.held()).map(|()| dress(hidden));
        let hidden = target.beside(&hidden_name(&target)?)?;
        make(&hidden).map_err(|e| failed(&target.path, "make this link", e))?;
        self.finish_rename(target, &hidden)
    }

    /// Gives a file of this tree, which was restored before, a further name. On a file system without hard links it
    /// becomes a copy.
    ///
    /// # Errors
    /// [`Error::Destination`] for names that lead out of the tree, an `existing` that is not a regular file, or a
    /// directory in the way.
    pub fn hard_link(&self, name: &[u8], existing: &[u8]) -> Result<Placed> {
        let (target, existing) = (self.target(name)?, self.target(existing)?);
        self.refuse_directory(&target)?;
        let Some(source) = existing.metadata()?.filter(|there| there.is_file()) else {
            return Err(Error::destination(
                &target.path,
                format!("should be a further name of {}, but that is not a file", existing.path.display()),
            ));
        };
        if target.metadata()?.is_some_and(|there| (there.dev(), there.ino()) == (source.dev(), source.ino())) {
            return Ok(Placed { path: target.path, ..Placed::default() });
        }
        let hidden = target.beside(&hidden_name(&target)?)?;
        let from = existing.named()?;
        match self.placement.disk.hard_link(from.held(), hidden.held()) {
            Ok(()) => self.finish_rename(target, &hidden),
            Err(e) if links_unsupported(&e) => self.copy(target, &from, &source),
            Err(e) => Err(failed(&target.path, &format!("make it a further name of {}", existing.path.display()), e)),
        }
    }

    /// Sets the attributes of directories, the deepest first, and makes all new names durable.
    ///
    /// # Errors
    /// [`Error::Destination`] if a directory cannot be made durable. Everything is there then, but a power cut may undo
    /// some of it.
    pub fn finish(self) -> Result<()> {
        let mut work = self.work.into_inner().unwrap_or_else(PoisonError::into_inner);
        // The deepest first: with its attributes, a directory may no longer be entered.
        work.directories.sort_by_key(|(dir, _)| std::cmp::Reverse(dir.components().count()));
        for (dir, meta) in std::mem::take(&mut work.directories) {
            let path = shown(&self.root, &dir);
            match self.dirs.get(&dir).and_then(|dir| dir.open()) {
                Ok(opened) => self.placement.apply_meta(&opened, &path, &meta, true),
                Err(e) => {
                    self.placement.monitor.warn(&format!("{}: its attributes could not be set: {e}", path.display()));
                    continue;
                }
            }
            work.unsynced.insert(dir);
        }
        let disk = self.placement.disk;
        let lost = |path: &Path, e| Error::half_done(path, format!("all is in place, but a power cut now may undo some of it: {e}"));
        if let Some(whole) = &self.whole {
            disk.sync_filesystem(&whole.dir, &self.root).map_err(|e| lost(&self.root, e))?;
            let is_elsewhere =
                |dir: &PathBuf| !self.dirs.get(dir).and_then(|dir| dir.metadata()).is_ok_and(|dir| dir.dev() == whole.device);
            work.unsynced.retain(is_elsewhere);
        }
        for dir in work.unsynced.iter().rev() {
            self.dirs.get(dir).and_then(|held| disk.sync_dir(held.itself())).map_err(|e| lost(&shown(&self.root, dir), e))?;
        }
        for (above, _) in self.made.iter().rev() {
            // Directories on the file system that was synced as a whole are durable already.
            let is_covered = self.whole.as_ref().is_some_and(|whole| above.metadata().is_ok_and(|above| above.dev() == whole.device));
            if !is_covered {
                disk.sync_dir(above.itself()).map_err(|e| lost(above.path(), e))?;
            }
        }
        Ok(())
    }

    fn work(&self) -> MutexGuard<'_, Work> {
        self.work.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The place of a name. Its parents are made.
    fn target(&self, name: &[u8]) -> Result<Target> {
        self.place(name).map(|(target, _)| target)
    }

    /// The place of a name, and what is known about its directory. Its parents are made.
    pub(in crate::engine) fn place(&self, name: &[u8]) -> Result<(Target, Inside)> {
        let (parents, last) = parts(name).map_err(|why| refuse_name(&self.root, name, why))?;
        // Names come in order, so most of the way is that of the last name and need not be looked at again.
        let mut dir = PathBuf::new();
        let mut depth = 0;
        let mut inside = self.way_to(0, &dir).map_or(Inside { is_new: false, device: 0 }, |entered| entered.place);
        for part in parents {
            dir.push(OsStr::from_bytes(part));
            depth += 1;
            if let Some(entered) = self.way_to(depth, &dir) {
                inside = entered.place;
                continue;
            }
            let entered = self.enter(&dir, inside)?;
            inside = entered.place;
            let mut work = self.work();
            if inside.is_new {
                work.made.push(dir.clone());
            }
            work.way.push(entered);
        }
        self.work().way.truncate(depth + 1);
        Ok((Target::new(&self.dirs, dir, OsStr::from_bytes(last)), inside))
    }

    /// The directory at this depth on the way to the last name, if it is `dir`. Else the way is cut off above it.
    fn way_to(&self, depth: usize, dir: &Path) -> Option<Entered> {
        let mut work = self.work();
        let entered = work.way.get(depth).filter(|entered| entered.path == dir).cloned();
        if entered.is_none() {
            work.way.truncate(depth);
        }
        entered
    }

    /// Makes sure that a directory, and not a link to one, is there. The path is relative to the root.
    fn enter(&self, dir: &Path, above: Inside) -> Result<Entered> {
        let path = shown(&self.root, dir);
        let entered = |is_new, device| Entered { path: dir.to_path_buf(), place: Inside { is_new, device } };
        let (parent, name) = (dir.parent().unwrap_or(Path::new("")), dir.file_name().unwrap_or_default());
        let place = Target::new(&self.dirs, parent.to_path_buf(), name).named()?;
        match place.metadata()? {
            Some(there) if there.is_dir() => Ok(entered(false, there.dev())),
            Some(there) => Err(not_a_directory(&path, there.file_type())),
            None => {
                // Its parents exist, so this makes one directory only. It is not an error if another thread has made it
                // meanwhile.
                self.placement.disk.create_dir_all(place.held()).map_err(|e| failed(&path, "make this directory", e))?;
                self.note(parent, above);
                Ok(entered(true, above.device))
            }
        }
    }

    /// Remembers that a directory has a new name in it. The path is relative to the root.
    pub(in crate::engine) fn note(&self, dir: &Path, inside: Inside) {
        if !self.is_covered(inside) {
            self.work().unsynced.insert(dir.to_path_buf());
        }
    }

    /// Whether the sync of the whole file system covers names in this directory.
    pub(in crate::engine) fn is_covered(&self, inside: Inside) -> bool {
        self.whole.as_ref().is_some_and(|whole| whole.device == inside.device)
    }

    /// Refuses a directory in the place of a file.
    pub(in crate::engine) fn refuse_directory(&self, target: &Target) -> Result<()> {
        match target.metadata()? {
            Some(there) if there.is_dir() => {
                Err(Error::destination(&target.path, "is a directory, and a file should go there; move it away first"))
            }
            _ => Ok(()),
        }
    }

    /// Keeps what is at the target, and renames a link to it that was made under a hidden name.
    fn finish_rename(&self, target: Target, hidden: &Named) -> Result<Placed> {
        let disk = self.placement.disk;
        let place = target.named()?;
        let kept = self.placement.keep_if_there(&target).inspect_err(|_| drop(disk.remove_file(hidden.held())))?;
        if let Err(e) = disk.rename(hidden.held(), place.held()) {
            let _ = disk.remove_file(hidden.held());
            return Err(self.placement.put_back(&target, &kept, failed(&target.path, "rename the new link to it", e)));
        }
        Ok(self.done(target, kept.paths()))
    }

    /// Copies a restored file, in place of a hard link.
    fn copy(&self, target: Target, from: &Named, source: &std::fs::Metadata) -> Result<Placed> {
        let copy = |to: &File| -> Result<()> {
            let copied = beneath::open_file(from.held()).and_then(|mut from| io::copy(&mut from, &mut &*to));
            copied.map(drop).map_err(|e| failed(&from.path, "copy it", e))
        };
        let kept = self.placement.place_file_at(&target, source.len(), Some(self.placement.attributes_of(from, source)), &copy)?;
        Ok(self.done(target, kept.paths()))
    }

    /// Notes that the target has its new name, and reports it.
    fn done(&self, target: Target, kept: Vec<PathBuf>) -> Placed {
        self.work().unsynced.insert(target.below().to_path_buf());
        Placed { path: target.path, kept, ..Placed::default() }
    }
}

/// Finds the directory to be filled, or makes it with its parents. Also gives the directories that were made, the
/// deepest last. A link in the place of the directory itself is refused.
fn make_root(placement: &Placement<'_>, root: &Path) -> Result<(Dir, MadeDirs)> {
    let unusable = |e| failed(root, "use this directory", e);
    // Without a `/` at the end: with it, a link would be followed.
    let named: PathBuf = root.components().collect();
    if std::fs::symlink_metadata(&named).is_ok_and(|there| there.is_symlink()) {
        return Err(refuse_link(root, &named));
    }
    Dir::find_or_make(placement.disk, &named).map_err(unusable)
}

/// The full path of a directory for messages. `dir` is relative to the root.
fn shown(root: &Path, dir: &Path) -> PathBuf {
    if dir.as_os_str().is_empty() { root.to_path_buf() } else { root.join(dir) }
}

/// The parents and the last part of a name from a repository, or why it is refused.
pub(in crate::engine) fn parts(name: &[u8]) -> Result<(Vec<&[u8]>, &[u8]), &'static str> {
    let mut parts: Vec<&[u8]> = name.split(|&byte| byte == b'/').collect();
    if name.contains(&0) {
        return Err("it has a zero byte");
    }
    if parts.iter().any(|part| matches!(*part, b"" | b"." | b"..")) {
        return Err("it is absolute, or has an empty, . or .. part");
    }
    let last = parts.pop().ok_or("it is empty")?;
    Ok((parts, last))
}

/// The refusal of a name that would lead out of the tree.
pub(in crate::engine) fn refuse_name(root: &Path, name: &[u8], why: &str) -> Error {
    Error::destination(root, format!("{:?} is refused as a name in it: {why}", String::from_utf8_lossy(name)))
}

/// The refusal of something in the way of a directory.
pub(in crate::engine) fn not_a_directory(dir: &Path, kind: FileType) -> Error {
    Error::destination(dir, format!("should be a directory and is {}; nothing is written through it", word(kind)))
}

fn word(kind: FileType) -> &'static str {
    match kind {
        kind if kind.is_symlink() => "a symbolic link",
        kind if kind.is_file() => "a file",
        _ => "something else",
    }
}
