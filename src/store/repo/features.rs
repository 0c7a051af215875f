//! Features of the pieces of streams, kept beside the catalog. A later backup uses them to find content that has moved.
//!
//! There is one file for each stream, for its newest snapshot. A backup first writes changes into a file of its own, and merges them when
//! the snapshot is committed. Like the catalog this is a cache. Its bytes are only hints: if they are lost or damaged, one backup finds
//! nothing that moved.

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
use crate::store::repo::u64_from;

/// The first bytes of a file of features. They include the version of its content.
const MAGIC: [u8; 8] = *b"\xCEiceFT1\n";
/// Bytes before the features: the magic, the length of the stream, the id of the top node of its tree, zeros.
const HEADER_LEN: usize = 64;
/// Streams shorter than this are not worth a file, bytes.
const STREAM_LEN_MIN: u64 = 1 << 20;
/// Features read at once.
const BLOCK: usize = 16 << 10;
/// Beginning of the names of files that are being written.
const TEMPORARY: &str = ".tmp-";

/// The features of a stream as it was in a snapshot.
pub struct KeptFeatures {
    file: File,
    pieces: u64,
}

impl KeptFeatures {
    /// How many pieces the stream has.
    pub fn pieces(&self) -> u64 {
        self.pieces
    }

    /// The features of `count` pieces from this number on. There are fewer at the end of the stream, and none if they cannot be read.
    pub fn at(&self, first_piece: u64, count: usize) -> Vec<Features> {
        // Not more than `count`, which is a usize.
        let count = self.pieces.saturating_sub(first_piece).min(u64_from(count)) as usize;
        let mut bytes = vec![0; count * FEATURES_LEN];
        match self.file.read_exact_at(&mut bytes, offset_of(first_piece)) {
            Ok(()) => bytes.as_chunks::<FEATURES_LEN>().0.iter().map(Features::from_bytes).collect(),
            Err(_) => Vec::new(),
        }
    }

    /// Calls `visit` with all features in order, block by block. Ends early where they cannot be read.
    pub fn read(&mut self, mut visit: impl FnMut(&[Features])) {
        let mut bytes = vec![0; BLOCK * FEATURES_LEN];
        let mut block = Vec::with_capacity(BLOCK);
        let mut done = 0;
        while done < self.pieces {
            // Not more than BLOCK, which is a usize.
            let count = (self.pieces - done).min(u64_from(BLOCK)) as usize;
            let Some(part) = bytes.get_mut(..count * FEATURES_LEN) else { return };
            if self.file.read_exact_at(part, offset_of(done)).is_err() {
                return;
            }
            block.clear();
            block.extend(part.as_chunks::<FEATURES_LEN>().0.iter().map(Features::from_bytes));
            visit(&block);
            done += u64_from(count);
        }
    }
}

/// Takes the features of a stream while it is stored. It never fails: features that cannot be written are not kept.
pub struct FeatureKeeper {
    place: PathBuf,
    taken: Taken,
    failed: AtomicBool,
}

/// The features taken so far, in a file that is removed when this is dropped.
enum Taken {
    /// All features of the stream. The file will replace what was kept.
    Whole(NamedTempFile),
    /// Only features that differ from those of the parent's stream, whose root is `parent`. They will be merged into what was kept.
    Changes { file: NamedTempFile, end: AtomicU64, parent: StreamRoot },
}

impl FeatureKeeper {
    /// Whether it starts from the kept features of the parent's stream, so that only changes need to be put.
    pub fn continues(&self) -> bool {
        matches!(self.taken, Taken::Changes { .. })
    }

    /// Takes the features of the pieces from this number on. Threads may put different pieces at the same time.
    pub fn put(&self, first_piece: u64, features: &[Features]) {
        let bytes = features.iter().flat_map(|features| features.to_bytes());
        let written = match &self.taken {
            Taken::Whole(file) => file.as_file().write_all_at(&bytes.collect::<Vec<u8>>(), offset_of(first_piece)),
            Taken::Changes { file, end, .. } => {
                let head = [first_piece, u64_from(features.len())].map(u64::to_le_bytes);
                let change: Vec<u8> = head.into_iter().flatten().chain(bytes).collect();
                // Each change reserves its own range of the file, so threads do not need a lock.
                file.as_file().write_all_at(&change, end.fetch_add(u64_from(change.len()), Ordering::Relaxed))
            }
        };
        if written.is_err() {
            self.failed.store(true, Ordering::Relaxed);
        }
    }

    /// Keeps the features as those of the stream with this root, in place of the earlier ones.
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
                // Another backup may have changed the kept file, or may be changing it. Then these changes are dropped, and the next backup
                // starts anew.
                let _kept = apply(file.as_file(), &self.place, &parent, root, &header);
            }
            Taken::Changes { .. } => {}
        }
    }
}

/// Writes changes into the kept file. Its header is empty until all are there, so that after a crash it belongs to no stream.
fn apply(changes: &File, place: &Path, parent: &StreamRoot, root: &StreamRoot, header: &[u8; HEADER_LEN]) -> std::io::Result<()> {
    let kept = beneath::open_file_to_write(place)?;
    kept.try_lock().map_err(|_| std::io::ErrorKind::WouldBlock)?;
    let mut found = [0; HEADER_LEN];
    kept.read_exact_at(&mut found, 0)?;
    if header_of(parent) != Some(found) {
        return Ok(());
    }
    // From here on until the last line the file is neither the parent's nor the new one.
    kept.write_all_at(&[0; HEADER_LEN], 0)?;
    kept.set_len(len_of(root))?;
    let (end, mut at) = (changes.metadata()?.len(), 0);
    let mut bytes = Vec::new();
    while at < end {
        let mut head = [[0; 8]; 2];
        changes.read_exact_at(head.as_flattened_mut(), at)?;
        let [first_piece, count] = head.map(u64::from_le_bytes);
        // Not more than the rest of the file, and a keeper puts one batch of pieces at a time.
        bytes.resize(count.saturating_mul(u64_from(FEATURES_LEN)).min(end - at) as usize, 0);
        changes.read_exact_at(&mut bytes, at + 16)?;
        kept.write_all_at(&bytes, offset_of(first_piece))?;
        at += 16 + u64_from(bytes.len());
    }
    kept.write_all_at(header, 0)
}

fn offset_of(piece: u64) -> u64 {
    u64_from(HEADER_LEN) + piece * u64_from(FEATURES_LEN)
}

/// The length of the file for the features of this stream.
fn len_of(root: &StreamRoot) -> u64 {
    offset_of(root.len.div_ceil(u64_from(PIECE_LEN)))
}

/// The header of the file; `None` for an empty stream.
fn header_of(root: &StreamRoot) -> Option<[u8; HEADER_LEN]> {
    let mut header = [0; HEADER_LEN];
    let fields = [&MAGIC[..], &root.len.to_le_bytes(), root.top?.as_bytes()].concat();
    header.iter_mut().zip(fields).for_each(|(to, from)| *to = from);
    Some(header)
}

impl Repository {
    /// The sampler of features of this repository. Its seed comes from the keys, so features of two encrypted repositories cannot be compared.
    pub fn sampler(&self) -> Sampler {
        Sampler::new(self.keys().chunking_seed())
    }

    /// The kept features of the stream with this root. `None` if there are none, or they belong to other content.
    pub fn kept_features(&self, source: SourceId, stream: &[u8], root: &StreamRoot) -> Option<KeptFeatures> {
        let mut file = beneath::open_file(&self.features_dir(source).join(file_name(stream))).ok()?;
        let mut header = [0; HEADER_LEN];
        file.read_exact(&mut header).ok()?;
        (header_of(root)? == header).then(|| KeptFeatures { file, pieces: root.len.div_ceil(u64_from(PIECE_LEN)) })
    }

    /// Starts keeping the features of a stream of about this length. `parent` is the root of the parent's stream. `None` if the stream is too short.
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

    /// Removes the features of all streams of a source but these.
    pub fn drop_features(&self, source: SourceId, but_of: &mut dyn Iterator<Item = Result<Vec<u8>>>) {
        let dir = self.features_dir(source);
        let Ok(listed) = std::fs::read_dir(&dir) else { return };
        let mut old: HashSet<OsString> = listed.flatten().map(|entry| entry.file_name()).collect();
        // A source may have a million streams, but features of few. So the loop ends when all files are accounted for.
        while !old.is_empty() {
            match but_of.next() {
                Some(Ok(stream)) => drop(old.remove(OsStr::new(&file_name(&stream)))),
                Some(Err(_)) => return,
                None => break,
            }
        }
        for name in old {
            // A file that another backup is writing goes, too. That is a loss of hints only.
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
