//! Directories that are filled by names from a repository.

use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};

use icecore::engine::files::restore::tree::Tree;
use icecore::engine::sqlite::restore::DatabaseOptions;
use icecore::fs::disk::RealDisk;
use icecore::recorded::FileMeta;

use super::support::*;

#[test]
fn a_tree_with_everything() {
    let (_outer, dir) = scratch();
    let root = dir.join("new/restored");
    let listener = Listener::default();
    let placement = placement(&RealDisk, &listener);
    let owner = fs::metadata(&dir).unwrap();
    let meta = |mode| Some(FileMeta { mode, mtime_ns: 5_000_000_000, uid: owner.uid(), gid: owner.gid(), ..FileMeta::default() });
    for round in 0..2 {
        let tree = Tree::open(&placement, &root).unwrap();
        let new = bytes(NEW_WAL);
        tree.directory(b"sub", meta(0o500)).unwrap();
        tree.directory(b"sub/deep", meta(0o710)).unwrap();
        tree.file(b"sub/deep/x", 3, meta(0o444), &filler(b"abc")).unwrap();
        tree.file(b"other/y", 0, None, &filler(b"")).unwrap();
        let database = tree.database(b"sub/a.db", new.len() as u64, meta(0o640), &filler(&new), DatabaseOptions::default()).unwrap();
        assert_eq!(database.kept.len(), round);
        assert!(tree.symlink(b"sub/link", b"../../outside", None).unwrap().kept.is_empty(), "the same link is left");
        let twin = tree.hard_link(b"twin", b"sub/deep/x").unwrap();
        assert_eq!(twin.kept.len(), round, "the first x is another file by now");
        tree.finish().unwrap();
    }
    assert_eq!(fs::read(root.join("sub/deep/x")).unwrap(), b"abc");
    assert_eq!(fs::read(kept(&root.join("sub/deep/x"))).unwrap(), b"abc");
    assert_eq!(read(&root.join("sub/a.db")), rows("new", 300));
    assert_eq!(fs::read_link(root.join("sub/link")).unwrap().to_str(), Some("../../outside"));
    let twins = [root.join("twin"), root.join("sub/deep/x")].map(|path| fs::metadata(path).unwrap());
    assert_eq!(twins[0].ino(), twins[1].ino());
    for (name, mode) in [("sub", 0o500), ("sub/deep", 0o710), ("sub/deep/x", 0o444)] {
        let found = fs::metadata(root.join(name)).unwrap();
        assert_eq!(found.mode() & 0o7777, mode, "{name}");
        // Reading the database above made and removed side files in its directory.
        assert!(name == "sub" || found.mtime() == 5, "{name}");
    }
    let hidden = |dir: &std::path::Path| names(dir).iter().any(|name| name.starts_with('.'));
    assert!(!hidden(&root) && !hidden(&root.join("sub")) && !hidden(&root.join("sub/deep")));
}

#[test]
fn hostile_names_are_refused() {
    let (_outer, dir) = scratch();
    let (root, outside) = (dir.join("root"), dir.join("outside"));
    fs::create_dir_all(&outside).unwrap();
    fs::write(outside.join("precious"), b"precious").unwrap();
    let listener = Listener::default();
    let placement = placement(&RealDisk, &listener);
    let tree = Tree::open(&placement, &root).unwrap();
    tree.symlink(b"evil", b"../outside", None).unwrap();
    tree.symlink(b"leaf", b"../outside/precious", None).unwrap();
    tree.symlink(b"twin", b"../outside/precious", None).unwrap();
    symlink(&outside, root.join("before")).unwrap();
    let absolute = outside.join("precious").to_str().unwrap().to_string();
    let names_refused: &[&[u8]] = &[
        b"",
        b".",
        b"..",
        b"/",
        b"a/",
        b"/a",
        b"a//b",
        b"./a",
        b"a/.",
        b"a/../../outside/precious",
        b"../outside/precious",
        b"a\0b",
        b"evil/precious",
        b"before/precious",
        b"evil/new/deep",
        absolute.as_bytes(),
    ];
    for name in names_refused {
        let shown = String::from_utf8_lossy(name);
        assert!(tree.file(name, 1, None, &filler(b"x")).is_err(), "{shown:?}");
        assert!(tree.database(name, 0, None, &filler(b""), DatabaseOptions::default()).is_err(), "{shown:?}");
        assert!(tree.directory(name, None).is_err(), "{shown:?}");
        assert!(tree.symlink(name, b"x", None).is_err(), "{shown:?}");
        assert!(tree.hard_link(name, b"leaf").is_err(), "{shown:?}");
        assert!(tree.hard_link(b"fresh", name).is_err(), "{shown:?}");
    }
    assert!(tree.directory(b"evil", None).is_err());
    assert!(tree.hard_link(b"fresh", b"leaf").is_err(), "a further name for what a link points to");
    assert!(tree.database(b"leaf", 0, None, &filler(b""), DatabaseOptions::default()).is_err());
    // A file in the place of a link replaces the link, not what it points to.
    tree.file(b"leaf", 1, None, &filler(b"x")).unwrap();
    assert!(fs::symlink_metadata(kept(&root.join("leaf"))).unwrap().is_symlink());
    tree.finish().unwrap();
    assert_eq!(contents(&outside), [("precious".to_string(), b"precious".to_vec())]);
}

#[test]
fn files_and_directories_do_not_replace_each_other() {
    let (_outer, dir) = scratch();
    let root = dir.join("root");
    fs::create_dir_all(root.join("d")).unwrap();
    fs::write(root.join("f"), b"f").unwrap();
    let listener = Listener::default();
    let placement = placement(&RealDisk, &listener);
    let tree = Tree::open(&placement, &root).unwrap();
    assert!(tree.file(b"d", 0, None, &filler(b"")).is_err());
    assert!(tree.symlink(b"d", b"x", None).is_err());
    assert!(tree.directory(b"f", None).is_err());
    assert!(tree.file(b"f/x", 0, None, &filler(b"")).is_err());
    tree.finish().unwrap();
    assert_eq!(names(&root), ["d".to_string(), "f".to_string()].into());
    assert!(Tree::open(&placement, &root.join("f")).is_err());
}
