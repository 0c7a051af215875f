//! Connections to databases in directories that are held open (see `beneath.rs`).
//!
//! SQLite opens a database and everything beside it by path, and first resolves all links in the path: so `/proc/self/fd/N/NAME` would become the
//! directory's path again, which somebody may have turned elsewhere. Here it gets a VFS that is its own "unix" one but for three things:
//!
//! - A path below a held directory stays as it is. So the database, its `-wal`, `-journal` and `-shm` are all opened in the directory that is held.
//!   As the directory is the same one, they are the files that other processes use. SQLite itself follows no link in the last name.
//! - What is there and no regular file is not opened: a FIFO would be waited for.
//! - Regions of the `-shm` that SQLite maps are noted (see `cut.rs`).

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

/// SQLite's own VFS, which does everything else.
const UNIX: &CStr = c"unix";

/// A connection to a database in a directory, which stays open as long: SQLite opens further files there at any time.
pub(crate) struct HeldConnection {
    // Before the directory in the order of dropping.
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

/// Opens a database by a path that [`Dir::at`] gave, and makes sure that it is the file that the caller has open: another one may have taken its name.
pub(crate) fn open_same(dir: Arc<Dir>, path: &Path, file: &File, flags: OpenFlags) -> rusqlite::Result<HeldConnection> {
    let cannot = || rusqlite::Error::SqliteFailure(ffi::Error::new(ffi::SQLITE_CANTOPEN), Some("another file took its name".to_owned()));
    let found = file.metadata().map_err(|_| cannot())?;
    let conn = open(path, flags)?;
    // SQLite does not say what it has opened. It has a descriptor of the file besides the caller's, if it is the same.
    match open_here((found.dev(), found.ino())) {
        Some(count) if count < 2 => Err(cannot()),
        _ => Ok(HeldConnection { conn, _dir: dir }),
    }
}

/// Opens a database by a path or a URI. If [`Dir::at`] gave the path, the caller holds the directory as long as the connection.
pub(crate) fn open(path: &Path, flags: OpenFlags) -> rusqlite::Result<Connection> {
    static REGISTERED: OnceLock<c_int> = OnceLock::new();
    match *REGISTERED.get_or_init(register) {
        ffi::SQLITE_OK => Connection::open_with_flags_and_vfs(path, flags, NAME),
        code => Err(rusqlite::Error::SqliteFailure(ffi::Error::new(code), None)),
    }
}

fn register() -> c_int {
    // SAFETY: the name ends with a zero byte; SQLite initialises itself here.
    let unix = unsafe { ffi::sqlite3_vfs_find(UNIX.as_ptr()) };
    if unix.is_null() {
        return ffi::SQLITE_ERROR;
    }
    // SAFETY: SQLite's own VFS is a constant of the program, and plain data: its functions get the VFS as an argument, and of that use only the fields
    // that the copy has too.
    let mut vfs = unsafe { *unix };
    vfs.pNext = std::ptr::null_mut();
    vfs.zName = NAME.as_ptr();
    vfs.xFullPathname = Some(full_path);
    vfs.xOpen = Some(open_regular);
    // SAFETY: leaked, so it lives as long as SQLite may use it. It does not become the default.
    unsafe { ffi::sqlite3_vfs_register(Box::leak(Box::new(vfs)), 0) }
}

/// The text of a path from SQLite.
///
/// # Safety
/// `name` is null or ends with a zero byte, and stays as it is while the result is used.
unsafe fn path_of<'a>(name: *const c_char) -> Option<&'a Path> {
    // SAFETY: as the caller says.
    (!name.is_null()).then(|| Path::new(OsStr::from_bytes(unsafe { CStr::from_ptr(name) }.to_bytes())))
}

#[cfg(target_os = "linux")]
fn is_held(path: &Path) -> bool {
    path.as_os_str().as_bytes().starts_with(crate::fs::beneath::HELD.as_bytes())
}

/// Elsewhere held directories are reached by their paths.
#[cfg(not(target_os = "linux"))]
fn is_held(_path: &Path) -> bool {
    false
}

/// The full path of a name, as xFullPathname of a VFS.
///
/// # Safety
/// SQLite's: `name` ends with a zero byte, and there is room for `len` bytes at `out`.
unsafe extern "C" fn full_path(vfs: *mut ffi::sqlite3_vfs, name: *const c_char, len: c_int, out: *mut c_char) -> c_int {
    // SAFETY: SQLite's promise on `name`.
    if let Some(path) = unsafe { path_of(name) }.filter(|path| is_held(path)) {
        let bytes = path.as_os_str().as_bytes();
        if usize::try_from(len).is_ok_and(|len| bytes.len() < len) {
            // SAFETY: both are at least that long, the zero byte included, and SQLite gives two buffers.
            unsafe { std::ptr::copy_nonoverlapping(name, out, bytes.len() + 1) };
            return ffi::SQLITE_OK;
        }
        return ffi::SQLITE_CANTOPEN;
    }
    // SAFETY: the arguments are passed on as they came; see `register` on the VFS.
    unsafe { ffi::sqlite3_vfs_find(UNIX.as_ptr()).as_ref().and_then(|unix| unix.xFullPathname) }
        .map_or(ffi::SQLITE_ERROR, |call| unsafe { call(vfs, name, len, out) })
}

/// Opens a file, as xOpen of a VFS.
///
/// # Safety
/// SQLite's: `name` is null or ends with a zero byte, `file` has room for a file of the "unix" VFS.
unsafe extern "C" fn open_regular(
    vfs: *mut ffi::sqlite3_vfs,
    name: ffi::sqlite3_filename,
    file: *mut ffi::sqlite3_file,
    flags: c_int,
    out_flags: *mut c_int,
) -> c_int {
    // SAFETY: SQLite's promise on `name`.
    let path = unsafe { path_of(name) };
    let is_other = |path: &Path| std::fs::symlink_metadata(path).is_ok_and(|found| !found.is_file());
    // SAFETY: as in `full_path`.
    let unix = unsafe { ffi::sqlite3_vfs_find(UNIX.as_ptr()).as_ref().and_then(|unix| unix.xOpen) };
    match unix {
        Some(call) if !path.is_some_and(is_other) => {
            // SAFETY: the arguments are passed on as they came.
            let code = unsafe { call(vfs, name, file, flags, out_flags) };
            if code == ffi::SQLITE_OK {
                // SAFETY: it was just opened, by that VFS.
                unsafe { cut::watch(file) };
            }
            code
        }
        _ => {
            // SAFETY: SQLite gives room for a file; no methods say that it is not open.
            unsafe { (*file).pMethods = std::ptr::null() };
            ffi::SQLITE_CANTOPEN
        }
    }
}
