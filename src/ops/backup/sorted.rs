//! Sorts named values: they come in any order and are read in the order of their names.
//!
//! This is an external merge sort. Full runs go to a sealed file without a name; if there is no room for that, they
//! stay in memory, so a full disk does not stop a backup. Relies on the caller: each name comes once.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::store::repo::{Held, Spool, put_string, string_pairs};

/// Bytes that are collected in memory before they are written as a run.
const MEMORY: usize = 6 << 20;
/// Bytes that an item takes in memory besides its name and value.
const ITEM: usize = 2 * size_of::<Vec<u8>>();
/// Bytes of a run that are in memory at once while it is read.
const BLOCK_LEN: usize = 64 << 10;

/// A name and its value.
type Item = (Vec<u8>, Vec<u8>);

/// Takes values by name; each name comes once.
pub(super) struct Sorter {
    dir: PathBuf,
    memory: usize,
    /// The items that came last, not sorted.
    items: Vec<Item>,
    item_bytes: usize,
    /// The earlier items. Each run is sorted.
    runs: Vec<Vec<Block>>,
    spool: Option<Spool<()>>,
}

/// A part of a run.
enum Block {
    Spooled(Held),
    /// The file could not take it.
    InMemory(Vec<u8>),
}

impl Sorter {
    /// An empty sorter. The file is made in `dir` when it is first needed.
    pub(super) fn new(dir: &Path) -> Self {
        Sorter { dir: dir.to_path_buf(), memory: MEMORY, items: Vec::new(), item_bytes: 0, runs: Vec::new(), spool: None }
    }

    /// Adds a value.
    pub(super) fn put(&mut self, name: Vec<u8>, value: Vec<u8>) -> Result<()> {
        self.item_bytes += ITEM + name.len() + value.len();
        self.items.push((name, value));
        if self.item_bytes >= self.memory { self.end_run() } else { Ok(()) }
    }

    fn end_run(&mut self) -> Result<()> {
        self.sort();
        let mut run = Vec::new();
        let mut block = Vec::new();
        for (name, value) in std::mem::take(&mut self.items) {
            // Blocks end between items, so each can be parsed by itself.
            let put = put_string(&mut block, &name).and_then(|()| put_string(&mut block, &value));
            put.ok_or_else(|| Error::bug("a name or a value to be sorted has over 4 GiB"))?;
            if block.len() >= BLOCK_LEN {
                run.push(self.set_aside(std::mem::take(&mut block))?);
            }
        }
        if !block.is_empty() {
            run.push(self.set_aside(block)?);
        }
        self.runs.push(run);
        self.item_bytes = 0;
        Ok(())
    }

    fn set_aside(&mut self, block: Vec<u8>) -> Result<Block> {
        // No memory for the spool: `put` then says at once whether the file took the block.
        let spool = match self.spool.take() {
            Some(spool) => spool,
            None => Spool::new(&self.dir, 0)?,
        };
        let is_in = spool.put((), &block)?;
        let held = spool.take_all().pop();
        self.spool = Some(spool);
        Ok(match held {
            Some(((), held)) if is_in => Block::Spooled(held),
            _ => Block::InMemory(block),
        })
    }

    fn sort(&mut self) {
        self.items.sort_unstable_by(|one, other| one.0.cmp(&other.0));
    }

    /// Ends the input. The last items stay in memory.
    pub(super) fn finish(mut self) -> Sorted {
        self.sort();
        Sorted { items: self.items, runs: self.runs, spool: self.spool }
    }
}

/// Values by name.
pub(super) struct Sorted {
    items: Vec<Item>,
    runs: Vec<Vec<Block>>,
    spool: Option<Spool<()>>,
}

impl Sorted {
    /// All values in the order of their names.
    ///
    /// # Errors
    /// When the file cannot be read; then the error comes again at each further step.
    pub(super) fn iter(&self) -> Result<Merged<'_>> {
        // One more run for the items in memory. The heap always has the next item of each run, so its least is the
        // next of all.
        let in_file = self.runs.iter().map(|blocks| Run::Blocks { blocks: blocks.iter(), block: Vec::new().into_iter() });
        let mut merged = Merged { spool: self.spool.as_ref(), runs: in_file.collect(), heads: BinaryHeap::new() };
        merged.runs.push(Run::Items(self.items.iter()));
        for number in 0..merged.runs.len() {
            merged.advance(number)?;
        }
        Ok(merged)
    }
}

/// Merges the runs.
pub(super) struct Merged<'s> {
    spool: Option<&'s Spool<()>>,
    runs: Vec<Run<'s>>,
    /// The next item of each run, with the run's number.
    heads: BinaryHeap<Reverse<(Item, usize)>>,
}

enum Run<'s> {
    Items(std::slice::Iter<'s, Item>),
    Blocks { blocks: std::slice::Iter<'s, Block>, block: std::vec::IntoIter<Item> },
}

impl Merged<'_> {
    /// Puts the next item of a run among the heads.
    fn advance(&mut self, number: usize) -> Result<()> {
        let next = match self.runs.get_mut(number) {
            None => None,
            Some(Run::Items(items)) => items.next().cloned(),
            Some(Run::Blocks { blocks, block }) => {
                if block.len() == 0
                    && let Some(next) = blocks.next()
                {
                    *block = parsed(next, self.spool)?.into_iter();
                }
                block.next()
            }
        };
        self.heads.extend(next.map(|item| Reverse((item, number))));
        Ok(())
    }
}

impl Iterator for Merged<'_> {
    type Item = Result<Item>;

    fn next(&mut self) -> Option<Self::Item> {
        let Reverse((item, number)) = self.heads.pop()?;
        Some(self.advance(number).map(|()| item))
    }
}

/// The items of a block. That a block is not as it was written is a bug: the spool verifies its bytes.
fn parsed(block: &Block, spool: Option<&Spool<()>>) -> Result<Vec<Item>> {
    let wrong = || Error::bug("a block of sorted values is not as it was written");
    match block {
        Block::InMemory(bytes) => string_pairs(bytes).ok_or_else(wrong),
        Block::Spooled(held) => string_pairs(&spool.ok_or_else(wrong)?.read_again(held)?).ok_or_else(wrong),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// With a file, and without a place for one.
    #[test]
    fn values_come_back_in_the_order_of_their_names() {
        let dir = tempfile::tempdir().unwrap();
        let nowhere = dir.path().join("file");
        std::fs::write(&nowhere, "").unwrap();
        for place in [dir.path(), &nowhere] {
            assert!(Sorter::new(place).finish().iter().unwrap().next().is_none());
            let mut sorter = Sorter { memory: 200 << 10, ..Sorter::new(place) };
            let value = |n: u64| vec![n as u8; (n % 700) as usize];
            for n in 0..5_000_u64 {
                let n = n * 7_919 % 5_000;
                sorter.put(format!("{n:04}").into_bytes(), value(n)).unwrap();
            }
            let sorted = sorter.finish();
            assert!(sorted.runs.len() > 5);
            for _ in 0..2 {
                let back: Vec<Item> = sorted.iter().unwrap().collect::<Result<_>>().unwrap();
                assert!(back == (0..5_000).map(|n| (format!("{n:04}").into_bytes(), value(n))).collect::<Vec<_>>());
            }
        }
    }
}
