//! A model: random backups of several sources through several catalogs, forgetting, protection, prunes with and without a grace time, checks and
//! restores, against plain copies. `SEED=n` repeats a run, `SEEDS=n` takes as many seeds from there on.

use std::collections::{BTreeMap, HashSet};
use std::fs;

use icecore::id::SnapshotId;
use icecore::ops::check::{CheckOptions, check};
use icecore::ops::forget::{execute, plan_by_rules};
use icecore::ops::prune::{PruneOptions, prune};
use icecore::ops::retention::{Calendar, GroupBy, Keep, Rules};
use icecore::ops::select::SnapshotFilter;
use icecore::progress::Silent;
use icecore::store::repo::Repository;
use jiff::tz::TimeZone;
use rusqlite::Connection;

use super::support::{Bed, forget, make_database, protect, step, stream, try_back_up_as};

const SECOND: i64 = 1_000_000_000;
const SOURCES: [&str; 3] = ["one", "two", "three"];
const CACHES: [&str; 3] = ["first", "second", "third"];

fn number(name: &str, or: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(or)
}

struct Model {
    bed: Bed,
    databases: Vec<Connection>,
    /// Opened long ago, each with a catalog of its own.
    repos: Vec<Repository>,
    known: BTreeMap<SnapshotId, Vec<u8>>,
    protected: HashSet<SnapshotId>,
    random: u64,
    time: i64,
    deleted: u64,
}

impl Model {
    fn new(seed: u64) -> Self {
        let bed = Bed::new(seed.is_multiple_of(2));
        let databases = SOURCES.iter().zip(0..).map(|(name, n)| make_database(&bed.path(name), 300 + n * 200)).collect();
        let repos = CACHES.iter().map(|cache| bed.open_as("repo", cache, 2)).collect();
        let (known, protected) = (BTreeMap::new(), HashSet::new());
        Model { bed, databases, repos, known, protected, random: seed, time: 1, deleted: 0 }
    }

    fn below(&mut self, bound: usize) -> usize {
        self.random = self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((self.random >> 33) % bound as u64) as usize
    }

    fn repo(&mut self) -> Repository {
        let at = self.below(self.repos.len());
        if self.below(8) == 0 {
            let name = format!("cache of {}", self.time);
            self.repos[at] = self.bed.open_as("repo", &name, 2);
        }
        self.repos[at].clone()
    }

    fn some_snapshot(&mut self) -> Option<SnapshotId> {
        let at = self.below(self.known.len().max(1));
        self.known.keys().nth(at).copied()
    }

    fn back_up(&mut self) {
        let (which, n) = (self.below(SOURCES.len()), self.below(1000) as u32);
        match self.below(10) {
            0 => self.databases[which].execute_batch("VACUUM").unwrap(),
            1 => {}
            _ => step(&self.databases[which], n),
        }
        let (repo, path) = (self.repo(), self.bed.path(SOURCES[which]));
        let report = try_back_up_as(Some(SOURCES[which]), &repo, &path, self.time).unwrap();
        assert!(self.known.insert(report.id, fs::read(&path).unwrap()).is_none());
    }

    fn forget(&mut self) {
        let repo = self.repo();
        let report = match (self.below(2), self.some_snapshot()) {
            (0, Some(id)) => forget(&repo, &[id], self.time % 2 == 0),
            _ => {
                let mut rules = Rules::default();
                rules.count[0] = Keep::Newest(1 + self.below(4) as u32);
                let calendar = Calendar { now_ns: self.time * SECOND, zone: TimeZone::UTC };
                let plan =
                    plan_by_rules(&repo.refresh().unwrap(), &SnapshotFilter::default(), &rules, GroupBy::default(), &calendar).unwrap();
                execute(&repo, &plan, self.time * SECOND, &Silent).unwrap()
            }
        };
        for id in report.forgotten {
            assert!(!self.protected.contains(&id) && self.known.remove(&id).is_some());
        }
    }

    fn prune(&mut self) {
        let repo = self.repo();
        let options = PruneOptions {
            grace_ns: [0, 3, 20][self.below(3)] * SECOND,
            now_ns: self.time * SECOND,
            host: "test".into(),
            unused_max_permille: [0, 50, 500][self.below(3)],
            repack_bytes_max: [None, Some(100_000)][self.below(2)],
        };
        self.deleted += prune(&repo, &options, &Silent).unwrap().deleted;
    }

    fn look(&mut self) {
        let repo = self.repo();
        let listed: Vec<SnapshotId> = repo.refresh().unwrap().snapshots.iter().map(|(id, _)| *id).collect();
        assert!(listed.len() == self.known.len() && listed.iter().all(|id| self.known.contains_key(id)));
        if let Some(id) = self.some_snapshot() {
            assert!(stream(&repo, &id, "db").unwrap() == self.known[&id], "snapshot {id}");
        }
    }

    fn check(&mut self) {
        let report = check(&self.repo(), &CheckOptions::read_all(), &Silent).unwrap();
        assert!(report.findings.iter().all(|finding| finding.severity < icecore::ops::check::Severity::Damage), "{:#?}", report.findings);
    }

    fn step(&mut self) {
        self.time += 1 + self.below(3) as i64;
        match self.below(20) {
            0..8 => self.back_up(),
            8..11 => self.forget(),
            11..15 => self.prune(),
            15 => self.check(),
            16 => {
                if let Some(id) = self.some_snapshot() {
                    protect(&self.repo(), &id);
                    self.protected.insert(id);
                }
            }
            _ => self.look(),
        }
    }
}

#[test]
fn random_lives() {
    let first = number("SEED", 4);
    let seeds = number("SEEDS", if std::env::var("SEED").is_ok() { 1 } else { 4 });
    let mut deleted = 0;
    for seed in first..first + seeds {
        println!("SEED={seed}");
        let mut model = Model::new(seed);
        (0..60).for_each(|_| model.step());
        model.check();
        let repo = model.bed.open_as("repo", "the last", 2);
        for (id, state) in &model.known {
            assert!(stream(&repo, id, "db").unwrap() == *state, "snapshot {id}");
        }
        println!("{} snapshots left, {} packs deleted", model.known.len(), model.deleted);
        deleted += model.deleted;
    }
    assert!(deleted > 0 || seeds < 4);
}
