//! Restores many plain files at once: writes them under hidden names, makes them durable together, then gives them
//! their names.
//!
//! The order is that of a single file: all new bytes, attributes and kept names are durable before the first file gets
//! its name. One sync of the file system replaces the syncs of all files and directories. If the system cannot do that
//! reliably, each file is synced by itself. After a power cut each name has the old file, the new one or none, and
//! hidden files may be left, which do no harm.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::File;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use super::tree::{Inside, Tree};
use crate::engine::place::Placed;
use crate::engine::place::keep::Kept;
use crate::engine::place::target::{Named, Target, failed};
use crate::engine::place::temp::rename_new;
use crate::error::Result;
use crate::recorded::FileMeta;

/// A file of a batch, before it has its name.
pub(crate) struct Member {
    target: Target,
    inside: Inside,
    /// Its hidden name until then.
    hidden: OsString,
    /// Whether another file has the name now.
    has_old: bool,
    /// Whether the hidden file may exist.
    made: AtomicBool,
}

impl Member {
    /// The path that it will have.
    pub fn path(&self) -> &Path {
        &self.target.path
    }

    fn hidden(&self) -> Result<Named> {
        self.target.beside(&self.hidden)
    }
}

impl Tree<'_> {
    /// The place of a file as a member of a batch. `None` if it cannot be a member, because its directory lies on
    /// another file system than the tree: one sync would not cover it.
    ///
    /// # Errors
    /// As [`Tree::file`].
    pub(crate) fn member(&self, name: &[u8]) -> Result<Option<Member>> {
        let (target, inside) = self.place(name)?;
        if self.whole.is_some() && !self.is_covered(inside) {
            return Ok(None);
        }
        // In a directory that was just made there is nothing, so a look for each file is saved.
        let has_old = !inside.is_new && target.metadata()?.is_some();
        if has_old {
            self.refuse_directory(&target)?;
        }
        let hidden = self.hidden.beside(&target);
        Ok(Some(Member { target, inside, hidden, has_old, made: AtomicBool::new(false) }))
    }

    /// Makes the hidden file of a member, empty.
    ///
    /// # Errors
    /// [`crate::Error::Destination`].
    pub(crate) fn begin(&self, member: &Member) -> Result<File> {
        let made = self.placement.disk.create_new(member.hidden()?.held(), 0o600);
        let file = made.map_err(|e| failed(&member.target.path, "make a temporary file beside it", e))?;
        member.made.store(true, Ordering::Relaxed);
        Ok(file)
    }

    /// Ends the writing of a member: sets its attributes, and syncs it if the batch is not synced as a whole.
    ///
    /// # Errors
    /// [`crate::Error::Destination`].
    pub(crate) fn complete(&self, member: &Member, file: &File, meta: Option<FileMeta>) -> Result<()> {
        self.placement.dress_file(file, &member.target, meta, true)?;
        if self.whole.is_none() {
            self.placement
                .disk
                .sync_file(file, member.hidden()?.held())
                .map_err(|e| failed(&member.target.path, "make the new one durable", e))?;
        }
        Ok(())
    }

    /// Removes the hidden file of a member.
    pub(crate) fn discard(&self, member: &Member) {
        if member.made.swap(false, Ordering::Relaxed) {
            // It is harmless if it stays.
            let _ = member.hidden().map(|hidden| self.placement.disk.remove_file(hidden.held()));
        }
    }

    /// Makes complete members durable, and then gives them their names. Old files are kept. The results are in the
    /// order of the members.
    ///
    /// # Errors
    /// If they cannot be made durable. Then none of them has got its name.
    pub(crate) fn name_all(&self, members: &[&Member]) -> Result<Vec<Result<Placed>>> {
        // Second names for the old files come first, so that the same sync makes them durable.
        let keep = |member: &&Member| match member.has_old {
            true => self.placement.keep_if_there_unsynced(&member.target),
            false => Ok(Kept::default()),
        };
        let kept: Vec<Result<Kept>> = members.iter().map(keep).collect();
        if let Err(error) = self.sync_batch(members, &kept) {
            kept.iter().flatten().for_each(|kept| self.placement.forget(kept));
            members.iter().for_each(|member| self.discard(member));
            return Err(error);
        }
        Ok(members.iter().zip(kept).map(|(member, kept)| self.name_one(member, kept)).collect())
    }

    /// Makes the new files and the kept names durable.
    fn sync_batch(&self, members: &[&Member], kept: &[Result<Kept>]) -> Result<()> {
        let disk = self.placement.disk;
        if let Some(whole) = &self.whole {
            return disk.sync_filesystem(&whole.dir, &self.root).map_err(|e| failed(&self.root, "make the new files in it durable", e));
        }
        // The files were synced one by one (see `complete`). Each directory with kept names is synced once.
        let with_kept = members.iter().zip(kept).filter(|(_, kept)| kept.as_ref().is_ok_and(|kept| !kept.is_empty()));
        let targets: BTreeMap<&Path, &Target> = with_kept.map(|(member, _)| (member.target.below(), &member.target)).collect();
        let sync = |target: &Target| target.sync_dir(disk).map_err(|e| failed(&target.dir, "make the kept names in it durable", e));
        targets.into_values().try_for_each(sync)
    }

    /// Gives a durable member its name.
    fn name_one(&self, member: &Member, kept: Result<Kept>) -> Result<Placed> {
        let kept = kept.inspect_err(|_| self.discard(member))?;
        let (disk, target) = (self.placement.disk, &member.target);
        let rename = || -> Result<()> {
            let (from, to) = (member.hidden()?, target.named()?);
            // If nothing was kept, the name must be free. A file that somebody has put there meanwhile is not replaced.
            let renamed = if kept.is_empty() { rename_new(disk, &from, &to) } else { disk.rename(from.held(), to.held()) };
            renamed.map_err(|e| failed(&target.path, "rename the new one to it", e))
        };
        if let Err(error) = rename() {
            self.discard(member);
            return Err(self.placement.put_back(target, &kept, error));
        }
        member.made.store(false, Ordering::Relaxed);
        self.note(target.below(), member.inside);
        Ok(Placed { path: target.path.clone(), kept: kept.paths(), ..Placed::default() })
    }
}
