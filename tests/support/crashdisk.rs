//! A disk that loses what was not synced.
//!
//! [`CrashDisk`] performs every operation of [`Disk`] for real, below a root directory, and keeps a model of what a power cut would leave.
//! Each operation takes numbered steps; at a chosen step the power goes, or just that step fails. Afterwards
//! [`CrashDisk::materialize`] builds the directory as it could look once the power is back:
//!
//! - the contents of a file whose sync did not succeed: whole, empty, torn off, or with a tail of garbage;
//! - each change of names (create, rename, link, remove, new directory) that no later `sync_dir` of that directory covered: made or not,
//!   each by itself, so a late one may survive an early one. A rename is one change as long as neither of its directories was synced.
//!
//! Everything that is in the root at the start is durable. So are files that others create, change or remove in the
//! root without this disk (SQLite's own files), in the state in which the model next sees them: when an operation names
//! them, and at `materialize`. With [`CrashDisk::with_unsynced`] such files count as unsynced until `sync_file`.
//! Directories cannot be renamed, and links and devices are not supported. Syncs are only recorded, since no real power
//! cut is expected.
//!
//! Include with `#[path = "../support/crashdisk.rs"] mod crashdisk;`.
// Each test binary uses a part of it.
#![allow(dead_code)]

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard};

use icecore::fs::disk::{Disk, RealDisk};

/// A directory for simulated disks, in memory where the system has a place for that: many runs are needed, and no real sync.
pub fn scratch() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).expect("a temporary directory")
}

/// Which unsynced changes survive a power cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Policy {
    /// Nothing: contents empty, names as last synced.
    LoseAll,
    /// Everything, as after a kill of the process.
    KeepAll,
    /// Each change or not, chosen by this seed.
    Random(u64),
}

/// See the module.
#[derive(Debug)]
pub struct CrashDisk {
    root: PathBuf,
    unsynced: fn(&Path) -> bool,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// A second name of each file, so that removed ones can come back; beside the root, on the same file system.
    vault: tempfile::TempDir,
    power_off_at: Option<u64>,
    fail_at: Option<(u64, ErrorKind)>,
    off: bool,
    trace: Vec<String>,
    /// Durable names of each directory, by its path from the root.
    durable: BTreeMap<PathBuf, BTreeMap<OsString, Node>>,
    /// Changes of names that may be lost, oldest first.
    pending: Vec<Vec<Effect>>,
    /// Whether the contents of each file are durable.
    synced: Vec<bool>,
    by_inode: HashMap<(u64, u64), usize>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Node {
    File(usize),
    Directory,
}

/// What a name in a directory comes to stand for.
#[derive(Debug, Clone)]
struct Effect {
    directory: PathBuf,
    name: OsString,
    node: Option<Node>,
}

impl CrashDisk {
    /// A disk on this directory, which has a parent to write in. Its contents are durable.
    pub fn new(root: &Path) -> Self {
        Self::with_unsynced(root, |_| false)
    }

    /// Like [`CrashDisk::new`]; of the files that others make later, those that `unsynced` accepts (by their path from the root, as first
    /// seen) count as not synced until [`Disk::sync_file`].
    pub fn with_unsynced(root: &Path, unsynced: fn(&Path) -> bool) -> Self {
        let root = fs::canonicalize(root).expect("the root exists");
        let vault = tempfile::TempDir::with_prefix_in("vault", root.parent().expect("the root has a parent")).expect("vault");
        let state = State {
            vault,
            power_off_at: None,
            fail_at: None,
            off: false,
            trace: Vec::new(),
            durable: BTreeMap::from([(PathBuf::new(), BTreeMap::new())]),
            pending: Vec::new(),
            synced: Vec::new(),
            by_inode: HashMap::new(),
        };
        let disk = Self { root, unsynced, state: Mutex::new(state) };
        disk.lock().adopt_tree(&disk.root, Path::new(""), |_| false).expect("reading the root");
        disk
    }

    /// The power goes at this step, counted from 0 at the start: it and all later ones fail, in every thread.
    pub fn power_off_at(&self, step: u64) {
        self.lock().power_off_at = Some(step);
    }

    /// Just this step fails, with an error of this kind.
    pub fn fail_at(&self, step: u64, kind: ErrorKind) {
        self.lock().fail_at = Some((step, kind));
    }

    /// Whether the power is off.
    pub fn is_off(&self) -> bool {
        self.lock().off
    }

    /// Steps so far, those that failed included.
    pub fn ops(&self) -> u64 {
        self.lock().trace.len() as u64
    }

    /// The steps so far in words, paths from the root: for messages, and for tests that count.
    pub fn trace(&self) -> Vec<String> {
        self.lock().trace.clone()
    }

    /// Builds in the new directory `into` what the root could look like after the power came back. Equal seeds give equal results after
    /// equal operations. May be called again and again, also while the power is on (as if it went now).
    pub fn materialize(&self, policy: Policy, into: &Path) -> io::Result<()> {
        let mut state = self.lock();
        state.adopt_tree(&self.root, Path::new(""), self.unsynced)?;
        let mut random = Random::new(policy);
        let mut view = state.durable.clone();
        for effect in state.pending.iter().filter(|_| random.keeps(policy)).flatten() {
            effect.apply(&mut view);
        }
        fs::create_dir(into)?;
        let mut placed = HashMap::new();
        state.build(&view, Path::new(""), into, policy, &mut random, &mut placed)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// A path as directory and name from the root. The file itself need not exist; its directory must, unless it is on the way to be made.
    fn locate(&self, path: &Path) -> io::Result<(PathBuf, OsString)> {
        let outside = || io::Error::new(ErrorKind::InvalidInput, format!("{} is not in the simulated disk", path.display()));
        let (parent, name) = (path.parent().ok_or_else(outside)?, path.file_name().ok_or_else(outside)?);
        let parent = match fs::canonicalize(parent) {
            Err(cause) if cause.kind() == ErrorKind::NotFound => parent.to_path_buf(),
            found => found?,
        };
        let directory = parent.strip_prefix(&self.root).map_err(|_| outside())?;
        Ok((directory.to_path_buf(), name.to_os_string()))
    }

    /// A directory from the root; the root itself is the empty path.
    fn locate_directory(&self, path: &Path) -> io::Result<PathBuf> {
        // A held directory is named by its descriptor.
        let path = fs::canonicalize(path)?;
        if path == self.root {
            return Ok(PathBuf::new());
        }
        let (directory, name) = self.locate(&path)?;
        Ok(directory.join(name))
    }

    /// A step that moves or links one name to another.
    fn two_names(&self, verb: &str, from: &Path, to: &Path, perform: fn(&Path, &Path) -> io::Result<()>) -> io::Result<()> {
        let (from, to) = (self.locate(from)?, self.locate(to)?);
        let mut state = self.lock();
        state.step(|| format!("{verb} {} {}", show(&from), show(&to)))?;
        let old = state.adopt(&self.root, &from, self.unsynced)?;
        let replaced = state.adopt(&self.root, &to, self.unsynced)?;
        assert_ne!(old, Some(Node::Directory), "directories are not renamed");
        perform(&self.root.join(&from.0).join(&from.1), &self.root.join(&to.0).join(&to.1))?;
        if old == replaced {
            return Ok(()); // Two names of one file: rename(2) does nothing.
        }
        let mut effects = vec![Effect { directory: to.0, name: to.1, node: old }];
        if verb != "link" {
            effects.push(Effect { directory: from.0, name: from.1, node: None });
        }
        state.pending.push(effects);
        Ok(())
    }
}

fn show((directory, name): &(PathBuf, OsString)) -> String {
    directory.join(name).display().to_string()
}

impl Disk for CrashDisk {
    fn create(&self, path: &Path, parts: &[&[u8]], mode: u32) -> io::Result<()> {
        let place = self.locate(path)?;
        let full = self.root.join(&place.0).join(&place.1);
        let (mut file, id) = {
            let mut state = self.lock();
            state.step(|| format!("create {}", show(&place)))?;
            let file = File::options().write(true).create_new(true).mode(mode).open(&full)?;
            let id = state.keep(&full, false)?;
            state.pending.push(vec![Effect { directory: place.0.clone(), name: place.1.clone(), node: Some(Node::File(id)) }]);
            (file, id)
        };
        for (number, part) in parts.iter().enumerate() {
            let mut state = self.lock();
            let allowed = state.step(|| format!("write {} part {number}", show(&place)));
            // What interrupts a write does so in the middle.
            let count = if allowed.is_ok() { part.len() } else { part.len() / 2 };
            file.write_all(&part[..count])?;
            allowed?;
        }
        let mut state = self.lock();
        state.step(|| format!("sync {}", show(&place)))?;
        state.synced[id] = true;
        Ok(())
    }

    /// One step: neither contents nor name are durable.
    fn create_new(&self, path: &Path, mode: u32) -> io::Result<File> {
        let place = self.locate(path)?;
        let full = self.root.join(&place.0).join(&place.1);
        let mut state = self.lock();
        state.step(|| format!("create-new {}", show(&place)))?;
        let file = File::options().read(true).write(true).create_new(true).mode(mode).open(&full)?;
        let id = state.keep(&full, false)?;
        state.pending.push(vec![Effect { directory: place.0.clone(), name: place.1.clone(), node: Some(Node::File(id)) }]);
        Ok(file)
    }

    fn can_sync_filesystem(&self, _dir: &File) -> bool {
        true
    }

    /// Everything that this disk made is durable.
    fn sync_filesystem(&self, _dir: &File, path: &Path) -> io::Result<()> {
        let directory = self.locate_directory(path)?;
        let mut state = self.lock();
        state.step(|| format!("syncfs {}", directory.display()))?;
        let State { pending, durable, synced, .. } = &mut *state;
        pending.drain(..).flatten().for_each(|effect| effect.apply(durable));
        synced.fill(true);
        Ok(())
    }

    fn sync_file(&self, file: &File, path: &Path) -> io::Result<()> {
        let place = self.locate(path)?;
        let mut state = self.lock();
        state.step(|| format!("sync {}", show(&place)))?;
        state.adopt(&self.root, &place, self.unsynced)?;
        let found = file.metadata()?;
        // By the open file, not by its name: that may stand for another one by now.
        if let Some(&id) = state.by_inode.get(&(found.dev(), found.ino())) {
            state.synced[id] = true;
        }
        Ok(())
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        let directory = self.locate_directory(path)?;
        let mut state = self.lock();
        state.step(|| format!("syncdir {}", directory.display()))?;
        let State { pending, durable, .. } = &mut *state;
        for effects in pending.iter_mut() {
            effects.extract_if(.., |effect| effect.directory == directory).for_each(|effect| effect.apply(durable));
        }
        pending.retain(|effects| !effects.is_empty());
        Ok(())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.two_names("rename", from, to, |from, to| RealDisk.rename(from, to))
    }

    fn hard_link(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.two_names("link", from, to, |from, to| RealDisk.hard_link(from, to))
    }

    fn rename_new(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.two_names("rename-new", from, to, |from, to| RealDisk.rename_new(from, to))
    }

    /// The model has none. Callers do without it, as on file systems that cannot do it.
    fn exchange(&self, one: &Path, other: &Path) -> io::Result<()> {
        let (one, other) = (self.locate(one)?, self.locate(other)?);
        self.lock().step(|| format!("exchange {} {}", show(&one), show(&other)))?;
        Err(ErrorKind::Unsupported.into())
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        let place = self.locate(path)?;
        let mut state = self.lock();
        state.step(|| format!("remove {}", show(&place)))?;
        state.adopt(&self.root, &place, self.unsynced)?;
        fs::remove_file(self.root.join(&place.0).join(&place.1))?;
        state.pending.push(vec![Effect { directory: place.0, name: place.1, node: None }]);
        Ok(())
    }

    /// One step for each directory that is not there, or one in all.
    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        let mut missing: Vec<&Path> = path.ancestors().take_while(|path| !path.is_dir()).collect();
        if missing.is_empty() {
            return self.lock().step(|| format!("mkdir {} (there)", path.display()));
        }
        while let Some(path) = missing.pop() {
            let place = self.locate(path)?;
            let mut state = self.lock();
            state.step(|| format!("mkdir {}", show(&place)))?;
            match fs::DirBuilder::new().mode(0o700).create(path) {
                Err(cause) if cause.kind() == ErrorKind::AlreadyExists && path.is_dir() => continue,
                made => made?,
            }
            state.durable.insert(place.0.join(&place.1), BTreeMap::new());
            state.pending.push(vec![Effect { directory: place.0, name: place.1, node: Some(Node::Directory) }]);
        }
        Ok(())
    }
}

impl Effect {
    fn apply(&self, view: &mut BTreeMap<PathBuf, BTreeMap<OsString, Node>>) {
        let names = view.entry(self.directory.clone()).or_default();
        match self.node {
            Some(node) => names.insert(self.name.clone(), node),
            None => names.remove(&self.name),
        };
    }
}

impl State {
    /// Counts one step; an error if it is not to be performed.
    fn step(&mut self, what: impl FnOnce() -> String) -> io::Result<()> {
        let step = self.trace.len() as u64;
        self.trace.push(what());
        self.off |= self.power_off_at.is_some_and(|at| step >= at);
        if self.off {
            return Err(io::Error::other("the power is off"));
        }
        match self.fail_at {
            Some((at, kind)) if at == step => Err(kind.into()),
            _ => Ok(()),
        }
    }

    /// Knows a file from now on.
    fn keep(&mut self, full: &Path, synced: bool) -> io::Result<usize> {
        let id = self.synced.len();
        fs::hard_link(full, self.vault.path().join(id.to_string()))?;
        let found = fs::symlink_metadata(full)?;
        self.by_inode.insert((found.dev(), found.ino()), id);
        self.synced.push(synced);
        Ok(id)
    }

    /// What a name stands for at this moment according to the model.
    fn current(&self, directory: &Path, name: &OsStr) -> Option<Node> {
        let last = self.pending.iter().flatten().rfind(|effect| effect.directory == directory && effect.name == name);
        last.map_or_else(|| self.durable.get(directory)?.get(name).copied(), |effect| effect.node)
    }

    /// Looks what a name really stands for; what others changed is durable.
    fn adopt(&mut self, root: &Path, (directory, name): &(PathBuf, OsString), unsynced: fn(&Path) -> bool) -> io::Result<Option<Node>> {
        let path = directory.join(name);
        let full = root.join(&path);
        let real = match fs::symlink_metadata(&full) {
            Ok(found) if found.is_dir() => Some(Node::Directory),
            Ok(found) if found.is_file() => match self.by_inode.get(&(found.dev(), found.ino())) {
                Some(&id) => Some(Node::File(id)),
                None => Some(Node::File(self.keep(&full, !unsynced(&path))?)),
            },
            Ok(_) => None,
            Err(cause) if cause.kind() == ErrorKind::NotFound => None,
            Err(cause) => return Err(cause),
        };
        if real != self.current(directory, name) {
            for effects in &mut self.pending {
                effects.retain(|effect| effect.directory != *directory || effect.name != *name);
            }
            self.pending.retain(|effects| !effects.is_empty());
            Effect { directory: directory.clone(), name: name.clone(), node: real }.apply(&mut self.durable);
        }
        if real == Some(Node::Directory) {
            self.durable.entry(path).or_default();
        }
        Ok(real)
    }

    /// [`State::adopt`] for every name in a directory and below.
    fn adopt_tree(&mut self, root: &Path, directory: &Path, unsynced: fn(&Path) -> bool) -> io::Result<()> {
        let real = match fs::read_dir(root.join(directory)) {
            Err(cause) if cause.kind() == ErrorKind::NotFound => return Ok(()),
            entries => entries?.map(|entry| Ok(entry?.file_name())).collect::<io::Result<BTreeSet<_>>>()?,
        };
        let known = self.durable.get(directory).into_iter().flat_map(BTreeMap::keys);
        let pending = self.pending.iter().flatten().filter(|effect| effect.directory == directory).map(|effect| &effect.name);
        let names: BTreeSet<OsString> = known.chain(pending).cloned().chain(real).collect();
        for name in names {
            if self.adopt(root, &(directory.to_path_buf(), name.clone()), unsynced)? == Some(Node::Directory) {
                self.adopt_tree(root, &directory.join(name), unsynced)?;
            }
        }
        Ok(())
    }

    fn build(
        &self,
        view: &BTreeMap<PathBuf, BTreeMap<OsString, Node>>,
        directory: &Path,
        into: &Path,
        policy: Policy,
        random: &mut Random,
        placed: &mut HashMap<usize, PathBuf>,
    ) -> io::Result<()> {
        for (name, node) in view.get(directory).into_iter().flatten() {
            let (path, target) = (directory.join(name), into.join(name));
            match *node {
                Node::Directory => {
                    fs::create_dir(&target)?;
                    self.build(view, &path, &target, policy, random, placed)?;
                }
                Node::File(id) => match placed.get(&id) {
                    Some(first) => fs::hard_link(first, &target)?,
                    None => {
                        self.build_file(id, &target, policy, random)?;
                        placed.insert(id, target);
                    }
                },
            }
        }
        Ok(())
    }

    fn build_file(&self, id: usize, target: &Path, policy: Policy, random: &mut Random) -> io::Result<()> {
        let kept = self.vault.path().join(id.to_string());
        fs::copy(&kept, target)?;
        if !self.synced[id] {
            let whole = fs::read(&kept)?;
            fs::write(target, random.damage(whole, policy))?;
        }
        Ok(())
    }
}

/// SplitMix64 (Steele, Lea, Flood 2014): small, and equal everywhere.
struct Random(u64);

impl Random {
    fn new(policy: Policy) -> Self {
        Self(if let Policy::Random(seed) = policy { seed } else { 0 })
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn keeps(&mut self, policy: Policy) -> bool {
        match policy {
            Policy::LoseAll => false,
            Policy::KeepAll => true,
            Policy::Random(_) => self.next() & 1 == 1,
        }
    }

    /// Contents that were never synced, as they could come back.
    fn damage(&mut self, mut whole: Vec<u8>, policy: Policy) -> Vec<u8> {
        let choice = match policy {
            Policy::LoseAll => 1,
            Policy::KeepAll => 0,
            Policy::Random(_) => self.next() % 4,
        };
        let cut = (self.next() % (whole.len() as u64 + 1)) as usize;
        match choice {
            0 => {}
            1 => whole.clear(),
            2 => whole.truncate(cut),
            _ => whole[cut..].iter_mut().for_each(|byte| *byte = self.next() as u8),
        }
        whole
    }
}
