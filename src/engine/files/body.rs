//! Reads a plain file: up to the length that it had at first, without its holes, and with a look at its state at the
//! end.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::{Arc, OnceLock};

use rustix::fs::{Mode, OFlags};

use super::holes::Extents;
use crate::engine::stamp::FileState;
use crate::fs::sparse_read::Holes;

/// Opens a file for reading. A link that has taken its place is not followed, and a FIFO does not make us wait for a
/// writer.
pub(super) fn open(path: &Path) -> io::Result<File> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    Ok(rustix::fs::open(path, flags, Mode::empty())?.into())
}

/// The state of a file when its end was reached. Empty until then.
pub(super) type AtEnd = Arc<OnceLock<FileState>>;

/// Reads a file up to the length that it had when it was opened, so that a file that grows all the time has an end,
/// too.
pub(super) struct FileBody {
    file: File,
    at: u64,
    end: u64,
    extents: Extents,
    at_end: AtEnd,
}

impl FileBody {
    /// The body of an open file of `len` bytes, and the place where its state at the end will be.
    pub(super) fn new(file: File, len: u64, extents: Extents) -> (Self, AtEnd) {
        let at_end = AtEnd::default();
        (Self { file, at: 0, end: len, extents, at_end: Arc::clone(&at_end) }, at_end)
    }
}

impl Read for FileBody {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let data = self.extents.data(&self.file, self.at, self.end)?;
        let len = usize::try_from(data).unwrap_or(usize::MAX).min(buffer.len());
        let read = self.file.read_at(buffer.get_mut(..len).unwrap_or_default(), self.at)?;
        self.at += read as u64;
        if read == 0 && !buffer.is_empty() {
            // The end, or an earlier place if the file has become shorter. The state is taken from the open file,
            // whatever its name is now.
            self.end = self.at;
            let state = FileState::of(&self.file.metadata()?);
            let _ = self.at_end.set(state);
        }
        Ok(read)
    }
}

impl Holes for FileBody {
    fn hole(&mut self) -> io::Result<u64> {
        self.extents.hole(&self.file, self.at, self.end)
    }

    fn skip(&mut self, len: u64) {
        self.at = self.at.saturating_add(len).min(self.end);
    }
}
