//! What an engine sees of a snapshot: its streams, as `ops` reads them out of the store.

use std::io::BufRead;

use crate::error::{Error, Result};
use crate::recorded::{EntryKind, SourceKind, TableContent};

/// One stream of a snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamInfo {
    /// Its name.
    pub name: Vec<u8>,
    /// What it is.
    pub kind: EntryKind,
    /// Its bytes.
    pub len: u64,
    /// What the tables of a database held at the capture, if that was recorded.
    pub tables: Vec<TableContent>,
}

/// The streams of one snapshot.
pub trait Stored: Send + Sync {
    /// What sort of source the snapshot is of.
    fn kind(&self) -> &SourceKind;

    /// All its streams, in the order of the listing.
    fn streams(&self) -> &[StreamInfo];

    /// The facts of its record, by name.
    fn facts(&self) -> &[(String, String)];

    /// Whether nobody without the passphrase can have changed it.
    fn is_sealed(&self) -> bool;

    /// The bytes of a stream from this offset on. Every byte that comes is verified. An error of reading holds an [`Error`] (`io::Error::downcast`).
    ///
    /// # Errors
    /// [`Error::NoSuch`] if there is no such stream; else as reading the repository.
    fn open(&self, name: &[u8], offset: u64) -> Result<Box<dyn BufRead + '_>>;
}

/// A stream of this name.
pub fn find<'s>(stored: &'s dyn Stored, name: &[u8]) -> Option<&'s StreamInfo> {
    stored.streams().iter().find(|stream| stream.name == name)
}

/// All bytes of a short stream.
///
/// # Errors
/// [`Error::Corrupt`] if it has more than `len_max` bytes: no writer makes such a stream. Else as [`Stored::open`].
pub(in crate::engine) fn read_all(stored: &dyn Stored, stream: &StreamInfo, len_max: u64) -> Result<Vec<u8>> {
    let name = String::from_utf8_lossy(&stream.name);
    if stream.len > len_max {
        return Err(Error::corrupt(name, format!("it has {} bytes, and at most {len_max} are read", stream.len)));
    }
    let mut bytes = Vec::new();
    let mut input = stored.open(&stream.name, 0)?;
    std::io::Read::read_to_end(&mut input, &mut bytes).map_err(|e| error_in(e, &name))?;
    Ok(bytes)
}

/// The error that reading a stored stream gave.
pub(in crate::engine) fn error_in(e: std::io::Error, name: &str) -> Error {
    e.downcast::<Error>().unwrap_or_else(|e| Error::source(name, format!("cannot be read: {e}")))
}
