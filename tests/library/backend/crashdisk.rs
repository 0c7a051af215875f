//! The simulated disk loses what was not synced, and only that.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use icecore::fs::disk::Disk;

use super::simulated::{CrashDisk, Policy, scratch};

struct Stage {
    tmp: tempfile::TempDir,
    root: PathBuf,
}

impl Stage {
    fn new() -> Self {
        let tmp = scratch();
        let root = tmp.path().join("disk");
        fs::create_dir(&root).unwrap();
        Self { tmp, root }
    }

    /// The files after the power came back, as `name=contents`.
    fn after(&self, disk: &CrashDisk, policy: Policy) -> Vec<String> {
        let into = self.tmp.path().join("after");
        disk.materialize(policy, &into).unwrap();
        let mut found = Vec::new();
        collect(&into, Path::new(""), &mut found);
        fs::remove_dir_all(&into).unwrap();
        found.sort();
        found
    }

    /// All that can come back over many seeds.
    fn outcomes(&self, disk: &CrashDisk) -> BTreeSet<Vec<String>> {
        (0..200).map(|seed| self.after(disk, Policy::Random(seed))).collect()
    }
}

fn collect(root: &Path, directory: &Path, found: &mut Vec<String>) {
    for entry in fs::read_dir(root.join(directory)).unwrap() {
        let entry = entry.unwrap();
        let path = directory.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            found.push(format!("{}/", path.display()));
            collect(root, &path, found);
        } else {
            found.push(format!("{}={}", path.display(), String::from_utf8_lossy(&fs::read(entry.path()).unwrap())));
        }
    }
}

fn set(outcomes: &[&[&str]]) -> BTreeSet<Vec<String>> {
    outcomes.iter().map(|names| names.iter().map(|name| (*name).to_owned()).collect()).collect()
}

#[test]
fn a_name_is_durable_only_after_its_directory_is_synced() {
    let stage = Stage::new();
    let disk = CrashDisk::new(&stage.root);
    disk.create(&stage.root.join("a"), &[b"one", b"two"], 0o600).unwrap();
    assert_eq!(stage.after(&disk, Policy::LoseAll), Vec::<String>::new());
    assert_eq!(stage.after(&disk, Policy::KeepAll), ["a=onetwo"]);
    assert_eq!(stage.outcomes(&disk), set(&[&[], &["a=onetwo"]]));
    disk.sync_dir(&stage.root).unwrap();
    assert_eq!(stage.outcomes(&disk), set(&[&["a=onetwo"]]));
}

#[test]
fn contents_without_a_sync_come_back_in_any_shape() {
    let stage = Stage::new();
    let disk = CrashDisk::new(&stage.root);
    // create, part, part, sync: fail at the sync.
    disk.fail_at(3, ErrorKind::StorageFull);
    let failed = disk.create(&stage.root.join("a"), &[b"abcd", b"efgh"], 0o600).unwrap_err();
    assert_eq!(failed.kind(), ErrorKind::StorageFull);
    disk.sync_dir(&stage.root).unwrap();
    assert_eq!(stage.after(&disk, Policy::LoseAll), ["a="]);
    assert_eq!(stage.after(&disk, Policy::KeepAll), ["a=abcdefgh"]);
    let outcomes = stage.outcomes(&disk);
    let contents: Vec<&str> = outcomes.iter().map(|names| names[0].strip_prefix("a=").unwrap()).collect();
    assert!(contents.contains(&"abcdefgh") && contents.contains(&"") && contents.contains(&"abc"), "{contents:?}");
    assert!(contents.iter().any(|text| text.starts_with("ab") && !"abcdefgh".starts_with(text)), "no garbage: {contents:?}");
}

#[test]
fn a_crash_in_a_write_leaves_half_of_it_and_nothing_works_afterwards() {
    let stage = Stage::new();
    let disk = CrashDisk::new(&stage.root);
    disk.power_off_at(2);
    disk.create(&stage.root.join("a"), &[b"abcd", b"efgh"], 0o600).unwrap_err();
    assert!(disk.is_off());
    assert_eq!(stage.after(&disk, Policy::KeepAll), ["a=abcdef"]);
    disk.sync_dir(&stage.root).unwrap_err();
    disk.remove_file(&stage.root.join("a")).unwrap_err();
    disk.create(&stage.root.join("b"), &[], 0o600).unwrap_err();
    assert_eq!(stage.after(&disk, Policy::KeepAll), ["a=abcdef"]);
    assert_eq!(disk.ops(), 6);
}

#[test]
fn a_rename_is_one_change_and_may_survive_the_create_before_it() {
    let stage = Stage::new();
    fs::write(stage.root.join("b"), "old").unwrap();
    let disk = CrashDisk::new(&stage.root);
    disk.create(&stage.root.join("a"), &[b"new"], 0o600).unwrap();
    disk.rename(&stage.root.join("a"), &stage.root.join("b")).unwrap();
    assert_eq!(stage.outcomes(&disk), set(&[&["b=old"], &["a=new", "b=old"], &["b=new"]]));
    disk.sync_dir(&stage.root).unwrap();
    assert_eq!(stage.outcomes(&disk), set(&[&["b=new"]]));
}

#[test]
fn link_and_remove_are_lost_each_by_itself() {
    let stage = Stage::new();
    fs::write(stage.root.join("a"), "x").unwrap();
    let disk = CrashDisk::new(&stage.root);
    disk.hard_link(&stage.root.join("a"), &stage.root.join("b")).unwrap();
    disk.remove_file(&stage.root.join("a")).unwrap();
    assert_eq!(stage.outcomes(&disk), set(&[&["a=x"], &["a=x", "b=x"], &["b=x"], &[]]), "the remove may survive the link");
    assert_eq!(disk.hard_link(&stage.root.join("b"), &stage.root.join("b")).unwrap_err().kind(), ErrorKind::AlreadyExists);
}

#[test]
fn a_rename_between_directories_needs_both_synced() {
    let stage = Stage::new();
    for name in ["p", "q"] {
        fs::create_dir(stage.root.join(name)).unwrap();
    }
    fs::write(stage.root.join("p/a"), "x").unwrap();
    let disk = CrashDisk::new(&stage.root);
    disk.rename(&stage.root.join("p/a"), &stage.root.join("q/a")).unwrap();
    assert_eq!(stage.outcomes(&disk), set(&[&["p/", "p/a=x", "q/"], &["p/", "q/", "q/a=x"]]));
    disk.sync_dir(&stage.root.join("q")).unwrap();
    assert_eq!(stage.outcomes(&disk), set(&[&["p/", "p/a=x", "q/", "q/a=x"], &["p/", "q/", "q/a=x"]]));
}

#[test]
fn a_directory_whose_name_is_lost_takes_what_is_in_it_along() {
    let stage = Stage::new();
    let disk = CrashDisk::new(&stage.root);
    disk.create_dir_all(&stage.root.join("p/q")).unwrap();
    disk.create(&stage.root.join("p/q/a"), &[b"x"], 0o600).unwrap();
    disk.sync_dir(&stage.root.join("p/q")).unwrap();
    disk.sync_dir(&stage.root.join("p")).unwrap();
    assert_eq!(stage.outcomes(&disk), set(&[&[], &["p/", "p/q/", "p/q/a=x"]]));
    disk.sync_dir(&stage.root).unwrap();
    assert_eq!(stage.outcomes(&disk), set(&[&["p/", "p/q/", "p/q/a=x"]]));
}

#[test]
fn what_others_do_is_durable_unless_it_is_told_not_to_be() {
    let stage = Stage::new();
    let disk = CrashDisk::with_unsynced(&stage.root, |path| path.ends_with("new"));
    fs::write(stage.root.join("a"), "x").unwrap();
    fs::write(stage.root.join("b"), "y").unwrap();
    fs::write(stage.root.join("new"), "z").unwrap();
    disk.rename(&stage.root.join("a"), &stage.root.join("c")).unwrap();
    fs::remove_file(stage.root.join("b")).unwrap();
    fs::write(stage.root.join("c"), "xx").unwrap();
    assert_eq!(stage.after(&disk, Policy::LoseAll), ["a=xx", "new="]);
    assert_eq!(stage.after(&disk, Policy::KeepAll), ["c=xx", "new=z"]);
    disk.sync_file(&File::open(stage.root.join("new")).unwrap(), &stage.root.join("new")).unwrap();
    disk.rename(&stage.root.join("new"), &stage.root.join("c")).unwrap();
    disk.sync_dir(&stage.root).unwrap();
    assert_eq!(stage.after(&disk, Policy::LoseAll), ["c=z"]);
}

#[test]
fn one_step_can_fail_and_equal_seeds_give_equal_results() {
    let stage = Stage::new();
    let disk = CrashDisk::new(&stage.root);
    disk.fail_at(0, ErrorKind::PermissionDenied);
    assert_eq!(disk.create(&stage.root.join("a"), &[b"x"], 0o600).unwrap_err().kind(), ErrorKind::PermissionDenied);
    for name in ["a", "b", "c", "d", "e"] {
        disk.create(&stage.root.join(name), &[b"x"], 0o600).unwrap();
    }
    for seed in 0..20 {
        assert_eq!(stage.after(&disk, Policy::Random(seed)), stage.after(&disk, Policy::Random(seed)));
    }
    assert_eq!(stage.outcomes(&disk).len(), 32, "every subset of the five names");
}

#[test]
fn what_is_outside_is_refused() {
    let stage = Stage::new();
    let disk = CrashDisk::new(&stage.root);
    assert_eq!(disk.create(&stage.tmp.path().join("a"), &[], 0o600).unwrap_err().kind(), ErrorKind::InvalidInput);
}
