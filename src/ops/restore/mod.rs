//! Restore: writes streams of a snapshot as files.
//!
//! Every chunk is verified before a byte of it is written. Nothing that was there is lost (see
//! [`crate::engine::place`]). Memory is bounded by a window of chunks, whatever the length of a stream.
//!
//! All destinations are looked at before the first is touched. If something cannot be restored, it is listed with the
//! reason and everything else is restored: see [`Outcome`].

mod fill;
mod outcome;
mod perform;
mod perform_salvage;
pub mod salvage;
mod small_files;

use std::collections::HashSet;
use std::fs::File;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

pub(super) use fill::{Entries, Filling, Refused};
pub use outcome::{Failed, Outcome, Restored, Tell};
pub use perform::{Destination, IntoServer, Listed, RestoreReport, RestoreWish, Targets, is_for, perform, perform_into, say_which};
pub use perform_salvage::{SalvageReport, perform_salvage};

use super::lost::explained;
use super::subtree::{Subtree, subtree, trimmed, with_bytes};
use super::text;
use crate::engine::files::restore::tree::Tree;
use crate::engine::place::{Fill, Placement, sparse_write};
use crate::engine::sqlite::restore::DatabaseOptions;
use crate::error::{Error, Result, joined};
use crate::id::ChunkId;
use crate::ops::number::{index, wide};
use crate::progress::Monitor;
use crate::recorded::{EntryKind, FileMeta};
use crate::store::format::snapshot::{SnapshotRecord, StreamEntry, StreamRoot};
use crate::store::repo::{ChunkSpan, Reader, Repository, Spans, Spill, zeros};

/// From this many entries on the whole file system is synced once instead of each file. That also writes the unsynced
/// data of other programs, so it is not done for few files.
const MANY: u64 = 256;
/// Bytes of chunks that are read together. Each frame that they need is decoded once.
const WINDOW_BYTES: u64 = 256 << 20;

/// How to restore.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RestoreOptions {
    /// How databases are checked before they take their names.
    pub database: DatabaseOptions,
    /// Write into databases that other programs may have open, through SQLite.
    pub live: bool,
    /// Do not restore extended attributes and access control lists. Modes are then narrowed, so that nobody gets more
    /// access than the lists gave.
    pub no_xattrs: bool,
}

impl RestoreOptions {
    /// The attributes with which an entry is restored.
    fn dress(&self, entry: &StreamEntry) -> Option<FileMeta> {
        self.wanted(entry.meta.clone())
    }

    /// The part of these attributes that is restored.
    fn wanted(&self, meta: Option<FileMeta>) -> Option<FileMeta> {
        meta.map(|meta| if self.no_xattrs { meta.without_attributes() } else { meta })
    }

    /// Warns how many modes are narrowed because access control lists are not restored.
    fn say_narrowed(&self, fillings: &[&Filling<'_>], files: &[&StreamEntry], monitor: &dyn Monitor) -> Result<()> {
        if !self.no_xattrs {
            return Ok(());
        }
        let mut count = 0_u64;
        let mut look =
            |entry: &StreamEntry| count += u64::from(entry.meta.as_ref().is_some_and(|meta| meta.mode_without_acl() != meta.mode));
        files.iter().for_each(|entry| look(entry));
        fillings.iter().try_for_each(|filling| filling.visit(&mut look))?;
        if count > 0 {
            let lists = text::count(count, "access control list");
            monitor.warn(&format!("{lists} not restored; the modes are narrowed, so that nobody gets more access than the lists gave"));
        }
        Ok(())
    }
}

/// Restores streams onto files, and directories with everything below them into directories, as many as possible.
///
/// # Errors
/// Before anything is written: [`Error::NoSuch`] if a stream is not in the snapshot, [`Error::InvalidArgument`] for
/// destinations that exclude each other. Failures of single streams are in the outcome.
pub fn restore_streams(
    repo: &Repository,
    snapshot: &SnapshotRecord,
    targets: &[(Vec<u8>, PathBuf)],
    options: &RestoreOptions,
    placement: &Placement<'_>,
    tell: &mut Tell<'_>,
) -> Result<Outcome> {
    let reader = Reader::new(repo);
    let listing = reader.listing(&snapshot.listing, placement.monitor)?;
    // For a further name of a file `with_bytes` gives the entry of its first name.
    let mut files: Vec<(&[u8], &StreamEntry, &Path)> = Vec::new();
    let mut trees: Vec<(&[u8], Subtree, &Path)> = Vec::new();
    for (name, dest) in targets {
        let live_only = || Error::InvalidArgument("--live is for SQLite databases only".into());
        match subtree(&listing, name) {
            Some(_) if options.live => return Err(live_only()),
            Some(tree) => trees.push((name, tree, dest)),
            None => match with_bytes(&listing, name)? {
                entry if options.live && !matches!(entry.kind, EntryKind::Sqlite(_)) => return Err(live_only()),
                entry => files.push((name, entry, dest)),
            },
        }
    }
    refuse_twice(targets.iter().map(|(_, dest)| dest.as_path()))?;
    let dress = |entry: &StreamEntry| options.dress(entry);
    let mut fillings = Vec::new();
    for (name, tree, dest) in &trees {
        let filling = Filling {
            reader: &reader,
            entries: Entries::Listed(&tree.entries),
            total: wide(tree.entries.len()),
            database: options.database,
            dress: &dress,
            monitor: placement.monitor,
        };
        let refused = filling.look_ahead(dest)?;
        fillings.push((*name, tree, *dest, filling, refused));
    }
    let all: Vec<&Filling<'_>> = fillings.iter().map(|(_, _, _, filling, _)| filling).collect();
    options.say_narrowed(&all, &files.iter().map(|(_, entry, _)| *entry).collect::<Vec<_>>(), placement.monitor)?;
    let jobs = files.into_iter().map(|file| job(&reader, file, dress(file.1), placement.monitor));
    // Single files first, then directories; both add to one outcome.
    let mut outcome = run_jobs(&jobs.collect::<Vec<_>>(), options, placement, tell)?;
    for (name, tree, dest, filling, refused) in fillings {
        let below = |short: Vec<u8>| [trimmed(name), b"/", &short].concat();
        // The filling knows names relative to the directory; report the names that the snapshot has.
        let mut tell = |restored: Restored| tell(Restored { name: below(restored.name), ..restored });
        let bytes = tree.entries.iter().map(|entry| entry.root.len).fold(0, u64::saturating_add);
        let own = options.wanted(tree.meta.clone());
        // After a stop the remaining directories are not tried.
        let part = match outcome.stopped.is_some() {
            true => Ok(Outcome { untried: filling.total, ..Outcome::default() }),
            false => fill_directory(&filling, dest, bytes, refused, own, placement, &mut tell),
        };
        match part {
            Ok(mut part) => {
                part.failed.iter_mut().for_each(|failed| failed.name = below(std::mem::take(&mut failed.name)));
                outcome.add(part);
            }
            Err(error) => outcome.failed.push(Failed { name: name.to_vec(), path: dest.to_path_buf(), error }),
        }
    }
    Ok(outcome)
}

/// The job of one stream. It is filled later, when its turn comes and its new file is open.
fn job<'j>(
    reader: &'j Reader,
    (name, entry, dest): (&'j [u8], &'j StreamEntry, &'j Path),
    meta: Option<FileMeta>,
    monitor: &'j dyn Monitor,
) -> Job<'j> {
    let fill = move |file: &File| {
        let written = write_stream(reader, entry, file, monitor);
        written.map_err(|error| explained(reader, (&entry.name, &entry.root), error, monitor))
    };
    let is_database = matches!(entry.kind, EntryKind::Sqlite(_));
    Job { name, dest, len: entry.root.len, meta, is_database, fill: Box::new(fill) }
}

/// A file or database and its own destination.
pub(super) struct Job<'j> {
    pub name: &'j [u8],
    pub dest: &'j Path,
    pub len: u64,
    pub meta: Option<FileMeta>,
    pub is_database: bool,
    pub fill: Box<Fill<'j>>,
}

/// Restores all jobs that can be done. All destinations are looked at before the first is touched.
///
/// # Errors
/// [`Error::InvalidArgument`] if two have the same destination.
pub(super) fn run_jobs(jobs: &[Job<'_>], options: &RestoreOptions, placement: &Placement<'_>, tell: &mut Tell<'_>) -> Result<Outcome> {
    refuse_twice(jobs.iter().map(|job| job.dest))?;
    let mut outcome = Outcome::default();
    let mut ready = Vec::new();
    for job in jobs {
        match if options.live { Ok(()) } else { placement.refuse_if_used(job.dest) } {
            Ok(()) => ready.push(job),
            Err(error) => outcome.failed.push(Failed { name: job.name.to_vec(), path: job.dest.to_path_buf(), error }),
        }
    }
    placement.monitor.phase("restoring", Some(ready.iter().map(|job| job.len).fold(0, u64::saturating_add)));
    for job in &ready {
        let placed = match (job.is_database, options.live) {
            _ if placement.monitor.cancelled() => Err(Error::Cancelled),
            (true, true) => placement.place_live(job.dest, job.len, &job.fill, options.database),
            (true, false) => placement.place_database(job.dest, job.len, job.meta.clone(), &job.fill, options.database),
            (false, true) => Err(Error::InvalidArgument("--live is for SQLite databases only".into())),
            (false, false) => placement.place_file(job.dest, job.len, job.meta.clone(), &job.fill),
        };
        match placed {
            Ok(placed) => {
                outcome.restored += 1;
                outcome.bytes += job.len;
                tell(Restored { name: job.name.to_vec(), len: job.len, placed });
            }
            // The next job may still succeed. Any other error would stop it, too.
            Err(error) if fill::concerns_one(&error) => {
                outcome.failed.push(Failed { name: job.name.to_vec(), path: job.dest.to_path_buf(), error });
            }
            Err(error) => {
                outcome.stopped = Some(error);
                break;
            }
        }
    }
    outcome.untried = wide(jobs.len()).saturating_sub(outcome.restored + wide(outcome.failed.len()));
    Ok(outcome)
}

/// Restores all streams as files into a directory, as many as possible.
///
/// # Errors
/// Before anything is written: if the listing cannot be read, the directory cannot be used, or there is not enough
/// space. Failures of single streams are in the outcome.
pub fn restore_tree(
    repo: &Repository,
    snapshot: &SnapshotRecord,
    dir: &Path,
    options: &RestoreOptions,
    placement: &Placement<'_>,
    tell: &mut Tell<'_>,
) -> Result<Outcome> {
    let reader = Reader::new(repo);
    let filling = Filling {
        reader: &reader,
        entries: Entries::Stored(&snapshot.listing),
        total: snapshot.entries,
        database: options.database,
        dress: &|entry| options.dress(entry),
        monitor: placement.monitor,
    };
    options.say_narrowed(&[&filling], &[], placement.monitor)?;
    let refused = filling.look_ahead(dir)?;
    fill_directory(&filling, dir, snapshot.logical_bytes, refused, None, placement, tell)
}

/// Fills a directory. It gets the attributes `own` if it did not exist.
///
/// # Errors
/// The errors of [`restore_tree`].
fn fill_directory(
    filling: &Filling<'_>,
    dir: &Path,
    logical_bytes: u64,
    refused: Refused,
    own: Option<FileMeta>,
    placement: &Placement<'_>,
    tell: &mut Tell<'_>,
) -> Result<Outcome> {
    refuse_if_full(filling, dir, logical_bytes, placement)?;
    placement.monitor.phase("restoring", Some(logical_bytes));
    // An existing directory keeps its own attributes.
    let is_new = !dir.exists();
    let tree = match filling.total >= MANY {
        true => Tree::open_for_many(placement, dir)?,
        false => Tree::open(placement, dir)?,
    };
    own.filter(|_| is_new).into_iter().for_each(|own| tree.dress_root(own));
    let mut outcome = filling.fill(&tree, refused, tell);
    // Nothing was restored: remove the directories that were made for it.
    if !outcome.is_changed() {
        tree.undo();
    } else if let Err(error) = tree.finish() {
        outcome.stopped.get_or_insert(error);
    }
    Ok(outcome)
}

/// Refuses to start without enough space. Holes take no space; they are counted only if the whole length would not
/// fit, because that takes a walk through the listing.
fn refuse_if_full(filling: &Filling<'_>, dir: &Path, logical_bytes: u64, placement: &Placement<'_>) -> Result<()> {
    if placement.refuse_if_full(dir, logical_bytes).is_ok() {
        return Ok(());
    }
    let mut needed = 0_u64;
    filling.visit(&mut |entry| {
        let holes = entry.meta.as_ref().map_or(0, |meta| meta.holes);
        needed = needed.saturating_add(entry.root.len.saturating_sub(holes));
    })?;
    placement.refuse_if_full(dir, needed)
}

/// Writes one stream to `out`, in order, and returns its length. Everything that was written before a failure is
/// verified.
pub fn dump(repo: &Repository, snapshot: &SnapshotRecord, name: &[u8], out: &mut dyn Write, monitor: &dyn Monitor) -> Result<u64> {
    let reader = Reader::new(repo);
    let listing = reader.listing(&snapshot.listing, monitor)?;
    let entry = with_bytes(&listing, name)?;
    monitor.phase("reading", Some(entry.root.len));
    write_out(&reader, &entry.root, out, monitor).map_err(|error| explained(&reader, (&entry.name, &entry.root), error, monitor))?;
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
        monitor.advance(wide(bytes.len()));
    }
    out.flush().map_err(|e| Error::backend("write", "standard output", e))
}

/// Refuses a destination that is named twice, also by different paths.
pub(super) fn refuse_twice<'p>(paths: impl Iterator<Item = &'p Path>) -> Result<()> {
    let mut seen = HashSet::new();
    for path in paths {
        // A file that does not exist yet is identified by its directory.
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

/// Writes the chunks of a stream to their places in a file. While one window is read, the next one's chunks are
/// looked up in the catalog.
fn write_stream(reader: &Reader, entry: &StreamEntry, file: &File, monitor: &dyn Monitor) -> Result<()> {
    let root = &entry.root;
    let has_holes = entry.meta.as_ref().is_some_and(|meta| meta.holes > 0);
    let mut spans = Spans::new(reader, root)?;
    if has_holes {
        // The file is new, so a chunk of zeros that is not written stays a hole.
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
            // The look-up of the next window runs beside the reading of this one.
            let ahead = scope.spawn(|| reader.prefetch(next.iter().map(|span| span.id)));
            write_window(reader, &window, file, has_holes, Spill::past(file, root.len), monitor)?;
            joined("looking up chunks", ahead.join())
        })?;
        written += window.iter().map(|span| u64::from(span.len)).sum::<u64>();
        window = next;
    }
    // Holes count as progress, too.
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
        let written = if has_holes { sparse_write::write(file, bytes, span.offset) } else { file.write_all_at(bytes, span.offset) };
        written.map_err(|e| not_written(&e))?;
        monitor.advance(wide(bytes.len()));
        Ok(())
    })
}

/// The next chunks, up to the size of a window.
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

/// The error for a write that failed.
pub(super) fn not_written(cause: &std::io::Error) -> Error {
    Error::destination("the new file", format!("cannot be written: {cause}; what was there is unchanged"))
}

/// Checks that a chunk has the length that its tree says. Its content was verified, but the place of all later bytes
/// depends on the length.
fn check_len(span: &ChunkSpan, bytes: &[u8]) -> Result<()> {
    match bytes.len() == index(span.len) {
        true => Ok(()),
        false => Err(Error::corrupt(format!("the tree node above chunk {}", span.id), "its length for the chunk is wrong")),
    }
}
