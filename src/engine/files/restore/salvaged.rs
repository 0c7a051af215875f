//! Files that are written as far as their bytes can be had. Such a file never takes the name of the whole one.

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

/// What is added to the name of a file with losses.
pub(crate) const SALVAGED: &str = ".salvaged";
/// Names that are tried, `.1`, `.2` and so on added, before the directory is taken for broken.
const COUNTER_MAX: u32 = 10_000;

/// How a file is filled.
pub(crate) struct Filler<'f> {
    /// Writes what can be had into a file of zeros; whether that is all.
    pub fill: &'f dyn Fn(&File) -> Result<bool>,
    /// Looks at a file with losses before it has its name, at this path.
    pub look: &'f mut dyn FnMut(&Path) -> Result<()>,
    /// Whether this name, from the root, is that of another stream.
    pub is_taken: &'f dyn Fn(&[u8]) -> bool,
}

impl Tree<'_> {
    /// Whether nothing is in the directory.
    ///
    /// # Errors
    /// [`Error::Destination`] when it cannot be read.
    pub(crate) fn is_empty(&self) -> Result<bool> {
        let mut names = std::fs::read_dir(self.dirs.root().itself()).map_err(|e| failed(&self.root, "look into this directory", e))?;
        Ok(names.next().is_none())
    }

    /// Writes a file of `len_bytes` bytes under its name, or, if it is not whole, under that name with [`SALVAGED`] and perhaps a number added, without
    /// bits and attributes that give rights to who runs it. Gives its path. Nothing that is there is replaced.
    ///
    /// # Errors
    /// [`Error::Destination`] for a name that leads out of the tree or is there already, and what `filler` fails with.
    pub(crate) fn salvage(&self, name: &[u8], len_bytes: u64, meta: Option<FileMeta>, filler: Filler<'_>) -> Result<PathBuf> {
        let (target, inside) = self.place(name)?;
        let is_whole = Cell::new(false);
        let fill = |file: &File| (filler.fill)(file).map(|whole| is_whole.set(whole));
        // What is lost stays a hole, so no space is taken beforehand.
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

/// The name of a place, from the root.
fn name_of(place: &Target) -> PathBuf {
    place.below().join(place.path.file_name().unwrap_or(OsStr::new("")))
}
