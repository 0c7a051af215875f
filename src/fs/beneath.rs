//! Directories that are held open, and names in them.
//!
//! Another user may replace a directory of theirs with a symbolic link at any moment. So a path that was checked may
//! lead elsewhere when it is used. Here a directory is opened once, and everything in it is reached through its
//! descriptor, as `/proc/self/fd/N/NAME`. This path leads straight to the open directory, wherever the directory's own
//! path leads by now. So every call that takes a path, also those of SQLite, works like an `*at` call. Only the last
//! name can still be exchanged: it is opened without following links, and checked after it was opened.
//!
//! | step | why it is safe |
//! |---|---|
//! | a path that the user gave | links are followed only if they belong to root or to the present user ([`Dir::find`]) |
//! | a directory below a held one | `openat2` with `RESOLVE_BENEATH` and `RESOLVE_NO_SYMLINKS`; where the system has no such call, part by part without following links ([`Dir::enter`]) |
//! | a name in a held one | [`Dir::at`], [`Dir::open_file`] |
//!
//! On systems without `/proc/self/fd` a held directory is reached by its path. There is no protection there against
//! other users who may write above it.

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::fs::{File, Metadata};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::fs::{CWD, Mode, OFlags, openat, readlinkat};
use rustix::io::Errno;

use super::disk::Disk;

/// Most symbolic links in a path; more count as a loop (Linux: 40, path_resolution(7)).
const LINKS_MAX: usize = 40;

/// Most directories of one tree that are kept open for the next name in them.
const RECENT_MAX: usize = 64;

/// Opened only to reach names in it, not to read it. So directories that this user may not list can be used too.
#[cfg(target_os = "linux")]
const HOLD: OFlags = OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);
#[cfg(not(target_os = "linux"))]
const HOLD: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

/// The start of paths through a held directory.
#[cfg(target_os = "linux")]
pub(crate) const HELD: &str = "/proc/self/fd/";

/// Directories that were created: each with its parent directory and its name in that.
pub(crate) type MadeDirs = Vec<(Arc<Dir>, OsString)>;

/// A directory that is held open.
#[derive(Debug)]
pub(crate) struct Dir {
    file: File,
    /// The path through the descriptor.
    itself: PathBuf,
    /// Its path when it was opened, without links: for messages.
    path: PathBuf,
}

impl Dir {
    /// Opens the directory of a path that the user has given. A symbolic link in the path is followed only if it
    /// belongs to root or to this process's user: another user could change theirs at any moment.
    ///
    /// # Errors
    /// If there is no such directory, it cannot be used, or the path has a link of another user.
    pub fn find(path: &Path) -> io::Result<Self> {
        // Most paths have no links, and one call is enough.
        #[cfg(target_os = "linux")]
        if let Ok(found) = rustix::fs::openat2(CWD, path, HOLD, Mode::empty(), rustix::fs::ResolveFlags::NO_SYMLINKS) {
            return Self::of(found);
        }
        Self::of(walk(path)?)
    }

    /// Like [`Dir::find`], but creates the directory and its parents if they do not exist. Returns also what was
    /// created, the deepest last. Each part is created in the one before it, which is held, so no other user can
    /// replace it meanwhile.
    ///
    /// # Errors
    /// As [`Dir::find`].
    pub fn find_or_make(disk: &dyn Disk, path: &Path) -> io::Result<(Self, MadeDirs)> {
        // The nearest directory above that exists, and the names that are missing below it.
        let mut missing = Vec::new();
        let mut above: &Path = path;
        let mut dir = loop {
            match Dir::find(if above.as_os_str().is_empty() { Path::new(".") } else { above }) {
                Err(e) if e.kind() == io::ErrorKind::NotFound => {
                    missing.push(above.file_name().ok_or(e)?.to_os_string());
                    above = above.parent().unwrap_or(Path::new(""));
                }
                found => break found?,
            }
        };
        let mut made = Vec::new();
        while let Some(name) = missing.pop() {
            disk.create_dir_all(&dir.at(&name))?;
            let next = dir.enter(Path::new(&name))?;
            made.push((Arc::new(std::mem::replace(&mut dir, next)), name));
        }
        Ok((dir, made))
    }

    /// Opens a directory below this one, by a relative path without `..`. Links are not followed.
    ///
    /// # Errors
    /// The system's error; [`io::ErrorKind::NotADirectory`] or a loop for a link.
    pub fn enter(&self, below: &Path) -> io::Result<Self> {
        #[cfg(target_os = "linux")]
        {
            use rustix::fs::ResolveFlags;
            let inside = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
            match rustix::fs::openat2(&self.file, below, HOLD, Mode::empty(), inside) {
                // Linux before 5.6 does not have this call, and some filters of system calls refuse it.
                Err(Errno::NOSYS | Errno::PERM | Errno::INVAL) => {}
                found => return Self::below(found?, &self.path, below),
            }
        }
        Self::below(self.enter_by_parts(below)?, &self.path, below)
    }

    /// Like [`Dir::enter`], one part after the other.
    fn enter_by_parts(&self, below: &Path) -> io::Result<OwnedFd> {
        let mut dir: OwnedFd = self.file.try_clone()?.into();
        for part in below.components() {
            let Component::Normal(name) = part else { return Err(io::ErrorKind::InvalidInput.into()) };
            dir = openat(&dir, name, HOLD | OFlags::NOFOLLOW, Mode::empty())?;
        }
        Ok(dir)
    }

    #[cfg(target_os = "linux")]
    fn of(found: OwnedFd) -> io::Result<Self> {
        use std::os::fd::AsRawFd;
        let itself = PathBuf::from(format!("{HELD}{}", found.as_raw_fd()));
        let path = std::fs::read_link(&itself).map_err(|e| match e.kind() {
            io::ErrorKind::NotFound => {
                io::Error::other("/proc is not mounted, which is needed to hold directories (mount -t proc proc /proc)")
            }
            _ => e,
        })?;
        Ok(Dir { file: found.into(), itself, path })
    }

    #[cfg(target_os = "linux")]
    fn below(found: OwnedFd, above: &Path, below: &Path) -> io::Result<Self> {
        use std::os::fd::AsRawFd;
        let itself = PathBuf::from(format!("{HELD}{}", found.as_raw_fd()));
        Ok(Dir { file: found.into(), itself, path: above.join(below) })
    }

    #[cfg(not(target_os = "linux"))]
    fn of(found: OwnedFd) -> io::Result<Self> {
        let path = rustix::fs::getpath(&found)?;
        let path = PathBuf::from(OsString::from_vec(path.into_bytes()));
        Ok(Dir { file: found.into(), itself: path.clone(), path })
    }

    #[cfg(not(target_os = "linux"))]
    fn below(found: OwnedFd, above: &Path, below: &Path) -> io::Result<Self> {
        let path = above.join(below);
        Ok(Dir { file: found.into(), itself: path.clone(), path })
    }

    /// Its path when it was opened, without links. For messages only.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A path that leads to the open directory, as long as it is held.
    pub fn itself(&self) -> &Path {
        &self.itself
    }

    /// The path of a name in the open directory, as long as it is held. The name itself may be a link.
    pub fn at(&self, name: impl AsRef<Path>) -> PathBuf {
        self.itself.join(name)
    }

    /// A second descriptor of the same directory.
    ///
    /// # Errors
    /// The system's error.
    pub fn again(&self) -> io::Result<Self> {
        let found = openat(&self.file, ".", HOLD, Mode::empty())?;
        Ok(Dir { path: self.path.clone(), ..Self::below(found, &self.path, Path::new("."))? })
    }

    /// Opens the directory for reading: to list it, read its attributes or make it durable.
    ///
    /// # Errors
    /// The system's error.
    pub fn open(&self) -> io::Result<File> {
        Ok(openat(&self.file, ".", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?.into())
    }

    /// Its metadata.
    ///
    /// # Errors
    /// The system's error.
    pub fn metadata(&self) -> io::Result<Metadata> {
        self.file.metadata()
    }

    /// The metadata of the file or link with this name itself.
    ///
    /// # Errors
    /// The system's error.
    pub fn look(&self, name: &OsStr) -> io::Result<Metadata> {
        std::fs::symlink_metadata(self.at(name))
    }

    /// Opens a regular file in it for reading. Links are not followed, and a FIFO does not block.
    ///
    /// # Errors
    /// The system's error; [`io::ErrorKind::InvalidInput`] if it is not a regular file.
    pub fn open_file(&self, name: &OsStr) -> io::Result<File> {
        open_regular(&self.file, Path::new(name), OFlags::RDONLY)
    }
}

/// Opens a regular file for reading. A link as the last name is not followed.
///
/// # Errors
/// As [`Dir::open_file`].
pub(crate) fn open_file(path: &Path) -> io::Result<File> {
    open_regular(CWD, path, OFlags::RDONLY)
}

/// Opens a regular file for reading and writing. A link as the last name is not followed.
///
/// # Errors
/// As [`Dir::open_file`].
pub(crate) fn open_file_to_write(path: &Path) -> io::Result<File> {
    open_regular(CWD, path, OFlags::RDWR)
}

fn open_regular(dir: impl AsFd, path: &Path, access: OFlags) -> io::Result<File> {
    // Without NONBLOCK, opening a FIFO would block. Without NOCTTY, a terminal would become the controlling terminal of
    // this process.
    let flags = access | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file: File = match openat(dir, path, flags, Mode::empty()) {
        Err(Errno::LOOP) => return Err(no_regular_file("a symbolic link")),
        opened => opened?.into(),
    };
    match file.metadata()?.is_file() {
        true => Ok(file),
        false => Err(no_regular_file("something else")),
    }
}

fn no_regular_file(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, format!("is {what}, not a regular file"))
}

/// Follows a path part by part, through links that no other user can change.
fn walk(path: &Path) -> io::Result<OwnedFd> {
    let mut left: Vec<PathBuf> = parts_reversed(path);
    let mut dir = openat(CWD, ".", HOLD, Mode::empty())?;
    let mut links = 0;
    while let Some(part) = left.pop() {
        match openat(&dir, &part, HOLD | OFlags::NOFOLLOW, Mode::empty()) {
            Ok(next) => dir = next,
            // Not a directory: it may be a link, whose parts then come before the rest of the path.
            Err(e @ (Errno::NOTDIR | Errno::LOOP)) => {
                let link = read_link(&dir, &part)?.ok_or(e)?;
                links += 1;
                if links > LINKS_MAX {
                    return Err(Errno::LOOP.into());
                }
                left.extend(parts_reversed(&link));
            }
            Err(e) => return Err(e.into()),
        }
    }
    Ok(dir)
}

/// The parts of a path, with `/` and `..`, in reverse order.
fn parts_reversed(path: &Path) -> Vec<PathBuf> {
    path.components().rev().map(|part| PathBuf::from(part.as_os_str())).collect()
}

/// The target of a link; `None` if it is not a link.
fn read_link(dir: &OwnedFd, name: &Path) -> io::Result<Option<PathBuf>> {
    // Through a descriptor on Linux, so that the owner that is checked is the owner of the link that is read.
    #[cfg(target_os = "linux")]
    let (stat, read) = {
        let link = openat(dir, name, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
        (rustix::fs::fstat(&link)?, readlinkat(&link, "", Vec::new()))
    };
    #[cfg(not(target_os = "linux"))]
    let (stat, read) = (rustix::fs::statat(dir, name, rustix::fs::AtFlags::SYMLINK_NOFOLLOW)?, readlinkat(dir, name, Vec::new()));
    if rustix::fs::FileType::from_raw_mode(stat.st_mode) != rustix::fs::FileType::Symlink {
        return Ok(None);
    }
    if stat.st_uid != 0 && stat.st_uid != rustix::process::geteuid().as_raw() {
        let text = format!("{} is a symbolic link that belongs to another user; name the directory that it leads to", name.display());
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, text));
    }
    Ok(Some(PathBuf::from(OsString::from_vec(read?.into_bytes()))))
}

/// Refuses a directory that other users can replace, because they own it or a directory above, or may write there. The
/// owners in `users` are allowed too. For directories that programs have to reach by their path.
///
/// # Errors
/// [`io::ErrorKind::PermissionDenied`], naming the directory.
pub(crate) fn refuse_changeable(path: &Path, users: &[u32]) -> io::Result<()> {
    for dir in path.canonicalize()?.ancestors() {
        let found = std::fs::metadata(dir)?;
        let is_trusted = found.uid() == 0 || found.uid() == rustix::process::geteuid().as_raw() || users.contains(&found.uid());
        // In a directory with the sticky bit, only the owner of a name can rename it.
        let is_open = found.mode() & 0o022 != 0 && found.mode() & 0o1000 == 0;
        if !is_trusted || is_open {
            let text = format!("other users can change {}", dir.display());
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, text));
        }
    }
    Ok(())
}

/// The directories below one. They are opened when they are needed, and the last ones stay open.
#[derive(Debug)]
pub(crate) struct Dirs {
    root: Arc<Dir>,
    /// The last opened ones, the newest at the end.
    recent: Mutex<VecDeque<(PathBuf, Arc<Dir>)>>,
}

impl Dirs {
    /// The directories below this one.
    pub fn new(root: Dir) -> Arc<Self> {
        Arc::new(Dirs { root: Arc::new(root), recent: Mutex::default() })
    }

    /// The directory above all others.
    pub fn root(&self) -> &Arc<Dir> {
        &self.root
    }

    /// The directory with this relative path; an empty one is the root.
    ///
    /// # Errors
    /// As [`Dir::enter`].
    pub fn get(&self, below: &Path) -> io::Result<Arc<Dir>> {
        if below.as_os_str().is_empty() {
            return Ok(Arc::clone(&self.root));
        }
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        // Compared as bytes, which is faster than comparing paths part by part.
        if let Some((_, dir)) = recent.iter().rev().find(|(path, _)| path.as_os_str() == below.as_os_str()) {
            return Ok(Arc::clone(dir));
        }
        let dir = Arc::new(self.root.enter(below)?);
        if recent.len() == RECENT_MAX {
            recent.pop_front();
        }
        recent.push_back((below.to_path_buf(), Arc::clone(&dir)));
        Ok(dir)
    }
}

/// How many descriptors of this process are open on a file; `None` if the system has no list of them.
pub(crate) fn open_here(id: (u64, u64)) -> Option<usize> {
    let open = std::fs::read_dir("/proc/self/fd").ok()?;
    let same = |entry: &std::fs::DirEntry| std::fs::metadata(entry.path()).is_ok_and(|found| (found.dev(), found.ino()) == id);
    Some(open.flatten().filter(same).count())
}
