//! Writes files as far as their bytes can be read. A file with losses never gets the name of the whole one, so nothing
//! can take it for whole.

use std::cell::Cell;
use std::ffi::OsStr;
use std::fs::File;
use std::io::ErrorKind;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::tree::Tree;
use crate::engine::place::dress::holes_of;
use crate::engine::place::target::{Target, failed};
use crate::error::{Error, Result};
use crate::recorded::FileMeta;

/// The suffix of a file with losses.
pub(crate) const SALVAGED: &str = ".salvaged";
/// The most names that are tried, with `.1`, `.2` and so on added.
const COUNTER_MAX: u32 = 10_000;

/// How a file is filled.
pub(crate) struct Filler<'f> {
    /// Writes the bytes that can be read into a file of zeros. Says whether these are all.
    pub fill: &'f dyn Fn(&File) -> Result<bool>,
    /// Looks at a file with losses before it gets its name. It lies at this path.
    pub look: &'f mut dyn FnMut(&Path) -> Result<()>,
    /// Whether this name, relative to the root, is that of another stream.
    pub is_taken: &'f dyn Fn(&[u8]) -> bool,
}

impl Tree<'_> {
    /// Whether the directory is empty.
    ///
    /// # Errors
    /// [`Error::Destination`] if it cannot be read.
    pub(crate) fn is_empty(&self) -> Result<bool> {
        let mut names = std::fs::read_dir(self.dirs.root().itself()).map_err(|e| failed(&self.root, "look into this directory", e))?;
        Ok(names.next().is_none())
    }

    /// Writes a file of `len_bytes` bytes and gives its path. A whole file gets its name. A file with losses gets
    /// [`SALVAGED`], and a number if needed, added to its name, and no mode bits or attributes that would give rights
    /// to a user who runs it. Nothing that is there is replaced.
    ///
    /// # Errors
    /// [`Error::Destination`] for a name that leads out of the tree or is taken; and errors of `filler`.
    pub(crate) fn salvage(&self, name: &[u8], len_bytes: u64, meta: Option<FileMeta>, filler: Filler<'_>) -> Result<PathBuf> {
        let (target, inside) = self.place(name)?;
        let is_whole = Cell::new(false);
        let fill = |file: &File| (filler.fill)(file).map(|whole| is_whole.set(whole));
        // At least one hole is announced, so that no space is reserved: lost bytes stay holes.
        let mut temp = self.placement.write_temp(&target, len_bytes, holes_of(meta.as_ref()).max(1), 0, &fill)?;
        if !is_whole.get() {
            (filler.look)(temp.place.held())?;
        }
        let meta = match is_whole.get() {
            true => meta,
            false => meta.map(FileMeta::without_attributes),
        };
        self.placement.dress_file(&temp.file, &target, meta, is_whole.get())?;
        if !self.is_covered(inside) {
            temp.sync()?;
        }
        for counter in 0..COUNTER_MAX {
            let place = match (is_whole.get(), counter) {
                (true, 0) => target.clone(),
                (true, _) => break,
                (false, 0) => target.kept(SALVAGED),
                (false, counter) => target.kept(&format!("{SALVAGED}.{counter}")),
            };
            if place.metadata()?.is_some() || (!is_whole.get() && (filler.is_taken)(name_of(&place).as_os_str().as_bytes())) {
                continue;
            }
            match temp.rename_new(&place.named()?) {
                Ok(()) => {
                    self.note(place.below(), inside);
                    return Ok(place.path);
                }
                Err(e) if e.kind() == ErrorKind::AlreadyExists => {}
                Err(e) => return Err(failed(&place.path, "rename the new one to it", e)),
            }
        }
        Err(Error::destination(&target.path, "something has this name already; nothing was changed"))
    }
}

/// The name of a place, relative to the root.
fn name_of(place: &Target) -> PathBuf {
    place.below().join(place.path.file_name().unwrap_or(OsStr::new("")))
}
