//! The catalog: a local SQLite index over all packs and snapshots of one repository. It can be deleted at any time.
//!
//! It does not decrypt or decode anything: trailers and snapshot records are plain bytes to it. It finds chunks by the first 8 bytes of
//! their ids, so its answers are candidates, which the layer above verifies. A wrong or missing answer costs a rebuild, or a chunk that is
//! stored twice. It never costs data.
//!
//! - **Shape**: tables of packs and trailers, and *runs*: sorted entries, 11 bytes a chunk, in blocks of one page. Each addition makes a
//!   run; 8 runs of about one size are merged into one. A look-up reads one block in each run.
//! - **Damage**: rows carry sums, because SQLite notices damage only to the structure of its pages. Damage gives [`crate::Error::Catalog`],
//!   and the next open finds a fresh, empty file ([`Catalog::is_damaged`]).
//! - **Sharing**: any number of threads and processes may use one catalog at once, and a killed process leaves it whole. Look-ups never
//!   wait. It relies on a local file system, because SQLite keeps the log's index in shared memory (<https://sqlite.org/wal.html>).
//! - **Memory**: 8 MiB for writing, 2 MiB for each of up to 8 readers, and 24 bytes for each chunk of one addition, at most 2^20 chunks.

mod block;
mod fault;
mod file;
mod packs;
mod readings;
mod records;
mod sorted_runs;
mod stamps;
mod sum;
#[cfg(test)]
mod tests;

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use rusqlite::{Connection, Transaction, TransactionBehavior};

use crate::error::{Error, Result};
use crate::id::{ChunkId, PackId, RepositoryId, SnapshotId, SourceId};
use crate::store::format::snapshot::PackRef;
use fault::Fault;
use file::{Opened, Place, VALUE_BYTES_MAX};
use sum::Sums;

/// The most chunks in one transaction of [`Catalog::add_packs`], and so in one new run: 16 MiB of entries. A single pack may have more.
const ADD_CHUNKS_MAX: usize = 1 << 20;

/// Reader connections that are kept open for the next look-up.
const READERS_KEPT: usize = 8;

/// The number of a pack in one catalog file. It is shorter than the pack's id, and no other pack ever gets it. Other files do not know it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PackNum(pub u32);

/// A pack to be added.
#[derive(Debug, Clone, Copy)]
pub struct NewPack<'a> {
    /// Its name and size.
    pub pack: PackRef,
    /// The ids of its chunks in the order of its trailer: a chunk's place here is its [`ChunkAt::index`].
    pub ids: &'a [ChunkId],
    /// Its trailer. [`Catalog::trailer`] gives the same bytes back.
    pub trailer: &'a [u8],
}

/// A pack that the catalog has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KnownPack {
    /// Its number in this catalog.
    pub num: PackNum,
    /// Its name and size.
    pub pack: PackRef,
    /// How many chunks it has.
    pub chunks: u32,
}

/// Where a chunk may be. The caller compares the chunk's whole id with the pack's trailer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ChunkAt {
    /// The pack.
    pub pack: PackNum,
    /// The chunk's place in the pack's trailer.
    pub index: u32,
}

/// The result of the last reading of all stored bytes of a pack, on this machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PackReading {
    /// When it was read, nanoseconds since 1970 UTC.
    pub time_ns: i64,
    /// Whether all bytes were sound.
    pub is_sound: bool,
}

/// Names the stamps that are kept of a source's streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StampSet {
    source: SourceId,
    /// The snapshot that they were taken for.
    pub snapshot: SnapshotId,
    num: i64,
}

/// A stream's name and its stamp.
pub type NamedStamp = (Vec<u8>, Vec<u8>);

/// The snapshot records in the catalog of this repository at this location, if it has one, unverified: for hints, without the secret.
///
/// # Errors
/// [`Error::Catalog`] if the file cannot be read; [`Error::Busy`].
pub fn peek(dir: &Path, repository: RepositoryId, location: &str) -> Result<Vec<(SnapshotId, Vec<u8>)>> {
    let place = Place::new(dir, repository, location, &[0; blake3::KEY_LEN]);
    place.peek().map_err(|fault| fault.into_error(dir))
}

/// The part of a chunk's id that the catalog knows: the first 8 bytes as a big-endian number.
pub fn prefix(id: &ChunkId) -> u64 {
    let [a, b, c, d, e, f, g, h, ..] = id.0;
    u64::from_be_bytes([a, b, c, d, e, f, g, h])
}

/// An open catalog. All methods may be called from several threads at once.
///
/// Errors of all methods: [`Error::Catalog`] if the file is damaged (see [`Catalog::is_damaged`]) or the machine fails;
/// [`Error::Busy`] if another process holds the catalog for 4 seconds, which happens only if that process was suspended in the middle of a
/// write. Reading methods never wait for writers. A writing method that fails has changed nothing, except [`Catalog::add_packs`].
pub struct Catalog {
    place: Place,
    path: PathBuf,
    generation: u64,
    in_memory: bool,
    sums: Sums,
    rebuilt: bool,
    damaged: AtomicBool,
    writer: Mutex<Connection>,
    readers: Mutex<Vec<Connection>>,
}

impl Catalog {
    /// Opens the catalog of this repository at this location in `dir`. The directory is made with mode 0700 if it is missing. A file that is
    /// missing, damaged, or of another version or repository is made afresh; that is not an error.
    /// `secret` is a part of the key of the sums. Someone who can write the file but does not have the secret can only damage it, which is noticed.
    pub fn open(dir: &Path, repository: RepositoryId, location: &str, secret: &[u8; blake3::KEY_LEN]) -> Result<Catalog> {
        let place = Place::new(dir, repository, location, secret);
        let opened = place.open().map_err(|fault| fault.into_error(dir))?;
        Ok(Self::of(place.path(opened.generation), place, opened, false))
    }

    /// An empty catalog without a file, for a machine that has no place for files. It takes about 100 bytes of memory a chunk.
    pub fn in_memory(repository: RepositoryId, location: &str) -> Result<Catalog> {
        let path = PathBuf::from("(in memory)");
        let place = Place::new(&path, repository, location, &[0; blake3::KEY_LEN]);
        let opened = place.in_memory().map_err(|fault| fault.into_error(&path))?;
        Ok(Self::of(path, place, opened, true))
    }

    fn of(path: PathBuf, place: Place, opened: Opened, in_memory: bool) -> Catalog {
        Catalog {
            path,
            place,
            generation: opened.generation,
            in_memory,
            sums: opened.sums,
            rebuilt: opened.replaced,
            damaged: AtomicBool::new(false),
            writer: Mutex::new(opened.conn),
            readers: Mutex::new(Vec::new()),
        }
    }

    /// Whether it has no file.
    pub fn is_in_memory(&self) -> bool {
        self.in_memory
    }

    /// Whether this catalog was empty when it was opened because an earlier file could not be used.
    pub fn was_rebuilt(&self) -> bool {
        self.rebuilt
    }

    /// Whether it can be written now; gives [`Error::Busy`] if another process holds it. Changes nothing.
    pub fn probe(&self) -> Result<()> {
        self.write(|_| Ok(()))
    }

    /// Whether damage was found since it was opened. Then every further call fails, and opening it again gives an empty catalog.
    pub fn is_damaged(&self) -> bool {
        self.damaged.load(Ordering::Acquire)
    }

    /// The path of its file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Gives the catalog up, as if it had found damage itself: for a caller that got a wrong answer.
    pub fn distrust(&self, detail: &str) -> Error {
        self.failed(Fault::damaged(detail))
    }

    /// Adds packs. A pack that the catalog has already stays as it is. One transaction takes about a million chunks; after an
    /// error, the first ones of `packs` may have been added. Many packs in one call are cheaper than many calls.
    pub fn add_packs(&self, packs: &[NewPack]) -> Result<()> {
        if packs.iter().any(|pack| pack.trailer.len() >= VALUE_BYTES_MAX) {
            return Err(Error::InvalidArgument(format!("a pack's trailer must be smaller than {VALUE_BYTES_MAX} bytes")));
        }
        let mut rest = packs;
        while !rest.is_empty() {
            let mut chunks = 0_usize;
            let fitting = rest.iter().take_while(|pack| {
                chunks = chunks.saturating_add(pack.ids.len());
                chunks <= ADD_CHUNKS_MAX
            });
            // At least one pack: otherwise a pack with more chunks than ADD_CHUNKS_MAX would never be added.
            let (now, later) = rest.split_at(fitting.count().max(1));
            self.write(|tx| packs::add(tx, &self.sums, now))?;
            rest = later;
        }
        self.merge()
    }

    /// Forgets these packs, so that their chunks are not found any more. Unknown ids are ignored.
    pub fn remove_packs(&self, ids: &[PackId]) -> Result<()> {
        self.write(|tx| {
            // The entries of their chunks stay in the runs. Look-ups leave them out, and the next merge drops them.
            readings::remove(tx, ids)?;
            packs::remove(tx, &self.sums, ids)
        })?;
        self.merge()
    }

    /// All packs, in the order in which they were added.
    pub fn packs(&self) -> Result<Vec<KnownPack>> {
        self.read(|conn| packs::all(conn, &self.sums))
    }

    /// The number of a pack, if it is there.
    pub fn pack_num(&self, id: &PackId) -> Result<Option<PackNum>> {
        Ok(self.read(|conn| packs::by_id(conn, &self.sums, id))?.map(|known| known.num))
    }

    /// The pack of this number, if it is there.
    pub fn pack(&self, num: PackNum) -> Result<Option<KnownPack>> {
        self.read(|conn| packs::by_num(conn, &self.sums, num))
    }

    /// The trailer of a pack as it was given to [`Catalog::add_packs`], if the pack is there.
    pub fn trailer(&self, num: PackNum) -> Result<Option<Vec<u8>>> {
        self.read(|conn| packs::trailer(conn, &self.sums, num))
    }

    /// All copies of chunks whose id starts with this [`prefix()`], in all packs that the catalog has, in no particular order.
    /// Two different chunks can share a prefix.
    pub fn find(&self, prefix: u64) -> Result<Vec<ChunkAt>> {
        self.find_many(&[prefix])?.pop().ok_or_else(|| Error::bug("the catalog was asked and gave no answer"))
    }

    /// Finds many prefixes at one instant. The answers are in the order of `prefixes`. This is much cheaper than one call of
    /// [`Catalog::find`] for each, above all when the file is not in memory.
    pub fn find_many(&self, prefixes: &[u64]) -> Result<Vec<Vec<ChunkAt>>> {
        self.read(|conn| sorted_runs::find_many(conn, &self.sums, prefixes))
    }

    /// Adds snapshot records, and replaces earlier records of the same ids.
    pub fn put_snapshots(&self, snapshots: &[(SnapshotId, Vec<u8>)]) -> Result<()> {
        if snapshots.iter().any(|(_, record)| record.len() >= VALUE_BYTES_MAX) {
            return Err(Error::InvalidArgument(format!("a snapshot record must be smaller than {VALUE_BYTES_MAX} bytes")));
        }
        self.write(|tx| records::put_snapshots(tx, &self.sums, snapshots))
    }

    /// Forgets snapshots. Unknown ids are ignored.
    pub fn remove_snapshots(&self, ids: &[SnapshotId]) -> Result<()> {
        self.write(|tx| records::remove_snapshots(tx, ids))
    }

    /// All snapshots with their records, in the order in which they were added.
    pub fn snapshots(&self) -> Result<Vec<(SnapshotId, Vec<u8>)>> {
        self.read(|conn| records::snapshots(conn, &self.sums))
    }

    /// The ids of all snapshots, sorted.
    pub fn snapshot_ids(&self) -> Result<Vec<SnapshotId>> {
        self.read(records::snapshot_ids)
    }

    /// Keeps the stamps of a source's streams, taken for this snapshot, and forgets all earlier ones of this source. `stamps` is sorted by name and
    /// has each name once.
    pub fn put_stamps(&self, source: SourceId, snapshot: SnapshotId, stamps: &mut dyn Iterator<Item = Result<NamedStamp>>) -> Result<()> {
        self.write(|tx| stamps::put(tx, &self.sums, source, snapshot, stamps))
    }

    /// The stamps that were kept last for a source, if any.
    pub fn stamps(&self, source: SourceId) -> Result<Option<StampSet>> {
        self.read(|conn| stamps::set(conn, &self.sums, source))
    }

    /// The neighbours of a name among the stamps of a set, sorted by name. Its own stamp is among them if it has one.
    pub fn stamps_around(&self, set: &StampSet, name: &[u8]) -> Result<Vec<NamedStamp>> {
        self.read(|conn| stamps::around(conn, &self.sums, set, name))
    }

    /// Remembers the results of reading these packs, in place of earlier results.
    pub fn put_readings(&self, readings: &[(PackId, PackReading)]) -> Result<()> {
        self.write(|tx| readings::put(tx, &self.sums, readings))
    }

    /// All remembered results of reading packs, sorted by the packs' ids.
    pub fn readings(&self) -> Result<Vec<(PackId, PackReading)>> {
        self.read(|conn| readings::all(conn, &self.sums))
    }

    /// Forgets everything. The numbers of packs are still not used again.
    pub fn clear(&self) -> Result<()> {
        self.write(records::clear)
    }

    /// Does the merges that are due. Each step is a transaction of its own, so that other writers get their turn in between.
    fn merge(&self) -> Result<()> {
        loop {
            match self.write(|tx| sorted_runs::merge_step(tx, &self.sums, sorted_runs::STEP_ENTRIES)) {
                Ok(true) => {}
                // Another process is writing or merging. The merge can wait for the next addition.
                Ok(false) | Err(Error::Busy { .. }) => return Ok(()),
                Err(other) => return Err(other),
            }
        }
    }

    /// Runs a transaction that writes. If `work` fails, nothing is changed.
    fn write<T>(&self, work: impl FnOnce(&Transaction) -> Result<T, Fault>) -> Result<T> {
        self.refuse_if_damaged()?;
        let mut conn = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        // Immediate, because a transaction that reads first and writes later fails if another process has written in between.
        let result = conn.transaction_with_behavior(TransactionBehavior::Immediate).map_err(Fault::from).and_then(|tx| {
            let value = work(&tx)?;
            tx.commit()?;
            Ok(value)
        });
        result.map_err(|fault| self.failed(fault))
    }

    /// Runs queries that all see one instant of the catalog.
    fn read<T>(&self, work: impl FnOnce(&Connection) -> Result<T, Fault>) -> Result<T> {
        self.refuse_if_damaged()?;
        if self.in_memory {
            let conn = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
            // No other connection can see a database in memory, so look-ups share the one that writes.
            let result = conn.unchecked_transaction().map_err(Fault::from).and_then(|tx| {
                let value = work(&conn)?;
                drop(tx);
                Ok(value)
            });
            return result.map_err(|fault| self.failed(fault));
        }
        // The lock is held only to take a connection out, so look-ups of several threads run at the same time.
        let kept = self.readers.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let conn = kept.map_or_else(|| self.place.connect_reader(self.generation, &self.sums), Ok);
        let result = conn.and_then(|conn| {
            let tx = conn.unchecked_transaction()?;
            let value = work(&tx)?;
            drop(tx);
            // Only a connection that has served is kept: after a failure the next look-up starts with a new one.
            let mut readers = self.readers.lock().unwrap_or_else(PoisonError::into_inner);
            if readers.len() < READERS_KEPT {
                readers.push(conn);
            }
            Ok(value)
        });
        result.map_err(|fault| self.failed(fault))
    }

    fn refuse_if_damaged(&self) -> Result<()> {
        if self.is_damaged() { Err(Fault::damaged("the damage was found earlier").into_error(&self.path)) } else { Ok(()) }
    }

    /// Every failure after opening goes through here. Damage makes the next generation of the file at once, and only once.
    fn failed(&self, fault: Fault) -> Error {
        if matches!(fault, Fault::Damaged(_)) && !self.damaged.swap(true, Ordering::AcqRel) && !self.in_memory {
            // If the new file cannot be made either, the disk is full or gone. The next open meets the same failure and reports it.
            let _ = self.place.supersede(self.generation);
        }
        fault.into_error(&self.path)
    }
}

impl Drop for Catalog {
    fn drop(&mut self) {
        if !self.in_memory {
            self.place.close(self.generation, self.writer.get_mut().unwrap_or_else(PoisonError::into_inner));
        }
    }
}

impl fmt::Debug for Catalog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Catalog").field("path", &self.path).field("damaged", &self.is_damaged()).finish_non_exhaustive()
    }
}
