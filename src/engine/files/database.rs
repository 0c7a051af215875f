//! Databases found in a tree.

use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::Arc;

use super::capture::{FilesCapture, Held, Task, detail, line};
use super::sides::{SIDES, beside};
use super::walk::{Entry, VANISHED, refusal};
use crate::engine::sqlite::{CapturedFile, ContentJob, capture_held, report_content};
use crate::engine::stamp::FileState;
use crate::engine::{Body, CapturedStream};
use crate::error::{Error, Result};
use crate::recorded::{EntryKind, Flag};

impl FilesCapture<'_> {
    /// Something that begins like a database.
    pub(super) fn found_database(&mut self, entry: Entry) -> Result<Option<CapturedStream>> {
        self.covered.add_sides_of(&entry);
        if entry.metadata.nlink() > 1 {
            self.shared.add(FileState::of(&entry.metadata).id(), entry);
            return Ok(None);
        }
        let through = entry.clone();
        self.database(entry, &through)
    }

    /// Captures a database through one of its names.
    pub(super) fn database(&mut self, entry: Entry, through: &Entry) -> Result<Option<CapturedStream>> {
        let held = through.held().and_then(|held| Ok((std::fs::symlink_metadata(&held.path)?, held)));
        let dir = match held {
            // The file that was found, not one that has taken its name.
            Ok((now, held)) if FileState::of(&now).id() == FileState::of(&through.metadata).id() => held.dir,
            Ok(_) => return Ok(self.skip(&entry.path, VANISHED)),
            Err(e) => return Ok(self.skip(&entry.path, &refusal(&e))),
        };
        let known = self.known.stamp(&entry.name);
        let file = match capture_held((dir, through.own_name(), &through.path), known.as_ref(), self.options, self.monitor) {
            Ok(file) => file,
            Err(error) => {
                self.refused(entry, error)?;
                return Ok(None);
            }
        };
        let body = file.pages().map_or(Body::Unchanged, Body::Pages);
        let meta = Some(self.selected(file.meta().clone()));
        let stream = CapturedStream { name: entry.name.clone(), kind: EntryKind::Sqlite(file.facts()), meta, body };
        let content = ContentJob::start(std::iter::once(&file), &mut self.budget);
        self.held = Some(Held::Database(entry, content, Box::new(file)));
        Ok(Some(stream))
    }

    /// A database that cannot be read as one: stored as it is, unless others are at work on it, when that would be a mixture.
    pub(super) fn refused(&mut self, entry: Entry, error: Error) -> Result<()> {
        match error {
            Error::Cancelled => return Err(error),
            Error::Busy { detail, .. } => {
                self.skip(&entry.path, &format!("skipped: {detail}"));
                return Ok(());
            }
            _ => {}
        }
        let note = line(&entry.path, &format!("stored as it is, not as a database, and perhaps of no use: {}", detail(error)));
        let sides: Vec<Task> = SIDES.iter().filter_map(|side| side_of(&entry, side)).map(|side| Task::AsItIs(side, None)).collect();
        self.todo.push_back(Task::AsItIs(entry, Some(note)));
        self.todo.extend(sides);
        Ok(())
    }

    /// Lets go of a database whose pages have been read.
    pub(super) fn database_read(&mut self, entry: Entry, content: ContentJob, file: CapturedFile) -> Result<()> {
        for outcome in content.finish(self.monitor)?.into_values() {
            report_content(&mut self.report, &entry.name, &file, outcome);
        }
        match file.finish() {
            Ok((flags, stamp)) => {
                self.report.flags.extend(flags.into_iter().map(|flag| flag.about(&entry.name)));
                self.report.stamps.extend(stamp.map(|stamp| (entry.name, stamp)));
            }
            // Its stream is in the snapshot already, which therefore must not count as good.
            Err(error) => {
                self.report.flags.push(Flag::new("changed-while-read", line(&entry.path, &detail(error))).about(&entry.name));
            }
        }
        Ok(())
    }

    /// Decides, when all trees have been walked, through which name databases with several names are read.
    pub(super) fn queue_shared_databases(&mut self) {
        for names in self.shared.take() {
            let has = |entry: &Entry, side: &str, bytes: u64| {
                entry.held().is_ok_and(|held| std::fs::symlink_metadata(beside(&held.path, side)).is_ok_and(|found| found.len() >= bytes))
            };
            let full: Vec<&Entry> = names.iter().filter(|entry| ["-wal", "-journal"].iter().any(|side| has(entry, side, 1))).collect();
            let in_use = || names.iter().find(|entry| SIDES.iter().any(|side| has(entry, side, 0)));
            let Some(through) = full.first().copied().or_else(in_use).or(names.first()).cloned() else { continue };
            if let [_, others @ ..] = full.as_slice() {
                for other in others {
                    let why = format!("a further name of {} with a log of its own, which is not stored", through.path.display());
                    self.incomplete("incomplete", &other.name, line(&other.path, &why));
                }
            }
            self.todo.extend(names.into_iter().map(|entry| Task::Database(entry, Box::new(through.clone()))));
        }
    }
}

/// A file beside a database, as an entry of its own.
fn side_of(database: &Entry, side: &str) -> Option<Entry> {
    let path: PathBuf = beside(&database.path, side);
    let held = database.held().ok()?;
    let metadata = std::fs::symlink_metadata(beside(&held.path, side)).ok().filter(|metadata| metadata.is_file())?;
    let name = [database.name.as_slice(), side.as_bytes()].concat();
    Some(Entry { path, name, depth: database.depth, metadata, dirs: Arc::clone(&database.dirs) })
}
