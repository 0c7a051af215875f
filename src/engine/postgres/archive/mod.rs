//! A streaming parser for pg_dump's custom format (`-Fc -Z0`), as versions 13 to 18 write it. [`directory`] has the
//! differences of the directory format (`-Fd -Z0`).
//!
//! The format is that of `pg_backup_archiver.c` and `pg_backup_custom.c` in PostgreSQL's sources: a header, a table of
//! contents, then one block for each entry that has data. An archive that was written to a pipe does not say where its
//! blocks are, and it has no end mark. It is complete if the table of contents was read and each of its entries with
//! data has had its block.
//!
//! Guarantee: memory is bounded by the names and dependencies in the table of contents, and no length from
//! the archive is trusted.

pub mod directory;
mod input;
mod row_sum;
mod summing;
mod toc;

use std::io::BufRead;

use self::input::Input;
pub use self::row_sum::RowSum;
use self::row_sum::Rows;
use self::summing::Summing;
use self::toc::Layout;
pub use self::toc::{TOC, is_file_name};

/// Why an archive cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("at byte {offset}: {detail}")]
pub struct Unreadable {
    /// Where, in bytes from the start.
    pub offset: u64,
    /// What does not hold.
    pub detail: String,
}

/// What an archive has in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Archive {
    /// The format's version: 14 for 1.14.
    pub minor_version: u8,
    /// The database that was dumped.
    pub database: String,
    /// The server's version, as it says it.
    pub server_version: String,
    /// The version of pg_dump.
    pub dump_version: String,
    /// The table of contents, in the order of a restore.
    pub entries: Vec<Entry>,
    /// The data, in the order of the archive.
    pub blocks: Vec<Block>,
    /// The offset of the first block.
    pub data_offset: u64,
    /// The length in bytes.
    pub len: u64,
    /// How many bytes a number (without its sign) and an offset have in this archive.
    pub(crate) widths: (u8, u8),
}

/// A part of a restore (`teSection` of `pg_backup.h`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Section {
    /// Definitions that the data needs.
    PreData,
    /// Rows, large objects, positions of sequences.
    Data,
    /// Indexes, keys, triggers and the like.
    PostData,
}

/// An entry of the table of contents.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its number. Dependencies name it. It differs from dump to dump.
    pub dump_id: i64,
    /// Its kind: `TABLE`, `TABLE DATA`, `INDEX`.
    pub kind: String,
    /// When it is restored. `None`: together with the entries before it, as comments and rights are.
    pub section: Option<Section>,
    /// Its schema, if it is in one.
    pub schema: Option<String>,
    /// Its name.
    pub name: String,
    /// The role that owns it.
    pub owner: String,
    /// Whether it has data: a block, or a file.
    pub has_data: bool,
    /// In a directory: the file with its data, or with the list of its large objects.
    pub file: Option<String>,
    /// The offset of that name in the table of contents.
    pub(crate) file_at: u64,
    /// Whether its data is in the format of COPY.
    pub is_copy: bool,
    /// The dump ids of entries that must come before it.
    pub dependencies: Vec<i64>,
    /// Its tablespace, if it is not the database's.
    pub tablespace: Option<String>,
    /// The SQL that creates it, if it was wanted and is UTF-8 of at most 1 MiB.
    pub definition: Option<String>,
    /// The COPY statement that loads its data, under the same conditions.
    pub copy_statement: Option<String>,
    /// BLAKE3 of both statements. Each is preceded by its length (`u64`, little-endian).
    pub digest: [u8; 32],
}

impl Entry {
    /// Schema and name, as messages show them.
    pub fn full_name(&self) -> String {
        match &self.schema {
            Some(schema) => format!("{schema}.{}", self.name),
            None => self.name.clone(),
        }
    }
}

/// The data of one entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Block {
    /// Its index in [`Archive::entries`].
    pub entry: usize,
    /// The offset of its start in the archive.
    pub offset: u64,
    /// Its length in bytes, with the framing.
    pub len: u64,
    /// The number of rows, or of large objects.
    pub rows: u64,
    /// The sum of the hashes of its rows, without newlines; for large objects, of number (`u32`, little-endian) and
    /// content.
    pub sum: RowSum,
}

/// Says by kind and name whether an entry's statements are kept.
pub type Wanted<'a> = &'a dyn Fn(&str, &str) -> bool;

/// Types of blocks: `BLK_DATA` and `BLK_BLOBS`.
const ROWS: u8 = 1;
const LARGE_OBJECTS: u8 = 3;

/// Reads an archive up to its end. `begin` is called for each entry whose data begins.
///
/// # Errors
/// [`Unreadable`] if it is not such an archive, is compressed, or is not complete.
pub fn read(input: impl BufRead, mut begin: impl FnMut(&Entry)) -> Result<Archive, Unreadable> {
    let mut input = Input::new(input);
    let mut archive = toc::read(&mut input, Layout::Custom, &|_, _| false)?;
    archive.data_offset = input.offset;
    // Entries whose block has not come yet. A block for any other entry, or a second one for the same, is an error.
    let mut waiting: std::collections::HashMap<i64, usize> =
        archive.entries.iter().enumerate().filter(|(_, entry)| entry.has_data).map(|(index, entry)| (entry.dump_id, index)).collect();
    let mut summing = Summing::new();
    loop {
        let offset = input.offset;
        let Some(kind) = input.byte_or_end()? else { break };
        let dump_id = input.int()?;
        let Some((index, entry)) = waiting.remove(&dump_id).and_then(|index| Some((index, archive.entries.get(index)?))) else {
            return input.malformed(format!("there is a second block of data for entry {dump_id}, or the entry should have none"));
        };
        begin(entry);
        let (rows, sum) = match kind {
            ROWS => {
                summing.begin(archive.blocks.len());
                table(&mut input, entry, &mut summing)?
            }
            LARGE_OBJECTS => large_objects(&mut input)?,
            _ => return input.malformed(format!("a block of an unknown type, {kind}")),
        };
        archive.blocks.push(Block { entry: index, offset, len: input.offset - offset, rows, sum });
    }
    if let Some(entry) = waiting.values().min().and_then(|index| archive.entries.get(*index)) {
        let detail = format!("the archive ends without the data of {} ({} missing in all)", entry.full_name(), waiting.len());
        return input.malformed(detail);
    }
    // Rows are summed in threads, so errors in them show up only now.
    if let Err(block) = summing.finish(&mut archive.blocks) {
        let entry = block.and_then(|block| archive.entries.get(archive.blocks.get(block)?.entry));
        return match entry {
            Some(entry) => no_end(&input, entry),
            None => input.malformed("a thread that sums its rows has failed"),
        };
    }
    archive.len = input.offset;
    Ok(archive)
}

/// Reads an archive's header and table of contents, and none of its data. [`Archive::len`] is the length of this part.
///
/// # Errors
/// [`Unreadable`] if it is not such an archive, or is compressed.
pub fn head(input: impl BufRead, wanted: Wanted<'_>) -> Result<Archive, Unreadable> {
    let mut input = Input::new(input);
    let mut archive = toc::read(&mut input, Layout::Custom, wanted)?;
    (archive.data_offset, archive.len) = (input.offset, input.offset);
    Ok(archive)
}

/// Reads the block of a table's data that begins at the start of `input`. `archive` comes from [`head`]. The rows go to
/// `take` in pieces, followed by the line that ends them, as pg_restore sends them.
///
/// # Errors
/// [`Unreadable`] if this is not the entry's block, or if it is incomplete or `take` fails. Its offset counts from the
/// start of the block.
pub fn table_rows(
    input: impl BufRead,
    archive: &Archive,
    entry: &Entry,
    take: &mut dyn FnMut(&[u8]) -> Result<(), String>,
) -> Result<(u64, RowSum), Unreadable> {
    let mut input = Input::new(input);
    (input.int_len, input.offset_len) = archive.widths;
    if input.byte()? != ROWS || input.int()? != entry.dump_id {
        return input.malformed(format!("the data of {} does not begin here", entry.full_name()));
    }
    let (mut rows, mut failed) = (Rows::default(), Ok(()));
    frames(&mut input, |piece| {
        rows.take(piece);
        // After a failure the block is only read to its end.
        if failed.is_ok() {
            failed = take(piece);
        }
    })?;
    match (failed, rows.is_complete()) {
        (Err(detail), _) => input.malformed(detail),
        (Ok(()), true) => Ok((rows.rows, rows.sum)),
        (Ok(()), false) => no_end(&input, entry),
    }
}

/// The number and the sum of rows that COPY writes. Here no line marks the end.
///
/// # Errors
/// If reading fails.
pub fn sum_rows(mut input: impl BufRead) -> std::io::Result<(u64, RowSum)> {
    let mut rows = Rows::default();
    loop {
        let got = match input.fill_buf()? {
            [] => return Ok((rows.rows, rows.sum)),
            bytes => {
                rows.take(bytes);
                bytes.len()
            }
        };
        input.consume(got);
    }
}

/// Gives the contents of frames to `take`, up to the frame of length 0.
fn frames<R: BufRead>(input: &mut Input<R>, mut take: impl FnMut(&[u8])) -> Result<(), Unreadable> {
    loop {
        // First all frames that are complete in the buffer, which is fast; then one that may go beyond it.
        input.pass_frames(&mut take)?;
        match u64::try_from(input.int()?) {
            Ok(0) => return Ok(()),
            Ok(len) => input.pass(len, &mut take)?,
            Err(_) => return input.malformed("a piece of data has a negative length"),
        }
    }
}

fn table<R: BufRead>(input: &mut Input<R>, entry: &Entry, summing: &mut Summing) -> Result<(u64, RowSum), Unreadable> {
    if !entry.is_copy {
        return input.malformed(format!("the data of {} is not in the format of COPY: dump without --inserts", entry.full_name()));
    }
    frames(input, |piece| summing.take(piece))?;
    summing.end().map_or_else(|| no_end(input, entry), Ok)
}

fn no_end<T, R: BufRead>(input: &Input<R>, entry: &Entry) -> Result<T, Unreadable> {
    input.malformed(format!("the data of {} does not end with the line that marks its end", entry.full_name()))
}

fn large_objects<R: BufRead>(input: &mut Input<R>) -> Result<(u64, RowSum), Unreadable> {
    let (mut count, mut sum) = (0, RowSum::default());
    loop {
        // pg_dump writes the unsigned number as a signed one, so the cast wraps negative numbers back on purpose.
        let number = input.int()? as u32;
        if number == 0 {
            return Ok((count, sum));
        }
        let mut hasher = blake3::Hasher::new();
        hasher.update(&number.to_le_bytes());
        frames(input, |piece| {
            hasher.update(piece);
        })?;
        sum.add(&hasher.finalize());
        count += 1;
    }
}
