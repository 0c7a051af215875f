//! Directory trees: SQLite databases in them through the engine, everything else as it is.
//!
//! # Names
//!
//! With one directory given, names are relative to it, and the directory itself has no entry. With one file given, its name is the file's. With
//! several paths, each name begins with the last part of the path (links resolved), and a directory that was given has an entry. Paths with the same
//! last part get as many more of their last parts as tell them apart: `/srv/a/data` and `/srv/b/data` become `a/data` and `b/data`. So names follow
//! from the set of paths; where paths are added to a source that goes on under one name, a name given with each path (`NAME=PATH`) never changes. A
//! path inside another one that was given is refused. Names are bytes, whatever encoding they are in.
//!
//! # What is stored
//!
//! Files, directories and symbolic links (which are never followed) with mode, modification time, owner and group, with access control lists, `user.*`
//! attributes and capabilities; of several names (hard links) of one file the first is stored and the others refer to it. Below a directory, mount
//! points are entered. Holes of files are not read (see `holes.rs`). Not stored: attributes of other namespaces, as they belong to one machine or file
//! system (`security.selinux`, `trusted.*`), and the lists of NFSv4. What is left out is counted in [`CaptureReport::left_out`]: FIFOs, sockets and
//! devices, what earlier restores have kept, and what [`Selection`] says.
//!
//! A file that begins like a SQLite database is read as [`super::sqlite`] says, each database at an instant of its own: databases that have to
//! be of one instant are backed up together with [`super::sqlite::SqliteSource`]. Its `-wal`, `-shm` and `-journal` are left out, as the stream
//! contains what is in them. One that SQLite refuses is stored as it is, with those files and a line in [`CaptureReport::skipped`] that
//! says so; one that stays locked is skipped. A database with several names is read through the one that has the log or journal, and stored under
//! each name as a database: restored as one file with two names, a log left at the other name could be replayed onto it.
//!
//! A file that can only be appended to while it is read is stored up to the length that it had at first, with a warning; if it changed in
//! another way, there is a line in [`CaptureReport::skipped`]. The tree as a whole is not of one instant.
//!
//! # When a file is not read
//!
//! Plain files follow the rule in `engine/stamp.rs`, databases that in [`super::sqlite`].
//!
//! # Locks
//!
//! Closing any descriptor of a file drops the POSIX locks that SQLite holds on it in this process. So at most one database is open at a time,
//! and nothing is probed or read meanwhile: it is let go before the next entry is looked at. What else this process has open (the
//! repository's directory, the cache with its catalog) the caller names in [`FilesOptions::exclude`].

mod body;
mod capture;
mod database;
mod exclude;
mod holes;
mod links;
mod prefixes;
pub mod restore;
mod sides;
mod walk;

pub use self::exclude::{CACHE_TAG, LeftOut, Selection};

use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use self::capture::FilesCapture;
use self::exclude::Patterns;
use self::prefixes::name_roots;
use self::walk::{Root, Walk};
use super::sqlite::{ContentWhen, SqliteOptions};
use super::{Capture, Comparison, Known, Source, SourceDescription, name};
use crate::error::{Error, Result};
use crate::progress::Monitor;
use crate::recorded::SourceKind;

#[cfg(doc)]
use super::CaptureReport;

/// Directory trees.
pub struct FilesEngine;

impl super::Engine for FilesEngine {
    fn kind(&self) -> SourceKind {
        SourceKind::FILES
    }

    fn comparison(&self) -> Comparison {
        Comparison::Trees
    }
}

/// How to read trees.
#[derive(Debug, Clone)]
pub struct FilesOptions {
    /// How to read the databases in them. Its clock serves plain files too.
    pub sqlite: SqliteOptions,
    /// Directories and files that are left out with all that is below them: the repository's directory and the directory of the local
    /// cache. They are looked up when a capture begins, so name them even if they are not there yet, and are recognised by device and inode,
    /// so under another name too.
    pub exclude: Vec<PathBuf>,
}

/// Directory trees and files that are captured together.
#[derive(Debug)]
pub struct FilesSource {
    roots: Vec<Root>,
    given: Vec<PathBuf>,
    options: FilesOptions,
    selection: Selection,
    patterns: Patterns,
}

impl FilesSource {
    /// Names the trees, of which all is to be stored. Links in the paths themselves are resolved now.
    ///
    /// # Errors
    /// As [`FilesSource::select`].
    pub fn new(paths: Vec<PathBuf>, options: FilesOptions) -> Result<Self> {
        Self::select(paths.into_iter().map(|path| (None, path)).collect(), options, Selection::default())
    }

    /// Names the trees, each with the name that its entries are to begin with, or none; and what of them is to be stored.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] for no path, paths that contain each other, names that do, something that is no name or no pattern, and a path in
    /// an excluded directory; [`Error::Source`] for a path that is not there or is neither a directory nor a regular file.
    pub fn select(paths: Vec<(Option<String>, PathBuf)>, options: FilesOptions, selection: Selection) -> Result<Self> {
        let patterns = Patterns::new(&selection.exclude)?;
        let mut named = Vec::with_capacity(paths.len());
        for (name, path) in &paths {
            name.as_ref().map_or(Ok(()), |name| name::check(name, "NAME=PATH"))?;
            named.push((Root::resolve(path)?, name.as_ref().map(|name| name.as_bytes().to_vec())));
        }
        named.sort_by(|(a, _), (b, _)| a.path.cmp(&b.path));
        let (mut roots, names): (Vec<Root>, Vec<Option<Vec<u8>>>) = named.into_iter().unzip();
        if roots.is_empty() {
            return Err(Error::InvalidArgument("name at least one file or directory".to_owned()));
        }
        refuse_nested(&roots)?;
        name_roots(&mut roots, &names)?;
        for (root, exclude) in roots.iter().flat_map(|root| options.exclude.iter().map(move |exclude| (root, exclude))) {
            if exclude.canonicalize().is_ok_and(|exclude| root.path.starts_with(exclude)) {
                let text = format!("{} is in {}, which belongs to icecore itself", root.path.display(), exclude.display());
                return Err(Error::InvalidArgument(text));
            }
        }
        Ok(Self { roots, given: paths.into_iter().map(|(_, path)| path).collect(), options, selection, patterns })
    }
}

impl FilesSource {
    /// Patterns that begin with the path of a tree are most likely meant as paths, and match nothing.
    fn warn_of_absolute(&self, monitor: &dyn Monitor) {
        for (pattern, root) in self.selection.exclude.iter().flat_map(|pattern| self.roots.iter().map(move |root| (pattern, root))) {
            let below = Path::new(pattern.trim_start_matches('!')).strip_prefix(&root.path).ok().filter(|_| root.path.parent().is_some());
            if let Some(below) = below {
                let root = root.path.display();
                monitor.warn(&format!("the pattern {pattern} is taken relative to {root}: write /{} if that is meant", below.display()));
            }
        }
    }
}

/// Refuses paths that contain each other. They are sorted by their parts: a path comes right after one that contains it, or after another one inside
/// that.
fn refuse_nested(roots: &[Root]) -> Result<()> {
    let mut outer: Option<&Root> = None;
    for root in roots {
        if roots.len() > 1 && root.path.parent().is_none() {
            return Err(Error::InvalidArgument("/ contains all other paths; name it alone".to_owned()));
        }
        if let Some(outer) = outer.filter(|outer| root.path.starts_with(&outer.path)) {
            let (outer, root) = (outer.path.display(), root.path.display());
            let text = format!("{outer} and {root} are the same or contain each other; name only the first");
            return Err(Error::InvalidArgument(text));
        }
        outer = Some(root);
    }
    Ok(())
}

impl Source for FilesSource {
    fn identity(&self) -> SourceDescription {
        let parts = self.roots.iter().map(|root| root.path.as_os_str().as_bytes().to_vec()).collect();
        let given: Vec<String> = self.given.iter().map(|path| path.display().to_string()).collect();
        SourceDescription { kind: SourceKind::FILES, parts, label: given.join(" ") }
    }

    fn wants_content(&self) -> bool {
        self.options.sqlite.content == ContentWhen::Always
    }

    /// Looks at the roots only; the trees are walked while streams are asked for.
    ///
    /// # Errors
    /// [`Error::Source`] when a path that was named cannot be read at all (gone, not mounted, no permission): a snapshot without it
    /// would look as if everything had been deleted.
    fn capture<'a>(&'a self, known: &'a dyn Known, monitor: &'a dyn Monitor) -> Result<Box<dyn Capture + 'a>> {
        let walk = Walk::begin(&self.roots, &self.options.exclude, &self.selection, &self.patterns)?;
        self.warn_of_absolute(monitor);
        Ok(Box::new(FilesCapture::new(walk, &self.selection, &self.options.sqlite, known, monitor)))
    }
}
