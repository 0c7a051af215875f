//! Restore: streams of a snapshot become files again. Every chunk is verified before a byte of it is written, and nothing that was there
//! is lost (see [`super::place`]).

use std::collections::HashSet;
use std::fs::File;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::lost::explained;
use super::place::tree::Tree;
use super::place::{DatabaseOptions, Placed, Placement};
use crate::error::{Error, Result};
use crate::format::snapshot::{EntryKind, FileMeta, SnapshotRecord, StreamEntry, StreamRoot};
use crate::id::ChunkId;
use crate::progress::Monitor;
use crate::repo::{ChunkSpan, Reader, Repository, Spans, Spill};

/// Bytes of chunks that are read together, each frame that they take once.
const WINDOW_BYTES: u64 = 256 << 20;

/// How to restore.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RestoreOptions {
    /// What is asked of databases before they take their names.
    pub database: DatabaseOptions,
    /// Write into databases that others may have open, through SQLite.
    pub live: bool,
}

/// What was restored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Restored {
    /// The stream.
    pub name: Vec<u8>,
    /// Its bytes.
    pub len: u64,
    /// Where it is, and what was kept of what was there.
    pub placed: Placed,
}

/// Restores these streams onto these files.
///
/// # Errors
/// [`Error::NotFound`] before anything is written if a stream is not in the snapshot; then as [`Placement::place_database`] and its
/// siblings. Streams restored before the failing one stay restored. [`Error::Corrupt`] with the bytes that are lost, after all streams that are whole
/// have been restored.
pub fn restore_streams(
    repo: &Repository,
    snapshot: &SnapshotRecord,
    targets: &[(Vec<u8>, PathBuf)],
    options: &RestoreOptions,
    placement: &Placement<'_>,
) -> Result<Vec<Restored>> {
    let reader = Reader::new(repo);
    let listing = reader.listing(&snapshot.listing)?;
    let mut work: Vec<(&StreamEntry, &Path)> = Vec::new();
    for (name, dest) in targets {
        let entry = find(&listing, name)?;
        if !matches!(entry.kind, EntryKind::Sqlite(_) | EntryKind::File) {
            return Err(Error::InvalidArgument(format!("{} is no file; restore it with --to DIR", String::from_utf8_lossy(name))));
        }
        work.push((entry, dest));
    }
    refuse_twice(work.iter().map(|(_, dest)| *dest))?;
    if !options.live {
        // All of them before the first is touched, so that a set of databases stays one of one time.
        work.iter().try_for_each(|(_, dest)| placement.refuse_if_used(dest))?;
    }
    placement.monitor.phase("restoring", Some(work.iter().map(|(entry, _)| entry.root.len).sum()));
    let (mut restored, mut damaged) = (Vec::new(), Damaged::default());
    for (entry, dest) in work {
        let fill = |file: &File| write_stream(&reader, &entry.root, file, placement.monitor);
        let len = entry.root.len;
        let placed = match (&entry.kind, options.live) {
            (EntryKind::Sqlite(_), true) => placement.place_live(dest, len, &fill, options.database),
            (EntryKind::Sqlite(_), false) => placement.place_database(dest, len, entry.meta, &fill, options.database),
            (_, true) => return Err(Error::InvalidArgument("--live is for SQLite databases only".into())),
            (_, false) => placement.place_file(dest, len, entry.meta, &fill),
        };
        match placed.map_err(|error| explained(&reader, entry, error, placement.monitor)) {
            Ok(placed) => restored.push(Restored { name: entry.name.clone(), len, placed }),
            Err(error) => damaged.add(&entry.name, error)?,
        }
    }
    damaged.or(restored)
}

/// Restores all streams as files into a directory.
///
/// # Errors
/// As [`restore_streams`].
pub fn restore_tree(
    repo: &Repository,
    snapshot: &SnapshotRecord,
    dir: &Path,
    options: &RestoreOptions,
    placement: &Placement<'_>,
) -> Result<Vec<Restored>> {
    let reader = Reader::new(repo);
    let listing = reader.listing(&snapshot.listing)?;
    placement.monitor.phase("restoring", Some(snapshot.logical_bytes));
    let tree = Tree::open(placement, dir)?;
    let (restored, damaged) = fill_tree(&reader, &listing, &tree, options.database, &|entry| entry.meta, placement.monitor)?;
    tree.finish()?;
    damaged.or(restored)
}

/// Puts all entries of a listing into a directory, each with the attributes that `dress` gives it. Those that are damaged are left out.
pub(super) fn fill_tree(
    reader: &Reader,
    listing: &[StreamEntry],
    tree: &Tree<'_>,
    database: DatabaseOptions,
    dress: &dyn Fn(&StreamEntry) -> Option<FileMeta>,
    monitor: &dyn Monitor,
) -> Result<(Vec<Restored>, Damaged)> {
    let (mut restored, mut damaged) = (Vec::new(), Damaged::default());
    for entry in listing {
        if monitor.cancelled() {
            return Err(Error::Cancelled);
        }
        let fill = |file: &File| write_stream(reader, &entry.root, file, monitor);
        let (name, len, meta) = (entry.name.as_slice(), entry.root.len, dress(entry));
        let placed = match &entry.kind {
            EntryKind::Sqlite(_) => tree.database(name, len, meta, &fill, database),
            EntryKind::File => tree.file(name, len, meta, &fill),
            EntryKind::Directory => tree.directory(name, meta).map(|path| Placed { path, kept: Vec::new() }),
            EntryKind::Symlink(target) => tree.symlink(name, target),
            EntryKind::HardLink(other) if damaged.names.contains(other) => {
                let detail = format!("it is a further name of {}, which is", String::from_utf8_lossy(other));
                Err(Error::corrupt(format!("stream {}", String::from_utf8_lossy(name)), detail))
            }
            EntryKind::HardLink(other) => tree.hard_link(name, other),
        };
        match placed.map_err(|error| explained(reader, entry, error, monitor)) {
            Ok(placed) => restored.push(Restored { name: entry.name.clone(), len, placed }),
            Err(error) => damaged.add(name, error)?,
        }
    }
    Ok((restored, damaged))
}

/// Streams that cannot be given back; the others are.
#[derive(Default)]
pub(super) struct Damaged {
    names: HashSet<Vec<u8>>,
    errors: Vec<Error>,
}

impl Damaged {
    /// # Errors
    /// The error itself, if it is no damage.
    fn add(&mut self, name: &[u8], error: Error) -> Result<()> {
        if !error.is_damage() {
            return Err(error);
        }
        self.names.insert(name.to_vec());
        self.errors.push(error);
        Ok(())
    }

    /// What was restored, if that is all.
    fn or(self, restored: Vec<Restored>) -> Result<Vec<Restored>> {
        let note = match restored.len() {
            0 => String::new(),
            others => format!("; all else that was asked for is restored ({others})"),
        };
        self.refuse(&note).map(|()| restored)
    }

    /// All that is damaged, in one error that ends with this note.
    ///
    /// # Errors
    /// [`Error::Corrupt`] if anything is.
    pub(super) fn refuse(mut self, note: &str) -> Result<()> {
        match (self.errors.pop(), self.errors.as_slice()) {
            (None, _) => Ok(()),
            (Some(only), []) if note.is_empty() => Err(only),
            (Some(last), before) => {
                let all: Vec<String> = before.iter().chain([&last]).map(ToString::to_string).collect();
                Err(Error::corrupt("the snapshot", format!("{}{note}", all.join("; "))))
            }
        }
    }
}

/// Writes one stream to `out`, in order. What was written before a failure is verified.
pub fn dump(repo: &Repository, snapshot: &SnapshotRecord, name: &[u8], out: &mut dyn Write, monitor: &dyn Monitor) -> Result<u64> {
    let reader = Reader::new(repo);
    let listing = reader.listing(&snapshot.listing)?;
    let entry = find(&listing, name)?;
    monitor.phase("reading", Some(entry.root.len));
    write_out(&reader, &entry.root, out, monitor).map_err(|error| explained(&reader, entry, error, monitor))?;
    Ok(entry.root.len)
}

fn write_out(reader: &Reader, root: &StreamRoot, out: &mut dyn Write, monitor: &dyn Monitor) -> Result<()> {
    for span in Spans::new(reader, root)? {
        if monitor.cancelled() {
            return Err(Error::Cancelled);
        }
        let span = span?;
        let bytes = reader.chunk(&span.id)?;
        check_len(&span, &bytes)?;
        out.write_all(&bytes).map_err(|e| Error::backend("write", "standard output", e))?;
        monitor.advance(bytes.len() as u64);
    }
    out.flush().map_err(|e| Error::backend("write", "standard output", e))
}

fn find<'l>(listing: &'l [StreamEntry], name: &[u8]) -> Result<&'l StreamEntry> {
    listing.iter().find(|entry| entry.name == name).ok_or_else(|| {
        let some: Vec<_> = listing.iter().take(8).map(|entry| String::from_utf8_lossy(&entry.name)).collect();
        let more = if listing.len() > some.len() { ", ..." } else { "" };
        Error::NotFound { what: format!("stream {} (the snapshot has: {}{more})", String::from_utf8_lossy(name), some.join(", ")) }
    })
}

pub(super) fn refuse_twice<'p>(paths: impl Iterator<Item = &'p Path>) -> Result<()> {
    let mut seen = HashSet::new();
    for path in paths {
        // What is not there yet is named by its directory, which has one name only.
        let named = path.canonicalize().ok().or_else(|| {
            let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
            Some(dir.canonicalize().ok()?.join(path.file_name()?))
        });
        if !seen.insert(named.unwrap_or_else(|| path.to_path_buf())) {
            return Err(Error::InvalidArgument(format!("{} is named twice as a destination", path.display())));
        }
    }
    Ok(())
}

/// Writes a stream's bytes to their places in a file. While one window is read, the places of the next one's chunks are looked up.
fn write_stream(reader: &Reader, root: &StreamRoot, file: &File, monitor: &dyn Monitor) -> Result<()> {
    let mut spans = Spans::new(reader, root)?;
    let mut window = next_window(&mut spans)?;
    while !window.is_empty() {
        if monitor.cancelled() {
            return Err(Error::Cancelled);
        }
        let next = next_window(&mut spans)?;
        std::thread::scope(|scope| {
            let ahead = scope.spawn(|| reader.prefetch(next.iter().map(|span| span.id)));
            write_window(reader, &window, file, Spill::past(file, root.len), monitor)?;
            ahead.join().unwrap_or(Err(Error::Poisoned))
        })?;
        window = next;
    }
    Ok(())
}

fn write_window(reader: &Reader, window: &[ChunkSpan], file: &File, spill: Spill<'_>, monitor: &dyn Monitor) -> Result<()> {
    let ids: Vec<ChunkId> = window.iter().map(|span| span.id).collect();
    reader.each_chunk(&ids, Some(spill), &|number, bytes| {
        let Some(span) = window.get(number) else { return Ok(()) };
        check_len(span, bytes)?;
        file.write_all_at(bytes, span.offset).map_err(|e| Error::backend("write", "the restored file", e))?;
        monitor.advance(bytes.len() as u64);
        Ok(())
    })
}

fn next_window(spans: &mut Spans<'_>) -> Result<Vec<ChunkSpan>> {
    let mut window: Vec<ChunkSpan> = Vec::new();
    let mut bytes = 0;
    while bytes < WINDOW_BYTES
        && let Some(span) = spans.next()
    {
        let span = span?;
        bytes += u64::from(span.len);
        window.push(span);
    }
    Ok(window)
}

/// A chunk must have the length that its tree says.
fn check_len(span: &ChunkSpan, bytes: &[u8]) -> Result<()> {
    match bytes.len() == span.len as usize {
        true => Ok(()),
        false => Err(Error::corrupt(format!("the tree node above chunk {}", span.id), "it gives the chunk another length")),
    }
}
