//! Every byte of a small repository is damaged, and every object cut off at every length; in larger ones every so many bytes, from a
//! start that the seed chooses. `ICECORE_PROOF=long` leaves nothing out there either, and tries each through both catalogs. A plain test run tries
//! a part of each list.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use icecore::id::{PackId, SnapshotId};
use icecore::ops::check::Severity;
use icecore::store::backend::{ObjectKey, ObjectKind};
use icecore::store::format::{HEADER_LEN, pack};

use crate::memory::{Memory, Objects};
use crate::proof::{self, CUTS, FLIPS};
use crate::world::{Random, World, copy_tree, database_of, in_parallel, init, read_data, seed, small_states, states, thin_states};

/// Bytes of the long part of a pack for one that is tried.
const STRIDE: usize = 61;

/// Which repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Size {
    /// A few kilobytes; every byte of them is tried.
    Small,
    Usual,
    /// With trees of two levels, in the packs: every third place is tried.
    Trees,
}

struct Target {
    world: World,
    objects: Objects,
    /// Which snapshot added a pack, oldest first, and the independent one.
    packs: Vec<(PackId, SnapshotId)>,
    order: Vec<SnapshotId>,
    other: SnapshotId,
    /// The state of the database that comes next.
    next: Vec<u8>,
}

#[derive(Debug, Clone, Copy)]
struct Case {
    key: ObjectKey,
    /// The bit that is flipped, or the length that is left.
    bit: Option<usize>,
    len: usize,
    cache: &'static str,
}

/// Snapshots of one history, with deltas, and an independent one; in 4 KiB chunks the trees have two levels.
fn target(encrypted: bool, size: Size) -> Target {
    let mut world = World::bare();
    init(&world.repo_dir(), encrypted, (size == Size::Trees).then_some(4096), Arc::new(icecore::fs::disk::RealDisk)).unwrap();
    let history = match size {
        Size::Small => small_states(),
        Size::Usual => states(),
        Size::Trees => thin_states(),
    };
    let repo = world.open("cache");
    let order: Vec<SnapshotId> = history.iter().take(3).zip(0..).map(|(state, time)| world.back_up(&repo, state, time)).collect();
    let path = world.path("independent");
    let db = rusqlite::Connection::open(&path).unwrap();
    let blob = if size == Size::Small { 10 } else { 20_000 };
    let sql = format!("PRAGMA page_size=512; CREATE TABLE other(x); INSERT INTO other VALUES ('independent'), (zeroblob({blob}))");
    db.execute_batch(&sql).unwrap();
    drop(db);
    let state = std::fs::read(&path).unwrap();
    let other = world.try_back_up(&repo, "other", &state, 10).unwrap();
    world.known.insert(other, state);
    let records = repo.refresh().unwrap().snapshots;
    let packs: Vec<(PackId, SnapshotId)> = records.iter().flat_map(|(id, record)| record.packs.iter().map(|pack| (pack.id, *id))).collect();
    assert_eq!(packs.len(), 4);
    let objects = Memory::load(&*world.local());
    Target { world, objects, packs, order, other, next: history[3].clone() }
}

/// The bytes of an object to be damaged: of a pack the header, the trailer and the footer, and some of the rest.
fn places(key: &ObjectKey, bytes: &[u8], all: bool, random: &mut Random) -> Vec<usize> {
    match key {
        ObjectKey::Pack(_) if !all => {
            let footer = &bytes[bytes.len() - pack::FOOTER_LEN..];
            let trailer = pack::Footer::decode(footer, bytes.len() as u64).unwrap().trailer_offset as usize;
            let long = |from: usize, to: usize, stride: usize, start: usize| (from + start % stride..to).step_by(stride);
            let start = random.below(STRIDE);
            let table = (bytes.len() - pack::FOOTER_LEN - trailer).div_ceil(400).max(1);
            (0..HEADER_LEN)
                .chain(long(HEADER_LEN, trailer, STRIDE.max((trailer - HEADER_LEN) / 150), start))
                .chain(long(trailer, bytes.len() - pack::FOOTER_LEN, table, start))
                .chain(bytes.len() - pack::FOOTER_LEN..bytes.len())
                .collect()
        }
        _ => (0..bytes.len()).collect(),
    }
}

fn cases(target: &Target, size: Size, random: &mut Random) -> Vec<Case> {
    let mut cases = Vec::new();
    let all = size == Size::Small || proof::is_long();
    let every = if size == Size::Trees && !all { 3 } else { 1 };
    for (key, bytes) in &target.objects {
        let start = random.below(every);
        for (number, at) in places(key, bytes, all, random).into_iter().skip(start).step_by(every).enumerate() {
            // Each through one of the catalogs; through both only when there is time.
            for cache in ["cache", "new cache"] {
                if proof::is_long() || (number % 2 == 0) == (cache == "cache") {
                    cases.push(Case { key: *key, bit: Some(at * 8 + random.below(8)), len: bytes.len(), cache });
                }
            }
            if number % 4 == 0 || all {
                cases.push(Case { key: *key, bit: None, len: at, cache: ["cache", "new cache"][random.below(2)] });
            }
        }
        cases.push(Case { key: *key, bit: None, len: bytes.len() - 1, cache: "new cache" });
    }
    cases
}

impl Target {
    fn damaged(&self, case: &Case) -> Objects {
        let mut objects = self.objects.clone();
        let mut bytes = objects[&case.key][..case.len].to_vec();
        if let Some(bit) = case.bit {
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
        objects.insert(case.key, Arc::new(bytes));
        objects
    }

    /// The snapshots that damage to this object may touch: its own, and those of the same history that came later.
    fn may_touch(&self, key: &ObjectKey) -> BTreeSet<SnapshotId> {
        match key {
            ObjectKey::Snapshot { id, .. } => [*id].into(),
            ObjectKey::Pack(id) => {
                let owner = self.packs.iter().find(|(pack, _)| pack == id).unwrap().1;
                let place = self.order.iter().position(|id| *id == owner);
                place.map_or([self.other].into(), |place| self.order[place..].iter().copied().collect())
            }
            _ => BTreeSet::new(),
        }
    }

    /// Gives how many snapshots were lost.
    fn run(&self, case: &Case) -> usize {
        let here = World { dir: crate::simulated::scratch(), known: self.world.known.clone() };
        if case.cache == "cache" {
            copy_tree(&self.world.path("cache"), &here.path("cache"));
        }
        let repo = here.open_on(Memory::new(self.damaged(case)), case.cache).unwrap();
        let refreshed = repo.refresh().unwrap();
        let hex = match case.key {
            ObjectKey::Pack(id) => id.to_string(),
            ObjectKey::Snapshot { id, .. } => id.to_string(),
            _ => String::new(),
        };
        for damage in &refreshed.damage {
            assert!(damage.is_damage() && !hex.is_empty() && damage.to_string().contains(&hex), "{damage}");
        }
        let mut lost = BTreeSet::new();
        for (id, expected) in &here.known {
            let listed = refreshed.snapshots.iter().find(|(found, _)| found == id);
            match listed.map(|(_, record)| database_of(&repo, record)) {
                Some(Ok(bytes)) => assert!(bytes == *expected, "wrong data from snapshot {id}"),
                Some(Err(error)) => {
                    assert!(error.is_damage() && error.to_string().contains(&hex), "snapshot {id}: {error}");
                    lost.insert(*id);
                }
                None => {
                    assert!(!refreshed.damage.is_empty());
                    lost.insert(*id);
                }
            }
        }
        assert!(lost.is_subset(&self.may_touch(&case.key)), "damage spread to {lost:?}");
        let report = read_data(&repo);
        let worst = report.findings.iter().map(|finding| finding.severity).max();
        match case.key.kind() {
            ObjectKind::Pack | ObjectKind::Snapshot => assert_eq!(worst, Some(Severity::Damage)),
            _ => assert_eq!(worst, Some(Severity::Warning)),
        }
        let touched: BTreeSet<SnapshotId> = report.touched.iter().map(|touched| touched.snapshot).collect();
        assert!(lost.is_subset(&touched), "check does not know of {lost:?}");
        assert!(touched.is_subset(&self.may_touch(&case.key)), "check blames {touched:?}");
        if case.cache == "new cache" {
            assert_eq!(lost, touched, "{:#?}", report.findings);
        }
        if case.bit.is_some_and(|bit| bit / 8 % 8 == 0) {
            // Damage stops no backup, and a snapshot that inherits it says so.
            let id = here.try_back_up(&repo, "db", &self.next, 20).unwrap();
            let record = repo.refresh().unwrap().snapshots.into_iter().find(|(found, _)| *found == id).unwrap().1;
            match database_of(&repo, &record) {
                Ok(bytes) => assert!(bytes == self.next),
                Err(error) => assert!(error.is_damage() && !touched.is_empty(), "{error}"),
            }
        }
        lost.len()
    }
}

fn sweep(encrypted: bool, size: Size) {
    let mut random = Random(seed());
    let target = target(encrypted, size);
    let cases = proof::some_of(cases(&target, size, &mut random), 8, seed() ^ u64::from(encrypted));
    let lost = AtomicUsize::new(0);
    in_parallel(&cases, |case| {
        lost.fetch_add(target.run(case), Ordering::Relaxed);
    });
    let flips = cases.iter().filter(|case| case.bit.is_some()).count();
    let lost = lost.into_inner();
    let whole = cases.len() * target.world.known.len() - lost;
    let bytes: usize = target.objects.values().map(|bytes| bytes.len()).sum();
    println!("{bytes} bytes in {} objects: {lost} snapshots lost, {whole} whole", target.objects.len());
    proof::count(&format!("{size:?} repository, encrypted {encrypted}"), &[(FLIPS, flips), (CUTS, cases.len() - flips)]);
    assert!(lost > 0);
}

#[test]
fn every_byte_encrypted() {
    sweep(true, Size::Small);
}

#[test]
fn every_byte_unencrypted() {
    sweep(false, Size::Small);
}

#[test]
fn encrypted() {
    sweep(true, Size::Usual);
}

#[test]
fn unencrypted() {
    sweep(false, Size::Usual);
}

#[test]
fn encrypted_trees() {
    sweep(true, Size::Trees);
}

#[test]
fn unencrypted_trees() {
    sweep(false, Size::Trees);
}
