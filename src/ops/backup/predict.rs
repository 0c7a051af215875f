//! Predicts where the content of a stream without pages stood in the parent's stream, so that a new chunk gets a good
//! delta base.
//!
//! Both streams are followed side by side. A chunk that both have shows how far they are shifted against each other.
//! After it, the next chunk is expected where the last one ended. If no cut of the parent lies there, the features of
//! the content say where it stood ([`Landmarks`]). The base is a window of the parent around that place, a little
//! longer than the chunk, because rows are inserted, removed and moved by a little.
//!
//! The results are hints. A wrong one, or a damaged parent, makes the delta larger and never makes the backup wrong.

use std::collections::{HashMap, VecDeque};

use super::landmarks::Landmarks;
use crate::error::Result;
use crate::id::ChunkId;
use crate::ops::number::{wide, within_chunk};
use crate::store::format::snapshot::StreamRoot;
use crate::store::repo::{BaseSlice, ChunkSpan, Reader, Reference, Spans};

/// Number of the parent's chunks that are kept on each side of the expected place. Equal chunks are looked for among
/// them.
const REACH_CHUNKS: usize = 1024;
/// If at least this many bytes of the new stream are passed over at once, the parent's chunks are skipped without
/// reading their nodes.
const FAR_LEN: u64 = 64 << 20;
/// The window is longer than the chunk on each side by 1/`SLACK_SHARE` of the chunk and `SLACK_LEN` bytes. The bytes
/// are for rows that are updated: they move within their page of 8 KiB at least. With half of the chunk instead of an
/// eighth as many bytes are stored, and reading takes a third longer.
const SLACK_SHARE: u32 = 8;
const SLACK_LEN: u32 = 8 << 10;
/// A cut of the parent confirms the place of a chunk if it lies within 1/`DRIFT_SHARE` of the chunk's length from the
/// expected end.
const DRIFT_SHARE: u64 = 32;
/// When no better evidence is left, a cut within 1/`GUESS_SHARE` of the chunk's length is taken as the end.
const GUESS_SHARE: u64 = 8;
/// A place found by features is right to this many bytes.
const LANDMARK_ERROR: u64 = 4 << 10;

/// Follows the parent's stream while the new stream passes.
pub(super) struct Prediction<'r> {
    /// The parent's chunks that have not been read yet.
    rest: Option<Spans<'r>>,
    /// The parent's chunks around the expected place.
    near: VecDeque<ChunkSpan>,
    /// The offset of each of these chunks by its id. `None` for an id that occurs more than once: it says little
    /// about the place.
    places: HashMap<ChunkId, Option<u64>>,
    /// Offset in the parent's stream at which the next new chunk is expected to start, bytes.
    expected: u64,
    landmarks: Option<Landmarks>,
}

impl<'r> Prediction<'r> {
    /// Starts at the beginning of both streams. Without a parent no base is ever predicted.
    pub(super) fn new(reader: &'r Reader, parent: Option<StreamRoot>, landmarks: Option<Landmarks>) -> Self {
        // A parent that cannot be read is treated like none: the predictions are only hints.
        let rest = parent.and_then(|root| Spans::new(reader, &root).ok());
        Prediction { rest, near: VecDeque::new(), places: HashMap::new(), expected: 0, landmarks }
    }

    /// The predicted base of the next chunk: the chunk itself if the parent has it near, else a window.
    pub(super) fn next(&mut self, id: &ChunkId, bytes: &[u8]) -> Result<Reference> {
        self.advance()?;
        let len = wide(bytes.len());
        // The same chunk is in the parent exactly once near here: this aligns the two streams anew.
        if let Some(Some(offset)) = self.places.get(id) {
            self.expected = offset + len;
            return Ok(Reference::to(Some(*id)));
        }
        // Cuts depend on the content before them. So a cut of the parent where this chunk would end confirms the
        // expected place.
        let mut end = self.cut_near(self.expected + len, len / DRIFT_SHARE);
        // Nothing confirms it: rows were probably inserted or removed before this chunk. Look for its content by
        // features, and move to the start of the old chunk that begins near the place found.
        if end.is_none()
            && let Some(place) = self.landmarks.as_mut().and_then(|landmarks| landmarks.place(bytes, self.expected))
        {
            self.expected = self.cut_near(place, LANDMARK_ERROR).unwrap_or(place);
            self.advance()?;
            end = self.cut_near(self.expected + len, len / DRIFT_SHARE);
        }
        let reference = self.window(within_chunk(len));
        let guessed = self.expected + len;
        // The next chunk starts at the cut that was found, or at one farther away, or where equal lengths would end.
        self.expected = end.or_else(|| self.cut_near(guessed, len / GUESS_SHARE)).unwrap_or(guessed);
        Ok(reference)
    }

    /// Passes over bytes of the new stream that repeat one chunk (a hole). The parent is assumed to have as many.
    pub(super) fn pass(&mut self, bytes: u64) {
        self.expected = self.expected.saturating_add(bytes);
        if bytes >= FAR_LEN
            && let Some(spans) = &mut self.rest
        {
            // Keep half of the distance as a margin: the parent's hole may be shorter.
            self.near.clear();
            self.places.clear();
            spans.skip_to(self.expected.saturating_sub(FAR_LEN / 2));
        }
    }

    /// Reads the parent's chunks ahead, until enough of them lie after the expected place, and drops the oldest.
    fn advance(&mut self) -> Result<()> {
        while self.ahead() < REACH_CHUNKS {
            let Some(spans) = &mut self.rest else { return Ok(()) };
            match spans.next() {
                Some(Ok(span)) => {
                    let twice = self.places.contains_key(&span.id);
                    self.places.insert(span.id, (!twice).then_some(span.offset));
                    self.near.push_back(span);
                }
                // Damage in the parent only ends the predictions. Any other error, such as a failing disk, ends the
                // backup.
                Some(Err(error)) if !error.is_damage() => return Err(error),
                _ => self.rest = None,
            }
            if self.near.len() > 2 * REACH_CHUNKS
                && let Some(old) = self.near.pop_front()
            {
                self.places.remove(&old.id);
            }
        }
        Ok(())
    }

    /// How many of the chunks at hand start after the expected place.
    fn ahead(&self) -> usize {
        self.near.len() - self.near.partition_point(|span| span.offset <= self.expected)
    }

    /// The slices of the window around the expected place of a chunk of this length. The predecessor is the old chunk
    /// in its middle.
    fn window(&self, len: u32) -> Reference {
        let (len, slack) = (u64::from(len), u64::from(len / SLACK_SHARE + SLACK_LEN));
        let (start, end) = (self.expected.saturating_sub(slack), self.expected + len + slack);
        let first = self.near.partition_point(|span| end_of(span) <= start);
        let spans = self.near.iter().skip(first).take_while(|span| span.offset < end);
        let mut reference = Reference::default();
        for span in spans {
            let (from, to) = (start.max(span.offset), end.min(end_of(span)));
            reference.slices.push(BaseSlice { id: span.id, offset: within_chunk(from - span.offset), len: within_chunk(to - from) });
            if reference.predecessor.is_none() || span.offset <= self.expected + len / 2 {
                reference.predecessor = Some(span.id);
            }
        }
        reference
    }

    /// The cut of the parent's stream that is nearest to a place, if it is within `reach` bytes. Cuts follow from the
    /// content before them, so two cuts near one place are most likely the same.
    fn cut_near(&self, place: u64, reach: u64) -> Option<u64> {
        // The nearest cut is the last one before the place or the first one after it.
        let after = self.near.partition_point(|span| end_of(span) < place);
        let cuts = self.near.iter().skip(after.saturating_sub(1)).take(2).map(end_of);
        cuts.filter(|cut| cut.abs_diff(place) <= reach).min_by_key(|cut| cut.abs_diff(place))
    }
}

fn end_of(span: &ChunkSpan) -> u64 {
    span.offset + u64::from(span.len)
}
