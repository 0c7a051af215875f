//! Blocks: the sorted entries of a run, packed so that each fills one page of the file.
//!
//! A block is a header and three columns: the difference from the first prefix, the difference from the lowest pack number, and the index in
//! the pack. Each column has a fixed width in bytes, so a block can be searched without unpacking it. With random prefixes an entry takes
//! about 11 bytes. A sum over the key and the body ends the block; a block without its sum is damage.

use super::fault::Fault;
use super::sum::{Kind, Sums};
use crate::store::repo::{u32_from, usize_from};

/// Bytes in a page of the catalog file. With 8192 the file is as large and cold look-ups are as fast (`benches/catalog.rs`, 3 million chunks),
/// but warm look-ups are a third slower, because a block is copied and hashed whole.
pub(super) const PAGE_BYTES: usize = 4096;

/// The most bytes in a block, so that its row fits into one page without an overflow page. A page takes 8 bytes, and the row's pointer, length,
/// key and header take at most 20 (<https://sqlite.org/fileformat2.html#b_tree_pages>); SQLite splits a payload only above page size - 35.
const BLOCK_BYTES_MAX: usize = PAGE_BYTES - 64;

/// Bytes before the columns: first prefix 8, lowest pack 4, count 4, widths 3, sum 8.
const HEADER_BYTES: usize = 27;
const SUM_BYTES: usize = 8;

/// Low bits of a prefix that are not in a block's key. The other 40 bits are far finer than blocks need.
const SLOT_SHIFT: u32 = 24;
const SLOT_BITS: u32 = 64 - SLOT_SHIFT;

/// The highest run number. A key is the run number in the bits above the slot, and must be a positive 64-bit integer.
pub(super) const RUN_MAX: u32 = (1 << (63 - SLOT_BITS)) - 1;

/// One copy of one chunk. Sorts by prefix.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Entry {
    pub(super) prefix: u64,
    pub(super) pack: u32,
    pub(super) index: u32,
}

/// The part of a prefix that is in the keys of blocks. All entries of one slot are in one block of a run.
pub(super) fn slot(prefix: u64) -> u64 {
    prefix >> SLOT_SHIFT
}

/// The key of a block of this run that starts with this prefix.
pub(super) fn key(run: u32, prefix: u64) -> i64 {
    (i64::from(run) << SLOT_BITS) | slot(prefix).cast_signed()
}

/// The lowest and the highest key that a block of this run can have.
pub(super) fn key_range(run: u32) -> (i64, i64) {
    (key(run, 0), key(run, u64::MAX))
}

/// How many bytes are needed for a number, 0 to 8.
fn width(number: u64) -> usize {
    // At most 8, so the cast loses nothing.
    (64 - number.leading_zeros()).div_ceil(8) as usize
}

/// The numbers that decide the size of a block. They are brought up to date with each entry.
#[derive(Debug, Clone, Copy)]
struct Extent {
    count: usize,
    first: u64,
    last: u64,
    pack_min: u32,
    pack_max: u32,
    index_max: u32,
}

impl Extent {
    const NONE: Extent = Extent { count: 0, first: 0, last: 0, pack_min: u32::MAX, pack_max: 0, index_max: 0 };

    fn of(entries: &[Entry]) -> Extent {
        entries.iter().fold(Extent::NONE, Extent::with)
    }

    fn with(self, entry: &Entry) -> Extent {
        Extent {
            count: self.count + 1,
            first: if self.count == 0 { entry.prefix } else { self.first },
            last: entry.prefix,
            pack_min: self.pack_min.min(entry.pack),
            pack_max: self.pack_max.max(entry.pack),
            index_max: self.index_max.max(entry.index),
        }
    }

    /// The widths of the three columns, bytes.
    fn widths(&self) -> [usize; 3] {
        let packs = u64::from(self.pack_max.saturating_sub(self.pack_min));
        [width(self.last.saturating_sub(self.first)), width(packs), width(u64::from(self.index_max))]
    }

    fn bytes(&self) -> usize {
        HEADER_BYTES + self.count * self.widths().iter().sum::<usize>()
    }
}

/// Cuts sorted entries into blocks.
#[derive(Debug)]
pub(super) struct Cutter {
    entries: Vec<Entry>,
    extent: Extent,
    /// Where the entries of the newest slot start in `entries`: the only place to cut.
    tail: usize,
}

impl Cutter {
    pub(super) fn new() -> Self {
        Cutter { entries: Vec::new(), extent: Extent::NONE, tail: 0 }
    }

    /// Takes the next entry, and gives `out` the entries of a block when it is full. A slot with more entries than a block holds makes a larger
    /// block, which costs only overflow pages.
    pub(super) fn push(&mut self, entry: Entry, out: &mut impl FnMut(&[Entry]) -> Result<(), Fault>) -> Result<(), Fault> {
        debug_assert!(self.entries.last().is_none_or(|last| last.prefix <= entry.prefix), "entries come sorted");
        if self.entries.last().is_some_and(|last| slot(last.prefix) != slot(entry.prefix)) {
            self.tail = self.entries.len();
        }
        let mut extent = self.extent.with(&entry);
        // The block is cut before the newest slot, because look-ups expect all entries of a slot in one block.
        if extent.bytes() > BLOCK_BYTES_MAX && self.tail > 0 {
            let rest = self.entries.split_off(self.tail);
            out(&self.entries)?;
            extent = Extent::of(&rest).with(&entry);
            self.entries = rest;
            self.tail = 0;
        }
        self.entries.push(entry);
        self.extent = extent;
        Ok(())
    }

    /// Gives `out` what is left.
    pub(super) fn finish(self, out: &mut impl FnMut(&[Entry]) -> Result<(), Fault>) -> Result<(), Fault> {
        if self.entries.is_empty() { Ok(()) } else { out(&self.entries) }
    }
}

/// The stored form of one block's entries, which are sorted and not empty.
pub(super) fn encode(sums: &Sums, key: i64, entries: &[Entry]) -> Vec<u8> {
    debug_assert!(!entries.is_empty() && entries.is_sorted(), "look-ups search a block by halving");
    let extent = Extent::of(entries);
    let widths = extent.widths();
    let mut body = Vec::with_capacity(extent.bytes());
    body.extend(extent.first.to_be_bytes());
    body.extend(extent.pack_min.to_be_bytes());
    // A block has about 400 entries, and more only if more chunks share 40 bits of their ids: never 2^32. Widths are at most 8.
    body.extend(u32_from(extent.count).to_be_bytes());
    body.extend(widths.map(|width| width as u8));
    let mut column = |width: usize, number: &dyn Fn(&Entry) -> u64| {
        for entry in entries {
            body.extend(number(entry).to_be_bytes().iter().skip(8 - width));
        }
    };
    let [prefixes, packs, indexes] = widths;
    column(prefixes, &|entry| entry.prefix - extent.first);
    column(packs, &|entry| u64::from(entry.pack - extent.pack_min));
    column(indexes, &|entry| u64::from(entry.index));
    // The key is in the sum too, so that a block that is found under another key is noticed.
    let sum = sums.of(Kind::Block, &[&key.to_be_bytes(), &body]);
    body.extend(sum.to_be_bytes());
    body
}

/// A verified block.
#[derive(Debug)]
pub(super) struct Block {
    body: Vec<u8>,
    first: u64,
    pack_min: u32,
    count: usize,
    widths: [usize; 3],
}

impl Block {
    /// Verifies stored bytes and takes them apart.
    pub(super) fn decode(sums: &Sums, key: i64, bytes: &[u8]) -> Result<Block, Fault> {
        Self::parse(sums, key, bytes)?.ok_or_else(|| Fault::damaged("the header of a block of chunks does not fit its length"))
    }

    fn parse(sums: &Sums, key: i64, bytes: &[u8]) -> Result<Option<Block>, Fault> {
        // The sum comes first: nothing in the block is looked at before it is known to be ours.
        let Some((body, sum)) = bytes.split_last_chunk::<SUM_BYTES>() else { return Ok(None) };
        sums.verify(Kind::Block, &[&key.to_be_bytes(), body], i64::from_be_bytes(*sum))?;
        let Some((first, rest)) = body.split_first_chunk::<8>() else { return Ok(None) };
        let Some((pack_min, rest)) = rest.split_first_chunk::<4>() else { return Ok(None) };
        let Some((count, rest)) = rest.split_first_chunk::<4>() else { return Ok(None) };
        let Some((widths, columns)) = rest.split_first_chunk::<3>() else { return Ok(None) };
        let widths = widths.map(usize::from);
        let count = usize_from(u32::from_be_bytes(*count));
        let [prefixes, packs, indexes] = widths;
        // Even with a right sum the lengths are compared, so that `number` never reads outside the columns.
        let fits = prefixes <= 8 && packs <= 4 && indexes <= 4 && count > 0;
        if !fits || count.checked_mul(prefixes + packs + indexes) != Some(columns.len()) {
            return Ok(None);
        }
        let (first, pack_min) = (u64::from_be_bytes(*first), u32::from_be_bytes(*pack_min));
        Ok(Some(Block { body: columns.to_vec(), first, pack_min, count, widths }))
    }

    /// How many entries it has; never 0.
    pub(super) fn len(&self) -> usize {
        self.count
    }

    /// The number at this place of a column that starts at `start`. Every place below [`Block::len`] exists, because `parse` compared the lengths.
    fn number(&self, start: usize, width: usize, at: usize) -> u64 {
        let from = start + at * width;
        self.body.get(from..from + width).unwrap_or_default().iter().fold(0, |number, &byte| number << 8 | u64::from(byte))
    }

    fn prefix(&self, at: usize) -> u64 {
        let [width, ..] = self.widths;
        self.first.wrapping_add(self.number(0, width, at))
    }

    /// The entry at this place, which is below [`Block::len`].
    pub(super) fn entry(&self, at: usize) -> Entry {
        let [prefixes, packs, indexes] = self.widths;
        // `parse` allows at most 4 bytes for these columns, so the casts lose nothing.
        let pack = self.number(self.count * prefixes, packs, at) as u32;
        let index = self.number(self.count * (prefixes + packs), indexes, at) as u32;
        Entry { prefix: self.prefix(at), pack: self.pack_min.wrapping_add(pack), index }
    }

    /// Whether a prefix lies between the first and the last one here.
    pub(super) fn spans(&self, prefix: u64) -> bool {
        self.first <= prefix && prefix <= self.prefix(self.count - 1)
    }

    /// All entries with this prefix.
    pub(super) fn find(&self, prefix: u64) -> impl Iterator<Item = Entry> + '_ {
        // The first entry that is not below the prefix; all with the prefix follow it.
        let (mut low, mut high) = (0, self.count);
        while low < high {
            let middle = low + (high - low) / 2;
            if self.prefix(middle) < prefix { low = middle + 1 } else { high = middle }
        }
        (low..self.count).take_while(move |&at| self.prefix(at) == prefix).map(|at| self.entry(at))
    }
}
