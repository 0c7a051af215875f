//! Reading chunks back. There is one reader for restore, check, deltas and everything that looks inside.
//!
//! It guarantees that every byte it returns was compared with the chunk's id. If a copy is bad, it tries the other copies, and at last heals
//! packs with their parity. Its caches are bounded in bytes.

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
use crate::store::repo::usize_from;

/// Bytes of opened segments kept.
const SEGMENTS_BUDGET: usize = 8 << 20;
/// Bytes of decoded frames kept.
const FRAMES_BUDGET: usize = 12 << 20;
/// Bytes of opened segments, and of decoded frames, that a reader of trees keeps: nodes lie in small segments and frames.
const TREES_BUDGET: usize = 4 << 20;
/// Bases are named by 8 bytes of their ids. If several chunks share these, this many combinations are tried. That happens only when someone made
/// ids collide.
const CHOICES_MAX: usize = 64;

/// Gives chunks back. Each is verified against its id before a byte of it is used. It can be shared among threads.
pub struct Reader {
    repo: Repository,
    places: Places,
    segments: Segments,
    frames: Mutex<Cache<FramePlace, Arc<Vec<u8>>>>,
    decoders: Mutex<Vec<Decoder>>,
    /// How many frames were decoded.
    decoded: AtomicU64,
    /// Packs in which something was not as it was written.
    bad_packs: Arc<Mutex<BTreeSet<PackId>>>,
}

/// The bytes of a chunk, as a part of the frame that holds it.
#[derive(Debug, Clone)]
pub struct ChunkBytes {
    frame: Arc<Vec<u8>>,
    range: Range<usize>,
}

impl ChunkBytes {
    pub(super) fn of(copy: &StoredCopy, frame: Arc<Vec<u8>>) -> Self {
        // Decoding the pack's table has verified that the chunk lies within its frame.
        let start = usize_from(copy.entry.offset);
        ChunkBytes { frame, range: start..start + usize_from(copy.entry.plain_len) }
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

    /// A reader with small caches, for nodes and listings.
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

    /// Looks up in a few batches where these chunks and their bases lie, which is much cheaper than one by one. Reading them works without it, too.
    pub fn prefetch(&self, ids: impl Iterator<Item = ChunkId>) -> Result<()> {
        self.places.prefetch(ids.map(|id| id.prefix()))
    }

    /// Looks up the bases of these copies, as [`Reader::prefetch`] does.
    pub(crate) fn prefetch_bases<'c>(&self, copies: impl Iterator<Item = &'c StoredCopy>) -> Result<()> {
        self.places.prefetch(copies.flat_map(|copy| copy.frame().slices.iter().map(|slice| slice.base)))
    }

    /// Takes the stored bytes of a whole pack that were read for another reason, so that they are not read again. The caller bounds how many packs.
    pub(crate) fn hold(&self, pack: PackId, bytes: Vec<u8>) {
        self.segments.hold(pack, bytes);
    }

    /// Forgets where chunks lie. This also frees the tables of packs that this knowledge keeps in memory.
    pub(crate) fn forget_places(&self) {
        self.places.forget();
    }

    /// How many frames it has decoded, or tried to.
    pub fn decoded_frames(&self) -> u64 {
        self.decoded.load(Ordering::Relaxed)
    }

    /// The packs in which the reader finds something that is not as it was written. It goes on adding to this set.
    pub(crate) fn bad_packs(&self) -> Arc<Mutex<BTreeSet<PackId>>> {
        Arc::clone(&self.bad_packs)
    }

    /// The plain bytes of a chunk, from the first of its copies that is good.
    ///
    /// # Errors
    /// [`Error::Corrupt`] with the bad pack, if no copy is good; [`Error::Backend`] if reading itself fails.
    pub fn chunk(&self, id: &ChunkId) -> Result<ChunkBytes> {
        let mut failure = None;
        // A pack that no listed snapshot names is found by listing all packs once: its snapshot was forgotten, or a prune wrote it. The second
        // round also heals. It comes last, because healing takes the whole pack into memory.
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

    /// The plain bytes of one copy of a chunk. Its bases are not verified one by one, because a wrong base cannot give bytes that match the
    /// chunk's id. If they do not match, the chain is walked: this names the bad link, and finds other copies for it.
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

    /// The plain bytes of one copy of a chunk. If its bytes or those of its bases are damaged, they are healed with the parity of their
    /// packs. Use this when everything else has failed.
    pub(crate) fn healed_copy(&self, copy: &StoredCopy) -> Result<ChunkBytes> {
        self.walk(copy, &mut Walk::new(true))
    }

    pub(super) fn matches(&self, copy: &StoredCopy, bytes: &[u8]) -> bool {
        bytes.len() == usize_from(copy.entry.plain_len) && self.repo.keys().chunk_id(bytes) == copy.entry.id
    }

    /// The decoded frame of a copy, if the cache has it. It is not verified.
    pub(super) fn kept(&self, copy: &StoredCopy) -> Option<Arc<Vec<u8>>> {
        self.frames.lock().unwrap_or_else(PoisonError::into_inner).get(&copy.frame_place())
    }

    pub(super) fn keep(&self, copy: &StoredCopy, frame: &Arc<Vec<u8>>) {
        self.frames.lock().unwrap_or_else(PoisonError::into_inner).put(copy.frame_place(), Arc::clone(frame), frame.len());
    }

    /// Decodes a copy that did not come out right. Every base is verified, and taken from a copy of it that is good. Good frames are kept, so that
    /// a shared base is walked only once, however many ways lead to it.
    fn walk(&self, copy: &StoredCopy, walk: &mut Walk) -> Result<ChunkBytes> {
        if let Some(bytes) = self.kept(copy).map(|frame| ChunkBytes::of(copy, frame)).filter(|bytes| walk.trusts(self, copy, bytes)) {
            return Ok(bytes);
        }
        // A hostile pack could build chains that branch again and again. The bound ends the walk.
        walk.work = walk.work.checked_sub(1).ok_or_else(|| too_much_work(copy))?;
        // For each slice, the bytes that it may mean. There is more than one only if two chunks share the start of their ids.
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

    /// Decodes a copy with each prefix that these parts can make, until one is right. If `healed` is given, the encoded bytes come from there.
    fn choose(&self, copy: &StoredCopy, parts: &[Vec<Vec<u8>>], healed: Option<&[u8]>, walk: &mut Walk) -> Result<ChunkBytes> {
        // A copy without slices has the empty product, 1: it is decoded once, with an empty prefix.
        let choices = parts.iter().fold(1usize, |product, parts| product.saturating_mul(parts.len())).min(CHOICES_MAX);
        let mut failure = None;
        for choice in 0..choices {
            // The number of the choice, read as digits with one digit for each slice, says which part stands for it.
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
            // All of its bases are good, so this pack itself is bad.
            self.bad_packs.lock().unwrap_or_else(PoisonError::into_inner).insert(copy.pack());
        }
        Err(failure.unwrap_or_else(|| self.no_base(copy)))
    }

    /// The bytes that a slice may mean, one for each chunk whose id starts with the slice's prefix; only from copies that are good.
    fn verified_parts(&self, of: &StoredCopy, slice: &Slice, walk: &mut Walk) -> Result<Vec<Vec<u8>>> {
        let mut found: Vec<(ChunkId, Vec<u8>)> = Vec::new();
        let mut failure = None;
        for base in self.bases(of, slice)? {
            // Another copy of this chunk was good. It has the same bytes.
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

    /// The copies that a slice may mean, the lowest level first.
    fn bases(&self, of: &StoredCopy, slice: &Slice) -> Result<Vec<StoredCopy>> {
        let bases = self.places.bases(slice.base, of.frame().level)?;
        if !bases.is_empty() {
            return Ok(bases);
        }
        // The base may lie in a pack that the catalog does not know yet.
        self.repo.list_all_packs_once()?;
        let mut bases = self.repo.candidates(slice.base)?;
        bases.retain(|base| base.frame().level < of.frame().level);
        Ok(bases)
    }

    fn no_base(&self, of: &StoredCopy) -> Error {
        self.repo.lost(format!("chunk {}", of.entry.id), "one of its bases is in no pack")
    }

    /// The encoded bytes of a copy's frame, as a part of the segment that holds them.
    pub(crate) fn encoded(&self, copy: &StoredCopy) -> Result<ChunkBytes> {
        let frame = copy.frame();
        let segment = self.segments.of(self.repo.backend(), copy)?;
        let start = usize_from(frame.offset);
        let range = start..start + usize_from(frame.encoded_len);
        match segment.get(range.clone()) {
            Some(_) => Ok(ChunkBytes { frame: segment, range }),
            None => Err(damaged(copy, "it reaches past its segment")),
        }
    }

    /// Decodes the frame of a copy with this prefix.
    pub(super) fn decode(&self, copy: &StoredCopy, prefix: Vec<u8>) -> Result<Vec<u8>> {
        self.decode_bytes(copy, &self.encoded(copy)?, prefix)
    }

    /// Decodes the frame of a copy from these encoded bytes.
    pub(super) fn decode_bytes(&self, copy: &StoredCopy, encoded: &[u8], prefix: Vec<u8>) -> Result<Vec<u8>> {
        let Frame { plain_len, encoding, .. } = *copy.frame();
        self.decoded.fetch_add(1, Ordering::Relaxed);
        if encoding == Encoding::Raw {
            return Ok(encoded.to_vec());
        }
        let mut plain = Vec::new();
        // Decoders hold large tables, so they are used again. There are at most as many as threads that decode at the same time.
        let pooled = self.decoders.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let decoder = pooled.map_or_else(Decoder::new, Ok);
        let decoded = decoder.and_then(|mut decoder| {
            let decoded = match encoding {
                Encoding::Patch => {
                    // A patch is applied to its base in place.
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

/// One walk down a chain: how much work it may still do, and what it has found good.
struct Walk {
    work: u32,
    /// Whether packs are healed when nothing else helps.
    heals: bool,
    /// Frames that were verified. A long base that many slices name is so hashed only once. They are compared by address, because another thread may
    /// have put other bytes for the same frame into the cache.
    verified: HashMap<CopyPlace, Weak<Vec<u8>>>,
}

impl Walk {
    fn new(heals: bool) -> Self {
        Walk { work: WORK_READ_MAX, heals, verified: HashMap::new() }
    }

    /// Whether these bytes match the id of the copy.
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
    let start = usize_from(slice.offset);
    base.get(start..start + usize_from(slice.len)).ok_or_else(|| damaged(of, "it names more of a base than there is"))
}

/// The encoded bytes of a copy's frame, taken from the bytes of its whole pack.
fn encoded_in(copy: &StoredCopy, pack: &[u8]) -> Result<Vec<u8>> {
    let frame = copy.frame();
    let place = copy.table.segment_range(frame.segment)?;
    let (start, end) = (usize::try_from(place.start).unwrap_or(usize::MAX), usize::try_from(place.end).unwrap_or(usize::MAX));
    let mut segment = pack.get(start..end).ok_or_else(|| damaged(copy, "its segment reaches past the pack"))?.to_vec();
    copy.table.sealer.open(frame.segment, &mut segment).map_err(|m| damaged(copy, &m.to_string()))?;
    let start = usize_from(frame.offset);
    let encoded = segment.get(start..start + usize_from(frame.encoded_len));
    encoded.map(<[u8]>::to_vec).ok_or_else(|| damaged(copy, "it reaches past its segment"))
}

fn damaged(copy: &StoredCopy, detail: &str) -> Error {
    let object = ObjectKey::Pack(copy.table.pack.id).to_string();
    Error::corrupt(object, format!("chunk {} in segment {}: {detail}", copy.entry.id, copy.frame().segment))
}

fn too_much_work(copy: &StoredCopy) -> Error {
    damaged(copy, "its chain of deltas takes more work than the format allows")
}
