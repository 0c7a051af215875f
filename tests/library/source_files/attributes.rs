//! Access control lists and extended attributes of trees.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::time::{Duration, SystemTime};

use icecore::engine::files::{FilesOptions, FilesSource, Selection};
use icecore::ops::backup::BackupReport;
use icecore::store::format::snapshot::StreamEntry;

use super::harness::{listing, restore, run, selected, source};
use super::support::{Bed, make_database, sqlite_options};
use super::xattrs::{ACCESS, CAPABILITY, DEFAULT, acl, are_there, capability, of, set};

#[test]
fn lists_attributes_and_capabilities_come_back() {
    let bed = Bed::new(true);
    let tree = bed.path("tree");
    fs::create_dir_all(tree.join("dir/below")).unwrap();
    let list = acl(7, 7, 0, 7, 0);
    if !are_there(&tree, ACCESS, &list) || !are_there(&tree, "user.x", b"") {
        return;
    }
    for name in ["dir/file", "plain", "program"] {
        fs::write(tree.join(name), name).unwrap();
    }
    drop(make_database(&tree.join("a.db"), 3));
    for name in ["dir", "dir/file", "a.db"] {
        set(&tree.join(name), ACCESS, &list);
        set(&tree.join(name), "user.comment", b"\xff\0why");
    }
    set(&tree.join("dir"), DEFAULT, &acl(7, 5, 5, 5, 5));
    let has_capabilities = are_there(&tree, CAPABILITY, &capability());
    if has_capabilities {
        set(&tree.join("program"), CAPABILITY, &capability());
    }
    fs::set_permissions(tree.join("plain"), fs::Permissions::from_mode(0o640)).unwrap();

    let repo = bed.open();
    let report = run(&repo, &source(&[&tree], &[]), 1);
    assert_eq!(report.skipped, Vec::<String>::new());
    restore(&repo, &report, &bed.path("back"));
    for name in ["dir", "dir/below", "dir/file", "a.db", "plain", "program"] {
        let [before, after] = [&tree, &bed.path("back")].map(|root| (of(&root.join(name)), fs::metadata(root.join(name)).unwrap().mode()));
        assert_eq!(after, before, "{name}");
    }
    // The list of the directory lets 12345 in; nothing in it is any more open for that.
    assert_eq!(of(&bed.path("back/dir/below")).len(), 0);

    let without = selected(&[(None, &tree)], Selection { xattrs: false, ..Selection::default() }).unwrap();
    let report = run(&repo, &without, 2);
    for entry in listing(&repo, &report) {
        let (name, meta) = (String::from_utf8(entry.name).unwrap(), entry.meta.unwrap());
        assert_eq!(meta.attributes, [], "{name}");
        let expected = match name.as_str() {
            "dir" | "dir/file" | "a.db" => 0o700,
            name => fs::metadata(tree.join(name)).unwrap().mode() & 0o7777,
        };
        assert_eq!(meta.mode, expected, "{name}: the mask is not the group's mode");
    }
    assert!(report.record.facts.contains(&("no-xattrs".to_owned(), "yes".to_owned())));
}

/// A file that is not read keeps the attributes that the parent has of it, and only if that has them all.
#[test]
fn attributes_of_files_that_are_not_read() {
    let bed = Bed::new(true);
    let tree = bed.path("tree");
    fs::create_dir(&tree).unwrap();
    for name in ["a", "b"] {
        fs::write(tree.join(name), name).unwrap();
    }
    if !are_there(&tree, "user.x", b"") {
        return;
    }
    set(&tree.join("a"), "user.x", b"1");
    let at = |xattrs| {
        let mut sqlite = sqlite_options();
        sqlite.clock = || SystemTime::now() + Duration::from_secs(3600);
        let options = FilesOptions { sqlite, exclude: Vec::new() };
        FilesSource::select(vec![(None, tree.clone())], options, Selection { xattrs, ..Selection::default() }).unwrap()
    };
    let repo = bed.open();
    let values = |report: &BackupReport| -> Vec<Vec<Vec<u8>>> {
        let of = |entry: StreamEntry| entry.meta.unwrap().attributes.into_iter().map(|attribute| attribute.value).collect();
        listing(&repo, report).into_iter().map(of).collect()
    };
    let one = |value: &[u8]| vec![value.to_vec()];
    assert_eq!(values(&run(&repo, &at(true), 1)), [one(b"1"), vec![]]);
    let unchanged = run(&repo, &at(true), 2);
    assert_eq!((values(&unchanged), unchanged.unchanged_streams), (vec![one(b"1"), vec![]], 2));
    set(&tree.join("b"), "user.x", b"2");
    assert_eq!(values(&run(&repo, &at(true), 3)), [one(b"1"), one(b"2")]);
    let without = run(&repo, &at(false), 4);
    assert_eq!((values(&without), without.unchanged_streams), (vec![vec![], vec![]], 2));
    let again = run(&repo, &at(true), 5);
    assert_eq!((values(&again), again.unchanged_streams), (vec![one(b"1"), one(b"2")], 2), "not those of a snapshot without them");
}
