//! Salvage: writes every byte of damaged streams that can be read, and reports what is missing.
//!
//!
//! A chunk is lost if no copy can be read and parity cannot heal it. If a tree node is lost, everything below it is.
//! Every other byte is verified and written at its place; lost ranges stay holes. A stream with losses never gets its
//! own name, so it cannot be taken for the undamaged one.

use std::collections::BTreeSet;
use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use serde::Serialize;

use super::fill::concerns_one;
use super::outcome::Failed;
use super::{MANY, RestoreOptions, WINDOW_BYTES, not_written};
use crate::engine::files::restore::salvaged::{Filler, SALVAGED};
use crate::engine::files::restore::tree::Tree;
use crate::engine::place::{Placement, sparse_write};
use crate::engine::sqlite::salvage::{Losses, losses};
use crate::error::{Error, Result};
use crate::id::ChunkId;
use crate::ops::json;
use crate::ops::number::{index, wide};
use crate::ops::subtree::trimmed;
use crate::progress::Monitor;
use crate::recorded::EntryKind;
use crate::store::format::snapshot::{SnapshotRecord, StreamEntry, StreamRoot};
use crate::store::repo::{ChunkSpan, ListingLoss, Piece, Pieces, Reader, Repository, Spill};

/// Most lost ranges of a stream that are listed.
pub const RANGES_MAX: usize = 1000;
/// Most chunks that are read together.
const WINDOW_CHUNKS: usize = 1 << 16;

/// A stream that was written as far as it could be read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Salvaged {
    /// Its name.
    #[serde(flatten, serialize_with = "json::name")]
    pub name: Vec<u8>,
    /// The file.
    #[serde(flatten, serialize_with = "json::path")]
    pub path: PathBuf,
    /// Its length, bytes.
    pub bytes: u64,
    /// How many of them are lost.
    pub bytes_lost: u64,
    /// The lost ranges, in order, with neighbours merged; the first [`RANGES_MAX`].
    #[serde(serialize_with = "super::perform_salvage::ranges")]
    pub lost: Vec<Range<u64>>,
    /// How many ranges there are.
    #[serde(rename = "lost_ranges")]
    pub ranges: u64,
    /// For a SQLite database with losses: the tables that have them.
    pub tables: Option<Losses>,
}

/// The outcome of a salvage.
#[derive(Debug, Default)]
pub struct Salvage {
    /// The streams that have a file now.
    pub streams: Vec<Salvaged>,
    /// The streams that have none.
    pub failed: Vec<Failed>,
    /// Directories with an entry of their own that were made.
    pub directories: u64,
    /// Links that were left out.
    pub links: u64,
    /// How many streams were not tried.
    pub untried: u64,
    /// Why not.
    pub stopped: Option<Error>,
    /// The damage to the listing: entries may be missing.
    pub listing: ListingLoss,
}

impl Salvage {
    /// Whether anything was written.
    pub fn is_changed(&self) -> bool {
        !self.streams.is_empty() || self.directories > 0
    }

    /// Whether something is lost.
    pub fn has_losses(&self) -> bool {
        self.listing.places > 0 || self.streams.iter().any(|stream| stream.bytes_lost > 0)
    }
}

/// Writes all streams, or those with these names and below them, into a directory that is absent or empty, as far as
/// they can be read.
///
/// # Errors
/// Before anything is written: [`Error::NoSuch`] for a name that is not in the snapshot; [`Error::Corrupt`] if it may
/// be in the lost part of the listing; [`Error::InvalidArgument`] for a name without bytes and for a directory that
/// is not empty; [`Error::Destination`] for a directory that cannot be used.
pub fn salvage(
    repo: &Repository,
    snapshot: &SnapshotRecord,
    dir: &Path,
    names: &[Vec<u8>],
    options: &RestoreOptions,
    placement: &Placement<'_>,
) -> Result<Salvage> {
    let reader = Reader::new(repo);
    let wanted = Wanted::find(&reader, &snapshot.listing, names, placement.monitor)?;
    let tree = match wanted.count >= MANY {
        true => Tree::open_for_many(placement, dir)?,
        false => Tree::open(placement, dir)?,
    };
    if !tree.is_empty()? {
        return Err(Error::InvalidArgument(format!("{} is not empty; name a new directory to salvage into", dir.display())));
    }
    placement.monitor.phase("salvaging", Some(wanted.bytes));
    let mut outcome = Salvage::default();
    // The second walk writes. It passes over lost parts of the listing, and the outcome says that there were some.
    let gone_through = reader.salvage_listing(&snapshot.listing, placement.monitor, &mut |entry| {
        if !is_wanted(&entry.name, names) {
            return Ok(());
        }
        match entry.kind {
            EntryKind::Symlink(_) | EntryKind::HardLink(_) => outcome.links += 1,
            EntryKind::Directory => match tree.directory(&entry.name, options.dress(&entry)) {
                Ok(_) => outcome.directories += 1,
                Err(error) => outcome.failed(&tree, entry.name, error)?,
            },
            EntryKind::File | EntryKind::Sqlite(_) => match write(&reader, &tree, &entry, &wanted, options, placement.monitor) {
                Ok(salvaged) => outcome.streams.push(salvaged),
                Err(error) => outcome.failed(&tree, entry.name, error)?,
            },
        }
        Ok(())
    });
    match gone_through {
        Ok(listing) => outcome.listing = listing,
        Err(error) => outcome.stopped = Some(error),
    }
    outcome.untried = wanted.count.saturating_sub(wide(outcome.streams.len() + outcome.failed.len()));
    if !outcome.is_changed() {
        tree.undo();
    } else if let Err(error) = tree.finish() {
        outcome.stopped.get_or_insert(error);
    }
    Ok(outcome)
}

impl Salvage {
    /// Records a failure of one entry.
    ///
    /// # Errors
    /// An error that would stop all other entries, too.
    fn failed(&mut self, tree: &Tree<'_>, name: Vec<u8>, error: Error) -> Result<()> {
        use std::os::unix::ffi::OsStrExt;
        if !concerns_one(&error) {
            return Err(error);
        }
        let path = tree.root().join(std::ffi::OsStr::from_bytes(&name));
        self.failed.push(Failed { name, path, error });
        Ok(())
    }
}

/// What a first walk through the listing finds.
#[derive(Default)]
struct Wanted {
    /// Number of wanted streams with bytes, and their bytes.
    count: u64,
    bytes: u64,
    /// Names of other entries that look like those of salvaged files, so that none is taken twice.
    like_salvaged: BTreeSet<Vec<u8>>,
}

impl Wanted {
    /// Walks the listing, and refuses names that it does not have.
    fn find(reader: &Reader, listing: &StreamRoot, names: &[Vec<u8>], monitor: &dyn Monitor) -> Result<Self> {
        monitor.phase("looking", None);
        let mut wanted = Wanted::default();
        let mut found = vec![false; names.len()];
        let loss = reader.salvage_listing(listing, monitor, &mut |entry| {
            if entry.name.windows(SALVAGED.len()).any(|part| part == SALVAGED.as_bytes()) {
                wanted.like_salvaged.insert(entry.name.clone());
            }
            for (name, found) in names.iter().zip(&mut found).filter(|(name, _)| is_at_or_below(&entry.name, name)) {
                *found = true;
                refuse_link(&entry, name)?;
            }
            if is_wanted(&entry.name, names) && matches!(entry.kind, EntryKind::File | EntryKind::Sqlite(_)) {
                wanted.count += 1;
                wanted.bytes = wanted.bytes.saturating_add(entry.root.len);
            }
            Ok(())
        })?;
        let Some((name, _)) = names.iter().zip(found).find(|(_, found)| !found) else { return Ok(wanted) };
        let name = String::from_utf8_lossy(name);
        match loss.first {
            None => Err(Error::NoSuch { detail: format!("the snapshot has no stream `{name}`; `icecore ls` shows those that it has") }),
            Some(first) => Err(Error::corrupt("a snapshot's listing", format!("stream `{name}` is not in its readable part: {first}"))),
        }
    }

    /// Whether a stream or a directory has this name.
    fn is_taken(&self, name: &[u8]) -> bool {
        let below = [name, b"/"].concat();
        self.like_salvaged.contains(name) || self.like_salvaged.range(below.clone()..).next().is_some_and(|next| next.starts_with(&below))
    }
}

/// Whether a name is wanted; without names all are.
fn is_wanted(name: &[u8], names: &[Vec<u8>]) -> bool {
    names.is_empty() || names.iter().any(|wanted| is_at_or_below(name, wanted))
}

/// Whether a name is this one or below it.
fn is_at_or_below(name: &[u8], wanted: &[u8]) -> bool {
    name.strip_prefix(trimmed(wanted)).is_some_and(|rest| rest.is_empty() || rest.starts_with(b"/"))
}

/// Refuses a link that the user names: it has no bytes of its own.
fn refuse_link(entry: &StreamEntry, name: &[u8]) -> Result<()> {
    let (what, other) = match &entry.kind {
        EntryKind::Symlink(other) => ("a symbolic link to", other),
        EntryKind::HardLink(other) => ("a further name of", other),
        _ => return Ok(()),
    };
    if entry.name != name {
        return Ok(());
    }
    let (shown, other) = (String::from_utf8_lossy(name), String::from_utf8_lossy(other));
    Err(Error::InvalidArgument(format!("{shown} is {what} {other}, and has no bytes of its own")))
}

/// Writes one stream.
fn write(
    reader: &Reader,
    tree: &Tree<'_>,
    entry: &StreamEntry,
    wanted: &Wanted,
    options: &RestoreOptions,
    monitor: &dyn Monitor,
) -> Result<Salvaged> {
    let lost = std::cell::RefCell::new(Vec::new());
    // `fill` writes the bytes; only if they are whole does the tree give the file its own name.
    let fill = |file: &File| {
        let ranges = write_what_there_is(reader, entry, file, monitor)?;
        let is_whole = ranges.is_empty();
        lost.replace(ranges);
        Ok(is_whole)
    };
    let mut tables = None;
    let mut look = |path: &Path| {
        if let EntryKind::Sqlite(facts) = &entry.kind {
            tables = Some(match losses(path, facts.page_size, &lost.borrow(), monitor) {
                // The bytes are written. That SQLite cannot say what they lack is reported, and is not a failure.
                Err(error @ Error::Destination { .. }) => Losses { untold: Some(error.to_string()), ..Losses::default() },
                found => found?,
            });
        }
        Ok(())
    };
    let filler = Filler { fill: &fill, look: &mut look, is_taken: &|name| wanted.is_taken(name) };
    let path = tree.salvage(&entry.name, entry.root.len, options.dress(entry), filler)?;
    let mut lost = lost.into_inner();
    let ranges = wide(lost.len());
    let bytes_lost = lost.iter().map(|range| range.end - range.start).sum();
    lost.truncate(RANGES_MAX);
    Ok(Salvaged { name: entry.name.clone(), bytes: entry.root.len, bytes_lost, lost, ranges, path, tables })
}

/// Writes all readable bytes of a stream to their places in a file of zeros. Returns the lost ranges, in order, with
/// neighbours merged.
fn write_what_there_is(reader: &Reader, entry: &StreamEntry, file: &File, monitor: &dyn Monitor) -> Result<Vec<Range<u64>>> {
    let mut pieces = match Pieces::new(reader, &entry.root) {
        Ok(pieces) => pieces,
        // The top node is lost, and so is everything.
        Err(error) if error.is_damage() => return Ok(merged(Vec::from_iter(std::iter::once(0..entry.root.len)))),
        Err(error) => return Err(error),
    };
    let writer = Writer { reader, file, end: entry.root.len, has_holes: entry.meta.as_ref().is_some_and(|meta| meta.holes > 0), monitor };
    let mut lost = Vec::new();
    loop {
        // Collect a window of chunks, so that frames that they share are decoded once.
        let (mut window, mut bytes) = (Vec::new(), 0);
        let mut at_end = true;
        while let Some(piece) = pieces.next()? {
            if monitor.cancelled() {
                return Err(Error::Cancelled);
            }
            match piece {
                Piece::Chunk(span) => {
                    bytes += u64::from(span.len);
                    window.push(span);
                }
                Piece::Zeros(range) => monitor.advance(range.end - range.start),
                Piece::Lost(range, _) => lost.push(range),
            }
            if bytes >= WINDOW_BYTES || window.len() >= WINDOW_CHUNKS {
                at_end = false;
                break;
            }
        }
        writer.write_window(&window, &mut lost)?;
        if at_end {
            return Ok(merged(lost));
        }
    }
}

/// Sorts ranges, merges neighbours, and drops empty ones.
fn merged(mut ranges: Vec<Range<u64>>) -> Vec<Range<u64>> {
    ranges.sort_unstable_by_key(|range| range.start);
    let mut merged: Vec<Range<u64>> = Vec::new();
    for range in ranges.into_iter().filter(|range| !range.is_empty()) {
        match merged.last_mut() {
            Some(last) if last.end == range.start => last.end = range.end,
            _ => merged.push(range),
        }
    }
    merged
}

/// Writes the chunks of a stream.
struct Writer<'w> {
    reader: &'w Reader,
    file: &'w File,
    /// The length of the stream.
    end: u64,
    has_holes: bool,
    monitor: &'w dyn Monitor,
}

impl Writer<'_> {
    /// Writes these chunks. Those that cannot be read are added to `lost`.
    fn write_window(&self, window: &[ChunkSpan], lost: &mut Vec<Range<u64>>) -> Result<()> {
        let written: Vec<AtomicBool> = window.iter().map(|_| AtomicBool::new(false)).collect();
        let take = |number: usize, bytes: &[u8]| -> Result<()> {
            let (Some(span), Some(written)) = (window.get(number), written.get(number)) else { return Ok(()) };
            // A wrong tree may give a chunk a wrong length; then these bytes are not those of this place.
            if bytes.len() == index(span.len) && !written.load(Ordering::Relaxed) {
                self.put(span, bytes)?;
                written.store(true, Ordering::Relaxed);
            }
            Ok(())
        };
        // First try to read the window as a whole, which is fast. A single chunk is read below in any case, and what
        // its frame holds besides is kept for the next ones.
        if window.len() > 1 {
            let ids: Vec<ChunkId> = window.iter().map(|span| span.id).collect();
            match self.reader.each_chunk(&ids, Some(Spill::past(self.file, self.end)), &take) {
                Err(error) if !error.is_damage() => return Err(error),
                // It ended at the first chunk that is lost. The loop below reads the rest one by one.
                _ => {}
            }
        }
        for (number, span) in window.iter().enumerate() {
            let is_written = || written.get(number).is_some_and(|written| written.load(Ordering::Relaxed));
            if is_written() {
                continue;
            }
            if self.monitor.cancelled() {
                return Err(Error::Cancelled);
            }
            match self.reader.chunk(&span.id) {
                Ok(bytes) => take(number, &bytes)?,
                Err(error) if error.is_damage() => {}
                Err(error) => return Err(error),
            }
            if !is_written() {
                lost.push(span.offset..span.offset + u64::from(span.len));
            }
        }
        Ok(())
    }

    fn put(&self, span: &ChunkSpan, bytes: &[u8]) -> Result<()> {
        let written = match self.has_holes {
            true => sparse_write::write(self.file, bytes, span.offset),
            false => self.file.write_all_at(bytes, span.offset),
        };
        written.map_err(|e| not_written(&e))?;
        self.monitor.advance(wide(bytes.len()));
        Ok(())
    }
}
