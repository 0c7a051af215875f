//! Somebody who may write into a directory, and exchanges things in it while icecore works there: at each of its steps in turn.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use icecore::engine::place::Placement;
use icecore::fs::disk::{Disk, RealDisk};
use icecore::progress::Silent;

pub const STAMP: &str = "20261123T031500Z";

/// What an attacker does.
pub type Act<'a> = &'a (dyn Fn() + Send + Sync);

/// The file system, with somebody who acts once before or after one of the calls.
pub struct Attacked<'a> {
    act: Act<'a>,
    /// Moments until then; there are two for each call. Once it is done, the largest number.
    left: AtomicUsize,
    moments: AtomicUsize,
    acting: Mutex<()>,
}

impl std::fmt::Debug for Attacked<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Attacked")
    }
}

impl<'a> Attacked<'a> {
    pub fn at(moment: usize, act: Act<'a>) -> Self {
        Attacked { act, left: AtomicUsize::new(moment), moments: AtomicUsize::new(0), acting: Mutex::new(()) }
    }

    /// How many moments there were.
    pub fn moments(&self) -> usize {
        self.moments.load(Ordering::SeqCst)
    }

    /// A moment at which the attacker may act.
    pub fn moment(&self) {
        let _one = self.acting.lock().unwrap();
        self.moments.fetch_add(1, Ordering::SeqCst);
        match self.left.load(Ordering::SeqCst) {
            usize::MAX => {}
            0 => {
                self.left.store(usize::MAX, Ordering::SeqCst);
                (self.act)();
            }
            left => self.left.store(left - 1, Ordering::SeqCst),
        }
    }

    fn around<T>(&self, call: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        self.moment();
        let outcome = call();
        self.moment();
        outcome
    }
}

impl Disk for Attacked<'_> {
    fn create(&self, path: &Path, parts: &[&[u8]], mode: u32) -> io::Result<()> {
        self.around(|| RealDisk.create(path, parts, mode))
    }
    fn create_new(&self, path: &Path, mode: u32) -> io::Result<File> {
        self.around(|| RealDisk.create_new(path, mode))
    }
    fn sync_filesystem(&self, _dir: &File, _path: &Path) -> io::Result<()> {
        self.around(|| Ok(()))
    }
    fn sync_file(&self, _file: &File, _path: &Path) -> io::Result<()> {
        self.around(|| Ok(()))
    }
    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        self.around(|| File::open(path).map(drop))
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.around(|| RealDisk.rename(from, to))
    }
    fn hard_link(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.around(|| RealDisk.hard_link(from, to))
    }
    fn rename_new(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.around(|| RealDisk.rename_new(from, to))
    }
    fn exchange(&self, one: &Path, other: &Path) -> io::Result<()> {
        self.around(|| RealDisk.exchange(one, other))
    }
    fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.around(|| RealDisk.remove_file(path))
    }
    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        self.around(|| RealDisk.create_dir_all(path))
    }
}

/// A directory of the attacker, and one of somebody else beside it, in memory where that can be.
pub struct Scene {
    _outer: tempfile::TempDir,
    /// The attacker may change everything in here.
    pub theirs: PathBuf,
    /// Nothing in here may change.
    pub outside: PathBuf,
}

impl Scene {
    pub fn new() -> Self {
        let outer = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
        let at = outer.path().canonicalize().unwrap();
        let (theirs, outside) = (at.join("theirs"), at.join("outside"));
        fs::create_dir(&theirs).unwrap();
        fs::create_dir_all(outside.join("etc/deep")).unwrap();
        for name in ["etc/file", "etc/deep/file", "file", "a.db", "a.db-journal", "a.db-wal"] {
            fs::write(outside.join(name), format!("precious {name}")).unwrap();
            fs::set_permissions(outside.join(name), fs::Permissions::from_mode(0o640)).unwrap();
        }
        fs::set_permissions(outside.join("etc"), fs::Permissions::from_mode(0o711)).unwrap();
        Scene { _outer: outer, theirs, outside }
    }

    /// All that must not change: names, contents, owners, modes and times.
    pub fn untouched(&self) -> Vec<(PathBuf, Vec<u8>, [i64; 5])> {
        let mut found = Vec::new();
        look(&self.outside, &mut found);
        found
    }

    /// Puts a link to something outside in the place of a name of theirs; what was there goes aside.
    pub fn turn(&self, name: &str, outside: &str) {
        let path = self.theirs.join(name);
        let mut aside = path.clone().into_os_string();
        aside.push(".aside");
        if fs::rename(&path, aside).is_ok() {
            symlink(self.outside.join(outside), path).unwrap();
        }
    }

    /// Puts links to something outside in the place of all files that are being written.
    pub fn turn_hidden(&self, below: &str, outside: &str) {
        for entry in fs::read_dir(self.theirs.join(below)).into_iter().flatten().flatten() {
            if entry.file_name().to_string_lossy().contains(".icecore-restore-") && entry.file_type().unwrap().is_file() {
                fs::remove_file(entry.path()).unwrap();
                symlink(self.outside.join(outside), entry.path()).unwrap();
            }
        }
    }
}

fn look(path: &Path, found: &mut Vec<(PathBuf, Vec<u8>, [i64; 5])>) {
    let meta = fs::symlink_metadata(path).unwrap();
    let facts = [meta.ino() as i64, i64::from(meta.mode()), i64::from(meta.uid()), i64::from(meta.gid()), meta.mtime_nsec() ^ meta.mtime()];
    let bytes = if meta.is_file() { fs::read(path).unwrap() } else { Vec::new() };
    found.push((path.to_path_buf(), bytes, facts));
    if meta.is_dir() {
        let mut names: Vec<_> = fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()).collect();
        names.sort();
        names.iter().for_each(|path| look(path, found));
    }
}

/// Runs something with an attacker at each of its moments in turn, each time in a new scene; gives how many moments there were.
pub fn at_every_moment(prepare: &dyn Fn(&Scene), act: &(dyn Fn(&Scene) + Send + Sync), run: &dyn Fn(&Scene, &Attacked<'_>)) -> usize {
    let mut moment = 0;
    loop {
        let scene = Scene::new();
        prepare(&scene);
        let before = scene.untouched();
        let act = || act(&scene);
        let disk = Attacked::at(moment, &act);
        run(&scene, &disk);
        assert_eq!(scene.untouched(), before, "attacked at moment {moment}");
        if disk.moments() <= moment {
            return moment;
        }
        moment += 1;
    }
}

pub fn placement<'a>(disk: &'a dyn Disk) -> Placement<'a> {
    Placement { disk, timestamp: STAMP.to_owned(), monitor: &Silent }
}
