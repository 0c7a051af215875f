//! What all fault tests share: states of a small database, repositories that hold some of them, and the oracle.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use icecore::fs::disk::{Disk, RealDisk};
use icecore::id::{KeyId, RepositoryId, SnapshotId};
use icecore::ops::check::{CheckOptions, CheckReport, check};
use icecore::ops::restore::dump;
use icecore::progress::Silent;
use icecore::store::backend::{Backend, LocalBackend, ObjectKey, Replica, WriteMode};
use icecore::store::crypto::keyring;
use icecore::store::format::config::Config;
use icecore::store::format::key::KeyPayload;
use icecore::store::repo::{Reader, Repository};
use rusqlite::Connection;

use crate::support::{CHEAP, open_backend, try_back_up_as};

/// The passphrase of [`open_backend`].
const PASSPHRASE: &[u8] = b"correct horse";

/// What snapshots must give back.
pub type Known = BTreeMap<SnapshotId, Vec<u8>>;

/// SplitMix64 (Steele, Lea, Flood 2014).
#[derive(Debug, Clone)]
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    pub fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }
}

/// The seed of this run, printed.
pub fn seed() -> u64 {
    let seed = std::env::var("SEED").ok().and_then(|text| text.parse().ok()).unwrap_or(20_261_130);
    println!("SEED={seed}");
    seed
}

/// The states of one database, each the next step of the one before: pages change here and there, the file grows, then it is vacuumed.
pub fn states() -> &'static [Vec<u8>] {
    static STATES: OnceLock<Vec<Vec<u8>>> = OnceLock::new();
    STATES.get_or_init(|| {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("db");
        let db = crate::support::make_database(&path, 450);
        let mut states = vec![fs::read(&path).unwrap()];
        for n in 0..7 {
            crate::support::step(&db, n);
            if n == 5 {
                db.execute_batch("VACUUM").unwrap();
            }
            states.push(fs::read(&path).unwrap());
        }
        states
    })
}

/// A database of many pages that differ and compress to almost nothing: a tree of two levels in a small repository.
pub fn thin_states() -> &'static [Vec<u8>] {
    static STATES: OnceLock<Vec<Vec<u8>>> = OnceLock::new();
    STATES.get_or_init(|| {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("db");
        let db = Connection::open(&path).unwrap();
        db.execute_batch("PRAGMA page_size=4096; CREATE TABLE t(id INTEGER PRIMARY KEY, body BLOB)").unwrap();
        let mut states = Vec::new();
        for step in 0..4 {
            let tx = db.unchecked_transaction().unwrap();
            for n in 0..140 {
                tx.execute("INSERT OR IGNORE INTO t VALUES (?1, zeroblob(3500))", [n]).unwrap();
            }
            for n in 0..4 {
                let body = blake3::hash(&[step, n]).to_hex().to_string();
                tx.execute("UPDATE t SET body = ?1 || zeroblob(3400) WHERE id = ?2", (body, n * 31 + step)).unwrap();
            }
            tx.commit().unwrap();
            states.push(fs::read(&path).unwrap());
        }
        states
    })
}

/// A database of a few pages, with one change in each step: every byte of what is stored can be tried.
pub fn small_states() -> &'static [Vec<u8>] {
    static STATES: OnceLock<Vec<Vec<u8>>> = OnceLock::new();
    STATES.get_or_init(|| {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("db");
        let db = Connection::open(&path).unwrap();
        db.execute_batch("PRAGMA page_size=512; CREATE TABLE t(x); INSERT INTO t VALUES ('a'), ('b'), ('c')").unwrap();
        let step = |n: i64| {
            db.execute("UPDATE t SET x = ?1 WHERE rowid = ?2", (format!("step {n}"), n % 3)).unwrap();
            fs::read(&path).unwrap()
        };
        (1..5).map(step).collect()
    })
}

/// A directory with a repository, caches and databases.
pub struct World {
    pub dir: tempfile::TempDir,
    pub known: Known,
}

impl World {
    /// With an empty repository in the usual form.
    pub fn new(encrypted: bool) -> Self {
        let world = Self::bare();
        init(&world.repo_dir(), encrypted, None, Arc::new(RealDisk)).unwrap();
        world
    }

    /// Without a repository.
    pub fn bare() -> Self {
        World { dir: crate::simulated::scratch(), known: Known::new() }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().canonicalize().unwrap().join(name)
    }

    /// A copy, so that a template is made once.
    pub fn copy(&self) -> Self {
        let copy = World { dir: crate::simulated::scratch(), known: self.known.clone() };
        copy_tree(self.dir.path(), copy.dir.path());
        copy
    }

    /// In a directory of its own, which may be a simulated disk.
    pub fn repo_dir(&self) -> PathBuf {
        self.path("disk").join("repo")
    }

    pub fn local(&self) -> Arc<dyn Backend> {
        local(&self.repo_dir())
    }

    /// The repository under a name that does not change when it is copied, so that the catalog goes with it.
    pub fn open(&self, cache: &str) -> Repository {
        self.open_on(self.local(), cache).unwrap()
    }

    pub fn open_on(&self, backend: Arc<dyn Backend>, cache: &str) -> icecore::Result<Repository> {
        open_backend(Arc::new(crate::hook::Hooked::quiet(backend)), self.path(cache), 1)
    }

    /// Backs this state of the database up, and knows the snapshot.
    pub fn back_up(&mut self, repo: &Repository, state: &[u8], time: i64) -> SnapshotId {
        let id = self.try_back_up(repo, "db", state, time).unwrap();
        self.known.insert(id, state.to_vec());
        id
    }

    pub fn try_back_up(&self, repo: &Repository, name: &str, state: &[u8], time: i64) -> icecore::Result<SnapshotId> {
        let path = self.path(name);
        fs::write(&path, state).unwrap();
        let report = try_back_up_as(Some(name), repo, &path, time)?;
        // Some of the states are much shorter than others.
        let flags = &report.record.flags;
        assert!(flags.iter().all(|flag| flag.code == "shrunk"), "{flags:?}");
        Ok(report.id)
    }
}

pub fn local(path: &Path) -> Arc<dyn Backend> {
    Arc::new(LocalBackend::open(path, Arc::new(RealDisk)).unwrap())
}

/// Makes a repository; with another length of page chunks if that is given.
pub fn init(path: &Path, encrypted: bool, page_chunk_len: Option<u32>, disk: Arc<dyn Disk>) -> icecore::Result<()> {
    let backend = LocalBackend::create(path, disk)?;
    let Some(page_chunk_len) = page_chunk_len else {
        let passphrase = encrypted.then(|| zeroize::Zeroizing::new(String::from_utf8(PASSPHRASE.to_vec()).unwrap()));
        let options = icecore::store::repo::InitOptions { passphrase, cost: CHEAP, parity_percent: 0 };
        return Repository::init(&backend, &options).map(drop);
    };
    let config = Config { repository: RepositoryId([7; 32]), encrypted, page_chunk_len, content_chunk_len: 64 << 10, parity_percent: 0 };
    let bytes = config.encode().unwrap();
    if encrypted {
        let payload = KeyPayload { master: [9; 32], config_hash: *blake3::hash(&bytes).as_bytes(), config: config.clone() };
        let record = keyring::wrap(&config.repository, &payload, PASSPHRASE, [3; 32], CHEAP).unwrap().encode();
        for replica in [Replica::Second, Replica::First] {
            backend.write(&ObjectKey::Key(KeyId([5; 32]), replica), &[&record], WriteMode::CreateNew)?;
        }
    }
    for replica in [Replica::Second, Replica::First] {
        backend.write(&ObjectKey::Config(replica), &[&bytes], WriteMode::CreateNew)?;
    }
    Ok(())
}

pub fn copy_tree(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        match entry.file_type().unwrap().is_dir() {
            true => copy_tree(&entry.path(), &target),
            false => drop(fs::copy(entry.path(), target).unwrap()),
        }
    }
}

/// All files below a directory with their bytes.
pub fn contents(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    let walk = walkdir::WalkDir::new(dir).into_iter().map(Result::unwrap).filter(|entry| entry.file_type().is_file());
    for entry in walk {
        found.insert(entry.path().strip_prefix(dir).unwrap().to_path_buf(), fs::read(entry.path()).unwrap());
    }
    found
}

/// The database in a listed snapshot.
pub fn database_of(repo: &Repository, record: &icecore::store::format::snapshot::SnapshotRecord) -> icecore::Result<Vec<u8>> {
    let name = Reader::new(repo).listing(&record.listing, &Silent)?.first().map(|entry| entry.name.clone()).unwrap_or_default();
    let mut bytes = Vec::new();
    dump(repo, record, &name, &mut bytes, &Silent)?;
    Ok(bytes)
}

/// Every listed snapshot restores; those known are listed; what is new holds one of these states. Gives what is listed.
pub fn verify(repo: &Repository, known: &Known, new: &[&[u8]]) -> Known {
    let refreshed = repo.refresh().unwrap();
    assert!(refreshed.damage.is_empty(), "{:?}", refreshed.damage);
    let mut listed = Known::new();
    for (id, record) in &refreshed.snapshots {
        let bytes = database_of(repo, record).unwrap_or_else(|error| panic!("snapshot {id} does not restore: {error}"));
        match known.get(id) {
            Some(expected) => assert!(bytes == *expected, "snapshot {id} gives back other bytes"),
            None => assert!(new.contains(&bytes.as_slice()), "snapshot {id}, which nobody made, is listed"),
        }
        listed.insert(*id, bytes);
    }
    for id in known.keys() {
        assert!(listed.contains_key(id), "snapshot {id} is gone");
    }
    listed
}

pub fn read_data(repo: &Repository) -> CheckReport {
    check(repo, &CheckOptions::read_all(), &Silent).unwrap()
}

pub fn check_clean(repo: &Repository) {
    let report = read_data(repo);
    assert!(report.findings.is_empty(), "{:#?}", report.findings);
    assert!(report.touched.is_empty());
}

/// Runs jobs on two threads (the other cores belong to other tests); a panic names its job.
pub fn in_parallel<J: std::fmt::Debug + Sync>(jobs: &[J], work: impl Fn(&J) + Sync) {
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while let Some(job) = jobs.get(next.fetch_add(1, Ordering::Relaxed)) {
                    if let Err(panic) = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| work(job))) {
                        println!("failed in {job:?}");
                        next.store(jobs.len(), Ordering::Relaxed);
                        std::panic::resume_unwind(panic);
                    }
                }
            });
        }
    });
}
