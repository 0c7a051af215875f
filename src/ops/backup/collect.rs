//! Collects the chunks of a stream that several threads finish in any order, and builds the stream's tree in the
//! right order.
//!
//! Memory: chunk ids wait only while an earlier unit is missing. Also defines how a stream can fail ([`Failure`]).

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use crate::error::{Error, Result};
use crate::id::ChunkId;
use crate::store::format::snapshot::StreamRoot;
use crate::store::repo::{ChunkWriter, TreeCursor, TreeWriter, WriteSession};

/// Builds a stream's tree while its units come in out of order.
pub(super) struct Collector<'s> {
    state: Mutex<State<'s>>,
}

struct State<'s> {
    /// The number of the unit that the tree needs next.
    next: u64,
    /// Units that came too early.
    waiting: BTreeMap<u64, Vec<(ChunkId, u32, u64)>>,
    tree: TreeWriter,
    /// The parent's tree, whose nodes are the delta bases of the new nodes.
    parent: TreeCursor<'s>,
    writer: ChunkWriter<'s>,
}

impl<'s> Collector<'s> {
    pub(super) fn new(session: &'s WriteSession, parent: Option<StreamRoot>) -> Result<Self> {
        let parent = TreeCursor::new(session.reader(), parent);
        let state = State { next: 0, waiting: BTreeMap::new(), tree: TreeWriter::new(), parent, writer: session.writer()? };
        Ok(Collector { state: Mutex::new(state) })
    }

    /// Takes the chunks of unit number `unit`, each with its length and how often it is repeated. Units are numbered
    /// from 0 without gaps, and each comes once.
    pub(super) fn put(&self, unit: u64, chunks: Vec<(ChunkId, u32, u64)>) -> Result<()> {
        let mut guard = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let state = &mut *guard;
        debug_assert!(unit >= state.next && !state.waiting.contains_key(&unit), "each unit comes once");
        state.waiting.insert(unit, chunks);
        // Append all units that are now in order.
        while let Some(chunks) = state.waiting.remove(&state.next) {
            state.next += 1;
            for (id, len, count) in chunks {
                state.tree.push_run(id, len, count, &mut state.writer, &mut state.parent)?;
            }
        }
        Ok(())
    }

    /// Finishes the tree after the last unit and returns its root.
    pub(super) fn finish(self) -> Result<StreamRoot> {
        let mut state = self.state.into_inner().unwrap_or_else(PoisonError::into_inner);
        debug_assert!(state.waiting.is_empty(), "unit {} never came", state.next);
        let root = state.tree.finish(&mut state.writer, &mut state.parent)?;
        state.writer.flush()?;
        Ok(root)
    }

    /// Gives a tree up because of `failure`, and returns the failure. The nodes written so far are flushed: the
    /// session counts them as stored, and a later tree may refer to them.
    pub(super) fn give_up(self, failure: Failure) -> Failure {
        let mut state = self.state.into_inner().unwrap_or_else(PoisonError::into_inner);
        match state.writer.flush() {
            // A poisoned session accepts nothing more; the failure that we have says why.
            Ok(()) | Err(Error::Poisoned) => failure,
            Err(worse) => Failure::Session(worse),
        }
    }
}

/// Why a stream was not stored.
#[derive(Debug)]
pub(super) enum Failure {
    /// Its bytes cannot be read. The session can go on without this stream.
    Input(Error),
    /// Anything else. The backup ends.
    Session(Error),
}

impl Failure {
    /// The error, when it does not matter which side failed.
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

/// The most informative failure of several threads. When one thread fails it poisons the session, and the others fail
/// with `Poisoned`, which says nothing.
pub(super) fn first_failure(results: Vec<Result<(), Failure>>) -> Result<(), Failure> {
    let rank = |failure: &Failure| match failure {
        Failure::Session(Error::Poisoned) => 2,
        Failure::Input(_) => 1,
        Failure::Session(_) => 0,
    };
    results.into_iter().filter_map(|result| result.err()).min_by_key(rank).map_or(Ok(()), Err)
}
