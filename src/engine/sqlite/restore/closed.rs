//! Puts a database in the place of a closed one.
//!
//! The order of steps makes it safe. A kill or a power cut between any two steps leaves the old database under NAME, or
//! the new one, or no NAME with both lying beside it.
//!
//! 1. Write, sync and check the new file under a hidden name.
//! 2. *The old one opens.* Take the exclusive lock. Roll back its journal or checkpoint its WAL, so that one file holds
//!    everything; sync it. Give it a second name; sync the directory. Remove the side files, which are void now; sync
//!    the directory. Rename the new file over NAME; sync the directory.
//! 3. *The old one does not open, and side files with content lie beside it.* Give second names to it and to them;
//!    sync. Remove NAME; sync, because a file system may lose one removal in a power cut and keep a later one. Remove
//!    the side files; sync. Rename; sync.
//! 4. *There is no old one.* Side files without a database may still lie there. They get second names and are removed
//!    before the rename, so that SQLite never replays them onto the new database.

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

/// What happens to the old name.
#[derive(Clone, Copy, PartialEq, Eq)]
enum OldName {
    /// There is no file of this name.
    Absent,
    /// The new file is renamed over it.
    Replace,
    /// It is removed first, then its side files with content: without their database they can do no harm.
    ClearFirst,
}

impl Placement<'_> {
    /// The first look at a destination, with which [`Placement::place_database`] begins. Callers with several
    /// destinations look at all of them before they change the first.
    ///
    /// # Errors
    /// [`Error::Busy`] if the file there is visibly in use; [`Error::Destination`] if nothing can be put there.
    pub fn refuse_if_used(&self, dest: &Path) -> Result<()> {
        let target = Target::resolve(dest)?;
        target.refuse_mount_point()?;
        match target.metadata()? {
            Some(old) => holder::refuse_if_used(&target.path, &old, holder::open_file(&target.named()?).as_ref()),
            None => Ok(()),
        }
    }

    /// Puts a new database at `dest`. There may be nothing, a closed database or any other file; a symbolic link is
    /// refused. The order of steps is described at the top of this file.
    ///
    /// `len_bytes` is the size of the new database. `meta` is applied as far as possible; attributes that cannot be set
    /// are a warning (only root can set the owner). Without `meta` the new file gets owner and mode of the old one, or
    /// mode 0600.
    ///
    /// # Errors
    /// [`Error::Busy`] if the old database is in use; [`Error::Destination`] if there is no space or no permission;
    /// [`Error::Unsound`] if the new bytes do not pass the check; [`Error::Cancelled`]; and errors of `fill`. After all
    /// of these the destination is as before and the new bytes are removed, unless the message says otherwise.
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

    /// As [`Placement::place_database`], for a place in a held directory.
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

    /// Gives the new file its attributes: the recorded ones, else those of the file that it replaces.
    pub(in crate::engine) fn dress(&self, temp: &Temp<'_>, target: &Target, meta: Option<FileMeta>, special_bits: bool) -> Result<()> {
        self.dress_file(&temp.file, target, meta, special_bits)
    }

    /// As [`Placement::dress`], for a new file under another hidden name.
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

    /// Makes the new database durable and checks it. Both happen at once, because one waits for the disk and the other
    /// for the processor.
    pub(in crate::engine) fn settle(&self, temp: &Temp<'_>, target: &Target, options: DatabaseOptions) -> Result<Findings> {
        // An empty file is an empty database. There is nothing to check.
        let empty = temp.file.metadata().map_err(|e| failed(&temp.place.path, "read its size", e))?.len() == 0;
        if empty || !options.check {
            temp.sync()?;
            return Ok(Findings::default());
        }
        self.monitor.phase("checking", None);
        // Interrupts the connection that checks, if the user stops the restore.
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

    /// Keeps the old database under another name and gives its name to the new one: steps 2 to 4 above.
    fn install_database(&self, target: &Target, temp: Temp<'_>) -> Result<Placed> {
        // Looked at again: writing and checking the new file took time. The lock is held until the new file has the
        // name.
        let grip = match target.metadata()? {
            Some(old) => Some(holder::take(target, &old, holder::open_file(&target.named()?))?),
            None => None,
        };
        // Side files of a database that we have opened are void now. All others may have content that exists nowhere
        // else.
        let full_sides = match &grip {
            Some(Grip::Whole { .. }) => Vec::new(),
            _ => target.full_sides()?,
        };
        let mut suffixes = full_sides.clone();
        if let Some(grip) = &grip {
            suffixes.insert(0, "");
            if let Some(file) = grip.file() {
                // Its writer may not have synced it. After a power cut the kept file must have all that the file had.
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

    /// Clears the place and renames the new file into it. After an error the caller puts back what is missing.
    fn swap(&self, target: &Target, mut temp: Temp<'_>, old_name: OldName) -> Result<()> {
        let place = target.named()?;
        if old_name == OldName::ClearFirst {
            // Removed before its side files: an old database without its journal or log would look whole and be wrong.
            // The sync keeps that order also after a power cut.
            self.disk.remove_file(place.held()).map_err(|e| failed(&target.path, "take the old one away", e))?;
            self.sync_directory(target)?;
        }
        // Side files must be gone before the new database has the name, and must not come back: SQLite would replay
        // them onto it.
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
            // The name must be free. If somebody has taken it meanwhile, that is an error and their file stays.
            OldName::Absent | OldName::ClearFirst => temp.rename_new(&place),
        };
        renamed.map_err(|e| failed(&target.path, "rename the new one to it", e))
    }

    fn sync_directory(&self, target: &Target) -> Result<()> {
        target.sync_dir(self.disk).map_err(|e| failed(&target.dir, "make its names durable", e))
    }
}
