//! Taking the place of another directory, with a step of the disk that fails, each in turn.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use icecore::engine::place::Placement;
use icecore::fs::disk::{Disk, RealDisk};
use icecore::id::SnapshotId;
use icecore::ops::export::{ExportOptions, Exported, export};
use icecore::progress::Silent;
use icecore::store::format::snapshot::SnapshotRecord;
use icecore::store::repo::Repository;

use super::support::{Bed, back_up, make_database};

/// A disk on which every operation fails from one step on. It records what was done.
#[derive(Debug)]
struct Failing {
    steps_left: AtomicUsize,
    can_exchange: bool,
    trace: Mutex<Vec<String>>,
}

impl Failing {
    fn after(steps: usize, can_exchange: bool) -> Self {
        Failing { steps_left: steps.into(), can_exchange, trace: Mutex::default() }
    }

    fn step(&self, what: &str, path: &Path) -> io::Result<()> {
        let left = self.steps_left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1));
        left.map_err(|_| io::Error::other("the disk is gone"))?;
        // The name of a held directory.
        let path = if path.parent() == Some(Path::new("/proc/self/fd")) { path.read_link()? } else { path.to_path_buf() };
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        self.trace.lock().unwrap().push(format!("{what} {}", if name.contains(".icecore-") { "new" } else { &name }));
        Ok(())
    }
}

impl Disk for Failing {
    fn create(&self, path: &Path, parts: &[&[u8]], mode: u32) -> io::Result<()> {
        self.step("create", path)?;
        RealDisk.create(path, parts, mode)
    }
    fn create_new(&self, path: &Path, mode: u32) -> io::Result<File> {
        self.step("create", path)?;
        RealDisk.create_new(path, mode)
    }
    fn sync_filesystem(&self, dir: &File, path: &Path) -> io::Result<()> {
        self.step("syncfs", path)?;
        RealDisk.sync_filesystem(dir, path)
    }
    fn sync_file(&self, file: &File, path: &Path) -> io::Result<()> {
        self.step("sync", path)?;
        RealDisk.sync_file(file, path)
    }
    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        self.step("syncdir", path)?;
        RealDisk.sync_dir(path)
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.step("rename", to)?;
        RealDisk.rename(from, to)
    }
    fn hard_link(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.step("link", to)?;
        RealDisk.hard_link(from, to)
    }
    fn rename_new(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.step("rename", to)?;
        RealDisk.rename_new(from, to)
    }
    fn exchange(&self, one: &Path, other: &Path) -> io::Result<()> {
        if !self.can_exchange {
            return Err(io::ErrorKind::Unsupported.into());
        }
        self.step("exchange", other)?;
        RealDisk.exchange(one, other)
    }
    fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.step("remove", path)?;
        RealDisk.remove_file(path)
    }
}

struct Scene {
    bed: Bed,
    repo: Repository,
    snapshots: Vec<(SnapshotId, SnapshotRecord)>,
}

impl Scene {
    /// Two snapshots. The first one is exported.
    fn new() -> Self {
        let bed = Bed::new(false);
        let path = bed.path("db.sqlite");
        let conn = make_database(&path, 200);
        let repo = bed.open();
        back_up(&repo, &path, 1);
        conn.execute_batch("CREATE TABLE more(x)").unwrap();
        back_up(&repo, &path, 2);
        std::fs::create_dir(bed.path("out")).unwrap();
        let snapshots = repo.refresh().unwrap().snapshots;
        let scene = Scene { bed, repo, snapshots };
        scene.export(&RealDisk, 0).unwrap();
        scene
    }

    fn dir(&self) -> PathBuf {
        self.bed.path("out/latest")
    }

    fn export(&self, disk: &dyn Disk, number: usize) -> icecore::Result<Exported> {
        let placement = Placement { disk, timestamp: "20261123T031500Z".into(), monitor: &Silent };
        let (id, record) = &self.snapshots[number];
        export(&self.repo, (id, record), &self.dir(), &ExportOptions::default(), &placement)
    }

    /// The snapshot whose complete export the directory is; `None` if it does not exist.
    fn found(&self) -> Option<usize> {
        let manifest = std::fs::read(self.dir().join("manifest.json")).ok()?;
        let manifest: serde_json::Value = serde_json::from_slice(&manifest).unwrap();
        let bytes = std::fs::read(self.dir().join("db")).unwrap();
        assert_eq!(manifest["files"][0]["blake3"].as_str().unwrap(), blake3::hash(&bytes).to_hex().as_str());
        assert!(self.dir().join("checksums.txt").is_file());
        self.snapshots.iter().position(|(id, _)| manifest["snapshot"] == id.to_string())
    }

    fn names(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.bed.path("out")).unwrap();
        let mut names: Vec<String> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

#[test]
fn whatever_fails_the_directory_is_one_of_the_two() {
    for can_exchange in [true, false] {
        let scene = Scene::new();
        let mut failures = 0;
        for steps in 0.. {
            let outcome = scene.export(&Failing::after(steps, can_exchange), 1);
            if outcome.is_ok() {
                break;
            }
            failures += 1;
            let found = scene.found();
            match can_exchange {
                true => assert!(found.is_some(), "after {steps} steps"),
                // Between two renames the name is absent, and the message says where the old one lies.
                false => {
                    let said = outcome.unwrap_err().to_string();
                    assert!(found.is_some() || said.contains("it is /"), "after {steps} steps: {said}");
                }
            }
            if found != Some(0) {
                let _ = std::fs::remove_dir_all(scene.bed.path("out"));
                std::fs::create_dir(scene.bed.path("out")).unwrap();
                scene.export(&RealDisk, 0).unwrap();
            }
        }
        assert!(failures > 5, "{failures}");
        assert_eq!((scene.found(), scene.names()), (Some(1), vec!["latest".to_owned()]));
    }
}

#[test]
fn all_is_durable_before_it_has_the_name() {
    let scene = Scene::new();
    let disk = Failing::after(usize::MAX, true);
    scene.export(&disk, 1).unwrap();
    let trace = disk.trace.into_inner().unwrap();
    let at = |step: &str| trace.iter().position(|done| done == step).unwrap_or_else(|| panic!("{step} is not in {trace:?}"));
    let swap = at("exchange latest");
    assert!(at("sync new") < at("rename db") && at("rename db") < swap, "{trace:?}");
    let names = trace.iter().rposition(|step| step == "syncdir new").unwrap();
    assert!(at("create checksums.txt") < names && at("create manifest.json") < names && names < swap, "{trace:?}");
    assert!(trace[swap..].contains(&"syncdir out".to_owned()), "{trace:?}");
}

#[test]
fn what_is_not_ours_is_kept_or_refused() {
    let scene = Scene::new();
    std::fs::write(scene.dir().join("db"), b"edited").unwrap();
    let exported = scene.export(&RealDisk, 1).unwrap();
    assert_eq!(exported.kept, Some(scene.bed.path("out").canonicalize().unwrap().join("latest.pre_export.20261123T031500Z")));
    assert_eq!(std::fs::read(exported.kept.unwrap().join("db")).unwrap(), b"edited");
    assert_eq!(scene.found(), Some(1));
    // The next name for the next one.
    std::fs::write(scene.dir().join("notes.txt"), b"mine").unwrap();
    let kept = scene.export(&RealDisk, 0).unwrap().kept.unwrap();
    assert!(kept.ends_with("latest.pre_export.20261123T031500Z.1") && kept.join("notes.txt").is_file(), "{kept:?}");
    // A directory of something else altogether.
    std::fs::remove_dir_all(scene.dir()).unwrap();
    std::fs::create_dir(scene.dir()).unwrap();
    std::fs::write(scene.dir().join("notes.txt"), b"mine").unwrap();
    let refused = scene.export(&RealDisk, 1).unwrap_err().to_string();
    assert!(refused.contains("is not empty and is not an export"), "{refused}");
    std::fs::remove_file(scene.dir().join("notes.txt")).unwrap();
    scene.export(&RealDisk, 1).unwrap();
    assert_eq!(scene.found(), Some(1));
}
