//! What is done to which object, and what the real program says and does afterwards: its exit code, and that whatever could be restored before still can.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Mutex;

use icecore::id::SnapshotId;
use icecore::store::backend::{ObjectKey, ObjectKind};

use crate::damage::path_of;
use crate::memory::Memory;
use crate::proof::{self, DAMAGES};
use crate::support::{open_backend, protect};
use crate::world::{Known, Random, World, database_of, in_parallel, local, seed, states};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Action {
    Flip,
    Truncate,
    Extend,
    Delete,
    /// Exchanged with another object of its kind.
    Swap,
    Zero,
}

const ACTIONS: [Action; 6] = [Action::Flip, Action::Truncate, Action::Extend, Action::Delete, Action::Swap, Action::Zero];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Later {
    Restore,
    Check,
    CheckData,
    Backup,
    Forget,
    Prune,
}

const LATER: [Later; 6] = [Later::Restore, Later::Check, Later::CheckData, Later::Backup, Later::Forget, Later::Prune];

#[derive(Debug)]
struct Case {
    key: ObjectKey,
    other: Option<ObjectKey>,
    action: Action,
    later: Later,
    /// Where the change is, among the bytes of the object.
    place: usize,
    /// The catalog knew the repository before.
    is_warm: bool,
    /// It is about a snapshot that a listed one names as its parent.
    is_parent: bool,
}

fn perform(case: &Case, repo: &Path) {
    let file = repo.join(path_of(&case.key));
    let mut bytes = fs::read(&file).unwrap();
    let at = case.place % bytes.len().max(1);
    match (case.action, &case.other) {
        (Action::Flip, _) => bytes[at] ^= 1 << (case.place % 8),
        (Action::Truncate, _) => bytes.truncate(at),
        (Action::Extend, _) => bytes.extend_from_slice(&[0x5a; 100]),
        (Action::Zero, _) => bytes.fill(0),
        (Action::Swap, Some(other)) => {
            let other = repo.join(path_of(other));
            fs::copy(&other, &file).unwrap();
            fs::write(other, &bytes).unwrap();
            return;
        }
        (Action::Delete, _) | (Action::Swap, None) => return fs::remove_file(file).unwrap(),
    }
    fs::write(file, bytes).unwrap();
}

/// Objects of every kind: the prune's template, with a protected snapshot.
fn template(encrypted: bool) -> World {
    let world = crate::prunes::template(encrypted);
    let repo = world.open("cache");
    protect(&repo, world.known.iter().find(|(_, state)| **state == states()[6]).unwrap().0);
    world
}

fn icecore(world: &World, args: &[&str]) -> (Option<i32>, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_icecore"));
    for name in ["REPOSITORY", "PASSWORD_FILE", "PASSWORD_COMMAND"] {
        command.env_remove(format!("ICECORE_{name}"));
    }
    // An unencrypted one is refused where a passphrase is configured.
    let is_encrypted = fs::read_dir(world.repo_dir().join("keys")).is_ok_and(|mut keys| keys.next().is_some());
    command.env_remove("ICECORE_PASSWORD").envs(is_encrypted.then_some(("ICECORE_PASSWORD", "correct horse")));
    command.env("ICECORE_CACHE_DIR", world.path("cache of the program")).env("HOME", world.path(""));
    let output = command.arg("-R").arg(world.repo_dir()).args(args).stdin(Stdio::null()).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!said.contains("panicked"), "{said}");
    (output.status.code(), said)
}

/// The snapshots that restore, read with a new catalog; none gives other bytes than it had.
fn whole(world: &World, cache: &str) -> Known {
    let Ok(repo) = open_backend(local(&world.repo_dir()), world.path(cache), 1) else { return Known::new() };
    let mut whole = Known::new();
    for (id, record) in repo.refresh().unwrap().snapshots {
        match database_of(&repo, &record) {
            Ok(bytes) => {
                assert!(world.known.get(&id).is_none_or(|known| *known == bytes), "{id} gives back other bytes");
                whole.insert(id, bytes);
            }
            Err(error) => assert!(error.is_damage(), "{error}"),
        }
    }
    whole
}

/// One that may be forgotten by name.
fn to_forget(world: &World) -> SnapshotId {
    *world.known.iter().find(|(_, state)| **state == states()[2]).unwrap().0
}

impl Case {
    /// Gives the exit code.
    fn run(&self, template: &World) -> i32 {
        let here = template.copy();
        if self.is_warm {
            assert_eq!(icecore(&here, &["snapshots"]).0, Some(0));
        }
        perform(self, &here.repo_dir());
        // Of what lies in a damaged pack some may be found still, as long as the snapshot that added the pack says where.
        let sound = if self.key.kind() == ObjectKind::Pack { self.without_it(template) } else { whole(&here, "before") };
        let code = self.later(&here, &sound);
        let after = whole(&here, "after");
        for id in sound.keys().filter(|id| self.later != Later::Forget || **id != to_forget(&here)) {
            assert!(after.contains_key(id), "{id} could be restored before");
        }
        code
    }

    /// What restores without the object.
    fn without_it(&self, template: &World) -> Known {
        let here = template.copy();
        for key in [Some(self.key), self.other.filter(|_| self.action == Action::Swap)].into_iter().flatten() {
            fs::remove_file(here.repo_dir().join(path_of(&key))).unwrap();
        }
        whole(&here, "without")
    }

    fn later(&self, here: &World, sound: &Known) -> i32 {
        let path = here.path("db");
        let stream = format!("db={}", path.display());
        let _ = fs::remove_file(&path);
        let (code, said) = match self.later {
            Later::Restore => return self.restore(here, sound),
            Later::Check => icecore(here, &["check"]),
            Later::CheckData => icecore(here, &["check", "--read-data"]),
            Later::Backup => {
                fs::write(&path, &states()[7]).unwrap();
                icecore(here, &["backup", "sqlite", "--source", "db", &stream])
            }
            Later::Forget => icecore(here, &["forget", &to_forget(here).to_string()]),
            Later::Prune => icecore(here, &["prune", "--grace", "0", "--max-unused", "0"]),
        };
        let code = code.expect("it ended by itself");
        assert!(self.may_say(code), "{code}: {said}");
        code
    }

    fn restore(&self, here: &World, sound: &Known) -> i32 {
        let mut worst = 0;
        for (id, state) in &here.known {
            let path = here.path("restored");
            let _ = fs::remove_file(&path);
            let (code, said) = icecore(here, &["restore", &id.to_string(), &format!("db={}", path.display())]);
            let code = code.expect("it ended by itself");
            match sound.contains_key(id) {
                true => assert!(code == 0 && fs::read(&path).unwrap() == *state, "{code}: {said}"),
                // A catalog may find what is damaged otherwise than another one.
                false if code == 0 => assert!(fs::read(&path).unwrap() == *state),
                false => assert!((code == 4 || code == 1) && !path.exists(), "{code}: {said}"),
            }
            worst = worst.max(code);
        }
        worst
    }

    /// Which exit codes are right.
    fn may_say(&self, code: i32) -> bool {
        let is_gone = self.action == Action::Delete || self.action == Action::Swap && self.other.is_none();
        // A listed snapshot names it as its parent; or it was listed when this machine last looked.
        let is_told = is_gone && (self.is_parent || self.is_warm && self.key.kind() == ObjectKind::Snapshot);
        match (self.key.kind(), self.later) {
            // One good copy is left.
            (ObjectKind::Config | ObjectKind::Key, _) => code == 0,
            (ObjectKind::Snapshot | ObjectKind::Forgotten, Later::Check | Later::CheckData | Later::Prune) if is_told => code == 4,
            // A check of the structure does not read all bytes; one that reads finds everything but a record that nobody has told it of.
            (ObjectKind::Pack, Later::CheckData) => code == 4,
            (ObjectKind::Snapshot, Later::Check | Later::CheckData) => code == if is_gone { 0 } else { 4 },
            (ObjectKind::Mark | ObjectKind::Forgotten, Later::Check | Later::CheckData) => code == if is_gone { 0 } else { 4 },
            (ObjectKind::Pending | ObjectKind::Tombstone, Later::Check | Later::CheckData) => code == 0,
            (_, Later::Backup) => code == 0,
            // It refuses where something that is needed cannot be read, or is not where it should be.
            (ObjectKind::Pack | ObjectKind::Snapshot | ObjectKind::Mark | ObjectKind::Forgotten, _) => code == 0 || code == 1 || code == 4,
            _ => code == 0,
        }
    }
}

fn cases(world: &World, random: &mut Random) -> Vec<Case> {
    let objects = Memory::load(&*world.local());
    let mut cases = Vec::new();
    let parents: Vec<SnapshotId> =
        world.open("cache").refresh().unwrap().snapshots.iter().filter_map(|(_, record)| record.parent).collect();
    for key in objects.keys() {
        let is_parent = matches!(key, ObjectKey::Snapshot { id, .. } | ObjectKey::Forgotten(id) if parents.contains(id));
        let other = objects.keys().find(|other| other.kind() == key.kind() && *other != key).copied();
        for (action, later) in ACTIONS.into_iter().flat_map(|action| LATER.map(|later| (action, later))) {
            let place = random.next() as usize >> 1;
            cases.push(Case { key: *key, other, action, later, place, is_warm: random.below(2) == 0, is_parent });
        }
    }
    cases
}

fn matrix(encrypted: bool) {
    let world = template(encrypted);
    let cases = proof::some_of(cases(&world, &mut Random(seed())), 9, seed());
    let codes: Mutex<BTreeMap<(String, i32), usize>> = Mutex::default();
    in_parallel(&cases, |case| {
        let code = case.run(&world);
        *codes.lock().unwrap().entry((format!("{:?}", case.later), code)).or_default() += 1;
    });
    println!("{:?}", codes.into_inner().unwrap());
    proof::count(&format!("the program after damage, encrypted {encrypted}"), &[(DAMAGES, cases.len())]);
}

#[test]
fn the_program_after_damage_encrypted() {
    matrix(true);
}

#[test]
fn the_program_after_damage_unencrypted() {
    matrix(false);
}
