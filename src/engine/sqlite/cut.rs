//! Survives wal-indexes that are cut short while they are mapped.
//!
//! SQLite maps the `-shm` file beside a database. Other users may be able to write that file, and so to make it
//! shorter. The next access to a lost page then ends the process with SIGBUS (mmap(2)), and with it the backup of every
//! other database. A program can ask to survive this: the signal handler maps an empty page in place of the lost one
//! and counts it. The reader of the index checks the index and this count (`wal.rs`), so only that source fails.
//!
//! Only pages that SQLite has mapped as a wal-index are replaced. Any other bus error ends the process, as it does
//! without this module.

use std::ffi::{c_int, c_void};
use std::io;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use rusqlite::ffi;

/// The code for an address with no memory behind it (POSIX, `<signal.h>`).
const BUS_ADRERR: c_int = 2;
/// The most regions at a time. SQLite maps 32 KiB in each. Further regions are not guarded.
const REGIONS_MAX: usize = 4096;

/// A mapped region: its start, its length in bytes, and the file of SQLite that it belongs to. The slot is free if the
/// file is 0. The fields are atomics because a signal handler must not take locks.
struct Region {
    file: AtomicUsize,
    start: AtomicUsize,
    len: AtomicUsize,
}

static REGIONS: [Region; REGIONS_MAX] =
    [const { Region { file: AtomicUsize::new(0), start: AtomicUsize::new(0), len: AtomicUsize::new(0) } }; REGIONS_MAX];
/// Locked while the list is changed. The signal handler only reads the list, without this lock.
static CHANGING: Mutex<()> = Mutex::new(());
/// Pages that were replaced.
static CUTS: AtomicU64 = AtomicU64::new(0);
/// Bytes in a page of memory; 0 as long as the handler is not installed.
static PAGE_LEN: AtomicUsize = AtomicUsize::new(0);

/// How many pages of wal-indexes were lost in this process.
pub(super) fn cuts() -> u64 {
    CUTS.load(Ordering::SeqCst)
}

/// Lets this process survive wal-indexes that are cut short, by handling SIGBUS. A program calls it at its start. A
/// library must not take over signals by itself.
///
/// # Errors
/// If the system refuses to install the handler.
pub fn outlive_cut_indexes() -> io::Result<()> {
    // SAFETY: sysconf(3) only returns a number.
    let page_len = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    PAGE_LEN.store(usize::try_from(page_len).unwrap_or(0), Ordering::SeqCst);
    // SAFETY: zero bytes are a valid `sigaction`: no flags, an empty mask.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = on_bus_error as extern "C" fn(c_int, *mut libc::siginfo_t, *mut c_void) as usize;
    action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
    // SAFETY: the action is complete, and its function is one for SA_SIGINFO that calls nothing but what a handler may
    // call.
    match unsafe { libc::sigaction(libc::SIGBUS, &raw const action, std::ptr::null_mut()) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// The signal handler. It may only do what is safe inside a signal: read atomics and make system calls.
extern "C" fn on_bus_error(_signal: c_int, info: *mut libc::siginfo_t, _context: *mut c_void) {
    // SAFETY: the kernel passes the information that SA_SIGINFO asks for; for SIGBUS it contains an address.
    let (code, address) = unsafe { ((*info).si_code, (*info).si_addr() as usize) };
    let is_of = |region: &Region| {
        let (start, len) = (region.start.load(Ordering::SeqCst), region.len.load(Ordering::SeqCst));
        region.file.load(Ordering::SeqCst) != 0 && address.wrapping_sub(start) < len
    };
    let page_len = PAGE_LEN.load(Ordering::SeqCst);
    if code == BUS_ADRERR && page_len > 0 && REGIONS.iter().any(is_of) {
        let page = (address - address % page_len) as *mut c_void;
        // SAFETY: the page belongs to a region that SQLite has mapped and not yet unmapped, and nothing in it can be
        // read any more.
        let mapped = unsafe {
            libc::mmap(page, page_len, libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED, -1, 0)
        };
        // The handler returns to the access that failed, which now reads zeros.
        if mapped == page {
            CUTS.fetch_add(1, Ordering::SeqCst);
            return;
        }
    }
    // With the default action restored, the access fails again and ends the process, as if there were no handler.
    // SAFETY: signal(2) may be called in a signal handler.
    unsafe { libc::signal(libc::SIGBUS, libc::SIG_DFL) };
}

/// The table of methods of a watched file: a copy of SQLite's table with two methods replaced, and a pointer to the
/// original. SQLite sees only the first field, so the layout must be that of C.
#[repr(C)]
struct Watched {
    methods: ffi::sqlite3_io_methods,
    own: *const ffi::sqlite3_io_methods,
}

/// Watches the wal-index of a file that was just opened: notes the regions that SQLite maps of it.
///
/// # Safety
/// `file` was opened by the "unix" VFS, and nothing else uses it yet.
pub(super) unsafe fn watch(file: *mut ffi::sqlite3_file) {
    /// The tables that were made, each with the original before it. There are few: SQLite has one original for each
    /// kind of locking.
    static TABLES: Mutex<Vec<(usize, usize)>> = Mutex::new(Vec::new());
    // SAFETY: the caller passes an open file.
    let own = unsafe { (*file).pMethods };
    // SAFETY: the pointer is null or points to one of SQLite's tables.
    let Some(methods) = (unsafe { own.as_ref() }).filter(|methods| methods.iVersion >= 2 && methods.xShmMap.is_some()) else { return };
    let mut tables = TABLES.lock().unwrap_or_else(PoisonError::into_inner);
    let known = tables.iter().find(|(of, _)| *of == own as usize).map(|(_, table)| *table);
    let table = known.unwrap_or_else(|| {
        let mut watched = Watched { methods: *methods, own };
        watched.methods.xShmMap = Some(map);
        watched.methods.xShmUnmap = Some(unmap);
        // Leaked on purpose: SQLite may use it as long as the process lives.
        let table = std::ptr::from_ref(Box::leak(Box::new(watched))) as usize;
        tables.push((own as usize, table));
        table
    });
    // SAFETY: the table begins with methods for the same kind of file.
    unsafe { (*file).pMethods = table as *const ffi::sqlite3_io_methods };
}

/// SQLite's own methods of a watched file.
///
/// # Safety
/// The file is watched.
unsafe fn own_of<'a>(file: *mut ffi::sqlite3_file) -> Option<&'a ffi::sqlite3_io_methods> {
    // SAFETY: its table is a `Watched`. That and SQLite's own table live as long as the process.
    unsafe { (*(*file).pMethods.cast::<Watched>()).own.as_ref() }
}

/// xShmMap of a watched file: SQLite's own, and the region is noted.
///
/// # Safety
/// Only SQLite calls it, for a watched file.
unsafe extern "C" fn map(file: *mut ffi::sqlite3_file, region: c_int, len: c_int, extend: c_int, memory: *mut *mut c_void) -> c_int {
    // SAFETY: the arguments are passed on as they came.
    let code =
        unsafe { own_of(file).and_then(|own| own.xShmMap).map_or(ffi::SQLITE_ERROR, |call| call(file, region, len, extend, memory)) };
    // SAFETY: SQLite gives a valid place for the answer. The answer may be null.
    let start = unsafe { *memory } as usize;
    if matches!(code, ffi::SQLITE_OK | ffi::SQLITE_READONLY) && start != 0 {
        note(file as usize, start, usize::try_from(len).unwrap_or(0));
    }
    code
}

/// xShmUnmap of a watched file: its regions are no longer noted, then SQLite's own.
///
/// # Safety
/// Only SQLite calls it, for a watched file.
unsafe extern "C" fn unmap(file: *mut ffi::sqlite3_file, delete: c_int) -> c_int {
    // The regions go from the list first: afterwards other memory may get their addresses, and the handler must not
    // replace that.
    let _changing = CHANGING.lock().unwrap_or_else(PoisonError::into_inner);
    REGIONS
        .iter()
        .filter(|region| region.file.load(Ordering::SeqCst) == file as usize)
        .for_each(|region| region.file.store(0, Ordering::SeqCst));
    // SAFETY: the arguments are passed on as they came.
    unsafe { own_of(file).and_then(|own| own.xShmUnmap).map_or(ffi::SQLITE_ERROR, |call| call(file, delete)) }
}

/// Notes a region, unless it is noted already: SQLite asks for each region again and again.
fn note(file: usize, start: usize, len: usize) {
    let _changing = CHANGING.lock().unwrap_or_else(PoisonError::into_inner);
    let is = |region: &&Region| region.file.load(Ordering::SeqCst) == file && region.start.load(Ordering::SeqCst) == start;
    if REGIONS.iter().any(|region| is(&region)) {
        return;
    }
    if let Some(free) = REGIONS.iter().find(|region| region.file.load(Ordering::SeqCst) == 0) {
        free.start.store(start, Ordering::SeqCst);
        free.len.store(len, Ordering::SeqCst);
        // Last, since it makes the slot valid for the handler.
        free.file.store(file, Ordering::SeqCst);
    }
}
