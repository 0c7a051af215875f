//! The entries of a snapshot, one after the other: of a listing only the chunk at hand is in memory.

use std::collections::HashSet;

use super::merkle::Spans;
use super::reader::Reader;
use crate::error::{Error, Result};
use crate::id::ChunkId;
use crate::progress::Monitor;
use crate::store::format::record;
use crate::store::format::snapshot::{StreamEntry, StreamRoot};

/// Bytes that are at hand before an entry is decoded, so that nearly every one is decoded at the first try.
const AHEAD_BYTES: usize = 16 << 10;
/// Bytes of a name's hash that are compared.
const NAME_HASH_LEN: usize = 16;

/// Goes through a listing.
pub struct Entries<'r> {
    reader: &'r Reader,
    spans: Spans<'r>,
    /// What was read and not yet decoded, from `start`.
    bytes: Vec<u8>,
    start: usize,
    ended: bool,
    failed: bool,
    chunks: HashSet<ChunkId>,
    /// The names since a chunk came for the second time, as hashes.
    names: Option<HashSet<[u8; NAME_HASH_LEN]>>,
}

impl Reader {
    /// The entries of a snapshot, in order.
    ///
    /// # Errors
    /// When the root contradicts itself. Each entry may be an error, too: the last one that comes.
    pub fn entries(&self, root: &StreamRoot) -> Result<Entries<'_>> {
        let spans = Spans::new(self, root)?;
        Ok(Entries { reader: self, spans, bytes: Vec::new(), start: 0, ended: false, failed: false, chunks: HashSet::new(), names: None })
    }

    /// All entries of a snapshot.
    ///
    /// # Errors
    /// As [`Reader::entries`]; [`Error::Cancelled`] as soon as the user wants to stop: a listing can have a million entries.
    pub fn listing(&self, root: &StreamRoot, monitor: &dyn Monitor) -> Result<Vec<StreamEntry>> {
        let to_the_end = |entry| if monitor.cancelled() { Err(Error::Cancelled) } else { entry };
        self.entries(root)?.map(to_the_end).collect()
    }
}

impl Entries<'_> {
    fn advance(&mut self) -> Result<Option<StreamEntry>> {
        loop {
            let rest = self.bytes.get(self.start..).unwrap_or_default();
            if rest.is_empty() && self.ended {
                return Ok(None);
            }
            if !self.ended && rest.len() < AHEAD_BYTES {
                self.read_on()?;
                continue;
            }
            match record::decode_first::<StreamEntry>(rest) {
                Ok((entry, after)) => {
                    self.start = self.bytes.len() - after.len();
                    self.refuse_again(&entry)?;
                    return Ok(Some(entry));
                }
                // It may go on in the next chunk.
                Err(_) if !self.ended => self.read_on()?,
                Err(malformed) => return Err(malformed.of("a snapshot's listing")),
            }
        }
    }

    /// A few nodes that name the same chunks over and over can make a listing without end. Names in a listing are different, so it ends where one comes again;
    /// they need to be compared only once a chunk has come again.
    fn refuse_again(&mut self, entry: &StreamEntry) -> Result<()> {
        let Some(names) = &mut self.names else { return Ok(()) };
        let hash = *blake3::hash(&entry.name).as_bytes().first_chunk().unwrap_or(&[0; NAME_HASH_LEN]);
        match names.insert(hash) {
            true => Ok(()),
            false => Err(Error::corrupt("a snapshot's listing", "it has a name twice")),
        }
    }

    /// Takes the next chunk.
    fn read_on(&mut self) -> Result<()> {
        self.bytes.drain(..self.start);
        self.start = 0;
        match self.spans.next() {
            Some(span) => {
                let id = span?.id;
                if !self.chunks.insert(id) {
                    self.names.get_or_insert_default();
                }
                self.bytes.extend_from_slice(&self.reader.chunk(&id)?);
            }
            None => self.ended = true,
        }
        Ok(())
    }
}

impl Iterator for Entries<'_> {
    type Item = Result<StreamEntry, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.failed {
            return None;
        }
        let next = self.advance();
        self.failed = next.is_err();
        next.transpose()
    }
}
