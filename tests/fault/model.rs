//! Random lives of a repository against plain copies: every operation, one after the other and several at once with their calls in a random order, with
//! processes that die, catalogs that are lost, and copies of the repository that take each other's place.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use icecore::Error;
use icecore::id::SnapshotId;
use icecore::ops::prune::prune;
use icecore::progress::Silent;
use icecore::store::backend::ObjectKey;
use icecore::store::repo::Repository;

use crate::actor::{Actor, Done, Job};
use crate::memory::{Memory, Objects};
use crate::proof::{self, MODEL_STEPS};
use crate::pruning::{is_expected, options};
use crate::schedule::Baton;
use crate::support::{make_database, step};
use crate::world::{Known, Random, World, check_clean, in_parallel, init, seed, verify};

/// Rounds of a life.
const ROUNDS: usize = 14;
/// Catalogs. Each one stands for a host.
const HOSTS: usize = 6;
/// Seconds that marked packs wait, if they wait.
const GRACE: i64 = 1000;
/// Who writes.
const SOURCES: [&str; 3] = ["db", "other", "third"];

/// A repository as it should be.
#[derive(Clone)]
struct Truth {
    known: Known,
    protected: BTreeSet<SnapshotId>,
}

/// A database that is backed up again and again.
struct Source {
    path: PathBuf,
    db: rusqlite::Connection,
    states: Vec<Vec<u8>>,
}

impl Source {
    fn new(path: PathBuf, random: &mut Random) -> Self {
        let db = make_database(&path, 60 + 60 * random.below(5) as u32);
        db.execute_batch("PRAGMA synchronous=OFF").unwrap();
        let states = vec![std::fs::read(&path).unwrap()];
        Source { path, db, states }
    }

    /// The next state, or now and then one that was there before.
    fn edit(&mut self, random: &mut Random) -> Vec<u8> {
        match random.below(8) {
            0 => return self.states[random.below(self.states.len())].clone(),
            1 => self.db.execute_batch("VACUUM").unwrap(),
            2 => {}
            _ => (0..1 + random.below(3)).for_each(|_| step(&self.db, random.below(1000) as u32)),
        }
        self.states.push(std::fs::read(&self.path).unwrap());
        self.states[self.states.len() - 1].clone()
    }
}

/// What happened, over all lives.
#[derive(Default)]
struct Counts {
    steps: AtomicUsize,
    snapshots: AtomicUsize,
    forgotten: AtomicUsize,
    deleted: AtomicUsize,
    deaths: AtomicUsize,
    stale: AtomicUsize,
    unread: AtomicUsize,
    vanished: AtomicUsize,
}

fn add(to: &AtomicUsize, count: usize) {
    to.fetch_add(count, Ordering::Relaxed);
}

struct Life<'c> {
    random: Random,
    world: World,
    memory: Arc<Memory>,
    truth: Truth,
    /// A copy of the repository, made before, that may take the place of this one.
    aside: Option<(Objects, Truth)>,
    sources: Vec<Source>,
    clock: i64,
    counts: &'c Counts,
}

impl<'c> Life<'c> {
    fn new(number: u64, counts: &'c Counts) -> Self {
        let mut random = Random(number);
        let world = World::bare();
        let page_chunk_len = [None, Some(4096), Some(16384)][random.below(3)];
        let disk = Arc::new(icecore::fs::disk::RealDisk);
        init(&world.repo_dir(), random.below(2) == 0, page_chunk_len, disk).unwrap();
        let memory = Memory::new(Memory::load(&*world.local()));
        let sources = SOURCES.iter().map(|name| Source::new(world.path(&format!("{name}.live")), &mut random)).collect();
        let truth = Truth { known: Known::new(), protected: BTreeSet::new() };
        Life { random, world, memory, truth, aside: None, sources, clock: 10_000, counts }
    }

    fn open(&self, host: usize) -> Repository {
        self.world.open_on(self.memory.clone(), &format!("host {host}")).unwrap()
    }

    fn round(&mut self) {
        self.clock += 1 + self.random.below(GRACE as usize) as i64;
        match self.random.below(12) {
            0 => drop(std::fs::remove_dir_all(self.world.path(&format!("host {}", self.random.below(HOSTS))))),
            1 => self.aside = Some((self.memory.copy(), self.truth.clone())),
            2 => self.exchange(),
            _ => self.work(),
        }
        let host = self.random.below(HOSTS);
        let repo = self.open(host);
        let listed = verify(&repo, &self.truth.known, &[]);
        assert_eq!(listed.len(), self.truth.known.len());
        if self.random.below(3) == 0 {
            check_clean(&repo);
        }
    }

    /// The copy lies where the repository was, with all the catalogs of the hosts. Snapshots that a host has seen and that are not there have vanished:
    /// exactly these are reported, and nothing is deleted until they are dropped.
    fn exchange(&mut self) {
        let Some((objects, truth)) = self.aside.take() else { return };
        let up_to_date = self.random.below(HOSTS);
        let seen = verify(&self.open(up_to_date), &self.truth.known, &[]);
        self.aside = Some((self.memory.copy(), std::mem::replace(&mut self.truth, truth)));
        self.memory = Memory::new(objects);
        for host in (up_to_date..HOSTS).chain(0..up_to_date) {
            let repo = self.open(host);
            let vanished = repo.refresh().unwrap().vanished;
            let ids: BTreeSet<SnapshotId> = vanished.iter().map(|one| one.id).collect();
            let is_gone = |id: &&SnapshotId| !self.truth.known.contains_key(id) && !self.has(&ObjectKey::Forgotten(**id));
            match host == up_to_date {
                true => assert_eq!(ids, seen.keys().filter(is_gone).copied().collect()),
                false => assert!(ids.iter().all(|id| is_gone(&id))),
            }
            add(&self.counts.vanished, ids.len());
            if !ids.is_empty() {
                let error = prune(&repo, &options(0, self.clock), &Silent).unwrap_err();
                assert!(error.is_damage(), "{error}");
                repo.drop_vanished(&vanished, self.clock).unwrap();
            }
        }
    }

    /// Alone, or several at once; some of them die.
    fn work(&mut self) {
        let count = if self.random.below(3) == 0 { 1 } else { 2 + self.random.below(4) };
        let mut sources: Vec<usize> = (0..SOURCES.len()).collect();
        let mut jobs: Vec<Job> = (0..count).map(|_| self.job(&mut sources)).collect();
        // No two of one round say something of the protection of one snapshot: which was later would not be known.
        let mut spoken = BTreeSet::new();
        jobs.retain(|job| job.protects().is_none_or(|id| spoken.insert(id)));
        let first = self.random.below(HOSTS);
        let baton = Arc::new(Baton::new(jobs.len(), Random(self.random.next())));
        let actors: Vec<Actor<'_>> = jobs
            .into_iter()
            .enumerate()
            .map(|(me, job)| {
                let dies = self.random.below(8) == 0;
                let dies_at = if dies { self.random.below(60) } else { usize::MAX };
                let cache = self.world.path(&format!("host {}", (first + me) % HOSTS));
                Actor { me, job, dies_at, cache, baton: &baton, clock: self.clock, memory: &self.memory, world: &self.world }
            })
            .collect();
        let done = std::thread::scope(|scope| {
            let running: Vec<_> = actors.iter().map(|actor| scope.spawn(|| actor.run())).collect();
            running.into_iter().map(|thread| thread.join().unwrap()).collect::<Vec<_>>()
        });
        add(&self.counts.steps, actors.len());
        let jobs: Vec<(Job, bool)> = actors.into_iter().map(|actor| (actor.job, actor.dies_at != usize::MAX)).collect();
        self.settle(jobs, done);
    }

    fn job(&mut self, sources: &mut Vec<usize>) -> Job {
        let ids: Vec<SnapshotId> = self.truth.known.keys().copied().collect();
        let any = |random: &mut Random| ids[random.below(ids.len())];
        let kind = self.random.below(if ids.is_empty() { 1 } else { 13 });
        match kind {
            0..=3 if !sources.is_empty() => {
                let source = sources.swap_remove(self.random.below(sources.len()));
                Job::Backup { name: SOURCES[source], state: self.sources[source].edit(&mut self.random) }
            }
            4 | 5 => {
                let count = 1 + self.random.below(3);
                let ids: BTreeSet<SnapshotId> = (0..count).map(|_| any(&mut self.random)).collect();
                Job::Forget { ids: ids.into_iter().collect(), force: self.random.below(2) == 0 }
            }
            6 => Job::Protect { id: any(&mut self.random), protect: self.random.below(2) == 0 },
            7..=9 => Job::Prune { grace: [0, GRACE][self.random.below(2)] },
            _ if ids.is_empty() => Job::Check,
            10 => Job::Check,
            11 => Job::Dump { id: any(&mut self.random) },
            _ => Job::Restore { id: any(&mut self.random) },
        }
    }

    /// Compares what everybody did with what is there, and notes it. What the dead have done is looked up.
    fn settle(&mut self, jobs: Vec<(Job, bool)>, done: Vec<icecore::Result<Done>>) {
        let alone = jobs.len() == 1;
        let going: BTreeSet<SnapshotId> = jobs.iter().flat_map(|(job, _)| job.forgets()).copied().collect();
        let pruned = jobs.iter().any(|(job, _)| matches!(job, Job::Prune { .. }));
        let (mut gone, mut unclear, mut open) = (BTreeSet::new(), Vec::new(), BTreeSet::new());
        let mut must_stay = self.truth.protected.clone();
        for ((job, dies), done) in jobs.into_iter().zip(done) {
            match (job, done) {
                (Job::Backup { state, .. }, Ok(Done::Committed(id))) => drop(self.truth.known.insert(id, state)),
                (Job::Forget { ids, .. }, Ok(Done::Forgotten(some))) => {
                    assert!(some.iter().all(|id| ids.contains(id)));
                    gone.extend(some);
                }
                (Job::Protect { id, protect }, Ok(Done::Marked { is_being_forgotten })) => {
                    let promised = protect && !is_being_forgotten;
                    let _ = if promised { must_stay.insert(id) } else { must_stay.remove(&id) };
                    let _ = if protect { self.truth.protected.insert(id) } else { self.truth.protected.remove(&id) };
                }
                (Job::Prune { .. }, Ok(Done::Deleted(packs))) => add(&self.counts.deleted, packs),
                (Job::Check | Job::Dump { .. } | Job::Restore { .. }, Ok(Done::Read(bytes))) => {
                    let is_right = |(id, bytes)| self.truth.known.get(&id).is_none_or(|known| *known == bytes);
                    assert!(bytes.is_none_or(is_right), "other bytes came back");
                }
                (job, Err(_)) if dies => {
                    add(&self.counts.deaths, 1);
                    match job {
                        Job::Backup { state, .. } => unclear.push(state),
                        Job::Forget { ids, .. } => {
                            gone.extend(ids.into_iter().filter(|id| crate::support::record_key(&*self.memory, id).is_none()))
                        }
                        Job::Protect { id, .. } => {
                            must_stay.remove(&id);
                            open.insert(id);
                        }
                        _ => {}
                    }
                }
                (Job::Backup { .. }, Err(Error::Stale { .. })) if pruned && !alone => add(&self.counts.stale, 1),
                (Job::Prune { .. }, Err(error)) => assert!(is_expected(&error) || !alone && error.is_damage(), "{error}"),
                // It says that something is gone; and it may be.
                (Job::Protect { id, .. } | Job::Dump { id } | Job::Restore { id }, Err(Error::NotFound { .. })) if going.contains(&id) => {}
                (Job::Check | Job::Dump { .. } | Job::Restore { .. }, Err(error)) if pruned && !alone && error.is_damage() => {
                    add(&self.counts.unread, 1);
                }
                (job, other) => panic!("{job:?}: {other:?}"),
            }
        }
        add(&self.counts.forgotten, gone.len());
        assert_eq!(gone.intersection(&must_stay).next(), None, "what is protected went");
        self.truth.known.retain(|id, _| !gone.contains(id));
        self.look_up(&unclear, &open);
    }

    fn has(&self, key: &ObjectKey) -> bool {
        self.memory.objects.lock().unwrap().contains_key(key)
    }

    /// What the dead have left: their snapshots are whole if they are there, their marks were made or not.
    fn look_up(&mut self, unclear: &[Vec<u8>], open: &BTreeSet<SnapshotId>) {
        let states: Vec<&[u8]> = unclear.iter().map(Vec::as_slice).collect();
        let repo = self.open(self.random.clone().below(HOSTS));
        let listed = verify(&repo, &self.truth.known, &states);
        add(&self.counts.snapshots, listed.len());
        self.truth.known = listed;
        let marks = repo.refresh().unwrap().marks;
        let is_protected = |id: &&SnapshotId| marks.get(id).is_some_and(|marks| marks.protection().is_some());
        let protected: BTreeSet<SnapshotId> = self.truth.known.keys().filter(is_protected).copied().collect();
        self.truth.protected.retain(|id| self.truth.known.contains_key(id) && !open.contains(id));
        let clear: BTreeSet<SnapshotId> = protected.difference(open).copied().collect();
        assert_eq!(self.truth.protected, clear, "protections");
        self.truth.protected = protected;
    }
}

#[test]
fn random_lives() {
    let (first, counts) = (seed(), Counts::default());
    let lives = if proof::is_long() { 2000 } else { 60 };
    let seeds: Vec<u64> = (0..lives).map(|n| first.wrapping_add(n)).collect();
    let seeds = proof::some_of(seeds, 3, first);
    in_parallel(&seeds, |seed| {
        let mut life = Life::new(*seed, &counts);
        (0..ROUNDS).for_each(|_| life.round());
    });
    let Counts { steps, snapshots, forgotten, deleted, deaths, stale, unread, vanished } = counts;
    let [steps, snapshots, forgotten, deleted] = [steps, snapshots, forgotten, deleted].map(AtomicUsize::into_inner);
    let [deaths, stale, unread, vanished] = [deaths, stale, unread, vanished].map(AtomicUsize::into_inner);
    println!(
        "{lives} lives: {snapshots} snapshots compared, {forgotten} forgotten, {deleted} packs deleted, {deaths} deaths, {stale} backups and {unread} reads gave way, \
         {vanished} told as vanished after an exchange"
    );
    proof::count("random lives", &[(MODEL_STEPS, steps)]);
    assert!(forgotten > 0 && deleted > 0 && deaths > 0 && vanished > 0 && stale * 20 < steps && unread * 20 < steps);
}
