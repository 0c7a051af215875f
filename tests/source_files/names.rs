//! What may be named together, and what entries are called then.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use icecore::Error;
use icecore::format::snapshot::SourceKind;
use icecore::source::Source;
use icecore::source::files::{FilesOptions, FilesSource};

use crate::harness::{names, run, source};
use crate::support::{Bed, make_database, sqlite_options};

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
    assert_eq!(named(&["b", "one.db", "a/x"]), ["x", "x/file", "b", "b/file", "one.db"]);
}

#[test]
fn what_makes_no_sense_together_is_refused() {
    let bed = Bed::new(false);
    for dir in ["a/x", "a-b", "c/x"] {
        fs::create_dir_all(bed.path(dir)).unwrap();
    }
    let (a, ax, cx, ab) = (bed.path("a"), bed.path("a/x"), bed.path("c/x"), bed.path("a-b"));
    assert!(refused(&[], &[]).contains("at least one"));
    assert!(refused(&[&a, &a], &[]).contains("the same or contain each other"));
    assert!(refused(&[&ax, &ab, &a], &[]).contains("contain each other"));
    assert!(refused(&[&ax, &cx], &[]).contains("back them up separately"));
    assert!(refused(&[Path::new("/"), &a], &[]).contains("name it alone"));
    assert!(refused(&[&bed.path("none")], &[]).contains("no such file"));
    assert!(refused(&[Path::new("/dev/null")], &[]).contains("neither"));
    let repo = bed.path("repo").canonicalize().unwrap();
    assert!(refused(&[&repo.join("config")], &[&repo]).contains("belongs to icecore"));
}

#[test]
fn the_identity_is_the_canonical_paths() {
    let bed = Bed::new(false);
    fs::create_dir(bed.path("b")).unwrap();
    fs::create_dir(bed.path("a")).unwrap();
    symlink("b", bed.path("to-b")).unwrap();
    let of = |paths: &[&Path]| source(paths, &[]).identity();
    let both = of(&[&bed.path("to-b"), &bed.path("a")]);
    assert_eq!(both.kind, SourceKind::Files);
    assert_eq!(both.parts, of(&[&bed.path("a"), &bed.path("./b")]).parts);
    assert_ne!(both.parts, of(&[&bed.path("a")]).parts);
    assert!(both.label.contains("to-b"));
}
