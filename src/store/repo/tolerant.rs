//! Reading trees and listings in which something is lost. Everything that can be read is returned, and each loss is reported with its place.
//!
//! Nothing is skipped without a report. An error is returned only if reading itself fails, not for damage.

use std::collections::{HashMap, HashSet};
use std::ops::Range;

use super::listing::{verify_order, whole_entries};
use super::merkle::{ChunkSpan, read_node, zeros};
use super::reader::Reader;
use crate::error::{Error, Result};
use crate::id::ChunkId;
use crate::progress::Monitor;
use crate::store::format::snapshot::{StreamEntry, StreamRoot};
use crate::store::format::{CHUNK_LEN_MAX, RECORD_LEN_MAX, TREE_LEVELS_MAX};
use crate::store::repo::usize_from;

/// A piece of a stream.
#[derive(Debug)]
pub(crate) enum Piece {
    /// A chunk. It was not read yet.
    Chunk(ChunkSpan),
    /// A range of zeros. The ids say so, so the chunks need not be stored or read.
    Zeros(Range<u64>),
    /// A range below a lost node, with the reason.
    Lost(Range<u64>, Error),
}

/// All pieces of a stream, in order. Together they cover the stream from 0 to the length in the root, without gaps.
pub(crate) struct Pieces<'r> {
    reader: &'r Reader,
    /// Nodes and chunks that are still to come, the next one last: id, level (0: chunk), place in the stream.
    open: Vec<(ChunkId, u8, Range<u64>)>,
    /// The nodes and chunks that stand for zeros, with their lengths.
    zeros: HashMap<ChunkId, u64>,
}

impl<'r> Pieces<'r> {
    /// The pieces of the stream with this root.
    ///
    /// # Errors
    /// [`Error::Corrupt`] if the root contradicts itself. Then nothing can be read.
    pub fn new(reader: &'r Reader, root: &StreamRoot) -> Result<Self> {
        let open = match (root.top, root.len) {
            (None, 0) if root.levels == 0 => Vec::new(),
            (Some(id), 1..) if root.levels <= TREE_LEVELS_MAX => vec![(id, root.levels, 0..root.len)],
            _ => return Err(Error::corrupt("the root of a stream", "its length does not fit its tree")),
        };
        Ok(Pieces { reader, open, zeros: zeros(reader.repository()) })
    }

    /// The next piece; `None` at the end.
    ///
    /// # Errors
    /// [`Error::Backend`] if reading itself fails. Damage is not an error but a piece.
    pub fn next(&mut self) -> Result<Option<Piece>> {
        while let Some((id, level, at)) = self.open.pop() {
            let len = at.end - at.start;
            // The id alone says that these are zeros, so they can be given even if their chunks are lost.
            if self.zeros.get(&id) == Some(&len) {
                return Ok(Some(Piece::Zeros(at)));
            }
            if level == 0 {
                return Ok(Some(match u32::try_from(len).ok().filter(|len| *len <= CHUNK_LEN_MAX) {
                    Some(len) => Piece::Chunk(ChunkSpan { offset: at.start, id, len }),
                    None => Piece::Lost(
                        at,
                        Error::corrupt(format!("the tree node above chunk {id}"), "it gives the chunk an impossible length"),
                    ),
                }));
            }
            match self.children(&id, level, &at) {
                Ok(children) => self.open.extend(children),
                Err(error) if error.is_damage() => return Ok(Some(Piece::Lost(at, error))),
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }

    /// The children of a node, the last one first, each with its place in the stream.
    fn children(&self, id: &ChunkId, level: u8, at: &Range<u64>) -> Result<Vec<(ChunkId, u8, Range<u64>)>> {
        let node = read_node(self.reader, id, level)?;
        if node.span_bytes() != Some(at.end - at.start) {
            let detail = "its children do not add up to the length that its parent says";
            return Err(Error::corrupt(format!("tree node {id}"), detail));
        }
        // From the back, because the stack `open` needs the first child on top.
        let mut end = at.end;
        let place = |child: &crate::store::format::node::Child| {
            let start = end.saturating_sub(child.len);
            let place = start..end;
            end = start;
            (child.id, level - 1, place)
        };
        Ok(node.children.iter().rev().map(place).collect())
    }
}

/// The losses in a listing.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct ListingLoss {
    /// Number of places where something is missing.
    pub places: u64,
    /// The reason at the first of them.
    pub first: Option<String>,
}

impl ListingLoss {
    fn add(&mut self, why: &dyn std::fmt::Display) {
        self.places += 1;
        self.first.get_or_insert_with(|| why.to_string());
    }
}

impl Reader {
    /// Calls `visit` with each entry of a listing that can be read, in order, and returns the losses. Chunks of a listing hold whole
    /// entries, so the entries after a damaged chunk are found again. Only if an entry takes several chunks and one of them is lost, the
    /// rest of that entry is useless.
    ///
    /// # Errors
    /// [`Error::Backend`] if reading itself fails; [`Error::Cancelled`]; the error of `visit`.
    pub(crate) fn salvage_listing(
        &self,
        root: &StreamRoot,
        monitor: &dyn Monitor,
        visit: &mut dyn FnMut(StreamEntry) -> Result<()>,
    ) -> Result<ListingLoss> {
        let mut loss = ListingLoss::default();
        let mut pieces = match Pieces::new(self, root) {
            Ok(pieces) => pieces,
            Err(error) => {
                loss.add(&error);
                return Ok(loss);
            }
        };
        let mut seen = HashSet::new();
        let mut last_name = None;
        let mut parts = Assembly::default();
        while let Some(piece) = pieces.next()? {
            if monitor.cancelled() {
                return Err(Error::Cancelled);
            }
            let (len, read) = match piece {
                Piece::Chunk(span) if !seen.insert(span.id) => {
                    // A few nodes that name the same chunks again and again could make a listing without end.
                    loss.add(&"it has a part twice");
                    break;
                }
                Piece::Chunk(span) => (Some(span.len), self.chunk(&span.id).map(|bytes| bytes.to_vec())),
                Piece::Zeros(_) => (None, Err(Error::corrupt("a snapshot's listing", "it has a part that is not an entry"))),
                Piece::Lost(_, error) => (None, Err(error)),
            };
            let entries = match read {
                Ok(bytes) => parts.add(&bytes, &mut loss),
                Err(error) if error.is_damage() => {
                    loss.add(&error);
                    parts.lose(len);
                    continue;
                }
                Err(error) => return Err(error),
            };
            for entry in entries {
                match verify_order(last_name.as_deref(), std::slice::from_ref(&entry)) {
                    Ok(()) => {
                        last_name = Some(entry.name.clone());
                        visit(entry)?;
                    }
                    Err(error) => loss.add(&error),
                }
            }
        }
        if !parts.pending.is_empty() {
            loss.add(&"an entry is cut off");
        }
        Ok(loss)
    }
}

/// Puts the entries of a listing together from its chunks. Only an entry that is longer than a chunk continues in the next chunks; then all
/// of its chunks but the last one have the full length.
#[derive(Default)]
struct Assembly {
    state: State,
    /// The beginning of an entry that continues in the next chunk.
    pending: Vec<u8>,
}

#[derive(Default, Clone, Copy, PartialEq, Eq)]
enum State {
    /// The next chunk begins with an entry, or continues the pending one.
    #[default]
    Known,
    /// The next chunk belongs to an entry whose beginning is lost.
    InLost,
    /// Chunks of unknown length before the next one are lost.
    Unknown,
}

impl Assembly {
    /// Notes that a chunk of this length is lost; `None` if it may be several chunks.
    fn lose(&mut self, len: Option<u32>) {
        self.pending.clear();
        self.state = match len {
            // Only the chunks of a long entry have the full length. So this entry continues.
            Some(CHUNK_LEN_MAX) => State::InLost,
            Some(_) => State::Known,
            None => State::Unknown,
        };
    }

    /// Takes the next chunk, and returns the entries that end with it.
    fn add(&mut self, bytes: &[u8], loss: &mut ListingLoss) -> Vec<StreamEntry> {
        let after = if bytes.len() == usize_from(CHUNK_LEN_MAX) { State::InLost } else { State::Known };
        match std::mem::take(&mut self.state) {
            State::Known => {}
            State::InLost => {
                self.state = after;
                return Vec::new();
            }
            State::Unknown => {
                // It may begin with an entry or within one. If it decodes, it begins with one.
                let entries = whole_entries(bytes);
                self.state = if entries.is_some() { State::Known } else { after };
                return entries.unwrap_or_default();
            }
        }
        self.pending.extend_from_slice(bytes);
        let entries = whole_entries(&self.pending);
        if entries.is_some() {
            self.pending.clear();
        } else if self.pending.len() > RECORD_LEN_MAX {
            loss.add(&"it does not consist of entries");
            self.pending.clear();
            self.state = after;
        }
        entries.unwrap_or_default()
    }
}
