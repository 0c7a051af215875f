//! A repository in a local directory.
//!
//! | object | path |
//! |---|---|
//! | configuration, its replica | `config`, `config.copy` |
//! | key record, its replica | `keys/<id>`, `keys/<id>.copy` |
//! | pack | `packs/<first two hex digits>/<id>` |
//! | pending record, snapshot record | `pending/<source>-<id>`, `snapshots/<source>-<id>` |
//! | mark on a snapshot | `marks/<snapshot>/<id>` |
//! | record of a forgotten snapshot | `forgotten/<id>` |
//! | tombstone | `tombstones/<id>` |
//! | journal entry | `log/<time, 19 decimal digits>-<id>` |
//! | object that a repair has set aside | `quarantine/<word>-<id>-<content>` |
//!
//! An object gets its name only after its bytes are durable: temporary file in the same directory, fsync, rename or link, fsync of the
//! directory. So a name never stands for a part of an object. There are no locks that a dead process could leave behind.

mod files;
mod names;
mod unfinished;

use std::fs;
use std::io::{self, ErrorKind};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::error::{Error, Result};
use crate::fs::disk::Disk;
use crate::id::{PackId, random_hex};
use crate::store::backend::{Backend, FORMAT_PAGE_NAME, ObjectInfo, ObjectKey, ObjectKind, Replica, Unfinished, WriteMode};

use self::files::{Look, objects_of, read_file};
use self::names::{directory_name, file_name, is_directory_name, shard_name};

/// The directories of a repository, each for one kind of object.
const DIRECTORIES: [&str; 9] = ["forgotten", "keys", "log", "marks", "packs", "pending", "quarantine", "snapshots", "tombstones"];

/// The start of the names of files that are still being written. No object has such a name.
const TEMPORARY: &str = ".tmp-";

/// Permission bits of every file. A repository belongs to its owner alone, whether it is encrypted or not.
const FILE_MODE: u32 = 0o600;

/// How often an object is written at most, if its temporary file vanishes before it gets its name.
const PLACE_TRIES: usize = 3;

/// Directories below `packs`: one for each first byte of a pack's id.
const SHARDS: usize = 256;

/// A repository in a directory. Its file system must have POSIX renames. Every change goes through a [`Disk`]; reads do not.
#[derive(Debug)]
pub struct LocalBackend {
    root: PathBuf,
    disk: Arc<dyn Disk>,
    /// The directories below `packs` that this process has seen become durable. It is not enough that one is there: another process may
    /// have made it a moment ago.
    durable_shards: Box<[AtomicBool]>,
}

impl LocalBackend {
    /// Makes the directories of a repository at `path`, with its parents, durably. For [`LocalBackend::open`] the repository exists only after its
    /// configuration was written.
    ///
    /// If an earlier call was interrupted, this completes it. A repository that is there already stays as it is: writing the configuration
    /// ([`WriteMode::CreateNew`]) decides who makes a repository.
    ///
    /// # Errors
    /// [`Error::Destination`] if `path` is not a directory, or holds other things and no repository; [`Error::Backend`] if it cannot be made.
    pub fn create(path: &Path, disk: Arc<dyn Disk>) -> Result<Self> {
        let wanted = std::path::absolute(path).map_err(failed("read", path))?;
        refuse_foreign(&wanted)?;
        let missing = wanted.ancestors().skip(1).take_while(|parent| !parent.exists()).count();
        disk.create_dir_all(&wanted).map_err(failed("write", &wanted))?;
        for name in DIRECTORIES {
            let directory = wanted.join(name);
            disk.create_dir_all(&directory).map_err(failed("write", &directory))?;
        }
        // From the bottom up. The last one is a parent that was there before and now has a new entry.
        for directory in wanted.ancestors().take(missing + 2) {
            disk.sync_dir(directory).map_err(failed("sync", directory))?;
        }
        let root = fs::canonicalize(&wanted).map_err(failed("read", &wanted))?;
        Ok(Self::at(root, disk))
    }

    /// Opens the repository at `path`.
    ///
    /// Missing directories are made again, because some copying tools leave out empty ones. If that fails, as on read-only media, they
    /// count as empty, and the repository can be read.
    ///
    /// # Errors
    /// [`Error::NoRepository`] if there is neither a configuration nor its replica; [`Error::Backend`] if that cannot be found out.
    pub fn open(path: &Path, disk: Arc<dyn Disk>) -> Result<Self> {
        let root = match fs::canonicalize(path) {
            Err(cause) if is_absent(&cause) => return Err(Error::NoRepository { location: path.display().to_string() }),
            canonical => canonical.map_err(failed("read", path))?,
        };
        if !has_configuration(&root).map_err(failed("read", &root))? {
            return Err(Error::NoRepository { location: root.display().to_string() });
        }
        let missing: Vec<PathBuf> = DIRECTORIES.iter().map(|name| root.join(name)).filter(|path| !path.exists()).collect();
        if !missing.is_empty() {
            // A failure is not reported here. A write that needs such a directory fails with the cause.
            let _ = missing.iter().try_for_each(|directory| disk.create_dir_all(directory)).and_then(|()| disk.sync_dir(&root));
        }
        Ok(Self::at(root, disk))
    }

    fn at(root: PathBuf, disk: Arc<dyn Disk>) -> Self {
        let durable_shards = (0..SHARDS).map(|_| AtomicBool::new(false)).collect();
        Self { root, disk, durable_shards }
    }

    /// The directory of an object.
    fn directory_of(&self, key: &ObjectKey) -> PathBuf {
        match key {
            ObjectKey::Config(_) => self.root.clone(),
            ObjectKey::Pack(id) => self.root.join("packs").join(shard_name(id)),
            ObjectKey::Mark { snapshot, .. } => self.root.join("marks").join(snapshot.to_string()),
            ObjectKey::Key(..)
            | ObjectKey::Pending { .. }
            | ObjectKey::Snapshot { .. }
            | ObjectKey::Forgotten(_)
            | ObjectKey::Tombstone(_)
            | ObjectKey::Log { .. }
            | ObjectKey::Quarantined { .. } => self.root.join(directory_name(key.kind())),
        }
    }

    fn path_of(&self, key: &ObjectKey) -> PathBuf {
        self.directory_of(key).join(file_name(key))
    }

    /// Makes the directory of a pack, or makes sure that it is durable if another process has made it.
    fn prepare_shard(&self, id: &PackId) -> io::Result<()> {
        let packs = self.root.join("packs");
        let shard = packs.join(shard_name(id));
        let durable = id.0.first().and_then(|byte| self.durable_shards.get(usize::from(*byte)));
        if durable.is_some_and(|flag| flag.load(Ordering::Acquire)) && shard.is_dir() {
            return Ok(());
        }
        self.prepare_below(&packs, &shard)?;
        if let Some(flag) = durable {
            flag.store(true, Ordering::Release);
        }
        Ok(())
    }

    /// Makes a directory in a directory of the repository. It is durable afterwards, also if another process made it.
    fn prepare_below(&self, parent: &Path, directory: &Path) -> io::Result<()> {
        // Parents are not made. On a mount point whose disk has gone, that would start a repository in the wrong place.
        fs::metadata(parent)?;
        self.disk.create_dir_all(directory)?;
        self.disk.sync_dir(parent)
    }

    /// Gives the finished temporary file its name. A hard link fails if the name exists, so for new objects exactly one writer succeeds.
    fn put_in_place(&self, temporary: &Path, path: &Path, mode: WriteMode) -> io::Result<()> {
        match mode {
            WriteMode::Replace => self.disk.rename(temporary, path),
            WriteMode::CreateNew => match self.disk.hard_link(temporary, path) {
                Ok(()) => self.disk.remove_file(temporary),
                Err(cause) if is_unsupported(&cause) => self.move_in_place(temporary, path),
                Err(cause) => Err(cause),
            },
        }
    }

    /// [`LocalBackend::put_in_place`] for new objects on file systems without hard links. If there is no exclusive rename either, two writers of one
    /// name may both succeed at the same moment, and the later bytes stay. That is harmless for names that are a hash or a random number. For
    /// `config` it means that two first initialisations at the same moment are not noticed there.
    fn move_in_place(&self, temporary: &Path, path: &Path) -> io::Result<()> {
        match self.disk.rename_new(temporary, path) {
            Err(cause) if is_unsupported(&cause) => {
                if exists(path)? {
                    return Err(ErrorKind::AlreadyExists.into());
                }
                self.disk.rename(temporary, path)
            }
            result => result,
        }
    }

    /// Writes an object and returns its directory. The object's entry there is not on disk yet; the caller must sync the directory.
    fn place(&self, key: &ObjectKey, parts: &[&[u8]], mode: WriteMode) -> io::Result<PathBuf> {
        let path = self.path_of(key);
        if mode == WriteMode::CreateNew && exists(&path)? {
            return Err(ErrorKind::AlreadyExists.into());
        }
        let directory = self.directory_of(key);
        let mut tries = PLACE_TRIES;
        loop {
            tries -= 1;
            match self.try_to_place(key, &directory, &path, parts, mode) {
                // A prune has removed the temporary file, or the empty directory for it, as left by a killed process. It is written again.
                Err(cause) if cause.kind() == ErrorKind::NotFound && tries > 0 && self.root.is_dir() => {}
                placed => return placed.map(|()| directory),
            }
        }
    }

    fn try_to_place(&self, key: &ObjectKey, directory: &Path, path: &Path, parts: &[&[u8]], mode: WriteMode) -> io::Result<()> {
        match key {
            ObjectKey::Pack(id) => self.prepare_shard(id)?,
            ObjectKey::Mark { .. } => self.prepare_below(&self.root.join("marks"), directory)?,
            _ => {}
        }
        self.put_file(directory, path, parts, mode)
    }

    /// Writes a temporary file in the same directory, then gives it its name.
    fn put_file(&self, directory: &Path, path: &Path, parts: &[&[u8]], mode: WriteMode) -> io::Result<()> {
        let temporary = directory.join(temporary_name()?);
        let placed = self.disk.create(&temporary, parts, FILE_MODE).and_then(|()| self.put_in_place(&temporary, path, mode));
        if placed.is_err() {
            // The first failure is reported. A temporary file that cannot be removed is garbage.
            let _ = self.disk.remove_file(&temporary);
        }
        placed
    }

    /// Syncs these directories, each once.
    fn sync_directories(&self, mut directories: Vec<PathBuf>) -> Result<()> {
        directories.sort_unstable();
        directories.dedup();
        for directory in &directories {
            match self.disk.sync_dir(directory) {
                // Without the directory its objects are gone, too, and there is nothing to sync.
                Err(cause) if cause.kind() == ErrorKind::NotFound => {}
                synced => synced.map_err(failed("sync", directory))?,
            }
        }
        Ok(())
    }

    /// All objects of a kind.
    fn find(&self, kind: ObjectKind, look: Look) -> Result<Box<dyn Iterator<Item = Result<ObjectInfo>> + '_>> {
        let directory = match kind {
            ObjectKind::Config => self.root.clone(),
            _ => self.root.join(directory_name(kind)),
        };
        match kind {
            ObjectKind::Config => {
                let keys = [Replica::First, Replica::Second].map(ObjectKey::Config);
                Ok(Box::new(keys.into_iter().filter_map(|key| {
                    let found = self.stat(&key).transpose()?;
                    Some(found.map(|size| ObjectInfo { key, size }))
                })))
            }
            ObjectKind::Pack | ObjectKind::Mark => Ok(Box::new(self.list_below(kind, look).map_err(failed("list", &directory))?)),
            ObjectKind::Key
            | ObjectKind::Pending
            | ObjectKind::Snapshot
            | ObjectKind::Forgotten
            | ObjectKind::Tombstone
            | ObjectKind::Log
            | ObjectKind::Quarantined => {
                let entries = self.entries(&directory).map_err(failed("list", &directory))?;
                Ok(Box::new(entries.into_iter().flat_map(move |entries| objects_of(directory.clone(), entries, kind, look))))
            }
        }
    }

    /// All objects of a kind that has directories of its own below its directory.
    fn list_below(&self, kind: ObjectKind, look: Look) -> io::Result<impl Iterator<Item = Result<ObjectInfo>>> {
        let top = self.root.join(directory_name(kind));
        let directories = self.entries(&top)?.into_iter().flatten().filter_map(move |entry| match entry {
            Ok(entry) => is_directory_name(kind, entry.file_name().to_str()?).then(|| Ok(entry.path())),
            Err(cause) => Some(Err(failed("list", &top)(cause))),
        });
        Ok(directories.flat_map(move |directory| {
            let opened = directory.and_then(|path| match fs::read_dir(&path) {
                // It is a file, or a directory that has just been removed.
                Err(cause) if is_absent(&cause) => Ok(None),
                opened => opened.map(|entries| Some((path.clone(), entries))).map_err(failed("list", &path)),
            });
            // A directory that cannot be listed is an error in the listing. Left out, its objects would look deleted.
            let (objects, error) = match opened {
                Ok(objects) => (objects, None),
                Err(error) => (None, Some(Err(error))),
            };
            objects.into_iter().flat_map(move |(path, entries)| objects_of(path, entries, kind, look)).chain(error)
        }))
    }

    /// Opens a directory for listing; `None` if it is missing but the repository is there.
    fn entries(&self, directory: &Path) -> io::Result<Option<fs::ReadDir>> {
        match fs::read_dir(directory) {
            Ok(entries) => Ok(Some(entries)),
            // If the configuration is missing too, the disk has gone from under its mount point, and this must not look like an empty
            // repository. A link whose target is gone is not an empty directory either.
            Err(cause) if cause.kind() == ErrorKind::NotFound && !exists(directory)? && has_configuration(&self.root)? => Ok(None),
            Err(cause) => Err(cause),
        }
    }
}

impl Backend for LocalBackend {
    /// The canonical path. A path that is not UTF-8 is in Rust's escaped form, so that two places never have the same name.
    fn location(&self) -> String {
        self.root.to_str().map_or_else(|| format!("{:?}", self.root), str::to_owned)
    }

    fn list(&self, kind: ObjectKind) -> Result<Box<dyn Iterator<Item = Result<ObjectInfo>> + '_>> {
        self.find(kind, Look::Size)
    }

    fn names(&self, kind: ObjectKind) -> Result<Box<dyn Iterator<Item = Result<ObjectKey>> + '_>> {
        Ok(Box::new(self.find(kind, Look::Type)?.map(|found| found.map(|found| found.key))))
    }

    fn stat(&self, key: &ObjectKey) -> Result<Option<u64>> {
        let path = self.path_of(key);
        match fs::symlink_metadata(&path) {
            Ok(found) => Ok(found.is_file().then_some(found.len())),
            Err(cause) if is_absent(&cause) => Ok(None),
            Err(cause) => Err(failed("read", &path)(cause)),
        }
    }

    fn read(&self, key: &ObjectKey, range: Option<Range<u64>>) -> Result<Vec<u8>> {
        let path = self.path_of(key);
        read_file(&path, range).map_err(failed("read", &path))
    }

    /// If only the last fsync fails, the object stays under its name, whole but perhaps not durable.
    fn write(&self, key: &ObjectKey, parts: &[&[u8]], mode: WriteMode) -> Result<()> {
        let placed = self.place(key, parts, mode);
        placed.and_then(|directory| self.disk.sync_dir(&directory)).map_err(failed("write", &self.path_of(key)))
    }

    fn write_all(&self, objects: &[(ObjectKey, Vec<u8>)], mode: WriteMode) -> Result<Vec<bool>> {
        let mut stored = Vec::with_capacity(objects.len());
        for (key, bytes) in objects {
            match self.place(key, &[bytes], mode) {
                Ok(_) => stored.push(true),
                Err(cause) if cause.kind() == ErrorKind::AlreadyExists => stored.push(false),
                Err(cause) => return Err(failed("write", &self.path_of(key))(cause)),
            }
        }
        // Also for objects that were there already: their writer may not have synced the directory yet.
        self.sync_directories(objects.iter().map(|(key, _)| self.directory_of(key)).collect())?;
        Ok(stored)
    }

    fn delete(&self, keys: &[ObjectKey]) -> Result<()> {
        for key in keys {
            let path = self.path_of(key);
            match self.disk.remove_file(&path) {
                Err(cause) if cause.kind() != ErrorKind::NotFound => return Err(failed("delete", &path)(cause)),
                _ => {}
            }
        }
        // Also for objects that were gone already: the process that removed them may not have synced the directory yet.
        self.sync_directories(keys.iter().map(|key| self.directory_of(key)).collect())
    }

    fn settle(&self, keys: &[ObjectKey]) -> Result<()> {
        let mut directories: Vec<PathBuf> = keys.iter().map(|key| self.directory_of(key)).collect();
        // Packs and marks lie one level deeper, so the entries of their own directories must be durable, too.
        let nested = keys.iter().map(ObjectKey::kind).filter(|kind| matches!(kind, ObjectKind::Pack | ObjectKind::Mark));
        directories.extend(nested.map(|kind| self.root.join(directory_name(kind))));
        self.sync_directories(directories)
    }

    fn leave_text(&self, name: &str, text: &str) -> Result<()> {
        let path = self.root.join(name);
        match self.put_file(&self.root, &path, &[text.as_bytes()], WriteMode::CreateNew) {
            Err(cause) if cause.kind() == ErrorKind::AlreadyExists => Ok(()),
            left => left.and_then(|()| self.disk.sync_dir(&self.root)).map_err(failed("write", &path)),
        }
    }

    fn unfinished(&self) -> Result<Unfinished> {
        self.count_unfinished().map_err(failed("list", &self.root))
    }

    fn remove_unfinished(&self, min_age: Duration) -> Result<Unfinished> {
        self.sweep_unfinished(min_age).map_err(failed("delete", &self.root))
    }
}

/// Turns a failure of an operation on a path into an error of the crate.
fn failed<'a>(operation: &'static str, path: &'a Path) -> impl Fn(io::Error) -> Error + 'a {
    move |cause| Error::backend(operation, path.display().to_string(), cause)
}

/// Whether nothing has this name: there is no such entry, something on the way is not a directory, or a link leads back to itself.
fn is_absent(cause: &io::Error) -> bool {
    matches!(cause.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory)
        || cause.raw_os_error() == Some(rustix::io::Errno::LOOP.raw_os_error())
}

/// Whether the file system lacks this operation. Linux says EPERM for a missing `link` (link(2)) and EINVAL for a missing flag of `renameat2`
/// (rename(2)). ENOTSUP and ENOSYS come from other systems.
fn is_unsupported(cause: &io::Error) -> bool {
    matches!(cause.kind(), ErrorKind::PermissionDenied | ErrorKind::Unsupported | ErrorKind::InvalidInput)
}

/// Whether anything has this name, even a dangling link.
fn exists(path: &Path) -> io::Result<bool> {
    match fs::symlink_metadata(path) {
        Ok(_) => Ok(true),
        Err(cause) if is_absent(&cause) => Ok(false),
        Err(cause) => Err(cause),
    }
}

fn has_configuration(root: &Path) -> io::Result<bool> {
    let [first, second] = [Replica::First, Replica::Second].map(|replica| root.join(file_name(&ObjectKey::Config(replica))));
    Ok(exists(&first)? || exists(&second)?)
}

/// Refuses a directory that cannot become a repository. It may if it is one, or holds only what an interrupted creation leaves. `lost+found` is in
/// the top directory of a fresh file system.
fn refuse_foreign(path: &Path) -> Result<()> {
    let entries = match fs::read_dir(path) {
        Err(cause) if cause.kind() == ErrorKind::NotFound => return Ok(()),
        Err(cause) if cause.kind() == ErrorKind::NotADirectory => {
            return Err(Error::destination(path, "is not a directory; choose another place for the repository"));
        }
        entries => entries.map_err(failed("list", path))?,
    };
    if has_configuration(path).map_err(failed("read", path))? {
        return Ok(());
    }
    for entry in entries {
        let name = entry.map_err(failed("list", path))?.file_name();
        let is_ours = |name: &str| DIRECTORIES.contains(&name) || name == FORMAT_PAGE_NAME || name.starts_with(TEMPORARY);
        let ours = name.to_str().is_some_and(|name| is_ours(name) || name == "lost+found");
        if !ours {
            let detail = format!("holds {name:?} but is not a repository; choose a new or an empty directory");
            return Err(Error::destination(path, detail));
        }
    }
    Ok(())
}

/// A name that no other writer uses. Two writers of one object must not meet before the final name decides between them.
fn temporary_name() -> io::Result<String> {
    Ok(format!("{TEMPORARY}{}-{}", std::process::id(), random_hex::<16>()?))
}
