//! Finds structural damage in the pages of a database as they pass by.
//!
//! A backup reads every page once, on several threads and in any order. [`StructureInspector`] looks at each page as it passes, keeps a
//! few bytes about it, and at the end walks the trees, overflow chains and the freelist through what it kept. That answers most of what
//! `PRAGMA quick_check` answers at a small part of its price, and without a second reading inside the user's read transaction.
//!
//! The rules are those of <https://sqlite.org/fileformat2.html>, as strict as `checkTreePage` and `checkList` in SQLite's `btree.c` and no
//! stricter, so a database that SQLite accepts is never reported. One exception is meant: `quick_check` leaves out the freelist and the
//! search for lost pages when the first object of its schema hash is a view or a virtual table (root page 0, taken for a partial check);
//! here these are always looked at.
//!
//! Covered at [`Level::Full`]:
//! - the database header, as far as SQLite refuses to open a file for it; the largest root page and the incremental-vacuum flag;
//! - every b-tree page: type, number of cells, cell pointers, freeblocks, cells and free bytes that fill the content area exactly, the
//!   first byte of each record header, ascending rowids;
//! - every tree: each page used exactly once, numbers in range, one kind of page in a tree, all leaves equally deep, the first rowid of each
//!   table leaf within the range that its parents give it;
//! - overflow chains: each page used once, an end after exactly the pages that the payload needs;
//! - the freelist: trunks, leaves, the count in the header;
//! - pointer-map entries of every page in an auto_vacuum database;
//! - pages that nothing refers to.
//!
//! Not covered, although `quick_check` sees it: column types and NOT NULL, record headers beyond their first byte, the last rowids of a leaf
//! against its parents, rowid order across leaves where rowids above 67 million differ by less than one part in 33 million, two cells that
//! overlap by exactly as much as another gap leaves free, indexes with fewer entries than their table. Not covered, although
//! `integrity_check` sees it: the order of index entries, indexes that disagree with their tables, UNIQUE. Nobody sees a change in stored
//! values.
//!
//! At [`Level::PagesOnly`] only the header, page 1 and such pages are reported as are b-tree pages by their first byte, are broken as such,
//! and cannot be free.

mod page;
mod sizes;
mod store;
mod walk;

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use page::{Fault, Links};
use sizes::{Role, Shape};
use store::{PageBits, Store};

/// Most problems that a report spells out; `PRAGMA quick_check` stops at the same number.
pub const PROBLEMS_MAX: usize = 100;

/// From this many pages on, the page number at the start of an overflow or trunk page can begin with 0x02, the type byte of a b-tree page,
/// and the roles of pages cannot be told apart before the trees are known. 128 GiB of 4 KiB pages.
const FULL_PAGES_MAX: u32 = 0x0200_0000;

/// Most broken pages remembered for [`Level::PagesOnly`]; more are dropped, not miscounted as good ones.
const SUSPECTS_MAX: usize = 1 << 14;

/// One thing that is wrong with a database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The page that is wrong, or that is wrongly used; counted from 1.
    pub page: u32,
    /// The root page of the tree in which that was met; 0 outside of trees.
    pub root: u32,
    /// What does not hold, for people: one line, without the page number.
    pub detail: String,
}

/// How much was looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    /// Pages and everything between them.
    Full,
    /// Pages on their own; damage in links between them is not seen.
    PagesOnly(Limit),
}

/// Why the links between pages were not looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limit {
    /// It would have needed more memory than allowed.
    Memory,
    /// The database has 33,554,432 pages or more.
    Pages,
    /// So many pages never passed by.
    Unread(u64),
    /// SQLite would not open a file with this header.
    Header,
}

/// What sort of b-tree a root page begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TreeKind {
    /// Rows by rowid.
    Table,
    /// Records in key order: an index or a WITHOUT ROWID table.
    Index,
    /// Not known; either is accepted.
    Any,
}

/// A root page as the schema names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Root {
    /// `rootpage`; rows with 0 or NULL (views, triggers, virtual tables) are left out.
    pub page: u32,
    /// [`TreeKind::Index`] where `type` is `index`, [`TreeKind::Any`] where it is `table` (it may be WITHOUT ROWID).
    pub kind: TreeKind,
}

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StructureReport {
    /// How much was looked at.
    pub level: Level,
    /// At most [`PROBLEMS_MAX`] problems; empty when none was found.
    pub problems: Vec<Problem>,
    /// Further problems that were found and not spelled out.
    pub more: u64,
    /// How many problems each tree has, by its root page; those not spelled out count.
    pub trees: BTreeMap<u32, u64>,
}

impl StructureReport {
    fn add(&mut self, page: u32, detail: impl Into<String>) {
        self.add_in(0, page, detail);
    }

    /// Adds a problem that was met in the tree with this root page; 0: in none.
    fn add_in(&mut self, root: u32, page: u32, detail: impl Into<String>) {
        if root != 0 {
            let count = self.trees.entry(root).or_default();
            *count = count.saturating_add(1);
        }
        if self.problems.len() < PROBLEMS_MAX {
            self.problems.push(Problem { page, root, detail: detail.into() });
        } else {
            self.more = self.more.saturating_add(1);
        }
    }
}

/// Looks at the pages of one committed state of one database. See the module's text for what it finds.
#[derive(Debug)]
pub struct StructureInspector {
    /// `Err`: why SQLite would refuse the header; then nothing else is looked at.
    shape: Result<Shape, &'static str>,
    /// What is kept for the walk; `None` when it would not fit.
    store: Option<Store>,
    /// Why there is no store.
    limit: Limit,
    /// Pages that some trunk-like page names as free; `None` when it would not fit or the freelist is empty.
    maybe_free: Option<PageBits>,
    /// Broken b-tree pages, for [`Level::PagesOnly`].
    suspects: Mutex<Vec<(u32, Fault)>>,
}

impl StructureInspector {
    /// Prepares for one database of `image_pages` pages.
    ///
    /// `header` is the start of page 1 (100 bytes or more) as it stands in the state that will be read: it gives the page size, the bytes
    /// reserved per page, the freelist and the auto_vacuum mode. Pages behind the size in the header are ignored, as SQLite does.
    ///
    /// At most `memory_limit_bytes` are used, apart from some hundred KiB. The full check takes 5 bytes a page (10 with auto_vacuum), 8 bytes
    /// for each page that is a child in a table tree, 4 in an index tree, 8 for each overflow chain, 4 for each free page. When that does
    /// not fit, at once or later, the inspector goes down to [`Level::PagesOnly`] by itself.
    pub fn new(header: &[u8], image_pages: u64, memory_limit_bytes: usize) -> Self {
        let shape = Shape::parse(header, image_pages);
        let mut inspector = Self { shape, store: None, limit: Limit::Header, maybe_free: None, suspects: Mutex::new(Vec::new()) };
        if let Ok(shape) = &inspector.shape {
            let mut left_bytes = memory_limit_bytes;
            if shape.free_pages > 0 && PageBits::bytes_for(shape.pages) <= left_bytes {
                left_bytes -= PageBits::bytes_for(shape.pages);
                inspector.maybe_free = Some(PageBits::new(shape.pages));
            }
            inspector.limit = if shape.pages < FULL_PAGES_MAX { Limit::Memory } else { Limit::Pages };
            if shape.pages < FULL_PAGES_MAX {
                inspector.store = Store::new(shape.pages, shape.auto_vacuum(), left_bytes);
            }
        }
        inspector
    }

    /// Looks at one page, counted from 1. Each page should pass exactly once; the order is free and any number of threads may call at once.
    ///
    /// What is no page of this database (0, beyond the end, another length) is ignored and counts as unread.
    pub fn page(&self, number: u64, bytes: &[u8]) {
        let (Ok(shape), Ok(number)) = (&self.shape, u32::try_from(number)) else { return };
        if number == 0 || number > shape.pages || bytes.len() != shape.page_size as usize {
            return;
        }
        match shape.role(number) {
            Role::Lock => {}
            Role::PointerMap => {
                if let Some(store) = &self.store {
                    store.put_pointer_map(number, bytes.get(..shape.usable as usize).unwrap_or_default());
                }
            }
            Role::Other => self.ordinary_page(shape, number, bytes),
        }
    }

    /// Takes note of a page, counted from 1, whose bytes are lost; it counts as one that has passed. Whatever needs it is a finding.
    pub fn lost(&self, number: u64) {
        let (Ok(shape), Ok(number), Some(store)) = (&self.shape, u32::try_from(number), &self.store) else { return };
        if number == 0 || number > shape.pages {
            return;
        }
        match shape.role(number) {
            Role::Lock => {}
            Role::PointerMap => store.put_lost_pointer_map(number),
            Role::Other => store.put_broken(number, Fault::Lost),
        }
    }

    /// Looks at a run of pages, the first of which is page `first` (counted from 1). A last piece shorter than a page is ignored.
    pub fn pages(&self, first: u64, bytes: &[u8]) {
        let Ok(shape) = &self.shape else { return };
        for (number, page) in (first..).zip(bytes.chunks_exact(shape.page_size as usize)) {
            self.page(number, page);
        }
    }

    /// Bytes of memory held now.
    pub fn memory_bytes(&self) -> usize {
        let suspects = self.suspects.lock().unwrap_or_else(PoisonError::into_inner).capacity() * size_of::<(u32, Fault)>();
        let bits = self.maybe_free.as_ref().map_or(0, PageBits::memory_bytes);
        suspects + bits + self.store.as_ref().map_or(0, Store::memory_bytes)
    }

    /// Says what was found, once every page has passed.
    ///
    /// `roots` are the root pages of the schema read in the same transaction, from
    /// `SELECT rootpage, type FROM sqlite_schema WHERE rootpage > 0`; page 1 need not be among them. `None`: the schema could not be read,
    /// which is a finding of its own; then only the schema's tree and the freelist are walked.
    pub fn finish(mut self, roots: Option<&[Root]>) -> StructureReport {
        let mut report = StructureReport { level: Level::Full, problems: Vec::new(), more: 0, trees: BTreeMap::new() };
        let shape = match &self.shape {
            Ok(shape) => shape,
            Err(detail) => {
                report.level = Level::PagesOnly(Limit::Header);
                report.add(1, *detail);
                return report;
            }
        };
        if roots.is_none() {
            report.add(1, "the schema cannot be read");
        }
        match self.store.take() {
            Some(store) if store.is_complete() => {
                let unread = store.unread(shape);
                if unread == 0 {
                    walk::walk(shape, store, roots, &mut report);
                    return report;
                }
                report.level = Level::PagesOnly(Limit::Unread(unread));
            }
            Some(_) => report.level = Level::PagesOnly(Limit::Memory),
            None => report.level = Level::PagesOnly(self.limit),
        }
        self.report_suspects(shape, &mut report);
        report
    }

    /// Looks at a page that is neither a pointer map nor the lock page: a b-tree, overflow, trunk or free page.
    fn ordinary_page(&self, shape: &Shape, number: u32, bytes: &[u8]) {
        let first_word = page::be32(bytes, 0).unwrap_or_default();
        let typed = matches!(bytes.first(), Some(2 | 5 | 10 | 13));
        if number != 1 && !(typed && first_word > shape.pages) {
            self.list_page(shape, number, first_word, bytes);
            return;
        }
        let mut links = Links::default();
        let verdict = page::inspect(shape, bytes, if number == 1 { 100 } else { 0 }, &mut links);
        if let Err(fault) = verdict {
            let mut suspects = self.suspects.lock().unwrap_or_else(PoisonError::into_inner);
            if suspects.len() < SUSPECTS_MAX {
                suspects.push((number, fault));
            }
        }
        if let Some(store) = &self.store {
            match verdict {
                Ok(kind) => store.put_tree(number, kind, &links),
                Err(fault) => store.put_broken(number, fault),
            }
        }
    }

    /// Keeps what a page means as an overflow or trunk page; as a free page it means nothing.
    fn list_page(&self, shape: &Shape, number: u32, next: u32, bytes: &[u8]) {
        let count = page::be32(bytes, 4).unwrap_or_default();
        let leaves = if shape.free_pages > 0 { page::trunk_leaves(shape, count, bytes) } else { None };
        if let (Some(bits), Some(leaves)) = (&self.maybe_free, leaves) {
            for leaf in page::words(leaves) {
                bits.set(leaf);
            }
        }
        if let Some(store) = &self.store {
            store.put_list(number, next, count, leaves);
        }
    }

    /// Reports broken b-tree pages that cannot be anything else: not free, and no overflow or trunk page, because those start with the
    /// number of a page that exists. Then SQLite reaches them as b-tree pages, or nothing reaches them; it reports both.
    fn report_suspects(&self, shape: &Shape, report: &mut StructureReport) {
        let mut suspects = self.suspects.lock().unwrap_or_else(PoisonError::into_inner);
        suspects.sort_unstable_by_key(|(page, _)| *page);
        for (page, fault) in suspects.iter() {
            let used = match &self.maybe_free {
                Some(bits) => !bits.get(*page),
                None => shape.free_pages == 0,
            };
            if used || *page == 1 {
                report.add(*page, fault.describe());
            }
        }
    }
}
