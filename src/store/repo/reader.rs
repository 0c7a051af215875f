//! Reading chunks back, verified. One reader serves restore, check, deltas and everything that looks inside.

use std::collections::{BTreeSet, HashMap};
use std::ops::{Deref, Range};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use super::Repository;
use super::cache::Cache;
use super::locate::{CopyPlace, FramePlace, StoredCopy};
use super::places::Places;
use super::segments::Segments;
use crate::error::{Error, Result};
use crate::id::{ChunkId, PackId};
use crate::store::backend::ObjectKey;
use crate::store::codec::Decoder;
use crate::store::format::pack::{Encoding, Frame, IdPrefix, Slice};
use crate::store::format::{Malformed, WORK_READ_MAX};

/// Bytes of opened segments kept.
const SEGMENTS_BUDGET: usize = 8 << 20;
/// Bytes of decoded frames kept.
const FRAMES_BUDGET: usize = 12 << 20;
/// Bytes of opened segments, and of decoded frames, that a reader of trees keeps: nodes lie in small segments and frames.
const TREES_BUDGET: usize = 4 << 20;
/// How many ways to choose among chunks that share the 8 bytes of id by which bases are named are tried: one, unless somebody made them collide.
const CHOICES_MAX: usize = 64;

/// Gives chunks back, each verified against its id before a byte of it is used. Safe to share among threads.
pub struct Reader {
    repo: Repository,
    places: Places,
    segments: Segments,
    frames: Mutex<Cache<FramePlace, Arc<Vec<u8>>>>,
    decoders: Mutex<Vec<Decoder>>,
    decoded: AtomicU64,
    /// Packs in which something did not turn out to be what was written.
    bad_packs: Arc<Mutex<BTreeSet<PackId>>>,
}

/// The bytes of a chunk, in those of what holds it.
#[derive(Debug, Clone)]
pub struct ChunkBytes {
    frame: Arc<Vec<u8>>,
    range: Range<usize>,
}

impl ChunkBytes {
    pub(super) fn of(copy: &StoredCopy, frame: Arc<Vec<u8>>) -> Self {
        let start = copy.entry.offset as usize;
        ChunkBytes { frame, range: start..start + copy.entry.plain_len as usize }
    }
}

impl Deref for ChunkBytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.frame.get(self.range.clone()).unwrap_or_default()
    }
}

impl Reader {
    /// A reader with caches of its own.
    pub fn new(repo: &Repository) -> Self {
        Self::with_budgets(repo, SEGMENTS_BUDGET, FRAMES_BUDGET)
    }

    /// The same with small caches, for nodes and listings.
    pub(crate) fn for_trees(repo: &Repository) -> Self {
        Self::with_budgets(repo, TREES_BUDGET, TREES_BUDGET)
    }

    fn with_budgets(repo: &Repository, segments: usize, frames: usize) -> Self {
        Reader {
            repo: repo.clone(),
            places: Places::new(repo),
            segments: Segments::new(segments),
            frames: Mutex::new(Cache::new(frames)),
            decoders: Mutex::new(Vec::new()),
            decoded: AtomicU64::new(0),
            bad_packs: Arc::default(),
        }
    }

    /// The repository that it reads.
    pub fn repository(&self) -> &Repository {
        &self.repo
    }

    /// All known copies of a chunk, the lowest level first.
    pub(crate) fn copies_of(&self, id: &ChunkId) -> Result<Vec<StoredCopy>> {
        self.places.copies(id)
    }

    /// All known copies that may serve as the base of a frame of level `below`, the lowest level first.
    pub(crate) fn bases_of(&self, prefix: IdPrefix, below: u8) -> Result<Vec<StoredCopy>> {
        self.places.bases(prefix, below)
    }

    pub(crate) fn places(&self) -> &Places {
        &self.places
    }

    /// Looks up where these chunks and their bases lie, all at once: much cheaper than one by one. Reading them later works without it too.
    pub fn prefetch(&self, ids: impl Iterator<Item = ChunkId>) -> Result<()> {
        self.places.prefetch(ids.map(|id| id.prefix()))
    }

    /// The same for what these copies are deltas of.
    pub(crate) fn prefetch_bases<'c>(&self, copies: impl Iterator<Item = &'c StoredCopy>) -> Result<()> {
        self.places.prefetch(copies.flat_map(|copy| copy.frame().slices.iter().map(|slice| slice.base)))
    }

    /// Takes the stored bytes of a whole pack that were read for another reason, so that they are not read again; the caller bounds how many.
    pub(crate) fn hold(&self, pack: PackId, bytes: Vec<u8>) {
        self.segments.hold(pack, bytes);
    }

    /// Forgets where chunks lie: what is known of that keeps the tables of packs in memory.
    pub(crate) fn forget_places(&self) {
        self.places.forget();
    }

    /// How many frames it has decoded, or tried to.
    pub fn decoded_frames(&self) -> u64 {
        self.decoded.load(Ordering::Relaxed)
    }

    /// The packs in which something that it has read was not what was written, up to now and from now on.
    pub(crate) fn bad_packs(&self) -> Arc<Mutex<BTreeSet<PackId>>> {
        Arc::clone(&self.bad_packs)
    }

    /// The plain bytes of a chunk, from the first of its copies that is whole.
    ///
    /// # Errors
    /// [`Error::Corrupt`] naming the bad pack, when no copy is whole; [`Error::Backend`] when reading itself fails.
    pub fn chunk(&self, id: &ChunkId) -> Result<ChunkBytes> {
        let mut failure = None;
        // Packs that no listed snapshot names (its own was forgotten, a prune has rewritten them) are found by listing them all, once.
        for attempt in 0..2 {
            for copy in &self.places.copies(id)? {
                let read = if attempt == 0 { self.copy(copy) } else { self.healed_copy(copy) };
                match read {
                    Ok(plain) => return Ok(plain),
                    Err(error) if error.is_damage() => failure = failure.or(Some(error)),
                    Err(error) => return Err(error),
                }
            }
            if attempt == 0 {
                self.repo.list_all_packs_once()?;
                self.places.forget();
            }
        }
        Err(failure.unwrap_or_else(|| self.repo.lost(format!("chunk {id}"), "it is in no pack")))
    }

    /// The plain bytes of one copy of a chunk. Its bases are not verified one by one, as a wrong one cannot give bytes that match the chunk's
    /// id; if these do not match, the chain is walked to name the link that is bad, and to find other copies for it.
    pub(crate) fn copy(&self, copy: &StoredCopy) -> Result<ChunkBytes> {
        let frame = match self.kept(copy) {
            Some(frame) => Some(frame),
            None => self.decode_one(copy)?,
        };
        match frame.map(|frame| ChunkBytes::of(copy, frame)).filter(|bytes| self.matches(copy, bytes)) {
            Some(bytes) => Ok(bytes),
            None => self.walk(copy, &mut Walk::new(false)),
        }
    }

    /// The plain bytes of one copy of a chunk, even if they or those of its bases have to be healed with the parity of their packs: for when all else failed.
    pub(crate) fn healed_copy(&self, copy: &StoredCopy) -> Result<ChunkBytes> {
        self.walk(copy, &mut Walk::new(true))
    }

    pub(super) fn matches(&self, copy: &StoredCopy, bytes: &[u8]) -> bool {
        bytes.len() == copy.entry.plain_len as usize && self.repo.keys().chunk_id(bytes) == copy.entry.id
    }

    /// The decoded frame of a copy, if it is kept; not verified.
    pub(super) fn kept(&self, copy: &StoredCopy) -> Option<Arc<Vec<u8>>> {
        self.frames.lock().unwrap_or_else(PoisonError::into_inner).get(&copy.frame_place())
    }

    pub(super) fn keep(&self, copy: &StoredCopy, frame: &Arc<Vec<u8>>) {
        self.frames.lock().unwrap_or_else(PoisonError::into_inner).put(copy.frame_place(), Arc::clone(frame), frame.len());
    }

    /// The bytes of a copy that does not come out right: every base is verified, from whichever of its copies is whole. What is found to be
    /// whole is kept, so that bases that are shared are not walked once for each way that leads to them.
    fn walk(&self, copy: &StoredCopy, walk: &mut Walk) -> Result<ChunkBytes> {
        if let Some(bytes) = self.kept(copy).map(|frame| ChunkBytes::of(copy, frame)).filter(|bytes| walk.trusts(self, copy, bytes)) {
            return Ok(bytes);
        }
        walk.work = walk.work.checked_sub(1).ok_or_else(|| too_much_work(copy))?;
        // For each slice what may be meant; more than one only if two chunks share the start of their ids.
        let mut parts: Vec<Vec<Vec<u8>>> = Vec::new();
        for slice in &copy.frame().slices {
            parts.push(self.verified_parts(copy, slice, walk)?);
        }
        match self.choose(copy, &parts, None, walk) {
            Err(error) if walk.heals && error.is_damage() => match self.repo.healed_pack(&copy.pack())? {
                Some(healed) => self.choose(copy, &parts, Some(&healed), walk),
                None => Err(error),
            },
            other => other,
        }
    }

    /// Decodes a copy with each of the prefixes that these parts may make, until one is right; from these bytes of its pack, if they are healed.
    fn choose(&self, copy: &StoredCopy, parts: &[Vec<Vec<u8>>], healed: Option<&[u8]>, walk: &mut Walk) -> Result<ChunkBytes> {
        let choices = parts.iter().fold(1usize, |product, parts| product.saturating_mul(parts.len())).min(CHOICES_MAX);
        let mut failure = None;
        for choice in 0..choices {
            let mut rest = choice;
            let mut prefix = Vec::with_capacity(copy.frame().prefix_len());
            for part in parts {
                prefix.extend_from_slice(part.get(rest % part.len().max(1)).map_or(&[][..], Vec::as_slice));
                rest /= part.len().max(1);
            }
            let decoded = match healed {
                Some(healed) => self.decode_bytes(copy, &encoded_in(copy, healed)?, prefix),
                None => self.decode(copy, prefix),
            };
            match decoded.map(|plain| ChunkBytes::of(copy, Arc::new(plain))) {
                Ok(bytes) if walk.trusts(self, copy, &bytes) => {
                    self.keep(copy, &bytes.frame);
                    return Ok(bytes);
                }
                Ok(_) => failure = Some(damaged(copy, "its decoded bytes do not match its id")),
                Err(error) => failure = Some(error),
            }
        }
        if failure.as_ref().is_some_and(Error::is_damage) {
            // All of its bases are whole.
            self.bad_packs.lock().unwrap_or_else(PoisonError::into_inner).insert(copy.pack());
        }
        Err(failure.unwrap_or_else(|| self.no_base(copy)))
    }

    /// The bytes that a slice may mean, each of another chunk; from whole copies only.
    fn verified_parts(&self, of: &StoredCopy, slice: &Slice, walk: &mut Walk) -> Result<Vec<Vec<u8>>> {
        let mut found: Vec<(ChunkId, Vec<u8>)> = Vec::new();
        let mut failure = None;
        for base in self.bases(of, slice)? {
            if found.iter().any(|(id, _)| *id == base.entry.id) {
                continue;
            }
            match self.walk(&base, walk) {
                Ok(bytes) => found.push((base.entry.id, part_of(of, slice, &bytes)?.to_vec())),
                Err(error) if error.is_damage() => failure = failure.or(Some(error)),
                Err(error) => return Err(error),
            }
        }
        match found.is_empty() {
            true => Err(failure.unwrap_or_else(|| self.no_base(of))),
            false => Ok(found.into_iter().map(|(_, part)| part).collect()),
        }
    }

    /// The copies that may serve for a slice, the lowest level first.
    fn bases(&self, of: &StoredCopy, slice: &Slice) -> Result<Vec<StoredCopy>> {
        let bases = self.places.bases(slice.base, of.frame().level)?;
        if !bases.is_empty() {
            return Ok(bases);
        }
        self.repo.list_all_packs_once()?;
        let mut bases = self.repo.candidates(slice.base)?;
        bases.retain(|base| base.frame().level < of.frame().level);
        Ok(bases)
    }

    fn no_base(&self, of: &StoredCopy) -> Error {
        self.repo.lost(format!("chunk {}", of.entry.id), "a chunk that it is a delta of is in no pack")
    }

    /// The encoded bytes of the frame of a copy, in the segment that holds them.
    pub(crate) fn encoded(&self, copy: &StoredCopy) -> Result<ChunkBytes> {
        let frame = copy.frame();
        let segment = self.segments.of(self.repo.backend(), copy)?;
        let start = frame.offset as usize;
        let range = start..start + frame.encoded_len as usize;
        match segment.get(range.clone()) {
            Some(_) => Ok(ChunkBytes { frame: segment, range }),
            None => Err(damaged(copy, "it reaches past its segment")),
        }
    }

    /// Decodes the frame of a copy with this prefix.
    pub(super) fn decode(&self, copy: &StoredCopy, prefix: Vec<u8>) -> Result<Vec<u8>> {
        self.decode_bytes(copy, &self.encoded(copy)?, prefix)
    }

    /// The same, with its encoded bytes at hand.
    pub(super) fn decode_bytes(&self, copy: &StoredCopy, encoded: &[u8], prefix: Vec<u8>) -> Result<Vec<u8>> {
        let Frame { plain_len, encoding, .. } = *copy.frame();
        self.decoded.fetch_add(1, Ordering::Relaxed);
        if encoding == Encoding::Raw {
            return Ok(encoded.to_vec());
        }
        let mut plain = Vec::new();
        let pooled = self.decoders.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let decoder = pooled.map_or_else(Decoder::new, Ok);
        let decoded = decoder.and_then(|mut decoder| {
            let decoded = match encoding {
                Encoding::Patch => {
                    plain = prefix;
                    decoder.decode_patch(encoded, &mut plain, plain_len)
                }
                _ => decoder.decode(encoded, &prefix, plain_len, &mut plain),
            };
            self.decoders.lock().unwrap_or_else(PoisonError::into_inner).push(decoder);
            decoded
        });
        decoded.map_err(|m: Malformed| damaged(copy, &m.to_string()))?;
        Ok(plain)
    }
}

/// What walking down one chain may still take, and what has been found to be whole on the way.
struct Walk {
    work: u32,
    /// Whether packs are healed where nothing else helps.
    heals: bool,
    /// A long base that stands in many prefixes is not hashed for each slice of it. Other threads may keep other bytes for the same frame, so these
    /// are told by where they lie.
    verified: HashMap<CopyPlace, Weak<Vec<u8>>>,
}

impl Walk {
    fn new(heals: bool) -> Self {
        Walk { work: WORK_READ_MAX, heals, verified: HashMap::new() }
    }

    /// Whether these are the bytes that the id of the copy says.
    fn trusts(&mut self, reader: &Reader, copy: &StoredCopy, bytes: &ChunkBytes) -> bool {
        let frame = Arc::downgrade(&bytes.frame);
        if self.verified.get(&copy.place()).is_some_and(|known| known.ptr_eq(&frame)) {
            return true;
        }
        let whole = reader.matches(copy, bytes);
        if whole {
            self.verified.insert(copy.place(), frame);
        }
        whole
    }
}

/// The part of a base that a slice names.
fn part_of<'b>(of: &StoredCopy, slice: &Slice, base: &'b [u8]) -> Result<&'b [u8]> {
    let start = slice.offset as usize;
    base.get(start..start + slice.len as usize).ok_or_else(|| damaged(of, "it wants more of a base than there is"))
}

/// The encoded bytes of the frame of a copy, from the bytes of its whole pack.
fn encoded_in(copy: &StoredCopy, pack: &[u8]) -> Result<Vec<u8>> {
    let frame = copy.frame();
    let place = copy.table.segment_range(frame.segment)?;
    let (start, end) = (usize::try_from(place.start).unwrap_or(usize::MAX), usize::try_from(place.end).unwrap_or(usize::MAX));
    let mut segment = pack.get(start..end).ok_or_else(|| damaged(copy, "its segment reaches past the pack"))?.to_vec();
    copy.table.sealer.open(frame.segment, &mut segment).map_err(|m| damaged(copy, &m.to_string()))?;
    let start = frame.offset as usize;
    let encoded = segment.get(start..start + frame.encoded_len as usize);
    encoded.map(<[u8]>::to_vec).ok_or_else(|| damaged(copy, "it reaches past its segment"))
}

fn damaged(copy: &StoredCopy, detail: &str) -> Error {
    let object = ObjectKey::Pack(copy.table.pack.id).to_string();
    Error::corrupt(object, format!("chunk {} in segment {}: {detail}", copy.entry.id, copy.frame().segment))
}

fn too_much_work(copy: &StoredCopy) -> Error {
    damaged(copy, "its chain of deltas takes more work than the format allows")
}
