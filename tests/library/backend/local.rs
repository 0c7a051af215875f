//! The local backend: the contract, its files, and what it does when the file system fails or lacks something.

use std::fs;
use std::io::{self, ErrorKind};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use icecore::Error;
use icecore::fs::disk::{Disk, RealDisk};
use icecore::id::{KeyId, PackId};
use icecore::store::backend::{Backend, LocalBackend, ObjectKey, ObjectKind, Replica, WriteMode};

use super::contract::{self, io_kind, keys_of_all_shapes, list_all, mark, pack, snapshot};
use super::simulated::CrashDisk;

/// A fresh repository directory, removed at the end.
fn fresh() -> (tempfile::TempDir, LocalBackend) {
    let tmp = tempfile::tempdir().unwrap();
    let backend = LocalBackend::create(&tmp.path().join("repo"), Arc::new(RealDisk)).unwrap();
    (tmp, backend)
}

macro_rules! keeps_the_contract {
    ($($name:ident)*) => {
        $(
            #[test]
            fn $name() {
                let (_tmp, backend) = fresh();
                contract::$name(&backend);
                assert_eq!(temporaries(Path::new(&backend.location())), Vec::<PathBuf>::new());
            }
        )*
    };
}

keeps_the_contract! {
    an_empty_backend_lists_nothing
    what_is_written_is_listed_and_read
    parts_are_joined
    an_empty_object_is_an_object
    ranges_are_exact
    a_range_past_the_end_is_an_error
    hostile_ranges_are_errors
    create_new_never_replaces
    one_of_sixteen_creators_wins
    replace_creates_and_replaces
    readers_see_a_replaced_object_whole
    delete_removes_once_and_for_all
    concurrent_writers_do_not_disturb_each_other
    settle_takes_any_objects_that_are_there
}

/// All files below, by their path from here, sorted.
pub fn files(root: &Path) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = walkdir::WalkDir::new(root)
        .into_iter()
        .map(Result::unwrap)
        .filter(|entry| !entry.file_type().is_dir())
        .map(|entry| entry.path().strip_prefix(root).unwrap().to_path_buf())
        .collect();
    found.sort();
    found
}

/// Files that are still being written, or were when their writer died.
pub fn temporaries(root: &Path) -> Vec<PathBuf> {
    files(root).into_iter().filter(|path| path.file_name().unwrap().to_str().unwrap().starts_with(".tmp-")).collect()
}

#[test]
fn each_object_has_its_place_and_is_its_owners() {
    let (_tmp, backend) = fresh();
    for key in keys_of_all_shapes() {
        backend.write(&key, &[b"x"], WriteMode::CreateNew).unwrap();
    }
    let (seven, nine, ff) = ("07".repeat(32), "09".repeat(32), "ff".repeat(32));
    let (one, two, eight) = ("01".repeat(32), "02".repeat(32), "08".repeat(32));
    let sibling = format!("{}08", "07".repeat(31));
    let (of_one, of_other) = ("ab".repeat(8), "cd".repeat(8));
    let expected = [
        "config".to_owned(),
        "config.copy".to_owned(),
        format!("forgotten/{seven}"),
        format!("keys/{seven}"),
        format!("keys/{seven}.copy"),
        format!("keys/{nine}"),
        format!("log/{:019}-{one}", 0),
        format!("log/{:019}-{one}", 7),
        format!("log/{:019}-{two}", 7),
        format!("log/{}-{one}", i64::MAX),
        format!("marks/{seven}/{one}"),
        format!("marks/{seven}/{two}"),
        format!("marks/{eight}/{one}"),
        format!("packs/07/{seven}"),
        format!("packs/07/{sibling}"),
        format!("packs/ff/{ff}"),
        format!("pending/{of_one}-{seven}"),
        format!("quarantine/pack-{seven}-{eight}"),
        format!("quarantine/snapshot-{seven}-{eight}"),
        format!("snapshots/{of_one}-{seven}"),
        format!("snapshots/{of_other}-{seven}"),
        format!("tombstones/{seven}"),
    ];
    let root = PathBuf::from(backend.location());
    assert_eq!(files(&root), expected.map(PathBuf::from));
    for entry in walkdir::WalkDir::new(&root).into_iter().map(Result::unwrap) {
        let expected = if entry.file_type().is_dir() { 0o700 } else { 0o600 };
        assert_eq!(entry.metadata().unwrap().permissions().mode() & 0o7777, expected, "{}", entry.path().display());
    }
}

#[test]
fn foreign_names_are_not_listed() {
    let (_tmp, backend) = fresh();
    let root = PathBuf::from(backend.location());
    backend.write(&pack(7), &[b"x"], WriteMode::CreateNew).unwrap();
    let hex = "07".repeat(32);
    let other = "08".repeat(32);
    backend.write(&mark(7, 7), &[b"x"], WriteMode::CreateNew).unwrap();
    let marks = format!("marks/{hex}");
    for directory in ["forgotten", "keys", "log", &marks, "pending", "snapshots", "tombstones", "packs/07"] {
        let directory = root.join(directory);
        let upper = "0A".repeat(32);
        for name in
            [".tmp-1-00", ".DS_Store", "x", &hex[..63], &format!("{hex}0"), &format!("{hex}.bak"), &upper, &format!("{hex}.copy.copy")]
        {
            fs::write(directory.join(name), "foreign").unwrap();
        }
        symlink("nowhere", directory.join("0b".repeat(32))).unwrap();
        fs::create_dir(directory.join("0c".repeat(32))).unwrap();
        fs::write(directory.join(std::ffi::OsStr::new(unsafe_name())), "foreign").unwrap();
    }
    fs::write(root.join("marks").join(&other), "not below a snapshot").unwrap();
    for directory in ["forgotten", "log", &marks, "snapshots", "pending", "tombstones", "packs/07"] {
        fs::write(root.join(directory).join(format!("{hex}.copy")), "only keys have second copies").unwrap();
    }
    for time in
        ["1", "+000000000000000001", "-000000000000000001", "00000000000000000001", "9223372036854775808", "000000000000000000a", ""]
    {
        fs::write(root.join("log").join(format!("{time}-{hex}")), "no time").unwrap();
    }
    for id in [&hex[1..], "", &format!("{hex}.bak"), &"0A".repeat(32)] {
        fs::write(root.join("log").join(format!("{:019}-{id}", 1)), "no id").unwrap();
        fs::write(root.join("snapshots").join(format!("{}-{id}", "ab".repeat(8))), "no id").unwrap();
    }
    let of = |source: &str| format!("{source}-{hex}");
    let whole = "ab".repeat(8);
    let no_sources =
        [&whole[1..], &format!("{whole}0"), &"AB".repeat(8), "", &format!("{whole}-{whole}"), &format!("+{}", &whole[1..])].map(of);
    for name in no_sources.iter().chain([&hex, &format!("{whole}_{hex}"), &format!("{whole}{hex}"), &format!("{whole}--{hex}")]) {
        for directory in ["pending", "snapshots"] {
            fs::write(root.join(directory).join(name), "no source").unwrap();
        }
    }
    fs::write(root.join("packs/07").join(&other), "in the wrong directory").unwrap();
    fs::write(root.join("packs").join(&hex), "not in a directory of its own").unwrap();
    fs::write(root.join("packs/0f"), "a file where a directory belongs").unwrap();
    for shard in ["8", "008", "0G", "FF", "zz"] {
        fs::create_dir(root.join("packs").join(shard)).unwrap();
        fs::write(root.join("packs").join(shard).join(&other), "foreign").unwrap();
    }
    fs::write(root.join("config.bak"), "foreign").unwrap();
    assert_eq!(list_all(&backend).into_keys().collect::<Vec<_>>(), [pack(7), mark(7, 7)]);

    fs::write(root.join("keys").join(format!("{other}.copy")), "second").unwrap();
    let second = ObjectKey::Key(KeyId([8; 32]), Replica::Second);
    assert_eq!(list_all(&backend).into_keys().collect::<Vec<_>>(), [second, pack(7), mark(7, 7)]);
}

/// A name that is not UTF-8.
fn unsafe_name() -> &'static std::ffi::OsStr {
    std::os::unix::ffi::OsStrExt::from_bytes(b"\xff\xfe")
}

#[test]
fn what_is_no_regular_file_is_no_object() {
    let (_tmp, backend) = fresh();
    let directory = PathBuf::from(backend.location()).join("snapshots");
    fs::write(directory.join("target"), "bytes").unwrap();
    let place = |id: &str| directory.join(format!("{}-{}", "ab".repeat(8), id.repeat(32)));
    symlink("target", place("01")).unwrap();
    fs::create_dir(place("02")).unwrap();
    let pipe = place("03");
    rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, rustix::fs::Mode::RUSR, 0).unwrap();
    for number in 1..=3 {
        assert_eq!(backend.stat(&snapshot(number)).unwrap(), None);
        backend.read(&snapshot(number), None).unwrap_err();
        assert_eq!(io_kind(backend.write(&snapshot(number), &[b"x"], WriteMode::CreateNew)), ErrorKind::AlreadyExists);
    }
    assert_eq!(list_all(&backend).len(), 0);
    assert_eq!(fs::read(directory.join("target")).unwrap(), b"bytes");
}

#[test]
fn create_refuses_what_holds_other_things() {
    let tmp = tempfile::tempdir().unwrap();
    let create = |name: &str| LocalBackend::create(&tmp.path().join(name), Arc::new(RealDisk));
    fs::create_dir(tmp.path().join("home")).unwrap();
    fs::write(tmp.path().join("home/thesis.txt"), "years of work").unwrap();
    fs::write(tmp.path().join("file"), "").unwrap();
    for name in ["home", "file", "file/below"] {
        assert!(matches!(create(name).unwrap_err(), Error::Destination { .. }));
    }
    assert_eq!(files(tmp.path()), ["file", "home/thesis.txt"].map(PathBuf::from));

    fs::create_dir(tmp.path().join("empty")).unwrap();
    for name in ["new", "other/inner/deep", "empty"] {
        create(name).unwrap();
    }
    // An interrupted creation is completed; a repository is left as it is.
    fs::remove_dir(tmp.path().join("empty/keys")).unwrap();
    let backend = create("empty").unwrap();
    backend.write(&ObjectKey::Config(Replica::First), &[b"c"], WriteMode::CreateNew).unwrap();
    fs::write(tmp.path().join("empty/README"), "a repository may hold more").unwrap();
    let again = create("empty").unwrap();
    assert_eq!(again.read(&ObjectKey::Config(Replica::First), None).unwrap(), b"c");
}

#[test]
fn open_needs_a_configuration_or_its_copy() {
    let tmp = tempfile::tempdir().unwrap();
    let path = tmp.path().join("repo");
    let open = |path: &Path| LocalBackend::open(path, Arc::new(RealDisk));
    assert!(matches!(open(&path).unwrap_err(), Error::NoRepository { .. }));
    let backend = LocalBackend::create(&path, Arc::new(RealDisk)).unwrap();
    assert!(matches!(open(&path).unwrap_err(), Error::NoRepository { .. }));
    fs::write(tmp.path().join("file"), "").unwrap();
    for name in ["file", "file/below"] {
        assert!(matches!(open(&tmp.path().join(name)).unwrap_err(), Error::NoRepository { .. }));
    }
    for replica in [Replica::First, Replica::Second] {
        backend.write(&ObjectKey::Config(replica), &[b"c"], WriteMode::CreateNew).unwrap();
        open(&path).unwrap();
        backend.delete(&[ObjectKey::Config(replica)]).unwrap();
    }
}

#[test]
fn one_place_has_one_location() {
    let (tmp, backend) = fresh();
    backend.write(&ObjectKey::Config(Replica::First), &[b"c"], WriteMode::CreateNew).unwrap();
    symlink(backend.location(), tmp.path().join("link")).unwrap();
    for path in ["link", "repo", "repo/../repo/."] {
        assert_eq!(LocalBackend::open(&tmp.path().join(path), Arc::new(RealDisk)).unwrap().location(), backend.location());
    }
    let odd = LocalBackend::create(&tmp.path().join(unsafe_name()), Arc::new(RealDisk)).unwrap();
    assert!(odd.location().contains("\\xFF\\xFE"), "{}", odd.location());
}

#[test]
fn directories_that_a_copy_left_out_are_made_again() {
    let (tmp, backend) = fresh();
    let root = PathBuf::from(backend.location());
    backend.write(&ObjectKey::Config(Replica::First), &[b"c"], WriteMode::CreateNew).unwrap();
    for name in ["forgotten", "keys", "log", "marks", "packs", "pending", "snapshots", "tombstones"] {
        fs::remove_dir(root.join(name)).unwrap();
    }
    assert_eq!(list_all(&backend).len(), 1, "missing directories are empty");
    let opened = LocalBackend::open(&root, Arc::new(RealDisk)).unwrap();
    opened.write(&snapshot(1), &[b"x"], WriteMode::CreateNew).unwrap();
    opened.write(&pack(1), &[b"x"], WriteMode::CreateNew).unwrap();
    fs::remove_dir_all(root.join("packs/01")).unwrap();
    opened.write(&pack(1), &[b"x"], WriteMode::CreateNew).unwrap();

    // The disk has gone from under its mount point: no empty repository, and none is started there.
    fs::rename(&root, tmp.path().join("away")).unwrap();
    fs::create_dir(&root).unwrap();
    assert_eq!(opened.list(ObjectKind::Snapshot).err().map(|error| io_kind::<()>(Err(error))), Some(ErrorKind::NotFound));
    assert_eq!(opened.list(ObjectKind::Pack).err().map(|error| io_kind::<()>(Err(error))), Some(ErrorKind::NotFound));
    for key in [pack(1), pack(2), snapshot(2)] {
        assert_eq!(io_kind(opened.write(&key, &[b"x"], WriteMode::CreateNew)), ErrorKind::NotFound);
    }
    assert_eq!(fs::read_dir(&root).unwrap().count(), 0);
}

#[test]
fn many_processes_worth_of_backends_share_a_directory() {
    let (_tmp, backend) = fresh();
    let path = PathBuf::from(backend.location());
    backend.write(&ObjectKey::Config(Replica::First), &[b"c"], WriteMode::CreateNew).unwrap();
    let others: Vec<LocalBackend> = (0..16).map(|_| LocalBackend::open(&path, Arc::new(RealDisk)).unwrap()).collect();
    let others: Vec<&dyn Backend> = others.iter().map(|other| other as &dyn Backend).collect();
    for round in 0..8 {
        contract::race(&others, &pack(round));
        contract::race(&others, &snapshot(round));
    }
}

/// A file system without hard links and, if `exclusive` is false, without an exclusive rename.
#[derive(Debug)]
struct Plain {
    exclusive: bool,
}

impl Disk for Plain {
    fn hard_link(&self, _from: &Path, _to: &Path) -> io::Result<()> {
        Err(rustix::io::Errno::PERM.into())
    }
    fn rename_new(&self, from: &Path, to: &Path) -> io::Result<()> {
        if self.exclusive { RealDisk.rename_new(from, to) } else { Err(rustix::io::Errno::INVAL.into()) }
    }
}

#[test]
fn file_systems_without_hard_links_will_do() {
    for exclusive in [true, false] {
        let tmp = tempfile::tempdir().unwrap();
        let make = |name: &str| LocalBackend::create(&tmp.path().join(name), Arc::new(Plain { exclusive })).unwrap();
        contract::create_new_never_replaces(&make("a"));
        contract::what_is_written_is_listed_and_read(&make("b"));
        if exclusive {
            contract::one_of_sixteen_creators_wins(&make("c"));
        }
        assert_eq!(temporaries(tmp.path()), Vec::<PathBuf>::new());
    }
}

/// The steps that an operation takes, temporary names replaced.
fn steps(disk: &CrashDisk, operation: impl FnOnce()) -> Vec<String> {
    let before = disk.trace().len();
    operation();
    let words =
        |step: &String| step.split(' ').map(|word| if word.contains(".tmp-") { "TEMP" } else { word }).collect::<Vec<_>>().join(" ");
    disk.trace()[before..].iter().map(words).collect()
}

#[test]
fn a_write_costs_two_syncs_and_settle_one_for_each_directory() {
    let tmp = tempfile::tempdir().unwrap();
    let root = tmp.path().join("disk");
    fs::create_dir(&root).unwrap();
    let disk = Arc::new(CrashDisk::new(&root));
    let backend = LocalBackend::create(&root.join("r"), disk.clone()).unwrap();
    let hex = |byte: &str| byte.repeat(32);
    let (one, two, of) = (hex("01"), hex("02"), "ab".repeat(8));

    let first = steps(&disk, || backend.write(&pack(1), &[b"a", b"b"], WriteMode::CreateNew).unwrap());
    let write = ["create TEMP", "write TEMP part 0", "write TEMP part 1", "sync TEMP"];
    let place = [format!("link TEMP r/packs/01/{one}"), "remove TEMP".into(), "syncdir r/packs/01".into()];
    let made = ["mkdir r/packs/01", "syncdir r/packs"];
    assert_eq!(first, [&made.map(str::to_owned)[..], &write.map(str::to_owned), &place].concat());

    let mut sibling = [1; 32];
    sibling[31] = 9;
    let second = steps(&disk, || backend.write(&ObjectKey::Pack(PackId(sibling)), &[b"a"], WriteMode::CreateNew).unwrap());
    assert_eq!(second.iter().filter(|step| step.starts_with("sync")).count(), 2, "{second:?}");

    let replace = steps(&disk, || backend.write(&snapshot(2), &[], WriteMode::Replace).unwrap());
    assert_eq!(replace, ["create TEMP", "sync TEMP", &format!("rename TEMP r/snapshots/{of}-{two}"), "syncdir r/snapshots"]);

    backend.write(&pack(2), &[b"a"], WriteMode::CreateNew).unwrap();
    let settle =
        steps(&disk, || backend.settle(&[pack(1), snapshot(2), pack(2), pack(1), snapshot(3), ObjectKey::Pack(PackId(sibling))]).unwrap());
    assert_eq!(settle, ["syncdir r/packs", "syncdir r/packs/01", "syncdir r/packs/02", "syncdir r/snapshots"]);

    let delete = steps(&disk, || backend.delete(&[pack(2)]).unwrap());
    assert_eq!(delete, [format!("remove r/packs/02/{two}"), "syncdir r/packs/02".into()]);

    let snapshots = [4, 2, 5].map(|number| (snapshot(number), b"a".to_vec()));
    let many = steps(&disk, || assert_eq!(backend.write_all(&snapshots, WriteMode::CreateNew).unwrap(), [true, false, true]));
    assert_eq!(many.iter().filter(|step| step.starts_with("sync TEMP")).count(), 2, "{many:?}");
    assert_eq!(many.iter().position(|step| step == "syncdir r/snapshots"), Some(many.len() - 1), "{many:?}");
    let (four, five) = (hex("04"), hex("05"));
    let gone = steps(&disk, || backend.delete(&[snapshot(4), snapshot(5)]).unwrap());
    assert_eq!(gone, [format!("remove r/snapshots/{of}-{four}"), format!("remove r/snapshots/{of}-{five}"), "syncdir r/snapshots".into()]);
}
