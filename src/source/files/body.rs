//! A plain file being read.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::sync::{Arc, OnceLock};

use rustix::fs::{Mode, OFlags};

use crate::source::stamp::FileState;

/// Opens a file for reading: not through a link that may have taken its place, and without waiting if a FIFO has.
pub(super) fn open(path: &Path) -> io::Result<File> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    Ok(rustix::fs::open(path, flags, Mode::empty())?.into())
}

/// What a file looked like when its end was reached. Empty until then.
pub(super) type AtEnd = Arc<OnceLock<FileState>>;

/// Reads a file up to the length that it had when it was opened, so that one that grows all the time has an end too.
pub(super) struct FileBody {
    file: io::Take<File>,
    at_end: AtEnd,
}

impl FileBody {
    /// The body of an open file of `len` bytes, and where to look how it was at the end.
    pub(super) fn new(file: File, len: u64) -> (Self, AtEnd) {
        let at_end = AtEnd::default();
        (Self { file: file.take(len), at_end: Arc::clone(&at_end) }, at_end)
    }
}

impl Read for FileBody {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read(buffer)?;
        if read == 0 && !buffer.is_empty() {
            let state = FileState::of(&self.file.get_ref().metadata()?);
            let _ = self.at_end.set(state);
        }
        Ok(read)
    }
}
