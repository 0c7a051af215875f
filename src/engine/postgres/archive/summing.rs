//! Sums the rows of tables in threads. Hashing many short rows takes as long as pg_dump takes to write them, and
//! partial sums can be added in any order.
//!
//! Bytes are collected in a batch, which is cut after its last whole row and given to a thread. Guarantee: the result
//! is the same as with one thread. The end of a table is always seen by the caller's thread (see [`KEPT_BACK`]); an end
//! that a thread finds comes before other rows, which is an error.

use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use super::Block;
use super::row_sum::{RowSum, Rows};

/// Bytes that a thread sums at once. A smaller table is summed by the caller's thread.
const BATCH_LEN: usize = 256 << 10;
/// Batches that may wait for a thread.
const QUEUE: usize = 4;
/// Two threads sum faster than pg_dump writes.
const THREADS: usize = 2;
/// A batch is cut at least this many bytes before its end. This is more than a table's end takes (`\.` and three
/// newlines), so a proper end is never given to a thread.
const KEPT_BACK: usize = 8;

/// Sums the rows of one block after the other.
pub(super) struct Summing {
    /// Whole rows, and the start of the next one.
    batch: Vec<u8>,
    /// Sums in the caller's thread: rows longer than a batch, and the end.
    here: Rows,
    /// The index of the current block.
    block: usize,
    /// The threads, from the first full batch on.
    threads: Option<Threads>,
}

/// The partial sum of one thread for one block.
struct Part {
    block: usize,
    rows: u64,
    sum: RowSum,
    /// Whether it found the line that ends the rows. Rows of the block followed, so the block is malformed.
    has_end: bool,
}

struct Batch {
    block: usize,
    bytes: Vec<u8>,
}

struct Threads {
    queue: SyncSender<Batch>,
    /// Buffers to be used again.
    spare: Receiver<Vec<u8>>,
    handles: Vec<JoinHandle<Vec<Part>>>,
}

impl Summing {
    pub(super) fn new() -> Self {
        Summing { batch: Vec::new(), here: Rows::default(), block: 0, threads: None }
    }

    /// Begins a block.
    pub(super) fn begin(&mut self, block: usize) {
        self.block = block;
        self.batch.clear();
        self.here = Rows::default();
    }

    /// Takes the next bytes of the block.
    pub(super) fn take(&mut self, mut piece: &[u8]) {
        // A row that was too long for a batch is being summed here. Its rest belongs here too.
        if !self.here.is_between_rows() {
            let end = memchr::memchr(b'\n', piece).map_or(piece.len(), |at| at + 1);
            let (line, others) = piece.split_at_checked(end).unwrap_or((piece, &[]));
            self.here.take(line);
            if !self.here.is_between_rows() {
                self.here.take(others);
                return;
            }
            piece = others;
        }
        self.batch.extend_from_slice(piece);
        if self.batch.len() >= BATCH_LEN {
            self.hand_over();
        }
    }

    /// Ends a block. Returns what this thread has summed; [`Summing::finish`] adds the rest. `None` if the block does
    /// not end properly.
    pub(super) fn end(&mut self) -> Option<(u64, RowSum)> {
        self.here.take(&self.batch);
        self.batch.clear();
        let here = std::mem::take(&mut self.here);
        here.is_complete().then_some((here.rows, here.sum))
    }

    /// Adds the sums of the threads.
    ///
    /// # Errors
    /// The index of a block that ends before its last row; `None` if a thread has failed.
    pub(super) fn finish(self, blocks: &mut [Block]) -> Result<(), Option<usize>> {
        let Some(Threads { queue, handles, .. }) = self.threads else { return Ok(()) };
        // The threads end when the queue is closed and empty.
        drop(queue);
        for handle in handles {
            for part in handle.join().map_err(|_| None)? {
                let block = blocks.get_mut(part.block).filter(|_| !part.has_end).ok_or(Some(part.block))?;
                block.rows += part.rows;
                block.sum.merge(&part.sum);
            }
        }
        Ok(())
    }

    /// Gives the whole rows of the batch to a thread.
    fn hand_over(&mut self) {
        let before = self.batch.get(..self.batch.len().saturating_sub(KEPT_BACK)).unwrap_or_default();
        let cut = memchr::memrchr(b'\n', before).map(|at| at + 1);
        if self.threads.is_none() {
            self.threads = Threads::start();
        }
        let (Some(cut), Some(threads)) = (cut, &self.threads) else {
            // A row is longer than a batch, or no thread could be started.
            self.here.take(&self.batch);
            self.batch.clear();
            return;
        };
        let mut next = threads.spare.try_recv().unwrap_or_default();
        next.clear();
        next.extend_from_slice(self.batch.get(cut..).unwrap_or_default());
        let mut bytes = std::mem::replace(&mut self.batch, next);
        bytes.truncate(cut);
        // Sending fails only if the threads have failed. `finish` finds that out when it joins them.
        let _ = threads.queue.send(Batch { block: self.block, bytes });
    }
}

impl Threads {
    fn start() -> Option<Self> {
        let (queue, batches) = sync_channel(QUEUE);
        let (used, spare) = sync_channel(QUEUE + THREADS);
        let batches = Arc::new(Mutex::new(batches));
        let start = |_| {
            let (batches, used) = (Arc::clone(&batches), used.clone());
            std::thread::Builder::new().name("rows".to_owned()).spawn(move || sum(&batches, &used)).ok()
        };
        let handles: Vec<_> = (0..THREADS).filter_map(start).collect();
        (!handles.is_empty()).then_some(Threads { queue, spare, handles })
    }
}

fn sum(batches: &Mutex<Receiver<Batch>>, used: &SyncSender<Vec<u8>>) -> Vec<Part> {
    let next = || batches.lock().unwrap_or_else(PoisonError::into_inner).recv().ok();
    let mut parts: Vec<Part> = Vec::new();
    while let Some(Batch { block, bytes }) = next() {
        let mut rows = Rows::default();
        rows.take(&bytes);
        let has_end = !rows.is_between_rows();
        match parts.last_mut().filter(|part| part.block == block) {
            Some(part) => {
                part.rows += rows.rows;
                part.sum.merge(&rows.sum);
                part.has_end |= has_end;
            }
            None => parts.push(Part { block, rows: rows.rows, sum: rows.sum, has_end }),
        }
        let _ = used.try_send(bytes);
    }
    parts
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn block() -> Block {
        Block { entry: 0, offset: 0, len: 0, rows: 0, sum: RowSum::default() }
    }

    /// Sums blocks that come in pieces of this length.
    fn summed(texts: &[Vec<u8>], piece: usize) -> Option<Vec<(u64, RowSum)>> {
        let (mut summing, mut blocks) = (Summing::new(), Vec::new());
        for (number, text) in texts.iter().enumerate() {
            summing.begin(number);
            text.chunks(piece).for_each(|piece| summing.take(piece));
            let (rows, sum) = summing.end()?;
            blocks.push(Block { rows, sum, ..block() });
        }
        summing.finish(&mut blocks).ok()?;
        Some(blocks.iter().map(|block| (block.rows, block.sum)).collect())
    }

    fn by_one(text: &[u8]) -> (u64, RowSum) {
        let mut rows = Rows::default();
        rows.take(text);
        assert!(rows.is_complete());
        (rows.rows, rows.sum)
    }

    /// Rows of all lengths, with this one in the middle.
    fn text(rows: usize, long: usize) -> Vec<u8> {
        let mut text = Vec::new();
        for row in 0..rows {
            text.extend_from_slice(format!("{row}\t{}\n", "x".repeat(row % 301)).as_bytes());
            if row == rows / 2 {
                text.resize(text.len() + long, b'y');
                text.push(b'\n');
            }
        }
        text.extend_from_slice(b"\\.\n\n\n");
        text
    }

    #[test]
    fn rows_are_the_same_as_by_one_thread() {
        let texts = [text(9_000, 0), text(0, 0), text(3, 3 * BATCH_LEN), text(7_000, BATCH_LEN - 100), text(5_000, 2 * BATCH_LEN + 17)];
        let expected: Vec<_> = texts.iter().map(|text| by_one(text)).collect();
        for piece in [97, 4096, 65_536, BATCH_LEN, 3 * BATCH_LEN + 1] {
            assert_eq!(summed(&texts, piece).unwrap(), expected, "{piece}");
        }
    }

    #[test]
    fn an_end_right_behind_a_row_as_long_as_a_batch_is_seen_in_full() {
        for len in BATCH_LEN - 10..BATCH_LEN + 2 {
            let text = [&vec![b'y'; len][..], b"\n\\.\n\n\n"].concat();
            for piece in [2, 3, 5] {
                assert_eq!(summed(std::slice::from_ref(&text), piece), Some(vec![by_one(&text)]), "{len} {piece}");
            }
        }
    }

    #[test]
    fn an_end_before_the_last_row_is_found_wherever_it_is() {
        let whole = text(9_000, 0);
        let rows = whole.strip_suffix(b"\\.\n\n\n").unwrap();
        let lines: Vec<usize> = memchr::memchr_iter(b'\n', rows).map(|at| at + 1).collect();
        for at in [0, lines.len() / 2, lines.len() - 1].into_iter().map(|line| *lines.get(line).unwrap()) {
            let (before, after) = whole.split_at(at);
            let broken = [before, b"\\.\n", after].concat();
            for piece in [1000, 65_536, BATCH_LEN + 7] {
                assert_eq!(summed(std::slice::from_ref(&broken), piece), None, "{at} {piece}");
            }
        }
        for cut in 1..=5 {
            assert_eq!(summed(&[whole.get(..whole.len() - cut).unwrap().to_vec()], 4096), None, "{cut}");
        }
        for more in [&b"\n"[..], b"x", &[b'\n'; 20], &[b'\n'; 600_000]] {
            assert_eq!(summed(&[[&whole[..], more].concat()], 4096), None, "{}", more.len());
        }
    }
}
