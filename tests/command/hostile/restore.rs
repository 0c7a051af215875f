//! Restores into directories that somebody else may change meanwhile.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt, symlink};
use std::path::Path;

use icecore::engine::files::restore::tree::Tree;
use icecore::engine::place::Placement;
use icecore::engine::sqlite::restore::DatabaseOptions;
use icecore::fs::disk::RealDisk;
use icecore::recorded::FileMeta;
use icecore::{Error, Result};
use rusqlite::Connection;

use super::attacker::{Attacked, Scene, at_every_moment, placement};

/// Not the present user's, if that is root; others cannot give files away.
const SOMEBODY: u32 = 4242;

fn meta(mode: u32) -> FileMeta {
    FileMeta { mode, mtime_ns: 7_000_000_000, uid: SOMEBODY, gid: SOMEBODY, ..FileMeta::default() }
}

fn write(bytes: &'static [u8]) -> impl Fn(&File) -> Result<()> {
    move |file| file.write_all_at(bytes, 0).map_err(|e| Error::backend("write", "test", e))
}

/// A database of one table, as bytes.
fn database(word: &str) -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    make(&dir.path().join("x.db"), word, false);
    fs::read(dir.path().join("x.db")).unwrap()
}

fn make(path: &Path, word: &str, wal: bool) {
    let conn = Connection::open(path).unwrap();
    if wal {
        conn.pragma_update_and_check(None, "journal_mode", "WAL", |row| row.get::<_, String>(0)).unwrap();
    }
    conn.execute_batch(&format!("CREATE TABLE t(word TEXT); INSERT INTO t VALUES ('{word}')")).unwrap();
}

/// Everything that a tree can have, with attributes. Failures that the attack causes do not count here.
fn fill(placement: &Placement<'_>, root: &Path, many: bool, bytes: &[u8], disk: &Attacked<'_>) {
    let Ok(tree) = (if many { Tree::open_for_many(placement, root) } else { Tree::open(placement, root) }) else { return };
    let fill = |bytes: &'static [u8]| {
        move |file: &File| {
            disk.moment();
            write(bytes)(file)
        }
    };
    tree.dress_root(meta(0o777));
    let _ = tree.directory(b"etc", Some(meta(0o777)));
    let _ = tree.directory(b"etc/deep", Some(meta(0o777)));
    let _ = tree.file(b"etc/file", 3, Some(meta(0o666)), &fill(b"new"));
    let _ = tree.file(b"etc/deep/file", 3, Some(meta(0o666)), &fill(b"new"));
    let _ = tree.file(b"etc/made/deep/file", 3, None, &fill(b"new"));
    let _ = tree.symlink(b"etc/link", b"file", Some(meta(0o777)));
    let database = |file: &File| {
        disk.moment();
        file.write_all_at(bytes, 0).map_err(|e| Error::backend("write", "test", e))
    };
    let _ = tree.database(b"etc/a.db", bytes.len() as u64, Some(meta(0o666)), &database, DatabaseOptions::default());
    let _ = tree.hard_link(b"etc/twin", b"etc/file");
    let _ = tree.finish();
}

/// The root, the directory above it, one in it and one that is made in it become links to somebody else's, at each step in turn.
#[test]
fn a_tree_stays_inside_whatever_is_exchanged() {
    let attacks: [(&str, &str); 5] =
        [("home/dest", ""), ("home", ""), ("home/dest/etc", "etc"), ("home/dest/etc/deep", "etc/deep"), ("home/dest/etc/made", "etc")];
    let bytes = database("new");
    for (name, outside) in attacks {
        // Many files are made durable together, and named later.
        for many in [false, true].into_iter().take(if outside == "etc" { 2 } else { 1 }) {
            let prepare = |scene: &Scene| {
                fs::create_dir_all(scene.theirs.join("home/dest/etc")).unwrap();
                fs::write(scene.theirs.join("home/dest/etc/file"), "old").unwrap();
                // What is turned to is a tree of the same names.
                symlink(scene.outside.join("etc"), scene.outside.join("dest")).unwrap();
            };
            let run = |scene: &Scene, disk: &Attacked<'_>| fill(&placement(disk), &scene.theirs.join("home/dest"), many, &bytes, disk);
            let moments = at_every_moment(&prepare, &|scene: &Scene| scene.turn(name, outside), &run);
            assert!(moments > 40, "{moments}");
        }
    }
}

/// The file that is being written becomes a link, and so does the name that it is to get.
#[test]
fn the_new_file_is_the_one_that_was_made() {
    let bytes = database("new");
    let run = |scene: &Scene, disk: &Attacked<'_>| {
        let placement = placement(disk);
        let fill = |file: &File| {
            disk.moment();
            file.write_all_at(&bytes, 0).map_err(|e| Error::backend("write", "test", e))
        };
        let (len, options) = (bytes.len() as u64, DatabaseOptions::default());
        let _ = placement.place_file(&scene.theirs.join("file"), len, Some(meta(0o4777)), &fill);
        let _ = placement.place_database(&scene.theirs.join("a.db"), len, Some(meta(0o666)), &fill, options);
        let _ = placement.place_live(&scene.theirs.join("live.db"), len, &fill, options);
    };
    let prepare = |scene: &Scene| {
        fs::write(scene.theirs.join("file"), "old").unwrap();
        make(&scene.theirs.join("a.db"), "old", false);
        make(&scene.theirs.join("live.db"), "old", true);
        // A database of somebody else, which must not be written to either.
        make(&scene.outside.join("live.db"), "precious", true);
    };
    let attacks: [&(dyn Fn(&Scene) + Send + Sync); 5] = [
        &|scene| scene.turn_hidden("", "file"),
        &|scene| scene.turn_hidden("", "live.db"),
        &|scene| scene.turn("file", "file"),
        &|scene| scene.turn("a.db", "live.db"),
        &|scene| scene.turn("live.db", "live.db"),
    ];
    for attack in attacks {
        let moments = at_every_moment(&prepare, attack, &run);
        assert!(moments > 20, "{moments}");
    }
}

/// A side file of theirs is a link, a FIFO or both; the directory is exchanged while SQLite has the database open.
#[test]
fn what_lies_beside_a_database_is_not_followed() {
    let bytes = database("new");
    for side in ["-wal", "-journal", "-shm"] {
        for fifo in [false, true] {
            let scene = Scene::new();
            let dest = scene.theirs.join("a.db");
            make(&dest, "old", side != "-journal");
            let beside = scene.theirs.join(format!("a.db{side}"));
            match fifo {
                true => rustix::fs::mkfifoat(rustix::fs::CWD, &beside, rustix::fs::Mode::RWXU).unwrap(),
                false => symlink(scene.outside.join("a.db-wal"), &beside).unwrap(),
            }
            let before = scene.untouched();
            let fill = |file: &File| file.write_all_at(&bytes, 0).map_err(|e| Error::backend("write", "test", e));
            let disk = RealDisk;
            let (placement, options) = (placement(&disk), DatabaseOptions::default());
            let _ = placement.place_live(&dest, bytes.len() as u64, &fill, options);
            let _ = placement.place_database(&dest, bytes.len() as u64, None, &fill, options);
            assert_eq!(scene.untouched(), before, "{side}, fifo: {fifo}");
        }
    }
}

/// A destination that is a link is refused, with a word on what to name instead; so is a directory on the way that another user has made a link.
#[test]
fn destinations_that_are_links_are_refused() {
    let scene = Scene::new();
    for (link, leads) in [("file", "file"), ("a.db", "a.db"), ("dangling", "new"), ("tree", "etc")] {
        symlink(scene.outside.join(leads), scene.theirs.join(link)).unwrap();
    }
    let before = scene.untouched();
    let (disk, options) = (RealDisk, DatabaseOptions::default());
    let placement = placement(&disk);
    let dest = |name: &str| scene.theirs.join(name);
    let refused = |error: Error, leads: &str| {
        let text = error.to_string();
        assert!(text.contains("is a symbolic link to") && text.contains(leads) && text.contains("name that"), "{text}");
    };
    refused(placement.place_file(&dest("file"), 1, None, &write(b"x")).unwrap_err(), "outside/file");
    refused(placement.place_file(&dest("dangling"), 1, None, &write(b"x")).unwrap_err(), "outside/new");
    refused(placement.place_database(&dest("a.db"), 1, None, &write(b"x"), options).unwrap_err(), "outside/a.db");
    refused(placement.place_live(&dest("a.db"), 1, &write(b"x"), options).unwrap_err(), "outside/a.db");
    for root in ["tree", "tree/", "tree/."] {
        refused(Tree::open(&placement, &dest(root)).map(drop).unwrap_err(), "outside/etc");
    }
    // Links of the present user above the destination are meant.
    assert!(placement.place_file(&dest("tree/mine"), 1, None, &write(b"x")).is_ok());
    fs::remove_file(scene.outside.join("etc/mine")).unwrap();
    let names =
        |found: Vec<(std::path::PathBuf, Vec<u8>, [i64; 5])>| found.into_iter().map(|(path, bytes, _)| (path, bytes)).collect::<Vec<_>>();
    assert_eq!(names(scene.untouched()), names(before));
}

#[test]
fn links_of_other_users_on_the_way_are_refused() {
    if !rustix::process::geteuid().is_root() {
        println!("skipped (1 test): only root can make a link of another user");
        return;
    }
    let scene = Scene::new();
    symlink(&scene.outside, scene.theirs.join("way")).unwrap();
    std::os::unix::fs::lchown(scene.theirs.join("way"), Some(SOMEBODY), Some(SOMEBODY)).unwrap();
    let before = scene.untouched();
    let disk = RealDisk;
    let placement = placement(&disk);
    let error = placement.place_file(&scene.theirs.join("way/file"), 1, None, &write(b"x")).unwrap_err().to_string();
    assert!(error.contains("belongs to another user"), "{error}");
    let error = Tree::open(&placement, &scene.theirs.join("way/etc/new")).map(drop).unwrap_err().to_string();
    assert!(error.contains("belongs to another user"), "{error}");
    assert_eq!(scene.untouched(), before);
}

/// What root makes in a directory of somebody is that of the record, or open to nobody else.
#[test]
fn what_is_made_on_the_way_is_for_its_owner_alone() {
    let scene = Scene::new();
    let disk = RealDisk;
    let placement = placement(&disk);
    let tree = Tree::open(&placement, &scene.theirs.join("made/root")).unwrap();
    tree.file(b"above/file", 1, None, &write(b"x")).unwrap();
    tree.finish().unwrap();
    for made in ["made", "made/root", "made/root/above", "made/root/above/file"] {
        let mode = fs::metadata(scene.theirs.join(made)).unwrap().mode();
        assert_eq!(mode & 0o077, 0, "{made}: {mode:o}");
    }
}
