//! One reading of all trees: decides for each entry what is stored, and gives out the streams one after the other.
//!
//! At most one database is open at a time, and everything that the last stream needed is closed before the next entry
//! is looked at (`let_go`): closing another descriptor of a database would drop SQLite's locks on it. Files are opened
//! through held directories, so nobody can turn a path elsewhere. Everything that is missing in the snapshot or may be
//! a mixture is noted in the report. Only a stop, or a fault of the program, makes the capture fail.

use std::collections::{HashMap, VecDeque};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::body::{self, AtEnd, FileBody};
use super::exclude::Selection;
use super::holes::{self, Extents};
use super::links::{Covered, Links, SharedDatabases};
use super::walk::{Entry, VANISHED, Walk, refusal};
use crate::engine::sqlite::{CapturedFile, ContentBudget, ContentJob, SqliteOptions, begins_like_sqlite};
use crate::engine::stamp::{FileState, is_local};
use crate::engine::{Body, Capture, CaptureReport, CapturedStream, Known, NamedRoot, Stamp, attributes};
use crate::error::{Error, Result};
use crate::progress::Monitor;
use crate::recorded::{EntryKind, FileMeta, Flag};

/// Files of at least this many bytes are read by a thread of their own, so that the user can stop even if their file
/// system does not answer.
const LONG: u64 = 16 << 20;

/// The trees, read while streams are asked for.
pub(super) struct FilesCapture<'a> {
    walk: Walk<'a>,
    /// Tasks to be done before the walk goes on.
    pub(super) todo: VecDeque<Task>,
    /// The open files of the stream that was given out last.
    pub(super) held: Option<Held>,
    pub(super) covered: Covered,
    pub(super) shared: SharedDatabases,
    links: Links,
    pub(super) options: &'a SqliteOptions,
    pub(super) budget: ContentBudget,
    pub(super) known: &'a dyn Known,
    pub(super) monitor: &'a dyn Monitor,
    now: SystemTime,
    /// By device: whether its time stamps can be trusted.
    local: HashMap<u64, bool>,
    /// By device: whether it says correctly where holes are.
    trusted: HashMap<u64, bool>,
    selection: &'a Selection,
    /// How many modes were narrowed because access control lists are not stored.
    narrowed: u64,
    pub(super) report: CaptureReport,
}

/// Something to look at.
pub(super) enum Task {
    /// An entry from the walk.
    Found(Entry),
    /// A path that the walk cannot look at, and why.
    Unseen(PathBuf, String),
    /// A file that is stored as it is, even if it looks like a database, and a note for the report.
    AsItIs(Entry, Option<String>),
    /// A database with several names: the entry, and the name through which it is read.
    Database(Entry, Box<Entry>),
}

/// The open files of a stream that is being read.
pub(super) enum Held {
    Plain(Reading),
    /// Fields are dropped in this order: the job uses the connection of the file, so it must end first.
    Database(Entry, ContentJob, Box<CapturedFile>),
}

/// A plain file that is being read.
pub(super) struct Reading {
    entry: Entry,
    before: FileState,
    at_end: AtEnd,
    /// Whether the file may get a stamp, so that the next capture need not read it.
    may_stamp: bool,
    /// Whether all of its attributes are stored.
    has_attributes: bool,
}

impl<'a> FilesCapture<'a> {
    pub(super) fn new(
        walk: Walk<'a>,
        selection: &'a Selection,
        options: &'a SqliteOptions,
        known: &'a dyn Known,
        monitor: &'a dyn Monitor,
    ) -> FilesCapture<'a> {
        FilesCapture {
            walk,
            todo: VecDeque::new(),
            held: None,
            covered: Covered::default(),
            shared: SharedDatabases::default(),
            links: Links::new(),
            options,
            budget: ContentBudget::new(options.content),
            known,
            monitor,
            now: (options.clock)(),
            local: HashMap::new(),
            trusted: HashMap::new(),
            selection,
            narrowed: 0,
            report: CaptureReport::default(),
        }
    }

    /// The next thing to look at: queued tasks, then the walk, then the databases with several names, whose names are
    /// all known by then.
    fn next_task(&mut self) -> Option<Task> {
        if let Some(task) = self.todo.pop_front() {
            return Some(task);
        }
        match self.walk.next() {
            Some(Ok(entry)) => Some(Task::Found(entry)),
            Some(Err((path, why))) => Some(Task::Unseen(path, why)),
            None => {
                self.queue_shared_databases();
                self.todo.pop_front()
            }
        }
    }

    /// The stream of an entry of any kind; `None` if it has none now.
    fn found(&mut self, entry: Entry) -> Result<Option<CapturedStream>> {
        let kind = entry.metadata.file_type();
        if kind.is_file() {
            return self.found_file(entry);
        }
        if kind.is_dir() {
            return Ok(Some(self.stream(&entry, EntryKind::Directory, Body::None)));
        }
        if kind.is_symlink() {
            return Ok(match entry.held().and_then(|held| std::fs::read_link(held.path)) {
                Ok(target) => Some(self.stream(&entry, EntryKind::Symlink(target.into_os_string().into_vec()), Body::None)),
                Err(e) => self.skip(&entry.path, &refusal(&e)),
            });
        }
        // A FIFO, a socket or a device. It has no content of its own.
        self.walk.left_out.special += 1;
        Ok(None)
    }

    /// The stream of a regular file: unchanged, a plain file, or a database.
    fn found_file(&mut self, entry: Entry) -> Result<Option<CapturedStream>> {
        let id = FileState::of(&entry.metadata).id();
        // The log or journal of a database: the stream of the database contains it.
        if self.covered.has(&entry) {
            return Ok(None);
        }
        // Another name of a database that waits for all of its names. It is not opened, because that one may be open.
        if self.shared.has(id) {
            self.covered.add_sides_of(&entry);
            self.shared.add(id, entry);
            return Ok(None);
        }
        if let Some(unchanged) = self.unchanged(&entry) {
            return Ok(Some(unchanged));
        }
        self.plain(entry, true, None)
    }

    /// The stream of a file, if the file system proves that the file is unchanged.
    fn unchanged(&mut self, entry: &Entry) -> Option<CapturedStream> {
        let state = FileState::of(&entry.metadata);
        let mut stamp = state.unchanged_since(&self.known.stamp(&entry.name)?, self.now)?;
        // A further name of a file that is stored already. It becomes a hard link.
        if self.links.contains_key(&state.id()) {
            return None;
        }
        // Attributes may be read again although the content is unchanged: if they were not stored completely, or are
        // not wanted now.
        stamp.has_attributes &= self.selection.xattrs;
        self.report.stamps.extend(stamp.encoded().map(|stamp| (entry.name.clone(), stamp)));
        self.remember_link(entry, state);
        Some(match stamp.has_attributes {
            true => CapturedStream { name: entry.name.clone(), kind: EntryKind::File, meta: None, body: Body::Unchanged },
            false => self.stream(entry, EntryKind::File, Body::Unchanged),
        })
    }

    /// The stream of a plain file. With `probe`, a file that turns out to be a database is captured as one. `note` goes
    /// into the report.
    pub(super) fn plain(&mut self, mut entry: Entry, probe: bool, note: Option<String>) -> Result<Option<CapturedStream>> {
        if let Some(first) = self.links.get(&FileState::of(&entry.metadata).id()) {
            let first = first.clone();
            let link = self.stream(&entry, EntryKind::HardLink(first), Body::None);
            self.stored_as_it_is(&entry, note);
            return Ok(Some(link));
        }
        let opened = entry.held().and_then(|held| body::open(&held.path)).and_then(|file| {
            let metadata = file.metadata()?;
            let database = probe && metadata.is_file() && begins_like_sqlite(&file)?;
            Ok((file, metadata, database))
        });
        let (file, metadata, database) = match opened {
            Ok(opened) => opened,
            Err(e) => return Ok(self.skip(&entry.path, &refusal(&e))),
        };
        if !metadata.is_file() {
            return Ok(self.skip(&entry.path, "skipped: it became something other than a file while the backup ran"));
        }
        // From now on the open file counts, not the one that the walk has seen: another one may have taken its name.
        entry.metadata = metadata;
        if database {
            // Closed before a connection is opened: closing it later would drop the locks of the connection.
            drop(file);
            return self.found_database(entry);
        }
        self.stored_as_it_is(&entry, note);
        let before = FileState::of(&entry.metadata);
        self.remember_link(&entry, before);
        let extents = match self.trusts_holes(&entry.path, before.dev) {
            true => Extents::of(&file, before.size),
            false => Extents::unasked(),
        };
        let has_holes = extents.has_holes();
        let (body, at_end) = FileBody::new(file, before.size, extents);
        let body = match has_holes {
            true => Body::Sparse { input: Box::new(body), len: before.size },
            false => Body::Bytes(Box::new(body)),
        };
        let meta = self.meta(&entry);
        let has_attributes = meta.is_some() && self.selection.xattrs;
        let stream = self.stream_with(&entry, EntryKind::File, meta, body);
        self.held = Some(Held::Plain(Reading { entry, before, at_end, may_stamp: probe, has_attributes }));
        Ok(Some(stream))
    }

    /// Remembers the name of a file that has several, so that its further names become hard links.
    fn remember_link(&mut self, entry: &Entry, state: FileState) {
        if entry.metadata.nlink() > 1 {
            self.links.insert(state.id(), entry.name.clone());
        }
    }

    /// Compares the state of a plain file at its end with that at its beginning. Gives it a stamp, or notes that it has
    /// changed.
    fn plain_read(&mut self, reading: Reading) {
        // Empty if it was not read to its end.
        let Some(after) = reading.at_end.get() else { return };
        let before = reading.before;
        if after.size > before.size {
            let text = "grew while it was read; it is stored up to the length that it had at first";
            self.monitor.warn(&line(&reading.entry.path, text));
        } else if (after.size, after.mtime_ns) != (before.size, before.mtime_ns) {
            let text = "changed while it was read; what is stored may be a mixture of old and new";
            self.incomplete("changed-while-read", &reading.entry.name, line(&reading.entry.path, text));
        } else if reading.may_stamp && self.is_local(&reading.entry.path, before.dev) {
            let stamp = before.plain_stamp(self.now, reading.has_attributes);
            self.report.stamps.extend(stamp.map(|stamp| (reading.entry.name, stamp)));
        }
    }

    fn trusts_holes(&mut self, path: &Path, dev: u64) -> bool {
        *self.trusted.entry(dev).or_insert_with(|| holes::is_trusted(path))
    }

    fn is_local(&mut self, path: &Path, dev: u64) -> bool {
        *self.local.entry(dev).or_insert_with(|| is_local(path))
    }

    /// Closes everything that the last stream needed.
    fn let_go(&mut self) -> Result<()> {
        match self.held.take() {
            Some(Held::Plain(reading)) => self.plain_read(reading),
            Some(Held::Database(entry, content, file)) => self.database_read(entry, content, *file)?,
            None => {}
        }
        Ok(())
    }

    fn stream(&mut self, entry: &Entry, kind: EntryKind, body: Body) -> CapturedStream {
        let meta = self.meta(entry);
        self.stream_with(entry, kind, meta, body)
    }

    fn stream_with(&mut self, entry: &Entry, kind: EntryKind, meta: Option<FileMeta>, body: Body) -> CapturedStream {
        let meta = meta.unwrap_or_else(|| attributes::narrow(&entry.metadata));
        CapturedStream { name: entry.name.clone(), kind, meta: Some(self.selected(meta)), body }
    }

    /// All attributes of a file that are stored. If they cannot be read, notes that and gives `None`.
    fn meta(&mut self, entry: &Entry) -> Option<FileMeta> {
        let seen = entry.held().and_then(|held| attributes::seen(&held.path, &entry.metadata));
        // Its content is stored even so. Without the access control list the mode could give too much, so it is stored
        // for the owner alone.
        let note = |e| {
            let text = format!("its extended attributes are not stored, and its mode is stored for the owner alone: {e}");
            self.report.skipped.push(line(&entry.path, &text));
        };
        seen.map_err(note).ok()
    }

    /// The attributes without those that the user does not want.
    pub(super) fn selected(&mut self, meta: FileMeta) -> FileMeta {
        if self.selection.xattrs {
            return meta;
        }
        self.narrowed += u64::from(meta.mode_without_acl() != meta.mode);
        meta.without_attributes()
    }

    /// Notes something that is not in the snapshot.
    pub(super) fn skip(&mut self, path: &Path, why: &str) -> Option<CapturedStream> {
        match why {
            // A deleted file does not make the snapshot incomplete: a moment later it would not have been seen at all.
            VANISHED => self.report.skipped.push(line(path, why)),
            _ => self.incomplete("incomplete", &self.walk.name_of(path), line(path, why)),
        }
        None
    }

    /// Notes that a database is stored as a plain file, if there is a note.
    fn stored_as_it_is(&mut self, entry: &Entry, note: Option<String>) {
        if let Some(note) = note {
            self.incomplete("not-a-database", &entry.name, note);
        }
    }

    /// Flags the snapshot: this stream lacks something, or may.
    pub(super) fn incomplete(&mut self, code: &str, stream: &[u8], line: String) {
        self.report.flags.push(Flag::new(code, line.clone()).about(stream));
        self.report.skipped.push(line);
    }
}

impl Capture for FilesCapture<'_> {
    fn total_bytes(&self) -> Option<u64> {
        None
    }

    fn roots(&self) -> Vec<NamedRoot> {
        self.walk.roots().iter().map(|root| NamedRoot { path: root.path.clone(), prefix: root.prefix.clone() }).collect()
    }

    fn next_stream(&mut self) -> Result<Option<CapturedStream>> {
        self.let_go()?;
        while let Some(task) = self.next_task() {
            if self.monitor.cancelled() {
                return Err(Error::Cancelled);
            }
            let stream = match task {
                Task::Found(entry) => self.found(entry)?,
                Task::Unseen(path, why) => self.skip(&path, &why),
                Task::AsItIs(entry, note) => self.plain(entry, false, note)?,
                Task::Database(entry, through) => self.database(entry, &through)?,
            };
            if stream.is_some() {
                return Ok(stream);
            }
        }
        Ok(None)
    }

    fn unreadable(&mut self, error: Error) -> Result<()> {
        match self.held.take() {
            Some(Held::Plain(reading)) => {
                self.links.remove(&reading.before.id());
                self.skip(&reading.entry.path, &format!("skipped: {}", detail(error)));
                Ok(())
            }
            Some(Held::Database(entry, content, file)) => {
                drop(content);
                drop(file);
                self.refused(entry, error)
            }
            None => Err(error),
        }
    }

    fn blocks_writers(&self) -> bool {
        matches!(&self.held, Some(Held::Database(_, _, file)) if file.blocks_writers())
    }

    fn may_wait(&self) -> bool {
        matches!(&self.held, Some(Held::Plain(reading)) if reading.before.size >= LONG)
    }

    fn take_stamps(&mut self) -> HashMap<Vec<u8>, Stamp> {
        std::mem::take(&mut self.report.stamps)
    }

    fn finish(mut self: Box<Self>) -> Result<CaptureReport> {
        self.let_go()?;
        self.report.facts.push(("sqlite".to_owned(), rusqlite::version().to_owned()));
        self.report.facts.push(("instant".to_owned(), "each".to_owned()));
        self.report.facts.extend(self.selection.facts());
        self.report.left_out = self.walk.left_out;
        if self.narrowed > 0 {
            let text = format!(
                "{} access control lists are not stored; the stored modes give nobody more rights than the lists did",
                self.narrowed
            );
            self.monitor.warn(&text);
        }
        Ok(self.report)
    }
}

/// A line about a path. Control characters in the path are escaped, because a name must not be able to begin another
/// line or to control a terminal.
pub(super) fn line(path: &Path, text: &str) -> String {
    let mut line = String::new();
    for c in path.to_string_lossy().chars() {
        match c.is_control() {
            true => line.extend(c.escape_default()),
            false => line.push(c),
        }
    }
    line.push_str(": ");
    line.push_str(text);
    line
}

/// The text of an error without its path, for a line that has the path already.
pub(super) fn detail(error: Error) -> String {
    match error {
        Error::Source { detail, .. } | Error::Busy { detail, .. } => detail,
        other => other.to_string(),
    }
}
