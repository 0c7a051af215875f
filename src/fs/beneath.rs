//! Directories that are held open, and names in them.
//!
//! Another user may exchange a directory of theirs for a symbolic link at any moment, so a path that was looked at is not the path that is used a
//! moment later. Here a directory is opened once; everything in it is then reached through its descriptor, as `/proc/self/fd/N/NAME`: the system goes
//! from that straight to the open directory, whatever its path leads to by now. So all calls that take a path, those of SQLite included, work on a
//! held directory as the `*at` calls would. What is left is the last name: it is opened without following links, and looked at after it was opened.
//!
//! | step | how it is safe |
//! |---|---|
//! | a path that the user gave | links are followed only if they belong to root or to the present user ([`Dir::find`]) |
//! | a directory below a held one | `openat2` with `RESOLVE_BENEATH` and `RESOLVE_NO_SYMLINKS`; where the system has no such call, part by part without following links ([`Dir::enter`]) |
//! | a name in a held one | [`Dir::at`], [`Dir::open_file`] |
//!
//! On systems without `/proc/self/fd` a held directory is reached by its path, and nothing is promised against other users who may write above it.

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

/// Symbolic links that are followed before a path is given up as a loop (Linux: 40, path_resolution(7)).
const LINKS_MAX: usize = 40;

/// Directories of one tree that are kept open for the next name in them.
const RECENT_MAX: usize = 64;

/// Held for names below it, not for reading: a directory that may not be listed can be used too.
#[cfg(target_os = "linux")]
const HOLD: OFlags = OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);
#[cfg(not(target_os = "linux"))]
const HOLD: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

/// How names below a held directory begin.
#[cfg(target_os = "linux")]
pub(crate) const HELD: &str = "/proc/self/fd/";

/// Directories that were made, each with the one that it is in.
pub(crate) type MadeDirs = Vec<(Arc<Dir>, OsString)>;

/// A directory that is held open.
#[derive(Debug)]
pub(crate) struct Dir {
    file: File,
    /// Leads to the open directory.
    itself: PathBuf,
    /// Its path when it was opened, without links: for messages.
    path: PathBuf,
}

impl Dir {
    /// Opens the directory of a path that the user gave. A symbolic link on the way is followed if it belongs to root or to the present user: others
    /// could turn theirs elsewhere at any moment.
    ///
    /// # Errors
    /// When there is no such directory, it cannot be used, or a link of somebody else is on the way.
    pub fn find(path: &Path) -> io::Result<Self> {
        #[cfg(target_os = "linux")]
        if let Ok(found) = rustix::fs::openat2(CWD, path, HOLD, Mode::empty(), rustix::fs::ResolveFlags::NO_SYMLINKS) {
            return Self::of(found);
        }
        Self::of(walk(path)?)
    }

    /// The same for a directory that is made with its parents if it is not there: gives what was made, the deepest last. Each part is made in the one before it, which is
    /// held, so that nobody can exchange it meanwhile.
    ///
    /// # Errors
    /// As [`Dir::find`].
    pub fn find_or_make(disk: &dyn Disk, path: &Path) -> io::Result<(Self, MadeDirs)> {
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

    /// Opens a directory below this one, by a relative path without `..`. No link is followed.
    ///
    /// # Errors
    /// As the system says; [`io::ErrorKind::NotADirectory`] or a loop for a link.
    pub fn enter(&self, below: &Path) -> io::Result<Self> {
        #[cfg(target_os = "linux")]
        {
            use rustix::fs::ResolveFlags;
            let inside = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
            match rustix::fs::openat2(&self.file, below, HOLD, Mode::empty(), inside) {
                // Linux before 5.6 has no such call, and some filters of system calls do not know it.
                Err(Errno::NOSYS | Errno::PERM | Errno::INVAL) => {}
                found => return Self::below(found?, &self.path, below),
            }
        }
        Self::below(self.enter_by_parts(below)?, &self.path, below)
    }

    /// The same one part after the other.
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

    /// Its path when it was opened, without links: for messages, not for use.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A path that leads to the open directory, as long as it is held.
    pub fn itself(&self) -> &Path {
        &self.itself
    }

    /// A path that leads to a name in the open directory, as long as it is held. The name itself may be a link.
    pub fn at(&self, name: impl AsRef<Path>) -> PathBuf {
        self.itself.join(name)
    }

    /// Holds the same directory once more.
    ///
    /// # Errors
    /// As the system says.
    pub fn again(&self) -> io::Result<Self> {
        let found = openat(&self.file, ".", HOLD, Mode::empty())?;
        Ok(Dir { path: self.path.clone(), ..Self::below(found, &self.path, Path::new("."))? })
    }

    /// Opens the directory for reading: for its names, its attributes and to make it durable.
    ///
    /// # Errors
    /// As the system says.
    pub fn open(&self) -> io::Result<File> {
        Ok(openat(&self.file, ".", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?.into())
    }

    /// What the system says of it.
    ///
    /// # Errors
    /// As the system says.
    pub fn metadata(&self) -> io::Result<Metadata> {
        self.file.metadata()
    }

    /// What has this name in it, itself, not what it may point to.
    ///
    /// # Errors
    /// As the system says.
    pub fn look(&self, name: &OsStr) -> io::Result<Metadata> {
        std::fs::symlink_metadata(self.at(name))
    }

    /// Opens a regular file in it for reading. A link is not followed, and nothing else is waited for.
    ///
    /// # Errors
    /// As the system says; [`io::ErrorKind::InvalidInput`] for what is no regular file.
    pub fn open_file(&self, name: &OsStr) -> io::Result<File> {
        open_regular(&self.file, Path::new(name), OFlags::RDONLY)
    }
}

/// Opens what has this path if it is a regular file; a link as the last name is not followed.
///
/// # Errors
/// As [`Dir::open_file`].
pub(crate) fn open_file(path: &Path) -> io::Result<File> {
    open_regular(CWD, path, OFlags::RDONLY)
}

/// The same for reading and writing.
///
/// # Errors
/// As [`Dir::open_file`].
pub(crate) fn open_file_to_write(path: &Path) -> io::Result<File> {
    open_regular(CWD, path, OFlags::RDWR)
}

fn open_regular(dir: impl AsFd, path: &Path, access: OFlags) -> io::Result<File> {
    // A FIFO would be waited for without NONBLOCK, and a terminal would become the process's own without NOCTTY.
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

/// Goes along a path part by part, through links that nobody else can have made.
fn walk(path: &Path) -> io::Result<OwnedFd> {
    let mut left: Vec<PathBuf> = parts_reversed(path);
    let mut dir = openat(CWD, ".", HOLD, Mode::empty())?;
    let mut links = 0;
    while let Some(part) = left.pop() {
        match openat(&dir, &part, HOLD | OFlags::NOFOLLOW, Mode::empty()) {
            Ok(next) => dir = next,
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

/// The parts of a path, `/` and `..` among them, the last one first.
fn parts_reversed(path: &Path) -> Vec<PathBuf> {
    path.components().rev().map(|part| PathBuf::from(part.as_os_str())).collect()
}

/// Where a link leads; `None` if it is no link.
fn read_link(dir: &OwnedFd, name: &Path) -> io::Result<Option<PathBuf>> {
    // By a descriptor where that can be: so the owner is that of the link that is read.
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

/// Refuses a directory that others can exchange, as they own it, or one above it, or may write there. These `users` may, too. For what programs have to reach by its path.
///
/// # Errors
/// [`io::ErrorKind::PermissionDenied`], naming the directory.
pub(crate) fn refuse_changeable(path: &Path, users: &[u32]) -> io::Result<()> {
    for dir in path.canonicalize()?.ancestors() {
        let found = std::fs::metadata(dir)?;
        let is_trusted = found.uid() == 0 || found.uid() == rustix::process::geteuid().as_raw() || users.contains(&found.uid());
        // In a directory with the sticky bit only owners rename.
        let is_open = found.mode() & 0o022 != 0 && found.mode() & 0o1000 == 0;
        if !is_trusted || is_open {
            let text = format!("other users can change {}", dir.display());
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, text));
        }
    }
    Ok(())
}

/// The directories below one, opened when they are needed; the last ones stay open.
#[derive(Debug)]
pub(crate) struct Dirs {
    root: Arc<Dir>,
    /// The last one used comes last.
    recent: Mutex<VecDeque<(PathBuf, Arc<Dir>)>>,
}

impl Dirs {
    /// Those below this one.
    pub fn new(root: Dir) -> Arc<Self> {
        Arc::new(Dirs { root: Arc::new(root), recent: Mutex::default() })
    }

    /// The one that all others are below.
    pub fn root(&self) -> &Arc<Dir> {
        &self.root
    }

    /// The one with this relative path; the root's is empty.
    ///
    /// # Errors
    /// As [`Dir::enter`].
    pub fn get(&self, below: &Path) -> io::Result<Arc<Dir>> {
        if below.as_os_str().is_empty() {
            return Ok(Arc::clone(&self.root));
        }
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        // By their bytes: comparing paths part by part takes longer.
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

/// How many descriptors of this process are open on a file; `None` where the system does not say.
pub(crate) fn open_here(id: (u64, u64)) -> Option<usize> {
    let open = std::fs::read_dir("/proc/self/fd").ok()?;
    let same = |entry: &std::fs::DirEntry| std::fs::metadata(entry.path()).is_ok_and(|found| (found.dev(), found.ino()) == id);
    Some(open.flatten().filter(same).count())
}
