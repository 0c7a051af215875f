//! A directory that is filled by names from a repository.
//!
//! The names are not trusted: whoever wrote the repository may want a restore to write elsewhere. A name is taken only if it is relative
//! and has no `.`, `..` or empty part, and nothing is ever written through a symbolic link, neither one that was there before nor one
//! that was restored a moment ago. This does not defend against another user who may write into the same directory meanwhile.
//!
//! Nothing is overwritten: a file in the way gets a kept name as everywhere; a directory where a file is to go, or the other way round,
//! is an error.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::{File, FileType};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::keep::links_unsupported;
use super::target::{Target, failed, lookup};
use super::temp::{HiddenNames, hidden_name};
use super::{DatabaseOptions, Fill, Placed, Placement};
use crate::error::{Error, Result};
use crate::format::snapshot::FileMeta;

/// A directory being filled. Its methods may be called from several threads for different names.
pub struct Tree<'a> {
    pub(super) placement: &'a Placement<'a>,
    pub(super) root: PathBuf,
    /// If the whole file system is synced at once: its directory, open since before the first byte is written.
    pub(super) whole: Option<Whole>,
    pub(super) hidden: HiddenNames,
    /// Directories made for the root, the deepest first.
    made: Vec<PathBuf>,
    work: Mutex<Work>,
}

/// The file system of the root.
pub(super) struct Whole {
    pub dir: File,
    device: u64,
}

/// What is left for the end, and where the last name was.
#[derive(Default)]
struct Work {
    /// Directories with new names in them, which the sync of the whole file system does not cover.
    unsynced: BTreeSet<PathBuf>,
    /// Directories with the attributes that they get when nothing more is written into them.
    directories: Vec<(PathBuf, FileMeta)>,
    /// Directories that were made because names lie below them, the deepest last.
    made: Vec<PathBuf>,
    /// The directories on the way to the last name, from the root down. They have been looked at; nothing here replaces a directory.
    way: Vec<Entered>,
}

/// A directory that was found to be one, or made.
#[derive(Debug, Clone)]
struct Entered {
    path: PathBuf,
    place: Inside,
}

/// What is known of everything in a directory.
#[derive(Debug, Clone, Copy)]
pub(super) struct Inside {
    /// Nothing was in it before.
    pub is_new: bool,
    device: u64,
}

impl<'a> Tree<'a> {
    /// Makes the directory with its parents if it is not there. It may have content, which stays.
    ///
    /// # Errors
    /// [`Error::Destination`] when it is not a directory or cannot be made.
    pub fn open(placement: &'a Placement<'a>, root: &Path) -> Result<Self> {
        Self::open_with(placement, root, false)
    }

    /// The same for many files: where the system can do that, the whole file system is synced at once instead of each file.
    ///
    /// # Errors
    /// As [`Tree::open`].
    pub fn open_for_many(placement: &'a Placement<'a>, root: &Path) -> Result<Self> {
        Self::open_with(placement, root, true)
    }

    fn open_with(placement: &'a Placement<'a>, root: &Path, many: bool) -> Result<Self> {
        let (mut unsynced, mut made) = (BTreeSet::new(), Vec::new());
        let mut missing = root;
        while !missing.as_os_str().is_empty() && !missing.exists() {
            made.push(missing.to_path_buf());
            missing = missing.parent().unwrap_or(Path::new(""));
            let above = if missing.as_os_str().is_empty() { Path::new(".") } else { missing };
            unsynced.insert(above.to_path_buf());
        }
        placement.disk.create_dir_all(root).map_err(|e| failed(root, "make this directory", e))?;
        let root = root.canonicalize().map_err(|e| failed(root, "use this directory", e))?;
        let dir = open_directory(&root).map_err(|e| failed(&root, "use this directory", e))?;
        let device = dir.metadata().map_err(|e| failed(&root, "use this directory", e))?.dev();
        let whole = (many && placement.disk.can_sync_filesystem(&dir)).then_some(Whole { dir, device });
        let hidden = HiddenNames::new(&root)?;
        let way = vec![Entered { path: root.clone(), place: Inside { is_new: !made.is_empty(), device } }];
        Ok(Tree { placement, root, whole, hidden, made, work: Mutex::new(Work { unsynced, way, ..Work::default() }) })
    }

    /// Takes away the directories that were made for it and for names in it, if nothing came into them.
    pub fn undo(self) {
        let parents = self.work.into_inner().unwrap_or_else(PoisonError::into_inner).made;
        for dir in parents.iter().rev().chain(&self.made) {
            // Something is in it, or it is in nobody's way.
            let _ = std::fs::remove_dir(dir);
        }
    }

    /// The directory, with symbolic links resolved.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Gives the directory itself these attributes, when all is done.
    pub fn dress_root(&self, meta: FileMeta) {
        self.work().directories.push((self.root.clone(), meta));
    }

    /// Writes a plain file of `len_bytes` bytes; see [`Placement::place_file`]. A symbolic link in its place is kept as a link, not
    /// followed.
    ///
    /// # Errors
    /// [`Error::Destination`] for a name that leads out of the tree, a directory in the way, and as [`Placement::place_file`].
    pub fn file(&self, name: &[u8], len_bytes: u64, meta: Option<FileMeta>, fill: &Fill<'_>) -> Result<Placed> {
        let target = self.target(name)?;
        self.refuse_directory(&target)?;
        let kept = self.placement.place_file_at(&target, len_bytes, meta, fill)?;
        Ok(self.done(target, kept.paths()))
    }

    /// Writes a database of `len_bytes` bytes; see [`Placement::place_database`].
    ///
    /// # Errors
    /// [`Error::Destination`] for a name that leads out of the tree, a directory or a symbolic link in the way, and as
    /// [`Placement::place_database`].
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
        self.placement.place_database(&target.path, len_bytes, meta, fill, options)
    }

    /// Makes a directory, or takes the one that is there. Its attributes are set by [`Tree::finish`].
    ///
    /// # Errors
    /// [`Error::Destination`] for a name that leads out of the tree, or something else in the way.
    pub fn directory(&self, name: &[u8], meta: Option<FileMeta>) -> Result<PathBuf> {
        let (target, inside) = self.place(name)?;
        let entered = self.enter(&target.path, inside)?;
        let mut work = self.work();
        work.way.push(entered);
        if let Some(meta) = meta {
            work.directories.push((target.path.clone(), meta));
        }
        Ok(target.path)
    }

    /// Makes a symbolic link, with its own times and owner. What it points to is not looked at.
    ///
    /// # Errors
    /// [`Error::Destination`] for a name that leads out of the tree, a directory in the way, or a link that the system refuses.
    pub fn symlink(&self, name: &[u8], link: &[u8], meta: Option<FileMeta>) -> Result<Placed> {
        let target = self.target(name)?;
        self.refuse_directory(&target)?;
        let link = Path::new(OsStr::from_bytes(link));
        let dress = |path: &Path| meta.iter().for_each(|meta| self.placement.dress_link(path, &target.path, meta));
        if std::fs::read_link(&target.path).is_ok_and(|there| there.as_os_str() == link.as_os_str()) {
            dress(&target.path);
            return Ok(Placed { path: target.path, ..Placed::default() });
        }
        let make = |hidden: &Path| std::os::unix::fs::symlink(link, hidden).map(|()| dress(hidden));
        let hidden = hidden_name(&target)?;
        make(&hidden).map_err(|e| failed(&target.path, "make this link", e))?;
        self.finish_rename(target, &hidden)
    }

    /// Gives a file of this tree, restored before, a further name; where the file system has no hard links, a copy.
    ///
    /// # Errors
    /// [`Error::Destination`] for names that lead out of the tree, an `existing` that is not a regular file, or a directory in the way.
    pub fn hard_link(&self, name: &[u8], existing: &[u8]) -> Result<Placed> {
        let (target, existing) = (self.target(name)?, self.target(existing)?);
        self.refuse_directory(&target)?;
        let Some(source) = existing.metadata()?.filter(|there| there.is_file()) else {
            return Err(Error::destination(
                &target.path,
                format!("should be a further name of {}, which is no file", existing.path.display()),
            ));
        };
        if target.metadata()?.is_some_and(|there| (there.dev(), there.ino()) == (source.dev(), source.ino())) {
            return Ok(Placed { path: target.path, ..Placed::default() });
        }
        let hidden = hidden_name(&target)?;
        match self.placement.disk.hard_link(&existing.path, &hidden) {
            Ok(()) => self.finish_rename(target, &hidden),
            Err(e) if links_unsupported(&e) => self.copy(target, &existing.path, &source),
            Err(e) => Err(failed(&target.path, &format!("make it a further name of {}", existing.path.display()), e)),
        }
    }

    /// Sets the attributes of directories, the deepest first, and makes all new names durable.
    ///
    /// # Errors
    /// [`Error::Destination`] when a directory cannot be made durable: everything is there, but a power cut now may undo some of it.
    pub fn finish(self) -> Result<()> {
        let mut work = self.work.into_inner().unwrap_or_else(PoisonError::into_inner);
        work.directories.sort_by_key(|(path, _)| std::cmp::Reverse(path.components().count()));
        for (path, meta) in &work.directories {
            let opened = match open_directory(path) {
                Ok(opened) => opened,
                Err(e) => {
                    self.placement.monitor.warn(&format!("{}: its attributes could not be set: {e}", path.display()));
                    continue;
                }
            };
            self.placement.apply_meta(&opened, path, meta, true);
            work.unsynced.insert(path.clone());
        }
        if let Some(whole) = &self.whole {
            let lost = |e| Error::half_done(&self.root, format!("all is in place, but a power cut now may undo some of it: {e}"));
            self.placement.disk.sync_filesystem(&whole.dir, &self.root).map_err(lost)?;
            work.unsynced.retain(|path| !std::fs::symlink_metadata(path).is_ok_and(|there| there.dev() == whole.device));
        }
        for path in work.unsynced.iter().rev() {
            let lost = |e| Error::half_done(path, format!("all is in place, but a power cut now may undo some of it: {e}"));
            self.placement.disk.sync_dir(path).map_err(lost)?;
        }
        Ok(())
    }

    fn work(&self) -> MutexGuard<'_, Work> {
        self.work.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The place of a name, with its parents made.
    fn target(&self, name: &[u8]) -> Result<Target> {
        self.place(name).map(|(target, _)| target)
    }

    /// The same, with what is known of everything beside it.
    pub(super) fn place(&self, name: &[u8]) -> Result<(Target, Inside)> {
        let (parents, last) = parts(name).map_err(|why| refuse_name(&self.root, name, why))?;
        let mut dir = self.root.clone();
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
        Ok((Target::new(dir, OsStr::from_bytes(last)), inside))
    }

    /// A directory on the way to the last name, if it is this one; else the way ends above it.
    fn way_to(&self, depth: usize, dir: &Path) -> Option<Entered> {
        let mut work = self.work();
        let entered = work.way.get(depth).filter(|entered| entered.path == dir).cloned();
        if entered.is_none() {
            work.way.truncate(depth);
        }
        entered
    }

    /// Makes sure that a directory, not a link to one, is there.
    fn enter(&self, dir: &Path, above: Inside) -> Result<Entered> {
        let entered = |is_new, device| Entered { path: dir.to_path_buf(), place: Inside { is_new, device } };
        match lookup(dir)? {
            Some(there) if there.is_dir() => Ok(entered(false, there.dev())),
            Some(there) => Err(not_a_directory(dir, there.file_type())),
            None => {
                // One at a time: its parents have been looked at. Another thread may have made it meanwhile; that is no error.
                self.placement.disk.create_dir_all(dir).map_err(|e| failed(dir, "make this directory", e))?;
                self.note(dir.parent().map(Path::to_path_buf), above);
                Ok(entered(true, above.device))
            }
        }
    }

    /// Remembers that a directory has a new name in it.
    pub(super) fn note(&self, dir: Option<PathBuf>, inside: Inside) {
        if !self.is_covered(inside) {
            self.work().unsynced.extend(dir);
        }
    }

    /// Whether the sync of the whole file system reaches what is in there.
    pub(super) fn is_covered(&self, inside: Inside) -> bool {
        self.whole.as_ref().is_some_and(|whole| whole.device == inside.device)
    }

    pub(super) fn refuse_directory(&self, target: &Target) -> Result<()> {
        match target.metadata()? {
            Some(there) if there.is_dir() => {
                Err(Error::destination(&target.path, "is a directory, and a file should go there; move it away first"))
            }
            _ => Ok(()),
        }
    }

    /// Renames a link, made under a hidden name, to the target, and keeps what was there.
    fn finish_rename(&self, target: Target, hidden: &Path) -> Result<Placed> {
        let disk = self.placement.disk;
        let kept = self.placement.keep_if_there(&target).inspect_err(|_| drop(disk.remove_file(hidden)))?;
        if let Err(e) = disk.rename(hidden, &target.path) {
            let _ = disk.remove_file(hidden);
            return Err(self.placement.put_back(&target, &kept, failed(&target.path, "rename the new link to it", e)));
        }
        Ok(self.done(target, kept.paths()))
    }

    fn copy(&self, target: Target, from: &Path, source: &std::fs::Metadata) -> Result<Placed> {
        let copy = |to: &File| -> Result<()> {
            let copied = File::open(from).and_then(|mut from| io::copy(&mut from, &mut &*to));
            copied.map(drop).map_err(|e| failed(from, "copy it", e))
        };
        let kept = self.placement.place_file_at(&target, source.len(), Some(self.placement.attributes_of(from, source)), &copy)?;
        Ok(self.done(target, kept.paths()))
    }

    fn done(&self, target: Target, kept: Vec<PathBuf>) -> Placed {
        self.work().unsynced.insert(target.dir);
        Placed { path: target.path, kept, ..Placed::default() }
    }
}

/// The parents and the last part of a name from a repository, or why it is refused.
pub(super) fn parts(name: &[u8]) -> Result<(Vec<&[u8]>, &[u8]), &'static str> {
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
pub(super) fn refuse_name(root: &Path, name: &[u8], why: &str) -> Error {
    Error::destination(root, format!("{:?} is refused as a name in it: {why}", String::from_utf8_lossy(name)))
}

/// The refusal of something in the way of a directory.
pub(super) fn not_a_directory(dir: &Path, kind: FileType) -> Error {
    Error::destination(dir, format!("should be a directory and is {}; nothing is written through it", word(kind)))
}

/// Opens a directory, not through a link that may have taken its place.
fn open_directory(path: &Path) -> io::Result<File> {
    use rustix::fs::{Mode, OFlags};
    Ok(rustix::fs::open(path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?.into())
}

fn word(kind: FileType) -> &'static str {
    match kind {
        kind if kind.is_symlink() => "a symbolic link",
        kind if kind.is_file() => "a file",
        _ => "something else",
    }
}
