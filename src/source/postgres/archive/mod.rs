//! Reads the custom format of pg_dump (`-Fc -Z0`) as it flows by, as versions 13 to 18 write it.
//!
//! The format is that of `pg_backup_archiver.c` and `pg_backup_custom.c` in PostgreSQL's sources: a header, a table of contents, then one block
//! for each entry that has data. An archive that was written to a pipe does not say where its blocks are, and nothing in it says that it is
//! complete: it is if the table was read and each of its entries with data has had its block. Memory is bounded by the table of contents,
//! of which only names and dependencies are kept; no length that was read is trusted.

mod input;
mod sum;
mod toc;

use std::io::BufRead;

use self::input::Input;
pub use self::sum::RowSum;
use self::sum::Rows;

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
    /// Where the first block begins, bytes.
    pub data_offset: u64,
    /// Bytes in all.
    pub len: u64,
}

/// An entry of the table of contents.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its number, by which others depend on it; another one in every dump.
    pub dump_id: i64,
    /// What it is: `TABLE`, `TABLE DATA`, `INDEX`.
    pub kind: String,
    /// Its schema, if it is in one.
    pub schema: Option<String>,
    /// Its name.
    pub name: String,
    /// The role that owns it.
    pub owner: String,
    /// Whether it has a block of data.
    pub has_data: bool,
    /// Whether its data is what COPY reads.
    pub is_copy: bool,
    /// Entries that must come before it.
    pub dependencies: Vec<i64>,
}

impl Entry {
    /// Schema and name, for people.
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
    /// Which of [`Archive::entries`].
    pub entry: usize,
    /// Where it begins, bytes from the start of the archive.
    pub offset: u64,
    /// Its bytes, framing and all.
    pub len: u64,
    /// Rows of a table, or the large objects in it.
    pub rows: u64,
    /// The sum of the hashes of its rows without their newlines; of large objects, of number (`u32`, lowest byte first) and content.
    pub sum: RowSum,
}

/// Types of blocks: `BLK_DATA` and `BLK_BLOBS`.
const ROWS: u8 = 1;
const LARGE_OBJECTS: u8 = 3;

/// Reads an archive up to its end. `begin` hears of each entry whose data begins.
///
/// # Errors
/// [`Unreadable`] if it is no such archive, is compressed, or is not complete.
pub fn read(input: impl BufRead, mut begin: impl FnMut(&Entry)) -> Result<Archive, Unreadable> {
    let mut input = Input::new(input);
    let mut archive = toc::read(&mut input)?;
    archive.data_offset = input.offset;
    let mut waiting: std::collections::HashMap<i64, usize> =
        archive.entries.iter().enumerate().filter(|(_, entry)| entry.has_data).map(|(index, entry)| (entry.dump_id, index)).collect();
    loop {
        let offset = input.offset;
        let Some(kind) = input.byte_or_end()? else { break };
        let dump_id = input.int()?;
        let Some((index, entry)) = waiting.remove(&dump_id).and_then(|index| Some((index, archive.entries.get(index)?))) else {
            return input.malformed(format!("a block of data for entry {dump_id}, which waits for none"));
        };
        begin(entry);
        let (rows, sum) = match kind {
            ROWS => table(&mut input, entry)?,
            LARGE_OBJECTS => large_objects(&mut input)?,
            _ => return input.malformed(format!("a block of an unknown type, {kind}")),
        };
        archive.blocks.push(Block { entry: index, offset, len: input.offset - offset, rows, sum });
    }
    if let Some(entry) = waiting.values().min().and_then(|index| archive.entries.get(*index)) {
        let detail = format!("the archive ends without the data of {} ({} missing in all)", entry.full_name(), waiting.len());
        return input.malformed(detail);
    }
    archive.len = input.offset;
    Ok(archive)
}

/// Hands over pieces up to the frame of length 0.
fn frames<R: BufRead>(input: &mut Input<R>, mut take: impl FnMut(&[u8])) -> Result<(), Unreadable> {
    loop {
        match u64::try_from(input.int()?) {
            Ok(0) => return Ok(()),
            Ok(len) => input.pass(len, &mut take)?,
            Err(_) => return input.malformed("a piece of data has a negative length"),
        }
    }
}

fn table<R: BufRead>(input: &mut Input<R>, entry: &Entry) -> Result<(u64, RowSum), Unreadable> {
    if !entry.is_copy {
        return input.malformed(format!("the data of {} is not for COPY", entry.full_name()));
    }
    let mut rows = Rows::default();
    frames(input, |piece| rows.take(piece))?;
    match rows.is_complete() {
        true => Ok((rows.rows, rows.sum)),
        false => input.malformed(format!("the data of {} has no proper end", entry.full_name())),
    }
}

fn large_objects<R: BufRead>(input: &mut Input<R>) -> Result<(u64, RowSum), Unreadable> {
    let (mut count, mut sum) = (0, RowSum::default());
    loop {
        // The number is written as a signed one.
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
