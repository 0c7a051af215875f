//! A power cut, or one failure, at every step of the local backend.
//!
//! The oracle: what an operation that returned has promised holds; what was under way has happened or not; nothing else exists.

use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Barrier};
use std::thread;

use icecore::Error;
use icecore::fs::disk::RealDisk;
use icecore::id::{PackId, SnapshotId};
use icecore::store::backend::{Backend, BackendExt, LocalBackend, ObjectKey, Replica, WriteMode};

use super::contract::{io_kind, list_all, log, mark, pack, pending, snapshot};
use super::local::temporaries;
use super::simulated::{CrashDisk, Policy, scratch};

/// How many ways of losing things are tried at each step, beside losing all and keeping all.
const SEEDS: u64 = 6;

#[derive(Debug, Clone)]
enum Action {
    Create(ObjectKey, Vec<u8>),
    Replace(ObjectKey, Vec<u8>),
    Delete(ObjectKey),
}

/// What may be found of an object: `None` is absence.
type Possible = BTreeMap<ObjectKey, Vec<Option<Vec<u8>>>>;

impl Action {
    fn key(&self) -> ObjectKey {
        match self {
            Action::Create(key, _) | Action::Replace(key, _) | Action::Delete(key) => *key,
        }
    }

    /// Parts of unequal size, so that a crash tears at several places.
    fn perform(&self, backend: &dyn Backend) -> Result<(), Error> {
        match self {
            Action::Create(key, bytes) => backend.write(key, &[&bytes[..bytes.len() / 3], &bytes[bytes.len() / 3..]], WriteMode::CreateNew),
            Action::Replace(key, bytes) => backend.write(key, &[bytes], WriteMode::Replace),
            Action::Delete(key) => backend.delete(&[*key]),
        }
    }

    fn note(&self, possible: &mut Possible, succeeded: bool) {
        let new = match self {
            Action::Create(_, bytes) | Action::Replace(_, bytes) => Some(bytes.clone()),
            Action::Delete(_) => None,
        };
        let states = possible.entry(self.key()).or_insert_with(|| vec![None]);
        if succeeded {
            states.clear();
        }
        states.push(new);
    }
}

/// The life of a small repository as one writer makes it; `writer` keeps the keys and bytes of several apart.
fn history(writer: u8) -> Vec<Action> {
    let bytes = |number: u8| vec![writer * 16 + number; 600 + usize::from(number) * 10];
    let pack_of = |number: u8| {
        let mut id = [number; 32];
        id[31] = writer; // Writers meet in the directories of packs.
        ObjectKey::Pack(PackId(id))
    };
    let pending = pending(writer);
    vec![
        Action::Create(pack_of(1), bytes(1)),
        Action::Create(pack_of(1), bytes(15)), // Is there: refused.
        Action::Create(pack_of(2), bytes(2)),
        Action::Create(pending, bytes(3)),
        Action::Create(snapshot(writer), bytes(3)),
        Action::Delete(pending),
        Action::Replace(ObjectKey::Config(Replica::Second), bytes(4)),
        Action::Replace(ObjectKey::Config(Replica::First), bytes(4)),
        Action::Create(mark(0, writer), bytes(6)),
        Action::Create(mark(writer, writer), bytes(7)),
        Action::Create(log(writer.into(), writer), bytes(9)),
        Action::Replace(ObjectKey::Forgotten(SnapshotId([writer; 32])), bytes(8)),
        Action::Create(ObjectKey::Tombstone(PackId([writer; 32])), Vec::new()),
        Action::Delete(mark(0, writer)),
        Action::Delete(pack_of(2)),
        Action::Create(pack_of(2), bytes(5)),
        Action::Delete(pack_of(9)),
    ]
}

struct Run {
    tmp: tempfile::TempDir,
    disk: Arc<CrashDisk>,
}

impl Run {
    fn new() -> Self {
        let tmp = scratch();
        fs::create_dir(tmp.path().join("disk")).unwrap();
        let disk = Arc::new(CrashDisk::new(&tmp.path().join("disk")));
        Self { tmp, disk }
    }

    fn create(&self) -> Result<LocalBackend, Error> {
        LocalBackend::create(&self.path(), self.disk.clone())
    }

    /// Below a directory that has to be made, too.
    fn path(&self) -> PathBuf {
        self.tmp.path().join("disk/backups/repo")
    }

    /// Tries many ways in which the power can come back.
    fn after_the_cut(&self, check: impl Fn(&Path)) {
        let policies = [Policy::LoseAll, Policy::KeepAll].into_iter().chain((0..SEEDS).map(Policy::Random));
        for policy in policies {
            let into = self.tmp.path().join("after");
            self.disk.materialize(policy, &into).unwrap();
            let checked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| check(&into.join("backups/repo"))));
            if let Err(panic) = checked {
                println!("with {policy:?} after these steps:\n{}", self.disk.trace().join("\n"));
                std::panic::resume_unwind(panic);
            }
            fs::remove_dir_all(&into).unwrap();
        }
    }
}

/// Performs the actions until one fails for good, and notes what may be found afterwards.
fn perform(backend: &dyn Backend, actions: &[Action], possible: &mut Possible) {
    for action in actions {
        match action.perform(backend) {
            Ok(()) => action.note(possible, true),
            // The collision that the history has: what is there stays.
            Err(Error::Backend { source, .. }) if source.kind() == ErrorKind::AlreadyExists => {}
            Err(_) => return action.note(possible, false),
        }
    }
}

/// Every object is in one of its possible states, listings agree, and no other object is there.
fn check_objects(backend: &dyn Backend, possible: &Possible) {
    let listed = list_all(backend);
    for (key, states) in possible {
        let found = backend.read_if_there(key, u64::MAX).unwrap();
        assert!(states.contains(&found), "{key} is {:?} bytes and may not be", found.map(|bytes| bytes.len()));
        assert_eq!(listed.get(key).copied(), found.map(|bytes| bytes.len() as u64), "{key} in the listing");
    }
    let unknown: Vec<_> = listed.keys().filter(|key| !possible.contains_key(key)).collect();
    assert!(unknown.is_empty(), "{unknown:?}");
}

/// The repository goes on, or is made again, and takes objects.
fn check_usable(path: &Path) {
    let backend = LocalBackend::create(path, Arc::new(RealDisk)).unwrap();
    let key = snapshot(0xee);
    backend.write(&key, &[b"later"], WriteMode::CreateNew).unwrap();
    let mut sibling = [1; 32]; // Goes where the history's packs are.
    sibling[31] = 0xee;
    backend.write(&ObjectKey::Pack(PackId(sibling)), &[b"later"], WriteMode::CreateNew).unwrap();
    assert_eq!(backend.read(&key, None).unwrap(), b"later");
}

/// How many steps the whole run takes when nothing fails.
fn total_steps(writers: &[u8]) -> u64 {
    let run = Run::new();
    let backend = run.create().unwrap();
    for writer in writers {
        let mut possible = Possible::new();
        perform(&backend, &history(*writer), &mut possible);
        assert!(possible.values().all(|states| states.len() == 1), "nothing fails");
        assert_eq!(possible.len(), 12);
    }
    assert!(!run.disk.is_off());
    run.disk.ops()
}

#[test]
fn a_power_cut_at_any_step_breaks_no_promise() {
    let total = total_steps(&[1]);
    for step in 0..=total {
        let run = Run::new();
        run.disk.power_off_at(step);
        let mut possible = Possible::new();
        let created = run.create().map(|backend| perform(&backend, &history(1), &mut possible));
        assert_eq!(run.disk.is_off(), step < total);
        run.after_the_cut(|path| {
            if created.is_ok() {
                // Not opened: the configuration may not be written yet.
                check_objects(&LocalBackend::create(path, Arc::new(RealDisk)).unwrap(), &possible);
            }
            check_usable(path);
        });
    }
}

#[test]
fn a_finished_creation_survives_and_an_open_repository_stays_one() {
    let run = Run::new();
    let backend = run.create().unwrap();
    run.after_the_cut(|path| assert_eq!(fs::read_dir(path).unwrap().count(), 9));
    backend.write(&ObjectKey::Config(Replica::First), &[b"c"], WriteMode::CreateNew).unwrap();
    run.after_the_cut(|path| drop(LocalBackend::open(path, Arc::new(RealDisk)).unwrap()));
}

#[test]
fn two_writers_over_one_power_cut_keep_their_promises() {
    let total = total_steps(&[1, 2]);
    for step in 0..=total {
        let run = Run::new();
        let first = run.create().unwrap();
        fs::write(run.path().join("config"), "made by others, so durable").unwrap();
        let second = LocalBackend::open(&run.path(), run.disk.clone()).unwrap();
        run.disk.power_off_at(run.disk.ops() + step);
        let barrier = Barrier::new(2);
        // Their own configuration is left out: both replace it, so that neither knows its state.
        let actions =
            |writer| history(writer).into_iter().filter(|action| !matches!(action.key(), ObjectKey::Config(_))).collect::<Vec<_>>();
        let write = |backend: &LocalBackend, writer| {
            let mut possible = Possible::new();
            barrier.wait();
            perform(backend, &actions(writer), &mut possible);
            possible
        };
        let mut possible = thread::scope(|scope| {
            let other = scope.spawn(|| write(&second, 2));
            let mut possible = write(&first, 1);
            possible.extend(other.join().unwrap());
            possible
        });
        possible.insert(ObjectKey::Config(Replica::First), vec![Some(b"made by others, so durable".to_vec())]);
        run.after_the_cut(|path| {
            check_objects(&LocalBackend::open(path, Arc::new(RealDisk)).unwrap(), &possible);
            check_usable(path);
        });
    }
}

#[test]
fn what_settle_returned_for_survives_its_writer() {
    // Another writer gets as far as the name, not as far as the sync of the directory; then settle, then the power goes.
    for key in [pack(3), snapshot(3), ObjectKey::Key(icecore::id::KeyId([3; 32]), Replica::First)] {
        for action in [Action::Create(key, vec![3; 100]), Action::Replace(key, vec![3; 100])] {
            let run = Run::new();
            let backend = run.create().unwrap();
            let mut seen = false;
            for step in 0..12 {
                let other = LocalBackend::create(&run.path(), run.disk.clone()).unwrap();
                run.disk.fail_at(run.disk.ops() + step, ErrorKind::Other);
                let _ = action.perform(&other);
                run.disk.fail_at(u64::MAX, ErrorKind::Other);
                if backend.stat(&key).unwrap().is_some() {
                    backend.settle(&[key]).unwrap();
                    run.after_the_cut(|path| {
                        let backend = LocalBackend::create(path, Arc::new(RealDisk)).unwrap();
                        assert_eq!(backend.read(&key, None).unwrap(), [3; 100]);
                    });
                    seen = true;
                    break;
                }
            }
            assert!(seen);
        }
    }
}

#[test]
fn one_failure_at_any_step_is_told_and_leaves_nothing_behind() {
    let total = total_steps(&[1]);
    for kind in [ErrorKind::StorageFull, ErrorKind::ReadOnlyFilesystem] {
        for step in 0..total {
            let run = Run::new();
            run.disk.fail_at(step, kind);
            let backend = match run.create() {
                Ok(backend) => backend,
                Err(error) => {
                    assert_eq!(io_kind::<()>(Err(error)), kind);
                    run.create().unwrap()
                }
            };
            let mut possible = Possible::new();
            let mut failures = 0;
            for action in history(1) {
                let result = action.perform(&backend);
                let succeeded = result.is_ok();
                if !succeeded {
                    match io_kind(result) {
                        // The collision in the history; or the failed attempt had come as far as the name.
                        ErrorKind::AlreadyExists => continue,
                        told => assert_eq!(told, kind, "step {step}"),
                    }
                    failures += 1;
                }
                action.note(&mut possible, succeeded);
                if !succeeded {
                    check_objects(&backend, &possible);
                    assert_eq!(temporaries(&run.path()), Vec::<PathBuf>::new(), "step {step}: {:#?}", run.disk.trace());
                    // The next attempt succeeds, or finds its object in place.
                    match action.perform(&backend) {
                        Ok(()) => action.note(&mut possible, true),
                        told => assert_eq!(io_kind(told), ErrorKind::AlreadyExists),
                    }
                }
            }
            assert!(failures <= 1);
            check_objects(&backend, &possible);
            assert_eq!(temporaries(&run.path()), Vec::<PathBuf>::new());
        }
    }
}
