//! The dump that is restored: out of a snapshot, or a file.

use std::collections::BTreeMap;
use std::fs::{File, Metadata};
use std::io::{self, BufRead, Read};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use super::flat;
use crate::engine::postgres::archive::directory::TOC;
use crate::engine::postgres::archive::{self, Archive, Unreadable};
use crate::engine::postgres::streams::{ARCHIVE_SUFFIX, split_directory};
use crate::engine::postgres::tables::{self, Tables};
use crate::error::{Error, Result};
use crate::fs::beneath;
use crate::ops::restore;
use crate::progress::{Monitor, Silent};
use crate::recorded::SourceKind;
use crate::store::format::snapshot::{SnapshotRecord, StreamEntry, StreamRoot};
use crate::store::repo::{ChunkBytes, Reader, Repository, TreeCursor};

/// Most bytes of [`tables::STREAM`] that are read: some million tables.
const TABLES_LEN_MAX: u64 = 256 << 20;
/// Bytes of a file that are read at once.
const BLOCK_LEN: usize = 1 << 20;

/// A dump in pg_dump's custom format, or out of a snapshot in its directory format, with what is known of it.
pub struct Dump {
    place: Place,
    /// For messages.
    pub(in crate::ops) name: String,
    /// Its bytes, of a directory those of all its files.
    pub(super) len: u64,
    /// What each block of data has in it.
    pub(in crate::ops) evidence: Tables,
    /// Whether the sums of rows are those of a session that has the settings which icecore gives all of its own.
    pub(super) sums_hold: bool,
    facts: Vec<(String, String)>,
    /// Why nothing proves that it is what was backed up, if so.
    pub(in crate::ops) unproven: Option<&'static str>,
}

enum Place {
    Stored { reader: Box<Reader>, root: StreamRoot },
    Directory { reader: Box<Reader>, files: BTreeMap<String, StreamRoot> },
    File { file: File, path: PathBuf, looks: Looks },
}

/// What tells a file, as it is now, from others and from what it was before: device, number, bytes, and when it was written (seconds and nanoseconds).
type Looks = (u64, u64, u64, i64, i64);

fn looks(meta: &Metadata) -> Looks {
    (meta.dev(), meta.ino(), meta.len(), meta.mtime(), meta.mtime_nsec())
}

/// A place in a dump.
#[derive(Debug, Clone, Copy)]
pub(super) enum At<'n> {
    /// In an archive, bytes.
    Offset(u64),
    /// The start of a file of a directory.
    File(&'n str),
}

impl Dump {
    /// That of a snapshot.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] if the snapshot is not of a PostgreSQL database; else as reading the repository.
    pub fn of_snapshot(repo: &Repository, record: &SnapshotRecord, monitor: &dyn Monitor) -> Result<Self> {
        let reader = Box::new(Reader::new(repo));
        let listing = reader.listing(&record.listing, monitor)?;
        let is_postgres = record.source.kind == SourceKind::Postgres;
        let evidence = listing.iter().find(|entry| is_postgres && entry.name == tables::STREAM.as_bytes());
        let Some(evidence) = evidence.map(|entry| entry.root.len) else { return Err(no_dump()) };
        let archive = listing.iter().find(|entry| entry.name.ends_with(ARCHIVE_SUFFIX.as_bytes()));
        let (name, len, place) = match archive {
            Some(entry) => {
                let name = String::from_utf8_lossy(&entry.name).into_owned();
                (name, entry.root.len, Place::Stored { root: entry.root, reader })
            }
            None => directory(&listing, reader)?,
        };
        let evidence = read_tables(repo, record, evidence)?;
        let unproven = (!repo.config().encrypted).then_some("this repository is not encrypted");
        Ok(Dump { name, len, evidence, sums_hold: true, facts: record.facts.clone(), place, unproven })
    }

    /// A file that `pg_dump -Fc -Z0` wrote, or that was exported. If a `checksums.txt` beside it has its name, it is what that says. It is read to its end, so
    /// that what it lacks is known before a server is touched.
    ///
    /// # Errors
    /// [`Error::Corrupt`] if it is not what its checksum says or not a whole archive, [`Error::Source`] if it cannot be read, [`Error::InvalidArgument`] for a directory.
    pub fn of_file(path: &Path, monitor: &dyn Monitor) -> Result<Self> {
        if path.is_dir() {
            let text = "is a directory, which pg_restore -Fd --jobs N restores by itself; only single dumps are restored here";
            return Err(Error::InvalidArgument(format!("{} {text}", path.display())));
        }
        let cannot = |e: std::io::Error| Error::source(path, format!("cannot be read: {e}"));
        // A pipe would be waited for without end, and cannot be read twice.
        let file = path.canonicalize().and_then(|real| beneath::open_file(&real)).map_err(cannot)?;
        let meta = file.metadata().map_err(|e| Error::source(path, e))?;
        let len = meta.len();
        if !flat::is_as_recorded(path, &file, len, monitor)? {
            monitor.warn(&format!("no checksums.txt beside {} has its name: it is only checked as an archive", path.display()));
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

    /// What makes its roles, for messages.
    pub(super) fn globals(&self) -> String {
        match &self.place {
            Place::Stored { .. } | Place::Directory { .. } => "`icecore dump SNAP globals.sql | psql -d postgres`".into(),
            Place::File { .. } => {
                let beside = Path::new(&self.name).with_file_name("globals.sql");
                match beside.exists() {
                    true => format!("`psql -d postgres -f {}`", beside.display()),
                    false => "what `pg_dumpall --globals-only` writes of their server".into(),
                }
            }
        }
    }

    /// Where it lies, if it is a file.
    pub(super) fn path(&self) -> Option<&Path> {
        match &self.place {
            Place::Stored { .. } | Place::Directory { .. } => None,
            Place::File { path, .. } => Some(path),
        }
    }

    /// Makes sure that its path still leads to the file that was looked at, as that was then; of a dump that is no file there is nothing to see.
    ///
    /// # Errors
    /// [`Error::Source`] if it does not.
    pub(super) fn is_still_there(&self) -> Result<()> {
        let Place::File { path, looks: before, .. } = &self.place else { return Ok(()) };
        let meta = std::fs::metadata(path).map_err(|e| Error::source(path, format!("cannot be looked at any more: {e}")))?;
        match looks(&meta) == *before {
            true => Ok(()),
            false => Err(Error::source(path, "was replaced or written to while it was being restored")),
        }
    }

    /// Its table of contents, with the statements of what is `wanted`. Of a directory all files are there that it names.
    pub(super) fn head(&self, wanted: archive::Wanted<'_>) -> Result<Archive> {
        let Place::Directory { files, .. } = &self.place else { return self.parse(&Silent, |input| archive::head(input, wanted)) };
        let head = self.parse_at(At::File(TOC), &Silent, |input| archive::directory::read(input, wanted))?;
        let missing = head.entries.iter().filter_map(|entry| entry.file.as_ref()).find(|file| !files.contains_key(*file));
        match missing {
            Some(file) => Err(Error::corrupt(&self.name, format!("it has no {file}"))),
            None => Ok(head),
        }
    }

    /// The names of its files, if it is a directory.
    pub(super) fn files(&self) -> Option<impl Iterator<Item = &str>> {
        match &self.place {
            Place::Directory { files, .. } => Some(files.keys().map(String::as_str)),
            Place::Stored { .. } | Place::File { .. } => None,
        }
    }

    /// Whether it has to be written to a private place before it can be loaded by this many jobs.
    pub(super) fn needs_room(&self, jobs: usize) -> bool {
        jobs > 1 || matches!(self.place, Place::Directory { .. })
    }

    fn parse(&self, monitor: &dyn Monitor, read: impl FnOnce(&mut Input<'_>) -> Result<Archive, Unreadable>) -> Result<Archive> {
        self.parse_at(At::Offset(0), monitor, read)
    }

    /// Has `read` look at the bytes from there on. What cannot be read of the repository is told from what is not as it should be.
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

    /// Its bytes from there on; of a directory those of one file.
    pub(super) fn input<'d>(&'d self, at: At<'_>, monitor: &'d dyn Monitor) -> Result<Input<'d>> {
        let (bytes, len, next) = match (&self.place, at) {
            (Place::Stored { reader, root }, At::Offset(offset)) => {
                (Bytes::Stored(reader, TreeCursor::new(reader, Some(*root))), root.len, offset)
            }
            (Place::File { file, .. }, At::Offset(offset)) => (Bytes::File(file), self.len, offset),
            (Place::Directory { reader, files }, At::File(name)) => {
                let root = files.get(name).ok_or_else(|| Error::corrupt(&self.name, format!("it has no {name}")))?;
                (Bytes::Stored(reader, TreeCursor::new(reader, Some(*root))), root.len, 0)
            }
            (_, at) => return Err(Error::corrupt(&self.name, format!("it has no place {at:?}"))),
        };
        Ok(Input { dump: self, monitor, bytes, len, piece: Piece::None, at: 0, next, failure: None })
    }
}

fn no_dump() -> Error {
    Error::InvalidArgument("this snapshot has no dump of a PostgreSQL database".into())
}

/// The dump that is a directory: its name, its bytes, its files.
fn directory(listing: &[StreamEntry], reader: Box<Reader>) -> Result<(String, u64, Place)> {
    let (mut database, mut files, mut len) = (None, BTreeMap::new(), 0_u64);
    for entry in listing {
        let Some((of, file)) = split_directory(&entry.name) else { continue };
        let name = std::str::from_utf8(file).ok().filter(|name| *name == TOC || archive::directory::is_file_name(name));
        let name = name.ok_or_else(|| Error::corrupt(String::from_utf8_lossy(&entry.name), "this is no name of a file of a dump"))?;
        (database, len) = (Some(of), len.saturating_add(entry.root.len));
        files.insert(name.to_owned(), entry.root);
    }
    let name = database.map(|database| format!("{}.pgdir", String::from_utf8_lossy(database))).ok_or_else(no_dump)?;
    Ok((name, len, Place::Directory { reader, files }))
}

/// Reads the evidence of a snapshot's dump, of `len_bytes` bytes.
pub(in crate::ops) fn read_tables(repo: &Repository, record: &SnapshotRecord, len_bytes: u64) -> Result<Tables> {
    if len_bytes > TABLES_LEN_MAX {
        return Err(Error::corrupt(tables::STREAM, "it is larger than any that is written"));
    }
    let mut text = Vec::new();
    restore::dump(repo, record, tables::STREAM.as_bytes(), &mut text, &Silent)?;
    let text = String::from_utf8(text).map_err(|_| Error::corrupt(tables::STREAM, "it is not UTF-8"))?;
    Tables::decode(&text)
}

enum Piece {
    None,
    Chunk(ChunkBytes),
    Block(Vec<u8>),
}

impl Piece {
    fn bytes(&self) -> &[u8] {
        match self {
            Piece::None => &[],
            Piece::Chunk(bytes) => bytes,
            Piece::Block(bytes) => bytes,
        }
    }
}

enum Bytes<'d> {
    Stored(&'d Reader, TreeCursor<'d>),
    File(&'d File),
}

/// Reads a dump from some place on.
pub(super) struct Input<'d> {
    dump: &'d Dump,
    monitor: &'d dyn Monitor,
    bytes: Bytes<'d>,
    /// Where they end.
    len: u64,
    piece: Piece,
    /// What was taken of the piece, bytes.
    at: usize,
    /// Where the piece after it begins.
    next: u64,
    failure: Option<Error>,
}

impl Input<'_> {
    /// What reading failed of, if it did.
    pub(super) fn failure(&mut self) -> Option<Error> {
        self.failure.take()
    }

    fn advance(&mut self) -> Result<()> {
        if self.monitor.cancelled() {
            return Err(Error::Cancelled);
        }
        let left = self.len.saturating_sub(self.next);
        (self.piece, self.at) = (Piece::None, 0);
        if left == 0 {
            return Ok(());
        }
        match &mut self.bytes {
            Bytes::Stored(reader, cursor) => {
                let damaged = || Error::corrupt(&self.dump.name, format!("the tree above byte {} cannot be read", self.next));
                let span = cursor.at(self.next)?.ok_or_else(damaged)?;
                let bytes = reader.chunk(&span.id)?;
                if bytes.len() != span.len as usize {
                    return Err(Error::corrupt(format!("the tree node above chunk {}", span.id), "it gives the chunk another length"));
                }
                self.at = usize::try_from(self.next.saturating_sub(span.offset)).unwrap_or(usize::MAX).min(bytes.len());
                self.piece = Piece::Chunk(bytes);
            }
            Bytes::File(file) => {
                let mut block = vec![0; usize::try_from(left).map_or(BLOCK_LEN, |left| left.min(BLOCK_LEN))];
                file.read_exact_at(&mut block, self.next).map_err(|e| Error::source(&self.dump.name, format!("cannot be read: {e}")))?;
                self.piece = Piece::Block(block);
            }
        }
        let fresh = (self.piece.bytes().len() - self.at) as u64;
        self.next += fresh;
        self.monitor.advance(fresh);
        Ok(())
    }
}

impl BufRead for Input<'_> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.at >= self.piece.bytes().len() {
            self.advance().map_err(|error| {
                let text = error.to_string();
                self.failure = Some(error);
                io::Error::other(text)
            })?;
        }
        // Nothing would look like the end of the stream.
        self.piece.bytes().get(self.at..).ok_or_else(|| Error::bug_io("more was taken of a piece than it has"))
    }

    fn consume(&mut self, amount: usize) {
        self.at += amount;
    }
}

impl Read for Input<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let got = self.fill_buf()?.read(buffer)?;
        self.consume(got);
        Ok(got)
    }
}
