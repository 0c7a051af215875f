//! Processes that are killed or suspended in the middle of a backup, and a catalog that is held by one that does not go on.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use icecore::id::SnapshotId;
use rusqlite::Connection;
use rustix::process::{Pid, Signal, kill_process};

use crate::hook::{Call, Fate, Hooked};
use crate::proof::{self, FAULTS, KILLS};
use crate::support::open_backend;
use crate::world::{Known, Random, World, check_clean, local, seed, states, verify};

const DIR: &str = "FAULT_CHILD_DIR";
const IDLE: &str = "FAULT_CHILD_IDLE";
const ROUNDS: usize = 40;

/// A process that backs a database up in a loop: a new state each time, and a line for each snapshot. Or one that opens the repository
/// and does nothing more.
#[test]
#[ignore = "the other process of other tests"]
fn child() {
    let Some(dir) = std::env::var_os(DIR).map(PathBuf::from) else { return };
    let start: usize = std::env::var("FAULT_CHILD_START").unwrap().parse().unwrap();
    // In one write, so that a kill leaves whole lines.
    let say = |line: String| std::io::stderr().write_all(format!("{line}\n").as_bytes()).unwrap();
    if std::env::var_os(IDLE).is_some() {
        let _repo = open_backend(local(&dir.join("disk").join("repo")), dir.join("cache"), 2).unwrap();
        say("open".into());
        loop {
            std::thread::park();
        }
    }
    for n in start.. {
        let state = n % 8;
        fs::copy(dir.join(format!("state-{state}")), dir.join("looping")).unwrap();
        let repo = open_backend(local(&dir.join("disk").join("repo")), dir.join("cache"), 2).unwrap();
        match crate::support::try_back_up(&repo, &dir.join("looping"), n as i64) {
            Ok(report) => say(format!("committed {} {state}", report.id)),
            Err(error) => say(format!("failed {error}")),
        }
    }
}

fn command(world: &World) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["processes::child", "--exact", "--ignored", "--nocapture"]).env(DIR, world.path("")).env("FAULT_CHILD_START", "0");
    command
}

/// A running child, killed when dropped.
struct Looping {
    child: Child,
    lines: mpsc::Receiver<String>,
    reader: Option<std::thread::JoinHandle<()>>,
}

impl Looping {
    fn start(world: &World, from: usize) -> Self {
        Self::spawn(command(world).env("FAULT_CHILD_START", from.to_string()))
    }

    fn spawn(command: &mut Command) -> Self {
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let (tell, lines) = mpsc::channel();
        let stderr = BufReader::new(child.stderr.take().unwrap());
        let reader = std::thread::spawn(move || stderr.lines().map_while(Result::ok).for_each(|line| drop(tell.send(line))));
        Looping { child, lines, reader: Some(reader) }
    }

    /// Waits for so many snapshots.
    fn wait_for(&self, snapshots: usize, known: &mut Known) {
        let mut seen = 0;
        while seen < snapshots {
            let line = self.lines.recv_timeout(Duration::from_secs(120)).expect("the child does nothing");
            seen += usize::from(note(&line, known));
        }
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Kills it, and takes what it said before.
    fn kill(mut self, known: &mut Known) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        self.reader.take().unwrap().join().unwrap();
        self.lines.try_iter().for_each(|line| {
            note(&line, known);
        });
    }
}

impl Drop for Looping {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Whether a line tells of a snapshot; then it is known. A backup of the child never fails.
fn note(line: &str, known: &mut Known) -> bool {
    assert!(!line.starts_with("failed"), "{line}");
    let mut words = line.split(' ');
    let (Some("committed"), Some(id), Some(state)) = (words.next(), words.next(), words.next()) else { return false };
    known.insert(id.parse().unwrap(), states()[state.parse::<usize>().unwrap()].clone());
    true
}

fn start(encrypted: bool) -> World {
    let world = World::new(encrypted);
    states().iter().enumerate().for_each(|(n, state)| fs::write(world.path(&format!("state-{n}")), state).unwrap());
    world
}

/// By its real path, with the catalog that the child uses.
fn open(world: &World) -> icecore::store::repo::Repository {
    open_backend(local(&world.repo_dir()), world.path("cache"), 2).unwrap()
}

fn private_directories(cache: &Path) -> usize {
    fs::read_dir(cache).unwrap().filter(|entry| entry.as_ref().unwrap().file_name().to_string_lossy().starts_with("private-")).count()
}

#[test]
fn killed_at_any_moment() {
    let mut random = Random(seed());
    let mut world = start(true);
    let mut known = Known::new();
    for round in 0..ROUNDS {
        let child = Looping::start(&world, round * 1000);
        child.wait_for(random.below(3), &mut known);
        std::thread::sleep(Duration::from_micros(random.next() % 40_000));
        child.kill(&mut known);
        let repo = open(&world);
        let all: Vec<&[u8]> = states().iter().map(Vec::as_slice).collect();
        // What was committed just before the kill may not have been said.
        known = verify(&repo, &known, &all);
        let state = &states()[round % 8];
        let id = world.back_up(&repo, state, round as i64 * 1000 + 999);
        known.insert(id, state.clone());
    }
    let repo = open(&world);
    verify(&repo, &known, &[]);
    check_clean(&repo);
    proof::count("processes killed in a backup", &[(KILLS, ROUNDS)]);
}

#[test]
fn suspended_at_any_moment() {
    let mut random = Random(seed());
    let mut world = start(false);
    let mut known = Known::new();
    let child = Looping::start(&world, 0);
    let rounds = 25;
    for round in 0..rounds {
        child.wait_for(1, &mut known);
        std::thread::sleep(Duration::from_micros(random.next() % 20_000));
        child.signal(Signal::STOP);
        // It does not go on before this one has ended: so this one cannot have waited for it.
        let state = &states()[round % 8];
        let id = world.back_up(&open(&world), state, round as i64);
        known.insert(id, state.clone());
        child.signal(Signal::CONT);
    }
    child.wait_for(2, &mut known);
    child.kill(&mut known);
    let all: Vec<&[u8]> = states().iter().map(Vec::as_slice).collect();
    let repo = open(&world);
    verify(&repo, &known, &all);
    check_clean(&repo);
    proof::count("processes suspended in a backup", &[(KILLS, rounds)]);
}

/// A process that is suspended inside a write of the catalog: no other process can write to it.
fn hold(catalog: &Path) -> Connection {
    let conn = Connection::open(catalog).unwrap();
    conn.execute_batch("BEGIN IMMEDIATE; DELETE FROM pack;").unwrap();
    conn
}

#[test]
fn the_catalog_is_held_from_the_start() {
    let mut world = start(true);
    let repo = open(&world);
    world.back_up(&repo, &states()[0], 1);
    let held = hold(repo.catalog().path());
    drop(repo);
    let repo = open(&world);
    assert_eq!(private_directories(&world.path("cache")), 1);
    world.back_up(&repo, &states()[1], 2);
    verify(&repo, &world.known, &[]);
    check_clean(&repo);
    drop(repo);
    assert_eq!(private_directories(&world.path("cache")), 0);
    held.execute_batch("ROLLBACK").unwrap();
    let repo = open(&world);
    assert_eq!(private_directories(&world.path("cache")), 0);
    verify(&repo, &world.known, &[]);
}

/// Held, or removed, or damaged, in the middle of a backup and of a restore: before any call of the backend.
#[test]
fn the_catalog_fails_in_the_middle() {
    let mut world = start(false);
    world.back_up(&world.open("cache"), &states()[0], 1);
    world.back_up(&world.open("cache"), &states()[1], 2);
    let tried = AtomicUsize::new(0);
    let run = |world: &World, at: usize, how: &'static str| -> bool {
        let here = world.copy();
        let path: Arc<Mutex<Option<PathBuf>>> = Arc::default();
        let (told, held, cache) = (path.clone(), Mutex::new(None), here.path("cache"));
        let began = Arc::new(AtomicUsize::new(0));
        let counted = began.clone();
        let hook = move |_: usize, _: Call| {
            let Some(path) = told.lock().unwrap().clone() else { return Fate::Proceed };
            if counted.fetch_add(1, Ordering::Relaxed) == at {
                match how {
                    "held" => *held.lock().unwrap() = Some(hold(&path)),
                    "removed" => fs::remove_dir_all(&cache).unwrap(),
                    _ => fs::write(&path, vec![0x5a; fs::metadata(&path).unwrap().len() as usize]).unwrap(),
                }
            }
            Fate::Proceed
        };
        let repo = here.open_on(Arc::new(Hooked::new(here.local(), hook)), "cache").unwrap();
        *path.lock().unwrap() = Some(repo.catalog().path().to_path_buf());
        let id: SnapshotId = here.try_back_up(&repo, "db", &states()[2], 3).unwrap_or_else(|error| panic!("{how} at {at}: {error}"));
        let mut known = here.known.clone();
        known.insert(id, states()[2].clone());
        verify(&repo, &known, &[]);
        check_clean(&repo);
        drop(repo);
        verify(&open_backend(here.local(), here.path("new cache"), 1).unwrap(), &known, &[]);
        tried.fetch_add(1, Ordering::Relaxed);
        began.load(Ordering::Relaxed) > at
    };
    for how in ["removed", "damaged"] {
        assert!((0..40).all(|at| run(&world, at, how)), "there are fewer calls");
    }
    // Each of these waits until the other process counts as one that does not go on.
    for at in [0, 12] {
        assert!(run(&world, at, "held"));
    }
    proof::count("catalogs lost in the middle", &[(FAULTS, tried.into_inner())]);
}

/// A private catalog that a killed process has left is removed by the next process that makes one.
#[test]
fn private_catalogs_are_not_left_behind() {
    let mut world = start(true);
    let repo = open(&world);
    world.back_up(&repo, &states()[0], 1);
    let _held = hold(repo.catalog().path());
    let child = Looping::spawn(command(&world).env(IDLE, "1"));
    while child.lines.recv_timeout(Duration::from_secs(120)).unwrap() != "open" {}
    child.signal(Signal::STOP);
    let repo = open(&world);
    assert_eq!(private_directories(&world.path("cache")), 2, "a suspended process keeps its own");
    child.kill(&mut Known::new());
    drop(repo);
    let repo = open(&world);
    assert_eq!(private_directories(&world.path("cache")), 1);
    verify(&repo, &world.known, &[]);
}
