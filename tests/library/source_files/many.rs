//! Trees of many small files: restored in batches, and what a power cut, a stop or damage leaves of them.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use icecore::Error;
use icecore::engine::place::Placement;
use icecore::fs::disk::{Disk, RealDisk};
use icecore::ops::restore::{Outcome, RestoreOptions, Restored, restore_tree};
use icecore::progress::{Monitor, Silent};
use icecore::store::repo::Repository;

use super::crashdisk::{CrashDisk, Policy, scratch};
use super::harness::{look, noise, run, source};
use super::support::Bed;

const STAMP: &str = "20261123T031500Z";

/// Enough files that the file system is synced as a whole.
const FILES: u32 = 300;

/// Small files, some of several chunks, some empty, in directories; with links.
fn make(root: &Path, word: &str, files: u32) {
    for n in 0..files {
        let dir = root.join(format!("d{}", n % 7)).join(format!("e{}", n % 3));
        fs::create_dir_all(&dir).unwrap();
        let bytes = match n % 50 {
            7 => Vec::new(),
            9 => noise(n, 400_000),
            _ => format!("{word} {n}").repeat(20).into_bytes(),
        };
        fs::write(dir.join(format!("f{n}")), bytes).unwrap();
    }
    fs::hard_link(root.join("d1/e1/f1"), root.join("d0/twin")).unwrap();
    std::os::unix::fs::symlink("../d1", root.join("d2/link")).unwrap();
}

fn restore_on(
    disk: &dyn Disk,
    monitor: &dyn Monitor,
    (repo, report): (&Repository, &icecore::ops::backup::BackupReport),
    to: &Path,
    tell: &mut (dyn FnMut(Restored) + Send),
) -> icecore::Result<Outcome> {
    let placement = Placement { disk, timestamp: STAMP.into(), monitor };
    restore_tree(repo, &report.record, to, &RestoreOptions::default(), &placement, tell)
}

fn hidden(root: &Path) -> Vec<std::path::PathBuf> {
    let all = walkdir::WalkDir::new(root).into_iter().map(|entry| entry.unwrap().into_path());
    all.filter(|path| path.file_name().unwrap().to_string_lossy().contains(".icecore-restore-")).collect()
}

#[test]
fn many_files_come_back_and_what_was_there_is_kept() {
    let bed = Bed::new(true);
    let (tree, back) = (bed.path("tree"), bed.path("back"));
    make(&tree, "new", 5_000);
    let repo = bed.open();
    let report = run(&repo, &source(&[&tree], &[]), 1);
    let mut told = 0;
    let outcome = restore_on(&RealDisk, &Silent, (&repo, &report), &back, &mut |_| told += 1).unwrap();
    assert!(outcome.is_whole() && outcome.untried == 0, "{outcome:?}");
    assert_eq!((outcome.restored, told), (report.record.entries, report.record.entries));
    assert_eq!(look(&tree), look(&back));
    assert_eq!(hidden(&back), Vec::<std::path::PathBuf>::new());
    // Once more, in place: nothing is overwritten.
    fs::write(back.join("d3/e1/f10"), "mine").unwrap();
    let mut kept = BTreeMap::new();
    let mut tell = |restored: Restored| {
        if let [old] = restored.placed.kept.as_slice() {
            kept.insert(restored.placed.path, old.clone());
        }
    };
    restore_on(&RealDisk, &Silent, (&repo, &report), &back, &mut tell).unwrap().whole().unwrap();
    assert_eq!(kept.len(), 5_001, "every file and the further name; the link was right");
    assert_eq!(fs::read(&kept[&back.join("d3/e1/f10")]).unwrap(), b"mine");
    for (path, old) in &kept {
        let name = |path: &Path| path.file_name().unwrap().to_str().unwrap().to_owned();
        assert_eq!(name(old), format!("{}.pre_restore.{STAMP}", name(path)));
        fs::remove_file(old).unwrap();
    }
    let names = |tree: &BTreeMap<Vec<u8>, String>| tree.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(&look(&tree)), names(&look(&back)));
    assert_eq!(fs::read(back.join("d3/e1/f10")).unwrap(), fs::read(tree.join("d3/e1/f10")).unwrap());
}

/// The power goes before and after each sync, and here and there between.
#[test]
fn the_power_goes_while_many_files_are_restored() {
    let bed = Bed::new(true);
    let tree = bed.path("tree");
    make(&tree, "new", FILES);
    let repo = bed.open();
    let report = run(&repo, &source(&[&tree], &[]), 1);
    let attempt = |step: Option<u64>| {
        let outer = scratch();
        let root = outer.path().join("disk");
        make(&root.join("back"), "old", FILES / 2);
        let disk = CrashDisk::new(&root);
        step.inspect(|step| disk.power_off_at(*step));
        let outcome = restore_on(&disk, &Silent, (&repo, &report), &root.join("back"), &mut |_| {});
        (outer, disk, outcome.and_then(Outcome::whole))
    };
    let (_outer, disk, outcome) = attempt(None);
    outcome.unwrap();
    let trace = disk.trace();
    let syncs: Vec<u64> = (0u64..).zip(&trace).filter(|(_, step)| step.starts_with("syncfs")).map(|(at, _)| at).collect();
    assert!(syncs.len() >= 2, "{trace:?}");
    let mut steps: Vec<u64> = syncs.iter().flat_map(|at| [at.saturating_sub(1), *at, at + 1]).collect();
    steps.extend((0..disk.ops()).step_by(disk.ops() as usize / 12));
    steps.push(disk.ops() - 1);
    for step in steps {
        let (outer, disk, outcome) = attempt(Some(step));
        for (number, policy) in [Policy::LoseAll, Policy::KeepAll, Policy::Random(step), Policy::Random(step + 1)].into_iter().enumerate() {
            let found = outer.path().join(format!("found{number}"));
            disk.materialize(policy, &found).unwrap();
            let when = format!("step {step}, {policy:?}: {outcome:?}");
            for n in 0..FILES {
                check_one(&found.join("back"), &tree, n, outcome.is_ok(), &when);
            }
            fs::remove_dir_all(&found).unwrap();
        }
    }
}

/// Old, new with the old one kept, or absent if nothing was there; never a mixture, and never without the old one.
fn check_one(back: &Path, tree: &Path, n: u32, done: bool, when: &str) {
    let name = format!("d{}/e{}/f{n}", n % 7, n % 3);
    let new = fs::read(tree.join(&name)).unwrap();
    let had_old = n < FILES / 2;
    let old = match n % 50 {
        7 => Vec::new(),
        9 => noise(n, 400_000),
        _ => format!("old {n}").repeat(20).into_bytes(),
    };
    let found = fs::read(back.join(&name)).ok();
    let kept = fs::read(back.join(format!("{name}.pre_restore.{STAMP}"))).ok();
    match found {
        Some(found) if found == new => {
            assert!(!had_old || kept.as_ref() == Some(&old) || new == old, "{name}: the old one is lost; {when}")
        }
        Some(found) => assert!(had_old && found == old && !done, "{name}: neither old nor new; {when}"),
        None => assert!(!had_old && !done, "{name}: nothing is there; {when}"),
    }
}

/// Asks to stop once so many files have been restored.
struct StopAfter<'s> {
    restored: &'s AtomicU64,
    files: u64,
}

impl Monitor for StopAfter<'_> {
    fn phase(&self, _name: &'static str, _total_bytes: Option<u64>) {}
    fn advance(&self, _bytes: u64) {}
    fn warn(&self, _message: &str) {}
    fn cancelled(&self) -> bool {
        self.restored.load(Ordering::Relaxed) >= self.files
    }
}

#[test]
fn a_stopped_restore_says_what_it_did() {
    let bed = Bed::new(true);
    let (tree, back) = (bed.path("tree"), bed.path("back"));
    make(&tree, "new", 9_000);
    let repo = bed.open();
    let report = run(&repo, &source(&[&tree], &[]), 1);
    let restored = AtomicU64::new(0);
    let monitor = StopAfter { restored: &restored, files: 1_000 };
    let mut told: Vec<Restored> = Vec::new();
    let mut tell = |one: Restored| {
        restored.fetch_add(1, Ordering::Relaxed);
        told.push(one);
    };
    let outcome = restore_on(&RealDisk, &monitor, (&repo, &report), &back, &mut tell).unwrap();
    assert!(matches!(outcome.stopped, Some(Error::Cancelled)) && outcome.failed.is_empty(), "{outcome:?}");
    assert!(outcome.restored >= 1_000 && outcome.untried > 0, "{outcome:?}");
    assert_eq!(outcome.restored + outcome.untried, report.record.entries);
    assert_eq!(told.len() as u64, outcome.restored);
    let (whole, found) = (look(&tree), look(&back));
    assert_eq!(hidden(&back), Vec::<std::path::PathBuf>::new());
    assert_eq!(found.len(), told.len(), "what is there was told");
    let content = |text: &String| text.rsplit(' ').next().unwrap().to_owned();
    for (name, text) in found.iter().filter(|(_, text)| text.starts_with("file")) {
        assert_eq!(content(text), content(&whole[name]));
    }
}

/// Says that the user wants to stop before anything was begun.
#[test]
fn nothing_is_left_of_a_restore_that_changed_nothing() {
    let bed = Bed::new(true);
    let (tree, back) = (bed.path("tree"), bed.path("made/for/it"));
    make(&tree, "new", 10);
    let repo = bed.open();
    let report = run(&repo, &source(&[&tree], &[]), 1);
    struct Stop(AtomicBool);
    impl Monitor for Stop {
        fn phase(&self, _name: &'static str, _total_bytes: Option<u64>) {}
        fn advance(&self, _bytes: u64) {}
        fn warn(&self, _message: &str) {}
        fn cancelled(&self) -> bool {
            self.0.load(Ordering::Relaxed)
        }
    }
    let outcome = restore_on(&RealDisk, &Stop(AtomicBool::new(true)), (&repo, &report), &back, &mut |_| {}).unwrap();
    assert!(!outcome.is_changed() && outcome.untried == report.record.entries, "{outcome:?}");
    assert!(!bed.path("made").exists());
}
