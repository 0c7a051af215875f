//! Walks the trees, overflow chains and the freelist over what was kept about the pages, after all of them have passed.
//! It does what `sqlite3BtreeIntegrityCheck`, `checkList` and the tree half of `checkTreePage` in `btree.c` do.
//!
//! Nothing in the database is trusted. Each page is used at most once (`claim`), so every loop ends, also if pages
//! refer to each other.

use super::page::{Fault, Kind};
use super::sizes::{Role, Shape};
use super::store::{Frozen, PageBits, Seen, Store, TreePage};
use super::{Root, StructureReport, TreeKind};

/// The most pages from a root to a leaf (`BTCURSOR_MAX_DEPTH` in `btree.c`).
const DEPTH_MAX: u32 = 20;

/// The types of pointer-map entries (<https://sqlite.org/fileformat2.html#pointer_map_or_ptrmap_pages>). This one: a
/// root page.
const MAP_ROOT: u8 = 1;
/// A page of the freelist.
const MAP_FREE: u8 = 2;
/// The first page of an overflow chain. The parent is the b-tree page.
const MAP_FIRST_OVERFLOW: u8 = 3;
/// A further page of an overflow chain. The parent is the page before it in the chain.
const MAP_NEXT_OVERFLOW: u8 = 4;
/// A b-tree page that is not a root. The parent is the page above it.
const MAP_CHILD: u8 = 5;

/// What refers to a page.
#[derive(Clone, Copy)]
enum By {
    Schema,
    Header,
    Page(u32),
}

impl std::fmt::Display for By {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            By::Schema => formatter.write_str("the schema"),
            By::Header => formatter.write_str("the header"),
            By::Page(page) => write!(formatter, "page {page}"),
        }
    }
}

/// A b-tree page that was claimed and not looked at yet.
struct Step {
    page: u32,
    /// 0 for a root.
    level: u32,
    by: By,
    /// Ranks that bound the rowids of this page and of all pages below it: at least `low`, at most `high`.
    low: i32,
    high: i32,
}

/// The state of the walk.
struct Walk<'a> {
    shape: &'a Shape,
    pages: &'a Frozen,
    /// Pages that something refers to. Every loop takes only pages that were not set, so it ends.
    used: PageBits,
    report: &'a mut StructureReport,
    /// The root page of the tree that is walked; 0 outside of trees.
    root: u32,
}

/// Follows every reference from the header, page 1 and the other roots.
pub(super) fn walk(shape: &Shape, store: Store, roots: Option<&[Root]>, report: &mut StructureReport) {
    let pages = Frozen::new(store);
    let mut walk = Walk { shape, pages: &pages, used: PageBits::new(shape.pages), report, root: 0 };
    walk.freelist();
    walk.tree(Root { page: 1, kind: TreeKind::Table });
    let Some(roots) = roots else { return };
    for root in roots.iter().filter(|root| root.page != 1) {
        walk.tree(*root);
    }
    walk.header(roots);
    // After damage, all pages that hang below it look unused. Reporting them would say nothing new.
    if walk.report.problems.is_empty() {
        walk.lost_pages();
    }
}

impl<'a> Walk<'a> {
    /// Reports a problem in the tree that is walked.
    fn found(&mut self, page: u32, detail: impl Into<String>) {
        self.report.add_in(self.root, page, detail);
    }

    /// Follows everything below a root page.
    fn tree(&mut self, root: Root) {
        self.root = root.page;
        self.pages_of(root);
        self.root = 0;
    }

    /// Checks the fields of the header that depend on the schema.
    fn header(&mut self, roots: &[Root]) {
        let largest = roots.iter().map(|root| root.page).max().unwrap_or(1).max(1);
        let stated = self.shape.largest_root;
        if self.shape.auto_vacuum() && stated != largest {
            self.found(1, format!("the header says that the largest root page is {stated}, but it is {largest}"));
        }
        if !self.shape.auto_vacuum() && self.shape.incremental != 0 {
            self.found(1, "the header asks for incremental vacuum without auto_vacuum");
        }
    }

    /// Follows the freelist: a chain of trunk pages, each with the numbers of its leaves.
    fn freelist(&mut self) {
        let problems_before = self.report.problems.len();
        let (mut at, mut by, mut found) = (self.shape.first_trunk, By::Header, 0_u64);
        while at != 0 && self.shape.free_pages != 0 {
            if !self.claim(at, by) {
                return;
            }
            self.check_map(at, MAP_FREE, 0);
            let Some((next, leaves)) = self.pages.trunk(at) else {
                self.found(at, "is a freelist trunk page, but names impossible pages");
                return;
            };
            for leaf in leaves {
                self.check_map(*leaf, MAP_FREE, 0);
                self.claim(*leaf, By::Page(at));
            }
            found += 1 + leaves.len() as u64;
            (at, by) = (next, By::Page(at));
        }
        let stated = self.shape.free_pages;
        // A wrong count after another problem would only repeat it.
        if self.report.problems.len() == problems_before && (found != u64::from(stated) || at != 0) {
            self.found(1, format!("the header counts {stated} free pages, but the freelist does not have that many ({found})"));
        }
    }

    /// Walks one tree, depth first, without recursion: a damaged tree must not overflow the call stack.
    fn pages_of(&mut self, root: Root) {
        if !self.claim(root.page, By::Schema) {
            return;
        }
        // Page 1 has no pointer-map entry.
        if root.page != 1 {
            self.check_map(root.page, MAP_ROOT, 0);
        }
        let mut kind = root.kind;
        let mut leaf_level = None;
        let mut steps = vec![Step { page: root.page, level: 0, by: By::Schema, low: i32::MIN, high: i32::MAX }];
        while let Some(step) = steps.pop() {
            let Some(page) = self.tree_page(&step, kind) else { continue };
            // The root decides for the whole tree, if the schema has not said which kind it is.
            kind = if page.kind.is_table() { TreeKind::Table } else { TreeKind::Index };
            self.check_rowids(&step, &page);
            for chain in page.chains.as_chunks::<2>().0 {
                self.chain(*chain, step.page);
            }
            if page.kind.is_leaf() {
                // A misplaced branch has many leaves, so the expected level follows each change: one report for each
                // change is enough.
                if *leaf_level.get_or_insert(step.level) != step.level {
                    leaf_level = Some(step.level);
                    self.found(step.page, format!("is a leaf at another depth than others of the tree at page {}", root.page));
                }
            } else {
                self.descend(&step, &page, &mut steps);
            }
        }
    }

    /// The page of a step, if it can belong to a tree of this kind. Else reports why not.
    fn tree_page(&mut self, step: &Step, kind: TreeKind) -> Option<TreePage<'a>> {
        if step.level >= DEPTH_MAX {
            self.found(step.page, format!("lies more than {DEPTH_MAX} pages deep in its tree"));
            return None;
        }
        match self.pages.tree(step.page) {
            Seen::Tree(page) => {
                let wanted = match kind {
                    TreeKind::Table => page.kind.is_table(),
                    TreeKind::Index => !page.kind.is_table(),
                    TreeKind::Any => true,
                };
                if wanted {
                    return Some(page);
                }
                self.found(step.page, format!("is a page of a table where an index is wanted, or the reverse (used by {})", step.by));
            }
            Seen::Broken(fault) => self.found(step.page, fault.describe()),
            Seen::NotTree => self.found(step.page, format!("is not a b-tree page, but is used as one by {}", step.by)),
        }
        None
    }

    /// Checks that the rowids of a page lie in the range that the pages above give it. Of a leaf, only the first rowid
    /// was kept.
    fn check_rowids(&mut self, step: &Step, page: &TreePage<'_>) {
        let smallest = page.ranks.first().map(|rank| rank.cast_signed()).or(page.first_rank);
        let largest = page.ranks.last().map(|rank| rank.cast_signed()).or(page.first_rank);
        if smallest.is_some_and(|rank| rank < step.low) || largest.is_some_and(|rank| rank > step.high) {
            self.found(step.page, format!("has rowids outside the range that {} gives it", step.by));
        }
    }

    /// Adds a step for each child. The rowids of a page split its range among the children: each one bounds the child
    /// at its left.
    fn descend(&mut self, step: &Step, page: &TreePage<'_>, steps: &mut Vec<Step>) {
        let mut low = step.low;
        for (at, child) in page.children.iter().enumerate() {
            // The last child has no rowid of its own; the range of this page bounds it.
            let high = page.ranks.get(at).map_or(step.high, |rank| rank.cast_signed());
            self.check_map(*child, MAP_CHILD, step.page);
            if self.claim(*child, By::Page(step.page)) {
                steps.push(Step { page: *child, level: step.level + 1, by: By::Page(step.page), low, high });
            }
            if page.kind == Kind::TableInterior {
                low = high;
            }
        }
    }

    /// Follows an overflow chain from its first page. `wanted` is the number of pages that the payload needs, `owner`
    /// the page with the cell.
    fn chain(&mut self, [first, wanted]: [u32; 2], owner: u32) {
        self.check_map(first, MAP_FIRST_OVERFLOW, owner);
        let (mut at, mut before, mut found) = (first, owner, 0_u32);
        while at != 0 {
            if !self.claim(at, By::Page(before)) {
                return;
            }
            found += 1;
            let Some(next) = self.pages.next(at) else {
                // A lost page is named as lost. It could have been an overflow page.
                match self.pages.tree(at) {
                    Seen::Broken(Fault::Lost) => self.found(at, Fault::Lost.describe()),
                    _ => self.found(at, format!("is not an overflow page, but is used as one by page {before}")),
                }
                return;
            };
            if found < wanted && next != 0 {
                self.check_map(next, MAP_NEXT_OVERFLOW, at);
            }
            (before, at) = (at, next);
        }
        if found != wanted {
            self.found(owner, format!("has an overflow chain of {found} pages from page {first} that needs {wanted}"));
        }
    }

    /// Notes that something refers to a page. If the page cannot be used, or is used already, reports that and gives
    /// `false`.
    fn claim(&mut self, page: u32, by: By) -> bool {
        if page == 0 || page > self.shape.pages {
            let culprit = if let By::Page(page) = by { page } else { 1 };
            self.found(culprit, format!("{by} refers to page {page}, which does not exist"));
            return false;
        }
        let what = match self.shape.role(page) {
            Role::Lock => "is the lock-byte page",
            Role::PointerMap => "is a pointer-map page",
            Role::Other if self.used.set(page) => "is used already",
            Role::Other => return true,
        };
        self.found(page, format!("{what}, but {by} refers to it"));
        false
    }

    /// Compares the pointer-map entry of a page with what refers to it.
    fn check_map(&mut self, page: u32, kind: u8, parent: u32) {
        // Pages that do not exist or have a special role have no entry. `claim` reports them.
        if !self.shape.auto_vacuum() || page == 0 || page > self.shape.pages || !matches!(self.shape.role(page), Role::Other) {
            return;
        }
        // `None`: the entry may be in a lost page.
        let Some((stated_kind, stated_parent)) = self.pages.pointer_map(page) else { return };
        if (stated_kind, stated_parent) != (kind, parent) {
            let detail = format!("has pointer-map entry ({stated_kind}, {stated_parent}), but should have ({kind}, {parent})");
            self.found(page, detail);
        }
    }

    /// Reports pages that nothing refers to.
    fn lost_pages(&mut self) {
        for page in 2..=self.shape.pages {
            if !self.used.get(page) && matches!(self.shape.role(page), Role::Other) {
                self.found(page, "is used by nothing and not free");
            }
        }
    }
}
