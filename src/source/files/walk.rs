//! Walking the trees lazily, in the order of names.

use std::collections::HashSet;
use std::fs::Metadata;
use std::io::ErrorKind;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use walkdir::{IntoIter, WalkDir};

use crate::error::{Error, Result};

/// A path that was given.
#[derive(Debug, Clone)]
pub(super) struct Root {
    /// Canonical.
    pub(super) path: PathBuf,
    pub(super) is_dir: bool,
    /// What names in it begin with; empty for a directory given alone.
    pub(super) prefix: Vec<u8>,
}

impl Root {
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

    /// Makes sure that it can be read, whatever may be the case with what is in it.
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
    /// How deep it lies below its root.
    pub(super) depth: usize,
    /// Its own, not what a link points to.
    pub(super) metadata: Metadata,
}

/// Goes through all trees; of a directory being listed only the names are in memory.
pub(super) struct Walk<'a> {
    roots: std::slice::Iter<'a, Root>,
    current: Option<(&'a Root, IntoIter)>,
    /// Device and inode of what is left out.
    excluded: HashSet<(u64, u64)>,
}

impl<'a> Walk<'a> {
    pub(super) fn begin(roots: &'a [Root], exclude: &[PathBuf]) -> Result<Self> {
        roots.iter().try_for_each(Root::check)?;
        // What is not there cannot be met.
        let id_of = |path: &PathBuf| std::fs::metadata(path).ok().map(|metadata| (metadata.dev(), metadata.ino()));
        Ok(Self { roots: roots.iter(), current: None, excluded: exclude.iter().filter_map(id_of).collect() })
    }

    fn open(&mut self) -> Option<(&'a Root, IntoIter)> {
        let root = self.roots.next()?;
        let below = usize::from(root.prefix.is_empty());
        Some((root, WalkDir::new(&root.path).min_depth(below).follow_links(false).sort_by_file_name().into_iter()))
    }
}

impl Iterator for Walk<'_> {
    /// An entry, or the path that cannot be looked at and why.
    type Item = std::result::Result<Entry, (PathBuf, String)>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let (root, mut walk) = match self.current.take() {
                Some(current) => current,
                None => self.open()?,
            };
            let Some(found) = walk.next() else { continue };
            let looked = found.and_then(|found| {
                let metadata = found.metadata();
                let left_out = metadata.as_ref().is_ok_and(|metadata| self.excluded.contains(&(metadata.dev(), metadata.ino())));
                // Of a directory that has vanished the walk would only say once more that it cannot be listed.
                if found.file_type().is_dir() && (left_out || metadata.is_err()) {
                    walk.skip_current_dir();
                }
                Ok((!left_out).then_some((found, metadata?)))
            });
            self.current = Some((root, walk));
            match looked {
                Ok(None) => {}
                Ok(Some((found, metadata))) => {
                    let name = name_in(root, found.path());
                    return Some(Ok(Entry { name, depth: found.depth(), path: found.into_path(), metadata }));
                }
                Err(error) => return Some(Err((error.path().unwrap_or(&root.path).to_path_buf(), why(error)))),
            }
        }
    }
}

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

/// Why something was skipped, from what the system says.
pub(super) fn refusal(error: &std::io::Error) -> String {
    match error.kind() {
        ErrorKind::NotFound => "skipped: it vanished while the backup ran".to_owned(),
        _ => format!("skipped: {error}"),
    }
}
