//! What looking into a database may cost. Whoever owns one can make its pages name each other many times, put an expression of gigabytes into its schema, or
//! leave a journal that asks for terabytes: all of that is bounded by the bytes that are there.

use std::ffi::c_int;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use rusqlite::Connection;
use rusqlite::limits::Limit;

use super::explain::beside;
use crate::error::{Error, Result};

/// The shortest value that is always possible, bytes, so that two thousand of them stay bearable.
const VALUE_BYTES_MIN: u64 = 128 << 10;
/// A value that is computed of one row, as by `hex`, may be so many times as long as the database.
const VALUE_FACTOR: u64 = 4;
/// The longest value that SQLite can handle as it is built, bytes.
const VALUE_BYTES_MAX: u64 = 1_000_000_000;

/// Instructions of SQLite's machine that are always possible.
const STEPS_MIN: u64 = 2_000_000;
/// More for each byte of the database: checking a value of one byte takes some six.
const STEPS_PER_BYTE: u64 = 64;
/// Instructions between two looks at what is left.
const STEPS_AT_ONCE: c_int = 1000;

/// A file may grow to this length whatever its journal or log is like, bytes: pages that were free are in neither.
const GROWN_MIN: u64 = 256 << 20;
/// Beyond that to so many times what is there.
const GROWN_FACTOR: u64 = 16;

/// The first bytes of a rollback journal (<https://sqlite.org/fileformat2.html#the_rollback_journal>).
const JOURNAL_MAGIC: [u8; 8] = [0xd9, 0xd5, 0x05, 0xf9, 0x20, 0xa1, 0x63, 0xd7];
/// Bytes of its header.
const JOURNAL_HEADER: usize = 28;

/// Bounds the work of a connection to a database of so many bytes, for all that it does: what takes more ends as if it had been interrupted.
///
/// # Errors
/// What SQLite says.
pub fn bound_work(conn: &mut Connection, len: u64) -> rusqlite::Result<()> {
    let mut left = STEPS_MIN.saturating_add(len.saturating_mul(STEPS_PER_BYTE)) / STEPS_AT_ONCE as u64;
    let is_over = move || {
        left = left.saturating_sub(1);
        left == 0
    };
    conn.progress_handler(STEPS_AT_ONCE, Some(is_over))
}

/// Takes the bound on work back, for statements of the user's own.
///
/// # Errors
/// What SQLite says.
pub fn unbound_work(conn: &mut Connection) -> rusqlite::Result<()> {
    conn.progress_handler(0, None::<fn() -> bool>)
}

/// Bounds the length of values, also computed ones, by that of the database, in bytes. Nothing is attached.
///
/// # Errors
/// What SQLite says.
pub fn bound_values(conn: &Connection, len: u64) -> rusqlite::Result<()> {
    let max = len.saturating_mul(VALUE_FACTOR).clamp(VALUE_BYTES_MIN, VALUE_BYTES_MAX);
    conn.set_limit(Limit::SQLITE_LIMIT_LENGTH, c_int::try_from(max).unwrap_or(c_int::MAX))?;
    conn.set_limit(Limit::SQLITE_LIMIT_ATTACHED, 0)?;
    Ok(())
}

/// Whether a database of this length can have come of these bytes.
pub(super) fn can_grow(to: u64, from: u64) -> bool {
    to <= GROWN_MIN || to <= from.saturating_mul(GROWN_FACTOR)
}

/// Refuses to open the database at `path`, which is shown as `shown`, if its rollback journal would make SQLite grow the file beyond all measure, in bytes.
///
/// # Errors
/// [`Error::Source`] if it would; one that cannot be read is SQLite's to judge.
pub fn refuse_boundless_journal(path: &Path, shown: &Path) -> Result<()> {
    let journal = beside(path, "-journal");
    let Some((to, journal_len)) = asked_for(&journal) else { return Ok(()) };
    let len = std::fs::metadata(path).map_or(0, |metadata| metadata.len());
    match can_grow(to, len.saturating_add(journal_len)) {
        true => Ok(()),
        false => {
            let detail = format!(
                "its rollback journal {} would make a file of {to} bytes of it, which has {len}; nothing was opened: let the application of the database \
                 open it, or remove the journal if it is not of this database",
                beside(shown, "-journal").display()
            );
            Err(Error::source(shown, detail))
        }
    }
}

/// The bytes that a rollback of this journal would leave, and the journal's own.
fn asked_for(journal: &Path) -> Option<(u64, u64)> {
    // A pipe in its place would be waited for.
    let metadata = std::fs::metadata(journal).ok().filter(|metadata| metadata.is_file() && metadata.len() >= JOURNAL_HEADER as u64)?;
    let mut header = [0; JOURNAL_HEADER];
    File::open(journal).and_then(|mut file| file.read_exact(&mut header)).ok()?;
    let word =
        |at: usize| header.get(at..).and_then(|rest| rest.first_chunk::<4>()).map_or(0, |bytes| u64::from(u32::from_be_bytes(*bytes)));
    header.starts_with(&JOURNAL_MAGIC).then(|| (word(16).saturating_mul(word(24)), metadata.len()))
}
