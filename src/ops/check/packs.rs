//! Checks packs: their tables, that every delta has its bases, and with `read_data` every stored byte.
//!
//! The result is the set of copies that cannot be used. A copy is lost if its table cannot be used or its bases are
//! lost; that spreads along chains until nothing more is found.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Mutex, PoisonError};

use super::data::{Chosen, read_packs};
use super::{CheckOptions, CheckReport, DataReport, Severity};
use crate::error::{Error, Result};
use crate::id::PackId;
use crate::progress::Monitor;
use crate::store::backend::{ObjectKey, ObjectKind};
use crate::store::format::pack::IdPrefix;
use crate::store::repo::catalog::PackReading;
use crate::store::repo::{CopyPlace, Repository, StoredCopy, each_in_threads};

/// Number of damaged chunks of one pack that are reported one by one.
const CHUNKS_REPORTED: usize = 20;
/// Number of copies whose bases are looked up at once.
const COPIES_AT_ONCE: usize = 2 << 10;
/// Reports say how many packs were read within this many days.
pub(super) const RECENT_DAYS: u32 = 7;
const DAY_NS: i64 = 86_400 * 1_000_000_000;

/// Copies of chunks that cannot be used.
#[derive(Default)]
pub(crate) struct BadCopies {
    /// Copies that another machine cannot find, or that lack a base. Deltas of them lack one, too.
    pub(crate) lost: HashSet<CopyPlace>,
    /// Copies that were read and are damaged. Deltas of them were read as well; one that does not need the damaged
    /// bytes is whole.
    pub(crate) damaged: HashSet<CopyPlace>,
    /// Packs whose bytes or tables are not what was written.
    pub(crate) packs: HashSet<PackId>,
}

impl BadCopies {
    pub(crate) fn contains(&self, place: &CopyPlace) -> bool {
        self.lost.contains(place) || self.damaged.contains(place)
    }
}

/// The findings so far.
pub(super) struct Found<'r> {
    pub(super) report: &'r mut CheckReport,
    pub(super) bad: BadCopies,
    /// The number of damaged chunks so far, by pack.
    damaged_chunks: HashMap<PackId, usize>,
}

impl Found<'_> {
    /// Adds damaged chunks of one pack. Only the first [`CHUNKS_REPORTED`] are reported one by one.
    pub(super) fn chunk_damage(&mut self, id: PackId, mut errors: Vec<Error>) -> Result<()> {
        // A broken segment gives the same error for each of its chunks.
        errors.dedup_by(|one, other| one.to_string() == other.to_string());
        let before = self.damaged_chunks.entry(id).or_default();
        let named = errors.len().min(CHUNKS_REPORTED.saturating_sub(*before));
        *before += errors.len();
        errors.into_iter().take(named).try_for_each(|error| self.report.damage("chunk", error))
    }

    /// Reports the number of further damaged chunks of each pack.
    fn count_the_rest(&mut self) {
        let mut counts: Vec<(PackId, usize)> = self.damaged_chunks.drain().collect();
        counts.sort_unstable();
        for (id, count) in counts.into_iter().filter(|(_, count)| *count > CHUNKS_REPORTED) {
            let detail = format!("{} more of its chunks are damaged", count - CHUNKS_REPORTED);
            self.report.found(Severity::Damage, "chunk", ObjectKey::Pack(id).to_string(), detail);
        }
    }
}

/// Whether an error goes into the report.
pub(super) fn is_finding(error: &Error) -> bool {
    matches!(error, Error::Corrupt { .. } | Error::UnsupportedFormat { .. })
}

/// Checks all packs, and returns the copies that cannot be used.
pub(super) fn check_packs(
    repo: &Repository,
    options: &CheckOptions<'_>,
    monitor: &dyn Monitor,
    report: &mut CheckReport,
) -> Result<BadCopies> {
    let mut listed: BTreeMap<PackId, u64> = BTreeMap::new();
    for info in repo.backend().list(ObjectKind::Pack)? {
        let info = info?;
        if let ObjectKey::Pack(id) = info.key {
            listed.insert(id, info.size);
        }
    }
    // After the listing, so that the catalog knows all listed packs. Packs that cannot be read are found again below,
    // one by one.
    repo.list_all_packs()?;
    // A listing may leave out a pack that is there. The catalog comes from another one, so what both leave out lacks chunks.
    for known in repo.on_catalog(|local| local.packs())? {
        listed.entry(known.pack.id).or_insert(known.pack.size);
    }
    let packs: Vec<Chosen> = listed.into_iter().collect();
    report.packs = packs.len() as u64;
    let readings: HashMap<PackId, PackReading> = repo.on_catalog(|local| local.readings())?.into_iter().collect();
    let mut chosen = if options.read_data { options.subset.choose(&packs, options.seed) } else { Vec::new() };
    // Packs that an earlier check found damaged are always read again. Otherwise a check of the structure alone would
    // call the repository whole, although its damage is known.
    let drawn: HashSet<PackId> = chosen.iter().map(|(id, _)| *id).collect();
    let is_known_bad = |id: &PackId| readings.get(id).is_some_and(|reading| !reading.is_sound) && !drawn.contains(id);
    chosen.extend(packs.iter().filter(|(id, _)| is_known_bad(id)));
    let to_read: HashSet<PackId> = chosen.iter().map(|(id, _)| *id).collect();
    let mut found = Found { report, bad: BadCopies::default(), damaged_chunks: HashMap::new() };
    monitor.phase("checking packs", None);
    let unusable = check_tables(repo, &packs, &to_read, monitor, &mut found)?;
    if options.read_data || !chosen.is_empty() {
        let mut chosen: Vec<Chosen> = chosen.into_iter().filter(|(id, _)| !unusable.contains(id)).collect();
        // In the order in which they came into the catalog, which is mostly by time: packs that share bases are then
        // read together.
        let order: HashMap<PackId, u32> =
            repo.on_catalog(|local| local.packs())?.iter().map(|known| (known.pack.id, known.num.0)).collect();
        let is_timed = options.over.is_some();
        chosen.sort_by_key(|(id, _)| (is_timed.then(|| urgency(readings.get(id))), order.get(id).copied(), *id));
        monitor.phase("reading packs", Some(chosen.iter().map(|(_, size)| size).sum()));
        let data = read_packs(repo, &chosen, options, monitor, &mut found)?;
        found.count_the_rest();
        found.report.read_bytes += data.read_bytes;
        if options.read_data {
            found.report.data = Some(with_age(repo, data, &packs, unusable.len(), options)?);
        }
    }
    let mut bad = found.bad;
    spread(repo, &mut bad)?;
    Ok(bad)
}

/// The order if there is no time for all: packs that were bad, packs that were never read, then those read longest
/// ago.
fn urgency(reading: Option<&PackReading>) -> (u8, i64) {
    match reading {
        Some(PackReading { is_sound: false, .. }) => (0, 0),
        None => (1, 0),
        Some(PackReading { time_ns, .. }) => (2, *time_ns),
    }
}

/// Adds the recorded readings of all packs, including those made just now.
fn with_age(repo: &Repository, data: DataReport, packs: &[Chosen], unusable: usize, options: &CheckOptions<'_>) -> Result<DataReport> {
    let Some(now_ns) = options.now_ns else { return Ok(data) };
    let readings: HashMap<PackId, PackReading> = repo.on_catalog(|local| local.readings())?.into_iter().collect();
    let since = now_ns.saturating_sub(i64::from(RECENT_DAYS) * DAY_NS);
    let times = packs.iter().map(|(id, _)| readings.get(id).filter(|reading| reading.is_sound).map(|reading| reading.time_ns));
    let times: Vec<Option<i64>> = times.collect();
    Ok(DataReport {
        // Packs with unusable tables were chosen and not read.
        chosen_packs: data.chosen_packs + if options.subset == super::Subset::All { unusable as u64 } else { 0 },
        recent_packs: Some(times.iter().flatten().filter(|time| **time >= since).count() as u64),
        oldest_ns: times.into_iter().collect::<Option<Vec<i64>>>().and_then(|times| times.into_iter().min()),
        ..data
    })
}

/// Checks the table of every pack, and the bases of packs that are not read. Returns the packs whose tables cannot be
/// used.
fn check_tables(
    repo: &Repository,
    packs: &[Chosen],
    to_read: &HashSet<PackId>,
    monitor: &dyn Monitor,
    found: &mut Found<'_>,
) -> Result<HashSet<PackId>> {
    let results = Mutex::new(Vec::new());
    each_in_threads(repo.threads(), packs, monitor, |(id, size)| {
        let result = check_table(repo, *id, *size, to_read.contains(id))?;
        results.lock().unwrap_or_else(PoisonError::into_inner).push((*id, result));
        Ok(())
    })?;
    let mut results = results.into_inner().unwrap_or_else(PoisonError::into_inner);
    results.sort_by_key(|(id, _)| *id);
    let mut unusable = HashSet::new();
    for (id, result) in results {
        found.report.chunks += result.chunks;
        found.bad.lost.extend(result.lost);
        if !result.is_usable {
            unusable.insert(id);
            found.bad.packs.extend(result.damage.is_some().then_some(id));
        }
        let code = if result.is_healable { "pack-healable" } else { "pack" };
        result.damage.map_or(Ok(()), |error| found.report.damage(code, error))?;
    }
    Ok(unusable)
}

/// The result of checking one table.
#[derive(Default)]
struct TableResult {
    damage: Option<Error>,
    is_usable: bool,
    /// Whether the stored table cannot be used, but the pack can be healed.
    is_healable: bool,
    lost: Vec<CopyPlace>,
    chunks: u64,
}

fn check_table(repo: &Repository, id: PackId, size: u64, is_read: bool) -> Result<TableResult> {
    let known = repo.known_table(&id)?;
    // Check the stored table, not the catalog's: another machine has nothing else.
    let stored = repo.find_trailer(id, size).and_then(|pack| repo.read_table(&pack));
    // This machine reads by the catalog's table, so a difference is damage, even if the stored table is whole.
    let table_matches = match (&stored, &known) {
        (Ok((bytes, _)), Some(known)) => known == bytes,
        _ => false,
    };
    let copies = repo.copies_in(&id)?;
    let mut result = TableResult::default();
    match stored {
        // Deleted since it was listed. That is not damage unless something still needs it.
        Err(Error::NotFound { .. }) => {
            result.lost = copies.iter().map(StoredCopy::place).collect();
            return Ok(result);
        }
        Err(error) if is_finding(&error) => {
            result.damage = Some(error);
            result.is_healable = healed_table(repo, id)?.is_some_and(|healed| known.as_ref() == Some(&healed));
        }
        Err(error) => return Err(error),
        Ok(_) if !table_matches => {
            result.damage = Some(Error::corrupt(ObjectKey::Pack(id).to_string(), "the local catalog had another table for it"));
        }
        Ok(_) => result.is_usable = true,
    }
    result.chunks = copies.len() as u64;
    // Without a usable table no copy can be found. A pack that is read needs no check of bases: decoding shows more.
    result.lost = match (result.is_usable || result.is_healable, is_read && result.is_usable) {
        (false, _) => copies.iter().map(StoredCopy::place).collect(),
        (true, true) => Vec::new(),
        (true, false) => lacking_bases(repo, &copies, &|_| true)?,
    };
    Ok(result)
}

/// The table of a damaged pack after healing; `None` if it cannot be healed.
fn healed_table(repo: &Repository, id: PackId) -> Result<Option<Vec<u8>>> {
    let Some(healed) = repo.healed_pack(&id)? else { return Ok(None) };
    let table = repo.trailer_in(id, &healed).and_then(|pack| repo.table_in(&pack, &healed));
    Ok(table.ok().map(|(bytes, _)| bytes))
}

/// Returns the copies that lack a base. Only copies for which `counts` is true can be bases.
fn lacking_bases(repo: &Repository, copies: &[StoredCopy], counts: &dyn Fn(&CopyPlace) -> bool) -> Result<Vec<CopyPlace>> {
    let mut lacking = Vec::new();
    for group in copies.chunks(COPIES_AT_ONCE) {
        let mut wanted: Vec<IdPrefix> = group.iter().flat_map(|copy| copy.frame().slices.iter().map(|slice| slice.base)).collect();
        wanted.sort_unstable();
        wanted.dedup();
        let known = repo.known_copies(&wanted)?;
        let lowest = known.iter().map(|copies| copies.iter().filter(|copy| counts(&copy.place)).map(|copy| copy.level).min());
        let lowest: HashMap<IdPrefix, Option<u8>> = wanted.iter().copied().zip(lowest).collect();
        let has = |copy: &StoredCopy, base: &IdPrefix| lowest.get(base).copied().flatten().is_some_and(|level| level < copy.frame().level);
        let lacks = |copy: &&StoredCopy| !copy.frame().slices.iter().all(|slice| has(copy, &slice.base));
        lacking.extend(group.iter().filter(lacks).map(StoredCopy::place));
    }
    Ok(lacking)
}

/// Adds the deltas whose bases are all lost, until nothing more is found. A sound repository has nothing to do here.
fn spread(repo: &Repository, bad: &mut BadCopies) -> Result<()> {
    if bad.lost.is_empty() {
        return Ok(());
    }
    loop {
        let before = bad.lost.len();
        for known in repo.on_catalog(|local| local.packs())? {
            let mut copies = repo.copies_in(&known.pack.id)?;
            copies.retain(|copy| !bad.lost.contains(&copy.place()));
            let lacking = lacking_bases(repo, &copies, &|base| !bad.lost.contains(base))?;
            bad.lost.extend(lacking);
        }
        if bad.lost.len() == before {
            return Ok(());
        }
    }
}
