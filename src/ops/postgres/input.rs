//! The dump that is restored: out of a snapshot, or a file.

use std::fs::File;
use std::io::{self, BufRead, Read};
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::flat;
use crate::error::{Error, Result};
use crate::format::snapshot::{SnapshotRecord, SourceKind, StreamEntry, StreamRoot};
use crate::ops::restore;
use crate::progress::{Monitor, Silent};
use crate::repo::{ChunkBytes, Reader, Repository, TreeCursor};
use crate::source::postgres::archive::{self, Archive, Unreadable};
use crate::source::postgres::tables::{self, Tables};

/// What names of dumps end with.
const DUMP_SUFFIX: &[u8] = b".pgdump";
/// Most bytes of [`tables::STREAM`] that are read: some million tables.
const TABLES_LEN_MAX: u64 = 256 << 20;
/// Bytes of a file that are read at once.
const BLOCK_LEN: usize = 1 << 20;

/// A dump in pg_dump's custom format, with what is known of it.
pub struct Dump {
    place: Place,
    /// For messages; of a snapshot the stream.
    pub(in crate::ops) name: String,
    /// Its bytes.
    pub(super) len: u64,
    /// What each block of data has in it.
    pub(in crate::ops) evidence: Tables,
    /// Whether the sums of rows are those of a session that has the settings which icecore gives all of its own.
    pub(super) sums_hold: bool,
    facts: Vec<(String, String)>,
}

enum Place {
    Stored { reader: Box<Reader>, root: StreamRoot },
    File(File),
}

impl Dump {
    /// That of a snapshot.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] if the snapshot is not of a PostgreSQL database; else as reading the repository.
    pub fn of_snapshot(repo: &Repository, record: &SnapshotRecord) -> Result<Self> {
        let reader = Reader::new(repo);
        let listing = reader.listing(&record.listing)?;
        let find = |wanted: &dyn Fn(&StreamEntry) -> bool| listing.iter().find(|entry| wanted(entry));
        let dump = find(&|entry| entry.name.ends_with(DUMP_SUFFIX)).filter(|_| record.source.kind == SourceKind::Postgres);
        let (Some(dump), Some(evidence)) = (dump, find(&|entry| entry.name == tables::STREAM.as_bytes())) else {
            return Err(Error::InvalidArgument("this snapshot has no dump of a PostgreSQL database".into()));
        };
        Ok(Dump {
            name: String::from_utf8_lossy(&dump.name).into_owned(),
            len: dump.root.len,
            evidence: read_tables(repo, record, evidence.root.len)?,
            sums_hold: true,
            facts: record.facts.clone(),
            place: Place::Stored { root: dump.root, reader: Box::new(reader) },
        })
    }

    /// A file that `pg_dump -Fc -Z0` wrote, or that was exported. If a `checksums.txt` beside it has its name, it is what that says. It is read to its end, so
    /// that what it lacks is known before a server is touched.
    ///
    /// # Errors
    /// [`Error::Corrupt`] if it is not what its checksum says or not a whole archive, [`Error::Source`] if it cannot be read.
    pub fn of_file(path: &Path, monitor: &dyn Monitor) -> Result<Self> {
        let file = File::open(path).map_err(|e| Error::source(path, format!("cannot be read: {e}")))?;
        let len = file.metadata().map_err(|e| Error::source(path, e))?.len();
        if !flat::is_as_recorded(path, &file, len, monitor)? {
            monitor.warn(&format!("no checksums.txt beside {} has its name: it is only checked as an archive", path.display()));
        }
        let name = path.display().to_string();
        let mut dump = Dump { place: Place::File(file), name, len, evidence: Tables::default(), sums_hold: false, facts: Vec::new() };
        monitor.phase("reading the dump", Some(len));
        let archive = dump.parse(monitor, |input| archive::read(input, |_| ()))?;
        dump.evidence = Tables::of(&archive);
        Ok(dump)
    }

    /// A fact of the snapshot.
    pub(super) fn fact(&self, name: &str) -> Option<&str> {
        self.facts.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// What makes its roles, for messages.
    pub(super) fn globals(&self) -> String {
        match &self.place {
            Place::Stored { .. } => "`icecore dump SNAP globals.sql | psql -d postgres`".into(),
            Place::File(_) => {
                let beside = Path::new(&self.name).with_file_name("globals.sql");
                match beside.exists() {
                    true => format!("`psql -d postgres -f {}`", beside.display()),
                    false => "what `pg_dumpall --globals-only` writes of their server".into(),
                }
            }
        }
    }

    /// Its table of contents, with the statements of what is `wanted`.
    pub(super) fn head(&self, wanted: archive::Wanted<'_>) -> Result<Archive> {
        self.parse(&Silent, |input| archive::head(input, wanted))
    }

    fn parse(&self, monitor: &dyn Monitor, read: impl FnOnce(&mut Input<'_>) -> Result<Archive, Unreadable>) -> Result<Archive> {
        self.parse_at(0, monitor, read)
    }

    /// Has `read` look at the bytes from `offset` on. What cannot be read of the repository is told from what is not as it should be.
    pub(super) fn parse_at<T>(
        &self,
        offset: u64,
        monitor: &dyn Monitor,
        read: impl FnOnce(&mut Input<'_>) -> Result<T, Unreadable>,
    ) -> Result<T> {
        let mut input = self.input(offset, monitor);
        let outcome = read(&mut input);
        outcome.map_err(|unreadable| input.failure().unwrap_or_else(|| Error::corrupt(&self.name, unreadable.to_string())))
    }

    /// Its bytes from this place on.
    pub(super) fn input<'d>(&'d self, offset: u64, monitor: &'d dyn Monitor) -> Input<'d> {
        let cursor = match &self.place {
            Place::Stored { reader, root } => Some(TreeCursor::new(reader, Some(*root))),
            Place::File(_) => None,
        };
        Input { dump: self, monitor, cursor, piece: Piece::None, at: 0, next: offset, failure: None }
    }
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

/// Reads a dump from some place on.
pub(super) struct Input<'d> {
    dump: &'d Dump,
    monitor: &'d dyn Monitor,
    cursor: Option<TreeCursor<'d>>,
    piece: Piece,
    /// What was taken of the piece, bytes.
    at: usize,
    /// Where the piece after it begins in the dump.
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
        let left = self.dump.len.saturating_sub(self.next);
        (self.piece, self.at) = (Piece::None, 0);
        if left == 0 {
            return Ok(());
        }
        match (&self.dump.place, &mut self.cursor) {
            (Place::Stored { reader, .. }, Some(cursor)) => {
                let damaged = || Error::corrupt(&self.dump.name, format!("the tree above byte {} cannot be read", self.next));
                let span = cursor.at(self.next)?.ok_or_else(damaged)?;
                let bytes = reader.chunk(&span.id)?;
                if bytes.len() != span.len as usize {
                    return Err(Error::corrupt(format!("the tree node above chunk {}", span.id), "it gives the chunk another length"));
                }
                self.at = usize::try_from(self.next.saturating_sub(span.offset)).unwrap_or(usize::MAX).min(bytes.len());
                self.piece = Piece::Chunk(bytes);
            }
            (Place::File(file), _) => {
                let mut block = vec![0; usize::try_from(left).map_or(BLOCK_LEN, |left| left.min(BLOCK_LEN))];
                file.read_exact_at(&mut block, self.next).map_err(|e| Error::source(&self.dump.name, format!("cannot be read: {e}")))?;
                self.piece = Piece::Block(block);
            }
            (Place::Stored { .. }, None) => {}
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
        Ok(self.piece.bytes().get(self.at..).unwrap_or_default())
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
