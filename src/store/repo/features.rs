//! Features of the pieces of a stream, kept beside the catalog: where a later backup looks for what has moved.
//!
//! One file a stream, of its newest snapshot. A backup writes what has changed into a file of its own first, and into this one once the snapshot is there. Like the catalog it is a cache: bytes of it are hints, and one that is lost or damaged costs one backup
//! that finds nothing moved.

use std::collections::HashSet;
use std::ffi::{OsStr, OsString};
use std::fs::{DirBuilder, File};
use std::io::Read;
use std::os::unix::fs::{DirBuilderExt, FileExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use tempfile::NamedTempFile;

use super::Repository;
use crate::error::Result;
use crate::fs::beneath;
use crate::id::{SourceId, to_hex};
use crate::store::codec::similarity::{FEATURES_LEN, Features, PIECE_LEN, Sampler};
use crate::store::format::snapshot::StreamRoot;

/// The first bytes of a file of features, with the version of what is in it.
const MAGIC: [u8; 8] = *b"\xCEiceFT1\n";
/// Bytes before the features: the magic, the length of the stream, the id of the top of its tree, zeros.
const HEADER_LEN: usize = 64;
/// Streams shorter than this are not worth a file, bytes.
const STREAM_LEN_MIN: u64 = 1 << 20;
/// Features read at once.
const BLOCK: usize = 16 << 10;
/// Beginning of the names of files that are being written.
const TEMPORARY: &str = ".tmp-";

/// The features of a stream as it is in a snapshot.
pub struct KeptFeatures {
    file: File,
    pieces: u64,
}

impl KeptFeatures {
    /// How many pieces the stream has.
    pub fn pieces(&self) -> u64 {
        self.pieces
    }

    /// The features of so many pieces from this number on; fewer at the end of the stream, none if they cannot be read.
    pub fn at(&self, first_piece: u64, count: usize) -> Vec<Features> {
        let count = self.pieces.saturating_sub(first_piece).min(count as u64) as usize;
        let mut bytes = vec![0; count * FEATURES_LEN];
        match self.file.read_exact_at(&mut bytes, HEADER_LEN as u64 + first_piece * FEATURES_LEN as u64) {
            Ok(()) => bytes.as_chunks::<FEATURES_LEN>().0.iter().map(Features::from_bytes).collect(),
            Err(_) => Vec::new(),
        }
    }

    /// Gives all features in order, block by block. What cannot be read is left out at the end.
    pub fn read(&mut self, mut visit: impl FnMut(&[Features])) {
        let mut bytes = vec![0; BLOCK * FEATURES_LEN];
        let mut block = Vec::with_capacity(BLOCK);
        let mut done = 0;
        while done < self.pieces {
            let count = (self.pieces - done).min(BLOCK as u64) as usize;
            let Some(part) = bytes.get_mut(..count * FEATURES_LEN) else { return };
            if self.file.read_exact_at(part, HEADER_LEN as u64 + done * FEATURES_LEN as u64).is_err() {
                return;
            }
            block.clear();
            block.extend(part.as_chunks::<FEATURES_LEN>().0.iter().map(Features::from_bytes));
            visit(&block);
            done += count as u64;
        }
    }
}

/// Takes the features of a stream while it is stored. It never fails: what cannot be written is not kept.
pub struct FeatureKeeper {
    place: PathBuf,
    taken: Taken,
    failed: AtomicBool,
}

/// What was taken so far, in a file that is removed when it is dropped.
enum Taken {
    /// All features of the stream, for the place of what was kept.
    Whole(NamedTempFile),
    /// Those that are other ones than in the parent's stream with this root: they go into what is kept of it.
    Changes { file: NamedTempFile, end: AtomicU64, parent: StreamRoot },
}

impl FeatureKeeper {
    /// Whether it begins with what was kept of the parent's stream, so that only what has changed need be put.
    pub fn continues(&self) -> bool {
        matches!(self.taken, Taken::Changes { .. })
    }

    /// Takes the features of the pieces from this number on. Threads may put different pieces at the same time.
    pub fn put(&self, first_piece: u64, features: &[Features]) {
        let bytes = features.iter().flat_map(|features| features.to_bytes());
        let written = match &self.taken {
            Taken::Whole(file) => file.as_file().write_all_at(&bytes.collect::<Vec<u8>>(), offset_of(first_piece)),
            Taken::Changes { file, end, .. } => {
                let head = [first_piece, features.len() as u64].map(u64::to_le_bytes);
                let change: Vec<u8> = head.into_iter().flatten().chain(bytes).collect();
                file.as_file().write_all_at(&change, end.fetch_add(change.len() as u64, Ordering::Relaxed))
            }
        };
        if written.is_err() {
            self.failed.store(true, Ordering::Relaxed);
        }
    }

    /// Keeps them as those of the stream with this root, in place of what was there.
    pub fn finish(self, root: &StreamRoot) {
        let Some(header) = header_of(root).filter(|_| !self.failed.load(Ordering::Relaxed)) else { return };
        match self.taken {
            Taken::Whole(file) => {
                let whole = file.as_file().set_len(len_of(root)).and_then(|()| file.as_file().write_all_at(&header, 0));
                if whole.is_ok() {
                    let _kept = file.persist(&self.place);
                }
            }
            Taken::Changes { file, parent, .. } if parent != *root => {
                // Another backup may have changed what is kept, or be at it. Then these are not kept, and the next backup begins anew.
                let _kept = apply(file.as_file(), &self.place, &parent, root, &header);
            }
            Taken::Changes { .. } => {}
        }
    }
}

/// Writes changes into what is kept. Until all are there it is that of no stream.
fn apply(changes: &File, place: &Path, parent: &StreamRoot, root: &StreamRoot, header: &[u8; HEADER_LEN]) -> std::io::Result<()> {
    let kept = beneath::open_file_to_write(place)?;
    kept.try_lock().map_err(|_| std::io::ErrorKind::WouldBlock)?;
    let mut found = [0; HEADER_LEN];
    kept.read_exact_at(&mut found, 0)?;
    if header_of(parent) != Some(found) {
        return Ok(());
    }
    kept.write_all_at(&[0; HEADER_LEN], 0)?;
    kept.set_len(len_of(root))?;
    let (end, mut at) = (changes.metadata()?.len(), 0);
    let mut bytes = Vec::new();
    while at < end {
        let mut head = [[0; 8]; 2];
        changes.read_exact_at(head.as_flattened_mut(), at)?;
        let [first_piece, count] = head.map(u64::from_le_bytes);
        bytes.resize(count.saturating_mul(FEATURES_LEN as u64).min(end - at) as usize, 0);
        changes.read_exact_at(&mut bytes, at + 16)?;
        kept.write_all_at(&bytes, offset_of(first_piece))?;
        at += 16 + bytes.len() as u64;
    }
    kept.write_all_at(header, 0)
}

fn offset_of(piece: u64) -> u64 {
    HEADER_LEN as u64 + piece * FEATURES_LEN as u64
}

/// Bytes of a file of the features of this stream.
fn len_of(root: &StreamRoot) -> u64 {
    offset_of(root.len.div_ceil(PIECE_LEN as u64))
}

/// What the file begins with; `None` for an empty stream.
fn header_of(root: &StreamRoot) -> Option<[u8; HEADER_LEN]> {
    let mut header = [0; HEADER_LEN];
    let fields = [&MAGIC[..], &root.len.to_le_bytes(), root.top?.as_bytes()].concat();
    header.iter_mut().zip(fields).for_each(|(to, from)| *to = from);
    Some(header)
}

impl Repository {
    /// What finds features in this repository.
    pub fn sampler(&self) -> Sampler {
        Sampler::new(self.keys().chunking_seed())
    }

    /// The kept features of the stream with this root; `None` if there are none, or only those of another content.
    pub fn kept_features(&self, source: SourceId, stream: &[u8], root: &StreamRoot) -> Option<KeptFeatures> {
        let mut file = beneath::open_file(&self.features_dir(source).join(file_name(stream))).ok()?;
        let mut header = [0; HEADER_LEN];
        file.read_exact(&mut header).ok()?;
        (header_of(root)? == header).then(|| KeptFeatures { file, pieces: root.len.div_ceil(PIECE_LEN as u64) })
    }

    /// Begins to keep the features of a stream of about this length; `parent` is the root of its parent's. `None` for a stream that is too short.
    pub fn keep_features(&self, source: SourceId, stream: &[u8], len: Option<u64>, parent: Option<&StreamRoot>) -> Option<FeatureKeeper> {
        if len.is_some_and(|len| len < STREAM_LEN_MIN) {
            return None;
        }
        let dir = self.features_dir(source);
        let place = dir.join(file_name(stream));
        DirBuilder::new().recursive(true).mode(0o700).create(&dir).ok()?;
        let file = tempfile::Builder::new().prefix(TEMPORARY).tempfile_in(&dir).ok()?;
        let taken = match parent.filter(|root| self.kept_features(source, stream, root).is_some()) {
            Some(parent) => Taken::Changes { file, end: AtomicU64::new(0), parent: *parent },
            None => Taken::Whole(file),
        };
        Some(FeatureKeeper { place, taken, failed: AtomicBool::new(false) })
    }

    /// Removes what is kept of a source's streams that are not among these any more.
    pub fn drop_features(&self, source: SourceId, but_of: &mut dyn Iterator<Item = Result<Vec<u8>>>) {
        let dir = self.features_dir(source);
        let Ok(listed) = std::fs::read_dir(&dir) else { return };
        let mut old: HashSet<OsString> = listed.flatten().map(|entry| entry.file_name()).collect();
        // A source may have a million streams, and features of few.
        while !old.is_empty() {
            match but_of.next() {
                Some(Ok(stream)) => drop(old.remove(OsStr::new(&file_name(&stream)))),
                Some(Err(_)) => return,
                None => break,
            }
        }
        for name in old {
            // One that another backup is writing goes too: it is a cache.
            let _gone_already = std::fs::remove_file(dir.join(name));
        }
    }

    fn features_dir(&self, source: SourceId) -> PathBuf {
        let of = [self.config().repository.as_bytes().as_slice(), source.as_bytes()].concat();
        self.cache_dir().join("features").join(short_hash(&of))
    }
}

fn file_name(stream: &[u8]) -> String {
    short_hash(stream)
}

fn short_hash(bytes: &[u8]) -> String {
    to_hex(blake3::hash(bytes).as_bytes().get(..16).unwrap_or_default())
}
