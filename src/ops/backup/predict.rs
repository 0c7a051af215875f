//! Where the content of a stream without pages stood in the parent's stream.
//!
//! Chunks that are equal in both show how the two streams lie to each other. Between them a chunk is expected where the last one ended, and if the
//! cuts do not bear that out, where the features of its content are. Its base is a window of the parent around that place, a little longer than
//! itself, since rows are inserted, removed and moved by a little.

use std::collections::{HashMap, VecDeque};

use super::landmarks::Landmarks;
use crate::error::Result;
use crate::id::ChunkId;
use crate::store::format::snapshot::StreamRoot;
use crate::store::repo::{BaseSlice, ChunkSpan, Reader, Reference, Spans};

/// Chunks of the parent that are kept on either side of the expected place, where equal ones are looked for.
const REACH_CHUNKS: usize = 1024;
/// Where so many bytes are passed over, those of the parent are, too, without looking at them.
const FAR_LEN: u64 = 64 << 20;
/// The share of a chunk, one in so many bytes, by which its window is longer on each side; and bytes beside that: rows that are updated move within
/// their page of 8 KiB at least. Half of the chunk in place of an eighth stores the same, and reading takes a third more.
const SLACK_SHARE: u32 = 8;
const SLACK_LEN: u32 = 8 << 10;
/// The share of a chunk by which its end may lie off a cut of the parent's stream that bears out its place.
const DRIFT_SHARE: u64 = 32;
/// The same where there is nothing better to go by.
const GUESS_SHARE: u64 = 8;
/// Within how many bytes the features of content are right.
const LANDMARK_ERROR: u64 = 4 << 10;

/// Follows the parent's stream while the new one passes.
pub(super) struct Prediction<'r> {
    /// What has not been looked at of the parent's chunks.
    rest: Option<Spans<'r>>,
    /// The parent's chunks around the expected place.
    near: VecDeque<ChunkSpan>,
    /// Where they lie, by id; `None` for one that is there more than once, which says little about the place.
    places: HashMap<ChunkId, Option<u64>>,
    /// Where in the parent's stream the next new chunk is expected to start, bytes.
    expected: u64,
    landmarks: Option<Landmarks>,
}

impl<'r> Prediction<'r> {
    /// With the parent's stream and what is known of its content, or without one.
    pub(super) fn new(reader: &'r Reader, parent: Option<StreamRoot>, landmarks: Option<Landmarks>) -> Self {
        // What it gives are guesses at good bases: a damaged parent only means worse ones.
        let rest = parent.and_then(|root| Spans::new(reader, &root).ok());
        Prediction { rest, near: VecDeque::new(), places: HashMap::new(), expected: 0, landmarks }
    }

    /// What the next chunk of the new stream is probably like.
    pub(super) fn next(&mut self, id: &ChunkId, bytes: &[u8]) -> Result<Reference> {
        self.advance()?;
        let len = bytes.len() as u64;
        if let Some(Some(offset)) = self.places.get(id) {
            self.expected = offset + len;
            return Ok(Reference::to(Some(*id)));
        }
        let mut end = self.cut_near(self.expected + len, len / DRIFT_SHARE);
        if end.is_none()
            && let Some(place) = self.landmarks.as_mut().and_then(|landmarks| landmarks.place(bytes, self.expected))
        {
            self.expected = self.cut_near(place, LANDMARK_ERROR).unwrap_or(place);
            self.advance()?;
            end = self.cut_near(self.expected + len, len / DRIFT_SHARE);
        }
        let reference = self.window(bytes.len() as u32);
        let guessed = self.expected + len;
        self.expected = end.or_else(|| self.cut_near(guessed, len / GUESS_SHARE)).unwrap_or(guessed);
        Ok(reference)
    }

    /// Passes over bytes of the new stream that are the same chunk again and again. The parent is taken to have as many.
    pub(super) fn pass(&mut self, bytes: u64) {
        self.expected = self.expected.saturating_add(bytes);
        if bytes >= FAR_LEN
            && let Some(spans) = &mut self.rest
        {
            self.near.clear();
            self.places.clear();
            spans.skip_to(self.expected.saturating_sub(FAR_LEN / 2));
        }
    }

    /// Keeps the parent's chunks on both sides of the expected place at hand.
    fn advance(&mut self) -> Result<()> {
        while self.ahead() < REACH_CHUNKS {
            let Some(spans) = &mut self.rest else { return Ok(()) };
            match spans.next() {
                Some(Ok(span)) => {
                    let twice = self.places.contains_key(&span.id);
                    self.places.insert(span.id, (!twice).then_some(span.offset));
                    self.near.push_back(span);
                }
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

    /// How many of the chunks at hand lie past the expected place.
    fn ahead(&self) -> usize {
        self.near.len() - self.near.partition_point(|span| span.offset <= self.expected)
    }

    /// The window around the place of a chunk of this length, and the chunk in the middle of it as the predecessor.
    fn window(&self, len: u32) -> Reference {
        let (len, slack) = (u64::from(len), u64::from(len / SLACK_SHARE + SLACK_LEN));
        let (start, end) = (self.expected.saturating_sub(slack), self.expected + len + slack);
        let first = self.near.partition_point(|span| end_of(span) <= start);
        let spans = self.near.iter().skip(first).take_while(|span| span.offset < end);
        let mut reference = Reference::default();
        for span in spans {
            let (from, to) = (start.max(span.offset), end.min(end_of(span)));
            reference.slices.push(BaseSlice { id: span.id, offset: (from - span.offset) as u32, len: (to - from) as u32 });
            if reference.predecessor.is_none() || span.offset <= self.expected + len / 2 {
                reference.predecessor = Some(span.id);
            }
        }
        reference
    }

    /// A cut of the parent's stream within `reach` bytes of a place. Cuts follow from the content before them, so a cut of both streams near one place
    /// is most likely the same.
    fn cut_near(&self, place: u64, reach: u64) -> Option<u64> {
        let after = self.near.partition_point(|span| end_of(span) < place);
        let cuts = self.near.iter().skip(after.saturating_sub(1)).take(2).map(end_of);
        cuts.filter(|cut| cut.abs_diff(place) <= reach).min_by_key(|cut| cut.abs_diff(place))
    }
}

fn end_of(span: &ChunkSpan) -> u64 {
    span.offset + u64::from(span.len)
}
