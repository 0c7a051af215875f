//! Keeps a few bytes about each page until the walk: a class byte and a word, and a longer record for pages with links.
//!
//! Threads write without waiting for each other, except for records, where 16 locks share the work. Each page passes
//! once, so no two threads write about the same page. The walk begins after all threads have ended; joining them orders
//! all writes before it, so relaxed atomics are enough.
//!
//! Memory is bounded. Once a record does not fit, the store is not complete, and the walk is not done.

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};

use super::page::{Fault, Kind, Links, words};
use super::sizes::{Role, Shape};

/// Parts of the memory for records, each under its own lock. Page numbers spread over them.
const SHARDS: usize = 16;

/// Values of the low bits of a class byte. This one: the page has not passed.
const UNREAD: u8 = 0;
/// An overflow, trunk or free page. The page's word is its first word, or the place of the record `[first word, count,
/// leaves...]`.
const LIST: u8 = 1;
/// A pointer map.
const POINTER_MAP: u8 = 2;
/// A broken b-tree page. The page's word is the code of the fault.
const BROKEN: u8 = 3;
/// This and the next three values: the kinds of sound b-tree pages. The page's word is the rank of the first rowid, or
/// the place of the record `[count of children, count of chains, rank of the first rowid, children..., ranks...,
/// (first, pages) of chains...]`.
const TREE: u8 = 4;
/// Selects the low bits.
const KIND_MASK: u8 = 0x0f;
/// Flag: the page's word is the place of a record.
const RECORD: u8 = 0x10;
/// Flag: a b-tree page with a first rowid.
const HAS_RANK: u8 = 0x20;
/// Flag: a list page whose second word is 0. If it is a trunk page, it has no leaves.
const NO_LEAVES: u8 = 0x40;

/// One bit for each page of a database. Several threads may set bits at once.
#[derive(Debug)]
pub(super) struct PageBits(Vec<AtomicU64>);

impl PageBits {
    /// All clear, for pages 1 to `pages`.
    pub fn new(pages: u32) -> Self {
        Self((0..=pages / 64).map(|_| AtomicU64::new(0)).collect())
    }

    /// Bytes that [`PageBits::new`] takes.
    pub fn bytes_for(pages: u32) -> usize {
        (pages as usize / 64 + 1) * 8
    }

    /// Bytes held.
    pub fn memory_bytes(&self) -> usize {
        self.0.len() * 8
    }

    /// Sets the bit of a page. Says whether it was set before. Pages after the end count as set.
    pub fn set(&self, page: u32) -> bool {
        let bit = 1 << (page % 64);
        self.0.get(page as usize / 64).is_none_or(|word| word.fetch_or(bit, Relaxed) & bit != 0)
    }

    /// Whether the bit of a page is set.
    pub fn get(&self, page: u32) -> bool {
        self.0.get(page as usize / 64).is_some_and(|word| word.load(Relaxed) & (1 << (page % 64)) != 0)
    }
}

/// What is kept about the pages.
#[derive(Debug)]
pub(super) struct Store {
    classes: Vec<AtomicU8>,
    words: Vec<AtomicU32>,
    /// Pointer-map entries, by the page that they describe. Empty without auto_vacuum.
    parents: Vec<AtomicU32>,
    parent_types: Vec<AtomicU8>,
    /// The records of pages, one after the other. A page's records are in the shard of its number.
    shards: [Mutex<Vec<u32>>; SHARDS],
    shard_words_max: usize,
    /// Whether everything that was put did fit.
    complete: AtomicBool,
    /// Whether a page with pointer-map entries is lost.
    maps_lost: AtomicBool,
}

/// What one page is as a b-tree page.
pub(super) enum Seen<'a> {
    /// A sound b-tree page.
    Tree(TreePage<'a>),
    /// A broken b-tree page.
    Broken(Fault),
    /// Not a b-tree page.
    NotTree,
}

/// A sound b-tree page.
pub(super) struct TreePage<'a> {
    pub kind: Kind,
    /// From left to right.
    pub children: &'a [u32],
    /// The rank of the largest rowid below each child except the last, as the bits of an `i32`. Empty in index trees.
    pub ranks: &'a [u32],
    /// For each overflow chain its first page and its number of pages.
    pub chains: &'a [u32],
    /// The rank of the first rowid of a table leaf.
    pub first_rank: Option<i32>,
}

impl Store {
    /// A store for `pages` pages, or `None` if it would take more than `limit_bytes`. The bits of the walk are counted
    /// here, too.
    pub fn new(pages: u32, auto_vacuum: bool, limit_bytes: usize) -> Option<Self> {
        // Page 0 does not exist, but has an entry, so that the number of a page is its place.
        let entries = pages as usize + 1;
        // A class byte and a word; with auto_vacuum also the type and the parent.
        let per_page = if auto_vacuum { 10 } else { 5 };
        let left = limit_bytes.checked_sub(entries.checked_mul(per_page)?)?.checked_sub(PageBits::bytes_for(pages))?;
        let tracked = if auto_vacuum { entries } else { 0 };
        Some(Self {
            classes: (0..entries).map(|_| AtomicU8::new(UNREAD)).collect(),
            words: (0..entries).map(|_| AtomicU32::new(0)).collect(),
            parents: (0..tracked).map(|_| AtomicU32::new(0)).collect(),
            parent_types: (0..tracked).map(|_| AtomicU8::new(0)).collect(),
            shards: std::array::from_fn(|_| Mutex::new(Vec::new())),
            shard_words_max: left / 4 / SHARDS,
            complete: AtomicBool::new(true),
            maps_lost: AtomicBool::new(false),
        })
    }

    /// Whether everything that was put fitted.
    pub fn is_complete(&self) -> bool {
        self.complete.load(Relaxed)
    }

    /// Bytes held.
    pub fn memory_bytes(&self) -> usize {
        let records: usize = self.shards.iter().map(|shard| shard.lock().unwrap_or_else(PoisonError::into_inner).capacity() * 4).sum();
        records + (self.words.len() + self.parents.len()) * 5
    }

    /// How many pages were never put. The lock page does not count.
    pub fn unread(&self, shape: &Shape) -> u64 {
        let missing = |number: &u32| self.class(*number) == UNREAD && !matches!(shape.role(*number), Role::Lock);
        (1..=shape.pages).filter(missing).count() as u64
    }

    /// Keeps a sound b-tree page.
    pub fn put_tree(&self, number: u32, kind: Kind, links: &Links) {
        let mut class = TREE
            + match kind {
                Kind::IndexInterior => 0,
                Kind::TableInterior => 1,
                Kind::IndexLeaf => 2,
                Kind::TableLeaf => 3,
            };
        let rank = links.first_rank.unwrap_or_default().cast_unsigned();
        if links.first_rank.is_some() {
            class |= HAS_RANK;
        }
        // Most pages are leaves without overflow. For these the word is enough.
        if links.children.is_empty() && links.chains.is_empty() {
            return self.put(number, class, rank);
        }
        let len = 3 + links.children.len() + links.ranks.len() + 2 * links.chains.len();
        // A page has at most some 10,000 cells, so the counts fit.
        let head = [links.children.len() as u32, links.chains.len() as u32, rank];
        let ranks = links.ranks.iter().map(|rank| rank.cast_unsigned());
        let chains = links.chains.iter().flat_map(|(first, pages)| [*first, *pages]);
        self.put_record(number, class, len, head.into_iter().chain(links.children.iter().copied()).chain(ranks).chain(chains));
    }

    /// Keeps that a page is broken as a b-tree page.
    pub fn put_broken(&self, number: u32, fault: Fault) {
        self.put(number, BROKEN, fault as u32);
    }

    /// Keeps a page that is not a b-tree page: its first word, and the leaves that it has if it is a trunk page.
    /// `leaves` is `None` if it cannot be a trunk page, or has no leaves.
    pub fn put_list(&self, number: u32, next: u32, count: u32, leaves: Option<&[u8]>) {
        match leaves {
            Some(leaves) => self.put_record(number, LIST, 2 + leaves.len() / 4, [next, count].into_iter().chain(words(leaves))),
            None if count == 0 => self.put(number, LIST | NO_LEAVES, next),
            None => self.put(number, LIST, next),
        }
    }

    /// Keeps the entries of a pointer-map page: a type and a parent for each page that follows it.
    pub fn put_pointer_map(&self, number: u32, bytes: &[u8]) {
        self.put(number, POINTER_MAP, 0);
        let start = number as usize + 1;
        let (Some(parents), Some(types)) = (self.parents.get(start..), self.parent_types.get(start..)) else { return };
        for ((entry, parent), kind) in bytes.as_chunks::<5>().0.iter().zip(parents).zip(types) {
            let [tag, parent_bytes @ ..] = *entry;
            parent.store(u32::from_be_bytes(parent_bytes), Relaxed);
            kind.store(tag, Relaxed);
        }
    }

    /// Keeps that the entries of a pointer-map page are lost.
    pub fn put_lost_pointer_map(&self, number: u32) {
        self.put(number, POINTER_MAP, 0);
        self.maps_lost.store(true, Relaxed);
    }

    /// The pointer-map entry of a page: type and parent.
    pub fn pointer_map(&self, page: u32) -> (u8, u32) {
        let load = |at: usize| Some((self.parent_types.get(at)?.load(Relaxed), self.parents.get(at)?.load(Relaxed)));
        load(page as usize).unwrap_or_default()
    }

    /// Keeps class and word of a page.
    fn put(&self, number: u32, class: u8, word: u32) {
        if let (Some(class_at), Some(word_at)) = (self.classes.get(number as usize), self.words.get(number as usize)) {
            class_at.store(class, Relaxed);
            word_at.store(word, Relaxed);
        }
    }

    /// Keeps a record of `len` words about a page.
    fn put_record(&self, number: u32, class: u8, len: usize, record: impl Iterator<Item = u32>) {
        let Some(shard) = self.shards.get(number as usize % SHARDS) else { return };
        let mut arena = shard.lock().unwrap_or_else(PoisonError::into_inner);
        let end = arena.len() + len;
        // Once one record does not fit, all others are useless, too, and their memory is freed.
        if !self.is_complete() || end > self.shard_words_max {
            self.complete.store(false, Relaxed);
            *arena = Vec::new();
            return;
        }
        if end > arena.capacity() {
            // The vector grows in small steps. Doubling could take twice the memory that is needed.
            let room = (end + arena.len() / 8 + 256).min(self.shard_words_max);
            let more = room - arena.len();
            arena.reserve_exact(more);
        }
        // At most `shard_words_max`. Its bytes are a sixteenth of the memory limit, which is some MiB, so the cast
        // keeps the value.
        let place = arena.len() as u32;
        arena.extend(record);
        self.put(number, class | RECORD, place);
    }

    fn class(&self, number: u32) -> u8 {
        self.classes.get(number as usize).map_or(UNREAD, |class| class.load(Relaxed))
    }
}

/// A store that takes no more pages, for the walk.
pub(super) struct Frozen {
    store: Store,
    /// The records, without their locks.
    arenas: Vec<Vec<u32>>,
}

impl Frozen {
    /// Ends the taking of pages.
    pub fn new(mut store: Store) -> Self {
        let take = |shard: &mut Mutex<Vec<u32>>| std::mem::take(shard.get_mut().unwrap_or_else(PoisonError::into_inner));
        let arenas = store.shards.iter_mut().map(take).collect();
        Self { store, arenas }
    }

    /// The page as a b-tree page.
    pub fn tree(&self, number: u32) -> Seen<'_> {
        let class = self.store.class(number);
        let word = self.word(number);
        let kind = match class & KIND_MASK {
            BROKEN => return Seen::Broken(Fault::from_code(word)),
            4 => Kind::IndexInterior,
            5 => Kind::TableInterior,
            6 => Kind::IndexLeaf,
            7 => Kind::TableLeaf,
            _ => return Seen::NotTree,
        };
        let mut page = TreePage { kind, children: &[], ranks: &[], chains: &[], first_rank: None };
        let mut rank = word;
        // The record has the form that `put_tree` has given it.
        if let Some([children, chains, first_rank, rest @ ..]) = self.record(number, class) {
            let ranks = if kind == Kind::TableInterior { children.saturating_sub(1) } else { 0 };
            let (children, rest) = rest.split_at_checked(*children as usize).unwrap_or_default();
            let (ranks, rest) = rest.split_at_checked(ranks as usize).unwrap_or_default();
            page.children = children;
            page.ranks = ranks;
            page.chains = rest.get(..2 * *chains as usize).unwrap_or_default();
            rank = *first_rank;
        }
        page.first_rank = (class & HAS_RANK != 0).then_some(rank.cast_signed());
        Seen::Tree(page)
    }

    /// The first word of a page that is not a b-tree page. In an overflow page it is the number of the next one, or 0.
    pub fn next(&self, number: u32) -> Option<u32> {
        let class = self.store.class(number);
        let place_or_next = self.word(number);
        (class & KIND_MASK == LIST).then(|| self.record(number, class).and_then(<[u32]>::first).copied().unwrap_or(place_or_next))
    }

    /// If a page can be a trunk page: the next trunk page (or 0), and its leaves.
    pub fn trunk(&self, number: u32) -> Option<(u32, &[u32])> {
        let class = self.store.class(number);
        match self.record(number, class) {
            Some([next, count, rest @ ..]) if class & KIND_MASK == LIST => Some((*next, rest.get(..*count as usize)?)),
            _ => (class & NO_LEAVES != 0).then_some((self.word(number), &[])),
        }
    }

    /// The pointer-map entry of a page: type and parent. `None` if it may be lost.
    pub fn pointer_map(&self, page: u32) -> Option<(u8, u32)> {
        let entry = self.store.pointer_map(page);
        // No valid entry has type 0. If a pointer map is lost, such an entry says nothing.
        (entry != (0, 0) || !self.store.maps_lost.load(Relaxed)).then_some(entry)
    }

    fn word(&self, number: u32) -> u32 {
        self.store.words.get(number as usize).map_or(0, |word| word.load(Relaxed))
    }

    /// The record of a page, with everything that follows it in its shard.
    fn record(&self, number: u32, class: u8) -> Option<&[u32]> {
        if class & RECORD == 0 {
            return None;
        }
        self.arenas.get(number as usize % SHARDS)?.get(self.word(number) as usize..)
    }
}
