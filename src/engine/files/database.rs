//! Captures the databases in a tree, one at a time.
//!
//! A database that cannot be read as one is stored as a plain file, unless others are writing it. A database with
//! several names is put off until all names are known, because only one of the names may have the log
//! (`queue_shared_databases`).

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
    /// Captures a file that begins like a database, or puts it off if it has several names.
    pub(super) fn found_database(&mut self, entry: Entry) -> Result<Option<CapturedStream>> {
        self.covered.add_sides_of(&entry);
        if entry.metadata.nlink() > 1 {
            self.shared.add(FileState::of(&entry.metadata).id(), entry);
            return Ok(None);
        }
        let through = entry.clone();
        self.database(entry, &through)
    }

    /// Captures a database through one of its names, `through`, and stores it under the name of `entry`.
    pub(super) fn database(&mut self, entry: Entry, through: &Entry) -> Result<Option<CapturedStream>> {
        let held = through.held().and_then(|held| Ok((std::fs::symlink_metadata(&held.path)?, held)));
        let dir = match held {
            // It must still be the file that the walk has found. Another one may have taken its name.
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

    /// Queues a database that cannot be read as one: it is stored as it is, with its side files. If others are writing
    /// it, that would be a mixture, so it is skipped.
    pub(super) fn refused(&mut self, entry: Entry, error: Error) -> Result<()> {
        match error {
            Error::Cancelled => return Err(error),
            Error::Busy { detail, .. } => {
                self.skip(&entry.path, &format!("skipped: {detail}"));
                return Ok(());
            }
            _ => {}
        }
        let note = line(&entry.path, &format!("stored as a plain file, not as a database, and perhaps useless: {}", detail(error)));
        let sides: Vec<Task> = SIDES.iter().filter_map(|side| side_of(&entry, side)).map(|side| Task::AsItIs(side, None)).collect();
        self.todo.push_back(Task::AsItIs(entry, Some(note)));
        self.todo.extend(sides);
        Ok(())
    }

    /// Closes a database after its pages were read, and takes over its flags and its stamp.
    pub(super) fn database_read(&mut self, entry: Entry, content: ContentJob, file: CapturedFile) -> Result<()> {
        for outcome in content.finish(self.monitor)?.into_values() {
            report_content(&mut self.report, &entry.name, &file, outcome);
        }
        match file.finish() {
            Ok((flags, stamp)) => {
                self.report.flags.extend(flags.into_iter().map(|flag| flag.about(&entry.name)));
                self.report.stamps.extend(stamp.map(|stamp| (entry.name, stamp)));
            }
            // Its stream is in the snapshot already. So the snapshot is flagged.
            Err(error) => {
                self.report.flags.push(Flag::new("changed-while-read", line(&entry.path, &detail(error))).about(&entry.name));
            }
        }
        Ok(())
    }

    /// Queues the databases with several names, after all trees were walked. Decides for each through which name it is
    /// read: one that has a log or journal with content, else one that has side files, else the first.
    pub(super) fn queue_shared_databases(&mut self) {
        for names in self.shared.take() {
            let has = |entry: &Entry, side: &str, bytes: u64| {
                entry.held().is_ok_and(|held| std::fs::symlink_metadata(beside(&held.path, side)).is_ok_and(|found| found.len() >= bytes))
            };
            let full: Vec<&Entry> = names.iter().filter(|entry| ["-wal", "-journal"].iter().any(|side| has(entry, side, 1))).collect();
            let in_use = || names.iter().find(|entry| SIDES.iter().any(|side| has(entry, side, 0)));
            let Some(through) = full.first().copied().or_else(in_use).or(names.first()).cloned() else { continue };
            // SQLite makes side files by the name under which the database was opened. Two names with logs are two
            // histories, and only one can be read.
            if let [_, others @ ..] = full.as_slice() {
                for other in others {
                    let why = format!(
                        "another name of {}, with a log or journal of its own; what is only in there is not stored",
                        through.path.display()
                    );
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
