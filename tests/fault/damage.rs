//! A matrix: what is done to which object, and what works afterwards.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use icecore::id::SnapshotId;
use icecore::ops::check::Severity;
use icecore::ops::journal;
use icecore::progress::Silent;
use icecore::store::backend::{ObjectKey, ObjectKind, Replica};

use crate::hook::{Call, Fate, Hooked};
use crate::memory::Memory;
use crate::proof::{self, DAMAGES};
use crate::world::{World, check_clean, database_of, in_parallel, init, read_data, states, verify};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Action {
    Delete,
    Empty,
    /// Exchanged with another object of its kind.
    Swap,
    /// Of the same length, with other bytes.
    Garbage,
    /// Replaced by that of another repository.
    Foreign,
    /// Something that is no file.
    Directory,
    /// The disk cannot read it any more.
    BadSector,
}

const ACTIONS: [Action; 7] =
    [Action::Delete, Action::Empty, Action::Swap, Action::Garbage, Action::Foreign, Action::Directory, Action::BadSector];

/// The files of an object, relative to the repository.
pub fn path_of(key: &ObjectKey) -> PathBuf {
    match key {
        ObjectKey::Config(Replica::First) => "config".into(),
        ObjectKey::Config(Replica::Second) => "config.copy".into(),
        ObjectKey::Key(id, Replica::First) => format!("keys/{id}").into(),
        ObjectKey::Key(id, Replica::Second) => format!("keys/{id}.copy").into(),
        ObjectKey::Pack(id) => format!("packs/{}/{id}", &id.to_string()[..2]).into(),
        ObjectKey::Pending { source, id } => format!("pending/{source}-{id}").into(),
        ObjectKey::Snapshot { source, id } => format!("snapshots/{source}-{id}").into(),
        ObjectKey::Mark { snapshot, id } => format!("marks/{snapshot}/{id}").into(),
        ObjectKey::Forgotten(id) => format!("forgotten/{id}").into(),
        ObjectKey::Tombstone(id) => format!("tombstones/{id}").into(),
        ObjectKey::Log { time_ns, id } => format!("log/{time_ns:019}-{id}").into(),
        ObjectKey::Quarantined { .. } => unreachable!(),
    }
}

fn perform(action: Action, repo: &Path, object: &Path, other: Option<&Path>, foreign: &Path) {
    let file = repo.join(object);
    match (action, other) {
        (Action::Delete, _) => fs::remove_file(file).unwrap(),
        (Action::Empty, _) => fs::write(file, b"").unwrap(),
        (Action::Swap, Some(other)) => {
            fs::rename(&file, repo.join("aside")).unwrap();
            fs::rename(repo.join(other), &file).unwrap();
            fs::rename(repo.join("aside"), repo.join(other)).unwrap();
        }
        (Action::Garbage, _) => {
            let len = fs::metadata(&file).unwrap().len() as usize;
            fs::write(file, vec![0xa5; len]).unwrap();
        }
        (Action::Foreign, _) => drop(fs::copy(foreign, file).unwrap()),
        (Action::Directory, _) => {
            fs::remove_file(&file).unwrap();
            fs::create_dir(file).unwrap();
        }
        (Action::Swap, None) | (Action::BadSector, _) => {}
    }
}

fn template(encrypted: bool) -> World {
    let mut world = World::new(encrypted);
    for (time, state) in states().iter().take(3).enumerate() {
        world.back_up(&world.open("cache"), state, time as i64);
    }
    world
}

fn matrix(encrypted: bool) {
    let world = template(encrypted);
    let mut foreign = World::new(encrypted);
    foreign.back_up(&foreign.open("cache"), &states()[6], 1);
    let (objects, foreign_objects) = (Memory::load(&*world.local()), Memory::load(&*foreign.local()));
    let mut cases = Vec::new();
    for key in objects.keys() {
        let other = objects.keys().find(|other| other.kind() == key.kind() && *other != key);
        let like = *foreign_objects.keys().find(|other| other.kind() == key.kind()).unwrap();
        for action in ACTIONS {
            cases.extend(["cache", "new cache"].map(|cache| (*key, other.copied(), like, action, cache)));
        }
    }
    in_parallel(&cases, |(key, other, like, action, cache)| {
        let here = world.copy();
        let dir = here.repo_dir();
        let other = other.map(|other| path_of(&other));
        perform(*action, &dir, &path_of(key), other.as_deref(), &foreign.repo_dir().join(path_of(like)));
        let small = matches!(key, ObjectKey::Config(_) | ObjectKey::Key(..));
        // A whole configuration of another repository, found first, is not told from the real one; nothing may come of it but an error.
        let usurped = matches!((key, action), (ObjectKey::Config(Replica::First), Action::Foreign));
        let (bad, bad_sector) = (*key, *action == Action::BadSector);
        let hooked = Hooked::new(here.local(), move |_, call| match call {
            Call::Read(key) if bad_sector && key == bad => Fate::BadSector,
            _ => Fate::Proceed,
        });
        let repo = match here.open_on(Arc::new(hooked), cache) {
            Ok(repo) => repo,
            Err(error) => {
                assert!(usurped || (small && *action == Action::Foreign), "{error}");
                return;
            }
        };
        let refreshed = repo.refresh().unwrap();
        let mut lost = 0;
        for (id, record) in &refreshed.snapshots {
            match database_of(&repo, record) {
                Ok(bytes) => assert!(bytes == here.known[id]),
                Err(error) => {
                    assert!(!small || usurped, "{error}");
                    assert!(error.is_damage(), "{error}");
                    lost += 1;
                }
            }
        }
        // One that this machine has seen, or that a listed one names as its parent, is told of. Of the newest one a new machine knows nothing.
        let gone = matches!(key, ObjectKey::Snapshot { .. }) && matches!(action, Action::Delete | Action::Directory);
        let is_told = |id: &SnapshotId| {
            gone && matches!(key, ObjectKey::Snapshot { id: of, .. } if of == id) && (*cache == "cache" || here.known[id] != states()[2])
        };
        let told: Vec<SnapshotId> = here.known.keys().copied().filter(is_told).collect();
        assert_eq!(refreshed.vanished.iter().map(|one| one.id).collect::<Vec<_>>(), told);
        let report = read_data(&repo);
        let worst = report.findings.iter().map(|finding| finding.severity).max();
        match small {
            _ if gone => assert_eq!(worst, (!told.is_empty()).then_some(Severity::Damage), "{:?}", report.findings),
            true if *action == Action::Swap || usurped => {}
            true => assert_eq!(worst, Some(Severity::Warning), "{:?}", report.findings),
            false => assert_eq!(worst, Some(Severity::Damage)),
        }
        assert!(report.is_damaged() || lost == 0);
        if !usurped {
            // Nothing that is damaged stops a backup; what it gives back is right, or known to be damaged.
            let id = here.try_back_up(&repo, "db", &states()[3], 20).unwrap();
            let record = repo.refresh().unwrap().snapshots.into_iter().find(|(found, _)| *found == id).unwrap().1;
            match database_of(&repo, &record) {
                Ok(bytes) => assert!(bytes == states()[3]),
                Err(error) => assert!(error.is_damage() && read_data(&repo).is_damaged(), "{error}"),
            }
        }
    });
    proof::count(&format!("damaged objects, encrypted {encrypted}"), &[(DAMAGES, cases.len())]);
}

/// Marks, what stays of forgotten snapshots, entries of the journal: whatever becomes of them, snapshots are listed, restore, and take backups; what is damaged is
/// found; and a snapshot with a damaged mark is not forgotten.
#[test]
fn matrix_of_marks() {
    for encrypted in [true, false] {
        let make = || {
            let mut world = template(encrypted);
            let repo = world.open("cache");
            let ids: Vec<_> = repo.refresh().unwrap().snapshots.into_iter().map(|(id, _)| id).collect();
            crate::support::protect(&repo, &ids[1]);
            crate::support::forget(&repo, &ids[..1], false);
            crate::support::tell(&repo, 7);
            world.known.remove(&ids[0]);
            (world, ids)
        };
        let ((world, ids), (foreign, _)) = (make(), make());
        let kinds = [ObjectKind::Mark, ObjectKind::Forgotten, ObjectKind::Log];
        let of = |world: &World| kinds.map(|kind| world.local().list(kind).unwrap().next().unwrap().unwrap().key);
        for (key, like) in of(&world).into_iter().zip(of(&foreign)) {
            for action in ACTIONS.into_iter().filter(|action| *action != Action::Swap) {
                let here = world.copy();
                perform(action, &here.repo_dir(), &path_of(&key), None, &foreign.repo_dir().join(path_of(&like)));
                let hooked = Hooked::new(here.local(), move |_, call| match call {
                    Call::Read(read) if action == Action::BadSector && read == key => Fate::BadSector,
                    _ => Fate::Proceed,
                });
                let repo = here.open_on(Arc::new(hooked), "cache").unwrap();
                let refreshed = repo.refresh().unwrap();
                let gone = matches!(action, Action::Delete | Action::Directory);
                let is_mark = key.kind() == ObjectKind::Mark;
                let is_entry = key.kind() == ObjectKind::Log;
                let is_forgotten = !is_mark && !is_entry;
                // Without it nothing says that the parent of the next one was forgotten. A look goes by its name; what is in it is for a check, and for prune.
                let vanished: Vec<_> = refreshed.vanished.iter().map(|one| one.id).collect();
                assert_eq!(vanished, if is_forgotten && gone { vec![ids[0]] } else { Vec::new() }, "{key} {action:?}");
                let damages = usize::from(is_mark && !gone) + vanished.len();
                assert_eq!(refreshed.damage.len(), damages, "{key} {action:?}: {:?}", refreshed.damage);
                assert_eq!(repo.list_forgotten().unwrap().unreadable.len(), usize::from(is_forgotten && !gone));
                let journal = journal::read(&repo, &journal::Query::default(), &Silent).unwrap();
                assert_eq!((journal.entries.len(), journal.unreadable.len()), (usize::from(!is_entry), usize::from(is_entry && !gone)));
                assert_eq!(read_data(&repo).is_damaged(), !gone || is_forgotten, "{key} {action:?}");
                for (id, record) in &refreshed.snapshots {
                    assert!(database_of(&repo, record).unwrap() == here.known[id]);
                }
                here.try_back_up(&repo, "db", &states()[3], 20).unwrap();
                let forgotten = crate::support::forget(&repo, &ids[1..2], false).forgotten;
                assert_eq!(forgotten.is_empty(), !(is_mark && gone), "{key} {action:?}");
            }
        }
    }
}

#[test]
fn matrix_encrypted() {
    matrix(true);
}

#[test]
fn matrix_unencrypted() {
    matrix(false);
}

/// Files that are not ours, in every directory: names of all sorts, also of the right form in the wrong place.
#[test]
fn foreign_files_are_left_alone() {
    let mut world = template(true);
    let id = "ab".repeat(32);
    for dir in [
        "",
        "forgotten",
        "keys",
        "log",
        "marks",
        &format!("marks/{id}"),
        "packs",
        "packs/ab",
        "packs/zz",
        "pending",
        "snapshots",
        "tombstones",
    ] {
        let dir = world.repo_dir().join(dir);
        fs::create_dir_all(&dir).unwrap();
        let of_no_source = format!("{}-{id}", &id[..15]);
        let others = [&id.to_uppercase(), &id[1..], &format!("{id}.part"), &of_no_source, &format!("-{id}"), "..."];
        for name in ["x", ".DS_Store", ".tmp-1-00ff", "config~"].into_iter().chain(others) {
            fs::write(dir.join(name), b"not ours").unwrap();
        }
        std::os::unix::fs::symlink("/nonexistent", dir.join("link")).unwrap();
    }
    // Of the right form, in the wrong directory below `packs`.
    fs::create_dir_all(world.repo_dir().join("packs/cd")).unwrap();
    fs::write(world.repo_dir().join("packs/cd").join(&id), b"not ours").unwrap();
    for cache in ["cache", "new cache"] {
        let repo = world.open(cache);
        let time = world.known.len() as i64;
        world.back_up(&repo, &states()[time as usize], time);
        verify(&repo, &world.known, &[]);
        check_clean(&repo);
    }
    assert!(world.repo_dir().join("snapshots/x").exists());
}

/// Marks of all sorts in the repository: pending records that are no records, tombstones of what is needed.
#[test]
fn marks_of_others_stop_nothing() {
    let mut world = template(false);
    let objects = Memory::load(&*world.local());
    for key in objects.keys() {
        if let ObjectKey::Pack(id) = key {
            fs::write(world.repo_dir().join("tombstones").join(id.to_string()), b"").unwrap();
        }
    }
    fs::write(world.repo_dir().join("pending").join(format!("{}-{}", "cd".repeat(8), "cd".repeat(32))), b"no record").unwrap();
    for cache in ["cache", "new cache"] {
        let repo = world.open(cache);
        verify(&repo, &world.known, &[]);
        let time = world.known.len() as i64;
        world.back_up(&repo, &states()[time as usize], time);
        check_clean(&repo);
    }
    // All that the new ones need is in packs without a mark.
    for key in objects.keys().filter(|key| matches!(key, ObjectKey::Pack(_))) {
        fs::remove_file(world.repo_dir().join(path_of(key))).unwrap();
    }
    let repo = world.open("third cache");
    let newest = repo.refresh().unwrap().snapshots.split_off(3);
    assert_eq!(newest.len(), 2);
    for (id, record) in newest {
        assert!(database_of(&repo, &record).unwrap() == world.known[&id]);
    }
}

/// Of two initialisations of one place, the second is refused, whatever the state of the first copy of the configuration.
#[test]
fn what_is_damaged_is_not_made_anew() {
    for (first, second) in [(true, false), (false, true), (true, true)] {
        let world = template(true);
        let dir = world.repo_dir();
        for (broken, name) in [(first, "config"), (second, "config.copy")] {
            if broken {
                fs::remove_file(dir.join(name)).unwrap();
            }
        }
        let before = crate::world::contents(&dir);
        assert!(init(&dir, true, None, std::sync::Arc::new(icecore::fs::disk::RealDisk)).is_err());
        assert!(crate::world::contents(&dir) == before);
    }
}
