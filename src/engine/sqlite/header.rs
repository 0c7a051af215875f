//! Reads the database header, the first 100 bytes of page 1
//! (<https://sqlite.org/fileformat2.html#the_database_header>).
//!
//! The bytes are not trusted. Only what the capture needs is checked, so that damaged databases can be captured as they
//! are.

use crate::recorded::SqliteFacts;

/// The first bytes of every database.
pub(in crate::engine) const MAGIC: &[u8; 16] = b"SQLite format 3\0";

/// The fields of the header that are used.
#[derive(Debug, Clone, Copy)]
pub(super) struct SqliteHeader {
    /// For the snapshot record.
    pub(super) facts: SqliteFacts,
    /// The number of pages by the header, if that count is valid.
    pub(super) counted_pages: Option<u32>,
    /// The version of SQLite that wrote last, as a number like 3054001.
    pub(super) written_by: u32,
}

impl Default for SqliteHeader {
    /// The header of a database of zero bytes.
    fn default() -> Self {
        let facts = SqliteFacts {
            page_size: 0,
            page_count: 0,
            user_version: 0,
            application_id: 0,
            encoding: 0,
            wal: false,
            change_counter: 0,
            schema_cookie: 0,
            freelist_pages: 0,
        };
        Self { facts, counted_pages: None, written_by: 0 }
    }
}

/// Reads the header from the first bytes of an image of `len` bytes. The error says why there is no valid header.
/// Fields after the end of `page` are 0.
pub(super) fn parse(page: &[u8], len: u64) -> Result<SqliteHeader, &'static str> {
    let word = |at: usize| page.get(at..).and_then(|rest| rest.first_chunk::<4>()).map_or(0, |bytes| u32::from_be_bytes(*bytes));
    if !page.starts_with(MAGIC) {
        return Err("not a SQLite database, or an encrypted one; `backup files` stores it as it is");
    }
    let page_size = match word(16) >> 16 {
        1 => 65_536,
        bytes => bytes,
    };
    if !(512..=65_536).contains(&page_size) || !page_size.is_power_of_two() {
        return Err("the header names an impossible page size: the file is damaged; `backup files` stores it as it is");
    }
    let facts = SqliteFacts {
        page_size,
        // By the length of the image: the count in the header may be out of date.
        page_count: len.div_ceil(u64::from(page_size)),
        // These two are signed.
        user_version: word(60).cast_signed(),
        application_id: word(68).cast_signed(),
        encoding: word(56),
        wal: page.get(18..20) == Some(&[2, 2]),
        change_counter: word(24),
        schema_cookie: word(40),
        freelist_pages: word(36),
    };
    // SQLite before 3.7.0 did not keep the count up to date. It is valid only if the change counter (24) equals the one
    // beside it (92).
    let counted_pages = (word(24) == word(92)).then_some(word(28)).filter(|&pages| pages > 0);
    Ok(SqliteHeader { facts, counted_pages, written_by: word(96) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn garbage_is_refused() {
        let mut page = [0u8; 100];
        assert!(parse(&page, 100).is_err());
        page[..16].copy_from_slice(MAGIC);
        for size in [0u16, 2, 256, 511, 513, 3000] {
            page[16..18].copy_from_slice(&size.to_be_bytes());
            assert!(parse(&page, 100).is_err(), "{size}");
        }
        for size in [512u16, 1024, 32_768, 1] {
            page[16..18].copy_from_slice(&size.to_be_bytes());
            assert!(parse(&page, 100).is_ok(), "{size}");
        }
        assert!(parse(&page[..20], 20).is_ok());
        assert!(parse(&[], 0).is_err());
    }
}
