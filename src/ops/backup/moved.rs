//! Finding moved content: chunks for which what stood in their place is no good base are set aside, and looked for in the whole of the parent's stream
//! by the features that were kept of it. After a VACUUM, a CLUSTER or in a reordered dump nearly everything is there, elsewhere.

use std::cmp::Reverse;
use std::collections::{HashMap, HashSet};
use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use super::pool::Pool;
use super::sink::progress_when_stored;
use crate::error::{Error, Result};
use crate::id::ChunkId;
use crate::progress::Monitor;
use crate::store::codec::similarity::matching::{Batch, Candidate, Matcher, Matches, VOTES_UNIQUE};
use crate::store::codec::similarity::slices::{self, Limits, OldChunk, Slice};
use crate::store::codec::similarity::{FEATURES, FEATURES_LEN, PIECE_LEN, Sampler};
use crate::store::format::BASES_MAX;
use crate::store::format::snapshot::StreamRoot;
use crate::store::repo::{BaseSlice, ChunkWriter, FramePlace, Held, KeptFeatures, NewChunk, Reference, Spool, TreeCursor, WriteSession};

/// Bytes of chunks that are set aside in memory.
const SPOOL_MEMORY: usize = 4 << 20;

/// Bytes of chunks that are looked up and stored together: their bases are read once for all of them, and all their prefixes are in memory at once.
/// Pages come from everywhere, and half of it would store twice as much after a VACUUM.
const PAGES_WINDOW_LEN: usize = 16 << 20;
/// The same for rows, whose prefixes are longer and whose bases are few: twice as much takes 40 MiB more and is slower (`benches/dumps.rs`).
const ROWS_WINDOW_LEN: usize = 4 << 20;
/// How many bytes may have to be decoded for each byte of moved content. A page of an index comes from anywhere, and what it is worth does not pay for
/// decoding a frame for each.
const AMPLIFICATION: u64 = 8;
/// The same where a whole window and more has moved. After several VACUUMs the chunks of a window stand on most frames of a stream: with 8 the third VACUUM
/// of 100 MB stored 312 chunks whole, 9 MB, because nothing was left to read for them (`benches/growth`). For less than that it is not worth it: what a
/// few pages save is lost when they move again, with all that they stand on.
const AMPLIFICATION_BULK: u64 = 32;
/// Bytes of the prefix of moved content. Half of it would do after a VACUUM; blocks that moved in a dump need it (see `benches/similarity.rs`).
const PREFIX_LEN_AIMED: usize = 256 << 10;

/// The most bases of a chunk of a stream without pages: blocks of eight rows and more come from fewer. With 8 a dump in another order stored 20 times as
/// much (`tests/library/delta/moved.rs`); rows that were shuffled one by one are left to [`ROWS_FOUND_SHARE`].
const ROWS_BASES_MAX: usize = 24;
/// The share of the features of such a chunk, one in so many, that must be found in its bases. Rows that were shuffled come from everywhere: the few that
/// a delta can have would save a fifth of them, at the price of many times the work for this snapshot and all that are built upon it.
const ROWS_FOUND_SHARE: u64 = 2;

/// The share of the pages of a chunk, one in so many, that must be as they were in its place: then what came to it from elsewhere stands beside that.
const IN_PLACE_SHARE: usize = 8;
/// The most bases that stand beside what stood in the place of a chunk, their bytes, and their parts.
const BESIDE_BASES_MAX: usize = 16;
const BESIDE_LEN_AIMED: usize = 192 << 10;
const BESIDE_SLICES_MAX: usize = 48;

/// What the stream holds.
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

/// Takes the chunks of one stream for which their place gave no good base.
pub(super) struct Moved<'a> {
    session: &'a WriteSession,
    monitor: &'a dyn Monitor,
    sampler: Sampler,
    content: Content,
    /// What has changed up to now.
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
    /// Where it lies in its stream, bytes.
    offset: u64,
    /// What stood in its place.
    reference: Reference,
    sought: Sought,
}

impl<'a> Moved<'a> {
    /// Looks in these streams; `None` if there are none.
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

    /// Stores chunks, now where that takes little, else later. Gives the progress that is still to come for the latter.
    pub(super) fn store(&self, writers: &mut [ChunkWriter<'_>], chunks: &[(u64, NewChunk<'_>)]) -> Result<u64> {
        let mut to_come = 0;
        let new: Vec<NewChunk<'_>> = chunks.iter().map(|(_, chunk)| chunk.clone()).collect();
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
        let Some(number) = number else { return Ok(false) };
        let sought = Sought { number, len: chunk.plain.len(), in_place };
        let reference = chunk.references.first().cloned().unwrap_or_default();
        let set_aside = state.aside.put(Aside { id: chunk.id, offset, reference, sought }, chunk.plain)?;
        state.aside_bytes += if set_aside { chunk.plain.len() as u64 } else { 0 };
        Ok(set_aside)
    }

    /// Stores what is still set aside.
    pub(super) fn finish(&self) -> Result<()> {
        self.store_aside(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn store_aside(&self, state: &mut State) -> Result<()> {
        if state.aside.is_empty() {
            return Ok(());
        }
        let batch = std::mem::take(&mut state.batch);
        let features_bytes: u64 = state.old.iter().map(|old| old.features.pieces() * FEATURES_LEN as u64).sum();
        // For a little that is new the features are not read: that would cost more than it may save.
        let aside_bytes = std::mem::take(&mut state.aside_bytes);
        let read_features = features_bytes <= aside_bytes;
        let pool = std::mem::take(&mut *self.pool.lock().unwrap_or_else(PoisonError::into_inner));
        let matches = (read_features || !pool.is_empty()).then(|| find(batch, &mut state.old, &pool, read_features));
        let mut aside = state.aside.take_all();
        aside.sort_unstable_by_key(|(chunk, _)| chunk.offset);
        let repo = self.session.repository();
        let mut writers = (0..repo.threads()).map(|_| self.session.writer()).collect::<Result<Vec<_>>>()?;
        let mut sources = Sources::new(self.session, &state.old);
        if self.content == Content::Pages && aside_bytes > PAGES_WINDOW_LEN as u64 {
            sources.amplification = AMPLIFICATION_BULK;
        }
        let mut aside = aside.into_iter().peekable();
        while aside.peek().is_some() {
            if self.monitor.cancelled() {
                return Err(Error::Cancelled);
            }
            let mut room = if self.content == Content::Pages { PAGES_WINDOW_LEN } else { ROWS_WINDOW_LEN };
            let mut window = Vec::new();
            while let Some(next) = aside.next_if(|(chunk, _)| window.is_empty() || chunk.sought.len <= room) {
                room = room.saturating_sub(next.0.sought.len);
                window.push(next);
            }
            self.store_window(&mut writers, &mut sources, &state.aside, matches.as_ref(), window)?;
        }
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
                Content::Pages if aside.sought.in_place => {
                    let beside = moved.map(|moved| moved.slices).unwrap_or_default();
                    beside_first(aside.reference, beside)
                }
                Content::Pages => moved.into_iter().chain([aside.reference]).collect(),
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

/// Whether enough of the pages are what stood in their places.
fn are_in_place(old: &[u8], new: &[u8]) -> bool {
    let same = old.chunks(PIECE_LEN).zip(new.chunks(PIECE_LEN)).filter(|(old, new)| old == new).count();
    same * IN_PLACE_SHARE * PIECE_LEN >= new.len()
}

/// Against what stood in the place with these parts beside it, and without them.
fn beside_first(in_place: Reference, mut beside: Vec<BaseSlice>) -> Vec<Reference> {
    beside.retain(|slice| Some(slice.id) != in_place.predecessor);
    beside.drain(..beside.len().saturating_sub(BESIDE_SLICES_MAX));
    let with = Reference { beside, ..in_place.clone() };
    if with.beside.is_empty() { vec![in_place] } else { vec![with, in_place] }
}

/// A chunk that is looked for.
#[derive(Debug, Clone, Copy)]
struct Sought {
    /// Its number in the batch.
    number: u32,
    /// Its bytes.
    len: usize,
    /// Whether some of its pages are what stood in their places.
    in_place: bool,
}

impl Sought {
    /// Whether these slices hold enough of it.
    fn is_found(&self, candidates: &[Candidate], slices: &[Slice]) -> bool {
        let is_in = |candidate: &&Candidate| slices.iter().any(|slice| slice.range.contains(&(candidate.offset() + PIECE_LEN as u64 / 2)));
        let votes: u64 = candidates.iter().filter(is_in).map(|candidate| u64::from(candidate.votes)).sum();
        let all = (self.len / PIECE_LEN) as u64 * FEATURES as u64 * u64::from(VOTES_UNIQUE);
        votes * ROWS_FOUND_SHARE >= all
    }
}

/// Passes the features of the old streams, one after the other, by the batch, and what is in the pool.
fn find(batch: Batch, old: &mut [OldStream], pool: &Pool, read_features: bool) -> Matches {
    let mut matcher = Matcher::new(batch);
    if read_features {
        old.iter_mut().for_each(|old| old.features.read(|block| matcher.pass(block.iter().copied())));
    }
    pool.pass(&mut matcher, read_features);
    matcher.finish()
}

/// Looks up the chunks that old pieces lie in. Pieces are numbered through all streams.
struct Sources<'a> {
    session: &'a WriteSession,
    /// Where each stream starts among all, bytes, and its tree.
    streams: Vec<(u64, TreeCursor<'a>)>,
    /// How many bytes may have to be decoded for each byte that is sought.
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
            start += old.features.pieces() * PIECE_LEN as u64;
        }
        Sources { session, streams, amplification: AMPLIFICATION }
    }

    /// For each chunk of a window the parts of stored chunks that are likely to hold what is in it.
    fn slices(&mut self, matches: &Matches, sought: &[Sought], content: Content) -> Result<Vec<Vec<BaseSlice>>> {
        let candidates: Vec<Vec<Candidate>> = sought.iter().map(|chunk| matches.of(chunk.number)).collect();
        let old = self.old_chunks(candidates.iter().flatten())?;
        let at = |offset: u64| {
            let after = old.partition_point(|chunk| chunk.range.end <= offset);
            old.get(after).filter(|chunk| chunk.range.contains(&offset))
        };
        let affordable = self.affordable(sought, &candidates, at)?;
        // What a base costs has been counted; how much work one delta may take, the writer sees to.
        let old_chunk = |offset: u64| -> Result<Option<OldChunk>> {
            let chunk = at(offset).filter(|chunk| affordable.contains(&chunk.id));
            Ok(chunk.map(|chunk| OldChunk { range: chunk.range.clone(), work: 0 }))
        };
        let slice = |slice: Slice| {
            let (start, end) = (slice.range.start, slice.range.end);
            Some(BaseSlice { id: at(start)?.id, offset: (start - slice.chunk.start) as u32, len: (end - start) as u32 })
        };
        let bases = if content == Content::Pages { BASES_MAX } else { ROWS_BASES_MAX };
        let choose = |(chunk, candidates): (&Sought, &Vec<Candidate>)| -> Result<Vec<BaseSlice>> {
            let (bases, prefix_len) = if chunk.in_place { (BESIDE_BASES_MAX, BESIDE_LEN_AIMED) } else { (bases, PREFIX_LEN_AIMED) };
            let limits = Limits { bases, prefix_len, votes: matches.votes_min(), ..Limits::default() };
            let mut slices = slices::choose(candidates, limits, old_chunk)?;
            if content == Content::Rows && !chunk.is_found(candidates, &slices) {
                slices.clear();
            }
            Ok(slices.into_iter().filter_map(slice).collect())
        };
        sought.iter().zip(&candidates).map(choose).collect()
    }

    /// The old chunks in which these pieces lie, in order.
    fn old_chunks<'c>(&mut self, candidates: impl Iterator<Item = &'c Candidate>) -> Result<Vec<Old>> {
        let mut middles: Vec<u64> = candidates.map(|candidate| candidate.offset() + PIECE_LEN as u64 / 2).collect();
        middles.sort_unstable();
        middles.dedup();
        let mut old: Vec<Old> = Vec::new();
        for middle in middles {
            if old.last().is_none_or(|chunk| !chunk.range.contains(&middle)) {
                let Some((start, cursor)) = self.streams.iter_mut().rev().find(|(start, _)| *start <= middle) else { continue };
                let span = cursor.at(middle - *start)?;
                old.extend(span.map(|span| Old { range: *start + span.offset..*start + span.offset + u64::from(span.len), id: span.id }));
            }
        }
        self.session.reader().prefetch(old.iter().map(|chunk| chunk.id))?;
        Ok(old)
    }

    /// The old chunks that may serve as bases in a window: those in the frames that give most for what reading them takes, as long as the window's bases
    /// take no more to read than `amplification` times its own bytes.
    fn affordable<'o>(
        &self,
        sought: &[Sought],
        candidates: &[Vec<Candidate>],
        at: impl Fn(u64) -> Option<&'o Old>,
    ) -> Result<HashSet<ChunkId>> {
        let mut votes: HashMap<ChunkId, u64> = HashMap::new();
        for candidate in candidates.iter().flatten() {
            if let Some(chunk) = at(candidate.offset() + PIECE_LEN as u64 / 2) {
                *votes.entry(chunk.id).or_default() += u64::from(candidate.votes);
            }
        }
        // By frame: what it gives to all chunks that take it, and its bytes.
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
        frames.sort_unstable_by_key(|(frame, (votes, bytes))| (Reverse(votes * (1 << 20) / bytes.max(&1)), *frame));
        let mut budget = self.amplification * sought.iter().map(|chunk| chunk.len as u64).sum::<u64>();
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
