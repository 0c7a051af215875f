//! Checks one page by itself (<https://sqlite.org/fileformat2.html#b_tree_pages>). It does what `btreeInitPage`,
//! `btreeComputeFreeSpace` and the page-local half of `checkTreePage` in `btree.c` do.
//!
//! No byte is trusted: every offset is compared with the page before it is used. A page has at most 65,536 bytes, so
//! sums of offsets and lengths fit 32 bits.

use super::sizes::Shape;

/// The four types of b-tree pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Type byte 0x02.
    IndexInterior,
    /// Type byte 0x05.
    TableInterior,
    /// Type byte 0x0a.
    IndexLeaf,
    /// Type byte 0x0d.
    TableLeaf,
}

impl Kind {
    /// Whether it belongs to a tree of rows by rowid.
    pub fn is_table(self) -> bool {
        matches!(self, Kind::TableInterior | Kind::TableLeaf)
    }

    /// Whether it has no children.
    pub fn is_leaf(self) -> bool {
        matches!(self, Kind::IndexLeaf | Kind::TableLeaf)
    }
}

/// Why a page is not a sound b-tree page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Fault {
    /// The type byte is not that of a b-tree page.
    Type,
    /// More cells than fit on a page.
    CellCount,
    /// The freeblock list leaves the page, overlaps itself or does not ascend.
    Freeblocks,
    /// Header, cell pointers and free bytes do not fit on the page.
    FreeSpace,
    /// A cell pointer leads outside the content area.
    CellPointer,
    /// A cell ends after the end of the page.
    CellEnd,
    /// The header of a record claims less than 2 bytes.
    RecordHeader,
    /// Rowids do not ascend.
    RowidOrder,
    /// A child page number is below 2, or after the end of the database.
    Child,
    /// An overflow page number is below 2, or after the end of the database.
    Overflow,
    /// Cells and free bytes overlap or leave gaps.
    Coverage,
    /// The bytes of the page are lost.
    Lost,
}

impl Fault {
    /// All faults. The position of a fault is its code.
    const ALL: [Fault; 12] = [
        Fault::Type,
        Fault::CellCount,
        Fault::Freeblocks,
        Fault::FreeSpace,
        Fault::CellPointer,
        Fault::CellEnd,
        Fault::RecordHeader,
        Fault::RowidOrder,
        Fault::Child,
        Fault::Overflow,
        Fault::Coverage,
        Fault::Lost,
    ];

    /// The fault with this code (`fault as u32`).
    pub fn from_code(code: u32) -> Self {
        usize::try_from(code).ok().and_then(|at| Self::ALL.get(at)).copied().unwrap_or(Fault::Type)
    }

    /// The fault in words for users.
    pub fn describe(self) -> &'static str {
        match self {
            Fault::Type => "is not a b-tree page of the expected type",
            Fault::CellCount => "b-tree page claims more cells than fit on a page",
            Fault::Freeblocks => "b-tree page has a broken list of freeblocks",
            Fault::FreeSpace => "b-tree page has header fields that do not fit together",
            Fault::CellPointer => "b-tree page has a cell pointer that leads outside the cell content area",
            Fault::CellEnd => "b-tree page has a cell that extends off the end of the page",
            Fault::RecordHeader => "b-tree page has a record with an impossible header size",
            Fault::RowidOrder => "b-tree page has rowids out of order",
            Fault::Child => "b-tree page names a child page that does not exist",
            Fault::Overflow => "b-tree page names an overflow page that does not exist",
            Fault::Coverage => "b-tree page has cells and free bytes that do not fill it exactly",
            Fault::Lost => "is lost",
        }
    }
}

/// The pages that a b-tree page refers to.
#[derive(Debug, Default)]
pub(super) struct Links {
    /// Children from left to right. The last one is the right-most pointer.
    pub children: Vec<u32>,
    /// On table interior pages the [`rank`] of the largest rowid below each child except the last.
    pub ranks: Vec<i32>,
    /// The first page and the number of pages of each overflow chain.
    pub chains: Vec<(u32, u32)>,
    /// On table leaves that have cells, the [`rank`] of the smallest rowid.
    pub first_rank: Option<i32>,
}

/// A rowid in 32 bits, so that less is kept. It keeps the order (equal ranks are possible), is exact below 2^26 in
/// size, and has a relative error below 2^-25 above that. So ranks that are out of order prove that rowids are.
pub(super) fn rank(rowid: i64) -> i32 {
    // A floating-point number of a kind: the exponent `shift` above a mantissa of 26 bits, whose top bit adds to the
    // exponent. -1 counts as 0, so that the size of every negative rowid fits, too.
    let size = rowid.unsigned_abs() - u64::from(rowid < 0);
    let shift = (64 - size.leading_zeros()).saturating_sub(26);
    // At most 37 << 25 plus 2^26 - 1, which is below 2^31, so both casts keep the value.
    let folded = ((shift << 25) + (size >> shift) as u32) as i32;
    // For negative numbers the complement turns the order round.
    if rowid < 0 { !folded } else { folded }
}

/// Checks one b-tree page and collects the pages that it refers to. Its header is at `header_at`: 100 on page 1, else
/// 0.
pub(super) fn inspect(shape: &Shape, page: &[u8], header_at: usize, links: &mut Links) -> Result<Kind, Fault> {
    let kind = match page.get(header_at) {
        Some(0x02) => Kind::IndexInterior,
        Some(0x05) => Kind::TableInterior,
        Some(0x0a) => Kind::IndexLeaf,
        Some(0x0d) => Kind::TableLeaf,
        _ => return Err(Fault::Type),
    };
    if header_at != 0 && !kind.is_table() {
        return Err(Fault::Type);
    }
    let cells = be16(page, header_at + 3).ok_or(Fault::CellCount)?;
    // A cell takes at least 4 bytes and a pointer of 2.
    if cells > (shape.page_size - 8) / 6 {
        return Err(Fault::CellCount);
    }
    let pointers_at = header_at + if kind.is_leaf() { 8 } else { 12 };
    let pointers_end = pointers_at + 2 * cells as usize;
    // The end of the pointers is about a third of a page at most, so the cast keeps the value.
    let space = free_space(shape, page, header_at, pointers_end as u32)?;
    let pointers = page.get(pointers_at..pointers_end).ok_or(Fault::CellCount)?;
    let cell_bytes = match kind {
        Kind::TableLeaf => table_leaf(shape, page, space.content_at, pointers, links)?,
        Kind::TableInterior => table_interior(shape, page, space.content_at, pointers, links)?,
        Kind::IndexLeaf | Kind::IndexInterior => index_page(shape, page, space.content_at, pointers, kind.is_leaf(), links)?,
    };
    // The content area consists of cells, freeblocks and fragments, without overlap. SQLite sorts the cells to check
    // that. The sum of all lengths is cheaper: if it is wrong, there is an overlap or a wrong count.
    if space.content_at + space.freeblocks + space.fragments + cell_bytes != shape.usable {
        return Err(Fault::Coverage);
    }
    if !kind.is_leaf() {
        let right = be32(page, header_at + 8).ok_or(Fault::Child)?;
        links.children.push(in_range(shape, right).ok_or(Fault::Child)?);
    }
    Ok(kind)
}

/// The bytes of a page that no cell uses.
struct FreeSpace {
    /// The start of the cell content area.
    content_at: u32,
    /// Bytes in freeblocks.
    freeblocks: u32,
    /// Bytes in pieces that are too small for a freeblock, by the page's own count.
    fragments: u32,
}

/// Adds up the free bytes of a page, as `btreeComputeFreeSpace`. Freeblocks must ascend, so following them ends.
fn free_space(shape: &Shape, page: &[u8], header_at: usize, pointers_end: u32) -> Result<FreeSpace, Fault> {
    let content_at = match be16(page, header_at + 5).ok_or(Fault::FreeSpace)? {
        // 65,536 does not fit 16 bits.
        0 => 65_536,
        at => at,
    };
    let fragments = u32::from(page.get(header_at + 7).copied().ok_or(Fault::FreeSpace)?);
    let mut at = be16(page, header_at + 1).ok_or(Fault::Freeblocks)?;
    let mut freeblocks = 0;
    if at > 0 && at < content_at {
        return Err(Fault::Freeblocks);
    }
    while at > 0 {
        // The first 4 bytes of a freeblock are the next one and its size.
        if at > shape.usable - 4 {
            return Err(Fault::Freeblocks);
        }
        let next = be16(page, at as usize).ok_or(Fault::Freeblocks)?;
        let size = be16(page, at as usize + 2).ok_or(Fault::Freeblocks)?;
        // SQLite would have joined blocks that are closer than 4 bytes.
        if size < 4 || at + size > shape.usable || (next > 0 && next < at + size + 4) {
            return Err(Fault::Freeblocks);
        }
        freeblocks += size;
        at = next;
    }
    let free = fragments + content_at + freeblocks;
    if free > shape.usable || free < pointers_end {
        return Err(Fault::FreeSpace);
    }
    Ok(FreeSpace { content_at, freeblocks, fragments })
}

/// The bytes from the start of a cell to the end of the usable page.
fn cell_at<'a>(shape: &Shape, page: &'a [u8], content_at: u32, pointer: &[u8]) -> Result<&'a [u8], Fault> {
    let at = be16(pointer, 0).ok_or(Fault::CellPointer)?;
    if at < content_at || at > shape.usable - 4 {
        return Err(Fault::CellPointer);
    }
    page.get(at as usize..shape.usable as usize).ok_or(Fault::CellPointer)
}

/// Checks the cells of a table leaf: payload size, rowid, payload. Gives the bytes that they take.
fn table_leaf(shape: &Shape, page: &[u8], content_at: u32, pointers: &[u8], links: &mut Links) -> Result<u32, Fault> {
    let (local_max, local_min) = (shape.table_local_max(), shape.local_min());
    let mut bytes = 0;
    let mut last = None;
    for pointer in pointers.chunks_exact(2) {
        let cell = cell_at(shape, page, content_at, pointer)?;
        let (payload, first) = payload_size(cell, 0).ok_or(Fault::CellEnd)?;
        let (rowid, second) = varint(cell.get(first..).ok_or(Fault::CellEnd)?).ok_or(Fault::CellEnd)?;
        ascend(&mut last, rowid)?;
        if links.first_rank.is_none() {
            links.first_rank = Some(rank(rowid));
        }
        bytes += payload_bytes(shape, cell, first + second, payload, (local_max, local_min), links)?;
    }
    Ok(bytes)
}

/// Checks the cells of a table interior page: left child and rowid. Gives the bytes that they take.
fn table_interior(shape: &Shape, page: &[u8], content_at: u32, pointers: &[u8], links: &mut Links) -> Result<u32, Fault> {
    let mut bytes = 0;
    let mut last = None;
    links.children.reserve_exact(pointers.len() / 2 + 1);
    links.ranks.reserve_exact(pointers.len() / 2);
    for pointer in pointers.chunks_exact(2) {
        let cell = cell_at(shape, page, content_at, pointer)?;
        let (child, key) = cell.split_first_chunk::<4>().ok_or(Fault::CellEnd)?;
        let (rowid, len) = varint(key).ok_or(Fault::CellEnd)?;
        ascend(&mut last, rowid)?;
        links.children.push(in_range(shape, u32::from_be_bytes(*child)).ok_or(Fault::Child)?);
        links.ranks.push(rank(rowid));
        // A varint has at most 9 bytes, so the cast keeps the value.
        bytes += 4 + len as u32;
    }
    Ok(bytes)
}

/// Checks the cells of an index page: left child (not on a leaf), payload size, payload. Gives the bytes that they
/// take.
fn index_page(shape: &Shape, page: &[u8], content_at: u32, pointers: &[u8], leaf: bool, links: &mut Links) -> Result<u32, Fault> {
    let limits = (shape.index_local_max(), shape.local_min());
    let mut bytes = 0;
    for pointer in pointers.chunks_exact(2) {
        let cell = cell_at(shape, page, content_at, pointer)?;
        let start = if leaf {
            0
        } else {
            let child = be32(cell, 0).ok_or(Fault::CellEnd)?;
            links.children.push(in_range(shape, child).ok_or(Fault::Child)?);
            4
        };
        let (payload, len) = payload_size(cell, start).ok_or(Fault::CellEnd)?;
        bytes += payload_bytes(shape, cell, start + len, payload, limits, links)?;
    }
    Ok(bytes)
}

/// The bytes that a cell takes on its page, by <https://sqlite.org/fileformat2.html#cell_payload_overflow_pages>. Notes
/// its overflow chain. The payload begins at `start` in `cell`. `local` has the most and the fewest payload bytes that
/// stay on the page.
#[inline]
fn payload_bytes(shape: &Shape, cell: &[u8], start: usize, payload: u32, local: (u32, u32), links: &mut Links) -> Result<u32, Fault> {
    let (local_max, local_min) = local;
    // Every cell takes at least 4 bytes, so that it can become a freeblock. `start` is at most 18 (two varints), so the
    // casts keep it.
    let mut size = (start as u32 + payload.min(65_536)).max(4);
    if payload > local_max {
        let per_page = shape.usable - 4;
        let surplus = local_min + (payload - local_min) % per_page;
        let local = if surplus <= local_max { surplus } else { local_min };
        size = start as u32 + local + 4;
        let link = be32(cell, size as usize - 4).ok_or(Fault::CellEnd)?;
        let first = in_range(shape, link).ok_or(Fault::Overflow)?;
        // The arithmetic has 32 bits and wraps, as in `checkTreePage`: a database that SQLite accepts must pass here,
        // too.
        let pages = (payload - local).wrapping_add(shape.usable - 5) / per_page;
        links.chains.push((first, pages));
    }
    if size as usize > cell.len() {
        return Err(Fault::CellEnd);
    }
    if payload > 0 && cell.get(start).is_none_or(|header| *header < 2) {
        return Err(Fault::RecordHeader);
    }
    Ok(size)
}

/// Checks that a rowid is larger than the one before, and notes it.
#[inline]
fn ascend(last: &mut Option<i64>, rowid: i64) -> Result<(), Fault> {
    if last.is_some_and(|before| before >= rowid) {
        return Err(Fault::RowidOrder);
    }
    *last = Some(rowid);
    Ok(())
}

/// The page number, if such a page exists and something may refer to it. (Page 1 is the root of the schema; nothing
/// refers to it.)
fn in_range(shape: &Shape, number: u32) -> Option<u32> {
    (number > 1 && number <= shape.pages).then_some(number)
}

/// The payload size at `at`, and the length of its varint. Here SQLite keeps the low 32 bits, and only 7 bits of the
/// ninth byte.
#[inline]
fn payload_size(cell: &[u8], at: usize) -> Option<(u32, usize)> {
    let first = *cell.get(at)?;
    // Most payloads are that short.
    if first < 0x80 {
        return Some((u32::from(first), 1));
    }
    let mut value = u32::from(first & 0x7f);
    for (index, byte) in cell.get(at + 1..)?.iter().take(8).enumerate() {
        value = (value << 7) | u32::from(byte & 0x7f);
        if *byte < 0x80 || index == 7 {
            return Some((value, index + 2));
        }
    }
    None
}

/// A varint (<https://sqlite.org/fileformat2.html#varint>), and its length: up to eight bytes of 7 bits, then one of 8.
#[inline]
fn varint(bytes: &[u8]) -> Option<(i64, usize)> {
    let mut value = 0_u64;
    for (index, byte) in bytes.iter().take(9).enumerate() {
        if index == 8 {
            return Some((((value << 8) | u64::from(*byte)).cast_signed(), 9));
        }
        value = (value << 7) | u64::from(byte & 0x7f);
        if *byte < 0x80 {
            return Some((value.cast_signed(), index + 1));
        }
    }
    None
}

/// The leaf numbers of a page, if it can be a trunk page of the freelist with at least one leaf. `count` is its second
/// word.
pub(super) fn trunk_leaves<'a>(shape: &Shape, count: u32, page: &'a [u8]) -> Option<&'a [u8]> {
    if count == 0 || count > shape.usable / 4 - 2 || count >= shape.free_pages {
        return None;
    }
    let leaves = page.get(8..8 + 4 * count as usize)?;
    words(leaves).all(|leaf| in_range(shape, leaf).is_some()).then_some(leaves)
}

/// Big-endian words.
pub(super) fn words(bytes: &[u8]) -> impl ExactSizeIterator<Item = u32> {
    bytes.as_chunks::<4>().0.iter().map(|word| u32::from_be_bytes(*word))
}

/// The big-endian 16 bits at `at`.
#[inline]
pub(super) fn be16(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from(u16::from_be_bytes(*bytes.get(at..)?.first_chunk()?)))
}

/// The big-endian 32 bits at `at`.
#[inline]
pub(super) fn be32(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(*bytes.get(at..)?.first_chunk()?))
}
