//! Directory trees. SQLite databases in them are captured through the SQLite engine, all other files as they are.
//!
//! # Names
//!
//! If one directory is given, names are relative to it, and the directory itself has no entry. If one file is given,
//! its name is that of the file. If several paths are given, each name begins with the last part of its path (links
//! resolved), and each given directory has an entry. Paths with the same last part get as many more of their last parts
//! as are needed to tell them apart: `/srv/a/data` and `/srv/b/data` become `a/data` and `b/data`. So names depend on
//! the set of paths. If paths may be added later, a name given with each path (`NAME=PATH`) keeps the names the same. A
//! path inside another given path is refused. Names are bytes in any encoding.
//!
//! # What is stored
//!
//! Files, directories and symbolic links are stored; links are never followed. Stored are also mode, modification time,
//! owner and group, access control lists, `user.*` attributes and capabilities. If a file has several names (hard
//! links), the first is stored and the others refer to it. Mount points below a directory are entered. Holes of files
//! are not read (see `holes.rs`). Attributes of other namespaces (`security.selinux`, `trusted.*`) are not stored,
//! because they belong to one machine or file system, and neither are the lists of NFSv4. [`CaptureReport::left_out`]
//! counts what is left out: FIFOs, sockets and devices, files that earlier restores have kept, and everything that
//! [`Selection`] excludes.
//!
//! A file that begins like a SQLite database is read as [`super::sqlite`] describes. Each database has an instant of
//! its own; databases that must be of one instant are backed up together with [`super::sqlite::SqliteSource`]. The
//! `-wal`, `-shm` and `-journal` of a database are left out, because its stream contains their content. A database that
//! SQLite refuses is stored as it is, with these files and a line in [`CaptureReport::skipped`]. A database that stays
//! locked is skipped. A database with several names is read through the name that has the log or journal, and is stored
//! under each name as a database. (If it were restored as one file with two names, a log left at the other name could
//! be replayed onto it.)
//!
//! A file that grows while it is read is stored up to the length that it had at first, with a warning. If it changes in
//! another way, there is a line in [`CaptureReport::skipped`]. The tree as a whole is not of one instant.
//!
//! # When a file is not read
//!
//! Plain files follow the rule in `engine/stamp.rs`, databases the one in [`super::sqlite`].
//!
//! # Locks
//!
//! Closing any descriptor of a file drops the POSIX locks that SQLite holds on it in this process. So at most one
//! database is open at a time, and no other file is opened meanwhile: the database is closed before the next entry is
//! looked at. Other files that this process has open (the repository, the cache with its catalog) must be named by the
//! caller in [`FilesOptions::exclude`].

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
    /// How to read the databases in them. Its clock is used for plain files, too.
    pub sqlite: SqliteOptions,
    /// Directories and files that are left out with everything below them: the directory of the repository and that of
    /// the local cache. They are looked up when a capture begins, so name them even if they do not exist yet. They are
    /// recognised by device and inode, so also under another name.
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
    /// Names the trees. Everything in them is stored. Links in the paths themselves are resolved now.
    ///
    /// # Errors
    /// As [`FilesSource::select`].
    pub fn new(paths: Vec<PathBuf>, options: FilesOptions) -> Result<Self> {
        Self::select(paths.into_iter().map(|path| (None, path)).collect(), options, Selection::default())
    }

    /// Names the trees, each with the beginning of the names of its entries or `None`, and says what of them is stored.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] if there is no path, if paths or names contain each other, if a name or a pattern is
    /// invalid, or if a path is in an excluded directory; [`Error::Source`] if a path does not exist or is neither a
    /// directory nor a regular file.
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
    /// Warns of patterns that begin with the path of a tree. They are probably meant as absolute paths, but patterns
    /// are relative, so they match nothing.
    fn warn_of_absolute(&self, monitor: &dyn Monitor) {
        for (pattern, root) in self.selection.exclude.iter().flat_map(|pattern| self.roots.iter().map(move |root| (pattern, root))) {
            let below = Path::new(pattern.trim_start_matches('!')).strip_prefix(&root.path).ok().filter(|_| root.path.parent().is_some());
            if let Some(below) = below {
                let root = root.path.display();
                monitor.warn(&format!(
                    "the pattern {pattern} is relative to {root} and matches nothing there; did you mean /{}?",
                    below.display()
                ));
            }
        }
    }
}

/// Refuses paths that contain each other. They are sorted by their parts, so a path comes directly after one that
/// contains it, or after others that are inside that, too.
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

    /// Looks at the roots only. The trees are walked while streams are asked for.
    ///
    /// # Errors
    /// [`Error::Source`] if a named path cannot be read at all (gone, not mounted, no permission). A snapshot without
    /// it would look as if everything had been deleted.
    fn capture<'a>(&'a self, known: &'a dyn Known, monitor: &'a dyn Monitor) -> Result<Box<dyn Capture + 'a>> {
        let walk = Walk::begin(&self.roots, &self.options.exclude, &self.selection, &self.patterns)?;
        self.warn_of_absolute(monitor);
        Ok(Box::new(FilesCapture::new(walk, &self.selection, &self.options.sqlite, known, monitor)))
    }
}
