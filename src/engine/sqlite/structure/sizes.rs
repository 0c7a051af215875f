//! The sizes and roles of pages, by the database header (<https://sqlite.org/fileformat2.html#the_database_header>).
//!
//! A header that SQLite refuses is refused here, too, for the same reasons. Everything else relies on the values that
//! passed.

use super::page::{be16, be32};

/// The byte that SQLite locks. The page that contains it is never used.
const LOCK_BYTE: u32 = 0x4000_0000;

/// The geometry of a database, and what its header promises.
#[derive(Debug)]
pub(super) struct Shape {
    /// Bytes in a page: a power of two, 512 to 65,536.
    pub page_size: u32,
    /// Bytes of a page that SQLite uses: without the bytes that are reserved at its end. At least 480.
    pub usable: u32,
    /// Pages in the database. The file may have more pages after them; these do not count.
    pub pages: u32,
    /// The first trunk page of the freelist; 0 if the list is empty.
    pub first_trunk: u32,
    /// Pages on the freelist, including trunk pages.
    pub free_pages: u32,
    /// The largest root page in an auto_vacuum database; 0 without auto_vacuum.
    pub largest_root: u32,
    /// Not 0 with incremental vacuum.
    pub incremental: u32,
}

/// The role of a page, as far as its number says it.
pub(super) enum Role {
    /// Contains the lock byte and no data.
    Lock,
    /// Holds pointer-map entries.
    PointerMap,
    /// Anything else.
    Other,
}

impl Shape {
    /// Reads the header as `lockBtree` in `btree.c` does. Gives an error if SQLite would refuse the file.
    pub fn parse(header: &[u8], image_pages: u64) -> Result<Self, &'static str> {
        let field = |at| be32(header, at).ok_or("the database header is cut short");
        let byte = |at: usize| header.get(at).copied().ok_or("the database header is cut short");
        field(96)?;
        if !header.starts_with(b"SQLite format 3\0") {
            return Err("the database header does not begin with \"SQLite format 3\"");
        }
        if byte(19)? > 2 {
            return Err("the read version in the database header is above 2");
        }
        if header.get(21..24) != Some(&[64, 32, 32]) {
            return Err("the payload fractions in the database header are not 64, 32, 32");
        }
        let page_size = match be16(header, 16).ok_or("the database header is cut short")? {
            1 => 65_536,
            size if size.is_power_of_two() && size >= 512 => size,
            _ => return Err("the page size in the database header is not a power of two from 512 to 65536"),
        };
        let usable = page_size - u32::from(byte(20)?);
        if usable < 480 {
            return Err("the database header reserves too many bytes of each page");
        }
        // The size field is valid only if the last writer knew it: such a writer copies the change counter (24) to 92.
        let stated = if field(24)? == field(92)? { u64::from(field(28)?) } else { 0 };
        if stated > image_pages {
            return Err("the database is shorter than its header says");
        }
        let pages = u32::try_from(if stated == 0 { image_pages } else { stated }).map_err(|_| "the database has too many pages")?;
        let shape = Self {
            page_size,
            usable,
            pages,
            first_trunk: field(32)?,
            free_pages: field(36)?,
            largest_root: field(52)?,
            incremental: field(64)?,
        };
        Ok(shape)
    }

    /// Whether pages are tracked by pointer maps.
    pub fn auto_vacuum(&self) -> bool {
        self.largest_root != 0
    }

    /// The most payload bytes of a cell that stay on a table leaf.
    pub fn table_local_max(&self) -> u32 {
        self.usable - 35
    }

    /// The most payload bytes of a cell that stay on an index page.
    pub fn index_local_max(&self) -> u32 {
        (self.usable - 12) * 64 / 255 - 23
    }

    /// The payload bytes that stay on the page if the rest does not fill overflow pages well.
    pub fn local_min(&self) -> u32 {
        (self.usable - 12) * 32 / 255 - 23
    }

    /// The page that contains the lock byte, whether or not the database reaches that far.
    pub fn lock_page(&self) -> u32 {
        LOCK_BYTE / self.page_size + 1
    }

    /// The role of the page with this number.
    pub fn role(&self, number: u32) -> Role {
        if number == self.lock_page() {
            Role::Lock
        } else if self.auto_vacuum() && number >= 2 && self.pointer_map_of(number) == number {
            Role::PointerMap
        } else {
            Role::Other
        }
    }

    /// The pointer-map page that describes page `number` (2 or above), or that page itself if it is one.
    fn pointer_map_of(&self, number: u32) -> u32 {
        debug_assert!(number >= 2);
        // A pointer-map page has an entry of 5 bytes for each page that follows it, up to the next one. The lock page
        // cannot be one of them.
        let group = self.usable / 5 + 1;
        let map = (number - 2) / group * group + 2;
        if map == self.lock_page() { map + 1 } else { map }
    }
}
