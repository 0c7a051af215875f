//! Reads many small files together, so that each frame that they share is decoded once.
//!
//! Files are written under hidden names and get their own names later, a batch at a time. If reading the batch fails,
//! its files are read one by one, so that only the damaged ones fail.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::{Mutex, PoisonError};

use super::{check_len, write_stream};
use crate::engine::files::restore::batch::Member;
use crate::engine::files::restore::tree::Tree;
use crate::error::{Error, Result};
use crate::id::ChunkId;
use crate::ops::lost::explained;
use crate::ops::number::wide;
use crate::progress::Monitor;
use crate::recorded::FileMeta;
use crate::store::format::snapshot::StreamEntry;
use crate::store::repo::{ChunkSpan, Reader, Spans};

/// The longest file that is read with others.
pub(super) const FILE_BYTES_MAX: u64 = 4 << 20;
/// Most files of a batch. A restore that is killed leaves the hidden files of at most three batches.
const FILES_MAX: usize = 4096;
/// Most bytes of a batch.
const BYTES_MAX: u64 = 64 << 20;
/// Most files with several chunks in a batch. Each may be open until its last chunk has come.
const OPEN_MAX: usize = 128;

/// A file of a batch.
pub(super) struct Item {
    pub entry: StreamEntry,
    pub member: Member,
    meta: Option<FileMeta>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Open from its first chunk to its last.
    file: Option<File>,
    /// How many of its chunks have not come yet.
    missing: usize,
    /// The result, once it is known.
    ended: Option<Result<()>>,
}

/// Files that are written together.
#[derive(Default)]
pub(super) struct Batch {
    items: Vec<Item>,
    /// The chunks of all of them, each with the number of its file.
    chunks: Vec<(usize, ChunkSpan)>,
    bytes: u64,
    open: usize,
}

impl Batch {
    /// Adds a file. If a tree node of it is damaged, the file has failed already.
    ///
    /// # Errors
    /// If reading itself fails.
    pub fn add(&mut self, reader: &Reader, entry: StreamEntry, member: Member, meta: Option<FileMeta>) -> Result<()> {
        let spans: Result<Vec<ChunkSpan>> = Spans::new(reader, &entry.root).and_then(Iterator::collect);
        // Chunks refer to their file by its number in the batch.
        let number = self.items.len();
        let mut state = State::default();
        match spans {
            Ok(spans) => {
                state.missing = spans.len();
                self.open += usize::from(spans.len() > 1);
                self.chunks.extend(spans.into_iter().map(|span| (number, span)));
            }
            Err(error) if error.is_damage() => state.ended = Some(Err(error)),
            Err(error) => return Err(error),
        }
        self.bytes += entry.root.len;
        self.items.push(Item { entry, member, meta, state: Mutex::new(state) });
        Ok(())
    }

    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// Whether no more should be added.
    pub fn is_full(&self) -> bool {
        self.items.len() >= FILES_MAX || self.bytes >= BYTES_MAX || self.open >= OPEN_MAX
    }

    /// Writes all files under their hidden names, and returns each with its result.
    ///
    /// # Errors
    /// If reading itself fails, or the user stops it. Then nothing of the batch is left.
    pub fn write(self, reader: &Reader, tree: &Tree<'_>, monitor: &dyn Monitor) -> Result<Vec<(Item, Result<()>)>> {
        let written = self.write_together(reader, tree, monitor).and_then(|()| self.write_rest(reader, tree, monitor));
        if let Err(error) = written {
            self.items.iter().for_each(|item| tree.discard(&item.member));
            return Err(error);
        }
        Ok(self.items.into_iter().map(Item::end).collect())
    }

    /// Reads all chunks of the batch in one go and gives each to its file.
    fn write_together(&self, reader: &Reader, tree: &Tree<'_>, monitor: &dyn Monitor) -> Result<()> {
        for item in self.items.iter().filter(|item| item.entry.root.len == 0) {
            let mut state = item.state();
            if state.ended.is_none() {
                state.ended = Some(tree.begin(&item.member).and_then(|file| tree.complete(&item.member, &file, item.meta.clone())));
            }
        }
        // Empty files have no chunks; they are finished above.
        let ids: Vec<ChunkId> = self.chunks.iter().map(|(_, span)| span.id).collect();
        let read = reader.each_chunk(&ids, None, &|number, bytes| {
            if monitor.cancelled() {
                return Err(Error::Cancelled);
            }
            // The reader gives the number of the chunk; the batch knows its file.
            if let Some((number, span)) = self.chunks.get(number)
                && let Some(item) = self.items.get(*number)
            {
                item.take(tree, span, bytes);
                monitor.advance(wide(bytes.len()));
            }
            Ok(())
        });
        match read {
            // `write_rest` finds out which files are damaged.
            Err(error) if error.is_damage() => Ok(()),
            read => read,
        }
    }

    /// Writes the files that are not finished, or failed because of damage, one by one.
    fn write_rest(&self, reader: &Reader, tree: &Tree<'_>, monitor: &dyn Monitor) -> Result<()> {
        for item in &self.items {
            let mut state = item.state();
            let is_damaged = |ended: &Option<Result<()>>| ended.as_ref().is_none_or(|ended| ended.as_ref().is_err_and(Error::is_damage));
            if !is_damaged(&state.ended) {
                continue;
            }
            // Start afresh: what was written before may lack chunks.
            state.file = None;
            tree.discard(&item.member);
            let written = tree.begin(&item.member).and_then(|file| {
                write_stream(reader, &item.entry, &file, monitor)?;
                tree.complete(&item.member, &file, item.meta.clone())
            });
            match written.map_err(|error| explained(reader, (&item.entry.name, &item.entry.root), error, monitor)) {
                Err(error @ Error::Destination { .. }) => state.ended = Some(Err(error)),
                Err(error) if !error.is_damage() => return Err(error),
                written => state.ended = Some(written),
            }
        }
        Ok(())
    }
}

impl Item {
    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes one chunk to its place. After its last chunk a file is complete.
    fn take(&self, tree: &Tree<'_>, span: &ChunkSpan, bytes: &[u8]) {
        let mut state = self.state();
        if state.ended.is_some() {
            return;
        }
        match self.write_chunk(&mut state, tree, span, bytes) {
            Ok(false) => {}
            Ok(true) => {
                state.file = None;
                state.ended = Some(Ok(()));
            }
            Err(error) => {
                state.file = None;
                state.ended = Some(Err(error));
            }
        }
    }

    /// Returns whether this was the last chunk.
    fn write_chunk(&self, state: &mut State, tree: &Tree<'_>, span: &ChunkSpan, bytes: &[u8]) -> Result<bool> {
        check_len(span, bytes)?;
        if state.file.is_none() {
            state.file = Some(tree.begin(&self.member)?);
        }
        let Some(file) = &state.file else { return Ok(false) };
        file.write_all_at(bytes, span.offset).map_err(|e| not_written(&self.member, &e))?;
        state.missing = state.missing.saturating_sub(1);
        if state.missing == 0 {
            tree.complete(&self.member, file, self.meta.clone())?;
        }
        Ok(state.missing == 0)
    }

    fn end(self) -> (Self, Result<()>) {
        let ended = self.state().ended.take();
        let unread = || Err(Error::corrupt(format!("stream {}", String::from_utf8_lossy(&self.entry.name)), "not all of its chunks came"));
        let ended = ended.unwrap_or_else(unread);
        (self, ended)
    }
}

fn not_written(member: &Member, cause: &std::io::Error) -> Error {
    Error::destination(member.path(), format!("cannot write the new one beside it: {cause}; what was there is unchanged"))
}
