//! Fills a directory with the entries of a listing.
//!
//! One thread walks the listing. Small files are collected into batches. Several threads write a batch; another
//! thread makes it durable and gives the files their names while the next batch is written. Everything else is placed
//! one by one. Hard links come last, when the files that they refer to exist. Memory holds a batch of entries, never
//! the whole listing.

use std::collections::HashMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::outcome::{Failed, Outcome, Restored, Tell};
use super::small_files::{Batch, FILE_BYTES_MAX, Item};
use super::write_stream;
use crate::engine::files::restore::ahead::{Ahead, What};
use crate::engine::files::restore::tree::Tree;
use crate::engine::place::Placed;
use crate::engine::sqlite::restore::DatabaseOptions;
use crate::error::{Error, Result};
use crate::ops::lost::explained;
use crate::ops::number::wide;
use crate::progress::Monitor;
use crate::recorded::{EntryKind, FileMeta};
use crate::store::format::snapshot::{StreamEntry, StreamRoot};
use crate::store::repo::Reader;

/// The source of the entries. They are walked more than once.
#[derive(Clone, Copy)]
pub(in crate::ops) enum Entries<'l> {
    /// A listing in the repository.
    Stored(&'l StreamRoot),
    /// One in memory.
    Listed(&'l [StreamEntry]),
}

impl Entries<'_> {
    /// Calls `visit` with the number of each entry and the entry, until it returns `false`.
    fn each(&self, reader: &Reader, visit: &mut dyn FnMut(u64, StreamEntry) -> Result<bool>) -> Result<()> {
        let mut each = |entries: &mut dyn Iterator<Item = Result<StreamEntry>>| -> Result<()> {
            for (entry, number) in entries.zip(0..) {
                if !visit(number, entry?)? {
                    break;
                }
            }
            Ok(())
        };
        match self {
            Entries::Stored(root) => each(&mut reader.entries(root)?),
            Entries::Listed(entries) => each(&mut entries.iter().cloned().map(Ok)),
        }
    }
}

/// How a directory is filled.
pub(in crate::ops) struct Filling<'f> {
    pub reader: &'f Reader,
    pub entries: Entries<'f>,
    /// How many entries there are.
    pub total: u64,
    pub database: DatabaseOptions,
    /// Gives the attributes with which an entry is restored.
    pub dress: &'f (dyn Fn(&StreamEntry) -> Option<FileMeta> + Sync),
    pub monitor: &'f dyn Monitor,
}

/// Entries that cannot go to their places, by their numbers, with the reasons.
pub(in crate::ops) type Refused = HashMap<u64, Error>;

impl Filling<'_> {
    /// Looks at all places in an existing directory before the first is touched.
    ///
    /// # Errors
    /// If the listing cannot be read or the directory cannot be used.
    pub fn look_ahead(&self, root: &Path) -> Result<Refused> {
        if is_empty(root) {
            return Ok(Refused::new());
        }
        self.monitor.phase("looking", None);
        let mut ahead = Ahead::of(root)?;
        let mut refused = Refused::new();
        self.entries.each(self.reader, &mut |number, entry| {
            let what = match entry.kind {
                EntryKind::Sqlite(_) => What::Database,
                EntryKind::Directory => What::Directory,
                EntryKind::File | EntryKind::Symlink(_) | EntryKind::HardLink(_) => What::File,
            };
            if let Err(error) = ahead.look(number, &entry.name, what) {
                refused.insert(number, error);
            }
            if self.monitor.cancelled() { Err(Error::Cancelled) } else { Ok(true) }
        })?;
        // Looking for users of files takes a walk through all processes, so it is done once for all.
        refused.extend(ahead.used());
        Ok(refused)
    }

    /// Calls `visit` for all entries.
    ///
    /// # Errors
    /// If the listing cannot be read.
    pub fn visit(&self, visit: &mut dyn FnMut(&StreamEntry)) -> Result<()> {
        self.entries.each(self.reader, &mut |_, entry| {
            visit(&entry);
            if self.monitor.cancelled() { Err(Error::Cancelled) } else { Ok(true) }
        })
    }

    /// Places all entries that are not refused, as many as possible.
    pub fn fill(&self, tree: &Tree<'_>, refused: Refused, tell: &mut Tell<'_>) -> Outcome {
        let run = Run { filling: self, tree, told: Mutex::new(Told { outcome: Outcome::default(), tell }), stop: AtomicBool::new(false) };
        let links = std::thread::scope(|scope| {
            // No queue: while one batch gets its names, one is written. More would only take memory.
            let (send, receive) = sync_channel(0);
            let namer = scope.spawn(|| run.name_batches(receive));
            let links = run.place_all(&refused, send);
            if let Err(panic) = namer.join() {
                run.stopped(Error::panicked("naming restored files", panic));
            }
            links
        });
        if links {
            run.place_links(&refused);
        }
        let mut outcome = run.told.into_inner().unwrap_or_else(PoisonError::into_inner).outcome;
        outcome.untried = self.total.saturating_sub(outcome.restored + wide(outcome.failed.len()));
        outcome
    }
}

/// Whether a directory is empty or absent. A directory that cannot be read counts as not empty.
fn is_empty(dir: &Path) -> bool {
    match std::fs::read_dir(dir) {
        Ok(mut entries) => entries.next().is_none(),
        Err(e) => e.kind() == std::io::ErrorKind::NotFound,
    }
}

struct Run<'r, 'f> {
    filling: &'r Filling<'f>,
    tree: &'r Tree<'r>,
    told: Mutex<Told<'r>>,
    /// Set when nothing more is begun.
    stop: AtomicBool,
}

struct Told<'r> {
    outcome: Outcome,
    tell: &'r mut Tell<'r>,
}

/// The files of a batch under their hidden names, each with the result of writing it.
type Written = Vec<(Item, Result<()>)>;

impl<'r> Run<'r, '_> {
    /// Places everything except hard links. Returns whether there are any.
    fn place_all(&self, refused: &Refused, send: SyncSender<Written>) -> bool {
        let (mut batch, mut links) = (Batch::default(), false);
        // Hard links wait for the end: their files may come later in the listing.
        let gone_through = self.each(&mut |number, entry| {
            if matches!(entry.kind, EntryKind::HardLink(_)) {
                links = true;
            } else if let Some(error) = refused.get(&number) {
                self.failed(entry.name, said_again(error));
            } else {
                self.place(entry, &mut batch, &send)?;
            }
            Ok(())
        });
        if let Err(error) = gone_through.and_then(|()| self.hand_over(batch, &send)) {
            self.stopped(error);
        }
        links
    }

    /// Walks the entries until the restore stops.
    fn each(&self, visit: &mut dyn FnMut(u64, StreamEntry) -> Result<()>) -> Result<()> {
        self.filling.entries.each(self.filling.reader, &mut |number, entry| {
            // Another thread has met an error that stops everything.
            if self.stop.load(Ordering::Relaxed) {
                return Ok(false);
            }
            if self.filling.monitor.cancelled() {
                return Err(Error::Cancelled);
            }
            visit(number, entry).map(|()| true)
        })
    }

    /// Adds a small file to the batch, or places an entry at once.
    fn place(&self, entry: StreamEntry, batch: &mut Batch, send: &SyncSender<Written>) -> Result<()> {
        // A batch takes small files without holes. Everything else is placed at once, so a large file does not hold
        // up a batch.
        let Filling { reader, dress, .. } = *self.filling;
        // A file with holes is written by itself, because only that way restores the holes.
        let has_holes = entry.meta.as_ref().is_some_and(|meta| meta.holes > 0);
        if entry.kind == EntryKind::File && entry.root.len <= FILE_BYTES_MAX && !has_holes {
            match self.tree.member(&entry.name) {
                Ok(Some(member)) => {
                    let meta = dress(&entry);
                    batch.add(reader, entry, member, meta)?;
                    return if batch.is_full() { self.hand_over(std::mem::take(batch), send) } else { Ok(()) };
                }
                Ok(None) => {}
                Err(error) => {
                    self.failed(entry.name, error);
                    return Ok(());
                }
            }
        }
        let placed = self.place_one(&entry);
        self.ended(entry, placed)
    }

    /// Places one entry that is not part of a batch.
    fn place_one(&self, entry: &StreamEntry) -> Result<Placed> {
        let Filling { reader, dress, monitor, database, .. } = *self.filling;
        let fill = |file: &File| {
            write_stream(reader, entry, file, monitor).map_err(|error| explained(reader, (&entry.name, &entry.root), error, monitor))
        };
        let (name, len, meta) = (entry.name.as_slice(), entry.root.len, dress(entry));
        match &entry.kind {
            EntryKind::Sqlite(_) => self.tree.database(name, len, meta, &fill, database),
            EntryKind::File => self.tree.file(name, len, meta, &fill),
            EntryKind::Directory => self.tree.directory(name, meta).map(|path| Placed { path, ..Placed::default() }),
            EntryKind::Symlink(target) => self.tree.symlink(name, target, meta),
            EntryKind::HardLink(other) => self.tree.hard_link(name, other),
        }
    }

    /// Places hard links. A link whose file was not restored fails, too.
    fn place_links(&self, refused: &Refused) {
        // Copy the failures: recording further ones below needs the lock.
        let failed: HashMap<Vec<u8>, bool> = {
            let told = self.told();
            told.outcome.failed.iter().map(|failed| (failed.name.clone(), failed.error.is_damage())).collect()
        };
        let gone_through = self.each(&mut |number, entry| {
            let EntryKind::HardLink(other) = &entry.kind else { return Ok(()) };
            let why = || format!("it is a further name of {}, which is not restored", String::from_utf8_lossy(other));
            // The reason for the first name's failure decides the kind of error: damage must count as damage.
            match (refused.get(&number), failed.get(other)) {
                (Some(error), _) => self.failed(entry.name, said_again(error)),
                (None, Some(true)) => {
                    let error = Error::corrupt(format!("stream {}", String::from_utf8_lossy(&entry.name)), why());
                    self.failed(entry.name, error);
                }
                (None, Some(false)) => {
                    let error = Error::destination(self.path_of(&entry.name), why());
                    self.failed(entry.name, error);
                }
                (None, None) => {
                    let placed = self.place_one(&entry);
                    self.ended(entry, placed)?;
                }
            }
            Ok(())
        });
        if let Err(error) = gone_through {
            self.stopped(error);
        }
    }

    /// Writes a batch and hands it to the naming thread.
    fn hand_over(&self, batch: Batch, send: &SyncSender<Written>) -> Result<()> {
        if batch.is_empty() || self.stop.load(Ordering::Relaxed) {
            return Ok(());
        }
        let written = batch.write(self.filling.reader, self.tree, self.filling.monitor)?;
        send.send(written).map_err(|_| Error::Poisoned)
    }

    /// The naming thread: makes each batch durable and gives its files their names.
    fn name_batches(&self, batches: Receiver<Written>) {
        for batch in batches {
            if self.stop.load(Ordering::Relaxed) || self.filling.monitor.cancelled() {
                // After a stop the hidden files are removed; nothing else was changed for them.
                batch.iter().for_each(|(item, _)| self.tree.discard(&item.member));
                continue;
            }
            // Files that could not be written are reported and removed; the others get their names together.
            let mut whole = Vec::with_capacity(batch.len());
            for (item, written) in batch {
                match written {
                    Ok(()) => whole.push(item),
                    Err(error) => {
                        self.tree.discard(&item.member);
                        self.failed(item.entry.name, error);
                    }
                }
            }
            let members: Vec<_> = whole.iter().map(|item| &item.member).collect();
            match self.tree.name_all(&members) {
                Ok(named) => whole.into_iter().zip(named).for_each(|(item, placed)| match placed {
                    Ok(placed) => self.restored(item.entry, placed),
                    Err(error) => self.failed(item.entry.name, error),
                }),
                Err(error) => self.stopped(error),
            }
        }
    }

    /// Records how placing an entry ended.
    ///
    /// # Errors
    /// An error that would stop all other entries, too.
    fn ended(&self, entry: StreamEntry, placed: Result<Placed>) -> Result<()> {
        match placed {
            Ok(placed) => self.restored(entry, placed),
            Err(error) if concerns_one(&error) => self.failed(entry.name, error),
            Err(error) => return Err(error),
        }
        Ok(())
    }

    fn restored(&self, entry: StreamEntry, placed: Placed) {
        let mut told = self.told();
        told.outcome.restored += 1;
        told.outcome.bytes += entry.root.len;
        (told.tell)(Restored { name: entry.name, len: entry.root.len, placed });
    }

    fn failed(&self, name: Vec<u8>, error: Error) {
        let path = self.path_of(&name);
        self.told().outcome.failed.push(Failed { name, path, error });
    }

    fn stopped(&self, error: Error) {
        self.stop.store(true, Ordering::Relaxed);
        self.told().outcome.stopped.get_or_insert(error);
    }

    fn path_of(&self, name: &[u8]) -> PathBuf {
        use std::os::unix::ffi::OsStrExt;
        self.tree.root().join(std::ffi::OsStr::from_bytes(name))
    }

    fn told(&self) -> MutexGuard<'_, Told<'r>> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether an error concerns one entry only, so that the next may succeed.
pub(super) fn concerns_one(error: &Error) -> bool {
    error.is_damage() || matches!(error, Error::Unsound { .. } | Error::Destination { .. } | Error::HalfDone { .. } | Error::Busy { .. })
}

/// A copy of an error that the look ahead found; errors cannot be cloned.
fn said_again(error: &Error) -> Error {
    match error {
        Error::Destination { path, detail } => Error::destination(path, detail),
        Error::Busy { path, detail } => Error::Busy { path: path.clone(), detail: detail.clone() },
        other => Error::InvalidArgument(other.to_string()),
    }
}
