//! What cannot be read is said, and the rest is there.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;

use icecore::Error;
use icecore::ops::check::{CheckOptions, check};
use icecore::progress::Silent;

use super::harness::{Meddler, line_about, names, noise, restore, run, source, try_run};
use super::support::{Bed, make_database, stream};

/// They have no content of their own: nothing is missing without them.
#[test]
fn special_files_are_left_out_and_counted() {
    let bed = Bed::new(false);
    let tree = bed.path("tree");
    fs::create_dir(&tree).unwrap();
    fs::write(tree.join("file"), "x").unwrap();
    rustix::fs::mknodat(rustix::fs::CWD, tree.join("fifo\n"), rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
    let _socket = UnixListener::bind(tree.join("socket")).unwrap();
    let repo = bed.open();
    let report = run(&repo, &source(&[&tree], &[]), 1);
    assert_eq!(names(&repo, &report), ["file"]);
    assert_eq!((report.left_out.special, report.skipped), (2, Vec::<String>::new()));
}

#[test]
fn a_file_without_permission_is_skipped_and_said() {
    let bed = Bed::new(false);
    let tree = bed.path("tree");
    fs::create_dir_all(tree.join("shut")).unwrap();
    for name in ["file", "secret", "shut/file"] {
        fs::write(tree.join(name), "x").unwrap();
    }
    fs::set_permissions(tree.join("secret"), fs::Permissions::from_mode(0o000)).unwrap();
    fs::set_permissions(tree.join("shut"), fs::Permissions::from_mode(0o000)).unwrap();
    if fs::read(tree.join("secret")).is_ok() {
        return; // Permissions do not apply to this user.
    }
    let repo = bed.open();
    let report = run(&repo, &source(&[&tree], &[]), 1);
    fs::set_permissions(tree.join("shut"), fs::Permissions::from_mode(0o700)).unwrap();
    assert_eq!(names(&repo, &report), ["file", "shut"]);
    assert!(line_about(&report, "/secret").contains("Permission denied"));
    assert!(line_about(&report, "/shut").contains("Permission denied"));
}

#[test]
fn what_vanishes_is_said() {
    let bed = Bed::new(false);
    let tree = bed.path("tree");
    fs::create_dir_all(tree.join("b")).unwrap();
    for name in ["a", "b/file", "c", "d"] {
        fs::write(tree.join(name), "x").unwrap();
    }
    let repo = bed.open();
    let vanish = || {
        fs::remove_dir_all(tree.join("b")).unwrap();
        fs::remove_file(tree.join("c")).unwrap();
    };
    let monitor = Meddler { at_bytes: Some(Box::new(vanish)), ..Meddler::default() };
    let report = try_run(&repo, &source(&[&tree], &[]), 1, &monitor).unwrap();
    assert_eq!(names(&repo, &report), ["a", "d"]);
    assert!(line_about(&report, "/b: ").contains("vanished"));
    assert!(line_about(&report, "/c: ").contains("vanished"));
}

#[test]
fn a_database_that_vanishes_is_said_once() {
    let bed = Bed::new(false);
    let tree = bed.path("tree");
    fs::create_dir(&tree).unwrap();
    fs::write(tree.join("a"), "x").unwrap();
    fs::write(tree.join("c"), "x").unwrap();
    drop(make_database(&tree.join("b"), 3));
    let repo = bed.open();
    let monitor = Meddler { at_bytes: Some(Box::new(|| fs::remove_file(tree.join("b")).unwrap())), ..Meddler::default() };
    let report = try_run(&repo, &source(&[&tree], &[]), 1, &monitor).unwrap();
    assert_eq!(names(&repo, &report), ["a", "c"]);
    assert!(line_about(&report, "/b: ").contains("vanished"));
}

/// Large enough that the first bytes are reported before the last are read.
const LARGE: usize = 24 << 20;

#[test]
fn a_file_that_shrinks_is_said_and_has_what_was_read() {
    let bed = Bed::new(false);
    let tree = bed.path("tree");
    fs::create_dir(&tree).unwrap();
    let old = noise(1, LARGE);
    fs::write(tree.join("file"), &old).unwrap();
    let repo = bed.open();
    let shrink = || fs::File::options().write(true).open(tree.join("file")).unwrap().set_len(20 << 20).unwrap();
    let monitor = Meddler { at_bytes: Some(Box::new(shrink)), ..Meddler::default() };
    let report = try_run(&repo, &source(&[&tree], &[]), 1, &monitor).unwrap();
    assert!(line_about(&report, "/file: ").contains("changed while it was read"));
    assert!(stream(&repo, &report.id, "file").unwrap() == old[..20 << 20]);
}

#[test]
fn a_file_that_only_grows_is_stored_up_to_its_first_length() {
    let bed = Bed::new(false);
    let tree = bed.path("tree");
    fs::create_dir(&tree).unwrap();
    let old = noise(2, 1000);
    fs::write(tree.join("log"), &old).unwrap();
    fs::write(tree.join("large"), noise(3, LARGE)).unwrap();
    let repo = bed.open();
    let grow = || {
        use std::io::Write;
        fs::File::options().append(true).open(tree.join("large")).unwrap().write_all(b"more").unwrap();
    };
    let monitor = Meddler { at_bytes: Some(Box::new(grow)), ..Meddler::default() };
    let report = try_run(&repo, &source(&[&tree], &[]), 1, &monitor).unwrap();
    assert_eq!(report.skipped, Vec::<String>::new(), "that is what logs do");
    assert!(monitor.warnings.lock().unwrap().iter().any(|line| line.contains("/large: grew")));
    assert_eq!(stream(&repo, &report.id, "large").unwrap().len(), LARGE);
    assert!(stream(&repo, &report.id, "log").unwrap() == old);
}

#[test]
fn a_tree_that_is_gone_is_no_empty_snapshot() {
    let bed = Bed::new(false);
    let (tree, other) = (bed.path("tree"), bed.path("other"));
    fs::create_dir(&tree).unwrap();
    fs::create_dir(&other).unwrap();
    fs::write(tree.join("file"), "x").unwrap();
    let repo = bed.open();
    for source in [source(&[&tree], &[]), source(&[&tree, &other], &[])] {
        fs::rename(&tree, bed.path("away")).unwrap();
        assert!(matches!(try_run(&repo, &source, 1, &Silent), Err(Error::Source { .. })));
        fs::write(&tree, "a file now").unwrap();
        assert!(matches!(try_run(&repo, &source, 1, &Silent), Err(Error::Source { .. })));
        fs::remove_file(&tree).unwrap();
        fs::rename(bed.path("away"), &tree).unwrap();
    }
    assert!(repo.refresh().unwrap().snapshots.is_empty());
}

#[test]
fn a_backup_can_be_stopped() {
    let bed = Bed::new(false);
    let tree = bed.path("tree");
    fs::create_dir(&tree).unwrap();
    fs::write(tree.join("file"), "x").unwrap();
    let repo = bed.open();
    let monitor = Meddler::default();
    monitor.cancel.store(true, std::sync::atomic::Ordering::SeqCst);
    assert!(matches!(try_run(&repo, &source(&[&tree], &[]), 1, &monitor), Err(Error::Cancelled)));
    assert!(repo.refresh().unwrap().snapshots.is_empty());
}

/// Files whose content fails to be read in the middle, between others that have the same content.
#[test]
fn a_body_that_fails_takes_nothing_with_it() {
    let bed = Bed::new(true);
    let repo = bed.open();
    let source = super::harness::Failing;
    let report = run(&repo, &source, 1);
    assert_eq!(names(&repo, &report), ["again", "pages again"]);
    assert_eq!(report.skipped.len(), 2, "{:?}", report.skipped);
    let checked = check(&repo, &CheckOptions::read_all(), &Silent).unwrap();
    assert!(checked.findings.is_empty(), "{:?}", checked.findings);
    restore(&repo, &report, &bed.path("back"));
    assert!(fs::read(bed.path("back/again")).unwrap() == noise(7, LARGE));
    assert!(fs::read(bed.path("back/pages again")).unwrap() == noise(8, LARGE));
}
