//! Repositories in memory, sources made of bytes, and a look into the stored tables.

use std::io::Cursor;
use std::path::PathBuf;
use std::sync::Arc;

use icecore::engine::{Body, Capture, CaptureReport, CapturedStream, Known, PageRead, Source, SourceDescription};
use icecore::id::{KeyId, RepositoryId, SnapshotId};
use icecore::ops::backup::{BackupOptions, BackupReport, backup};
use icecore::ops::check::{CheckOptions, check};
use icecore::ops::restore::dump;
use icecore::progress::{Monitor, Silent};
use icecore::recorded::{EntryKind, SourceKind};
use icecore::store::backend::{Backend, ObjectKey, ObjectKind, Replica, WriteMode};
use icecore::store::crypto::keyring;
use icecore::store::format::config::Config;
use icecore::store::format::key::KeyPayload;
use icecore::store::format::pack::{Encoding, Frame, Trailer};
use icecore::store::format::snapshot::SnapshotRecord;
use icecore::store::format::{LEVEL_WRITE_MAX, SALT_LEN, WORK_WRITE_MAX};
use icecore::store::repo::Repository;

use super::memory::Memory;
use super::support::{CHEAP, open_backend};

/// The usual lengths of chunks, bytes.
pub const USUAL: u32 = 64 << 10;

/// A repository in memory with room for caches.
pub struct Scene {
    pub dir: tempfile::TempDir,
    pub memory: Arc<Memory>,
}

impl Scene {
    pub fn new(encrypted: bool) -> Self {
        Self::with_lengths(encrypted, USUAL, USUAL)
    }

    pub fn with_lengths(encrypted: bool, page_chunk_len: u32, content_chunk_len: u32) -> Self {
        let memory = Memory::new(Default::default());
        let config = Config { repository: RepositoryId([7; 32]), encrypted, page_chunk_len, content_chunk_len, parity_percent: 0 };
        let bytes = config.encode().unwrap();
        if encrypted {
            let payload = KeyPayload { master: [9; 32], config_hash: *blake3::hash(&bytes).as_bytes(), config: config.clone() };
            let record = keyring::wrap(&config.repository, &payload, b"correct horse", [3; 32], CHEAP).unwrap().encode();
            for replica in [Replica::Second, Replica::First] {
                memory.write(&ObjectKey::Key(KeyId([5; 32]), replica), &[&record], WriteMode::CreateNew).unwrap();
            }
        }
        for replica in [Replica::Second, Replica::First] {
            memory.write(&ObjectKey::Config(replica), &[&bytes], WriteMode::CreateNew).unwrap();
        }
        Scene { dir: super::simulated::scratch(), memory }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Opened with a catalog of its own by this name.
    pub fn open(&self, cache: &str) -> Repository {
        open_backend(self.memory.clone(), self.path(cache), 2).unwrap()
    }

    /// The files in which features are kept.
    pub fn features(&self, cache: &str) -> Vec<PathBuf> {
        let found = walkdir::WalkDir::new(self.path(cache).join("features")).sort_by_file_name().into_iter().filter_map(Result::ok);
        found.filter(|entry| entry.file_type().is_file()).map(|entry| entry.into_path()).collect()
    }
}

/// A stream as a source gives it: of pages, or of content.
#[derive(Clone)]
pub struct Stream {
    pub name: String,
    pub bytes: Arc<Vec<u8>>,
    pub page_size: Option<u32>,
}

impl Stream {
    pub fn pages(name: &str, bytes: &[u8], page_size: u32) -> Self {
        Stream { name: name.into(), bytes: Arc::new(bytes.to_vec()), page_size: Some(page_size) }
    }

    pub fn content(name: &str, bytes: &[u8]) -> Self {
        Stream { name: name.into(), bytes: Arc::new(bytes.to_vec()), page_size: None }
    }
}

/// What is captured. All of these form one history.
pub struct Streams<'s>(pub &'s [Stream]);

struct Bytes(Arc<Vec<u8>>, u32);

impl PageRead for Bytes {
    fn len_bytes(&self) -> u64 {
        self.0.len() as u64
    }

    fn page_size(&self) -> u32 {
        self.1
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> icecore::Result<()> {
        buffer.copy_from_slice(&self.0[offset as usize..offset as usize + buffer.len()]);
        Ok(())
    }
}

impl Source for Streams<'_> {
    fn identity(&self) -> SourceDescription {
        SourceDescription { kind: SourceKind::FILES, parts: Vec::new(), label: "streams".into() }
    }

    fn capture<'a>(&'a self, _: &'a dyn Known, _: &'a dyn Monitor) -> icecore::Result<Box<dyn Capture + 'a>> {
        Ok(Box::new(Reading(self.0.iter())))
    }
}

struct Reading<'s>(std::slice::Iter<'s, Stream>);

impl Capture for Reading<'_> {
    fn total_bytes(&self) -> Option<u64> {
        None
    }

    fn next_stream(&mut self) -> icecore::Result<Option<CapturedStream>> {
        let Some(stream) = self.0.next() else { return Ok(None) };
        let body = match stream.page_size {
            Some(page_size) => Body::Pages(Arc::new(Bytes(stream.bytes.clone(), page_size))),
            None => Body::Bytes(Box::new(Cursor::new(stream.bytes.to_vec()))),
        };
        Ok(Some(CapturedStream { name: stream.name.as_bytes().to_vec(), kind: EntryKind::File, meta: None, body }))
    }

    fn unreadable(&mut self, error: icecore::Error) -> icecore::Result<()> {
        Err(error)
    }

    fn blocks_writers(&self) -> bool {
        false
    }

    fn finish(self: Box<Self>) -> icecore::Result<CaptureReport> {
        Ok(CaptureReport::default())
    }
}

pub fn back_up(repo: &Repository, source: &dyn Source, time: i64) -> BackupReport {
    let options = BackupOptions { time_ns: time, now_ns: time, host: "test".into(), ..BackupOptions::default() };
    backup(repo, source, &options, &Silent).unwrap()
}

/// A snapshot with what was captured.
pub struct Taken {
    pub id: SnapshotId,
    pub record: SnapshotRecord,
    pub streams: Vec<Stream>,
}

/// Backs these streams up.
pub fn take(repo: &Repository, streams: &[Stream], time: i64) -> Taken {
    let report = back_up(repo, &Streams(streams), time);
    Taken { id: report.id, record: report.record, streams: streams.to_vec() }
}

pub fn read(repo: &Repository, record: &SnapshotRecord, name: &str) -> icecore::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    dump(repo, record, name.as_bytes(), &mut bytes, &Silent).map(|_| bytes)
}

/// Every stream of these snapshots comes back as it was captured.
pub fn expect(repo: &Repository, taken: &[Taken], note: &str) {
    repo.refresh().unwrap();
    for (number, snapshot) in taken.iter().enumerate() {
        for stream in &snapshot.streams {
            let found = read(repo, &snapshot.record, &stream.name);
            let found = found.unwrap_or_else(|error| panic!("{note}: {} of snapshot {number}: {error}", stream.name));
            assert!(found == *stream.bytes, "{note}: {} of snapshot {number} comes back otherwise", stream.name);
        }
    }
}

pub fn check_clean(repo: &Repository, read_data: bool) {
    let report = check(repo, &CheckOptions { read_data, ..CheckOptions::default() }, &Silent).unwrap();
    assert!(report.findings.is_empty() && report.touched.is_empty(), "{:#?}", report.findings);
}

/// The tables of all packs that are stored, by a new catalog.
pub fn tables(scene: &Scene, cache: &str) -> Vec<Trailer> {
    let repo = scene.open(cache);
    repo.list_all_packs().unwrap();
    let (catalog, overhead) = (repo.catalog(), repo.keys().cipher().overhead());
    let table = |num| Trailer::decode(&catalog.trailer(num).unwrap().unwrap()[SALT_LEN..], overhead).unwrap();
    catalog.packs().unwrap().into_iter().map(|known| table(known.num)).collect()
}

/// No frame goes past what a writer keeps to; gives the deltas.
pub fn deltas_within_bounds(tables: &[Trailer]) -> Vec<&Frame> {
    let deltas: Vec<&Frame> = tables.iter().flat_map(|table| &table.frames).filter(|frame| frame.encoding == Encoding::Delta).collect();
    for frame in &deltas {
        assert!((1..=LEVEL_WRITE_MAX).contains(&frame.level) && (2..=WORK_WRITE_MAX).contains(&frame.work), "{frame:?}");
    }
    deltas
}

/// Bytes of all packs and snapshot records.
pub fn stored_bytes(backend: &dyn Backend) -> u64 {
    let kinds = [ObjectKind::Pack, ObjectKind::Snapshot].into_iter();
    kinds.flat_map(|kind| backend.list(kind).unwrap()).map(|info| info.unwrap().size).sum()
}
