//! Backs trees up, restores them, and compares.

use std::collections::BTreeMap;
use std::io::Read;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use icecore::engine::files::{FilesOptions, FilesSource, Selection};
use icecore::engine::place::Placement;
use icecore::engine::{Body, Capture, CaptureReport, CapturedStream, Known, PageRead, Source, SourceDescription};
use icecore::fs::disk::RealDisk;
use icecore::ops::backup::{BackupOptions, BackupReport, backup};
use icecore::ops::restore::{RestoreOptions, restore_tree};
use icecore::progress::{Monitor, Silent};
use icecore::recorded::{EntryKind, SourceKind};
use icecore::store::format::snapshot::StreamEntry;
use icecore::store::repo::{Reader, Repository};

use super::support::sqlite_options;

/// Reads everything every time.
pub fn source(paths: &[&Path], exclude: &[&Path]) -> FilesSource {
    source_at(paths, exclude, || SystemTime::UNIX_EPOCH)
}

pub fn source_at(paths: &[&Path], exclude: &[&Path], clock: fn() -> SystemTime) -> FilesSource {
    let mut sqlite = sqlite_options();
    (sqlite.clock, sqlite.busy_timeout) = (clock, Duration::from_millis(50));
    let exclude = exclude.iter().map(PathBuf::from).collect();
    FilesSource::new(paths.iter().map(PathBuf::from).collect(), FilesOptions { sqlite, exclude }).unwrap()
}

/// With names for the paths, and not of everything.
pub fn selected<P: AsRef<Path>>(paths: &[(Option<&str>, P)], selection: Selection) -> icecore::Result<FilesSource> {
    let mut sqlite = sqlite_options();
    sqlite.clock = || SystemTime::UNIX_EPOCH;
    let paths = paths.iter().map(|(name, path)| (name.map(str::to_owned), path.as_ref().to_path_buf())).collect();
    FilesSource::select(paths, FilesOptions { sqlite, exclude: Vec::new() }, selection)
}

pub fn run(repo: &Repository, source: &dyn Source, time: i64) -> BackupReport {
    try_run(repo, source, time, &Silent).unwrap()
}

pub fn try_run(repo: &Repository, source: &dyn Source, time: i64, monitor: &dyn Monitor) -> icecore::Result<BackupReport> {
    let ns = time * 1_000_000_000;
    let options = BackupOptions { time_ns: ns, now_ns: ns, host: "test".into(), ..BackupOptions::default() };
    backup(repo, source, &options, monitor)
}

pub fn restore(repo: &Repository, report: &BackupReport, to: &Path) {
    let placement = Placement { disk: &RealDisk, timestamp: "20261123T031500Z".into(), monitor: &Silent };
    restore_tree(repo, &report.record, to, &RestoreOptions::default(), &placement, &mut |_| {}).unwrap().whole().unwrap();
}

pub fn listing(repo: &Repository, report: &BackupReport) -> Vec<StreamEntry> {
    Reader::new(repo).listing(&report.record.listing, &Silent).unwrap()
}

pub fn names(repo: &Repository, report: &BackupReport) -> Vec<String> {
    listing(repo, report).iter().map(|entry| String::from_utf8_lossy(&entry.name).into_owned()).collect()
}

pub fn kind_of(repo: &Repository, report: &BackupReport, name: &str) -> EntryKind {
    let entry = listing(repo, report).into_iter().find(|entry| entry.name == name.as_bytes());
    entry.unwrap_or_else(|| panic!("{name} is in the snapshot")).kind
}

/// The only line about this path.
pub fn line_about<'r>(report: &'r BackupReport, path: &str) -> &'r str {
    let lines: Vec<&String> = report.skipped.iter().filter(|line| line.contains(path)).collect();
    assert_eq!(lines.len(), 1, "lines about {path}: {:?}", report.skipped);
    lines[0]
}

/// What a tree looks like: by relative path all that is to be restored. Files with several names are numbered in the order of their
/// first ones.
pub fn look(root: &Path) -> BTreeMap<Vec<u8>, String> {
    let mut inodes = BTreeMap::new();
    let mut seen = BTreeMap::new();
    for found in walkdir::WalkDir::new(root).min_depth(1).sort_by_file_name() {
        let found = found.unwrap();
        let metadata = found.metadata().unwrap();
        let kind = metadata.file_type();
        let name = found.path().strip_prefix(root).unwrap().as_os_str().to_os_string().into_vec();
        let common = format!("mode {:o} mtime {}.{:09}", metadata.mode(), metadata.mtime(), metadata.mtime_nsec());
        let text = if kind.is_symlink() {
            let mtime = (metadata.mtime(), metadata.mtime_nsec());
            format!("link to {:?} mtime {mtime:?}", std::fs::read_link(found.path()).unwrap())
        } else if kind.is_dir() {
            format!("directory {common}")
        } else if kind.is_fifo() {
            "FIFO".to_string()
        } else {
            let next = inodes.len() + 1;
            let inode = if metadata.nlink() > 1 { *inodes.entry(metadata.ino()).or_insert(next) } else { 0 };
            format!("file {inode} {common} {}", blake3::hash(&std::fs::read(found.path()).unwrap()))
        };
        seen.insert(name, text);
    }
    seen
}

/// Sets the modification time, to the nanosecond.
pub fn touch(path: &Path, seconds: i64, ns: i64) {
    use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, utimensat};
    let time = Timespec { tv_sec: seconds, tv_nsec: ns as _ };
    utimensat(CWD, path, &Timestamps { last_access: time, last_modification: time }, AtFlags::SYMLINK_NOFOLLOW).unwrap();
}

/// Runs something once, when so many bytes of a backup have been read; collects warnings.
#[derive(Default)]
pub struct Meddler<'f> {
    pub at_bytes: Option<Box<dyn Fn() + Send + Sync + 'f>>,
    pub done: AtomicBool,
    pub warnings: Mutex<Vec<String>>,
    pub cancel: AtomicBool,
}

impl Monitor for Meddler<'_> {
    fn phase(&self, _name: &'static str, _total_bytes: Option<u64>) {}

    fn advance(&self, _bytes: u64) {
        if let Some(action) = &self.at_bytes
            && !self.done.swap(true, Ordering::SeqCst)
        {
            action();
        }
    }

    fn warn(&self, message: &str) {
        self.warnings.lock().unwrap().push(message.to_string());
    }

    fn cancelled(&self) -> bool {
        self.cancel.load(Ordering::SeqCst)
    }
}

/// Bytes that do not compress, and differ by `seed`.
pub fn noise(seed: u32, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    let mut hasher = blake3::Hasher::new();
    hasher.update(&seed.to_le_bytes());
    hasher.finalize_xof().fill(&mut bytes);
    bytes
}

/// A source whose bodies fail before their end, followed by whole ones of the same content.
pub struct Failing;

struct FailingCapture {
    streams: Vec<(&'static str, Body)>,
    skipped: Vec<String>,
}

const LARGE: usize = 24 << 20;

impl Source for Failing {
    fn identity(&self) -> SourceDescription {
        SourceDescription { kind: SourceKind::FILES, parts: vec![b"failing".to_vec()], label: "failing".into() }
    }

    fn capture<'a>(&'a self, _known: &'a dyn Known, _monitor: &'a dyn Monitor) -> icecore::Result<Box<dyn Capture + 'a>> {
        let bytes = || std::io::Cursor::new(noise(7, LARGE));
        let failing = bytes().take(LARGE as u64 - 1).chain(Fails);
        let pages = |fails| Body::Pages(Arc::new(NoisePages { bytes: noise(8, LARGE), fails }));
        let mut streams = vec![("failing", Body::Bytes(Box::new(failing))), ("again", Body::Bytes(Box::new(bytes())))];
        streams.extend([("failing pages", pages(true)), ("pages again", pages(false))]);
        streams.reverse();
        Ok(Box::new(FailingCapture { streams, skipped: Vec::new() }))
    }
}

struct Fails;

impl Read for Fails {
    fn read(&mut self, _buffer: &mut [u8]) -> std::io::Result<usize> {
        Err(std::io::Error::other("a bad sector"))
    }
}

struct NoisePages {
    bytes: Vec<u8>,
    fails: bool,
}

impl PageRead for NoisePages {
    fn len_bytes(&self) -> u64 {
        self.bytes.len() as u64
    }

    fn page_size(&self) -> u32 {
        4096
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> icecore::Result<()> {
        let from = offset as usize;
        if self.fails && from + buffer.len() == self.bytes.len() {
            return Err(icecore::Error::source("pages", "a bad sector"));
        }
        buffer.copy_from_slice(&self.bytes[from..from + buffer.len()]);
        Ok(())
    }
}

impl Capture for FailingCapture {
    fn total_bytes(&self) -> Option<u64> {
        None
    }

    fn next_stream(&mut self) -> icecore::Result<Option<CapturedStream>> {
        let next = self.streams.pop();
        Ok(next.map(|(name, body)| CapturedStream { name: name.into(), kind: EntryKind::File, meta: None, body }))
    }

    fn unreadable(&mut self, error: icecore::Error) -> icecore::Result<()> {
        self.skipped.push(error.to_string());
        Ok(())
    }

    fn blocks_writers(&self) -> bool {
        false
    }

    fn finish(self: Box<Self>) -> icecore::Result<CaptureReport> {
        Ok(CaptureReport { skipped: self.skipped, ..CaptureReport::default() })
    }
}
