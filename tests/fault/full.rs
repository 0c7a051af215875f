//! A disk that fails at each of its steps, and one that is full from some byte on: in backup, forget and prune.

use std::io::{self, ErrorKind};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use icecore::fs::disk::{Disk, RealDisk};
use icecore::store::backend::{Backend, LocalBackend};
use icecore::store::repo::Repository;

use crate::crash::{after_the_cut, check_repository, simulated};
use crate::proof::{self, FAULTS};
use crate::support::try_forget;
use crate::world::{Known, World, in_parallel, seed, states};

/// Budgets of bytes that are tried between nothing and enough.
const BUDGETS: usize = 60;

/// Takes so many bytes of files, then it is full: of the file that does not fit a part is there.
#[derive(Debug)]
struct Limited {
    left: AtomicUsize,
}

impl Limited {
    fn take(&self, bytes: usize) -> usize {
        let before = self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| Some(left.saturating_sub(bytes))).unwrap();
        before.min(bytes)
    }
}

impl Disk for Limited {
    fn create(&self, path: &Path, parts: &[&[u8]], mode: u32) -> io::Result<()> {
        let bytes = parts.concat();
        let fits = self.take(bytes.len());
        RealDisk.create(path, &[&bytes[..fits]], mode)?;
        if fits == bytes.len() { Ok(()) } else { Err(ErrorKind::StorageFull.into()) }
    }

    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        if self.left.load(Ordering::Relaxed) == 0 && !path.exists() {
            Err(ErrorKind::StorageFull.into())
        } else {
            RealDisk.create_dir_all(path)
        }
    }
}

/// An operation, and what is listed for certain after it: what stays if it fails, what there is if it is done.
struct Operation {
    name: &'static str,
    template: World,
    run: fn(&World, &Repository) -> icecore::Result<()>,
    /// What may be listed or not when it has failed.
    unclear: Vec<Vec<u8>>,
    /// What is listed for certain when it was done.
    done: Known,
    /// A state that a backup has added.
    added: Option<Vec<u8>>,
}

fn operations() -> Vec<Operation> {
    let mut backed_up = World::new(true);
    for (state, time) in states().iter().zip(0..3) {
        backed_up.back_up(&backed_up.open("cache"), state, time);
    }
    let backup = |world: &World, repo: &Repository| world.try_back_up(repo, "db", &states()[3], 10).map(drop);
    let forget = |_: &World, repo: &Repository| {
        let ids: Vec<_> = repo.refresh()?.snapshots.into_iter().map(|(id, _)| id).take(2).collect();
        try_forget(repo, &ids, false).map(|report| assert_eq!(report.forgotten.len(), 2))
    };
    let prune = |_: &World, repo: &Repository| crate::prunes::run(repo).map(drop);
    let (newest, gone): (Known, Known) = backed_up.known.clone().into_iter().partition(|(_, state)| *state == states()[2]);
    let to_forget = World { known: newest.clone(), ..backed_up.copy() };
    let pruned = crate::prunes::template(false);
    vec![
        Operation {
            name: "backup",
            done: backed_up.known.clone(),
            unclear: vec![states()[3].clone()],
            added: Some(states()[3].clone()),
            template: backed_up,
            run: backup,
        },
        Operation { name: "forget", done: newest, unclear: gone.into_values().collect(), added: None, template: to_forget, run: forget },
        Operation { name: "prune", done: pruned.known.clone(), unclear: Vec::new(), added: None, template: pruned, run: prune },
    ]
}

impl Operation {
    /// Everything that was there is; what was promised is.
    fn check(&self, world: &World, repo: &Path, result: &icecore::Result<()>) {
        let unclear: Vec<&[u8]> = self.unclear.iter().map(Vec::as_slice).collect();
        let listed = check_repository(world, repo, &self.done, &unclear, &states()[7]);
        if let (Ok(()), Some(added)) = (result, &self.added) {
            assert!(listed.values().any(|state| state == added), "the backup that was reported is gone");
        }
        if result.is_ok() && self.added.is_none() {
            assert_eq!(listed.len(), self.done.len());
        }
    }
}

#[test]
fn each_step_of_the_disk_fails() {
    for operation in operations() {
        let run = |fail: Option<(u64, ErrorKind)>| {
            let world = operation.template.copy();
            let (disk, backend) = simulated(&world);
            let repo = world.open_on(backend, "cache").unwrap();
            if let Some((step, kind)) = fail {
                disk.fail_at(step, kind);
            }
            let result = (operation.run)(&world, &repo);
            (world, disk, result)
        };
        let (_, disk, result) = run(None);
        result.unwrap();
        let cases: Vec<(u64, ErrorKind)> =
            (0..disk.ops()).flat_map(|step| [ErrorKind::StorageFull, ErrorKind::Other].map(|kind| (step, kind))).collect();
        let cases = proof::some_of(cases, 10, seed());
        let told = AtomicUsize::new(0);
        in_parallel(&cases, |&(step, kind)| {
            let (world, disk, result) = run(Some((step, kind)));
            if let Err(error) = &result {
                assert!(error.to_string().contains("/repo/"), "{error}");
                told.fetch_add(1, Ordering::Relaxed);
            }
            after_the_cut(&world, &disk, step, |repo| operation.check(&world, repo, &result));
        });
        println!("{}: {} of {} failing steps were told", operation.name, told.into_inner(), cases.len());
        proof::count(&format!("failing steps of the disk in {}", operation.name), &[(FAULTS, cases.len())]);
    }
}

#[test]
fn the_disk_is_full() {
    for operation in operations() {
        let run = |bytes: usize| {
            let world = operation.template.copy();
            let disk = Arc::new(Limited { left: AtomicUsize::new(bytes) });
            let backend: Arc<dyn Backend> = Arc::new(LocalBackend::open(&world.repo_dir(), disk.clone()).unwrap());
            let result = world.open_on(backend, "cache").and_then(|repo| (operation.run)(&world, &repo));
            (world, disk.left.load(Ordering::Relaxed), result)
        };
        let enough = 1 << 30;
        let (_, left, result) = run(enough);
        result.unwrap();
        let bytes = enough - left;
        let budgets = proof::some_of((0..BUDGETS).map(|number| bytes * number / BUDGETS).collect(), 3, seed());
        in_parallel(&budgets, |&budget| {
            let (world, _, result) = run(budget);
            let error = result.as_ref().expect_err("there was not enough room");
            assert!(error.to_string().contains("no storage space"), "{error}");
            operation.check(&world, &world.repo_dir(), &result);
        });
        proof::count(&format!("a full disk in {}", operation.name), &[(FAULTS, budgets.len())]);
    }
}
