//! Restore: streams of a snapshot become files again. Every chunk is verified before a byte of it is written, and nothing that was there
//! is lost (see [`crate::engine::place`]).
//!
//! All destinations are looked at first. What cannot be restored is listed with its reason, and everything else is restored: see [`Outcome`].

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
use crate::engine::files::restore::tree::Tree;
use crate::engine::place::{Fill, Placement, sparse_write};
use crate::engine::sqlite::restore::DatabaseOptions;
use crate::error::{Error, Result, joined};
use crate::id::ChunkId;
use crate::progress::Monitor;
use crate::recorded::{EntryKind, FileMeta};
use crate::store::format::snapshot::{SnapshotRecord, StreamEntry, StreamRoot};
use crate::store::repo::{ChunkSpan, Reader, Repository, Spans, Spill, zeros};

/// From so many entries on the file system is synced at once instead of each file: it also writes what others have not yet synced.
const MANY: u64 = 256;
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
        self.wanted(entry.meta.clone())
    }

    /// Of these attributes those that are restored.
    fn wanted(&self, meta: Option<FileMeta>) -> Option<FileMeta> {
        meta.map(|meta| if self.no_xattrs { meta.without_attributes() } else { meta })
    }

    /// Says how many modes are narrowed because access control lists are not wanted.
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
            monitor.warn(&format!("{count} access control lists are not restored; the modes give no more than they did"));
        }
        Ok(())
    }
}

/// Restores these streams onto these files, and these directories with all that is below them into these directories, as many as can be.
///
/// # Errors
/// Before anything is written: [`Error::NoSuch`] if a stream is not in the snapshot, [`Error::InvalidArgument`] for destinations that make no sense
/// together. What concerns one stream is in the outcome.
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
    // Of a file with several names the entry is that of the first.
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
            total: tree.entries.len() as u64,
            database: options.database,
            dress: &dress,
            monitor: placement.monitor,
        };
        let refused = filling.look_ahead(dest)?;
        fillings.push((*name, tree, *dest, filling, refused));
    }
    let all: Vec<&Filling<'_>> = fillings.iter().map(|(_, _, _, filling, _)| filling).collect();
    options.say_narrowed(&all, &files.iter().map(|(_, entry, _)| *entry).collect::<Vec<_>>(), placement.monitor)?;
    let jobs = files.into_iter().map(|(name, entry, dest)| {
        let reader = &reader;
        let fill = move |file: &File| {
            let written = write_stream(reader, entry, file, placement.monitor);
            written.map_err(|error| explained(reader, (&entry.name, &entry.root), error, placement.monitor))
        };
        let is_database = matches!(entry.kind, EntryKind::Sqlite(_));
        Job { name, dest, len: entry.root.len, meta: dress(entry), is_database, fill: Box::new(fill) }
    });
    let mut outcome = run_jobs(&jobs.collect::<Vec<_>>(), options, placement, tell)?;
    for (name, tree, dest, filling, refused) in fillings {
        let below = |short: Vec<u8>| [trimmed(name), b"/", &short].concat();
        // Their names in the snapshot.
        let mut tell = |restored: Restored| tell(Restored { name: below(restored.name), ..restored });
        let bytes = tree.entries.iter().map(|entry| entry.root.len).fold(0, u64::saturating_add);
        let own = options.wanted(tree.meta.clone());
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

/// A file or a database that goes to a place of its own.
pub(super) struct Job<'j> {
    pub name: &'j [u8],
    pub dest: &'j Path,
    pub len: u64,
    pub meta: Option<FileMeta>,
    pub is_database: bool,
    pub fill: Box<Fill<'j>>,
}

/// Does all of them that can be done. All destinations are looked at before the first is touched.
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
            Err(error) if fill::concerns_one(&error) => {
                outcome.failed.push(Failed { name: job.name.to_vec(), path: job.dest.to_path_buf(), error });
            }
            Err(error) => {
                outcome.stopped = Some(error);
                break;
            }
        }
    }
    outcome.untried = (jobs.len() as u64).saturating_sub(outcome.restored + outcome.failed.len() as u64);
    Ok(outcome)
}

/// Restores all streams as files into a directory, as many as can be.
///
/// # Errors
/// Before anything is written, when the listing cannot be read, the directory cannot be used or there is no space. What concerns one stream is in
/// the outcome.
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

/// Fills a directory, which gets the attributes `own` if it is made for that.
///
/// # Errors
/// As [`restore_tree`].
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
    let is_new = !dir.exists();
    let tree = match filling.total >= MANY {
        true => Tree::open_for_many(placement, dir)?,
        false => Tree::open(placement, dir)?,
    };
    own.filter(|_| is_new).into_iter().for_each(|own| tree.dress_root(own));
    let mut outcome = filling.fill(&tree, refused, tell);
    if !outcome.is_changed() {
        tree.undo();
    } else if let Err(error) = tree.finish() {
        outcome.stopped.get_or_insert(error);
    }
    Ok(outcome)
}

/// Refuses what does not fit. Holes take no space; they are only asked for where the whole length would not fit.
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

/// Writes one stream to `out`, in order. What was written before a failure is verified.
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
        let written = if has_holes { sparse_write::write(file, bytes, span.offset) } else { file.write_all_at(bytes, span.offset) };
        written.map_err(|e| not_written(&e))?;
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

pub(super) fn not_written(cause: &std::io::Error) -> Error {
    Error::destination("the new file", format!("cannot be written: {cause}; what was there is unchanged"))
}

/// A chunk must have the length that its tree says.
fn check_len(span: &ChunkSpan, bytes: &[u8]) -> Result<()> {
    match bytes.len() == span.len as usize {
        true => Ok(()),
        false => Err(Error::corrupt(format!("the tree node above chunk {}", span.id), "it gives the chunk another length")),
    }
}
