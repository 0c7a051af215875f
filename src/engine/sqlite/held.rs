//! Opens connections to databases in directories that are held open (see `beneath.rs`), so that nobody can turn a path
//! elsewhere.
//!
//! SQLite opens a database and its side files by path, and first resolves all links in the path. So
//! `/proc/self/fd/N/NAME` would become the path of the directory again, and somebody may have replaced a part of that
//! path. Here SQLite gets a VFS that is its own "unix" VFS, except for three things:
//!
//! - A path below a held directory stays as it is. So the database, its `-wal`, `-journal` and `-shm` are all opened in
//!   the held directory. It is the same directory, so they are the files that other processes use. SQLite itself does
//!   not follow a link in the last name.
//! - Only regular files are opened. Opening a FIFO would wait for a writer.
//! - The regions of the `-shm` that SQLite maps are noted (see `cut.rs`).

use std::ffi::{CStr, OsStr, c_char, c_int};
use std::fs::File;
use std::ops::{Deref, DerefMut};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::{Arc, OnceLock};

use rusqlite::{Connection, OpenFlags, ffi};

use super::cut;
use crate::fs::beneath::{Dir, open_here};

/// The name of the VFS.
const NAME: &CStr = c"icecore";

/// The name of SQLite's own VFS, which does everything else.
const UNIX: &CStr = c"unix";

/// A connection to a database in a held directory. The directory stays open as long as the connection: SQLite may open
/// further files there at any time.
pub(crate) struct HeldConnection {
    // Fields are dropped in this order: the connection must be closed before the directory.
    conn: Connection,
    _dir: Arc<Dir>,
}

impl Deref for HeldConnection {
    type Target = Connection;

    fn deref(&self) -> &Connection {
        &self.conn
    }
}

impl DerefMut for HeldConnection {
    fn deref_mut(&mut self) -> &mut Connection {
        &mut self.conn
    }
}

/// Opens a database by a path from [`Dir::at`]. Fails if that is not the file that the caller has open: another one may
/// have taken its name.
pub(crate) fn open_same(dir: Arc<Dir>, path: &Path, file: &File, flags: OpenFlags) -> rusqlite::Result<HeldConnection> {
    let cannot = || rusqlite::Error::SqliteFailure(ffi::Error::new(ffi::SQLITE_CANTOPEN), Some("another file took its name".to_owned()));
    let found = file.metadata().map_err(|_| cannot())?;
    let conn = open(path, flags)?;
    // SQLite does not say which file it has opened. If it is the same file, this process now has two descriptors of it,
    // the caller's and SQLite's. `None`: that cannot be found out on this system.
    match open_here((found.dev(), found.ino())) {
        Some(count) if count < 2 => Err(cannot()),
        _ => Ok(HeldConnection { conn, _dir: dir }),
    }
}

/// Opens a database by a path or a URI. If the path is from [`Dir::at`], the caller must hold the directory as long as
/// the connection.
pub(crate) fn open(path: &Path, flags: OpenFlags) -> rusqlite::Result<Connection> {
    static REGISTERED: OnceLock<c_int> = OnceLock::new();
    match *REGISTERED.get_or_init(register) {
        ffi::SQLITE_OK => Connection::open_with_flags_and_vfs(path, flags, NAME),
        code => Err(rusqlite::Error::SqliteFailure(ffi::Error::new(code), None)),
    }
}

/// Registers the VFS; gives SQLite's result code.
fn register() -> c_int {
    // SAFETY: the name ends with a zero byte. SQLite initialises itself in this call.
    let unix = unsafe { ffi::sqlite3_vfs_find(UNIX.as_ptr()) };
    if unix.is_null() {
        return ffi::SQLITE_ERROR;
    }
    // SAFETY: SQLite's own VFS is a constant of the program and plain data. Its functions get the VFS as an argument
    // and use only fields that the copy has, too.
    let mut vfs = unsafe { *unix };
    vfs.pNext = std::ptr::null_mut();
    vfs.zName = NAME.as_ptr();
    vfs.xFullPathname = Some(full_path);
    vfs.xOpen = Some(open_regular);
    // SAFETY: the VFS is leaked, so it lives as long as SQLite may use it. It does not become the default VFS.
    unsafe { ffi::sqlite3_vfs_register(Box::leak(Box::new(vfs)), 0) }
}

/// The text of a path from SQLite.
///
/// # Safety
/// `name` is null or ends with a zero byte, and does not change while the result is used.
unsafe fn path_of<'a>(name: *const c_char) -> Option<&'a Path> {
    // SAFETY: the caller promises it.
    (!name.is_null()).then(|| Path::new(OsStr::from_bytes(unsafe { CStr::from_ptr(name) }.to_bytes())))
}

/// Whether a path leads into a held directory.
#[cfg(target_os = "linux")]
fn is_held(path: &Path) -> bool {
    path.as_os_str().as_bytes().starts_with(crate::fs::beneath::HELD.as_bytes())
}

/// On other systems held directories are reached by their ordinary paths.
#[cfg(not(target_os = "linux"))]
fn is_held(_path: &Path) -> bool {
    false
}

/// xFullPathname of the VFS: the full path of a name.
///
/// # Safety
/// Only SQLite calls it. It promises that `name` ends with a zero byte and that there is room for `len` bytes at `out`.
unsafe extern "C" fn full_path(vfs: *mut ffi::sqlite3_vfs, name: *const c_char, len: c_int, out: *mut c_char) -> c_int {
    // SAFETY: SQLite promises that `name` ends with a zero byte.
    if let Some(path) = unsafe { path_of(name) }.filter(|path| is_held(path)) {
        let bytes = path.as_os_str().as_bytes();
        if usize::try_from(len).is_ok_and(|len| bytes.len() < len) {
            // SAFETY: both buffers have at least that many bytes, the zero byte included, and SQLite gives two
            // different ones.
            unsafe { std::ptr::copy_nonoverlapping(name, out, bytes.len() + 1) };
            return ffi::SQLITE_OK;
        }
        return ffi::SQLITE_CANTOPEN;
    }
    // SAFETY: the arguments are passed on as they came; see `register` on the VFS.
    unsafe { ffi::sqlite3_vfs_find(UNIX.as_ptr()).as_ref().and_then(|unix| unix.xFullPathname) }
        .map_or(ffi::SQLITE_ERROR, |call| unsafe { call(vfs, name, len, out) })
}

/// xOpen of the VFS: opens a file.
///
/// # Safety
/// Only SQLite calls it. It promises that `name` is null or ends with a zero byte, and that `file` has room for a file
/// of the "unix" VFS.
unsafe extern "C" fn open_regular(
    vfs: *mut ffi::sqlite3_vfs,
    name: ffi::sqlite3_filename,
    file: *mut ffi::sqlite3_file,
    flags: c_int,
    out_flags: *mut c_int,
) -> c_int {
    // SAFETY: SQLite promises that `name` is null or ends with a zero byte.
    let path = unsafe { path_of(name) };
    let is_other = |path: &Path| std::fs::symlink_metadata(path).is_ok_and(|found| !found.is_file());
    // SAFETY: as in `full_path`.
    let unix = unsafe { ffi::sqlite3_vfs_find(UNIX.as_ptr()).as_ref().and_then(|unix| unix.xOpen) };
    match unix {
        Some(call) if !path.is_some_and(is_other) => {
            // SAFETY: the arguments are passed on as they came.
            let code = unsafe { call(vfs, name, file, flags, out_flags) };
            if code == ffi::SQLITE_OK {
                // SAFETY: the file was just opened, by the "unix" VFS.
                unsafe { cut::watch(file) };
            }
            code
        }
        _ => {
            // SAFETY: SQLite gives room for a file. A file without methods counts as not open.
            unsafe { (*file).pMethods = std::ptr::null() };
            ffi::SQLITE_CANTOPEN
        }
    }
}
