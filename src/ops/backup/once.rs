//! Runs a capture with effects only once, also when the backup has to start again.
//!
//!
//! A command may write something else when it runs again, or do its work twice. So its output is recorded until the
//! commit, sealed in a file without a name, as far as there is room; a second attempt replays it. An output that is
//! too long is not recorded. Then the backup fails instead of starting again; the damage that it has found is known
//! to the next one.

use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::engine::{Body, Capture, CaptureReport, CapturedStream, Known, NamedRoot, Source, SourceDescription};
use crate::error::{Error, Result};
use crate::progress::Monitor;
use crate::recorded::{EntryKind, FileMeta};
use crate::store::repo::{Held, Spool};

/// Bytes of output that are recorded in memory.
const MEMORY: usize = 4 << 20;
/// Most bytes of output that are recorded in the file.
const FILE_MAX: u64 = 1 << 30;
/// The file takes at most one in this many bytes of the free space.
const FREE_SHARE: u64 = 4;

/// A source that is captured once if it has effects.
pub(super) struct Once<'s> {
    source: &'s dyn Source,
    dir: &'s Path,
    kept: Mutex<Kept>,
}

/// What was recorded of the first capture.
enum Kept {
    /// Nothing has been captured yet.
    NotYet,
    Whole(Arc<Recording>),
    /// It has run, and the recording is incomplete or was too long.
    Gone,
}

/// Everything that a capture gave.
struct Recording {
    streams: Vec<Recorded>,
    report: CaptureReport,
}

struct Recorded {
    name: Vec<u8>,
    kind: EntryKind,
    meta: Option<FileMeta>,
    tape: Option<Arc<Tape>>,
}

/// The recorded bytes of one stream; `None` when they were too long or there was no place for them.
#[derive(Default)]
struct Tape(Mutex<Option<Spooled>>);

struct Spooled {
    spool: Spool<()>,
    pieces: Vec<Held>,
}

impl Tape {
    /// A tape for a new stream. It records nothing if there is no place for it.
    fn new(dir: &Path) -> Self {
        // A recording must not fill the disk on which others depend.
        let free = rustix::fs::statvfs(dir).map_or(0, |found| found.f_bavail.saturating_mul(found.f_frsize));
        let spool = Spool::new(dir, MEMORY).ok().map(|spool| spool.with_file_max(FILE_MAX.min(free / FREE_SHARE)));
        Tape(Mutex::new(spool.map(|spool| Spooled { spool, pieces: Vec::new() })))
    }

    fn lock(&self) -> MutexGuard<'_, Option<Spooled>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Records bytes. If there is no room for them, everything recorded so far is dropped: half an output is useless.
    fn put(&self, bytes: &[u8]) {
        let mut spooled = self.lock();
        if spooled.as_ref().is_some_and(|spooled| !spooled.spool.put((), bytes).unwrap_or(false)) {
            *spooled = None;
        }
    }

    /// Ends the recording. Returns whether it is complete.
    fn close(&self) -> bool {
        let mut spooled = self.lock();
        spooled.iter_mut().for_each(|spooled| spooled.pieces = spooled.spool.take_all().into_iter().map(|((), held)| held).collect());
        spooled.is_some()
    }

    fn piece(&self, number: usize) -> Result<Option<Vec<u8>>> {
        let spooled = self.lock();
        let Some(spooled) = &*spooled else { return Ok(None) };
        spooled.pieces.get(number).map(|held| spooled.spool.read_again(held)).transpose()
    }
}

impl<'s> Once<'s> {
    /// Wraps a source. Recordings go to a file without a name in `dir`.
    pub(super) fn new(source: &'s dyn Source, dir: &'s Path) -> Self {
        Once { source, dir, kept: Mutex::new(Kept::NotYet) }
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Source for Once<'_> {
    fn identity(&self) -> SourceDescription {
        self.source.identity()
    }

    fn wants_content(&self) -> bool {
        self.source.wants_content()
    }

    fn runs_once(&self) -> bool {
        self.source.runs_once()
    }

    fn capture<'a>(&'a self, known: &'a dyn Known, monitor: &'a dyn Monitor) -> Result<Box<dyn Capture + 'a>> {
        if !self.source.runs_once() {
            return self.source.capture(known, monitor);
        }
        // Until this capture has ended there is nothing to replay.
        let kept = std::mem::replace(&mut *self.kept(), Kept::Gone);
        match kept {
            Kept::NotYet => {
                let inner = self.source.capture(known, monitor)?;
                Ok(Box::new(Recorder { once: self, inner, streams: Vec::new(), is_whole: true }))
            }
            Kept::Whole(recording) => {
                *self.kept() = Kept::Whole(Arc::clone(&recording));
                Ok(Box::new(Replay { recording, next: 0 }))
            }
            Kept::Gone => {
                let detail = "the command has run once and does not run twice for one snapshot; its output was too long to keep for another \
                              try, so no snapshot was made; the damage in the repository is known now: run the backup again";
                Err(Error::source(PathBuf::from(self.source.identity().label), detail))
            }
        }
    }
}

/// Passes a capture through and records it.
struct Recorder<'a> {
    once: &'a Once<'a>,
    inner: Box<dyn Capture + 'a>,
    streams: Vec<Recorded>,
    /// Whether everything can be replayed.
    is_whole: bool,
}

impl Capture for Recorder<'_> {
    fn total_bytes(&self) -> Option<u64> {
        self.inner.total_bytes()
    }

    fn roots(&self) -> Vec<NamedRoot> {
        self.inner.roots()
    }

    fn next_stream(&mut self) -> Result<Option<CapturedStream>> {
        let Some(mut stream) = self.inner.next_stream()? else { return Ok(None) };
        let mut tape = None;
        stream.body = match stream.body {
            Body::Bytes(input) => {
                let kept = Arc::new(Tape::new(self.once.dir));
                tape = Some(Arc::clone(&kept));
                Body::Bytes(Box::new(Taped { input, tape: kept }))
            }
            Body::None => Body::None,
            other => {
                // Pages and sparse files are not recorded: sources with effects do not have any.
                self.is_whole = false;
                other
            }
        };
        self.streams.push(Recorded { name: stream.name.clone(), kind: stream.kind.clone(), meta: stream.meta.clone(), tape });
        Ok(Some(stream))
    }

    fn unreadable(&mut self, error: Error) -> Result<()> {
        self.is_whole = false;
        self.inner.unreadable(error)
    }

    fn blocks_writers(&self) -> bool {
        self.inner.blocks_writers()
    }

    fn may_wait(&self) -> bool {
        self.inner.may_wait()
    }

    fn finish(self: Box<Self>) -> Result<CaptureReport> {
        let report = self.inner.finish()?;
        // Only a complete recording may replace the capture.
        if self.is_whole && self.streams.iter().all(|stream| stream.tape.as_ref().is_none_or(|tape| tape.close())) {
            *self.once.kept() = Kept::Whole(Arc::new(Recording { streams: self.streams, report: report.clone() }));
        }
        Ok(report)
    }
}

/// An input whose bytes are recorded as they are read.
struct Taped {
    input: Box<dyn Read + Send>,
    tape: Arc<Tape>,
}

impl Read for Taped {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let got = self.input.read(buffer)?;
        self.tape.put(buffer.get(..got).unwrap_or_default());
        Ok(got)
    }
}

/// Replays a recording.
struct Replay {
    recording: Arc<Recording>,
    next: usize,
}

impl Capture for Replay {
    fn total_bytes(&self) -> Option<u64> {
        None
    }

    fn next_stream(&mut self) -> Result<Option<CapturedStream>> {
        let Some(Recorded { name, kind, meta, tape }) = self.recording.streams.get(self.next) else { return Ok(None) };
        self.next += 1;
        let body = tape
            .as_ref()
            .map_or(Body::None, |tape| Body::Bytes(Box::new(Played { tape: Arc::clone(tape), next: 0, piece: Vec::new(), at: 0 })));
        Ok(Some(CapturedStream { name: name.clone(), kind: kind.clone(), meta: meta.clone(), body }))
    }

    fn unreadable(&mut self, error: Error) -> Result<()> {
        Err(error)
    }

    fn blocks_writers(&self) -> bool {
        false
    }

    fn may_wait(&self) -> bool {
        false
    }

    fn finish(self: Box<Self>) -> Result<CaptureReport> {
        Ok(self.recording.report.clone())
    }
}

/// Reads a tape from its start.
struct Played {
    tape: Arc<Tape>,
    next: usize,
    piece: Vec<u8>,
    at: usize,
}

impl Read for Played {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.at >= self.piece.len() {
            let Some(piece) = self.tape.piece(self.next).map_err(io::Error::other)? else { return Ok(0) };
            (self.piece, self.at, self.next) = (piece, 0, self.next + 1);
        }
        let got = self.piece.get(self.at..).unwrap_or_default().read(buffer)?;
        self.at += got;
        Ok(got)
    }
}
