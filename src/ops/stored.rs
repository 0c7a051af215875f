//! Gives engines the streams of a snapshot, without showing them the repository.
//!
//! Streams are read chunk by chunk from any offset. Every chunk is verified against its id, and its length against
//! the tree.

use std::io::{self, BufRead, Read};

use super::lost::explained;
use crate::engine::stored::{Stored, StreamInfo};
use crate::error::{Error, Result};
use crate::ops::number::index;
use crate::progress::{Monitor, Silent};
use crate::recorded::{FileMeta, SourceKind};
use crate::store::format::snapshot::{SnapshotRecord, StreamEntry, StreamRoot};
use crate::store::repo::{ChunkBytes, Reader, Repository, TreeCursor};

/// Reads the listing of a snapshot and gives its streams.
///
/// # Errors
/// If the listing cannot be read; [`Error::Cancelled`].
pub fn stored(repo: &Repository, record: &SnapshotRecord, monitor: &dyn Monitor) -> Result<Box<dyn Stored>> {
    let reader = Reader::new(repo);
    let listing = reader.listing(&record.listing, monitor)?;
    Ok(Box::new(StoredSnapshot::new(repo, reader, record, listing)))
}

/// A snapshot whose listing was read.
pub(super) struct StoredSnapshot {
    reader: Reader,
    kind: SourceKind,
    facts: Vec<(String, String)>,
    streams: Vec<StreamInfo>,
    /// For each stream the parts of its entry that engines do not see.
    rest: Vec<(StreamRoot, Option<FileMeta>)>,
    is_sealed: bool,
}

impl StoredSnapshot {
    pub fn new(repo: &Repository, reader: Reader, record: &SnapshotRecord, listing: Vec<StreamEntry>) -> Self {
        let split = |entry: StreamEntry| {
            let StreamEntry { name, kind, root, meta, tables } = entry;
            (StreamInfo { name, kind, len: root.len, tables }, (root, meta))
        };
        let (streams, rest) = listing.into_iter().map(split).unzip();
        let (kind, facts) = (record.source.kind.clone(), record.facts.clone());
        StoredSnapshot { reader, kind, facts, streams, rest, is_sealed: repo.config().encrypted }
    }

    /// Gives the listing back.
    pub fn into_listing(self) -> Vec<StreamEntry> {
        let join = |(stream, (root, meta)): (StreamInfo, (StreamRoot, Option<FileMeta>))| {
            let StreamInfo { name, kind, tables, .. } = stream;
            StreamEntry { name, kind, root, meta, tables }
        };
        self.streams.into_iter().zip(self.rest).map(join).collect()
    }
}

impl Stored for StoredSnapshot {
    fn kind(&self) -> &SourceKind {
        &self.kind
    }

    fn streams(&self) -> &[StreamInfo] {
        &self.streams
    }

    fn facts(&self) -> &[(String, String)] {
        &self.facts
    }

    fn is_sealed(&self) -> bool {
        self.is_sealed
    }

    fn open(&self, name: &[u8], offset: u64) -> Result<Box<dyn BufRead + '_>> {
        let found = self.streams.iter().zip(&self.rest).find(|(stream, _)| stream.name == name);
        let no_such = || Error::NoSuch { detail: format!("the snapshot has no stream {}", String::from_utf8_lossy(name)) };
        let (stream, (root, _)) = found.ok_or_else(no_such)?;
        // The cursor finds the first chunk in the tree, so nothing before `offset` is read.
        let cursor = TreeCursor::new(&self.reader, Some(*root));
        Ok(Box::new(StreamReader { reader: &self.reader, name: &stream.name, root, cursor, chunk: None, taken: 0, next: offset }))
    }
}

/// Reads a stream chunk by chunk.
struct StreamReader<'s> {
    reader: &'s Reader,
    name: &'s [u8],
    root: &'s StreamRoot,
    cursor: TreeCursor<'s>,
    /// The current chunk.
    chunk: Option<ChunkBytes>,
    /// Bytes of the chunk that were consumed.
    taken: usize,
    /// Offset of the next chunk, bytes.
    next: u64,
}

impl StreamReader<'_> {
    /// The bytes of the current chunk that were not consumed.
    fn rest(&self) -> &[u8] {
        self.chunk.as_deref().and_then(|bytes| bytes.get(self.taken..)).unwrap_or_default()
    }

    /// Reads the next chunk; leaves none at the end of the stream.
    fn advance(&mut self) -> Result<()> {
        (self.chunk, self.taken) = (None, 0);
        if self.next >= self.root.len {
            return Ok(());
        }
        let name = || String::from_utf8_lossy(self.name).into_owned();
        let damaged = || Error::corrupt(name(), format!("the tree above byte {} cannot be read", self.next));
        let span = self.cursor.at(self.next)?.ok_or_else(damaged)?;
        let bytes = self.reader.chunk(&span.id)?;
        // Reading may start within a chunk.
        let skipped = usize::try_from(self.next.saturating_sub(span.offset)).unwrap_or(usize::MAX);
        if bytes.len() != index(span.len) || skipped >= bytes.len() {
            return Err(Error::corrupt(format!("the tree node above chunk {}", span.id), "its length for the chunk is wrong"));
        }
        self.next = span.offset.saturating_add(u64::from(span.len));
        (self.chunk, self.taken) = (Some(bytes), skipped);
        Ok(())
    }
}

impl BufRead for StreamReader<'_> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.rest().is_empty() {
            self.advance().map_err(|error| io::Error::other(explained(self.reader, (self.name, self.root), error, &Silent)))?;
        }
        Ok(self.rest())
    }

    fn consume(&mut self, amount: usize) {
        self.taken += amount;
    }
}

impl Read for StreamReader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let got = self.fill_buf()?.read(buffer)?;
        self.consume(got);
        Ok(got)
    }
}
