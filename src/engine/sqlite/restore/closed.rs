//! A database onto the place of a closed one.
//!
//! The order, in which a kill or a power cut between any two steps leaves the old database, the new one, or both beside an absent name:
//!
//! 1. Write, sync and check the new file under a hidden name.
//! 2. *The old one opens*: exclusive lock; its journal is rolled back or its WAL checkpointed, so that one file holds all; sync; second
//!    name; sync the directory; remove the void side files; sync the directory; rename the new file over NAME; sync the directory.
//! 3. *It does not open, and side files with content lie beside it*: second names for it and for them; sync; remove NAME; sync, because
//!    a file system may forget one removal and keep a later one; remove the side files; sync; rename; sync.
//! 4. *There is none*: side files that lie there all the same get kept names and are removed before the rename, so that they are never
//!    replayed onto the new database.

use std::fs::File;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use rusqlite::{Connection, InterruptHandle};

use super::DatabaseOptions;
use super::holder::{self, Grip};
use crate::engine::place::dress::holes_of;
use crate::engine::place::keep::Kept;
use crate::engine::place::target::{SIDES, Target, failed};
use crate::engine::place::temp::Temp;
use crate::engine::place::{Fill, Findings, Placed, Placement};
use crate::engine::sqlite::check::{Depth, check};
use crate::engine::stamp::meta_of;
use crate::engine::stoppable::stoppable;
use crate::error::{Error, Result};
use crate::fs::beneath;
use crate::recorded::FileMeta;

/// What becomes of the old name.
#[derive(Clone, Copy, PartialEq, Eq)]
enum OldName {
    /// Nothing has it.
    Absent,
    /// The new file is renamed over it.
    Replace,
    /// It goes before the side files that belong to it and to nothing else.
    ClearFirst,
}

impl Placement<'_> {
    /// A first look at a destination, as [`Placement::place_database`] begins with: for callers that have several, before the first.
    ///
    /// # Errors
    /// [`Error::Busy`] when what is there is in use as far as that can be seen; [`Error::Destination`] when nothing can be put there.
    pub fn refuse_if_used(&self, dest: &Path) -> Result<()> {
        let target = Target::resolve(dest)?;
        target.refuse_mount_point()?;
        match target.metadata()? {
            Some(old) => holder::refuse_if_used(&target.path, &old, holder::open_file(&target.named()?).as_ref()),
            None => Ok(()),
        }
    }

    /// Puts a new database at `dest`, which may be absent, a closed database or any other file; a symbolic link is refused. The order
    /// of steps is described at the top of `database.rs`.
    ///
    /// `len_bytes` is the size of the new database. `meta` is applied as far as possible (the owner by root only; what fails is a
    /// warning); without it the new file gets owner and mode of the old one, or mode 0600.
    ///
    /// # Errors
    /// [`Error::Busy`] when the old database is in use; [`Error::Destination`] when there is no space, no permission or the new bytes do
    /// not pass the check; [`Error::Cancelled`]; and what `fill` returns. In all of these what was there is as before and the new
    /// bytes are gone, unless the message says otherwise.
    pub fn place_database(
        &self,
        dest: &Path,
        len_bytes: u64,
        meta: Option<FileMeta>,
        fill: &Fill<'_>,
        options: DatabaseOptions,
    ) -> Result<Placed> {
        self.place_database_at(&Target::resolve(dest)?, len_bytes, meta, fill, options)
    }

    /// The same for a place in a held directory.
    pub(in crate::engine) fn place_database_at(
        &self,
        target: &Target,
        len_bytes: u64,
        meta: Option<FileMeta>,
        fill: &Fill<'_>,
        options: DatabaseOptions,
    ) -> Result<Placed> {
        target.refuse_mount_point()?;
        let old = target.metadata()?;
        if let Some(old) = &old {
            holder::refuse_if_used(&target.path, old, holder::open_file(&target.named()?).as_ref())?;
        }
        let temp = self.write_temp(target, len_bytes, holes_of(meta.as_ref()), 0, fill)?;
        self.dress(&temp, target, meta, false)?;
        let findings = self.settle(&temp, target, options)?;
        Ok(Placed { findings, ..self.install_database(target, temp)? })
    }

    /// Gives the new file its attributes: its own, else those of the file that it replaces.
    pub(in crate::engine) fn dress(&self, temp: &Temp<'_>, target: &Target, meta: Option<FileMeta>, special_bits: bool) -> Result<()> {
        self.dress_file(&temp.file, target, meta, special_bits)
    }

    /// The same for a new file that has another hidden name.
    pub(in crate::engine) fn dress_file(&self, file: &File, target: &Target, meta: Option<FileMeta>, special_bits: bool) -> Result<()> {
        if let Some(meta) = meta {
            self.apply_meta(file, &target.path, &meta, special_bits);
        } else if let Some(old) = target.metadata()?.filter(|old| !old.is_symlink()) {
            let now = file.metadata().map_err(|e| failed(&target.path, "read the attributes of the new one", e))?;
            let old = self.attributes_of(&target.named()?, &old);
            self.apply_meta(file, &target.path, &FileMeta { mtime_ns: meta_of(&now).mtime_ns, ..old }, false);
        }
        Ok(())
    }

    /// Makes the new database durable and checks it, both at once: one waits for the disk, the other for the processor.
    pub(in crate::engine) fn settle(&self, temp: &Temp<'_>, target: &Target, options: DatabaseOptions) -> Result<Findings> {
        // An empty file is an empty database.
        let empty = temp.file.metadata().map_err(|e| failed(&temp.place.path, "read its size", e))?.len() == 0;
        if empty || !options.check {
            temp.sync()?;
            return Ok(Findings::default());
        }
        self.monitor.phase("checking", None);
        // Of the connection that checks.
        let handle = Mutex::new(None);
        let stop = || handle.lock().unwrap_or_else(PoisonError::into_inner).iter().for_each(InterruptHandle::interrupt);
        let opened = |conn: &Connection| *handle.lock().unwrap_or_else(PoisonError::into_inner) = Some(conn.get_interrupt_handle());
        let (synced, checked) = std::thread::scope(|scope| {
            let check = scope.spawn(|| stoppable(self.monitor, stop, || check(temp.place.held(), Depth::Quick, &opened)));
            (temp.sync(), check.join())
        });
        synced?;
        if self.monitor.cancelled() {
            return Err(Error::Cancelled);
        }
        let findings = checked.map_err(|panic| Error::panicked("checking a database", panic))?;
        let tell = |what: &str, lines: &[String]| {
            if !lines.is_empty() {
                self.monitor.warn(&format!("{}: {what}: {}", target.path.display(), lines.join("; ")));
            }
        };
        let damage = findings.damage.join("; ");
        match (findings.damage.is_empty(), options.accept_damaged) {
            (true, _) => {}
            (false, true) => tell("the restored database is damaged, as it was when it was captured", &findings.damage),
            (false, false) => return Err(Error::unsound(&target.path, damage)),
        }
        tell("every byte is as recorded, but the content breaks rules of its own schema", &findings.warnings);
        tell("every byte is as recorded, but SQLite cannot check this without the database's application", &findings.not_checked);
        Ok(findings)
    }

    fn install_database(&self, target: &Target, temp: Temp<'_>) -> Result<Placed> {
        let grip = match target.metadata()? {
            Some(old) => Some(holder::take(target, &old, holder::open_file(&target.named()?))?),
            None => None,
        };
        let full_sides = match &grip {
            Some(Grip::Whole { .. }) => Vec::new(),
            _ => target.full_sides()?,
        };
        let mut suffixes = full_sides.clone();
        if let Some(grip) = &grip {
            suffixes.insert(0, "");
            if let Some(file) = grip.file() {
                // Whoever wrote it may have done so without syncing; the kept name must not be emptier than the file was.
                self.disk.sync_file(file, target.named()?.held()).map_err(|e| failed(&target.path, "make the old one durable", e))?;
            }
        }
        for side in &full_sides {
            self.sync_side(target, side)?;
        }
        let kept = match suffixes.is_empty() {
            true => Kept::default(),
            false => self.keep(target, &suffixes, grip.as_ref().and_then(Grip::file))?,
        };
        let old_name = match (&grip, full_sides.is_empty()) {
            (None, _) => OldName::Absent,
            (Some(_), true) => OldName::Replace,
            (Some(_), false) => OldName::ClearFirst,
        };
        if let Err(cause) = self.swap(target, temp, old_name) {
            return Err(self.put_back(target, &kept, cause));
        }
        self.settle_name(target, &kept)?;
        Ok(Placed { path: target.path.clone(), kept: kept.paths(), ..Placed::default() })
    }

    fn sync_side(&self, target: &Target, side: &str) -> Result<()> {
        let place = target.with_suffix(side)?;
        let synced = beneath::open_file(place.held()).and_then(|file| self.disk.sync_file(&file, place.held()));
        synced.map_err(|e| failed(&place.path, "make it durable before it is kept", e))
    }

    /// Clears the place and renames the new file into it. On failure the caller puts back what is missing.
    fn swap(&self, target: &Target, mut temp: Temp<'_>, old_name: OldName) -> Result<()> {
        let place = target.named()?;
        if old_name == OldName::ClearFirst {
            self.disk.remove_file(place.held()).map_err(|e| failed(&target.path, "take the old one away", e))?;
            self.sync_directory(target)?;
        }
        let mut removed = false;
        for side in SIDES {
            let beside = target.with_suffix(side)?;
            if beside.metadata()?.is_some() {
                self.disk.remove_file(beside.held()).map_err(|e| failed(&beside.path, "take it away", e))?;
                removed = true;
            }
        }
        if removed {
            self.sync_directory(target)?;
        }
        let renamed = match old_name {
            OldName::Replace => temp.rename(&place),
            OldName::Absent | OldName::ClearFirst => temp.rename_new(&place),
        };
        renamed.map_err(|e| failed(&target.path, "rename the new one to it", e))
    }

    fn sync_directory(&self, target: &Target) -> Result<()> {
        target.sync_dir(self.disk).map_err(|e| failed(&target.dir, "make its names durable", e))
    }
}
