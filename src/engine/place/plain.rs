//! Puts a plain file in place and keeps the old one.
//!
//! Guarantee: the new file is complete and durable before the old one is touched. If the new one cannot take the name,
//! the old one gets it back. If there was no file, none that appears meanwhile is replaced.
//! Relies on callers of `place_file_at` to sync the directory afterwards.

use std::path::Path;

use super::dress::holes_of;
use super::keep::Kept;
use super::target::{Target, failed};
use super::{Fill, Placed, Placement};
use crate::error::Result;
use crate::recorded::FileMeta;

impl Placement<'_> {
    /// Puts a new plain file at `dest` and keeps the old one. A symbolic link there is refused. `len_bytes` is the size
    /// of the new file. `meta` is applied as far as possible; without it the new file gets owner and mode of the old
    /// one, or mode 0600.
    ///
    /// # Errors
    /// As [`Placement::place_database`], except that a file in use is no error: a process that has it open goes on with
    /// the kept file.
    pub fn place_file(&self, dest: &Path, len_bytes: u64, meta: Option<FileMeta>, fill: &Fill<'_>) -> Result<Placed> {
        let target = Target::resolve(dest)?;
        let placed = self.place_file_at(&target, len_bytes, meta, fill)?;
        self.settle_name(&target, &placed)?;
        Ok(Placed { path: target.path, kept: placed.paths(), ..Placed::default() })
    }

    /// Like [`Placement::place_file`], without the last sync of the directory.
    pub(in crate::engine) fn place_file_at(
        &self,
        target: &Target,
        len_bytes: u64,
        meta: Option<FileMeta>,
        fill: &Fill<'_>,
    ) -> Result<Kept> {
        target.refuse_mount_point()?;
        // The new file is complete, dressed and durable before the old one is touched.
        let mut temp = self.write_temp(target, len_bytes, holes_of(meta.as_ref()), 0, fill)?;
        self.dress(&temp, target, meta, true)?;
        temp.sync()?;
        let place = target.named()?;
        let kept = self.keep_if_there(target)?;
        // If there was no file, none may be replaced: one that has appeared meanwhile has no second name.
        let renamed = if kept.is_empty() { temp.rename_new(&place) } else { temp.rename(&place) };
        match renamed {
            Ok(()) => Ok(kept),
            Err(e) => Err(self.put_back(target, &kept, failed(&target.path, "rename the new one to it", e))),
        }
    }

    /// Gives a kept name to the file or symbolic link at the target, if there is one.
    pub(in crate::engine) fn keep_if_there(&self, target: &Target) -> Result<Kept> {
        match target.metadata()? {
            Some(_) => self.keep(target, &[""], None),
            None => Ok(Kept::default()),
        }
    }

    /// Like [`Placement::keep_if_there`], but the kept name is not durable yet.
    pub(in crate::engine) fn keep_if_there_unsynced(&self, target: &Target) -> Result<Kept> {
        match target.metadata()? {
            Some(_) => self.keep_unsynced(target, &[""], None),
            None => Ok(Kept::default()),
        }
    }
}
