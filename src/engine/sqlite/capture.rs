//! One consistent reading of one or several databases: from looking at their files to the flags for damage.
//!
//! The order of steps is what makes it right (`capture_all`). Look at the files, open the databases that may have
//! changed, open all transactions at one instant, and then look again at those that were taken as unchanged. An error
//! names the path that the user gave, although SQLite works with paths in held directories.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use super::SqliteOptions;
use super::explain::explain;
use super::header::SqliteHeader;
use super::image::Image;
use super::instant::{Instant, Member, open_together};
use super::open::{Hold, changed_on_read_only_media, open};
use super::structure::{Root, StructureReport};
use super::unchanged::{FilesState, observe};
use crate::engine::{PageRead, Stamp};
use crate::error::{Error, Result};
use crate::fs::beneath::Dir;
use crate::progress::Monitor;
use crate::recorded::{FileMeta, Flag, SqliteFacts};

/// How often the capture starts again because a database that was taken as unchanged has changed meanwhile.
const RESTARTS: u32 = 20;

/// The most problems of one database that a flag spells out.
const PROBLEMS_SHOWN: usize = 5;

/// One database file as of one instant. Dropping it closes the database.
pub struct CapturedFile {
    path: PathBuf,
    facts: SqliteFacts,
    meta: FileMeta,
    stamp: Option<Stamp>,
    /// `None` for an unchanged database.
    open: Option<OpenImage>,
    /// SQLite may open further files in this directory as long as the database is open. So it is the last field: it is
    /// dropped after `open`.
    _dir: Arc<Dir>,
}

struct OpenImage {
    image: Arc<Image>,
    hold: Hold,
    blocks_writers: bool,
    flags: Vec<Flag>,
    /// The root pages that the schema names: [`Image::roots`].
    roots: Option<Result<Vec<Root>, String>>,
}

impl CapturedFile {
    /// What the header says at the captured instant.
    pub fn facts(&self) -> SqliteFacts {
        self.facts
    }

    /// Attributes of the main file.
    pub fn meta(&self) -> &FileMeta {
        &self.meta
    }

    /// The image, readable until [`CapturedFile::finish`]. `None` if the database is unchanged since the known stamp.
    /// The image of a database of zero bytes has no bytes, and a page size of 4,096.
    pub fn pages(&self) -> Option<Arc<dyn PageRead>> {
        self.open.as_ref().map(|open| Arc::clone(&open.image) as Arc<dyn PageRead>)
    }

    /// How many bytes the image has; 0 for an unchanged database.
    pub fn bytes_to_read(&self) -> u64 {
        self.open.as_ref().map_or(0, |open| open.image.len_bytes())
    }

    /// Whether writers of this database wait until [`CapturedFile::finish`]. They do in rollback-journal mode.
    pub fn blocks_writers(&self) -> bool {
        self.open.as_ref().is_some_and(|open| open.blocks_writers)
    }

    /// The image, if its content can be read through SQLite: it has bytes, and opening has shown no damage.
    pub(super) fn image_to_sum_up(&self) -> Option<Arc<Image>> {
        let open = self.open.as_ref().filter(|open| open.flags.is_empty() && open.image.len_bytes() > 0);
        open.map(|open| Arc::clone(&open.image))
    }

    /// The flag for damage that was found by reading the tables.
    pub(super) fn content_damage(&self, detail: &str) -> Flag {
        damaged(&self.path, &format!("its tables cannot be read: {detail}"))
    }

    /// Closes the database. Gives the flags that say why the capture is not good, and the stamp for the next capture.
    ///
    /// # Errors
    /// [`Error::Busy`] if the database is on read-only media and was changed from elsewhere while it was read.
    pub fn finish(self) -> Result<(Vec<Flag>, Option<Stamp>)> {
        let Some(mut open) = self.open else { return Ok((Vec::new(), self.stamp)) };
        // Writers may be waiting, so the transaction ends before the structure is checked.
        open.image.close();
        // Without locks, only unchanged files prove that what was read is consistent.
        if let Hold::Immutable(before) = open.hold
            && observe(&self.path)?.0 != before
        {
            return Err(changed_on_read_only_media(&self.path));
        }
        let roots = open.roots.take();
        let mut flags = std::mem::take(&mut open.flags);
        // Damage that opening has shown makes the pages look wrong in many more places. These would say nothing new.
        if flags.is_empty() {
            let report = roots.and_then(|roots| open.image.inspect(roots.ok().as_deref()));
            flags.extend(report.and_then(|report| structure_damage(&self.path, &report)));
        }
        // A damaged database gets no stamp: the next capture must look at it again.
        let stamp = self.stamp.filter(|_| flags.is_empty());
        Ok((flags, stamp))
    }
}

impl Drop for OpenImage {
    fn drop(&mut self) {
        self.image.close();
    }
}

/// Captures one database file, for example one found in a directory tree.
///
/// If the `known` stamp proves that nothing has changed, the result has no pages. The path may be a symbolic link.
/// Nothing in this process may open and close the file by other means until the capture is finished, because that drops
/// SQLite's locks (see [`super::is_sqlite`]).
///
/// # Errors
/// [`Error::Source`] if it cannot be read as a database, [`Error::Busy`] if it stays locked.
pub fn capture_file(path: &Path, known: Option<&Stamp>, options: &SqliteOptions, monitor: &dyn Monitor) -> Result<CapturedFile> {
    let path = canonical(path)?;
    let (mut files, _) = capture_together(&[Given::find(&path, known)?], options, monitor)?;
    files.pop().ok_or_else(|| Error::source(path, "was not captured"))
}

/// As [`capture_file`], for a database in a directory that is held open. `shown` is its path for messages.
///
/// # Errors
/// As [`capture_file`].
pub(crate) fn capture_held(
    (dir, name, shown): (Arc<Dir>, &OsStr, &Path),
    known: Option<&Stamp>,
    options: &SqliteOptions,
    monitor: &dyn Monitor,
) -> Result<CapturedFile> {
    let given = Given { path: dir.at(name), shown: shown.to_path_buf(), dir, known };
    let (mut files, _) = capture_together(&[given], options, monitor)?;
    files.pop().ok_or_else(|| Error::source(shown, "was not captured"))
}

/// A database that the user has named.
pub(super) struct Given<'a> {
    /// The path through the held directory.
    path: PathBuf,
    /// The path for messages.
    shown: PathBuf,
    dir: Arc<Dir>,
    known: Option<&'a Stamp>,
}

impl<'a> Given<'a> {
    /// Holds the directory of a database. The path must be without links.
    pub(super) fn find(path: &Path, known: Option<&'a Stamp>) -> Result<Self> {
        let (above, name) = (path.parent().unwrap_or(Path::new("/")), path.file_name().unwrap_or_default());
        let dir = Dir::find(above).map_err(|e| Error::source(path, e))?;
        Ok(Given { path: dir.at(name), shown: path.to_path_buf(), dir: Arc::new(dir), known })
    }

    /// Puts the path that the user knows in place of the path through the held directory.
    fn shown(&self, error: Error) -> Error {
        let named = |detail: String| match (self.dir.itself().to_str(), self.shown.parent().and_then(Path::to_str)) {
            (Some(held), Some(above)) => detail.replace(&format!("{held}/"), &format!("{}/", above.trim_end_matches('/'))),
            _ => detail,
        };
        match error {
            Error::Source { path, detail } if path.starts_with(self.dir.itself()) => {
                Error::Source { path: self.shown.clone(), detail: named(detail) }
            }
            Error::Busy { path, detail } if path.starts_with(self.dir.itself()) => {
                Error::Busy { path: self.shown.clone(), detail: named(detail) }
            }
            other => other,
        }
    }
}

/// The path without links, as SQLite will see it.
pub(super) fn canonical(path: &Path) -> Result<PathBuf> {
    path.canonicalize().map_err(|e| match e.kind() {
        std::io::ErrorKind::NotFound => Error::source(path, "no such file; check the path"),
        _ => Error::source(path, e),
    })
}

/// A database that was looked at but not opened.
struct Candidate<'a> {
    given: &'a Given<'a>,
    state: FilesState,
    meta: FileMeta,
    /// Set if the stamp proves that it is unchanged, so that it need not be read.
    unchanged: Option<(SqliteFacts, &'a Stamp)>,
}

/// Captures databases at one instant.
pub(super) fn capture_together(
    databases: &[Given<'_>],
    options: &SqliteOptions,
    monitor: &dyn Monitor,
) -> Result<(Vec<CapturedFile>, Instant)> {
    capture_all(databases, options, monitor).map_err(|error| databases.iter().fold(error, |error, given| given.shown(error)))
}

fn capture_all(databases: &[Given<'_>], options: &SqliteOptions, monitor: &dyn Monitor) -> Result<(Vec<CapturedFile>, Instant)> {
    let now = (options.clock)();
    let mut candidates = look_at(databases, now, monitor)?;
    // Each turn opens all databases that may have changed. If another one turns out to have changed meanwhile, the next
    // turn opens that one together with all others, since they must see one instant. Each turn has fewer databases that
    // are taken as unchanged, so this ends.
    for _ in 0..RESTARTS {
        let (mut members, mut holds) = (Vec::new(), Vec::new());
        for candidate in candidates.iter().filter(|candidate| candidate.unchanged.is_none()) {
            let opened = open(&candidate.given.path, &candidate.state, options, monitor)?;
            let (path, file_id) = (candidate.given.path.clone(), candidate.state.file_id());
            members.push(Member { path, engine: opened.engine, file_id, state: None });
            holds.push((opened.hold, candidate.state.once_opened(&observe(&candidate.given.path)?.0)));
        }
        let instant = open_together(&mut members, options.busy_timeout, monitor)?;
        // All transactions are open now. A database that still looks the same as at its last capture was the same at
        // their instant, too.
        if forget_changed(&mut candidates)? {
            continue;
        }
        let mut opened = members.into_iter().zip(holds);
        let files = candidates.iter().map(|candidate| finish_opening(candidate, &mut opened, now)).collect::<Result<_>>()?;
        return Ok((files, instant));
    }
    let path = databases.first().map(|given| given.shown.clone()).unwrap_or_default();
    Err(Error::Busy { path, detail: "the databases change too often to be captured together; try again".to_owned() })
}

/// Looks at the files of all databases, without opening any.
fn look_at<'a>(databases: &'a [Given<'a>], now: SystemTime, monitor: &dyn Monitor) -> Result<Vec<Candidate<'a>>> {
    let mut candidates: Vec<Candidate<'a>> = Vec::with_capacity(databases.len());
    for given in databases {
        let (path, known) = (&given.shown, given.known);
        let (state, meta, names) = observe(&given.path)?;
        if let Some(other) = candidates.iter().find(|other| other.state.file_id() == state.file_id()) {
            let text = format!("{} and {} are the same file; name it once", other.given.shown.display(), path.display());
            return Err(Error::InvalidArgument(text));
        }
        if names > 1 {
            let text = "has several names (hard links); this backup misses changes that were made through another name and are still in the \
                        journal or log there";
            monitor.warn(&format!("{} {text}", path.display()));
        }
        let unchanged = known.and_then(|stamp| Some((state.unchanged_since(stamp, now)?, stamp)));
        candidates.push(Candidate { given, state, meta, unchanged });
    }
    Ok(candidates)
}

/// Looks again at the databases that were taken as unchanged. Says whether one of them has changed; that one is opened
/// in the next turn.
fn forget_changed(candidates: &mut [Candidate<'_>]) -> Result<bool> {
    let mut changed = false;
    for candidate in candidates.iter_mut().filter(|candidate| candidate.unchanged.is_some()) {
        let (state, meta, _) = observe(&candidate.given.path)?;
        if state != candidate.state {
            (candidate.state, candidate.meta, candidate.unchanged) = (state, meta, None);
            changed = true;
        }
    }
    Ok(changed)
}

/// Makes the captured file of a candidate. `opened` has the opened databases in the order of the candidates that are
/// not unchanged.
fn finish_opening(
    candidate: &Candidate<'_>,
    opened: &mut impl Iterator<Item = (Member, (Hold, FilesState))>,
    now: SystemTime,
) -> Result<CapturedFile> {
    let (path, meta) = (candidate.given.shown.clone(), candidate.meta.clone());
    let dir = Arc::clone(&candidate.given.dir);
    if let Some((facts, stamp)) = candidate.unchanged {
        return Ok(CapturedFile { path, facts, meta, stamp: Some(stamp.clone()), open: None, _dir: dir });
    }
    let Some((member, (hold, once_opened))) = opened.next() else { return Err(Error::source(path, "was not opened")) };
    let in_wal_mode = member.engine.in_wal_mode().map_err(|e| explain(&candidate.given.path, &e))?;
    let (image, header) = Image::new(path.clone(), member.engine, member.state)?;
    let roots = image.roots(&header);
    // In rollback-journal mode our shared lock keeps writers from committing.
    let blocks_writers = matches!(hold, Hold::Locks) && !in_wal_mode;
    let flags = damage(&path, &header, roots.as_ref());
    let stamp = candidate.state.stamp(once_opened, &candidate.given.path, now, header.facts).filter(|_| flags.is_empty());
    let open = OpenImage { image: Arc::new(image), hold, blocks_writers, flags, roots };
    Ok(CapturedFile { path, facts: header.facts, meta, stamp, open: Some(open), _dir: dir })
}

/// The flags for damage that opening has shown.
fn damage(path: &Path, header: &SqliteHeader, roots: Option<&Result<Vec<Root>, String>>) -> Vec<Flag> {
    let missing = header
        .counted_pages
        .filter(|&counted| u64::from(counted) > header.facts.page_count)
        .map(|counted| format!("the header counts {counted} pages, but there are only {}", header.facts.page_count));
    let schema = roots.and_then(|roots| roots.as_ref().err()).map(|text| format!("the schema cannot be read: {text}"));
    missing.into_iter().chain(schema).map(|text| damaged(path, &text)).collect()
}

/// The flag for damage that the pages have shown as they passed by.
fn structure_damage(path: &Path, report: &StructureReport) -> Option<Flag> {
    let shown: Vec<String> =
        report.problems.iter().take(PROBLEMS_SHOWN).map(|problem| format!("page {}: {}", problem.page, problem.detail)).collect();
    let more = report.more + report.problems.len().saturating_sub(PROBLEMS_SHOWN) as u64;
    let rest = if more > 0 { format!("; and {more} more") } else { String::new() };
    (!shown.is_empty()).then(|| damaged(path, &format!("{}{rest}", shown.join("; "))))
}

fn damaged(path: &Path, text: &str) -> Flag {
    Flag::new("damaged", format!("{}: {text}", path.display()))
}
