//! The catalog's file: how it is named, made, opened and replaced, by any number of processes at once and without locks.
//!
//! The file is called `<stem>.<generation>.db`; the stem comes from the repository and its location. A file is built under another name and
//! then linked into place, so that every process sees it whole or not at all. A file that cannot be trusted is not repaired or emptied: the
//! next generation is made, and the old file is removed. Processes that have the old file open keep working with it. A name is not used
//! again while anything is left of an earlier file of that name, so a write-ahead log never meets a database that it does not belong to.

use std::fs::{self, DirBuilder, File};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::limits::Limit;
use rusqlite::{Connection, OpenFlags, params};
use zeroize::Zeroizing;

use super::block::PAGE_BYTES;
use super::fault::Fault;
use super::sum::{Kind, Sums};
use crate::id::{RepositoryId, SnapshotId, random_hex};

/// Marks the file as ours: "icec" (<https://sqlite.org/pragma.html#pragma_application_id>).
const APPLICATION_ID: i32 = 0x6963_6563;

/// Changes with every change of the tables or blocks. A file of another version is replaced, never converted.
const SCHEMA_VERSION: i32 = 5;

const SCHEMA: &str = "
CREATE TABLE meta (one INTEGER PRIMARY KEY, repository BLOB, location BLOB, key BLOB, replaced INTEGER, sum INTEGER);
CREATE TABLE pack (num INTEGER PRIMARY KEY AUTOINCREMENT, id BLOB UNIQUE, size INTEGER, trailer_offset INTEGER, chunks INTEGER,
    sum INTEGER);
CREATE TABLE trailer (num INTEGER PRIMARY KEY, data BLOB, sum INTEGER);
CREATE TABLE run (num INTEGER PRIMARY KEY, entries INTEGER, target INTEGER, sum INTEGER);
CREATE TABLE block (key INTEGER PRIMARY KEY, data BLOB);
CREATE TABLE snapshot (num INTEGER PRIMARY KEY, id BLOB UNIQUE, record BLOB, sum INTEGER);
CREATE TABLE stamp_set (num INTEGER PRIMARY KEY, source BLOB UNIQUE, snapshot BLOB, sum INTEGER);
CREATE TABLE stamp (stamp_set INTEGER, name BLOB, block BLOB, sum INTEGER, PRIMARY KEY (stamp_set, name)) WITHOUT ROWID;
CREATE TABLE reading (id BLOB PRIMARY KEY, time INTEGER, sound INTEGER, sum INTEGER) WITHOUT ROWID;
";

/// The largest value in a row. It also bounds how much memory SQLite takes because of a damaged length.
pub(super) const VALUE_BYTES_MAX: usize = 256 << 20;

/// The same limit as SQLite takes it. 256 MiB fits.
const VALUE_LIMIT: i32 = VALUE_BYTES_MAX as i32;

/// How long to wait for another process that writes. A write takes well under a second unless that process is suspended. After the wait a
/// backup goes on without the catalog, so the wait may be short.
const BUSY_WAIT: Duration = Duration::from_secs(4);

/// Page cache of one connection, KiB.
const WRITER_CACHE_KIB: i64 = 8192;
const READER_CACHE_KIB: i64 = 2048;

/// Pages in the write-ahead log before SQLite copies it back into the database (4 MiB).
const LOG_PAGES: i64 = 1024;

/// A log up to this long is left when the catalog is closed: the next process reads it in a few milliseconds, while copying it back would cost
/// every small backup several syncs. A longer log is copied back and cut. The bound is not above [`LOG_PAGES`]: a process that opens a longer
/// log does not know which part was copied back, and would copy it again with every write.
const LOG_BYTES_LEFT: u64 = 4 << 20;

/// How often to look again when the file vanishes between listing and opening, because another process replaced it.
const OPEN_TRIES: usize = 16;

/// More than the number of different statements.
const STATEMENTS_KEPT: usize = 64;

/// Hex digits of the stem.
const STEM_DIGITS: usize = 32;

/// After the stem, the start of the name of a file that is being built. Random digits follow.
const UNFINISHED: &str = "new-";

/// Never creates a file. No lock around a connection is needed, because each one is used by one thread at a time.
const FLAGS: OpenFlags = OpenFlags::SQLITE_OPEN_READ_WRITE.union(OpenFlags::SQLITE_OPEN_NO_MUTEX);

/// Where a catalog is kept, and for which repository.
pub(super) struct Place {
    dir: PathBuf,
    secret: Zeroizing<[u8; blake3::KEY_LEN]>,
    stem: String,
    repository: RepositoryId,
    location: String,
}

/// The use of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    Writer,
    Reader,
}

/// An opened file.
pub(super) struct Opened {
    pub(super) conn: Connection,
    pub(super) sums: Sums,
    pub(super) generation: u64,
    /// Whether it was made because an earlier file could not be used.
    pub(super) replaced: bool,
}

/// Our files in a directory listing.
struct Listing {
    /// The generation in use, if any.
    current: Option<u64>,
    /// The first generation above everything that is left of any file.
    next: u64,
    /// All our files with their generations, the one in use among them. Unfinished files have no generation.
    others: Vec<(PathBuf, Option<u64>)>,
}

impl Place {
    pub(super) fn new(dir: &Path, repository: RepositoryId, location: &str, secret: &[u8; blake3::KEY_LEN]) -> Self {
        let mut hasher = blake3::Hasher::new_derive_key("icecore 2026 catalog file name");
        hasher.update(repository.as_bytes()).update(location.as_bytes());
        let stem = hasher.finalize().to_hex().chars().take(STEM_DIGITS).collect();
        Place { dir: dir.to_path_buf(), secret: Zeroizing::new(*secret), stem, repository, location: location.to_string() }
    }

    pub(super) fn path(&self, generation: u64) -> PathBuf {
        self.dir.join(format!("{}.{generation}.db", self.stem))
    }

    /// The sums of a file that has this random key.
    fn sums(&self, key: &[u8; blake3::KEY_LEN]) -> Sums {
        Sums::new(*blake3::keyed_hash(&self.secret, key).as_bytes())
    }

    /// Opens the catalog. Makes it if it is missing, and replaces it if it cannot be used.
    pub(super) fn open(&self) -> Result<Opened, Fault> {
        DirBuilder::new().recursive(true).mode(0o700).create(&self.dir)?;
        let mut replaced = false;
        for _ in 0..OPEN_TRIES {
            let listing = self.list()?;
            // Other processes may make or replace the file at the same time, so after each step the directory is listed again.
            let Some(generation) = listing.current else {
                self.create(listing.next, false)?;
                continue;
            };
            match self.connect(generation) {
                Ok(opened) => {
                    // Unfinished files stay: another process may be building one.
                    remove(listing.others.iter().filter(|(_, other)| other.is_some_and(|other| other < generation)));
                    return Ok(Opened { replaced: replaced || opened.replaced, ..opened });
                }
                // A file that is only busy is good. Replacing it would throw away the work of the other process.
                Err(busy @ Fault::Busy(_)) => return Err(busy),
                // Another process replaced it after the listing.
                Err(_) if !self.path(generation).exists() => {}
                Err(_) => {
                    self.supersede(generation)?;
                    replaced = true;
                }
            }
        }
        Err(Fault::Other("it is replaced over and over by other processes".into()))
    }

    /// The rows of snapshots in the file in use, without their sums.
    pub(super) fn peek(&self) -> Result<Vec<(SnapshotId, Vec<u8>)>, Fault> {
        let Some(generation) = self.list()?.current else { return Ok(Vec::new()) };
        let conn = self.connection(generation, Role::Reader)?;
        let mut statement = conn.prepare("SELECT id, record FROM snapshot ORDER BY num")?;
        let rows = statement.query_map([], |row| Ok((SnapshotId(row.get(0)?), row.get(1)?)))?;
        Ok(rows.collect::<rusqlite::Result<_>>()?)
    }

    /// Makes the generation after a bad one, unless another process did so already. The bad file is removed only when its successor is there.
    pub(super) fn supersede(&self, bad: u64) -> Result<(), Fault> {
        let listing = self.list()?;
        if listing.current.is_some_and(|current| current > bad) { Ok(()) } else { self.create(listing.next.max(bad + 1), true) }
    }

    fn list(&self) -> Result<Listing, Fault> {
        let mut listing = Listing { current: None, next: 1, others: Vec::new() };
        for entry in fs::read_dir(&self.dir)? {
            let entry = entry?;
            let name = entry.file_name();
            let Some(rest) = name.to_str().and_then(|name| name.strip_prefix(&self.stem)?.strip_prefix('.')) else { continue };
            if rest.starts_with(UNFINISHED) {
                listing.others.push((entry.path(), None));
                continue;
            }
            // A number that is too large for counting is not one of our files.
            let Some((digits, suffix)) = rest.split_once('.') else { continue };
            let Some(generation) = digits.parse::<u32>().ok().map(u64::from) else { continue };
            listing.next = listing.next.max(generation + 1);
            if suffix == "db" {
                listing.current = listing.current.max(Some(generation));
            }
            listing.others.push((entry.path(), Some(generation)));
        }
        // A higher generation has a log but no database, so a database of that name would meet a foreign log. The name is spent.
        listing.current = listing.current.filter(|current| current + 1 == listing.next);
        Ok(listing)
    }

    /// Makes an empty catalog of this generation, unless another process is first, and removes what is left of earlier ones.
    fn create(&self, generation: u64, replaced: bool) -> Result<(), Fault> {
        let unfinished = self.dir.join(format!("{}.{UNFINISHED}{}", self.stem, random_hex::<16>()?));
        // A hard link fails if the name exists, so of several processes exactly one makes the generation.
        let made = self.build(&unfinished, replaced).and_then(|()| Ok(fs::hard_link(&unfinished, self.path(generation))?));
        let _ = fs::remove_file(&unfinished);
        let listing = self.list()?;
        let current = listing.current.unwrap_or(0);
        if current < generation {
            // The generation is not there, so neither this process nor a faster one made it.
            return made.and(Err(Fault::Other("it was removed while it was made".into())));
        }
        // Unfinished files go too. If another process is still building one, it fails there, lists again and finds this generation.
        remove(listing.others.iter().filter(|(_, other)| other.is_none_or(|other| other < current)));
        Ok(())
    }

    fn build(&self, path: &Path, replaced: bool) -> Result<(), Fault> {
        File::options().write(true).create_new(true).mode(0o600).open(path)?;
        let mut conn = Connection::open_with_flags(path, FLAGS)?;
        self.fill(&mut conn, replaced)?;
        // The mode is stored in the file. From here on readers and a writer do not wait for each other.
        conn.execute_batch("PRAGMA journal_mode = WAL;")?;
        conn.close().map_err(|(_, error)| Fault::from(error))
    }

    /// A catalog without a file. Only this connection sees it.
    pub(super) fn in_memory(&self) -> Result<Opened, Fault> {
        let mut conn = Connection::open_in_memory()?;
        let sums = self.fill(&mut conn, false)?;
        conn.set_limit(Limit::SQLITE_LIMIT_LENGTH, VALUE_LIMIT)?;
        conn.set_prepared_statement_cache_capacity(STATEMENTS_KEPT);
        Ok(Opened { conn, sums, generation: 0, replaced: false })
    }

    fn fill(&self, conn: &mut Connection, replaced: bool) -> Result<Sums, Fault> {
        // No other process sees the file before it is whole, so it needs no journal. page_size works only before anything is written.
        conn.execute_batch(&format!("PRAGMA page_size = {PAGE_BYTES}; PRAGMA synchronous = OFF; PRAGMA journal_mode = MEMORY;"))?;
        let mut key = [0; blake3::KEY_LEN];
        getrandom::fill(&mut key).map_err(|error| Fault::Other(error.to_string()))?;
        let tx = conn.transaction()?;
        tx.execute_batch(SCHEMA)?;
        tx.execute_batch(&format!("PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {SCHEMA_VERSION};"))?;
        let sum = self.meta_sum(&self.sums(&key), &tx, replaced)?;
        let location = self.location.as_bytes();
        tx.execute(
            "INSERT INTO meta (one, repository, location, key, replaced, sum) VALUES (1, ?1, ?2, ?3, ?4, ?5)",
            params![self.repository.as_bytes(), location, key, replaced, sum],
        )?;
        tx.commit()?;
        Ok(self.sums(&key))
    }

    /// The sum over everything that makes this file the catalog of this repository, including the definitions of the tables.
    fn meta_sum(&self, sums: &Sums, conn: &Connection, replaced: bool) -> Result<i64, Fault> {
        let mut statement = conn.prepare("SELECT coalesce(sql, name) FROM sqlite_schema ORDER BY name")?;
        let tables: Vec<String> = statement.query_map([], |row| row.get(0))?.collect::<rusqlite::Result<_>>()?;
        let tables = tables.join("\n");
        let version = SCHEMA_VERSION.to_be_bytes();
        let parts = [&version, self.repository.as_bytes().as_slice(), self.location.as_bytes(), &[replaced.into()], tables.as_bytes()];
        Ok(sums.of(Kind::Meta, &parts))
    }

    /// Opens one generation for writing and verifies that it is ours. A file that is cut short or has a broken root page is found here; other
    /// damage is found where it is read.
    fn connect(&self, generation: u64) -> Result<Opened, Fault> {
        let conn = self.connection(generation, Role::Writer)?;
        let number = |name| conn.pragma_query_value(None, name, |row| row.get::<_, i32>(0));
        if number("application_id")? != APPLICATION_ID || number("user_version")? != SCHEMA_VERSION {
            return Err(Fault::damaged("not a catalog of this version"));
        }
        let mut select = conn.prepare("SELECT key, replaced, sum, repository, location FROM meta WHERE one = 1")?;
        let (sums, replaced, sum) = select.query_row([], |row| {
            let (sums, replaced) = (self.sums(&row.get(0)?), row.get(1)?);
            let same = row.get_ref(3)?.as_blob()? == self.repository.as_bytes() && row.get_ref(4)?.as_blob()? == self.location.as_bytes();
            Ok((sums, replaced, same.then_some(row.get::<_, i64>(2)?)))
        })?;
        drop(select);
        if Some(self.meta_sum(&sums, &conn, replaced)?) != sum {
            return Err(Fault::damaged("not the catalog of this repository"));
        }
        // A file that replaced another one counts as rebuilt only until something is in it again.
        let filled: bool = conn.query_row("SELECT EXISTS (SELECT 1 FROM pack) OR EXISTS (SELECT 1 FROM snapshot)", [], |row| row.get(0))?;
        Ok(Opened { conn, sums, generation, replaced: replaced && !filled })
    }

    /// Opens another connection to the file that `sums` belongs to.
    pub(super) fn connect_reader(&self, generation: u64, sums: &Sums) -> Result<Connection, Fault> {
        if !self.path(generation).exists() {
            return Err(Fault::damaged("another process found it damaged and replaced it"));
        }
        let conn = self.connection(generation, Role::Reader)?;
        let key: [u8; blake3::KEY_LEN] = conn.query_row("SELECT key FROM meta WHERE one = 1", [], |row| row.get(0))?;
        // The generation's name may have been removed and made again. Then the file has another random key.
        if self.sums(&key) == *sums { Ok(conn) } else { Err(Fault::damaged("another file has taken its place")) }
    }

    /// Copies a long log back before the last connection goes. If other processes still use the file, this does nothing, and they do it later.
    pub(super) fn close(&self, generation: u64, writer: &Connection) {
        let mut log = self.path(generation).into_os_string();
        log.push("-wal");
        if fs::metadata(log).is_ok_and(|log| log.len() > LOG_BYTES_LEFT) {
            let _ = writer.busy_timeout(Duration::ZERO).and_then(|()| writer.execute_batch("PRAGMA wal_checkpoint(TRUNCATE)"));
        }
    }

    fn connection(&self, generation: u64, role: Role) -> Result<Connection, Fault> {
        let conn = Connection::open_with_flags(self.path(generation), FLAGS)?;
        conn.busy_timeout(BUSY_WAIT)?;
        conn.set_limit(Limit::SQLITE_LIMIT_LENGTH, VALUE_LIMIT)?;
        // Otherwise SQLite copies the log back whenever the last connection closes; see LOG_BYTES_LEFT.
        conn.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
        conn.set_prepared_statement_cache_capacity(STATEMENTS_KEPT);
        let cache_kib = if role == Role::Writer { WRITER_CACHE_KIB } else { READER_CACHE_KIB };
        // NORMAL: a power cut may lose the last transactions but never tears the file. It syncs only when the log is copied back.
        conn.execute_batch(&format!(
            "PRAGMA trusted_schema = OFF; PRAGMA cell_size_check = ON; PRAGMA mmap_size = 0; PRAGMA temp_store = MEMORY;
             PRAGMA cache_size = -{cache_kib}; PRAGMA synchronous = NORMAL; PRAGMA wal_autocheckpoint = {LOG_PAGES};
             PRAGMA journal_size_limit = {LOG_BYTES_LEFT}; PRAGMA query_only = {};",
            u8::from(role == Role::Reader)
        ))?;
        Ok(conn)
    }
}

/// Removes files that nobody needs. A file that cannot be removed stays, and the next open tries again.
fn remove<'a>(files: impl Iterator<Item = &'a (PathBuf, Option<u64>)>) {
    for (path, _) in files {
        let _ = fs::remove_file(path);
    }
}
