//! The power goes, or a step fails, at every step.

use std::fs::{self, File};
use std::io::ErrorKind;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use icecore::Result;
use icecore::engine::place::Placed;
use icecore::engine::sqlite::restore::DatabaseOptions;
use icecore::fs::disk::{Disk, RealDisk};

use super::crashdisk::{CrashDisk, Policy};
use super::support::*;

/// What lies at the destination before.
#[derive(Debug, Clone, Copy)]
enum Before {
    Nothing,
    StaleSides,
    Closed(Spec),
    InWal,
    HotJournal,
    /// A database that does not open for want of its first bytes, with its WAL.
    Broken,
    NoDatabase,
}

const ALL: [Before; 8] = [
    Before::Nothing,
    Before::StaleSides,
    Before::Closed(OLD),
    Before::Closed(OLD_WAL),
    Before::InWal,
    Before::HotJournal,
    Before::Broken,
    Before::NoDatabase,
];

const POLICIES: [Policy; 8] = [
    Policy::LoseAll,
    Policy::KeepAll,
    Policy::Random(1),
    Policy::Random(2),
    Policy::Random(3),
    Policy::Random(4),
    Policy::Random(5),
    Policy::Random(6),
];

const BROKEN: &[u8] = b"a database that lost its header; its wal is precious";
const WAL: &[u8] = b"the precious wal";

fn prepare(dest: &Path, before: Before) {
    match before {
        Before::Nothing => {}
        Before::StaleSides => fs::write(side(dest, "-wal"), WAL).unwrap(),
        Before::Closed(spec) => make(dest, spec),
        Before::InWal => make_with_wal(dest, OLD, 7),
        Before::HotJournal => make_with_hot_journal(dest, Spec { rows: 2000, ..OLD }),
        Before::Broken => {
            fs::write(dest, BROKEN).unwrap();
            fs::write(side(dest, "-wal"), WAL).unwrap();
        }
        Before::NoDatabase => fs::write(dest, BROKEN).unwrap(),
    }
}

/// Whether the old one is whole under this name, side files and all.
fn is_old(path: &Path, before: Before) -> bool {
    let holds = |path: &Path, bytes: &[u8]| fs::read(path).is_ok_and(|found| found == bytes);
    let readable = |count| path.exists() && read(path) == rows("old", count);
    match before {
        Before::Nothing => !path.exists(),
        Before::StaleSides => !path.exists() && holds(&side(path, "-wal"), WAL),
        Before::Closed(_) => readable(50),
        Before::InWal => readable(57),
        Before::HotJournal => readable(2000),
        Before::Broken => holds(path, BROKEN) && holds(&side(path, "-wal"), WAL),
        Before::NoDatabase => holds(path, BROKEN),
    }
}

fn is_new(dest: &Path, new: &[u8]) -> bool {
    fs::read(dest).is_ok_and(|found| found == new) && ["-wal", "-journal"].iter().all(|suffix| !side(dest, suffix).exists())
}

/// Old whole, new whole, or absent with the old one kept whole. Works on a copy: opening it changes it.
fn check(found: &Path, before: Before, new: &[u8], when: &str) {
    let work = found.with_extension("work");
    fs::create_dir(&work).unwrap();
    for name in names(found) {
        fs::copy(found.join(&name), work.join(&name)).unwrap();
    }
    let dest = work.join("a.db");
    let list = names(found);
    if is_new(&dest, new) {
        assert_eq!(read(&dest), rows("new", 300), "{when}: {list:?}");
        let gone = matches!(before, Before::Nothing);
        assert!(gone || is_old(&kept(&dest), before), "{when}: the old one is not kept: {list:?}");
    } else if dest.exists() {
        assert!(is_old(&dest, before), "{when}: neither old nor new: {list:?}");
    } else {
        assert!(is_old(&dest, before) || is_old(&kept(&dest), before), "{when}: nothing is there: {list:?}");
    }
    fs::remove_dir_all(&work).unwrap();
}

fn place_here(disk: &dyn Disk, dir: &Path, new: &[u8]) -> Result<Placed> {
    place_on(disk, &dir.join("a.db"), new)
}

#[test]
fn power_off_at_every_step() {
    let new = bytes(NEW_WAL);
    for before in ALL {
        let mut steps = 0;
        for step in 0.. {
            let (outer, dir) = scratch_in_memory();
            prepare(&dir.join("a.db"), before);
            let disk = CrashDisk::new(&dir);
            disk.power_off_at(step);
            let outcome = place_here(&disk, &dir, &new);
            for (number, policy) in POLICIES.into_iter().enumerate() {
                let found = outer.path().join(format!("found{number}"));
                disk.materialize(policy, &found).unwrap();
                check(&found, before, &new, &format!("{before:?}, step {step} of {:?}, {policy:?}", disk.trace()));
                if outcome.is_ok() {
                    assert!(is_new(&found.join("a.db"), &new), "{before:?} {policy:?}: done, but not durable");
                }
                // What is left over is in nobody's way.
                place_here(&RealDisk, &found, &new).unwrap();
                assert!(is_new(&found.join("a.db"), &new), "{before:?} {step} {policy:?}");
            }
            if outcome.is_ok() {
                assert!(!disk.is_off());
                break;
            }
            steps += 1;
        }
        assert!(steps >= 4, "{before:?}: {steps} steps");
    }
}

#[test]
fn a_fault_at_every_step() {
    let new = bytes(NEW_WAL);
    for kind in [ErrorKind::StorageFull, ErrorKind::PermissionDenied, ErrorKind::Other] {
        for before in ALL {
            for step in 0.. {
                let (_outer, dir) = scratch_in_memory();
                prepare(&dir.join("a.db"), before);
                let disk = CrashDisk::new(&dir);
                disk.fail_at(step, kind);
                let outcome = place_here(&disk, &dir, &new);
                let when = format!("{before:?}, {kind:?} at step {step} of {:?}: {outcome:?}", disk.trace());
                if disk.ops() <= step {
                    outcome.unwrap();
                    break;
                }
                assert!(!names(&dir).iter().any(|name| name.starts_with('.')), "{when}: {:?}", names(&dir));
                let dest = dir.join("a.db");
                match outcome {
                    // A link that is not permitted is answered by a copy.
                    Ok(_) => assert!(is_new(&dest, &new), "{when}"),
                    Err(error) if error.to_string().contains("the new one is in place") => assert!(is_new(&dest, &new), "{when}"),
                    Err(_) => {
                        assert!(is_old(&dest, before), "{when}: {:?}", names(&dir));
                        assert!(!names(&dir).iter().any(|name| name.contains("pre_restore")), "{when}: {:?}", names(&dir));
                    }
                }
            }
        }
    }
}

#[test]
fn a_live_restore_at_every_step() {
    let new = bytes(NEW_WAL);
    for old in [OLD, OLD_WAL] {
        for (fault, policies) in [(None, &POLICIES[..]), (Some(ErrorKind::StorageFull), &POLICIES[..0])] {
            for step in 0.. {
                let (outer, dir) = scratch_in_memory();
                let dest = dir.join("a.db");
                make(&dest, old);
                let disk = CrashDisk::new(&dir);
                match fault {
                    Some(kind) => disk.fail_at(step, kind),
                    None => disk.power_off_at(step),
                }
                let listener = Listener::default();
                let outcome = placement(&disk, &listener).place_live(&dest, new.len() as u64, &filler(&new), DatabaseOptions::default());
                for (number, &policy) in policies.iter().enumerate() {
                    let found = outer.path().join(format!("found{number}"));
                    disk.materialize(policy, &found).unwrap();
                    let content = read(&found.join("a.db"));
                    let is_new = content == rows("new", 300);
                    assert!(is_new || content == rows("old", 50), "step {step}: {content:?}");
                    if is_new {
                        assert_eq!(read(&kept(&found.join("a.db"))), rows("old", 50), "step {step} {policy:?}");
                    }
                }
                let when = format!("{old:?} {fault:?} {step} {:?} {outcome:?}", disk.trace());
                if outcome.is_ok() {
                    assert_eq!(read(&dest), rows("new", 300), "{when}");
                    // Removing the temporary file may fail; it is in nobody's way.
                    break;
                }
                let content = read(&dest);
                let in_place = outcome.unwrap_err().to_string().contains("in place");
                assert_eq!(content, if in_place { rows("new", 300) } else { rows("old", 50) }, "{when}");
                if fault.is_some() {
                    assert!(!names(&dir).iter().any(|name| name.starts_with('.')), "{when}: {:?}", names(&dir));
                    assert_eq!(kept(&dest).exists(), in_place, "{when}");
                }
            }
        }
    }
}

#[test]
fn a_plain_file_at_every_step() {
    for there in [true, false] {
        for step in 0.. {
            let (outer, dir) = scratch_in_memory();
            let dest = dir.join("a.txt");
            if there {
                fs::write(&dest, b"old").unwrap();
            }
            let disk = CrashDisk::new(&dir);
            disk.power_off_at(step);
            let listener = Listener::default();
            let outcome = placement(&disk, &listener).place_file(&dest, 3, None, &filler(b"new"));
            for (number, policy) in POLICIES.into_iter().enumerate() {
                let found = outer.path().join(format!("found{number}"));
                disk.materialize(policy, &found).unwrap();
                let content = fs::read(found.join("a.txt")).ok();
                let old_kept = fs::read(kept(&found.join("a.txt"))).ok();
                match content.as_deref() {
                    Some(b"old") => assert!(outcome.is_err()),
                    Some(b"new") => assert_eq!(old_kept.is_some_and(|kept| kept == b"old"), there),
                    None => assert!(!there && outcome.is_err()),
                    Some(other) => panic!("step {step} {policy:?}: {other:?}"),
                }
            }
            if outcome.is_ok() {
                break;
            }
        }
    }
}

/// In the order of steps: a sync of the hidden file comes after the last byte and before the name.
#[test]
fn what_is_written_is_synced_before_it_is_named() {
    let new = bytes(NEW);
    let (_outer, dir) = scratch_in_memory();
    let (database, live, file) = (dir.join("a.db"), dir.join("live.db"), dir.join("a.txt"));
    make(&database, OLD);
    make(&live, OLD);
    let disk = CrashDisk::new(&dir);
    let listener = Listener::default();
    let placement = placement(&disk, &listener);
    let written_at = AtomicU64::new(0);
    let fill = |to: &File| {
        filler(&new)(to)?;
        written_at.store(disk.ops(), Ordering::Relaxed);
        Ok(())
    };
    let synced_and_named = |what: &str| {
        let trace = disk.trace().split_off(written_at.load(Ordering::Relaxed) as usize);
        let named = trace.iter().position(|step| step.starts_with("rename")).unwrap();
        let hidden = trace[named].split(' ').nth(1).unwrap();
        assert!(hidden.contains("icecore-restore"), "{what}: {trace:?}");
        let synced = trace[..named].iter().rposition(|step| *step == format!("sync {hidden}"));
        // The copy that a live restore keeps is made after the new bytes were written.
        let made = trace.iter().position(|step| *step == format!("create-new {hidden}")).map_or(0, |made| made + 1);
        assert!(synced.is_some_and(|synced| synced >= made), "{what}: {trace:?}");
    };
    let len = new.len() as u64;
    placement.place_database(&database, len, None, &fill, DatabaseOptions::default()).unwrap();
    synced_and_named("database");
    placement.place_database(&database, len, None, &fill, DatabaseOptions { check: false, ..DatabaseOptions::default() }).unwrap();
    synced_and_named("unchecked database");
    placement.place_live(&live, len, &fill, DatabaseOptions::default()).unwrap();
    synced_and_named("the copy that a live restore keeps");
    placement.place_file(&file, len, None, &fill).unwrap();
    synced_and_named("file");
}
