//! Finds structural damage in the pages of a database as they pass by.
//!
//! A backup reads every page once, on several threads and in any order. [`StructureInspector`] looks at each page as it
//! passes and keeps a few bytes about it. At the end it walks the trees, overflow chains and the freelist, using only
//! what it has kept. That finds most of what `PRAGMA quick_check` finds, in a small part of the time, and without
//! reading the pages again inside the user's read transaction.
//!
//! The rules are those of <https://sqlite.org/fileformat2.html>. They are as strict as `checkTreePage` and `checkList`
//! in SQLite's `btree.c` and not stricter, so a database that SQLite accepts is never reported. There is one exception,
//! on purpose: `quick_check` leaves out the freelist and the search for lost pages if the first object of its schema
//! hash is a view or a virtual table (it takes their root page 0 for a partial check). Here both are always checked.
//!
//! Memory is bounded. If a database needs more, only single pages are checked ([`Level::PagesOnly`]).
//!
//! Covered at [`Level::Full`]:
//! - the database header, as far as SQLite refuses to open a file for it; the largest root page and the
//!   incremental-vacuum flag;
//! - every b-tree page: type, number of cells, cell pointers, freeblocks; cells and free bytes fill the content area
//!   exactly; the first byte of each record header; rowids ascend;
//! - every tree: each page is used exactly once, page numbers are in range, all pages are of one kind, all leaves are
//!   equally deep, the first rowid of each table leaf is within the range that its parents give it;
//! - overflow chains: each page is used once, and a chain ends after exactly the pages that the payload needs;
//! - the freelist: trunks, leaves, the count in the header;
//! - pointer-map entries of every page in an auto_vacuum database;
//! - pages that nothing refers to.
//!
//! Not covered, although `quick_check` sees it:
//! - column types and NOT NULL; record headers after their first byte;
//! - the last rowids of a leaf against its parents;
//! - the order of rowids across leaves, if they are above 67 million and differ by less than one part in 33 million;
//! - two cells that overlap by exactly as many bytes as are unused elsewhere on the page;
//! - indexes with fewer entries than their table.
//!
//! Not covered, although `integrity_check` sees it: the order of index entries, indexes that differ from their tables,
//! UNIQUE. No check sees a change in stored values.
//!
//! At [`Level::PagesOnly`] these are reported: the header, page 1, and pages that are b-tree pages by their first byte,
//! are broken as such, and cannot be free.

mod page;
mod sizes;
mod store;
mod walk;

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use page::{Fault, Links};
use sizes::{Role, Shape};
use store::{PageBits, Store};

/// The most problems that a report spells out. `PRAGMA quick_check` stops at the same number.
pub const PROBLEMS_MAX: usize = 100;

/// From this many pages on (128 GiB of 4 KiB pages) the roles of pages cannot be told apart before the trees are known:
/// the page number at the start of an overflow or trunk page can begin with 0x02, which is also the type byte of a
/// b-tree page.
const FULL_PAGES_MAX: u32 = 0x0200_0000;

/// The most broken pages that are remembered for [`Level::PagesOnly`]. Further ones are not reported.
const SUSPECTS_MAX: usize = 1 << 14;

/// One problem of a database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The page that is wrong, or that is wrongly used. Counted from 1.
    pub page: u32,
    /// The root page of the tree in which it was met. 0 outside of trees.
    pub root: u32,
    /// The problem in one line for users, without the page number.
    pub detail: String,
}

/// How much was checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    /// Pages, and everything between them.
    Full,
    /// Only single pages. Damage in the links between them is not seen.
    PagesOnly(Limit),
}

/// Why the links between pages were not checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limit {
    /// It would have needed more memory than allowed.
    Memory,
    /// The database has 33,554,432 pages or more.
    Pages,
    /// This many pages never passed by.
    Unread(u64),
    /// SQLite would not open a file with this header.
    Header,
}

/// The kind of b-tree that a root page begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TreeKind {
    /// Rows by rowid.
    Table,
    /// Records in key order: an index or a WITHOUT ROWID table.
    Index,
    /// Not known. Both kinds are accepted.
    Any,
}

/// A root page as the schema names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Root {
    /// `rootpage`. Rows with 0 or NULL (views, triggers, virtual tables) are left out.
    pub page: u32,
    /// [`TreeKind::Index`] if `type` is `index`, [`TreeKind::Any`] if it is `table` (that may be WITHOUT ROWID).
    pub kind: TreeKind,
}

/// The result of the check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StructureReport {
    /// How much was checked.
    pub level: Level,
    /// At most [`PROBLEMS_MAX`] problems. Empty if none was found.
    pub problems: Vec<Problem>,
    /// How many more problems were found that are not in `problems`.
    pub more: u64,
    /// How many problems each tree has, by its root page. All problems count, also those that are not in `problems`.
    pub trees: BTreeMap<u32, u64>,
}

impl StructureReport {
    /// Adds a problem outside of trees.
    fn add(&mut self, page: u32, detail: impl Into<String>) {
        self.add_in(0, page, detail);
    }

    /// Adds a problem that was met in the tree with this root page; 0 stands for no tree.
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

/// Checks the pages of one committed state of one database. The module's text says what it finds.
#[derive(Debug)]
pub struct StructureInspector {
    /// The error says why SQLite would refuse the header. Then nothing else is checked.
    shape: Result<Shape, &'static str>,
    /// What is kept about pages for the walk. `None` if it does not fit into memory.
    store: Option<Store>,
    /// Why there is no store.
    limit: Limit,
    /// Pages that are named as free by a page that may be a trunk page. `None` if it does not fit into memory, or if
    /// the freelist is empty.
    maybe_free: Option<PageBits>,
    /// Broken b-tree pages, for [`Level::PagesOnly`].
    suspects: Mutex<Vec<(u32, Fault)>>,
}

impl StructureInspector {
    /// Prepares for one database of `image_pages` pages.
    ///
    /// `header` is the start of page 1 (100 bytes or more) of the state that will be read. It gives the page size, the
    /// reserved bytes of each page, the freelist and the auto_vacuum mode. Pages after the size in the header are
    /// ignored, as SQLite does.
    ///
    /// At most `memory_limit_bytes` are used, apart from a few hundred KiB. The full check takes 5 bytes for each page
    /// (10 with auto_vacuum), 8 bytes for each page that is a child in a table tree, 4 in an index tree, 8 for each
    /// overflow chain, and 4 for each free page. If that does not fit, now or later, the inspector goes down to
    /// [`Level::PagesOnly`] by itself.
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

    /// Checks one page, counted from 1. Each page should pass exactly once. The order is free, and any number of
    /// threads may call at once.
    ///
    /// A page that this database cannot have (number 0, after the end, another length) is ignored and counts as unread.
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

    /// Notes that the bytes of a page, counted from 1, are lost. The page counts as one that has passed. Each use of it
    /// is a finding.
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

    /// Checks a run of pages. The first one is page `first`, counted from 1. A last piece that is shorter than a page
    /// is ignored.
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

    /// Walks the structure and gives the report, after every page has passed.
    ///
    /// `roots` are the root pages of the schema, read in the same transaction by `SELECT rootpage, type FROM
    /// sqlite_schema WHERE rootpage > 0`. Page 1 need not be among them. `None` means that the schema could not be
    /// read. That is a problem by itself, and then only the tree of the schema and the freelist are walked.
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

    /// Checks a page that is neither a pointer map nor the lock page: a b-tree, overflow, trunk or free page.
    fn ordinary_page(&self, shape: &Shape, number: u32, bytes: &[u8]) {
        let first_word = page::be32(bytes, 0).unwrap_or_default();
        let typed = matches!(bytes.first(), Some(2 | 5 | 10 | 13));
        // Nobody has said yet what this page is. A b-tree page begins with its type; an overflow or trunk page begins
        // with the number of the next page. Below FULL_PAGES_MAX pages, no number of an existing page begins with a
        // type byte, so the two cannot be mixed up.
        if number != 1 && !(typed && first_word > shape.pages) {
            self.list_page(shape, number, first_word, bytes);
            return;
        }
        let mut links = Links::default();
        let verdict = page::inspect(shape, bytes, if number == 1 { 100 } else { 0 }, &mut links);
        // A broken page is not a problem yet: it may be a free page with old content. The walk finds out whether a tree
        // uses it.
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

    /// Keeps what a page says if it is an overflow or trunk page. If it turns out to be a free page, that is ignored.
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

    /// Reports broken b-tree pages that cannot be anything else. They are not free. They are not overflow or trunk
    /// pages, because those start with the number of a page that exists. So SQLite reaches them as b-tree pages, or
    /// nothing reaches them. It reports both.
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
