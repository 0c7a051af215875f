//! The listing of a snapshot: its entries sorted by name, in chunks that hold whole entries.
//!
//! A chunk whose entries have not changed is the same chunk as in the snapshot before, so it is not read again. Only one part is in memory at a time.
//! Readers verify that entries are sorted and that no chunk comes twice: a damaged or hostile listing ends with an error.

use std::collections::HashSet;

use super::merkle::Spans;
use super::reader::Reader;
use crate::error::{Error, Result};
use crate::id::ChunkId;
use crate::progress::Monitor;
use crate::store::chunker::Cut;
use crate::store::format::snapshot::{StreamEntry, StreamRoot};
use crate::store::format::{CHUNK_LEN_MAX, RECORD_LEN_MAX, record};
use crate::store::repo::usize_from;

/// The name of a listing in messages.
const LISTING: &str = "a snapshot's listing";
/// A chunk ends after one entry in so many. With usual names that makes chunks of about 64 KiB.
const CUT_ONE_IN: u64 = 512;
/// A chunk ends when it has so many bytes, whatever the names are.
const CUT_LEN_MAX: usize = 256 << 10;

/// A part of a listing.
pub struct Part {
    /// The chunks of this part. There are several only if an entry is longer than a chunk.
    pub chunks: Vec<ChunkId>,
    /// Its entries, at least one.
    pub entries: Vec<StreamEntry>,
}

impl Part {
    /// The chunk of this part, whose id is the same in other listings; `None` if the part has several chunks.
    pub fn chunk(&self) -> Option<ChunkId> {
        match self.chunks.as_slice() {
            [chunk] => Some(*chunk),
            _ => None,
        }
    }
}

/// Goes through a listing part by part.
pub struct Parts<'r> {
    reader: &'r Reader,
    spans: Spans<'r>,
    /// The chunks so far. Without this, a few nodes that name the same chunks again and again could make a listing without end.
    chunks: HashSet<ChunkId>,
    last_name: Option<Vec<u8>>,
    failed: bool,
}

/// Goes through a listing entry by entry.
pub struct Entries<'r> {
    parts: Parts<'r>,
    part: std::vec::IntoIter<StreamEntry>,
}

impl Reader {
    /// The parts of a listing, in order.
    ///
    /// # Errors
    /// When the root contradicts itself. A part may be an error, too; then no more parts come.
    pub fn parts(&self, root: &StreamRoot) -> Result<Parts<'_>> {
        Ok(Parts { reader: self, spans: Spans::new(self, root)?, chunks: HashSet::new(), last_name: None, failed: false })
    }

    /// The entries of a snapshot, in order.
    ///
    /// # Errors
    /// As [`Reader::parts`].
    pub fn entries(&self, root: &StreamRoot) -> Result<Entries<'_>> {
        Ok(Entries { parts: self.parts(root)?, part: Vec::new().into_iter() })
    }

    /// All entries of a snapshot.
    ///
    /// # Errors
    /// As [`Reader::parts`]; [`Error::Cancelled`] as soon as the user wants to stop: a listing can have a million entries.
    pub fn listing(&self, root: &StreamRoot, monitor: &dyn Monitor) -> Result<Vec<StreamEntry>> {
        let to_the_end = |entry| if monitor.cancelled() { Err(Error::Cancelled) } else { entry };
        self.entries(root)?.map(to_the_end).collect()
    }
}

impl Parts<'_> {
    /// The next part whose first chunk is not known. Parts that begin with a known chunk are skipped without reading them.
    pub fn next_besides(&mut self, is_known: &mut dyn FnMut(&ChunkId) -> bool) -> Option<Result<Part>> {
        if self.failed {
            return None;
        }
        let next = self.advance(is_known);
        self.failed = next.is_err();
        next.transpose()
    }

    fn advance(&mut self, is_known: &mut dyn FnMut(&ChunkId) -> bool) -> Result<Option<Part>> {
        let mut bytes = Vec::new();
        let mut chunks = Vec::new();
        while let Some(id) = self.next_chunk()? {
            // Only the first chunk of a part may be skipped: a later one belongs to an entry that began before it.
            if bytes.is_empty() && is_known(&id) {
                continue;
            }
            chunks.push(id);
            bytes.extend_from_slice(&self.reader.chunk(&id)?);
            if let Some(entries) = whole_entries(&bytes) {
                self.verify_order(&entries)?;
                return Ok(Some(Part { chunks, entries }));
            }
            // An entry may be longer than a chunk, but not longer than a record. So garbage cannot fill the memory.
            if bytes.len() > RECORD_LEN_MAX {
                break;
            }
        }
        match bytes.is_empty() {
            true => Ok(None),
            false => Err(Error::corrupt(LISTING, "it does not consist of entries")),
        }
    }

    fn next_chunk(&mut self) -> Result<Option<ChunkId>> {
        let Some(span) = self.spans.next() else { return Ok(None) };
        let id = span?.id;
        match self.chunks.insert(id) {
            true => Ok(Some(id)),
            false => Err(Error::corrupt(LISTING, "it has a part twice")),
        }
    }

    fn verify_order(&mut self, entries: &[StreamEntry]) -> Result<()> {
        verify_order(self.last_name.as_deref(), entries)?;
        self.last_name = entries.last().map(|entry| entry.name.clone());
        Ok(())
    }
}

/// Refuses entries that are not sorted by name. The first one comes after the name `last`.
pub(super) fn verify_order<'e>(mut last: Option<&'e [u8]>, entries: &'e [StreamEntry]) -> Result<()> {
    for entry in entries {
        if last.is_some_and(|last| last >= entry.name.as_slice()) {
            return Err(Error::corrupt(LISTING, "its entries are not sorted by name"));
        }
        last = Some(&entry.name);
    }
    Ok(())
}

/// The entries that these bytes consist of; `None` if the bytes end within an entry, or are something else.
pub(super) fn whole_entries(bytes: &[u8]) -> Option<Vec<StreamEntry>> {
    let mut entries = Vec::new();
    let mut rest = bytes;
    while !rest.is_empty() {
        let (entry, after) = record::decode_first::<StreamEntry>(rest).ok()?;
        entries.push(entry);
        rest = after;
    }
    Some(entries)
}

impl Iterator for Parts<'_> {
    type Item = Result<Part>;

    fn next(&mut self) -> Option<Self::Item> {
        self.next_besides(&mut |_| false)
    }
}

impl Iterator for Entries<'_> {
    type Item = Result<StreamEntry>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(entry) = self.part.next() {
                return Some(Ok(entry));
            }
            match self.parts.next()? {
                Ok(part) => self.part = part.entries.into_iter(),
                Err(error) => return Some(Err(error)),
            }
        }
    }
}

/// Cuts a listing into chunks. Entries come sorted by name, each with its name and its encoded form. Only the last name in a chunk decides
/// where the chunk ends. So an entry that is added or removed changes one chunk, and the others stay the same.
pub struct ListingCuts<I> {
    entries: I,
    seed: u64,
    /// The rest of an entry that is longer than a chunk.
    long: Vec<u8>,
}

impl<I: Iterator<Item = Result<(Vec<u8>, Vec<u8>)>>> ListingCuts<I> {
    /// `seed` differs between encrypted repositories, so that the lengths of chunks do not reveal names.
    pub fn new(entries: I, seed: u64) -> Self {
        ListingCuts { entries, seed, long: Vec::new() }
    }

    fn ends_chunk(&self, name: &[u8]) -> bool {
        let hash = blake3::Hasher::new().update(&self.seed.to_le_bytes()).update(name).finalize();
        hash.as_bytes().first_chunk::<8>().is_some_and(|head| u64::from_le_bytes(*head).is_multiple_of(CUT_ONE_IN))
    }

    fn advance(&mut self) -> Result<Option<Vec<u8>>> {
        let mut bytes = std::mem::take(&mut self.long);
        while bytes.len() < CUT_LEN_MAX {
            let Some(entry) = self.entries.next() else { break };
            let (name, encoded) = entry?;
            // The entry is too long for the rest of this chunk, so it gets chunks of its own.
            if !bytes.is_empty() && bytes.len() + encoded.len() > usize_from(CHUNK_LEN_MAX) {
                self.long = encoded;
                return Ok(Some(bytes));
            }
            bytes.extend_from_slice(&encoded);
            if self.ends_chunk(&name) {
                break;
            }
        }
        if bytes.len() > usize_from(CHUNK_LEN_MAX) {
            // One long entry. Its rest continues in the next chunk, and no other entry begins in between.
            self.long = bytes.split_off(usize_from(CHUNK_LEN_MAX));
        }
        Ok((!bytes.is_empty()).then_some(bytes))
    }
}

impl<I: Iterator<Item = Result<(Vec<u8>, Vec<u8>)>>> Iterator for ListingCuts<I> {
    type Item = std::io::Result<Cut>;

    fn next(&mut self) -> Option<Self::Item> {
        let cut = self.advance().map_err(std::io::Error::other);
        cut.map(|bytes| bytes.map(Cut::Bytes)).transpose()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing)]
mod tests {
    use super::*;
    use crate::recorded::{Attribute, EntryKind, FileMeta};

    const EMPTY: StreamRoot = StreamRoot { len: 0, levels: 0, top: None };

    fn entry(name: &str, mode: u32) -> StreamEntry {
        let meta = FileMeta { mode, ..FileMeta::default() };
        StreamEntry { name: name.as_bytes().to_vec(), kind: EntryKind::File, root: EMPTY, meta: Some(meta), tables: Vec::new() }
    }

    fn entries(count: u32) -> Vec<StreamEntry> {
        (0..count).map(|n| entry(&format!("dir/{n:08}"), 0o644)).collect()
    }

    fn cut(entries: &[StreamEntry]) -> Vec<Vec<u8>> {
        let bytes = |cut: std::io::Result<Cut>| match cut.unwrap() {
            Cut::Bytes(bytes) => bytes,
            other => panic!("{other:?}"),
        };
        ListingCuts::new(entries.iter().map(|entry| Ok((entry.name.clone(), record::encode(entry).unwrap()))), 7).map(bytes).collect()
    }

    #[test]
    fn chunks_hold_whole_entries_and_stay_where_they_are() {
        let mut listing = entries(20_000);
        let before = cut(&listing);
        assert!(before.len() > 10 && before.iter().all(|chunk| chunk.len() <= CUT_LEN_MAX + 100));
        let back: Vec<StreamEntry> = before.iter().flat_map(|chunk| whole_entries(chunk).unwrap()).collect();
        assert!(back == listing);
        let differing = |after: &[Vec<u8>]| after.iter().filter(|chunk| !before.contains(chunk)).count();
        listing[9_999] = entry("dir/00009999", 0o600);
        assert_eq!(differing(&cut(&listing)), 1);
        listing.insert(5_000, entry("dir/00004999a", 0o600));
        listing.remove(15_000);
        assert!(differing(&cut(&listing)) <= 6);
        assert!(cut(&[]).is_empty());
    }

    /// An entry may be longer than a chunk. It continues in the next chunks, which hold no other entry.
    #[test]
    fn a_long_entry_takes_several_chunks() {
        let mut listing = entries(3);
        let attributes = (0..40u8).map(|n| Attribute { name: vec![b'a', n], value: vec![n; 60 << 10] }).collect();
        listing[1].meta = Some(FileMeta { attributes, ..FileMeta::default() });
        let chunks = cut(&listing);
        assert!(chunks.len() >= 3 && chunks.iter().all(|chunk| chunk.len() <= usize_from(CHUNK_LEN_MAX)), "{}", chunks.len());
        assert_eq!(whole_entries(&chunks[0]).unwrap().len(), 1);
        assert!(whole_entries(&chunks[1]).is_none());
        assert!(whole_entries(&chunks.concat()).unwrap() == listing);
    }
}
