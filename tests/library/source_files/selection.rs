//! What is left out of trees, and that it is counted.

use std::fs;
use std::path::Path;

use icecore::engine::files::{LeftOut, Selection};

use super::harness::{Meddler, names, run, selected, source, try_run};
use super::support::{Bed, add_rows, make_database};

fn write(root: &Path, names: &[&str]) {
    for name in names {
        fs::create_dir_all(root.join(name).parent().unwrap()).unwrap();
        fs::write(root.join(name), name).unwrap();
    }
}

fn excluding(patterns: &[&str]) -> Selection {
    Selection { exclude: patterns.iter().map(|&pattern| pattern.to_owned()).collect(), ..Selection::default() }
}

#[test]
fn patterns_leave_out_in_each_tree() {
    let bed = Bed::new(false);
    let (one, two) = (bed.path("one"), bed.path("two"));
    for root in [&one, &two] {
        write(root, &["a.log", "keep.log", "sub/b.log", "tmp/x", "sub/tmp/x", "cache/y", "sub/cache", "z"]);
    }
    let repo = bed.open();
    let selection = excluding(&["*.log", "!keep.log", "/tmp", "cache/"]);
    let report = run(&repo, &selected(&[(None, &one), (None, &two)], selection.clone()).unwrap(), 1);
    let in_each = ["", "/keep.log", "/sub", "/sub/cache", "/sub/tmp", "/sub/tmp/x", "/z"];
    let expected: Vec<String> = ["one", "two"].iter().flat_map(|root| in_each.map(|name| format!("{root}{name}"))).collect();
    assert_eq!(names(&repo, &report), expected);
    assert_eq!((report.left_out, report.skipped), (LeftOut { excluded: 8, ..LeftOut::default() }, Vec::new()));
    assert!(report.record.facts.contains(&("exclude".to_owned(), "*.log\n!keep.log\n/tmp\ncache/".to_owned())));
    assert!(selected(&[(None, &one)], excluding(&["a{b"])).is_err());
    // What was given itself is not left out.
    let file = selected(&[(None, &one.join("a.log"))], selection).unwrap();
    assert_eq!(names(&repo, &run(&repo, &file, 1)), ["a.log"]);
}

#[test]
fn what_is_left_out_is_not_looked_at() {
    let bed = Bed::new(false);
    let tree = bed.path("tree");
    write(&tree, &["a", "b.tmp", "shut/x", "z"]);
    fs::set_permissions(tree.join("shut"), std::os::unix::fs::PermissionsExt::from_mode(0o000)).unwrap();
    let repo = bed.open();
    let source = selected(&[(None, &tree)], excluding(&["*.tmp", "shut"])).unwrap();
    let monitor = Meddler { at_bytes: Some(Box::new(|| fs::remove_file(tree.join("b.tmp")).unwrap())), ..Meddler::default() };
    let report = try_run(&repo, &source, 1, &monitor).unwrap();
    fs::set_permissions(tree.join("shut"), std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
    assert_eq!((names(&repo, &report), report.skipped), (vec!["a".to_owned(), "z".to_owned()], Vec::new()));
}

/// A log without its database would be played onto another one.
#[test]
fn a_database_is_left_out_with_its_log() {
    let bed = Bed::new(false);
    let tree = bed.path("tree");
    write(&tree, &["notes-wal", "notes"]);
    let db = make_database(&tree.join("a.db"), 3);
    db.pragma_update(None, "journal_mode", "wal").unwrap();
    add_rows(&db, 100, 10);
    let repo = bed.open();
    let report = run(&repo, &selected(&[(None, &tree)], excluding(&["a.db", "notes"])).unwrap(), 1);
    assert_eq!(names(&repo, &report), ["notes-wal"]);
    let report = run(&repo, &selected(&[(None, &tree)], excluding(&["*-wal", "*-shm"])).unwrap(), 1);
    assert_eq!(names(&repo, &report), ["a.db", "notes"]);
    let restored = super::support::stream(&repo, &report.id, "a.db").unwrap();
    assert!(restored.len() > 4096, "what is in the log is in the stream all the same");
}

#[test]
fn what_restores_keep_is_left_out() {
    let bed = Bed::new(false);
    let tree = bed.path("tree");
    let kept = ["a.db.pre_restore.20261123T031500Z", "a.db.pre_restore.20261123T031500Z.1-wal", "sub/.x.icecore-restore-0123456789abcdef"];
    write(&tree, &kept);
    write(&tree, &["a.db", "b.pre_restore.txt"]);
    let repo = bed.open();
    let report = run(&repo, &source(&[&tree], &[]), 1);
    assert_eq!(names(&repo, &report), ["a.db", "b.pre_restore.txt", "sub"]);
    assert_eq!((report.left_out, report.skipped), (LeftOut { of_restores: 3, ..LeftOut::default() }, Vec::new()));
    let report = run(&repo, &selected(&[(None, &tree)], excluding(&["!*.pre_restore.*"])).unwrap(), 1);
    assert_eq!(names(&repo, &report).len(), 5);
}

#[test]
fn caches_are_left_out_but_for_their_tags() {
    let bed = Bed::new(false);
    let tree = bed.path("tree");
    write(&tree, &["cache/deep/x", "cache/y", "other/CACHEDIR.TAG", "other/z"]);
    let tag = "Signature: 8a477f597d28d172789f06886806bc55\n# a cache";
    fs::write(tree.join("cache/CACHEDIR.TAG"), tag).unwrap();
    fs::write(tree.join("CACHEDIR.TAG"), tag).unwrap();
    let repo = bed.open();
    let selection = Selection { exclude_caches: true, ..Selection::default() };
    let report = run(&repo, &selected(&[(None, &tree)], selection).unwrap(), 1);
    let expected = ["CACHEDIR.TAG", "cache", "cache/CACHEDIR.TAG", "other", "other/CACHEDIR.TAG", "other/z"];
    assert_eq!(names(&repo, &report), expected);
    assert_eq!((report.left_out.caches, report.skipped), (1, Vec::new()));
}

/// The file system of /proc is another one than that of /: a tree with a mount below it is there without mounting anything.
#[test]
#[cfg(target_os = "linux")]
fn other_file_systems_are_left_out() {
    let root = Path::new("/dev");
    let dev = |path: &Path| std::os::unix::fs::MetadataExt::dev(&fs::metadata(path).unwrap());
    let Some(mount) = ["shm", "pts", "mqueue"].iter().find(|name| root.join(name).is_dir() && dev(&root.join(name)) != dev(root)) else {
        eprintln!("nothing is mounted below /dev: left out");
        return;
    };
    let bed = Bed::new(false);
    let repo = bed.open();
    let selection = Selection { one_file_system: true, ..Selection::default() };
    let report = run(&repo, &selected(&[(None, root)], selection).unwrap(), 1);
    let names = names(&repo, &report);
    assert!(names.iter().any(|name| name == mount), "{names:?}");
    assert!(!names.iter().any(|name| name.starts_with(&format!("{mount}/"))), "{names:?}");
    assert!(report.left_out.other_file_systems > 0);
}
