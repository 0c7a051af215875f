//! Repair: every kind of damage to every object, power cuts at every step, failing calls; and what backups heal by themselves.

use std::fs;
use std::io::ErrorKind;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use icecore::id::PackId;
use icecore::ops::mark::Author;
use icecore::ops::prune::prune;
use icecore::ops::repair::{RepairOptions, RepairReport, execute, plan};
use icecore::progress::Silent;
use icecore::store::backend::{Backend, ObjectKey, ObjectKind, Replica};
use icecore::store::repo::Repository;

use crate::crash::{after_the_cut, count_steps, simulated};
use crate::faults::{assert_clear, fates};
use crate::hook::{Call, Fate, Hooked};
use crate::memory::{Memory, Objects};
use crate::proof::{self, DAMAGES, FAULTS};
use crate::world::{Known, World, copy_tree, database_of, in_parallel, read_data, seed, states};

fn options(world: &World, from: bool) -> RepairOptions {
    let from = if from { vec![world.path("live")] } else { Vec::new() };
    RepairOptions { from, author: Author { now_ns: 1 << 60, host: "test".into(), user: "tester".into() }, ..RepairOptions::default() }
}

pub fn try_repair(world: &World, repo: &Repository, from: bool) -> icecore::Result<RepairReport> {
    let options = options(world, from);
    repo.rebuild_catalog()?;
    let plan = plan(repo, &options, &Silent)?;
    execute(repo, plan, &options, &Silent)
}

pub fn repair(world: &World, repo: &Repository, from: bool) -> RepairReport {
    try_repair(world, repo, from).unwrap()
}

/// Four snapshots of one history, and the newest state as a live file below a directory.
pub fn template(encrypted: bool) -> World {
    let mut world = World::new(encrypted);
    for (time, state) in states().iter().take(4).enumerate() {
        world.back_up(&world.open("cache"), state, time as i64);
    }
    fs::create_dir(world.path("live")).unwrap();
    fs::write(world.path("live").join("a name of no matter"), &states()[3]).unwrap();
    world
}

pub fn packs(world: &World) -> Vec<PackId> {
    let snapshots = world.open("cache").refresh().unwrap().snapshots;
    snapshots.iter().flat_map(|(_, record)| record.packs.iter().map(|pack| pack.id)).collect()
}

pub fn path(world: &World, key: &ObjectKey) -> std::path::PathBuf {
    world.repo_dir().join(crate::damage::path_of(key))
}

/// What is listed gives back the right bytes or says that it is damaged; those that give them back whole.
pub fn whole(repo: &Repository, known: &Known) -> Known {
    let mut whole = Known::new();
    for (id, record) in repo.refresh().unwrap().snapshots {
        match database_of(repo, &record) {
            Ok(bytes) => {
                assert!(known.values().any(|state| *state == bytes), "snapshot {id} gives back wrong bytes");
                assert!(known.get(&id).is_none_or(|state| *state == bytes), "snapshot {id} gives back other bytes");
                whole.insert(id, bytes);
            }
            Err(error) => assert!(error.is_damage(), "{error}"),
        }
    }
    whole
}

/// Nothing that was whole before is lost; what is lost is marked, what is whole is not; another repair has nothing to do; prunes and backups work.
pub fn settled(here: &World, backend: Arc<dyn Backend>, before: &Known, cache: &str) {
    let repo = here.open_on(backend.clone(), cache).unwrap();
    let after = whole(&repo, &here.known);
    let states_of = |known: &Known| known.values().cloned().collect::<std::collections::BTreeSet<_>>();
    assert!(states_of(before).is_subset(&states_of(&after)), "a snapshot was lost");
    let refreshed = repo.refresh().unwrap();
    assert!(refreshed.damage.is_empty(), "{:?}", refreshed.damage);
    for (id, record) in &refreshed.snapshots {
        let is_flagged = record.flags.iter().any(|flag| flag.code == "lost");
        assert_eq!(is_flagged, !after.contains_key(id), "snapshot {id}: {:?}", record.flags);
    }
    assert_eq!(read_data(&repo).is_damaged(), after.len() < refreshed.snapshots.len());
    let again = repair(here, &repo, false);
    let nothing = RepairReport { lost: again.lost.clone(), ..RepairReport::default() };
    assert_eq!(again, nothing, "there was nothing left to do");
    let mut known = here.known.clone();
    known.insert(here.try_back_up(&repo, "db", &states()[4], 60).unwrap(), states()[4].clone());
    prune(&repo, &crate::pruning::options(0, 1 << 60), &Silent).unwrap();
    let repo = here.open_on(backend, "one more cache").unwrap();
    let last = whole(&repo, &known);
    assert!(states_of(&after).is_subset(&states_of(&last)) && last.values().any(|state| *state == states()[4]));
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    Flip(usize),
    Truncate,
    Delete,
    Swap,
}

pub fn damage(world: &World, key: &ObjectKey, action: Action, other: Option<&ObjectKey>) {
    let file = path(world, key);
    let mut bytes = fs::read(&file).unwrap();
    match action {
        Action::Flip(eighth) => {
            let at = (bytes.len() - 1) * eighth / 8;
            bytes[at] ^= 0x10;
            fs::write(file, bytes).unwrap();
        }
        Action::Truncate => fs::write(file, &bytes[..bytes.len() * 2 / 3]).unwrap(),
        Action::Delete => fs::remove_file(file).unwrap(),
        Action::Swap => {
            let Some(other) = other else { return };
            let other = path(world, other);
            fs::copy(&other, &file).unwrap();
            fs::write(other, bytes).unwrap();
        }
    }
}

/// Every object, every way, with and without the live file, through the old catalog and through a new one.
fn matrix(encrypted: bool) {
    let world = template(encrypted);
    let ids: Vec<_> = world.open("cache").refresh().unwrap().snapshots.into_iter().map(|(id, _)| id).collect();
    crate::support::protect(&world.open("cache"), &ids[1]);
    let objects = Memory::load(&*world.local());
    let flips = (0..=8).map(Action::Flip);
    let actions: Vec<Action> = flips.chain([Action::Truncate, Action::Delete, Action::Swap]).collect();
    let mut cases = Vec::new();
    for key in objects.keys() {
        let other = objects.keys().find(|other| other.kind() == key.kind() && *other != key).copied();
        for action in &actions {
            cases
                .extend([("cache", true), ("new cache", false), ("cache", false)].map(|(cache, from)| (*key, other, *action, cache, from)));
        }
    }
    let cases = proof::some_of(cases, 5, seed() ^ u64::from(encrypted));
    let (healed, lost) = (AtomicUsize::new(0), AtomicUsize::new(0));
    in_parallel(&cases, |(key, other, action, cache, from)| {
        let here = world.copy();
        damage(&here, key, *action, other.as_ref());
        let repo = here.open(cache);
        let before = whole(&repo, &here.known);
        let was_damaged = !read_data(&repo).findings.is_empty();
        let report = repair(&here, &repo, *from);
        let gone = *action == Action::Delete && matches!(key, ObjectKey::Snapshot { .. } | ObjectKey::Mark { .. });
        assert!(was_damaged || gone || *action == Action::Swap);
        // Where a pack with its table is known, and the newest state is at hand, the newest snapshot is whole again.
        if *from && matches!(key, ObjectKey::Pack(_)) && !report.lost.iter().any(|one| one.stream.is_none()) {
            assert!(whole(&repo, &here.known).values().any(|state| *state == states()[3]), "{report:?}");
        }
        lost.fetch_add(usize::from(!report.lost.is_empty()), Ordering::Relaxed);
        healed.fetch_add(usize::from(report.lost.is_empty()), Ordering::Relaxed);
        let usurped = matches!(key, ObjectKey::Snapshot { .. }) && *action == Action::Delete;
        if usurped {
            assert_eq!(report.is_damaged(), read_data(&repo).is_damaged(), "what has vanished is not told as well: {report:?}");
        } else {
            assert!(report.left.is_empty(), "{:?}", report.left);
            settled(&here, here.local(), &before, cache);
        }
    });
    println!(
        "repair, encrypted {encrypted}: {} cases of damage, {} healed whole, {} with losses",
        cases.len(),
        healed.into_inner(),
        lost.into_inner()
    );
    proof::count(&format!("repair of damage, encrypted {encrypted}"), &[(DAMAGES, cases.len())]);
}

#[test]
fn matrix_encrypted() {
    matrix(true);
}

#[test]
fn matrix_unencrypted() {
    matrix(false);
}

/// What a damaged pack had lies in quarantine as it was found.
#[test]
fn what_was_damaged_is_kept() {
    let world = template(true);
    let key = ObjectKey::Pack(packs(&world)[1]);
    damage(&world, &key, Action::Flip(3), None);
    let found = fs::read(path(&world, &key)).unwrap();
    let report = repair(&world, &world.open("cache"), true);
    let [name] = report.set_aside.as_slice() else { panic!("{report:?}") };
    assert!(world.local().read(name, None).unwrap() == found);
    assert!(world.local().stat(&key).unwrap().is_none());
    assert!(matches!(name, ObjectKey::Quarantined { .. }));
}

/// A repository with damage of several sorts: a pack that is flipped, one that is gone, a mark, a copy of the configuration.
pub fn sick(encrypted: bool) -> World {
    let world = template(encrypted);
    let repo = world.open("cache");
    let ids: Vec<_> = repo.refresh().unwrap().snapshots.into_iter().map(|(id, _)| id).collect();
    let mark = crate::support::protect(&repo, &ids[0]);
    let packs = packs(&world);
    drop(repo);
    damage(&world, &ObjectKey::Pack(packs[1]), Action::Flip(4), None);
    damage(&world, &ObjectKey::Pack(packs[3]), Action::Delete, None);
    damage(&world, &ObjectKey::Mark { snapshot: ids[0], id: mark.id }, Action::Truncate, None);
    damage(&world, &ObjectKey::Config(Replica::Second), Action::Delete, None);
    world
}

/// After whatever stopped a repair: what was whole is whole, and the next repair finishes.
fn resumed(world: &World, backend: Arc<dyn Backend>, before: &Known, cache: &str) {
    let repo = world.open_on(backend.clone(), cache).unwrap();
    let now = whole(&repo, &world.known);
    assert!(before.keys().all(|id| now.contains_key(id)), "no worse than before");
    repair(world, &repo, true);
    drop(repo);
    settled(world, backend, before, cache);
}

#[test]
fn the_power_goes() {
    for encrypted in [true, false] {
        let template = sick(encrypted);
        let before = whole(&template.copy().open("cache"), &template.known);
        let run = |step: u64| {
            let world = template.copy();
            let (disk, backend) = simulated(&world);
            let repo = world.open_on(backend, "cache").unwrap();
            disk.power_off_at(step);
            let result = try_repair(&world, &repo, true);
            drop(repo);
            (world, disk, result)
        };
        let (_, disk, result) = run(u64::MAX);
        let report = result.unwrap();
        assert!(report.set_aside.len() == 2 && report.written > 0 && report.copies.len() == 1, "{report:?}");
        let steps = proof::some_of((0..=disk.ops() + 1).collect(), 6, seed() ^ u64::from(encrypted));
        in_parallel(&steps, |&step| {
            let (world, disk, result) = run(step);
            assert!(result.is_ok() || disk.is_off());
            after_the_cut(&world, &disk, step, |repo| {
                let here = World { dir: crate::simulated::scratch(), known: world.known.clone() };
                copy_tree(repo, &here.repo_dir());
                copy_tree(&world.path("live"), &here.path("live"));
                let cache = if step % 2 == 0 { "cache" } else { "new cache" };
                if cache == "cache" {
                    copy_tree(&world.path(cache), &here.path(cache));
                }
                resumed(&here, here.local(), &before, cache);
            });
        });
        count_steps("repair", steps.len());
    }
}

pub fn calls_of(world: &World, objects: &Objects) -> Vec<Call> {
    let calls = Arc::new(Mutex::new(Vec::new()));
    let noted = calls.clone();
    let hooked = Hooked::new(Memory::new(objects.clone()), move |_, call| {
        noted.lock().unwrap().push(call);
        Fate::Proceed
    });
    let here = world.copy();
    repair(&here, &here.open_on(Arc::new(hooked), "cache").unwrap(), true);
    let calls = calls.lock().unwrap();
    calls.clone()
}

/// Every call fails, and from every call on all fail. Reads are many and alike: of those every third.
#[test]
fn every_call_fails() {
    let template = sick(false);
    let objects = Memory::load(&*template.local());
    let before = whole(&template.copy().open("cache"), &template.known);
    let mut cases = Vec::new();
    for (number, call) in calls_of(&template, &objects).into_iter().enumerate() {
        if matches!(call, Call::Read(_) | Call::Stat(_)) && number % 3 != 0 {
            continue;
        }
        // A listing that lacks an object, or a read that reports it missing, looks like damage.
        let honest =
            |fate: &Fate| !matches!(fate, Fate::Missing | Fate::Short | Fate::Fail(ErrorKind::NotFound | ErrorKind::UnexpectedEof));
        cases.extend(fates(call).into_iter().filter(honest).map(|fate| (number, Some(fate))));
        cases.push((number, None));
    }
    let cases = proof::some_of(cases, 6, seed());
    let told = AtomicUsize::new(0);
    in_parallel(&cases, |(at, fate)| {
        let (here, memory, at, fate) = (template.copy(), Memory::new(objects.clone()), *at, *fate);
        let hooked = Hooked::new(memory.clone(), move |number, _| match fate {
            Some(fate) if number == at => fate,
            None if number >= at => Fate::Fail(ErrorKind::BrokenPipe),
            _ => Fate::Proceed,
        });
        let result = here.open_on(Arc::new(hooked), "cache").and_then(|repo| try_repair(&here, &repo, true));
        if let Err(error) = result {
            told.fetch_add(1, Ordering::Relaxed);
            assert_clear(&error);
        }
        resumed(&here, memory, &before, "cache");
    });
    println!("repair: {} of {} failing calls and deaths were told", told.into_inner(), cases.len());
    proof::count("repair", &[(FAULTS, cases.len())]);
}

/// Calls that lie: whatever a repair takes for damaged, it deletes nothing that does not lie in quarantine.
#[test]
fn lies_cost_nothing() {
    let template = sick(false);
    let objects = Memory::load(&*template.local());
    let lies = [Fate::Missing, Fate::Short, Fate::Fail(ErrorKind::NotFound), Fate::Fail(ErrorKind::UnexpectedEof), Fate::BadSector];
    let calls = calls_of(&template, &objects);
    let fits = |call: &Call, lie: &Fate| match call {
        Call::List(kind) => *lie == Fate::Missing && *kind != ObjectKind::Tombstone,
        Call::Read(_) => *lie != Fate::Missing,
        _ => false,
    };
    let cases: Vec<(usize, Fate)> = calls
        .iter()
        .enumerate()
        .flat_map(|(number, call)| lies.into_iter().filter(move |lie| fits(call, lie)).map(move |lie| (number, lie)))
        .filter(|(number, lie)| *lie == Fate::Missing || number % 5 == 0)
        .collect();
    in_parallel(&cases, |(at, lie)| {
        let (here, memory, at, lie) = (template.copy(), Memory::new(objects.clone()), *at, *lie);
        let hooked = Hooked::new(memory.clone(), move |number, _| if number == at { lie } else { Fate::Proceed });
        if let Err(error) = here.open_on(Arc::new(hooked), "cache").and_then(|repo| try_repair(&here, &repo, true)) {
            assert_clear(&error);
        }
        let left = memory.copy();
        let content = |bytes: &[u8]| *blake3::hash(bytes).as_bytes();
        let kept: std::collections::BTreeSet<[u8; 32]> = left.values().map(|bytes| content(bytes)).collect();
        let precious =
            objects.iter().filter(|(key, _)| matches!(key, ObjectKey::Pack(_) | ObjectKey::Snapshot { .. } | ObjectKey::Mark { .. }));
        for (key, bytes) in precious {
            assert!(kept.contains(&content(bytes)), "{key} is gone");
        }
    });
    proof::count("calls lie to repair", &[(FAULTS, cases.len())]);
}

/// With parity, flipped packs and records are made good under their own names: nothing is set aside, nothing is lost.
#[test]
fn parity_heals_in_place() {
    let mut world = World::bare();
    let backend = icecore::store::backend::LocalBackend::create(&world.repo_dir(), Arc::new(icecore::fs::disk::RealDisk)).unwrap();
    let passphrase = Some(zeroize::Zeroizing::new("correct horse".to_string()));
    let init = icecore::store::repo::InitOptions { passphrase, cost: crate::support::CHEAP, parity_percent: 20 };
    Repository::init(&backend, &init).unwrap();
    for (time, state) in states().iter().take(3).enumerate() {
        world.back_up(&world.open("cache"), state, time as i64);
    }
    let ids: Vec<_> = world.known.keys().copied().collect();
    crate::support::protect(&world.open("cache"), &ids[0]);
    let objects = Memory::load(&*world.local());
    let cases: Vec<(ObjectKey, usize)> = objects.keys().flat_map(|key| [1, 4, 7].map(|eighth| (*key, eighth))).collect();
    in_parallel(&cases, |(key, eighth)| {
        let here = world.copy();
        let before = fs::read(path(&here, key)).unwrap();
        damage(&here, key, Action::Flip(*eighth), None);
        let repo = here.open("cache");
        let report = repair(&here, &repo, false);
        assert!(report.set_aside.is_empty() && report.lost.is_empty() && report.left.is_empty(), "{report:?}");
        assert_eq!(report.healed.len() + report.copies.len(), 1, "{report:?}");
        assert!(fs::read(path(&here, key)).unwrap() == before);
        settled(&here, here.local(), &here.known, "cache");
    });
    println!("repair: {} flips made good in place", cases.len());
}
