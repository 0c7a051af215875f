//! The streams of a snapshot as engines see them.

use std::io::{self, BufRead, Read};

use super::lost::explained;
use crate::engine::stored::{Stored, StreamInfo};
use crate::error::{Error, Result};
use crate::progress::{Monitor, Silent};
use crate::recorded::{FileMeta, SourceKind};
use crate::store::format::snapshot::{SnapshotRecord, StreamEntry, StreamRoot};
use crate::store::repo::{ChunkBytes, Reader, Repository, TreeCursor};

/// The streams of a snapshot.
///
/// # Errors
/// When its listing cannot be read; [`Error::Cancelled`].
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
    /// Of each stream what engines do not see.
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

    /// The listing again.
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
    chunk: Option<ChunkBytes>,
    /// What was taken of the chunk, bytes.
    taken: usize,
    /// Where the chunk after it begins.
    next: u64,
}

impl StreamReader<'_> {
    fn rest(&self) -> &[u8] {
        self.chunk.as_deref().and_then(|bytes| bytes.get(self.taken..)).unwrap_or_default()
    }

    fn advance(&mut self) -> Result<()> {
        (self.chunk, self.taken) = (None, 0);
        if self.next >= self.root.len {
            return Ok(());
        }
        let name = || String::from_utf8_lossy(self.name).into_owned();
        let damaged = || Error::corrupt(name(), format!("the tree above byte {} cannot be read", self.next));
        let span = self.cursor.at(self.next)?.ok_or_else(damaged)?;
        let bytes = self.reader.chunk(&span.id)?;
        let skipped = usize::try_from(self.next.saturating_sub(span.offset)).unwrap_or(usize::MAX);
        if bytes.len() != span.len as usize || skipped >= bytes.len() {
            return Err(Error::corrupt(format!("the tree node above chunk {}", span.id), "it gives the chunk another length"));
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
