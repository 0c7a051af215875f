//! Looks at all destinations of a tree before the first one is touched, so that a restore which cannot succeed changes
//! nothing.
//!
//! It is only a look. Things may change afterwards, and some refusals cannot be foreseen, so the restore itself checks
//! everything again.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{Access, AtFlags, CWD};

use super::tree::{not_a_directory, parts, refuse_name};
use crate::engine::place::target::{Target, lookup, name_bytes_max};
use crate::engine::sqlite::restore::holder;
use crate::error::{Error, Result};
use crate::fs::beneath::{Dir, Dirs};

/// The kind of an entry to be restored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum What {
    /// A SQLite database.
    Database,
    /// A file, or a link.
    File,
    /// A directory.
    Directory,
}

/// What lies in the place of a directory.
#[derive(Debug, Clone)]
enum There {
    /// Nothing. The directory will be made.
    Nothing,
    /// A directory. With the reason, if no new name can be made in it.
    Directory(Option<String>),
    /// Something that cannot be entered: its path and the reason.
    Blocked(PathBuf, String),
}

/// Looks at the places of names in a directory, one after the other.
pub(crate) struct Ahead {
    root: PathBuf,
    dirs: Arc<Dirs>,
    name_bytes_max: usize,
    /// The directories on the way to the last name, from the root down.
    way: Vec<(PathBuf, There)>,
    /// Databases that are there, with the numbers that the caller gave.
    databases: Vec<(u64, Target)>,
}

impl Ahead {
    /// Begins to look at names in this directory, which exists.
    ///
    /// # Errors
    /// [`Error::Destination`] if it cannot be used.
    pub fn of(root: &Path) -> Result<Self> {
        let dir = Dir::find(root).map_err(|e| Error::destination(root, format!("cannot use this directory: {e}; nothing was changed")))?;
        let root = dir.path().to_path_buf();
        let there = look_into(&root, &There::Directory(None));
        let way = vec![(root.clone(), there)];
        Ok(Ahead { name_bytes_max: name_bytes_max(&root), way, dirs: Dirs::new(dir), root, databases: Vec::new() })
    }

    /// Looks whether an entry can be restored under this name, as far as that can be seen. `number` is the caller's,
    /// for [`Ahead::used`].
    ///
    /// # Errors
    /// The reason why it cannot.
    pub fn look(&mut self, number: u64, name: &[u8], what: What) -> Result<()> {
        let (parents, last) = parts(name).map_err(|why| refuse_name(&self.root, name, why))?;
        let mut dir = self.root.clone();
        // Names come in order, so most directories on the way are those of the last name.
        for (above, part) in parents.iter().enumerate() {
            dir.push(OsStr::from_bytes(part));
            self.refuse_long(&dir, part)?;
            if self.way.get(above + 1).is_none_or(|(path, _)| *path != dir) {
                self.way.truncate(above + 1);
                let there = self.way.last().map_or(There::Nothing, |(_, above)| look_into(&dir, above));
                self.way.push((dir.clone(), there));
            }
        }
        self.way.truncate(parents.len() + 1);
        let path = dir.join(OsStr::from_bytes(last));
        self.refuse_long(&path, last)?;
        match self.way.last().map(|(_, there)| there) {
            Some(There::Blocked(at, why)) => Err(Error::destination(at, why)),
            Some(There::Directory(refusal)) => {
                let refusal = refusal.clone();
                self.look_at(number, path, what, refusal.as_deref())
            }
            _ => Ok(()),
        }
    }

    /// The existing databases that are in use, with their numbers. The processes of the system are looked at once for
    /// all databases.
    pub fn used(&self) -> Vec<(u64, Error)> {
        if self.databases.is_empty() {
            return Vec::new();
        }
        let open = holder::open_anywhere();
        self.databases.iter().filter_map(|(number, target)| Some((*number, refuse_used(target, &open)?))).collect()
    }

    fn refuse_long(&self, path: &Path, part: &[u8]) -> Result<()> {
        match part.len() > self.name_bytes_max {
            true => Err(Error::destination(
                path,
                format!("its name has {} bytes, and this file system takes {}", part.len(), self.name_bytes_max),
            )),
            false => Ok(()),
        }
    }

    fn look_at(&mut self, number: u64, path: PathBuf, what: What, refusal: Option<&str>) -> Result<()> {
        let there = lookup(&path)?;
        match (&there, what) {
            (Some(there), What::Directory) if there.is_dir() => return Ok(()),
            (Some(there), What::Directory) => return Err(not_a_directory(&path, there.file_type())),
            (Some(there), _) if there.is_dir() => {
                return Err(Error::destination(&path, "is a directory, and a file should go there; move it away first"));
            }
            (Some(there), What::Database) if there.is_symlink() => {
                let why = "is a symbolic link; remove it, or restore this database onto its target by name";
                return Err(Error::destination(&path, why));
            }
            (Some(there), What::Database) if there.is_file() => {
                let below = path.parent().and_then(|dir| dir.strip_prefix(&self.root).ok()).unwrap_or(Path::new(""));
                let target = Target::new(&self.dirs, below.to_path_buf(), path.file_name().unwrap_or_default());
                self.databases.push((number, target));
            }
            _ => {}
        }
        refusal.map_or(Ok(()), |why| Err(Error::destination(&path, why)))
    }
}

fn refuse_used(target: &Target, open: &HashSet<(u64, u64)>) -> Option<Error> {
    let place = target.named().ok()?;
    let (path, meta) = (&target.path, place.metadata().ok().flatten()?);
    let file = holder::open_file(&place);
    let refused = match open.contains(&(meta.dev(), meta.ino())) {
        true => holder::refuse_if_used(path, &meta, file.as_ref()),
        false => file.as_ref().map_or(Ok(()), |file| holder::refuse_if_locked(path, file)),
    };
    refused.err()
}

/// What lies in the place of a directory. `above` is what lies in the place of its parent.
fn look_into(dir: &Path, above: &There) -> There {
    let refusal = match above {
        There::Directory(refusal) => refusal,
        There::Nothing => return There::Nothing,
        There::Blocked(..) => return above.clone(),
    };
    match lookup(dir) {
        Ok(Some(there)) if there.is_dir() => There::Directory(refuse_unwritable(dir)),
        Ok(Some(there)) => blocked(not_a_directory(dir, there.file_type()), dir),
        Ok(None) => refusal.as_ref().map_or(There::Nothing, |why| There::Blocked(dir.to_path_buf(), why.clone())),
        Err(error) => blocked(error, dir),
    }
}

fn blocked(error: Error, dir: &Path) -> There {
    match error {
        Error::Destination { path, detail } => There::Blocked(path, detail),
        other => There::Blocked(dir.to_path_buf(), other.to_string()),
    }
}

/// Why names cannot be made in a directory, if they cannot.
fn refuse_unwritable(dir: &Path) -> Option<String> {
    let asked = rustix::fs::accessat(CWD, dir, Access::WRITE_OK | Access::EXEC_OK, AtFlags::EACCESS);
    // Some systems cannot be asked. There the restore itself finds out.
    match asked {
        Err(e @ (rustix::io::Errno::ACCESS | rustix::io::Errno::ROFS | rustix::io::Errno::PERM)) => {
            Some(format!("cannot be written, because its directory cannot be written: {e}; what was there is unchanged"))
        }
        _ => None,
    }
}
