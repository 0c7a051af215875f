//! The dump that is restored: one in a snapshot, or a plain file.
//!
//! Both are read through [`Input`], so the rest of the restore does not know the difference. Streams of a snapshot are
//! verified as they are read. A file is compared with `checksums.txt` if that names it, and is parsed to its end before
//! a server is touched. What nothing proves is kept in [`Dump::unproven`], and the user is warned.

use std::collections::BTreeMap;
use std::fs::{File, Metadata};
use std::io::{self, BufRead, BufReader, Read};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use super::flat;
use crate::engine::postgres::archive::{self, Archive, TOC, Unreadable};
use crate::engine::postgres::stream_names::{ARCHIVE_SUFFIX, split_directory};
use crate::engine::postgres::tables::{self, Tables};
use crate::engine::stored::{self, Stored, StreamInfo};
use crate::error::{Error, Result};
use crate::fs::beneath;
use crate::progress::{Monitor, Silent};
use crate::recorded::SourceKind;

/// Longest stream [`tables::STREAM`] that is read, in bytes: enough for some million tables.
const TABLES_LEN_MAX: u64 = 256 << 20;
/// Bytes of a file that are read at once.
const BLOCK_LEN: usize = 1 << 20;

/// A dump in pg_dump's custom format, or, from a snapshot, in its directory format.
pub struct Dump {
    place: Place,
    /// Its name in messages.
    pub(crate) name: String,
    /// Its length in bytes; for a directory the sum over all files.
    pub(super) len: u64,
    /// Number and sum of the rows in each block of data.
    pub(crate) evidence: Tables,
    /// Whether equal rows have equal sums after a restore. They do if the dump was made with icecore's settings; a time
    /// zone, for example, changes how values are written.
    pub(super) sums_hold: bool,
    facts: Vec<(String, String)>,
    /// Why nothing proves that this is the dump that was backed up; `None` if something does.
    pub(crate) unproven: Option<&'static str>,
}

enum Place {
    Stored(Box<dyn Stored>),
    Directory {
        stored: Box<dyn Stored>,
        /// Names of files, with the names of their streams.
        files: BTreeMap<String, Vec<u8>>,
    },
    File {
        file: File,
        path: PathBuf,
        looks: Looks,
    },
}

/// Identifies a file and its state: device, inode, length, and time of modification (seconds and nanoseconds).
type Looks = (u64, u64, u64, i64, i64);

fn looks(meta: &Metadata) -> Looks {
    (meta.dev(), meta.ino(), meta.len(), meta.mtime(), meta.mtime_nsec())
}

/// A place in a dump.
#[derive(Debug, Clone, Copy)]
pub(super) enum At<'n> {
    /// An offset in an archive, in bytes.
    Offset(u64),
    /// The start of a file of a directory.
    File(&'n str),
}

impl Dump {
    /// The dump of a snapshot.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] if the snapshot is not of a PostgreSQL database; else as reading the repository.
    pub fn of_snapshot(stored: Box<dyn Stored>) -> Result<Self> {
        let evidence = read_tables(&*stored)?.ok_or_else(no_dump)?;
        let facts = stored.facts().to_vec();
        let unproven = (!stored.is_sealed()).then_some("this repository is not encrypted");
        let archive = stored.streams().iter().find(|stream| stream.name.ends_with(ARCHIVE_SUFFIX.as_bytes()));
        let (name, len, place) = match archive {
            Some(stream) => (String::from_utf8_lossy(&stream.name).into_owned(), stream.len, Place::Stored(stored)),
            None => directory(stored)?,
        };
        Ok(Dump { name, len, evidence, sums_hold: true, facts, place, unproven })
    }

    /// A file that `pg_dump -Fc -Z0` or an export wrote. It is compared with `checksums.txt` beside it, if that names
    /// the file. It is then read to its end, so that damage is known before a server is touched.
    ///
    /// # Errors
    /// [`Error::Corrupt`] if its checksum differs or it is not a complete archive, [`Error::Source`] if it cannot be
    /// read, [`Error::InvalidArgument`] for a directory.
    pub fn of_file(path: &Path, monitor: &dyn Monitor) -> Result<Self> {
        if path.is_dir() {
            let text = "is a directory: restore it with `pg_restore -Fd --jobs N`; icecore restores dumps that are a single file";
            return Err(Error::InvalidArgument(format!("{} {text}", path.display())));
        }
        let cannot = |e: std::io::Error| Error::source(path, format!("cannot be read: {e}"));
        // `open_file` refuses pipes: opening one could wait forever, and it cannot be read twice.
        let file = path.canonicalize().and_then(|real| beneath::open_file(&real)).map_err(cannot)?;
        let meta = file.metadata().map_err(|e| Error::source(path, e))?;
        let len = meta.len();
        if !flat::is_as_recorded(path, &file, len, monitor)? {
            monitor.warn(&format!(
                "there is no checksum for {} in a checksums.txt beside it, so only its structure as an archive is checked",
                path.display()
            ));
        }
        let name = path.display().to_string();
        let path = std::fs::canonicalize(path).map_err(|e| Error::source(path, e))?;
        let place = Place::File { file, path, looks: looks(&meta) };
        let unproven = Some("this dump is a plain file");
        let mut dump = Dump { place, name, len, evidence: Tables::default(), sums_hold: false, facts: Vec::new(), unproven };
        monitor.phase("reading the dump", Some(len));
        let archive = dump.parse(monitor, |input| archive::read(input, |_| ()))?;
        dump.evidence = Tables::of(&archive);
        Ok(dump)
    }

    /// A fact of the snapshot.
    pub(super) fn fact(&self, name: &str) -> Option<&str> {
        self.facts.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// All facts of the snapshot.
    pub(super) fn facts(&self) -> impl Iterator<Item = (&str, &str)> {
        self.facts.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// How to create the roles that the dump names, for messages.
    pub(super) fn globals(&self) -> String {
        match &self.place {
            Place::Stored(_) | Place::Directory { .. } => "`icecore dump SNAP globals.sql | psql -d postgres`".into(),
            Place::File { .. } => {
                let beside = Path::new(&self.name).with_file_name("globals.sql");
                match beside.exists() {
                    true => format!("`psql -d postgres -f {}`", beside.display()),
                    false => "the output of `pg_dumpall --globals-only` on the server that was dumped".into(),
                }
            }
        }
    }

    /// The path of the dump, if it is a file.
    pub(super) fn path(&self) -> Option<&Path> {
        match &self.place {
            Place::Stored(_) | Place::Directory { .. } => None,
            Place::File { path, .. } => Some(path),
        }
    }

    /// Makes sure that the path still leads to the file that was checked, and that the file is unchanged. Does nothing
    /// for a dump in a snapshot.
    ///
    /// # Errors
    /// [`Error::Source`] if the file was replaced or changed.
    pub(super) fn is_still_there(&self) -> Result<()> {
        let Place::File { path, looks: before, .. } = &self.place else { return Ok(()) };
        let meta = std::fs::metadata(path).map_err(|e| Error::source(path, format!("cannot be read any more: {e}")))?;
        match looks(&meta) == *before {
            true => Ok(()),
            false => Err(Error::source(path, "was replaced or written to while it was being restored")),
        }
    }

    /// Its table of contents, with the statements of the `wanted` entries. In a directory, every file that it names
    /// must exist.
    pub(super) fn head(&self, wanted: archive::Wanted<'_>) -> Result<Archive> {
        let Place::Directory { files, .. } = &self.place else { return self.parse(&Silent, |input| archive::head(input, wanted)) };
        let head = self.parse_at(At::File(TOC), &Silent, |input| archive::directory::read(input, wanted))?;
        let missing = head.entries.iter().filter_map(|entry| entry.file.as_ref()).find(|file| !files.contains_key(*file));
        match missing {
            Some(file) => Err(Error::corrupt(&self.name, format!("its file {file} is missing"))),
            None => Ok(head),
        }
    }

    /// The names of its files, if it is a directory.
    pub(super) fn files(&self) -> Option<impl Iterator<Item = &str>> {
        match &self.place {
            Place::Directory { files, .. } => Some(files.keys().map(String::as_str)),
            Place::Stored(_) | Place::File { .. } => None,
        }
    }

    /// Whether pg_restore needs the dump as a file or directory, since this many jobs cannot read it from a pipe.
    pub(super) fn needs_room(&self, jobs: usize) -> bool {
        jobs > 1 || matches!(self.place, Place::Directory { .. })
    }

    fn parse(&self, monitor: &dyn Monitor, read: impl FnOnce(&mut Input<'_>) -> Result<Archive, Unreadable>) -> Result<Archive> {
        self.parse_at(At::Offset(0), monitor, read)
    }

    /// Calls `read` with the bytes from `at` on. A failure to read the repository is returned as it is; any other
    /// failure means that the dump is damaged.
    pub(super) fn parse_at<T>(
        &self,
        at: At<'_>,
        monitor: &dyn Monitor,
        read: impl FnOnce(&mut Input<'_>) -> Result<T, Unreadable>,
    ) -> Result<T> {
        let mut input = self.input(at, monitor)?;
        let outcome = read(&mut input);
        outcome.map_err(|unreadable| input.failure().unwrap_or_else(|| Error::corrupt(&self.name, unreadable.to_string())))
    }

    /// The bytes from `at` on; in a directory those of one file.
    pub(super) fn input<'d>(&'d self, at: At<'_>, monitor: &'d dyn Monitor) -> Result<Input<'d>> {
        let bytes: Box<dyn BufRead + 'd> = match (&self.place, at) {
            (Place::Stored(stored), At::Offset(offset)) => stored.open(self.name.as_bytes(), offset)?,
            (Place::File { file, .. }, At::Offset(offset)) => {
                Box::new(BufReader::with_capacity(BLOCK_LEN, FileFrom { file, at: offset, len: self.len }))
            }
            (Place::Directory { stored, files }, At::File(name)) => {
                let stream = files.get(name).ok_or_else(|| Error::corrupt(&self.name, format!("its file {name} is missing")))?;
                stored.open(stream, 0)?
            }
            // An entry names a file in an archive, or an offset in a directory.
            (_, at) => return Err(Error::corrupt(&self.name, format!("its table of contents names a place that it cannot have: {at:?}"))),
        };
        Ok(Input { dump: self, monitor, bytes, ready: 0, failure: None })
    }
}

fn no_dump() -> Error {
    Error::InvalidArgument(
        "--dsn restores dumps of PostgreSQL databases, and this snapshot has none; --to DIR and NAME=DEST restore files".into(),
    )
}

/// Name, length and files of a stored dump that is a directory.
fn directory(stored: Box<dyn Stored>) -> Result<(String, u64, Place)> {
    let (mut database, mut files, mut len) = (None, BTreeMap::new(), 0_u64);
    for stream in stored.streams() {
        let Some((of, file)) = split_directory(&stream.name) else { continue };
        // Files are written under these names, so any other name could lead out of the directory.
        let name = std::str::from_utf8(file).ok().filter(|name| *name == TOC || archive::is_file_name(name));
        let name = name.ok_or_else(|| Error::corrupt(String::from_utf8_lossy(&stream.name), "a dump has no file of this name"))?;
        (database, len) = (Some(of), len.saturating_add(stream.len));
        files.insert(name.to_owned(), stream.name.clone());
    }
    let name = database.map(|database| format!("{}.pgdir", String::from_utf8_lossy(database))).ok_or_else(no_dump)?;
    Ok((name, len, Place::Directory { stored, files }))
}

/// The stream with the evidence (rows and sums) of a snapshot's dump.
pub(in crate::engine::postgres) fn evidence_of(stored: &dyn Stored) -> Option<&StreamInfo> {
    stored::find(stored, tables::STREAM.as_bytes()).filter(|_| *stored.kind() == SourceKind::POSTGRES)
}

/// Reads the evidence of a snapshot's dump; `None` if the snapshot has no dump.
pub(in crate::engine::postgres) fn read_tables(stored: &dyn Stored) -> Result<Option<Tables>> {
    let Some(stream) = evidence_of(stored) else { return Ok(None) };
    let text = String::from_utf8(stored::read_all(stored, stream, TABLES_LEN_MAX)?);
    Tables::decode(&text.map_err(|_| Error::corrupt(tables::STREAM, "it is not UTF-8"))?).map(Some)
}

/// A file from an offset on.
struct FileFrom<'d> {
    file: &'d File,
    /// The offset of the next byte.
    at: u64,
    /// The length of the file when it was checked. Bytes that are appended later are not read.
    len: u64,
}

impl Read for FileFrom<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let wanted = usize::try_from(self.len.saturating_sub(self.at)).map_or(buffer.len(), |left| left.min(buffer.len()));
        let Some(buffer) = buffer.get_mut(..wanted).filter(|buffer| !buffer.is_empty()) else { return Ok(0) };
        // Exact, so that a file that has become shorter is an error and not an early end.
        self.file.read_exact_at(buffer, self.at)?;
        // usize fits u64 on every platform.
        self.at += buffer.len() as u64;
        Ok(buffer.len())
    }
}

/// Reads a dump from a place on. It reports progress and stops on an interruption.
pub(super) struct Input<'d> {
    dump: &'d Dump,
    monitor: &'d dyn Monitor,
    bytes: Box<dyn BufRead + 'd>,
    /// Bytes in the buffer of `bytes` that have been counted as progress and not consumed yet.
    ready: usize,
    /// The cause of a failed read. An `io::Error` cannot carry it through the parsers.
    failure: Option<Error>,
}

impl Input<'_> {
    /// Why reading failed, if it did.
    pub(super) fn failure(&mut self) -> Option<Error> {
        self.failure.take()
    }

    fn advance(&mut self) -> Result<()> {
        if self.monitor.cancelled() {
            return Err(Error::Cancelled);
        }
        let fresh = self.bytes.fill_buf().map_err(|e| stored::error_in(e, &self.dump.name))?.len();
        // usize fits u64 on every platform.
        self.monitor.advance(fresh as u64);
        self.ready = fresh;
        Ok(())
    }
}

impl BufRead for Input<'_> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.ready == 0 {
            self.advance().map_err(|error| {
                let text = error.to_string();
                self.failure = Some(error);
                io::Error::other(text)
            })?;
        }
        self.bytes.fill_buf()
    }

    fn consume(&mut self, amount: usize) {
        self.ready = self.ready.saturating_sub(amount);
        self.bytes.consume(amount);
    }
}

impl Read for Input<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let got = self.fill_buf()?.read(buffer)?;
        self.consume(got);
        Ok(got)
    }
}
