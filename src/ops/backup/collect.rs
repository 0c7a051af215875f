//! Putting results that several threads finish in any order back into the stream's order.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use crate::error::{Error, Result};
use crate::id::ChunkId;
use crate::store::format::snapshot::StreamRoot;
use crate::store::repo::{ChunkWriter, TreeCursor, TreeWriter, WriteSession};

/// Builds a stream's tree while its chunks come in out of order.
pub(super) struct Collector<'s> {
    state: Mutex<State<'s>>,
}

struct State<'s> {
    next: u64,
    waiting: BTreeMap<u64, Vec<(ChunkId, u32, u64)>>,
    tree: TreeWriter,
    parent: TreeCursor<'s>,
    writer: ChunkWriter<'s>,
}

impl<'s> Collector<'s> {
    pub(super) fn new(session: &'s WriteSession, parent: Option<StreamRoot>) -> Result<Self> {
        let parent = TreeCursor::new(session.reader(), parent);
        let state = State { next: 0, waiting: BTreeMap::new(), tree: TreeWriter::new(), parent, writer: session.writer()? };
        Ok(Collector { state: Mutex::new(state) })
    }

    /// Takes the chunks of unit number `unit`, each with its length and how often it comes; units count from 0 without gaps.
    pub(super) fn put(&self, unit: u64, chunks: Vec<(ChunkId, u32, u64)>) -> Result<()> {
        let mut guard = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let state = &mut *guard;
        state.waiting.insert(unit, chunks);
        while let Some(chunks) = state.waiting.remove(&state.next) {
            state.next += 1;
            for (id, len, count) in chunks {
                state.tree.push_run(id, len, count, &mut state.writer, &mut state.parent)?;
            }
        }
        Ok(())
    }

    /// The root, after the last unit.
    pub(super) fn finish(self) -> Result<StreamRoot> {
        let mut state = self.state.into_inner().unwrap_or_else(PoisonError::into_inner);
        let root = state.tree.finish(&mut state.writer, &mut state.parent)?;
        state.writer.flush()?;
        Ok(root)
    }

    /// Ends a tree that will not be finished because of `failure`, and gives that back. Its nodes so far are stored all the same: the
    /// session counts them as stored, and a tree that comes later may have them too.
    pub(super) fn give_up(self, failure: Failure) -> Failure {
        let mut state = self.state.into_inner().unwrap_or_else(PoisonError::into_inner);
        match state.writer.flush() {
            Ok(()) | Err(Error::Poisoned) => failure,
            Err(worse) => Failure::Session(worse),
        }
    }
}

/// Why a stream was not stored.
#[derive(Debug)]
pub(super) enum Failure {
    /// Its bytes cannot be read; the session can go on without it.
    Input(Error),
    /// Anything else.
    Session(Error),
}

impl Failure {
    /// What happened, where it makes no difference to whom.
    pub(super) fn into_error(self) -> Error {
        let (Failure::Input(error) | Failure::Session(error)) = self;
        error
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Failure::Session(error)
    }
}

/// Of the results of several threads the failure that says most: a session that one thread has poisoned fails the others with nothing but that.
pub(super) fn first_failure(results: Vec<Result<(), Failure>>) -> Result<(), Failure> {
    let rank = |failure: &Failure| match failure {
        Failure::Session(Error::Poisoned) => 2,
        Failure::Input(_) => 1,
        Failure::Session(_) => 0,
    };
    results.into_iter().filter_map(|result| result.err()).min_by_key(rank).map_or(Ok(()), Err)
}
