//! Statistics: what a repository holds and what it costs, by snapshot and in total.
//!
//! Bytes come from the listing and the tables of packs, so they add up to what is stored. The lengths of chains come
//! from the trees and the same tables. Of the packs themselves only tree nodes and listings are read.
//!
//! Memory does not grow with the data: 9 MiB for the depths of chunks, 16 MiB for nodes, a few MiB for reading, the
//! catalog's cache of tables, about 200 bytes a snapshot and 100 a pack.

mod chains;
mod cost;
mod depths;
mod walk;

use std::collections::{HashMap, HashSet};

use serde::Serialize;

use super::journal::Outcome;
use super::journaled::Report;
use super::json;
use crate::error::{Error, Result};
use crate::id::{PackId, RepositoryId, SnapshotId};
use crate::progress::Monitor;
use crate::store::backend::{Backend, ObjectKey, ObjectKind, Unfinished};
use crate::store::format::snapshot::SnapshotRecord;
use crate::store::repo::{Reader, Repository};

use chains::Profile;
pub use chains::{Chains, Spread};
pub use cost::{Cost, ENCODINGS};
use depths::Depths;
use walk::Walker;

/// What one snapshot holds and costs.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SnapshotCost {
    /// Its id.
    #[serde(rename = "snapshot")]
    pub id: SnapshotId,
    /// When its reading began, nanoseconds since 1970-01-01 UTC.
    #[serde(rename = "time", serialize_with = "json::utc")]
    pub time_ns: i64,
    /// Its source, for people.
    pub source: String,
    /// Bytes of its streams.
    pub logical_bytes: u64,
    /// Chunks that were new when it was made, as its record says; the listing's are among them, tree nodes are not.
    pub new_chunks: u64,
    /// Their plain bytes.
    pub new_bytes: u64,
    /// The packs that it wrote and that still exist, and its record.
    #[serde(flatten)]
    pub cost: Cost,
    /// Logical bytes per stored byte; `None` if nothing of it is stored.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ratio: Option<f64>,
    /// How deep its chunks lie; `None` if its trees cannot be walked because of damage.
    #[serde(flatten, serialize_with = "Chains::or_null")]
    pub chains: Option<Chains>,
}

impl SnapshotCost {
    fn of(id: SnapshotId, record: &SnapshotRecord) -> Self {
        SnapshotCost {
            id,
            time_ns: record.time_ns,
            source: record.source.label.clone(),
            logical_bytes: record.logical_bytes,
            new_chunks: record.stats.new_chunks,
            new_bytes: record.stats.new_plain_bytes,
            cost: Cost::default(),
            ratio: None,
            chains: None,
        }
    }

    /// Computes the ratio, when the cost is complete.
    fn counted(self) -> Self {
        SnapshotCost { ratio: self.cost.ratio(self.logical_bytes), ..self }
    }
}

/// Sums over a repository. The costs of all snapshots and `other` together are `total`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Stats {
    /// Which repository.
    pub repository: RepositoryId,
    /// Where it is.
    pub location: String,
    /// Whether it takes a passphrase.
    pub encrypted: bool,
    /// How many snapshots are listed.
    pub snapshots: u64,
    /// Bytes that all of them would take as plain copies.
    pub logical_bytes: u64,
    /// New chunks of all of them.
    pub new_chunks: u64,
    /// Their plain bytes.
    pub new_bytes: u64,
    /// Packs that are there.
    pub packs: u64,
    /// Their bytes.
    pub pack_bytes: u64,
    /// Chunks in them, every copy counted, tree nodes too.
    pub chunks: u64,
    /// The cost of everything that is stored.
    #[serde(flatten)]
    pub total: Cost,
    /// Logical bytes per stored byte; `None` if nothing is stored.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ratio: Option<f64>,
    /// How deep the chunks of all snapshots lie whose trees can be walked.
    #[serde(flatten)]
    pub chains: Chains,
    /// The cost of what belongs to no listed snapshot: configuration, keys, marks, and packs that none of them wrote.
    pub other: Cost,
    /// Files of unfinished writes, of killed or running processes. They are in none of the sums.
    #[serde(flatten, serialize_with = "json::unfinished")]
    pub unfinished: Unfinished,
    /// Listed snapshots, oldest first.
    pub per_snapshot: Vec<SnapshotCost>,
    /// What cannot be read. The bytes of packs without a readable table count as metadata.
    #[serde(rename = "unreadable")]
    pub damage: Vec<String>,
}

impl Report for Stats {
    fn outcome(&self) -> Outcome {
        if self.damage.is_empty() { Outcome::Done } else { Outcome::Damaged }
    }
}

/// Computes the statistics of a repository.
///
/// # Errors
/// [`Error::Backend`] and [`Error::Catalog`] when reading itself fails, [`Error::Cancelled`]; damage is in the result.
pub fn stats(repo: &Repository, monitor: &dyn Monitor) -> Result<Stats> {
    monitor.phase("adding up", None);
    let refreshed = repo.refresh()?;
    let mut sums = Sums::new(repo, &refreshed.snapshots, refreshed.damage);
    sums.small_objects(repo.backend())?;
    sums.unfinished = repo.backend().unfinished()?;
    sums.packs(repo, monitor)?;
    monitor.phase("walking trees", None);
    sums.walk(repo, &refreshed.snapshots, monitor)?;
    Ok(sums.finish(repo))
}

/// Computes what one snapshot holds and costs, and returns the damage that was met.
///
/// # Errors
/// The errors of [`stats`].
pub fn cost_of(repo: &Repository, id: &SnapshotId, record: &SnapshotRecord, monitor: &dyn Monitor) -> Result<(SnapshotCost, Vec<Error>)> {
    let mut found = SnapshotCost::of(*id, record);
    let mut damage = Vec::new();
    found.cost.add_small(repo.backend().stat(&repo.snapshot_key(id, &record.source.id))?.unwrap_or(0));
    for pack in &record.packs {
        // A pack that is gone was rewritten or pruned, and costs nothing any more.
        let Some(size) = repo.backend().stat(&ObjectKey::Pack(pack.id))? else { continue };
        add_pack(repo, &pack.id, size, &mut found.cost, None, &mut damage)?;
    }
    let reader = Reader::for_trees(repo);
    let walked = Walker::new(&reader, Depths::default(), monitor).snapshot(&record.listing);
    match walked {
        Ok(profile) => found.chains = Some(profile.chains()),
        Err(error) if error.is_damage() => damage.push(not_walked(id, &error)),
        Err(error) => return Err(error),
    }
    Ok((found.counted(), damage))
}

/// The sums while they are computed.
struct Sums {
    snapshots: Vec<SnapshotCost>,
    /// The snapshot that wrote each pack. If two claim one, the older.
    writer_of: HashMap<PackId, usize>,
    place_of: HashMap<ObjectKey, usize>,
    total: Cost,
    other: Cost,
    packs: u64,
    pack_bytes: u64,
    chunks: u64,
    depths: Depths,
    read: Profile,
    unfinished: Unfinished,
    damage: Vec<Error>,
}

impl Sums {
    fn new(repo: &Repository, snapshots: &[(SnapshotId, SnapshotRecord)], damage: Vec<Error>) -> Self {
        let mut writer_of = HashMap::new();
        for (place, (_, record)) in snapshots.iter().enumerate() {
            record.packs.iter().for_each(|pack| {
                writer_of.entry(pack.id).or_insert(place);
            });
        }
        Sums {
            place_of: snapshots.iter().enumerate().map(|(place, (id, of))| (repo.snapshot_key(id, &of.source.id), place)).collect(),
            snapshots: snapshots.iter().map(|(id, record)| SnapshotCost::of(*id, record)).collect(),
            writer_of,
            total: Cost::default(),
            other: Cost::default(),
            packs: 0,
            pack_bytes: 0,
            chunks: 0,
            depths: Depths::default(),
            read: Profile::default(),
            unfinished: Unfinished::default(),
            damage,
        }
    }

    /// The cost of the snapshot at this place; without one, the cost of everything else.
    fn cost_at(&mut self, place: Option<usize>) -> &mut Cost {
        match place.and_then(|place| self.snapshots.get_mut(place)) {
            Some(snapshot) => &mut snapshot.cost,
            None => &mut self.other,
        }
    }

    /// Adds all objects except packs.
    fn small_objects(&mut self, backend: &dyn Backend) -> Result<()> {
        for kind in ObjectKind::ALL.into_iter().filter(|kind| *kind != ObjectKind::Pack) {
            for info in backend.list(kind)? {
                let info = info?;
                let place = self.place_of.get(&info.key).copied();
                self.cost_at(place).add_small(info.size);
                self.total.add_small(info.size);
            }
        }
        Ok(())
    }

    /// Adds all packs by their tables. The tables also say how deep each chunk lies.
    fn packs(&mut self, repo: &Repository, monitor: &dyn Monitor) -> Result<()> {
        let mut listed: Vec<(PackId, u64)> = Vec::new();
        for info in repo.backend().list(ObjectKind::Pack)? {
            let info = info?;
            if let ObjectKey::Pack(id) = info.key {
                listed.push((id, info.size));
            }
        }
        let known: HashSet<PackId> = repo.on_catalog(|local| local.packs())?.iter().map(|known| known.pack.id).collect();
        // A catalog follows the listed snapshots; for packs of others all have to be listed once.
        if known.len() != listed.len() || !listed.iter().all(|(id, _)| known.contains(id)) {
            // What cannot be read is named below, pack by pack.
            repo.list_all_packs()?;
        }
        for (id, size) in listed {
            if monitor.cancelled() {
                return Err(Error::Cancelled);
            }
            let mut cost = Cost::default();
            self.chunks += add_pack(repo, &id, size, &mut cost, Some(&mut self.depths), &mut self.damage)?;
            self.packs += 1;
            self.pack_bytes += size;
            self.total.add(&cost);
            // A pack counts for the snapshot that wrote it, although others may use it, too.
            let place = self.writer_of.get(&id).copied();
            self.cost_at(place).add(&cost);
        }
        Ok(())
    }

    /// Computes how deep the chunks of each snapshot lie, the oldest snapshot first, so that what the next one shares
    /// with it is known.
    fn walk(&mut self, repo: &Repository, snapshots: &[(SnapshotId, SnapshotRecord)], monitor: &dyn Monitor) -> Result<()> {
        let reader = Reader::for_trees(repo);
        let mut walker = Walker::new(&reader, std::mem::take(&mut self.depths), monitor);
        for (found, (id, record)) in self.snapshots.iter_mut().zip(snapshots) {
            match walker.snapshot(&record.listing) {
                Ok(profile) => {
                    found.chains = Some(profile.chains());
                    self.read.add(&profile);
                }
                Err(error) if error.is_damage() => self.damage.push(not_walked(id, &error)),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn finish(self, repo: &Repository) -> Stats {
        // These numbers come from records. A hostile record may say anything, so the sums saturate.
        let sum = |part: fn(&SnapshotCost) -> u64| self.snapshots.iter().map(part).fold(0, u64::saturating_add);
        let logical_bytes = sum(|snapshot| snapshot.logical_bytes);
        Stats {
            repository: repo.config().repository,
            location: repo.backend().location(),
            encrypted: repo.config().encrypted,
            snapshots: self.snapshots.len() as u64,
            logical_bytes,
            new_chunks: sum(|snapshot| snapshot.new_chunks),
            new_bytes: sum(|snapshot| snapshot.new_bytes),
            chains: self.read.chains(),
            ratio: self.total.ratio(logical_bytes),
            packs: self.packs,
            pack_bytes: self.pack_bytes,
            chunks: self.chunks,
            total: self.total,
            other: self.other,
            unfinished: self.unfinished,
            damage: self.damage.iter().map(ToString::to_string).collect(),
            per_snapshot: self.snapshots.into_iter().map(SnapshotCost::counted).collect(),
        }
    }
}

/// Adds a pack of `size` bytes to a cost, and the depths of its chunks to `depths`. Returns the number of its chunks.
fn add_pack(
    repo: &Repository,
    id: &PackId,
    size: u64,
    cost: &mut Cost,
    depths: Option<&mut Depths>,
    damage: &mut Vec<Error>,
) -> Result<u64> {
    let table = repo.table_of(id)?.filter(|table| table.pack.size == size);
    let Some(table) = table else {
        damage.push(match repo.find_trailer(*id, size).and_then(|pack| repo.read_table(&pack)) {
            // Deleted since it was listed.
            Err(Error::NotFound { .. }) => return Ok(0),
            Err(error) if error.is_damage() || matches!(error, Error::UnsupportedFormat { .. }) => error,
            Err(error) => return Err(error),
            Ok(_) => Error::corrupt(ObjectKey::Pack(*id).to_string(), format!("it has {size} bytes, which is not what was noted of it")),
        });
        cost.add_unknown(size);
        return Ok(0);
    };
    cost.add_table(&table.pack, &table.trailer);
    if let Some(depths) = depths {
        depths.add_table(&table.trailer);
    }
    Ok(table.trailer.chunks.len() as u64)
}

fn not_walked(id: &SnapshotId, error: &Error) -> Error {
    Error::corrupt(format!("snapshot {id}"), format!("how deep its chunks lie cannot be found out: {error}"))
}
