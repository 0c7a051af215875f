//! Putting encoded chunks into packs.
//!
//! Threads fill segments of their own and hand them over when they are full. A segment gets its number at that moment, is sealed by its
//! thread, and is put in its place in the open pack. The thread that seals the last missing segment of a full pack finishes the pack. Two more
//! threads write packs, so that one pack is written while another one waits for the disk to sync.
//!
//! A chunk counts as written only when its pack is durable and in the catalog. After a failure nothing more is accepted.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use super::catalog::NewPack;
use super::locate::PackTable;
use super::{Repository, random_salt};
use crate::error::{Error, Result, joined};
use crate::id::{ChunkId, PackId};
use crate::store::backend::{ObjectKey, WriteMode};
use crate::store::codec::reed_solomon;
use crate::store::crypto::Sealer;
use crate::store::format::pack::{ChunkEntry, FOOTER_LEN, Footer, Frame, TRAILER_SEGMENT, Trailer, padme};
use crate::store::format::parity::{Geometry, PROTECTED_LEN_MAX};
use crate::store::format::snapshot::PackRef;
use crate::store::format::{Cipher, Kind, ObjectHeader, PACK_TARGET, RECORD_LEN_MAX};
use crate::store::repo::{u32_from, u64_from, usize_from};

/// Threads that write packs. One pack is open, and each of these threads holds one. No other finished pack waits in memory.
const WRITERS: usize = 2;
/// A pack with so many chunks is closed whatever its size is, so that its table stays small.
const PACK_CHUNKS_TARGET: usize = 64 << 10;

/// The most bytes of a snapshot's record for each pack that it names.
const PACK_REF_LEN_MAX: usize = 42;
/// Bytes of a snapshot's record for everything else: flags, tags, names. They take far less than a quarter of a MiB.
const RECORD_REST_LEN: usize = 256 << 10;
/// The most packs that a snapshot's record can name.
const PACKS_MAX: usize = (RECORD_LEN_MAX - RECORD_REST_LEN) / PACK_REF_LEN_MAX;
/// About the most bytes that one backup can add to a repository.
pub const BACKUP_LEN_MAX: u64 = u64_from(PACKS_MAX) * u64_from(PACK_TARGET);

/// The message for a source that is too large for one snapshot, with what to do.
pub fn too_much_text() -> String {
    format!(
        "one backup adds at most {} GiB to a repository, after compression and without what is stored already; divide the source into several",
        BACKUP_LEN_MAX >> 30
    )
}

/// A segment while a thread fills it. Its frames are numbered from 0; [`finish_pack`] renumbers them.
#[derive(Default)]
pub(crate) struct SegmentBuilder {
    pub(crate) bytes: Vec<u8>,
    pub(crate) frames: Vec<Frame>,
    pub(crate) chunks: Vec<ChunkEntry>,
}

impl SegmentBuilder {
    /// Appends an encoded frame with its chunks, and sets their places.
    pub(crate) fn push(&mut self, mut frame: Frame, chunks: &[ChunkEntry], encoded: &[u8]) {
        debug_assert!(!chunks.is_empty(), "a frame without a chunk could never be read");
        frame.offset = u32_from(self.bytes.len());
        frame.encoded_len = u32_from(encoded.len());
        frame.plain_len = 0;
        let number = u32_from(self.frames.len());
        for chunk in chunks {
            self.chunks.push(ChunkEntry { frame: number, offset: frame.plain_len, ..*chunk });
            frame.plain_len += chunk.plain_len;
        }
        self.bytes.extend_from_slice(encoded);
        self.frames.push(frame);
    }
}

/// Takes segments, makes packs of them, and writes these.
pub(crate) struct Packer {
    repo: Repository,
    open: Mutex<Option<Arc<OpenPack>>>,
    queue: Mutex<Option<SyncSender<FinishedPack>>>,
    /// Packs that were handed to the writing threads, and the most that a snapshot's record can name.
    sent: AtomicUsize,
    packs_max: usize,
    writers: Mutex<Vec<JoinHandle<Result<Vec<PackRef>>>>>,
    trouble: Arc<Trouble>,
}

/// The first failure of a writing thread. The whole session sees at once that there is one.
struct Trouble {
    poisoned: Arc<AtomicBool>,
    failure: Mutex<Option<Error>>,
}

impl Trouble {
    fn put(&self, error: Error) {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
        self.poisoned.store(true, Ordering::Release);
    }

    /// The failure, for every caller that asks. Errors cannot be cloned, so it is built again.
    fn get(&self) -> Error {
        match &*self.failure.lock().unwrap_or_else(PoisonError::into_inner) {
            Some(Error::Backend { operation, object, source }) => {
                let again = |code: i32| std::io::Error::from_raw_os_error(code);
                let source = source.raw_os_error().map_or_else(|| std::io::Error::new(source.kind(), source.to_string()), again);
                Error::Backend { operation, object: object.clone(), source }
            }
            Some(Error::Catalog { path, detail }) => Error::Catalog { path: path.clone(), detail: detail.clone() },
            Some(other) => Error::backend("write", "a pack", std::io::Error::other(other.to_string())),
            None => Error::Poisoned,
        }
    }

    fn check(&self) -> Result<()> {
        if self.poisoned.load(Ordering::Acquire) { Err(self.get()) } else { Ok(()) }
    }
}

/// Poisons the session if its thread panics, so that all other threads stop.
struct Guard<'t>(&'t Trouble);

impl Drop for Guard<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.poisoned.store(true, Ordering::Release);
        }
    }
}

struct OpenPack {
    header: ObjectHeader,
    sealer: Sealer,
    filling: Mutex<Filling>,
}

#[derive(Default)]
struct Filling {
    /// By segment number; `None` while a thread seals the segment.
    sealed: Vec<Option<SegmentBuilder>>,
    /// How many segments are being sealed.
    missing: usize,
    bytes: usize,
    chunks: usize,
    /// Takes no more segments. The pack is finished as soon as nothing is missing.
    full: bool,
}

impl Filling {
    /// All segments, once the pack is full and nothing is missing. Only the first caller gets them.
    fn take_complete(&mut self) -> Option<Vec<SegmentBuilder>> {
        let complete = self.full && self.missing == 0 && !self.sealed.is_empty();
        debug_assert!(!complete || self.sealed.iter().all(Option::is_some), "nothing is missing, but a segment is");
        complete.then(|| std::mem::take(&mut self.sealed).into_iter().flatten().collect())
    }
}

struct FinishedPack {
    parts: Vec<Vec<u8>>,
    pack: PackRef,
    ids: Vec<ChunkId>,
    catalog_bytes: Vec<u8>,
}

impl Packer {
    /// A packer with its writing threads. `written` gets the ids of every pack that has become durable and is in the catalog. `poisoned` is set if a
    /// pack cannot be written.
    pub(crate) fn new(repo: &Repository, poisoned: Arc<AtomicBool>, written: impl Fn(&[ChunkId]) + Send + Sync + 'static) -> Self {
        // Without a buffer: a thread that finishes a pack waits until a writer takes it. This bounds the packs in memory.
        let (queue, finished) = sync_channel(0);
        let (finished, written) = (Arc::new(Mutex::new(finished)), Arc::new(written));
        let trouble = Arc::new(Trouble { poisoned, failure: Mutex::new(None) });
        let spawn = |_| {
            let (repo, finished, written, trouble) = (repo.clone(), Arc::clone(&finished), Arc::clone(&written), Arc::clone(&trouble));
            std::thread::spawn(move || write_packs(&repo, &finished, &trouble, &*written))
        };
        let writers = (0..WRITERS.min(repo.threads())).map(spawn).collect();
        Packer {
            repo: repo.clone(),
            open: Mutex::new(None),
            queue: Mutex::new(Some(queue)),
            sent: AtomicUsize::new(0),
            packs_max: PACKS_MAX,
            writers: Mutex::new(writers),
            trouble,
        }
    }

    /// Whether it still takes anything.
    ///
    /// # Errors
    /// The reason why a pack could not be written; [`Error::Poisoned`] after a failure elsewhere.
    pub(crate) fn check(&self) -> Result<()> {
        self.trouble.check()
    }

    /// Lowers the limit, so that a test can reach it.
    #[cfg(test)]
    pub(crate) fn limit(&mut self, packs_max: usize) {
        self.packs_max = packs_max;
    }

    /// Takes a filled segment. Blocks while the writing threads are behind.
    pub(crate) fn add(&self, mut segment: SegmentBuilder) -> Result<()> {
        if segment.chunks.is_empty() {
            return Ok(());
        }
        self.check()?;
        let (pack, number) = self.reserve(&segment)?;
        // Sealing takes long and is done without any lock, so that threads seal at the same time.
        pack.sealer.seal(number, &mut segment.bytes).map_err(|m| m.of("a new pack"))?;
        segment.frames.iter_mut().for_each(|frame| frame.segment = number);
        let complete = {
            let mut filling = pack.filling.lock().unwrap_or_else(PoisonError::into_inner);
            filling.missing -= 1;
            let slot = filling.sealed.get_mut(usize_from(number));
            *slot.ok_or_else(|| Error::bug("a segment of a pack has no place in it"))? = Some(std::mem::take(&mut segment));
            filling.take_complete()
        };
        complete.map_or(Ok(()), |segments| self.send(&pack, segments))
    }

    /// Closes the open pack, waits until all packs are durable, and returns them. All threads must have handed over their segments.
    pub(crate) fn finish(&self) -> Result<Vec<PackRef>> {
        let open = self.open.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(pack) = open {
            let complete = {
                let mut filling = pack.filling.lock().unwrap_or_else(PoisonError::into_inner);
                filling.full = true;
                filling.take_complete()
            };
            complete.map_or(Ok(()), |segments| self.send(&pack, segments))?;
        }
        self.join_writers()
    }

    /// The packs that the writing threads have written, or the reason why one of them stopped. They know best why a pack could not be sent to them.
    fn join_writers(&self) -> Result<Vec<PackRef>> {
        // Without the queue the writers end after the packs that they have.
        drop(self.queue.lock().unwrap_or_else(PoisonError::into_inner).take());
        let writers = std::mem::take(&mut *self.writers.lock().unwrap_or_else(PoisonError::into_inner));
        if writers.is_empty() {
            return Err(Error::Poisoned);
        }
        // All threads end before any result is looked at: a pack that is still being written must not outlive the session.
        let results: Vec<Result<Vec<PackRef>>> = writers.into_iter().map(|writer| joined("writing packs", writer.join())).collect();
        let packs: Result<Vec<Vec<PackRef>>> = results.into_iter().collect();
        packs.map(|packs| packs.into_iter().flatten().collect()).map_err(|error| match error {
            // A panic says more than the state of the session.
            Error::Bug { .. } => error,
            _ => self.trouble.get(),
        })
    }

    /// Gives a segment its place in the open pack: the pack, and the segment's number in it.
    fn reserve(&self, segment: &SegmentBuilder) -> Result<(Arc<OpenPack>, u32)> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let pack = match open.take() {
            Some(pack) => pack,
            None => Arc::new(self.start_pack()?),
        };
        let (number, full) = {
            let mut filling = pack.filling.lock().unwrap_or_else(PoisonError::into_inner);
            filling.sealed.push(None);
            filling.missing += 1;
            filling.bytes += segment.bytes.len();
            filling.chunks += segment.chunks.len();
            filling.full = filling.bytes >= PACK_TARGET || filling.chunks >= PACK_CHUNKS_TARGET;
            (u32_from(filling.sealed.len() - 1), filling.full)
        };
        // A full pack is not open any more. The next segment starts a new one, also while threads still seal segments of the full one.
        *open = (!full).then(|| Arc::clone(&pack));
        Ok((pack, number))
    }

    fn start_pack(&self) -> Result<OpenPack> {
        let header = ObjectHeader { kind: Kind::Pack, cipher: self.repo.keys().cipher(), salt: random_salt()? };
        let sealer = self.repo.keys().sealer(&header).map_err(|m| m.of("a new pack"))?;
        Ok(OpenPack { header, sealer, filling: Mutex::default() })
    }

    fn send(&self, pack: &OpenPack, segments: Vec<SegmentBuilder>) -> Result<()> {
        if self.sent.fetch_add(1, Ordering::Relaxed) >= self.packs_max {
            // This is reported here and not at the commit, which may be days later.
            return Err(Error::source("the source", too_much_text()));
        }
        // This thread encodes the trailer and the parity. The writing threads only write.
        let finished = finish_pack(pack, segments, self.repo.config().parity_percent)?;
        let queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner).clone();
        match queue.and_then(|queue| queue.send(finished).ok()) {
            Some(()) => Ok(()),
            None => self.join_writers().and_then(|_| Err(self.trouble.get())),
        }
    }
}

impl Drop for Packer {
    /// An abandoned session may leave packs that nothing refers to, but no thread.
    fn drop(&mut self) {
        let _abandoned = self.join_writers();
    }
}

/// Adds padding, parity, trailer and footer, and names the pack by the hash of its bytes.
fn finish_pack(pack: &OpenPack, segments: Vec<SegmentBuilder>, parity_percent: u8) -> Result<FinishedPack> {
    let mut trailer = Trailer::default();
    let mut parts = vec![pack.header.encode().to_vec()];
    for segment in segments {
        // Counts and lengths of one pack fit into 32 bits: it is closed at PACK_TARGET bytes or PACK_CHUNKS_TARGET chunks.
        let first_frame = u32_from(trailer.frames.len());
        trailer.segments.push(u32_from(segment.bytes.len()));
        trailer.frames.extend(segment.frames);
        trailer.chunks.extend(segment.chunks.into_iter().map(|chunk| ChunkEntry { frame: first_frame + chunk.frame, ..chunk }));
        parts.push(segment.bytes);
    }
    let mut stored_trailer = trailer.encode();
    // If the table could not be read back, all chunks of the pack would be lost.
    if Trailer::decode(&stored_trailer, pack.header.cipher.overhead()).as_ref() != Ok(&trailer) {
        return Err(Error::corrupt("a new pack", "its table does not decode to what was encoded; memory may be faulty"));
    }
    let catalog_bytes = PackTable::catalog_bytes(&pack.header.salt, &stored_trailer);
    pack.sealer.seal(TRAILER_SEGMENT, &mut stored_trailer).map_err(|m| m.of("a new pack"))?;
    let body_len: usize = parts.iter().map(Vec::len).sum();
    let len = u64_from(body_len + stored_trailer.len() + FOOTER_LEN);
    // Padding hides the exact size. In a plain repository there is nothing to hide.
    let padding = match pack.header.cipher {
        Cipher::None => 0,
        Cipher::Aes256Gcm => padme(len) - len,
    };
    // Padding is a part of a pack that is in memory, so its length fits.
    parts.push(pack.sealer.padding(padding as usize));
    let head_len = u64_from(body_len) + padding;
    // Parity comes before the trailer, so that the trailer stays the end of the object, where readers look for it.
    let geometry = (parity_percent > 0)
        .then(|| Geometry::of_pack(head_len, u32_from(stored_trailer.len() + FOOTER_LEN), parity_percent))
        .filter(|geometry| geometry.object_len() <= PROTECTED_LEN_MAX);
    let section_len = geometry.map_or(0, |geometry| geometry.section_len());
    let footer = Footer {
        trailer_offset: head_len + section_len,
        pack_len: len + padding + section_len,
        trailer_len: u32_from(stored_trailer.len()),
        salt: pack.header.salt,
    };
    let footer_bytes = footer.encode(&stored_trailer);
    if let Some(geometry) = geometry {
        let head = std::mem::take(&mut parts).concat();
        let section =
            reed_solomon::section(&geometry, &head, &[&stored_trailer[..], &footer_bytes].concat()).map_err(|m| m.of("a new pack"))?;
        parts = vec![head, section];
    }
    parts.push(stored_trailer);
    parts.push(footer_bytes);
    debug_assert_eq!(u64_from(parts.iter().map(Vec::len).sum()), footer.pack_len, "the footer says the length of the pack");
    let mut hasher = blake3::Hasher::new();
    parts.iter().for_each(|part| {
        hasher.update(part);
    });
    let id = PackId(*hasher.finalize().as_bytes());
    let pack = PackRef { id, size: footer.pack_len, trailer_offset: footer.trailer_offset };
    let ids = trailer.chunks.iter().map(|chunk| chunk.id).collect();
    Ok(FinishedPack { parts, pack, ids, catalog_bytes })
}

/// The work of one writing thread, until the queue ends. Returns its packs.
fn write_packs(
    repo: &Repository,
    finished: &Mutex<Receiver<FinishedPack>>,
    trouble: &Trouble,
    written: &dyn Fn(&[ChunkId]),
) -> Result<Vec<PackRef>> {
    let _guard = Guard(trouble);
    let next = || finished.lock().unwrap_or_else(PoisonError::into_inner).recv().ok();
    let mut packs = Vec::new();
    while let Some(finished) = next() {
        // After a failure of another thread this pack would be garbage, so it is not written.
        if trouble.poisoned.load(Ordering::Acquire) {
            return Err(Error::Poisoned);
        }
        packs.push(write_pack(repo, finished, written).map_err(|error| {
            trouble.put(error);
            Error::Poisoned
        })?);
    }
    Ok(packs)
}

fn write_pack(repo: &Repository, finished: FinishedPack, written: &dyn Fn(&[ChunkId])) -> Result<PackRef> {
    let FinishedPack { parts, pack, ids, catalog_bytes } = finished;
    let parts: Vec<&[u8]> = parts.iter().map(Vec::as_slice).collect();
    // First the pack, then the catalog: an entry must never lead to a pack that is not durable. `written` comes last, when look-ups find the chunks.
    repo.backend().write(&ObjectKey::Pack(pack.id), &parts, WriteMode::CreateNew)?;
    let new = NewPack { pack, ids: &ids, trailer: &catalog_bytes };
    repo.on_catalog(|local| local.add_packs(&[new]))?;
    written(&ids);
    Ok(pack)
}
