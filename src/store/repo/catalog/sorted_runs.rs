//! Runs: sorted sequences of blocks, and the merging that keeps them few.
//!
//! Each addition makes a run. [`FAN_IN`] runs of about one size are merged into one, in steps of bounded size. A step is a transaction: it
//! takes the lowest entries out of the inputs and appends them to the output. So at every moment each entry is in exactly one run,
//! look-ups are right between two steps, and the next process goes on where the last step ended, also after a kill.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, HashSet};

use rusqlite::{Connection, OptionalExtension, Transaction, params};

use super::block::{self, Block, Cutter, Entry, RUN_MAX};
use super::fault::Fault;
use super::sum::{Kind, Sums};
use super::{ChunkAt, PackNum};
use crate::store::repo::u64_from;

/// This many runs of one tier are merged. The runs of the next tier are as many times larger.
const FAN_IN: usize = 8;

/// Runs with fewer entries are all in the lowest tier, because merging them is cheaper than keeping them apart.
const TIER_0_ENTRIES: u64 = 4096;

/// All runs are merged when they have more than twice the entries of the packs that are there, plus this many: merging drops the dead entries.
const DEAD_ENTRIES_MIN: u64 = 100_000;

/// Entries in one step of a merge: about 12 MB of log. Other writers wait for a fraction of a second.
pub(super) const STEP_ENTRIES: u64 = 1 << 20;

/// A row of the table of runs.
#[derive(Debug, Clone, Copy)]
struct Run {
    num: u32,
    entries: u64,
    /// The run that this one is being merged into.
    target: Option<u32>,
}

impl Run {
    fn sum(&self, sums: &Sums) -> i64 {
        // 0 stands for no target: runs are numbered from 1.
        let target = self.target.unwrap_or(0);
        sums.of(Kind::Run, &[&self.num.to_be_bytes(), &self.entries.to_be_bytes(), &target.to_be_bytes()])
    }

    fn store(&self, tx: &Transaction, sums: &Sums) -> Result<(), Fault> {
        tx.prepare_cached("INSERT OR REPLACE INTO run (num, entries, target, sum) VALUES (?1, ?2, ?3, ?4)")?.execute(params![
            self.num,
            self.entries.cast_signed(),
            self.target,
            self.sum(sums)
        ])?;
        Ok(())
    }

    fn tier(&self) -> u32 {
        // Below TIER_0_ENTRIES the quotient is 0, which has no logarithm: the lowest tier.
        (self.entries / TIER_0_ENTRIES).checked_ilog(u64_from(FAN_IN)).map_or(0, |tier| tier + 1)
    }
}

/// All runs, oldest first.
fn load(conn: &Connection, sums: &Sums) -> Result<Vec<Run>, Fault> {
    let mut statement = conn.prepare_cached("SELECT num, entries, target, sum FROM run ORDER BY num")?;
    let mut rows = statement.query([])?;
    let mut runs = Vec::new();
    while let Some(row) = rows.next()? {
        // SQLite has only signed integers, so numbers of 64 bits are stored with their bits unchanged.
        let run = Run { num: row.get(0)?, entries: row.get::<_, i64>(1)?.cast_unsigned(), target: row.get(2)? };
        if run.sum(sums) != row.get::<_, i64>(3)? || run.num == 0 || run.num > RUN_MAX {
            return Err(Fault::damaged("the sum of a run is wrong"));
        }
        runs.push(run);
    }
    Ok(runs)
}

/// A number above all that are in use. Keys start with the run's number, so the blocks of a new run go to the end of the table.
fn next_num(runs: &[Run]) -> Result<u32, Fault> {
    // A merge's target has no row while nothing is stored in it, but its number is taken.
    let last = runs.iter().map(|run| run.num.max(run.target.unwrap_or(0))).max().unwrap_or(0);
    if last < RUN_MAX { Ok(last + 1) } else { Err(Fault::damaged("all run numbers are used up")) }
}

fn insert_block(tx: &Transaction, sums: &Sums, run: u32, entries: &[Entry]) -> Result<(), Fault> {
    let Some(first) = entries.first() else { return Ok(()) };
    let key = block::key(run, first.prefix);
    let bytes = block::encode(sums, key, entries);
    tx.prepare_cached("INSERT INTO block (key, data) VALUES (?1, ?2)")?.execute(params![key, bytes])?;
    Ok(())
}

/// Makes a run of these entries, which come in any order.
pub(super) fn add(tx: &Transaction, sums: &Sums, entries: &mut [Entry]) -> Result<(), Fault> {
    if entries.is_empty() {
        return Ok(());
    }
    entries.sort_unstable();
    let num = next_num(&load(tx, sums)?)?;
    let mut cutter = Cutter::new();
    let mut out = |entries: &[Entry]| insert_block(tx, sums, num, entries);
    entries.iter().try_for_each(|&entry| cutter.push(entry, &mut out))?;
    cutter.finish(&mut out)?;
    Run { num, entries: u64_from(entries.len()), target: None }.store(tx, sums)
}

/// One input of a merge.
struct Input {
    run: Run,
    block: Option<Block>,
    /// The place of the first entry of `block` that is not taken yet.
    at: usize,
    taken: u64,
}

impl Input {
    /// The lowest entry that is not taken yet. A block is deleted when it is read; [`Input::put_back`] stores again what was not taken.
    fn head(&mut self, tx: &Transaction, sums: &Sums) -> Result<Option<Entry>, Fault> {
        if self.block.as_ref().is_none_or(|block| self.at >= block.len()) {
            let (low, high) = block::key_range(self.run.num);
            let mut select = tx.prepare_cached("SELECT key, data FROM block WHERE key BETWEEN ?1 AND ?2 ORDER BY key LIMIT 1")?;
            let next = select.query_row([low, high], |row| {
                let key: i64 = row.get(0)?;
                Ok((key, Block::decode(sums, key, row.get_ref(1)?.as_blob()?)))
            });
            self.at = 0;
            self.block = None;
            let Some((key, block)) = next.optional()? else { return Ok(None) };
            self.block = Some(block?);
            tx.prepare_cached("DELETE FROM block WHERE key = ?1")?.execute([key])?;
        }
        Ok(self.block.as_ref().map(|block| block.entry(self.at)))
    }

    fn take(&mut self) {
        self.at += 1;
        self.taken += 1;
    }

    /// Stores again what was read and not taken, and sets the run's row to what is left.
    fn put_back(mut self, tx: &Transaction, sums: &Sums) -> Result<(), Fault> {
        let head = self.head(tx, sums)?;
        // The count must come to 0 exactly when the blocks end. Otherwise blocks were lost or added, and look-ups would miss chunks.
        let left = self.run.entries.checked_sub(self.taken).filter(|left| (*left > 0) == head.is_some());
        let Some(left) = left else { return Err(Fault::damaged("a run has more or fewer chunks than its row says")) };
        if let Some(block) = &self.block {
            let mut cutter = Cutter::new();
            let mut out = |entries: &[Entry]| insert_block(tx, sums, self.run.num, entries);
            (self.at..block.len()).try_for_each(|at| cutter.push(block.entry(at), &mut out))?;
            cutter.finish(&mut out)?;
        }
        if left == 0 {
            tx.prepare_cached("DELETE FROM run WHERE num = ?1")?.execute([self.run.num])?;
            return Ok(());
        }
        Run { entries: left, ..self.run }.store(tx, sums)
    }
}

/// Which runs to merge now, and into which run; `None` if nothing is due.
fn plan(tx: &Transaction, runs: &[Run]) -> Result<Option<(u32, Vec<Run>)>, Fault> {
    // A merge that is under way comes first: its inputs are marked in the table, so that any process can go on with it.
    if let Some(target) = runs.iter().find_map(|run| run.target) {
        return Ok(Some((target, runs.iter().filter(|run| run.target == Some(target)).copied().collect())));
    }
    let live: i64 = tx.prepare_cached("SELECT coalesce(sum(chunks), 0) FROM pack")?.query_row([], |row| row.get(0))?;
    let stored: u64 = runs.iter().map(|run| run.entries).fold(0, u64::saturating_add);
    let highest = runs.iter().map(Run::tier).max().unwrap_or(0);
    let full = |tier: &u32| runs.iter().filter(|run| run.tier() == *tier).count() >= FAN_IN;
    // When most entries belong to packs that are gone, all runs are merged, because only merging drops such entries.
    let tier = if stored > live.cast_unsigned().saturating_mul(2).saturating_add(DEAD_ENTRIES_MIN) {
        Some(highest)
    } else {
        (0..=highest).find(full)
    };
    let Some(tier) = tier else { return Ok(None) };
    let target = next_num(runs)?;
    // Lower tiers are merged too: they are small beside this one, and look-ups become cheaper with each run that goes.
    let inputs = runs.iter().filter(|run| run.tier() <= tier).map(|run| Run { target: Some(target), ..*run });
    Ok(Some((target, inputs.collect())))
}

/// Does one step of the merge that is due or under way, and says whether there was one. A step takes about `limit` entries. It ends only
/// between two slots, because all entries of a slot must be in one block.
pub(super) fn merge_step(tx: &Transaction, sums: &Sums, limit: u64) -> Result<bool, Fault> {
    let runs = load(tx, sums)?;
    let Some((num, inputs)) = plan(tx, &runs)? else { return Ok(false) };
    let mut target = runs.iter().find(|run| run.num == num).copied().unwrap_or(Run { num, entries: 0, target: None });
    let mut inputs: Vec<Input> = inputs.into_iter().map(|run| Input { run, block: None, at: 0, taken: 0 }).collect();
    let live = live_packs(tx)?;
    // The heap has the lowest entry of each input that is not empty.
    let mut heap = BinaryHeap::with_capacity(inputs.len());
    for (which, input) in inputs.iter_mut().enumerate() {
        heap.extend(input.head(tx, sums)?.map(|entry| Reverse((entry, which))));
    }
    let mut cutter = Cutter::new();
    let mut out = |entries: &[Entry]| insert_block(tx, sums, num, entries);
    let (mut taken, mut last_slot) = (0, None);
    while let Some(Reverse((entry, which))) = heap.peek().copied() {
        let slot = block::slot(entry.prefix);
        if taken >= limit && last_slot != Some(slot) {
            break;
        }
        (taken, last_slot) = (taken + 1, Some(slot));
        // Here entries of packs that are gone are left out for good.
        if live.contains(&entry.pack) {
            cutter.push(entry, &mut out)?;
            target.entries += 1;
        }
        // The input's next entry takes its place in the heap.
        let Some(input) = inputs.get_mut(which) else { break };
        input.take();
        let next = input.head(tx, sums)?;
        heap.pop();
        heap.extend(next.map(|entry| Reverse((entry, which))));
    }
    cutter.finish(&mut out)?;
    // This also stores the inputs' target in their rows, which marks the merge as under way.
    inputs.into_iter().try_for_each(|input| input.put_back(tx, sums))?;
    // All entries so far may have belonged to packs that are gone. A run without entries needs no row.
    if target.entries > 0 {
        target.store(tx, sums)?
    }
    Ok(true)
}

fn live_packs(conn: &Connection) -> Result<HashSet<u32>, Fault> {
    let mut statement = conn.prepare_cached("SELECT num FROM pack")?;
    let nums = statement.query_map([], |row| row.get::<_, u32>(0))?;
    Ok(nums.collect::<rusqlite::Result<_>>()?)
}

/// For each prefix, the copies of all chunks whose id starts with it, in packs that are there. Each run is read from its front to its back,
/// whatever the order of `prefixes` is. So a large batch reads a cold file nearly in sequence, and each block once.
pub(super) fn find_many(conn: &Connection, sums: &Sums, prefixes: &[u64]) -> Result<Vec<Vec<ChunkAt>>, Fault> {
    let mut found: Vec<Vec<ChunkAt>> = vec![Vec::new(); prefixes.len()];
    let mut sorted: Vec<(u64, &mut Vec<ChunkAt>)> = prefixes.iter().copied().zip(&mut found).collect();
    sorted.sort_unstable_by_key(|(prefix, _)| *prefix);
    let mut select = conn.prepare_cached("SELECT key, data FROM block WHERE key BETWEEN ?1 AND ?2 ORDER BY key DESC LIMIT 1")?;
    let mut packs = Packs { conn, known: HashMap::new() };
    for run in load(conn, sums)? {
        let (low, _) = block::key_range(run.num);
        let mut block: Option<Block> = None;
        for (prefix, copies) in &mut sorted {
            // The block with the highest key that is not above this prefix's: a slot is never split, so no other block can have it.
            if block.as_ref().is_none_or(|block| !block.spans(*prefix)) {
                let read = select.query_row([low, block::key(run.num, *prefix)], |row| {
                    let key: i64 = row.get(0)?;
                    Ok(Block::decode(sums, key, row.get_ref(1)?.as_blob()?))
                });
                block = read.optional()?.transpose()?;
            }
            for entry in block.iter().flat_map(|block| block.find(*prefix)) {
                // Entries outlive their packs until a merge drops them.
                if packs.has(entry.pack)? {
                    copies.push(ChunkAt { pack: PackNum(entry.pack), index: entry.index });
                }
            }
        }
    }
    Ok(found)
}

/// Which packs are there. The table is asked once for each.
struct Packs<'c> {
    conn: &'c Connection,
    known: HashMap<u32, bool>,
}

impl Packs<'_> {
    fn has(&mut self, num: u32) -> Result<bool, Fault> {
        if let Some(&there) = self.known.get(&num) {
            return Ok(there);
        }
        let there = self.conn.prepare_cached("SELECT 1 FROM pack WHERE num = ?1")?.exists([num])?;
        self.known.insert(num, there);
        Ok(there)
    }
}
