//! The evidence of a dump: rows, their sum and the place of each block of data, in a small text stream beside the dump.
//!
//! The first line is `icecore-tables 1`, a tab, and the offset of the first block in the dump. Each further line is a
//! block, in the order of the dump, with five fields separated by tabs: length of the block in bytes, rows, the sum of
//! the rows' hashes ([`RowSum`]), the kind of the entry (`TABLE DATA`, `BLOBS`), and its name with its schema. In names
//! a backslash, a tab and a newline are written as `\\`, `\t` and `\n`. There are no gaps between blocks, so only
//! lengths are stored, and no line changes when another table grows.

use std::fmt::Write as _;

use super::archive::{Archive, RowSum};
use crate::error::{Error, Result};

/// The stream's name.
pub const STREAM: &str = "tables.tsv";
/// The start of the first line.
const MAGIC: &str = "icecore-tables 1";

/// The evidence of one dump.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tables {
    /// In the order of the dump.
    pub blocks: Vec<Evidence>,
}

/// The evidence of one block of data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Evidence {
    /// Its offset in the dump.
    pub offset: u64,
    /// Its length in bytes.
    pub len: u64,
    /// The number of rows or large objects.
    pub rows: u64,
    /// The sum of their hashes.
    pub sum: RowSum,
    /// `TABLE DATA` or `BLOBS`.
    pub kind: String,
    /// Schema and name.
    pub name: String,
}

impl Tables {
    /// The evidence of an archive that was read to its end.
    pub fn of(archive: &Archive) -> Self {
        let blocks = archive.blocks.iter().filter_map(|block| {
            let entry = archive.entries.get(block.entry)?;
            let (kind, name) = (entry.kind.clone(), entry.full_name());
            Some(Evidence { offset: block.offset, len: block.len, rows: block.rows, sum: block.sum, kind, name })
        });
        Tables { blocks: blocks.collect() }
    }

    /// The text of the stream.
    pub fn encode(&self) -> String {
        let mut text = format!("{MAGIC}\t{}\n", self.blocks.first().map_or(0, |block| block.offset));
        for block in &self.blocks {
            let _ = writeln!(text, "{}\t{}\t{}\t{}\t{}", block.len, block.rows, block.sum, escape(&block.kind), escape(&block.name));
        }
        text
    }

    /// Reads what [`Tables::encode`] writes.
    ///
    /// # Errors
    /// [`Error::Corrupt`] for anything else, [`Error::UnsupportedFormat`] for that of a later version.
    pub fn decode(text: &str) -> Result<Self> {
        let malformed = |line: usize| Error::corrupt(STREAM, format!("line {} is malformed", line + 1));
        let mut lines = text.lines().enumerate();
        let first = lines.next().map(|(_, line)| line).unwrap_or_default();
        let Some((magic, offset)) = first.split_once('\t') else { return Err(malformed(0)) };
        if magic != MAGIC {
            return Err(match magic.starts_with("icecore-tables ") {
                true => Error::UnsupportedFormat { object: STREAM.into(), detail: format!("a newer icecore: {magic}") },
                false => malformed(0),
            });
        }
        let mut offset: u64 = offset.parse().map_err(|_| malformed(0))?;
        let mut blocks = Vec::new();
        for (number, line) in lines {
            let block = block(line, offset).ok_or_else(|| malformed(number))?;
            offset = offset.checked_add(block.len).ok_or_else(|| malformed(number))?;
            blocks.push(block);
        }
        Ok(Tables { blocks })
    }
}

fn block(line: &str, offset: u64) -> Option<Evidence> {
    let mut fields = line.split('\t');
    let mut field = || fields.next();
    let (len, rows, sum) = (field()?.parse().ok()?, field()?.parse().ok()?, RowSum::parse(field()?)?);
    let (kind, name) = (unescape(field()?)?, unescape(field()?)?);
    field().is_none().then_some(Evidence { offset, len, rows, sum, kind, name })
}

fn escape(text: &str) -> String {
    text.replace('\\', "\\\\").replace('\t', "\\t").replace('\n', "\\n")
}

fn unescape(text: &str) -> Option<String> {
    let mut plain = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        plain.push(match c {
            '\\' => match chars.next()? {
                '\\' => '\\',
                't' => '\t',
                'n' => '\n',
                _ => return None,
            },
            c => c,
        });
    }
    Some(plain)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_back() {
        let block = |offset, name: &str| {
            let (kind, name) = ("TABLE DATA".to_owned(), name.to_owned());
            Evidence { offset, len: 10, rows: 2, sum: RowSum::default(), kind, name }
        };
        let tables = Tables { blocks: vec![block(7, "public.a"), block(17, "a\\b\t\nc\\n")] };
        assert_eq!(Tables::decode(&tables.encode()).unwrap(), tables);
        assert_eq!(Tables::decode(&Tables::default().encode()).unwrap(), Tables::default());
        for wrong in ["", "x\t1", "icecore-tables 1\tx", "icecore-tables 1\t1\n1\t2\t3", "icecore-tables 2\t1"] {
            assert!(Tables::decode(wrong).is_err(), "{wrong}");
        }
    }
}
