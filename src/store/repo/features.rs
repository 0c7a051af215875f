//! Features of the pieces of a stream, kept beside the catalog: where a later backup looks for what has moved.
//!
//! One file a stream, of its newest snapshot. Like the catalog it is a cache: bytes of it are hints, and one that is lost or damaged costs one backup
//! that finds nothing moved.

use std::collections::HashSet;
use std::fs::{DirBuilder, File};
use std::io::Read;
use std::os::unix::fs::{DirBuilderExt, FileExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use tempfile::NamedTempFile;

use super::Repository;
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
    dir: PathBuf,
    place: PathBuf,
    /// Removed when dropped, unless it took the place.
    file: Option<NamedTempFile>,
    continues: bool,
    failed: AtomicBool,
}

impl FeatureKeeper {
    /// Whether it begins with what was kept of the parent's stream, so that only what has changed need be put.
    pub fn continues(&self) -> bool {
        self.continues
    }

    /// Takes the features of the pieces from this number on. Threads may put different pieces at the same time.
    pub fn put(&self, first_piece: u64, features: &[Features]) {
        let bytes: Vec<u8> = features.iter().flat_map(|features| features.to_bytes()).collect();
        let written =
            self.file.as_ref().map(|file| file.as_file().write_all_at(&bytes, HEADER_LEN as u64 + first_piece * FEATURES_LEN as u64));
        if written.is_some_and(|written| written.is_err()) {
            self.failed.store(true, Ordering::Relaxed);
        }
    }

    /// Keeps them as those of the stream with this root, in place of what was there.
    pub fn finish(self, root: &StreamRoot) {
        let (Some(temporary), Some(top)) = (self.file, root.top) else { return };
        let file = temporary.as_file();
        let mut header = [0; HEADER_LEN];
        let fields = [&MAGIC[..], &root.len.to_le_bytes(), top.as_bytes()].concat();
        header.iter_mut().zip(fields).for_each(|(to, from)| *to = from);
        let whole = HEADER_LEN as u64 + root.len.div_ceil(PIECE_LEN as u64) * FEATURES_LEN as u64;
        if !self.failed.load(Ordering::Relaxed) && file.set_len(whole).is_ok() && file.write_all_at(&header, 0).is_ok() {
            let _kept = temporary.persist(&self.place);
        }
    }

    fn begin(&self, parent: Option<&Path>) -> Option<NamedTempFile> {
        DirBuilder::new().recursive(true).mode(0o700).create(&self.dir).ok()?;
        let mut file = tempfile::Builder::new().prefix(TEMPORARY).tempfile_in(&self.dir).ok()?;
        if let Some(parent) = parent {
            std::io::copy(&mut beneath::open_file(parent).ok()?, file.as_file_mut()).ok()?;
        }
        Some(file)
    }
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
        let expected = [&MAGIC[..], &root.len.to_le_bytes(), root.top?.as_bytes()].concat();
        header.starts_with(&expected).then(|| KeptFeatures { file, pieces: root.len.div_ceil(PIECE_LEN as u64) })
    }

    /// Begins to keep the features of a stream of about this length; `parent` is the root of its parent's. `None` for a stream that is too short.
    pub fn keep_features(&self, source: SourceId, stream: &[u8], len: Option<u64>, parent: Option<&StreamRoot>) -> Option<FeatureKeeper> {
        if len.is_some_and(|len| len < STREAM_LEN_MIN) {
            return None;
        }
        let dir = self.features_dir(source);
        let place = dir.join(file_name(stream));
        let continues = parent.is_some_and(|root| self.kept_features(source, stream, root).is_some());
        let mut keeper = FeatureKeeper { dir, place, file: None, continues, failed: AtomicBool::new(false) };
        keeper.file = keeper.begin(continues.then_some(keeper.place.as_path()));
        keeper.file.is_some().then_some(keeper)
    }

    /// Removes what is kept of a source's streams that are not among these any more.
    pub fn drop_features(&self, source: SourceId, but_of: impl Iterator<Item = Vec<u8>>) {
        let Ok(listed) = std::fs::read_dir(self.features_dir(source)) else { return };
        let current: HashSet<String> = but_of.map(|stream| file_name(&stream)).collect();
        for entry in listed.flatten() {
            // One that another backup is writing goes too: it is a cache.
            if !current.contains(entry.file_name().to_string_lossy().as_ref()) {
                let _gone_already = std::fs::remove_file(entry.path());
            }
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
