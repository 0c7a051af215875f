//! Restore: streams of a snapshot become files again. Every chunk is verified before a byte of it is written, and nothing that was there
//! is lost (see [`super::place`]).

use std::collections::HashSet;
use std::fs::File;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::lost::explained;
use super::place::tree::Tree;
use super::place::{DatabaseOptions, Placed, Placement, holes};
use super::subtree::{Subtree, subtree, trimmed, with_bytes};
use crate::error::{Error, Result, joined};
use crate::format::snapshot::{EntryKind, FileMeta, SnapshotRecord, StreamEntry, StreamRoot};
use crate::id::ChunkId;
use crate::progress::Monitor;
use crate::repo::{ChunkSpan, Reader, Repository, Spans, Spill, zeros};

/// Bytes of chunks that are read together, each frame that they take once.
const WINDOW_BYTES: u64 = 256 << 20;

/// How to restore.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RestoreOptions {
    /// What is asked of databases before they take their names.
    pub database: DatabaseOptions,
    /// Write into databases that others may have open, through SQLite.
    pub live: bool,
    /// Restore no extended attributes and access control lists; modes then give no more than those lists did.
    pub no_xattrs: bool,
}

impl RestoreOptions {
    /// The attributes that an entry is restored with.
    fn dress(&self, entry: &StreamEntry) -> Option<FileMeta> {
        let meta = entry.meta.clone()?;
        Some(if self.no_xattrs { meta.without_attributes() } else { meta })
    }

    /// Says how many modes are narrowed because access control lists are not wanted.
    fn say_narrowed<'e>(&self, entries: impl Iterator<Item = &'e StreamEntry>, monitor: &dyn Monitor) {
        let is_narrowed = |meta: &FileMeta| meta.mode_without_acl() != meta.mode;
        let count = if self.no_xattrs { entries.filter(|entry| entry.meta.as_ref().is_some_and(is_narrowed)).count() } else { 0 };
        if count > 0 {
            monitor.warn(&format!("{count} access control lists are not restored; the modes give no more than they did"));
        }
    }
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

/// Restores these streams onto these files, and these directories with all that is below them into these directories.
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
    // Of a file with several names the entry is that of the first.
    let (mut work, mut trees): (Vec<(&[u8], &StreamEntry, &Path)>, Vec<_>) = (Vec::new(), Vec::new());
    for (name, dest) in targets {
        match subtree(&listing, name) {
            Some(_) if options.live => return Err(Error::InvalidArgument("--live is for SQLite databases only".into())),
            Some(tree) => trees.push((name.as_slice(), dest.as_path(), tree)),
            None => work.push((name, with_bytes(&listing, name)?, dest)),
        }
    }
    refuse_twice(targets.iter().map(|(_, dest)| dest.as_path()))?;
    if !options.live {
        // All of them before the first is touched, so that a set of databases stays one of one time.
        work.iter().try_for_each(|(_, _, dest)| placement.refuse_if_used(dest))?;
    }
    let all = || work.iter().map(|(_, entry, _)| *entry).chain(trees.iter().flat_map(|(_, _, tree)| &tree.entries));
    options.say_narrowed(all(), placement.monitor);
    placement.monitor.phase("restoring", Some(all().map(|entry| entry.root.len).sum()));
    let (mut restored, mut damaged) = (Vec::new(), Damaged::default());
    for (name, entry, dest) in work {
        let fill = |file: &File| write_stream(&reader, entry, file, placement.monitor);
        let (len, meta) = (entry.root.len, options.dress(entry));
        let placed = match (&entry.kind, options.live) {
            (EntryKind::Sqlite(_), true) => placement.place_live(dest, len, &fill, options.database),
            (EntryKind::Sqlite(_), false) => placement.place_database(dest, len, meta, &fill, options.database),
            (_, true) => return Err(Error::InvalidArgument("--live is for SQLite databases only".into())),
            (_, false) => placement.place_file(dest, len, meta, &fill),
        };
        match placed.map_err(|error| explained(&reader, entry, error, placement.monitor)) {
            Ok(placed) => restored.push(Restored { name: name.to_vec(), len, placed }),
            Err(error) => damaged.add(name, error)?,
        }
    }
    for (name, dest, tree) in trees {
        let (below, more) = restore_subtree(&reader, name, &tree, dest, options, placement)?;
        restored.extend(below);
        damaged.extend(more);
    }
    damaged.or(restored)
}

/// Restores a directory of a snapshot as `dest`. One that is there keeps its own attributes, as the directory of a whole tree does.
fn restore_subtree(
    reader: &Reader,
    name: &[u8],
    subtree: &Subtree,
    dest: &Path,
    options: &RestoreOptions,
    placement: &Placement<'_>,
) -> Result<(Vec<Restored>, Damaged)> {
    let is_new = !dest.exists();
    let tree = Tree::open(placement, dest)?;
    if is_new && let Some(meta) = &subtree.meta {
        tree.dress_root(if options.no_xattrs { meta.clone().without_attributes() } else { meta.clone() });
    }
    let dress = |entry: &StreamEntry| options.dress(entry);
    let (mut restored, damaged) = fill_tree(reader, &subtree.entries, &tree, options.database, &dress, placement.monitor)?;
    tree.finish()?;
    for stream in &mut restored {
        // Their names in the snapshot.
        stream.name = [trimmed(name), b"/", &stream.name].concat();
    }
    Ok((restored, damaged))
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
    options.say_narrowed(listing.iter(), placement.monitor);
    placement.monitor.phase("restoring", Some(snapshot.logical_bytes));
    let tree = Tree::open(placement, dir)?;
    let (restored, damaged) = fill_tree(&reader, &listing, &tree, options.database, &|entry| options.dress(entry), placement.monitor)?;
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
        let fill = |file: &File| write_stream(reader, entry, file, monitor);
        let (name, len, meta) = (entry.name.as_slice(), entry.root.len, dress(entry));
        let placed = match &entry.kind {
            EntryKind::Sqlite(_) => tree.database(name, len, meta, &fill, database),
            EntryKind::File => tree.file(name, len, meta, &fill),
            EntryKind::Directory => tree.directory(name, meta).map(|path| Placed { path, ..Placed::default() }),
            EntryKind::Symlink(target) => tree.symlink(name, target, meta),
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
        if !error.is_damage() && !matches!(error, Error::Unsound { .. }) {
            return Err(error);
        }
        self.names.insert(name.to_vec());
        self.errors.push(error);
        Ok(())
    }

    /// Takes over those of another part.
    fn extend(&mut self, other: Damaged) {
        self.names.extend(other.names);
        self.errors.extend(other.errors);
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
    let entry = with_bytes(&listing, name)?;
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
fn write_stream(reader: &Reader, entry: &StreamEntry, file: &File, monitor: &dyn Monitor) -> Result<()> {
    let root = &entry.root;
    let has_holes = entry.meta.as_ref().is_some_and(|meta| meta.holes > 0);
    let mut spans = Spans::new(reader, root)?;
    if has_holes {
        spans = spans.without(zeros(reader.repository()));
    }
    let mut written = 0;
    let mut window = next_window(&mut spans)?;
    while !window.is_empty() {
        if monitor.cancelled() {
            return Err(Error::Cancelled);
        }
        let next = next_window(&mut spans)?;
        std::thread::scope(|scope| {
            let ahead = scope.spawn(|| reader.prefetch(next.iter().map(|span| span.id)));
            write_window(reader, &window, file, has_holes, Spill::past(file, root.len), monitor)?;
            joined("looking up chunks", ahead.join())
        })?;
        written += window.iter().map(|span| u64::from(span.len)).sum::<u64>();
        window = next;
    }
    monitor.advance(root.len.saturating_sub(written));
    Ok(())
}

fn write_window(
    reader: &Reader,
    window: &[ChunkSpan],
    file: &File,
    has_holes: bool,
    spill: Spill<'_>,
    monitor: &dyn Monitor,
) -> Result<()> {
    let ids: Vec<ChunkId> = window.iter().map(|span| span.id).collect();
    reader.each_chunk(&ids, Some(spill), &|number, bytes| {
        let Some(span) = window.get(number) else { return Ok(()) };
        check_len(span, bytes)?;
        let written = if has_holes { holes::write(file, bytes, span.offset) } else { file.write_all_at(bytes, span.offset) };
        written.map_err(|e| Error::backend("write", "the restored file", e))?;
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
