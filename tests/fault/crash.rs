//! The power goes at every step of init, backup and restore.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use icecore::Error;
use icecore::engine::place::Placement;
use icecore::engine::sqlite::restore::DatabaseOptions;
use icecore::fs::disk::{Disk, RealDisk};
use icecore::ops::restore::{Outcome, RestoreOptions, restore_streams};
use icecore::progress::Silent;
use icecore::store::backend::{Backend, LocalBackend, ObjectKey};

use crate::hook::{Call, Fate, Hooked};
use crate::proof::{self, CRASH_POINTS, OUTCOMES};
use crate::simulated::{CrashDisk, Policy};
use crate::world::{Known, Random, World, check_clean, contents, copy_tree, in_parallel, init, local, seed, states, verify};

/// Ways of losing things beside losing all and keeping all.
const SEEDS: u64 = 2;

fn policies(step: u64) -> Vec<Policy> {
    let mut random = Random(seed_once() ^ step);
    [Policy::LoseAll, Policy::KeepAll].into_iter().chain((0..SEEDS).map(|_| Policy::Random(random.next()))).collect()
}

fn seed_once() -> u64 {
    static SEED: std::sync::OnceLock<u64> = std::sync::OnceLock::new();
    *SEED.get_or_init(seed)
}

/// Says how much was tried.
pub fn count_steps(what: &str, steps: usize) {
    proof::count(what, &[(CRASH_POINTS, steps), (OUTCOMES, steps * (2 + SEEDS as usize))]);
}

pub fn simulated(world: &World) -> (Arc<CrashDisk>, Arc<dyn Backend>) {
    let disk = Arc::new(CrashDisk::new(&world.path("disk")));
    let backend = LocalBackend::open(&world.repo_dir(), disk.clone()).unwrap();
    (disk, Arc::new(backend))
}

/// Brings the power back in several ways; `check` gets the repository's directory each time.
pub fn after_the_cut(world: &World, disk: &CrashDisk, step: u64, check: impl Fn(&Path)) {
    for (number, policy) in policies(step).into_iter().enumerate() {
        let into = world.path(&format!("after-{number}"));
        disk.materialize(policy, &into).unwrap();
        let checked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| check(&into.join("repo"))));
        if let Err(panic) = checked {
            println!("with {policy:?} after these steps:\n{}", disk.trace().join("\n"));
            std::panic::resume_unwind(panic);
        }
        fs::remove_dir_all(&into).unwrap();
    }
}

/// The oracle, through the catalog as the crash left it and through a new one: everything committed is there and restores, nothing is
/// damaged, and the next backup works. Gives what is listed.
pub fn check_repository(world: &World, repo: &Path, known: &Known, new: &[&[u8]], next: &[u8]) -> Known {
    let mut found = Known::new();
    for cache in ["cache", "new cache"] {
        let here = World { dir: crate::simulated::scratch(), known: known.clone() };
        copy_tree(repo, &here.repo_dir());
        if cache == "cache" && world.path(cache).exists() {
            copy_tree(&world.path(cache), &here.path(cache));
        }
        let repo = here.open(cache);
        let mut listed = verify(&repo, known, new);
        check_clean(&repo);
        found.clone_from(&listed);
        let id = here.try_back_up(&repo, "db", next, 100).unwrap();
        listed.insert(id, next.to_vec());
        verify(&repo, &listed, &[]);
        check_clean(&here.open(cache));
    }
    found
}

/// A world with some snapshots, then a crash at every step of one more backup.
fn crash_in_backup(encrypted: bool, before: usize) {
    let mut template = World::new(encrypted);
    for (time, state) in states().iter().take(before).enumerate() {
        template.back_up(&template.open("cache"), state, time as i64);
    }
    let state = &states()[before];
    let run = |step: u64| {
        let world = template.copy();
        let (disk, backend) = simulated(&world);
        let repo = world.open_on(backend, "cache").unwrap();
        disk.power_off_at(step);
        let result = world.try_back_up(&repo, "db", state, 50);
        drop(repo);
        (world, disk, result)
    };
    let (_, disk, result) = run(u64::MAX);
    result.unwrap();
    let total = disk.ops();
    let steps = proof::some_of((0..=total + 2).collect(), 3, seed_once());
    in_parallel(&steps, |&step| {
        let (world, disk, result) = run(step);
        let mut known = world.known.clone();
        match result {
            Ok(id) => drop(known.insert(id, state.clone())),
            Err(error) => assert!(disk.is_off(), "the power is on: {error}"),
        }
        after_the_cut(&world, &disk, step, |repo| drop(check_repository(&world, repo, &known, &[state], &states()[before + 1])));
    });
    count_steps(&format!("a backup after {before} others"), steps.len());
}

#[test]
fn first_backup() {
    crash_in_backup(true, 0);
}

#[test]
fn incremental_backup_with_deltas() {
    crash_in_backup(false, 3);
}

#[test]
fn init_leaves_no_repository_or_a_good_one() {
    for encrypted in [true, false] {
        let run = |step: u64| {
            let world = World::bare();
            fs::create_dir(world.path("disk")).unwrap();
            let disk = Arc::new(CrashDisk::new(&world.path("disk")));
            disk.power_off_at(step);
            let result = init(&world.repo_dir(), encrypted, None, disk.clone());
            (world, disk, result)
        };
        let (_, disk, result) = run(u64::MAX);
        result.unwrap();
        let total = disk.ops();
        let steps: Vec<u64> = (0..=total).collect();
        in_parallel(&steps, |&step| {
            let (world, disk, result) = run(step);
            assert_eq!(result.is_err(), step < total);
            after_the_cut(&world, &disk, step, |repo| {
                let opened = LocalBackend::open(repo, Arc::new(RealDisk));
                match opened {
                    Ok(_) => {}
                    Err(Error::NoRepository { .. }) if result.is_err() => init(repo, encrypted, None, Arc::new(RealDisk)).unwrap(),
                    Err(error) => panic!("{error}"),
                }
                let here = World::bare();
                copy_tree(repo, &here.repo_dir());
                let repo = here.open("cache");
                let id = here.try_back_up(&repo, "db", &states()[0], 1).unwrap();
                verify(&repo, &[(id, states()[0].clone())].into(), &[]);
                let findings = crate::world::read_data(&repo);
                assert!(!findings.is_damaged(), "{findings:#?}");
            });
        });
        count_steps(&format!("init, encrypted {encrypted}"), steps.len());
    }
}

/// One writer stands between its packs and its commit while another, with the same catalog, builds upon these packs and commits; then the
/// power goes, at every step of the second writer.
#[test]
fn two_writers_over_one_crash() {
    let mut template = World::new(true);
    template.back_up(&template.open("cache"), &states()[0], 1);
    let run = |step: u64| {
        let world = template.copy();
        let (disk, backend) = simulated(&world);
        let second = world.open_on(backend.clone(), "cache").unwrap();
        let (path, in_hook) = (world.path("db2"), disk.clone());
        let outcome = Arc::new(std::sync::Mutex::new(None));
        let told = outcome.clone();
        let hook = move |_: usize, call: Call| {
            if matches!(call, Call::Write(ObjectKey::Pending { .. })) && told.lock().unwrap().is_none() {
                in_hook.power_off_at(in_hook.ops().saturating_add(step));
                fs::write(&path, &states()[2]).unwrap();
                *told.lock().unwrap() = Some(crate::support::try_back_up(&second, &path, 3).map(|report| report.id));
            }
            Fate::Proceed
        };
        let first = world.open_on(Arc::new(Hooked::new(backend, hook)), "cache").unwrap();
        let first = world.try_back_up(&first, "db", &states()[2], 2);
        let second = outcome.lock().unwrap().take().unwrap();
        (world, disk, first, second)
    };
    let (world, _, first, second) = run(u64::MAX >> 1);
    first.unwrap();
    second.unwrap();
    let packs = contents(&world.repo_dir().join("packs"));
    let bytes: Vec<usize> = packs.values().map(Vec::len).collect();
    assert!(bytes.len() == 3 && bytes.iter().min() < Some(&8192), "the second writer took over what the first had stored: {bytes:?}");
    let steps = proof::some_of((0..48).collect(), 3, seed_once());
    let committed = AtomicUsize::new(0);
    in_parallel(&steps, |&step| {
        let (world, disk, first, second) = run(step);
        let mut known = world.known.clone();
        for id in [first, second].into_iter().flatten() {
            committed.fetch_add(1, Ordering::Relaxed);
            known.insert(id, states()[2].clone());
        }
        after_the_cut(&world, &disk, step, |repo| drop(check_repository(&world, repo, &known, &[&states()[2]], &states()[3])));
    });
    assert!((1..2 * steps.len()).contains(&committed.load(Ordering::Relaxed)));
    count_steps("two writers, one after the other", steps.len());
}

#[test]
fn two_writers_at_once() {
    let mut template = World::new(false);
    template.back_up(&template.open("cache"), &states()[0], 1);
    let steps = proof::some_of((0..60).collect(), 3, seed_once());
    in_parallel(&steps, |&step| {
        let world = template.copy();
        let (disk, backend) = simulated(&world);
        let repos = [world.open_on(backend.clone(), "cache").unwrap(), world.open_on(backend, "cache").unwrap()];
        disk.power_off_at(step * 2);
        let results = std::thread::scope(|scope| {
            let second = scope.spawn(|| world.try_back_up(&repos[1], "db2", &states()[2], 3));
            [world.try_back_up(&repos[0], "db", &states()[1], 2), second.join().unwrap()]
        });
        let mut known = world.known.clone();
        for (result, state) in results.into_iter().zip([1, 2]) {
            known.extend(result.map(|id| (id, states()[state].clone())));
        }
        after_the_cut(&world, &disk, step, |repo| {
            check_repository(&world, repo, &known, &[&states()[1], &states()[2]], &states()[3]);
        });
    });
    count_steps("two writers at once", steps.len());
}

#[test]
fn a_killed_restore_leaves_the_repository_as_it_is() {
    let mut template = World::new(true);
    let id = template.back_up(&template.open("cache"), &states()[0], 1);
    let before = contents(&template.repo_dir());
    let run = |step: u64| {
        let world = template.copy();
        let (disk, backend) = simulated(&world);
        fs::write(world.path("disk").join("db"), &states()[1]).unwrap();
        let repo = world.open_on(backend, "cache").unwrap();
        let refreshed = repo.refresh().unwrap();
        let record = &refreshed.snapshots.iter().find(|(found, _)| *found == id).unwrap().1;
        disk.power_off_at(step);
        let placement = Placement { disk: &*disk as &dyn Disk, timestamp: "20261123T031500Z".into(), monitor: &Silent };
        let options = RestoreOptions { database: DatabaseOptions::default(), live: false, no_xattrs: false };
        let targets: [(Vec<u8>, PathBuf); 1] = [(b"db".to_vec(), world.path("disk").join("db"))];
        let restored = restore_streams(&repo, record, &targets, &options, &placement, &mut |_| {}).and_then(Outcome::whole);
        (world, disk, restored)
    };
    let (world, disk, restored) = run(u64::MAX);
    restored.unwrap();
    assert!(fs::read(world.path("disk").join("db")).unwrap() == states()[0]);
    let total = disk.ops();
    let steps: Vec<u64> = (0..total).collect();
    in_parallel(&steps, |&step| {
        let (world, disk, restored) = run(step);
        assert!(restored.is_err());
        after_the_cut(&world, &disk, step, |repo| {
            assert!(contents(repo) == before);
            drop(local(repo));
        });
    });
    count_steps("restore", steps.len());
}
