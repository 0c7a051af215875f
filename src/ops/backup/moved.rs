//! Finds moved content. After a VACUUM, a CLUSTER or in a reordered dump nearly all content is in the parent's
//! stream, but at other places.
//!
//! Steps: a chunk whose predecessor gives a small delta is stored at once. The others are set aside. When enough have
//! come, or at the end of the stream, their features are looked up among the features kept of the old streams and of
//! the pages that have changed ([`Pool`]). The old pieces that match become the slices of a delta's prefix. A budget
//! bounds how much must be decoded for that, and so how slow a restore becomes.
//!
//! Features are hints: without them, or with wrong ones, deltas are larger, and the writer stores a chunk whole when
//! no delta is worth it.

use std::cmp::Reverse;
use std::collections::{HashMap, HashSet};
use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use super::pool::Pool;
use super::sink::progress_when_stored;
use crate::error::{Error, Result};
use crate::id::ChunkId;
use crate::ops::number::{wide, within_chunk};
use crate::progress::Monitor;
use crate::store::codec::similarity::matching::{Batch, Candidate, Matcher, Matches, VOTES_UNIQUE};
use crate::store::codec::similarity::slices::{self, Limits, OldChunk, Slice};
use crate::store::codec::similarity::{FEATURES, FEATURES_LEN, PIECE_LEN, Sampler};
use crate::store::format::BASES_MAX;
use crate::store::format::snapshot::StreamRoot;
use crate::store::repo::{BaseSlice, ChunkWriter, FramePlace, Held, KeptFeatures, NewChunk, Reference, Spool, TreeCursor, WriteSession};

/// Bytes of set-aside chunks that are kept in memory; more go to a sealed file.
const SPOOL_MEMORY: usize = 4 << 20;

/// Bytes of set-aside pages that are stored together. Their bases are read once for all of them, and all their
/// prefixes are in memory at once. After a VACUUM pages come from everywhere: with half of this window twice as much
/// would be stored.
const PAGES_WINDOW_LEN: usize = 16 << 20;
/// The same for rows. Their prefixes are longer and their bases fewer: twice as much takes 40 MiB more memory and is
/// slower (`benches/dumps.rs`).
const ROWS_WINDOW_LEN: usize = 4 << 20;
/// How many bytes may have to be decoded for each byte of moved content. A page of an index comes from anywhere; the
/// bytes it saves do not pay for decoding a frame for each of them.
const AMPLIFICATION: u64 = 8;
/// The same when more than a whole window has moved. After several VACUUMs the chunks of a window stand on most
/// frames of a stream: with 8 the third VACUUM of 100 MB stored 312 chunks whole, 9 MB, because the budget was used
/// up (`benches/growth`). For smaller moves it is not worth it: what a few pages save is lost when they move again,
/// with everything that they stand on.
const AMPLIFICATION_BULK: u64 = 32;
/// Bytes of a prefix for moved content. Half would do after a VACUUM; blocks that moved in a dump need all of it (see
/// `benches/similarity.rs`).
const PREFIX_LEN_AIMED: usize = 256 << 10;

/// Most bases of a chunk of a stream without pages. Blocks of eight rows and more come from fewer. With 8 a dump in
/// another order stored 20 times as much (`tests/library/delta/moved.rs`). Rows that were shuffled one by one are
/// left to [`ROWS_FOUND_SHARE`].
const ROWS_BASES_MAX: usize = 24;
/// At least one in this many features of such a chunk must be found in its bases. Shuffled rows come from everywhere:
/// the few bases that a delta can have would save a fifth of the bytes, at many times the work for this snapshot and
/// for all that build on it.
const ROWS_FOUND_SHARE: u64 = 2;

/// If at least one in this many pages of a chunk is unchanged in its place, the delta stands on the predecessor, and
/// content that came from elsewhere is added beside it.
const IN_PLACE_SHARE: usize = 8;
/// Limits for what is added beside the predecessor: number of bases, bytes, and slices.
const BESIDE_BASES_MAX: usize = 16;
const BESIDE_LEN_AIMED: usize = 192 << 10;
const BESIDE_SLICES_MAX: usize = 48;

/// The kind of content of a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Content {
    /// Pages of a database.
    Pages,
    /// Rows of a dump, or anything else.
    Rows,
}

/// An old stream in which content is looked for.
pub(super) struct OldStream {
    pub(super) root: StreamRoot,
    pub(super) features: KeptFeatures,
}

/// Stores the chunks of one stream; those whose predecessor gives no small delta are set aside and looked for.
pub(super) struct Moved<'a> {
    session: &'a WriteSession,
    monitor: &'a dyn Monitor,
    sampler: Sampler,
    content: Content,
    /// The old pages that have changed so far.
    pool: Mutex<Pool>,
    state: Mutex<State>,
}

struct State {
    old: Vec<OldStream>,
    batch: Batch,
    aside: Spool<Aside>,
    aside_bytes: u64,
}

/// A chunk that was set aside.
struct Aside {
    id: ChunkId,
    /// Its offset in its stream, bytes.
    offset: u64,
    /// The base that its place suggests.
    reference: Reference,
    sought: Sought,
}

impl<'a> Moved<'a> {
    /// Looks for moved content in these streams. `None` if there are none.
    pub(super) fn new(session: &'a WriteSession, monitor: &'a dyn Monitor, old: Vec<OldStream>, content: Content) -> Result<Option<Self>> {
        if old.is_empty() {
            return Ok(None);
        }
        let aside = Spool::new(session.repository().cache_dir(), SPOOL_MEMORY)?;
        let state = State { old, batch: Batch::new(), aside, aside_bytes: 0 };
        Ok(Some(Moved {
            session,
            monitor,
            sampler: session.repository().sampler(),
            content,
            pool: Mutex::default(),
            state: Mutex::new(state),
        }))
    }

    /// Stores the chunks whose delta against their place is small, and sets the others aside. Returns the progress that
    /// is still to come for the latter.
    pub(super) fn store(&self, writers: &mut [ChunkWriter<'_>], chunks: &[(u64, NewChunk<'_>)]) -> Result<u64> {
        let mut to_come = 0;
        let new: Vec<NewChunk<'_>> = chunks.iter().map(|(_, chunk)| chunk.clone()).collect();
        // The writer decodes the predecessor of each chunk anyway. `seen` uses these bytes: changed old pages go to
        // the pool, and chunks with unchanged pages are noted.
        let in_place = Mutex::new(HashSet::new());
        let seen = |number: usize, before: &[u8]| {
            if let Some((offset, chunk)) = chunks.get(number).filter(|_| self.content == Content::Pages) {
                if are_in_place(before, chunk.plain) {
                    in_place.lock().unwrap_or_else(PoisonError::into_inner).insert(number);
                }
                self.pool.lock().unwrap_or_else(PoisonError::into_inner).add(&self.sampler, *offset, before, chunk.plain);
            }
        };
        let far = ChunkWriter::put_close(writers, &new, &seen)?;
        let in_place = in_place.into_inner().unwrap_or_else(PoisonError::into_inner);
        // No small delta. Set aside, unless the spool is full; then store it now with what its place suggests.
        for number in far {
            let Some((offset, chunk)) = chunks.get(number) else { continue };
            if self.set_aside(*offset, chunk, in_place.contains(&number))? {
                to_come += progress_when_stored(chunk.plain.len());
            } else {
                ChunkWriter::put_shared(writers, std::slice::from_ref(chunk))?;
            }
        }
        Ok(to_come)
    }

    fn set_aside(&self, offset: u64, chunk: &NewChunk<'_>, in_place: bool) -> Result<bool> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let mut number = state.batch.add(&self.sampler, chunk.plain);
        if number.is_none() {
            self.store_aside(&mut state)?;
            number = state.batch.add(&self.sampler, chunk.plain);
        }
        // A full batch has been stored above. If the chunk still does not fit, it is too large to be looked for.
        let Some(number) = number else { return Ok(false) };
        let sought = Sought { number, len: chunk.plain.len(), in_place };
        let reference = chunk.references.first().cloned().unwrap_or_default();
        let set_aside = state.aside.put(Aside { id: chunk.id, offset, reference, sought }, chunk.plain)?;
        state.aside_bytes += if set_aside { wide(chunk.plain.len()) } else { 0 };
        Ok(set_aside)
    }

    /// Stores the chunks that are still set aside. To be called after the last chunk of the stream.
    pub(super) fn finish(&self) -> Result<()> {
        self.store_aside(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn store_aside(&self, state: &mut State) -> Result<()> {
        if state.aside.is_empty() {
            return Ok(());
        }
        let batch = std::mem::take(&mut state.batch);
        let features_bytes: u64 = state.old.iter().map(|old| old.features.pieces() * wide(FEATURES_LEN)).sum();
        // Reading the features of whole streams costs their bytes. For a small change that is more than it may save;
        // then only the pool is searched.
        let aside_bytes = std::mem::take(&mut state.aside_bytes);
        let read_features = features_bytes <= aside_bytes;
        let pool = std::mem::take(&mut *self.pool.lock().unwrap_or_else(PoisonError::into_inner));
        let matches = (read_features || !pool.is_empty()).then(|| find(batch, &mut state.old, &pool, read_features));
        // In the order of the stream: neighbours often come from the same old chunks.
        let mut aside = state.aside.take_all();
        aside.sort_unstable_by_key(|(chunk, _)| chunk.offset);
        let repo = self.session.repository();
        let mut writers = (0..repo.threads()).map(|_| self.session.writer()).collect::<Result<Vec<_>>>()?;
        let mut sources = Sources::new(self.session, &state.old);
        if self.content == Content::Pages && aside_bytes > wide(PAGES_WINDOW_LEN) {
            sources.amplification = AMPLIFICATION_BULK;
        }
        let mut aside = aside.into_iter().peekable();
        while aside.peek().is_some() {
            if self.monitor.cancelled() {
                return Err(Error::Cancelled);
            }
            // One window: at least one chunk, and more as long as there is room.
            let mut room = if self.content == Content::Pages { PAGES_WINDOW_LEN } else { ROWS_WINDOW_LEN };
            let mut window = Vec::new();
            while let Some(next) = aside.next_if(|(chunk, _)| window.is_empty() || chunk.sought.len <= room) {
                room = room.saturating_sub(next.0.sought.len);
                window.push(next);
            }
            self.store_window(&mut writers, &mut sources, &state.aside, matches.as_ref(), window)?;
        }
        // All chunks have been read back, so the file's space can be used again.
        state.aside.rewind();
        writers.iter_mut().try_for_each(ChunkWriter::flush)
    }

    fn store_window(
        &self,
        writers: &mut [ChunkWriter<'_>],
        sources: &mut Sources<'_>,
        spool: &Spool<Aside>,
        matches: Option<&Matches>,
        window: Vec<(Aside, Held)>,
    ) -> Result<()> {
        let sought: Vec<Sought> = window.iter().map(|(chunk, _)| chunk.sought).collect();
        let slices = matches.map(|matches| sources.slices(matches, &sought, self.content)).transpose()?;
        let mut slices = slices.unwrap_or_default().into_iter();
        let mut chunks = Vec::with_capacity(window.len());
        for (aside, held) in window {
            let moved = slices.next().filter(|slices| !slices.is_empty()).map(|slices| Reference { slices, ..Reference::default() });
            let references: Vec<Reference> = match self.content {
                // Part of it is unchanged in its place: predecessor first, moved pieces beside it.
                Content::Pages if aside.sought.in_place => {
                    let beside = moved.map(|moved| moved.slices).unwrap_or_default();
                    beside_first(aside.reference, beside)
                }
                // Nothing is unchanged: moved pieces are the better guess.
                Content::Pages => moved.into_iter().chain([aside.reference]).collect(),
                // Rows usually stay near their place, so the predicted window comes first.
                Content::Rows => [aside.reference].into_iter().chain(moved).collect(),
            };
            chunks.push((aside.id, spool.read(held)?, references));
        }
        let new = chunks.iter().map(|(id, plain, references)| NewChunk { id: *id, plain, references: references.clone() });
        ChunkWriter::put_shared(writers, &new.collect::<Vec<_>>())?;
        self.monitor.advance(sought.iter().map(|sought| progress_when_stored(sought.len)).sum());
        Ok(())
    }
}

/// Whether at least one in [`IN_PLACE_SHARE`] pages is unchanged in its place.
fn are_in_place(old: &[u8], new: &[u8]) -> bool {
    let same = old.chunks(PIECE_LEN).zip(new.chunks(PIECE_LEN)).filter(|(old, new)| old == new).count();
    same * IN_PLACE_SHARE * PIECE_LEN >= new.len()
}

/// Two candidates: the predecessor with these slices beside it, and the predecessor alone.
fn beside_first(in_place: Reference, mut beside: Vec<BaseSlice>) -> Vec<Reference> {
    beside.retain(|slice| Some(slice.id) != in_place.predecessor);
    // Too many: keep the last ones, because `slices::choose` puts the best base last.
    beside.drain(..beside.len().saturating_sub(BESIDE_SLICES_MAX));
    let with = Reference { beside, ..in_place.clone() };
    if with.beside.is_empty() { vec![in_place] } else { vec![with, in_place] }
}

/// A chunk that is looked for.
#[derive(Debug, Clone, Copy)]
struct Sought {
    /// Its number in the matcher's batch.
    number: u32,
    /// Its length, bytes.
    len: usize,
    /// Whether enough of its pages are unchanged in their places.
    in_place: bool,
}

impl Sought {
    /// Whether these slices hold enough of its features ([`ROWS_FOUND_SHARE`]).
    fn is_found(&self, candidates: &[Candidate], slices: &[Slice]) -> bool {
        // A piece counts for the slice that has its middle: slices need not start at the borders of pieces.
        let is_in = |candidate: &&Candidate| slices.iter().any(|slice| slice.range.contains(&(candidate.offset() + wide(PIECE_LEN) / 2)));
        let votes: u64 = candidates.iter().filter(is_in).map(|candidate| u64::from(candidate.votes)).sum();
        let all = wide(self.len / PIECE_LEN * FEATURES) * u64::from(VOTES_UNIQUE);
        votes * ROWS_FOUND_SHARE >= all
    }
}

/// Compares the batch with the features of the old streams, one after the other, and with those in the pool.
fn find(batch: Batch, old: &mut [OldStream], pool: &Pool, read_features: bool) -> Matches {
    let mut matcher = Matcher::new(batch);
    if read_features {
        old.iter_mut().for_each(|old| old.features.read(|block| matcher.pass(block.iter().copied())));
    }
    pool.pass(&mut matcher, read_features);
    matcher.finish()
}

/// Finds the chunks in which old pieces lie. Pieces are numbered through all old streams, one after the other.
struct Sources<'a> {
    session: &'a WriteSession,
    /// The tree of each stream, and where it starts in this numbering, bytes.
    streams: Vec<(u64, TreeCursor<'a>)>,
    /// How many bytes may be decoded for each byte of moved content.
    amplification: u64,
}

/// A chunk of an old stream.
struct Old {
    range: Range<u64>,
    id: ChunkId,
}

impl<'a> Sources<'a> {
    fn new(session: &'a WriteSession, old: &[OldStream]) -> Self {
        let mut start = 0;
        let mut streams = Vec::new();
        for old in old {
            streams.push((start, TreeCursor::new(session.reader(), Some(old.root))));
            start += old.features.pieces() * wide(PIECE_LEN);
        }
        Sources { session, streams, amplification: AMPLIFICATION }
    }

    /// For each chunk of a window the slices of stored chunks that probably hold its content.
    fn slices(&mut self, matches: &Matches, sought: &[Sought], content: Content) -> Result<Vec<Vec<BaseSlice>>> {
        let candidates: Vec<Vec<Candidate>> = sought.iter().map(|chunk| matches.of(chunk.number)).collect();
        let old = self.old_chunks(candidates.iter().flatten())?;
        let at = |offset: u64| {
            let after = old.partition_point(|chunk| chunk.range.end <= offset);
            old.get(after).filter(|chunk| chunk.range.contains(&offset))
        };
        let affordable = self.affordable(sought, &candidates, at)?;
        // The budget has been applied in `affordable`. The writer limits the work of each single delta.
        let old_chunk = |offset: u64| -> Result<Option<OldChunk>> {
            let chunk = at(offset).filter(|chunk| affordable.contains(&chunk.id));
            Ok(chunk.map(|chunk| OldChunk { range: chunk.range.clone(), work: 0 }))
        };
        // Both numbers lie within one chunk, whose length is a `u32`.
        let slice = |slice: Slice| {
            let (start, end) = (slice.range.start, slice.range.end);
            Some(BaseSlice { id: at(start)?.id, offset: within_chunk(start - slice.chunk.start), len: within_chunk(end - start) })
        };
        let bases = if content == Content::Pages { BASES_MAX } else { ROWS_BASES_MAX };
        let choose = |(chunk, candidates): (&Sought, &Vec<Candidate>)| -> Result<Vec<BaseSlice>> {
            let (bases, prefix_len) = if chunk.in_place { (BESIDE_BASES_MAX, BESIDE_LEN_AIMED) } else { (bases, PREFIX_LEN_AIMED) };
            let limits = Limits { bases, prefix_len, votes: matches.votes_min(), ..Limits::default() };
            let mut slices = slices::choose(candidates, limits, old_chunk)?;
            // Shuffled rows: a delta would save little and cost much work.
            if content == Content::Rows && !chunk.is_found(candidates, &slices) {
                slices.clear();
            }
            Ok(slices.into_iter().filter_map(slice).collect())
        };
        sought.iter().zip(&candidates).map(choose).collect()
    }

    /// The old chunks in which these pieces lie, ordered by their place, each once.
    fn old_chunks<'c>(&mut self, candidates: impl Iterator<Item = &'c Candidate>) -> Result<Vec<Old>> {
        let mut middles: Vec<u64> = candidates.map(|candidate| candidate.offset() + wide(PIECE_LEN) / 2).collect();
        middles.sort_unstable();
        middles.dedup();
        let mut old: Vec<Old> = Vec::new();
        for middle in middles {
            if old.last().is_none_or(|chunk| !chunk.range.contains(&middle)) {
                // The stream in which the piece lies is the last one that starts at or before it.
                let Some((start, cursor)) = self.streams.iter_mut().rev().find(|(start, _)| *start <= middle) else { continue };
                let span = cursor.at(middle - *start)?;
                old.extend(span.map(|span| Old { range: *start + span.offset..*start + span.offset + u64::from(span.len), id: span.id }));
            }
        }
        // One read for all of their trailer rows instead of one for each.
        self.session.reader().prefetch(old.iter().map(|chunk| chunk.id))?;
        Ok(old)
    }

    /// The old chunks that may serve as bases in a window. Their frames are taken in the order of votes for each byte
    /// to decode, until `amplification` times the window's own bytes are spent. A chunk is affordable when all frames
    /// of its delta chain were taken.
    fn affordable<'o>(
        &self,
        sought: &[Sought],
        candidates: &[Vec<Candidate>],
        at: impl Fn(u64) -> Option<&'o Old>,
    ) -> Result<HashSet<ChunkId>> {
        // How much each old chunk would help: the votes of its pieces.
        let mut votes: HashMap<ChunkId, u64> = HashMap::new();
        for candidate in candidates.iter().flatten() {
            if let Some(chunk) = at(candidate.offset() + wide(PIECE_LEN) / 2) {
                *votes.entry(chunk.id).or_default() += u64::from(candidate.votes);
            }
        }
        // For each frame: the votes of all chunks that need it, and its bytes. Chunks that share frames share the
        // price.
        let mut frames: HashMap<FramePlace, (u64, u64)> = HashMap::new();
        let mut closures = Vec::with_capacity(votes.len());
        for (id, votes) in votes {
            let Some(closure) = self.session.reader().closure(&id)? else { continue };
            for (frame, bytes) in closure.frames() {
                frames.entry(frame).or_insert((0, u64::from(bytes))).0 += votes;
            }
            closures.push((id, closure));
        }
        let mut frames: Vec<_> = frames.into_iter().collect();
        // Votes per MiB, best first; the place makes the order the same in each run.
        frames.sort_unstable_by_key(|(frame, (votes, bytes))| (Reverse(votes * (1 << 20) / bytes.max(&1)), *frame));
        let mut budget = self.amplification * sought.iter().map(|chunk| wide(chunk.len)).sum::<u64>();
        let mut paid = HashSet::new();
        for (frame, (_, bytes)) in frames {
            if bytes <= budget {
                budget -= bytes;
                paid.insert(frame);
            }
        }
        let affordable = closures.iter().filter(|(_, closure)| closure.frames().all(|(frame, _)| paid.contains(&frame)));
        Ok(affordable.map(|(id, _)| *id).collect())
    }
}
