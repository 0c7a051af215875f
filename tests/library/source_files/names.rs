//! What may be named together, and what entries are called then.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use icecore::Error;
use icecore::engine::Source;
use icecore::engine::files::{FilesOptions, FilesSource, Selection};
use icecore::recorded::SourceKind;

use super::harness::{names, run, selected, source};
use super::support::{Bed, make_database, sqlite_options};

fn refused(paths: &[&Path], exclude: &[&Path]) -> String {
    let exclude = exclude.iter().map(PathBuf::from).collect();
    let options = FilesOptions { sqlite: sqlite_options(), exclude };
    match FilesSource::new(paths.iter().map(PathBuf::from).collect(), options) {
        Err(error @ (Error::InvalidArgument(_) | Error::Source { .. })) => error.to_string(),
        other => panic!("{paths:?}: {other:?}"),
    }
}

#[test]
fn entries_are_named_after_what_was_given() {
    let bed = Bed::new(false);
    for dir in ["a/x", "b", "c/x"] {
        fs::create_dir_all(bed.path(dir)).unwrap();
    }
    fs::write(bed.path("a/x/file"), "1").unwrap();
    fs::write(bed.path("b/file"), "2").unwrap();
    drop(make_database(&bed.path("one.db"), 1));
    symlink(bed.path("a"), bed.path("to-a")).unwrap();
    let repo = bed.open();
    let named = |paths: &[&str]| {
        let paths: Vec<PathBuf> = paths.iter().map(|path| bed.path(path)).collect();
        let paths: Vec<&Path> = paths.iter().map(PathBuf::as_path).collect();
        names(&repo, &run(&repo, &source(&paths, &[]), 1))
    };
    assert_eq!(named(&["a"]), ["x", "x/file"]);
    assert_eq!(named(&["to-a"]), ["x", "x/file"]);
    assert_eq!(named(&["c/x"]), Vec::<String>::new());
    assert_eq!(named(&["one.db"]), ["one.db"]);
    assert_eq!(named(&["b", "one.db", "a/x"]), ["b", "b/file", "one.db", "x", "x/file"]);
}

#[test]
fn what_makes_no_sense_together_is_refused() {
    let bed = Bed::new(false);
    for dir in ["a/x", "a-b", "c/x"] {
        fs::create_dir_all(bed.path(dir)).unwrap();
    }
    let (a, ax, ab) = (bed.path("a"), bed.path("a/x"), bed.path("a-b"));
    assert!(refused(&[], &[]).contains("at least one"));
    assert!(refused(&[&a, &a], &[]).contains("the same or contain each other"));
    assert!(refused(&[&ax, &ab, &a], &[]).contains("contain each other"));
    assert!(refused(&[Path::new("/"), &a], &[]).contains("name it alone"));
    assert!(refused(&[&bed.path("none")], &[]).contains("no such file"));
    assert!(refused(&[Path::new("/dev/null")], &[]).contains("neither"));
    let repo = bed.path("repo").canonicalize().unwrap();
    assert!(refused(&[&repo.join("config")], &[&repo]).contains("belongs to icecore"));
}

/// The same paths have the same names, in whatever order they are given.
#[test]
fn paths_with_the_same_last_part_are_told_apart_by_those_before() {
    let bed = Bed::new(false);
    for dir in ["srv/a/data", "srv/b/data", "c/x", "c/a"] {
        fs::create_dir_all(bed.path(dir)).unwrap();
        fs::write(bed.path(dir).join("f"), dir).unwrap();
    }
    let repo = bed.open();
    let named = |paths: &[&str]| {
        let paths: Vec<PathBuf> = paths.iter().map(|path| bed.path(path)).collect();
        let paths: Vec<&Path> = paths.iter().map(PathBuf::as_path).collect();
        names(&repo, &run(&repo, &source(&paths, &[]), 1))
    };
    let expected = ["a/data", "a/data/f", "b/data", "b/data/f", "x", "x/f"];
    assert_eq!(named(&["srv/a/data", "c/x", "srv/b/data"]), expected);
    assert_eq!(named(&["srv/b/data", "srv/a/data", "c/x"]), expected);
    // A name may not begin another one either: what is in one directory would seem to be in the other.
    assert_eq!(named(&["srv/a/data", "srv/b/data", "c/a"]), ["b/data", "b/data/f", "c/a", "c/a/f", "srv/a/data", "srv/a/data/f"]);

    let (a, b) = (bed.path("srv/a/data"), bed.path("srv/b/data"));
    let given = |names: [Option<&str>; 2]| selected(&[(names[0], &a), (names[1], &b)], Selection::default());
    let names_of = |names_given| names(&repo, &run(&repo, &given(names_given).unwrap(), 1));
    assert_eq!(names_of([Some("one"), None]), ["data", "data/f", "one", "one/f"]);
    assert_eq!(names_of([Some("data"), None]), ["b/data", "b/data/f", "data", "data/f"]);
    let alone = selected(&[(Some("one"), &a)], Selection::default()).unwrap();
    assert_eq!(names(&repo, &run(&repo, &alone, 1)), ["one", "one/f"], "so that another path can be added later");
    for wrong in [[Some("n"), Some("n")], [Some("n"), Some("n/x")], [Some("../n"), None], [Some(""), None]] {
        assert!(matches!(given(wrong), Err(Error::InvalidArgument(_))), "{wrong:?}");
    }
}

#[test]
fn the_identity_is_the_canonical_paths() {
    let bed = Bed::new(false);
    fs::create_dir(bed.path("b")).unwrap();
    fs::create_dir(bed.path("a")).unwrap();
    symlink("b", bed.path("to-b")).unwrap();
    let of = |paths: &[&Path]| source(paths, &[]).identity();
    let both = of(&[&bed.path("to-b"), &bed.path("a")]);
    assert_eq!(both.kind, SourceKind::FILES);
    assert_eq!(both.parts, of(&[&bed.path("a"), &bed.path("./b")]).parts);
    assert_ne!(both.parts, of(&[&bed.path("a")]).parts);
    assert!(both.label.contains("to-b"));
}
