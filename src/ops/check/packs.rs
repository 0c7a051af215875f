//! Checking packs: their tables, that every delta has its bases, and with `read_data` every stored byte.

use std::collections::HashSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use super::{CheckOptions, CheckReport, Severity};
use crate::backend::{ObjectInfo, ObjectKey, ObjectKind};
use crate::error::{Error, Result};
use crate::format::{HEADER_LEN, Kind, ObjectHeader};
use crate::id::PackId;
use crate::progress::Monitor;
use crate::repo::{CopyPlace, Reader, Repository, StoredCopy};

/// Bytes read at once when a pack is hashed.
const READ_BYTES: u64 = 4 << 20;
/// Damaged chunks of one pack that are reported singly.
const CHUNKS_REPORTED: usize = 20;

/// Copies of chunks that cannot be used.
#[derive(Default)]
pub(super) struct BadCopies {
    /// Those that nobody else can find or that lack a base; deltas of them lack one too.
    lost: HashSet<CopyPlace>,
    /// Those that were read and are damaged. Deltas of them were read as well: one that does not need the damaged bytes is whole.
    damaged: HashSet<CopyPlace>,
}

impl BadCopies {
    pub(super) fn contains(&self, place: &CopyPlace) -> bool {
        self.lost.contains(place) || self.damaged.contains(place)
    }
}

/// Checks all packs; gives the copies that cannot be used.
pub(super) fn check_packs(repo: &Repository, options: &CheckOptions, monitor: &dyn Monitor, report: &mut CheckReport) -> Result<BadCopies> {
    // What cannot be read is found again below, pack by pack.
    repo.list_all_packs()?;
    let packs: Vec<ObjectInfo> = repo.backend().list(ObjectKind::Pack)?.collect::<Result<_>>()?;
    let bytes: u64 = packs.iter().map(|info| info.size).sum();
    monitor.phase(if options.read_data { "reading packs" } else { "checking packs" }, options.read_data.then_some(bytes));
    report.packs = packs.len() as u64;
    let reader = Reader::new(repo);
    let next = AtomicUsize::new(0);
    let shared = Mutex::new((std::mem::take(report), BadCopies::default()));
    let work = || -> Result<()> {
        while let Some(info) = packs.get(next.fetch_add(1, Ordering::Relaxed)) {
            if monitor.cancelled() {
                return Err(Error::Cancelled);
            }
            let ObjectKey::Pack(id) = info.key else { continue };
            let result = check_pack(&reader, id, info.size, options, monitor)?;
            let mut guard = shared.lock().unwrap_or_else(PoisonError::into_inner);
            let (report, bad) = &mut *guard;
            result.add_to(id, report, bad)?;
        }
        Ok(())
    };
    let results: Vec<Result<()>> = std::thread::scope(|scope| {
        let handles: Vec<_> = (0..repo.threads()).map(|_| scope.spawn(work)).collect();
        handles.into_iter().map(|handle| handle.join().unwrap_or(Err(Error::Poisoned))).collect()
    });
    results.into_iter().collect::<Result<()>>()?;
    let (found, mut bad) = shared.into_inner().unwrap_or_else(PoisonError::into_inner);
    *report = found;
    spread(repo, &mut bad)?;
    Ok(bad)
}

/// What checking one pack gave.
#[derive(Default)]
struct PackResult {
    pack_damage: Vec<Error>,
    chunk_damage: Vec<Error>,
    lost: Vec<CopyPlace>,
    damaged: Vec<CopyPlace>,
    chunks: u64,
    read_bytes: u64,
}

impl PackResult {
    fn add_to(mut self, id: PackId, report: &mut CheckReport, bad: &mut BadCopies) -> Result<()> {
        report.chunks += self.chunks;
        report.read_bytes += self.read_bytes;
        bad.lost.extend(self.lost);
        bad.damaged.extend(self.damaged);
        self.pack_damage.into_iter().try_for_each(|error| report.damage("pack", error))?;
        // One broken segment is the same damage for each of its chunks.
        self.chunk_damage.dedup_by(|one, other| one.to_string() == other.to_string());
        let more = self.chunk_damage.len().saturating_sub(CHUNKS_REPORTED);
        self.chunk_damage.into_iter().take(CHUNKS_REPORTED).try_for_each(|error| report.damage("chunk", error))?;
        if more > 0 {
            report.found(Severity::Damage, "chunk", ObjectKey::Pack(id).to_string(), format!("{more} more of its chunks are damaged"));
        }
        Ok(())
    }
}

fn check_pack(reader: &Reader, id: PackId, size: u64, options: &CheckOptions, monitor: &dyn Monitor) -> Result<PackResult> {
    let repo = reader.repository();
    let mut result = PackResult::default();
    let known = repo.known_table(&id)?;
    // The stored table, not the catalog's: another machine has nothing else.
    let stored = repo.find_trailer(id, size).and_then(|pack| repo.read_table(&pack));
    let table_matches = match (&stored, &known) {
        (Ok((bytes, _)), Some(known)) => known == bytes,
        _ => false,
    };
    let copies = repo.copies_in(&id)?;
    match stored {
        // Deleted since it was listed, which is no damage unless something still needs it.
        Err(Error::NotFound { .. }) => {
            result.lost.extend(copies.iter().map(|copy| copy.place()));
            return Ok(result);
        }
        Err(error) if error.is_damage() || matches!(error, Error::UnsupportedFormat { .. }) => result.pack_damage.push(error),
        Err(error) => return Err(error),
        Ok(_) if !table_matches => {
            result.pack_damage.push(Error::corrupt(ObjectKey::Pack(id).to_string(), "the local catalog had another table for it"))
        }
        Ok(_) => {}
    }
    result.chunks = copies.len() as u64;
    if !result.pack_damage.is_empty() {
        result.lost.extend(copies.iter().map(|copy| copy.place()));
        return Ok(result);
    }
    if options.read_data {
        result.read_bytes = size;
        match hash_pack(repo, id, size, monitor) {
            Ok(()) => {}
            Err(error) if error.is_damage() || matches!(error, Error::UnsupportedFormat { .. }) => result.pack_damage.push(error),
            Err(error) => return Err(error),
        }
    }
    for copy in &copies {
        if !options.read_data && !repo.has_bases(copy)? {
            result.lost.push(copy.place());
        }
        if options.read_data && !read_copy(reader, copy, &mut result.chunk_damage)? {
            result.damaged.push(copy.place());
        }
    }
    Ok(result)
}

/// Whether a copy can be read. One whose bases are gone may be what a prune has left in a pack that is needed for others: if a snapshot
/// needs it, the snapshot says so; by itself it is no damage.
fn read_copy(reader: &Reader, copy: &StoredCopy, damage: &mut Vec<Error>) -> Result<bool> {
    match reader.copy(copy) {
        Ok(_) => Ok(true),
        Err(error) if error.is_damage() => {
            if reader.is_complete(copy)? {
                damage.push(error);
            }
            Ok(false)
        }
        Err(error) => Err(error),
    }
}

/// Whether the stored bytes are those that the pack's name is the hash of.
fn hash_pack(repo: &Repository, id: PackId, size: u64, monitor: &dyn Monitor) -> Result<()> {
    let object = ObjectKey::Pack(id);
    let mut hasher = blake3::Hasher::new();
    let mut header = Vec::new();
    let mut offset = 0;
    while offset < size {
        if monitor.cancelled() {
            return Err(Error::Cancelled);
        }
        let end = (offset + READ_BYTES).min(size);
        let bytes = repo.read_pack(&object, offset..end)?;
        if offset == 0 {
            header = bytes.get(..HEADER_LEN).unwrap_or(&bytes).to_vec();
        }
        hasher.update(&bytes);
        monitor.advance(end - offset);
        offset = end;
    }
    match hasher.finalize().as_bytes() == id.as_bytes() {
        true => ObjectHeader::decode(&header, Kind::Pack).map(drop).map_err(|m| m.of(object)),
        false => Err(Error::corrupt(object.to_string(), "its bytes are not those that its name is the hash of")),
    }
}

/// A delta whose bases are all lost is lost too; goes on until nothing more is found. Nothing to do in a sound repository.
fn spread(repo: &Repository, bad: &mut BadCopies) -> Result<()> {
    if bad.lost.is_empty() {
        return Ok(());
    }
    loop {
        let before = bad.lost.len();
        for known in repo.on_catalog(|local| local.packs())? {
            for copy in repo.copies_in(&known.pack.id)? {
                if !bad.lost.contains(&copy.place()) && !repo.has_bases_among(&copy, &|base| !bad.lost.contains(&base.place()))? {
                    bad.lost.insert(copy.place());
                }
            }
        }
        if bad.lost.len() == before {
            return Ok(());
        }
    }
}
