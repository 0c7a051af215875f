//! The catalog: a local, disposable SQLite index over all packs and snapshots of one repository.
//!
//! It knows nothing of encryption and decodes nothing: trailers and snapshot records are bytes to it, and it finds chunks by the first 8
//! bytes of their ids. What it answers are candidates, which the layer above verifies; what it misses costs a rebuild or a chunk stored
//! twice, never data. It can be deleted at any time.
//!
//! - **Shape**: tables of packs and trailers, and *runs* of sorted entries, 11 bytes a chunk, in blocks of one page. Adding makes a run; as soon as
//!   there are 8 of one size they are merged. A look-up is one read per run.
//! - **Damage**: rows carry sums, because SQLite notices damage only to the structure of its pages. Whatever is found damaged, when opened
//!   or later, leads to [`crate::Error::Catalog`] and a fresh, empty file for the next open ([`Catalog::is_damaged`]).
//! - **Sharing**: any number of threads and processes may use one catalog at once; a killed one leaves it whole. Look-ups never wait. The
//!   directory must be on a local file system, because the log's index is shared memory (<https://sqlite.org/wal.html>).
//! - **Memory**: 8 MiB for writing, 2 MiB for each of up to 8 readers, 24 bytes a chunk of one addition, at most 2^20 of them at a time.

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

/// Chunks in one transaction of [`Catalog::add_packs`], so also in one new run, unless a single pack has more: 16 MiB of entries.
const ADD_CHUNKS_MAX: usize = 1 << 20;

/// Reader connections that are kept for later.
const READERS_KEPT: usize = 8;

/// A pack's number in one catalog file: shorter than its id, never used for another pack, without meaning elsewhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PackNum(pub u32);

/// A pack to be added.
#[derive(Debug, Clone, Copy)]
pub struct NewPack<'a> {
    /// Its name and size.
    pub pack: PackRef,
    /// The ids of its chunks in the order of its trailer: a chunk's place here is its [`ChunkAt::index`].
    pub ids: &'a [ChunkId],
    /// Its trailer, in whatever form [`Catalog::trailer`] is to give it back.
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

/// Where a chunk may be: the caller compares its whole id with the pack's trailer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ChunkAt {
    /// The pack.
    pub pack: PackNum,
    /// The chunk's place in the pack's trailer.
    pub index: u32,
}

/// What came out when all stored bytes of a pack were last read, on this machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PackReading {
    /// When, nanoseconds since 1970 UTC.
    pub time_ns: i64,
    /// Whether all of it was whole.
    pub is_sound: bool,
}

/// The stamps that are kept of a source's streams.
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

/// The part of a chunk's id by which the catalog finds it: its first 8 bytes as a big-endian number.
pub fn prefix(id: &ChunkId) -> u64 {
    let [a, b, c, d, e, f, g, h, ..] = id.0;
    u64::from_be_bytes([a, b, c, d, e, f, g, h])
}

/// An open catalog. All methods may be called from several threads at once.
///
/// Errors of all methods: [`Error::Catalog`] if the file is damaged (see [`Catalog::is_damaged`]) or the machine fails;
/// [`Error::Busy`] if another process holds the catalog for 4 seconds on end, which takes one that is suspended in the middle of a
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
    /// Opens the catalog of this repository at this location in `dir`, made with mode 0700 if it is not there. A file that is missing,
    /// damaged, of another version or of another repository is made afresh and is no error.
    /// `secret` is needed to make the sums of its rows: whoever can write the file but does not have it can do damage, which shows, but change nothing.
    pub fn open(dir: &Path, repository: RepositoryId, location: &str, secret: &[u8; blake3::KEY_LEN]) -> Result<Catalog> {
        let place = Place::new(dir, repository, location, secret);
        let opened = place.open().map_err(|fault| fault.into_error(dir))?;
        Ok(Self::of(place.path(opened.generation), place, opened, false))
    }

    /// An empty one that is in no file and gone when dropped: for a machine that has no place for files. It takes about 100 bytes of memory a chunk.
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

    /// Whether it is in no file.
    pub fn is_in_memory(&self) -> bool {
        self.in_memory
    }

    /// Whether this catalog was empty when it was opened because an earlier file could not be used.
    pub fn was_rebuilt(&self) -> bool {
        self.rebuilt
    }

    /// Whether it can be written now: [`Error::Busy`] if another process holds it. Changes nothing.
    pub fn probe(&self) -> Result<()> {
        self.write(|_| Ok(()))
    }

    /// Whether damage was found since it was opened. Every further call fails; opening it again gives an empty one.
    pub fn is_damaged(&self) -> bool {
        self.damaged.load(Ordering::Acquire)
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Gives the catalog up, for a caller that found out that it is wrong: as if damage had been found.
    pub fn distrust(&self, detail: &str) -> Error {
        self.failed(Fault::damaged(detail))
    }

    /// Adds packs. One that is there already stays as it is. Packs are added in transactions of about a million
    /// chunks: after an error, the packs of a front part of `packs` may be there. Many packs in one call are cheaper than many calls.
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
            let (now, later) = rest.split_at(fitting.count().max(1));
            self.write(|tx| packs::add(tx, &self.sums, now))?;
            rest = later;
        }
        self.merge()
    }

    /// Forgets these packs: their chunks are not found any more. Ids that it does not have are ignored.
    pub fn remove_packs(&self, ids: &[PackId]) -> Result<()> {
        self.write(|tx| {
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

    /// All copies of chunks whose id starts like this ([`prefix()`]), in all packs that are there, in no
    /// particular order. Two different chunks can share a prefix.
    pub fn find(&self, prefix: u64) -> Result<Vec<ChunkAt>> {
        self.find_many(&[prefix])?.pop().ok_or_else(|| Error::bug("the catalog was asked and gave no answer"))
    }

    /// The same for many prefixes at one instant; the answers are in the order of the questions. Costs much less than as many calls of
    /// [`Catalog::find`], above all when the file is not in memory.
    pub fn find_many(&self, prefixes: &[u64]) -> Result<Vec<Vec<ChunkAt>>> {
        self.read(|conn| sorted_runs::find_many(conn, &self.sums, prefixes))
    }

    /// Adds snapshot records, over earlier ones of the same ids.
    pub fn put_snapshots(&self, snapshots: &[(SnapshotId, Vec<u8>)]) -> Result<()> {
        if snapshots.iter().any(|(_, record)| record.len() >= VALUE_BYTES_MAX) {
            return Err(Error::InvalidArgument(format!("a snapshot record must be smaller than {VALUE_BYTES_MAX} bytes")));
        }
        self.write(|tx| records::put_snapshots(tx, &self.sums, snapshots))
    }

    /// Forgets snapshots; ids that it does not have are ignored.
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

    /// Keeps the stamps of a source's streams, taken for this snapshot, in place of all earlier ones of this source. They come sorted by name, each name once.
    pub fn put_stamps(&self, source: SourceId, snapshot: SnapshotId, stamps: &mut dyn Iterator<Item = Result<NamedStamp>>) -> Result<()> {
        self.write(|tx| stamps::put(tx, &self.sums, source, snapshot, stamps))
    }

    /// What was kept for a source last, if anything.
    pub fn stamps(&self, source: SourceId) -> Result<Option<StampSet>> {
        self.read(|conn| stamps::set(conn, &self.sums, source))
    }

    /// The neighbours of a name among the stamps of a set, sorted by name. Its own stamp is among them if it has one.
    pub fn stamps_around(&self, set: &StampSet, name: &[u8]) -> Result<Vec<NamedStamp>> {
        self.read(|conn| stamps::around(conn, &self.sums, set, name))
    }

    /// Remembers what came out when packs were read, in place of what was remembered of them before.
    pub fn put_readings(&self, readings: &[(PackId, PackReading)]) -> Result<()> {
        self.write(|tx| readings::put(tx, &self.sums, readings))
    }

    /// What is remembered of packs that were read, sorted by their ids.
    pub fn readings(&self) -> Result<Vec<(PackId, PackReading)>> {
        self.read(|conn| readings::all(conn, &self.sums))
    }

    /// Forgets everything. Numbers of packs are still not used again.
    pub fn clear(&self) -> Result<()> {
        self.write(records::clear)
    }

    /// Does the merges that are due.
    fn merge(&self) -> Result<()> {
        loop {
            match self.write(|tx| sorted_runs::merge_step(tx, &self.sums, sorted_runs::STEP_ENTRIES)) {
                Ok(true) => {}
                // Someone else is writing, or merging: merging can wait for the next addition.
                Ok(false) | Err(Error::Busy { .. }) => return Ok(()),
                Err(other) => return Err(other),
            }
        }
    }

    fn write<T>(&self, work: impl FnOnce(&Transaction) -> Result<T, Fault>) -> Result<T> {
        self.refuse_if_damaged()?;
        let mut conn = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        let result = conn.transaction_with_behavior(TransactionBehavior::Immediate).map_err(Fault::from).and_then(|tx| {
            let value = work(&tx)?;
            tx.commit()?;
            Ok(value)
        });
        result.map_err(|fault| self.failed(fault))
    }

    /// Runs queries at one instant of the catalog.
    fn read<T>(&self, work: impl FnOnce(&Connection) -> Result<T, Fault>) -> Result<T> {
        self.refuse_if_damaged()?;
        if self.in_memory {
            let conn = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
            let result = conn.unchecked_transaction().map_err(Fault::from).and_then(|tx| {
                let value = work(&conn)?;
                drop(tx);
                Ok(value)
            });
            return result.map_err(|fault| self.failed(fault));
        }
        let kept = self.readers.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let conn = kept.map_or_else(|| self.place.connect_reader(self.generation, &self.sums), Ok);
        let result = conn.and_then(|conn| {
            let tx = conn.unchecked_transaction()?;
            let value = work(&tx)?;
            drop(tx);
            let mut readers = self.readers.lock().unwrap_or_else(PoisonError::into_inner);
            if readers.len() < READERS_KEPT {
                readers.push(conn);
            }
            Ok(value)
        });
        result.map_err(|fault| self.failed(fault))
    }

    fn refuse_if_damaged(&self) -> Result<()> {
        if self.is_damaged() { Err(Fault::damaged("found earlier").into_error(&self.path)) } else { Ok(()) }
    }

    /// Every failure after opening comes through here: damage makes the next generation of the file at once.
    fn failed(&self, fault: Fault) -> Error {
        if matches!(fault, Fault::Damaged(_)) && !self.damaged.swap(true, Ordering::AcqRel) && !self.in_memory {
            // If no new file can be made either, the disk is full or gone: the next open sees for itself.
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
