//! Writes a database into one that other processes have open, through SQLite itself.
//!
//! The old content is copied after the write lock on the destination is taken and before the first page is written. No
//! writer can commit in between, so the copy is exactly what the new content replaces. Writers wait as long as both
//! copies take. Readers of a WAL database go on reading; readers of a rollback-journal database wait.
//!
//! The new content appears as one transaction. If the restore is killed midway, the next process that opens the
//! database rolls the journal back or ignores the unfinished WAL.

use std::fs::{File, Metadata};
use std::io::{self, Seek};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Duration;

use rusqlite::backup::{Backup, StepResult};
use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags};

use super::DatabaseOptions;
use super::holder::{in_use_live, is_busy};
use crate::engine::place::target::{Named, Target, failed};
use crate::engine::place::temp::Temp;
use crate::engine::place::{Fill, Placed, Placement};
use crate::engine::sqlite::bounds::refuse_boundless_journal;
use crate::engine::sqlite::check::open_immutable;
use crate::engine::sqlite::held::{HeldConnection, open_same};
use crate::error::{Error, Result};
use crate::fs::beneath;

/// Bytes copied between two looks at whether the user wants to stop.
const STEP_BYTES: u64 = 4 << 20;

/// The byte of a database file that is 2 in WAL mode
/// (<https://sqlite.org/fileformat2.html#file_format_version_numbers>).
const WAL_FLAG_OFFSET: u64 = 18;

impl Placement<'_> {
    /// Replaces the content of the SQLite database at `dest`, which others may have open, by a new one of `len_bytes`
    /// bytes. The old content is kept as a database of its own. Owner, mode and journal mode of the destination stay.
    /// The result has the same pages as the new database, except for the change counters in its header.
    ///
    /// # Errors
    /// [`Error::Busy`] if the write lock cannot be had within the busy timeout; [`Error::Destination`] if there is no
    /// database at `dest`, or if it is in WAL mode and its page size differs from the new one; and the errors of
    /// [`Placement::place_database`]. After all of them the destination has its old content.
    pub fn place_live(&self, dest: &Path, len_bytes: u64, fill: &Fill<'_>, options: DatabaseOptions) -> Result<Placed> {
        let target = Target::resolve(dest)?;
        let old =
            target.metadata()?.ok_or_else(|| Error::destination(dest, "there is no database to write into; restore without --live"))?;
        // Opened before all connections and closed after them, because closing it drops their locks.
        let place = target.named()?;
        let file = beneath::open_file(place.held()).map_err(|e| failed(&target.path, "open it", e))?;
        let temp = self.write_temp(&target, len_bytes, 0, space_besides(&target, &old, len_bytes)?, fill)?;
        let findings = self.settle(&temp, &target, options)?;

        let mut live = open_live(&target, &file, options.busy_timeout)?;
        let new = open_new(&temp, &live).map_err(|e| sqlite_failed(&target, "read the new database", &e))?;
        check_page_sizes(&target, &live, &new)?;
        let kept = self.transfer(&target, &old, &file, (&new, &mut live), options.busy_timeout)?;
        drop(new);
        target.sync_dir(self.disk).map_err(|e| {
            Error::half_done(
                &target.path,
                format!("the new content is in place, but a power cut now may undo that: {e}; the old lies at {}", kept.path.display()),
            )
        })?;
        Ok(Placed { path: target.path.clone(), kept: vec![kept.path], findings })
    }

    /// Locks the destination, keeps its content, and writes the new content into it. Gives the place of the kept
    /// content.
    fn transfer(
        &self,
        target: &Target,
        old: &Metadata,
        file: &File,
        (new, live): (&Connection, &mut Connection),
        busy_timeout: Duration,
    ) -> Result<Named> {
        let backup = Backup::new(new, live).map_err(|e| sqlite_failed(target, "write into it", &e))?;
        // A step of 0 pages locks the destination and copies nothing. From here on nobody can commit to it.
        match backup.step(0) {
            Ok(StepResult::Busy | StepResult::Locked) => return Err(in_use_live(&target.path)),
            Ok(_) => {}
            Err(e) => return Err(sqlite_failed(target, "lock it", &e)),
        }
        let kept = self.keep_content(target, old, file, busy_timeout)?;
        self.copy_pages(target, new, &backup).inspect_err(|_| {
            // Dropping the backup rolls back, so the destination still has its old content, and the kept copy is not
            // needed.
            let _ = self.disk.remove_file(kept.held());
        })?;
        Ok(kept)
    }

    /// Copies all pages of the new database, in steps, so that the user can stop it.
    fn copy_pages(&self, target: &Target, new: &Connection, backup: &Backup<'_, '_>) -> Result<()> {
        let page_size = pragma(new, "page_size").map_err(|e| sqlite_failed(target, "read the new database", &e))?;
        let page_bytes = u64::try_from(page_size).unwrap_or(0).max(512);
        let pages_per_step = i32::try_from(STEP_BYTES / page_bytes).unwrap_or(1).max(1);
        self.monitor.phase("writing", u64::try_from(backup.progress().pagecount).ok().map(|pages| pages * page_bytes));
        loop {
            if self.monitor.cancelled() {
                return Err(Error::Cancelled);
            }
            match backup.step(pages_per_step) {
                Ok(StepResult::Done) => return Ok(()),
                Ok(StepResult::More) => self.monitor.advance(u64::from(pages_per_step.unsigned_abs()) * page_bytes),
                Ok(_) => return Err(in_use_live(&target.path)),
                Err(e) => return Err(sqlite_failed(target, "write into it", &e)),
            }
        }
    }

    /// Makes a durable copy of the committed content, under a kept name. The caller holds the write lock.
    fn keep_content(&self, target: &Target, old: &Metadata, file: &File, busy_timeout: Duration) -> Result<Named> {
        let temp = Temp::create(self.disk, target)?;
        // With a WAL, a part of the content is outside the file, and only SQLite can put both together.
        if uses_wal(target, file)? {
            copy_content((&target.named()?, file), &temp, busy_timeout).map_err(|e| sqlite_failed(target, "keep a copy of it", &e))?;
        } else {
            // The lock keeps all other connections out, and the journal was rolled back when it was taken. So the file
            // is the content.
            let mut source = file;
            let copied = source.rewind().and_then(|()| io::copy(&mut source, &mut &temp.file));
            copied.map_err(|e| failed(&target.path, "keep a copy of it", e))?;
        }
        self.apply_meta(&temp.file, &target.path, &self.attributes_of(&target.named()?, old), true);
        temp.sync()?;
        self.keep_copy(target, temp)
    }
}

/// The space that is needed besides the new file: for the kept copy, and for a journal of the old pages or a WAL of the
/// new ones.
fn space_besides(target: &Target, old: &Metadata, len_bytes: u64) -> Result<u64> {
    let wal = target.with_suffix("-wal")?.metadata()?.map_or(0, |meta| meta.len());
    let journal = old.len().max(len_bytes);
    // In a WAL, 24 bytes come with each page of at least 512 (<https://sqlite.org/fileformat2.html#walformat>): less
    // than a twentieth.
    Ok(old.len().saturating_add(wal).saturating_add(journal).saturating_add(journal / 20))
}

/// Flags for reading and writing an existing database.
const TO_WRITE: OpenFlags = OpenFlags::SQLITE_OPEN_READ_WRITE.union(OpenFlags::SQLITE_OPEN_NO_MUTEX);

/// Opens the destination.
fn open_live(target: &Target, file: &File, busy_timeout: Duration) -> Result<HeldConnection> {
    let place = target.named()?;
    refuse_boundless_journal(place.held(), &target.path)?;
    let open = || -> rusqlite::Result<HeldConnection> {
        let conn = open_same(place.dir(), place.held(), file, TO_WRITE)?;
        conn.busy_timeout(busy_timeout)?;
        // Some pragmas read the schema. With this setting SQLite skips entries that only the application understands.
        conn.execute_batch("PRAGMA writable_schema=ON")?;
        // The first access shows whether it is a database, and rolls back a hot journal.
        pragma(&conn, "schema_version")?;
        Ok(conn)
    };
    open().map_err(|e| sqlite_failed(target, "open it as a database (restore without --live instead)", &e))
}

/// Opens the new database as the source of the backup. For an empty one, a database with a single page takes its place:
/// without any page, SQLite would do the whole backup in the step that shall only lock.
fn open_new(temp: &Temp<'_>, live: &Connection) -> rusqlite::Result<Connection> {
    let new = open_immutable(temp.place.held())?;
    new.execute_batch("PRAGMA writable_schema=ON")?;
    if pragma(&new, "page_count")? > 0 {
        return Ok(new);
    }
    let page_size = pragma(live, "page_size")?;
    let empty = Connection::open_in_memory()?;
    empty.execute_batch(&format!("PRAGMA page_size={page_size}; PRAGMA user_version=1; PRAGMA user_version=0"))?;
    Ok(empty)
}

/// Refuses to change the page size of a database in WAL mode. SQLite cannot do that, and says so only at the end of the
/// work (backup.c, SQLITE_READONLY).
fn check_page_sizes(target: &Target, live: &Connection, new: &Connection) -> Result<()> {
    let read = || -> rusqlite::Result<(String, i64, i64)> {
        let mode = live.query_row("PRAGMA journal_mode", [], |row| row.get(0))?;
        Ok((mode, pragma(live, "page_size")?, pragma(new, "page_size")?))
    };
    let (mode, live_size, new_size) = read().map_err(|e| sqlite_failed(target, "read its page size", &e))?;
    if mode == "wal" && live_size != new_size {
        let detail = format!(
            "its page size is {live_size} bytes, that of the snapshot {new_size}, and SQLite cannot change it in an open WAL database; \
             stop what uses it and restore without --live"
        );
        return Err(Error::destination(&target.path, detail));
    }
    Ok(())
}

/// Whether committed content may be outside the file. SQLite uses a WAL that lies there even if the header says
/// otherwise (pager.c, pagerOpenWalIfPresent).
fn uses_wal(target: &Target, file: &File) -> Result<bool> {
    let mut flag = [0];
    let flagged = match file.read_exact_at(&mut flag, WAL_FLAG_OFFSET) {
        Ok(()) => flag == [2],
        Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => false,
        Err(e) => return Err(failed(&target.path, "read its header", e)),
    };
    Ok(flagged || target.with_suffix("-wal")?.metadata()?.is_some())
}

/// Copies the committed content of a WAL database into a file of its own.
fn copy_content((from, file): (&Named, &File), to: &Temp<'_>, busy_timeout: Duration) -> rusqlite::Result<()> {
    let source = open_same(from.dir(), from.held(), file, TO_WRITE)?;
    // Closing this connection must leave the WAL of the destination alone.
    source.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
    source.busy_timeout(busy_timeout)?;
    // Opened as the file that was made, so that one that somebody has put in its place is refused. It needs no journal:
    // after a crash nobody uses it, since it has no name yet.
    let mut copy = open_same(to.place.dir(), to.place.held(), &to.file, TO_WRITE)?;
    copy.execute_batch("PRAGMA locking_mode=EXCLUSIVE; PRAGMA journal_mode=OFF")?;
    let backup = Backup::new(&source, &mut copy)?;
    match backup.step(-1)? {
        StepResult::Done => Ok(()),
        _ => Err(rusqlite::Error::SqliteFailure(rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_BUSY), None)),
    }
}

fn pragma(conn: &Connection, name: &str) -> rusqlite::Result<i64> {
    conn.query_row(&format!("PRAGMA {name}"), [], |row| row.get(0))
}

fn sqlite_failed(target: &Target, action: &str, error: &rusqlite::Error) -> Error {
    match is_busy(error) {
        true => in_use_live(&target.path),
        false => Error::destination(&target.path, format!("cannot {action}: {error}; its content is unchanged")),
    }
}
