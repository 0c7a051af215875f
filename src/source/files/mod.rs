//! Directory trees: SQLite databases in them through the engine, everything else as it is.
//!
//! # Names
//!
//! With one directory given, names are relative to it, and the directory itself has no entry. With one file given, its name is the file's. With
//! several paths, each name begins with the last part of the path (links resolved), and a directory that was given has an entry; two paths with
//! the same last part have to be backed up separately. A path inside another one that was given is refused. Names are bytes, whatever
//! encoding they are in.
//!
//! # What is stored
//!
//! Files, directories and symbolic links (which are never followed) with mode, modification time, owner and group; of several names (hard
//! links) of one file the first is stored and the others refer to it. Below a directory, mount points are entered. Not stored: access control
//! lists, extended attributes, holes. FIFOs, sockets and devices are skipped.
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
//! Plain files follow the rule in `source/stamp.rs`, databases that in [`super::sqlite`].
//!
//! # Locks
//!
//! Closing any descriptor of a file drops the POSIX locks that SQLite holds on it in this process. So at most one database is open at a time,
//! and nothing is probed or read meanwhile: it is let go before the next entry is looked at. What else this process has open (the
//! repository's directory, the cache with its catalog) the caller names in [`FilesOptions::exclude`].

mod body;
mod capture;
mod database;
mod links;
mod walk;

use std::collections::HashMap;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use self::capture::FilesCapture;
use self::walk::{Root, Walk};
use super::sqlite::{ContentWhen, SqliteOptions};
use super::{Capture, Source, SourceDescription, Stamp};
use crate::error::{Error, Result};
use crate::format::snapshot::SourceKind;
use crate::progress::Monitor;

#[cfg(doc)]
use super::CaptureReport;

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
}

impl FilesSource {
    /// Names the trees. Links in the paths themselves are resolved now.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] for no path, paths that contain each other or have the same last part, and a path in an excluded
    /// directory; [`Error::Source`] for a path that is not there or is neither a directory nor a regular file.
    pub fn new(paths: Vec<PathBuf>, options: FilesOptions) -> Result<Self> {
        let mut roots = paths.iter().map(|path| Root::resolve(path)).collect::<Result<Vec<_>>>()?;
        roots.sort_by(|a, b| a.path.cmp(&b.path));
        match roots.as_mut_slice() {
            [] => return Err(Error::InvalidArgument("name at least one file or directory".to_owned())),
            [only] if only.is_dir => {}
            several => name_by_last_part(several)?,
        }
        for (root, exclude) in roots.iter().flat_map(|root| options.exclude.iter().map(move |exclude| (root, exclude))) {
            if exclude.canonicalize().is_ok_and(|exclude| root.path.starts_with(exclude)) {
                let text = format!("{} is in {}, which belongs to icecore itself", root.path.display(), exclude.display());
                return Err(Error::InvalidArgument(text));
            }
        }
        Ok(Self { roots, given: paths, options })
    }
}

/// Gives each root its last part as the beginning of all names in it.
fn name_by_last_part(roots: &mut [Root]) -> Result<()> {
    let refuse = |a: &Path, b: &Path, why: &str| {
        let text = format!("{} and {} {why}", a.display(), b.display());
        Err(Error::InvalidArgument(text))
    };
    let mut taken: HashMap<Vec<u8>, PathBuf> = HashMap::new();
    // Sorted by their parts, a path comes right after one that contains it, or after another one inside that.
    let mut outer: Option<PathBuf> = None;
    for root in roots {
        if let Some(outer) = outer.as_ref().filter(|outer| root.path.starts_with(outer)) {
            return refuse(outer, &root.path, "are the same or contain each other; name only the first");
        }
        let Some(name) = root.path.file_name() else {
            return Err(Error::InvalidArgument("/ contains all other paths; name it alone".to_owned()));
        };
        root.prefix = name.as_bytes().to_vec();
        if let Some(other) = taken.insert(root.prefix.clone(), root.path.clone()) {
            return refuse(&other, &root.path, "have the same last part, which names what is in them; back them up separately");
        }
        outer = Some(root.path.clone());
    }
    Ok(())
}

impl Source for FilesSource {
    fn identity(&self) -> SourceDescription {
        let parts = self.roots.iter().map(|root| root.path.as_os_str().as_bytes().to_vec()).collect();
        let given: Vec<String> = self.given.iter().map(|path| path.display().to_string()).collect();
        SourceDescription { kind: SourceKind::Files, parts, label: given.join(" ") }
    }

    fn wants_content(&self) -> bool {
        self.options.sqlite.content == ContentWhen::Always
    }

    /// Looks at the roots only; the trees are walked while streams are asked for.
    ///
    /// # Errors
    /// [`Error::Source`] when a path that was named cannot be read at all (gone, not mounted, no permission): a snapshot without it
    /// would look as if everything had been deleted.
    fn capture<'a>(&'a self, known: &'a HashMap<Vec<u8>, Stamp>, monitor: &'a dyn Monitor) -> Result<Box<dyn Capture + 'a>> {
        let walk = Walk::begin(&self.roots, &self.options.exclude)?;
        Ok(Box::new(FilesCapture::new(walk, &self.options.sqlite, known, monitor)))
    }
}
