//! One reading of all trees: what each entry becomes.

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

/// Files of this size and more are read by a thread of their own, so that the user can stop while their file system does not answer, bytes.
const LONG: u64 = 16 << 20;

/// The trees, read while streams are asked for.
pub(super) struct FilesCapture<'a> {
    walk: Walk<'a>,
    /// What comes before the walk goes on.
    pub(super) todo: VecDeque<Task>,
    /// What the stream given out last needs.
    pub(super) held: Option<Held>,
    pub(super) covered: Covered,
    pub(super) shared: SharedDatabases,
    links: Links,
    pub(super) options: &'a SqliteOptions,
    pub(super) budget: ContentBudget,
    pub(super) known: &'a dyn Known,
    pub(super) monitor: &'a dyn Monitor,
    now: SystemTime,
    /// By device, whether its stamps can be trusted.
    local: HashMap<u64, bool>,
    /// By device, whether it says rightly where holes are.
    trusted: HashMap<u64, bool>,
    selection: &'a Selection,
    /// How many modes were narrowed because access control lists are not wanted.
    narrowed: u64,
    pub(super) report: CaptureReport,
}

/// Something to look at.
pub(super) enum Task {
    /// As the walk found it.
    Found(Entry),
    /// The walk cannot look at it, and why.
    Unseen(PathBuf, String),
    /// A file to be stored as it is, whatever it may be, and what to say of that.
    AsItIs(Entry, Option<String>),
    /// A database to be read through this one, which is another one of its names.
    Database(Entry, Box<Entry>),
}

/// What a stream being read needs.
pub(super) enum Held {
    Plain(Reading),
    /// The work on its content comes first in the order of dropping: it uses the connection.
    Database(Entry, ContentJob, Box<CapturedFile>),
}

/// A plain file being read.
pub(super) struct Reading {
    entry: Entry,
    before: FileState,
    at_end: AtEnd,
    /// Whether the next capture may do without reading it.
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
        // A pipe, a socket or a device, which has no content of its own.
        self.walk.left_out.special += 1;
        Ok(None)
    }

    fn found_file(&mut self, entry: Entry) -> Result<Option<CapturedStream>> {
        let id = FileState::of(&entry.metadata).id();
        if self.covered.has(&entry) {
            return Ok(None);
        }
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

    /// A file that the file system proves to be as it was.
    fn unchanged(&mut self, entry: &Entry) -> Option<CapturedStream> {
        let state = FileState::of(&entry.metadata);
        let mut stamp = state.unchanged_since(&self.known.stamp(&entry.name)?, self.now)?;
        if self.links.contains_key(&state.id()) {
            return None;
        }
        stamp.has_attributes &= self.selection.xattrs;
        self.report.stamps.extend(stamp.encoded().map(|stamp| (entry.name.clone(), stamp)));
        self.remember_link(entry, state);
        Some(match stamp.has_attributes {
            true => CapturedStream { name: entry.name.clone(), kind: EntryKind::File, meta: None, body: Body::Unchanged },
            false => self.stream(entry, EntryKind::File, Body::Unchanged),
        })
    }

    /// A file as it is, unless it is to be probed and turns out to be a database.
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
            return Ok(self.skip(&entry.path, "skipped: it became something else while the backup ran"));
        }
        entry.metadata = metadata;
        if database {
            // Closed before a connection is opened.
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

    fn remember_link(&mut self, entry: &Entry, state: FileState) {
        if entry.metadata.nlink() > 1 {
            self.links.insert(state.id(), entry.name.clone());
        }
    }

    /// Looks at how a plain file was when its end was reached.
    fn plain_read(&mut self, reading: Reading) {
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

    /// Lets go of what the last stream needed.
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

    /// All attributes of a file that are kept; `None`, which is noted, if they cannot be read.
    fn meta(&mut self, entry: &Entry) -> Option<FileMeta> {
        let seen = entry.held().and_then(|held| attributes::seen(&held.path, &entry.metadata));
        // Its content is there all the same.
        let note = |e| {
            let text = format!("its extended attributes are not stored, and its mode is stored for the owner alone: {e}");
            self.report.skipped.push(line(&entry.path, &text));
        };
        seen.map_err(note).ok()
    }

    /// What of a file's attributes is to be stored.
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
            VANISHED => self.report.skipped.push(line(path, why)),
            _ => self.incomplete("incomplete", &self.walk.name_of(path), line(path, why)),
        }
        None
    }

    /// Notes that a database is stored as a file, if there is anything to say about that.
    fn stored_as_it_is(&mut self, entry: &Entry, note: Option<String>) {
        if let Some(note) = note {
            self.incomplete("not-a-database", &entry.name, note);
        }
    }

    /// Notes that a stream does not have what it should have.
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
            let text = format!("{} access control lists are not stored; the modes give no more than they did", self.narrowed);
            self.monitor.warn(&text);
        }
        Ok(self.report)
    }
}

/// A line about a path. Its control characters are escaped: a name must not be able to begin another line, or to speak to a terminal.
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

/// An error without the path, which the line has already.
pub(super) fn detail(error: Error) -> String {
    match error {
        Error::Source { detail, .. } | Error::Busy { detail, .. } => detail,
        other => other.to_string(),
    }
}
