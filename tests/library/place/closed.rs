//! Destinations that nobody uses.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;

use icecore::Error;
use icecore::engine::sqlite::restore::DatabaseOptions;
use icecore::fs::disk::{Disk, RealDisk};
use icecore::recorded::FileMeta;

use super::support::*;

#[test]
fn an_absent_destination() {
    let (_outer, dir) = scratch();
    let dest = dir.join("a.db");
    let new = bytes(NEW_WAL);
    let placed = place(&dest, &new).unwrap();
    assert_eq!(placed.path, dest);
    assert!(placed.kept.is_empty());
    assert_eq!(names(&dir), ["a.db".to_string()].into());
    assert_eq!(fs::read(&dest).unwrap(), new);
    assert_eq!(fs::metadata(&dest).unwrap().mode() & 0o777, 0o600);
    assert_eq!(read(&dest), rows("new", 300));
}

#[test]
fn the_old_database_is_kept_whole_and_the_new_one_is_byte_for_byte() {
    for (old, name) in
        [(OLD, "plain"), (OLD_WAL, "wal"), (Spec { page_size: 512, ..OLD }, "512"), (Spec { page_size: 65536, ..OLD }, "64k")]
    {
        for spec in [NEW, NEW_WAL] {
            let (_outer, dir) = scratch();
            let dest = dir.join("a.db");
            make(&dest, old);
            let new = bytes(spec);
            let placed = place(&dest, &new).unwrap();
            assert_eq!(placed.kept, [kept(&dest)], "{name}");
            assert_eq!(names(&dir).len(), 2, "{name}: {:?}", names(&dir));
            assert_eq!(fs::read(&dest).unwrap(), new, "{name}");
            assert_eq!(read(&dest), rows("new", 300), "{name}");
            assert_eq!(read(&kept(&dest)), rows("old", 50), "{name}");
        }
    }
}

#[test]
fn what_is_only_in_the_wal_is_in_the_kept_one() {
    let (_outer, dir) = scratch();
    let dest = dir.join("a.db");
    make_with_wal(&dest, OLD, 7);
    let placed = place(&dest, &bytes(NEW)).unwrap();
    assert_eq!(placed.kept, [kept(&dest)]);
    assert_eq!(names(&dir).len(), 2, "{:?}", names(&dir));
    assert_eq!(read(&dest), rows("new", 300));
    assert_eq!(read(&kept(&dest)), rows("old", 57));
}

#[test]
fn a_hot_journal_is_rolled_back_into_the_kept_one() {
    let (_outer, dir) = scratch();
    let dest = dir.join("a.db");
    make_with_hot_journal(&dest, Spec { rows: 2000, ..OLD });
    place(&dest, &bytes(NEW)).unwrap();
    assert_eq!(names(&dir).len(), 2, "{:?}", names(&dir));
    assert_eq!(read(&dest), rows("new", 300));
    assert_eq!(read(&kept(&dest)), rows("old", 2000));
}

/// Beside an absent name, the WAL of an older and of a newer state of the very same database.
#[test]
fn a_stale_wal_is_never_replayed_onto_the_new_file() {
    for stale_is_newer in [true, false] {
        let (_outer, dir) = scratch();
        let (dest, other) = (dir.join("a.db"), dir.join("other.db"));
        make_with_wal(&other, NEW_WAL, 11);
        let wal = fs::read(side(&other, "-wal")).unwrap();
        let snapshot = if stale_is_newer {
            fs::remove_file(side(&other, "-wal")).unwrap();
            fs::read(&other).unwrap()
        } else {
            assert_eq!(read(&other), rows("new", 311));
            fs::read(&other).unwrap()
        };
        fs::write(side(&dest, "-wal"), &wal).unwrap();
        fs::write(side(&dest, "-shm"), b"stale").unwrap();
        let placed = place(&dest, &snapshot).unwrap();
        assert_eq!(placed.kept, [side(&kept(&dest), "-wal")]);
        assert!(!side(&dest, "-wal").exists() && !side(&dest, "-shm").exists());
        assert_eq!(fs::read(&placed.kept[0]).unwrap(), wal);
        assert_eq!(read(&dest), rows("new", if stale_is_newer { 300 } else { 311 }));
    }
}

#[test]
fn a_stale_journal_is_never_rolled_back_onto_the_new_file() {
    let (_outer, dir) = scratch();
    let (dest, other) = (dir.join("a.db"), dir.join("other.db"));
    make_with_hot_journal(&other, Spec { rows: 2000, ..NEW });
    let journal = fs::read(side(&other, "-journal")).unwrap();
    fs::write(side(&dest, "-journal"), &journal).unwrap();
    let placed = place(&dest, &bytes(NEW)).unwrap();
    assert_eq!(placed.kept, [side(&kept(&dest), "-journal")]);
    assert_eq!(fs::read(&placed.kept[0]).unwrap(), journal);
    assert_eq!(read(&dest), rows("new", 300));
    assert!(!side(&dest, "-journal").exists());
}

#[test]
fn what_does_not_open_is_kept_with_its_side_files() {
    let (_outer, dir) = scratch();
    let dest = dir.join("a.db");
    make_with_wal(&dest, OLD, 7);
    let wal = fs::read(side(&dest, "-wal")).unwrap();
    fs::write(&dest, b"no database at all, but somebody's bytes").unwrap();
    fs::write(side(&dest, "-journal"), b"journal").unwrap();
    let placed = place(&dest, &bytes(NEW)).unwrap();
    let stem = kept(&dest);
    assert_eq!(placed.kept, [stem.clone(), side(&stem, "-wal"), side(&stem, "-journal")]);
    assert_eq!(fs::read(&stem).unwrap(), b"no database at all, but somebody's bytes");
    assert_eq!(fs::read(side(&stem, "-wal")).unwrap(), wal);
    assert_eq!(fs::read(side(&stem, "-journal")).unwrap(), b"journal");
    assert_eq!(names(&dir).len(), 4, "{:?}", names(&dir));
    assert_eq!(read(&dest), rows("new", 300));
}

/// SQLite itself would delete this WAL when it opens the empty file.
#[test]
fn an_empty_file_with_a_wal_loses_neither() {
    let (_outer, dir) = scratch();
    let dest = dir.join("a.db");
    fs::write(&dest, b"").unwrap();
    fs::write(side(&dest, "-wal"), b"all that is left").unwrap();
    let placed = place(&dest, &bytes(NEW)).unwrap();
    assert_eq!(placed.kept, [kept(&dest), side(&kept(&dest), "-wal")]);
    assert_eq!(fs::read(side(&kept(&dest), "-wal")).unwrap(), b"all that is left");
    assert_eq!(read(&dest), rows("new", 300));
}

#[test]
fn kept_names_are_never_reused() {
    let (_outer, dir) = scratch();
    let dest = dir.join("a.db");
    make(&dest, OLD);
    fs::write(kept(&dest), b"mine").unwrap();
    fs::write(side(&kept(&dest), ".1-wal"), b"mine too").unwrap();
    let placed = place(&dest, &bytes(NEW)).unwrap();
    assert_eq!(placed.kept, [side(&kept(&dest), ".2")]);
    let again = place(&dest, &bytes(Spec { rows: 10, ..NEW })).unwrap();
    assert_eq!(again.kept, [side(&kept(&dest), ".3")]);
    assert_eq!(fs::read(kept(&dest)).unwrap(), b"mine");
    assert_eq!(read(&placed.kept[0]), rows("old", 50));
    assert_eq!(read(&again.kept[0]), rows("new", 300));
    assert_eq!(read(&dest), rows("new", 10));
}

/// Who may turn a link decides what is overwritten; so what it leads to has to be named. Links of one's own above it are followed.
#[test]
fn a_destination_that_is_a_link_is_refused() {
    let (_outer, dir) = scratch();
    fs::create_dir(dir.join("data")).unwrap();
    make(&dir.join("data/real.db"), OLD);
    symlink("data/real.db", dir.join("a.db")).unwrap();
    symlink("data/none.db", dir.join("dangling.db")).unwrap();
    symlink("loop", dir.join("loop")).unwrap();
    symlink("data", dir.join("dir")).unwrap();
    for (name, leads) in [("a.db", "data/real.db"), ("dangling.db", "data/none.db"), ("loop", "loop")] {
        let error = place(&dir.join(name), &bytes(NEW)).unwrap_err().to_string();
        assert!(error.contains(&format!("is a symbolic link to {leads}")), "{error}");
        assert!(fs::symlink_metadata(dir.join(name)).unwrap().is_symlink());
    }
    assert_eq!(names(&dir.join("data")).len(), 1);
    assert_eq!(read(&dir.join("a.db")), rows("old", 50));
    let placed = place(&dir.join("dir/real.db"), &bytes(NEW)).unwrap();
    assert_eq!(placed.path, dir.join("data/real.db"));
    assert_eq!(placed.kept, [kept(&dir.join("data/real.db"))]);
    assert!(place(&dir.join("loop/a.db"), &bytes(NEW)).unwrap_err().to_string().contains("Too many levels of symbolic links"));
}

#[test]
fn destinations_that_cannot_be() {
    let (_outer, dir) = scratch();
    let new = bytes(NEW);
    let refused = |dest: &Path, why: &str| {
        let error = place(dest, &new).unwrap_err();
        assert!(matches!(error, Error::Destination { .. }) && error.to_string().contains(why), "{error}");
    };
    refused(&dir, "is a directory");
    refused(&dir.join("a.db/"), "directory");
    refused(&dir.join("no/a.db"), "does not exist");
    refused(Path::new("/dev/null"), "not a regular file");
    refused(&dir.join("x".repeat(256)), "too long");
    assert!(names(&dir).is_empty());
}

/// Its kept name begins as it does, and says which name it was kept of; side files of the kept one have that name, too.
#[test]
fn a_name_that_leaves_no_room_for_a_kept_one() {
    for len in [219, 226, 227, 243, 255] {
        let (_outer, dir) = scratch();
        let name = "x".repeat(len);
        let dest = dir.join(&name);
        fs::write(&dest, b"no database, but somebody's bytes").unwrap();
        let placed = place(&dest, &bytes(NEW)).unwrap();
        let [old] = placed.kept.as_slice() else { panic!("{placed:?}") };
        assert_eq!(fs::read(old).unwrap(), b"no database, but somebody's bytes");
        assert_eq!(fs::read(&dest).unwrap(), bytes(NEW));
        let kept = old.file_name().unwrap().to_str().unwrap();
        let beginning = kept.strip_suffix(&format!(".pre_restore.{STAMP}")).unwrap();
        match len {
            0..=218 => assert_eq!(beginning, name),
            _ => {
                let (start, mark) = beginning.split_once('~').unwrap();
                assert!(name.starts_with(start) && mark == &blake3::hash(name.as_bytes()).to_hex()[..8], "{kept}");
                assert_eq!(kept.len() + "-journal".len(), 255);
            }
        }
        // Another one that begins alike has another kept name, and the next one of the same a number.
        fs::write(&dest, b"again").unwrap();
        assert!(place(&dest, &bytes(NEW)).unwrap().kept[0].to_str().unwrap().ends_with(".1"));
        assert_eq!(fs::read(old).unwrap(), b"no database, but somebody's bytes");
    }
}

/// On a file system without hard links a link is kept as a link, and what cannot be copied stays where it is.
#[test]
fn what_is_no_file_is_kept_without_hard_links_or_not_touched() {
    use icecore::engine::files::restore::tree::Tree;
    let (_outer, dir) = scratch();
    symlink("elsewhere", dir.join("link")).unwrap();
    rustix::fs::mknodat(rustix::fs::CWD, dir.join("fifo"), rustix::fs::FileType::Fifo, rustix::fs::Mode::RUSR, 0).unwrap();
    let listener = Listener::default();
    let placement = placement(&Odd::Fat, &listener);
    let tree = Tree::open(&placement, &dir).unwrap();
    let placed = tree.file(b"link", 3, None, &filler(b"abc")).unwrap();
    assert_eq!(fs::read_link(&placed.kept[0]).unwrap(), Path::new("elsewhere"));
    assert_eq!(fs::read(dir.join("link")).unwrap(), b"abc");
    let error = tree.file(b"fifo", 3, None, &filler(b"abc")).unwrap_err();
    assert!(error.to_string().contains("not a regular file"), "{error}");
    tree.finish().unwrap();
    assert_eq!(names(&dir).len(), 3, "{:?}", names(&dir));
}

#[test]
fn damage_is_refused_or_accepted_with_a_warning() {
    let (_outer, dir) = scratch();
    let dest = dir.join("a.db");
    make(&dest, OLD);
    let before = contents(&dir);
    let mut new = bytes(NEW);
    new[4096 * 3..4096 * 4].fill(0x5a);
    let error = place(&dest, &new).unwrap_err();
    assert!(error.to_string().contains("quick_check"), "{error}");
    assert_eq!(contents(&dir), before);

    let listener = Listener::default();
    let options = DatabaseOptions { accept_damaged: true, ..DatabaseOptions::default() };
    placement(&RealDisk, &listener).place_database(&dest, new.len() as u64, None, &filler(&new), options).unwrap();
    assert!(listener.warnings.lock().unwrap()[0].contains("damaged"));
    assert_eq!(fs::read(&dest).unwrap(), new);
    assert_eq!(read(&kept(&dest)), rows("old", 50));
}

#[test]
fn a_database_that_needs_its_application_is_no_damage() {
    let (_outer, dir) = scratch();
    let (made, dest) = (dir.join("made.db"), dir.join("a.db"));
    make(&made, NEW);
    let conn = rusqlite::Connection::open(&made).unwrap();
    conn.execute_batch(
        "CREATE TABLE c(a TEXT COLLATE nocase PRIMARY KEY, b CHECK(b > 5)) WITHOUT ROWID;
         PRAGMA ignore_check_constraints=1; INSERT INTO c VALUES('x', 1), ('y', 2);
         PRAGMA writable_schema=1; UPDATE sqlite_schema SET sql = replace(sql, 'nocase', 'ours')",
    )
    .unwrap();
    drop(conn);
    let new = fs::read(&made).unwrap();
    let listener = Listener::default();
    placement(&RealDisk, &listener).place_database(&dest, new.len() as u64, None, &filler(&new), DatabaseOptions::default()).unwrap();
    assert!(listener.warnings.lock().unwrap()[0].contains("ours"), "{:?}", listener.warnings.lock().unwrap());
}

#[test]
fn an_empty_database_is_one() {
    let (_outer, dir) = scratch();
    let dest = dir.join("a.db");
    make(&dest, OLD);
    place(&dest, b"").unwrap();
    assert_eq!(fs::metadata(&dest).unwrap().len(), 0);
    assert_eq!(read(&kept(&dest)), rows("old", 50));
}

#[test]
fn too_little_space_is_said_before_anything_is_written() {
    let (_outer, dir) = scratch();
    let dest = dir.join("a.db");
    make(&dest, OLD);
    let before = contents(&dir);
    let listener = Listener::default();
    let never = |_: &File| -> icecore::Result<()> { panic!("must not be asked to write") };
    for len in [1 << 60, u64::MAX] {
        let error = placement(&RealDisk, &listener).place_database(&dest, len, None, &never, DatabaseOptions::default()).unwrap_err();
        assert!(error.to_string().contains("not enough free space") && error.to_string().contains(&len.to_string()), "{error}");
    }
    assert_eq!(contents(&dir), before);
}

#[test]
fn a_failed_or_short_fill_or_a_stop_changes_nothing() {
    let (_outer, dir) = scratch();
    let dest = dir.join("a.db");
    make(&dest, OLD);
    let before = contents(&dir);
    let new = bytes(NEW);
    let len = new.len() as u64;
    let listener = Listener { questions_left: Some(0).into(), ..Listener::default() };
    let placement = placement(&RealDisk, &listener);
    let run =
        |len, fill: &dyn Fn(&File) -> icecore::Result<()>| placement.place_database(&dest, len, None, fill, DatabaseOptions::default());
    assert!(matches!(run(len, &|_| Err(Error::corrupt("chunk", "bad"))), Err(Error::Corrupt { .. })));
    assert!(matches!(run(len, &filler(&new)), Err(Error::Cancelled)));
    *listener.questions_left.lock().unwrap() = None;
    assert!(run(len - 4096, &filler(&new)).unwrap_err().to_string().contains("instead of"));
    assert_eq!(contents(&dir), before);
}

#[test]
fn attributes() {
    let (_outer, dir) = scratch();
    let dest = dir.join("a.db");
    make(&dest, OLD);
    fs::set_permissions(&dest, fs::Permissions::from_mode(0o640)).unwrap();
    place(&dest, &bytes(NEW)).unwrap();
    assert_eq!(fs::metadata(&dest).unwrap().mode() & 0o7777, 0o640);

    let now = fs::metadata(&dest).unwrap();
    let meta = FileMeta { mode: 0o4664, mtime_ns: -1_500_000_000, uid: now.uid(), gid: now.gid(), ..FileMeta::default() };
    let (listener, new) = (Listener::default(), bytes(NEW));
    placement(&RealDisk, &listener).place_database(&dest, new.len() as u64, Some(meta), &filler(&new), DatabaseOptions::default()).unwrap();
    let placed = fs::metadata(&dest).unwrap();
    assert_eq!(placed.mode() & 0o7777, 0o664, "a database runs as nobody");
    assert_eq!((placed.mtime(), placed.mtime_nsec()), (-2, 500_000_000));
    assert!(listener.warnings.lock().unwrap().is_empty());
}

/// The file system with something odd about it.
#[derive(Debug)]
enum Odd {
    /// No hard links, and nothing that renames without replacing.
    Fat,
    /// An application opens the new database the moment it has its name.
    EagerReader,
    /// An application makes a new database the moment the old one has lost its name.
    EagerMaker,
}

impl Disk for Odd {
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        RealDisk.rename(from, to)?;
        match self {
            Odd::EagerReader => {
                ["-wal", "-shm", "-journal"].iter().try_for_each(|suffix| fs::write(side(to, suffix), b"the application's"))
            }
            _ => Ok(()),
        }
    }
    fn hard_link(&self, from: &Path, to: &Path) -> io::Result<()> {
        if matches!(self, Odd::Fat) { Err(io::ErrorKind::PermissionDenied.into()) } else { RealDisk.hard_link(from, to) }
    }
    fn rename_new(&self, from: &Path, to: &Path) -> io::Result<()> {
        if matches!(self, Odd::Fat) { Err(io::ErrorKind::InvalidInput.into()) } else { RealDisk.rename_new(from, to) }
    }
    fn remove_file(&self, path: &Path) -> io::Result<()> {
        RealDisk.remove_file(path)?;
        if matches!(self, Odd::EagerMaker) && path.ends_with("a.db") { fs::write(path, b"the application's") } else { Ok(()) }
    }
}

#[test]
fn without_hard_links_copies_are_kept() {
    let (_outer, dir) = scratch();
    let dest = dir.join("a.db");
    make_with_wal(&dest, OLD, 7);
    fs::set_permissions(&dest, fs::Permissions::from_mode(0o640)).unwrap();
    let placed = place_on(&Odd::Fat, &dest, &bytes(NEW)).unwrap();
    assert_eq!(placed.kept, [kept(&dest)]);
    assert_eq!(fs::metadata(&placed.kept[0]).unwrap().mode() & 0o777, 0o640);
    assert_eq!(read(&dest), rows("new", 300));
    assert_eq!(read(&kept(&dest)), rows("old", 57));
    assert_eq!(names(&dir).len(), 2, "{:?}", names(&dir));

    fs::write(&dest, b"no database").unwrap();
    fs::write(side(&dest, "-wal"), b"its wal").unwrap();
    let placed = place_on(&Odd::Fat, &dest, &bytes(NEW)).unwrap();
    assert_eq!(placed.kept, [side(&kept(&dest), ".1"), side(&kept(&dest), ".1-wal")]);
    assert_eq!(fs::read(&placed.kept[1]).unwrap(), b"its wal");
    assert_eq!(read(&dest), rows("new", 300));
}

/// Our own connection, closed after the rename, must not delete side files that are the new database's by then.
#[test]
fn side_files_of_the_new_database_are_left_alone() {
    for old in [OLD, OLD_WAL] {
        let (_outer, dir) = scratch();
        let dest = dir.join("a.db");
        make_with_wal(&dest, old, 7);
        place_on(&Odd::EagerReader, &dest, &bytes(NEW_WAL)).unwrap();
        for suffix in ["-wal", "-shm", "-journal"] {
            assert_eq!(fs::read(side(&dest, suffix)).unwrap(), b"the application's", "{suffix}");
        }
    }
}

#[test]
fn a_name_that_somebody_takes_meanwhile_is_left_to_him() {
    let (_outer, dir) = scratch();
    let dest = dir.join("a.db");
    fs::write(&dest, b"no database").unwrap();
    fs::write(side(&dest, "-wal"), b"its wal").unwrap();
    let error = place_on(&Odd::EagerMaker, &dest, &bytes(NEW)).unwrap_err().to_string();
    assert!(error.contains(kept(&dest).to_str().unwrap()), "{error}");
    assert_eq!(fs::read(&dest).unwrap(), b"the application's");
    assert_eq!(fs::read(kept(&dest)).unwrap(), b"no database");
    assert_eq!(fs::read(side(&kept(&dest), "-wal")).unwrap(), b"its wal");
    assert_eq!(names(&dir).iter().filter(|name| name.contains("icecore-restore")).count(), 0);
}

/// Memory file systems can reserve space, and a full one says so before the first byte.
#[cfg(target_os = "linux")]
#[test]
fn space_is_reserved_before_the_first_byte() {
    let (_outer, dir) = scratch_in_memory();
    let new = bytes(NEW);
    let listener = Listener::default();
    let fill = |file: &File| {
        let found = file.metadata().unwrap();
        assert_eq!(found.len(), new.len() as u64);
        assert!(!dir.starts_with("/dev/shm") || found.blocks() * 512 >= found.len(), "{} blocks", found.blocks());
        filler(&new)(file)
    };
    placement(&RealDisk, &listener).place_database(&dir.join("a.db"), new.len() as u64, None, &fill, DatabaseOptions::default()).unwrap();
    assert_eq!(read(&dir.join("a.db")), rows("new", 300));
}
