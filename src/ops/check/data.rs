//! Reads packs: compares every stored byte with the pack's name, and every copy of every chunk with its id.
//!
//!
//! Packs are read in sections. First all bytes of a section are hashed. Then its frames are decoded in windows,
//! ordered by lineage, so that the bases of a delta are at hand. Only bases that several windows need are decoded
//! more than once.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};

use super::order::{self, Item};
use super::packs::{Found, is_finding};
use super::{CheckOptions, DataReport};
use crate::error::{Error, Result};
use crate::id::PackId;
use crate::progress::Monitor;
use crate::store::backend::{Backend, ObjectKey};
use crate::store::format::{HEADER_LEN, Kind, ObjectHeader};
use crate::store::repo::catalog::PackReading;
use crate::store::repo::{PackTable, Reader, Repository, StoredCopy, WAITING_MAX, each_in_threads, read_pack_from};

/// Bytes that each thread reads at once when a pack is hashed.
const READ_BYTES: u64 = 2 << 20;
/// Most chunks of a section. Their order takes some 40 MB of memory at most. In a longer history, bases that sections
/// share are decoded anew.
const SECTION_CHUNKS_MAX: u64 = 1 << 20;
/// The same if the time is limited, and most bytes and packs: the time is checked after each section.
const TIMED_CHUNKS_MAX: u64 = 16 << 10;
const TIMED_BYTES_MAX: u64 = 64 << 20;
const TIMED_PACKS_MAX: usize = 64;
/// Bytes of packs that stay in memory between hashing and decoding. Larger ones are read twice, the second time
/// mostly from the system's cache.
const HELD_BYTES_MAX: u64 = 24 << 20;
/// Most chunks of a window.
const WINDOW_CHUNKS_MAX: usize = 8 << 10;
/// Most encoded bytes of deltas in a window: less than a plan of the reader fetches at once, because their bases are
/// fetched, too.
const WINDOW_DELTA_BYTES_MAX: u64 = 6 << 20;
/// Most bytes, about, of tables of packs that a window keeps in memory.
const WINDOW_TABLES_MAX: usize = 16 << 20;

/// Copies, each with its number.
type Numbered = Vec<(usize, StoredCopy)>;

/// A pack to read, with its size in bytes.
pub(super) type Chosen = (PackId, u64);

/// Reads these packs in their order. If the time is over, the rest is not read.
pub(super) fn read_packs(
    repo: &Repository,
    packs: &[Chosen],
    options: &CheckOptions<'_>,
    monitor: &dyn Monitor,
    found: &mut Found<'_>,
) -> Result<DataReport> {
    let mut report = DataReport { chosen_packs: packs.len() as u64, ..DataReport::default() };
    let chunks: HashMap<PackId, u32> = repo.on_catalog(|local| local.packs())?.iter().map(|known| (known.pack.id, known.chunks)).collect();
    let mut rest = packs;
    while !rest.is_empty() {
        if report.read_packs > 0 && options.over.is_some_and(|over| over()) {
            break;
        }
        // A section bounds the memory that the order of frames takes. After each one the time is checked.
        let (section, later) = rest.split_at(section_len(rest, &chunks, options.over.is_some()));
        rest = later;
        let Outcome { bad, gone } = read_section(repo, section, monitor, found, &mut report)?;
        report.read_packs += section.len() as u64;
        report.read_bytes += section.iter().map(|(_, size)| size).sum::<u64>();
        if let Some(time_ns) = options.now_ns {
            let there = section.iter().filter(|(id, _)| !gone.contains(id));
            let readings = there.map(|(id, _)| (*id, PackReading { time_ns, is_sound: !bad.contains(id) }));
            // A failure is ignored: then packs are only read again sooner than necessary.
            let _ = repo.catalog().put_readings(&readings.collect::<Vec<_>>());
        }
    }
    Ok(report)
}

/// How many packs make up the next section; at least one.
fn section_len(packs: &[Chosen], chunks: &HashMap<PackId, u32>, is_timed: bool) -> usize {
    let (packs_max, chunks_max, bytes_max) =
        if is_timed { (TIMED_PACKS_MAX, TIMED_CHUNKS_MAX, TIMED_BYTES_MAX) } else { (usize::MAX, SECTION_CHUNKS_MAX, u64::MAX) };
    let (mut chunk_sum, mut byte_sum) = (0u64, 0u64);
    let fits = |(id, size): &&Chosen| {
        chunk_sum += chunks.get(id).map_or(0, |chunks| u64::from(*chunks));
        byte_sum = byte_sum.saturating_add(*size);
        chunk_sum <= chunks_max && byte_sum <= bytes_max
    };
    packs.iter().take(packs_max).take_while(fits).count().max(1)
}

/// The result of reading a section.
struct Outcome {
    /// Packs that are not whole.
    bad: HashSet<PackId>,
    /// Packs that were deleted since they were listed. That is not damage; if a snapshot still needs one, the check
    /// of the snapshot reports it.
    gone: HashSet<PackId>,
}

/// Passes everything on to another monitor, except the count of bytes.
struct Steps<'m>(&'m dyn Monitor);

impl Monitor for Steps<'_> {
    fn phase(&self, name: &'static str, total_bytes: Option<u64>) {
        self.0.phase(name, total_bytes);
    }

    fn advance(&self, _bytes: u64) {}

    fn warn(&self, message: &str) {
        self.0.warn(message);
    }

    fn cancelled(&self) -> bool {
        self.0.cancelled()
    }
}

/// Hashes the packs of a section, then decodes all their frames.
fn read_section(
    repo: &Repository,
    section: &[Chosen],
    monitor: &dyn Monitor,
    found: &mut Found<'_>,
    report: &mut DataReport,
) -> Result<Outcome> {
    let failures = Mutex::new(Vec::new());
    let reader = Reader::new(repo);
    let held: Vec<(&Chosen, bool)> = which_to_hold(section);
    each_in_threads(repo.threads(), &held, monitor, |((id, size), is_held)| {
        let mut kept = is_held.then(|| Vec::with_capacity(usize::try_from(*size).unwrap_or_default()));
        let hashed = hash_pack(repo.backend(), *id, *size, kept.as_mut(), &Steps(monitor));
        monitor.advance(size / 2);
        match hashed {
            Ok(()) => kept.into_iter().for_each(|bytes| reader.hold(*id, bytes)),
            Err(error) if is_finding(&error) || matches!(error, Error::NotFound { .. }) => {
                failures.lock().unwrap_or_else(PoisonError::into_inner).push((*id, error));
            }
            Err(error) => return Err(error),
        }
        Ok(())
    })?;
    let mut failures = failures.into_inner().unwrap_or_else(PoisonError::into_inner);
    // Threads finish in any order; reports are sorted.
    failures.sort_by_key(|(id, _)| *id);
    let (mut bad, mut gone) = (HashSet::new(), HashSet::new());
    for (id, error) in failures {
        match error {
            Error::NotFound { .. } => drop(gone.insert(id)),
            error => {
                bad.insert(id);
                found.bad.packs.insert(id);
                let code = if repo.healed_pack(&id)?.is_some() { "pack-healable" } else { "pack" };
                found.report.damage(code, error)?;
            }
        }
    }
    let packs: Vec<PackId> = section.iter().map(|(id, _)| *id).collect();
    // All bytes are hashed. Now decode, in an order in which the bases of a delta were decoded shortly before.
    let items = order::by_lineage(repo, &packs)?;
    let mut rest = items.as_slice();
    // Decoding takes as long as reading: half of a pack's bytes counts as progress for each.
    let to_decode: u64 = section.iter().map(|(_, size)| size - size / 2).sum();
    let decoded = |rest: &[Item]| u128::from(to_decode) * (items.len() - rest.len()) as u128 / (items.len() as u128).max(1);
    let mut told = 0;
    while !rest.is_empty() {
        if monitor.cancelled() {
            return Err(Error::Cancelled);
        }
        let (copies, later) = window(repo, &packs, rest)?;
        report.frames += (rest.len() - later.len()) as u64;
        rest = later;
        read_window(&reader, &copies, found, &mut bad)?;
        let now = u64::try_from(decoded(rest)).unwrap_or(to_decode);
        monitor.advance(now.saturating_sub(told));
        told = now;
    }
    monitor.advance(to_decode.saturating_sub(told));
    report.decoded_frames += reader.decoded_frames();
    Ok(Outcome { bad, gone })
}

/// Decides which packs stay in memory after they were hashed: the smallest. These hold the deltas, which many windows
/// need.
fn which_to_hold(section: &[Chosen]) -> Vec<(&Chosen, bool)> {
    let mut by_size: Vec<&Chosen> = section.iter().collect();
    by_size.sort_by_key(|(_, size)| *size);
    let mut sum = 0u64;
    let fits = |(_, size): &&&Chosen| {
        sum = sum.saturating_add(*size);
        sum <= HELD_BYTES_MAX
    };
    let count = by_size.iter().take_while(fits).count();
    by_size.into_iter().zip(0..).map(|(pack, place)| (pack, place < count)).collect()
}

/// Takes frames from the start as long as they fit into a window. Returns their copies, and the other frames.
fn window<'i>(repo: &Repository, packs: &[PackId], items: &'i [Item]) -> Result<(Numbered, &'i [Item])> {
    let mut tables: HashMap<u32, Option<Arc<PackTable>>> = HashMap::new();
    let (mut table_bytes, mut delta_bytes) = (0usize, 0u64);
    let mut copies = Numbered::new();
    let mut rest = items;
    while let Some((item, later)) = rest.split_first()
        && copies.len() < WINDOW_CHUNKS_MAX
        && delta_bytes < WINDOW_DELTA_BYTES_MAX
        && table_bytes < WINDOW_TABLES_MAX
    {
        rest = later;
        let table = match tables.entry(item.pack) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(unknown) => {
                let table = packs.get(item.pack as usize).map_or(Ok(None), |id| repo.table_of(id))?;
                table_bytes += table.as_ref().map_or(0, |table| table.weight());
                unknown.insert(table)
            }
        };
        let Some(table) = table else { continue };
        let delta = table.trailer.frames.get(item.frame as usize).filter(|frame| frame.encoding.is_delta());
        // Only deltas count: their bases have to be fetched besides.
        delta_bytes += delta.map_or(0, |frame| u64::from(frame.encoded_len));
        copies.extend(StoredCopy::in_frame(table, item.frame).map(|copy| (0, copy)));
    }
    copies.iter_mut().zip(0..).for_each(|((number, _), which)| *number = which);
    Ok((copies, rest))
}

/// Decodes the copies of a window and reports those that cannot be read.
fn read_window(reader: &Reader, copies: &[(usize, StoredCopy)], found: &mut Found<'_>, bad: &mut HashSet<PackId>) -> Result<()> {
    reader.prefetch_bases(copies.iter().map(|(_, copy)| copy))?;
    let mut failed = reader.each_copy(copies, reader.repository().threads(), WAITING_MAX, &|_, _| Ok(()))?;
    failed.sort_unstable();
    failed.dedup();
    let mut damage: HashMap<PackId, Vec<Error>> = HashMap::new();
    for (_, copy) in failed.into_iter().filter_map(|number| copies.get(number)) {
        // Read the failed ones again, one by one. That may find another way, or heals the copy, or names the reason.
        match reader.copy(copy).or_else(|error| if error.is_damage() { reader.healed_copy(copy) } else { Err(error) }) {
            Ok(_) => continue,
            Err(error) if error.is_damage() => {
                // A copy whose bases are gone may be a leftover: a prune keeps the pack for other chunks. If a
                // snapshot needs it, the check of the snapshot reports it.
                if reader.is_complete(copy)? {
                    damage.entry(copy.pack()).or_default().push(error);
                    bad.insert(copy.pack());
                }
            }
            Err(error) => return Err(error),
        }
        found.bad.damaged.insert(copy.place());
    }
    let mut damage: Vec<(PackId, Vec<Error>)> = damage.into_iter().collect();
    damage.sort_by_key(|(id, _)| *id);
    damage.into_iter().try_for_each(|(id, errors)| found.chunk_damage(id, errors))?;
    // Each place keeps the table of a pack in memory, and the next window needs others.
    reader.forget_places();
    Ok(())
}

/// Compares the stored bytes of a pack with its name, and appends them to `kept`.
pub(crate) fn hash_pack(backend: &dyn Backend, id: PackId, size: u64, mut kept: Option<&mut Vec<u8>>, monitor: &dyn Monitor) -> Result<()> {
    let object = ObjectKey::Pack(id);
    let mut hasher = blake3::Hasher::new();
    let mut header = Vec::new();
    let mut offset = 0;
    while offset < size {
        if monitor.cancelled() {
            return Err(Error::Cancelled);
        }
        let end = (offset + READ_BYTES).min(size);
        let bytes = read_pack_from(backend, &object, offset..end)?;
        if offset == 0 {
            header = bytes.get(..HEADER_LEN).unwrap_or(&bytes).to_vec();
        }
        hasher.update(&bytes);
        kept.iter_mut().for_each(|kept| kept.extend_from_slice(&bytes));
        monitor.advance(end - offset);
        offset = end;
    }
    match hasher.finalize().as_bytes() == id.as_bytes() {
        true => ObjectHeader::decode(&header, Kind::Pack).map(drop).map_err(|m| m.of(object)),
        false => Err(Error::corrupt(object.to_string(), "its bytes were changed: its name is not their hash")),
    }
}
