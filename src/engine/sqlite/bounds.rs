//! Bounds for what a database can cost us when SQLite reads it.
//!
//! The owner of a database can make its pages refer to each other many times, put an expression of gigabytes into its
//! schema, or leave a journal that asks for terabytes. So work, lengths of values and growth are bounded, each by the
//! number of bytes that are there. An ordinary database never meets a bound.

use std::ffi::c_int;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use rusqlite::Connection;
use rusqlite::limits::Limit;

use super::explain::beside;
use crate::error::{Error, Result};

/// Values up to this length in bytes are always allowed. 2,000 of them (the most columns of a table) still fit into
/// memory.
const VALUE_BYTES_MIN: u64 = 128 << 10;
/// A value that is computed from a row, as by `hex`, may be this many times as long as the database.
const VALUE_FACTOR: u64 = 4;
/// The longest value that SQLite can handle as it is built, in bytes.
const VALUE_BYTES_MAX: u64 = 1_000_000_000;

/// This many instructions of SQLite's virtual machine are always allowed.
const STEPS_MIN: u64 = 2_000_000;
/// Instructions that are allowed for each byte of the database. Checking a value of one byte takes about six.
const STEPS_PER_BYTE: u64 = 64;
/// SQLite asks after each so many instructions whether to go on.
const STEPS_AT_ONCE: u32 = 1000;

/// A file may always grow to this length, in bytes. Pages that were free are in neither journal nor log, so growing is
/// ordinary.
const GROWN_MIN: u64 = 256 << 20;
/// A file may grow beyond [`GROWN_MIN`] to this many times the bytes that are there.
const GROWN_FACTOR: u64 = 16;

/// The first bytes of a rollback journal (<https://sqlite.org/fileformat2.html#the_rollback_journal>).
const JOURNAL_MAGIC: [u8; 8] = [0xd9, 0xd5, 0x05, 0xf9, 0x20, 0xa1, 0x63, 0xd7];
/// Bytes of the header of a rollback journal.
const JOURNAL_HEADER: usize = 28;

/// Bounds the work of a connection to a database of `len` bytes. The bound is for everything together that the
/// connection does. A statement that exceeds it ends as if it had been interrupted.
///
/// # Errors
/// SQLite's error.
pub fn bound_work(conn: &mut Connection, len: u64) -> rusqlite::Result<()> {
    let mut left = STEPS_MIN.saturating_add(len.saturating_mul(STEPS_PER_BYTE)) / u64::from(STEPS_AT_ONCE);
    let is_over = move || {
        left = left.saturating_sub(1);
        left == 0
    };
    conn.progress_handler(STEPS_AT_ONCE as c_int, Some(is_over))
}

/// Removes the bound on work, for the user's own statements.
///
/// # Errors
/// SQLite's error.
pub fn unbound_work(conn: &mut Connection) -> rusqlite::Result<()> {
    conn.progress_handler(0, None::<fn() -> bool>)
}

/// Bounds the length of values, also of computed ones, by the length of the database in bytes. Also forbids attaching
/// other databases.
///
/// # Errors
/// SQLite's error.
pub fn bound_values(conn: &Connection, len: u64) -> rusqlite::Result<()> {
    let max = len.saturating_mul(VALUE_FACTOR).clamp(VALUE_BYTES_MIN, VALUE_BYTES_MAX);
    conn.set_limit(Limit::SQLITE_LIMIT_LENGTH, c_int::try_from(max).unwrap_or(c_int::MAX))?;
    conn.set_limit(Limit::SQLITE_LIMIT_ATTACHED, 0)?;
    Ok(())
}

/// Whether a database of `to` bytes can honestly come from `from` bytes of file, journal and log.
pub(super) fn can_grow(to: u64, from: u64) -> bool {
    to <= GROWN_MIN || to <= from.saturating_mul(GROWN_FACTOR)
}

/// Refuses to open the database at `path` if its rollback journal would make SQLite grow the file far beyond what is
/// there: the rollback, on opening, would fill the disk. `shown` is the path for messages.
///
/// # Errors
/// [`Error::Source`] if it would. A journal that cannot be read is left to SQLite.
pub fn refuse_boundless_journal(path: &Path, shown: &Path) -> Result<()> {
    let journal = beside(path, "-journal");
    let Some((to, journal_len)) = asked_for(&journal) else { return Ok(()) };
    let len = std::fs::metadata(path).map_or(0, |metadata| metadata.len());
    match can_grow(to, len.saturating_add(journal_len)) {
        true => Ok(()),
        false => {
            let detail = format!(
                "its rollback journal {} asks to make the file {to} bytes long, but it has only {len}; nothing was opened: let the application of the \
                 database open it, or remove the journal if it belongs to another database",
                beside(shown, "-journal").display()
            );
            Err(Error::source(shown, detail))
        }
    }
}

/// The length of the file after a rollback of this journal, and the length of the journal itself, in bytes.
fn asked_for(journal: &Path) -> Option<(u64, u64)> {
    // Opening a FIFO would wait for a writer.
    let metadata = std::fs::metadata(journal).ok().filter(|metadata| metadata.is_file() && metadata.len() >= JOURNAL_HEADER as u64)?;
    let mut header = [0; JOURNAL_HEADER];
    File::open(journal).and_then(|mut file| file.read_exact(&mut header)).ok()?;
    let word =
        |at: usize| header.get(at..).and_then(|rest| rest.first_chunk::<4>()).map_or(0, |bytes| u64::from(u32::from_be_bytes(*bytes)));
    // Bytes 16 to 19: the pages of the database before the transaction; bytes 24 to 27: bytes in a page.
    header.starts_with(&JOURNAL_MAGIC).then(|| (word(16).saturating_mul(word(24)), metadata.len()))
}
